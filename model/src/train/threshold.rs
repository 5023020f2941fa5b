//! From which probability on a window counts: chosen from what a missed failure and a false alarm cost.

use serde::{Deserialize, Serialize};

use super::by_machine;
use crate::{
    calibration::sigmoid,
    dataset::Dataset,
    evaluate::episode::{AlertRule, Tally, tally_machine},
};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// A failure that no alert came before.
    pub missed_failure: f64,
    /// A crew sent out for nothing; every one costs trust as well.
    pub false_alarm: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Costs { missed_failure: 8.0, false_alarm: 1.0 }
    }
}

/// Candidates are evenly spread over the logit, from 0.05 to 0.998: finer steps would fit the slice, not the machines.
const STEPS: usize = 46;
const LOGIT_MIN: f64 = -3.0;
const LOGIT_STEP: f64 = 0.2;

/// One threshold per mode: where its own cost and the mean cost of all modes together are lowest on `rows`. On a
/// calibrated probability the right threshold follows from the costs alone, so that a mode with few failures may lean
/// on the others. Among equals the middle one is taken, furthest from where it gets worse.
/// `probability` takes a row and a place in `modes`.
pub fn choose(
    dataset: &Dataset,
    rows: &[usize],
    modes: &[usize],
    costs: &Costs,
    probability: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let candidates: Vec<f64> = (0..STEPS).map(|i| sigmoid(LOGIT_MIN + LOGIT_STEP * i as f64)).collect();
    let own = modes.iter().enumerate().map(|(place, mode)| {
        let scores: Vec<f64> = rows.iter().map(|r| probability(*r, place)).collect();
        candidates.iter().map(|t| cost(dataset, rows, *mode, costs, &scores, *t)).collect()
    });
    let own: Vec<Vec<f64>> = own.collect();
    let mean = |i: usize| own.iter().map(|costs| costs[i]).sum::<f64>() / own.len() as f64;
    let together: Vec<f64> = (0..STEPS).map(mean).collect();
    own.iter().map(|own| candidates[lowest(own.iter().zip(&together).map(|(a, b)| a + b).collect())]).collect()
}

/// The middle of the first run of lowest costs.
fn lowest(costs: Vec<f64>) -> usize {
    let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let first = costs.iter().position(|c| *c == lowest).unwrap_or(0);
    let run = costs[first..].iter().take_while(|c| **c == lowest).count();
    first + run / 2
}

fn cost(dataset: &Dataset, rows: &[usize], mode: usize, costs: &Costs, scores: &[f64], threshold: f64) -> f64 {
    let above: Vec<bool> = scores.iter().map(|s| *s >= threshold).collect();
    let (mut tally, mut at) = (Tally::default(), 0);
    for (machine, own) in by_machine(dataset, rows) {
        tally += tally_machine(dataset, machine, &own, &above[at..at + own.len()], mode, AlertRule::default());
        at += own.len();
    }
    costs.missed_failure * (tally.failures - tally.caught) as f64 + costs.false_alarm * tally.false_alarms as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    #[test]
    fn the_dearer_a_false_alarm_the_higher_the_threshold() {
        let dataset = synthetic::xor_plant(5, 6, 40);
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        // Says 0.6 before failures, and 0.4 for every sixth day without one.
        let probability = |row: usize, mode: usize| match dataset.rows[row].is_positive(mode) {
            true => 0.6,
            false if dataset.rows[row].start.millis() / 86_400_000 % 6 == 0 => 0.4,
            false => 0.0,
        };
        let chosen = |missed_failure, false_alarm| {
            choose(&dataset, &rows, &[0, 1], &Costs { missed_failure, false_alarm }, probability)
        };
        assert!(chosen(5.0, 1.0).iter().all(|t| *t > 0.4 && *t <= 0.6), "{:?}", chosen(5.0, 1.0));
        assert!(chosen(1.0, 0.0).iter().all(|t| *t <= 0.6));
    }

    #[test]
    fn among_equals_the_middle_is_taken() {
        assert_eq!(lowest(vec![3.0, 1.0, 1.0, 1.0, 2.0, 1.0]), 2);
        assert_eq!(lowest(vec![0.0]), 0);
    }
}
