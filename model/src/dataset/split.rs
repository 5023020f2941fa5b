//! Training, validation, calibration and test follow each other in time, with a horizon between them.

use proto::time::PlantTime;

use super::Dataset;
use crate::settings::{Borders, SplitShares};

impl Borders {
    /// Shares of the time that the dataset's rows span.
    pub fn of(dataset: &Dataset, shares: SplitShares) -> Self {
        let first = dataset.rows.iter().map(|r| r.start.millis()).min().unwrap_or(0);
        let last = dataset.rows.iter().map(|r| r.end.millis()).max().unwrap_or(0);
        let at = |share: f64| PlantTime(first + ((last - first) as f64 * share) as i64);
        Borders {
            train_end: at(shares.train),
            validation_end: at(shares.train + shares.validation),
            calibration_end: at(shares.train + shares.validation + shares.calibration),
        }
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
    /// By name, the oldest first.
    pub fn slices(&self) -> [(&'static str, &[usize]); 4] {
        [
            ("training", &self.train),
            ("validation", &self.validation),
            ("calibration", &self.calibration),
            ("test", &self.test),
        ]
    }

    /// A row belongs to a slice if it lies in it with its whole horizon: what decides its label is never seen by
    /// another slice.
    pub fn at(dataset: &Dataset, borders: &Borders) -> Self {
        let Borders { train_end, validation_end, calibration_end } = *borders;
        let mut split = Split::default();
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
        let split = Split::at(&dataset, &Borders::of(&dataset, SplitShares::default()));
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
