//! What is learnt from an archive is the same whatever way its rows came there.

use std::ops::Range;

use model::{
    dataset::{
        Dataset,
        archive::{Scope, read},
    },
    features::{
        FeatureConfig,
        clean::{inner, unit_code},
    },
    settings::TrainSettings,
    train::train,
};
use polars::prelude::{Column, DataFrame, df};
use proto::{
    archive::column,
    asset::Unit,
    wire::{
        alert::{Alert, AlertSource, AlertState},
        telemetry::{EventKind, EventRecord},
    },
};

use super::*;
use crate::{
    archive::readings::{BATCH, Names, Readings, Stretch},
    decode::AgentKey,
    stream::{
        KnownEvent,
        tables::{SITE, datetime},
    },
};

const HOUR_MS: i64 = 3_600_000;
const MACHINES: [&str; 4] = ["press-1", "press-2", "press-3", "press-4"];
const HOURS: i64 = 30 * 24;
/// No whole number of days: a batch may hold two of them.
const BATCH_HOURS: i64 = 36;
const READINGS_PER_HOUR: i64 = 3;
const HORIZON_HOURS: i64 = 12;
/// Hour in which the first machine was worked on, between two failures.
const CHECKED: i64 = 60;

fn name(name: &str) -> AssetId {
    AssetId::new(name).unwrap()
}

/// One commit: so many hours of a machine.
#[derive(Debug, Clone)]
struct Batch {
    machine: usize,
    hours: Range<i64>,
}

/// Every machine's batches in its own order, of which the third comes before the end of the second.
fn batches(machine: usize) -> Vec<Batch> {
    let starts = (0..HOURS).step_by(BATCH_HOURS as usize);
    let mut all: Vec<_> = starts.map(|from| Batch { machine, hours: from..from + BATCH_HOURS }).collect();
    let late = Batch { machine, hours: all[1].hours.end - 3..all[1].hours.end };
    all[1].hours.end = late.hours.start;
    all.insert(3, late);
    all
}

/// Hours in which the machine fails.
fn failures(machine: usize) -> impl Iterator<Item = i64> {
    (30 + 7 * machine as i64..HOURS).step_by(50)
}

fn readings(Batch { machine, hours }: &Batch, nudge: f64) -> Readings {
    let minutes: Vec<i64> = (hours.start * 60..hours.end * 60).step_by(60 / READINGS_PER_HOUR as usize).collect();
    let value = |minute: &i64| {
        let heat = failures(*machine).map(|at| at * 60 - minute).any(|ahead| (0..HORIZON_HOURS * 60).contains(&ahead));
        50.0 + *machine as f64 + (minute * 7_919 % 1_009) as f64 / 300.0 + if heat { 6.0 } else { 0.0 }
    };
    let rows = minutes.len();
    let mut values: Vec<f64> = minutes.iter().map(value).collect();
    values[rows / 2] += nudge;
    let zeros = vec![0u32; rows];
    let rows = df!(
        inner::SERIES => vec![*machine as u32; rows],
        inner::TIME => minutes.iter().map(|m| m * 60_000).collect::<Vec<_>>(),
        inner::VALUE => values,
        inner::UNIT => vec![unit_code(Some(Unit::Celsius)); rows],
        inner::QUALITY => vec![0u8; rows],
        inner::FLAGS => &zeros,
        BATCH => &zeros,
        column::REASON => vec![0u8; rows],
        column::GENERATION => &zeros,
    );
    let agent = AgentKey { site: name("mill"), agent: name(&format!("gw-{machine}")) };
    let names = Names {
        machines: MACHINES.map(name).to_vec(),
        sensors: vec![name("temperature")],
        series: (0..MACHINES.len() as u32).map(|machine| (machine, 0)).collect(),
    };
    Readings { stretches: vec![Stretch { rows: rows.unwrap(), batches: vec![(agent, 1)] }], names: names.into() }
}

fn birth(machine: usize) -> DataFrame {
    let mut frame = df!(
        SITE => ["mill"],
        column::MACHINE => [MACHINES[machine]], column::KIND => [["press", "baler"][machine % 2]],
        column::MAKE => ["Acme"], column::MODEL => ["X"], column::SENSOR => ["temperature"], column::UNIT => ["C"],
        column::RANGE_LOW => [-50.0], column::RANGE_HIGH => [500.0],
        column::INTERVAL_MS => [(HOUR_MS / READINGS_PER_HOUR) as u64],
    )
    .unwrap();
    for time in [column::TIME, column::INSTALLED] {
        frame.with_column(datetime(time, Column::new(time.into(), [0i64])).unwrap()).unwrap();
    }
    frame
}

fn events(Batch { machine, hours }: &Batch) -> Vec<KnownEvent> {
    let told = |hour: i64, kind: EventKind| {
        let (machine, time_ms, mode) = (MACHINES[*machine].into(), hour * HOUR_MS, "overheating".into());
        let event = EventRecord { machine, time_ms, kind: kind.into(), mode, ..EventRecord::default() };
        KnownEvent { agent: None, seq: 0, event, known: Some(PlantTime(time_ms)) }
    };
    let all = failures(*machine).flat_map(|at| [told(at, EventKind::Failure), told(at + 2, EventKind::Maintenance)]);
    let checked = (*machine == 0).then(|| told(CHECKED, EventKind::Maintenance));
    all.chain(checked).filter(|e| hours.contains(&(e.event.time_ms / HOUR_MS))).collect()
}

