//! Keeps the plant clock's origin beside the spool, so that a second start goes on in the same plant time.

use std::io;

use proto::clock::{ClockConfig, KeptClock};

use crate::spool::disk::Disk;

const FILE: &str = "clock";
const FILE_BYTES_MAX: u64 = 4096;

pub fn resume(disk: &impl Disk, config: &ClockConfig, wall_now_ms: i64) -> io::Result<KeptClock> {
    let bytes = disk.read_small(FILE, FILE_BYTES_MAX)?;
    let kept = bytes.as_deref().and_then(KeptClock::decode);
    if bytes.is_some() && kept.is_none() {
        tracing::warn!("the kept plant clock is damaged; plant time begins anew");
    }
    let clock = config.resume(kept, wall_now_ms);
    if kept != Some(clock) {
        disk.replace(FILE, &clock.encode())?;
        disk.sync_folder()?;
    }
    Ok(clock)
}

#[cfg(test)]
mod tests {
    use proto::time::PlantTime;

    use super::*;
    use crate::spool::disk::memory::Memory;

    #[test]
    fn a_second_start_goes_on_in_the_same_plant_time() {
        let disk = Memory::default();
        let config = ClockConfig { start: Some(PlantTime(1_000)), speed: 60.0, ..Default::default() };
        let first = resume(&disk, &config, 50_000).unwrap();
        assert_eq!(resume(&disk, &config, 51_000).unwrap(), first);
        assert_eq!(first.clock.plant(51_000), PlantTime(61_000));
        disk.replace(FILE, b"nonsense").unwrap();
        assert_eq!(resume(&disk, &config, 52_000).unwrap().clock.plant(52_000), PlantTime(1_000));
    }
}
