//! What the network has to beat: the best limit on a single sensor, found per kind of machine and mode.

use std::collections::HashMap;

use super::ranking::Ranking;
use crate::{
    calibration::{Outcome, Platt},
    dataset::Dataset,
    features::FeatureSchema,
};

/// What one sensor says by itself: its statistics, and how far it is from where it usually is. Features that already
/// take other sensors into account are no single-sensor threshold.
const SINGLE_SENSOR: [&str; 12] = [
    "mean",
    "std",
    "min",
    "max",
    "last",
    "slope",
    "slow_3h",
    "slow_24h",
    "deviation",
    "deviation_3h",
    "deviation_24h",
    "unrest",
];

/// One mode's best limit per kind of machine, as tuned on the training slice.
pub struct SensorThreshold {
    /// Index of the dataset's kinds; a kind that never failed so has none.
    by_kind: HashMap<usize, Limit>,
}

/// A limit on one feature, on either side of it. Its probability is a monotone curve fitted to the kind's training
/// rows: what lies further out always scores higher, and one score means the same for every kind.
#[derive(Debug, Clone, Copy)]
struct Limit {
    side: Side,
    mean: f64,
    std: f64,
    curve: Platt,
}

/// A feature, and whether high or low values speak for the mode.
#[derive(Debug, Clone, Copy)]
struct Side {
    feature: usize,
    sign: f32,
}

impl SensorThreshold {
    /// For each of `modes` the limits with the best average precision over the rows of `train`, among all single-sensor
    /// features and both sides.
    pub fn tune(dataset: &Dataset, train: &[usize], modes: &[usize]) -> Vec<Self> {
        let names = FeatureSchema::of(&dataset.config).names;
        let is_single = |name: &String| name.rsplit('.').next().is_some_and(|f| SINGLE_SENSOR.contains(&f));
        let features = (0..names.len()).filter(|i| is_single(&names[*i]));
        let sides: Vec<Side> = features.flat_map(|feature| [1.0, -1.0].map(|sign| Side { feature, sign })).collect();
        let mut tuned: Vec<Self> = modes.iter().map(|_| SensorThreshold { by_kind: HashMap::new() }).collect();
        for kind in 0..dataset.kinds.len() {
            let of_kind = |r: &&usize| dataset.machines[dataset.rows[**r].machine].kind == kind;
            let rows: Vec<usize> = train.iter().filter(of_kind).copied().collect();
            let positive: Vec<Vec<bool>> = modes.iter().map(|mode| dataset.positive(&rows, *mode)).collect();
            for (place, side) in best(dataset, &rows, &sides, &positive) {
                if let Some(limit) = Limit::fit(dataset, &rows, side, &positive[place]) {
                    tuned[place].by_kind.insert(kind, limit);
                }
            }
        }
        tuned
    }

    /// Probability of failing within the horizon; 0 for a kind without a limit.
    pub fn probability(&self, dataset: &Dataset, row: usize) -> f64 {
        let kind = dataset.machines[dataset.rows[row].machine].kind;
        self.by_kind.get(&kind).map_or(0.0, |limit| limit.probability(dataset, row))
    }
}

/// Per mode that occurs in `rows` its place and the side that ranks them best.
fn best(dataset: &Dataset, rows: &[usize], sides: &[Side], positive: &[Vec<bool>]) -> Vec<(usize, Side)> {
    let mut best: Vec<Option<(f64, Side)>> = vec![None; positive.len()];
    for side in sides {
        // A missing value speaks for nothing.
        let value = |row: &usize| side.value(dataset, *row).unwrap_or(f32::NEG_INFINITY);
        let ranking = Ranking::new(&rows.iter().map(value).collect::<Vec<f32>>());
        for (best, positive) in best.iter_mut().zip(positive).filter(|(_, positive)| positive.contains(&true)) {
            let precision = ranking.average_precision(positive, |_| 1.0);
            if best.is_none_or(|(most, _)| precision > most) {
                *best = Some((precision, *side));
            }
        }
    }
    let found = best.into_iter().enumerate();
    found.filter_map(|(place, best)| best.map(|(_, side)| (place, side))).collect()
}

impl Side {
    /// None: the row has no value.
    fn value(&self, dataset: &Dataset, row: usize) -> Option<f32> {
        let value = dataset.features(row)[self.feature];
        value.is_finite().then_some(self.sign * value)
    }
}

impl Limit {
    /// None: no curve that rises fits.
    fn fit(dataset: &Dataset, rows: &[usize], side: Side, positive: &[bool]) -> Option<Self> {
        let known = rows.iter().zip(positive).filter_map(|(row, p)| Some((f64::from(side.value(dataset, *row)?), *p)));
        let known: Vec<(f64, bool)> = known.collect();
        let n = known.len().max(1) as f64;
        let mean = known.iter().map(|(v, _)| v).sum::<f64>() / n;
        let std = (known.iter().map(|(v, _)| (v - mean).powi(2)).sum::<f64>() / n).sqrt().max(f64::MIN_POSITIVE);
        let outcome = |(value, positive): &(f64, bool)| Outcome { logit: (value - mean) / std, positive: *positive };
        let curve = Platt::fit(&known.iter().map(outcome).collect::<Vec<_>>())?;
        Some(Limit { side, mean, std, curve })
    }

    fn probability(&self, dataset: &Dataset, row: usize) -> f64 {
        let standardized = |value: f32| (f64::from(value) - self.mean) / self.std;
        self.side.value(dataset, row).map_or(0.0, |value| self.curve.probability(standardized(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    /// The first feature is raised by `raise` before failures of mode 0; the others stay as they are.
    fn plant(raise: f32) -> (Dataset, Vec<usize>) {
        let mut dataset = synthetic::xor_plant(5, 6, 40);
        for row in 0..dataset.rows.len() {
            let fails = dataset.rows[row].is_positive(0);
            let noise = (row * 7919 % 101) as f32 / 101.0;
            dataset.features_mut(row)[0] = noise + if fails { raise } else { 0.0 };
        }
        let rows = (0..dataset.rows.len()).collect();
        (dataset, rows)
    }

    #[test]
    fn the_sensor_that_tells_is_found_on_the_side_that_tells() {
        for raise in [0.5, -0.5] {
            let (dataset, rows) = plant(raise);
            let tuned = &SensorThreshold::tune(&dataset, &rows, &[0, 1])[0];
            let side = tuned.by_kind[&0].side;
            assert_eq!((side.feature, side.sign), (0, raise.signum()));
        }
    }

    #[test]
    fn further_out_than_anything_healthy_is_no_tie() {
        let (mut dataset, rows) = plant(0.5);
        let tuned = SensorThreshold::tune(&dataset, &rows, &[0]).remove(0);
        let mut score = |value: f32| {
            dataset.features_mut(0)[0] = value;
            tuned.probability(&dataset, 0)
        };
        let scores = [0.0, 0.9, 1.1, 1.3, 1.5, 1.9].map(&mut score);
        assert!(scores.windows(2).all(|pair| pair[0] < pair[1] && pair[1] < 1.0), "{scores:?}");
        assert_eq!(score(f32::NAN), 0.0);
    }
}
