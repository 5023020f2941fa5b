use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::{
    asset::AssetId,
    telemetry::{check_batch, delta_decode, frame::FRAME_BYTES_MAX},
    wire::telemetry::{EventRecord, MachineInfo, SensorInfo},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::source::{Reading, Sample};

/// Items in the order of time, given in polls that stop anywhere, even within an instant.
struct Script {
    machine: String,
    items: Vec<Item>,
    next: usize,
    polled: PlantTime,
    /// Fails when this item is next.
    fails_at: Option<usize>,
    /// As a sensor's, what it gave is given once.
    live: bool,
}

fn time(item: &Item) -> PlantTime {
    match item {
        Item::Sample(sample) => sample.time,
        Item::Event(event) => PlantTime(event.time_ms),
    }
}

impl Script {
    fn after(machine: &str, items: &[Item], resume: Option<PlantTime>) -> Script {
        let items: Vec<_> = items.iter().filter(|item| Some(time(item)) > resume).cloned().collect();
        Script { machine: machine.into(), items, next: 0, polled: PlantTime::MIN, fails_at: None, live: false }
    }
}

impl Source for Script {
    fn machines(&self) -> Vec<MachineInfo> {
        vec![info(&self.machine, 1)]
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        // Odd, so that polls end within instants.
        for _ in 0..items_max.min(3) {
            if self.fails_at == Some(self.next) {
                return Err(SourceError::File { file: "script".into(), reason: "torn".into() });
            }
            let Some(item) = self.items.get(self.next).filter(|item| time(item) <= now) else {
                self.polled = self.polled.max(now);
                return Ok(false);
            };
            self.polled = self.polled.max(time(item).plus_millis(-1));
            out.push(item.clone());
            self.next += 1;
        }
        Ok(true)
    }

    fn progress(&self) -> PlantTime {
        self.polled
    }

    fn next_due(&self) -> Option<PlantTime> {
        self.items.get(self.next).map(time)
    }

    fn is_live(&self) -> bool {
        self.live
    }
}

fn info(machine: &str, sensors: usize) -> MachineInfo {
    let sensor = |n| SensorInfo { sensor: format!("s{n}"), unit: "C".into(), ..Default::default() };
    let sensors = (0..sensors).map(sensor).collect();
    MachineInfo { machine: machine.into(), kind: "k".into(), sensors, ..Default::default() }
}

fn sample(machine: &str, ms: i64, values: &[f64]) -> Item {
    let values = values.iter().map(|&value| Reading::good(value)).collect();
    Item::Sample(Sample { machine: AssetId::new(machine).unwrap(), time: PlantTime(ms), values })
}

fn cutter(sources: Vec<Box<dyn Source>>, bytes_max: usize, sealed: Option<PlantTime>) -> Cutter {
    let machines: Vec<_> = sources.iter().flat_map(|s| s.machines()).collect();
    Cutter::new(sources, BatchBuilder::new(&machines).unwrap(), bytes_max, Birth::default(), sealed)
}

/// Machine, time, and which of its items it is.
type Key = (String, i64, i64);

fn keys(batch: &TelemetryBatch) -> Vec<Key> {
    let rows = batch.machines.iter().flat_map(|m| {
        let stamps = delta_decode(&m.time_delta_ms).into_iter();
        stamps.zip(&m.sensors[0].value).map(|(stamp, value)| (m.machine.clone(), stamp, *value as i64))
    });
    let events = batch.events.iter().map(|e| (e.machine.clone(), e.time_ms, e.code.parse().unwrap()));
    rows.chain(events).collect()
}

/// A few sources with several items at most instants.
fn scripts(rng: &mut ChaCha8Rng) -> Vec<(String, Vec<Item>)> {
    let script = |n: usize, rng: &mut ChaCha8Rng| {
        let (machine, mut at) = (format!("m{n}"), rng.random_range(0..50));
        let items = (0..rng.random_range(0..120)).map(|number| {
            at += [0, 0, 0, 1, 7, 40][rng.random_range(0..6)];
            match rng.random_bool(0.1) {
                true => Item::Event(EventRecord {
                    machine: machine.clone(),
                    time_ms: at,
                    code: number.to_string(),
                    ..Default::default()
                }),
                false => sample(&machine, at, &[f64::from(number)]),
            }
        });
        let items = items.collect();
        (machine, items)
    };
    (0..rng.random_range(1..4)).map(|n| script(n, rng)).collect()
}

/// Kills and restarts at random points, with clocks that jump and fall back: what is durable holds every item exactly
/// once, none after the seal time of its batch and none before that of an earlier one.
#[test]
fn every_item_is_durable_once_whenever_the_agent_is_killed() {
    for seed in 0..400 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scripts = scripts(&mut rng);
        let bytes_max = rng.random_range(1..600);
        let (mut durable, mut sealed): (BTreeMap<Key, u32>, Option<PlantTime>) = Default::default();
        let mut now = 0;
        for start in 0..30 {
            let last = start == 29;
            let open = |(m, items): &(String, Vec<Item>)| Box::new(Script::after(m, items, sealed)) as Box<dyn Source>;
            let mut cutter = cutter(scripts.iter().map(open).collect(), bytes_max, sealed);
            let mut batches = Vec::new();
            for _ in 0..if last { 5_000 } else { rng.random_range(0..60) } {
                now = if last { 100_000 } else { (now + rng.random_range(-40..60)).max(0) };
                let polled = cutter.poll(PlantTime(now), None).unwrap();
                while cutter.is_full(PlantTime(now)) {
                    batches.push(cutter.cut(PlantTime(now), SealTime::default()));
                }
                if rng.random_bool(0.2) {
                    batches.push(cutter.cut(PlantTime(now), SealTime::default()));
                }
                if last && polled == Polled::Idle(None) {
                    break;
                }
            }
            if rng.random_bool(0.5) || last {
                while cutter.is_full(PlantTime(now)) {
                    batches.push(cutter.cut(PlantTime(now), SealTime::default()));
                }
                batches.push(cutter.cut(PlantTime(now), SealTime::default()));
            }
            // The power fails: only the first ones were synced.
            let synced = if last { batches.len() } else { rng.random_range(0..=batches.len()) };
            for (n, (batch, readings)) in batches.into_iter().take(synced).enumerate() {
                assert_eq!(check_batch(&batch), Ok(u64::from(readings)), "seed {seed}");
                assert_eq!(batch.birth.is_some(), n == 0, "seed {seed}: the birth comes first");
                let seal = PlantTime(batch.sealed.unwrap().time_ms);
                for key in keys(&batch) {
                    assert!(key.1 <= seal.0 && Some(PlantTime(key.1)) > sealed, "seed {seed}: {key:?} under {seal:?}");
                    *durable.entry(key).or_default() += 1;
                }
                assert!(Some(seal) >= sealed, "seed {seed}: seal times never fall");
                sealed = Some(seal);
            }
        }
        let count: usize = scripts.iter().map(|(_, items)| items.len()).sum();
        assert_eq!(durable.len(), count, "seed {seed}: nothing is left out");
        assert!(durable.values().all(|times| *times == 1), "seed {seed}: nothing is doubled");
    }
}

