//! What the network has to beat: the best limit on a single sensor, found per kind of machine and mode.

use std::collections::HashMap;

use super::metrics::average_precision;
use crate::{dataset::Dataset, features::FeatureSchema};

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

/// A feature, and whether high or low values speak for the mode.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Limit {
    feature: usize,
    sign: f32,
}

/// For one mode: per kind its best limit, and the training values that make kinds comparable.
pub struct SensorThreshold {
    by_kind: HashMap<usize, (Limit, Vec<f32>)>,
}

impl SensorThreshold {
    /// The limit with the best average precision among all single-sensor features and both directions.
    pub fn tune(dataset: &Dataset, train: &[usize], mode: usize) -> Self {
        let names = FeatureSchema::of(&dataset.config).names;
        let is_single = |name: &String| name.rsplit('.').next().is_some_and(|f| SINGLE_SENSOR.contains(&f));
        let features: Vec<usize> = (0..names.len()).filter(|i| is_single(&names[*i])).collect();
        let of_kind = |kind: usize| {
            let rows: Vec<usize> =
                train.iter().copied().filter(|r| dataset.machines[dataset.rows[*r].machine].kind == kind).collect();
            let limit = best_limit(dataset, &rows, &features, mode)?;
            let mut healthy: Vec<f32> = (rows.iter())
                .filter(|r| !dataset.rows[**r].is_positive(mode))
                .map(|r| limit.score(dataset, *r))
                .collect();
            healthy.sort_by(f32::total_cmp);
            Some((kind, (limit, healthy)))
        };
        SensorThreshold { by_kind: (0..dataset.kinds.len()).filter_map(of_kind).collect() }
    }

    /// Share of the kind's healthy training windows that this one lies above; 0 for a kind without a failure.
    pub fn score(&self, dataset: &Dataset, row: usize) -> f64 {
        let kind = dataset.machines[dataset.rows[row].machine].kind;
        let Some((limit, healthy)) = self.by_kind.get(&kind) else { return 0.0 };
        let score = limit.score(dataset, row);
        healthy.partition_point(|h| *h < score) as f64 / healthy.len().max(1) as f64
    }
}

impl Limit {
    /// A missing value speaks for nothing.
    fn score(&self, dataset: &Dataset, row: usize) -> f32 {
        let value = dataset.features(row)[self.feature];
        if value.is_nan() { f32::MIN } else { self.sign * value }
    }
}

/// Every so many rows are enough to compare limits by.
const ROWS_COMPARED: usize = 4_000;

fn best_limit(dataset: &Dataset, rows: &[usize], features: &[usize], mode: usize) -> Option<Limit> {
    let step = rows.len().div_ceil(ROWS_COMPARED).max(1);
    let rows: Vec<usize> = rows.iter().copied().step_by(step).collect();
    let positive: Vec<bool> = rows.iter().map(|r| dataset.rows[*r].is_positive(mode)).collect();
    if !positive.contains(&true) {
        return None;
    }
    let limits = features.iter().flat_map(|feature| [1.0, -1.0].map(|sign| Limit { feature: *feature, sign }));
    let precision = |limit: &Limit| {
        let scores: Vec<f64> = rows.iter().map(|r| f64::from(limit.score(dataset, *r))).collect();
        average_precision(&scores, &positive)
    };
    limits.map(|l| (precision(&l), l)).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, limit)| limit)
}
