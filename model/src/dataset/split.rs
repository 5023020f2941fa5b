//! Training, validation, calibration and test follow each other in time, with a horizon between them.

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use super::Dataset;

/// Shares of the time that the dataset spans; the test slice is the rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitShares {
    pub train: f64,
    /// For early stopping and thresholds.
    pub validation: f64,
    pub calibration: f64,
}

impl Default for SplitShares {
    fn default() -> Self {
        SplitShares { train: 0.52, validation: 0.16, calibration: 0.14 }
    }
}

/// Row numbers of each slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    pub train: Vec<usize>,
    pub validation: Vec<usize>,
    pub calibration: Vec<usize>,
    pub test: Vec<usize>,
}

impl Split {
    /// A row belongs to a slice if it lies in it with its whole horizon: what decides its label is never seen by
    /// another slice. The test slice is open at its end: there the labels themselves know what is known.
    pub fn by_time(dataset: &Dataset, shares: SplitShares) -> Self {
        let mut split = Split::default();
        let first = dataset.rows.iter().map(|r| r.start.millis()).min().unwrap_or(0);
        let last = dataset.rows.iter().map(|r| r.end.millis()).max().unwrap_or(0);
        let at = |share: f64| PlantTime(first + ((last - first) as f64 * share) as i64);
        let train_end = at(shares.train);
        let validation_end = at(shares.train + shares.validation);
        let calibration_end = at(shares.train + shares.validation + shares.calibration);
        for (i, row) in dataset.rows.iter().enumerate() {
            let within = |end: PlantTime| row.end.plus_millis(dataset.horizon_ms) <= end;
            if within(train_end) {
                split.train.push(i);
            } else if row.start >= train_end && within(validation_end) {
                split.validation.push(i);
            } else if row.start >= validation_end && within(calibration_end) {
                split.calibration.push(i);
            } else if row.start >= calibration_end {
                split.test.push(i);
            }
        }
        split
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    #[test]
    fn no_label_of_a_slice_is_decided_in_another() {
        let dataset = synthetic::xor_plant(7, 8, 30);
        let split = Split::by_time(&dataset, SplitShares::default());
        let span = |rows: &[usize]| {
            let start = rows.iter().map(|r| dataset.rows[*r].start.millis()).min().unwrap();
            let end = rows.iter().map(|r| dataset.rows[*r].end.millis() + dataset.horizon_ms).max().unwrap();
            (start, end)
        };
        let spans = [&split.train, &split.validation, &split.calibration, &split.test].map(|rows| span(rows));
        for pair in spans.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{spans:?}");
        }
        let rows = split.train.len() + split.validation.len() + split.calibration.len() + split.test.len();
        assert!(rows < dataset.rows.len() && rows > dataset.rows.len() / 2);
    }
}
