//! Rows on their way into Parquet: readings, what the machines are, and what befell them.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::{Column, DataFrame, DataType, IntoColumn, PolarsResult, Schema};
use polars_io::parquet::write::{ParquetCompression, ParquetWriter};
use polars_utils::compression::ZstdLevel;
use proto::{
    archive::{Table, column, event_kind_text},
    asset::{AssetId, Unit},
    time::PlantTime,
    wire::telemetry::EventKind,
};

use super::mapping::{Mapping, Sensor};
use crate::store::schema;

/// Readings are held and written so many at a time.
pub const BLOCK_READINGS_MAX: usize = 500_000;
/// Days, that is objects, that one commit has at most.
pub const BLOCK_DAYS_MAX: usize = 400;
const ZSTD_LEVEL: i32 = 3;
const DAY_MS: i64 = 86_400_000;

/// One Parquet file.
pub struct Part {
    pub table: Table,
    pub date: String,
    pub bytes: Vec<u8>,
    pub rows: u64,
    pub min_time_ms: i64,
    pub max_time_ms: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub machine: AssetId,
    /// Place in the mapping's sensors.
    pub sensor: u16,
    pub time_ms: i64,
    pub value: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    pub machine: AssetId,
    pub time_ms: i64,
    pub kind: EventKind,
    pub code: String,
    pub mode: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineRow {
    pub kind: Option<AssetId>,
    pub make: String,
    pub model: String,
    pub installed_ms: i64,
    pub first_ms: i64,
    pub last_ms: i64,
}

/// Readings that will be one commit.
#[derive(Default)]
pub struct Block {
    readings: Vec<Reading>,
    days: BTreeSet<i64>,
}

impl Block {
    pub fn push(&mut self, reading: Reading) {
        self.days.insert(reading.time_ms.div_euclid(DAY_MS));
        self.readings.push(reading);
    }

    pub fn len(&self) -> usize {
        self.readings.len()
    }

    pub fn is_full(&self) -> bool {
        self.readings.len() >= BLOCK_READINGS_MAX || self.days.len() >= BLOCK_DAYS_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    /// Files by day, rows in their order.
    pub fn parts(&self, mapping: &Mapping, seq: u64) -> PolarsResult<Vec<Part>> {
        let frame = |rows: &[&Reading]| readings_frame(rows, mapping, seq);
        parts(Table::Readings, &self.readings, |r| r.time_ms, frame)
    }
}

pub fn event_parts(events: &[EventRow], mapping: &Mapping, seq: u64) -> PolarsResult<Vec<Part>> {
    parts(Table::Events, events, |e| e.time_ms, |rows| events_frame(rows, mapping, seq))
}

/// A machine is known from its first reading on.
pub fn birth_parts(machines: &BTreeMap<AssetId, MachineRow>, mapping: &Mapping, seq: u64) -> PolarsResult<Vec<Part>> {
    let sensors = &mapping.readings.sensors;
    let rows: Vec<_> = machines.iter().flat_map(|(name, m)| sensors.iter().map(move |s| (name, m, s))).collect();
    parts(Table::Births, &rows, |(_, m, _)| m.first_ms, |rows| births_frame(rows, mapping, seq))
}

fn parts<R>(
    table: Table,
    rows: &[R],
    time: impl Fn(&R) -> i64,
    frame: impl Fn(&[&R]) -> PolarsResult<DataFrame>,
) -> PolarsResult<Vec<Part>> {
    let mut days: BTreeMap<i64, Vec<&R>> = BTreeMap::new();
    rows.iter().for_each(|row| days.entry(time(row).div_euclid(DAY_MS)).or_default().push(row));
    days.into_iter()
        .map(|(day, rows)| {
            let times = || rows.iter().map(|row| time(row));
            let (min_time_ms, max_time_ms) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
            let (date, bytes) = (PlantTime(day * DAY_MS).date(), encode(frame(&rows)?)?);
            Ok(Part { table, date, bytes, rows: rows.len() as u64, min_time_ms, max_time_ms })
        })
        .collect()
}

fn encode(mut frame: DataFrame) -> PolarsResult<Vec<u8>> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(Some(ZstdLevel::try_new(ZSTD_LEVEL)?)))
        .set_parallel(false)
        .finish(&mut frame)?;
    Ok(bytes)
}

