//! The reading side of the spool.

use std::{io, sync::Arc};

use bytes::Bytes;
use proto::position::Position;

use super::{
    Context, SharedLog, SpoolError,
    disk::Disk,
    log::{Extent, Place},
    record::Record,
    ring::SharedRing,
    segment,
};

#[derive(Debug)]
pub struct SpoolReader {
    disk: Arc<dyn Disk>,
    log: SharedLog,
    ring: SharedRing,
}

impl Clone for SpoolReader {
    fn clone(&self) -> Self {
        SpoolReader { disk: self.disk.clone(), log: self.log.clone(), ring: self.ring.clone() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Freed or evicted meanwhile: not held under this position any more.
    #[error("frame {0} is not held")]
    NotHeld(Position),
    #[error("frame {0} is damaged on the disk")]
    Damaged(Position),
    #[error(transparent)]
    Io(#[from] SpoolError),
}

impl SpoolReader {
    pub(super) fn new(disk: Arc<dyn Disk>, log: SharedLog, ring: SharedRing) -> Self {
        SpoolReader { disk, log, ring }
    }

    /// The encoded frame that begins at a position, verified.
    pub fn read(&self, position: Position) -> Result<Bytes, ReadError> {
        let find = || self.log.lock().covering(position).copied().filter(|e| e.position == position);
        loop {
            let extent = find().ok_or(ReadError::NotHeld(position))?;
            match self.read_at(&extent)? {
                Some(record) => return Ok(record.bytes),
                None if find() == Some(extent) => return Err(ReadError::Damaged(position)),
                // It went from memory to the disk, or its file was replaced or removed, since the look into the log.
                None => {}
            }
        }
    }

    /// None: damaged, cut off or gone.
    pub(super) fn read_at(&self, extent: &Extent) -> Result<Option<Record>, SpoolError> {
        if extent.place == Place::MEMORY {
            return Ok(self.ring.lock().find(extent.position));
        }
        let name = segment::name(extent.place.segment);
        let bytes = self.disk.read(&name, u64::from(extent.place.offset), extent.bytes as usize);
        match bytes {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(None),
            other => {
                let record = Record::of(other.context("read", &name)?.into());
                Ok(record.filter(|r| r.header.position == extent.position))
            }
        }
    }
}
