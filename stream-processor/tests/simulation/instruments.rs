//! What a gateway measures, and by which clock: the agent's own trust in time, over a wall clock that is wrong at times.

use edge_agent::agent::clock::trust::{FLOOR_MS, Known, Moment, NEAR_MS, WallTrust};
use proto::{
    telemetry::delta_encode,
    time::PlantTime,
    wire::telemetry::{
        Birth, EventKind, EventRecord, MachineInfo, MachineReadings, SealTime, SensorColumn, SensorInfo, TelemetryBatch,
    },
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

use crate::faults::{Faults, Reached};

/// Plant time runs so much faster, that a change of model has time to come into force and faults to come before it does.
const SPEED: i64 = 20;
const INTERVAL_MS: i64 = 500;
/// A wall clock is ahead by less than what a change of model allows for.
const AHEAD_MS_MAX: i64 = 50_000;
/// Another start is behind by decades: there is no battery.
const DECADES_MS: i64 = 50 * 365 * 24 * 3_600_000;
/// What several gateways can read.
pub const ROVING: &str = "roving";
pub const SENSOR: &str = "temperature";
pub const KIND: &str = "press";

pub fn plant_time(now: Duration) -> PlantTime {
    PlantTime(FLOOR_MS + DAY_MS + now.as_millis() as i64 * SPEED)
}

const DAY_MS: i64 = 24 * 3_600_000;

pub struct Instruments {
    machines: Vec<String>,
    /// Its wall clock minus plant time.
    wall_error_ms: i64,
    boot: u64,
    booted: PlantTime,
    trust: Option<WallTrust>,
    /// As the agent has kept it.
    known: Option<Known>,
    sealed: PlantTime,
    /// The next batch names these machines, and so makes them this gateway's.
    births: Vec<String>,
    /// By machine: something is wrong with it.
    ill: Vec<bool>,
}

impl Instruments {
    pub fn new(number: usize, roving: bool) -> Self {
        let own = format!("press-{number}");
        let machines: Vec<String> = [own].into_iter().chain(roving.then(|| ROVING.to_owned())).collect();
        let ill = vec![false; machines.len()];
        Instruments {
            machines,
            wall_error_ms: 0,
            boot: 0,
            booted: PlantTime(0),
            trust: None,
            known: None,
            sealed: PlantTime::MIN,
            births: vec![],
            ill,
        }
    }

    fn moment(&self, now: PlantTime) -> Moment {
        let monotonic_ms = now.millis() - self.booted.millis();
        Moment { wall_ms: now.millis() + self.wall_error_ms, monotonic_ms, synchronised_ms: None }
    }

    /// The gateway has power again.
    pub fn start(&mut self, sealed: Option<PlantTime>, now: PlantTime, faults: &Faults, rng: &mut ChaCha8Rng) {
        self.boot += 1;
        self.booted = now.plus_millis(-rng.random_range(0..1_000));
        self.wall_error_ms = match rng.random_bool(faults.clock_wrong) {
            false => 0,
            true if rng.random_bool(0.5) => -DECADES_MS,
            true => rng.random_range(-AHEAD_MS_MAX..AHEAD_MS_MAX),
        };
        self.sealed = sealed.unwrap_or(PlantTime::MIN);
        let trust = WallTrust::start(self.boot, self.known, sealed.map(PlantTime::millis), self.moment(now));
        self.trust = Some(trust);
        // The machine that several can read is named by one of them, and by another when it has moved there.
        let names = if self.machines.len() == 1 || rng.random_bool(0.3) { self.machines.len() } else { 1 };
        self.births = self.machines[..names].to_vec();
    }

    pub fn step_clock(&mut self, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        self.wall_error_ms = rng.random_range(-AHEAD_MS_MAX..AHEAD_MS_MAX);
        reached.count("clock stepped");
    }

    /// The machine that several can read moves to this gateway.
    pub fn take_over(&mut self) {
        if self.machines.len() > 1 {
            self.births = self.machines.clone();
        }
    }

    pub fn hear(&mut self, ack: PlantTime, now: PlantTime) {
        let moment = self.moment(now);
        if let Some(trust) = &mut self.trust {
            trust.look(moment);
            trust.on_ack(moment, ack.millis());
            self.known = trust.known(moment.monotonic_ms).or(self.known);
        }
    }

    /// All since the batch before, with what was held back of earlier. Gives the count of readings, too.
    pub fn cut(
        &mut self,
        n: i64,
        now: PlantTime,
        rng: &mut ChaCha8Rng,
        reached: &mut Reached,
    ) -> (TelemetryBatch, u32) {
        let moment = self.moment(now);
        let Some(trust) = &mut self.trust else { panic!("not started") };
        trust.look(moment);
        let (time, trusted) = (PlantTime(trust.wall_ms(moment.monotonic_ms)), trust.is_trusted());
        let fallen = trusted && self.sealed > time.plus_millis(NEAR_MS);
        let sealed = if fallen { time } else { self.sealed.max(time) };
        // Nobody has measured while it was off.
        let from = match self.sealed.millis() {
            before if fallen || before < sealed.millis() - 10_000 => sealed.millis() - 1_000,
            before => before,
        };
        self.sealed = sealed;
        reached.count(if trusted { "sealed by a trusted clock" } else { "sealed before the clock is trusted" });
        let mut machines = Vec::new();
        let mut readings = 0;
        for (machine, ill) in self.machines.iter().zip(&mut self.ill) {
            *ill ^= rng.random_bool(0.03);
            let mut stamps: Vec<i64> = (from + 1..=sealed.millis()).filter(|ms| ms % INTERVAL_MS == 0).collect();
            if rng.random_bool(0.1) {
                stamps.insert(0, sealed.millis() - rng.random_range(0..12_000));
            }
            if stamps.is_empty() || rng.random_bool(0.1) {
                continue;
            }
            readings += stamps.len() as u32;
            let value =
                stamps.iter().map(|_| f64::from(rng.random_range(50..60) + if *ill { 40 } else { 0 })).collect();
            let sensors = vec![SensorColumn { sensor: SENSOR.into(), value, quality: vec![], reason: vec![] }];
            let time_delta_ms = delta_encode(&stamps);
            machines.push(MachineReadings { machine: machine.clone(), time_delta_ms, sensors });
        }
        let mut events = Vec::new();
        if rng.random_bool(0.02) {
            let kind = [EventKind::Error, EventKind::Failure, EventKind::Maintenance][rng.random_range(0..3)];
            let (machine, time_ms) = (self.machines[0].clone(), sealed.millis());
            events.push(EventRecord { machine, time_ms, kind: kind.into(), ..Default::default() });
        }
        let born = std::mem::take(&mut self.births);
        let batch = TelemetryBatch {
            sealed: Some(SealTime { time_ms: sealed.millis(), monotonic_ms: n as u64, trusted, ..Default::default() }),
            birth: (!born.is_empty()).then(|| birth(&born)),
            machines,
            events,
            ..Default::default()
        };
        (batch, readings)
    }
}

fn birth(machines: &[String]) -> Birth {
    let sensor = SensorInfo {
        sensor: SENSOR.into(),
        unit: "C".into(),
        range_low: 0.0,
        range_high: 200.0,
        interval_ms: INTERVAL_MS as u64,
    };
    let machine = |name: &String| MachineInfo {
        machine: name.clone(),
        kind: KIND.into(),
        sensors: vec![sensor.clone()],
        ..Default::default()
    };
    Birth { machines: machines.iter().map(machine).collect(), ..Default::default() }
}
