//! What readings do that come after their window has closed, step by step.

use proto::{
    alert::prediction_id,
    telemetry::delta_encode,
    wire::telemetry::{MachineReadings, SensorColumn},
};

use super::{
    log::{LATENESS_MS, WINDOW_MS, birth},
    *,
};
use model::features::clean::flag;

/// Start of a window.
const NOON: i64 = 12 * 3_600_000;

/// Of `press`, with a reading at each of these times after noon.
fn batch(seq: u64, sealed: i64, times: &[i64]) -> Taken {
    let key = AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() };
    let times: Vec<i64> = times.iter().map(|time| NOON + time).collect();
    let value = (0..times.len()).map(|i| 20.0 + (seq * 7 % 5) as f64 + i as f64).collect();
    let sensors = vec![SensorColumn { sensor: "temperature".into(), value, ..Default::default() }];
    let batch = TelemetryBatch {
        sealed: Some(SealTime { time_ms: NOON + sealed, trusted: true, ..Default::default() }),
        birth: (seq == 1).then(|| birth(&["press".to_owned()])),
        machines: vec![MachineReadings { machine: "press".into(), time_delta_ms: delta_encode(&times), sensors }],
        ..Default::default()
    };
    taken::batch(&key, seq, batch)
}

/// Start after noon, revision, and how many readings.
fn told(derived: &Derived) -> Vec<(i64, u32, u64)> {
    let count = |w: &WindowFeatures| w.sensors[0].stats.map_or(0, |s| s.count);
    derived.windows.iter().map(|w| (w.start.millis() - NOON, w.revision, count(w))).collect()
}

fn with(revise_ms: i64, slide_ms: Option<i64>) -> StreamConfig {
    let mut config = config();
    (config.features.revise_ms, config.features.slide_ms) = (Some(revise_ms), slide_ms);
    config
}

/// The first seal that closes the window that begins so long after noon.
const fn closes(start: i64) -> i64 {
    start + WINDOW_MS + LATENESS_MS
}

#[test]
fn a_late_reading_revises_its_window_until_that_is_settled() {
    let mut stream = Stream::new(with(500, None));
    let mut tell = |seq, sealed, times: &[i64]| stream.apply(vec![batch(seq, sealed, times)], None).unwrap();
    assert_eq!(told(&tell(1, closes(0), &[100, 200])), [(0, 0, 2)]);
    let derived = tell(2, closes(0) + 499, &[300, 400, 1_500]);
    assert_eq!((told(&derived), derived.revising, derived.late), (vec![(0, 1, 4)], 2, 0), "one for all in the batch");
    assert_eq!(flags(&derived), [flag::REVISING, flag::REVISING, flag::GAP]);
    // Judged by the time before the batch, whose own seal settles it.
    let derived = tell(3, closes(0) + 500, &[500]);
    assert_eq!((told(&derived), derived.revising, derived.late), (vec![(0, 2, 5)], 1, 0));
    let derived = tell(4, closes(0) + 510, &[600]);
    assert_eq!((told(&derived), derived.revising, derived.late), (vec![], 0, 1));
    assert_eq!(flags(&derived), [flag::LATE]);
}

#[test]
fn revisions_are_one_per_batch_however_the_log_is_cut() {
    let log = vec![
        batch(1, closes(0), &[100, 1_100]),
        batch(2, closes(0) + 10, &[200]),
        batch(3, closes(0) + 20, &[300]),
        batch(4, closes(0) + 30, &[1_300]),
    ];
    let all = Stream::new(with(900, None)).apply(log.clone(), None).unwrap();
    assert_eq!(told(&all), [(0, 0, 1), (0, 1, 2), (0, 2, 3)]);
    let mut stream = Stream::new(with(900, None));
    let one_by_one = log.into_iter().map(|taken| stream.apply(vec![taken], None).unwrap());
    assert_eq!(one_by_one.flat_map(|d| told(&d)).collect::<Vec<_>>(), told(&all));
    let ids: Vec<_> = all.windows.iter().map(|w| prediction_id("press", 0, w.start, w.revision, "v1")).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
}

#[test]
fn what_is_measured_against_a_revised_window_is_revised_too() {
    let mut stream = Stream::new(with(5_000, None));
    let log: Vec<Taken> = (1..=3).map(|n| batch(n, closes(1_000 * n as i64), &[1_000 * n as i64])).collect();
    stream.apply(log, None).unwrap();
    let derived = stream.apply(vec![batch(4, closes(4_000), &[2_500, 4_100])], None).unwrap();
    assert_eq!(told(&derived), [(2_000, 1, 2), (3_000, 1, 1), (4_000, 0, 1)], "the one before it stays");
}

