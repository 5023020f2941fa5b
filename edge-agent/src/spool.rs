//! The agent's durable log: what is in it survives a power cut, until the archive has it.
//!
//! ```text
//! 0000000000000007.seg   epoch A, frames 1204..1388     the oldest: removed when committed, or a gap when evicted
//! 0000000000000008.seg   epoch A, frames 1389..1401     its torn tail was cut at start
//! 0000000000000009.seg   epoch B, frames 1..            appended to
//! checkpoint.a, .b       how far the log is committed, and the first segment still needed; written in turn
//! ```
//!
//! Frames are written in groups, one sync for all of them, and are visible (in [`Log`]) only after it. An epoch that
//! was recovered is never appended to. What can't be kept or read back becomes a gap frame, so the log has no hole: each
//! segment says where the epoch before its own ended, so that even a file that is gone is missed.
//!
//! What is committed is removed: first a checkpoint is durable that says so, then the files go, then the folder is synced.
//! A lost checkpoint costs repeats, never data. Opening does not fail for what is in the files: a segment that can't be
//! read, or that a newer version wrote, is set aside as `*.seg.unreadable`.
//!
//! The oldest segments are evicted when the spool is over its bound, too old, or the file system has less room than it must keep.
//! On a full disk their gap is written in the room of the file `reserve`. What can't be written waits in memory.

use std::{
    collections::VecDeque,
    io,
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use proto::{
    position::{Epoch, Position},
    telemetry::{Frame, frame::FRAME_BYTES_MAX},
    time::PlantTime,
};

pub mod checkpoint;
pub mod disk;
pub mod inspect;
pub mod log;
pub mod record;
pub mod segment;
pub mod recovery;
pub mod retention;
mod reader;
mod reserve;
mod ring;
pub mod absent;

pub use reader::{ReadError, SpoolReader};
pub use ring::RING_BYTES_MAX;

use checkpoint::Checkpoints;
use disk::{Disk, DiskWork};
use log::{Extent, Log};
use record::Record;
use recovery::Piece;
use ring::{SharedRing, Waiting};
use segment::{SEGMENT_HEADER_BYTES, SegmentHeader};

pub const GROUP_AFTER: Duration = Duration::from_secs(1);
pub const GROUP_BYTES: usize = 64 * 1024;
pub const SPOOL_BYTES_MAX: u64 = 1024 * 1024 * 1024;
pub const FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// A spool of fewer segments would evict most of itself at once.
pub const SPOOL_SEGMENTS_MIN: u64 = 4;
/// What the disk fails to read so often, in a row, is given up.
const READ_TRIES_MAX: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    pub bytes_max: u64,
    pub segment_bytes: u32,
    /// Room that the file system keeps for others: with less, the oldest are evicted.
    pub free_bytes_min: u64,
    /// What is that much older than the newest is evicted; None: age does not count.
    pub age_max: Option<Duration>,
    /// Frames that wait in memory while the disk fails: with more, the oldest are evicted.
    pub ring_bytes_max: usize,
    /// Time between two commits, unless there is a lot to commit: each one wears the flash.
    pub group_after: Duration,
    /// So much is committed at once.
    pub group_bytes: usize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        SpoolConfig {
            bytes_max: SPOOL_BYTES_MAX,
            segment_bytes: segment::SEGMENT_BYTES_DEFAULT,
            free_bytes_min: FREE_BYTES_MIN,
            age_max: None,
            ring_bytes_max: RING_BYTES_MAX,
            group_after: GROUP_AFTER,
            group_bytes: GROUP_BYTES,
        }
    }
}

/// A retry can help: nothing that was appended is forgotten by an error.
#[derive(Debug, thiserror::Error)]
#[error("spool: cannot {action} {file}: {source}")]
pub struct SpoolError {
    pub action: &'static str,
    pub file: String,
    pub source: io::Error,
}

pub(crate) trait Context<T> {
    fn context(self, action: &'static str, file: &str) -> Result<T, SpoolError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, file: &str) -> Result<T, SpoolError> {
        self.map_err(|source| SpoolError { action, file: file.to_owned(), source })
    }
}

/// The index of the log, shared with whoever sends it. Held for moments only, never across I/O.
#[derive(Debug, Clone, Default)]
pub struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    pub fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    epoch: Epoch,
    previous: Option<Position>,
    bytes: u64,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    pub batches: u64,
    /// Known to have been inside.
    pub readings: u64,
}

