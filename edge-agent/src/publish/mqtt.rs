//! How an agent reaches its broker: address, TLS, identity, topics and limits of the MQTT client.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use prost::Message;
use proto::{
    telemetry::frame::FRAME_BYTES_MAX,
    time::wall_now_ms,
    topic::{Channel, Topic},
    wire::telemetry::Status,
};
use rumqttc::{AsyncClient, EventLoop, LastWill, MqttOptions, QoS, TlsConfiguration, Transport};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    agent::identity::Identity,
    config::{AgentConfig, TlsFiles},
};

/// Publishes that the broker has not acknowledged. Far below the client's own limit, at which it can lock up.
pub const INFLIGHT_MAX: usize = 64;
const CLIENT_INFLIGHT: u16 = 4 * INFLIGHT_MAX as u16;
/// Birth, status, subscription and disconnect beside the frames.
const REQUESTS_MAX: usize = INFLIGHT_MAX + 16;
const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 64 * 1024;
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
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
    pub fn new(config: &AgentConfig, identity: &Identity) -> Result<Self, MqttError> {
        let topic = |channel| Topic::new(&config.site, &config.agent, channel).to_string();
        let client = format!("{}-{}", config.agent, identity.install);
        let mut options = MqttOptions::new(client, &config.mqtt.host, config.mqtt.port);
        options.set_keep_alive(KEEP_ALIVE).set_clean_session(true).set_inflight(CLIENT_INFLIGHT);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(credentials) = &config.mqtt.credentials {
            options.set_credentials(&credentials.username, &credentials.password);
        }
        if let Some(files) = &config.mqtt.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(files)?))));
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
        Ok(endpoint)
    }

    /// A fresh client: what an old one still had in its queues is not trusted to arrive, and is sent anew by the window.
    pub fn client(&self) -> (AsyncClient, EventLoop) {
        let (client, mut events) = AsyncClient::new(self.options.clone(), REQUESTS_MAX);
        events.network_options.set_tcp_nodelay(true);
        (client, events)
    }

    pub fn status(&self, online: bool, clean: bool) -> Vec<u8> {
        Status { online, clean, install_id: self.install.clone(), time_ms: wall_now_ms() }.encode_to_vec()
    }
}

/// Names its own crypto provider, so that no process-wide one is needed.
pub fn tls(files: &TlsFiles) -> Result<ClientConfig, MqttError> {
    let invalid = |file: &PathBuf, reason: String| MqttError::File { file: file.clone(), reason };
    let certificates = |file: &PathBuf| -> Result<Vec<CertificateDer<'static>>, MqttError> {
        let pem = std::fs::read(file).map_err(|e: io::Error| invalid(file, e.to_string()))?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        found.ok().filter(|c| !c.is_empty()).ok_or_else(|| invalid(file, "no PEM certificate inside".into()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let pem = std::fs::read(key).map_err(|e| invalid(key, e.to_string()))?;
            let der =
                PrivateKeyDer::from_pem_slice(&pem).map_err(|e| invalid(key, format!("no PEM key inside: {e}")))?;
            builder.with_client_auth_cert(certificates(certificate)?, der)?
        }
    })
}
