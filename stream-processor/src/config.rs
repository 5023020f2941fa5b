//! `processor.toml`: strict, and refused as a whole before anything is opened.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{
    config::{Registry, read},
    features::FeatureConfig,
    retrain::RetrainSettings,
    store::S3Config,
    train::TrainSettings,
    trigger::TriggerSettings,
};
use proto::{
    archive::{Shard, shards::Slots},
    asset::AssetId,
    broker::{Broker, BrokerConfig},
    clock::ClockConfig,
    config::{ConfigError, parse},
};
use serde::Deserialize;

use crate::{alert::AlertConfig, archive::ArchiveConfig, serve::ServeConfig, traces::TracesConfig};

/// Names the instance where the file does not.
const OWNER_VARIABLE: &str = "MILLWRIGHT_OWNER";
/// Shorter, and every hiccup of S3 would look like the end of an owner.
const TAKEOVER_QUIET_SECONDS_ALLOWED: RangeInclusive<u64> = 4..=3600;
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// What a processor is told: by the file, or in code by a program that runs one inside itself.
#[derive(Debug, Clone)]
pub struct ProcessorConfig {
    pub site: AssetId,
    /// Stable id of this instance: the same after a restart.
    pub owner: String,
    /// The one that this processor writes to.
    pub shard: Shard,
    /// What that shard must own; None: whatever it does.
    pub slots: Option<Slots>,
    /// Take the shard from another owner without waiting.
    pub take_over: bool,
    pub mqtt: Broker,
    pub s3: S3Config,
    pub serve: ServeConfig,
    pub archive: ArchiveConfig,
    pub features: FeatureConfig,
    pub alerts: AlertConfig,
    /// Name of the model in the registry.
    pub model: AssetId,
    /// How often its champion pointer is looked at.
    pub refresh: Duration,
    /// Of a retraining; its figures are the metrics' too.
    pub trigger: TriggerSettings,
    pub clock: ClockConfig,
    pub traces: TracesConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    site: AssetId,
    #[serde(default = "default_owner")]
    owner: String,
    #[serde(default = "first_shard")]
    shard: Shard,
    slots: Option<Slots>,
    mqtt: BrokerConfig,
    s3: S3Config,
    #[serde(default)]
    serve: ServeConfig,
    #[serde(default)]
    archive: ArchiveConfig,
    #[serde(default)]
    features: FeatureConfig,
    #[serde(default)]
    alerts: AlertConfig,
    #[serde(default)]
    model: Registry,
    /// The trainer's, which reads the same file.
    #[serde(default)]
    train: TrainSettings,
    #[serde(default)]
    retrain: RetrainSettings,
    #[serde(default)]
    clock: ClockConfig,
    #[serde(default)]
    traces: TracesConfig,
}

fn first_shard() -> Shard {
    Shard::FIRST
}

/// The host's name: stable over restarts, and another one on another machine.
fn default_owner() -> String {
    let host = || fs::read_to_string(HOST_NAME_FILE).ok();
    let name = std::env::var(OWNER_VARIABLE).ok().or_else(host).unwrap_or_default();
    match name.trim() {
        "" => "processor-0".into(),
        name => name.into(),
    }
}

