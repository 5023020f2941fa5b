//! Frames as they lie in a segment, one after the other, and how they are found again among damaged bytes.

use bytes::Bytes;
use proto::telemetry::{Frame, FrameHeader, FrameKind, HEADER_BYTES};

/// An intact frame: both its CRCs are right.
#[derive(Debug, Clone)]
pub struct Record {
    pub header: FrameHeader,
    /// Known to be inside: of a gap, those that are lost.
    pub readings: u64,
    pub bytes: Bytes,
}

impl Record {
    /// The frame at the beginning of `bytes`, if it is intact.
    pub fn first_in(bytes: &Bytes) -> Option<Record> {
        let header = FrameHeader::decode(bytes).ok()?;
        if header.frame_bytes() > bytes.len() {
            return None;
        }
        Self::of(bytes.slice(..header.frame_bytes()))
    }

    /// Exactly one frame, if it is intact.
    pub fn of(bytes: Bytes) -> Option<Record> {
        let frame = Frame::split(bytes.clone()).ok()?;
        frame.verify().ok()?;
        let readings = match frame.header.kind {
            FrameKind::Data => u64::from(frame.header.readings),
            FrameKind::Gap => frame.gap_content().ok()?.readings,
            // Made anew for each receiver, and never stored.
            FrameKind::Bridge => return None,
        };
        Some(Record { header: frame.header, readings, bytes })
    }
}

/// All intact frames in `bytes` with their offsets, and how many bytes belong to none.
pub fn scan(bytes: Bytes) -> (Vec<(usize, Record)>, usize) {
    let (mut records, mut at, mut damaged) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        if let Some(record) = Record::first_in(&bytes.slice(at..)) {
            let offset = at;
            at += record.bytes.len();
            records.push((offset, record));
        } else {
            let next = next_header(&bytes, at + 1);
            damaged += next - at;
            at = next;
        }
    }
    (records, damaged)
}

/// Where the next readable header begins, or the end.
fn next_header(bytes: &[u8], from: usize) -> usize {
    let starts = bytes.get(from..).unwrap_or_default().windows(HEADER_BYTES);
    let found = starts.enumerate().find(|(_, window)| FrameHeader::decode(window).is_ok());
    found.map_or(bytes.len(), |(offset, _)| from + offset)
}

#[cfg(test)]
mod tests {
    use proto::{
        position::{Epoch, Position},
        wire::telemetry::TelemetryBatch,
    };

    use super::*;

    fn frame(seq: u64) -> Bytes {
        let batch = TelemetryBatch { sealed: Some(Default::default()), ..Default::default() };
        Frame::seal(Position { epoch: Epoch([1; 16]), seq }, None, 0, &batch).encode()
    }

    #[test]
    fn frames_behind_damage_are_found() {
        let mut bytes = [frame(2), frame(3), frame(4)].concat();
        let one = bytes.len() / 3;
        for at in 0..one {
            let mut damaged = bytes.clone();
            damaged[one + at] ^= 1;
            let (records, lost) = scan(damaged.into());
            let found: Vec<_> = records.iter().map(|(_, r)| r.header.position.seq).collect();
            assert_eq!((found, lost), (vec![2, 4], one), "byte {at}");
        }
        bytes.truncate(2 * one + 5);
        let (records, lost) = scan(bytes.into());
        assert_eq!((records.len(), lost), (2, 5), "a torn tail");
    }
}
