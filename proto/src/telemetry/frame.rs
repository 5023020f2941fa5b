//! One batch as it stands in the spool and travels over MQTT: an 80-byte header and a payload.
//!
//! Little-endian:
//!
//! ```text
//!  0 magic "MWLB"   4 version u16   6 kind u8   7 codec u8
//!  8 epoch [16]    24 seq u64      32 last_seq u64
//! 40 previous epoch [16]           56 previous seq u64     (zero unless seq is 1 and there was an epoch before,
//!                                                           or this is a bridge, and its receiver stands somewhere)
//! 64 readings u32  68 payload bytes u32  72 payload CRC32C u32  76 header CRC32C u32 (of bytes 0..76)
//! ```
//!
//! The header alone is enough to put a batch into its place in the log, so that a batch whose content can't be
//! understood never blocks the ones behind it.

use std::{cell::RefCell, io};

use bytes::{BufMut, Bytes, BytesMut};

use super::columns::decode_batch;
use crate::{
    position::{Epoch, Position, SEQ_MAX},
    wire::telemetry::{Gap, TelemetryBatch},
};
use prost::Message;
use zstd::{bulk::Decompressor, zstd_safe::get_frame_content_size};

pub const HEADER_BYTES: usize = 80;
pub const FRAME_VERSION: u16 = 1;
/// Largest frame that is sent or taken; the broker's packet limit must lie above it.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Largest payload after decompression.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
const MAGIC: &[u8; 4] = b"MWLB";
const ZSTD_LEVEL: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A [`TelemetryBatch`].
    Data,
    /// A [`Gap`]: stands for `seq..=last_seq`, which can't be read back.
    Gap,
    /// A declared break, for a receiver that stands at `previous`, from where the agent's log does not go on: what comes
    /// next is the frame behind `position`. Its seq may be 0, which is before the first frame of that epoch.
    Bridge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Plain,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub codec: Codec,
    /// Epoch and first sequence number.
    pub position: Position,
    /// Equal to `position.seq` unless this is a gap.
    pub last_seq: u64,
    /// In a frame that covers seq 1: where the epoch before ended. None there: a new install.
    /// In a bridge: where its receiver stands. None there: nowhere yet.
    pub previous: Option<Position>,
    /// Readings inside, absent ones not counted.
    pub readings: u32,
    pub payload_bytes: u32,
    pub payload_crc: u32,
}

/// A header with its payload, which may still be damaged: see [`Frame::verify`].
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub header: FrameHeader,
    /// As encoded by the header's codec.
    pub payload: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{bytes} bytes are too few for a frame header")]
    Short { bytes: usize },
    #[error("the frame does not begin with its magic")]
    Magic,
    #[error("frame version {version} is not known here")]
    Version { version: u16 },
    #[error("the header's CRC is wrong")]
    HeaderCrc,
    #[error("the header's {field} is not possible")]
    Header { field: &'static str },
    #[error("the header promises {promised} payload bytes, there are {found}")]
    Length { promised: usize, found: usize },
    #[error("frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("the payload's CRC is wrong")]
    PayloadCrc,
    #[error("the payload can't be decompressed: {reason}")]
    Decompress { reason: String },
    #[error("the payload is not a valid message: {reason}")]
    Decode { reason: String },
}

