//! Files that wait for S3: a bounded folder of this process alone. The next start throws it away, so that it needs no
//! fsync: what was in it comes again from the gateways. But not before this process has ended: one that was frozen and
//! taken over must still find its files, or it would fail over them for ever instead of meeting the newer manifest.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::{ack::Incarnation, archive::Shard};

const EXTENSION: &str = "staged";
/// In a process's folder, held by it; and in the one above, held while folders come and go.
const LOCK_FILE: &str = "lock";
/// Names the last incarnation that wrote from here.
const INCARNATION_FILE: &str = "incarnation";
/// Before a folder's random name. Nothing else is touched.
const PREFIX: &str = "process-";

#[derive(Debug)]
pub struct Staging {
    /// Of this process, in the shard's.
    own: PathBuf,
    /// Given up with the process, however that ends.
    _lock: File,
    incarnation: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    ended: bool,
}

/// A file that is there for as long as this is.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    bytes: u64,
    staging: Arc<Staging>,
}

impl Staging {
    pub fn open(root: &Path, shard: Shard, bytes_max: u64) -> io::Result<Arc<Self>> {
        let folder = root.join(format!("shard={:02}", shard.0));
        fs::create_dir_all(&folder)?;
        let opening = File::create(folder.join(LOCK_FILE))?;
        opening.lock()?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && lock(&entry.path())?.is_some() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let own = folder.join(format!("{PREFIX}{:032x}", rand::random::<u128>()));
        fs::create_dir(&own)?;
        let lock = lock(&own)?.ok_or(io::ErrorKind::ResourceBusy)?;
        let incarnation = folder.join(INCARNATION_FILE);
        let (state, changed) = (Mutex::default(), Condvar::new());
        Ok(Arc::new(Staging { own, _lock: lock, incarnation, bytes_max, state, changed }))
    }

    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    pub fn has_room(&self) -> bool {
        let state = self.state();
        !state.ended && state.bytes < self.bytes_max
    }

    /// Blocks until so many bytes fit; a segment larger than the bound goes alone. False: staging has ended.
    pub fn wait_for_room(&self, bytes: u64) -> bool {
        let full = |s: &mut State| !s.ended && s.bytes > 0 && s.bytes.saturating_add(bytes) > self.bytes_max;
        let state = self.changed.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
        !state.ended
    }

    /// False: staging has ended, perhaps before the time was over.
    pub fn wait_unless_ended(&self, time: Duration) -> bool {
        let (state, _) =
            self.changed.wait_timeout_while(self.state(), time, |s| !s.ended).unwrap_or_else(PoisonError::into_inner);
        !state.ended
    }

    /// Nobody needs to wait for room any more.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Of the process before this one; None: there was none, or nobody knows.
    pub fn last_incarnation(&self) -> Option<Incarnation> {
        fs::read_to_string(&self.incarnation).ok()?.trim().parse().ok()
    }

    pub fn remember_incarnation(&self, incarnation: Incarnation) -> io::Result<()> {
        fs::write(&self.incarnation, incarnation.to_string())
    }

    /// `name` is new for this process.
    pub fn write(self: &Arc<Self>, name: &str, content: &[u8]) -> io::Result<StagedFile> {
        let path = self.own.join(name).with_extension(EXTENSION);
        self.state().bytes += content.len() as u64;
        // Dropped on an error: then the room is free again.
        let file = StagedFile { path, bytes: content.len() as u64, staging: self.clone() };
        fs::write(&file.path, content)?;
        Ok(file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None: a living process has this folder.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::create(folder.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

impl StagedFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), error = %e, "a staged file stays until the next start");
        }
        self.staging.state().bytes -= self.bytes;
        self.staging.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_accounted_and_freed() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path(), Shard(0), 10).unwrap();
        let file = staging.write("1", &[0; 10]).unwrap();
        assert!(file.path().is_file());
        assert_eq!((staging.bytes(), staging.has_room()), (10, false));
        let path = file.path().to_owned();
        drop(file);
        assert_eq!((staging.bytes(), staging.has_room(), path.exists()), (0, true, false));
        assert!(staging.wait_for_room(1_000), "a segment larger than the bound goes alone");
    }

    #[test]
    fn a_writer_waits_for_room_until_there_is_some_or_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path(), Shard(0), 10).unwrap();
        let wait = |staging: &Arc<Staging>| {
            let staging = staging.clone();
            std::thread::spawn(move || staging.wait_for_room(5))
        };
        let file = staging.write("1", &[0; 6]).unwrap();
        let waiting = wait(&staging);
        drop(file);
        assert!(waiting.join().unwrap());
        let _file = staging.write("2", &[0; 6]).unwrap();
        let waiting = wait(&staging);
        staging.end();
        assert!(!waiting.join().unwrap() && !staging.has_room());
    }

    #[test]
    fn what_an_ended_process_left_is_thrown_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let ended = Staging::open(dir.path(), Shard(0), 10).unwrap();
        let left = ended.own.join("1-2.staged");
        fs::write(&left, "x").unwrap();
        let notes = dir.path().join("shard=00/notes.txt");
        fs::write(&notes, "x").unwrap();
        drop(ended);
        let frozen = Staging::open(dir.path(), Shard(0), 10).unwrap();
        let waiting = frozen.write("1", &[0; 6]).unwrap();
        let staging = Staging::open(dir.path(), Shard(0), 10).unwrap();
        assert_eq!(staging.bytes(), 0);
        assert!(!left.exists() && notes.exists());
        assert!(waiting.path().exists(), "its process is alive, and may find out that it was taken over");
    }

    #[test]
    fn a_failed_write_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path(), Shard(0), 10).unwrap();
        fs::remove_dir_all(&staging.own).unwrap();
        assert!(staging.write("1", &[0; 6]).is_err());
        assert_eq!(staging.bytes(), 0);
    }
}
