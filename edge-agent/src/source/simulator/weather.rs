//! The air of the hall: days, weeks of warm or damp weather, and what the building lets through.
//! One for the whole site, so every gateway of a plant sees the same air.

use proto::time::PlantTime;
use rand_chacha::ChaCha8Rng;

use super::noise::{Slow, stream};

const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Air {
    /// C
    pub temperature: f64,
    /// Relative, %
    pub humidity: f64,
}

#[derive(Debug, Clone)]
pub(super) struct Weather {
    rng: ChaCha8Rng,
    warmth: Slow,
    damp: Slow,
    gusts: Slow,
    /// From when on the hall is hotter, and by how much, C.
    hotter: Option<(PlantTime, f64)>,
}

impl Weather {
    pub(super) fn new(seed: u64, dt_h: f64) -> Self {
        let mut rng = stream(seed, "site", "weather");
        let warmth = Slow::new(1.0, 24.0, dt_h, &mut rng);
        let damp = Slow::new(4.0, 24.0, dt_h, &mut rng);
        let gusts = Slow::new(0.3, 1.5, dt_h, &mut rng);
        Self { rng, warmth, damp, gusts, hotter: None }
    }

    pub(super) fn hotter(self, hotter: Option<(PlantTime, f64)>) -> Self {
        Self { hotter, ..self }
    }

    /// The air at `time`; to be called once for each step, in order.
    pub(super) fn step(&mut self, time: PlantTime) -> Air {
        let hour = time.millis().rem_euclid(DAY_MS) as f64 / 3_600_000.0;
        // Coldest before dawn, warmest in the afternoon.
        let day = -(std::f64::consts::TAU * (hour - 3.0) / 24.0).cos();
        let hotter = self.hotter.filter(|(from, _)| time >= *from).map_or(0.0, |(_, by)| by);
        let warm = hotter + self.warmth.step(&mut self.rng) + 1.5 * day + self.gusts.step(&mut self.rng);
        let damp = self.damp.step(&mut self.rng);
        Air { temperature: 21.0 + warm, humidity: (52.0 + damp - 1.2 * warm).clamp(15.0, 92.0) }
    }
}
