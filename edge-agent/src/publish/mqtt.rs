//! How an agent reaches its broker: address, identity, topics and limits of the MQTT client.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use prost::Message;
use proto::{
    telemetry::frame::FRAME_BYTES_MAX,
    time::wall_now_ms,
    topic::{Channel, Topic},
    wire::telemetry::Status,
};
use rumqttc::{AsyncClient, EventLoop, LastWill, MqttOptions, QoS, TlsConfiguration, Transport};
use rustls::ClientConfig;

use crate::{agent::identity::Identity, config::AgentConfig};

/// Publishes that the broker has not acknowledged. Far below the client's own limit, at which it can lock up.
pub const INFLIGHT_MAX: usize = 64;
const CLIENT_INFLIGHT: u16 = 4 * INFLIGHT_MAX as u16;
/// Birth, status, subscription and disconnect beside the frames.
const REQUESTS_MAX: usize = INFLIGHT_MAX + 16;
const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 64 * 1024;
/// For a connection to come up, and for a packet to leave: the client's own 5 s would be too short for a large frame on
/// a thin line.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// What connections are made with; None: without TLS.
pub type Tls = Option<Arc<ClientConfig>>;

#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    #[error("{}: {source}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Everything to connect with; each connection gets a fresh client from it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    options: MqttOptions,
    pub telemetry: String,
    pub birth: String,
    pub status: String,
    pub ack: String,
    install: String,
}

impl Endpoint {
    pub fn new(config: &AgentConfig, identity: &Identity) -> Self {
        let topic = |channel| Topic::new(&config.site, &config.agent, channel).to_string();
        let client = format!("{}-{}", config.agent, identity.install);
        let mut options = MqttOptions::new(client, &config.mqtt.host, config.mqtt.port);
        options.set_keep_alive(config.mqtt.patience.keep_alive).set_clean_session(true).set_inflight(CLIENT_INFLIGHT);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(credentials) = &config.mqtt.credentials {
            options.set_credentials(&credentials.username, &credentials.password);
        }
        let mut endpoint = Endpoint {
            options,
            telemetry: topic(Channel::Telemetry),
            birth: topic(Channel::Birth),
            status: topic(Channel::Status),
            ack: topic(Channel::Ack),
            install: identity.install.clone(),
        };
        let will = LastWill::new(&endpoint.status, endpoint.status(false, false), QoS::AtLeastOnce, true);
        endpoint.options.set_last_will(will);
        endpoint
    }

    /// A fresh client: what an old one still had in its queues is not trusted to arrive, and is sent anew by the window.
    pub fn client(&self, tls: Tls) -> (AsyncClient, EventLoop) {
        let mut options = self.options.clone();
        if let Some(tls) = tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
        events.network_options.set_tcp_nodelay(true);
        events.network_options.set_connection_timeout(CONNECT_MAX.as_secs());
        (client, events)
    }

    pub fn status(&self, online: bool, clean: bool) -> Vec<u8> {
        Status { online, clean, install_id: self.install.clone(), time_ms: wall_now_ms() }.encode_to_vec()
    }
}
