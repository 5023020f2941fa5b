//! Who this agent is beyond its name: an installation and a boot.

use std::{fs, io, time::Instant};

use proto::position::Epoch;
use rustix::time::{ClockId, clock_gettime};

use crate::spool::disk::Disk;

const FILE: &str = "install";
const FILE_BYTES_MAX: u64 = 64;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Clone)]
pub struct Identity {
    /// Drawn at the first start and kept with the spool: two of them under one name are a cloned card.
    pub install: String,
    pub boot: Boot,
}

/// One run of the gateway's kernel, or of the agent where the kernel's can't be known.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    pub id: u64,
    /// When the agent began; None: the kernel is asked.
    since: Option<Instant>,
}

impl Boot {
    fn load(random: [u8; 16]) -> Self {
        let id = |text: &str| {
            let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
            u64::from_str_radix(&digits, 16).ok()
        };
        let kernel = fs::read_to_string(BOOT_ID).ok().and_then(|text| id(&text));
        match kernel {
            Some(id) => Boot { id, since: None },
            None => Boot { id: id(&Epoch(random).to_string()).unwrap_or_default(), since: Some(Instant::now()) },
        }
    }

    /// Never falls, and counts time asleep, too.
    pub fn monotonic_ms(&self) -> u64 {
        match self.since {
            None => uptime_ms(),
            Some(began) => began.elapsed().as_millis() as u64,
        }
    }
}

fn uptime_ms() -> u64 {
    let uptime = clock_gettime(ClockId::Boottime);
    u64::try_from(uptime.tv_sec).unwrap_or_default() * 1000 + uptime.tv_nsec as u64 / 1_000_000
}

impl Identity {
    pub fn load(disk: &dyn Disk) -> io::Result<Self> {
        let random = random_bytes()?;
        let kept = disk.read_small(FILE, FILE_BYTES_MAX)?.and_then(|bytes| String::from_utf8(bytes).ok());
        let kept = kept.filter(|id| Epoch::try_from(id.clone()).is_ok());
        let install = match kept {
            Some(install) => install,
            None => {
                let install = Epoch(random).to_string();
                let stored = disk.replace(FILE, install.as_bytes()).and_then(|()| disk.sync_folder());
                if let Err(error) = stored {
                    tracing::warn!(%error, "the id of the installation can't be stored; the next start draws another one");
                }
                install
            }
        };
        Ok(Identity { install, boot: Boot::load(random) })
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
        let second = Identity::load(&disk).unwrap();
        assert_eq!((second.install, second.boot.id), (first.install.clone(), first.boot.id));
        assert_ne!(Identity::load(&Memory::default()).unwrap().install, first.install);
    }

    #[test]
    fn monotonic_time_counts_from_the_boot_that_it_names() {
        let boot = Boot::load([7; 16]);
        let uptime = fs::read_to_string("/proc/uptime").ok();
        match uptime.map(|text| text.split('.').next().unwrap().parse::<u64>().unwrap()) {
            Some(seconds) => assert!(boot.monotonic_ms() / 1000 >= seconds && boot.since.is_none()),
            None => assert!(boot.since.is_some()),
        }
        assert_ne!(boot.id, 0);
    }
}