#[test]
fn a_source_that_fails_holds_the_seal_where_it_was() {
    let items = |m: &str| (0..20).map(|n| sample(m, 10 * n, &[n as f64])).collect::<Vec<_>>();
    let mut torn = Script::after("a", &items("a"), None);
    torn.fails_at = Some(5);
    let good = Script::after("b", &items("b"), None);
    let mut cutter = cutter(vec![Box::new(torn), Box::new(good)], 10_000, None);
    let now = PlantTime(1_000);
    let error = loop {
        if let Err(error) = cutter.poll(now, None) {
            break error;
        }
    };
    assert_eq!(error.to_string(), "script: torn");
    while cutter.poll(now, None).unwrap() == Polled::More {}
    cutter.cut(now, SealTime::default());
    let (batch, _) = cutter.cut(now, SealTime::default());
    let seal = batch.sealed.as_ref().unwrap().time_ms;
    assert!((30..50).contains(&seal), "{seal}: the sixth item, of 50, was never given");
    assert!(keys(&batch).iter().all(|key| key.1 <= seal));
    assert_eq!(cutter.cut(PlantTime(9_000), SealTime::default()).0.sealed.unwrap().time_ms, seal, "it stays there");
}

#[test]
fn what_is_held_from_beyond_goes_out_when_time_falls_back() {
    let items = |m: &str, times: &[i64]| times.iter().map(|ms| sample(m, *ms, &[*ms as f64])).collect::<Vec<_>>();
    let ahead = Script::after("a", &items("a", &[10, 9_000, 9_000, 9_500]), None);
    // It keeps the other one's readings from being sealed.
    let mut behind = Script::after("b", &items("b", &[10, 20]), None);
    behind.fails_at = Some(1);
    let mut cutter = cutter(vec![Box::new(ahead), Box::new(behind)], 10_000, Some(PlantTime(5)));
    while cutter.poll(PlantTime(10_000), None).is_ok_and(|polled| polled == Polled::More) {}
    while cutter.poll(PlantTime(10_000), None).unwrap() == Polled::More {}
    cutter.failed = None;
    assert_eq!((cutter.newest(), cutter.sealed()), (Some(PlantTime(9_500)), Some(PlantTime(5))));
    cutter.fall_back(PlantTime(100));
    assert_eq!(cutter.sealed(), None);
    cutter.cut(PlantTime(101), SealTime::default());
    let (batch, readings) = cutter.cut(PlantTime(101), SealTime::default());
    assert_eq!((batch.sealed.as_ref().unwrap().time_ms, readings), (101, 5));
    let stamps: Vec<_> = keys(&batch).iter().map(|key| key.1).collect();
    assert_eq!(stamps, [10, 9_000, 9_000, 9_500, 10], "by machine, and as they were");
}