impl FrameHeader {
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes as usize
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(FRAME_VERSION);
        out.put_u8(match self.kind {
            FrameKind::Data => 0,
            FrameKind::Gap => 1,
            FrameKind::Bridge => 2,
        });
        out.put_u8(match self.codec {
            Codec::Plain => 0,
            Codec::Zstd => 1,
        });
        out.put_slice(&self.position.epoch.0);
        out.put_u64_le(self.position.seq);
        out.put_u64_le(self.last_seq);
        out.put_slice(&self.previous.map_or(Epoch::NONE, |p| p.epoch).0);
        out.put_u64_le(self.previous.map_or(0, |p| p.seq));
        out.put_u32_le(self.readings);
        out.put_u32_le(self.payload_bytes);
        out.put_u32_le(self.payload_crc);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&out);
        header
    }

    /// Reads the first [`HEADER_BYTES`] of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some(h) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short { bytes: bytes.len() });
        };
        if &h[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        let version = u16::from_le_bytes([h[4], h[5]]);
        if version != FRAME_VERSION {
            return Err(FrameError::Version { version });
        }
        if crc32c::crc32c(&h[..76]) != u32_at(h, 76) {
            return Err(FrameError::HeaderCrc);
        }
        let kind = match h[6] {
            0 => FrameKind::Data,
            1 => FrameKind::Gap,
            2 => FrameKind::Bridge,
            _ => return Err(FrameError::Header { field: "kind" }),
        };
        let codec = match h[7] {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            _ => return Err(FrameError::Header { field: "codec" }),
        };
        let position = Position { epoch: epoch_at(h, 8), seq: u64_at(h, 24) };
        let last_seq = u64_at(h, 32);
        if position.epoch == Epoch::NONE || (position.seq == 0 && kind != FrameKind::Bridge) {
            return Err(FrameError::Header { field: "position" });
        }
        if last_seq < position.seq || last_seq > SEQ_MAX || (kind != FrameKind::Gap && last_seq != position.seq) {
            return Err(FrameError::Header { field: "last sequence" });
        }
        let (epoch, seq) = (epoch_at(h, 40), u64_at(h, 56));
        let previous = match Position::possible(epoch, seq) {
            None if epoch == Epoch::NONE && seq == 0 => None,
            Some(from) if kind == FrameKind::Bridge => Some(from),
            Some(previous) if position.seq == 1 && epoch != position.epoch => Some(previous),
            _ => return Err(FrameError::Header { field: "previous position" }),
        };
        let payload_bytes = u32_at(h, 68);
        let header = FrameHeader {
            kind,
            codec,
            position,
            last_seq,
            previous,
            readings: u32_at(h, 64),
            payload_bytes,
            payload_crc: u32_at(h, 72),
        };
        if header.frame_bytes() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: header.frame_bytes() });
        }
        Ok(header)
    }
}

impl Frame {
    /// Seals a batch into its place in the log. `previous` is given for seq 1 only.
    pub fn seal(position: Position, previous: Option<Position>, readings: u32, batch: &TelemetryBatch) -> Self {
        let plain = batch.encode_to_vec();
        let (codec, payload) = match zstd::bulk::compress(&plain, ZSTD_LEVEL) {
            Ok(small) if small.len() < plain.len() => (Codec::Zstd, small),
            _ => (Codec::Plain, plain),
        };
        Self::build(FrameKind::Data, codec, position, position.seq, previous, readings, payload)
    }

    /// A frame that stands for `position.seq..=last_seq`.
    pub fn gap(position: Position, last_seq: u64, previous: Option<Position>, gap: &Gap) -> Self {
        Self::build(FrameKind::Gap, Codec::Plain, position, last_seq, previous, 0, gap.encode_to_vec())
    }

    /// Declares that the log goes on behind `to`, to a receiver that stands at `from`.
    pub fn bridge(from: Option<Position>, to: Position, gap: &Gap) -> Self {
        Self::build(FrameKind::Bridge, Codec::Plain, to, to.seq, from, 0, gap.encode_to_vec())
    }

    fn build(
        kind: FrameKind,
        codec: Codec,
        position: Position,
        last_seq: u64,
        previous: Option<Position>,
        readings: u32,
        payload: Vec<u8>,
    ) -> Self {
        let header = FrameHeader {
            kind,
            codec,
            position,
            last_seq,
            previous,
            readings,
            payload_bytes: payload.len() as u32,
            payload_crc: crc32c::crc32c(&payload),
        };
        Frame { header, payload: payload.into() }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.header.frame_bytes());
        out.put_slice(&self.header.encode());
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// Splits exactly one frame; the payload is not verified yet.
    pub fn split(bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: bytes.len() });
        }
        let header = FrameHeader::decode(&bytes)?;
        let found = bytes.len() - HEADER_BYTES;
        if found != header.payload_bytes as usize {
            return Err(FrameError::Length { promised: header.payload_bytes as usize, found });
        }
        Ok(Frame { header, payload: bytes.slice(HEADER_BYTES..) })
    }

    /// Is the payload what was sealed?
    pub fn verify(&self) -> Result<(), FrameError> {
        let intact = crc32c::crc32c(&self.payload) == self.header.payload_crc;
        intact.then_some(()).ok_or(FrameError::PayloadCrc)
    }

    pub fn batch(&self) -> Result<TelemetryBatch, FrameError> {
        let decode = |b: &[u8]| decode_batch(b).map_err(|e| FrameError::Decode { reason: e.to_string() });
        match self.header.codec {
            Codec::Plain => decode(&self.payload),
            Codec::Zstd => decode(&decompress(&self.payload)?),
        }
    }

    pub fn gap_content(&self) -> Result<Gap, FrameError> {
        Gap::decode(&*self.payload).map_err(|e| FrameError::Decode { reason: e.to_string() })
    }
}

