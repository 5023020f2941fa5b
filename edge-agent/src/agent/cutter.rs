//! Decides which source to read next, when to cut a batch, and which seal time it gets. Pure: it is told the time.
//!
//! ```text
//! sources ──items──> held, by instant ──whole instants up to the seal time──> batch
//! ```
//!
//! A batch holds everything up to its seal time that no batch before it held, and nothing newer: so the seal time of the
//! newest durable batch is the one point from which all sources go on after a restart, with nothing doubled or left
//! out. What is newer waits for the next batch. Seal times never fall with the clock, unless the caller knows better.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    time::PlantTime,
    wire::telemetry::{Birth, SealTime, TelemetryBatch},
};

use super::batch::{BATCH_BYTES_MAX, BatchBuilder, BatchError, INSTANT_BYTES_MAX};
use crate::source::{Item, Source, SourceError};

/// Items taken from a source at once: few enough that one poll never holds a runtime thread for long.
pub const POLL_ITEMS_MAX: usize = 256;
/// While history holds the seal time back, live items of this size may wait for it; the rest stays with their sources.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("what was read at {0} is more than a frame can carry")]
    Instant(PlantTime),
}

/// What there is to do after a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// More may be due now.
    More,
    /// Nothing before then; None: never, every source has ended.
    Idle(Option<PlantTime>),
    /// Something is due, but it is history, which waits until the spool has room.
    Held,
}

#[derive(Debug, Default)]
struct Instant {
    items: Vec<Item>,
    bytes: usize,
}

pub struct Cutter {
    sources: Vec<Box<dyn Source>>,
    builder: BatchBuilder,
    bytes_max: usize,
    /// For a batch of its own, before all others.
    birth: Option<Birth>,
    held: BTreeMap<PlantTime, Instant>,
    held_bytes: usize,
    /// Seal time of the newest batch.
    sealed: PlantTime,
    /// Where a source failed: nothing behind it is complete any more.
    failed: Option<PlantTime>,
    refused: Option<(u64, BatchError)>,
    items: Vec<Item>,
}

