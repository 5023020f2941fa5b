//! How far the log is committed, kept for a start that finds no segment to learn it from.
//!
//! Two files take turns, the older one is written over in place: a power cut spoils at most the one that is being
//! written. The one of the higher generation counts.
//!
//! Little-endian: `0 magic "MWCP"  4 version u16  6 zero u16  8 generation u64  16 epoch [16]  32 seq u64
//! 40 first segment needed u64  48 seal time i64  56 CRC32C u32 (of bytes 0..56)`.
//! Before there were two, a single one had bytes 16..56 of this and their CRC: generation 0, removed after the first
//! other one is durable.

use bytes::BufMut;
use proto::{
    position::{Epoch, Position},
    time::PlantTime,
};

use super::{Context, SpoolError, disk::Disk};

const SLOTS: [&str; 2] = ["checkpoint.a", "checkpoint.b"];
const SINGLE: &str = "checkpoint";
const MAGIC: &[u8; 4] = b"MWCP";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 16;
const SINGLE_BYTES: usize = 44;
const CHECKPOINT_BYTES: usize = HEAD_BYTES + SINGLE_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub committed: Option<Position>,
    /// Segments with lower numbers are freed, even if a power cut brought them back.
    pub keep_from: u64,
    /// Seal time of the newest durable frame when this was written.
    pub sealed: Option<PlantTime>,
}

/// The files, and whose turn it is.
#[derive(Debug, Default)]
pub struct Checkpoints {
    generation: u64,
    made: [bool; 2],
    single: bool,
    /// One could not be read: it may have been the newer one.
    pub damaged: bool,
}

impl Checkpoints {
    /// What the newest readable one says, nothing if there is none.
    ///
    /// # Errors
    /// The folder can't be listed. A file that can't be read counts as damaged.
    pub fn load(disk: &dyn Disk) -> Result<(Self, Checkpoint), SpoolError> {
        let names = disk.list().context("list", "the folder")?;
        let there = |name: &str| names.iter().any(|n| n == name);
        let mut files = Checkpoints { made: SLOTS.map(there), single: there(SINGLE), ..Default::default() };
        let mut newest = Checkpoint::default();
        for (name, there) in [(SINGLE, files.single), (SLOTS[0], files.made[0]), (SLOTS[1], files.made[1])] {
            let read = || disk.read_small(name, CHECKPOINT_BYTES as u64).ok().flatten();
            match there.then(|| read().and_then(|bytes| decode(&bytes))) {
                Some(Some((generation, checkpoint))) if generation >= files.generation => {
                    (files.generation, newest) = (generation, checkpoint);
                }
                Some(None) => {
                    tracing::warn!(
                        file = name,
                        "a checkpoint of the spool is damaged; the next ack says what is committed"
                    );
                    files.damaged = true;
                }
                _ => {}
            }
        }
        Ok((files, newest))
    }

    /// Durable after this.
    pub fn store(&mut self, disk: &dyn Disk, checkpoint: &Checkpoint) -> Result<(), SpoolError> {
        let generation = self.generation + 1;
        let slot = (generation % 2) as usize;
        let (name, bytes) = (SLOTS[slot], checkpoint.encode(generation));
        if self.made[slot] {
            disk.overwrite(name, &bytes).context("write", name)?;
        } else {
            disk.replace(name, &bytes).context("write", name)?;
            disk.sync_folder().context("sync", "the folder")?;
            self.made[slot] = true;
        }
        self.generation = generation;
        if self.single {
            disk.remove(SINGLE).context("remove", SINGLE)?;
            self.single = false;
        }
        Ok(())
    }
}

impl Checkpoint {
    fn encode(&self, generation: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(CHECKPOINT_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u64_le(generation);
        out.put_slice(&self.committed.map_or(Epoch::NONE, |p| p.epoch).0);
        out.put_u64_le(self.committed.map_or(0, |p| p.seq));
        out.put_u64_le(self.keep_from);
        out.put_i64_le(self.sealed.unwrap_or(PlantTime::MIN).millis());
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }
}

/// The generation, and what it says. None: damaged, or of a version that is not known here.
fn decode(bytes: &[u8]) -> Option<(u64, Checkpoint)> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if *crc != crc32c::crc32c(content).to_le_bytes() {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(content.get(at..at + 8)?.try_into().ok()?));
    let (generation, at) = match bytes.len() {
        SINGLE_BYTES => (0, 0),
        CHECKPOINT_BYTES if content.starts_with(MAGIC) && content[4..6] == VERSION.to_le_bytes() => {
            (number(8)?, HEAD_BYTES)
        }
        _ => return None,
    };
    let position = Position { epoch: Epoch::from_slice(content.get(at..at + 16)?)?, seq: number(at + 16)? };
    let sealed = PlantTime(number(at + 32)? as i64);
    let checkpoint = Checkpoint {
        committed: Some(position).filter(|p| p.epoch != Epoch::NONE),
        keep_from: number(at + 24)?,
        sealed: Some(sealed).filter(|t| *t != PlantTime::MIN),
    };
    Some((generation, checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::disk::memory::Memory;

    fn at(keep_from: u64) -> Checkpoint {
        let committed = Some(Position { epoch: Epoch([7; 16]), seq: keep_from });
        Checkpoint { committed, keep_from, sealed: Some(PlantTime(-3)) }
    }

    #[test]
    fn the_newer_slot_counts_and_the_older_one_if_that_is_damaged() {
        let disk = Memory::default();
        let mut files = Checkpoints::load(&disk).unwrap().0;
        for n in 1..=5 {
            files.store(&disk, &at(n)).unwrap();
            let (loaded, newest) = Checkpoints::load(&disk).unwrap();
            assert_eq!((newest, loaded.generation, loaded.damaged), (at(n), n, false));
        }
        assert_eq!(disk.list().unwrap(), SLOTS);
        disk.damage(SLOTS[1], 20);
        let (mut files, newest) = Checkpoints::load(&disk).unwrap();
        assert_eq!((newest, files.damaged), (at(4), true));
        files.store(&disk, &at(6)).unwrap();
        assert_eq!(Checkpoints::load(&disk).unwrap().1, at(6));
        disk.make_unreadable(SLOTS[1]);
        disk.damage(SLOTS[0], 20);
        let (files, newest) = Checkpoints::load(&disk).unwrap();
        assert_eq!((newest, files.damaged), (Checkpoint::default(), true));
    }
}
