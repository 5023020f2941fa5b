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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::synthetic, settings::TrainSettings, train::sample};

    #[test]
    fn they_fail_in_every_way_and_in_none_and_miss_no_value_where_they_need_not() {
        let mut dataset = synthetic::xor_plant(3, 4, 40);
        let holes: Vec<usize> = (0..dataset.rows.len()).filter(|row| row % 10 != 0).collect();
        holes.iter().for_each(|row| dataset.features_mut(*row)[1] = f32::NAN);
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        let sample = sample::draw(&dataset, &rows, &[0, 1], &TrainSettings::default());
        let chosen = choose(&dataset, &sample, &[0, 1]);
        let row_of = |golden: &Golden| {
            let same = |row: &usize| dataset.features(*row).iter().map(|v| f64::from(*v)).eq(golden.features.clone());
            (0..dataset.rows.len()).find(same).expect("a row of the dataset, without a hole")
        };
        let fails: Vec<u32> = chosen.iter().map(|golden| dataset.rows[row_of(golden)].fails).collect();
        assert!(matches!(fails.as_slice(), [a, b, 0] if a & 1 == 1 && b & 2 == 2), "{fails:?}");
        rows.iter().for_each(|row| dataset.features_mut(*row)[1] = f32::NAN);
        assert_eq!(choose(&dataset, &sample, &[0, 1]).len(), 3, "a sensor that no machine has is no reason for none");
    }
}
