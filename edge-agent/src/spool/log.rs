//! The order of an agent's log: a chain of epochs, each a run of frames. Pure, and the one truth that the spool
//! (which frames are held, and where) and the send window (which frame is next) share.
//!
//! ```text
//! epoch A: [1][2][3..7 gap][8]  ->  epoch B: [1][2]  ->  epoch C: [1]
//!                 ^committed                                     ^last
//! ```

use std::collections::{HashMap, VecDeque};

use proto::{
    position::{Epoch, Position},
    telemetry::{FrameHeader, FrameKind},
    wire::telemetry::GapReason,
};

/// Room for this many frames is never given back: an agent on a good line would ask for it again and again.
const INDEX_KEPT: usize = 256;

/// Where a frame's bytes are: a segment file and the offset in it, or memory. Means something to the spool only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub segment: u64,
    pub offset: u32,
}

impl Place {
    /// Not durable yet. No file has this number, and it is behind all others.
    pub const MEMORY: Place = Place { segment: u64::MAX, offset: 0 };
}

/// One frame, durable unless its place is memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub position: Position,
    /// Equal to `position.seq` unless the frame is a gap.
    pub last_seq: u64,
    /// Of the encoded frame.
    pub bytes: u32,
    /// Inside; of a gap, those that are known to be lost.
    pub readings: u64,
    pub gap: bool,
    pub place: Place,
}

impl Extent {
    pub fn of(header: &FrameHeader, place: Place) -> Self {
        Extent {
            position: header.position,
            last_seq: header.last_seq,
            bytes: header.frame_bytes() as u32,
            readings: u64::from(header.readings),
            gap: header.kind == FrameKind::Gap,
            place,
        }
    }

    pub fn last(&self) -> Position {
        Position { epoch: self.position.epoch, seq: self.last_seq }
    }
}

/// Compares positions of one [`Log`]: first by the chain, then by sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    chapter: u64,
    seq: u64,
}

#[derive(Debug, Clone)]
struct Chapter {
    epoch: Epoch,
    ordinal: u64,
    extents: VecDeque<Extent>,
    last_seq: u64,
}

/// A receiver stands where this log does not go on from: what has to be declared before anything else can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Where the receiver says that it stands.
    pub from: Option<Position>,
    /// Just before the oldest frame that is held.
    pub to: Position,
    pub reason: GapReason,
}

/// All frames that are held, in order, and how far the log is committed.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Only the first one, which the committed position is in, may be without frames.
    chapters: VecDeque<Chapter>,
    /// Where the epoch before each one ended, as its own frames and segments say.
    links: HashMap<Epoch, Option<Position>>,
    committed: Option<Position>,
    bytes: u64,
}

impl Log {
    /// A log of which nothing is held, and which was committed up to there before.
    pub fn new(committed: Option<Position>) -> Self {
        let chapter = |p: Position| Chapter { epoch: p.epoch, ordinal: 0, extents: VecDeque::new(), last_seq: p.seq };
        let chapters = committed.map(chapter).into_iter().collect();
        Log { chapters, links: HashMap::new(), committed, bytes: 0 }
    }

    /// `epoch` follows `previous`; None: it is the first of an installation.
    pub fn link(&mut self, epoch: Epoch, previous: Option<Position>) {
        self.links.insert(epoch, previous);
    }

    /// Appends a frame. A new epoch follows the newest one.
    pub fn push(&mut self, extent: Extent) {
        self.bytes += u64::from(extent.bytes);
        match self.chapters.back_mut() {
            Some(chapter) if chapter.epoch == extent.position.epoch => {
                debug_assert!(extent.position.seq <= chapter.last_seq + 1, "the log never has a hole");
                chapter.last_seq = extent.last_seq;
                chapter.extents.push_back(extent);
            }
            newest => {
                let ordinal = newest.map_or(0, |c| c.ordinal + 1);
                let (epoch, last_seq) = (extent.position.epoch, extent.last_seq);
                self.chapters.push_back(Chapter { epoch, ordinal, extents: [extent].into(), last_seq });
            }
        }
    }

    /// The newest position, held or committed.
    pub fn last(&self) -> Option<Position> {
        self.chapters.back().map(|c| Position { epoch: c.epoch, seq: c.last_seq })
    }

    pub fn committed(&self) -> Option<Position> {
        self.committed
    }

    /// Bytes of all frames held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of frames held.
    pub fn frames(&self) -> u64 {
        self.chapters.iter().map(|c| c.extents.len() as u64).sum()
    }

    /// None if this log does not know the position: another log's epoch, one freed long ago, or beyond what is held.
    /// None orders before everything, as a receiver's "nothing yet" does.
    pub fn order(&self, position: Position) -> Option<Order> {
        let chapter = self.chapter(position.epoch)?;
        (position.seq <= chapter.last_seq).then_some(Order { chapter: chapter.ordinal, seq: position.seq })
    }

