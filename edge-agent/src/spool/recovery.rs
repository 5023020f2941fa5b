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
#[derive(Debug, Clone)]
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

/// Where the log begins if it is not known how far it was committed: only what is committed is ever removed at its
/// beginning, so the first segment says it.
pub fn begin(found: &[Scanned], committed: Option<Position>) -> Option<Position> {
    let Some(SegmentHeader { first, previous }) = found.first().and_then(|s| s.header) else {
        return committed;
    };
    let behind = if first.seq > 1 { Some(Position { seq: first.seq - 1, ..first }) } else { previous };
    match committed.zip(behind) {
        Some((committed, behind)) if committed.epoch == behind.epoch => {
            Some(Position { seq: behind.seq.max(committed.seq), ..behind })
        }
        Some((committed, _)) if committed.epoch == first.epoch => Some(committed),
        _ => behind.or(committed),
    }
}

/// `found` in the order of their numbers, none that is freed already; all up to `begin` is committed.
pub fn resolve(mut found: Vec<Scanned>, begin: Option<Position>) -> Resolution {
    drop_superseded(&mut found);
    let mut resolution = Resolution::default();
    let mut last = begin;
    for segment in found {
        let previous = link(&segment, &resolution.segments, last);
        if let Some((from, last_seq)) = hole(&segment, previous, last) {
            resolution.fill(from, last_seq, last, segment.number);
            last = Some(Position { seq: last_seq, ..from });
        }
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

/// The numbers before a segment that nothing is left of: a later epoch knows where the one before it ended.
fn hole(segment: &Scanned, previous: Option<Position>, last: Option<Position>) -> Option<(Position, u64)> {
    let (epoch, end) = (segment.extents.first()?.position.epoch, previous?);
    match last {
        Some(last) if last.epoch == epoch => None,
        Some(last) if last.epoch == end.epoch => {
            (last.seq < end.seq).then_some((Position { seq: last.seq + 1, ..last }, end.seq))
        }
        _ => Some((Position { seq: 1, ..end }, end.seq)),
    }
}

impl Resolution {
    /// Puts a gap behind what there is, before the segment of that number.
    fn fill(&mut self, from: Position, last_seq: u64, last: Option<Position>, before: u64) {
        let previous = last.filter(|l| l.epoch != from.epoch);
        let gap = gap(from, last_seq, previous, GapReason::Damaged, None, 0).map(Piece::gap);
        self.lost += last_seq - from.seq + 1;
        let bytes = gap.iter().map(Piece::bytes).sum::<u64>();
        if let Some(segment) = self.segments.last_mut().filter(|s| s.header.first.epoch == from.epoch) {
            segment.pieces.extend(gap);
            segment.bytes += bytes;
            segment.rewrite = true;
            return;
        }
        // The file that is lost had a number, and it is the newest one before this.
        let newest = self.segments.last().map(|s| s.number);
        let Some(number) = before.checked_sub(1).filter(|number| newest < Some(*number)) else {
            return;
        };
        self.remove.retain(|removed| *removed != number);
        self.segments.push(Resolved {
            number,
            header: SegmentHeader { first: from, previous },
            pieces: gap.into_iter().collect(),
            bytes: SEGMENT_HEADER_BYTES as u64 + bytes,
            rewrite: true,
        });
    }
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
        assert_eq!(pieces(&resolution), [(-1, -2), (3, 3), (-4, -5), (6, 6), (-7, -9), (-1, -2), (3, 3)]);
        assert_eq!(resolution.lost, 9);
        assert!(resolution.segments.iter().all(|s| s.rewrite));
        let Piece::Gap(chained) = &resolution.segments[1].pieces[0] else { panic!() };
        assert_eq!(chained.header.previous, Some(at(1, 9)), "a gap that covers seq 1 repeats the link");
    }

    #[test]
    fn the_lost_end_of_an_epoch_becomes_a_gap_behind_what_is_left_of_it() {
        let resolution = resolve(vec![segment(0, 1, 1..=3), segment(4, 2, 1..=2)], None);
        assert_eq!(pieces(&resolution), [(1, 1), (2, 2), (3, 3), (-4, -9), (1, 1), (2, 2)]);
        assert_eq!(resolution.lost, 6);
        assert_eq!(resolution.segments.iter().map(|s| s.rewrite).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_lost_epoch_becomes_a_gap_in_a_file_of_its_own() {
        let spoilt = Scanned { header: None, ..segment(3, 2, []) };
        let resolution = resolve(vec![segment(0, 1, 1..=9), spoilt, segment(4, 3, 1..=1)], None);
        let numbers: Vec<_> = resolution.segments.iter().map(|s| s.number).collect();
        assert_eq!((numbers, resolution.remove.len()), (vec![0, 3, 4], 0), "its file is written anew");
        let Piece::Gap(gap) = &resolution.segments[1].pieces[0] else { panic!() };
        assert_eq!((gap.header.position, gap.header.last_seq), (at(2, 1), 9));
        assert_eq!((gap.header.previous, resolution.lost), (Some(at(1, 9)), 9));
    }

    #[test]
    fn what_is_lost_behind_the_committed_position_becomes_a_gap() {
        let resolution = resolve(vec![segment(4, 2, 1..=1)], Some(at(1, 7)));
        assert_eq!((pieces(&resolution), resolution.lost), (vec![(-8, -9), (1, 1)], 2));
        assert_eq!(resolution.segments[0].number, 3);
        let resolution = resolve(vec![segment(4, 2, 1..=1)], Some(at(1, 9)));
        assert_eq!((pieces(&resolution), resolution.lost), (vec![(1, 1)], 0));
    }

    #[test]
    fn without_a_checkpoint_the_first_segment_says_where_the_log_begins() {
        let found = [segment(4, 2, 5..=6)];
        assert_eq!(begin(&found, None), Some(at(2, 4)));
        assert_eq!(begin(&found, Some(at(1, 3))), Some(at(2, 4)), "an older checkpoint");
        assert_eq!(begin(&found, Some(at(2, 5))), Some(at(2, 5)), "one that is not older");
        assert_eq!(begin(&[segment(4, 2, 1..=6)], None), Some(at(1, 9)));
        assert_eq!(begin(&[segment(4, 2, 1..=6)], Some(at(2, 3))), Some(at(2, 3)));
        assert_eq!(begin(&[], Some(at(2, 3))), Some(at(2, 3)));
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
