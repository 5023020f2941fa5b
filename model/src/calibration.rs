//! From a logit to a probability that means what it says.
//!
//! A curve of two numbers where there is little to learn it from, and one of any rising shape where there is much.

mod isotonic;

pub use isotonic::{Isotonic, KNOTS_MAX};

/// Of fewer failures a fit would be noise: the score is marked as not calibrated. It is failures that count: the hundred
/// windows before one are one observation.
pub const FAILURES_MIN: usize = 20;
/// From so many failures on a curve of any shape is learnt.
pub const ISOTONIC_FAILURES_MIN: usize = 200;

/// How a head's logit becomes a probability.
#[derive(Debug, Clone, PartialEq)]
pub enum Calibration {
    Platt(Platt),
    Isotonic(Isotonic),
}

impl Calibration {
    /// Takes logits as they are.
    pub const IDENTITY: Calibration = Calibration::Platt(Platt::IDENTITY);

    /// `failures`: how many separate ones the positive outcomes come from. None: too few of them, or see [`Platt::fit`].
    pub fn fit(outcomes: &[Outcome], failures: usize) -> Option<Self> {
        if failures < FAILURES_MIN {
            return None;
        }
        let platt = Platt::fit(outcomes)?;
        let isotonic = failures >= ISOTONIC_FAILURES_MIN;
        Some(if isotonic { Isotonic::fit(outcomes).into() } else { platt.into() })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Calibration::Platt(_) => "platt",
            Calibration::Isotonic(_) => "isotonic",
        }
    }

    pub fn probability(&self, logit: f64) -> f64 {
        match self {
            Calibration::Platt(platt) => platt.probability(logit),
            Calibration::Isotonic(isotonic) => isotonic.probability(logit),
        }
    }
}

impl From<Platt> for Calibration {
    fn from(platt: Platt) -> Self {
        Calibration::Platt(platt)
    }
}

impl From<Isotonic> for Calibration {
    fn from(isotonic: Isotonic) -> Self {
        Calibration::Isotonic(isotonic)
    }
}

/// `probability = sigmoid(slope * logit + intercept)`, fitted on rows that neither training nor threshold saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Platt {
    pub slope: f64,
    pub intercept: f64,
}

/// One row to calibrate on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    pub logit: f64,
    pub positive: bool,
}

/// Newton steps; the problem is convex and settles in far fewer.
const STEPS_MAX: usize = 50;
const STEP_MIN: f64 = 1e-10;
/// Keeps the Hessian invertible when all logits are equal.
const RIDGE: f64 = 1e-9;

impl Platt {
    /// Takes logits as they are.
    pub const IDENTITY: Platt = Platt { slope: 1.0, intercept: 0.0 };

    pub fn probability(&self, logit: f64) -> f64 {
        sigmoid(self.slope * logit + self.intercept)
    }

    /// Undoes what class weights and left-out negatives did to the odds: each positive counted `ratio` times as much
    /// as it does in nature.
    pub fn prior_shift(ratio: f64) -> Platt {
        Platt { slope: 1.0, intercept: -ratio.ln() }
    }

    /// Maximum likelihood with Platt's softened targets, by damped Newton steps. None: one class is missing, or high
    /// logits do not mean danger here, so that a fit would turn the ranking around.
    pub fn fit(outcomes: &[Outcome]) -> Option<Platt> {
        let positives = outcomes.iter().filter(|o| o.positive).count() as f64;
        let negatives = outcomes.len() as f64 - positives;
        if positives == 0.0 || negatives == 0.0 {
            return None;
        }
        let targets = [1.0 / (negatives + 2.0), (positives + 1.0) / (positives + 2.0)];
        let target = |o: &Outcome| targets[usize::from(o.positive)];
        let mut fit = Platt { slope: 1.0, intercept: 0.0 };
        let mut loss = fit.loss(outcomes, target);
        for _ in 0..STEPS_MAX {
            let (slope, intercept) = fit.newton_step(outcomes, target);
            let mut scale = 1.0;
            let better = loop {
                let next = Platt { slope: fit.slope - scale * slope, intercept: fit.intercept - scale * intercept };
                let next_loss = next.loss(outcomes, target);
                if next_loss <= loss {
                    break Some((next, next_loss));
                }
                scale /= 2.0;
                if scale < STEP_MIN {
                    break None;
                }
            };
            let Some((next, next_loss)) = better else { break };
            let settled = loss - next_loss < STEP_MIN * loss.abs();
            (fit, loss) = (next, next_loss);
            if settled {
                break;
            }
        }
        (fit.slope > 0.0).then_some(fit)
    }

