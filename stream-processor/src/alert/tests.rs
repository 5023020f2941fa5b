use model::features::{Normal, SensorWindow, Stats};
use proto::{
    asset::Unit,
    wire::{
        alert::{AlertSource, AlertState, Outcome, Severity},
        prediction::{Contribution, ModeProbability},
        telemetry::{EventKind, EventRecord, Verdict},
    },
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::*;

const WINDOW_MS: i64 = 600_000;

pub fn sensor(name: &str, unit: Unit, mean: f64) -> SensorWindow {
    let stats = Stats { count: 10, mean, std: 1.0, min: mean, max: mean, first: mean, last: mean, slope: 0.0 };
    SensorWindow { sensor: AssetId::new(name).unwrap(), unit, stats: Some(stats), normal: None }
}

/// Window `n` of a machine that is a press.
pub fn window(machine: &str, n: i64, sensors: Vec<SensorWindow>) -> WindowFeatures {
    WindowFeatures {
        machine: AssetId::new(machine).unwrap(),
        kind: AssetId::new("press").unwrap(),
        start: PlantTime(n * WINDOW_MS),
        end: PlantTime((n + 1) * WINDOW_MS),
        generation: 0,
        revision: 0,
        sensors,
        features: Vec::new(),
        normal: Vec::new(),
    }
}

fn heads() -> Vec<ModeHead> {
    ["bearing_wear", "imbalance"].map(|mode| ModeHead { mode: mode.into(), threshold: 0.4, calibrated: true }).into()
}

/// Judges one scored window of `press-1`.
fn score(desk: &mut AlertDesk, n: i64, bearing: f64, imbalance: f64) -> Vec<Alert> {
    let contribution = |sensor: &str| Contribution { sensor: sensor.into(), logit: 1.5, ..Default::default() };
    let mode = |mode: &str, probability, sensor| ModeProbability {
        mode: mode.into(),
        probability,
        contributions: vec![contribution(sensor)],
        uncertainty: 0.0,
        calibrated: true,
    };
    let prediction = Prediction {
        machine: "press-1".into(),
        modes: vec![mode("bearing_wear", bearing, "vibration"), mode("imbalance", imbalance, "sound")],
        model_version: "v1".into(),
        horizon_ms: 86_400_000,
        ..Default::default()
    };
    let scored = Some(Scored { prediction: &prediction, heads: &heads() });
    desk.judge(&Judgement { window: &window("press-1", n, Vec::new()), slide_ms: WINDOW_MS, scored })
}

fn scores(desk: &mut AlertDesk, from: i64, bearing: &[f64]) -> Vec<Alert> {
    (from..).zip(bearing).flat_map(|(n, p)| score(desk, n, *p, 0.01)).collect()
}

fn rules(desk: &mut AlertDesk, n: i64, sensors: Vec<SensorWindow>) -> Vec<Alert> {
    desk.judge(&Judgement { window: &window("press-1", n, sensors), slide_ms: WINDOW_MS, scored: None })
}

fn event(kind: EventKind, n: i64) -> EventRecord {
    EventRecord { machine: "press-1".into(), time_ms: n * WINDOW_MS, kind: kind.into(), ..Default::default() }
}

/// Begins with window `n`.
fn generation(number: u32, n: i64) -> Generation {
    Generation { machine: AssetId::new("press-1").unwrap(), number, begins: Some(PlantTime(n * WINDOW_MS)) }
}

/// One scored window of a generation, all heads at `p`.
fn score_again(desk: &mut AlertDesk, generation: u32, n: i64, p: f64) -> Vec<Alert> {
    let modes = vec![ModeProbability { mode: "bearing_wear".into(), probability: p, ..Default::default() }];
    let prediction = Prediction { machine: "press-1".into(), modes, ..Default::default() };
    let scored = Some(Scored { prediction: &prediction, heads: &heads()[..1] });
    let window = WindowFeatures { generation, ..window("press-1", n, Vec::new()) };
    desk.judge(&Judgement { window: &window, slide_ms: WINDOW_MS, scored })
}

fn desk() -> AlertDesk {
    AlertDesk::new(AlertConfig::default())
}

#[test]
fn three_of_four_open_one_alert_that_names_its_first_window() {
    let mut desk = desk();
    let told = scores(&mut desk, 0, &[0.1, 0.5, 0.3, 0.5, 0.5, 0.5]);
    assert_eq!(told.len(), 1, "{told:?}");
    let alert = &told[0];
    assert_eq!(alert.id, proto::alert::alert_id("press-1", 0, "bearing_wear", PlantTime(WINDOW_MS)));
    assert_eq!(
        (alert.state(), alert.source(), alert.severity()),
        (AlertState::Open, AlertSource::Model, Severity::Warning)
    );
    assert_eq!((alert.first_window_ms, alert.opened_ms), (WINDOW_MS, 5 * WINDOW_MS));
    assert_eq!(desk.open(), told);
}

#[test]
fn a_change_is_told_when_it_is_worth_it_and_severity_stays() {
    let mut desk = desk();
    scores(&mut desk, 0, &[0.5, 0.5, 0.5]);
    assert!(scores(&mut desk, 3, &[0.52, 0.48]).is_empty());
    let told = scores(&mut desk, 5, &[0.85, 0.6]);
    assert_eq!(told.iter().map(|a| a.severity()).collect::<Vec<_>>(), [Severity::Critical; 2]);
    assert_eq!(told[1].probability, 0.6);
}

#[test]
fn a_revised_window_moves_nothing() {
    let (mut told, mut twice) = (desk(), desk());
    scores(&mut told, 0, &[0.5, 0.1, 0.5]);
    scores(&mut twice, 0, &[0.5, 0.1, 0.5]);
    assert!(scores(&mut twice, 0, &[0.9; 3]).is_empty(), "an alert would open, had they been judged again");
    let next = [0.1, 0.5, 0.5, 0.1, 0.5];
    assert_eq!(scores(&mut twice, 3, &next), scores(&mut told, 3, &next));
    assert!(!told.open().is_empty());
}

#[test]
fn overlapping_windows_count_one_by_one() {
    let mut desk = desk();
    let overlapping = |n: i64| {
        let start = PlantTime(n * WINDOW_MS / 10);
        WindowFeatures { start, end: start.plus_millis(WINDOW_MS), ..window("press-1", 0, Vec::new()) }
    };
    let modes = vec![ModeProbability { mode: "bearing_wear".into(), probability: 0.5, ..Default::default() }];
    let prediction = Prediction { machine: "press-1".into(), modes, ..Default::default() };
    let mut judge = |n: i64| {
        let scored = Some(Scored { prediction: &prediction, heads: &heads()[..1] });
        desk.judge(&Judgement { window: &overlapping(n), slide_ms: WINDOW_MS / 10, scored })
    };
    // Of four in a row there are two: the others are too long ago, though each overlaps all of them.
    assert!([0, 4, 8].into_iter().all(|n| judge(n).is_empty()));
    assert!(judge(9).is_empty());
    assert_eq!(judge(10)[0].first_window_ms, 8 * WINDOW_MS / 10);
}

#[test]
fn an_alert_closes_after_it_has_faded_and_does_not_flap() {
    let mut desk = desk();
    scores(&mut desk, 0, &[0.5, 0.5, 0.5]);
    // Between the lines for ever: neither closes nor opens again.
    let between: Vec<f64> = (0..50).map(|n| if n % 2 == 0 { 0.1 } else { 0.3 }).collect();
    assert!(scores(&mut desk, 3, &between).iter().all(|a| a.state() == AlertState::Open));
    let told = scores(&mut desk, 60, &[0.1; 7]);
    let closed = told.last().unwrap();
    assert_eq!(
        (closed.state(), closed.outcome(), closed.closed_ms),
        (AlertState::Closed, Outcome::Cleared, 66 * WINDOW_MS)
    );
    assert!(desk.open().is_empty());
}

#[test]
fn only_the_leading_mode_opens_unless_another_is_clearly_there() {
    let mut one = desk();
    let told: Vec<_> = (0..10).flat_map(|n| score(&mut one, n, 0.48, 0.44)).collect();
    assert_eq!(told.iter().map(|a| a.mode.as_str()).collect::<Vec<_>>(), ["bearing_wear"]);
    let mut both = desk();
    let told: Vec<_> = (0..10).flat_map(|n| score(&mut both, n, 0.7, 0.6)).collect();
    let reasons = |a: &Alert| (a.mode.clone(), a.contributions[0].sensor.clone());
    let reasons: Vec<_> = told.iter().map(reasons).collect();
    assert_eq!(reasons, [("bearing_wear", "vibration"), ("imbalance", "sound")].map(|(m, s)| (m.into(), s.into())));
}

#[test]
fn a_failure_closes_and_nothing_opens_until_the_repair_has_settled() {
    let mut desk = desk();
    scores(&mut desk, 0, &[0.9; 3]);
    let told = desk.event(&event(EventKind::Failure, 5));
    assert_eq!((told.len(), told[0].outcome(), told[0].closed_ms), (1, Outcome::Failed, 5 * WINDOW_MS));
    assert!(scores(&mut desk, 5, &[0.9; 20]).is_empty());
    assert!(desk.event(&event(EventKind::Replacement, 25)).is_empty());
    // Two hours, twelve windows, are quiet; then three of four.
    let told = scores(&mut desk, 25, &[0.9; 15]);
    assert_eq!(told.iter().map(|a| a.first_window_ms).collect::<Vec<_>>(), [37 * WINDOW_MS]);
}

#[test]
fn a_repair_of_another_mode_leaves_the_alert_open() {
    let mut desk = desk();
    scores(&mut desk, 0, &[0.9; 3]);
    let mut repair = event(EventKind::Maintenance, 4);
    repair.mode = "imbalance".into();
    assert!(desk.event(&repair).is_empty());
    repair.mode = "bearing_wear".into();
    assert_eq!(desk.event(&repair)[0].outcome(), Outcome::Repaired);
}

#[test]
fn a_record_that_is_older_than_the_alert_does_not_close_it() {
    let mut desk = desk();
    scores(&mut desk, 10, &[0.9; 3]);
    assert!(desk.event(&event(EventKind::Failure, 9)).is_empty());
    assert_eq!(desk.open().len(), 1);
}

#[test]
fn a_dismissed_alert_stays_away_until_the_mode_has_faded() {
    let mut desk = desk();
    let id = scores(&mut desk, 0, &[0.5; 3])[0].id.clone();
    let mut verdict = event(EventKind::Unspecified, 4);
    verdict.alert_id = id;
    verdict.set_verdict(Verdict::FalseAlarm);
    assert_eq!(desk.event(&verdict)[0].outcome(), Outcome::Dismissed);
    assert!(scores(&mut desk, 5, &[0.5; 20]).is_empty());
    scores(&mut desk, 25, &[0.1; 6]);
    assert_eq!(scores(&mut desk, 31, &[0.5; 3]).len(), 1);
}

#[test]
fn an_acknowledgement_keeps_its_first_author() {
    let mut desk = desk();
    let id = scores(&mut desk, 0, &[0.5; 3])[0].id.clone();
    let now = PlantTime(9);
    let alert = desk.acknowledge(&id, "Ada", "on my way", now).unwrap();
    assert_eq!(
        (alert.state(), alert.acknowledged_by.as_str(), alert.acknowledged_ms),
        (AlertState::Acknowledged, "Ada", 9)
    );
    assert_eq!(desk.acknowledge(&id, "Ada", "", PlantTime(10)).unwrap(), alert);
    assert_eq!(desk.acknowledge(&id, "Bob", "", now), Err(AcknowledgeError::Already { by: "Ada".into() }));
    assert_eq!(desk.acknowledge("x", "Bob", "", now), Err(AcknowledgeError::NotOpen { id: "x".into() }));
    // It stays acknowledged while it changes.
    assert_eq!(scores(&mut desk, 3, &[0.9])[0].state(), AlertState::Acknowledged);
}

#[test]
fn without_a_model_rules_open_and_a_model_takes_over() {
    let mut desk = desk();
    let vibration = || vec![sensor("vibration", Unit::MillimetrePerSecond, 5.0)];
    let told: Vec<_> = (0..8).flat_map(|n| rules(&mut desk, n, vibration())).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].source(), told[0].mode.as_str(), told[0].probability),
        (AlertSource::Rule, "vibration_zone", 0.0)
    );
    let told = scores(&mut desk, 8, &[0.1]);
    assert_eq!(told[0].outcome(), Outcome::Superseded);
    assert!(desk.open().is_empty());
}

