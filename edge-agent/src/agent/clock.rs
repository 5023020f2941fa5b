//! The agent's time: plant time by a wall clock that may be wrong, and whether it is known to be right.
//!
//! ```text
//! wall clock, monotonic clock, acks ──> trust ──time, trusted?──> keeper ──plant clock──> sampler, sources
//!                                                                   │ ^
//!                                            last known good time,  v │  origin of plant time: beside the spool
//! ```

use std::{io, sync::Arc};

use proto::{
    clock::{ClockConfig, KeptClock},
    time::{PlantClock, PlantTime, wall_now_ms},
};
use tokio::sync::watch;

pub mod trust;
pub mod kept;
pub mod keeper;

use crate::spool::disk::Disk;
use keeper::{Clocks, Keeper};
use kept::KeptTime;
use trust::WallTrust;

const FILE: &str = "clock";
const FILE_BYTES_MAX: u64 = 4096;

/// What time it is for an agent.
#[derive(Clone)]
pub struct AgentClock {
    plant: watch::Receiver<PlantClock>,
    /// None: the clock is given, and whoever gives it vouches for it.
    keeper: Option<Arc<Keeper>>,
}

impl From<watch::Receiver<PlantClock>> for AgentClock {
    fn from(plant: watch::Receiver<PlantClock>) -> Self {
        AgentClock { plant, keeper: None }
    }
}

/// The time at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    pub time: PlantTime,
    pub trusted: bool,
    /// By how much the gateway's own wall clock is behind.
    pub offset_ms: i64,
    /// Another one after each break in the time.
    pub era: u64,
    base: PlantClock,
    wall_ms: i64,
    monotonic_ms: i64,
}

impl Look {
    /// What it would be at a later look, had the time gone on without a break.
    pub fn gone_on_to(&self, later: &Look) -> PlantTime {
        let elapsed = later.monotonic_ms.saturating_sub(self.monotonic_ms);
        self.base.plant(self.wall_ms.saturating_add(elapsed))
    }
}

impl AgentClock {
    /// By the gateway's `clocks`, from where the start before left it. Also gives the plant time of the first start.
    pub fn resume(
        disk: Arc<dyn Disk>,
        config: &ClockConfig,
        boot_id: u64,
        kept: KeptTime,
        sealed: Option<PlantTime>,
        clocks: Clocks,
    ) -> io::Result<(Self, PlantTime)> {
        let (shared, now) = (config.shared(), clocks());
        let sealed_ms = shared.zip(sealed).and_then(|(clock, sealed)| clock.wall_ms(sealed));
        let trust = WallTrust::start(boot_id, kept.known, sealed_ms, now);
        let plant = resume(&*disk, config, trust.wall_ms(now.monotonic_ms))?;
        let keeper = Keeper::new(clocks, disk, plant.clock, shared.is_some(), trust, kept.resume_after);
        keeper.tell_doubt();
        Ok((AgentClock { plant: keeper.published(), keeper: Some(Arc::new(keeper)) }, plant.since))
    }

    pub fn look(&self) -> Look {
        match &self.keeper {
            Some(keeper) => keeper.look(),
            None => {
                let (base, wall_ms) = (*self.plant.borrow(), wall_now_ms());
                let time = base.plant(wall_ms);
                Look { time, trusted: true, offset_ms: 0, era: 0, base, wall_ms, monotonic_ms: 0 }
            }
        }
    }

    /// Plant time per wall time.
    pub fn speed(&self) -> f64 {
        self.plant.borrow().speed
    }

    /// For whoever stamps readings. A jump of the wall clock shows in it for [`keeper::LOOK_EVERY`] at most.
    pub fn plant(&self) -> watch::Receiver<PlantClock> {
        self.plant.clone()
    }

    /// Pends for ever when nobody can change it any more.
    pub async fn changed(&mut self) {
        if self.plant.changed().await.is_err() {
            std::future::pending().await
        }
    }

    pub fn on_ack(&self, plant_time: PlantTime) {
        if let Some(keeper) = &self.keeper {
            keeper.on_ack(plant_time);
        }
    }

    pub(super) fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.keeper.as_ref()
    }
}

/// The plant clock's origin is kept beside the spool, so that a second start goes on in the same plant time.
fn resume(disk: &dyn Disk, config: &ClockConfig, wall_now_ms: i64) -> io::Result<KeptClock> {
    let bytes = disk.read_small(FILE, FILE_BYTES_MAX)?;
    let kept = bytes.as_deref().and_then(KeptClock::decode);
    if bytes.is_some() && kept.is_none() {
        tracing::warn!("the kept plant clock is damaged; plant time begins anew");
    }
    let clock = config.resume(kept, wall_now_ms);
    if kept != Some(clock) {
        let stored = disk.replace(FILE, &clock.encode()).and_then(|()| disk.sync_folder());
        if let Err(error) = stored {
            tracing::warn!(%error, "where plant time began can't be stored; the next start may begin it anew");
        }
    }
    Ok(clock)
}

#[cfg(test)]
pub mod fake;

#[cfg(test)]
mod tests {
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
