//! Stratified folds, and how sure a paired difference is.

use rand::{Rng, seq::SliceRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::evaluate::bootstrap::Interval;

const REPLICATES: usize = 1_000;
const INTERVAL_SEED: u64 = 11;

/// Fold of each row, each class spread evenly. `rows` of them take part; the others have none.
pub fn stratified(positive: &[bool], folds: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut of = vec![0; positive.len()];
    for class in [true, false] {
        let mut rows: Vec<usize> = (0..positive.len()).filter(|row| positive[*row] == class).collect();
        rows.shuffle(rng);
        rows.iter().enumerate().for_each(|(at, row)| of[*row] = at % folds);
    }
    of
}

/// `rows` in two, the second with a `1 / parts` share of each class.
pub fn inner(rows: &[usize], positive: &[bool], parts: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let own: Vec<bool> = rows.iter().map(|row| positive[*row]).collect();
    let folds = stratified(&own, parts, &mut rng);
    let of =
        |second: bool| rows.iter().zip(&folds).filter(|(_, f)| (**f == 0) == second).map(|(row, _)| *row).collect();
    (of(false), of(true))
}

/// 95 % interval of a figure over `units` that are drawn anew; `figure` gets how often each was drawn.
pub fn interval(units: usize, figure: impl Fn(&[f64]) -> f64) -> Interval {
    let mut rng = ChaCha8Rng::seed_from_u64(INTERVAL_SEED);
    let mut figures: Vec<f64> = (0..REPLICATES)
        .map(|_| {
            let mut times = vec![0.0; units];
            (0..units).for_each(|_| times[rng.random_range(0..units)] += 1.0);
            figure(&times)
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    let quantile = |q: f64| figures[((REPLICATES - 1) as f64 * q).round() as usize];
    Interval { mean: figure(&vec![1.0; units]), low: quantile(0.025), high: quantile(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fold_has_its_share_of_each_class() {
        let positive: Vec<bool> = (0..1_000).map(|i| i % 29 == 0).collect();
        let folds = stratified(&positive, 5, &mut ChaCha8Rng::seed_from_u64(7));
        for fold in 0..5 {
            let rows = (0..1_000).filter(|row| folds[*row] == fold);
            let (positives, all) = (rows.clone().filter(|row| positive[*row]).count(), rows.count());
            assert!(positives == 7 && (199..=201).contains(&all), "{positives} of {all}");
        }
        let rows: Vec<usize> = (0..1_000).collect();
        let (train, held_out) = inner(&rows, &positive, 5, 1);
        assert_eq!(train.len() + held_out.len(), 1_000);
        assert!(held_out.iter().all(|row| !train.contains(row)));
    }
}
