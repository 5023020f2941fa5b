//! What the gateways of a plant send: whole logs of frames, made beforehand, so that sending them costs next to nothing.

use bytes::Bytes;
use proto::{
    asset::{AssetId, Unit},
    position::{Epoch, Position},
    telemetry::{Frame, delta_encode},
    wire::telemetry::{Birth, MachineInfo, MachineReadings, SealTime, SensorColumn, SensorInfo, TelemetryBatch},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const SITE: &str = "mill";
pub const KINDS: [&str; 6] = ["corrugator", "flexo-printer", "die-cutter", "folder-gluer", "baler", "boiler"];
/// A batch per gateway and second.
pub const FLUSH_MS: i64 = 1_000;
const INTERVAL_MS: i64 = 100;

/// A sensor as it is built: its usual value, noise and resolution.
struct Sensor {
    name: &'static str,
    unit: Unit,
    range: (f64, f64),
    usual: f64,
    noise: f64,
    steps: f64,
}

#[rustfmt::skip]
const SENSORS: [Sensor; 5] = [
    Sensor { name: "temperature", unit: Unit::Celsius, range: (-20.0, 180.0), usual: 62.0, noise: 0.5, steps: 100.0 },
    Sensor { name: "sound", unit: Unit::DecibelA, range: (30.0, 130.0), usual: 78.0, noise: 1.2, steps: 100.0 },
    Sensor { name: "humidity", unit: Unit::Percent, range: (0.0, 100.0), usual: 45.0, noise: 0.8, steps: 100.0 },
    Sensor { name: "rotation_speed", unit: Unit::RevolutionsPerMinute, range: (0.0, 6000.0), usual: 1480.0, noise: 3.0, steps: 10.0 },
    Sensor { name: "vibration", unit: Unit::MillimetrePerSecond, range: (0.0, 100.0), usual: 2.4, noise: 0.05, steps: 1000.0 },
];

/// A plant, and the plant time at which its gateways begin.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub gateways: usize,
    pub machines: usize,
    pub origin_ms: i64,
}

impl Traffic {
    pub fn readings_per_batch(&self) -> u64 {
        (self.machines * SENSORS.len()) as u64 * (FLUSH_MS / INTERVAL_MS) as u64
    }

    pub fn gateway(gateway: usize) -> AssetId {
        name(&format!("gateway-{gateway:03}"))
    }

    /// When batch `seq` is sealed: it holds the second before, and everything up to here has been read.
    pub fn sealed_ms(&self, seq: u64) -> i64 {
        self.origin_ms + seq as i64 * FLUSH_MS
    }

    /// The batches `1..=batches` of one gateway's log, the first one with its birth.
    pub fn batches(&self, gateway: usize, batches: u64) -> impl Iterator<Item = TelemetryBatch> + use<> {
        let plant = *self;
        let mut rng = ChaCha8Rng::seed_from_u64(gateway as u64);
        (1..=batches).map(move |seq| TelemetryBatch {
            sealed: Some(SealTime { time_ms: plant.sealed_ms(seq), trusted: true, ..Default::default() }),
            birth: (seq == 1).then(|| plant.birth(gateway)),
            machines: (0..plant.machines).map(|m| plant.readings(gateway, m, seq, &mut rng)).collect(),
            ..Default::default()
        })
    }

    /// The same as they go over the wire.
    pub fn frames(&self, gateway: usize, batches: u64) -> Vec<Bytes> {
        let epoch = Epoch(ChaCha8Rng::seed_from_u64(!(gateway as u64)).random());
        let readings = self.readings_per_batch() as u32;
        let frame = |(seq, batch)| Frame::seal(Position { epoch, seq }, None, readings, &batch).encode();
        (1..).zip(self.batches(gateway, batches)).map(frame).collect()
    }

    fn machine(gateway: usize, machine: usize) -> String {
        format!("machine-{gateway:03}-{machine:02}")
    }

    fn readings(&self, gateway: usize, machine: usize, seq: u64, rng: &mut ChaCha8Rng) -> MachineReadings {
        let end = self.sealed_ms(seq);
        let stamps: Vec<i64> = (end - FLUSH_MS..end).step_by(INTERVAL_MS as usize).collect();
        let sensors = SENSORS.iter().map(|sensor| {
            let value = stamps.iter().map(|_| sensor.reading(machine, rng)).collect();
            SensorColumn { sensor: sensor.name.into(), value, quality: vec![], reason: vec![] }
        });
        let sensors = sensors.collect();
        MachineReadings { machine: Self::machine(gateway, machine), time_delta_ms: delta_encode(&stamps), sensors }
    }

    fn birth(&self, gateway: usize) -> Birth {
        let sensor = |s: &Sensor| SensorInfo {
            sensor: s.name.into(),
            unit: s.unit.symbol().into(),
            range_low: s.range.0,
            range_high: s.range.1,
            interval_ms: INTERVAL_MS as u64,
        };
        let machine = |m: usize| MachineInfo {
            machine: Self::machine(gateway, m),
            kind: KINDS[m % KINDS.len()].into(),
            sensors: SENSORS.iter().map(sensor).collect(),
            ..Default::default()
        };
        let install_id = format!("load-{gateway}");
        Birth { install_id, machines: (0..self.machines).map(machine).collect(), ..Default::default() }
    }
}

impl Sensor {
    /// Machines differ a little; the noise is nearly normal.
    fn reading(&self, machine: usize, rng: &mut ChaCha8Rng) -> f64 {
        let noise: f64 = (0..4).map(|_| rng.random_range(-0.5..0.5)).sum();
        let value = self.usual * (1.0 + machine as f64 / 100.0) + noise * self.noise * 1.7;
        (value * self.steps).round() / self.steps
    }
}

/// For names that are right as they are written here.
pub fn name(name: &str) -> AssetId {
    AssetId::new(name).expect("a valid name")
}
