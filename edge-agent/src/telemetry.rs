//! Metrics (OpenTelemetry inside, Prometheus text outside) and logs.

use std::{io::IsTerminal, net::SocketAddr};

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge},
};
use opentelemetry_sdk::{error::OTelSdkError, metrics::SdkMeterProvider};
use prometheus::{Encoder, Registry, TextEncoder};
use proto::asset::AssetId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Duration, timeout},
};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What one agent counts, on the global meter: a process may run several.
#[derive(Clone)]
pub struct Metrics {
    /// The attribute of every measurement.
    pub agent: [KeyValue; 1],
    pub readings_sealed: Counter<u64>,
    pub batches_sealed: Counter<u64>,
    pub backlog_bytes: Gauge<u64>,
    pub spool_bytes: Gauge<u64>,
    pub sealed_time: Gauge<f64>,
    pub frames_sent: Counter<u64>,
    pub frames_resent: Counter<u64>,
    pub frames_unreadable: Counter<u64>,
    pub send_timeouts: Counter<u64>,
    pub acks: Counter<u64>,
    pub acks_ignored: Counter<u64>,
    pub connects: Counter<u64>,
    pub connected: Gauge<u64>,
    pub paused: Gauge<u64>,
}

impl Metrics {
    pub fn new(agent: &AssetId) -> Self {
        let meter = global::meter("millwright-agent");
        let counter = |name: &'static str, text: &'static str| meter.u64_counter(name).with_description(text).build();
        let gauge = |name: &'static str, text: &'static str| meter.u64_gauge(name).with_description(text).build();
        let bytes = |name: &'static str, text: &'static str| {
            meter.u64_gauge(name).with_unit("By").with_description(text).build()
        };
        Metrics {
            agent: [KeyValue::new("agent", agent.to_string())],
            readings_sealed: counter("millwright_agent_readings_sealed", "Readings put into batches"),
            batches_sealed: counter("millwright_agent_batches_sealed", "Batches sealed, empty ones too"),
            backlog_bytes: bytes("millwright_agent_backlog", "Frames in the spool that are not committed"),
            spool_bytes: bytes("millwright_agent_spool", "Segment files of the spool"),
            sealed_time: meter
                .f64_gauge("millwright_agent_sealed_time")
                .with_unit("s")
                .with_description("Seal time of the newest durable batch, plant time since the Unix epoch")
                .build(),
            frames_sent: counter("millwright_agent_frames_sent", "Frames given to the broker, repeats too"),
            frames_resent: counter("millwright_agent_frames_resent", "Frames given to the broker again"),
            frames_unreadable: counter("millwright_agent_frames_unreadable", "Frames that could not be read back"),
            send_timeouts: counter("millwright_agent_send_timeouts", "Times that acks stood still for too long"),
            acks: counter("millwright_agent_acks", "Acks taken"),
            acks_ignored: counter("millwright_agent_acks_ignored", "Acks not taken, by reason"),
            connects: counter("millwright_agent_connects", "Connections to the broker that came up"),
            connected: gauge("millwright_agent_connected", "1 while the broker is connected"),
            paused: gauge("millwright_agent_paused", "1 while the processor takes nothing"),
        }
    }

    /// The attributes of this agent and one more.
    pub fn with(&self, key: &'static str, value: &'static str) -> [KeyValue; 2] {
        let [agent] = self.agent.clone();
        [agent, KeyValue::new(key, value)]
    }
}

/// Human on a terminal, JSON otherwise; `RUST_LOG` decides what is shown.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,opentelemetry=warn"));
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).init();
    } else {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).init();
    }
}

/// The registry behind `/metrics`. Becomes the global meter provider, so it comes before the agent.
pub fn install_exporter() -> Result<Registry, OTelSdkError> {
    let registry = Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()?;
    global::set_meter_provider(SdkMeterProvider::builder().with_reader(reader).build());
    Ok(registry)
}

const REQUEST_BYTES_MAX: usize = 8 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers `GET /metrics` and `GET /healthz`, one request at a time: a scraper and a probe, on loopback.
pub async fn serve(address: SocketAddr, registry: Registry) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        if let Ok(Err(error)) = timeout(REQUEST_TIMEOUT, answer(stream, &registry)).await {
            tracing::debug!(%error, "a metrics request was cut off");
        }
    }
}

async fn answer(mut stream: TcpStream, registry: &Registry) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = match request.split(|b| *b == b'\r').next() {
        Some(line) if line.starts_with(b"GET /metrics ") => ("200 OK", encode(registry)),
        Some(line) if line.starts_with(b"GET /healthz ") => ("200 OK", b"ok\n".to_vec()),
        _ => ("404 Not Found", b"there are /metrics and /healthz\n".to_vec()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await
}

fn encode(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        tracing::warn!(%error, "metrics can't be encoded");
    }
    text
}
