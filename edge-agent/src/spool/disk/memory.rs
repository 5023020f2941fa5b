//! A disk that forgets what was not synced, for tests. It records what is done to it, so that a test can let the power
//! fail at every point of a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::Rng;

use super::Disk;

/// Everything that changes the disk.
#[derive(Debug, Clone)]
pub enum Operation {
    Create(String),
    Append(String, Vec<u8>),
    Overwrite(String, Vec<u8>),
    Truncate(String, u64),
    Sync(String),
    Rename(String, String),
    Remove(String),
    SyncFolder,
    /// Not by the spool: a bit flips.
    Damage(String, usize),
}

/// What a power cut leaves of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    Dropped,
    Kept,
    /// The first half.
    Torn,
}

impl Unsynced {
    pub const ALL: [Unsynced; 3] = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn];

    fn of(self, count: usize) -> usize {
        match self {
            Unsynced::Dropped => 0,
            Unsynced::Kept => count,
            Unsynced::Torn => count / 2,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

impl Content {
    /// Where the content begins to differ from what is durable, it is as it was written for `kept` bytes more.
    fn crash(&mut self, kept: impl FnOnce(usize) -> usize) {
        let same = self.bytes.iter().zip(&self.durable).take_while(|(new, old)| new == old).count();
        let unsynced = self.bytes.len().max(self.durable.len()) - same;
        let kept = kept(unsynced);
        if kept < unsynced {
            let end = same + kept;
            let old = self.durable.get(end..).unwrap_or_default().iter();
            self.bytes = self.bytes.iter().take(end).chain(old).copied().collect();
        }
        self.durable = self.bytes.clone();
    }

    fn sync(&mut self) {
        self.durable = self.bytes.clone();
    }
}

type Names = BTreeMap<String, usize>;

/// Files are numbered, as inodes are: a name is an entry of the folder, durable on its own.
#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: Names,
    /// As they were after the last sync of the folder, and after each change since.
    history: Vec<Names>,
    /// Operations that write, left until the next one fails; None: none does.
    writes_left: Option<u32>,
    /// Of all files together; None: there is always room.
    bytes_max: Option<usize>,
    /// Files that can't be read.
    unreadable: BTreeSet<String>,
    operations: Vec<Operation>,
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].bytes.len()).sum()
    }

    fn room(&self) -> usize {
        self.bytes_max.map_or(usize::MAX, |most| most.saturating_sub(self.used()))
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names)) {
        if self.history.is_empty() {
            self.history.push(self.names.clone());
        }
        change(&mut self.names);
        self.history.push(self.names.clone());
    }

    fn crash(&mut self, mut bytes: impl FnMut(usize) -> usize, names: impl FnOnce(usize) -> usize) {
        self.files.iter_mut().for_each(|file| file.crash(&mut bytes));
        if !self.history.is_empty() {
            let at = names(self.history.len() - 1);
            self.names = self.history.swap_remove(at);
        }
        self.history.clear();
        self.writes_left = None;
    }
}

#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

impl Memory {
    /// The disk after these operations.
    ///
    /// # Errors
    /// They were not recorded from an empty disk.
    pub fn after(operations: &[Operation]) -> io::Result<Self> {
        let disk = Memory::default();
        for operation in operations {
            match operation {
                Operation::Create(name) => disk.create(name)?,
                Operation::Append(name, bytes) => disk.append(name, bytes)?,
                Operation::Overwrite(name, bytes) => disk.write_over(name, bytes)?,
                Operation::Truncate(name, bytes) => disk.truncate(name, *bytes)?,
                Operation::Sync(name) => disk.sync(name)?,
                Operation::Rename(from, to) => disk.rename(from, to)?,
                Operation::Remove(name) => disk.remove(name)?,
                Operation::SyncFolder => disk.sync_folder()?,
                Operation::Damage(name, at) => disk.damage(name, *at),
            }
        }
        Ok(disk)
    }

