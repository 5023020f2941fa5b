//! Whether a version that was just put in charge alarms far more than the one before it, and than the gate saw it do on the
//! archive: then it is taken back. After a change of the plant the one before may be blind, and is no measure alone.

use serde::{Deserialize, Serialize};

/// Allowed ratio of the rates, each at the bound that speaks for the new version.
const RATIO_MAX: f64 = 2.0;
/// Fewer windows of the version before tell no rate.
const WINDOWS_MIN: u64 = 1_000;
/// Fewer alerts are no jump.
const ALERTS_MIN: u64 = 10;
/// Standard deviations of the square root of a count, two-sided 99 %, half of them (Anscombe: it is about one half).
const HALF_WIDTH: f64 = 1.29;

/// How often a version alerts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub alerts: u64,
    pub windows: u64,
}

impl Rate {
    /// Per thousand windows.
    fn bound(&self, side: f64) -> f64 {
        let root = (self.alerts as f64 + 0.375).sqrt() + side * HALF_WIDTH;
        1_000.0 * root.max(0.0).powi(2) / self.windows.max(1) as f64
    }

    fn mean(&self) -> f64 {
        1_000.0 * self.alerts as f64 / self.windows.max(1) as f64
    }
}

/// Why `now` is to be taken back, beside the version before it or the one on the other machines, and beside what is
/// `expected` of it if the gate has seen it; none: nothing speaks against it yet.
pub fn jump(before: Rate, expected: Option<Rate>, now: Rate) -> Option<String> {
    if before.windows < WINDOWS_MIN || now.alerts < ALERTS_MIN {
        return None;
    }
    let expected = expected.filter(|expected| expected.windows >= WINDOWS_MIN);
    let above = |usual: Rate| now.bound(-1.0) > RATIO_MAX * usual.bound(1.0);
    let jumps = above(before) && expected.is_none_or(above);
    let (is, was) = (now.mean(), before.mean());
    jumps.then(|| format!("it alerts {is:.1} times in a thousand windows, the other version {was:.1} times"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(alerts: u64, windows: u64) -> Rate {
        Rate { alerts, windows }
    }

    #[test]
    fn only_a_jump_that_chance_does_not_make_is_one() {
        let before = rate(100, 100_000);
        assert!(jump(before, None, rate(60, 5_000)).unwrap().starts_with("it alerts 12.0 times in a thousand windows"));
        assert_eq!(jump(before, None, rate(9, 100)), None, "too few alerts");
        assert_eq!(jump(before, None, rate(14, 5_000)), None, "three times as many, of so few");
        assert_eq!(jump(before, None, rate(160, 100_000)), None, "more, and not twice as many");
        assert_eq!(jump(rate(0, 10), None, rate(60, 5_000)), None, "nobody knows how it was before");
        assert!(jump(rate(0, 50_000), None, rate(60, 5_000)).is_some(), "a quiet plant");
    }

    #[test]
    fn what_the_gate_saw_it_do_is_no_jump_beside_a_blind_version() {
        let (blind, now) = (rate(2, 50_000), rate(60, 5_000));
        assert!(jump(blind, None, now).is_some());
        assert_eq!(jump(blind, Some(rate(120, 12_000)), now), None, "as expected");
        assert!(jump(blind, Some(rate(12, 12_000)), now).is_some(), "far more than expected");
        assert!(jump(blind, Some(rate(1, 100)), now).is_some(), "the gate saw too little");
    }

    #[test]
    fn equal_rates_hardly_ever_jump() {
        use rand::{Rng, SeedableRng};
        let seed = 3;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut count = |windows: u64| (0..windows).filter(|_| rng.random_bool(0.002)).count() as u64;
        let jumps = (0..200).filter(|_| jump(rate(count(20_000), 20_000), None, rate(count(8_000), 8_000)).is_some());
        assert_eq!(jumps.count(), 0, "seed {seed}");
    }
}