#[test]
fn one_sensor_is_named_by_one_rule() {
    let mut desk = desk();
    let both = || {
        let mut vibration = sensor("vibration", Unit::MillimetrePerSecond, 8.0);
        vibration.normal = Some(Normal { mean: 2.0, std: 0.1 });
        vec![vibration]
    };
    let told: Vec<_> = (0..8).flat_map(|n| rules(&mut desk, n, both())).collect();
    assert_eq!(
        told.iter().map(|a| (a.mode.as_str(), a.severity())).collect::<Vec<_>>(),
        [("vibration_zone", Severity::Critical)]
    );
}

#[test]
fn a_new_generation_is_judged_by_its_own_windows_and_its_alerts_have_their_own_names() {
    let mut desk = desk();
    let first = scores(&mut desk, 100, &[0.5; 3])[0].clone();
    let failed = desk.event(&event(EventKind::Failure, 103));
    assert_eq!(failed[0].outcome(), Outcome::Failed);
    // Two more crossings, and the time falls back to where the first alert began.
    desk.event(&event(EventKind::Replacement, 104));
    scores(&mut desk, 130, &[0.5; 2]);
    desk.begin_generation(&generation(1, 100));
    // Quiet for two hours after a repair, as it would have been; then three windows of its own.
    let told: Vec<_> = (100..115).flat_map(|n| score_again(&mut desk, 1, n, 0.5)).collect();
    assert_eq!(told.iter().map(|a| (a.generation, a.first_window_ms)).collect::<Vec<_>>(), [(1, 112 * WINDOW_MS)]);
    assert_ne!(told[0].id, first.id);
    assert_eq!(told[0].id, proto::alert::alert_id("press-1", 1, "bearing_wear", PlantTime(112 * WINDOW_MS)));
}

