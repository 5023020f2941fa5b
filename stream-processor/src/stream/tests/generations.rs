//! What a clock that falls back does, step by step.

use proto::{
    telemetry::delta_encode,
    wire::telemetry::{EventKind, MachineReadings, SensorColumn},
};

use super::{
    log::{LATENESS_MS, WINDOW_MS, birth},
    *,
};

const HOUR_MS: i64 = 3_600_000;
/// A full window's start.
const NOON: i64 = 12 * HOUR_MS;

fn key() -> AgentKey {
    AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() }
}

/// One reading of `press` at `time`, sealed at the same time.
fn batch(seq: u64, time: i64, trusted: bool) -> Taken {
    let sensors =
        vec![SensorColumn { sensor: "temperature".into(), value: vec![20.0 + seq as f64], ..Default::default() }];
    let batch = TelemetryBatch {
        sealed: Some(SealTime { time_ms: time, trusted, ..Default::default() }),
        birth: (seq == 1).then(|| birth(&["press".to_owned()])),
        machines: vec![MachineReadings { machine: "press".into(), time_delta_ms: delta_encode(&[time]), sensors }],
        ..Default::default()
    };
    taken::batch(&key(), seq, batch)
}

/// Trusted batches at these times.
fn batches(from: u64, times: &[i64]) -> Vec<Taken> {
    (from..).zip(times).map(|(seq, time)| batch(seq, *time, true)).collect()
}

/// Generation, start after noon in windows, and how many readings.
fn closed(derived: &Derived) -> Vec<(u32, i64, u64)> {
    let of = |w: &WindowFeatures| (w.generation, (w.start.millis() - NOON) / WINDOW_MS, count(w));
    derived.windows.iter().map(of).collect()
}

fn count(window: &WindowFeatures) -> u64 {
    window.sensors[0].stats.map_or(0, |s| s.count)
}

fn generations(derived: &Derived) -> Vec<u32> {
    archived(std::slice::from_ref(derived)).column("generation").unwrap().u32().unwrap().into_no_null_iter().collect()
}

#[test]
fn a_seal_that_is_behind_by_no_more_than_the_lateness_is_only_late() {
    let mut stream = Stream::new(config());
    let derived = stream.apply(batches(1, &[NOON + 500, NOON + 300, NOON + 500 - LATENESS_MS]), None).unwrap();
    assert_eq!((closed(&derived), generations(&derived)), (vec![], vec![0; 3]));
    let derived = stream.apply(batches(4, &[NOON + WINDOW_MS + LATENESS_MS]), None).unwrap();
    assert_eq!(closed(&derived), [(0, 0, 3)]);
}

#[test]
fn a_seal_that_is_further_behind_ends_the_windows_and_begins_new_ones() {
    let mut stream = Stream::new(config());
    stream.apply(batches(1, &[NOON + 2_100, NOON + 2_300]), None).unwrap();
    // Back into the window that is open, and into one that was closed long ago.
    let derived = stream.apply(batches(3, &[NOON + 2_050, NOON + 500]), None).unwrap();
    assert_eq!(closed(&derived), [(0, 2, 2), (1, 2, 1)], "each as far as it had come");
    assert_eq!((flags(&derived), generations(&derived), derived.late), (vec![0; 2], vec![1, 2], 0));
    // The new watermark is the new time: it closes what it passes, and not what the old one had passed.
    assert_eq!(stream.fleet().watermarks(), Some((PlantTime(NOON + 500), PlantTime(NOON + 500))));
    let derived = stream.apply(batches(5, &[NOON + 900, NOON + 1_200, NOON + 2_400]), None).unwrap();
    assert_eq!(closed(&derived), [(2, 0, 2), (2, 1, 1)]);
    assert_eq!(flags(&derived), [0; 3]);
}