    fn loss(&self, outcomes: &[Outcome], target: impl Fn(&Outcome) -> f64) -> f64 {
        outcomes
            .iter()
            .map(|o| {
                let z = self.slope * o.logit + self.intercept;
                z.max(0.0) - z * target(o) + (-z.abs()).exp().ln_1p()
            })
            .sum()
    }

    fn newton_step(&self, outcomes: &[Outcome], target: impl Fn(&Outcome) -> f64) -> (f64, f64) {
        let (mut ga, mut gb) = (0.0, 0.0);
        let (mut haa, mut hab, mut hbb) = (RIDGE, 0.0, RIDGE);
        for o in outcomes {
            let p = self.probability(o.logit);
            let (error, weight) = (p - target(o), p * (1.0 - p));
            ga += error * o.logit;
            gb += error;
            haa += weight * o.logit * o.logit;
            hab += weight * o.logit;
            hbb += weight;
        }
        let determinant = haa * hbb - hab * hab;
        ((hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant)
    }
}

pub fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_fit_finds_the_distortion_that_was_put_in() {
        let seed = 5;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let outcomes: Vec<Outcome> = (0..20_000)
            .map(|_| {
                let truth: f64 = rng.random_range(-4.0..4.0);
                // What the network says is twice too steep and two too high.
                Outcome { logit: 2.0 * truth + 2.0, positive: rng.random::<f64>() < sigmoid(truth) }
            })
            .collect();
        let fit = Platt::fit(&outcomes).unwrap();
        assert!((fit.slope - 0.5).abs() < 0.03 && (fit.intercept + 1.0).abs() < 0.06, "seed {seed}: {fit:?}");
    }

    #[test]
    fn what_is_fitted_depends_on_how_many_failures_there_were() {
        let outcomes: Vec<_> = (0..400).map(|i| Outcome { logit: f64::from(i % 7), positive: i % 7 > 3 }).collect();
        let fitted = |failures| Calibration::fit(&outcomes, failures).map(|c| c.name());
        assert_eq!([19, 20, 199, 200].map(fitted), [None, Some("platt"), Some("platt"), Some("isotonic")]);
    }

    #[test]
    fn what_cannot_be_fitted_says_so() {
        let row = |logit, positive| Outcome { logit, positive };
        assert_eq!(Platt::fit(&[]), None);
        assert_eq!(Platt::fit(&[row(1.0, true), row(2.0, true)]), None);
        let turned: Vec<_> = (0..100).map(|i| row(f64::from(i), i < 50)).collect();
        assert_eq!(Platt::fit(&turned), None);
    }

    #[test]
    fn separable_rows_give_finite_numbers() {
        let rows: Vec<_> = (0..100).map(|i| Outcome { logit: f64::from(i) - 50.0, positive: i >= 50 }).collect();
        let fit = Platt::fit(&rows).unwrap();
        assert!(fit.slope.is_finite() && fit.intercept.is_finite());
        assert!(fit.probability(49.0) > 0.9 && fit.probability(-50.0) < 0.1);
    }

    #[test]
    fn the_prior_shift_undoes_oversampling() {
        // Positives counted tenfold: even odds there are 1 to 10 in nature.
        assert!((Platt::prior_shift(10.0).probability(0.0) - 1.0 / 11.0).abs() < 1e-12);
        assert_eq!(sigmoid(-1000.0), 0.0);
        assert_eq!(sigmoid(1000.0), 1.0);
    }
}