#[test]
fn history_waits_for_room_and_what_is_live_does_not() {
    let items: Vec<_> = [0, 900].map(|ms| sample("a", ms, &[0.0])).into();
    let mut cutter = cutter(vec![Box::new(Script::after("a", &items, None))], 10_000, None);
    let now = PlantTime(1_000);
    assert_eq!(cutter.poll(now, Some(PlantTime(500))).unwrap(), Polled::Held);
    assert_eq!(cutter.poll(now, None).unwrap(), Polled::More);
    let mut live = Script::after("a", &items, Some(PlantTime(0)));
    live.polled = PlantTime(0);
    let mut cutter = self::cutter(vec![Box::new(live)], 10_000, None);
    assert_eq!(cutter.poll(PlantTime(800), Some(PlantTime(500))).unwrap(), Polled::Idle(Some(PlantTime(900))));
    assert_eq!(cutter.poll(now, Some(PlantTime(500))).unwrap(), Polled::More);
}

/// Has something new at every look.
struct Device(PlantTime);

impl Source for Device {
    fn machines(&self) -> Vec<MachineInfo> {
        vec![info("live", 1)]
    }

    fn is_live(&self) -> bool {
        true
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        self.0 = now;
        out.extend((0..items_max).map(|_| sample("live", now.0, &[1.0])));
        Ok(false)
    }

    fn progress(&self) -> PlantTime {
        self.0
    }

    fn next_due(&self) -> Option<PlantTime> {
        Some(self.0.plus_millis(1))
    }
}