impl ProcessorConfig {
    /// Reads and checks the file, and opens nothing else. Relative paths in it begin at its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (name, text) = read(path)?;
        Self::parse(&name, &text, path.parent().unwrap_or(Path::new("")))
    }

    /// Which slots a shard owns is decided in the archive; a processor that was meant for others must not start.
    pub fn check_slots(&self, owned: Slots) -> Result<(), ConfigError> {
        match self.slots {
            Some(slots) if slots != owned => {
                let reason = format!("`slots` (--slots): {slots}, but shard {} owns {owned}", self.shard);
                Err(ConfigError::whole("the archive", reason))
            }
            _ => Ok(()),
        }
    }

    /// Name at the broker: one instance may serve several shards by several processes.
    pub fn client(&self) -> String {
        match self.shard {
            Shard::FIRST => self.owner.clone(),
            shard => format!("{}-shard-{shard}", self.owner),
        }
    }

    fn parse(name: &str, text: &str, base: &Path) -> Result<Self, ConfigError> {
        let file: File = parse(name, text)?;
        file.alerts.check().map_err(|e| ConfigError::whole(name, e.to_string()))?;
        file.serve.check().map_err(|e| ConfigError::whole(name, e.to_string()))?;
        file.features.check().map_err(|e| ConfigError::setting(name, "features", e.key, e.allowed))?;
        file.train.check().map_err(|e| ConfigError::setting(name, "train", e.key, e.allowed))?;
        file.retrain.check().map_err(|(key, allowed)| ConfigError::setting(name, "retrain", key, allowed))?;
        file.clock.check().map_err(|e| ConfigError::whole(name, e.to_string()))?;
        let mqtt = file.mqtt.check(base).map_err(|e| ConfigError::whole(name, e.to_string()))?;
        let s3 = file.s3.check(base).map_err(|e| ConfigError::whole(name, e.to_string()))?;
        if file.archive.staging_bytes_max == 0 {
            return Err(ConfigError::key(name, "archive.staging_bytes_max", "must be above 0"));
        }
        if !TAKEOVER_QUIET_SECONDS_ALLOWED.contains(&file.archive.takeover_quiet_seconds) {
            return Err(ConfigError::key(name, "archive.takeover_quiet_seconds", "must be from 4 to 3600"));
        }
        if file.owner.is_empty() || file.owner.len() > 64 || !file.owner.is_ascii() {
            return Err(ConfigError::key(name, "owner", "1 to 64 ASCII characters"));
        }
        let based = |p: PathBuf| base.join(p);
        Ok(ProcessorConfig {
            site: file.site,
            owner: file.owner,
            shard: file.shard,
            slots: file.slots,
            take_over: false,
            mqtt,
            s3,
            serve: file.serve.based(base),
            archive: ArchiveConfig { staging: based(file.archive.staging), ..file.archive },
            features: file.features,
            alerts: file.alerts,
            refresh: Duration::from_secs(file.model.refresh_seconds.max(1)),
            trigger: file.retrain.trigger,
            model: file.model.name().map_err(|e| ConfigError::whole(name, e.to_string()))?,
            clock: file.clock,
            traces: file.traces,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "site = \"mill\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1883\"\n[s3]\nbucket = \"b\"\n";

    fn refusal(text: &str) -> String {
        ProcessorConfig::parse("p.toml", text, Path::new("")).unwrap_err().to_string()
    }

    #[test]
    fn a_minimal_file_is_enough() {
        let config = ProcessorConfig::parse("p.toml", MINIMAL, Path::new("/etc/millwright")).unwrap();
        assert_eq!(config.mqtt.port, 1883);
        assert_eq!(config.archive.staging, Path::new("/etc/millwright/staging"));
        assert_eq!(config.clock, ClockConfig::default());
        assert!(!config.owner.is_empty() && !config.owner.contains(char::is_whitespace));
    }

    #[test]
    fn a_processor_for_other_slots_than_its_shards_does_not_start() {
        let text = format!("shard = 2\nslots = \"16-31\"\n{MINIMAL}");
        let config = ProcessorConfig::parse("p.toml", &text, Path::new("")).unwrap();
        assert_eq!(config.shard, Shard(2));
        assert!(config.client().ends_with("-shard-2"));
        assert!(config.check_slots("16-31".parse().unwrap()).is_ok());
        let refused = config.check_slots(Slots::ALL).unwrap_err().to_string();
        assert!(refused.contains("16-31, but shard 2 owns 0-63"), "{refused}");
    }

    #[test]
    fn mistakes_are_named_on_one_line() {
        let cases = [
            (format!("speed = 1\n{MINIMAL}"), "p.toml:1: unknown field `speed`, expected"),
            (MINIMAL.replace("mqtt://127", "tcp://127"), "`mqtt.url`"),
            (MINIMAL.replace("bucket", "bukket"), "unknown field `bukket`"),
            (format!("{MINIMAL}[serve]\nhttp = \"localhost\"\n"), "p.toml:7: `http`: invalid socket address"),
            (MINIMAL.replace("mill", "mill/hall"), "is not a valid name"),
            (format!("{MINIMAL}[clock]\nwall_origin_ms = 0\nplant_origin = 0\nspeed = 0\n"), "`clock.speed`"),
            (format!("{MINIMAL}[features]\nwindow_ms = 0\n"), "`features.window_ms`: allowed: from 1"),
            (format!("{MINIMAL}[features]\nlateness_ms = -1\n"), "`features.lateness_ms`: allowed: from 0"),
            (format!("{MINIMAL}[features]\nsensors = []\n"), "`features.sensors`: allowed: from 1 to 64 names"),
            (format!("{MINIMAL}[features]\nsensors = [\"a\", \"b\", \"a\"]\n"), "each once"),
            (format!("{MINIMAL}[features]\nstuck_after = 1\n"), "`features.stuck_after`: allowed: 2 or more"),
            (format!("{MINIMAL}endpoint = \"minio:9000\"\n"), "`s3.endpoint`: `minio:9000` is not http://host:port"),
            (format!("{MINIMAL}access_key_file = \"a\"\n"), "`s3.access_key_file`: needs secret_key_file"),
            (
                format!("{MINIMAL}[serve]\nhttp = \"0.0.0.0:8080\"\n"),
                "`serve.http` (--http): 0.0.0.0:8080 is reachable",
            ),
            (format!("{MINIMAL}[serve]\ncert_file = \"a\"\n"), "`serve.cert_file`: needs key_file"),
            (
                format!("{MINIMAL}[serve]\nclient_ca_file = \"a\"\n"),
                "`serve.client_ca_file`: needs cert_file and key_file",
            ),
            (format!("{MINIMAL}[train]\nrows_max = 1\n"), "`train.rows_max`: allowed"),
            (format!("{MINIMAL}[retrain]\nwindow_days = 0.0\n"), "`retrain.window_days`: allowed"),
            (format!("slots = \"0-64\"\n{MINIMAL}"), "is no set of slots"),
            (format!("{MINIMAL}[archive]\nstaging_bytes_max = 0\n"), "`archive.staging_bytes_max`: must be above 0"),
            (
                format!("{MINIMAL}[archive]\ntakeover_quiet_seconds = 1\n"),
                "`archive.takeover_quiet_seconds`: must be from 4",
            ),
        ];
        for (text, expected) in cases {
            let line = refusal(&text);
            assert!(line.contains(expected) && line.starts_with("p.toml") && !line.contains('\n'), "{line}");
        }
    }
}
