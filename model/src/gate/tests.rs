use super::*;
use crate::{dataset::synthetic, settings::TrainSettings, train::train};

const SEED: u64 = 11;

fn settings(epochs_max: usize) -> TrainSettings {
    TrainSettings { horizon_hours: 12.0, epochs_max, ..TrainSettings::default() }
}

fn trained(dataset: &Dataset, epochs_max: usize) -> Artifact {
    train(dataset, &settings(epochs_max), 0, &mut |_| {}).unwrap().artifact
}

/// The challenger knows what the champion had no time to learn.
fn duel() -> (Dataset, Artifact, Artifact) {
    let early = synthetic::xor_plant(SEED, 8, 40);
    let dataset = synthetic::xor_plant(SEED, 8, 70);
    let (weak, strong) = (trained(&early, 1), trained(&dataset, 16));
    (dataset, weak, strong)
}

fn judged(dataset: &Dataset, champion: &Artifact, challenger: &Artifact) -> Comparison {
    compare(dataset, champion, challenger, Circumstances::default(), 5.0, &GateSettings::default()).unwrap()
}

#[test]
fn the_better_one_is_promoted_and_the_worse_one_refused_on_windows_that_neither_saw() {
    let (dataset, weak, strong) = duel();
    let better = judged(&dataset, &weak, &strong);
    assert_eq!(better.verdict, Verdict::Promote, "seed {SEED}\n{better}");
    let seen = |m: &Artifact| m.origin.borders.calibration_end;
    assert_eq!(better.from, seen(&weak).max(seen(&strong)));
    assert_eq!(better.windows, dataset.rows.iter().filter(|r| r.start >= better.from).count());
    let worse = judged(&dataset, &strong, &weak);
    let Verdict::Refuse(reasons) = &worse.verdict else { panic!("seed {SEED}\n{worse}") };
    assert!(reasons[0].starts_with("F1 may be worse by"), "{reasons:?}");
    assert_eq!((worse.from, worse.windows), (better.from, better.windows), "the same slice for both");
}

#[test]
fn each_budget_is_a_reason_of_its_own() {
    let (dataset, weak, strong) = duel();
    let good = judged(&dataset, &weak, &strong);
    let settings = GateSettings::default();
    let refused = |change: &dyn Fn(&mut Comparison)| {
        let mut comparison = good.clone();
        change(&mut comparison);
        match comparison.judge(&settings) {
            Verdict::Refuse(reasons) => reasons.join("; "),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(&|c| c.latency_us = 2_000.0).starts_with("a window takes 2000 us"));
    assert!(refused(&|c| c.calibration_error[1] = 0.2).starts_with("its probabilities are off by 0.200"));
    assert!(refused(&|c| c.baselines[1].lead.mean = -0.01).starts_with("it ranks no better than logistic regression"));
    assert!(
        refused(&|c| c.golden = Some(GoldenScore { first: 0.9, challenger: 0.1, lost: vec![] }))
            .starts_with("on the golden set")
    );
    let changed = Comparison {
        golden: Some(GoldenScore { first: 0.9, challenger: 0.1, lost: vec![] }),
        drifted: vec!["temperature.mean".into()],
        ..good.clone()
    };
    assert_eq!(changed.judge(&settings), Verdict::Promote, "the golden set is of a plant that is no more");
    let worse = Interval { mean: -0.2, low: -0.3, high: -0.1 };
    assert!(refused(&|c| c.modes[0].standing.difference = worse).ends_with("gets worse by 0.200, allowed is 0.100"));

    let mut few = good.clone();
    few.modes[0].standing.difference = worse;
    few.modes[0].judged = false;
    assert_eq!(few.judge(&settings), Verdict::Promote, "too few to judge is no veto");
    let mut noisy = good.clone();
    noisy.kinds[0].standing.difference = Interval { high: 0.01, ..worse };
    assert_eq!(noisy.judge(&settings), Verdict::Promote, "it may be chance");
}

#[test]
fn where_too_little_happened_everybody_waits() {
    let (dataset, weak, strong) = duel();
    let settings = GateSettings { events_min: 10_000, part_events_min: 9_000, ..GateSettings::default() };
    let comparison = compare(&dataset, &weak, &strong, Circumstances::default(), 5.0, &settings).unwrap();
    let Verdict::Wait(reasons) = &comparison.verdict else { panic!("{comparison}") };
    assert!(reasons[0].contains("10000 are needed"), "{reasons:?}");
    let modes = &comparison.modes;
    assert_eq!((modes.len(), modes[0].names.len(), modes[0].judged), (1, 2, false), "pooled");
    assert!(comparison.to_string().contains("too few to judge"));
}

#[test]
fn models_of_other_features_are_not_compared() {
    let (dataset, weak, mut strong) = duel();
    strong.config.window_ms += 1;
    let refused =
        compare(&dataset, &weak, &strong, Circumstances::default(), 5.0, &GateSettings::default()).unwrap_err();
    assert!(matches!(refused, GateError::Schema { who: "the challenger" }), "{refused}");
}
