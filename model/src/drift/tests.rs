use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::dataset::{Dataset, synthetic};

const DAY: i64 = 24 * 3_600_000;
const SEED: u64 = 5;
const MACHINES: usize = 12;

/// Thirty days of training, and thirty more of the same plant.
fn plant() -> (Dataset, Reference) {
    let dataset = synthetic::xor_plant(SEED, MACHINES, 60);
    let early: Vec<usize> = (0..dataset.rows.len()).filter(|r| dataset.rows[*r].end.millis() <= 30 * DAY).collect();
    let reference = Reference::of(&dataset, &early, DAY).unwrap();
    (dataset, reference)
}

/// The blocks of the later thirty days, after `change`.
fn watched(dataset: &Dataset, reference: &Reference, change: impl Fn(&mut [f64], i64)) -> Vec<BlockDrift> {
    let mut later: Vec<usize> = (0..dataset.rows.len()).filter(|r| dataset.rows[*r].end.millis() > 30 * DAY).collect();
    later.sort_by_key(|row| dataset.rows[*row].end);
    let mut watch = Watch::new(reference.clone());
    let observe = |row: &usize| {
        let end = dataset.rows[*row].end;
        let mut features: Vec<f64> = dataset.features(*row).iter().map(|v| f64::from(*v)).collect();
        change(&mut features, (end.millis() - 1) / DAY);
        watch.observe(end, &features)
    };
    later.iter().filter_map(observe).collect()
}

#[test]
fn the_same_plant_does_not_drift() {
    let (dataset, reference) = plant();
    let blocks = watched(&dataset, &reference, |_, _| {});
    assert!(blocks.len() >= 22, "a span is full after {SPAN_BLOCKS} days: {}", blocks.len());
    let drifted: Vec<_> = blocks.iter().flat_map(BlockDrift::drifted).collect();
    assert!(drifted.is_empty(), "seed {SEED}: {drifted:?}");
}

#[test]
fn a_shifted_sensor_is_named_within_days_and_no_other_is() {
    let (dataset, reference) = plant();
    let blocks = watched(&dataset, &reference, |features, day| {
        if day >= 40 {
            features[3] += 1.0;
        }
    });
    let first = blocks.iter().find(|block| !block.drifted().is_empty()).unwrap();
    let day = first.end.millis() / DAY;
    assert!((43..=46).contains(&day), "seed {SEED}: three spans in a row from day 40 on, each with more of it: {day}");
    for block in &blocks {
        assert!(block.drifted().iter().all(|f| f.name == reference.features[3].name), "seed {SEED}: {block:?}");
    }
}

#[test]
fn a_wider_or_missing_sensor_drifts_too() {
    let (dataset, reference) = plant();
    let named = |change: &dyn Fn(&mut [f64])| {
        let blocks = watched(&dataset, &reference, |features, _| change(features));
        blocks.last().unwrap().drifted().iter().map(|f| f.name.clone()).collect::<Vec<_>>()
    };
    let name = &reference.features[4].name;
    assert_eq!(named(&|f| f[4] *= 3.0), std::slice::from_ref(name));
    assert_eq!(named(&|f| f[4] = f64::NAN), std::slice::from_ref(name));
}

#[test]
fn the_index_of_a_small_sample_is_not_larger_than_that_of_a_large_one() {
    let (dataset, reference) = plant();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let rows: Vec<usize> = (0..dataset.rows.len()).filter(|r| dataset.rows[*r].end.millis() <= 30 * DAY).collect();
    let mean_psi = |windows: usize, rng: &mut ChaCha8Rng| {
        let mut counts = reference.empty();
        for _ in 0..windows {
            let row = rows[rng.random_range(0..rows.len())];
            let features: Vec<f64> = dataset.features(row).iter().map(|v| f64::from(*v)).collect();
            reference.count(&features, &mut counts);
        }
        let distances = reference.distances(&counts);
        distances.iter().map(|d| d.psi).sum::<f64>() / distances.len() as f64
    };
    // By chance alone the plain index of 200 windows in 22 bins would be about 0.1.
    let (small, large) = (mean_psi(200, &mut rng), mean_psi(5_000, &mut rng));
    assert!(small < 0.03 && large < 0.01, "seed {SEED}: {small} {large}");
}

#[test]
fn too_few_windows_and_late_ones_say_nothing() {
    let (dataset, reference) = plant();
    let mut watch = Watch::new(reference);
    let features: Vec<f64> = dataset.features(0).iter().map(|v| f64::from(*v)).collect();
    for day in 0..5 {
        assert_eq!(watch.observe(PlantTime(day * DAY + 1), &features), None, "one window a day");
    }
    assert_eq!(watch.observe(PlantTime(1), &features), None);
    assert_eq!(watch.counted.windows, 1, "the late one is left out");
}

#[test]
fn a_watch_goes_on_where_a_restart_left_it() {
    let (dataset, reference) = plant();
    let mut later: Vec<usize> = (0..dataset.rows.len()).filter(|r| dataset.rows[*r].end.millis() > 30 * DAY).collect();
    later.sort_by_key(|row| dataset.rows[*row].end);
    let observe = |watch: &mut Watch, row: usize| {
        let features: Vec<f64> = dataset.features(row).iter().map(|v| f64::from(*v)).collect();
        watch.observe(dataset.rows[row].end, &features)
    };
    let (mut whole, mut parted) = (Watch::new(reference.clone()), Watch::new(reference.clone()));
    for (place, row) in later.into_iter().enumerate() {
        if place % 1_000 == 999 {
            let bytes = serde_json::to_vec(parted.counted()).unwrap();
            parted = Watch::resume(reference.clone(), serde_json::from_slice(&bytes).unwrap());
        }
        assert_eq!(observe(&mut whole, row), observe(&mut parted, row));
    }
    let mut other = reference.clone();
    other.features.pop();
    assert_eq!(Watch::resume(other.clone(), whole.counted().clone()).counted(), Watch::new(other).counted());
}

#[test]
fn a_reference_is_read_as_it_was_written_and_a_wrong_one_is_not() {
    let (dataset, reference) = plant();
    let bytes = reference.encode().unwrap();
    let read = Reference::decode(&bytes).unwrap();
    // Text rounds in the last digit.
    let strengths = |by: &Reference| watched(&dataset, by, |_, _| {}).remove(9).features;
    for (a, b) in strengths(&read).iter().zip(strengths(&reference)) {
        assert!(a.name == b.name && (a.strength - b.strength).abs() < 1e-9, "{a:?} {b:?}");
    }
    assert!(bytes.len() < 200_000, "{}", bytes.len());
    let mut wrong = reference.clone();
    wrong.block_ms = 0;
    assert!(Reference::decode(&wrong.encode().unwrap()).is_err());
    assert!(Reference::decode(b"{}").is_err());
}
