use model::quality::Realised;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use proto::wire::{
    prediction::ModeProbability,
    telemetry::{EventRecord, Verdict},
};

use super::*;
use crate::{
    intake::EpochsLeft,
    stream::{self, Stream, StreamConfig},
};

const HOUR: i64 = 3_600_000;
const HORIZON: i64 = 24 * HOUR;
const DAY: i64 = 24 * HOUR;

fn watch_of(version: &str) -> ModelWatch {
    let (_, beside) = watch::channel(None);
    let metrics = ModelMetrics::new(&SdkMeterProvider::builder().build().meter("test"));
    let mut watch = ModelWatch::new(beside, metrics, &TriggerSettings::default(), Watched::default());
    watch.thresholds.insert(version.into(), vec![("slip".into(), 0.5)]);
    watch.quality = Some((HORIZON, Quality::new(HORIZON, 365 * 24 * HOUR)));
    watch.in_charge = Some(version.into());
    watch
}

fn prediction(machine: &str, hour: i64, probability: f64) -> Prediction {
    Prediction {
        machine: machine.into(),
        window_start_ms: (hour - 1) * HOUR,
        window_end_ms: hour * HOUR,
        model_version: "v1".into(),
        modes: vec![ModeProbability { mode: "slip".into(), probability, ..ModeProbability::default() }],
        ..Prediction::default()
    }
}

fn window(machine: &str, end: i64, generation: u32) -> WindowFeatures {
    WindowFeatures {
        machine: AssetId::new(machine).unwrap(),
        kind: AssetId::new("press").unwrap(),
        start: PlantTime(end - HOUR),
        end: PlantTime(end),
        generation,
        revision: 0,
        features: vec![],
        sensors: vec![],
        normal: vec![],
    }
}

/// Every machine has come so far.
fn come(watch: &mut ModelWatch, hour: i64) {
    let windows = (0..40).map(|n| window(&format!("m{n}"), hour * HOUR, 0)).collect();
    watch.see(&Derived { windows, ..Derived::default() });
}

fn alert(id: &str, machine: &str, hour: i64, source: AlertSource) -> Alert {
    Alert {
        id: id.into(),
        machine: machine.into(),
        mode: "slip".into(),
        source: source.into(),
        state: AlertState::Open.into(),
        opened_ms: hour * HOUR,
        updated_ms: hour * HOUR,
        model_version: "v1".into(),
        ..Alert::default()
    }
}

fn event(machine: &str, hour: i64, kind: EventKind, alert_id: &str, verdict: Verdict) -> KnownEvent {
    let event = EventRecord {
        machine: machine.into(),
        time_ms: hour * HOUR,
        kind: kind.into(),
        mode: "slip".into(),
        alert_id: alert_id.into(),
        verdict: verdict.into(),
        ..EventRecord::default()
    };
    KnownEvent { agent: None, seq: 0, event, known: Some(PlantTime((hour + 1) * HOUR)) }
}

#[test]
fn what_the_stream_derives_becomes_figures() {
    let mut watch = watch_of("v1");
    for n in 0..40 {
        let (machine, id, hour) = (format!("m{n}"), format!("a{n}"), 100 + n * 10);
        come(&mut watch, hour);
        let mut derived = Derived { predictions: vec![prediction(&machine, hour, 0.9)], ..Derived::default() };
        // Three in four are alerted; half of those are looked after, and one of five of those was nothing.
        if n % 4 != 3 {
            derived.alerts = vec![alert(&id, &machine, hour, AlertSource::Model)];
        }
        // The same alert once more as it changes, and one of a rule, are no alerts of the model.
        let mut changed = alert(&id, &machine, hour, AlertSource::Model);
        changed.updated_ms += 1;
        derived.alerts.extend([changed, alert("rule", &machine, hour, AlertSource::Rule)]);
        watch.see(&derived);
        let (failed, verdict) = (EventKind::Failure, Verdict::Unspecified);
        let mut events = vec![event(&machine, hour + 5, failed, "", verdict)];
        if n % 4 == 0 {
            events.push(event(&machine, hour + 6, EventKind::Maintenance, &id, Verdict::Confirmed));
        }
        if n % 4 == 1 {
            events.push(event(&machine, hour + 6, EventKind::Unspecified, &id, Verdict::FalseAlarm));
        }
        watch.see(&Derived { events, ..Derived::default() });
    }
    come(&mut watch, 1_000);
    let figures = watch.report().unwrap().figures;
    let Realised::Known(known) = figures.realised else { panic!("{figures:?}") };
    assert_eq!((known.precision.mean, known.recall.mean), (0.5, 0.75), "{known:?}");
    assert_eq!(known.resolved, 40, "30 alerts that a failure followed, 10 failures without");
    assert!((figures.brier.unwrap() - 0.01).abs() < 1e-9, "all failed: {figures:?}");
    assert!((figures.coverage.unwrap() - 20.0 / 30.0).abs() < 1e-9, "{figures:?}");
    assert!(figures.estimated.unwrap().precision > 0.85, "{figures:?}");
}

