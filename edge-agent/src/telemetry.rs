//! Metrics (OpenTelemetry inside, Prometheus text outside) and logs.

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    sync::Arc,
};

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
    sync::{Semaphore, watch},
    time::{Duration, sleep, timeout},
};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What one agent counts, on the global meter: a process may run several.
#[derive(Clone)]
pub struct Metrics {
    /// The attribute of every measurement.
    pub agent: [KeyValue; 1],
    pub readings_sealed: Counter<u64>,
    pub batches_sealed: Counter<u64>,
    pub readings_not_taken: Counter<u64>,
    /// By reason: evicted, damaged or quarantined.
    pub batches_lost: Counter<u64>,
    /// By reason; those whose number is known.
    pub readings_lost: Counter<u64>,
    pub backlog_bytes: Gauge<u64>,
    pub spool_bytes: Gauge<u64>,
    pub spool_frames: Gauge<u64>,
    pub spool_age: Gauge<f64>,
    pub spool_syncs: Counter<u64>,
    pub spool_written_bytes: Counter<u64>,
    pub spool_evictions: Counter<u64>,
    pub spool_set_aside: Counter<u64>,
    pub spool_in_memory: Gauge<u64>,
    pub sealed_time: Gauge<f64>,
    pub clock_trusted: Gauge<u64>,
    pub clock_offset: Gauge<f64>,
    /// By direction.
    pub clock_jumps: Counter<u64>,
    pub frames_sent: Counter<u64>,
    pub frames_resent: Counter<u64>,
    pub frames_unreadable: Counter<u64>,
    pub send_timeouts: Counter<u64>,
    pub acks: Counter<u64>,
    pub acks_ignored: Counter<u64>,
    pub archives_adopted: Counter<u64>,
    pub breaks_declared: Counter<u64>,
    pub in_flight: Gauge<u64>,
    pub connection_attempts: Counter<u64>,
    pub connects: Counter<u64>,
    pub connected: Gauge<u64>,
    pub paused: Gauge<u64>,
    /// These have the attribute `source`, too.
    pub source_reads: Counter<u64>,
    /// By reason.
    pub source_errors: Counter<u64>,
    pub source_suppressed: Counter<u64>,
    pub source_slots_missed: Counter<u64>,
    pub source_dropped: Counter<u64>,
    pub source_restarts: Counter<u64>,
    /// By outcome: ok or failed.
    pub certificate_reloads: Counter<u64>,
    pub certificate_expiry: Gauge<f64>,
    /// By outcome: ok or failed.
    pub reloads: Counter<u64>,
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
            readings_not_taken: counter(
                "millwright_agent_readings_not_taken",
                "Readings and events of machines that no source announced",
            ),
            batches_lost: counter("millwright_agent_batches_lost", "Batches that became a gap, by reason"),
            readings_lost: counter(
                "millwright_agent_readings_lost",
                "Readings in lost batches, by reason, as far as their number is known",
            ),
            backlog_bytes: bytes("millwright_agent_backlog", "Frames in the spool that are not committed"),
            spool_bytes: bytes("millwright_agent_spool", "Segment files of the spool"),
            spool_frames: gauge("millwright_agent_spool_frames", "Frames in the spool that are not committed"),
            spool_age: meter
                .f64_gauge("millwright_agent_spool_age")
                .with_unit("s")
                .with_description(
                    "Plant time from the seal of the oldest batch that is not committed to that of the newest",
                )
                .build(),
            spool_syncs: counter("millwright_agent_spool_syncs", "fsyncs of the spool's files and folder"),
            spool_written_bytes: meter
                .u64_counter("millwright_agent_spool_written")
                .with_unit("By")
                .with_description("Bytes that the spool gave to write calls")
                .build(),
            spool_evictions: counter("millwright_agent_spool_evictions", "Segments that became a gap to make room"),
            spool_set_aside: counter(
                "millwright_agent_spool_set_aside",
                "Segments that could not be read and were set aside",
            ),
            spool_in_memory: gauge(
                "millwright_agent_spool_in_memory",
                "1 while the disk fails and batches are kept in memory only",
            ),
            sealed_time: meter
                .f64_gauge("millwright_agent_sealed_time")
                .with_unit("s")
                .with_description("Seal time of the newest durable batch, plant time since the Unix epoch")
                .build(),
            clock_trusted: gauge("millwright_agent_clock_trusted", "1 while the time is known to be right"),
            clock_offset: meter
                .f64_gauge("millwright_agent_clock_offset")
                .with_unit("s")
                .with_description("By how much the gateway's wall clock is behind the time that is used")
                .build(),
            clock_jumps: counter("millwright_agent_clock_jumps", "Jumps of the wall clock, by direction"),
            frames_sent: counter("millwright_agent_frames_sent", "Frames given to the broker, repeats too"),
            frames_resent: counter("millwright_agent_frames_resent", "Frames given to the broker again"),
            frames_unreadable: counter("millwright_agent_frames_unreadable", "Frames that could not be read back"),
            send_timeouts: counter("millwright_agent_send_timeouts", "Times that acks stood still for too long"),
            acks: counter("millwright_agent_acks", "Acks taken"),
            acks_ignored: counter("millwright_agent_acks_ignored", "Acks not taken, by reason"),
            archives_adopted: counter(
                "millwright_agent_archives_adopted",
                "Times that another archive took the place of the one before",
            ),
            breaks_declared: counter(
                "millwright_agent_breaks_declared",
                "Declarations, repeats too, that the log does not go on where the processor stands",
            ),
            in_flight: gauge("millwright_agent_in_flight", "Publishes that the broker has not acknowledged"),
            connection_attempts: counter(
                "millwright_agent_connection_attempts",
                "Connections to the broker that were tried",
            ),
            connects: counter("millwright_agent_connects", "Connections to the broker that came up"),
            connected: gauge("millwright_agent_connected", "1 while the broker is connected"),
            paused: gauge("millwright_agent_paused", "1 while the processor takes nothing"),
            source_reads: counter("millwright_agent_source_reads", "Sensors read, whatever they answered"),
            source_errors: counter("millwright_agent_source_errors", "Readings that were not good, by reason"),
            source_suppressed: counter(
                "millwright_agent_source_suppressed",
                "Readings within their deadband, which are not reported",
            ),
            source_slots_missed: counter("millwright_agent_source_slots_missed", "Sampling slots that were missed"),
            source_dropped: counter("millwright_agent_source_dropped", "Readings lost since the agent stood still"),
            source_restarts: counter(
                "millwright_agent_source_restarts",
                "Times that a device was connected, or a program started, again",
            ),
            certificate_reloads: counter(
                "millwright_agent_certificate_reloads",
                "Times that certificate files had changed, by outcome",
            ),
            certificate_expiry: meter
                .f64_gauge("millwright_agent_certificate_expiry")
                .with_unit("s")
                .with_description("End of the client certificate's validity, since the Unix epoch")
                .build(),
            reloads: counter("millwright_agent_reloads", "Reloads of the configuration, by outcome"),
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
/// A scraper and a probe, on loopback, and a few that are idle.
const REQUESTS_AT_ONCE_MAX: usize = 32;
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What `GET /healthz` says. A broker or a cloud out of reach is no illness: the agent is made to live through that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Starting,
    Running,
    /// Nothing becomes durable any more, and not because of a disk that fails.
    Stuck,
    /// By itself: nobody reads the sensors any more.
    Ended,
}

