//! How much the folder may hold, and what is said when it holds that much.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub const BYTES_MAX: u64 = 20 * GIB;
/// Left free on the disk: the gateways' spools and the factory's state are on it too.
const FREE_BYTES_MIN: u64 = GIB / 2;
const GIB: u64 = 1 << 30;

/// Why nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Bound,
    Disk,
}

#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    bytes_max: u64,
    used: AtomicU64,
    /// What was said last, so that it is said once.
    said: Mutex<Option<Full>>,
}

impl Room {
    /// Counts what is in the folder.
    pub fn new(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        Ok(Room {
            folder: folder.into(),
            bytes_max,
            used: AtomicU64::new(bytes_under(folder)?),
            said: Mutex::default(),
        })
    }

    /// May so many bytes be written? Says it where the answer has changed.
    pub fn check(&self, bytes: u64) -> Result<(), Full> {
        // A file system that does not tell is taken to have room: its own error will say otherwise.
        let free =
            rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let full = judge(self.used.load(Ordering::Relaxed).saturating_add(bytes), self.bytes_max, free);
        self.say(full);
        full.map_or(Ok(()), Err)
    }

    /// The disk was full before it was expected to be.
    pub fn disk_is_full(&self) {
        self.say(Some(Full::Disk));
    }

    /// A file has grown from so many bytes to so many.
    pub fn changed(&self, before: u64, after: u64) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            Some(used.saturating_add(after).saturating_sub(before))
        });
    }

    fn say(&self, full: Option<Full>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *said, full);
        if before == full {
            return;
        }
        let (folder, gib) = (self.folder.display(), self.bytes_max as f64 / GIB as f64);
        match full {
            Some(Full::Bound) => tracing::error!(
                "{folder} holds the {gib:.1} GiB that it may: nothing more is archived, and the gateways keep what \
                 comes; stop, and start with a larger --data-gib-max"
            ),
            Some(Full::Disk) => tracing::error!(
                "the disk of {folder} is full: nothing more is archived, and the gateways keep what comes; it goes on \
                 by itself when there is room"
            ),
            None => tracing::warn!("{folder} has room again"),
        }
    }
}

fn judge(used: u64, bytes_max: u64, free: u64) -> Option<Full> {
    match (used > bytes_max, free < FREE_BYTES_MIN) {
        (_, true) => Some(Full::Disk),
        (true, false) => Some(Full::Bound),
        (false, false) => None,
    }
}

fn bytes_under(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { bytes_under(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_are_kept() {
        assert_eq!(judge(10, 10, FREE_BYTES_MIN), None);
        assert_eq!(judge(11, 10, FREE_BYTES_MIN), Some(Full::Bound));
        assert_eq!(judge(0, 10, FREE_BYTES_MIN - 1), Some(Full::Disk));
    }

    #[test]
    fn what_is_there_counts_from_the_start_and_what_is_removed_no_more() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), [0; 60]).unwrap();
        let room = Room::new(folder.path(), 100).unwrap();
        assert_eq!(room.check(40), Ok(()));
        assert_eq!(room.check(41), Err(Full::Bound));
        room.changed(60, 20);
        assert_eq!(room.check(80), Ok(()));
    }
}