#[test]
fn a_gateway_whose_clock_is_a_month_ahead_for_a_window_empties_no_figure_and_passes_no_trial() {
    let mut watch = watch_of("v1");
    watch.quality = Some((HORIZON, Quality::new(HORIZON, 14 * DAY)));
    let trial = Trial { version: "v2".into(), share: 0.0 };
    watch.trial = Some(TrialWatch::new(trial));
    watch.thresholds.insert("v2".into(), vec![("slip".into(), 0.5)]);
    let shadow = |hour| Prediction { model_version: "v2".into(), ..prediction("m9", hour, 0.1) };
    for hour in 100..104 {
        come(&mut watch, hour);
        watch.see(&Derived { shadows: vec![shadow(hour)], ..Derived::default() });
    }
    let failed = |hour| event("m7", hour, EventKind::Failure, "", Verdict::Unspecified);
    watch.see(&Derived { events: vec![failed(103)], ..Derived::default() });
    let resolved = |watch: &mut ModelWatch| match watch.report().unwrap().figures.realised {
        Realised::NotEnoughLabels { resolved } => resolved,
        Realised::Known(known) => known.resolved,
    };
    assert_eq!(resolved(&mut watch), 1);
    // Six machines in forty.
    let month = 30 * 24;
    let ahead = (0..6).map(|n| window(&format!("m{n}"), (104 + month) * HOUR, 0)).collect();
    let shadows = vec![shadow(104 + month)];
    watch.see(&Derived { windows: ahead, shadows, events: vec![failed(104 + month)], ..Derived::default() });
    let back = (0..6).map(|n| window(&format!("m{n}"), 105 * HOUR, 1)).collect();
    watch.see(&Derived { windows: back, ..Derived::default() });
    come(&mut watch, 105);
    watch.see(&Derived { shadows: vec![shadow(105)], ..Derived::default() });
    assert_eq!(resolved(&mut watch), 1, "what was known is known, and a failure of next month is none");
    assert!(watch.trial.as_ref().unwrap().hours() <= 5.0, "{:?}", watch.trial);
}

/// Written and read as the processor does it.
fn restarted(watch: &ModelWatch) -> ModelWatch {
    let stream = Stream::new(StreamConfig::default());
    let snapshot = stream.snapshot_with(&EpochsLeft::new(), watch.watching()).unwrap();
    Stream::restore(StreamConfig::default(), &snapshot).unwrap();
    let mut again = ModelWatch { thresholds: watch.thresholds.clone(), ..watch_of("v1") };
    let (_, beside) = watch::channel(None);
    let metrics = ModelMetrics::new(&SdkMeterProvider::builder().build().meter("test"));
    let read = ModelWatch::new(beside, metrics, &TriggerSettings::default(), stream::watched(&snapshot));
    (again.quality, again.trial, again.present) = (read.quality, read.trial, read.present);
    again.in_charge.clone_from(&watch.in_charge);
    again
}

/// Forty machines' windows of so many hours, scored by `version`, which alerts in one of so many.
fn work(watch: &mut ModelWatch, version: &str, hours: std::ops::Range<i64>, alerts_one_in: i64) {
    for hour in hours {
        come(watch, hour);
        let of = |n: i64| Prediction { model_version: version.into(), ..prediction(&format!("m{n}"), hour, 0.1) };
        let opens = |n: &i64| (hour * 40 + n) % alerts_one_in == 0;
        let alert = |n: i64| Alert {
            model_version: version.into(),
            ..alert(&format!("{version}-{n}-{hour}"), &format!("m{n}"), hour, AlertSource::Model)
        };
        let alerts = (0..40).filter(opens).map(alert).collect();
        watch.see(&Derived { predictions: (0..40).map(of).collect(), alerts, ..Derived::default() });
    }
}

#[test]
fn a_restart_in_a_probation_forgets_neither_version() {
    let mut watch = watch_of("v1");
    watch.thresholds.insert("v2".into(), vec![("slip".into(), 0.5)]);
    work(&mut watch, "v1", 100..200, 1_000);
    watch.in_charge = Some("v2".into());
    work(&mut watch, "v2", 200..203, 2);
    let mut watch = restarted(&watch);
    let jump = |watch: &mut ModelWatch| {
        let rates = watch.report().unwrap().rates;
        model::probation::jump(rates["v1"], None, rates["v2"])
    };
    assert!(jump(&mut watch).is_some(), "before another alert has opened: {:?}", watch.report().unwrap().rates);
    // What is read again after the last commit is told again.
    let before = watch.report().unwrap().rates["v2"].alerts;
    let again = alert("v2-0-202", "m0", 202, AlertSource::Model);
    watch.see(&Derived { alerts: vec![again], ..Derived::default() });
    assert_eq!(watch.report().unwrap().rates["v2"].alerts, before);
}

#[test]
fn a_trial_goes_on_after_a_restart() {
    let mut watch = watch_of("v1");
    watch.thresholds.insert("v2".into(), vec![("slip".into(), 0.5)]);
    let trial = Trial { version: "v2".into(), share: 0.0 };
    watch.trial = Some(TrialWatch::new(trial.clone()));
    let shadows = |watch: &mut ModelWatch, hours: std::ops::Range<i64>| {
        for hour in hours {
            come(watch, hour);
            let of = |n| Prediction { model_version: "v2".into(), ..prediction(&format!("m{n}"), hour, 0.1) };
            watch.see(&Derived { shadows: (0..40).map(of).collect(), ..Derived::default() });
        }
    };
    shadows(&mut watch, 100..150);
    let (hours, known) = (watch.trial.as_ref().unwrap().hours(), watch.trial.clone());
    let mut watch = restarted(&watch);
    assert_eq!(watch.trial, known);
    shadows(&mut watch, 150..160);
    assert_eq!(watch.trial.as_ref().unwrap().hours(), hours + 10.0);
    // The same trial is asked for again when the registry is read.
    watch.in_charge(None, &Loaded::new(), Some(&trial));
    assert!(watch.trial.unwrap().hours() > hours);
}

#[test]
fn without_a_model_there_is_nothing_to_say() {
    let mut watch = watch_of("v1");
    watch.in_charge(None, &Loaded::new(), None);
    watch.see(&Derived { predictions: vec![prediction("m1", 1, 0.9)], ..Derived::default() });
    assert_eq!(watch.report(), None);
}
