//! One agent: samples its sources by the plant clock, seals batches, and wires them through the spool to the broker.
//!
//! ```text
//! sampler (task) ──batches──> writer (thread: append, sync) ──log──> publisher (task) ──MQTT──>
//!    ^                          │    ^                                        │
//!    └──────── room? ───────────┘    └───────── committed, damaged ───────────┘
//! ```

use std::{io, path::PathBuf, sync::Arc};

use proto::{
    clock::{ClockConfig, KeptClock},
    position::{Epoch, Position},
    time::{PlantClock, PlantTime, wall_now_ms},
    wire::telemetry::Birth,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub mod batch;
pub mod clock;
pub mod cutter;
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
use cutter::{CutError, Cutter};
use identity::Identity;
use sampler::Sampler;
use writer::Writer;

/// Batches between sampler and writer.
const BATCHES_QUEUED_MAX: usize = 8;
/// Frees and mends between publisher and writer.
const REQUESTS_QUEUED_MAX: usize = 16;
/// History may fill one part in this many of the spool; the rest is left to live sources.
const HISTORY_SPOOL_DIVISOR: u64 = 2;

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
    #[error("a source failed: {0}")]
    Source(#[from] CutError),
    #[error("{0} ended by itself")]
    Ended(&'static str),
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
    disk: Arc<Folder>,
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
        let (spool, recovered) = Spool::open(disk.clone(), config.spool.clone(), epoch)?;
        let Recovered { frames, lost, damaged_bytes } = recovered;
        match lost {
            0 => tracing::info!(agent = %config.agent, frames, damaged_bytes, "spool recovered"),
            _ => {
                tracing::error!(agent = %config.agent, frames, lost, damaged_bytes, "spool recovered, batches are lost")
            }
        }
        Ok(Agent { config, disk, identity, spool, recovered })
    }

    /// What opening found on the disk.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Plant time up to which readings are durable from earlier starts: sources go on behind it.
    pub fn resume_after(&self) -> Option<PlantTime> {
        self.spool.sealed()
    }

    /// The plant clock that the configuration asks for, as it went on since the first start.
    pub fn resume_clock(&self, config: &ClockConfig) -> Result<KeptClock, AgentError> {
        let folder = |source| AgentError::Folder { folder: self.config.data.clone(), source };
        clock::resume(&*self.disk, config, wall_now_ms()).map_err(folder)
    }

    /// Samples and publishes on the current tokio runtime until it is stopped. Plant time is what `clock` says at the
    /// moment: its owner may hold it (speed 0) and let it run on.
    pub fn start(
        self,
        mut sources: Vec<Box<dyn Source>>,
        clock: watch::Receiver<PlantClock>,
    ) -> Result<AgentHandle, AgentError> {
        let Agent { config, identity, spool, .. } = self;
        let machines: Vec<_> = sources.iter().flat_map(|s| s.machines()).collect();
        let builder = BatchBuilder::new(&machines)?;
        tell_skipped(&sources, spool.sealed());
        let birth = Birth {
            install_id: identity.install.clone(),
            boot_id: identity.boot.id,
            machines,
            version: env!("CARGO_PKG_VERSION").into(),
            epochs: Vec::new(),
        };
        let endpoint = Endpoint::new(&config, &identity)?;
        let (metrics, stop) = (Metrics::new(&config.agent), CancellationToken::new());
        sources.iter_mut().for_each(|source| source.start(clock.clone(), &metrics));
        let (log, reader) = (spool.log(), spool.reader());
        let [jitter @ .., _, _, _, _, _, _, _, _] = spool.next().0.epoch.0;
        let (batches, batches_inbox) = mpsc::channel(BATCHES_QUEUED_MAX);
        let (requests, requests_inbox) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let cutter = Cutter::new(sources, builder, config.batch.bytes_max, birth.clone(), spool.sealed());
        let (writer, progress) = Writer::new(spool, metrics.clone(), stop.clone());
        let publisher = Publisher {
            endpoint,
            birth,
            log,
            reader,
            window: config.window.clone(),
            requests,
            progress: progress.clone(),
            metrics: metrics.clone(),
            jitter_seed: u64::from_le_bytes(jitter),
        };
        let sampler = Sampler {
            cutter,
            boot: identity.boot,
            flush: config.batch.flush,
            backlog_bytes_max: config.spool.bytes_max / HISTORY_SPOOL_DIVISOR,
            clock,
            progress: progress.clone(),
            batches,
            metrics,
        };
        writer.spawn(&config.agent, batches_inbox, requests_inbox).map_err(AgentError::Thread)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(sampler.run(stop.clone()));
        tasks.spawn(async {
            publisher.run().await;
            Ok(())
        });
        Ok(AgentHandle { progress, stop, tasks })
    }
}

/// One point serves all sources, and nobody keeps what they gave: rows up to it are taken as read, be it that an earlier
/// start gave them or that an older file is new here. Only the user knows which.
fn tell_skipped(sources: &[Box<dyn Source>], resume_after: Option<PlantTime>) {
    let Some(resume_after) = resume_after else { return };
    for source in sources.iter().filter(|source| source.skipped() > 0) {
        let (skipped, next) = (source.skipped(), source.next_due().map_or("nothing".into(), |due| due.to_string()));
        tracing::info!(skipped, %resume_after, next, "rows up to the time that the spool is sealed up to are not replayed: an earlier start gave them, or the file is older than the spool");
    }
}

/// A running agent. Dropping it ends it at once, as a crash would: nothing that is durable is lost.
pub struct AgentHandle {
    progress: watch::Receiver<AgentProgress>,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), AgentError>>,
}

impl AgentHandle {
    pub fn progress(&self) -> watch::Receiver<AgentProgress> {
        self.progress.clone()
    }

    /// Pends while the agent runs, and says why it ended by itself. What its sources had read in full is durable then;
    /// a restart goes on from there.
    pub async fn ended(&mut self) -> AgentError {
        while let Some(task) = self.tasks.join_next().await {
            match task {
                // The publisher has nothing more to send: whoever caused that says so.
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return AgentError::Ended("a stage that panicked"),
            }
        }
        AgentError::Ended("every stage")
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
