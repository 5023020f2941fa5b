//! What an agent is told: by `gateway.toml`, or in code by a program that runs agents inside itself.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use proto::asset::AssetId;
pub use proto::broker::TlsFiles;

use crate::{publish::window::WindowConfig, spool::SpoolConfig};

mod file;

pub use file::{ConfigError, Gateway};

pub const FLUSH_DEFAULT: Duration = Duration::from_secs(1);
/// Raw bytes of columns after which a batch is sealed before its time.
pub const BATCH_BYTES_DEFAULT: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    pub site: AssetId,
    pub agent: AssetId,
    /// Folder of the spool; one agent has it for itself.
    pub data: PathBuf,
    pub mqtt: MqttConfig,
    pub batch: BatchConfig,
    pub spool: SpoolConfig,
    pub window: WindowConfig,
}

impl AgentConfig {
    /// Everything else at its default.
    pub fn new(site: AssetId, agent: AssetId, data: impl Into<PathBuf>, mqtt: MqttConfig) -> Self {
        AgentConfig {
            site,
            agent,
            data: data.into(),
            mqtt,
            batch: BatchConfig::default(),
            spool: SpoolConfig::default(),
            window: WindowConfig::default(),
        }
    }

    /// The first setting that differs and that a running agent can't change.
    pub fn needs_restart(&self, new: &AgentConfig) -> Option<&'static str> {
        let fixed = [
            ("site", self.site != new.site),
            ("agent", self.agent != new.agent),
            ("data", self.data != new.data),
            ("mqtt", self.mqtt != new.mqtt),
        ];
        fixed.into_iter().find_map(|(key, differs)| differs.then_some(key))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct MqttConfig {
    pub host: String,
    pub port: u16,
    pub tls: Option<TlsFiles>,
    pub credentials: Option<Credentials>,
    pub patience: Patience,
}

impl MqttConfig {
    /// Without TLS and password, as on loopback.
    pub fn plain(address: SocketAddr) -> Self {
        MqttConfig {
            host: address.ip().to_string(),
            port: address.port(),
            tls: None,
            credentials: None,
            patience: Patience::default(),
        }
    }
}

/// How long a connection is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    pub keep_alive: Duration,
    /// A client that reports nothing for this long, not even a ping, is replaced.
    pub silence_max: Duration,
    /// A broker that acknowledges nothing for this long while frames are in flight is left.
    pub stall_max: Duration,
    /// Between two attempts to connect.
    pub back_off_max: Duration,
    /// A renewed certificate is noticed within this time.
    pub certificates_every: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let keep_alive = Duration::from_secs(10);
        Patience {
            keep_alive,
            silence_max: 3 * keep_alive,
            stall_max: 3 * keep_alive,
            back_off_max: Duration::from_secs(60),
            certificates_every: Duration::from_secs(10),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with a password", self.username)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchConfig {
    /// Wall time between two batches, full or empty.
    pub flush: Duration,
    pub bytes_max: usize,
    /// One in so many batches with readings begins a trace; 0: none does.
    pub trace_every: u32,
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig { flush: FLUSH_DEFAULT, bytes_max: BATCH_BYTES_DEFAULT, trace_every: 0 }
    }
}
