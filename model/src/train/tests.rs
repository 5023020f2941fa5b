use super::*;
use crate::{dataset::synthetic, score::Scorer};

fn settings() -> TrainSettings {
    TrainSettings { horizon_hours: 12.0, rows_max: 1_500, epochs_max: 3, ..TrainSettings::default() }
}

#[test]
fn the_same_rows_and_seed_give_the_same_bytes() {
    let dataset = synthetic::xor_plant(3, 4, 40);
    let bytes = |seed| train(&dataset, &TrainSettings { seed, ..settings() }, 5, &mut |_| {}).unwrap().bytes;
    assert!(bytes(1) == bytes(1));
    assert!(bytes(1) != bytes(2));
}

#[test]
fn what_is_trained_can_be_loaded_and_scores_as_in_training() {
    let dataset = synthetic::xor_plant(3, 4, 40);
    let mut epochs = Vec::new();
    let trained = train(&dataset, &settings(), 5, &mut |p| epochs.push(p.epoch)).unwrap();
    assert_eq!(epochs[..2], [1, 2]);
    let scorer = Scorer::from_artifact(&trained.bytes).unwrap();
    assert_eq!(scorer.version(), trained.report.version);
    assert_eq!(scorer.horizon_ms(), 12 * 3_600_000);
    let names = &scorer.schema().names;
    let golden = &trained.artifact.golden;
    let values = names.iter().cloned().zip(golden.features.iter().copied()).collect();
    let score = scorer.score_features(&golden.kind, &values).unwrap();
    for (a, b) in score.probabilities.iter().zip(&golden.probabilities) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn a_mode_with_too_few_failures_is_left_to_the_rules() {
    let dataset = synthetic::xor_plant(3, 4, 40);
    let failures = dataset.failures_by_mode();
    let (few, many) = if failures[0] < failures[1] { (0, 1) } else { (1, 0) };
    let between = TrainSettings { min_failures: failures[few] + 1, ..settings() };
    let trained = train(&dataset, &between, 0, &mut |_| {}).unwrap();
    assert_eq!(trained.report.refused, [RefusedMode { mode: dataset.modes[few].clone(), failures: failures[few] }]);
    assert_eq!(trained.artifact.heads.iter().map(|h| &h.mode).collect::<Vec<_>>(), [&dataset.modes[many]]);
    let all = TrainSettings { min_failures: 1_000, ..settings() };
    let error = train(&dataset, &all, 0, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(&format!("has {} failures", failures[few])) && error.contains("1000 are needed"), "{error}");
}
