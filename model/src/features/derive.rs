//! Features that need the past: slow averages, the machine's own normal, and how far it is from it.
//!
//! One machine's windows are closed in order, by the stream as by training; this is the only place that makes
//! features out of them.

mod normal;
mod joint;

use serde::{Deserialize, Serialize};

use super::{
    Event, FeatureConfig, MachineFeatures, Normal, SensorWindow, Stats, WindowFeatures,
    aggregate::Partial,
    catalogue::{Catalogue, Machine, SensorSpec},
    events::EventLog,
    panes::Panes,
    rolling::Rolling,
    schema::{PER_SENSOR, per_sensor},
};
use joint::Joint;
use normal::{Baseline, Slow};
use proto::{
    asset::{AssetId, Unit},
    time::PlantTime,
};

const HOUR_MS: f64 = 3_600_000.0;
const YEAR_MS: f64 = 365.25 * 24.0 * HOUR_MS;
const SLOW_MS: [f64; 2] = [3.0 * HOUR_MS, 24.0 * HOUR_MS];

/// What is remembered of one machine's closed windows. Its size is fixed by the number of sensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    sensors: Vec<SensorHistory>,
    joint: Joint,
    #[serde(default, skip_serializing_if = "EventLog::is_empty")]
    events: EventLog,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SensorHistory {
    mean: Baseline,
    std: Baseline,
    min: Baseline,
    max: Baseline,
    slow: [Slow; 2],
    unexplained: [Slow; 2],
    /// Per horizon of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rolling: Vec<Rolling>,
}

impl History {
    /// What befell the machine; windows that close later see it if it was known in time.
    pub fn learn(&mut self, config: &FeatureConfig, event: &Event) {
        self.events.push(&config.events, event);
    }

    /// Closes the machine's window `bin` of a generation, whose aggregates are in `panes`. None where the machine's kind is not known. Windows have the number of their last pane.
    pub fn close(
        &mut self,
        catalogue: &Catalogue,
        config: &FeatureConfig,
        machine: u32,
        generation: u32,
        bin: i64,
        panes: &Panes,
    ) -> Option<WindowFeatures> {
        let about = &catalogue.machines()[machine as usize];
        let kind = about.kind.clone()?;
        let end = bin.saturating_add(1).saturating_mul(config.slide_ms());
        let start = end.saturating_sub(config.window_ms);
        let cells = panes.of_window(bin, config);
        let stats: Vec<Option<Stats>> = cells.iter().map(|c| c.as_ref().map(Partial::finish)).collect();
        let specs = catalogue.specs(machine, config);
        let (sensors, mut features, mut normal) = self.derive(config, &specs, &stats, end);
        self.roll(config, panes.newest_of(bin), end.saturating_sub(config.slide_ms()), &mut features, &mut normal);
        features.extend(derived_features(config, &kind, |sensor| stats[sensor].map(|s| s.mean)));
        normal.extend(derived_features(config, &kind, |sensor| sensors[sensor].normal.map(|n| n.mean)));
        let mut own = self.events.close(&config.events, end, config.lateness_ms);
        own.extend(of_machine(config, about, end));
        // What a machine is, and what befell it, is its normal too.
        features.extend(&own);
        normal.extend(own);
        let (machine, start, end) = (about.name.clone(), PlantTime(start), PlantTime(end));
        Some(WindowFeatures { machine, kind, generation, start, end, revision: 0, sensors, features, normal })
    }

    fn derive(
        &mut self,
        config: &FeatureConfig,
        specs: &[Option<SensorSpec>],
        stats: &[Option<Stats>],
        end: i64,
    ) -> (Vec<SensorWindow>, Vec<f64>, Vec<f64>) {
        self.sensors.resize_with(config.sensors.len(), Default::default);
        let before: Vec<Option<Normal>> = self.sensors.iter().map(|s| s.mean.normal()).collect();
        let deviations: Vec<Option<f64>> = before.iter().zip(stats).map(|(n, s)| deviation(*n, (*s)?.mean)).collect();
        let unexplained = self.joint.unexplained(&deviations);
        self.joint.learn(&deviations);
        let (mut windows, mut features, mut normals) = (vec![], vec![], vec![]);
        let places = per_sensor(config);
        for (i, history) in self.sensors.iter_mut().enumerate() {
            let (spec, stats) = (specs[i], stats[i]);
            windows.push(SensorWindow {
                sensor: config.sensors[i].clone(),
                unit: spec.map_or(Unit::One, |s| s.unit.canonical()),
                stats,
                normal: before[i],
            });
            let missing = missing_share(stats.map_or(0, |s| s.count), spec, config.window_ms);
            let (own, at_normal) = history.close(stats, before[i], missing, unexplained[i], end, config.slide_ms());
            features.extend(places.iter().map(|place| own[*place]));
            normals.extend(places.iter().map(|place| at_normal[*place]));
        }
        (windows, features, normals)
    }

