//! One agent: samples its sources by the plant clock, seals batches, and wires them through the spool to the broker.
//!
//! ```text
//! sampler (task) ──batches──> writer (thread: append, sync) ──log──> publisher (task) ──MQTT──>
//!    ^                          │    ^                                        │
//!    └──────── room? ───────────┘    └───────── committed, damaged ───────────┘
//! ```

use std::{io, path::PathBuf, sync::Arc};

use proto::{clock::ClockConfig, position::Epoch, time::PlantTime, wire::telemetry::Birth};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub mod batch;
pub mod clock;
pub mod cutter;
pub mod identity;
pub mod progress;
pub mod sampler;
pub mod trace;
pub mod watchdog;
pub mod writer;

use crate::{
    config::AgentConfig,
    publish::{
        Publisher, Settings,
        certificates::Certificates,
        mqtt::{Endpoint, MqttError, Tls},
    },
    source::{Source, SourceError},
    spool::{
        Recovered, Spool, SpoolError,
        absent::Absent,
        disk::{Disk, Folder},
    },
    telemetry::Metrics,
};
use batch::{BatchBuilder, BatchError};
use clock::{AgentClock, keeper::clocks, kept::KeptTime};
use cutter::{CutError, Cutter};
use identity::Identity;
pub use progress::{AgentProgress, Medium};
use sampler::{OpenSources, Replacement, Sampler};
use trace::TraceSampler;
use watchdog::Beats;
use writer::{Writer, WriterRequest};

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
    #[error(transparent)]
    NotOpened(#[from] SourceError),
    #[error("`{0}` can't be changed without a restart")]
    Fixed(&'static str),
    #[error("{0} ended by itself")]
    Ended(&'static str),
}

/// An agent with its spool recovered, not running yet.
pub struct Agent {
    config: AgentConfig,
    disk: Arc<dyn Disk>,
    identity: Identity,
    kept_time: KeptTime,
    spool: Spool,
    recovered: Recovered,
}

impl Agent {
    /// Recovers the spool; reads the disk before it returns. Without a folder that can be used it goes on in memory.
    ///
    /// # Errors
    /// Another agent has the folder.
    pub fn open(config: AgentConfig) -> Result<Agent, AgentError> {
        let folder = |source| AgentError::Folder { folder: config.data.clone(), source };
        let epoch = Epoch(identity::random_bytes().map_err(folder)?);
        let (spool, recovered) = match open_spool(&config, epoch) {
            Err(AgentError::Folder { folder, source }) if source.kind() == io::ErrorKind::ResourceBusy => {
                return Err(AgentError::Folder { folder, source });
            }
            Err(error) => {
                tracing::error!(%error, "the agent begins without its disk; readings are kept in memory only");
                let absent = Absent::new(config.data.clone(), config.spool.clone());
                Spool::open(Arc::new(absent), config.spool.clone(), epoch)?
            }
            Ok(opened) => opened,
        };
        let disk = spool.disk();
        let identity = Identity::load(&*disk).map_err(folder)?;
        let kept_time = KeptTime::load(&*disk);
        let Recovered { frames, lost, damaged_bytes, unreadable } = recovered;
        match lost {
            0 => tracing::info!(agent = %config.agent, frames, damaged_bytes, "spool recovered"),
            _ => {
                tracing::error!(agent = %config.agent, frames, lost, damaged_bytes, unreadable, "spool recovered, batches are lost")
            }
        }
        Ok(Agent { config, disk, identity, kept_time, spool, recovered })
    }

    /// What opening found on the disk.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Plant time up to which readings are durable from earlier starts: sources that can, go on behind it. It may be in
    /// the future, if the time was wrong once.
    pub fn resume_after(&self) -> Option<PlantTime> {
        self.spool.sealed().max(self.kept_time.resume_after)
    }

    /// Plant time as the configuration asks for, going on since the first start, by the gateway's own clocks; and the
    /// plant time of that first start.
    pub fn resume_clock(&self, config: &ClockConfig) -> Result<(AgentClock, PlantTime), AgentError> {
        let folder = |source| AgentError::Folder { folder: self.config.data.clone(), source };
        let (boot, sealed) = (self.identity.boot, self.spool.sealed());
        AgentClock::resume(self.disk.clone(), config, boot.id, self.kept_time, sealed, clocks(boot)).map_err(folder)
    }

    /// Samples and publishes on the current tokio runtime until it is stopped. Plant time is what `clock` says at the
    /// moment: the owner of one that is given may hold it (speed 0) and let it run on.
    pub fn start(
        self,
        mut sources: Vec<Box<dyn Source>>,
        clock: impl Into<AgentClock>,
    ) -> Result<AgentHandle, AgentError> {
        let clock = clock.into();
        let resume_after = self.resume_after();
        let Agent { config, identity, spool, .. } = self;
        let machines: Vec<_> = sources.iter().flat_map(|s| s.machines()).collect();
        let builder = BatchBuilder::new(&machines)?;
        tell_skipped(&sources, resume_after);
        let birth = Birth {
            install_id: identity.install.clone(),
            boot_id: identity.boot.id,
            machines,
            version: env!("CARGO_PKG_VERSION").into(),
            epochs: Vec::new(),
        };
        let endpoint = Endpoint::new(&config, &identity);
        let (metrics, stop) = (Metrics::new(&config.agent), CancellationToken::new());
        let mut tasks = JoinSet::new();
        sources.iter_mut().for_each(|source| source.start(clock.plant(), &metrics));
        let (log, reader) = (spool.log(), spool.reader());
        let [jitter @ .., _, _, _, _, _, _, _, _] = spool.next().0.epoch.0;
        let (batches, batches_inbox) = mpsc::channel(BATCHES_QUEUED_MAX);
        let (requests, requests_inbox) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let (replace, replacements) = mpsc::channel(1);
        let (settings, follow) = watch::channel(Settings { birth: birth.clone(), window: config.window.clone() });
        let tls = self::tls(&config, &metrics, &follow, &stop, &mut tasks)?;
        let cutter = Cutter::new(sources, builder, config.batch.bytes_max, birth.clone(), spool.sealed());
        let (writer, progress) = Writer::new(spool, metrics.clone(), stop.clone());
        let beats = writer.beats();
        let publisher = Publisher {
            endpoint,
            tls,
            patience: config.mqtt.patience.clone(),
            settings: follow,
            log,
            reader,
            requests: requests.clone(),
            progress: progress.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            jitter_seed: u64::from_le_bytes(jitter),
        };
        let sampler = Sampler {
            cutter,
            boot: identity.boot,
            flush: config.batch.flush,
            traces: TraceSampler::one_in(config.batch.trace_every),
            replacements,
            beats: beats.clone(),
            backlog_bytes_max: config.spool.bytes_max / HISTORY_SPOOL_DIVISOR,
            look: clock.look(),
            clock: clock.clone(),
            progress: progress.clone(),
            batches,
            metrics: metrics.clone(),
        };
        writer.spawn(&config.agent, batches_inbox, requests_inbox).map_err(AgentError::Thread)?;
        tasks.spawn(sampler.run(stop.clone()));
        match clock.keeper().cloned() {
            Some(keeper) => {
                let (metrics, stop) = (metrics.clone(), stop.clone());
                tasks.spawn(async {
                    keeper.run(metrics, stop).await;
                    Ok(())
                });
            }
            None => metrics.clock_trusted.record(1, &metrics.agent),
        }
        tasks.spawn(async {
            publisher.run().await;
            Ok(())
        });
        let control = Control { config, replace, settings, requests };
        Ok(AgentHandle { progress, beats, metrics, control, stop, tasks })
    }
}

fn open_spool(config: &AgentConfig, epoch: Epoch) -> Result<(Spool, Recovered), AgentError> {
    let folder = |source| AgentError::Folder { folder: config.data.clone(), source };
    let disk = Arc::new(Folder::open(&config.data).map_err(folder)?);
    Ok(Spool::open(disk, config.spool.clone(), epoch)?)
}

/// Connections are made with what the certificate files hold at the moment.
fn tls(
    config: &AgentConfig,
    metrics: &Metrics,
    settings: &watch::Receiver<Settings>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<Result<(), AgentError>>,
) -> Result<watch::Receiver<Tls>, AgentError> {
    let Some(files) = &config.mqtt.tls else {
        return Ok(watch::channel(None).1);
    };
    let (certificates, tls) = Certificates::load(files.clone(), metrics.clone())?;
    let (every, settings, stop) = (config.mqtt.patience.certificates_every, settings.clone(), stop.clone());
    tasks.spawn(async move {
        certificates.watch(every, settings, stop).await;
        Ok(())
    });
    Ok(tls)
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
    beats: Arc<Beats>,
    metrics: Metrics,
    control: Control,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), AgentError>>,
}

/// The way to change a running agent.
struct Control {
    config: AgentConfig,
    replace: mpsc::Sender<Replacement>,
    settings: watch::Sender<Settings>,
    requests: mpsc::Sender<WriterRequest>,
}

impl Control {
    async fn reload(&mut self, config: AgentConfig, sources: OpenSources) -> Result<(), AgentError> {
        if let Some(key) = self.config.needs_restart(&config) {
            return Err(AgentError::Fixed(key));
        }
        let (done, replaced) = oneshot::channel();
        let replacement = Replacement {
            sources,
            batch: config.batch.clone(),
            backlog_bytes_max: config.spool.bytes_max / HISTORY_SPOOL_DIVISOR,
            birth: self.settings.borrow().birth.clone(),
            done,
        };
        let ended = || AgentError::Ended("sampling");
        self.replace.send(replacement).await.map_err(|_| ended())?;
        let birth = replaced.await.map_err(|_| ended())??;
        self.settings.send_replace(Settings { birth, window: config.window.clone() });
        let bounds = WriterRequest::Reconfigure(config.spool.clone());
        self.requests.send(bounds).await.map_err(|_| AgentError::Ended("the spool's writer"))?;
        self.config = config;
        Ok(())
    }
}

impl AgentHandle {
    pub fn progress(&self) -> watch::Receiver<AgentProgress> {
        self.progress.clone()
    }

    /// What shows that its stages go on.
    pub fn beats(&self) -> Arc<Beats> {
        self.beats.clone()
    }

    /// Reads `sources` and keeps to the limits of `config` from the next batch on; spool and connection stay as they are.
    /// After an error, which says what is wrong, everything goes on as before.
    pub async fn reload(&mut self, config: AgentConfig, sources: OpenSources) -> Result<(), AgentError> {
        self.control.reload(config, sources).await
    }

    /// Counts a reload, also one that got no further than a file with mistakes.
    pub fn count_reload(&self, succeeded: bool) {
        let outcome = if succeeded { "ok" } else { "failed" };
        self.metrics.reloads.add(1, &self.metrics.with("outcome", outcome));
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
