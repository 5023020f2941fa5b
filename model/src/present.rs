//! What time it is in a plant, as its machines tell it: no clock is read.
//!
//! A gateway whose trusted clock is a month ahead for one window must not move the present of all, nor may one that has been
//! silent for a month hold it back. So each machine stands for the newest window of its newest generation, the present is
//! the median of those that are heard of, and where a clock fell back the present may fall, too.

use std::collections::BTreeMap;

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};

/// A machine that was not heard of while the others told so many windows each, on average, is silent.
const SILENT_AFTER: u64 = 16;
/// Windows end at most so much after the present, or their clock is ahead. Gateways that send what they have kept are apart, too.
pub const AHEAD_MS_MAX: i64 = 3 * 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Heard {
    generation: u32,
    newest: PlantTime,
    /// Number of the window that told it.
    window: u64,
    /// Its clock fell back since the present last did.
    fell: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Present {
    machines: BTreeMap<AssetId, Heard>,
    windows: u64,
    now: Option<PlantTime>,
}

/// What has become of the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// On, or nowhere.
    On,
    /// Most clocks were wrong: what was said of the time between is no more than that.
    FellBack,
}

impl Present {
    /// A window that was told for the first time.
    pub fn hear(&mut self, machine: &AssetId, generation: u32, end: PlantTime) {
        self.windows += 1;
        let window = self.windows;
        let first = Heard { generation, newest: end, window, fell: false };
        let of = self.machines.entry(machine.clone()).or_insert(first);
        of.window = window;
        if generation > of.generation {
            of.fell |= end < of.newest;
            (of.generation, of.newest) = (generation, end);
        } else if generation == of.generation {
            of.newest = of.newest.max(end);
        }
    }

    /// Reckons the present from what was heard since.
    pub fn pass(&mut self) -> Passed {
        let silent = SILENT_AFTER * self.machines.len() as u64;
        let windows = self.windows;
        self.machines.retain(|_, heard| windows - heard.window < silent);
        let mut newest: Vec<PlantTime> = self.machines.values().map(|heard| heard.newest).collect();
        if newest.is_empty() {
            return Passed::On;
        }
        let middle = (newest.len() - 1) / 2;
        let now = *newest.select_nth_unstable(middle).1;
        let behind = self.now.is_some_and(|before| now.plus_millis(AHEAD_MS_MAX) < before);
        // A gateway that sends its backlog is behind, too, for a while; the plant is not.
        if behind && 2 * self.machines.values().filter(|heard| heard.fell).count() >= self.machines.len() {
            self.machines.values_mut().for_each(|heard| heard.fell = false);
            self.now = Some(now);
            return Passed::FellBack;
        }
        self.now = self.now.max(Some(now));
        Passed::On
    }

    /// None: nothing was heard yet.
    pub fn now(&self) -> Option<PlantTime> {
        self.now
    }

    /// Not from a clock that is ahead of all others.
    pub fn is_past(&self, at: PlantTime) -> bool {
        self.now.is_some_and(|now| at <= now.plus_millis(AHEAD_MS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const MONTH: i64 = 30 * 24 * HOUR;

    fn machine(n: i64) -> AssetId {
        AssetId::new(&format!("m{n}")).unwrap()
    }

    /// Every machine's window of that hour; those of the first so many lie `ahead`.
    fn hour(present: &mut Present, hour: i64, wrong: i64, (ahead, generation): (i64, u32)) -> Passed {
        for n in 0..10 {
            let (ahead, generation) = if n < wrong { (ahead, generation) } else { (0, 0) };
            present.hear(&machine(n), generation, PlantTime(hour * HOUR + ahead));
        }
        present.pass()
    }

    #[test]
    fn a_clock_ahead_moves_nothing_and_what_it_says_is_not_past() {
        let mut present = Present::default();
        hour(&mut present, 1, 0, (0, 0));
        assert_eq!(hour(&mut present, 2, 3, (MONTH, 0)), Passed::On);
        assert_eq!(present.now(), Some(PlantTime(2 * HOUR)));
        assert!(!present.is_past(PlantTime(MONTH)) && present.is_past(PlantTime(3 * HOUR)));
        assert_eq!(hour(&mut present, 3, 3, (0, 1)), Passed::On);
        assert_eq!(present.now(), Some(PlantTime(3 * HOUR)));
    }

    #[test]
    fn where_all_clocks_were_ahead_the_present_falls_back_with_them() {
        let mut present = Present::default();
        hour(&mut present, 1, 0, (0, 0));
        hour(&mut present, 2, 10, (MONTH, 0));
        assert_eq!(present.now(), Some(PlantTime(2 * HOUR + MONTH)));
        assert_eq!(hour(&mut present, 3, 10, (0, 1)), Passed::FellBack);
        assert_eq!(present.now(), Some(PlantTime(3 * HOUR)));
    }

    #[test]
    fn machines_that_are_silent_hold_nothing_back() {
        let mut present = Present::default();
        hour(&mut present, 1, 0, (0, 0));
        for at in 2..100 {
            (0..4).for_each(|n| present.hear(&machine(n), 0, PlantTime(at * HOUR)));
            present.pass();
        }
        assert_eq!(present.now(), Some(PlantTime(99 * HOUR)), "six of ten are silent");
        // They send what they have.
        for at in 2..100 {
            (4..10).for_each(|n| present.hear(&machine(n), 0, PlantTime(at * HOUR)));
            assert_eq!(present.pass(), Passed::On);
        }
        assert_eq!(present.now(), Some(PlantTime(99 * HOUR)));
    }
}
