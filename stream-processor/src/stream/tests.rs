//! Random logs of several agents, cut and interleaved at random, against a plain scalar oracle.

mod delivery;
mod events;
mod generations;
mod log;
mod models;
mod oracle;
mod revisions;
mod shards;

use std::{collections::BTreeMap, io::Cursor};

use model::features::{FeatureSchema, SensorWindow, Stats, whole};
use polars::prelude::DataFrame;
use polars_io::{SerReader, parquet::read::ParquetReader};
use prost::Message;
use proto::{
    archive::Balance,
    asset::AssetId,
    wire::{
        prediction::Prediction,
        telemetry::{Gap, GapReason, SealTime, TelemetryBatch},
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    archive::{
        parquet::{Encoded, encode},
        pending::SegmentContent,
    },
    decode::AgentKey,
    intake::EpochsLeft,
};
use log::{config, interleave, log, shapes, taken};

fn rng() -> (u64, ChaCha8Rng) {
    let seed = std::env::var("MILLWRIGHT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("MILLWRIGHT_SEED={seed}");
    (seed, ChaCha8Rng::seed_from_u64(seed))
}

/// All that came out, call after call.
fn run(stream: &mut Stream, taken: Vec<Taken>, rng: &mut ChaCha8Rng, largest: usize) -> Vec<Derived> {
    let mut rest = taken.into_iter().peekable();
    let mut derived = Vec::new();
    while rest.peek().is_some() {
        let cut = rng.random_range(1..=largest);
        derived.push(stream.apply(rest.by_ref().take(cut).collect(), None).unwrap());
    }
    derived
}

fn windows(derived: &[Derived]) -> Vec<WindowFeatures> {
    let mut windows: Vec<_> = derived.iter().flat_map(|d| d.windows.clone()).collect();
    windows.sort_by_key(place);
    windows
}

fn place(window: &WindowFeatures) -> (AssetId, u32, PlantTime, u32) {
    (window.machine.clone(), window.generation, window.start, window.revision)
}

/// Of `windows`, sorted: as they were told last.
fn last_revisions(windows: &[WindowFeatures]) -> Vec<WindowFeatures> {
    let same = |a: &WindowFeatures, b: &WindowFeatures| {
        (&a.machine, a.generation, a.start) == (&b.machine, b.generation, b.start)
    };
    windows.chunk_by(same).filter_map(|revisions| revisions.last().cloned()).collect()
}

/// What stands in the archive's files of all of them together.
fn archived(derived: &[Derived]) -> DataFrame {
    let mut content = SegmentContent::new(AssetId::new("mill").unwrap(), [].into());
    derived.iter().for_each(|d| content.readings.append(d.readings.clone()));
    let files = encode(&content).unwrap();
    let read = |file: &Encoded| ParquetReader::new(Cursor::new(file.bytes.clone())).finish().unwrap();
    let mut frames = files.iter().map(read);
    let first = frames.next().unwrap();
    frames.fold(first, |all, frame| all.vstack(&frame).unwrap())
}

fn flags(derived: &Derived) -> Vec<u32> {
    let archived = archived(std::slice::from_ref(derived));
    archived.column("flags").unwrap().u32().unwrap().into_no_null_iter().collect()
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    a.to_bits() == b.to_bits()
        || (a.is_nan() && b.is_nan())
        || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
}

/// Counts and extremes exactly; what is summed to 1e-12.
fn same_stats(a: &Option<Stats>, b: &Option<Stats>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let exact = |s: &Stats| (s.count, s.min, s.max, s.first, s.last);
            exact(a) == exact(b)
                && near(a.mean, b.mean, 1e-12)
                && near(a.std, b.std, 1e-12)
                && near(a.slope / 3_600_000.0, b.slope / 3_600_000.0, 1e-12)
        }
        _ => false,
    }
}

