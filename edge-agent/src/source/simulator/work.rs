//! What a machine is asked to do: shifts, jobs with their recipes, changeovers, and the crew's hand.

use proto::time::PlantTime;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    kinds::Recipe,
    noise::{Slow, around, normal, stream},
};

const HOUR_MS: i64 = 3_600_000;
/// Shifts begin at 06:00, 14:00 and 22:00.
const FIRST_SHIFT_HOUR: i64 = 6;
const SHIFT_HOURS: i64 = 8;
/// Time constant of speeding up and slowing down.
const RAMP_HOURS: f64 = 0.03;

/// What the machine does at one instant, as fractions of full speed and load.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effort {
    pub speed: f64,
    /// Zero when the machine stands.
    pub load: f64,
}

#[derive(Debug, Clone)]
pub(super) struct Work {
    rng: ChaCha8Rng,
    dt_h: f64,
    ramp: f64,
    /// Three shifts a day, or two.
    shifts: i64,
    recipes: [Recipe; 6],
    job: Recipe,
    job_h: f64,
    /// Hours left of the changeover before the job runs.
    changeover_h: f64,
    /// How hard each shift's crew drives the machine.
    crews: [f64; 3],
    material: Slow,
    feed: Slow,
    speed: f64,
}

impl Work {
    pub(super) fn new(seed: u64, machine: &str, recipes: [Recipe; 6], dt_h: f64) -> Self {
        let mut rng = stream(seed, machine, "work");
        Self {
            dt_h,
            ramp: 1.0 - (-dt_h / RAMP_HOURS).exp(),
            shifts: if rng.random_bool(0.1) { 2 } else { 3 },
            recipes,
            job: recipes[rng.random_range(0..recipes.len())],
            job_h: rng.random_range(0.5..4.0),
            changeover_h: 0.0,
            crews: std::array::from_fn(|_| 1.0 + 0.01 * normal(&mut rng)),
            material: Slow::new(0.03, 8.0, dt_h, &mut rng),
            feed: Slow::new(0.03, 0.4, dt_h, &mut rng),
            speed: 0.0,
            rng,
        }
    }

    /// The shift that is on at `time`; none at night (two shifts) and on Sundays.
    fn shift(&self, time: PlantTime) -> Option<usize> {
        let hours = time.millis().div_euclid(HOUR_MS) - FIRST_SHIFT_HOUR;
        // 1970-01-01 was a Thursday; a production day begins with its first shift.
        let weekday = (hours.div_euclid(24) + 3).rem_euclid(7);
        let shift = hours.rem_euclid(24) / SHIFT_HOURS;
        (weekday < 6 || shift == 2).then_some(())?;
        (shift < self.shifts).then_some(shift as usize)
    }

    /// `able`: the machine is not broken.
    pub(super) fn step(&mut self, time: PlantTime, able: bool) -> Effort {
        let shift = self.shift(time).filter(|_| able);
        if shift.is_some() {
            self.advance_job();
        }
        let crew = shift.map_or(0.0, |s| self.crews[s]);
        let target = if self.changeover_h > 0.0 { 0.0 } else { self.job.speed * crew };
        self.speed += (target - self.speed) * self.ramp;
        let stray = self.material.step(&mut self.rng) + self.feed.step(&mut self.rng);
        // A machine that runs out turns without load.
        let load = if target > 0.0 { (self.job.load + stray).clamp(0.1, 1.2) } else { 0.0 };
        Effort { speed: self.speed, load }
    }

    fn advance_job(&mut self) {
        if self.changeover_h > 0.0 {
            self.changeover_h -= self.dt_h;
            return;
        }
        self.job_h -= self.dt_h;
        if self.job_h <= 0.0 {
            let recipe = self.recipes[self.rng.random_range(0..self.recipes.len())];
            self.job = Recipe {
                speed: (recipe.speed * (1.0 + 0.02 * normal(&mut self.rng))).clamp(0.4, 1.05),
                load: (recipe.load * (1.0 + 0.04 * normal(&mut self.rng))).clamp(0.25, 1.1),
            };
            self.job_h = around(&mut self.rng, 5.0, 0.5);
            self.changeover_h = self.rng.random_range(0.04..0.15);
        }
    }
}