/// Answers `GET /metrics` and `GET /healthz`.
pub async fn serve(address: SocketAddr, registry: Registry, health: watch::Receiver<Health>) -> io::Result<()> {
    let listener = Arc::new(TcpListener::bind(address).await?);
    answer_all(|| accept(listener.clone()), registry, health).await;
    Ok(())
}

async fn accept(listener: Arc<TcpListener>) -> io::Result<TcpStream> {
    Ok(listener.accept().await?.0)
}

/// Each request is a task with a time limit, so that an idle client keeps no one waiting. What fails at accepting one
/// (such as too many open files) does not concern the next.
async fn answer_all<F: Future<Output = io::Result<TcpStream>>>(
    mut accept: impl FnMut() -> F,
    registry: Registry,
    health: watch::Receiver<Health>,
) {
    let room = Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = room.clone().acquire_owned().await {
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a metrics request was not accepted");
                sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let (registry, health) = (registry.clone(), *health.borrow());
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(REQUEST_TIMEOUT, answer(stream, &registry, health)).await {
                tracing::debug!(%error, "a metrics request was cut off");
            }
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, registry: &Registry, health: Health) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = match request.split(|b| *b == b'\r').next() {
        Some(line) if line.starts_with(b"GET /metrics ") => ("200 OK", encode(registry)),
        Some(line) if line.starts_with(b"GET /healthz ") => match health {
            Health::Starting => ("200 OK", b"starting\n".to_vec()),
            Health::Running => ("200 OK", b"ok\n".to_vec()),
            Health::Stuck => ("503 Service Unavailable", b"the agent is stuck\n".to_vec()),
            Health::Ended => ("503 Service Unavailable", b"the agent ended\n".to_vec()),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn neither_an_idle_client_nor_an_error_at_accepting_keeps_a_probe_waiting() {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let (health, healthy) = watch::channel(Health::Starting);
        let mut failed = false;
        let once_failing = move || {
            let (fails, listener) = (!std::mem::replace(&mut failed, true), listener.clone());
            async move { if fails { Err(io::Error::other("too many open files")) } else { accept(listener).await } }
        };
        let serving = tokio::spawn(answer_all(once_failing, Registry::new(), healthy));
        let _idle = TcpStream::connect(address).await.unwrap();
        assert!(get(address, "/healthz").await.ends_with("starting\n"));
        health.send_replace(Health::Running);
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 OK"));
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200 OK"));
        health.send_replace(Health::Stuck);
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"));
        health.send_replace(Health::Ended);
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        serving.abort();
    }
}
