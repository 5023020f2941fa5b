//! Events as features: the stream and the training see the same ones in the same windows.

use model::features::{Event, EventFeature, whole_with_events};
use proto::{
    telemetry::{check_batch, delta_encode},
    wire::telemetry::{EventKind, MachineReadings, SensorColumn, TelemetryBatch},
};

use super::*;
use crate::clean::trusted_seal_ms;
use log::{INTERVAL_MS, birth};

fn watched() -> StreamConfig {
    let mut config = config();
    let feature = |kind: &str| EventFeature {
        kind: kind.into(),
        code: None,
        mode: None,
        count_hours: vec![0.001, 0.01],
        since: true,
    };
    config.features.events = vec![feature("error"), feature("replacement")];
    config
}

/// A batch a second or so; events come up to three seconds after they happened.
fn batches(agent: &AgentKey, rng: &mut ChaCha8Rng) -> Vec<Taken> {
    let mut now = 1_000_000;
    let batch = |seq: u64| {
        let from = now;
        now += rng.random_range(3..20) * INTERVAL_MS;
        let stamps: Vec<i64> = (from..now).step_by(INTERVAL_MS as usize).collect();
        let value = stamps.iter().map(|_| rng.random_range(0.0..9.0)).collect();
        let sensor = SensorColumn { sensor: "temperature".into(), value, ..Default::default() };
        let readings =
            MachineReadings { machine: "press-1".into(), time_delta_ms: delta_encode(&stamps), sensors: vec![sensor] };
        let kind = [EventKind::Error, EventKind::Replacement][rng.random_range(0..2)];
        let event = EventRecord {
            machine: "press-1".into(),
            time_ms: now - rng.random_range(0..3_000),
            kind: kind.into(),
            ..Default::default()
        };
        let batch = TelemetryBatch {
            sealed: Some(SealTime { time_ms: now, trusted: true, ..Default::default() }),
            birth: (seq == 1).then(|| birth(&["press-1".into()])),
            machines: vec![readings],
            events: if rng.random_bool(0.4) { vec![event] } else { vec![] },
            ..Default::default()
        };
        check_batch(&batch).unwrap();
        taken::batch(agent, seq, batch)
    };
    (1..=200).map(batch).collect()
}

#[test]
fn replayed_events_are_the_ones_that_were_seen_live() {
    let (seed, mut rng) = rng();
    let agent = AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() };
    let log = batches(&agent, &mut rng);
    let mut stream = Stream::new(watched());
    let mut derived = run(&mut stream, log[..120].to_vec(), &mut rng, 20);
    // What was seen is a part of the state.
    let snapshot = stream.snapshot(&EpochsLeft::default()).unwrap();
    let (mut stream, _) = Stream::restore(watched(), &snapshot).unwrap();
    derived.extend(run(&mut stream, log[120..].to_vec(), &mut rng, 20));
    let of = |e: &KnownEvent| Event {
        machine: AssetId::new(&e.event.machine).unwrap(),
        time: PlantTime(e.event.time_ms),
        kind: e.event.kind(),
        code: e.event.code.clone(),
        mode: e.event.mode.clone(),
        answer: None,
        known: e.known.unwrap(),
    };
    let events: Vec<Event> = derived.iter().flat_map(|d| d.events.iter().map(of)).collect();
    let (features, catalogue) = (watched().features, stream.fleet().catalogue());
    let mut trained = whole_with_events(archived(&derived), &events, catalogue, &features).unwrap();
    let live = windows(&derived);
    trained.retain(|t| live.iter().any(|l| place(l) == place(t)));
    assert_same(&live, &trained, seed);
    let count = FeatureSchema::of(&features).names.iter().position(|n| n == "event.error.count_0.01h").unwrap();
    assert!(live.iter().any(|w| w.features[count] > 2.0), "seed {seed}: no window saw an event");
}

/// What a person says stands in no log: a life that ends before the manifest must not have told a window that saw it.
#[test]
fn a_persons_record_is_seen_from_a_line_on_and_there_windows_wait_for_its_manifest() {
    let (seed, mut rng) = rng();
    let agent = AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() };
    let log = batches(&agent, &mut rng);
    let mut stream = Stream::new(watched());
    stream.apply(log[..60].to_vec(), None).unwrap();
    let snapshot = stream.snapshot(&EpochsLeft::default()).unwrap();
    let now = PlantTime(trusted_seal_ms(&log[59]).unwrap());
    let said = || EventRecord {
        machine: "press-1".into(),
        time_ms: now.millis() - 1_000,
        kind: EventKind::Replacement.into(),
        ..Default::default()
    };
    let derived = stream.record(said(), now);
    let line = derived.events[0].known.unwrap();
    assert!(line > now, "seed {seed}");

    let (mut replay, _) = Stream::restore(watched(), &snapshot).unwrap();
    let (mut before, mut waited) = (0, false);
    for taken in &log[60..] {
        let steps = stream.read(vec![taken.clone()]).unwrap();
        if stream.undecided(&steps) {
            waited = true;
            stream.recorded(1);
        }
        assert!(!stream.undecided(&steps), "seed {seed}");
        let told = stream.judge(steps, &Loaded::new()).unwrap();
        let untold = replay.apply(vec![taken.clone()], None).unwrap();
        for (told, untold) in told.windows.iter().zip(&untold.windows) {
            let sees = told.end.plus_millis(watched().features.lateness_ms) > line;
            assert!(sees == waited || !sees, "seed {seed}");
            let bits = |window: &WindowFeatures| window.features.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            if !waited {
                assert_eq!(bits(told), bits(untold), "seed {seed}");
                before += 1;
            }
        }
    }
    assert!(waited && before > 0, "seed {seed}: {before}");
}
