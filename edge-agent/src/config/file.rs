//! `gateway.toml`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{asset::AssetId, config, time::PlantClock};
use serde::Deserialize;

pub use proto::config::ConfigError;

use super::{
    AgentConfig, BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, BatchConfig, Credentials, FLUSH_DEFAULT, MqttConfig, TlsFiles,
};
use crate::{
    publish::{mqtt, window},
    source::SourceConfig,
    spool::{SPOOL_BYTES_MAX, SPOOL_SEGMENTS_MIN, SpoolConfig, segment},
};

/// What the binary runs: one agent, its sources, its clock.
#[derive(Debug, Clone)]
pub struct Gateway {
    pub agent: AgentConfig,
    pub sources: Vec<SourceConfig>,
    pub clock: PlantClock,
    /// Address of `/metrics` and `/healthz`.
    pub metrics: Option<SocketAddr>,
    /// Folder of the file: relative paths begin there.
    pub base: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    site: AssetId,
    agent: AssetId,
    data: PathBuf,
    mqtt: Mqtt,
    #[serde(default)]
    batch: Batch,
    #[serde(default)]
    spool: Spool,
    #[serde(default)]
    publish: Publish,
    clock: Option<PlantClock>,
    source: Vec<SourceConfig>,
    serve: Option<Serve>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mqtt {
    url: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Batch {
    flush_ms: u64,
    bytes_max: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { flush_ms: FLUSH_DEFAULT.as_millis() as u64, bytes_max: BATCH_BYTES_DEFAULT }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Spool {
    bytes_max: u64,
    segment_bytes: u32,
}

impl Default for Spool {
    fn default() -> Self {
        Spool { bytes_max: SPOOL_BYTES_MAX, segment_bytes: segment::SEGMENT_BYTES_DEFAULT }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Publish {
    window_bytes_max: u64,
    bytes_per_second: u64,
}

impl Default for Publish {
    fn default() -> Self {
        Publish { window_bytes_max: window::WINDOW_BYTES_MAX, bytes_per_second: window::RESEND_BYTES_PER_SECOND }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Serve {
    metrics: SocketAddr,
}

impl Gateway {
    /// Reads and checks the file, and opens nothing but the files that it names.
    pub fn load(path: &Path) -> Result<Gateway, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::key(&name, "--config", e.to_string()))?;
        let base = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Self::parse(&name, &text, base)
    }

    fn parse(name: &str, text: &str, base: PathBuf) -> Result<Gateway, ConfigError> {
        let file: File = config::parse(name, text)?;
        let check = Check { file: name, base: &base };
        let agent = AgentConfig {
            site: file.site,
            agent: file.agent,
            data: base.join(file.data),
            mqtt: check.mqtt(file.mqtt)?,
            batch: BatchConfig {
                flush: Duration::from_millis(check.within("batch.flush_ms", file.batch.flush_ms, 10, 3_600_000)?),
                bytes_max: check.within("batch.bytes_max", file.batch.bytes_max, 1024, BATCH_BYTES_MAX)?,
            },
            spool: check.spool(&file.spool)?,
            window: window::WindowConfig {
                window_bytes_max: check.within(
                    "publish.window_bytes_max",
                    file.publish.window_bytes_max,
                    1,
                    1 << 30,
                )?,
                resend_bytes_per_second: check.within(
                    "publish.bytes_per_second",
                    file.publish.bytes_per_second,
                    1024,
                    1 << 40,
                )?,
                ..Default::default()
            },
        };
        let clock = file.clock.unwrap_or(PlantClock::WALL);
        if !(clock.speed > 0.0 && clock.speed.is_finite()) {
            return Err(check.error("clock.speed", "must be above 0"));
        }
        if file.source.is_empty() {
            return Err(check.error("source", "at least one [[source]] is needed"));
        }
        let metrics = file.serve.map(|s| s.metrics);
        Ok(Gateway { agent, sources: file.source, clock, metrics, base })
    }
}

struct Check<'f> {
    file: &'f str,
    base: &'f Path,
}

impl Check<'_> {
    fn error(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::key(self.file, key, reason)
    }

    fn within<N: PartialOrd + std::fmt::Display>(
        &self,
        key: &str,
        value: N,
        least: N,
        most: N,
    ) -> Result<N, ConfigError> {
        match value >= least && value <= most {
            true => Ok(value),
            false => Err(self.error(key, format!("{value} is not within {least} to {most}"))),
        }
    }

    fn spool(&self, spool: &Spool) -> Result<SpoolConfig, ConfigError> {
        let segment_bytes =
            self.within("spool.segment_bytes", spool.segment_bytes, 64 * 1024, segment::SEGMENT_BYTES_MAX)?;
        let least = SPOOL_SEGMENTS_MIN * u64::from(segment_bytes.max(segment::GROUP_BYTES_MAX as u32));
        Ok(SpoolConfig { bytes_max: self.within("spool.bytes_max", spool.bytes_max, least, 1 << 40)?, segment_bytes })
    }

    fn mqtt(&self, mqtt: Mqtt) -> Result<MqttConfig, ConfigError> {
        let (host, port, secure) = address(&mqtt.url).ok_or_else(|| {
            self.error("mqtt.url", format!("`{}` is not mqtt://host:port or mqtts://host:port", mqtt.url))
        })?;
        let path = |p: Option<PathBuf>| p.map(|p| self.base.join(p));
        let client = match (path(mqtt.cert_file), path(mqtt.key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(self.error("mqtt.cert_file", "needs key_file, and key_file needs it")),
        };
        let tls = match (secure, path(mqtt.ca_file)) {
            (true, Some(ca)) => Some(TlsFiles { ca, client }),
            (true, None) => return Err(self.error("mqtt.ca_file", "is needed for mqtts://")),
            (false, None) if client.is_none() => None,
            (false, _) => return Err(self.error("mqtt.url", "must be mqtts:// when certificates are given")),
        };
        if let Some(files) = &tls {
            mqtt::tls(files).map_err(|e| self.error("mqtt", e.to_string()))?;
        }
        let credentials = match (mqtt.username, path(mqtt.password_file)) {
            (Some(username), Some(file)) => Some(Credentials { username, password: self.secret(&file)? }),
            (None, None) => None,
            _ => return Err(self.error("mqtt.username", "needs password_file, and password_file needs it")),
        };
        Ok(MqttConfig { host, port, tls, credentials })
    }

    fn secret(&self, path: &Path) -> Result<String, ConfigError> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|e| self.error("mqtt.password_file", format!("{}: {e}", path.display())))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Host, port, and whether it is TLS.
fn address(url: &str) -> Option<(String, u16, bool)> {
    let (rest, secure, default) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
        (Some(rest), _) => (rest, false, 1883),
        (_, Some(rest)) => (rest, true, 8883),
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, default),
    };
    // An IPv6 address stands in brackets, so that its colons are not taken for the port's.
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = |h: &str| !h.is_empty() && !h.contains(['/', '@', '?', '#', ' ', '[', ']']);
    let host = bare.filter(|h| h.contains(':')).or((!host.contains(':')).then_some(host))?;
    valid(host).then(|| (host.to_owned(), port, secure))
}

#[cfg(test)]
mod tests;