fn assert_same(found: &[WindowFeatures], expected: &[WindowFeatures], seed: u64) {
    let places = |windows: &[WindowFeatures]| windows.iter().map(place).collect::<Vec<_>>();
    assert_eq!(places(found), places(expected), "seed {seed}");
    for (f, e) in found.iter().zip(expected) {
        let same = |(f, e): (&SensorWindow, &SensorWindow)| same_stats(&f.stats, &e.stats);
        assert!(f.sensors.iter().zip(&e.sensors).all(same), "seed {seed}: {f:?} instead of {e:?}");
        // What is measured against a normal, by a spread of 0.5 around a value of 1e9, has lost nine of its digits.
        let same = |(f, e): (&f64, &f64)| near(*f, *e, 1e-6);
        assert!(f.features.iter().zip(&e.features).all(same), "seed {seed}: {f:?} instead of {e:?}");
    }
}

#[test]
fn windows_are_a_function_of_each_agents_log() {
    let (seed, mut rng) = rng();
    let (mut late, mut revised) = (0, 0);
    for config in shapes() {
        let logs: Vec<Vec<Taken>> = (0..3).map(|agent| log(agent, 60, &mut rng)).collect();
        let expected = oracle::read(&logs, &config.features);
        let mut first: Option<Vec<WindowFeatures>> = None;
        for largest in [1, 7, 1_000] {
            let order = interleave(&logs, &mut rng);
            let derived = run(&mut Stream::new(config.clone()), order, &mut rng, largest);
            let found = windows(&derived);
            oracle::assert_windows(&found, &expected, same_stats, seed);
            oracle::assert_archive(&archived(&derived), &expected, seed);
            let sum = |of: fn(&Derived) -> u64| derived.iter().map(of).sum::<u64>();
            assert_eq!(sum(|d| d.late), expected.late(), "seed {seed}");
            assert_eq!(sum(|d| d.revising), expected.revising(), "seed {seed}");
            assert_eq!(sum(|d| d.balance.readings_taken), expected.readings.len() as u64, "seed {seed}");
            assert_eq!(sum(|d| d.balance.readings_archived), expected.readings.len() as u64, "seed {seed}");
            assert_eq!(sum(|d| d.balance.batches), 180, "seed {seed}");
            assert_same(&found, first.get_or_insert_with(|| found.clone()), seed);
        }
        (late, revised) = (late + expected.late(), revised + expected.revisions());
        assert!(expected.revisions() == 0 || config.features.revise_ms() > 0, "seed {seed}: {}", expected.revisions());
    }
    assert!(late > 0 && revised > 0, "seed {seed}: {late} late, {revised} revised");
}

#[test]
fn a_recorded_day_gives_training_the_same_features() {
    let (seed, mut rng) = rng();
    for config in shapes() {
        let logs = vec![log(0, 300, &mut rng), log(1, 300, &mut rng)];
        let mut stream = Stream::new(config.clone());
        let derived = run(&mut stream, interleave(&logs, &mut rng), &mut rng, 40);
        let told = windows(&derived);
        let live = last_revisions(&told);
        assert!(live.len() > 200, "seed {seed}: {}", live.len());
        assert_eq!(live.len() < told.len(), config.features.revise_ms() > 0, "seed {seed}: {}", told.len());
        let mut trained = whole(archived(&derived), stream.fleet().catalogue(), &config.features).unwrap();
        // Training also sees the windows that are still open at the end, and knows of no revisions.
        let window = |w: &WindowFeatures| (w.machine.clone(), w.generation, w.start);
        let revisions: BTreeMap<_, _> = live.iter().map(|w| (window(w), w.revision)).collect();
        trained.retain(|w| revisions.contains_key(&window(w)));
        trained.iter_mut().for_each(|w| w.revision = revisions[&window(w)]);
        trained.sort_by_key(place);
        assert!(live.iter().any(|w| w.generation > 1), "seed {seed}: no clock fell back");
        assert_same(&live, &trained, seed);
    }
}

#[test]
fn births_as_archived_make_the_same_catalogue() {
    let (_, mut rng) = rng();
    let mut stream = Stream::new(config());
    let log = log(0, 3, &mut rng);
    let is_birth = |t: &&Taken| matches!(&t.content, Content::Batch { batch, .. } if batch.birth.is_some());
    let births = log.iter().filter(is_birth).count();
    let derived = stream.apply(log, None).unwrap();
    let mut catalogue = model::features::Catalogue::default();
    catalogue.absorb_rows(&derived.births).unwrap();
    for machine in catalogue.machines() {
        let live = stream.fleet().catalogue().machine(machine.name.as_str()).unwrap();
        assert_eq!((&live.kind, &live.make, live.installed), (&machine.kind, &machine.make, machine.installed));
    }
    assert_eq!(derived.births.height(), 4 * births, "two machines of two sensors each");
}

