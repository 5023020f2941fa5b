//! Who this agent is beyond its name: an installation and a boot.

use std::{fs, io};

use proto::position::Epoch;

use crate::spool::disk::Disk;

const FILE: &str = "install";
const FILE_BYTES_MAX: u64 = 64;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Drawn at the first start and kept with the spool: two of them under one name are a cloned card.
    pub install: String,
    /// One run of the gateway's kernel, or of the agent where that can't be known.
    pub boot: u64,
}

impl Identity {
    pub fn load(disk: &impl Disk) -> io::Result<Self> {
        let random = random_bytes()?;
        let kept = match disk.list()?.iter().any(|name| name == FILE) {
            true => disk.read(FILE, 0, disk.bytes(FILE)?.min(FILE_BYTES_MAX) as usize)?,
            false => Vec::new(),
        };
        let kept = String::from_utf8(kept).ok().filter(|id| Epoch::try_from(id.clone()).is_ok());
        let install = match kept {
            Some(install) => install,
            None => {
                let install = Epoch(random).to_string();
                disk.replace(FILE, install.as_bytes())?;
                disk.sync_folder()?;
                install
            }
        };
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_else(|_| Epoch(random).to_string());
        let digits: String = boot.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        Ok(Identity { install, boot: u64::from_str_radix(&digits, 16).unwrap_or_default() })
    }
}

/// From the random source that TLS brings along.
pub fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let ring = rustls::crypto::ring::default_provider();
    ring.secure_random.fill(&mut bytes).map_err(|_| io::Error::other("the system's random source failed"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::disk::memory::Memory;

    #[test]
    fn an_installation_keeps_its_id() {
        let disk = Memory::default();
        let first = Identity::load(&disk).unwrap();
        assert_eq!(Identity::load(&disk).unwrap(), first);
        assert_ne!(Identity::load(&Memory::default()).unwrap().install, first.install);
    }
}
