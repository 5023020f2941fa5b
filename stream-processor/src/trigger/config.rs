//! `retraining-trigger.toml`: strict, and refused as a whole before anything is opened.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use model::config::read;
use proto::config::{ConfigError, parse};
use serde::Deserialize;

const HOUR_MS: f64 = 3_600_000.0;
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// So that a Job's name, which has `-alert-` and the minute behind this, is none too long for a label.
const CRONJOB_CHARS_MAX: usize = 48;

/// What the trigger is told.
#[derive(Debug, Clone, PartialEq)]
pub struct TriggerConfig {
    pub http: SocketAddr,
    /// Holds the bearer token that a notice needs; must be given beyond loopback.
    pub token_file: Option<PathBuf>,
    pub cool_down_ms: i64,
    pub runner: RunnerConfig,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RunnerConfig {
    Command {
        argv: Vec<String>,
        folder: PathBuf,
        run_max: Duration,
    },
    /// `server`: as https://host:port; none: as the pod is told by its environment.
    Job {
        cronjob: String,
        server: Option<String>,
        account: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    serve: Serve,
    #[serde(default = "default_cool_down_hours")]
    cool_down_hours: f64,
    runner: Runner,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Serve {
    http: SocketAddr,
    token_file: Option<PathBuf>,
}

impl Default for Serve {
    fn default() -> Self {
        Serve { http: SocketAddr::from((Ipv4Addr::LOCALHOST, 9095)), token_file: None }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Runner {
    Command(Command),
    Job(Job),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    /// Program and arguments.
    argv: Vec<String>,
    /// Then it is ended.
    #[serde(default = "default_hours_max")]
    hours_max: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    cronjob: String,
    server: Option<String>,
    account: Option<PathBuf>,
}

/// As much as the factory waits by itself.
fn default_cool_down_hours() -> f64 {
    model::trigger::TriggerSettings::default().cool_down_hours
}

fn default_hours_max() -> f64 {
    4.0
}

impl TriggerConfig {
    /// Reads and checks the file, and opens nothing else. Relative paths in it begin at its folder, and so does the command.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (name, text) = read(path)?;
        Self::parse(&name, &text, path.parent().unwrap_or(Path::new("")))
    }

    fn parse(name: &str, text: &str, base: &Path) -> Result<Self, ConfigError> {
        let file: File = parse(name, text)?;
        let wrong = |key, allowed: &str| Err(ConfigError::key(name, key, allowed));
        if !(file.cool_down_hours >= 0.0 && file.cool_down_hours <= 8_760.0) {
            return wrong("cool_down_hours", "must be from 0 to 8760");
        }
        if file.serve.token_file.is_none() && !file.serve.http.ip().is_loopback() {
            return wrong("serve.token_file", "must be given where `serve.http` is reachable from other machines");
        }
        let runner = match file.runner {
            Runner::Command(Command { argv, hours_max }) => {
                if argv.first().is_none_or(String::is_empty) {
                    return wrong("runner.command.argv", "names no program");
                }
                if !(hours_max > 0.0 && hours_max <= 168.0) {
                    return wrong("runner.command.hours_max", "must be above 0 and at most 168");
                }
                let run_max = Duration::from_millis((hours_max * HOUR_MS) as u64);
                RunnerConfig::Command { argv, folder: base.into(), run_max }
            }
            Runner::Job(Job { cronjob, server, account }) => {
                if !is_name(&cronjob) {
                    return wrong("runner.job.cronjob", "must be a name in Kubernetes of at most 48 characters");
                }
                let account = account.map_or_else(|| ACCOUNT.into(), |folder| base.join(folder));
                RunnerConfig::Job { cronjob, server, account }
            }
        };
        let cool_down_ms = (file.cool_down_hours * HOUR_MS) as i64;
        let token_file = file.serve.token_file.map(|file| base.join(file));
        Ok(TriggerConfig { http: file.serve.http, token_file, cool_down_ms, runner })
    }
}

/// It becomes part of a path.
fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (first, last) = (text.bytes().next(), text.bytes().last());
    text.len() <= CRONJOB_CHARS_MAX
        && first.is_some_and(inside)
        && last.is_some_and(inside)
        && text.bytes().all(|b| inside(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<TriggerConfig, String> {
        TriggerConfig::parse("t.toml", text, Path::new("/etc/millwright")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_runner_is_enough() {
        let config = parsed("[runner.job]\ncronjob = \"trainer\"\n").unwrap();
        assert!(config.http.ip().is_loopback() && config.cool_down_ms == 72 * 3_600_000);
        let job = RunnerConfig::Job { cronjob: "trainer".into(), server: None, account: ACCOUNT.into() };
        assert_eq!(config.runner, job);
        let config = parsed("[serve]\ntoken_file = \"t\"\n[runner.command]\nargv = [\"true\"]\n").unwrap();
        assert_eq!(config.token_file.unwrap(), Path::new("/etc/millwright/t"));
        assert!(
            matches!(config.runner, RunnerConfig::Command { folder, .. } if folder == Path::new("/etc/millwright"))
        );
    }

    #[test]
    fn mistakes_are_named() {
        let job = "[runner.job]\ncronjob = \"trainer\"\n";
        let cases = [
            (String::new(), "missing field `runner`"),
            (format!("{job}[runner.command]\nargv = [\"a\"]\n"), "exactly 1 element"),
            (job.replace("trainer", "../trainer"), "`runner.job.cronjob`"),
            (job.replace("trainer", &"t".repeat(49)), "`runner.job.cronjob`"),
            (job.replace("cronjob", "cron"), "unknown field `cron`"),
            ("[runner.command]\nargv = []\n".into(), "names no program"),
            ("[runner.command]\nargv = [\"a\"]\nhours_max = 0.0\n".into(), "`runner.command.hours_max`"),
            (format!("cool_down_hours = -1.0\n{job}"), "`cool_down_hours`"),
            (format!("[serve]\nhttp = \"0.0.0.0:9095\"\n{job}"), "`serve.token_file`: must be given"),
        ];
        for (text, expected) in cases {
            let line = parsed(&text).unwrap_err();
            assert!(line.starts_with("t.toml") && line.contains(expected) && !line.contains('\n'), "{line}");
        }
    }
}
