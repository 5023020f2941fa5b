//! The grid of sampling slots. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// Slots lie on a grid from the first one on, so that a slow read makes no other slot late.
#[derive(Debug, Clone)]
pub struct Schedule {
    next: Instant,
    interval: Duration,
}

impl Schedule {
    pub fn new(first: Instant, interval: Duration) -> Self {
        Schedule { next: first, interval: interval.max(Duration::from_millis(1)) }
    }

    pub fn next(&self) -> Instant {
        self.next
    }

    /// Takes the newest slot that is due, and says how many before it were missed.
    pub fn take(&mut self, now: Instant) -> u64 {
        let late = now.saturating_duration_since(self.next);
        let missed = late.as_nanos() / self.interval.as_nanos();
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        self.next += self.interval.saturating_mul(missed.saturating_add(1));
        u64::from(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn slots_stay_on_the_grid_and_missed_ones_are_counted() {
        let first = Instant::now();
        let mut schedule = Schedule::new(first, SECOND);
        let mut taken = 0;
        // Always some milliseconds late, once by three slots and a half.
        for late_ms in [3, 0, 900, 3_500, 999, 1_000, 2_001] {
            let due = schedule.next();
            let missed = schedule.take(due + Duration::from_millis(late_ms));
            assert_eq!(missed, late_ms / 1_000);
            taken += 1 + missed as u32;
            assert_eq!(schedule.next(), first + SECOND * taken);
        }
    }
}