#[test]
fn a_snapshot_goes_on_as_the_stream_would_have() {
    let (seed, mut rng) = rng();
    for config in shapes() {
        let mut logs: Vec<Vec<Taken>> = (0..2).map(|agent| log(agent, 80, &mut rng)).collect();
        let rest: Vec<Vec<Taken>> = logs.iter_mut().map(|log| log.split_off(50)).collect();
        let mut stream = Stream::new(config.clone());
        run(&mut stream, interleave(&logs, &mut rng), &mut rng, 9);
        let bytes = stream.snapshot(&EpochsLeft::new()).unwrap();
        let (mut restored, _) = Stream::restore(config, &bytes).unwrap();
        assert_eq!(restored.snapshot(&EpochsLeft::new()).unwrap(), bytes, "seed {seed}");
        let rest = interleave(&rest, &mut rng);
        let (a, b) = (stream.apply(rest.clone(), None).unwrap(), restored.apply(rest, None).unwrap());
        assert_eq!(a.events, b.events, "seed {seed}");
        let archived = |derived: &Derived| archived(std::slice::from_ref(derived));
        assert!(archived(&a).equals_missing(&archived(&b)), "seed {seed}");
        // NaN is not equal to itself, its text is.
        assert_eq!(format!("{:?}", a.windows), format!("{:?}", b.windows), "seed {seed}");
    }
}

#[test]
fn snapshots_that_are_not_ours_are_refused() {
    #[derive(Serialize)]
    struct Newer {
        version: u32,
    }
    let newer = rmp_serde::to_vec_named(&Newer { version: 99 }).unwrap();
    assert!(matches!(Stream::restore(config(), &newer), Err(StreamError::SnapshotVersion { version: 99 })));
    assert!(matches!(Stream::restore(config(), b"\xff\x00"), Err(StreamError::Decode(_))));
}

#[test]
fn other_window_settings_start_windows_anew_and_keep_the_rest() {
    let (_, mut rng) = rng();
    let mut stream = Stream::new(config());
    stream.apply(log(0, 20, &mut rng), None).unwrap();
    let mut longer = config();
    longer.features.window_ms *= 2;
    let (restored, _) = Stream::restore(longer, &stream.snapshot(&EpochsLeft::new()).unwrap()).unwrap();
    assert_eq!(restored.fleet().catalogue(), stream.fleet().catalogue());
}

#[test]
fn only_the_guilty_batch_is_dead_lettered() {
    let (_, mut rng) = rng();
    let mut log = log(0, 10, &mut rng);
    // What intake would have refused: more values than stamps.
    let guilty = log.iter().rposition(|t| taken::readings(t) > 0).unwrap();
    let Content::Batch { batch, .. } = &mut log[guilty].content else { panic!("a batch") };
    let column = &mut batch.machines[0].sensors[0];
    column.quality.clear();
    column.value.push(1.0);
    let before: u64 = log.iter().map(taken::readings).sum();
    let derived = Stream::new(config()).apply(log.clone(), None).unwrap();
    assert_eq!(derived.dead_letters.len(), 1);
    let Content::Batch { batch, .. } = &log[guilty].content else { panic!("a batch") };
    assert_eq!(derived.dead_letters[0].payload, batch.encode_to_vec());
    let Balance { readings_taken, readings_archived, readings_dead_lettered, batches } = derived.balance;
    assert_eq!((readings_taken, batches), (before, 10));
    assert_eq!(readings_archived, derived.readings.height() as u64);
    assert_eq!(readings_taken, readings_archived + readings_dead_lettered);
}

