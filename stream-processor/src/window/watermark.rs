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
    /// Does a trusted seal at this time begin a new generation?
    pub fn is_left_by(self, sealed_ms: i64, config: &FeatureConfig) -> bool {
        sealed_ms.saturating_add(config.lateness_ms) < self.0
    }

    /// Never falls back.
    pub fn advance(&mut self, sealed_ms: i64) {
        self.0 = self.0.max(sealed_ms);
    }
}

/// How far the windows of an agent's machines have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frontier {
    pub watermark: Watermark,
    /// What ends at or before it can't be revised any more. It never falls back, so that settings of another start can't bring
    /// back what is settled, and forgotten.
    pub settled: Watermark,
}

impl Frontier {
    /// Closes and settles every window.
    pub const END: Frontier = Frontier { watermark: Watermark(i64::MAX), settled: Watermark(i64::MAX) };

    pub fn advance(&mut self, sealed_ms: i64, config: &FeatureConfig) {
        self.watermark.advance(sealed_ms);
        self.settle(config.revise_ms(), config);
    }

    /// Windows that have been closed for so long are settled.
    pub fn settle(&mut self, revise_ms: i64, config: &FeatureConfig) {
        self.settled.advance(self.watermark.0.saturating_sub(config.lateness_ms).saturating_sub(revise_ms));
    }

    /// Has the window that ends with this pane had its time and its lateness?
    pub fn closes(&self, pane: i64, config: &FeatureConfig) -> bool {
        end(pane, config).saturating_add(config.lateness_ms) <= self.watermark.0
    }

    /// Can it not be revised any more, nor any before it?
    pub fn settles(&self, pane: i64, config: &FeatureConfig) -> bool {
        end(pane, config) <= self.settled.0
    }

    /// Its number; that of one before all time where there is none.
    pub fn newest_settled(&self, config: &FeatureConfig) -> i64 {
        newest_ended(self.settled.0, config)
    }

    /// No window that one has closed or settled, and the other has not.
    pub fn is_level_with(&self, other: &Frontier, config: &FeatureConfig) -> bool {
        let closed = |f: &Frontier| newest_ended(f.watermark.0.saturating_sub(config.lateness_ms), config);
        closed(self) == closed(other) && self.newest_settled(config) == other.newest_settled(config)
    }
}

fn end(pane: i64, config: &FeatureConfig) -> i64 {
    pane.saturating_add(1).saturating_mul(config.slide_ms())
}

fn newest_ended(at_ms: i64, config: &FeatureConfig) -> i64 {
    at_ms.div_euclid(config.slide_ms()).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FeatureConfig {
        FeatureConfig { window_ms: 100, lateness_ms: 10, revise_ms: Some(50), ..Default::default() }
    }

    fn at(sealed_ms: i64) -> Frontier {
        let mut frontier = Frontier::default();
        frontier.advance(sealed_ms, &config());
        frontier
    }

    #[test]
    fn a_window_waits_for_its_lateness_and_nothing_else() {
        let config = config();
        assert!(!Frontier::default().closes(i64::MIN / 100, &config));
        assert!(!at(109).closes(0, &config));
        assert!(at(110).closes(0, &config));
        assert!(!at(110).closes(1, &config));
        assert!(!at(110).closes(i64::MAX, &config));
        assert!(Frontier::END.closes(i64::MAX, &config));
    }

    #[test]
    fn it_settles_when_nothing_can_revise_it_any_more() {
        let config = config();
        assert!(!Frontier::default().settles(i64::MIN / 100, &config));
        assert!(!at(159).settles(0, &config) && at(160).settles(0, &config) && !at(160).settles(1, &config));
        assert_eq!((at(159).newest_settled(&config), at(160).newest_settled(&config)), (-1, 0));
        assert!(Frontier::END.settles(i64::MAX, &config));
    }

    #[test]
    fn nothing_happens_between_the_borders_of_panes() {
        let config = config();
        assert!(at(110).is_level_with(&at(159), &config));
        assert!(!at(109).is_level_with(&at(110), &config), "one closes");
        assert!(!at(159).is_level_with(&at(160), &config), "one settles");
        assert!(!Frontier::default().is_level_with(&at(110), &config));
        assert!(!at(110).is_level_with(&Frontier::END, &config));
    }

    #[test]
    fn longer_revisions_than_before_bring_nothing_back() {
        let longer = FeatureConfig { revise_ms: Some(10_000), ..config() };
        let mut frontier = at(160);
        frontier.advance(161, &longer);
        assert!(frontier.settles(0, &longer));
    }

    #[test]
    fn a_seal_may_be_behind_by_the_lateness_and_no_more() {
        let config = config();
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
