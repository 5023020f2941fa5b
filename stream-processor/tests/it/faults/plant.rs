//! An endless table of readings, a pure function of time, so that whoever looks into an archive knows what must be there;
//! and a model that sees in it what it is to see.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use edge_agent::source::{Item, Reading, Sample, Source, SourceError};
use model::{
    artifact::{Artifact, Golden, Head, Origin},
    calibration::Calibration,
    features::{FeatureConfig, FeatureSchema},
    forward::{Dense, Encoder, Network},
    registry::{self, Decision, canary},
    store::Store,
    trial::Trial,
};
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::{MachineInfo, SensorInfo},
};

use crate::archive::Readings;

/// Plant time between two rows of a machine.
pub const STEP_MS: i64 = 1_000;
pub const WINDOW_MS: i64 = 30 * STEP_MS;
pub const LATENESS_MS: i64 = 2 * STEP_MS;
pub const FIRST_STEP: i64 = 1_500_000_000;
pub const KIND: &str = "press";
pub const MODEL: &str = "failure";
/// Name, unit, what a healthy machine shows.
const SENSORS: [(&str, &str, f64); 3] =
    [("temperature", "C", 60.0), ("rotation_speed", "rpm", 500.0), ("vibration", "mm/s", 2.0)];
pub const READINGS_PER_ROW: u64 = SENSORS.len() as u64;
/// By which a machine that is about to fail is hotter.
const HEAT: f64 = 20.0;

pub fn id(name: &str) -> AssetId {
    AssetId::new(name).unwrap()
}

pub fn features() -> FeatureConfig {
    let sensors = SENSORS.iter().map(|(name, ..)| id(name)).collect();
    FeatureConfig { window_ms: WINDOW_MS, lateness_ms: LATENESS_MS, sensors, ..FeatureConfig::default() }
}

/// Whether a machine is hot, by step.
pub type Heat = fn(machine: usize, step: i64) -> bool;

/// Eight windows in 24, each machine at another time: alerts open and close.
pub fn in_turns(machine: usize, step: i64) -> bool {
    (step * STEP_MS / WINDOW_MS + 5 * machine as i64) % 24 < 8
}

/// Never twice the same in a row, so that no sensor counts as stuck.
fn value(machine: usize, sensor: usize, step: i64, heat: Heat) -> f64 {
    let noise = ((step * 31 + machine as i64 * 7 + sensor as i64) % 1_000) as f64 / 1_000.0;
    let heat = if sensor == 0 && heat(machine, step) { HEAT } else { 0.0 };
    SENSORS[sensor].2 + heat + noise
}

/// All machines of all gateways.
#[derive(Debug, Clone)]
pub struct Plant {
    pub heat: Heat,
    pub gateways: usize,
    pub machines_per_gateway: usize,
    pub first_step: i64,
    /// Of the last row.
    end: Arc<AtomicI64>,
}

impl Plant {
    pub fn new(gateways: usize, machines_per_gateway: usize, heat: Heat) -> Self {
        let end = Arc::new(AtomicI64::new(i64::MAX));
        Plant { heat, gateways, machines_per_gateway, first_step: FIRST_STEP, end }
    }

    /// The same machines, from another step on.
    pub fn from(&self, first_step: i64, heat: Heat) -> Self {
        Plant { first_step, heat, end: Arc::new(AtomicI64::new(i64::MAX)), ..self.clone() }
    }

    pub fn end_at(&self, step: i64) {
        self.end.store(step, Ordering::Relaxed);
    }

    pub fn end_step(&self) -> i64 {
        self.end.load(Ordering::Relaxed)
    }

    pub fn machines(&self) -> usize {
        self.gateways * self.machines_per_gateway
    }

    /// Up to the end.
    pub fn readings(&self) -> u64 {
        let rows = (self.end_step() - self.first_step + 1) as u64;
        rows * self.machines() as u64 * READINGS_PER_ROW
    }

    /// Windows in which every row is before the end.
    pub fn windows(&self) -> impl Iterator<Item = i64> {
        let (first, end) = (self.first_step * STEP_MS, (self.end_step() + 1) * STEP_MS);
        (first.div_euclid(WINDOW_MS)..end.div_euclid(WINDOW_MS)).map(|n| n * WINDOW_MS)
    }

    pub fn sent(&self) -> Readings {
        let mut sent = Readings::new();
        for machine in 0..self.machines() {
            for (sensor, (name, ..)) in SENSORS.iter().enumerate() {
                let rows = self.first_step..=self.end_step();
                let row = |step| (step * STEP_MS, value(machine, sensor, step, self.heat).to_bits());
                sent.insert((machine_name(machine), (*name).into()), rows.map(row).collect());
            }
        }
        sent
    }

