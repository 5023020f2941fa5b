//! A machine's own normal: a slow, robust mean and spread; and averages with a time constant.

use serde::{Deserialize, Serialize, Serializer};

use crate::features::Normal;

/// Wear that develops over days must not become the normal that it is measured against.
const NORMAL_MS: f64 = 14.0 * 24.0 * 3_600_000.0;
/// So many windows make a first normal.
const KNOWN_AFTER: u64 = 72;
/// Once it is known, a window further away than this many standard deviations teaches as if it were this far away.
const CLIP: f64 = 3.0;
/// Least spread, relative to the mean: a value that never moved is not infinitely far from its first move.
const SPREAD_MIN: f64 = 1e-6;

/// Mean and variance that first average all windows alike and then forget with [`NORMAL_MS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Baseline {
    windows: u64,
    mean: f64,
    variance: f64,
}

/// Without the names of its fields, which would be half of a snapshot; those are read as well.
impl Serialize for Baseline {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.windows, self.mean, self.variance).serialize(to)
    }
}

impl Baseline {
    pub fn normal(&self) -> Option<Normal> {
        let least = SPREAD_MIN * self.mean.abs().max(1.0);
        let normal = Normal { mean: self.mean, std: self.variance.max(0.0).sqrt().max(least) };
        (self.windows >= KNOWN_AFTER).then_some(normal)
    }

    pub fn learn(&mut self, value: f64, window_ms: i64) {
        let reach = self.normal().map_or(f64::INFINITY, |n| CLIP * n.std);
        self.windows += 1;
        let weight = (window_ms as f64 / NORMAL_MS).max(1.0 / self.windows as f64).min(1.0);
        let delta = (value - self.mean).clamp(-reach, reach);
        self.mean += weight * delta;
        self.variance = (1.0 - weight) * (self.variance + weight * delta * delta);
    }
}

/// An average that forgets with a time constant; it starts as a plain one, so that its first value weighs no more
/// than its second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Slow {
    values: u64,
    average: f64,
    at_ms: i64,
}

/// As [`Baseline`].
impl Serialize for Slow {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.values, self.average, self.at_ms).serialize(to)
    }
}

impl Slow {
    /// Takes the value of a window that ended at `end_ms` and answers the average.
    pub fn follow(&mut self, value: Option<f64>, end_ms: i64, constant_ms: f64) -> Option<f64> {
        if let Some(value) = value {
            let forgotten = 1.0 - (-((end_ms - self.at_ms) as f64) / constant_ms).exp();
            self.values += 1;
            let weight = forgotten.max(1.0 / self.values as f64);
            self.average += weight * (value - self.average);
            self.at_ms = end_ms;
        }
        (self.values > 0).then_some(self.average)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: i64 = 600_000;

    fn taught(values: impl IntoIterator<Item = f64>) -> Baseline {
        let mut baseline = Baseline::default();
        values.into_iter().for_each(|v| baseline.learn(v, WINDOW_MS));
        baseline
    }

    fn wave(n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(|i| 50.0 + if i % 2 == 0 { 1.0 } else { -1.0 })
    }

    #[test]
    fn a_normal_is_known_after_enough_windows() {
        assert_eq!(taught(wave(KNOWN_AFTER as usize - 1)).normal(), None);
        let normal = taught(wave(1_000)).normal().unwrap();
        assert!((normal.mean - 50.0).abs() < 0.1 && (normal.std - 1.0).abs() < 0.1, "{normal:?}");
    }

    #[test]
    fn snapshots_with_names_are_read_and_those_without_written() {
        let slow = Slow { values: 1, average: 2.5, at_ms: 3 };
        assert_eq!(serde_json::to_string(&slow).unwrap(), "[1,2.5,3]");
        let baseline = Baseline { windows: 4, mean: 0.5, variance: 0.25 };
        assert_eq!(serde_json::to_string(&baseline).unwrap(), "[4,0.5,0.25]");
        for text in ["[1,2.5,3]", r#"{"values":1,"average":2.5,"at_ms":3}"#] {
            assert_eq!(serde_json::from_str::<Slow>(text).unwrap(), slow);
        }
        for text in ["[4,0.5,0.25]", r#"{"windows":4,"mean":0.5,"variance":0.25}"#] {
            assert_eq!(serde_json::from_str::<Baseline>(text).unwrap(), baseline);
        }
    }

    #[test]
    fn a_fault_of_a_day_hardly_moves_it() {
        let sick = wave(2_000).chain(std::iter::repeat_n(500.0, 144));
        let normal = taught(sick).normal().unwrap();
        assert!((normal.mean - 50.0).abs() < 0.7, "{normal:?}");
    }

    #[test]
    fn a_value_that_never_moved_has_a_spread() {
        assert!(taught(std::iter::repeat_n(0.0, 100)).normal().unwrap().std > 0.0);
    }

    #[test]
    fn slow_averages_forget_by_time_and_not_by_count() {
        let day = 24.0 * 3_600_000.0;
        let mut slow = Slow::default();
        assert_eq!(slow.follow(None, 0, day), None);
        assert_eq!(slow.follow(Some(1.0), 0, day), Some(1.0));
        assert_eq!(slow.follow(None, 1, day), Some(1.0));
        let after_a_hole = slow.follow(Some(2.0), 100 * day as i64, day).unwrap();
        assert!((after_a_hole - 2.0).abs() < 1e-9);
    }
}
