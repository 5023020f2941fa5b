//! How sure a difference is: machines, or their episodes, are drawn again and again, and both contenders scored on the same
//! draw.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use super::ranking::Ranking;

const REPLICATES: usize = 400;
const SEED: u64 = 7;

/// A difference and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// One mode's windows as two contenders rank them.
pub struct Duel<'a> {
    pub a: &'a Ranking,
    pub b: &'a Ranking,
    pub positive: &'a [bool],
}

/// Difference `a - b` of average precision, mean over the modes, with a 95 % interval; `machine_of`: machine of each row.
pub fn paired_difference(modes: &[Duel], machine_of: &[usize]) -> Interval {
    let difference = |weight: &dyn Fn(usize) -> f64| {
        let of_mode = |Duel { a, b, positive }: &Duel| {
            a.average_precision(positive, weight) - b.average_precision(positive, weight)
        };
        modes.iter().map(of_mode).sum::<f64>() / modes.len().max(1) as f64
    };
    let mut machines = machine_of.to_vec();
    machines.sort_unstable();
    machines.dedup();
    let slots = machines.last().map_or(0, |last| last + 1);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut differences: Vec<f64> = (0..REPLICATES)
        .map(|_| {
            let mut times = vec![0.0; slots];
            machines.iter().for_each(|_| times[machines[rng.random_range(0..machines.len())]] += 1.0);
            difference(&|row| times[machine_of[row]])
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let quantile = |q: f64| differences[((REPLICATES - 1) as f64 * q).round() as usize];
    Interval { mean: difference(&|_| 1.0), low: quantile(0.025), high: quantile(0.975) }
}

/// What `difference` is over `blocks` independent blocks, and its one-sided bounds at `level` (0.05: one in twenty lies
/// beyond each). `difference` takes how often each block was drawn.
pub fn over_blocks(blocks: usize, level: f64, difference: impl Fn(&[f64]) -> f64) -> Interval {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut differences: Vec<f64> = (0..REPLICATES)
        .map(|_| {
            let mut times = vec![0.0; blocks];
            (0..blocks).for_each(|_| times[rng.random_range(0..blocks)] += 1.0);
            difference(&times)
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let quantile = |q: f64| differences[((REPLICATES - 1) as f64 * q).round() as usize];
    Interval { mean: difference(&vec![1.0; blocks]), low: quantile(level), high: quantile(1.0 - level) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_drawn_whole_and_as_many_as_there_are() {
        let worth = [1.0, 2.0, 6.0];
        let mean = |times: &[f64]| {
            assert_eq!(times.iter().sum::<f64>(), 3.0);
            times.iter().zip(worth).map(|(t, w)| t * w).sum::<f64>() / 3.0
        };
        let interval = over_blocks(3, 0.05, mean);
        assert_eq!(interval.mean, 3.0);
        assert!(
            interval.low >= 1.0 && interval.low < 2.0 && interval.high > 4.0 && interval.high <= 6.0,
            "{interval:?}"
        );
    }

    #[test]
    fn a_clear_lead_has_an_interval_above_zero_and_none_has_zero_inside() {
        let rows = 400;
        let positive: Vec<bool> = (0..rows).map(|i| i % 5 == 0).collect();
        let machine_of: Vec<usize> = (0..rows).map(|i| i / 20).collect();
        let good: Vec<f64> = (0..rows).map(|i| if i % 5 == 0 { 1.0 } else { (i % 7) as f64 / 7.0 }).collect();
        let noise: Vec<f64> = (0..rows).map(|i| ((i * 7919) % 101) as f64).collect();
        let (good, noise) = (Ranking::new(&good), Ranking::new(&noise));
        let duel = |a, b| [Duel { a, b, positive: &positive }];
        let lead = paired_difference(&duel(&good, &noise), &machine_of);
        assert!(lead.low > 0.0 && lead.low <= lead.mean && lead.mean <= lead.high, "{lead:?}");
        let none = paired_difference(&duel(&noise, &noise), &machine_of);
        assert_eq!((none.low, none.mean, none.high), (0.0, 0.0, 0.0));
    }
}