#[test]
fn an_alert_of_an_earlier_generation_is_older_than_any_event() {
    let mut desk = desk();
    assert_eq!(scores(&mut desk, 1_000, &[0.5; 3]).len(), 1);
    desk.begin_generation(&generation(1, 10));
    assert_eq!(desk.open().len(), 1);
    assert_eq!(desk.event(&event(EventKind::Failure, 11))[0].outcome(), Outcome::Failed);
}

/// Any cut of the same inputs by a snapshot and a replay of what came after it gives the same alerts.
#[test]
fn a_snapshot_goes_on_as_the_desk_would_have() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let levels = [0.05, 0.3, 0.45, 0.6, 0.9];
    let mut straight = desk();
    let mut cut = desk();
    for n in 0..2_000 {
        let (bearing, imbalance) = (*levels.choose(&mut random).unwrap(), *levels.choose(&mut random).unwrap());
        if random.random_bool(0.02) {
            let kind = if random.random_bool(0.5) { EventKind::Failure } else { EventKind::Maintenance };
            assert_eq!(straight.event(&event(kind, n)), cut.event(&event(kind, n)));
        }
        if random.random_bool(0.05) {
            cut = serde_json::from_str(&serde_json::to_string(&cut).unwrap()).unwrap();
        }
        assert_eq!(score(&mut straight, n, bearing, imbalance), score(&mut cut, n, bearing, imbalance));
        // A repeated window changes nothing.
        assert!(score(&mut cut, n, 0.9, 0.9).is_empty());
        assert_eq!(straight.open(), cut.open());
        assert!(straight.open().len() <= 2);
    }
}

