use model::quality::Realised;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use proto::wire::{prediction::ModeProbability, telemetry::EventRecord};

use super::*;

const HOUR: i64 = 3_600_000;
const HORIZON: i64 = 24 * HOUR;

fn watch_of(version: &str) -> ModelWatch {
    let (_, beside) = watch::channel(None);
    let metrics = ModelMetrics::new(&SdkMeterProvider::builder().build().meter("test"));
    let mut watch = ModelWatch::new(beside, metrics, &TriggerSettings::default());
    watch.thresholds.insert(version.into(), vec![("slip".into(), 0.5)]);
    watch.quality = Some((HORIZON, Quality::new(HORIZON, 365 * 24 * HOUR)));
    watch.in_charge = Some(version.into());
    watch
}

fn prediction(machine: &str, hour: i64, probability: f64) -> Prediction {
    Prediction {
        machine: machine.into(),
        window_end_ms: hour * HOUR,
        model_version: "v1".into(),
        modes: vec![ModeProbability { mode: "slip".into(), probability, ..ModeProbability::default() }],
        ..Prediction::default()
    }
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
    watch.see(&Derived { predictions: vec![prediction("late", 1_000, 0.1)], ..Derived::default() });
    let figures = watch.report().unwrap().figures;
    let Realised::Known(known) = figures.realised else { panic!("{figures:?}") };
    assert_eq!((known.precision.mean, known.recall.mean), (0.5, 0.75), "{known:?}");
    assert_eq!(known.resolved, 40, "30 alerts that a failure followed, 10 failures without");
    assert!((figures.brier.unwrap() - 0.01).abs() < 1e-9, "all failed: {figures:?}");
    assert!((figures.coverage.unwrap() - 20.0 / 30.0).abs() < 1e-9, "{figures:?}");
    assert!(figures.estimated.unwrap().precision > 0.85, "{figures:?}");
}

#[test]
fn without_a_model_there_is_nothing_to_say() {
    let mut watch = watch_of("v1");
    watch.in_charge(None, &Loaded::new(), None);
    watch.see(&Derived { predictions: vec![prediction("m1", 1, 0.9)], ..Derived::default() });
    assert_eq!(watch.report(), None);
}
