//! One machine: what it is asked to do and how it wears become temperatures, sound, speed; then its sensors look.
//! Everything is a function of the seed and the machine's name, never of its neighbours.

use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::{EventKind, EventRecord},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    config::MachineSpec,
    kinds::Regime,
    noise::{Slow, around, normal, stream},
    sensors::{SENSORS, Sensor},
    wear::{Change, Faults, Mode, Signature, Wear},
    weather::Air,
    work::{Effort, Work},
};
use crate::source::{Item, Reading, Sample};

/// Error records per running hour: of a sound machine, and what a fault at full strength adds.
const ERRORS_PER_HOUR: f64 = 1.0 / 60.0;
const FAULT_ERRORS_PER_HOUR: f64 = 1.0 / 9.0;
/// Codes that any machine gives: paper jam, misfeed, guard open, reel change.
const EVERYDAY_CODES: [&str; 4] = ["E101", "E102", "E107", "E115"];
const REPAIR_HOURS: f64 = 4.0;

#[derive(Debug, Clone)]
pub(super) struct Machine {
    id: AssetId,
    dt_h: f64,
    regime: Regime,
    work: Work,
    faults: Faults,
    repair: Option<Repair>,
    /// Warmth above the hall's air, C.
    warmth: f64,
    warming: f64,
    hall_sound: Slow,
    errors: ChaCha8Rng,
    noise: ChaCha8Rng,
    sensors: [Sensor; 5],
}

#[derive(Debug, Clone, Copy)]
struct Repair {
    mode: Mode,
    hours: f64,
}

impl Machine {
    pub(super) fn new(
        seed: u64,
        spec: &MachineSpec,
        script: Vec<(PlantTime, Mode)>,
        other_supplier: Option<PlantTime>,
        dt_h: f64,
    ) -> Self {
        let name = spec.id.as_str();
        let regime = own_regime(seed, spec);
        let mut noise = stream(seed, name, "noise");
        Self {
            id: spec.id.clone(),
            dt_h,
            work: Work::new(seed, name, regime.recipes, dt_h),
            faults: Faults::new(seed, name, !spec.healthy, script, other_supplier, dt_h),
            repair: None,
            warmth: 0.0,
            warming: 1.0 - (-dt_h / regime.heat_hours).exp(),
            hall_sound: Slow::new(1.5, 2.0, dt_h, &mut noise),
            errors: stream(seed, name, "errors"),
            sensors: std::array::from_fn(|i| Sensor::new(&SENSORS[i], dt_h, &mut noise)),
            noise,
            regime,
        }
    }

    /// The degradation that is going on, for the truth log.
    pub(super) fn wear(&self) -> Option<&Wear> {
        self.faults.current.as_ref()
    }

    pub(super) fn step(&mut self, time: PlantTime, air: Air, out: &mut Vec<Item>) -> Change {
        let effort = self.work.step(time, self.repair.is_none());
        let change = self.wear_on(time, effort, out);
        let sign = self.faults.signature(effort);
        let truth = self.feel(effort, sign, air);
        let values =
            self.sensors.iter_mut().zip(truth).map(|(s, t)| s.read(t, &mut self.noise)).collect::<Vec<Reading>>();
        out.push(Item::Sample(Sample { machine: self.id.clone(), time, values }));
        change
    }

    /// Faults, repairs and error codes, and their records.
    fn wear_on(&mut self, time: PlantTime, effort: Effort, out: &mut Vec<Item>) -> Change {
        if let Some(Repair { mode, hours }) = self.repair.take() {
            let hours = hours - self.dt_h;
            if hours > 0.0 {
                self.repair = Some(Repair { mode, hours });
            } else {
                let (kind, code, note) = repair_record(mode);
                out.push(self.event(time, kind, code, mode.name(), note));
            }
            return Change::None;
        }
        let change = self.faults.step(time, effort);
        if let Change::Failed(mode) = change {
            out.push(self.event(time, EventKind::Failure, "", mode.name(), "stopped"));
            self.repair = Some(Repair { mode, hours: around(&mut self.errors, REPAIR_HOURS, 0.4) });
        }
        self.report_errors(time, effort, out);
        change
    }

