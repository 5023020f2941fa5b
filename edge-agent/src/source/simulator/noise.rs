//! Random streams and the two kinds of noise. Each part of each machine draws from a stream of its own, so that
//! what one part draws (or does not draw, on a healthy machine) never shifts another.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// The stream of one part of one thing: a function of the seed and the names alone.
pub(super) fn stream(seed: u64, name: &str, part: &str) -> ChaCha8Rng {
    // FNV-1a: small, and fixed for ever, which the standard library's hasher is not.
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes()).chain([0xFF]).chain(part.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    ChaCha8Rng::seed_from_u64(hash)
}

pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// Log-normal by its median and the standard deviation of its logarithm.
pub(super) fn around(rng: &mut ChaCha8Rng, median: f64, spread: f64) -> f64 {
    median * (spread * normal(rng)).exp()
}

/// Noise that remembers (first-order autoregressive), the same process whatever the sampling interval.
#[derive(Debug, Clone)]
pub(super) struct Slow {
    value: f64,
    keep: f64,
    kick: f64,
}

impl Slow {
    /// `std` in the long run; forgets to 1/e within `memory_h`; stepped every `dt_h`.
    pub(super) fn new(std: f64, memory_h: f64, dt_h: f64, rng: &mut ChaCha8Rng) -> Self {
        let keep = (-dt_h / memory_h).exp();
        Self { value: std * normal(rng), keep, kick: std * (1.0 - keep * keep).sqrt() }
    }

    pub(super) fn step(&mut self, rng: &mut ChaCha8Rng) -> f64 {
        self.value = self.value * self.keep + self.kick * normal(rng);
        self.value
    }
}