/// What became gaps since the spool was opened, and what opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    pub evicted: Loss,
    pub damaged: Loss,
    pub quarantined: Loss,
    /// Segments that became a gap to make room.
    pub segments_evicted: u64,
    /// Segments that could not be read and were set aside.
    pub segments_set_aside: u64,
}

impl<'e> FromIterator<&'e Extent> for Loss {
    fn from_iter<I: IntoIterator<Item = &'e Extent>>(lost: I) -> Self {
        lost.into_iter().fold(Loss::default(), |loss, e| Loss {
            batches: loss.batches + e.last_seq - e.position.seq + 1,
            readings: loss.readings + e.readings,
        })
    }
}

impl AddAssign for Loss {
    fn add_assign(&mut self, more: Loss) {
        self.batches += more.batches;
        self.readings += more.readings;
    }
}

/// The writing side; there is one.
#[derive(Debug)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    config: SpoolConfig,
    log: SharedLog,
    /// In log order. The last one is appended to if `active`.
    segments: VecDeque<Segment>,
    active: bool,
    /// The last segment's file may hold more than is accounted for, or not exist: a write to it failed.
    torn: bool,
    next_number: u64,
    epoch: Epoch,
    next_seq: u64,
    /// Where the epoch before this one ended.
    previous: Option<Position>,
    /// Appended and not durable yet.
    ring: SharedRing,
    /// Frames left the ring as committed, and no checkpoint says so yet.
    checkpoint_due: bool,
    /// Seal time of the newest frame that is durable, or in the archive.
    sealed: Option<PlantTime>,
    losses: Losses,
    checkpoints: Checkpoints,
    /// The frame that the disk failed to read last, and how often in a row.
    failed_read: Option<(Position, u32)>,
    /// The file of the reserve is there.
    reserved: bool,
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
    fn rewrite(&self, number: u64, header: SegmentHeader, pieces: Vec<Piece>) -> Result<Vec<Extent>, SpoolError> {
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

    pub fn log(&self) -> SharedLog {
        self.log.clone()
    }

    /// Place of the next frame to append: its position and, for the first of the epoch, the position before it.
    pub fn next(&self) -> (Position, Option<Position>) {
        let position = Position { epoch: self.epoch, seq: self.next_seq };
        (position, self.previous.filter(|_| self.next_seq == 1))
    }

    /// Seal time of the newest durable frame, also from before this start: up to here sources need not go back.
    pub fn sealed(&self) -> Option<PlantTime> {
        self.sealed
    }

    /// Other bounds, which the next commit keeps to.
    pub fn reconfigure(&mut self, config: SpoolConfig) {
        self.config = config;
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// What this start asked of the disk.
    pub fn work(&self) -> DiskWork {
        self.disk.work()
    }

    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Adds a frame, sealed for [`Spool::next`], to the group that the next commit makes durable.
    pub fn append(&mut self, frame: &Frame, sealed: PlantTime) {
        debug_assert_eq!(frame.header.position, self.next().0);
        let bytes = frame.encode();
        debug_assert!(bytes.len() <= FRAME_BYTES_MAX, "it would be read back as damage");
        let record = Record { header: frame.header, readings: u64::from(frame.header.readings), bytes };
        self.ring.lock().push(Waiting { record, sealed });
        self.next_seq += 1;
    }

    pub fn config(&self) -> &SpoolConfig {
        &self.config
    }

    /// True when the group should be committed before more is appended.
    pub fn group_is_full(&self) -> bool {
        self.ring.lock().bytes() >= segment::GROUP_BYTES_MAX / 2
    }

    /// True when the group need not wait for more.
    pub fn group_is_large(&self) -> bool {
        self.ring.lock().bytes() >= self.config.group_bytes
    }

    /// Makes what was appended durable and visible. After an error nothing is lost: the next commit writes the same
    /// frames under the same sequence numbers into a new segment.
    pub fn commit(&mut self) -> Result<(), SpoolError> {
        loop {
            let group = self.ring.lock().group(segment::GROUP_BYTES_MAX);
            let Some(Waiting { sealed, .. }) = group.last() else {
                return Ok(());
            };
            let sealed = Some(*sealed);
            let records: Vec<_> = group.into_iter().map(|w| w.record).collect();
            self.commit_group(&records)?;
            self.sealed = sealed;
            self.keep_reserve();
        }
    }

    fn commit_group(&mut self, group: &[Record]) -> Result<(), SpoolError> {
        let bytes = group.iter().map(|r| r.bytes.len()).sum();
        self.clear_torn()?;
        if self.checkpoint_due {
            self.with_reserve(Self::remove_freed)?;
        }
        self.evict_aged(bytes)?;
        self.make_room((bytes + SEGMENT_HEADER_BYTES) as u64)?;
        let extents = match self.write_group(group, bytes) {
            Ok(extents) => extents,
            Err(error) => {
                // At once, since the disk may be full; if that fails, too, before anything else is written.
                let _ = self.clear_torn();
                return Err(error);
            }
        };
        let mut log = self.log.lock();
        for extent in extents {
            match log.order(extent.position) {
                // It was visible in memory.
                Some(_) => log.replace(extent),
                None => log.push(extent),
            }
        }
        drop(log);
        self.ring.lock().remove_first(group.len());
        Ok(())
    }

    fn write_group(&mut self, group: &[Record], bytes: usize) -> Result<Vec<Extent>, SpoolError> {
        if self.begins_segment(bytes) {
            self.begin_segment(group)?;
        }
        let Some(active) = self.segments.back_mut() else {
            return Ok(Vec::new());
        };
        let name = segment::name(active.number);
        let bytes = group.iter().fold(Vec::with_capacity(bytes), |mut all, record| {
            all.extend_from_slice(&record.bytes);
            all
        });
        // After a failed sync nobody knows what is on the disk: the file is never appended to again.
        (self.torn, self.active) = (true, false);
        self.disk.append(&name, &bytes).context("append to", &name)?;
        self.disk.sync(&name).context("sync", &name)?;
        (self.torn, self.active) = (false, true);
        let extents = segment::extents(active.number, active.bytes, group);
        active.bytes += bytes.len() as u64;
        Ok(extents)
    }

    /// A group of so many bytes goes into a segment of its own.
    fn begins_segment(&self, group_bytes: usize) -> bool {
        let full = |s: &Segment| s.bytes + group_bytes as u64 > u64::from(self.config.segment_bytes);
        !self.active || self.segments.back().is_none_or(full)
    }

    fn begin_segment(&mut self, group: &[Record]) -> Result<(), SpoolError> {
        let Some(first) = group.first().map(|r| r.header.position) else {
            return Ok(());
        };
        let number = self.next_number;
        let header = SegmentHeader { first, previous: self.previous }.encode();
        let name = segment::name(number);
        self.next_number += 1;
        self.active = false;
        self.disk.create(&name).context("create", &name)?;
        let (epoch, previous, bytes) = (self.epoch, self.previous, header.len() as u64);
        self.segments.push_back(Segment { number, epoch, previous, bytes });
        self.torn = true;
        self.disk.append(&name, &header).context("append to", &name)?;
        self.sync_folder()?;
        (self.torn, self.active) = (false, true);
        Ok(())
    }

    /// Cuts what a failed write left in the last segment, so that retries never fill the disk themselves.
    fn clear_torn(&mut self) -> Result<(), SpoolError> {
        let Some(last) = self.segments.back().filter(|_| self.torn).copied() else {
            return Ok(());
        };
        if last.bytes > SEGMENT_HEADER_BYTES as u64 {
            let name = segment::name(last.number);
            self.disk.truncate(&name, last.bytes).context("cut", &name)?;
        } else {
            self.remove(last.number)?;
            self.segments.pop_back();
        }
        self.torn = false;
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), SpoolError> {
        self.disk.sync_folder().context("sync", "the folder")
    }

    fn remove(&self, number: u64) -> Result<(), SpoolError> {
        let name = segment::name(number);
        match self.disk.remove(&name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.context("remove", &name),
        }
    }

    pub fn reader(&self) -> SpoolReader {
        SpoolReader::new(self.disk.clone(), self.log.clone(), self.ring.clone())
    }
}

/// One buffer goes from segment to segment: an allocator that gets back a large one for each keeps them, and a
/// gateway has little memory.
fn read_segment(disk: &dyn Disk, number: u64, mut buffer: Vec<u8>) -> Result<Bytes, SpoolError> {
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

#[cfg(test)]
mod tests;
