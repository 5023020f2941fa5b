use super::*;
use crate::{
    artifact::Shortage,
    dataset::{order::tests::shuffled, split::Split, synthetic},
    score::Scorer,
    settings::{Borders, SplitShares},
};

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
fn rows_in_another_order_give_the_same_bytes() {
    let dataset = synthetic::xor_plant(3, 4, 40);
    let other = shuffled(&dataset, 8);
    let trained = |dataset: &Dataset| train(dataset, &settings(), 5, &mut |_| {}).unwrap();
    assert!(trained(&dataset).bytes == trained(&other).bytes);
}

const THREADS: &str = "RAYON_NUM_THREADS";

/// Run by the test below, in a process with so many threads.
#[test]
#[ignore = "is run by another test"]
fn says_its_version() {
    let settings = TrainSettings { hidden: vec![256, 128], ..settings() };
    let trained = train(&synthetic::xor_plant(3, 4, 40), &settings, 5, &mut |_| {}).unwrap();
    println!("version {}", trained.report.version);
}

#[test]
fn one_thread_and_two_give_the_same_version() {
    let version = |threads: &str| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "train::tests::says_its_version", "--ignored", "--nocapture"]).env(THREADS, threads);
        let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
        output.lines().find_map(|line| line.split_once("version ")).map(|(_, v)| v.to_owned()).expect("a version")
    };
    assert_eq!(version("1"), version("2"));
}

