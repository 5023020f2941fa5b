//! What a sensor says that the machine's other sensors do not explain.
//!
//! Load, recipe and weather move many sensors together, in ways that differ from machine to machine. The machine's own
//! correlations, learnt as it runs, tell what each sensor should show given all the others; the rest is unexplained.

use serde::{Deserialize, Serialize};

/// So many windows make first correlations.
const KNOWN_AFTER: u64 = 144;
/// Windows after which the oldest are forgotten: two weeks of 10-minute windows.
const MEMORY: f64 = 2_016.0;
/// A deviation beyond this teaches as if it were this large, so that a fault does not become the normal.
const CLIP: f64 = 3.0;
/// Added to every sensor's own variance: no sensor is explained better than this, and the inverse exists.
const RIDGE: f64 = 0.02;

/// Second moments of the sensors' deviations from their normal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Joint {
    windows: u64,
    /// Row by row, square.
    moments: Vec<f64>,
}

impl Joint {
    /// In standard deviations of what usually stays unexplained; None for sensors without a value, and until enough
    /// is known. A sensor without a value is taken to be at its normal.
    pub fn unexplained(&self, deviations: &[Option<f64>]) -> Vec<Option<f64>> {
        let n = deviations.len();
        if self.windows < KNOWN_AFTER || self.moments.len() != n * n {
            return vec![None; n];
        }
        let mut ridged = self.moments.clone();
        (0..n).for_each(|i| ridged[i * n + i] += RIDGE);
        let Some(precision) = inverse(ridged, n) else { return vec![None; n] };
        // With the inverse P of the covariance, what the others leave of x_i is (P x)_i / P_ii, its variance 1 / P_ii.
        let rest = |i: usize| -> f64 {
            let row = &precision[i * n..(i + 1) * n];
            row.iter().zip(deviations).map(|(p, d)| p * d.unwrap_or(0.0)).sum::<f64>() / row[i].sqrt()
        };
        deviations.iter().enumerate().map(|(i, d)| d.map(|_| rest(i))).collect()
    }

    /// Sensors without a value are taken to be at their normal here too, which keeps the moments positive.
    pub fn learn(&mut self, deviations: &[Option<f64>]) {
        let n = deviations.len();
        if deviations.iter().all(Option::is_none) {
            return;
        }
        if self.moments.len() != n * n {
            *self = Joint { windows: 0, moments: vec![0.0; n * n] };
        }
        self.windows += 1;
        let weight = (1.0 / MEMORY).max(1.0 / self.windows as f64);
        let clipped: Vec<f64> = deviations.iter().map(|d| d.unwrap_or(0.0).clamp(-CLIP, CLIP)).collect();
        for (k, moment) in self.moments.iter_mut().enumerate() {
            *moment += weight * (clipped[k / n] * clipped[k % n] - *moment);
        }
    }
}

/// Of a symmetric positive definite matrix, by elimination; None if it is not one.
fn inverse(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mut inv: Vec<f64> = (0..n * n).map(|k| if k / n == k % n { 1.0 } else { 0.0 }).collect();
    for p in 0..n {
        let pivot = a[p * n + p];
        if pivot <= f64::EPSILON {
            return None;
        }
        for k in 0..n {
            a[p * n + k] /= pivot;
            inv[p * n + k] /= pivot;
        }
        for row in (0..n).filter(|row| *row != p) {
            let factor = a[row * n + p];
            for k in 0..n {
                a[row * n + k] -= factor * a[p * n + k];
                inv[row * n + k] -= factor * inv[p * n + k];
            }
        }
    }
    Some(inv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        let a = vec![4.0, 1.0, 0.5, 1.0, 3.0, -0.2, 0.5, -0.2, 2.0];
        let inv = inverse(a.clone(), 3).unwrap();
        for k in 0..9 {
            let (i, j) = (k / 3, k % 3);
            let product: f64 = (0..3).map(|m| a[i * 3 + m] * inv[m * 3 + j]).sum();
            assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-12);
        }
        assert_eq!(inverse(vec![0.0], 1), None);
    }

    #[test]
    fn what_the_load_explains_is_no_news_and_what_it_does_not_is() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut joint = Joint::default();
        let mut window = |extra: f64| {
            let load: f64 = rng.random_range(-1.7..1.7);
            let noise: f64 = rng.random_range(-0.2..0.2);
            [Some(load), Some(load + noise + extra), Some(rng.random_range(-1.7..1.7))]
        };
        assert_eq!(joint.unexplained(&window(0.0)), [None; 3]);
        for _ in 0..2_000 {
            joint.learn(&window(0.0));
        }
        let healthy = joint.unexplained(&[Some(1.7), Some(1.7), Some(0.0)]);
        let faulty = joint.unexplained(&[Some(0.0), Some(1.7), Some(0.0)]);
        assert!(healthy[1].unwrap().abs() < 1.5, "{healthy:?}");
        assert!(faulty[1].unwrap() > 5.0, "{faulty:?}");
        assert_eq!(joint.unexplained(&[Some(0.0), None, Some(0.0)])[1], None);
    }
}
