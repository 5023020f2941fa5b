//! What a program says and does wrong, in the log, but never so often that it fills the disk.

use std::time::Duration;

use tokio::time::Instant;

pub const LINES_PER_MINUTE_MAX: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// Of a line, in the log.
const CHARS_MAX: usize = 500;

#[derive(Debug, Default)]
pub struct Throttle {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Throttle {
    /// A line of its error output.
    pub fn line(&mut self, source: &str, line: &str) {
        if let Some(suppressed) = self.admits(Instant::now()) {
            let line: String = line.chars().take(CHARS_MAX).collect();
            tracing::info!(source, line, suppressed, "the program says");
        }
    }

    pub fn refused(&mut self, source: &str, reason: &str) {
        if let Some(suppressed) = self.admits(Instant::now()) {
            tracing::warn!(source, reason, suppressed, "a line of the program was not taken as it is");
        }
    }

    /// None: not now. Otherwise, how many were not admitted before this one.
    fn admits(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= MINUTE) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= LINES_PER_MINUTE_MAX {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let admitted = (0..100).filter(|_| throttle.admits(start).is_some()).count();
        assert_eq!(admitted, LINES_PER_MINUTE_MAX as usize);
        assert_eq!(throttle.admits(start + MINUTE), Some(80));
        assert_eq!(throttle.admits(start + MINUTE), Some(0));
    }
}
