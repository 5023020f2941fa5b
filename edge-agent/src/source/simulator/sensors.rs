//! Sensors: noise, resolution, and faults of their own that say nothing about the machine.

use proto::{
    asset::Unit,
    wire::telemetry::{Quality, QualityReason},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::noise::{Slow, around, normal};
use crate::source::Reading;

/// Hours between two faults of one sensor, on average.
const MEAN_SOUND_HOURS: f64 = 24.0 * 40.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct SensorKind {
    pub name: &'static str,
    pub unit: Unit,
    pub low: f64,
    pub high: f64,
    /// Readings are multiples of 1 / steps.
    steps: f64,
    /// Standard deviation of the white noise and of the slow noise.
    white: f64,
    slow: f64,
    /// How far a drifting sensor may stray.
    stray: f64,
}

/// In the order of a machine's `MachineInfo`.
#[rustfmt::skip]
pub(super) const SENSORS: [SensorKind; 5] = [
    SensorKind { name: "temperature", unit: Unit::Celsius, low: -20.0, high: 180.0, steps: 100.0, white: 0.25, slow: 0.3, stray: 8.0 },
    SensorKind { name: "sound", unit: Unit::DecibelA, low: 30.0, high: 130.0, steps: 100.0, white: 0.6, slow: 0.3, stray: 4.0 },
    SensorKind { name: "humidity", unit: Unit::Percent, low: 0.0, high: 100.0, steps: 100.0, white: 0.4, slow: 0.8, stray: 10.0 },
    SensorKind { name: "rotation_speed", unit: Unit::RevolutionsPerMinute, low: 0.0, high: 6000.0, steps: 10.0, white: 1.5, slow: 0.5, stray: 40.0 },
    SensorKind { name: "vibration", unit: Unit::MillimetrePerSecond, low: 0.0, high: 100.0, steps: 1000.0, white: 0.01, slow: 0.01, stray: 0.8 },
];

#[derive(Debug, Clone, Copy)]
enum Ailment {
    /// Repeats its last value and calls it good.
    Stuck { value: f64 },
    /// Strays more and more, until someone adjusts it.
    Drift { per_hour: f64, error: f64 },
    /// Answers nothing, or that it is broken.
    Silent { quality: Quality },
}

#[derive(Debug, Clone)]
pub(super) struct Sensor {
    kind: &'static SensorKind,
    dt_h: f64,
    noise: Slow,
    ailment: Option<Ailment>,
    /// Hours to the next change of `ailment`.
    change_h: f64,
}

impl Sensor {
    pub(super) fn new(kind: &'static SensorKind, dt_h: f64, rng: &mut ChaCha8Rng) -> Self {
        let noise = Slow::new(kind.slow, 3.0, dt_h, rng);
        Self { kind, dt_h, noise, ailment: None, change_h: MEAN_SOUND_HOURS * rng.random_range(0.0..2.0) }
    }

    /// Reads the true value `truth`.
    pub(super) fn read(&mut self, truth: f64, rng: &mut ChaCha8Rng) -> Reading {
        let noisy = truth + self.noise.step(rng) + self.kind.white * normal(rng);
        self.change_h -= self.dt_h;
        if self.change_h <= 0.0 {
            self.change_ailment(noisy, rng);
        }
        match &mut self.ailment {
            None => self.good(noisy),
            Some(Ailment::Stuck { value }) => {
                let value = *value;
                self.good(value)
            }
            Some(Ailment::Drift { per_hour, error }) => {
                *error += *per_hour * self.dt_h;
                let drifted = noisy + *error;
                self.good(drifted)
            }
            Some(Ailment::Silent { quality: Quality::Absent }) => Reading::ABSENT,
            Some(Ailment::Silent { .. }) => Reading::bad(QualityReason::DeviceError),
        }
    }

    fn good(&self, value: f64) -> Reading {
        let value = value.clamp(self.kind.low, self.kind.high);
        Reading::good((value * self.kind.steps).round() / self.kind.steps)
    }

    fn change_ailment(&mut self, value: f64, rng: &mut ChaCha8Rng) {
        if self.ailment.take().is_some() {
            self.change_h = MEAN_SOUND_HOURS * rng.random_range(0.2..1.8);
            return;
        }
        let draw: f64 = rng.random();
        let (ailment, hours) = if draw < 0.35 {
            (Ailment::Stuck { value }, around(rng, 3.0, 0.8))
        } else if draw < 0.6 {
            let hours = around(rng, 20.0, 0.5);
            (Ailment::Drift { per_hour: self.kind.stray * normal(rng) / hours, error: 0.0 }, hours)
        } else {
            let quality = if rng.random_bool(0.5) { Quality::Absent } else { Quality::Bad };
            (Ailment::Silent { quality }, around(rng, 0.7, 0.9))
        };
        self.ailment = Some(ailment);
        self.change_h = hours;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::noise::stream, *};

    #[test]
    fn a_drifting_sensor_strays_steadily_until_it_is_adjusted() {
        let kind = &SENSORS[0];
        let (dt_h, hours) = (0.1, 20.0);
        let mut rng = stream(3, "press-1", "drift");
        let mut sensor = Sensor::new(kind, dt_h, &mut rng);
        let per_hour = kind.stray / hours;
        (sensor.ailment, sensor.change_h) = (Some(Ailment::Drift { per_hour, error: 0.0 }), hours);
        let steps = (hours / dt_h) as usize - 1;
        let errors: Vec<f64> = (0..steps).map(|_| sensor.read(50.0, &mut rng).value - 50.0).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let tenth = steps / 10;
        let (first, last) = (mean(&errors[..tenth]), mean(&errors[steps - tenth..]));
        assert!(first.abs() < 1.5, "{first}");
        assert!((last - 0.95 * kind.stray).abs() < 1.5, "{last}: it has strayed by {} C", kind.stray);

        for _ in 0..3 {
            sensor.read(50.0, &mut rng);
        }
        assert!(sensor.ailment.is_none());
        let adjusted: Vec<f64> = (0..tenth).map(|_| sensor.read(50.0, &mut rng).value - 50.0).collect();
        assert!(mean(&adjusted).abs() < 1.5, "{}", mean(&adjusted));
    }

    #[test]
    fn sensors_drift_by_themselves() {
        let mut rng = stream(4, "press-1", "drift");
        let mut sensor = Sensor::new(&SENSORS[0], 1.0, &mut rng);
        let drifting = (0..50_000).filter(|_| {
            sensor.read(50.0, &mut rng);
            matches!(sensor.ailment, Some(Ailment::Drift { .. }))
        });
        let hours = drifting.count();
        assert!((100..2_000).contains(&hours), "{hours} of 50000 hours");
    }
}
