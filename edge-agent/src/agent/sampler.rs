//! Drives the [`Cutter`] by the plant clock: polls, and hands batches on at every flush, an empty one too, and when one
//! is full.

use std::{sync::Arc, time::Duration};

use proto::{
    time::PlantTime,
    wire::telemetry::{Birth, SealTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    AgentError,
    batch::BatchBuilder,
    clock::{AgentClock, Look, trust::NEAR_MS},
    cutter::{Cutter, Polled},
    identity::Boot,
    progress::{AgentProgress, Medium, changed},
    trace::TraceSampler,
    watchdog::Beats,
    writer::SealedBatch,
};
use crate::{
    config::BatchConfig,
    source::{Source, SourceError},
    telemetry::Metrics,
};

/// Wall time by which a source may be behind before what it gives counts as history.
const LIVE_LAG_MAX: Duration = Duration::from_secs(10);

/// Polls for what was stamped before a break in the time. What is not read by then gets the new time.
const CLOSING_POLLS_MAX: usize = 64;

const WRITER_ENDED: AgentError = AgentError::Ended("the spool's writer");

/// Opens sources that go on behind a point in plant time. It may block.
pub type OpenSources = Box<dyn FnOnce(Option<PlantTime>) -> Result<Vec<Box<dyn Source>>, SourceError> + Send>;

/// Other sources in the place of all that there are, and how to cut them.
pub struct Replacement {
    pub sources: OpenSources,
    pub batch: BatchConfig,
    pub backlog_bytes_max: u64,
    /// With the machines of the sources still to be filled in.
    pub birth: Birth,
    /// What went into the log, or why everything stays as it was.
    pub done: oneshot::Sender<Result<Birth, AgentError>>,
}

pub struct Sampler {
    pub cutter: Cutter,
    pub boot: Boot,
    pub flush: Duration,
    pub traces: TraceSampler,
    pub replacements: mpsc::Receiver<Replacement>,
    pub beats: Arc<Beats>,
    /// With more than this in the spool, or while its disk fails, history waits; what is live never does.
    pub backlog_bytes_max: u64,
    pub clock: AgentClock,
    /// At the time since the last break in it: what was read under it is sealed under it.
    pub look: Look,
    pub progress: watch::Receiver<AgentProgress>,
    pub batches: mpsc::Sender<SealedBatch>,
    pub metrics: Metrics,
}

impl Sampler {
    /// Until it is stopped, or a source fails: then what is complete is sealed, and the rest is read after a restart.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), AgentError> {
        let mut flush = every(self.flush);
        let failure = loop {
            if let Err(error) = self.follow().await {
                break Some(error);
            }
            let wait = match self.poll() {
                Ok(wait) => wait,
                Err(error) => break Some(error),
            };
            while self.cutter_is_full() {
                self.cut().await?;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                () = self.batches.closed() => return Err(WRITER_ENDED),
                _ = flush.tick() => self.cut().await?,
                Some(replacement) = self.replacements.recv() => {
                    self.replace(replacement).await?;
                    flush = every(self.flush);
                }
                () = tokio::task::yield_now(), if wait == Wait::None => {}
                () = self.clock.changed() => {}
                () = changed(&mut self.progress), if wait == Wait::Room => {}
                () = pause(wait), if wait != Wait::None => {}
            }
        };
        self.cut_all().await?;
        failure.map_or(Ok(()), Err)
    }

    /// Everything that is complete.
    async fn cut_all(&mut self) -> Result<(), AgentError> {
        while self.cutter_is_full() {
            self.cut().await?;
        }
        self.cut().await
    }

    /// At the border of a batch. The old sources wait until the new ones are there, and go on if those can't be opened.
    async fn replace(&mut self, replacement: Replacement) -> Result<(), AgentError> {
        let Replacement { sources, batch, backlog_bytes_max, birth, done } = replacement;
        self.cut_all().await?;
        let sealed = self.cutter.sealed().max(self.clock.keeper().and_then(|keeper| keeper.resume_after()));
        let opened = spawn_blocking(move || {
            let sources = sources(sealed)?;
            let machines: Vec<_> = sources.iter().flat_map(|s| s.machines()).collect();
            let builder = BatchBuilder::new(&machines)?;
            Ok((sources, builder, Birth { machines, ..birth }))
        });
        let opened = opened.await.unwrap_or(Err(AgentError::Ended("opening the sources")));
        let outcome = opened.map(|(mut sources, builder, birth)| {
            sources.iter_mut().for_each(|source| source.start(self.clock.plant(), &self.metrics));
            let lost = self.cutter.replace(sources, builder, birth.clone());
            if lost > 0 {
                self.metrics.readings_not_taken.add(lost, &self.metrics.agent);
                tracing::error!(lost, "readings of machines that have changed or are gone were not taken");
            }
            self.cutter.set_bytes_max(batch.bytes_max);
            (self.flush, self.backlog_bytes_max) = (batch.flush, backlog_bytes_max);
            self.traces = TraceSampler::one_in(batch.trace_every);
            birth
        });
        let _ = done.send(outcome);
        Ok(())
    }

    /// After a break in the time, the old one goes on until what was read by it is sealed.
    fn now(&mut self) -> PlantTime {
        let look = self.clock.look();
        if look.era == self.look.era {
            self.look = look;
        }
        self.look.gone_on_to(&look)
    }

    /// Goes over to another time, if there is one. Seal times fall with a time that is known to be right; plant time of
    /// one's own (a replay) never falls.
    async fn follow(&mut self) -> Result<(), AgentError> {
        while self.clock.look().era != self.look.era {
            self.close().await?;
            self.look = self.clock.look();
        }
        let now = self.look.time;
        let fallen = self.cutter.sealed().filter(|sealed| self.look.trusted && *sealed > now.plus_millis(NEAR_MS));
        if let Some(sealed) = fallen
            && let Some(keeper) = self.clock.keeper().filter(|keeper| keeper.is_shared()).cloned()
        {
            tracing::warn!(%sealed, %now, "batches were sealed in the future; seal times fall back");
            if self.cutter.newest() > Some(now) {
                self.close().await?;
            }
            keeper.leave(self.cutter.sealed().unwrap_or(sealed)).await;
            self.cutter.fall_back(now);
        }
        Ok(())
    }

    /// Seals what was read by the time until now, beyond it, too: a small step back may have left something there.
    async fn close(&mut self) -> Result<(), AgentError> {
        let end = self.cutter.newest().map_or(self.now(), |newest| newest.max(self.now()));
        for _ in 0..CLOSING_POLLS_MAX {
            if self.cutter.poll(end, None)? != Polled::More {
                break;
            }
        }
        while self.cutter.is_full(end) {
            self.cut_at(end).await?;
        }
        self.cut_at(end).await
    }

    fn cutter_is_full(&mut self) -> bool {
        let now = self.now();
        self.cutter.is_full(now)
    }

    fn poll(&mut self) -> Result<Wait, AgentError> {
        let now = self.now();
        let live_lag_ms = (LIVE_LAG_MAX.as_millis() as f64 * self.clock.speed()) as i64;
        let AgentProgress { backlog_bytes, medium, .. } = *self.progress.borrow_and_update();
        let history = match medium {
            Medium::Disk if backlog_bytes <= self.backlog_bytes_max => None,
            Medium::Disk | Medium::Memory => Some(now.plus_millis(-live_lag_ms)),
            Medium::ScarceMemory => Some(now.plus_millis(1)),
        };
        let polled = self.cutter.poll(now, history)?;
        if let Some((count, error)) = self.cutter.refused() {
            self.metrics.readings_not_taken.add(count, &self.metrics.agent);
            tracing::error!(%error, count, "readings were not taken");
        }
        Ok(match polled {
            Polled::More => Wait::None,
            Polled::Idle(None) => Wait::For(self.flush),
            Polled::Idle(Some(due)) => Wait::For(wall(due.0.saturating_sub(now.0), self.clock.speed(), self.flush)),
            Polled::Held => Wait::Room,
        })
    }

    async fn cut(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        self.cut_at(now).await
    }

    async fn cut_at(&mut self, now: PlantTime) -> Result<(), AgentError> {
        let stamp = SealTime {
            time_ms: 0,
            boot_id: self.boot.id,
            monotonic_ms: self.boot.monotonic_ms(),
            trusted: self.look.trusted,
            offset_ms: self.look.offset_ms,
        };
        let (mut batch, readings) = self.cutter.cut(now, stamp);
        batch.trace = self.traces.next(readings);
        let batch = SealedBatch { batch: Box::new(batch), readings };
        self.batches.send(batch).await.map_err(|_| WRITER_ENDED)?;
        self.beats.cut(self.flush);
        Ok(())
    }
}

fn every(flush: Duration) -> Interval {
    let mut flush = interval_at(Instant::now() + flush, flush);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    flush
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wait {
    None,
    For(Duration),
    /// For progress of the spool.
    Room,
}

async fn pause(wait: Wait) {
    match wait {
        Wait::None => {}
        Wait::For(time) => sleep(time).await,
        Wait::Room => std::future::pending().await,
    }
}

/// Plant milliseconds as wall time; a clock that stands still takes for ever, which is `most`.
fn wall(plant_ms: i64, speed: f64, most: Duration) -> Duration {
    let seconds = plant_ms.max(0) as f64 / speed / 1000.0;
    Duration::try_from_secs_f64(seconds).unwrap_or(most).min(most)
}

#[cfg(test)]
mod tests;
