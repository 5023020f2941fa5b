//! The trigger's HTTP: notices in, metrics out.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use proto::time::wall_now_ms;
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    config::{RunnerConfig, TriggerConfig},
    desk::{Decision, Desk, Run, Runs},
    notice::{self, Alert, NOTICE_BYTES_MAX},
    runner::{
        Runner, RunnerError,
        cluster::{Cluster, ClusterError},
        command::CommandRunner,
        job::JobRunner,
    },
};
use crate::{
    serve::auth::{Denied, TokenError, Writes},
    telemetry::{Exporter, RetrainingMetrics},
};

/// Where a pod finds its API server.
const SERVER_VARIABLES: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    #[error("`serve.http`: {addr} can't be opened: {source}")]
    Bind { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("{0} is not set: this is no pod of a cluster; name the API server in `runner.job.server`")]
    NoCluster(&'static str),
}

/// A running trigger.
pub struct Listener {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

struct Trigger {
    desk: Desk,
    runner: Runner,
}

#[derive(Clone)]
struct Served {
    /// Notices are judged one after the other.
    trigger: Arc<Mutex<Trigger>>,
    writes: Writes,
    metrics: RetrainingMetrics,
    exporter: Exporter,
}

/// Listens until `stop`.
pub async fn start(
    config: TriggerConfig,
    exporter: &Exporter,
    stop: CancellationToken,
) -> Result<Listener, ListenerError> {
    let writes = config.token_file.as_deref().map_or(Ok(Writes::local()), Writes::with_token)?;
    let metrics = RetrainingMetrics::new(&exporter.meter());
    let runner = runner(config.runner, &metrics)?;
    let bind = |source| ListenerError::Bind { addr: config.http, source };
    let socket = TcpListener::bind(config.http).await.map_err(bind)?;
    let addr = socket.local_addr().map_err(bind)?;
    let trigger = Arc::new(Mutex::new(Trigger { desk: Desk::new(config.cool_down_ms), runner }));
    let router = router(Served { trigger, writes, metrics, exporter: exporter.clone() });
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(socket, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "HTTP ended");
        }
    });
    Ok(Listener { addr, task })
}

impl Listener {
    /// After `stop`.
    pub async fn stopped(self) {
        // It logs why by itself.
        let _ = self.task.await;
    }
}

fn runner(config: RunnerConfig, metrics: &RetrainingMetrics) -> Result<Runner, ListenerError> {
    match config {
        RunnerConfig::Command { argv, folder, run_max } => {
            Ok(Runner::Command(CommandRunner::new(argv, folder, run_max, metrics.clone())))
        }
        RunnerConfig::Job { cronjob, server, account } => {
            let server = server.map_or_else(server_of_the_pod, Ok)?;
            Ok(Runner::Job(JobRunner::new(Cluster::new(&server, account)?, cronjob)))
        }
    }
}

fn server_of_the_pod() -> Result<String, ListenerError> {
    let [host, port] = SERVER_VARIABLES.map(|name| std::env::var(name).map_err(|_| ListenerError::NoCluster(name)));
    let host = host?;
    // An IPv6 address comes without brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{}", port?))
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/alerts", post(alerts))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics_text))
        .layer(DefaultBodyLimit::max(NOTICE_BYTES_MAX))
        .with_state(served)
}

/// Alertmanager tells a notice again that was answered with 5xx, and gives up on one that was answered with 4xx.
async fn alerts(
    State(served): State<Served>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> (StatusCode, String) {
    let refused = |status: StatusCode, reason: String| {
        served.metrics.notice_refused();
        tracing::warn!(status = status.as_u16(), reason, "a notice was refused");
        (status, format!("{reason}\n"))
    };
    match served.writes.check_http(&headers) {
        Ok(()) => {}
        Err(e @ (Denied::Missing | Denied::Wrong)) => return refused(StatusCode::UNAUTHORIZED, e.to_string()),
        Err(e @ Denied::CrossOrigin) => return refused(StatusCode::FORBIDDEN, e.to_string()),
    }
    let alerts = match body {
        Ok(body) => notice::decode(&body),
        Err(e) => return refused(e.status(), e.body_text()),
    };
    match alerts {
        Ok(alerts) => match served.trigger.lock().await.take(&alerts, &served.metrics).await {
            Ok(()) => (StatusCode::OK, String::new()),
            Err(error) => {
                served.metrics.run(Run::NotStarted);
                tracing::error!(%error, "a retraining can't be started; it is tried again when Alertmanager tells again");
                (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
            }
        },
        Err(e) => refused(StatusCode::BAD_REQUEST, e.to_string()),
    }
}

async fn metrics_text(State(served): State<Served>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.exporter.text())
}

impl Trigger {
    async fn take(&mut self, alerts: &[Alert], metrics: &RetrainingMetrics) -> Result<(), RunnerError> {
        // Nobody asks the cluster for what it need not say.
        let asked = alerts.iter().any(|alert| alert.firing && alert.asks);
        let mut runs = if asked { self.runner.runs().await? } else { Runs::default() };
        for alert in alerts {
            let now_ms = wall_now_ms();
            let (decision, is_news) = self.desk.decide(alert, runs, now_ms);
            metrics.decided(decision);
            if is_news {
                tracing::info!(decision = decision.text(), fingerprint = alert.fingerprint, alert = alert.why, "told");
            }
            if decision == Decision::Start {
                let begun = self.runner.start(&alert.why, now_ms).await?;
                metrics.run(Run::Started);
                tracing::info!(run = begun.name, by_another = begun.by_another, "a retraining has begun");
                self.desk.started(alert, begun.began_ms);
                runs = Runs { running: true, began_ms: Some(begun.began_ms) };
            }
        }
        Ok(())
    }
}
