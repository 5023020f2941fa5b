//! Does the agent still do its work? Its stages count what they have done, and a pure core that is told the time judges
//! by that alone: a process that answers and does nothing is no use. The broker has no say: the agent is made to live
//! without it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Without progress for this long beyond its flush interval, an agent is stuck. A disk may take seconds for a sync.
pub const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What the stages have done, counted by themselves.
#[derive(Debug, Default)]
pub struct Beats {
    cut: AtomicU64,
    flush_ms: AtomicU64,
    taken: AtomicU64,
    turns: AtomicU64,
    retrying: AtomicBool,
}

impl Beats {
    /// A batch was handed on, and the next one follows within `flush`.
    pub fn cut(&self, flush: Duration) {
        self.flush_ms.store(flush.as_millis() as u64, Relaxed);
        self.cut.fetch_add(1, Relaxed);
    }

    /// The writer has been through its work, in which it has taken `batches` so far. `retrying`: the disk fails, which it
    /// knows and goes on with.
    pub fn written(&self, batches: u64, retrying: bool) {
        self.taken.store(batches, Relaxed);
        self.retrying.store(retrying, Relaxed);
        self.turns.fetch_add(1, Relaxed);
    }

    pub fn now(&self) -> Beat {
        Beat {
            cut: self.cut.load(Relaxed),
            flush: Duration::from_millis(self.flush_ms.load(Relaxed)),
            taken: self.taken.load(Relaxed),
            turns: self.turns.load(Relaxed),
            retrying: self.retrying.load(Relaxed),
        }
    }
}

/// How far the stages are at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beat {
    /// Batches handed on by sampling.
    pub cut: u64,
    pub flush: Duration,
    /// Of those, by the writer.
    pub taken: u64,
    /// Times that the writer has been through its work.
    pub turns: u64,
    pub retrying: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    #[error("the spool's writer is stuck")]
    Writer,
    #[error("sampling is stuck")]
    Sampler,
}

#[derive(Debug)]
pub struct Watchdog {
    stuck_after: Duration,
    last: Beat,
    /// When sampling, and the writer, were last known to be all right.
    cut_at: Duration,
    written_at: Duration,
}

impl Watchdog {
    pub fn new(stuck_after: Duration, now: Duration) -> Self {
        Watchdog { stuck_after, last: Beat::default(), cut_at: now, written_at: now }
    }

    /// An error: there has been no progress for too long.
    pub fn check(&mut self, beat: Beat, now: Duration) -> Result<(), Stuck> {
        // While the disk fails nothing can be cut, since nothing that was sampled is thrown away.
        if beat.cut != self.last.cut || beat.retrying {
            self.cut_at = now;
        }
        let owes_nothing = beat.taken >= beat.cut && !beat.retrying;
        if beat.turns != self.last.turns || owes_nothing {
            self.written_at = now;
        }
        self.last = beat;
        let late = |since: Duration| now.saturating_sub(since) > self.stuck_after + beat.flush;
        // The writer first: sampling waits for it.
        match (late(self.written_at), late(self.cut_at)) {
            (true, _) => Err(Stuck::Writer),
            (_, true) => Err(Stuck::Sampler),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// The writer takes each batch in a turn of its own.
    fn beat(cut: u64, taken: u64, retrying: bool) -> Beat {
        Beat { cut, flush: S, taken, turns: taken, retrying }
    }

    #[test]
    fn both_stages_must_go_on() {
        let mut watchdog = Watchdog::new(10 * S, Duration::ZERO);
        for t in 1..=100 {
            assert_eq!(watchdog.check(beat(t, t, false), t as u32 * S), Ok(()));
        }
        assert_eq!(watchdog.check(beat(100, 100, false), 111 * S), Ok(()));
        assert_eq!(watchdog.check(beat(100, 100, false), 112 * S), Err(Stuck::Sampler), "nothing is cut");
        assert_eq!(watchdog.check(beat(101, 101, false), 113 * S), Ok(()), "it goes on");
        assert_eq!(watchdog.check(beat(109, 101, false), 114 * S), Ok(()));
        assert_eq!(watchdog.check(beat(109, 101, false), 126 * S), Err(Stuck::Writer), "which sampling waits for");
        assert_eq!(watchdog.check(beat(109, 102, false), 127 * S), Err(Stuck::Sampler), "has to catch up, too");
        assert_eq!(watchdog.check(beat(110, 102, false), 128 * S), Ok(()));
    }

    #[test]
    fn a_disk_that_fails_is_no_reason_and_one_that_hangs_is() {
        let mut watchdog = Watchdog::new(10 * S, Duration::ZERO);
        let retrying = |turns| Beat { turns, ..beat(9, 1, true) };
        for t in 1..=100 {
            assert_eq!(watchdog.check(retrying(t), t as u32 * S), Ok(()), "tried again and again");
        }
        assert_eq!(watchdog.check(retrying(100), 112 * S), Err(Stuck::Writer));
    }

    #[test]
    fn a_long_flush_interval_is_not_taken_for_a_standstill() {
        let mut watchdog = Watchdog::new(10 * S, Duration::ZERO);
        let hourly = Beat { flush: 3_600 * S, ..beat(1, 1, false) };
        assert_eq!(watchdog.check(hourly, S), Ok(()));
        assert_eq!(watchdog.check(hourly, 3_600 * S), Ok(()));
        assert_eq!(watchdog.check(hourly, 3_612 * S), Err(Stuck::Sampler));
    }
}