    /// Weak signals: a failing machine complains more often, and not always about the right thing.
    fn report_errors(&mut self, time: PlantTime, effort: Effort, out: &mut Vec<Item>) {
        let wear = self.wear().map(|w| (w.mode, w.share()));
        let fault_rate = wear.map_or(0.0, |(_, share)| FAULT_ERRORS_PER_HOUR * share);
        let draw = self.errors.random::<f64>();
        let rate = (ERRORS_PER_HOUR + fault_rate) * effort.speed;
        if draw >= rate * self.dt_h {
            return;
        }
        let everyday = EVERYDAY_CODES[self.errors.random_range(0..EVERYDAY_CODES.len())];
        let telling = self.errors.random_bool(0.6);
        let code = wear.filter(|_| telling).map_or(everyday, |(mode, _)| error_code(mode));
        out.push(self.event(time, EventKind::Error, code, "", ""));
    }

    /// The true value at each sensor, in the order of [`SENSORS`].
    fn feel(&mut self, effort: Effort, sign: Signature, air: Air) -> [f64; 5] {
        let Effort { speed, load } = effort;
        let regime = &self.regime;
        let heat = 0.15 * speed + 0.85 * speed * load + sign.heat;
        self.warmth += (regime.heat * heat - self.warmth) * self.warming;

        let machine_sound = regime.sound + 30.0 * (0.03 + 0.97 * speed).log10() + 12.0 * (load - 0.7) + sign.sound;
        let hall_sound = 60.0 + self.hall_sound.step(&mut self.noise);
        let sound = 10.0 * (10f64.powf(machine_sound / 10.0) + 10f64.powf(hall_sound / 10.0)).log10();

        let humidity = air.humidity + regime.steam * speed * load - 0.25 * self.warmth;

        let turning = regime.rpm * speed * (1.0 - 0.02 * load - sign.slip);
        let flutter = 0.003 + sign.flutter;
        let rotation = turning * (1.0 + flutter * normal(&mut self.noise));

        let near = (speed - regime.resonance) / 0.06;
        let resonance = 1.0 + 0.6 * (-near * near).exp();
        let shake = speed * speed * (0.25 + 0.75 * load) * resonance + sign.vibration;
        let vibration = regime.vibration * shake * (1.0 + (0.06 + sign.roughness) * normal(&mut self.noise)) + 0.03;
        [air.temperature + self.warmth, sound, humidity, rotation, vibration]
    }

    fn event(&self, time: PlantTime, kind: EventKind, code: &str, mode: &str, note: &str) -> Item {
        Item::Event(EventRecord {
            machine: self.id.to_string(),
            time_ms: time.millis(),
            kind: kind.into(),
            code: code.into(),
            mode: mode.into(),
            note: note.into(),
            ..EventRecord::default()
        })
    }
}

/// The kind's regime as this model is built and as this machine was set up.
fn own_regime(seed: u64, spec: &MachineSpec) -> Regime {
    let mut regime = spec.kind.regime();
    // A model is the same in every plant, whatever the seed.
    let mut design = stream(0, &format!("{} {}", spec.make, spec.model), "design");
    let mut setup = stream(seed, spec.id.as_str(), "setup");
    let mut vary = |value: &mut f64, by_model: f64, by_machine: f64| {
        *value *= around(&mut design, 1.0, by_model) * around(&mut setup, 1.0, by_machine);
    };
    vary(&mut regime.rpm, 0.10, 0.01);
    vary(&mut regime.heat, 0.10, 0.05);
    vary(&mut regime.heat_hours, 0.10, 0.05);
    vary(&mut regime.sound, 0.015, 0.008);
    vary(&mut regime.vibration, 0.10, 0.07);
    vary(&mut regime.steam, 0.10, 0.05);
    regime
}

fn repair_record(mode: Mode) -> (EventKind, &'static str, &'static str) {
    match mode {
        Mode::BearingWear => (EventKind::Replacement, "bearing-set", "bearing set replaced"),
        Mode::BeltSlip => (EventKind::Replacement, "drive-belt", "drive belt replaced"),
        Mode::Overheating => (EventKind::Maintenance, "cooling", "filter and fins cleaned, fan replaced"),
        Mode::Imbalance => (EventKind::Maintenance, "balancing", "rotor cleaned and balanced"),
        Mode::LubricationLoss => (EventKind::Maintenance, "lubrication", "leak closed, lines refilled"),
    }
}

fn error_code(mode: Mode) -> &'static str {
    match mode {
        Mode::BearingWear => "E241",
        Mode::Overheating => "E221",
        Mode::Imbalance => "E242",
        Mode::BeltSlip => "E231",
        Mode::LubricationLoss => "E251",
    }
}
