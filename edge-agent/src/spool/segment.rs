//! One segment file: a header, then frames of one epoch. It is appended to until it is full, then only read, replaced
//! as a whole (by what is left of it, or by a gap) or removed. Its number gives its place among the others.
//!
//! Header, little-endian: `0 magic "MWSG"  4 version u16  6 zero u16  8 epoch [16]  24 first seq u64
//! 32 previous epoch [16]  48 previous seq u64  56 CRC32C u32 (of bytes 0..56)`.
//! Every segment repeats where the epoch before ended, so that the chain survives when the first one is freed.

use bytes::{BufMut, Bytes};
use proto::{
    position::{Epoch, Position},
    telemetry::frame::FRAME_BYTES_MAX,
};

use super::{
    log::{Extent, Place},
    record::{self, Record},
};

pub const SEGMENT_HEADER_BYTES: usize = 60;
pub const SEGMENT_BYTES_DEFAULT: u32 = 4 * 1024 * 1024;
pub const SEGMENT_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// A group commit goes into one segment, which may grow by it beyond its limit.
pub const GROUP_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
const MAGIC: &[u8; 4] = b"MWSG";
const VERSION: u16 = 1;
const SUFFIX: &str = ".seg";
const ASIDE: &str = ".unreadable";

pub fn name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// Of a segment that can't be read.
pub fn aside_name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}{ASIDE}")
}

pub fn is_aside(name: &str) -> bool {
    name.strip_suffix(ASIDE).and_then(number).is_some()
}

/// None: not a segment's name.
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX).filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Epoch, and sequence number of the first frame.
    pub first: Position,
    /// Where the epoch before ended.
    pub previous: Option<Position>,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_slice(&self.first.epoch.0);
        out.put_u64_le(self.first.seq);
        out.put_slice(&self.previous.map_or(Epoch::NONE, |p| p.epoch).0);
        out.put_u64_le(self.previous.map_or(0, |p| p.seq));
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<SEGMENT_HEADER_BYTES>()?;
        let (content, crc) = header.split_at(SEGMENT_HEADER_BYTES - 4);
        let intact = crc == crc32c::crc32c(content).to_le_bytes();
        if !intact || &content[..4] != MAGIC || content[4..6] != VERSION.to_le_bytes() {
            return None;
        }
        let position = |at: usize| -> Option<Position> {
            let epoch = Epoch::from_slice(&content[at..at + 16])?;
            let seq = u64::from_le_bytes(content[at + 16..at + 24].try_into().ok()?);
            Position::possible(epoch, seq)
        };
        let (first, previous) = (position(8).filter(|first| first.seq > 0)?, position(32));
        (previous.is_none_or(|p| p.epoch != first.epoch)).then_some(SegmentHeader { first, previous })
    }
}

/// What was found in a segment file. Not the frames themselves: a spool is larger than a gateway's memory.
#[derive(Debug)]
pub struct Scanned {
    pub number: u64,
    pub header: Option<SegmentHeader>,
    pub extents: Vec<Extent>,
    pub bytes: u64,
    pub damaged_bytes: u64,
}

impl Scanned {
    /// Written by a version that is not known here. A damaged version number with intact frames behind it is none.
    pub fn is_newer(&self, bytes: &[u8]) -> bool {
        let Some((content, crc)) = bytes.get(..SEGMENT_HEADER_BYTES).and_then(|h| h.split_last_chunk::<4>()) else {
            return false;
        };
        let newer = content.starts_with(MAGIC) && u16::from_le_bytes([content[4], content[5]]) > VERSION;
        newer && (self.extents.is_empty() || *crc == crc32c::crc32c(content).to_le_bytes())
    }
}

pub fn scan(number: u64, bytes: &Bytes) -> Scanned {
    let header = SegmentHeader::decode(bytes);
    let begin = SEGMENT_HEADER_BYTES.min(bytes.len());
    let (records, damaged) = record::scan(bytes.slice(begin..));
    let extent = |(offset, r): &(usize, Record)| {
        let place = Place { segment: number, offset: (begin + offset) as u32 };
        Extent { readings: r.readings, ..Extent::of(&r.header, place) }
    };
    let extents = records.iter().map(extent).collect();
    let damaged_bytes = damaged + if header.is_none() { begin } else { 0 };
    Scanned { number, header, extents, bytes: bytes.len() as u64, damaged_bytes: damaged_bytes as u64 }
}

/// Where records lie that follow each other from `offset` on.
pub fn extents<'r>(number: u64, offset: u64, records: impl IntoIterator<Item = &'r Record>) -> Vec<Extent> {
    let mut offset = offset as u32;
    let extent = |r: &Record| {
        let place = Place { segment: number, offset };
        offset += r.bytes.len() as u32;
        Extent { readings: r.readings, ..Extent::of(&r.header, place) }
    };
    records.into_iter().map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_disk_and_damage_is_noticed() {
        let first = Position { epoch: Epoch([1; 16]), seq: 9 };
        for previous in [None, Some(Position { epoch: Epoch([2; 16]), seq: 4 })] {
            let header = SegmentHeader { first, previous };
            let mut bytes = header.encode();
            assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
            assert_eq!(SegmentHeader::decode(&bytes), Some(header));
            bytes[30] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes), None);
        }
    }

    #[test]
    fn names_sort_as_numbers() {
        assert_eq!(number(&name(0xab)), Some(0xab));
        assert!(name(9) < name(10));
        assert_eq!(number("checkpoint"), None);
    }
}
