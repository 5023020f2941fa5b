//! What the spool asks of a file system, so small that every point at which the power can fail has a name.
//!
//! Bytes survive a power cut after [`Disk::sync`]; a name (created, renamed, removed) after [`Disk::sync_folder`].

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What was asked of a disk since it was opened: what wears out a gateway's flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskWork {
    /// Given to write calls. What the file system writes for it is more.
    pub bytes_written: u64,
    /// Of files and of the folder.
    pub syncs: u64,
}

pub trait Disk: fmt::Debug + Send + Sync + 'static {
    fn list(&self) -> io::Result<Vec<String>>;
    fn bytes(&self, name: &str) -> io::Result<u64>;
    /// Exactly `bytes` bytes, or an error.
    fn read(&self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>>;
    /// The same into a buffer that is used again, so that a large one is asked for once.
    fn read_into(&self, name: &str, offset: u64, bytes: usize, out: &mut Vec<u8>) -> io::Result<()> {
        *out = self.read(name, offset, bytes)?;
        Ok(())
    }
    /// A new, empty file; one that was there is emptied.
    fn create(&self, name: &str) -> io::Result<()>;
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self, name: &str) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_folder(&self) -> io::Result<()>;

    /// Room that is left for this program; a disk that does not know has enough.
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    /// True when a start would find a disk that this one had to begin without.
    fn is_back(&self) -> bool {
        false
    }

    /// A disk that does not count has done nothing.
    fn work(&self) -> DiskWork {
        DiskWork::default()
    }

    /// A small file as a whole, up to `bytes_max`; None: there is none.
    fn read_small(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        match self.bytes(name) {
            Ok(bytes) => self.read(name, 0, bytes.min(bytes_max) as usize).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Keeps the first `bytes` bytes of a file that has at least as many.
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let kept = self.read(name, 0, bytes as usize)?;
        self.replace(name, &kept)
    }

    /// Writes over the content of a file in place, and syncs it; its name is as durable as before. After a power cut it
    /// may be torn, unless the disk can do better.
    fn overwrite(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.replace(name, bytes)?;
        self.sync_folder()
    }

    /// Replaces a file as a whole: after a power cut it is the old one or the new one, and surely the new one only
    /// after the folder is synced.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        self.create(&temporary)?;
        self.append(&temporary, bytes)?;
        self.sync(&temporary)?;
        self.rename(&temporary, name)
    }
}

/// A folder of the real file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held as long as this lives: two agents in one folder would write over each other. None: only to look at.
    _lock: Option<File>,
    /// The file that was appended to last: nearly always the next one, too.
    open: Mutex<Option<(String, File)>>,
    bytes_written: AtomicU64,
    syncs: AtomicU64,
}

impl Folder {
    /// Creates the folder if it is not there.
    ///
    /// # Errors
    /// `ResourceBusy` if another process has it.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        create_all(&path)?;
        let lock = File::create(path.join("lock"))?;
        let in_use = |e| io::Error::new(io::ErrorKind::ResourceBusy, format!("in use by another agent ({e})"));
        lock.try_lock().map_err(in_use)?;
        Ok(Folder { _lock: Some(lock), ..Self::view(path) })
    }

    /// To read only, also beside the process that has it: nothing is created, and it must not be written to.
    pub fn view(path: impl Into<PathBuf>) -> Self {
        Folder {
            path: path.into(),
            _lock: None,
            open: Mutex::default(),
            bytes_written: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    fn with_open<T>(&self, name: &str, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *open {
            Some((held, file)) if held == name => act(file),
            other => {
                let file = OpenOptions::new().append(true).open(self.path.join(name))?;
                let (_, file) = other.insert((name.to_owned(), file));
                act(file)
            }
        }
    }

    fn close(&self, name: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|(held, _)| held == name) {
            *open = None;
        }
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    }

    fn bytes(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.read_into(name, offset, bytes, &mut out)?;
        Ok(out)
    }

    fn read_into(&self, name: &str, offset: u64, bytes: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.resize(bytes, 0);
        File::open(self.path.join(name))?.read_exact_at(out, offset)
    }

    fn create(&self, name: &str) -> io::Result<()> {
        self.close(name);
        File::create(self.path.join(name)).map(drop)
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.bytes_written.fetch_add(bytes.len() as u64, Relaxed);
        self.with_open(name, |file| file.write_all(bytes))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        self.with_open(name, |file| file.sync_data())
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.with_open(name, |file| file.set_len(bytes))
    }

    fn overwrite(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        self.bytes_written.fetch_add(bytes.len() as u64, Relaxed);
        self.syncs.fetch_add(1, Relaxed);
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.close(from);
        self.close(to);
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.close(name);
        fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        File::open(&self.path)?.sync_all()
    }

    fn work(&self) -> DiskWork {
        DiskWork { bytes_written: self.bytes_written.load(Relaxed), syncs: self.syncs.load(Relaxed) }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let system = rustix::fs::statvfs(&self.path)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
}

/// Creates a folder with all above it. Each is an entry of the one above, which must be synced for it, or a power cut
/// takes the folder with everything in it.
fn create_all(path: &Path) -> io::Result<()> {
    let new = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).count();
    fs::create_dir_all(path)?;
    path.ancestors().skip(1).take(new).try_for_each(|parent| {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()
    })
}

#[cfg(any(test, feature = "memory-disk"))]
pub mod memory;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_created_with_all_above_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path().join("a/b/c")).unwrap();
        folder.create("f").unwrap();
        folder.append("f", b"12345").unwrap();
        folder.truncate("f", 3).unwrap();
        folder.append("f", b"6").unwrap();
        assert_eq!(folder.read("f", 0, 4).unwrap(), b"1236");
        folder.replace("f", b"12").unwrap();
        folder.overwrite("f", b"123").unwrap();
        folder.sync_folder().unwrap();
        assert_eq!(folder.work(), DiskWork { bytes_written: 5 + 1 + 2 + 3, syncs: 3 });
        drop(folder);
        Folder::open(root.path().join("a/b/c")).unwrap();
    }
}
