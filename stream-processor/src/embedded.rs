//! The whole factory in one process, over the real protocols on loopback: an MQTT broker, an S3 endpoint, simulated
//! gateways with the real agent, the processor and the trainer. Nothing here knows a shortcut: history, too, goes from
//! sensor to archive as any reading does, only faster.
//!
//! ```text
//! history ──(archive holds it)──> training ──(champion)──> live ──(accuracy falls)──> retraining ──> live ...
//! ```
//!
//! A stop at any point is resumed there by the next start: agents by their spools, the processor by its snapshot, and
//! the phase and plant time by [`state::State`].

pub mod broker;
pub mod s3;
pub mod state;
mod files;
pub mod gateways;
pub mod report;
pub mod truth;
mod life;
mod retraining;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use edge_agent::agent::AgentHandle;
use model::{
    config::DEFAULT_NAME,
    retrain::RetrainSettings,
    store::{S3Config, Store},
    train::TrainSettings,
};
use proto::{
    archive::Shard,
    asset::{AssetId, InvalidAssetId},
    broker::Broker as BrokerAddress,
    time::{PlantClock, PlantTime, wall_now_ms},
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    alert::AlertConfig,
    archive::ArchiveConfig,
    config::ProcessorConfig,
    processor::{Processor, ProcessorError, STOP_MAX},
    serve::{InvalidServe, ServeConfig, board::Board},
    telemetry::Exporter,
};
use broker::{Broker, BrokerError, Login};
use gateways::{Gateways, Plant};
use life::Life;
use s3::{Keys, S3Server, S3ServerError, room};
use state::{Phase, State, StateError};

pub const BUCKET: &str = "millwright";
const DAY_MS: i64 = 86_400_000;
/// Only for models that somebody promotes by hand: the factory's own are announced.
const REFRESH: Duration = Duration::from_secs(5);
/// Of a stop's time, so much is kept for the processor and its last commit.
const PROCESSOR_STOP: Duration = Duration::from_secs(2);

/// What a user may change about the factory.
#[derive(Debug, Clone)]
pub struct FactoryConfig {
    pub data: PathBuf,
    pub mqtt: SocketAddr,
    pub s3: SocketAddr,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Plant seconds per wall second, once it is live.
    pub speed: f64,
    pub history_days: u32,
    /// So many days after going live the plant becomes another one; none: never. Counts at the very first start.
    pub change_after_days: Option<u32>,
    /// Retrains by itself when it should; otherwise that is left to others.
    pub retrains: bool,
    /// Holds the token that writes need; must be given if gRPC or HTTP is bound beyond loopback.
    pub token_file: Option<PathBuf>,
    /// What the archive may hold.
    pub data_bytes_max: u64,
    /// None: the one that the folder was made with, or the default.
    pub seed: Option<u64>,
    pub plant: Plant,
    pub archive: ArchiveConfig,
    pub training: TrainSettings,
    pub retrain: RetrainSettings,
}

impl Default for FactoryConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        FactoryConfig {
            data: "data".into(),
            mqtt: loopback(1883),
            s3: loopback(9000),
            grpc: loopback(50_051),
            http: loopback(8_080),
            speed: 3600.0,
            history_days: 42,
            change_after_days: None,
            retrains: true,
            token_file: None,
            data_bytes_max: room::BYTES_MAX,
            seed: None,
            plant: Plant::default(),
            archive: ArchiveConfig::default(),
            training: TrainSettings::default(),
            retrain: RetrainSettings::default(),
        }
    }
}

impl FactoryConfig {
    /// What can't work or is not safe; opens nothing.
    pub fn check(&self) -> Result<(), Unsafe> {
        for (flag, addr) in [("--mqtt", self.mqtt), ("--s3", self.s3)] {
            if !addr.ip().is_loopback() {
                return Err(Unsafe::Exposed { flag, addr });
            }
        }
        Ok(self.serve().check()?)
    }

    fn serve(&self) -> ServeConfig {
        ServeConfig { grpc: self.grpc, http: self.http, token_file: self.token_file.clone(), ..ServeConfig::default() }
    }
}