impl Cutter {
    /// `sealed`: seal time of the newest batch of an earlier start, behind which the sources go on.
    pub fn new(
        sources: Vec<Box<dyn Source>>,
        builder: BatchBuilder,
        bytes_max: usize,
        birth: Birth,
        sealed: Option<PlantTime>,
    ) -> Self {
        Cutter {
            sources,
            builder,
            bytes_max: bytes_max.min(BATCH_BYTES_MAX),
            birth: Some(birth),
            held: BTreeMap::new(),
            held_bytes: 0,
            sealed: sealed.unwrap_or(PlantTime::MIN),
            failed: None,
            refused: None,
            items: Vec::with_capacity(POLL_ITEMS_MAX),
        }
    }

    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.min(BATCH_BYTES_MAX);
    }

    /// Seal time of the newest batch; everything at or before it has been cut.
    pub fn sealed(&self) -> Option<PlantTime> {
        Some(self.sealed).filter(|sealed| *sealed > PlantTime::MIN)
    }

    /// Reads other sources from now on, which go on behind [`Cutter::sealed`], and begins with a batch for `birth`.
    /// What the old ones have given from behind it is given again by those that can. Of the others it is kept, unless
    /// their machine has changed; returns how many items were not.
    pub fn replace(&mut self, sources: Vec<Box<dyn Source>>, builder: BatchBuilder, birth: Birth) -> u64 {
        let (kept, again): (Vec<_>, Vec<_>) = self.sources.iter().partition(|source| source.is_live());
        let again: BTreeSet<_> = again.iter().flat_map(|source| source.machines()).map(|m| m.machine).collect();
        let kept = kept.iter().flat_map(|source| source.machines()).filter(|m| birth.machines.contains(m));
        let kept: BTreeSet<_> = kept.map(|m| m.machine).collect();
        (self.sources, self.builder, self.birth, self.held_bytes) = (sources, builder, Some(birth), 0);
        let held = std::mem::take(&mut self.held);
        let items = held.into_values().flat_map(|instant| instant.items).filter(|item| !again.contains(item.machine()));
        items.map(|item| u64::from(!kept.contains(item.machine()) || self.hold(item, true).is_err())).sum()
    }

    /// Reads a live source that is due, since nobody else keeps what it has. Otherwise the source that is furthest
    /// behind: it alone sets the pace, since there is one log with one seal time. If what it has is from before
    /// `history`, it waits, and with it all others but the live ones. After an error the batches end where the source did.
    pub fn poll(&mut self, now: PlantTime, history: Option<PlantTime>) -> Result<Polled, CutError> {
        let room = self.held_bytes < HELD_BYTES_MAX;
        let open = self.sources.iter().enumerate().filter(|(_, source)| room || !source.is_live());
        let dues = || open.clone().filter_map(|(at, source)| Some((source.next_due()?, at)));
        let live = dues().filter(|(due, at)| *due <= now && self.sources[*at].is_live()).min();
        let (due, at) = match live.or_else(|| dues().min()) {
            Some((due, at)) if due <= now => (due, at),
            later => return Ok(Polled::Idle(later.map(|(due, _)| due))),
        };
        if live.is_none() && history.is_some_and(|history| due < history) {
            return Ok(Polled::Held);
        }
        let mut items = std::mem::take(&mut self.items);
        let polled = self.sources[at].poll(now, POLL_ITEMS_MAX, &mut items);
        let live = self.sources[at].is_live();
        let held = items.drain(..).try_for_each(|item| self.hold(item, live));
        self.items = items;
        let failed = match (polled, held) {
            (Ok(_), Ok(())) => return Ok(Polled::More),
            (Err(error), _) => (self.sources.remove(at).progress(), error.into()),
            (Ok(_), Err(time)) => (time.plus_millis(-1), CutError::Instant(time)),
        };
        self.failed = Some(self.failed.map_or(failed.0, |before| before.min(failed.0)));
        Err(failed.1)
    }

    /// The instant is an error if there is no room for the item in it. A live one moves on to the next instant then:
    /// after a clock that was set back, many come at once, and a device must not be able to end its agent.
    fn hold(&mut self, mut item: Item, live: bool) -> Result<(), PlantTime> {
        let mut time = item.time();
        let bytes = match self.builder.measure(&item) {
            Ok(bytes) => bytes,
            Err(error) => {
                let before = self.refused.take().map_or(0, |(count, _)| count);
                self.refused = Some((before + 1, error));
                return Ok(());
            }
        };
        let full = |instant: &Instant| self.builder.heads_bytes() + instant.bytes + bytes > INSTANT_BYTES_MAX;
        while self.held.get(&time).is_some_and(full) {
            if !live {
                return Err(time);
            }
            time = time.plus_millis(1);
        }
        match &mut item {
            Item::Sample(sample) => sample.time = time,
            Item::Event(event) => event.time_ms = time.millis(),
        }
        let instant = self.held.entry(time).or_default();
        instant.bytes += bytes;
        instant.items.push(item);
        self.held_bytes += bytes;
        Ok(())
    }

    /// The newest instant that is in no batch yet.
    pub fn newest(&self) -> Option<PlantTime> {
        self.held.last_key_value().map(|(time, _)| *time)
    }

    /// Time was wrong before, and is known now: the next batch is sealed by it, even if it is earlier. What is held from
    /// beyond does not wait until then: it keeps its stamp, and goes out with the next batches.
    pub fn fall_back(&mut self, now: PlantTime) {
        self.sealed = PlantTime::MIN;
        let beyond = self.held.split_off(&now);
        for (at, instant) in (now.millis()..).zip(beyond.into_values()) {
            self.held.insert(PlantTime(at), instant);
        }
    }

    /// How many items were not taken since the last call, and why the last of them.
    pub fn refused(&mut self) -> Option<(u64, BatchError)> {
        self.refused.take()
    }

    /// Nothing at or before this is still to come: a source that knows its next item has no other before it, and one
    /// that has ended holds nothing back.
    fn complete(&self, now: PlantTime) -> PlantTime {
        let known = self.sources.iter().filter_map(|s| Some(s.next_due()?.plus_millis(-1).max(s.progress())));
        known.chain(self.failed).fold(now, PlantTime::min).max(self.sealed)
    }

    /// True when a batch should be cut before its time.
    pub fn is_full(&self, now: PlantTime) -> bool {
        let ready = || self.held.range(..=self.complete(now)).map(|(_, instant)| instant.bytes).sum::<usize>();
        self.birth.is_some() || (self.held_bytes >= self.bytes_max && ready() >= self.bytes_max)
    }

    /// The next batch, with `stamp` at its seal time, and how many readings are in it. It has as much as fits of what
    /// is complete, and may be empty.
    pub fn cut(&mut self, now: PlantTime, stamp: SealTime) -> (TelemetryBatch, u32) {
        let birth = self.birth.take();
        let mut up_to = self.complete(now);
        while let Some(oldest) = self.held.first_entry().filter(|oldest| *oldest.key() <= up_to) {
            if birth.is_some() || self.builder.bytes() >= self.bytes_max {
                up_to = oldest.key().plus_millis(-1);
                break;
            }
            let instant = oldest.remove();
            self.held_bytes -= instant.bytes;
            for item in instant.items {
                // It was measured before, so its machine is known.
                let pushed = self.builder.push(item);
                debug_assert!(pushed.is_ok(), "{pushed:?}");
            }
        }
        self.sealed = self.sealed.max(up_to);
        self.builder.seal(SealTime { time_ms: self.sealed.millis(), ..stamp }, birth)
    }
}

#[cfg(test)]
mod tests;