/// What the first machine's crew looked after, without naming it.
fn alerts(Batch { machine, hours }: &Batch) -> Vec<Alert> {
    let told = |hour: i64, state: AlertState| Alert {
        id: "a".into(),
        machine: MACHINES[0].into(),
        mode: "overheating".into(),
        source: AlertSource::Model.into(),
        state: state.into(),
        updated_ms: hour * HOUR_MS,
        ..Alert::default()
    };
    let all = [told(CHECKED - 3, AlertState::Open), told(CHECKED, AlertState::Closed)];
    all.into_iter().filter(|a| *machine == 0 && hours.contains(&(a.updated_ms / HOUR_MS))).collect()
}

/// How an archive differs from another.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Of its writer.
    incarnation: u64,
    /// Added to one reading of the first commit.
    nudge: f64,
    /// Whether its alerts are there.
    warned: bool,
}

const KEPT: Kept = Kept { incarnation: 1, nudge: 0.0, warned: true };

async fn archived(commits: &[Batch], Kept { incarnation, nudge, warned }: Kept) -> Arc<Bucket> {
    let bucket = Bucket::new();
    for number in 1..=incarnation {
        put_manifest(&bucket, &takeover(number)).await;
    }
    for (number, batch) in (incarnation + 1..).zip(commits) {
        let mut content = SegmentContent::new(name("mill"), [].into());
        content.readings = readings(batch, if number == incarnation + 1 { nudge } else { 0.0 });
        content.births.extend((batch.hours.start == 0).then(|| birth(batch.machine)));
        content.events = events(batch);
        content.alerts.extend(warned.then(|| alerts(batch)).into_iter().flatten());
        put_manifest(&bucket, &upload_of(&bucket, number, incarnation, &content).await).await;
    }
    bucket
}

async fn dataset(bucket: &Bucket) -> Dataset {
    let archive = read(bucket, Scope::default(), &mut |_| {}).await.unwrap();
    let features = FeatureConfig { window_ms: HOUR_MS, ..FeatureConfig::default() };
    archive.into_dataset(&features, HORIZON_HOURS * HOUR_MS).unwrap()
}

/// Data hash and version of what is learnt from it.
async fn learnt(bucket: &Bucket) -> (String, String) {
    let dataset = dataset(bucket).await;
    assert!(dataset.rows.len() > 2_000, "{}", dataset.rows.len());
    let settings = TrainSettings {
        horizon_hours: HORIZON_HOURS as f64,
        hidden: vec![8],
        members: 2,
        epochs_max: 2,
        min_failures: 4,
        ..TrainSettings::default()
    };
    let trained = train(&dataset, &settings, 0, &mut |_| {}).unwrap();
    assert_eq!(trained.artifact.origin.data_sha256, dataset.sha256());
    (dataset.sha256(), trained.report.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_arrival_order_and_object_names_change_nothing_that_is_learnt() {
    let by_machine: Vec<Vec<Batch>> = (0..MACHINES.len()).map(batches).collect();
    let in_turn: Vec<Batch> =
        (0..by_machine[0].len()).flat_map(|n| by_machine.iter().map(move |own| own[n].clone())).collect();
    // One gateway after the other, the last one first, as after an outage.
    let one_by_one: Vec<Batch> = by_machine.iter().rev().flatten().cloned().collect();
    let first = archived(&in_turn, KEPT).await;
    let expected = learnt(&first).await;

    let other = archived(&one_by_one, Kept { incarnation: 3, ..KEPT }).await;
    let keys = |bucket: &Bucket| bucket.keys("archive/v1/readings/");
    assert!(keys(&other).iter().all(|key| !keys(&first).contains(key)), "no object has the name of another");
    assert_eq!(learnt(&other).await, expected, "another order and other names");

    for bucket in [&first, &other] {
        let before = keys(bucket).len();
        let report = compact(&**bucket, &EAGER).await.unwrap();
        assert!(report.merged > HOURS as u64 / 24 && report.deleted >= report.merged, "{report}");
        assert!(keys(bucket).len() * 3 < before, "{} objects of {before}", keys(bucket).len());
        assert_eq!(learnt(bucket).await, expected, "compacted");
    }
    let nudged = learnt(&*archived(&in_turn, Kept { nudge: 0.001, ..KEPT }).await).await;
    assert!(nudged.0 != expected.0 && nudged.1 != expected.1, "one reading that differs is seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_work_prevented_while_an_alert_stood_is_no_label_though_it_does_not_name_it() {
    let ends = async |warned: bool| -> BTreeSet<i64> {
        let dataset = dataset(&*archived(&batches(0), Kept { warned, ..KEPT }).await).await;
        dataset.rows.iter().map(|row| row.end.millis() / HOUR_MS).collect()
    };
    let (routine, prevented) = (ends(false).await, ends(true).await);
    let out: Vec<i64> = routine.difference(&prevented).copied().collect();
    assert_eq!(out, (CHECKED - HORIZON_HOURS..=CHECKED).collect::<Vec<_>>());
}
