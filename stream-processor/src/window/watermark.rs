//! Up to when a machine's readings have been read.
//!
//! The seal of a batch says: everything up to here has been read. So it moves the watermark of all machines of its
//! agent, silent ones too, and stamps never do; the watermark is a function of the log alone. Since all machines of
//! an agent share it, it is kept once per agent.
//!
//! A seal that is behind it by more than the lateness is no delay: the gateway's clock was wrong and has been set right.
//! What was read under the old time is over then, and a new generation begins, with a watermark of its own.

use model::features::FeatureConfig;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub i64);

impl Default for Watermark {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

impl Watermark {
    /// Closes every window.
    pub const END: Watermark = Watermark(i64::MAX);

    /// Does a trusted seal at this time begin a new generation?
    pub fn is_left_by(self, sealed_ms: i64, config: &FeatureConfig) -> bool {
        sealed_ms.saturating_add(config.lateness_ms) < self.0
    }

    /// Never falls back.
    pub fn advance(&mut self, sealed_ms: i64) {
        self.0 = self.0.max(sealed_ms);
    }

    /// Has the window had its time and its lateness?
    pub fn closes(self, bin: i64, config: &FeatureConfig) -> bool {
        let end = bin.saturating_add(1).saturating_mul(config.window_ms);
        end.saturating_add(config.lateness_ms) <= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_waits_for_its_lateness_and_nothing_else() {
        let config = FeatureConfig { window_ms: 100, lateness_ms: 10, ..Default::default() };
        assert!(!Watermark::default().closes(i64::MIN / 100, &config));
        assert!(!Watermark(109).closes(0, &config));
        assert!(Watermark(110).closes(0, &config));
        assert!(!Watermark(110).closes(1, &config));
        assert!(!Watermark(110).closes(i64::MAX, &config));
        assert!(Watermark::END.closes(i64::MAX, &config));
    }

    #[test]
    fn a_seal_may_be_behind_by_the_lateness_and_no_more() {
        let config = FeatureConfig { window_ms: 100, lateness_ms: 10, ..Default::default() };
        assert!(!Watermark(100).is_left_by(90, &config));
        assert!(Watermark(100).is_left_by(89, &config));
        assert!(!Watermark::default().is_left_by(i64::MIN, &config), "there was no seal yet");
    }

    #[test]
    fn it_never_falls_back() {
        let mut watermark = Watermark::default();
        watermark.advance(5);
        watermark.advance(3);
        assert_eq!(watermark, Watermark(5));
    }
}
