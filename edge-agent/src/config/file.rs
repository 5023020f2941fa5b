//! `gateway.toml`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{asset::AssetId, broker::BrokerConfig, clock::ClockConfig};
use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};

pub use proto::config::ConfigError;

use super::{AgentConfig, BATCH_BYTES_DEFAULT, BatchConfig, Credentials, FLUSH_DEFAULT, MqttConfig, Patience};
use crate::{
    agent::batch::BATCH_BYTES_MAX,
    publish::{certificates, window},
    source::SourceConfig,
    spool::{
        FREE_BYTES_MIN, GROUP_AFTER, GROUP_BYTES, RING_BYTES_MAX, SPOOL_BYTES_MAX, SPOOL_SEGMENTS_MIN, SpoolConfig,
        segment,
    },
};

/// What the binary runs: one agent, its sources, its clock.
#[derive(Debug, Clone)]
pub struct Gateway {
    pub agent: AgentConfig,
    pub sources: Vec<SourceConfig>,
    pub clock: ClockConfig,
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
    mqtt: BrokerConfig,
    #[serde(default)]
    batch: Batch,
    #[serde(default)]
    spool: Spool,
    #[serde(default)]
    publish: Publish,
    #[serde(default)]
    clock: ClockConfig,
    serve: Option<Serve>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Batch {
    flush_ms: u64,
    bytes_max: usize,
    trace_every: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { flush_ms: FLUSH_DEFAULT.as_millis() as u64, bytes_max: BATCH_BYTES_DEFAULT, trace_every: 0 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Spool {
    bytes_max: u64,
    segment_bytes: u32,
    free_bytes_min: u64,
    /// Absent: age does not count.
    age_max_hours: Option<u64>,
    ring_bytes_max: usize,
    group_ms: u64,
    group_bytes: usize,
}

impl Default for Spool {
    fn default() -> Self {
        Spool {
            bytes_max: SPOOL_BYTES_MAX,
            segment_bytes: segment::SEGMENT_BYTES_DEFAULT,
            free_bytes_min: FREE_BYTES_MIN,
            age_max_hours: None,
            ring_bytes_max: RING_BYTES_MAX,
            group_ms: GROUP_AFTER.as_millis() as u64,
            group_bytes: GROUP_BYTES,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Publish {
    window_bytes_max: u64,
    /// Of all frames, new ones and repeats: what a backlog may take of the line after an outage.
    bytes_per_second: u64,
    /// Likewise.
    batches_per_second: u32,
}

impl Default for Publish {
    fn default() -> Self {
        Publish {
            window_bytes_max: window::WINDOW_BYTES_MAX,
            bytes_per_second: window::BYTES_PER_SECOND,
            batches_per_second: window::BATCHES_PER_SECOND,
        }
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

    /// The first setting that differs and that a running program can't change.
    pub fn needs_restart(&self, new: &Gateway) -> Option<&'static str> {
        let own = [("clock", self.clock != new.clock), ("serve", self.metrics != new.metrics)];
        let own = own.into_iter().find_map(|(key, differs)| differs.then_some(key));
        self.agent.needs_restart(&new.agent).or(own)
    }

    /// `name` is what errors call the text, `base` the folder in which its relative paths begin.
    pub fn parse(name: &str, text: &str, base: PathBuf) -> Result<Gateway, ConfigError> {
        let refused = |e| ConfigError::toml(name, text, &e);
        let mut root = DeTable::parse(text).map_err(refused)?;
        let sources = match root.get_mut().remove("source") {
            Some(found) => match found.into_inner() {
                DeValue::Array(sources) => sources.into_iter().map(|s| SourceConfig::read(name, text, s)).collect(),
                _ => Err(ConfigError::key(name, "source", "is a list: [[source]]")),
            },
            None => Ok(Vec::new()),
        };
        let file = File::deserialize(Deserializer::from(root)).map_err(refused)?;
        let sources = sources?;
        let check = Check { file: name, base: &base };
        let agent = AgentConfig {
            site: file.site,
            agent: file.agent,
            data: base.join(file.data),
            mqtt: check.mqtt(&file.mqtt)?,
            batch: BatchConfig {
                flush: Duration::from_millis(check.within("batch.flush_ms", file.batch.flush_ms, 10, 3_600_000)?),
                bytes_max: check.within("batch.bytes_max", file.batch.bytes_max, 1024, BATCH_BYTES_MAX)?,
                trace_every: file.batch.trace_every,
            },
            spool: check.spool(&file.spool)?,
            window: check.window(&file.publish)?,
        };
        file.clock.check().map_err(|e| ConfigError::whole(name, e.to_string()))?;
        if sources.is_empty() {
            return Err(check.error("source", "at least one [[source]] is needed"));
        }
        let metrics = file.serve.map(|s| s.metrics);
        Ok(Gateway { agent, sources, clock: file.clock, metrics, base })
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
        let hours = |hours| self.within("spool.age_max_hours", hours, 1, 24 * 3660);
        let age_max = spool.age_max_hours.map(hours).transpose()?.map(|hours| Duration::from_secs(hours * 3600));
        Ok(SpoolConfig {
            bytes_max: self.within("spool.bytes_max", spool.bytes_max, least, 1 << 40)?,
            segment_bytes,
            free_bytes_min: self.within("spool.free_bytes_min", spool.free_bytes_min, 0, 1 << 40)?,
            age_max,
            ring_bytes_max: self.within("spool.ring_bytes_max", spool.ring_bytes_max, 64 * 1024, 1 << 30)?,
            group_after: Duration::from_millis(self.within("spool.group_ms", spool.group_ms, 0, 60_000)?),
            group_bytes: self.within("spool.group_bytes", spool.group_bytes, 1, segment::GROUP_BYTES_MAX / 2)?,
        })
    }

    fn window(&self, publish: &Publish) -> Result<window::WindowConfig, ConfigError> {
        let Publish { window_bytes_max, bytes_per_second, batches_per_second } = *publish;
        Ok(window::WindowConfig {
            window_bytes_max: self.within("publish.window_bytes_max", window_bytes_max, 1, 1 << 30)?,
            bytes_per_second: self.within("publish.bytes_per_second", bytes_per_second, 1024, 1 << 40)?,
            batches_per_second: self.within("publish.batches_per_second", batches_per_second, 1, 1_000_000)?,
            ..Default::default()
        })
    }

    fn mqtt(&self, mqtt: &BrokerConfig) -> Result<MqttConfig, ConfigError> {
        let broker = mqtt.check(self.base).map_err(|e| ConfigError::whole(self.file, e.to_string()))?;
        if let Some(files) = &broker.tls {
            certificates::client_config(files).map_err(|e| self.error("mqtt", e.to_string()))?;
        }
        let password =
            |(username, file): (String, PathBuf)| Ok(Credentials { username, password: self.secret(&file)? });
        let credentials = broker.login.map(password).transpose()?;
        let patience = Patience::default();
        Ok(MqttConfig { host: broker.host, port: broker.port, tls: broker.tls, credentials, patience })
    }

    fn secret(&self, path: &Path) -> Result<String, ConfigError> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|e| self.error("mqtt.password_file", format!("{}: {e}", path.display())))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[cfg(test)]
mod tests;
