//! Polls the sources by the plant clock and seals batches: at every flush, an empty one too, and when one is full.

use std::time::{Duration, Instant};

use proto::{
    time::{PlantClock, PlantTime},
    wire::telemetry::{Birth, SealTime},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{AgentProgress, batch::BatchBuilder, writer::WriterRequest};
use crate::{
    config::BatchConfig,
    source::{Item, Source},
};

/// Items taken from a source at once: few enough that one poll never holds a runtime thread for long.
const POLL_ITEMS_MAX: usize = 256;
/// Wall time by which a live source may be behind before it counts as catching up.
const LIVE_LAG_MAX: Duration = Duration::from_secs(10);

pub struct Sampler {
    pub sources: Vec<Box<dyn Source>>,
    pub builder: BatchBuilder,
    /// For the first batch.
    pub birth: Option<Birth>,
    pub boot: u64,
    pub started: Instant,
    pub batch: BatchConfig,
    /// With more than this in the spool, a source that is catching up waits; a live one never does.
    pub backlog_bytes_max: u64,
    pub clock: watch::Receiver<PlantClock>,
    pub progress: watch::Receiver<AgentProgress>,
    pub requests: mpsc::Sender<WriterRequest>,
}

/// What there is to do after a poll.
enum Polled {
    /// More is due now.
    More,
    /// Nothing before the given wall time has passed.
    Idle(Duration),
    /// Something is due, but must wait until the spool has room.
    Held,
}

impl Sampler {
    pub async fn run(mut self, stop: CancellationToken) {
        let mut flush = interval(self.batch.flush);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut items = Vec::with_capacity(POLL_ITEMS_MAX);
        loop {
            let polled = self.poll(&mut items);
            if self.is_full() && !self.seal().await {
                return;
            }
            let wait = match polled {
                Polled::More => Duration::ZERO,
                Polled::Idle(wait) => wait,
                Polled::Held => self.batch.flush,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = flush.tick() => {
                    if !self.seal().await {
                        return;
                    }
                }
                () = tokio::task::yield_now(), if wait.is_zero() => {}
                () = changed(&mut self.clock) => {}
                () = changed(&mut self.progress), if matches!(polled, Polled::Held) => {}
                () = sleep(wait), if !wait.is_zero() => {}
            }
        }
        self.seal().await;
    }

    /// Polls the source that is furthest behind.
    fn poll(&mut self, items: &mut Vec<Item>) -> Polled {
        let clock = *self.clock.borrow_and_update();
        let now = clock.now();
        let full = self.progress.borrow_and_update().backlog_bytes > self.backlog_bytes_max;
        let wait = |due: PlantTime| wall(due.0.saturating_sub(now.0), &clock, self.batch.flush);
        let catching_up = |due: PlantTime| wall(now.0.saturating_sub(due.0), &clock, Duration::MAX) > LIVE_LAG_MAX;
        let ready = |(due, _): &(PlantTime, usize)| *due <= now && !(full && catching_up(*due));
        let known = || self.sources.iter().enumerate().filter_map(|(at, s)| Some((s.next_due()?, at)));
        let Some((_, at)) = known().filter(ready).min() else {
            return match known().map(|(due, _)| due).min() {
                Some(due) if due <= now => Polled::Held,
                Some(due) => Polled::Idle(wait(due)),
                None => Polled::Idle(self.batch.flush),
            };
        };
        match self.sources[at].poll(now, POLL_ITEMS_MAX, items) {
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a source failed and is not read any more");
                self.sources.remove(at);
            }
        }
        for item in items.drain(..) {
            if let Err(error) = self.builder.push(item) {
                tracing::error!(%error, "a reading was not taken");
            }
        }
        Polled::More
    }

    /// Full batches are cut where everything up to the seal time is inside, if such a point comes soon:
    /// after a restart a source goes on exactly there.
    fn is_full(&self) -> bool {
        let bytes = self.builder.bytes();
        bytes >= 2 * self.batch.bytes_max
            || (bytes >= self.batch.bytes_max && self.builder.newest() <= self.sealed_up_to())
    }

    /// Nothing at or before this is still to come: a source that knows its next item has no other before it, and one
    /// that has ended holds nothing back.
    fn sealed_up_to(&self) -> PlantTime {
        let now = self.clock.borrow().now();
        let complete = self.sources.iter().filter_map(|s| Some(s.next_due()?.plus_millis(-1).max(s.progress())));
        complete.min().map_or(now, |p| p.min(now))
    }

    /// False when there is no one to take the batch any more.
    async fn seal(&mut self) -> bool {
        let sealed = SealTime {
            time_ms: self.sealed_up_to().millis(),
            boot_id: self.boot,
            monotonic_ms: self.started.elapsed().as_millis() as u64,
            trusted: true,
        };
        let (batch, readings) = self.builder.seal(sealed, self.birth.take());
        self.requests.send(WriterRequest::Append { batch: Box::new(batch), readings }).await.is_ok()
    }
}

/// Plant milliseconds as wall time; a clock that stands still takes for ever, which is `most`.
fn wall(plant_ms: i64, clock: &PlantClock, most: Duration) -> Duration {
    let seconds = plant_ms.max(0) as f64 / clock.speed / 1000.0;
    Duration::try_from_secs_f64(seconds).unwrap_or(most).min(most)
}

/// Pends for ever when the sender is gone: the last value stays.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}