/// A decompressor is larger than most batches: each thread keeps one.
fn decompress(payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    thread_local! {
        static KEPT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let says = get_frame_content_size(payload).ok().flatten().and_then(|bytes| usize::try_from(bytes).ok());
    let bytes_max = says.map_or(PAYLOAD_BYTES_MAX, |bytes| bytes.min(PAYLOAD_BYTES_MAX));
    let failed = |e: io::Error| FrameError::Decompress { reason: e.to_string() };
    KEPT.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(kept) => kept,
            None => kept.insert(Decompressor::new().map_err(failed)?),
        };
        decompressor.decompress(payload, bytes_max).map_err(failed)
    })
}

fn u32_at(h: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

fn u64_at(h: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(h, at)) | u64::from(u32_at(h, at + 4)) << 32
}

fn epoch_at(h: &[u8; HEADER_BYTES], at: usize) -> Epoch {
    let mut epoch = [0; 16];
    epoch.copy_from_slice(&h[at..at + 16]);
    Epoch(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::telemetry::{EventRecord, GapReason, SealTime};

    const EPOCH: Epoch = Epoch(*b"0123456789abcdef");

    fn batch() -> TelemetryBatch {
        TelemetryBatch {
            sealed: Some(SealTime { time_ms: 1, ..Default::default() }),
            events: vec![EventRecord { machine: "m".into(), note: "n".repeat(500), ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let previous = Some(Position { epoch: Epoch([9; 16]), seq: 44 });
        let frame = Frame::seal(Position { epoch: EPOCH, seq: 1 }, previous, 3, &batch());
        assert_eq!(frame.header.codec, Codec::Zstd);
        let back = Frame::split(frame.encode()).unwrap();
        assert_eq!(back, frame);
        back.verify().unwrap();
        assert_eq!(back.batch().unwrap(), batch());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = Frame::seal(Position { epoch: EPOCH, seq: 5 }, None, 0, &batch()).encode();
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let noticed = Frame::split(bytes.into()).and_then(|f| f.verify());
            assert!(noticed.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let frame = Frame::seal(Position { epoch: EPOCH, seq: 5 }, None, 0, &batch()).encode();
        for bytes in 0..frame.len() {
            assert!(Frame::split(frame.slice(..bytes)).is_err(), "{bytes} bytes");
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_limit() {
        let bomb = zstd::bulk::compress(&vec![0; 2 * PAYLOAD_BYTES_MAX], 1).unwrap();
        let position = Position { epoch: EPOCH, seq: 1 };
        let frame = Frame::build(FrameKind::Data, Codec::Zstd, position, 1, None, 0, bomb);
        assert!(matches!(frame.batch(), Err(FrameError::Decompress { .. })));
    }

    #[test]
    fn a_bridge_may_lead_before_the_first_frame() {
        let gap = Gap { reason: GapReason::NewInstall.into(), ..Default::default() };
        for (from, seq) in [(None, 0), (Some(Position { epoch: Epoch([9; 16]), seq: 44 }), 7)] {
            let bridge = Frame::bridge(from, Position { epoch: EPOCH, seq }, &gap);
            let back = Frame::split(bridge.encode()).unwrap();
            assert_eq!((back.gap_content().unwrap(), back), (gap, bridge));
        }
    }

    #[test]
    fn impossible_headers_are_refused() {
        let good = Frame::seal(Position { epoch: EPOCH, seq: 2 }, None, 0, &batch()).header;
        let impossible = [
            FrameHeader { last_seq: 3, ..good },
            FrameHeader { last_seq: 1, ..good },
            FrameHeader { kind: FrameKind::Gap, last_seq: SEQ_MAX + 1, ..good },
            FrameHeader { previous: Some(Position { epoch: EPOCH, seq: 1 }), ..good },
            FrameHeader {
                position: Position { epoch: EPOCH, seq: 1 },
                last_seq: 1,
                previous: Some(Position { epoch: EPOCH, seq: 1 }),
                ..good
            },
            FrameHeader { position: Position { epoch: Epoch::NONE, seq: 2 }, ..good },
            FrameHeader { position: Position { epoch: EPOCH, seq: 0 }, last_seq: 0, ..good },
        ];
        for header in impossible {
            assert!(matches!(FrameHeader::decode(&header.encode()), Err(FrameError::Header { .. })), "{header:?}");
        }
    }
}