/// Somebody who looks after a restart sees how the last ones ended; they go with their machine to another shard.
#[test]
fn the_newest_closed_alerts_are_part_of_the_state() {
    let mut desk = AlertDesk::new(AlertConfig::default());
    let mut ended = Vec::new();
    for round in 0..CLOSED_KEPT_MAX as i64 + 3 {
        let from = round * 200;
        scores(&mut desk, from, &[0.9; 20]);
        ended.extend(desk.event(&EventRecord { mode: "bearing_wear".into(), ..event(EventKind::Failure, from + 20) }));
        scores(&mut desk, from + 20, &[0.01; 180]);
    }
    ended.retain(|alert| alert.state() == AlertState::Closed);
    let ids = |desk: &AlertDesk| desk.closed().map(|alert| alert.id.clone()).collect::<Vec<_>>();
    let newest: Vec<_> = ended.iter().skip(ended.len() - CLOSED_KEPT_MAX).map(|alert| alert.id.clone()).collect();
    assert_eq!((ended.len(), ids(&desk)), (CLOSED_KEPT_MAX + 3, newest.clone()));

    let bytes = rmp_serde::to_vec_named(&desk).unwrap();
    let mut desk: AlertDesk = rmp_serde::from_slice(&bytes).unwrap();
    let mut other = AlertDesk::new(AlertConfig::default());
    other.move_in(&mut desk, &AssetId::new("another").unwrap());
    assert_eq!((ids(&other).len(), ids(&desk)), (0, newest.clone()));
    other.move_in(&mut desk, &AssetId::new("press-1").unwrap());
    assert_eq!((ids(&other), ids(&desk).len()), (newest, 0));
}