#[test]
fn windows_of_one_time_in_two_generations_have_two_names() {
    let mut stream = Stream::new(config());
    let there_and_back: Vec<i64> = [0, 5_000, 0, 5_000].iter().map(|after| NOON + after).collect();
    let windows = stream.apply(batches(1, &there_and_back), None).unwrap().windows;
    let score = model::score::Score { probabilities: vec![], uncertainties: vec![], shares: vec![] };
    let model = prediction::Model { heads: &[], version: "v1", horizon_ms: 0, role: Role::Champion };
    let named: Vec<_> = windows.iter().map(|w| prediction::prediction(w, &score, &model)).collect();
    assert_eq!(named.iter().map(|p| p.generation).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(named[0].window_start_ms, named[2].window_start_ms);
    assert_ne!(named[0].id, named[2].id);
    assert_eq!(named[0].id, proto::alert::prediction_id("press", 0, PlantTime(NOON), 0, "v1"));
}

#[test]
fn the_estimate_of_an_untrusted_batch_ends_nothing() {
    let mut stream = Stream::new(config());
    let mut log = batches(1, &[NOON + 500]);
    log.extend([batch(2, 0, false), batch(3, NOON + HOUR_MS, false)]);
    log.extend(batches(4, &[NOON + 600, NOON + WINDOW_MS + LATENESS_MS]));
    let derived = stream.apply(log, None).unwrap();
    assert_eq!((closed(&derived), generations(&derived)), (vec![(0, 0, 2)], vec![0; 5]));
}

#[test]
fn other_agents_and_cuts_change_nothing() {
    let log = batches(1, &[NOON, NOON + 5_000, NOON + 4_000, NOON + 4_900, NOON + 6_500, NOON + 100, NOON + 9_000]);
    let whole = Stream::new(config()).apply(log.clone(), None).unwrap();
    assert_eq!(whole.windows.last().map(|w| w.generation), Some(2));
    for cut in 1..log.len() {
        let mut stream = Stream::new(config());
        let (before, after) = log.split_at(cut);
        let mut windows = stream.apply(before.to_vec(), None).unwrap().windows;
        // A restart in between, as after a crash.
        let (mut stream, _) = Stream::restore(config(), &stream.snapshot(&EpochsLeft::new()).unwrap()).unwrap();
        windows.extend(stream.apply(after.to_vec(), None).unwrap().windows);
        assert_eq!(format!("{windows:?}"), format!("{:?}", whole.windows), "cut at {cut}");
    }
}

#[test]
fn the_seal_of_a_batch_that_could_not_be_used_does_not_count() {
    let mut log = batches(1, &[NOON, NOON + 5_000, NOON + 300]);
    let Content::Batch { batch, .. } = &mut log[1].content else { panic!("a batch") };
    batch.machines[0].sensors[0].value.push(1.0);
    let whole = Stream::new(config()).apply(log.clone(), None).unwrap();
    assert_eq!((whole.dead_letters.len(), generations(&whole)), (1, vec![0; 2]));
    let mut stream = Stream::new(config());
    let cut: Vec<Derived> = log.into_iter().map(|taken| stream.apply(vec![taken], None).unwrap()).collect();
    assert_eq!(generations(&cut[2]), [0]);
}

#[test]
fn a_machine_of_another_agent_begins_anew_too() {
    let mut stream = Stream::new(config());
    stream.apply(batches(1, &[NOON + HOUR_MS]), None).unwrap();
    let mut heir = batches(1, &[NOON, NOON + 5_000]);
    heir.iter_mut().for_each(|t| t.agent.agent = AssetId::new("heir").unwrap());
    let derived = stream.apply(heir, None).unwrap();
    assert_eq!((closed(&derived), generations(&derived)), (vec![(1, 0, 1)], vec![1; 2]));
}

fn with_failure(mut taken: Taken) -> Taken {
    let Content::Batch { batch, .. } = &mut taken.content else { panic!("a batch") };
    let time_ms = batch.sealed.as_ref().unwrap().time_ms;
    let kind = EventKind::Failure.into();
    batch.events.push(EventRecord { machine: "press".into(), time_ms, kind, ..Default::default() });
    taken
}

#[test]
fn a_record_of_an_untrusted_batch_is_known_by_the_next_trusted_seal() {
    let mut stream = Stream::new(config());
    stream.apply(batches(1, &[NOON]), None).unwrap();
    let derived = stream.apply(vec![with_failure(batch(2, NOON + HOUR_MS, false))], None).unwrap();
    assert_eq!(derived.events, []);
    let (mut stream, _) = Stream::restore(config(), &stream.snapshot(&EpochsLeft::new()).unwrap()).unwrap();
    let log = vec![with_failure(batch(3, 5, false)), with_failure(batch(4, NOON + 500, true))];
    let events = stream.apply(log, None).unwrap().events;
    let found: Vec<_> = events.iter().map(|e| (e.seq, e.event.time_ms, e.known)).collect();
    let known = Some(PlantTime(NOON + 500));
    assert_eq!(found, [(2, NOON + HOUR_MS, known), (3, 5, known), (4, NOON + 500, known)]);
}

#[test]
fn records_that_wait_are_bounded_and_none_is_lost() {
    let mut stream = Stream::new(config());
    stream.apply(batches(1, &[NOON]), None).unwrap();
    let most = waiting::WAITING_RECORDS_MAX as u64;
    let log = (2..most + 4).map(|seq| with_failure(batch(seq, NOON, false))).collect();
    let events = stream.apply(log, None).unwrap().events;
    assert_eq!(events.iter().map(|e| (e.seq, e.known)).collect::<Vec<_>>(), [(most + 2, None), (most + 3, None)]);
    assert_eq!(stream.apply(batches(most + 4, &[NOON]), None).unwrap().events.len() as u64, most);
}
