//! When to try again. Pure: it is told the time.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

pub const BACK_OFF_MIN: Duration = Duration::from_millis(250);
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Doubles with every failure in a row, with full jitter, so that devices that lost one switch do not come back in step.
#[derive(Debug)]
pub struct BackOff {
    failures: u32,
    until: Option<Instant>,
    rng: ChaCha8Rng,
}

impl Default for BackOff {
    fn default() -> Self {
        // Differs from process to process and from device to device.
        Self::seeded(RandomState::new().hash_one(0))
    }
}

impl BackOff {
    pub fn seeded(seed: u64) -> Self {
        BackOff { failures: 0, until: None, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub fn is_waiting(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Of failures in a row, the first one.
    pub fn is_new(&self) -> bool {
        self.failures == 0
    }

    /// How long to wait.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let most = BACK_OFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = most.mul_f64(self.rng.random());
        self.until = Some(now + wait);
        wait
    }

    pub fn succeeded(&mut self) {
        (self.failures, self.until) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_are_spread_out() {
        let now = Instant::now();
        let mut back_offs: Vec<_> = (0..200).map(BackOff::seeded).collect();
        for failure in 0..20 {
            let most = BACK_OFF_MIN.saturating_mul(1 << failure.min(16)).min(BACK_OFF_MAX);
            let waits: Vec<_> = back_offs.iter_mut().map(|b| b.failed(now)).collect();
            assert!(waits.iter().all(|wait| *wait <= most));
            assert!(waits.iter().filter(|wait| **wait < most / 2).count() > 50, "spread over the whole of it");
            assert!(waits.iter().filter(|wait| **wait > most / 2).count() > 50, "spread over the whole of it");
        }
        let mut one = back_offs.swap_remove(0);
        let wait = one.failed(now);
        assert!(one.is_waiting(now) && !one.is_waiting(now + wait) && !one.is_new());
        one.succeeded();
        assert!(!one.is_waiting(now) && one.is_new() && one.failed(now) <= BACK_OFF_MIN);
    }
}
