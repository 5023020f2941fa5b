//! Opening: what is on the disk becomes the log again, and what can't be read a gap in it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use proto::{
    position::{Epoch, Position},
    time::PlantTime,
};

use super::{
    Context, Losses, READ_TRIES_MAX, Segment, SharedLog, Spool, SpoolConfig, SpoolError,
    checkpoint::Checkpoints,
    disk::Disk,
    log::{Extent, Log},
    recovery::{self, Piece},
    reserve,
    ring::SharedRing,
    segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    pub frames: u64,
    /// Sequence numbers that became gaps.
    pub lost: u64,
    pub damaged_bytes: u64,
    /// Segments that were set aside.
    pub unreadable: u64,
}

impl Spool {
    /// Recovers what is on the disk, and begins `epoch`, which must be new.
    pub fn open(disk: Arc<dyn Disk>, config: SpoolConfig, epoch: Epoch) -> Result<(Self, Recovered), SpoolError> {
        let (mut numbers, mut reserved) = (Vec::new(), false);
        for name in disk.list().context("list", "the folder")? {
            if name.ends_with(".tmp") {
                disk.remove(&name).context("remove", &name)?;
            }
            numbers.extend(segment::number(&name));
            reserved |= name == reserve::RESERVE;
        }
        numbers.sort_unstable();
        let (checkpoints, checkpoint) = Checkpoints::load(&*disk)?;
        let keep = numbers.partition_point(|n| *n < checkpoint.keep_from);
        let next_number = numbers.last().map_or(0, |n| n + 1).max(checkpoint.keep_from);
        let mut spool = Spool {
            disk,
            config,
            log: SharedLog::default(),
            segments: VecDeque::new(),
            active: false,
            torn: false,
            next_number,
            epoch,
            next_seq: 1,
            previous: None,
            ring: SharedRing::default(),
            checkpoint_due: false,
            sealed: checkpoint.sealed,
            losses: Losses::default(),
            checkpoints,
            failed_read: None,
            reserved,
        };
        for freed in numbers.drain(..keep) {
            spool.remove(freed)?;
        }
        let recovered = spool.recover(&numbers, checkpoint.committed)?;
        spool.losses.damaged.batches = recovered.lost;
        spool.losses.segments_set_aside = recovered.unreadable;
        let newest = {
            let mut log = spool.log.lock();
            spool.previous = log.last();
            log.link(spool.epoch, spool.previous);
            log.extents().last().copied()
        };
        let sealed = newest.and_then(|e| spool.seal_time(&e)).map(|s| PlantTime(s.time_ms));
        spool.sealed = sealed.or(spool.sealed);
        spool.keep_reserve();
        Ok((spool, recovered))
    }

    fn recover(&mut self, numbers: &[u64], committed: Option<Position>) -> Result<Recovered, SpoolError> {
        let mut found = Vec::with_capacity(numbers.len());
        let mut buffer = Vec::new();
        let mut unreadable = 0;
        for number in numbers {
            let bytes = match read_segment(&*self.disk, *number, std::mem::take(&mut buffer)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.set_aside(*number, &error.to_string())?;
                    unreadable += 1;
                    continue;
                }
            };
            let scanned = segment::scan(*number, &bytes);
            if scanned.is_newer(&bytes) {
                self.set_aside(*number, "it was written by a newer version")?;
                unreadable += 1;
            } else {
                found.push(scanned);
            }
            buffer = bytes.try_into_mut().map(Vec::from).unwrap_or_default();
        }
        let begins = found.first().map(|s| s.number) == numbers.first().copied();
        let begin = match self.checkpoints.damaged && begins {
            true => recovery::begin(&found, committed),
            false => committed,
        };
        *self.log.lock() = Log::new(begin);
        let resolution = recovery::resolve(found, begin);
        let (lost, damaged_bytes) = (resolution.lost, resolution.damaged_bytes);
        let changes = unreadable > 0 || !resolution.remove.is_empty() || resolution.segments.iter().any(|s| s.rewrite);
        let mut frames = 0;
        for resolved in resolution.segments {
            let SegmentHeader { first, previous } = resolved.header;
            let (number, bytes) = (resolved.number, resolved.bytes);
            let extents = match resolved.rewrite {
                true => self.with_reserve(|spool| spool.rewrite(number, resolved.header, resolved.pieces.clone()))?,
                false => resolved.pieces.into_iter().filter_map(Piece::kept).collect(),
            };
            frames += extents.len() as u64;
            self.segments.push_back(Segment { number, epoch: first.epoch, previous, bytes });
            let mut log = self.log.lock();
            log.link(first.epoch, previous);
            extents.into_iter().for_each(|e| log.push(e));
        }
        if changes {
            self.sync_folder()?;
        }
        // Only now: a gap in a segment behind them stands for what was in them.
        for number in resolution.remove {
            self.remove(number)?;
        }
        Ok(Recovered { frames, lost, damaged_bytes, unreadable })
    }

    /// Replaces a segment file as a whole, durable once the folder is synced; returns where its frames lie then.
    pub(super) fn rewrite(
        &self,
        number: u64,
        header: SegmentHeader,
        pieces: Vec<Piece>,
    ) -> Result<Vec<Extent>, SpoolError> {
        let name = segment::name(number);
        let reader = self.reader();
        let mut records = Vec::with_capacity(pieces.len());
        for piece in pieces {
            records.extend(match piece {
                Piece::Keep(extent) => reader.read_at(&extent)?,
                Piece::Gap(record) => Some(*record),
            });
        }
        let bytes = records.iter().fold(header.encode(), |mut all, record| {
            all.extend_from_slice(&record.bytes);
            all
        });
        self.disk.replace(&name, &bytes).context("rewrite", &name)?;
        Ok(segment::extents(number, SEGMENT_HEADER_BYTES as u64, &records))
    }
}

/// One buffer goes from segment to segment: an allocator that gets back a large one for each keeps them, and a
/// gateway has little memory.
pub(super) fn read_segment(disk: &dyn Disk, number: u64, mut buffer: Vec<u8>) -> Result<Bytes, SpoolError> {
    let name = segment::name(number);
    let most = u64::from(segment::SEGMENT_BYTES_MAX) + segment::GROUP_BYTES_MAX as u64;
    let bytes = disk.bytes(&name).context("measure", &name)?.min(most);
    let mut read = || disk.read_into(&name, 0, bytes as usize, &mut buffer);
    let mut outcome = read();
    for _ in 1..READ_TRIES_MAX {
        if outcome.is_err() {
            outcome = read();
        }
    }
    outcome.context("read", &name)?;
    Ok(buffer.into())
}
