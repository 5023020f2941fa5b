//! What the segments found on the disk mean, as a pure function: which frames make up the log, which sequence numbers
//! are lost and become gaps, and which files must be rewritten to say so.

use std::collections::HashMap;

use proto::{
    position::{Epoch, Position},
    telemetry::Frame,
    wire::telemetry::{Gap, GapReason, SealTime},
};

use super::{
    log::Extent,
    record::Record,
    segment::{SEGMENT_HEADER_BYTES, Scanned, SegmentHeader},
};

/// What a segment shall consist of.
#[derive(Debug)]
pub enum Piece {
    /// A frame that lies on the disk.
    Keep(Extent),
    /// Boxed: a spool has many frames and few gaps.
    Gap(Box<Record>),
}

impl Piece {
    pub fn gap(record: Record) -> Self {
        Piece::Gap(Box::new(record))
    }

    fn position(&self) -> Position {
        match self {
            Piece::Keep(extent) => extent.position,
            Piece::Gap(record) => record.header.position,
        }
    }

    pub fn kept(self) -> Option<Extent> {
        match self {
            Piece::Keep(extent) => Some(extent),
            Piece::Gap(_) => None,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Piece::Keep(extent) => u64::from(extent.bytes),
            Piece::Gap(record) => record.bytes.len() as u64,
        }
    }
}

/// A segment as it shall be.
#[derive(Debug)]
pub struct Resolved {
    pub number: u64,
    pub header: SegmentHeader,
    pub pieces: Vec<Piece>,
    pub bytes: u64,
    /// Differs from what is on the disk.
    pub rewrite: bool,
}

#[derive(Debug, Default)]
pub struct Resolution {
    /// In log order, none without frames.
    pub segments: Vec<Resolved>,
    /// Files of which nothing is left.
    pub remove: Vec<u64>,
    /// Sequence numbers that were lost in the middle of the log.
    pub lost: u64,
    /// Bytes that were cut off or skipped.
    pub damaged_bytes: u64,
}

/// `found` in the order of their numbers, none that is freed already.
pub fn resolve(mut found: Vec<Scanned>, committed: Option<Position>) -> Resolution {
    drop_superseded(&mut found);
    let mut resolution = Resolution::default();
    let mut last = committed;
    for segment in found {
        let previous = link(&segment, &resolution.segments, last);
        let (pieces, lost) = join(&segment.extents, previous, &mut last);
        resolution.lost += lost;
        resolution.damaged_bytes += segment.damaged_bytes;
        let Some(first) = pieces.first().map(Piece::position) else {
            resolution.remove.push(segment.number);
            continue;
        };
        let bytes = SEGMENT_HEADER_BYTES as u64 + pieces.iter().map(Piece::bytes).sum::<u64>();
        resolution.segments.push(Resolved {
            number: segment.number,
            header: SegmentHeader { first, previous },
            pieces,
            bytes,
            rewrite: lost > 0 || segment.damaged_bytes > 0 || bytes != segment.bytes,
        });
    }
    resolution
}

/// The frames of one segment that go on after `last`, a gap before each that does not follow on; and how many
/// sequence numbers are lost.
fn join(found: &[Extent], previous: Option<Position>, last: &mut Option<Position>) -> (Vec<Piece>, u64) {
    let (mut pieces, mut lost) = (Vec::with_capacity(found.len()), 0);
    for extent in found {
        let position = extent.position;
        let known = last.filter(|l| l.epoch == position.epoch).map_or(0, |l| l.seq);
        // Committed, but its file is not freed yet.
        if extent.last_seq <= known {
            continue;
        }
        if position.seq > known + 1 {
            lost += position.seq - known - 1;
            let from = Position { seq: known + 1, ..position };
            pieces.extend(gap(from, position.seq - 1, previous, GapReason::Damaged, None, 0).map(Piece::gap));
        }
        *last = Some(extent.last());
        pieces.push(Piece::Keep(*extent));
    }
    (pieces, lost)
}

/// Where a later file begins anew (after a failed write, or with a gap in the place of what was evicted), it counts.
fn drop_superseded(found: &mut [Scanned]) {
    let mut begins: HashMap<Epoch, u64> = HashMap::new();
    for segment in found.iter_mut().rev() {
        segment.extents.retain(|e| begins.get(&e.position.epoch).is_none_or(|b| e.last_seq < *b));
        if let Some(first) = segment.extents.first().map(|e| e.position) {
            begins.insert(first.epoch, first.seq);
        }
    }
}

