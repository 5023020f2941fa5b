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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
mod group;
mod losses;
mod opening;
mod reader;
mod reserve;
mod ring;
pub mod absent;

pub use losses::{Loss, Losses};
pub use opening::Recovered;
pub use reader::{ReadError, SpoolReader};
pub use ring::RING_BYTES_MAX;

use checkpoint::Checkpoints;
use disk::{Disk, DiskWork};
use log::Log;
use record::Record;
use ring::{SharedRing, Waiting};

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

#[cfg(test)]
mod tests;
