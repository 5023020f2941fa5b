//! Start and stop of the processor: recovery first, then the listeners, then the engine, then the broker; and back in
//! the opposite order, source first, so that buffers drain.
//!
//! ```text
//! archive recovered ─> stream restored ─> serve ─> champion ─> engine (thread) ─> ingest (MQTT)
//! ```

pub mod champion;
pub mod engine;
pub mod ledger;
pub mod models;
pub mod throttle;

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use model::{
    features::FeatureSchema,
    score::Scorer,
    store::{ConfigError, Store},
};
use proto::{config::ConfigError as SettingsError, time::PlantClock};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    acks::Acks,
    archive::{Archive, ArchiveError, Claimant, pending::Pending},
    config::ProcessorConfig,
    ingest::mqtt::{Ingest, IngestError},
    installs::Installs,
    intake::{EpochsLeft, Intake},
    panics,
    serve::{
        self, ServeError, Services, Serving,
        board::{Board, Part},
        command::Commands,
        predict::LiveModel,
    },
    stream::{self, Stream, StreamConfig, StreamError},
    telemetry::{self, Decisions, Exporter, Metrics, ModelMetrics, TelemetryError},
    traces::{Traces, TracesError},
    watch::{ModelWatch, beside::Follow},
};
use champion::Champion;
use engine::{Engine, EngineError};
use ledger::Ledger;
use models::Models;
use throttle::Throttle;

/// A stop takes at most so long, and whoever waits for it a little longer: supervisors and people give five seconds.
pub const STOP_MAX: Duration = Duration::from_millis(4_500);

