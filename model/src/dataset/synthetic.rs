//! A made-up plant for tests: what fails shows only in how two sensors go together, so that no line separates it.

use proto::{asset::AssetId, time::PlantTime, wire::telemetry::EventKind};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Dataset,
    label::{Event, Labeller},
};
use crate::features::{FeatureConfig, FeatureSchema, WindowFeatures};

const HOUR: i64 = 3_600_000;
pub const HORIZON_MS: i64 = 12 * HOUR;

/// Windows of an hour. Before a failure of mode `same` two features have the same sign, before one of `opposite`
/// opposite signs, and otherwise one of the two is near zero.
pub fn xor_plant(seed: u64, machines: usize, days: i64) -> Dataset {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let config = FeatureConfig { window_ms: HOUR, ..FeatureConfig::default() };
    let names: Vec<AssetId> = (0..machines).map(|m| AssetId::new(&format!("m{m}")).unwrap()).collect();
    let events: Vec<Event> = names.iter().flat_map(|name| events(name, days, &mut rng)).collect();
    let labeller = Labeller::new(&events, HORIZON_MS, PlantTime(days * 24 * HOUR));
    let mut dataset = Dataset::new(config.clone(), &labeller);
    for name in &names {
        let own: Vec<&Event> = events.iter().filter(|e| e.machine == *name).collect();
        let windows: Vec<_> = (0..days * 24).map(|hour| window(name, hour, &own, &config, &mut rng)).collect();
        dataset.push(&windows, &labeller);
    }
    dataset
}

fn events(machine: &AssetId, days: i64, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut events = Vec::new();
    let mut hour = rng.random_range(10..60);
    while hour < days * 24 {
        let mode = if rng.random_bool(0.5) { "same" } else { "opposite" };
        for (hour, kind) in [(hour, EventKind::Failure), (hour + 2, EventKind::Maintenance)] {
            let time = PlantTime(hour * HOUR);
            let (code, answer) = Default::default();
            events.push(Event { machine: machine.clone(), time, kind, code, mode: mode.into(), answer, known: time });
        }
        hour += rng.random_range(30..70);
    }
    events
}

fn window(
    machine: &AssetId,
    hour: i64,
    events: &[&Event],
    config: &FeatureConfig,
    rng: &mut ChaCha8Rng,
) -> WindowFeatures {
    let (start, end) = (PlantTime(hour * HOUR), PlantTime((hour + 1) * HOUR));
    let ahead = |e: &&&Event| e.kind == EventKind::Failure && e.time >= end && e.time <= end.plus_millis(HORIZON_MS);
    let sign = if rng.random_bool(0.5) { 2.0 } else { -2.0 };
    let (a, b) = match events.iter().find(ahead).map(|e| e.mode.as_str()) {
        Some("same") => (sign, sign),
        Some(_) => (sign, -sign),
        None if rng.random_bool(0.5) => (sign, 0.0),
        None => (0.0, sign),
    };
    let mut features: Vec<f64> = FeatureSchema::of(config).names.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
    let last = features.len() - 1;
    features[0] += 50.0 + 3.0 * a;
    features[last] = 0.02 * (b + rng.random_range(-0.3..0.3));
    WindowFeatures {
        machine: machine.clone(),
        kind: AssetId::new("press").unwrap(),
        start,
        end,
        generation: 0,
        revision: 0,
        sensors: vec![],
        normal: vec![0.0; features.len()],
        features,
    }
}
