//! A gateway's clocks for tests: the monotonic one is tokio's, which a test may pause; the wall clock is set at will.

use std::sync::{Arc, Mutex};

use proto::clock::ClockConfig;
use tokio::time::Instant;

use super::{
    AgentClock,
    keeper::Clocks,
    kept::KeptTime,
    trust::{FLOOR_MS, Moment},
};
use crate::spool::disk::memory::Memory;

/// Some day in the life of the plant.
pub const TODAY: i64 = FLOOR_MS + 365 * 24 * 3_600_000;
pub const HOUR: i64 = 3_600_000;
pub const BOOT: u64 = 7;

#[derive(Clone)]
pub struct FakeClocks {
    boot: Instant,
    /// Wall time at the boot, and when a time service set it.
    wall: Arc<Mutex<(i64, Option<i64>)>>,
}

impl FakeClocks {
    /// Boots now.
    pub fn at(wall_ms: i64) -> Self {
        FakeClocks { boot: Instant::now(), wall: Arc::new(Mutex::new((wall_ms, None))) }
    }

    pub fn now(&self) -> Moment {
        let monotonic_ms = self.boot.elapsed().as_millis() as i64;
        let (wall, synchronised_ms) = *self.wall.lock().unwrap();
        Moment { wall_ms: wall + monotonic_ms, monotonic_ms, synchronised_ms }
    }

    pub fn jump(&self, ms: i64) {
        self.wall.lock().unwrap().0 += ms;
    }

    /// A time service sets the wall clock.
    pub fn synchronise(&self, wall_ms: i64) {
        *self.wall.lock().unwrap() = (wall_ms - self.now().monotonic_ms, Some(wall_ms));
    }

    pub fn clocks(&self) -> Clocks {
        let clocks = self.clone();
        Box::new(move || clocks.now())
    }

    /// The agent's clock of a start on this disk.
    pub fn resume(&self, disk: &Arc<Memory>, config: &ClockConfig) -> AgentClock {
        let kept = KeptTime::load(&**disk);
        AgentClock::resume(disk.clone(), config, BOOT, kept, None, self.clocks()).unwrap().0
    }
}