    /// Over the longer horizons of the configuration, each reading once: by the panes that windows share.
    fn roll(
        &mut self,
        config: &FeatureConfig,
        newest: &[Option<Partial>],
        start: i64,
        features: &mut Vec<f64>,
        normals: &mut Vec<f64>,
    ) {
        const NONE: f64 = f64::NAN;
        for (i, history) in self.sensors.iter_mut().enumerate() {
            let cell = newest.get(i).and_then(Option::as_ref);
            history.rolling.resize_with(config.rolling_hours.len(), Default::default);
            let usual = |b: &Baseline| b.normal().map_or(NONE, |n| n.mean);
            let at_normal = [usual(&history.mean), usual(&history.std), 0.0];
            for (rolling, hours) in history.rolling.iter_mut().zip(&config.rolling_hours) {
                let own = rolling.follow(cell, start, config.slide_ms(), *hours);
                features.extend(own.unwrap_or([NONE; 3]));
                normals.extend(at_normal);
            }
        }
    }
}

impl SensorHistory {
    /// The sensor's features in the order of [`PER_SENSOR`], and what they would be at the machine's own normal.
    fn close(
        &mut self,
        stats: Option<Stats>,
        normal: Option<Normal>,
        missing: f64,
        unexplained: Option<f64>,
        end: i64,
        slide_ms: i64,
    ) -> ([f64; PER_SENSOR.len()], [f64; PER_SENSOR.len()]) {
        let (usual_std, usual_min, usual_max) = (self.std.normal(), self.min.normal(), self.max.normal());
        if let Some(s) = stats {
            self.mean.learn(s.mean, slide_ms);
            self.std.learn(s.std, slide_ms);
            self.min.learn(s.min, slide_ms);
            self.max.learn(s.max, slide_ms);
        }
        let slow = std::array::from_fn(|i| self.slow[i].follow(stats.map(|s| s.mean), end, SLOW_MS[i]));
        let [unexplained_3h, unexplained_24h] =
            std::array::from_fn(|i| self.unexplained[i].follow(unexplained, end, SLOW_MS[i]));
        let [slow_3h, slow_24h]: [Option<f64>; 2] = slow;
        let of = |f: fn(&Stats) -> f64| stats.as_ref().map(f);
        let far = |x: Option<f64>| deviation(normal, x?);
        let own = [
            of(|s| s.mean),
            of(|s| s.std),
            of(|s| s.min),
            of(|s| s.max),
            of(|s| s.last),
            of(|s| s.slope),
            Some(missing),
            slow_3h,
            slow_24h,
            normal.map(|n| n.mean),
            far(of(|s| s.mean)),
            far(slow_3h),
            far(slow_24h),
            stats.and_then(|s| deviation(usual_std, s.std)),
            unexplained,
            unexplained_3h,
            unexplained_24h,
            Some(stats.map_or(0.0, |s| s.count as f64)),
        ];
        let mean = |n: Option<Normal>| n.map(|n| n.mean);
        let usual = mean(normal);
        let (zero, known) = (Some(0.0), normal.map(|_| 0.0));
        let at_normal = [
            usual,
            mean(usual_std),
            mean(usual_min),
            mean(usual_max),
            usual,
            zero,
            zero,
            usual,
            usual,
            usual,
            known,
            known,
            known,
            known,
            known,
            known,
            known,
            // What the sensor's rate gives.
            stats.map(|s| s.count as f64 / (1.0 - missing)),
        ];
        (own.map(|f| f.unwrap_or(f64::NAN)), at_normal.map(|f| f.unwrap_or(f64::NAN)))
    }
}

/// The expressions' values over means of sensors, by their places, of a machine of the kind; those before count as well.
pub fn derived_features(config: &FeatureConfig, kind: &AssetId, mean: impl Fn(usize) -> Option<f64>) -> Vec<f64> {
    let constant = |name: &str| config.constants.get(name).and_then(|of| of.get(kind)).copied();
    let mut values: Vec<f64> = Vec::with_capacity(config.derived.len());
    for derived in &config.derived {
        let value = derived.of.value(&|name| {
            let before = config.derived.iter().zip(&values).find(|(d, _)| d.name == name).map(|(_, value)| *value);
            let sensor = || config.sensors.iter().position(|s| s.as_str() == name).and_then(&mean);
            before.or_else(sensor).or_else(|| constant(name)).unwrap_or(f64::NAN)
        });
        values.push(value);
    }
    values
}

fn of_machine(config: &FeatureConfig, machine: &Machine, end: i64) -> Vec<f64> {
    let MachineFeatures { age, makes, models } = &config.machine;
    let is = |found: &str, wanted: &String| f64::from(u8::from(found == wanted));
    let years = age.then(|| (end - machine.installed.millis()) as f64 / YEAR_MS);
    let makes = makes.iter().map(|make| is(&machine.make, make));
    years.into_iter().chain(makes).chain(models.iter().map(|model| is(&machine.model, model))).collect()
}

/// In standard deviations of the normal.
fn deviation(normal: Option<Normal>, value: f64) -> Option<f64> {
    normal.map(|n| (value - n.mean) / n.std)
}

/// Share of the expected readings that did not come; of a sensor with an unknown interval, one is enough.
fn missing_share(count: u64, spec: Option<SensorSpec>, window_ms: i64) -> f64 {
    let expected = match spec {
        Some(spec) if spec.interval_ms > 0 => (window_ms as f64 / spec.interval_ms as f64).max(1.0),
        _ => 1.0,
    };
    (1.0 - count as f64 / expected).clamp(0.0, 1.0)
}
