//! When scores become an alert: m of n windows with hysteresis, and quiet times around failures and repairs.
//!
//! One truth for the processor, which alerts by it, and for evaluation, which counts what it would have said.

use std::collections::VecDeque;

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

/// Bounds the history kept per machine and mode.
pub const OF_WINDOWS_MAX: u32 = 64;

const HOUR_MS: i64 = 3_600_000;

/// How a mode's probability becomes an alert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlertPolicy {
    pub scores: Policy,
    /// After a repair the windows still show the time before it and the running-in: they open nothing.
    pub quiet_after_repair_ms: i64,
    /// After a failure nothing opens until a repair is recorded, at most for so long.
    pub down_after_failure_ms: i64,
}

impl Default for AlertPolicy {
    fn default() -> Self {
        Self {
            scores: Policy { open_windows: 3, of_windows: 4, close_factor: 0.6, close_windows: 6 },
            quiet_after_repair_ms: 2 * HOUR_MS,
            down_after_failure_ms: 24 * HOUR_MS,
        }
    }
}

impl AlertPolicy {
    /// Whether a window that starts at `start` can open nothing, after the newest failure and the newest repair.
    pub fn is_quiet(&self, start: PlantTime, failed: PlantTime, repaired: PlantTime) -> bool {
        let running_in = start < repaired.plus_millis(self.quiet_after_repair_ms);
        let down = failed > repaired && start < failed.plus_millis(self.down_after_failure_ms);
        running_in || down
    }
}

/// m-of-n to open, hysteresis to close.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// So many windows at or above the threshold open an alert...
    pub open_windows: u32,
    /// ... out of so many windows in a row up to the newest; a missing window did not cross.
    pub of_windows: u32,
    /// Below threshold times this a window counts towards closing.
    pub close_factor: f64,
    /// So many of those in a row close it.
    pub close_windows: u32,
}

impl Policy {
    pub const ALLOWED: &'static str =
        "1 <= open_windows <= of_windows <= 64, 0 < close_factor <= 1, close_windows >= 1";

    /// As [`Policy::ALLOWED`] says.
    pub fn fits(&self) -> bool {
        (1..=self.of_windows).contains(&self.open_windows)
            && self.of_windows <= OF_WINDOWS_MAX
            && self.close_factor > 0.0
            && self.close_factor <= 1.0
            && self.close_windows >= 1
    }
}

/// Where a window lies in time. Slots are counted by the time from window to window, so that a silent day does not glue two crossings
/// together that have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    pub start: PlantTime,
    pub slide_ms: i64,
    /// Just failed or repaired.
    pub quiet: bool,
}

/// The memory of one mode or rule of one machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// Windows of the last n slots that crossed, oldest first.
    crossed: VecDeque<Crossing>,
    /// Windows in a row below the closing line.
    below: u32,
    /// A dismissed mode has to fall below the closing line before it may open again: else it would at once.
    dismissed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Crossing {
    start: PlantTime,
    strength: f64,
}

impl Track {
    /// `strength` is the value in units of its threshold: 1 and above crosses. A window in quiet time can only fade.
    pub fn observe(&mut self, policy: &Policy, slot: Slot, strength: f64) {
        let oldest = slot.start.plus_millis(-slot.slide_ms.saturating_mul(i64::from(policy.of_windows) - 1));
        while self.crossed.front().is_some_and(|c| c.start < oldest) {
            self.crossed.pop_front();
        }
        if strength >= 1.0 && !slot.quiet {
            self.crossed.push_back(Crossing { start: slot.start, strength });
        }
        self.below = if strength < policy.close_factor { self.below.saturating_add(1) } else { 0 };
        if self.has_faded(policy) {
            self.dismissed = false;
        }
    }

    /// Start of the first of the m windows, when there are m and it may open.
    pub fn opens(&self, policy: &Policy) -> Option<PlantTime> {
        self.is_full(policy).then(|| self.crossed.front().map(|c| c.start)).flatten().filter(|_| !self.dismissed)
    }

    pub fn is_full(&self, policy: &Policy) -> bool {
        self.crossed.len() >= policy.open_windows as usize
    }

    /// m windows at or above `strength`.
    pub fn is_clear(&self, policy: &Policy, strength: f64) -> bool {
        self.crossed.iter().filter(|c| c.strength >= strength).count() >= policy.open_windows as usize
    }

    /// How much the last n slots speak for it, in units of its threshold.
    pub fn evidence(&self) -> f64 {
        self.crossed.iter().map(|c| c.strength).sum()
    }

    pub fn has_faded(&self, policy: &Policy) -> bool {
        self.below >= policy.close_windows
    }

    /// Forgets the windows before a failure, a repair or a closing.
    pub fn clear(&mut self) {
        self.crossed.clear();
        self.below = 0;
    }

    pub fn dismiss(&mut self) {
        self.clear();
        self.dismissed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { open_windows: 3, of_windows: 4, close_factor: 0.5, close_windows: 2 };

    fn slot(n: i64) -> Slot {
        Slot { start: PlantTime(n * 10), slide_ms: 10, quiet: false }
    }

    fn track(strengths: &[f64]) -> Track {
        let mut track = Track::default();
        (0..).zip(strengths).for_each(|(n, s)| track.observe(&POLICY, slot(n), *s));
        track
    }

    #[test]
    fn three_of_four_open_and_name_the_first() {
        assert_eq!(track(&[1.0, 1.0]).opens(&POLICY), None);
        assert_eq!(track(&[0.0, 1.0, 0.9, 1.2, 1.0]).opens(&POLICY), Some(PlantTime(10)));
        assert_eq!(track(&[1.0, 0.0, 0.0, 1.0, 1.0]).opens(&POLICY), None);
    }

    #[test]
    fn a_silent_time_is_not_a_crossing() {
        let mut track = track(&[1.0, 1.0]);
        track.observe(&POLICY, slot(50), 1.0);
        assert_eq!(track.opens(&POLICY), None);
    }

    #[test]
    fn between_the_lines_nothing_closes() {
        assert!(!track(&[0.4, 0.7, 0.4]).has_faded(&POLICY));
        assert!(track(&[0.7, 0.4, 0.4]).has_faded(&POLICY));
    }

    #[test]
    fn a_dismissed_track_opens_only_after_it_has_faded() {
        let mut track = track(&[2.0, 2.0, 2.0]);
        track.dismiss();
        (3..9).for_each(|n| track.observe(&POLICY, slot(n), 2.0));
        assert_eq!(track.opens(&POLICY), None);
        (9..11).for_each(|n| track.observe(&POLICY, slot(n), 0.1));
        (11..14).for_each(|n| track.observe(&POLICY, slot(n), 2.0));
        assert_eq!(track.opens(&POLICY), Some(PlantTime(110)));
    }

    #[test]
    fn it_is_quiet_while_broken_and_running_in() {
        let policy = AlertPolicy::default();
        let at = |hour: i64| PlantTime(hour * HOUR_MS);
        let quiet = |hour: i64, repaired: i64| policy.is_quiet(at(hour), at(100), at(repaired));
        assert!(quiet(100, 0) && quiet(123, 0) && !quiet(124, 0), "down for a day when nobody records the repair");
        assert!(quiet(104, 104) && quiet(105, 104) && !quiet(106, 104), "running in for two hours");
    }

    #[test]
    fn history_is_bounded() {
        let track = track(&[1.0; 1000]);
        assert_eq!(track.crossed.len(), 4);
    }
}
