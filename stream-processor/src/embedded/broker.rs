//! An MQTT broker inside the process, for a factory that has none yet.

mod access;

use std::{io, net::SocketAddr, num::NonZeroU16, time::Duration};

use proto::telemetry::frame::FRAME_BYTES_MAX;
use rmqtt::{context::ServerContext, hook::Type, net::Builder, server::MqttServer};
use tokio::task::JoinHandle;

use access::Access;
pub use access::Login;

/// Above the largest frame, so that our own limit is the one that is met.
const PACKET_BYTES_MAX: u32 = 2 * FRAME_BYTES_MAX as u32;
const INFLIGHT_MAX: NonZeroU16 = NonZeroU16::new(1024).unwrap();
const QUEUE_MESSAGES_MAX: usize = 100_000;
const SESSION_EXPIRY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("the MQTT broker can't listen on {addr}: {reason}; choose another address with --mqtt")]
    Bind { addr: SocketAddr, reason: String },
    #[error("the MQTT broker can't start: {reason}")]
    Start { reason: String },
}

/// A running broker; it ends when dropped.
pub struct Broker {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Broker {
    /// `processor`: the client that may publish acks. Agents need no login; see [`Access`].
    pub async fn start(addr: SocketAddr, processor: Login) -> Result<Self, BrokerError> {
        let start = |e: rmqtt::net::Error| BrokerError::Start { reason: e.to_string() };
        // A busy machine is no reason to turn gateways away: history is sent as fast as the machine can.
        let context = ServerContext::new()
            .busy_check_enable(false)
            .plugins_config_map_add("rmqtt-retainer", "storage.type = \"ram\"")
            .build()
            .await;
        rmqtt_retainer::register(&context, true, false).await.map_err(start)?;
        let hooks = context.extends.hook_mgr().register();
        for asked in [Type::ClientAuthenticate, Type::MessagePublishCheckAcl] {
            hooks.add(asked, Box::new(Access(processor.clone()))).await;
        }
        hooks.start().await;
        let bind = |e: rmqtt::net::Error| BrokerError::Bind { addr, reason: e.to_string() };
        // Asked first with a plain socket: its error says "address in use" and not only "failed".
        std::net::TcpListener::bind(addr).map_err(|e: io::Error| bind(e.into()))?;
        let listener = Builder::new()
            .name("embedded")
            .laddr(addr)
            .reuseaddr(Some(true))
            .nodelay(true)
            .allow_anonymous(true)
            .max_packet_size(PACKET_BYTES_MAX)
            .max_inflight(INFLIGHT_MAX)
            .max_mqueue_len(QUEUE_MESSAGES_MAX)
            .session_expiry_interval(SESSION_EXPIRY)
            .bind()
            .and_then(|l| l.tcp())
            .map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let server = MqttServer::new(context).listener_by_id(listener, addr.port()).build();
        let task = tokio::spawn(async move {
            if let Err(e) = server.run().await {
                tracing::error!(error = %e, "the embedded MQTT broker stopped");
            }
        });
        tracing::debug!(%addr, "embedded MQTT broker");
        Ok(Broker { addr, task })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
