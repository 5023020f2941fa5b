//! A rising curve of any shape: pooled neighbours (PAV), with lines between the pools.

use super::Outcome;

/// A curve keeps at most so many knots: rows in pools smaller than that share say nothing about its shape.
pub const KNOTS_MAX: usize = 64;

/// Logits and their probabilities, both rising; between two knots a line, beyond the outermost what they say.
#[derive(Debug, Clone, PartialEq)]
pub struct Isotonic {
    knots: Vec<(f64, f64)>,
}

/// Neighbouring rows that share one probability.
#[derive(Clone, Copy)]
struct Pool {
    rows: f64,
    positives: f64,
    logits: f64,
}

impl Isotonic {
    /// None: no knots or too many, or they fall, or lie outside of what a probability can be.
    pub fn new(knots: Vec<(f64, f64)>) -> Option<Self> {
        let rising = knots.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let sound = knots.iter().all(|(logit, p)| logit.is_finite() && (0.0..=1.0).contains(p));
        ((1..=KNOTS_MAX).contains(&knots.len()) && rising && sound).then_some(Isotonic { knots })
    }

    pub fn knots(&self) -> &[(f64, f64)] {
        &self.knots
    }

    /// Least squares among all curves that rise. A step would make equals of rows that the network tells apart, so the
    /// curve goes in lines from the middle of one pool to that of the next. Probabilities are drawn towards one half as
    /// if each pool had seen one row more of either outcome, by half: what was never seen is not impossible.
    pub fn fit(outcomes: &[Outcome]) -> Self {
        let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
        sorted.sort_by(|a, b| a.logit.total_cmp(&b.logit));
        let mut pools: Vec<Pool> = Vec::new();
        // Pools of one block at first, so that there are never more knots than a curve may have.
        for block in sorted.chunks(sorted.len().div_ceil(KNOTS_MAX).max(1)) {
            let rows = block.len() as f64;
            let positives = block.iter().filter(|o| o.positive).count() as f64;
            pools.push(Pool { rows, positives, logits: block.iter().map(|o| o.logit).sum() });
            while let [.., before, last] = pools[..] {
                if before.probability() < last.probability() && before.middle() < last.middle() {
                    break;
                }
                pools.truncate(pools.len() - 2);
                pools.push(Pool {
                    rows: before.rows + last.rows,
                    positives: before.positives + last.positives,
                    logits: before.logits + last.logits,
                });
            }
        }
        Isotonic { knots: pools.iter().map(|pool| (pool.middle(), pool.probability())).collect() }
    }

    pub fn probability(&self, logit: f64) -> f64 {
        let above = self.knots.partition_point(|(at, _)| *at <= logit);
        match (above.checked_sub(1).and_then(|below| self.knots.get(below)), self.knots.get(above)) {
            (Some((a, p)), Some((b, q))) => p + (q - p) * (logit - a) / (b - a),
            (Some((_, p)), None) | (None, Some((_, p))) => *p,
            (None, None) => f64::NAN,
        }
    }
}

impl Pool {
    fn probability(&self) -> f64 {
        (self.positives + 0.5) / (self.rows + 1.0)
    }

    fn middle(&self) -> f64 {
        self.logits / self.rows
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::calibration::{Platt, sigmoid};

    /// A curve that no two numbers describe: flat, then steep, then flat.
    fn truth(logit: f64) -> f64 {
        0.02 + 0.5 * sigmoid(6.0 * (logit - 1.0))
    }

    fn outcomes(n: usize, seed: u64) -> Vec<Outcome> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let row = |_| {
            let logit = rng.random_range(-4.0..4.0);
            Outcome { logit, positive: rng.random::<f64>() < truth(logit) }
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn a_curve_of_any_rising_shape_is_found_and_a_curve_of_two_numbers_misses_it() {
        let seed = 4;
        let rows = outcomes(40_000, seed);
        let (isotonic, platt) = (Isotonic::fit(&rows), Platt::fit(&rows).unwrap());
        let error = |p: &dyn Fn(f64) -> f64| {
            let at = (0..80).map(|i| f64::from(i) / 10.0 - 4.0);
            at.map(|logit| (p(logit) - truth(logit)).abs()).fold(0.0, f64::max)
        };
        let (isotonic, platt) = (error(&|l| isotonic.probability(l)), error(&|l| platt.probability(l)));
        assert!(isotonic < 0.06 && platt > 0.1, "seed {seed}: {isotonic} and {platt}");
    }

    #[test]
    fn the_curve_rises_within_its_bounds_and_can_be_written_down() {
        let fit = Isotonic::fit(&outcomes(3_000, 9));
        assert_eq!(Isotonic::new(fit.knots().to_vec()), Some(fit.clone()));
        let at: Vec<f64> = (-100..100).map(|i| fit.probability(f64::from(i) / 10.0)).collect();
        assert!(at.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(at.iter().all(|p| *p > 0.0 && *p < 1.0), "what was never seen is not impossible");
    }

    #[test]
    fn equal_logits_are_one_knot_and_curves_that_fall_are_refused() {
        let rows: Vec<Outcome> = (0..100).map(|i| Outcome { logit: 1.0, positive: i % 4 == 0 }).collect();
        assert_eq!(Isotonic::fit(&rows).knots(), [(1.0, 25.5 / 101.0)]);
        assert_eq!(Isotonic::new(vec![]), None);
        assert_eq!(Isotonic::new(vec![(0.0, 0.5), (1.0, 0.4)]), None);
        assert_eq!(Isotonic::new(vec![(0.0, 0.5), (0.0, 0.6)]), None);
        assert_eq!(Isotonic::new(vec![(0.0, f64::NAN)]), None);
    }
}
