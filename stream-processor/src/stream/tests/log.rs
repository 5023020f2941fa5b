//! Random but valid logs.

use std::time::Instant;

use model::features::{Derived, Expression, FeatureConfig};
use proto::{
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{check_batch, delta_encode},
    wire::telemetry::{
        Birth, EventKind, EventRecord, MachineInfo, MachineReadings, Quality, QualityReason, SealTime, SensorColumn,
        SensorInfo, TelemetryBatch,
    },
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::StreamConfig;
use crate::decode::{AgentKey, Content, Taken};

pub const WINDOW_MS: i64 = 1_000;
pub const LATENESS_MS: i64 = 200;
pub const STUCK_AFTER: u32 = 4;
pub const INTERVAL_MS: i64 = 100;
pub const RANGE_HIGH: f64 = 100.0;
/// Around 1e9: small noise on a large value.
pub const LARGE: f64 = 1e9;

/// Windows that do not overlap, and are revised for as long as they are.
pub fn config() -> StreamConfig {
    shape(None, None)
}

/// Every kind of windows that there can be: revised never, for a while and for long, and overlapping.
pub fn shapes() -> [StreamConfig; 5] {
    let of = |(slide_ms, revise_ms)| shape(slide_ms, revise_ms);
    [(None, Some(0)), (None, None), (None, Some(3_500)), (Some(250), Some(0)), (Some(250), Some(1_400))].map(of)
}

fn shape(slide_ms: Option<i64>, revise_ms: Option<i64>) -> StreamConfig {
    let sensors = ["temperature", "vibration"].map(|s| AssetId::new(s).unwrap()).to_vec();
    let derived = Derived { name: "power".into(), of: Expression::parse("temperature * vibration").unwrap() };
    let features = FeatureConfig {
        window_ms: WINDOW_MS,
        slide_ms,
        lateness_ms: LATENESS_MS,
        revise_ms,
        sensors,
        stuck_after: STUCK_AFTER,
        rolling_hours: vec![0.002, 0.02],
        derived: vec![derived],
        ..Default::default()
    };
    StreamConfig { features, ..Default::default() }
}

pub mod taken {
    use super::*;

    pub fn batch(agent: &AgentKey, seq: u64, batch: TelemetryBatch) -> Taken {
        let readings = check_batch(&batch).unwrap();
        Taken {
            agent: agent.clone(),
            position: Position { epoch: Epoch([7; 16]), seq },
            last_seq: seq,
            content: Content::Batch { batch, readings },
            received: Instant::now(),
        }
    }

    pub fn readings(taken: &Taken) -> u64 {
        let Content::Batch { readings, .. } = taken.content else { panic!("a batch") };
        readings
    }
}

pub fn birth(machines: &[String]) -> Birth {
    let sensor = |name: &str, unit: &str, range_high| SensorInfo {
        sensor: name.into(),
        unit: unit.into(),
        range_low: 0.0,
        range_high,
        interval_ms: INTERVAL_MS as u64,
    };
    let machine = |machine: &String| MachineInfo {
        machine: machine.clone(),
        kind: "press".into(),
        make: "Acme".into(),
        installed_ms: 7,
        sensors: vec![sensor("temperature", "C", RANGE_HIGH), sensor("vibration", "mm/s", 2.0 * LARGE)],
        ..Default::default()
    };
    Birth { machines: machines.iter().map(machine).collect(), ..Default::default() }
}

/// Of one agent with two machines: late, future, stuck, missing and impossible readings, empty batches, silence, a clock
/// that falls back by a little or a lot, and times at which the gateway does not know what time it is.
pub fn log(agent: usize, batches: u64, rng: &mut ChaCha8Rng) -> Vec<Taken> {
    let key = AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new(&format!("gw-{agent}")).unwrap() };
    let machines: Vec<String> = (0..2).map(|m| format!("press-{agent}-{m}")).collect();
    let mut now = 1_000_000 + rng.random_range(0..5_000);
    let mut log = Vec::new();
    for seq in 1..=batches {
        if rng.random_bool(0.05) {
            now -= [LATENESS_MS / 2, 10 * LATENESS_MS, 40 * LATENESS_MS][rng.random_range(0..3)];
        }
        let trusted = rng.random_bool(0.95);
        let known = now;
        if !trusted {
            now += rng.random_range(-100_000..100_000);
        }
        let from = now;
        now += [50, 400, 1_000, 1_700][rng.random_range(0..4)];
        let speaking: Vec<_> = machines.iter().filter(|_| rng.random_bool(0.8)).collect();
        let readings = speaking.into_iter().map(|m| readings(m, from, now, rng)).collect();
        let events = rng.random_bool(0.05).then(|| EventRecord {
            machine: machines[0].clone(),
            time_ms: now,
            kind: EventKind::Maintenance as i32,
            ..Default::default()
        });
        let batch = TelemetryBatch {
            sealed: Some(SealTime { time_ms: now, trusted, ..Default::default() }),
            birth: (seq == 1 || rng.random_bool(0.03)).then(|| birth(&machines)),
            machines: readings,
            events: events.into_iter().collect(),
            ..Default::default()
        };
        log.push(taken::batch(&key, seq, batch));
        if !trusted {
            now = known;
        }
    }
    log
}

