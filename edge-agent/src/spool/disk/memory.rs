//! A disk that forgets what was not synced, for tests.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard},
};

use rand::Rng;

use super::Disk;

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
}

/// Files are numbered, as inodes are: a name is an entry of the folder, durable on its own.
#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Operations that write, left until the next one fails; None: none does.
    writes_left: Option<u32>,
    /// Of all files together; None: there is always room.
    bytes_max: Option<usize>,
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].bytes.len()).sum()
    }
}

#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power fails: of each file, a random part of what was not synced survives, of the folder either all or
    /// nothing of what was not synced.
    pub fn crash(&self, rng: &mut impl Rng) {
        let mut state = self.state();
        for file in &mut state.files {
            let kept = rng.random_range(file.synced..=file.bytes.len());
            file.bytes.truncate(kept);
            file.synced = kept;
        }
        if rng.random() {
            state.names = state.durable_names.clone();
        } else {
            state.durable_names = state.names.clone();
        }
        state.writes_left = None;
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

    /// Flips a bit, as a dying card does.
    pub fn damage(&self, name: &str, at: usize) {
        let mut state = self.state();
        let file = state.names[name];
        state.files[file].bytes[at] ^= 1;
    }

    fn write<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        match &mut state.writes_left {
            Some(0) => return Err(io::Error::other("injected")),
            Some(left) => *left -= 1,
            None => {}
        }
        act(&mut state)
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
        let from = offset as usize;
        let part = find(&mut state, name)?.bytes.get(from..from + bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(part.to_vec())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        self.write(|state| {
            state.files.push(Content::default());
            state.names.insert(name.to_owned(), state.files.len() - 1);
            Ok(())
        })
    }

    /// One that fails has written a part.
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.state().writes_left == Some(0) {
            find(&mut self.state(), name)?.bytes.extend_from_slice(&bytes[..bytes.len() / 2]);
        }
        self.write(|state| {
            let room = state.bytes_max.map_or(usize::MAX, |most| most.saturating_sub(state.used()));
            let fits = bytes.len().min(room);
            find(state, name)?.bytes.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    /// In place, as on a real disk: it needs no room.
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.write(|state| {
            let file = find(state, name)?;
            file.bytes.truncate(bytes as usize);
            file.synced = file.synced.min(bytes as usize);
            Ok(())
        })
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.write(|state| {
            let file = find(state, name)?;
            file.synced = file.bytes.len();
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.write(|state| {
            let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.write(|state| state.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.write(|state| {
            state.durable_names = state.names.clone();
            Ok(())
        })
    }
}