    /// What the sensors of one gateway give that is not durable yet.
    pub fn source(&self, gateway: usize, resume_after: Option<PlantTime>) -> Box<dyn Source> {
        let after = resume_after.map_or(self.first_step - 1, |time| time.millis().div_euclid(STEP_MS));
        let next = self.first_step.max(after + 1);
        Box::new(Table { plant: self.clone(), gateway, next, polled: PlantTime(next * STEP_MS - 1) })
    }
}

fn machine_name(machine: usize) -> String {
    format!("press-{machine}")
}

struct Table {
    plant: Plant,
    gateway: usize,
    next: i64,
    polled: PlantTime,
}

impl Table {
    fn machines(&self) -> std::ops::Range<usize> {
        let n = self.plant.machines_per_gateway;
        self.gateway * n..(self.gateway + 1) * n
    }

    fn due(&self) -> Option<PlantTime> {
        (self.next <= self.plant.end_step()).then_some(PlantTime(self.next * STEP_MS))
    }
}

impl Source for Table {
    fn machines(&self) -> Vec<MachineInfo> {
        let sensor = |&(name, unit, _): &(&str, &str, f64)| SensorInfo {
            sensor: name.into(),
            unit: unit.into(),
            interval_ms: STEP_MS as u64,
            ..Default::default()
        };
        let machine = |machine| MachineInfo {
            machine: machine_name(machine),
            kind: KIND.into(),
            sensors: SENSORS.iter().map(sensor).collect(),
            ..Default::default()
        };
        self.machines().map(machine).collect()
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        while let Some(time) = self.due().filter(|due| *due <= now && out.len() < items_max) {
            for machine in self.machines() {
                let value = |sensor| Reading::good(value(machine, sensor, self.next, self.plant.heat));
                let values = (0..SENSORS.len()).map(value).collect();
                out.push(Item::Sample(Sample { machine: id(&machine_name(machine)), time, values }));
            }
            self.next += 1;
        }
        self.polled = self.due().map_or(now, |due| now.min(due.plus_millis(-1)));
        Ok(self.due().is_some_and(|due| due <= now))
    }

    fn progress(&self) -> PlantTime {
        self.polled
    }

    fn next_due(&self) -> Option<PlantTime> {
        self.due()
    }
}

/// Of the model that every hall begins with.
pub const THRESHOLD: f64 = 0.5;

/// Publishes the model and puts it in charge; another threshold is another version.
pub async fn put_in_charge(store: &Store, threshold: f64) -> String {
    let version = publish(store, threshold).await;
    registry::promote(store, &id(MODEL), &version, decision()).await.unwrap();
    version
}

/// Publishes the model and puts it on trial until somebody decides.
pub async fn try_beside(store: &Store, threshold: f64, share: f64) -> String {
    let version = publish(store, threshold).await;
    let trial = Trial { version: version.clone(), share };
    canary::try_beside(store, &id(MODEL), trial, None, None, decision()).await.unwrap();
    version
}

async fn publish(store: &Store, threshold: f64) -> String {
    let artifact = hot_is_bad(threshold);
    let version = artifact.version().unwrap();
    registry::publish(store, &id(MODEL), &version, artifact.encode().unwrap().into()).await.unwrap();
    version
}

fn decision() -> Decision {
    Decision { who: "a test".into(), why: "it sees heat".into(), when_ms: 0 }
}

/// One layer that looks at the mean temperature, and a little at everything else.
fn hot_is_bad(threshold: f64) -> Artifact {
    let config = features();
    let names = FeatureSchema::of(&config).names;
    let mean = |name: &String| if name == "temperature.mean" { SENSORS[0].2 + HEAT / 2.0 } else { 0.0 };
    let encoder =
        Encoder { kinds: vec![id(KIND)], mean: names.iter().map(mean).collect(), std: vec![HEAT / 2.0; names.len()] };
    let weight = |i: usize| if names.get(i).is_some_and(|n| n == "temperature.mean") { 4.0 } else { 0.001 };
    let dense = Dense {
        inputs: encoder.width(),
        outputs: 1,
        weight: (0..encoder.width()).map(weight).collect(),
        bias: vec![0.0],
    };
    let head = Head { mode: "overheating".into(), calibration: Calibration::IDENTITY, calibrated: true, threshold };
    let mut artifact = Artifact {
        config,
        horizon_ms: 3_600_000,
        encoder,
        network: Network::new(vec![dense]).unwrap(),
        heads: vec![head],
        golden: vec![],
        origin: Origin::default(),
    };
    let row = vec![0.5; names.len()];
    let probabilities = artifact.probabilities(&artifact.logits(&id(KIND), &row));
    artifact.golden = vec![Golden { kind: id(KIND), features: row, probabilities }];
    artifact
}
