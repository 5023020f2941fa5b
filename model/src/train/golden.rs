//! Rows that a model is tried on whenever it is loaded.

use crate::{artifact::Golden, dataset::Dataset};

use super::sample::Sample;

/// Positive rows that are kept at most, beside one that is not.
const POSITIVES: usize = 2;

/// A row of every class that the first heads tell apart. Best are those without a missing value: one is encoded as
/// zero, and the weights behind it are not tried.
pub fn choose(dataset: &Dataset, sample: &Sample, modes: &[usize]) -> Vec<Golden> {
    let rows = || sample.rows.iter().map(|s| s.row);
    let missing = |row: &usize| dataset.features(*row).iter().filter(|v| !v.is_finite()).count();
    let positive = modes.iter().take(POSITIVES).map(|mode| {
        let of_mode = rows().filter(|row| dataset.rows[*row].is_positive(*mode));
        of_mode.min_by_key(missing)
    });
    let sound = rows().filter(|row| dataset.rows[*row].fails == 0).min_by_key(missing);
    let mut chosen: Vec<usize> = positive.chain([sound]).flatten().collect();
    chosen.dedup();
    let golden = |row: usize| Golden {
        kind: dataset.kind(row).clone(),
        features: dataset.features(row).iter().map(|v| f64::from(*v)).collect(),
        probabilities: vec![],
    };
    chosen.into_iter().map(golden).collect()
}