/// Settings that would open more than is protected.
#[derive(Debug, thiserror::Error)]
pub enum Unsafe {
    #[error(
        "{flag} {addr}: the embedded broker and S3 endpoint speak in the clear and to whoever asks, so they stay on \
         loopback (127.0.0.1); for gateways elsewhere, run a broker of your own and `stream-processor run`"
    )]
    Exposed { flag: &'static str, addr: SocketAddr },
    #[error(transparent)]
    Serve(#[from] InvalidServe),
}

/// Where everything listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub mqtt: SocketAddr,
    pub s3: SocketAddr,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

/// How far the factory is; for whoever shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub phase: Phase,
    /// Of the phase, 0..=1.
    pub done: f64,
    pub detail: String,
    /// Why it can't go on.
    pub failed: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    S3(#[from] S3ServerError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    #[error(transparent)]
    Name(#[from] InvalidAssetId),
    #[error("{0}")]
    Random(String),
    #[error("the files beside the factory's state can't be written: {0}")]
    Files(#[from] io::Error),
    #[error("a task of the factory ended badly: {0}")]
    Task(#[from] JoinError),
}

/// A running factory.
pub struct Factory {
    pub addresses: Addresses,
    pub board: Board,
    pub store: Store,
    pub exporter: Exporter,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    life: JoinHandle<Vec<AgentHandle>>,
    processor: Processor,
    s3: S3Server,
    broker: Broker,
}

impl Factory {
    /// Opens every address, then goes on in the background; see [`Factory::status`].
    pub async fn start(config: FactoryConfig) -> Result<Self, FactoryError> {
        let state = match State::load(&config.data)? {
            Some(state) => {
                state.check_seed(&config.data, config.seed)?;
                state
            }
            None => first_state(&config)?,
        };
        let keys = Keys { access: "millwright".into(), secret: state.secret.clone() };
        let s3 = S3Server::bounded(&config.data, config.s3, BUCKET, &keys, config.data_bytes_max).await?;
        state.save(&config.data)?;
        files::write_model_config(&config.data, s3.addr, &keys)?;
        let login = Login { name: "processor".into(), password: secret()? };
        let password_file = files::write_mqtt_password(&config.data, &login.password)?;
        let broker = Broker::start(config.mqtt, login.clone()).await?;
        let exporter = Exporter::install().map_err(ProcessorError::from)?;
        // Plant time stands still until the gateways are where it is.
        let (clock, plant_clock) = watch::channel(held_at(state.resume_at()));
        let bucket = S3Config::with_keys(&format!("http://{}", s3.addr), BUCKET, &keys.access, &keys.secret);
        let site = AssetId::new("mill")?;
        let settings = ProcessorConfig {
            site: site.clone(),
            owner: "factory".into(),
            shard: Shard::FIRST,
            slots: None,
            take_over: false,
            mqtt: BrokerAddress {
                host: broker.addr.ip().to_string(),
                port: broker.addr.port(),
                tls: None,
                login: Some((login.name, password_file)),
            },
            s3: bucket,
            serve: config.serve(),
            archive: ArchiveConfig { staging: config.data.join("staging"), ..config.archive.clone() },
            features: Default::default(),
            alerts: AlertConfig::default(),
            model: AssetId::new(DEFAULT_NAME)?,
            refresh: REFRESH,
            trigger: config.retrain.trigger,
            clock: Default::default(),
            traces: Default::default(),
        };
        let features = settings.features.clone();
        let model_name = settings.model.clone();
        let processor = Processor::start(settings, plant_clock.clone(), &exporter).await?;
        let (grpc, http) = processor.addresses();
        let addresses = Addresses { mqtt: broker.addr, s3: s3.addr, grpc, http };
        let stop = CancellationToken::new();
        let gateways = Gateways {
            site,
            broker: broker.addr,
            data: config.data.join("gateways"),
            plant: config.plant.clone().changing(state.change_at),
            seed: state.seed,
            start: state.history_start,
        };
        let (report, status) =
            watch::channel(Status { phase: state.phase, done: 0.0, detail: "starting".into(), failed: None });
        let life = Life {
            data: config.data.clone(),
            state,
            speed: config.speed,
            clock,
            gateways,
            store: processor.store().clone(),
            champion: processor.champion(),
            model_name,
            features,
            training: config.training.clone(),
            retrain: config.retrains.then_some(config.retrain),
            board: processor.board().clone(),
            report: Arc::new(report),
        };
        let (board, store) = (processor.board().clone(), processor.store().clone());
        let life = tokio::spawn(life.run(stop.clone()));
        Ok(Factory { addresses, board, store, exporter, status, stop, life, processor, s3, broker })
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends when it can't go on by itself: the processor gave up, perhaps because another one took over, or a gateway
    /// or the training failed.
    pub async fn failed(&self) -> String {
        let mut status = self.status();
        tokio::select! {
            reason = self.processor.failed() => reason.to_string(),
            status = status.wait_for(|s| s.failed.is_some()) => match status {
                Ok(status) => status.failed.clone().unwrap_or_default(),
                Err(_) => "the task that leads the factory panicked".into(),
            },
        }
    }

    /// Gateways first, so that what they hold drains through; then the processor, then what it stood on. All of it
    /// within [`STOP_MAX`].
    pub async fn stop(self) -> Result<(), FactoryError> {
        let until = Instant::now() + STOP_MAX;
        self.stop.cancel();
        // After a panic there are no gateways any more, and all else is stopped as ever.
        let led = match self.life.await {
            Ok(agents) => {
                gateways::stop(agents, until - PROCESSOR_STOP).await;
                Ok(())
            }
            Err(e) => Err(e),
        };
        self.processor.stop(until).await;
        self.s3.stop().await;
        drop(self.broker);
        Ok(led?)
    }
}

fn first_state(config: &FactoryConfig) -> Result<State, FactoryError> {
    let start = config.plant.start;
    let live = start.plus_millis(i64::from(config.history_days) * DAY_MS);
    let mut state = State::new(config.seed.unwrap_or(config.plant.seed), start, live, secret()?);
    state.change_at = config.change_after_days.map(|days| live.plus_millis(i64::from(days) * DAY_MS));
    Ok(state)
}

/// 128 random bits as text.
fn secret() -> Result<String, FactoryError> {
    use rand::TryRngCore;
    let mut bytes = [0u8; 16];
    let filled = rand::rngs::OsRng.try_fill_bytes(&mut bytes);
    filled.map_err(|e| FactoryError::Random(format!("no random numbers: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Plant time that does not move.
fn held_at(plant_origin: PlantTime) -> PlantClock {
    PlantClock { wall_origin_ms: wall_now_ms(), plant_origin, speed: 0.0 }
}
