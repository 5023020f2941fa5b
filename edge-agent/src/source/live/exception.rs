//! Report by exception: a reading is passed on if it tells something new, or if nothing was said for too long. Pure: it
//! is told the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::Reading;

/// Of a sensor with a deadband, unless it is told otherwise.
pub const SILENCE_MS_DEFAULT: u64 = 60_000;

#[derive(Debug, Clone)]
pub struct Exception {
    /// In the sensor's unit: a value that differs by no more is nothing new. None: every reading is reported.
    deadband: Option<f64>,
    silence_max: Duration,
    reported: Option<(Reading, Instant)>,
}

impl Exception {
    pub fn new(deadband: Option<f64>, silence_max: Duration) -> Self {
        Exception { deadband, silence_max, reported: None }
    }

    /// Whether to report this. A change of quality or of its reason is always something new.
    pub fn admits(&mut self, reading: Reading, now: Instant) -> bool {
        let Some(deadband) = self.deadband else { return true };
        let told = self.reported.is_some_and(|(last, at)| {
            let change = (reading.value - last.value).abs();
            (last.quality, last.reason) == (reading.quality, reading.reason)
                && now.saturating_duration_since(at) < self.silence_max
                // NaN: neither has a value.
                && (change <= deadband || change.is_nan())
        });
        if !told {
            self.reported = Some((reading, now));
        }
        !told
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::telemetry::QualityReason::{Disconnected, Timeout};

    use super::*;

    #[test]
    fn what_is_new_is_reported_and_silence_has_an_end() {
        let start = Instant::now();
        let mut exception = Exception::new(Some(0.5), Duration::from_secs(10));
        let mut admits = |s: u64, reading| exception.admits(reading, start + Duration::from_secs(s));
        assert!(admits(0, Reading::good(20.0)), "the first");
        assert!(!admits(1, Reading::good(20.5)), "within the deadband");
        assert!(admits(2, Reading::good(20.6)));
        assert!(!admits(3, Reading::good(20.2)), "measured from what was reported, so that a slow drift shows");
        assert!(admits(4, Reading::good(20.0)));
        assert!(!admits(13, Reading::good(20.0)));
        assert!(admits(14, Reading::good(20.0)), "the maximum silence");
        assert!(admits(15, Reading::bad(Timeout)));
        assert!(!admits(16, Reading::bad(Timeout)));
        assert!(admits(17, Reading::bad(Disconnected)), "another reason");
        assert!(admits(27, Reading::bad(Disconnected)));
        assert!(admits(28, Reading::good(20.0)), "good again");
    }

    #[test]
    fn a_deadband_of_nothing_reports_every_change_and_none_reports_everything() {
        let now = Instant::now();
        let mut changes = Exception::new(Some(0.0), Duration::from_secs(10));
        let admitted: Vec<_> = [1.0, 1.0, 1.1, 1.1, 1.0].map(|v| changes.admits(Reading::good(v), now)).into();
        assert_eq!(admitted, [true, false, true, false, true]);
        let mut every = Exception::new(None, Duration::ZERO);
        assert!((0..3).all(|_| every.admits(Reading::good(1.0), now)));
    }
}