fn readings_frame(rows: &[&Reading], mapping: &Mapping, seq: u64) -> PolarsResult<DataFrame> {
    let sensor = |r: &&Reading| &mapping.readings.sensors[usize::from(r.sensor)];
    let all = |value: u8| Column::new("".into(), vec![value; rows.len()]);
    of_schema(&schema::readings(), rows.len(), |name| match name {
        column::AGENT => text(rows.iter().map(|_| Some(mapping.source.as_str()))),
        column::SEQ => Column::new("".into(), vec![seq; rows.len()]),
        column::MACHINE => text(rows.iter().map(|r| Some(r.machine.as_str()))),
        column::SENSOR => text(rows.iter().map(|r| Some(sensor(r).name.as_str()))),
        column::TIME => int(rows.iter().map(|r| r.time_ms)),
        column::VALUE => float(rows.iter().map(|r| r.value)),
        column::UNIT => text(rows.iter().map(|r| Some(sensor(r).unit.symbol()))),
        // Good, for no other reason, with no flag, in the machine's first time.
        _ => all(0),
    })
}

fn events_frame(rows: &[&EventRow], mapping: &Mapping, seq: u64) -> PolarsResult<DataFrame> {
    of_schema(&schema::events(), rows.len(), |name| match name {
        column::AGENT => text(rows.iter().map(|_| Some(mapping.source.as_str()))),
        column::SEQ => Column::new("".into(), vec![seq; rows.len()]),
        column::MACHINE => text(rows.iter().map(|e| Some(e.machine.as_str()))),
        // A foreign table does not say when a record was made: when it happened.
        column::TIME | column::KNOWN => int(rows.iter().map(|e| e.time_ms)),
        column::KIND => text(rows.iter().map(|e| Some(event_kind_text(e.kind)))),
        column::CODE => text(rows.iter().map(|e| Some(e.code.as_str()))),
        column::MODE => text(rows.iter().map(|e| Some(e.mode.as_str()))),
        _ => text(rows.iter().map(|_| Some(""))),
    })
}

fn births_frame(rows: &[&(&AssetId, &MachineRow, &Sensor)], mapping: &Mapping, seq: u64) -> PolarsResult<DataFrame> {
    let range = |end: usize| float(rows.iter().map(move |(_, _, s)| s.range.map_or(f64::NAN, |range| range[end])));
    of_schema(&schema::births(), rows.len(), |name| match name {
        column::AGENT => text(rows.iter().map(|_| Some(mapping.source.as_str()))),
        column::SEQ => Column::new("".into(), vec![seq; rows.len()]),
        column::TIME => int(rows.iter().map(|(_, m, _)| m.first_ms)),
        column::MACHINE => text(rows.iter().map(|(name, ..)| Some(name.as_str()))),
        column::KIND => text(rows.iter().map(|(_, m, _)| m.kind.as_ref().map(AssetId::as_str))),
        column::MAKE => text(rows.iter().map(|(_, m, _)| Some(m.make.as_str()))),
        column::MODEL => text(rows.iter().map(|(_, m, _)| Some(m.model.as_str()))),
        column::INSTALLED => int(rows.iter().map(|(_, m, _)| m.installed_ms)),
        column::SENSOR => text(rows.iter().map(|(_, _, s)| Some(s.name.as_str()))),
        column::UNIT => text(rows.iter().map(|(_, _, s)| Some(Unit::symbol(s.unit)))),
        column::RANGE_LOW => range(0),
        column::RANGE_HIGH => range(1),
        _ => Column::new("".into(), rows.iter().map(|(_, _, s)| s.interval_ms).collect::<Vec<_>>()),
    })
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Column {
    Column::new("".into(), values.collect::<Vec<_>>())
}

fn int(values: impl Iterator<Item = i64>) -> Column {
    Column::new("".into(), values.collect::<Vec<_>>())
}

fn float(values: impl Iterator<Item = f64>) -> Column {
    Column::new("".into(), values.collect::<Vec<_>>())
}

/// A frame with the columns of the table's one schema.
fn of_schema(schema: &Schema, rows: usize, of: impl Fn(&str) -> Column) -> PolarsResult<DataFrame> {
    let column = |(name, dtype): (&polars::prelude::PlSmallStr, &DataType)| {
        let column = of(name);
        let typed = match dtype {
            // A cast would lose the time zone, since Polars is built without their names.
            DataType::Datetime(unit, zone) => column.i64()?.clone().into_datetime(*unit, zone.clone()).into_column(),
            other => column.cast(other)?,
        };
        Ok(typed.with_name(name.clone()))
    };
    DataFrame::new(rows, schema.iter().map(column).collect::<PolarsResult<Vec<_>>>()?)
}