#[test]
fn what_is_live_is_read_while_history_waits_until_memory_has_its_share() {
    let items: Vec<_> = [0, 900].map(|ms| sample("a", ms, &[0.0])).into();
    let sources: Vec<Box<dyn Source>> =
        vec![Box::new(Script::after("a", &items, None)), Box::new(Device(PlantTime(0)))];
    let mut cutter = cutter(sources, 10_000, None);
    cutter.cut(PlantTime(1_000), SealTime::default());
    let held = |cutter: &Cutter| cutter.held.values().map(|instant| instant.items.len()).sum::<usize>();
    for step in 1..=3 {
        let now = PlantTime(1_000 + step);
        assert_eq!(cutter.poll(now, Some(PlantTime(500))).unwrap(), Polled::More);
        assert_eq!(cutter.poll(now, Some(PlantTime(500))).unwrap(), Polled::Held);
    }
    assert_eq!(held(&cutter), 3 * POLL_ITEMS_MAX);
    let (batch, readings) = cutter.cut(PlantTime(1_004), SealTime::default());
    assert!(readings == 0 && batch.sealed.unwrap().time_ms < 0, "there is one log, and history comes first");

    let mut step = 3;
    while held(&cutter) == step as usize * POLL_ITEMS_MAX {
        step += 1;
        cutter.poll(PlantTime(1_000 + step), Some(PlantTime(500))).unwrap();
    }
    assert!(cutter.held_bytes >= HELD_BYTES_MAX && cutter.held_bytes < HELD_BYTES_MAX + INSTANT_BYTES_MAX);
    assert_eq!(cutter.poll(PlantTime(9_000), Some(PlantTime(500))).unwrap(), Polled::Held);
}

#[test]
fn more_than_a_frame_of_live_readings_at_one_instant_is_no_failure() {
    let mut cutter = cutter(vec![Box::new(Device(PlantTime(0)))], BATCH_BYTES_MAX, None);
    cutter.cut(PlantTime(1_000), SealTime::default());
    // The clock does not move between the polls, as it does not when it was set back.
    let polls = 2 * INSTANT_BYTES_MAX / (POLL_ITEMS_MAX * 20) + 1;
    let now = PlantTime(2_000);
    for _ in 0..polls {
        cutter.sources = vec![Box::new(Device(PlantTime(0)))];
        assert_eq!(cutter.poll(now, None).unwrap(), Polled::More);
    }
    let (mut stamps, mut total) = (BTreeSet::new(), 0);
    cutter.sources = vec![Box::new(Device(now.plus_millis(10)))];
    for _ in 0..20 {
        let (batch, readings) = cutter.cut(now.plus_millis(10), SealTime::default());
        assert!(batch.encoded_len() + proto::telemetry::HEADER_BYTES <= FRAME_BYTES_MAX);
        stamps.extend(keys(&batch).into_iter().map(|key| key.1));
        total += readings as usize;
    }
    assert_eq!(total, polls * POLL_ITEMS_MAX);
    assert!(stamps.len() >= 2 && stamps.iter().all(|ms| (2_000..2_010).contains(ms)), "{stamps:?}");
}

/// Everything at its bound: as many machines as are accepted, in batches of the largest size.
#[test]
fn the_largest_batches_fit_into_a_frame() {
    struct Wide(Vec<MachineInfo>, i64);
    impl Source for Wide {
        fn machines(&self) -> Vec<MachineInfo> {
            self.0.clone()
        }
        fn poll(&mut self, _: PlantTime, _: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
            self.1 += 1;
            // As long on the wire as a stamp can be, and nothing that compresses.
            let ms = i64::MAX / 2 * (self.1 % 2) + self.1;
            let mut rng = ChaCha8Rng::seed_from_u64(self.1 as u64);
            let mut reading = || Reading::stale(rng.random());
            for machine in &self.0 {
                let values = machine.sensors.iter().map(|_| reading()).collect();
                let machine = AssetId::new(&machine.machine).unwrap();
                out.push(Item::Sample(Sample { machine, time: PlantTime(ms), values }));
            }
            Ok(true)
        }
        fn progress(&self) -> PlantTime {
            PlantTime::MIN
        }
        fn next_due(&self) -> Option<PlantTime> {
            (self.1 < 40).then_some(PlantTime(self.1))
        }
    }
    let plant = |n: usize, sensors| (0..n).map(|i| info(&format!("m{i}"), sensors)).collect::<Vec<_>>();
    for (most, sensors) in [(1_500, 10), (14, 1_150), (1, 10)] {
        assert!(BatchBuilder::new(&plant(most, sensors)).is_ok(), "{most} x {sensors}");
        let mut cutter = cutter(vec![Box::new(Wide(plant(most, sensors), 0))], usize::MAX, None);
        let (mut batches, now) = (Vec::new(), PlantTime(i64::MAX));
        while cutter.poll(now, None).unwrap() == Polled::More {
            while cutter.is_full(now) {
                batches.push(cutter.cut(now, SealTime::default()).0);
            }
        }
        batches.push(cutter.cut(now, SealTime::default()).0);
        let largest = batches.iter().map(Message::encoded_len).max().unwrap();
        assert!(largest + proto::telemetry::HEADER_BYTES <= FRAME_BYTES_MAX, "{most} x {sensors}: {largest}");
    }
}

