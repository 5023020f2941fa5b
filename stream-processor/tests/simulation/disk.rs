//! A gateway's disk: what was not synced may be gone after the power came back.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard},
};

use edge_agent::spool::disk::Disk;
use rand::Rng;

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<String, File>,
    /// As after the last sync of the folder.
    durable: BTreeMap<String, File>,
    /// Nothing can be written.
    failing: bool,
}

#[derive(Debug, Default)]
pub struct SimDisk(Mutex<State>);

impl Clone for SimDisk {
    fn clone(&self) -> Self {
        SimDisk(Mutex::new(self.state().clone()))
    }
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The flash forgets a bit.
    pub fn damage(&self, name: &str, at: usize) {
        if let Some(byte) = self.state().files.get_mut(name).and_then(|file| file.bytes.get_mut(at)) {
            *byte ^= 1;
        }
    }

    pub fn set_failing(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// The power fails: of what was appended and not synced, a random part survives.
    pub fn crash(&self, rng: &mut impl Rng) {
        let mut state = self.state();
        // Names that the folder was not synced for are as before; the content under them is as far as it was synced.
        let names: Vec<String> = state.durable.keys().cloned().collect();
        let survivors = names.into_iter().map(|name| {
            let mut file = state.files.get(&name).or_else(|| state.durable.get(&name)).cloned().unwrap_or_default();
            let kept = rng.random_range(file.synced..=file.bytes.len());
            file.bytes.truncate(kept);
            file.synced = kept;
            (name, file)
        });
        let survivors: BTreeMap<String, File> = survivors.collect();
        state.durable = survivors.clone();
        state.files = survivors;
    }
}

/// For what writes.
fn check(state: &State) -> io::Result<()> {
    if state.failing { Err(io::Error::other("the disk fails")) } else { Ok(()) }
}

fn find<'s>(state: &'s mut State, name: &str) -> io::Result<&'s mut File> {
    state.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn bytes(&self, name: &str) -> io::Result<u64> {
        Ok(find(&mut self.state(), name)?.bytes.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let (mut state, from) = (self.state(), offset as usize);
        let part = find(&mut state, name)?.bytes.get(from..from + bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(part.to_vec())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        check(&state)?;
        state.files.insert(name.into(), File::default());
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let written = if state.failing { bytes.len() / 2 } else { bytes.len() };
        find(&mut state, name)?.bytes.extend_from_slice(&bytes[..written]);
        check(&state)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        check(&state)?;
        let file = find(&mut state, name)?;
        file.synced = file.bytes.len();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        check(&state)?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        check(&state)?;
        state.files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state();
        check(&state)?;
        state.durable = state.files.clone();
        Ok(())
    }
}