#[test]
fn the_desk_hears_events_and_windows_in_log_order_however_the_log_is_cut() {
    let (seed, mut rng) = rng();
    let mut strict = config();
    // Every window that leaves its normal by a little is news, so that there are alerts.
    strict.alert.rules.deviation_std = 0.5;
    let log = log(0, 400, &mut rng);
    let alerts = |derived: Vec<Derived>| derived.into_iter().flat_map(|d| d.alerts).map(|a| (a.id, a.state));
    let one: Vec<_> = alerts(run(&mut Stream::new(strict.clone()), log.clone(), &mut rng, 1)).collect();
    let many: Vec<_> = alerts(run(&mut Stream::new(strict), log, &mut rng, 90)).collect();
    assert_eq!(one, many, "seed {seed}");
    assert!(!one.is_empty(), "seed {seed}: nothing was told in any order");
}

#[test]
fn batches_that_a_gateway_declares_as_lost_are_said_to_be_lost() {
    let (_, mut rng) = rng();
    let mut lost = log(0, 1, &mut rng).remove(0);
    let sealed = Some(SealTime { time_ms: 7, ..Default::default() });
    lost.content = Content::Gap(Gap { reason: GapReason::Damaged.into(), sealed, readings: 12 });
    (lost.position.seq, lost.last_seq) = (3, 5);
    let derived = Stream::new(config()).apply(vec![lost.clone()], None).unwrap();
    let (from, declared) = (lost.position, PlantTime(7));
    let batches = Lost::Batches { from, last_seq: 5 };
    let loss = Loss { agent: lost.agent, lost: batches, reason: GapReason::Damaged, readings: 12, declared };
    assert_eq!(derived.losses, [loss]);
    assert_eq!(derived.balance, Balance { batches: 1, ..Balance::default() });
}

#[test]
fn what_was_sealed_by_an_untrusted_clock_is_archived_and_moves_nothing() {
    let (seed, mut rng) = rng();
    let (mut told, mut untold) = (log(0, 60, &mut rng), log(0, 60, &mut rng));
    for taken in &mut untold {
        let Content::Batch { batch, .. } = &mut taken.content else { continue };
        batch.sealed.as_mut().unwrap().trusted = false;
    }
    let mut stream = Stream::new(config());
    told.truncate(1);
    stream.apply(told, None).unwrap();
    let derived = stream.apply(untold, None).unwrap();
    let flags = flags(&derived);
    assert!(flags.len() > 100, "seed {seed}");
    let untrusted = model::features::clean::flag::UNTRUSTED;
    assert!(flags.into_iter().all(|flags| flags & untrusted != 0), "seed {seed}");
    assert!(derived.windows.is_empty() && derived.late == 0, "seed {seed}");
}

#[test]
fn a_machine_is_foreign_to_all_but_its_owner_until_another_gateway_names_it() {
    let (_, mut rng) = rng();
    let mut stream = Stream::new(config());
    stream.apply(log(0, 5, &mut rng), None).unwrap();
    let foreign = model::features::clean::flag::FOREIGN;
    let mut intruder = log(0, 5, &mut rng);
    let owner = intruder[0].agent.agent.to_string();
    intruder.iter_mut().for_each(|t| t.agent.agent = proto::asset::AssetId::new("other").unwrap());
    let with_birth = intruder.remove(0);
    for taken in &mut intruder {
        let Content::Batch { batch, .. } = &mut taken.content else { continue };
        batch.birth = None;
    }
    let derived = stream.apply(intruder.clone(), None).unwrap();
    assert!(derived.readings.height() > 0 && flags(&derived).iter().all(|f| f & foreign != 0));
    let told = |f: &Foreign| (f.agent.agent.to_string(), f.owner.as_ref().map(|owner| owner.agent.to_string()));
    let other = "other".to_string();
    assert!(derived.foreign.iter().all(|f| told(f) == (other.clone(), Some(owner.clone()))), "{:?}", derived.foreign);
    assert_eq!(derived.foreign.iter().map(|f| f.readings).sum::<u64>(), derived.readings.height() as u64);
    intruder.insert(0, with_birth);
    let derived = stream.apply(intruder, None).unwrap();
    assert!(flags(&derived).iter().all(|f| f & foreign == 0));
    assert_eq!(derived.foreign, []);
}
