//! Figures over single windows.

use std::collections::BTreeMap;

use super::{
    bootstrap::{Interval, over_blocks},
    ranking::Ranking,
};
use crate::artifact::ModeMetrics;

/// Both ends: one in twenty intervals misses.
const TAIL: f64 = 0.025;
const CALIBRATION_BINS: usize = 10;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub true_positive: u64,
    pub false_positive: u64,
    pub false_negative: u64,
}

impl Counts {
    pub fn at(scores: &[f64], positive: &[bool], threshold: f64) -> Self {
        let mut counts = Counts::default();
        for (score, positive) in scores.iter().zip(positive) {
            match (*score >= threshold, positive) {
                (true, true) => counts.true_positive += 1,
                (true, false) => counts.false_positive += 1,
                (false, true) => counts.false_negative += 1,
                (false, false) => {}
            }
        }
        counts
    }

    /// 0 where nothing was said.
    pub fn precision(&self) -> f64 {
        ratio(self.true_positive, self.true_positive + self.false_positive)
    }

    pub fn recall(&self) -> f64 {
        ratio(self.true_positive, self.true_positive + self.false_negative)
    }

    pub fn f1(&self) -> f64 {
        ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Area under precision over recall as a step function; windows of one score come together.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    Ranking::new(scores).average_precision(positive, |_| 1.0)
}

/// `machine_of`: machine of each row.
pub fn of_mode(mode: &str, scores: &[f64], positive: &[bool], threshold: f64, machine_of: &[usize]) -> ModeMetrics {
    let counts = Counts::at(scores, positive, threshold);
    let (brier, brier_between) = brier(scores, positive, machine_of);
    ModeMetrics {
        mode: mode.into(),
        positives: positive.iter().filter(|p| **p).count() as u64,
        precision: counts.precision(),
        recall: counts.recall(),
        f1: counts.f1(),
        average_precision: average_precision(scores, positive),
        brier,
        brier_between,
    }
}

/// Mean squared difference of probability and outcome, with a 95 % interval by machine; 0 of nothing. One machine alone
/// does not tell how far another one may be from it.
fn brier(probabilities: &[f64], positive: &[bool], machine_of: &[usize]) -> (f64, Option<(f64, f64)>) {
    let mut of_machine: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for ((p, positive), machine) in probabilities.iter().zip(positive).zip(machine_of) {
        let (squares, windows) = of_machine.entry(*machine).or_default();
        *squares += (p - f64::from(u8::from(*positive))).powi(2);
        *windows += 1.0;
    }
    let machines: Vec<(f64, f64)> = of_machine.into_values().collect();
    if machines.is_empty() {
        return (0.0, None);
    }
    let Interval { mean, low, high } = over_blocks(machines.len(), TAIL, |times| {
        let sum = |of: fn(&(f64, f64)) -> f64| machines.iter().zip(times).map(|(m, times)| of(m) * times).sum::<f64>();
        sum(|(squares, _)| *squares) / sum(|(_, windows)| *windows)
    });
    (mean, (machines.len() > 1).then_some((low, high)))
}

/// Mean distance of the stated probability from the share that was positive, over ten bins of as many windows each; 0 of
/// nothing.
pub fn calibration_error(probabilities: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
    let bin = order.len().div_ceil(CALIBRATION_BINS).max(1);
    let off = |rows: &[usize]| {
        let stated: f64 = rows.iter().map(|row| probabilities[*row]).sum();
        let were = rows.iter().filter(|row| positive[**row]).count() as f64;
        (stated - were).abs()
    };
    order.chunks(bin).map(off).sum::<f64>() / order.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_is_the_one_worked_out_by_hand() {
        // Ranks of the positives: 1, 3, 5: (1/1 + 2/3 + 3/5) / 3.
        let scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1];
        let positive = [true, false, true, false, true, false];
        assert!((average_precision(&scores, &positive) - (1.0 + 2.0 / 3.0 + 0.6) / 3.0).abs() < 1e-12);
        assert_eq!(average_precision(&scores, &[false; 6]), 0.0);
        assert_eq!(average_precision(&scores, &[true, true, false, false, false, false]), 1.0);
    }

    #[test]
    fn equal_scores_come_together() {
        // All the same: precision is the base rate, whatever the order of the rows.
        assert!((average_precision(&[0.5; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
        assert!((average_precision(&[0.5; 4], &[false, false, false, true]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn weights_are_repetitions() {
        let (scores, positive) = ([0.9, 0.8, 0.7], [false, true, true]);
        let weighed = Ranking::new(&scores).average_precision(&positive, |row| [2.0, 1.0, 0.0][row]);
        assert!((weighed - average_precision(&[0.9, 0.9, 0.8], &[false, false, true])).abs() < 1e-12);
    }

    #[test]
    fn the_brier_score_is_the_one_worked_out_by_hand() {
        let one = brier(&[0.9, 0.2], &[true, false], &[0, 0]);
        assert!((one.0 - (0.01 + 0.04) / 2.0).abs() < 1e-12 && one.1.is_none());
        assert_eq!(brier(&[], &[], &[]), (0.0, None));
    }

    #[test]
    fn windows_of_one_machine_are_one_witness_of_the_brier_score() {
        // Half the machines are understood, of the others nothing is.
        let probabilities: Vec<f64> = (0..400).map(|row| if row < 200 { 0.0 } else { 1.0 }).collect();
        let of = |rows: usize| {
            let machine_of: Vec<usize> = (0..400).map(|row| row / rows).collect();
            let (mean, between) = brier(&probabilities, &[false; 400], &machine_of);
            let (low, high) = between.unwrap();
            assert!(mean == 0.5 && low < mean && high > mean, "{mean} [{low}, {high}]");
            high - low
        };
        assert!(of(50) > 3.0 * of(1), "{} and {}", of(50), of(1));
    }

    #[test]
    fn the_calibration_error_is_how_far_off_what_is_said_is() {
        let said: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i >= 50))).collect();
        let half: Vec<bool> = (0..100).map(|i| i % 2 == 0).collect();
        let right: Vec<bool> = (0..100).map(|i| i >= 50).collect();
        assert!((calibration_error(&said, &half) - 0.5).abs() < 1e-12);
        assert_eq!((calibration_error(&said, &right), calibration_error(&[], &[])), (0.0, 0.0));
    }

    #[test]
    fn precision_and_recall_count_what_lies_above_the_threshold() {
        let counts = Counts::at(&[0.9, 0.5, 0.4, 0.2], &[true, false, true, false], 0.5);
        assert_eq!((counts.precision(), counts.recall(), counts.f1()), (0.5, 0.5, 0.5));
        let silent = Counts::at(&[0.1], &[true], 0.5);
        assert_eq!((silent.precision(), silent.recall(), silent.f1()), (0.0, 0.0, 0.0));
    }
}