    /// The position as far as it is held: a claim beyond the epoch's last frame is believed up to there.
    pub fn clamp(&self, position: Position) -> Option<Position> {
        let chapter = self.chapter(position.epoch)?;
        Some(Position { epoch: position.epoch, seq: position.seq.min(chapter.last_seq) })
    }

    /// The frame that comes after a position, or that it lies inside of (the rest of a gap); the oldest held
    /// if the position is none or unknown.
    pub fn after(&self, position: Option<Position>) -> Option<&Extent> {
        let known = position.and_then(|p| self.order(p));
        let Some(Order { chapter, seq }) = known else {
            return self.extents().next();
        };
        let at = self.chapters.iter().position(|c| c.ordinal == chapter)?;
        let here = &self.chapters[at].extents;
        let next = here.partition_point(|e| e.last_seq <= seq);
        here.get(next).or_else(|| self.chapters.range(at + 1..).find_map(|c| c.extents.front()))
    }

    /// What to declare to a receiver that stands at `received`, if the frame that it waits for is not the next one here:
    /// it took frames that this log lost, or that were never in it, or it never took what this log has forgotten.
    pub fn bridge(&self, received: Option<Position>) -> Option<Bridge> {
        let next = self.after(received.and_then(|p| self.clamp(p)))?;
        if self.follows(next, received) {
            return None;
        }
        let oldest =
            if received.is_some_and(|p| self.chapter(p.epoch).is_some()) { next } else { self.extents().next()? };
        let to = Position { epoch: oldest.position.epoch, seq: oldest.position.seq - 1 };
        let known = received.and_then(|p| self.chapter(p.epoch).map(|c| p.seq > c.last_seq));
        let first_ever =
            self.chapters.front().is_some_and(|c| self.link_of(c.epoch).is_none()) && self.committed.is_none();
        let reason = match (received, known) {
            (None, _) | (_, Some(false)) => GapReason::Released,
            (_, Some(true)) => GapReason::TailLost,
            (Some(_), None) if first_ever => GapReason::NewInstall,
            (Some(_), None) => GapReason::ChainLost,
        };
        Some(Bridge { from: received, to, reason })
    }

    /// Whether a receiver that stands at `received` takes `next`.
    fn follows(&self, next: &Extent, received: Option<Position>) -> bool {
        let Position { epoch, seq } = next.position;
        match received {
            Some(here) if here.epoch == epoch => seq <= here.seq + 1,
            here => seq == 1 && self.link_of(epoch) == here,
        }
    }

    fn link_of(&self, epoch: Epoch) -> Option<Position> {
        self.links.get(&epoch).copied().flatten()
    }

    /// The frame that covers this position, if it is held.
    pub fn covering(&self, position: Position) -> Option<&Extent> {
        let extents = &self.chapter(position.epoch)?.extents;
        let at = extents.partition_point(|e| e.last_seq < position.seq);
        extents.get(at).filter(|e| e.position.seq <= position.seq)
    }

    /// The last position of every epoch that frames are held of, the newest first.
    pub fn epochs(&self) -> impl Iterator<Item = Position> {
        let held = self.chapters.iter().rev().filter(|c| !c.extents.is_empty());
        held.map(|c| Position { epoch: c.epoch, seq: c.last_seq })
    }

