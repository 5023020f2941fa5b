//! What the probabilities themselves expect: of a calibrated 0.8 four in five come true, without anybody's report
//! (confidence-based performance estimation). Over windows, so it is no measure of alerts; held against the same figure of
//! the training it tells that something has changed.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Expected numbers of windows and modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    true_positive: f64,
    false_positive: f64,
    false_negative: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

impl Sums {
    /// As if it had been told so often.
    pub fn times(&self, times: f64) -> Sums {
        Sums {
            true_positive: times * self.true_positive,
            false_positive: times * self.false_positive,
            false_negative: times * self.false_negative,
        }
    }

    pub fn add(&mut self, probability: f64, threshold: f64) {
        if probability >= threshold {
            self.true_positive += probability;
            self.false_positive += 1.0 - probability;
        } else {
            self.false_negative += probability;
        }
    }

    /// None: nothing is expected to happen, nor was anything said.
    pub fn estimate(&self) -> Option<Estimate> {
        let Sums { true_positive: hit, false_positive: wrong, false_negative: missed } = *self;
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        (hit + wrong + missed > 0.0).then(|| Estimate {
            precision: ratio(hit, hit + wrong),
            recall: ratio(hit, hit + missed),
            f1: ratio(2.0 * hit, 2.0 * hit + wrong + missed),
        })
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.true_positive += other.true_positive;
        self.false_positive += other.false_positive;
        self.false_negative += other.false_negative;
    }
}