#[test]
fn an_instant_that_no_frame_can_carry_is_a_failure_and_not_a_loss() {
    let event = |ms| {
        let (machine, code, note) = ("a".into(), "1".into(), "x".repeat(200_000));
        Item::Event(EventRecord { machine, time_ms: ms, code, note, ..Default::default() })
    };
    let items = [event(1), event(5), event(5), event(5), event(9)];
    let mut cutter = cutter(vec![Box::new(Script::after("a", &items, None))], 1_000, None);
    let now = PlantTime(100);
    let error = loop {
        if let Err(error) = cutter.poll(now, None) {
            break error;
        }
    };
    assert!(matches!(error, CutError::Instant(PlantTime(5))), "{error}");
    cutter.cut(now, SealTime::default());
    let (batch, _) = cutter.cut(now, SealTime::default());
    assert_eq!((batch.sealed.unwrap().time_ms, batch.events.len()), (4, 1));
}

/// A history that is behind holds back what two sensors gave; all three are replaced meanwhile.
#[test]
fn other_sources_go_on_behind_the_last_batch_with_nothing_doubled_or_left_out() {
    let items = |m: &str| (0..20).map(|n| sample(m, 10 * n, &[n as f64])).collect::<Vec<_>>();
    let live = |m: &str, items: &[Item]| Script { live: true, ..Script::after(m, items, None) };
    let first: Vec<Box<dyn Source>> = vec![
        Box::new(Script::after("history", &items("history")[..1], None)),
        Box::new(live("kept", &items("kept")[..10])),
        Box::new(live("gone", &items("gone")[..10])),
        Box::new(Script::after("again", &items("again"), None)),
    ];
    let mut cutter = cutter(first, 10_000, None);
    let mut batches = vec![cutter.cut(PlantTime(0), SealTime::default()).0];
    while cutter.poll(PlantTime(95), None).unwrap() == Polled::More {}
    // The history has no more than its first item, and nobody knows how far it is.
    cutter.failed = Some(PlantTime(5));
    batches.push(cutter.cut(PlantTime(95), SealTime::default()).0);
    cutter.failed = None;
    assert_eq!(cutter.sealed(), Some(PlantTime(5)));

    let next: Vec<Box<dyn Source>> = vec![
        Box::new(Script::after("history", &items("history"), cutter.sealed())),
        Box::new(live("kept", &items("kept")[10..])),
        Box::new(Script::after("again", &items("again"), cutter.sealed())),
    ];
    let machines: Vec<_> = next.iter().flat_map(|s| s.machines()).collect();
    let birth = Birth { machines: machines.clone(), ..Default::default() };
    let lost = cutter.replace(next, BatchBuilder::new(&machines).unwrap(), birth.clone());
    assert_eq!(lost, 9, "of a machine that nobody announces any more");
    let now = PlantTime(1_000);
    while cutter.poll(now, None).unwrap() == Polled::More {}
    batches.extend([0; 2].map(|_| cutter.cut(now, SealTime::default()).0));
    assert_eq!((batches[2].birth.as_ref(), keys(&batches[2]).len()), (Some(&birth), 0), "a batch of its own");

    let mut given: Vec<_> = batches.iter().flat_map(keys).filter(|(machine, ..)| machine != "gone").collect();
    given.sort();
    let mut all: Vec<Key> =
        ["again", "history", "kept"].iter().flat_map(|m| (0..20).map(|n| (m.to_string(), 10 * n, n))).collect();
    all.sort();
    assert_eq!(given, all);
}
