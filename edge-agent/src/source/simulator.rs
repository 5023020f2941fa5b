//! A paper-box factory that never was: seeded, deterministic, and hard to read.
//!
//! ```text
//! work (shifts, jobs, recipes) ──effort──> wear (faults, failures) ──signature──┐
//! weather (one for the site) ──air────────────────────────────────> machine ────┴──> sensors ──> samples
//! ```
//!
//! A plant is a function of its seed: machines do not depend on how they are grouped into gateways, nor on how often
//! or how late the source is polled. Failures follow from simulated wear; they are published as event records when
//! they happen, and in no other way.

use proto::{
    time::PlantTime,
    wire::telemetry::{MachineInfo, SensorInfo},
};
use rand::Rng;

use super::{Item, Source, SourceError};

mod noise;
mod weather;
mod kinds;
mod work;
mod wear;
mod sensors;
mod machine;
mod config;
pub mod truth;

pub use config::{
    FACTORY_MACHINES, MachineSpec, PlantChange, START_UNSET, ScriptedFault, SimulatorConfig, default_factory,
};
pub use kinds::Kind;
pub use wear::Mode;

use machine::Machine;
use wear::Change;
use weather::Weather;

#[derive(Debug)]
pub struct Simulator {
    infos: Vec<MachineInfo>,
    weather: Weather,
    machines: Vec<Machine>,
    interval_ms: i64,
    /// The next sampling instant.
    next: PlantTime,
    progress: PlantTime,
}

impl Simulator {
    /// A source that goes on after `resume_after`: what came before is simulated, and not given again.
    pub fn new(config: &SimulatorConfig, resume_after: Option<PlantTime>) -> Result<Self, SourceError> {
        config.check()?;
        let dt_h = config.interval_ms as f64 / 3_600_000.0;
        let before_start = config.start.plus_millis(-1);
        let mut simulator = Self {
            infos: config.machines.iter().map(|m| info(config, m)).collect(),
            weather: Weather::new(config.seed, dt_h).hotter(config.change.map(|c| (c.at, c.hotter_c))),
            machines: config.machines.iter().map(|m| machine(config, m, dt_h)).collect(),
            interval_ms: config.interval_ms,
            next: config.start,
            progress: resume_after.unwrap_or(before_start).max(before_start),
        };
        let mut given_before = Vec::new();
        while simulator.next <= simulator.progress {
            simulator.tick(&mut given_before, |_, _, _, _| {});
            given_before.clear();
        }
        Ok(simulator)
    }

    /// One sampling instant of the whole group.
    fn tick(&mut self, out: &mut Vec<Item>, mut see: impl FnMut(PlantTime, usize, &Machine, Change)) {
        let time = self.next;
        let air = self.weather.step(time);
        for (index, machine) in self.machines.iter_mut().enumerate() {
            let change = machine.step(time, air, out);
            see(time, index, machine, change);
        }
        self.next = time.plus_millis(self.interval_ms);
    }
}

impl Source for Simulator {
    fn machines(&self) -> Vec<MachineInfo> {
        self.infos.clone()
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        let full = out.len().saturating_add(items_max.max(1));
        while self.next <= now && out.len() < full {
            self.tick(out, |_, _, _, _| {});
        }
        self.progress = self.progress.max(now.min(self.next.plus_millis(-1)));
        Ok(self.next <= now)
    }

    fn progress(&self) -> PlantTime {
        self.progress
    }

    fn next_due(&self) -> Option<PlantTime> {
        Some(self.next)
    }
}

fn machine(config: &SimulatorConfig, spec: &MachineSpec, dt_h: f64) -> Machine {
    let script = config.fault.iter().filter(|f| f.machine == spec.id).map(|f| (f.onset, f.mode)).collect();
    let spec = MachineSpec { healthy: spec.healthy || !config.faults, ..spec.clone() };
    let other_supplier = config.change.filter(|change| change.other_supplier).map(|change| change.at);
    Machine::new(config.seed, &spec, script, other_supplier, dt_h)
}