/// Another CPU adds in another order, and rounds twice where this one rounds once.
#[test]
fn on_another_cpu_the_metrics_are_the_same_to_within_five_thousandths() {
    // So many windows that one of them moves nothing by as much.
    let dataset = synthetic::xor_plant(3, 16, 60);
    let trained = |old_cpu: bool| {
        crate::forward::simd::OLD_CPU.set(old_cpu);
        let trained = train(&dataset, &TrainSettings { epochs_max: 4, ..settings() }, 5, &mut |_| {}).unwrap();
        crate::forward::simd::OLD_CPU.set(false);
        trained
    };
    let (here, there) = (trained(false), trained(true));
    assert!(here.bytes != there.bytes, "the same bits: was it another CPU?");
    for (here, there) in here.report.metrics.iter().zip(&there.report.metrics) {
        let close = |a: f64, b: f64| assert!((a - b).abs() <= 0.005, "{here:?} and {there:?}");
        close(here.average_precision, there.average_precision);
        close(here.brier, there.brier);
        close(here.precision, there.precision);
        close(here.recall, there.recall);
        close(here.f1, there.f1);
    }
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
    assert!((2..=3).contains(&trained.artifact.golden.len()));
    for golden in &trained.artifact.golden {
        assert!(golden.features.iter().all(|v| v.is_finite()), "a missing value tries no weight");
        let values = names.iter().cloned().zip(golden.features.iter().copied()).collect();
        let score = scorer.score_features(&golden.kind, &values).unwrap();
        for (a, b) in score.probabilities.iter().zip(&golden.probabilities) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn a_mode_with_too_few_failures_to_learn_from_is_left_to_the_rules() {
    let dataset = synthetic::xor_plant(3, 4, 40);
    let split = Split::at(&dataset, &Borders::of(&dataset, settings().split));
    let failures = [0, 1].map(|mode| dataset.failures_ahead(&split.train, mode));
    let (few, many) = if failures[0] < failures[1] { (0, 1) } else { (1, 0) };
    let min_failures = failures[few] + 1;
    let trained = train(&dataset, &TrainSettings { min_failures, ..settings() }, 0, &mut |_| {}).unwrap();
    let shortage = Shortage::Needed(min_failures);
    let refused = vec![RefusedMode { mode: dataset.modes[few].clone(), failures: failures[few], shortage }];
    assert_eq!((&trained.report.refused, &trained.artifact.origin.refused), (&refused, &refused));
    assert_eq!(trained.artifact.heads.iter().map(|h| &h.mode).collect::<Vec<_>>(), [&dataset.modes[many]]);
    let all = TrainSettings { min_failures: 1_000, ..settings() };
    let error = train(&dataset, &all, 0, &mut |_| {}).unwrap_err().to_string();
    let reason = format!("has {} failures to learn from, 1000 are needed", failures[few]);
    assert!(error.contains(&reason), "{error}");
}

#[test]
fn a_mode_that_a_slice_never_sees_is_refused_by_the_slices_name() {
    let mut dataset = synthetic::xor_plant(3, 4, 40);
    let borders = Borders::of(&dataset, settings().split);
    for machine in &mut dataset.machines {
        machine.life.failures.retain(|f| f.mode != Some(0) || f.at < borders.calibration_end);
    }
    let trained = train(&dataset, &settings(), 0, &mut |_| {}).unwrap();
    let [refused] = trained.report.refused.as_slice() else { panic!("{:?}", trained.report.refused) };
    assert!(refused.to_string().ends_with("failures to learn from and none in the test slice"), "{refused}");
}

#[test]
fn an_archive_too_short_for_its_slices_names_the_first_empty_one() {
    let dataset = synthetic::xor_plant(3, 4, 2);
    let error = train(&dataset, &settings(), 0, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("the validation slice is empty"), "{error}");
}

/// Of rows that were left out the probabilities know: what is said adds up to what happens, however few are learnt from.
#[test]
fn probabilities_of_a_sample_are_those_of_all_rows() {
    let dataset = synthetic::xor_plant(3, 12, 40);
    let plain = TrainSettings { class_weight: 0.0, epochs_max: 12, ..settings() };
    let rows: Vec<usize> = (0..dataset.rows.len()).collect();
    let said = |rows_max: usize| {
        let split = SplitShares { calibration: 0.02, ..plain.split };
        let trained = train(&dataset, &TrainSettings { rows_max, split, ..plain.clone() }, 0, &mut |_| {}).unwrap();
        assert!(trained.report.heads.iter().all(|head| !head.calibrated), "what is said is the network's own");
        let said = crate::gate::contest::Said::of(&dataset, &rows, &trained.artifact);
        let mean = |mode: &crate::gate::contest::Mode| mode.probabilities.iter().sum::<f64>() / rows.len() as f64;
        (trained.report.rows.sampled, said.modes.iter().flatten().map(mean).collect::<Vec<_>>())
    };
    let (few, of_few) = said(2_000);
    assert!(few * 2 < dataset.rows.len(), "{few} rows");
    for (mode, said) in of_few.into_iter().enumerate() {
        let happens = dataset.positive(&rows, mode).iter().filter(|p| **p).count() as f64 / rows.len() as f64;
        assert!((said / happens - 1.0).abs() < 0.25, "mode {mode}: said {said:.3}, happens {happens:.3}");
    }
}

#[test]
fn what_calibrates_has_no_part_in_the_weights() {
    let dataset = synthetic::xor_plant(3, 24, 40);
    let borders = Borders::of(&dataset, settings().split);
    let mut spoilt = dataset.clone();
    let calibrates = |row: &&mut crate::dataset::Row| {
        row.start >= borders.validation_end && row.end.plus_millis(dataset.horizon_ms) <= borders.calibration_end
    };
    spoilt.rows.iter_mut().filter(calibrates).for_each(|row| row.fails ^= 3);
    let [a, b] = [&dataset, &spoilt].map(|d| train(d, &settings(), 0, &mut |_| {}).unwrap().artifact);
    let features = dataset.features(7).iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    assert_eq!(a.logits(dataset.kind(7), &features), b.logits(dataset.kind(7), &features));
    let of = |artifact: &Artifact| artifact.heads.iter().map(|h| h.calibration.clone()).collect::<Vec<_>>();
    assert_ne!(of(&a), of(&b));
}

#[test]
fn a_head_is_calibrated_where_enough_failures_are_and_says_so() {
    let dataset = synthetic::xor_plant(3, 24, 40);
    let trained = train(&dataset, &settings(), 0, &mut |_| {}).unwrap();
    let split = Split::at(&dataset, &trained.artifact.origin.borders);
    for (head, mode) in trained.artifact.heads.iter().zip(0..) {
        let failures = dataset.failures_ahead(&split.calibration, mode);
        assert!(failures >= 20 && head.calibrated, "{failures} failures: {head:?}");
    }
    let kept = Artifact::decode(&trained.bytes).unwrap();
    let said: Vec<bool> = trained.report.heads.iter().map(|h| h.calibrated).collect();
    assert_eq!(kept.heads.iter().map(|h| h.calibrated).collect::<Vec<_>>(), said);
    let brief = TrainSettings { split: SplitShares { calibration: 0.05, ..settings().split }, ..settings() };
    let trained = train(&dataset, &brief, 0, &mut |_| {}).unwrap();
    assert!(trained.report.heads.iter().all(|h| !h.calibrated), "{:?}", trained.report.heads);
}

#[test]
fn a_run_can_be_repeated_from_its_artefact() {
    let dataset = synthetic::xor_plant(3, 4, 40);
    let first = train(&dataset, &settings(), 5, &mut |_| {}).unwrap();
    let kept = Artifact::decode(&first.bytes).unwrap().origin;
    assert_eq!(kept.settings, settings());
    assert!(train(&dataset, &kept.settings, 5, &mut |_| {}).unwrap().bytes == first.bytes);
}