    pub fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.chapters.iter().flat_map(|c| &c.extents)
    }

    /// Forgets everything up to a committed position, earlier epochs too. False, and nothing is forgotten,
    /// if the position is unknown, beyond what is held, or no further than before.
    pub fn free(&mut self, committed: Position) -> bool {
        let order = self.order(committed);
        if order.is_none() || order <= self.committed.and_then(|c| self.order(c)) {
            return false;
        }
        while let Some(freed) = self.chapters.pop_front_if(|c| c.epoch != committed.epoch) {
            self.links.remove(&freed.epoch);
            self.bytes -= freed.extents.iter().map(|e| u64::from(e.bytes)).sum::<u64>();
        }
        if let Some(chapter) = self.chapters.front_mut() {
            while let Some(extent) = chapter.extents.pop_front_if(|e| e.last_seq <= committed.seq) {
                self.bytes -= u64::from(extent.bytes);
            }
            // After a long outage the memory of its index goes back.
            if chapter.extents.capacity() > 4 * chapter.extents.len().max(INDEX_KEPT) {
                chapter.extents.shrink_to(2 * chapter.extents.len());
            }
        }
        self.committed = Some(committed);
        true
    }

    /// Puts a frame in the place of all frames that it covers, for example a gap in the place of an evicted segment.
    pub fn replace(&mut self, with: Extent) {
        let Some(chapter) = self.chapters.iter_mut().find(|c| c.epoch == with.position.epoch) else {
            return;
        };
        let from = chapter.extents.partition_point(|e| e.last_seq < with.position.seq);
        let to = chapter.extents.partition_point(|e| e.position.seq <= with.last_seq);
        let replaced: u64 = chapter.extents.drain(from..to).map(|e| u64::from(e.bytes)).sum();
        chapter.extents.insert(from, with);
        self.bytes = self.bytes + u64::from(with.bytes) - replaced;
    }

    fn chapter(&self, epoch: Epoch) -> Option<&Chapter> {
        self.chapters.iter().rev().find(|c| c.epoch == epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u8, seq: u64) -> Position {
        Position { epoch: Epoch([epoch; 16]), seq }
    }

    fn frame(epoch: u8, seq: u64, last_seq: u64) -> Extent {
        let place = Place::default();
        Extent { position: at(epoch, seq), last_seq, bytes: 10, readings: 1, gap: last_seq > seq, place }
    }

    fn log() -> Log {
        let mut log = Log::new(None);
        for extent in [frame(1, 1, 1), frame(1, 2, 2), frame(1, 3, 7), frame(1, 8, 8), frame(2, 1, 1), frame(2, 2, 2)] {
            log.push(extent);
        }
        log
    }

    #[test]
    fn the_next_frame_follows_the_chain() {
        let log = log();
        let after = |p| log.after(p).map(|e| e.position);
        assert_eq!(after(None), Some(at(1, 1)));
        assert_eq!(after(Some(at(9, 4))), Some(at(1, 1)), "unknown epoch");
        assert_eq!(after(Some(at(1, 2))), Some(at(1, 3)));
        assert_eq!(after(Some(at(1, 5))), Some(at(1, 3)), "the rest of the gap");
        assert_eq!(after(Some(at(1, 8))), Some(at(2, 1)));
        assert_eq!(after(Some(at(2, 2))), None);
    }

    #[test]
    fn a_committed_position_covers_every_earlier_epoch_and_never_shrinks() {
        let mut log = log();
        assert!(log.free(at(1, 4)));
        assert_eq!(log.after(None).map(|e| e.position), Some(at(1, 3)), "the gap is not committed as a whole");
        assert!(!log.free(at(1, 4)) && !log.free(at(1, 1)), "no further than before");
        assert!(!log.free(at(2, 3)) && !log.free(at(9, 1)), "beyond what is held, unknown");
        assert!(log.free(at(2, 1)));
        assert_eq!((log.bytes(), log.frames()), (10, 1));
        assert!(!log.free(at(1, 8)), "an epoch left behind");
        assert!(log.free(at(2, 2)));
        assert_eq!((log.bytes(), log.last(), log.after(None)), (0, Some(at(2, 2)), None));
        assert_eq!(log.order(at(2, 1)).cmp(&log.order(at(2, 2))), std::cmp::Ordering::Less);
        assert_eq!(log.epochs().next(), None, "nothing is held of the epoch that is committed");
        log.push(frame(3, 1, 1));
        assert_eq!(log.epochs().collect::<Vec<_>>(), [at(3, 1)]);
        assert_eq!(log.after(Some(at(2, 2))).map(|e| e.position), Some(at(3, 1)));
    }

    #[test]
    fn a_replacement_takes_the_place_of_all_it_covers() {
        let mut log = log();
        log.replace(frame(1, 1, 7));
        let held: Vec<_> = log.extents().map(|e| (e.position.seq, e.last_seq)).collect();
        assert_eq!(held, [(1, 7), (8, 8), (1, 1), (2, 2)]);
        assert_eq!(log.bytes(), 40);
        assert_eq!(log.covering(at(1, 4)).map(|e| e.last_seq), Some(7));
        assert_eq!(log.covering(at(2, 3)), None);
    }

    #[test]
    fn a_receiver_elsewhere_is_told_of_a_break() {
        let mut log = log();
        log.link(Epoch([2; 16]), Some(at(1, 8)));
        let told = |log: &Log, stands: Option<Position>| log.bridge(stands).map(|b| (b.to, b.reason));
        for follows in [None, Some(at(1, 5)), Some(at(1, 8)), Some(at(2, 1)), Some(at(2, 2)), Some(at(2, 9))] {
            assert_eq!(told(&log, follows), None, "{follows:?}");
        }
        assert_eq!(told(&log, Some(at(1, 9))), Some((at(2, 0), GapReason::TailLost)));
        assert_eq!(told(&log, Some(at(9, 4))), Some((at(1, 0), GapReason::NewInstall)));
        log.link(Epoch([1; 16]), Some(at(9, 4)));
        assert_eq!(told(&log, Some(at(9, 4))), None, "the first frame names it");
        assert_eq!(told(&log, Some(at(9, 3))), Some((at(1, 0), GapReason::ChainLost)));
        assert_eq!(told(&log, None), Some((at(1, 0), GapReason::Released)));
        log.free(at(1, 2));
        assert_eq!(told(&log, Some(at(1, 1))), Some((at(1, 2), GapReason::Released)));
        assert_eq!(told(&log, None), Some((at(1, 2), GapReason::Released)));
        assert!(log.free(at(2, 0)), "where a bridge led");
        assert_eq!(told(&log, Some(at(2, 0))), None);
    }
}