/// Where the epoch before this segment's ended: every segment says so, and if that is damaged, others do.
fn link(segment: &Scanned, before: &[Resolved], last: Option<Position>) -> Option<Position> {
    let epoch = segment.extents.first()?.position.epoch;
    let own = segment.header.filter(|h| h.first.epoch == epoch);
    let sibling = || before.iter().find(|s| s.header.first.epoch == epoch).map(|s| s.header);
    match own.or_else(sibling) {
        Some(header) => header.previous,
        None => last.filter(|l| l.epoch != epoch),
    }
}

/// A frame that stands for `from.seq..=last_seq`; `previous` counts only if that covers seq 1.
/// Always Some, since what was just built is intact.
pub fn gap(
    from: Position,
    last_seq: u64,
    previous: Option<Position>,
    reason: GapReason,
    sealed: Option<SealTime>,
    readings: u64,
) -> Option<Record> {
    let content = Gap { reason: reason as i32, sealed, readings };
    Record::of(Frame::gap(from, last_seq, previous.filter(|_| from.seq == 1), &content).encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::log::Place;

    fn at(epoch: u8, seq: u64) -> Position {
        Position { epoch: Epoch([epoch; 16]), seq }
    }

    fn segment(number: u64, epoch: u8, seqs: impl IntoIterator<Item = u64>) -> Scanned {
        let place = Place { segment: number, offset: 0 };
        let extent =
            |seq| Extent { position: at(epoch, seq), last_seq: seq, bytes: 10, readings: 1, gap: false, place };
        let extents: Vec<_> = seqs.into_iter().map(extent).collect();
        let first = extents.first().map_or(at(epoch, 1), |e| e.position);
        let header = Some(SegmentHeader { first, previous: (epoch > 1).then(|| at(epoch - 1, 9)) });
        let bytes = SEGMENT_HEADER_BYTES as u64 + 10 * extents.len() as u64;
        Scanned { number, header, extents, bytes, damaged_bytes: 0 }
    }

    /// First and last sequence number of every piece, gaps negative.
    fn pieces(resolution: &Resolution) -> Vec<(i64, i64)> {
        let range = |p: &Piece| match p {
            Piece::Keep(e) => (e.position.seq as i64, e.last_seq as i64),
            Piece::Gap(r) => (-(r.header.position.seq as i64), -(r.header.last_seq as i64)),
        };
        resolution.segments.iter().flat_map(|s| &s.pieces).map(range).collect()
    }

    #[test]
    fn an_undamaged_log_is_left_alone() {
        let found = vec![segment(4, 1, 8..=9), segment(5, 2, 1..=3), segment(6, 2, 4..=4)];
        let resolution = resolve(found, Some(at(1, 7)));
        assert_eq!((resolution.lost, resolution.remove.len()), (0, 0));
        assert!(resolution.segments.iter().all(|s| !s.rewrite));
    }

    #[test]
    fn what_is_missing_becomes_a_gap_where_it_was() {
        let found = vec![segment(0, 1, [3, 6]), segment(2, 2, 3..=3)];
        let resolution = resolve(found, None);
        assert_eq!(pieces(&resolution), [(-1, -2), (3, 3), (-4, -5), (6, 6), (-1, -2), (3, 3)]);
        assert_eq!(resolution.lost, 6);
        assert!(resolution.segments.iter().all(|s| s.rewrite));
        let Piece::Gap(chained) = &resolution.segments[1].pieces[0] else { panic!() };
        assert_eq!(chained.header.previous, Some(at(1, 9)), "a gap that covers seq 1 repeats the link");
    }

    #[test]
    fn a_later_file_that_begins_anew_counts() {
        let found = vec![segment(0, 1, 1..=6), segment(1, 1, 4..=5)];
        let resolution = resolve(found, None);
        assert_eq!(pieces(&resolution), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
        assert!(resolution.segments[0].rewrite && !resolution.segments[1].rewrite);
    }

    #[test]
    fn what_is_committed_is_not_brought_back() {
        let found = vec![segment(3, 1, 1..=2), segment(4, 1, 3..=6)];
        let resolution = resolve(found, Some(at(1, 4)));
        assert_eq!(pieces(&resolution), [(5, 5), (6, 6)]);
        assert_eq!(resolution.remove, [3]);
    }
}
