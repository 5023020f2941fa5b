//! What is stored of the time, beside the spool: the last known good one, for a gateway that wakes up in 1970.

use std::io;

use bytes::{Buf, BufMut};
use proto::time::PlantTime;

use super::trust::Known;
use crate::spool::disk::Disk;

const FILE: &str = "time";
const BYTES: usize = 4 * 8 + 1 + 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptTime {
    pub known: Option<Known>,
    /// Seal time that was left when time fell back. Sources that go on where they were go on behind it all the same.
    pub resume_after: Option<PlantTime>,
}

impl KeptTime {
    fn encode(&self) -> Vec<u8> {
        let none = Known { wall_ms: i64::MIN, boot_id: 0, monotonic_ms: 0, confirmed: false };
        let known = self.known.unwrap_or(none);
        let mut out = Vec::with_capacity(BYTES);
        out.put_i64_le(known.wall_ms);
        out.put_u64_le(known.boot_id);
        out.put_i64_le(known.monotonic_ms);
        out.put_u8(known.confirmed.into());
        out.put_i64_le(self.resume_after.unwrap_or(PlantTime::MIN).millis());
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut content, mut crc) = bytes.split_at_checked(BYTES - 4).filter(|_| bytes.len() == BYTES)?;
        if crc.get_u32_le() != crc32c::crc32c(content) {
            return None;
        }
        let (wall_ms, boot_id, monotonic_ms) = (content.get_i64_le(), content.get_u64_le(), content.get_i64_le());
        let known = Known { wall_ms, boot_id, monotonic_ms, confirmed: content.get_u8() != 0 };
        let resume_after = PlantTime(content.get_i64_le());
        Some(KeptTime {
            known: Some(known).filter(|known| known.wall_ms != i64::MIN),
            resume_after: Some(resume_after).filter(|time| *time != PlantTime::MIN),
        })
    }

    /// Nothing at the first start, nor if it can't be read: that keeps no agent from starting.
    pub fn load(disk: &dyn Disk) -> Self {
        let kept = match disk.read_small(FILE, 2 * BYTES as u64) {
            Ok(None) => Ok(KeptTime::default()),
            Ok(Some(bytes)) => KeptTime::decode(&bytes).ok_or("it is damaged".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        kept.unwrap_or_else(|reason| {
            tracing::warn!(reason, "the last known good time can't be read; the wall clock only has to be plausible");
            KeptTime::default()
        })
    }

    pub fn store(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.replace(FILE, &self.encode())?;
        disk.sync_folder()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::disk::memory::Memory;

    #[test]
    fn it_survives_a_start_and_damage_is_seen() {
        let disk = Memory::default();
        assert_eq!(KeptTime::load(&disk), KeptTime::default());
        let known = Known { wall_ms: 5, boot_id: u64::MAX, monotonic_ms: 7, confirmed: true };
        for kept in [
            KeptTime::default(),
            KeptTime { known: Some(known), resume_after: None },
            KeptTime { known: Some(known), resume_after: Some(PlantTime(-9)) },
        ] {
            kept.store(&disk).unwrap();
            assert_eq!(KeptTime::load(&disk), kept);
        }
        for at in 0..BYTES {
            disk.damage(FILE, at);
            assert_eq!(KeptTime::load(&disk), KeptTime::default(), "byte {at}");
            disk.damage(FILE, at);
        }
        for bytes in 0..BYTES {
            disk.replace(FILE, &vec![0; bytes]).unwrap();
            assert_eq!(KeptTime::load(&disk), KeptTime::default(), "{bytes} bytes");
        }
    }
}