fn info(config: &SimulatorConfig, spec: &MachineSpec) -> MachineInfo {
    const DAY_MS: i64 = 86_400_000;
    let age_days = noise::stream(config.seed, spec.id.as_str(), "age").random_range(200..6_000);
    let sensors = sensors::SENSORS.iter().map(|s| SensorInfo {
        sensor: s.name.into(),
        unit: s.unit.symbol().into(),
        range_low: s.low,
        range_high: s.high,
        interval_ms: config.interval_ms.unsigned_abs(),
    });
    MachineInfo {
        machine: spec.id.to_string(),
        kind: spec.kind.name().into(),
        make: spec.make.clone(),
        model: spec.model.clone(),
        installed_ms: config.start.plus_millis(-age_days * DAY_MS).millis(),
        sensors: sensors.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proto::wire::telemetry::{EventKind, EventRecord, Quality};

    use super::{
        truth::{Degradation, Ending},
        *,
    };
    use crate::source::{Reading, Sample};

    const HOUR_MS: i64 = 3_600_000;
    const WEEK_MS: i64 = 7 * 24 * HOUR_MS;

    /// Ten-minute sampling: wear takes the same hours, and a debug build simulates weeks in a second.
    fn coarse(seed: u64) -> SimulatorConfig {
        SimulatorConfig { seed, interval_ms: 600_000, ..SimulatorConfig::default() }
    }

    fn all(config: &SimulatorConfig, until: PlantTime) -> Vec<Item> {
        let mut items = Vec::new();
        let mut simulator = Simulator::new(config, None).unwrap();
        while simulator.poll(until, usize::MAX, &mut items).unwrap() {}
        items
    }

    fn samples(items: &[Item]) -> impl Iterator<Item = &Sample> {
        items.iter().filter_map(|item| if let Item::Sample(sample) = item { Some(sample) } else { None })
    }

    fn events(items: &[Item]) -> impl Iterator<Item = &EventRecord> {
        items.iter().filter_map(|item| if let Item::Event(event) = item { Some(event) } else { None })
    }

    /// Bit for bit, which NaN does not spoil.
    fn fingerprint(items: &[Item]) -> Vec<String> {
        let bits = |r: &Reading| (r.value.to_bits(), r.quality);
        let one = |item: &Item| match item {
            Item::Sample(s) => format!("{} {} {:?}", s.machine, s.time, s.values.iter().map(bits).collect::<Vec<_>>()),
            Item::Event(e) => format!("{e:?}"),
        };
        items.iter().map(one).collect()
    }

    #[test]
    fn a_plant_is_a_function_of_its_seed_however_it_is_polled() {
        let config = SimulatorConfig { machines: default_factory()[0].clone(), ..SimulatorConfig::default() };
        let until = config.start.plus_millis(12 * HOUR_MS);
        let at_once = all(&config, until);
        let mut in_steps = Vec::new();
        let mut simulator = Simulator::new(&config, None).unwrap();
        let (mut now, mut step) = (config.start, 1);
        while now < until {
            now = now.plus_millis(step).min(until);
            step = step * 7 % 1_000_003;
            while simulator.poll(now, 3, &mut in_steps).unwrap() {
                assert!(simulator.progress() < now);
            }
            assert_eq!(simulator.progress(), now);
        }
        assert_eq!(fingerprint(&at_once), fingerprint(&in_steps));
        let other = SimulatorConfig { seed: 2, ..config };
        assert_ne!(fingerprint(&at_once), fingerprint(&all(&other, until)));
    }

    #[test]
    fn a_resumed_plant_goes_on_where_it_stopped() {
        let config = coarse(5);
        let (stop, until) = (config.start.plus_millis(WEEK_MS), config.start.plus_millis(2 * WEEK_MS));
        let after_stop = |item: &Item| match item {
            Item::Sample(s) => s.time > stop,
            Item::Event(e) => e.time_ms > stop.millis(),
        };
        let mut rest = all(&config, until);
        rest.retain(after_stop);
        let mut resumed = Vec::new();
        let mut simulator = Simulator::new(&config, Some(stop)).unwrap();
        assert_eq!(simulator.progress(), stop);
        while simulator.poll(until, 1_000, &mut resumed).unwrap() {}
        assert_eq!(fingerprint(&rest), fingerprint(&resumed));
    }

    #[test]
    fn machines_do_not_depend_on_their_gateway() {
        let whole = coarse(3);
        let until = whole.start.plus_millis(WEEK_MS);
        let mut together = fingerprint(&all(&whole, until));
        let gateways = default_factory();
        assert_eq!(gateways.iter().map(Vec::len).sum::<usize>(), FACTORY_MACHINES);
        let part = |machines| all(&SimulatorConfig { machines, ..whole.clone() }, until);
        let mut apart: Vec<String> = gateways.into_iter().flat_map(|g| fingerprint(&part(g))).collect();
        together.sort_unstable();
        apart.sort_unstable();
        assert_eq!(together, apart);
    }

    #[test]
    fn no_sensor_is_read_twice_at_one_time_and_all_stay_in_range() {
        let config = coarse(4);
        let items = all(&config, config.start.plus_millis(2 * WEEK_MS));
        let mut latest: HashMap<&str, PlantTime> = HashMap::new();
        for sample in samples(&items) {
            let before = latest.insert(sample.machine.as_str(), sample.time);
            assert!(before.is_none_or(|before| before < sample.time));
            for (reading, kind) in sample.values.iter().zip(&sensors::SENSORS) {
                let good = reading.quality == Quality::Good;
                assert_eq!(good, (kind.low..=kind.high).contains(&reading.value), "{} {reading:?}", kind.name);
            }
        }
        assert_eq!(latest.len(), FACTORY_MACHINES);
    }

    #[test]
    fn every_mode_fails_often_enough_to_learn_from_and_most_machine_time_is_sound() {
        for seed in [1, 11] {
            let config = coarse(seed);
            let until = config.start.plus_millis(6 * WEEK_MS);
            let log = truth::degradations(&config, until).unwrap();
            for mode in Mode::ALL {
                let failed = log.iter().filter(|d| d.mode == mode && matches!(d.ending, Ending::Failed(_))).count();
                assert!((30..=60).contains(&failed), "seed {seed}: {} failed {failed} times", mode.name());
            }
            assert!(log.iter().any(|d| matches!(d.ending, Ending::Recovered(_))), "seed {seed}");
            let worn_ms = |d: &Degradation| match d.ending {
                Ending::Failed(at) | Ending::Recovered(at) => at.millis() - d.onset.millis(),
                Ending::Open => until.millis() - d.onset.millis(),
            };
            let worn: i64 = log.iter().map(worn_ms).sum();
            let whole = 6 * WEEK_MS * FACTORY_MACHINES as i64;
            assert!(worn * 3 < whole, "seed {seed}: {worn} of {whole} ms");
        }
    }

    #[test]
    fn failures_are_published_when_they_happen_and_are_followed_by_their_repair() {
        let config = coarse(6);
        let until = config.start.plus_millis(3 * WEEK_MS);
        let items = all(&config, until);
        let mut published: Vec<(String, &str, i64)> = Vec::new();
        let mut broken: BTreeMap<&str, &str> = BTreeMap::new();
        for event in events(&items) {
            match event.kind() {
                EventKind::Failure => {
                    assert_eq!(broken.insert(&event.machine, &event.mode), None, "fails while broken");
                    published.push((event.machine.clone(), &event.mode, event.time_ms));
                }
                EventKind::Maintenance | EventKind::Replacement => {
                    assert_eq!(broken.remove(event.machine.as_str()), Some(event.mode.as_str()));
                }
                _ => assert!(event.mode.is_empty(), "an error does not tell the mode"),
            }
        }
        let log = truth::degradations(&config, until).unwrap();
        let failure = |d: &Degradation| match d.ending {
            Ending::Failed(at) => Some((d.machine.to_string(), d.mode.name(), at.millis())),
            _ => None,
        };
        let mut truth: Vec<_> = log.iter().filter_map(failure).collect();
        published.sort();
        truth.sort();
        assert_eq!(published, truth);
    }

    #[test]
    fn healthy_machines_have_no_fault_but_the_scripted_one() {
        let onset = coarse(7).start.plus_millis(26 * HOUR_MS);
        let machine = coarse(7).machines[3].id.clone();
        let fault = vec![ScriptedFault { machine: machine.clone(), mode: Mode::BeltSlip, onset }];
        let config = SimulatorConfig { faults: false, fault, ..coarse(7) };
        let log = truth::degradations(&config, config.start.plus_millis(3 * WEEK_MS)).unwrap();
        let [only] = log.as_slice() else { panic!("{log:?}") };
        assert_eq!((&only.machine, only.mode, only.onset), (&machine, Mode::BeltSlip, onset));
        assert!(matches!(only.ending, Ending::Failed(at) if at > onset.plus_millis(4 * HOUR_MS)), "{only:?}");
    }

    #[test]
    fn a_changed_plant_is_the_same_until_then_and_another_one_after() {
        let config = coarse(3);
        let (at, until) = (config.start.plus_millis(WEEK_MS), config.start.plus_millis(2 * WEEK_MS));
        let change = PlantChange { at, hotter_c: 8.0, other_supplier: true };
        let changed = SimulatorConfig { change: Some(change), ..config.clone() };
        let (same, other) = (all(&config, until), all(&changed, until));
        let until_then = |items: &[Item]| {
            let is_before = |item: &&Item| match item {
                Item::Sample(sample) => sample.time < at,
                Item::Event(event) => event.time_ms < at.millis(),
            };
            fingerprint(&items.iter().filter(is_before).cloned().collect::<Vec<_>>())
        };
        assert_eq!(until_then(&same), until_then(&other));
        let mean_after = |items: &[Item]| {
            let temperature = |s: &Sample| (s.time >= at).then(|| s.values[0].value).filter(|v| v.is_finite());
            let values: Vec<f64> = samples(items).filter_map(temperature).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        assert!(mean_after(&other) > mean_after(&same) + 5.0);
        let failures = |items: &[Item]| events(items).filter(|e| e.kind() == EventKind::Failure).count();
        assert_eq!(failures(&same), failures(&other), "they wear as fast, and only show it otherwise");
    }

    #[test]
    fn sensors_stick_and_drop_out_on_healthy_machines() {
        let config = SimulatorConfig { faults: false, ..coarse(8) };
        let items = all(&config, config.start.plus_millis(6 * WEEK_MS));
        let (mut silent, mut stuck) = (0, 0);
        let mut last: HashMap<(&str, usize), (u64, u32)> = HashMap::new();
        for sample in samples(&items) {
            for (i, reading) in sample.values.iter().enumerate() {
                silent += u32::from(reading.quality != Quality::Good);
                let entry = last.entry((sample.machine.as_str(), i)).or_default();
                let bits = reading.value.to_bits();
                *entry = if entry.0 == bits && !reading.value.is_nan() { (bits, entry.1 + 1) } else { (bits, 0) };
                stuck += u32::from(entry.1 == 6);
            }
        }
        assert!(silent > 20 && stuck > 5, "{silent} {stuck}");
    }

    #[test]
    fn a_plant_that_cannot_be_is_refused_with_the_key() {
        let twice = SimulatorConfig { machines: vec![coarse(1).machines[0].clone(); 2], ..coarse(1) };
        let slow = SimulatorConfig { interval_ms: 0, ..coarse(1) };
        for (config, key) in [(twice, "machines"), (slow, "interval_ms")] {
            let error = Simulator::new(&config, None).unwrap_err();
            assert!(error.to_string().starts_with(&format!("source.{key}: ")), "{error}");
        }
    }
}
