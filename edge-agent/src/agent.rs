//! One agent: samples its sources by the plant clock, seals batches, and wires them through the spool to the broker.
//!
//! ```text
//! sampler (task) ──batches──> writer (thread: seal, append, sync) ──log──> publisher (task) ──MQTT──>
//!    ^                          │    ^                                        │
//!    └──────── room? ───────────┘    └───────── committed, damaged ───────────┘
//! ```

use std::{io, path::PathBuf, sync::Arc, time::Instant};

use proto::{
    position::{Epoch, Position},
    time::{PlantClock, PlantTime},
    wire::telemetry::Birth,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub mod batch;
pub mod identity;
pub mod sampler;
pub mod writer;

use crate::{
    config::AgentConfig,
    publish::{
        Publisher,
        mqtt::{Endpoint, MqttError},
    },
    source::Source,
    spool::{Recovered, Spool, SpoolError, disk::Folder},
    telemetry::Metrics,
};
use batch::{BatchBuilder, BatchError};
use identity::Identity;
use sampler::Sampler;
use writer::{Writer, WriterRequest};

/// Batches between sampler and writer.
const BATCHES_QUEUED_MAX: usize = 8;
/// The part of the spool that history may fill; the rest is left to live sources.
const HISTORY_SHARE: u64 = 2;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{}: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    #[error(transparent)]
    Sources(#[from] BatchError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// How far an agent is. All of it is durable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AgentProgress {
    /// Seal time of the newest durable batch; `PlantTime::MIN` before the very first.
    pub plant_time: PlantTime,
    /// Since this start.
    pub readings_sealed: u64,
    /// Since this start.
    pub batches: u64,
    pub durable: Option<Position>,
    pub committed: Option<Position>,
    /// Bytes of frames in the spool that are not committed.
    pub backlog_bytes: u64,
}

/// An agent with its spool recovered, not running yet.
pub struct Agent {
    config: AgentConfig,
    identity: Identity,
    spool: Spool<Folder>,
    recovered: Recovered,
}

impl Agent {
    /// Recovers the spool; reads the disk before it returns.
    pub fn open(config: AgentConfig) -> Result<Agent, AgentError> {
        let folder = |source| AgentError::Folder { folder: config.data.clone(), source };
        let disk = Arc::new(Folder::open(&config.data).map_err(folder)?);
        let identity = Identity::load(&*disk).map_err(folder)?;
        let epoch = Epoch(identity::random_bytes().map_err(folder)?);
        let (spool, recovered) = Spool::open(disk, config.spool.clone(), epoch)?;
        tracing::info!(
            agent = %config.agent,
            frames = recovered.frames,
            lost = recovered.lost,
            damaged_bytes = recovered.damaged_bytes,
            "spool recovered"
        );
        Ok(Agent { config, identity, spool, recovered })
    }

    /// What opening found on the disk.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Plant time up to which readings are durable from earlier starts: sources go on behind it.
    pub fn resume_after(&self) -> Option<PlantTime> {
        self.spool.sealed()
    }

    /// Samples and publishes on the current tokio runtime until it is stopped. Plant time is what `clock` says at the
    /// moment: its owner may hold it (speed 0) and let it run on.
    pub fn start(
        self,
        sources: Vec<Box<dyn Source>>,
        clock: watch::Receiver<PlantClock>,
    ) -> Result<AgentHandle, AgentError> {
        let Agent { config, identity, spool, .. } = self;
        let machines: Vec<_> = sources.iter().flat_map(|s| s.machines()).collect();
        let builder = BatchBuilder::new(&machines)?;
        let birth = Birth {
            install_id: identity.install.clone(),
            boot_id: identity.boot,
            machines,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let endpoint = Endpoint::new(&config, &identity)?;
        let (metrics, stop) = (Metrics::new(&config.agent), CancellationToken::new());
        let (log, reader) = (spool.log(), spool.reader());
        let [jitter @ .., _, _, _, _, _, _, _, _] = spool.next().0.epoch.0;
        let (requests, inbox) = mpsc::channel::<WriterRequest>(BATCHES_QUEUED_MAX);
        let (writer, progress) = Writer::new(spool, metrics.clone(), stop.clone());
        let publisher = Publisher {
            endpoint,
            birth: birth.clone(),
            log,
            reader,
            window: config.window.clone(),
            requests: requests.downgrade(),
            progress: progress.clone(),
            metrics,
            jitter_seed: u64::from_le_bytes(jitter),
        };
        let sampler = Sampler {
            sources,
            builder,
            birth: Some(birth),
            boot: identity.boot,
            started: Instant::now(),
            batch: config.batch.clone(),
            backlog_bytes_max: config.spool.bytes_max / HISTORY_SHARE,
            clock,
            progress: progress.clone(),
            requests,
        };
        writer.spawn(&config.agent, inbox).map_err(AgentError::Thread)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(sampler.run(stop.clone()));
        tasks.spawn(publisher.run());
        Ok(AgentHandle { progress, stop, tasks })
    }
}

/// A running agent. Dropping it ends it at once, as a crash would: nothing that is durable is lost.
pub struct AgentHandle {
    progress: watch::Receiver<AgentProgress>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl AgentHandle {
    pub fn progress(&self) -> watch::Receiver<AgentProgress> {
        self.progress.clone()
    }

    /// Makes durable what was sampled, sends what the window lets out for a moment, and says goodbye to the broker.
    /// Stages stop source first: each ends when the one before it has closed its queue.
    pub async fn stop(mut self) -> AgentProgress {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        *self.progress.borrow()
    }
}

#[cfg(test)]
mod tests;