    /// All that succeeded, and what a write that failed left behind.
    pub fn operations(&self) -> Vec<Operation> {
        self.state().operations.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails: of each file, a random part of what was not synced survives, and of the folder's changes those
    /// up to a random one.
    pub fn crash(&self, rng: &mut impl Rng) {
        let names = rng.random_range(0.0..=1.0);
        self.state().crash(|count| rng.random_range(0..=count), |count| (count as f64 * names).round() as usize);
    }

    /// The power fails, and leaves what is asked for.
    pub fn power_cut(&self, bytes: Unsynced, names: Unsynced) {
        self.state().crash(|count| bytes.of(count), |count| names.of(count));
    }

    /// Lets this many more writing operations pass; all that follow fail until the next crash.
    pub fn fail_after(&self, writes: u32) {
        self.state().writes_left = Some(writes);
    }

    pub fn heal(&self) {
        self.state().writes_left = None;
    }

    /// Leaves room for this many more bytes.
    pub fn fill(&self, bytes_left: usize) {
        let mut state = self.state();
        state.bytes_max = Some(state.used() + bytes_left);
    }

    /// Flips a bit, as a dying card does. Does nothing where there is none.
    pub fn damage(&self, name: &str, at: usize) {
        let mut state = self.state();
        let Some(file) = state.names.get(name).copied() else { return };
        let Content { bytes, durable } = &mut state.files[file];
        [bytes, durable].into_iter().filter_map(|content| content.get_mut(at)).for_each(|byte| *byte ^= 1);
        state.operations.push(Operation::Damage(name.to_owned(), at));
    }

    /// Lets every read of a file fail, as a bad block does, until it is removed.
    pub fn make_unreadable(&self, name: &str) {
        self.state().unreadable.insert(name.to_owned());
    }

    fn write<T>(
        &self,
        operation: impl FnOnce() -> Operation,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        match &mut state.writes_left {
            Some(0) => return Err(io::Error::other("injected")),
            Some(left) => *left -= 1,
            None => {}
        }
        let done = act(&mut state)?;
        state.operations.push(operation());
        Ok(done)
    }

    fn write_over(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let operation = || Operation::Overwrite(name.to_owned(), bytes.to_vec());
        self.write(operation, |state| {
            find(state, name)?.bytes = bytes.to_vec();
            Ok(())
        })
    }
}

fn find<'s>(state: &'s mut State, name: &str) -> io::Result<&'s mut Content> {
    let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
    Ok(&mut state.files[file])
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn bytes(&self, name: &str) -> io::Result<u64> {
        Ok(find(&mut self.state(), name)?.bytes.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        if state.unreadable.contains(name) {
            return Err(io::Error::other("bad block"));
        }
        let from = offset as usize;
        let part = find(&mut state, name)?.bytes.get(from..from + bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(part.to_vec())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        self.write(
            || Operation::Create(name.to_owned()),
            |state| {
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                state.change_names(|names| {
                    names.insert(name.to_owned(), file);
                });
                Ok(())
            },
        )
    }

    /// One that fails has written a part.
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let fits = match state.writes_left {
            Some(0) => bytes.len() / 2,
            _ => bytes.len().min(state.room()),
        };
        state.writes_left = state.writes_left.map(|left| left.saturating_sub(1));
        find(&mut state, name)?.bytes.extend_from_slice(&bytes[..fits]);
        state.operations.push(Operation::Append(name.to_owned(), bytes[..fits].to_vec()));
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// In place, as on a real disk: it needs no room.
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.write(
            || Operation::Truncate(name.to_owned(), bytes),
            |state| {
                find(state, name)?.bytes.truncate(bytes as usize);
                Ok(())
            },
        )
    }

    /// Needs no room either, if it is not longer than before.
    fn overwrite(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write_over(name, bytes)?;
        self.sync(name)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.write(
            || Operation::Sync(name.to_owned()),
            |state| {
                find(state, name)?.sync();
                Ok(())
            },
        )
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.write(
            || Operation::Rename(from.to_owned(), to.to_owned()),
            |state| {
                let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
                state.unreadable.remove(to);
                if state.unreadable.remove(from) {
                    state.unreadable.insert(to.to_owned());
                }
                state.change_names(|names| {
                    names.remove(from);
                    names.insert(to.to_owned(), file);
                });
                Ok(())
            },
        )
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.write(
            || Operation::Remove(name.to_owned()),
            |state| {
                find(state, name)?;
                state.unreadable.remove(name);
                state.change_names(|names| {
                    names.remove(name);
                });
                Ok(())
            },
        )
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().room() as u64)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.write(
            || Operation::SyncFolder,
            |state| {
                state.history.clear();
                Ok(())
            },
        )
    }
}