#[test]
fn a_window_that_was_empty_when_it_closed_is_told_for_the_first_time() {
    let mut stream = Stream::new(with(5_000, None));
    stream.apply(vec![batch(1, closes(0), &[100]), batch(2, closes(2_000), &[2_100])], None).unwrap();
    let derived = stream.apply(vec![batch(3, closes(2_000) + 10, &[1_500])], None).unwrap();
    assert_eq!(told(&derived), [(1_000, 0, 1), (2_000, 1, 1)]);
    let derived = stream.apply(vec![batch(4, closes(2_000) + 20, &[1_600])], None).unwrap();
    assert_eq!(told(&derived), [(1_000, 1, 2), (2_000, 2, 1)]);
}

#[test]
fn a_reading_is_in_all_windows_that_overlap_it() {
    let mut stream = Stream::new(with(500, Some(WINDOW_MS / 2)));
    let derived = stream.apply(vec![batch(1, LATENESS_MS, &[-700, -100, 0])], None).unwrap();
    assert_eq!(told(&derived), [(-1_500, 0, 1), (-1_000, 0, 2)]);
    let derived = stream.apply(vec![batch(2, closes(-500) + 400, &[-200, 100])], None).unwrap();
    assert_eq!(told(&derived), [(-1_000, 1, 3), (-500, 0, 4)], "one closes with a reading that revises the other");
    let derived = stream.apply(vec![batch(3, closes(5_000), &[5_100])], None).unwrap();
    assert_eq!(told(&derived), [(0, 0, 2), (4_500, 0, 1), (5_000, 0, 1)], "silence makes no windows");
}

/// As one that an older version wrote, which knew nothing of this field.
fn older(mut snapshot: Vec<u8>) -> Vec<u8> {
    let at = (0..snapshot.len()).find(|at| snapshot[*at..].starts_with(b"settled")).unwrap();
    snapshot[at] = b'_';
    snapshot
}

#[test]
fn a_snapshot_of_before_there_were_revisions_goes_on() {
    let mut stream = Stream::new(with(0, None));
    stream.apply(vec![batch(1, closes(0), &[100, 1_100])], None).unwrap();
    let bytes = older(stream.snapshot(&EpochsLeft::new()).unwrap());
    let (mut restored, _) = Stream::restore(with(5_000, None), &bytes).unwrap();
    let derived = restored.apply(vec![batch(2, closes(1_000), &[200, 1_200])], None).unwrap();
    assert_eq!((told(&derived), derived.late), (vec![(1_000, 0, 2)], 1));
    let derived = restored.apply(vec![batch(3, closes(1_000) + 10, &[1_300])], None).unwrap();
    assert_eq!(told(&derived), [(1_000, 1, 3)]);
}

#[test]
fn other_settings_bring_back_no_window_that_was_settled() {
    let mut stream = Stream::new(with(0, None));
    stream.apply(vec![batch(1, closes(0), &[100, 1_100])], None).unwrap();
    let longer = stream.snapshot(&EpochsLeft::new()).unwrap();
    let (mut stream, _) = Stream::restore(with(5_000, None), &longer).unwrap();
    let derived = stream.apply(vec![batch(2, closes(1_000), &[200, 1_200])], None).unwrap();
    assert_eq!((told(&derived), derived.late), (vec![(1_000, 0, 2)], 1));
    let shorter = stream.snapshot(&EpochsLeft::new()).unwrap();
    let (mut stream, _) = Stream::restore(with(0, None), &shorter).unwrap();
    let derived = stream.apply(vec![batch(3, closes(1_000) + 10, &[1_300])], None).unwrap();
    assert_eq!((told(&derived), derived.revising), (vec![(1_000, 1, 3)], 1), "until its next batch it is as it was");
    let derived = stream.apply(vec![batch(4, closes(1_000) + 20, &[1_400])], None).unwrap();
    assert_eq!((told(&derived), derived.late), (vec![], 1));
    // With other windows, nothing is known of those that are closed.
    let mut other = with(5_000, None);
    other.features.window_ms *= 2;
    let (mut stream, _) = Stream::restore(other, &longer).unwrap();
    let derived = stream.apply(vec![batch(2, closes(0) + 10, &[-100, 1_200])], None).unwrap();
    assert_eq!((told(&derived), derived.late), (vec![], 1));
}
