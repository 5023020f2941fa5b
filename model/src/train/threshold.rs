//! From which probability on a window counts: chosen from what a missed failure and a false alarm cost.

use crate::{
    calibration::sigmoid,
    dataset::Dataset,
    evaluate::episode::{Tally, tally_machine},
    policy::AlertPolicy,
    settings::Costs,
};

/// Candidates are evenly spread over the logit, from 0.05 to 0.998: finer steps would fit the slice, not the machines.
const STEPS: usize = 46;
const LOGIT_MIN: f64 = -3.0;
const LOGIT_STEP: f64 = 0.2;
/// Ratio of the ranks of neighbouring candidates where the scores themselves give them.
const RANK_RATIO: f64 = 1.25;

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

/// The threshold of one mode among the scores that `rows` have, or none at all: where its cost is lowest there.
/// Positive `scores`, one per row; they need not be calibrated.
pub fn among_scores(dataset: &Dataset, rows: &[usize], mode: usize, costs: &Costs, scores: &[f64]) -> f64 {
    let mut ranked: Vec<f64> = scores.iter().copied().filter(|s| *s > 0.0).collect();
    ranked.sort_by(|a, b| b.total_cmp(a));
    let ranks = std::iter::successors(Some(1.0), |rank: &f64| Some((rank * RANK_RATIO).max(rank + 1.0)));
    let at_ranks = ranks.map_while(|rank| ranked.get(rank as usize - 1).copied());
    let mut candidates: Vec<f64> = std::iter::once(f64::INFINITY).chain(at_ranks).collect();
    candidates.dedup();
    let costs = candidates.iter().map(|t| cost(dataset, rows, mode, costs, scores, *t)).collect();
    candidates[lowest(costs)]
}

/// The middle of the first run of lowest costs.
fn lowest(costs: Vec<f64>) -> usize {
    let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let first = costs.iter().position(|c| *c == lowest).unwrap_or(0);
    let run = costs[first..].iter().take_while(|c| **c == lowest).count();
    first + run / 2
}

fn cost(dataset: &Dataset, rows: &[usize], mode: usize, costs: &Costs, scores: &[f64], threshold: f64) -> f64 {
    let tally = tally(dataset, rows, scores, threshold, mode);
    costs.missed_failure * (tally.failures - tally.caught) as f64 + costs.false_alarm * tally.false_alarms as f64
}

/// What the crew would have seen of `scores`, one per row, of all machines together.
pub fn tally(dataset: &Dataset, rows: &[usize], scores: &[f64], threshold: f64, mode: usize) -> Tally {
    let policy = AlertPolicy::default();
    let strengths: Vec<f64> = scores.iter().map(|s| s / threshold).collect();
    let (mut tally, mut at) = (Tally::default(), 0);
    for (machine, own) in dataset.by_machine(rows) {
        tally += tally_machine(dataset, machine, own, &strengths[at..at + own.len()], mode, &policy);
        at += own.len();
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    /// Says 0.6 before failures, and 0.4 for every sixth day without one.
    fn says(dataset: &Dataset, row: usize, mode: usize) -> f64 {
        match dataset.rows[row].is_positive(mode) {
            true => 0.6,
            false if dataset.rows[row].start.millis() / 86_400_000 % 6 == 0 => 0.4,
            false => 0.001,
        }
    }

    #[test]
    fn the_dearer_a_false_alarm_the_higher_the_threshold() {
        let dataset = synthetic::xor_plant(5, 6, 40);
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        let chosen = |missed_failure, false_alarm| {
            choose(&dataset, &rows, &[0, 1], &Costs { missed_failure, false_alarm }, |r, m| says(&dataset, r, m))
        };
        assert!(chosen(5.0, 1.0).iter().all(|t| *t > 0.4 && *t <= 0.6), "{:?}", chosen(5.0, 1.0));
        assert!(chosen(1.0, 0.0).iter().all(|t| *t <= 0.6));
    }

    #[test]
    fn a_threshold_among_the_scores_is_one_of_them_or_none() {
        let dataset = synthetic::xor_plant(5, 6, 40);
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        let costs = Costs { missed_failure: 5.0, false_alarm: 1.0 };
        let telling: Vec<f64> = rows.iter().map(|r| says(&dataset, *r, 0)).collect();
        assert_eq!(among_scores(&dataset, &rows, 0, &costs, &telling), 0.6);
        let dull = vec![0.3; rows.len()];
        let dear = Costs { missed_failure: 1.0, false_alarm: 100.0 };
        assert_eq!(among_scores(&dataset, &rows, 0, &dear, &dull), f64::INFINITY);
    }

    #[test]
    fn among_equals_the_middle_is_taken() {
        assert_eq!(lowest(vec![3.0, 1.0, 1.0, 1.0, 2.0, 1.0]), 2);
        assert_eq!(lowest(vec![0.0]), 0);
    }
}