fn readings(machine: &str, from: i64, to: i64, rng: &mut ChaCha8Rng) -> MachineReadings {
    let stamps: Vec<i64> = (from..to)
        .step_by(INTERVAL_MS as usize)
        .map(|at| match rng.random_range(0..40) {
            0 => at - rng.random_range(0..8_000),
            1 => at + rng.random_range(0..1_000),
            _ => at,
        })
        .collect();
    let sensor = |name: &str, base: f64, rng: &mut ChaCha8Rng| {
        let value = stamps.iter().map(|_| base + odd(rng)).collect();
        let quality: Vec<i32> =
            if rng.random_bool(0.7) { vec![] } else { stamps.iter().map(|_| quality(rng)).collect() };
        let told = rng.random_bool(0.5);
        let reason = if told { quality.iter().map(|q| reason(*q, rng)).collect() } else { vec![] };
        SensorColumn { sensor: name.into(), value, quality, reason }
    };
    let mut sensors = vec![sensor("temperature", 50.0, rng), sensor("vibration", LARGE, rng)];
    if rng.random_bool(0.1) {
        sensors.push(sensor("unannounced", 1.0, rng));
    }
    MachineReadings { machine: machine.into(), time_delta_ms: delta_encode(&stamps), sensors }
}

fn odd(rng: &mut ChaCha8Rng) -> f64 {
    match rng.random_range(0..30) {
        0 => f64::NAN,
        1 => 3.0 * LARGE,
        2 => f64::NEG_INFINITY,
        // Repeats often enough to be stuck at times.
        3..13 => 0.25,
        _ => rng.random_range(-1.0..1.0),
    }
}

fn quality(rng: &mut ChaCha8Rng) -> i32 {
    [Quality::Good, Quality::Good, Quality::Stale, Quality::Bad, Quality::Absent][rng.random_range(0..5)] as i32
}

fn reason(quality: i32, rng: &mut ChaCha8Rng) -> i32 {
    let reasons = [QualityReason::Timeout, QualityReason::Disconnected, QualityReason::Ended];
    let good = quality == Quality::Good as i32;
    if good { QualityReason::None as i32 } else { reasons[rng.random_range(0..reasons.len())] as i32 }
}

/// All logs in one order that keeps each one's own.
pub fn interleave(logs: &[Vec<Taken>], rng: &mut ChaCha8Rng) -> Vec<Taken> {
    let mut at = vec![0; logs.len()];
    let mut order = Vec::new();
    while order.len() < logs.iter().map(Vec::len).sum() {
        let agent = rng.random_range(0..logs.len());
        let run = rng.random_range(1..5).min(logs[agent].len() - at[agent]);
        order.extend_from_slice(&logs[agent][at[agent]..at[agent] + run]);
        at[agent] += run;
    }
    order
}
