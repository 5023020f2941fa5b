//! What was appended and is not durable yet, the oldest first: for moments the group of the next commit; while the disk
//! fails for long a bounded log in memory, which is read and sent from there, and written when the disk works again.
//!
//! A frame is here before the log shows it in memory, and the log shows it elsewhere before it leaves: a reader that
//! does not find it looks into the log again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::{position::Position, time::PlantTime, wire::telemetry::GapReason};

use super::{
    Loss, Spool,
    log::{Extent, Place},
    record::Record,
    recovery,
};

pub const RING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A full ring gives up one part in this many at once, so that it is not said for every batch.
const EVICTED_DIVISOR: usize = 8;

#[derive(Debug, Clone)]
pub struct Waiting {
    pub record: Record,
    pub sealed: PlantTime,
}

impl Waiting {
    fn position(&self) -> Position {
        self.record.header.position
    }

    fn extent(&self) -> Extent {
        Extent { readings: self.record.readings, ..Extent::of(&self.record.header, Place::MEMORY) }
    }
}

/// Frames that follow each other, all of the running epoch.
#[derive(Debug, Default)]
pub struct Ring {
    frames: VecDeque<Waiting>,
    bytes: usize,
}

impl Ring {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.record.bytes.len();
        self.frames.push_back(waiting);
    }

    /// The oldest frames, in at most so many bytes; one at least, if there is any.
    pub fn group(&self, bytes_max: usize) -> Vec<Waiting> {
        let mut bytes = 0;
        let fits = |w: &&Waiting| {
            bytes += w.record.bytes.len();
            bytes <= bytes_max
        };
        let count = self.frames.iter().take_while(fits).count().max(1);
        self.frames.iter().take(count).cloned().collect()
    }

    pub fn remove_first(&mut self, count: usize) {
        let removed: usize = self.frames.drain(..count.min(self.frames.len())).map(|w| w.record.bytes.len()).sum();
        self.bytes -= removed;
    }

    fn replace_first(&mut self, count: usize, with: Waiting) {
        self.remove_first(count);
        self.bytes += with.record.bytes.len();
        self.frames.push_front(with);
    }

    /// The frame that begins at a position.
    pub fn find(&self, position: Position) -> Option<Record> {
        let at = self.frames.partition_point(|w| w.position().seq < position.seq);
        self.frames.get(at).filter(|w| w.position() == position).map(|w| w.record.clone())
    }
}

/// Shared with who reads. Held for moments only, and not together with the log.
#[derive(Debug, Clone, Default)]
pub struct SharedRing(Arc<Mutex<Ring>>);

impl SharedRing {
    pub fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool {
    /// Nothing waits for a commit.
    pub fn is_written(&self) -> bool {
        self.ring.lock().frames.is_empty()
    }

    /// Half of the memory for it is taken.
    pub fn ring_is_short(&self) -> bool {
        self.ring.lock().bytes > self.config.ring_bytes_max / 2
    }

    /// What was appended and is not durable.
    pub fn waiting(&self) -> Loss {
        let frames: Vec<_> = self.ring.lock().frames.iter().map(Waiting::extent).collect();
        frames.iter().filter(|e| !e.gap).collect()
    }

    /// The disk fails for long: makes visible what was appended, though it is not durable. The next commit that succeeds
    /// makes it so, under the same sequence numbers. The oldest that the ring has no room for become a gap.
    pub fn hold(&mut self) {
        let waiting: Vec<_> = self.ring.lock().frames.iter().map(Waiting::extent).collect();
        let mut log = self.log.lock();
        for extent in waiting {
            if log.order(extent.position).is_none() {
                log.push(extent);
            }
        }
        drop(log);
        self.evict_from_ring();
    }

    fn evict_from_ring(&mut self) {
        let bytes_max = self.config.ring_bytes_max;
        let evicted: Vec<_> = {
            let ring = self.ring.lock();
            let mut over =
                if ring.bytes <= bytes_max { 0 } else { ring.bytes - bytes_max + bytes_max / EVICTED_DIVISOR };
            let goes = |w: &&Waiting| {
                let goes = over > 0;
                over = over.saturating_sub(w.record.bytes.len());
                goes
            };
            ring.frames.iter().take_while(goes).map(|w| (w.extent(), w.sealed)).collect()
        };
        let (Some((first, _)), Some((last, sealed))) = (evicted.first(), evicted.last()) else {
            return;
        };
        let (from, to) = (first.position, last.last_seq);
        let (loss, readings) = (
            evicted.iter().map(|(e, _)| e).filter(|e| !e.gap).collect::<Loss>(),
            evicted.iter().map(|(e, _)| e.readings).sum(),
        );
        let time = self.seal_time(last);
        let Some(record) = recovery::gap(from, to, self.previous, GapReason::Evicted, time, readings) else {
            return;
        };
        let gap = Waiting { record, sealed: *sealed };
        self.log.lock().replace(gap.extent());
        self.ring.lock().replace_first(evicted.len(), gap);
        self.losses.evicted += loss;
        let Loss { batches, readings } = loss;
        tracing::error!(%from, to, batches, readings, "no room in memory while the disk fails: oldest readings evicted");
    }

    /// What the archive has need not be written any more. A checkpoint must say so before anything newer is.
    pub(super) fn free_ring(&mut self) {
        let positions: Vec<_> = self.ring.lock().frames.iter().map(|w| (w.position(), w.sealed)).collect();
        let freed = {
            let log = self.log.lock();
            let is_freed = |p: Position| log.order(p).is_some() && log.covering(p).is_none();
            positions.iter().take_while(|(p, _)| is_freed(*p)).count()
        };
        let Some((_, sealed)) = freed.checked_sub(1).map(|last| positions[last]) else {
            return;
        };
        self.ring.lock().remove_first(freed);
        self.sealed = Some(sealed);
        self.checkpoint_due = true;
    }
}
