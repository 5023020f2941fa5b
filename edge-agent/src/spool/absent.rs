//! In the place of a folder that can't be used: it is read-only, missing, or fails. What there may be in it is left alone
//! until a start can use it, and everything new is kept in memory.

use std::{io, path::PathBuf, sync::Arc};

use proto::position::Epoch;

use super::{
    Spool, SpoolConfig,
    disk::{Disk, Folder},
};

#[derive(Debug)]
pub struct Absent {
    path: PathBuf,
    config: SpoolConfig,
}

impl Absent {
    pub fn new(path: PathBuf, config: SpoolConfig) -> Self {
        Absent { path, config }
    }
}

fn none<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::NotFound, "the agent began without its folder"))
}

impl Disk for Absent {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn bytes(&self, _: &str) -> io::Result<u64> {
        none()
    }
    fn read(&self, _: &str, _: u64, _: usize) -> io::Result<Vec<u8>> {
        none()
    }
    fn create(&self, _: &str) -> io::Result<()> {
        none()
    }
    fn append(&self, _: &str, _: &[u8]) -> io::Result<()> {
        none()
    }
    fn sync(&self, _: &str) -> io::Result<()> {
        none()
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        none()
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        none()
    }
    fn sync_folder(&self) -> io::Result<()> {
        none()
    }
    fn is_back(&self) -> bool {
        let folder = Folder::open(&self.path);
        // The epoch is nobody's: nothing is appended.
        folder.is_ok_and(|folder| Spool::open(Arc::new(folder), self.config.clone(), Epoch::NONE).is_ok())
    }
}
