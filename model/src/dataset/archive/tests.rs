use polars::prelude::{Column, DataFrame, TimeUnit, TimeZone, df};
use polars_io::parquet::write::ParquetWriter;
use proto::archive::ObjectRef;

use super::*;
use crate::dataset::label::DOWN_MS_MAX;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn stamps(name: &str, ms: Vec<i64>) -> Column {
    let utc = DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
    Column::new(name.into(), ms).cast(&utc).unwrap()
}

fn object(table: Table, mut frame: DataFrame) -> (DataObject, Bytes) {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let object = ObjectRef { key: "k".into(), bytes: bytes.len() as u64, sha256 };
    let rows = frame.height() as u64;
    (DataObject { table, object, rows, min_time_ms: 0, max_time_ms: 0 }, bytes.into())
}

fn births() -> (DataObject, Bytes) {
    let frame = df!(
        column::MACHINE => ["m1"], column::KIND => ["press"], column::MAKE => ["Acme"], column::MODEL => ["X"],
        column::SENSOR => ["temperature"], column::UNIT => ["C"],
        column::RANGE_LOW => [-50.0], column::RANGE_HIGH => [500.0], column::INTERVAL_MS => [MINUTE],
    );
    let mut frame = frame.unwrap();
    frame.with_column(stamps(column::INSTALLED, vec![0])).unwrap();
    object(Table::Births, frame)
}

/// A reading a minute from `from` to `to` hours, as older files have them: without a generation.
fn readings(from: i64, to: i64) -> (DataObject, Bytes) {
    object(Table::Readings, minutely(from, to))
}

fn readings_of(generation: u32, from: i64, to: i64) -> (DataObject, Bytes) {
    let mut frame = minutely(from, to);
    frame.with_column(Column::new(column::GENERATION.into(), vec![generation; frame.height()])).unwrap();
    object(Table::Readings, frame)
}

fn minutely(from: i64, to: i64) -> DataFrame {
    let minutes: Vec<i64> = (from * 60..to * 60).collect();
    let rows = minutes.len();
    let mut frame = df!(
        column::MACHINE => vec!["m1"; rows], column::SENSOR => vec!["temperature"; rows],
        column::VALUE => minutes.iter().map(|m| 50.0 + (m % 7) as f64).collect::<Vec<_>>(),
        column::UNIT => vec!["C"; rows], column::QUALITY => vec![0u8; rows], column::FLAGS => vec![0u32; rows],
    )
    .unwrap();
    frame.with_column(stamps(column::TIME, minutes.iter().map(|m| m * MINUTE).collect())).unwrap();
    frame
}

fn events(failures: &[i64]) -> (DataObject, Bytes) {
    let rows = failures.len();
    let times: Vec<i64> = failures.iter().map(|h| h * HOUR).collect();
    let mut frame = df!(
        column::MACHINE => vec!["m1"; rows], column::KIND => vec!["failure"; rows], column::MODE => vec!["slip"; rows],
    )
    .unwrap();
    frame.with_column(stamps(column::TIME, times.clone())).unwrap();
    frame.with_column(stamps(column::KNOWN, times)).unwrap();
    object(Table::Events, frame)
}

#[test]
fn rows_of_the_archive_become_labelled_windows() {
    let mut archive = Archive::default();
    for (object, bytes) in [births(), readings(0, 30), events(&[60]), readings(30, 120)] {
        archive.absorb(&object, bytes).unwrap();
    }
    assert_eq!(archive.readings(), 120 * 60);
    assert_eq!(archive.newest(), PlantTime(120 * HOUR - MINUTE));
    let dataset = archive.into_dataset(&FeatureConfig::default(), 12 * HOUR).unwrap();
    assert_eq!((dataset.modes.as_slice(), dataset.kinds[0].as_str()), (["slip".to_owned()].as_slice(), "press"));
    let positive: Vec<_> = dataset.rows.iter().filter(|r| r.is_positive(0)).collect();
    assert_eq!(positive.len(), 73, "12 hours of 10-minute windows, both ends included");
    assert_eq!(positive[0].end, PlantTime(48 * HOUR));
    let down = |r: &&super::super::Row| r.end > PlantTime(60 * HOUR) && r.start < PlantTime(60 * HOUR + DOWN_MS_MAX);
    assert_eq!(dataset.rows.iter().filter(down).count(), 0);
    let last = dataset.rows.last().unwrap().end;
    assert!(last.plus_millis(12 * HOUR) <= PlantTime(120 * HOUR) && last >= PlantTime(107 * HOUR), "{last}");
    assert!((dataset.features(0)[0] - 52.8).abs() < 1.0, "the first feature is the mean of the temperature");
}

#[test]
fn a_clock_that_fell_back_makes_windows_of_its_own_and_no_label_early() {
    let mut archive = Archive::default();
    // An hour is there twice; and once the clock was ten years ahead.
    let ahead = 87_600;
    let objects = [births(), readings(0, 30), readings_of(1, ahead, ahead + 1), readings_of(2, 29, 60)];
    for (object, bytes) in objects {
        archive.absorb(&object, bytes).unwrap();
    }
    assert_eq!(archive.newest(), PlantTime(60 * HOUR - MINUTE), "what the wrong clock said is not the present");
    let dataset = archive.into_dataset(&FeatureConfig::default(), 12 * HOUR).unwrap();
    let starts: Vec<i64> = dataset.rows.iter().map(|r| r.start.millis()).collect();
    assert!(starts.is_sorted());
    let twice = starts.iter().filter(|start| (29 * HOUR..30 * HOUR).contains(start)).count();
    // Up to 47:50: their horizon ends before the newest reading.
    assert_eq!((starts.len(), twice), (30 * 6 + 113, 12));
    assert!(dataset.rows.iter().all(|r| r.end <= PlantTime(48 * HOUR)));
}

#[test]
fn a_record_of_which_nobody_knows_when_it_became_known_is_no_label() {
    let mut frame = df!(column::MACHINE => ["m1"], column::KIND => ["failure"], column::MODE => ["slip"]).unwrap();
    frame.with_column(stamps(column::TIME, vec![10 * HOUR])).unwrap();
    let known = stamps(column::KNOWN, vec![0]);
    frame.with_column(Column::full_null(column::KNOWN.into(), 1, known.dtype())).unwrap();
    let mut archive = Archive::default();
    for (object, bytes) in [births(), readings(0, 30), object(Table::Events, frame)] {
        archive.absorb(&object, bytes).unwrap();
    }
    assert!(archive.into_dataset(&FeatureConfig::default(), HOUR).unwrap().modes.is_empty());
}

#[test]
fn an_object_that_is_not_what_its_manifest_says_is_refused() {
    let refused = |object: &DataObject, bytes: Bytes| Archive::default().absorb(object, bytes).unwrap_err().to_string();
    let (object, bytes) = readings(0, 1);
    let mut damaged = bytes.to_vec();
    damaged[20] ^= 1;
    assert!(refused(&object, damaged.into()).contains("checksum"));
    let fewer = DataObject { rows: 59, ..object.clone() };
    assert!(refused(&fewer, bytes.clone()).contains("60 rows"));
    let foreign = DataObject { table: Table::Events, ..object };
    assert!(matches!(Archive::default().absorb(&foreign, bytes), Err(ArchiveError::Table { .. })));
}
