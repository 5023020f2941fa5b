//! Precision, recall and F1 of what was resolved, with intervals.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Beta, Distribution};
use serde::Serialize;

use super::RESOLVED_MIN;
use crate::evaluate::bootstrap::Interval;

const DRAWS: usize = 2_000;
const SEED: u64 = 7;
/// Both ends: one in twenty intervals misses.
const TAIL: f64 = 0.025;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counts {
    /// Alerts with a verdict or a failure after them, and failures without an alert.
    pub resolved: usize,
    right: usize,
    wrong: usize,
    /// Failures that an alert came before, and those that were prevented.
    pub caught: usize,
    missed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Realised {
    NotEnoughLabels { resolved: usize },
    Known(Known),
}

/// Means and 95 % intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Known {
    pub resolved: usize,
    pub precision: Interval,
    pub recall: Interval,
    pub f1: Interval,
}

impl Counts {
    pub fn verdict(&mut self, right: bool) {
        if right { self.right += 1 } else { self.wrong += 1 }
    }

    pub fn failure(&mut self, alerted: bool) {
        match alerted {
            true => self.caught += 1,
            false => {
                self.missed += 1;
                self.resolved += 1;
            }
        }
    }

    /// Either figure alone can be had by one that always alerts or never does: both sides must be there.
    pub fn realised(&self) -> Realised {
        let resolved = self.resolved;
        let (verdicts, failures) = (self.right + self.wrong, self.caught + self.missed);
        if resolved < RESOLVED_MIN || verdicts == 0 || failures == 0 {
            return Realised::NotEnoughLabels { resolved };
        }
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        // Jeffreys' prior: right even where nothing was wrong yet.
        let mut draws = |hits: usize, misses: usize| -> Vec<f64> {
            let beta = Beta::new(hits as f64 + 0.5, misses as f64 + 0.5);
            (0..DRAWS).map(|_| beta.as_ref().map_or(0.5, |beta| beta.sample(&mut rng))).collect()
        };
        let (precisions, recalls) = (draws(self.right, self.wrong), draws(self.caught, self.missed));
        let f1s = precisions.iter().zip(&recalls).map(|(p, r)| f1(*p, *r)).collect();
        let (precision, recall) = (self.right as f64 / verdicts as f64, self.caught as f64 / failures as f64);
        Realised::Known(Known {
            resolved,
            precision: interval(precision, precisions),
            recall: interval(recall, recalls),
            f1: interval(f1(precision, recall), f1s),
        })
    }
}

fn f1(precision: f64, recall: f64) -> f64 {
    if precision + recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
}

fn interval(mean: f64, mut draws: Vec<f64>) -> Interval {
    draws.sort_by(f64::total_cmp);
    let at = |q: f64| draws[((DRAWS - 1) as f64 * q).round() as usize];
    Interval { mean, low: at(TAIL), high: at(1.0 - TAIL) }
}
