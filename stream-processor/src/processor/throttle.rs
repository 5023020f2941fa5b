//! How often something is worth a line in the log.

use std::time::Duration;

/// Lets one line through per interval, and counts the others.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    last: Option<Duration>,
    unsaid: u64,
}

impl Throttle {
    pub const fn new(interval: Duration) -> Self {
        Throttle { interval, last: None, unsaid: 0 }
    }

    /// Some: say it now, and that so many were left out before. `now`: monotonic.
    pub fn says(&mut self, now: Duration) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_sub(last) < self.interval) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_tells_of_the_others() {
        let mut throttle = Throttle::new(Duration::from_secs(10));
        let said: Vec<_> = [0, 1, 9, 10, 11, 25].map(|s| throttle.says(Duration::from_secs(s))).into();
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