/// When a stop must be over; empty until one begins.
pub type StopBy = Arc<OnceLock<Instant>>;
/// Lines that somebody outside can cause as often as they like.
const REPEATED_LINE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    #[error("S3: {0}")]
    Store(#[from] ConfigError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the snapshot: {0}")]
    Snapshot(#[from] StreamError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("MQTT: {0}")]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Traces(#[from] TracesError),
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running processor.
pub struct Processor {
    board: Board,
    store: Store,
    addresses: (SocketAddr, SocketAddr),
    /// Counts requests to look at the champion pointer now.
    look_again: watch::Sender<u64>,
    failed: watch::Receiver<Option<Arc<EngineError>>>,
    ingest_stop: CancellationToken,
    stop: CancellationToken,
    stop_by: StopBy,
    serving: Serving,
    champion: JoinHandle<()>,
    follow: JoinHandle<()>,
    engine: oneshot::Receiver<()>,
}

impl Processor {
    pub async fn start(
        config: ProcessorConfig,
        clock: watch::Receiver<PlantClock>,
        exporter: &Exporter,
    ) -> Result<Self, ProcessorError> {
        let board = Board::new();
        let (stop, ingest_stop) = (CancellationToken::new(), CancellationToken::new());
        let stop_by = StopBy::default();
        let (in_charge, scorer) = watch::channel(None::<Arc<Scorer>>);
        let (offers_out, offers) = watch::channel(None);
        let stream_config = StreamConfig { features: config.features.clone(), alert: config.alerts.clone() };
        let (kinds_out, kinds) = watch::channel(Arc::default());
        let (commands, commands_in) = Commands::channel();
        let text = exporter.clone();
        let services = Services {
            board: board.clone(),
            commands,
            model: Arc::new(LiveModel::new(stream_config.clone(), scorer.clone(), kinds)),
            metrics: Arc::new(move || text.text()),
        };
        // The listeners come first, so that whoever looks sees that it is starting. Where S3 does not answer it does not
        // start at all: a processor that can't commit would only take what it can't keep.
        let serving = serve::start(&config.serve, services, stop.clone()).await?;
        let addresses = (serving.grpc, serving.http);

        let store = Store::open(&config.s3).await?;
        let claimant = Claimant { owner: config.owner.clone(), shard: config.shard, forced: config.take_over };
        let (archive, recovered) = Archive::open(store.clone(), &config.archive, &claimant).await?;
        config.check_slots(recovered.slots)?;
        let (stream, left) = match &recovered.snapshot {
            Some(snapshot) => Stream::restore(stream_config, snapshot)?,
            None => (Stream::new(stream_config), EpochsLeft::new()),
        };
        let watched = recovered.snapshot.as_deref().map(stream::watched).unwrap_or_default();
        board.begin(recovered.incarnation, stream.open_alerts(), stream.closed_alerts());
        board.recall(stream.fleet().known());
        kinds_out.send_replace(Arc::new(stream.fleet().kinds()));
        board.set_part(Part::Recovery, None);
        board.set_part(Part::Archive, None);

        let (look_again, asked) = watch::channel(0);
        let champion = Champion {
            store: store.clone(),
            name: config.model.clone(),
            refresh: config.refresh,
            fingerprint: FeatureSchema::of(&config.features).fingerprint(),
            offers: offers_out,
            refused: telemetry::models_refused(&exporter.meter()),
        };
        let loaded = champion.recall(stream.schedule()).await;
        let seen = champion.begin(stream.schedule().newest().cloned(), &loaded).await;
        let champion = tokio::spawn(champion.watch(seen, asked, stop.clone()));

        let ingest = Ingest::start(&config.mqtt, &config.site, recovered.slots, &config.client(), ingest_stop.clone())?;
        let (beside_out, beside) = watch::channel(None);
        let follow = Follow {
            store: store.clone(),
            name: config.model.clone(),
            refresh: config.refresh,
            scorer: scorer.clone(),
            out: beside_out,
            decisions: Decisions::new(&exporter.meter()),
            board: board.clone(),
            look_again: look_again.clone(),
        };
        let follow = tokio::spawn(follow.run(stop.clone()));
        let model_metrics = ModelMetrics::new(&exporter.meter());
        let engine = Engine {
            site: config.site.clone(),
            incarnation: recovered.incarnation,
            stop: ingest_stop.clone(),
            clock,
            ingest,
            commands: commands_in,
            models: Models::new(offers, loaded, in_charge),
            intake: Intake::new(&recovered.positions, left).limited_to(recovered.slots),
            installs: Installs::default(),
            acks: Acks::new(recovered.archive_id, recovered.incarnation, &recovered.positions),
            stream,
            pending: Pending::new(&config.archive, config.site.clone(), &FeatureSchema::of(&config.features)),
            archive,
            board: board.clone(),
            kinds: kinds_out,
            metrics: Metrics::new(&exporter.meter()),
            watch: ModelWatch::new(beside, model_metrics, &config.trigger, watched),
            ledger: Ledger::default(),
            started: Instant::now(),
            held: None,
            blocked_since: None,
            report_due: Duration::ZERO,
            stop_by: stop_by.clone(),
            in_charge: None,
            stray_warnings: Throttle::new(REPEATED_LINE_INTERVAL),
            conflict_errors: Throttle::new(REPEATED_LINE_INTERVAL),
            version_errors: Throttle::new(REPEATED_LINE_INTERVAL),
            foreign_errors: Throttle::new(REPEATED_LINE_INTERVAL),
            unbalanced: false,
            traces: Traces::start(&config.traces)?,
        };
        let (failed_out, failed) = watch::channel(None);
        let engine = spawn(engine, failed_out)?;
        Ok(Processor {
            board,
            store,
            addresses,
            look_again,
            failed,
            ingest_stop,
            stop,
            stop_by,
            serving,
            champion,
            follow,
            engine,
        })
    }

    pub fn board(&self) -> &Board {
        &self.board
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Of gRPC and HTTP.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        self.addresses
    }

    /// Bump it to have the champion pointer looked at now.
    pub fn champion(&self) -> watch::Sender<u64> {
        self.look_again.clone()
    }

    /// Waits until the engine gives up by itself, and says why.
    pub async fn failed(&self) -> Arc<EngineError> {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await.map(|failed| failed.clone()) {
            Ok(Some(reason)) => reason,
            // The engine ended as it was asked to.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Drains: the client, the engine, the archive; then hangs up on everybody. What is not committed by `until` comes
    /// again from the gateways.
    pub async fn stop(self, until: Instant) {
        let _ = self.stop_by.set(until);
        self.ingest_stop.cancel();
        if self.engine.await.is_err() {
            tracing::debug!("the engine had ended before");
        }
        self.stop.cancel();
        self.serving.stopped(until).await;
        // They may be waiting for an S3 that is away; what they were about to decide, the next start decides.
        self.champion.abort();
        self.follow.abort();
    }
}

/// Polars runs here and never on a worker of the runtime.
fn spawn(engine: Engine, failed: watch::Sender<Option<Arc<EngineError>>>) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    // Polars refuses to wait inside a current-thread runtime, so the engine borrows this one's timers.
    let runtime = tokio::runtime::Handle::current();
    thread::Builder::new().name("engine".into()).spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(engine.run())))
            .unwrap_or_else(|panic| Err(EngineError::Panic(panics::text(&*panic))));
        if let Err(error) = outcome {
            tracing::error!(%error, "the engine stops; nothing is lost: gateways keep what is not committed");
            failed.send_replace(Some(Arc::new(error)));
        }
        // Whoever waited may have gone.
        let _ = ended.send(());
    })?;
    Ok(end)
}
