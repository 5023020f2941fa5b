//! Rows for the archive: ids become names again, values stay as they were sent.

use model::features::clean::{inner, unit_of};
use polars::prelude::{Column, DataFrame, DataType, IntoColumn, PolarsResult, TimeUnit, TimeZone};
use proto::{
    archive::column,
    asset::Unit,
    wire::telemetry::{Birth, SensorInfo},
};

use super::fleet::Directory;
use crate::decode::{AgentKey, Taken};

/// Not written into files: it is in their path.
pub const SITE: &str = "site";

/// A column of plant times. A cast would lose the time zone, since Polars is built without their names.
pub fn datetime(name: &str, ms: Column) -> PolarsResult<Column> {
    let ms = ms.cast(&DataType::Int64)?.i64()?.clone();
    Ok(ms.into_datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC)).into_column().with_name(name.into()))
}

/// Every cleaned reading, in log order. `taken` is the place of its batch in `run`, `reason` why it is not good.
pub fn readings(
    cleaned: &DataFrame,
    taken: Vec<u32>,
    reason: Vec<u8>,
    run: &[Taken],
    names: &Directory,
) -> PolarsResult<DataFrame> {
    let taken = Column::new("taken".into(), taken);
    let (by_batch, by_series) = (taken.u32()?, cleaned.column(inner::SERIES)?.u32()?);
    let by_unit = cleaned.column(inner::UNIT)?.cast(&DataType::UInt32)?;
    let of_batch = |name: &str, of: fn(&AgentKey) -> &str| {
        let table: Vec<&str> = run.iter().map(|t| of(&t.agent)).collect();
        Column::new(name.into(), table).take(by_batch)
    };
    let seqs: Vec<u64> = run.iter().map(|t| t.position.seq).collect();
    let units: Vec<Option<&str>> = (0..=Unit::ALL.len() as u8).map(|code| unit_of(code).map(Unit::symbol)).collect();
    let columns = vec![
        of_batch(SITE, |a| a.site.as_str())?,
        of_batch(column::AGENT, |a| a.agent.as_str())?,
        Column::new(column::SEQ.into(), seqs).take(by_batch)?,
        names.machine.take(by_series)?,
        names.sensor.take(by_series)?,
        datetime(column::TIME, cleaned.column(inner::TIME)?.clone())?,
        cleaned.column(inner::VALUE)?.clone().with_name(column::VALUE.into()),
        Column::new(column::UNIT.into(), units).take(by_unit.u32()?)?,
        cleaned.column(inner::QUALITY)?.clone().with_name(column::QUALITY.into()),
        Column::new(column::REASON.into(), reason),
        cleaned.column(inner::FLAGS)?.clone().with_name(column::FLAGS.into()),
        names.generation.take(by_series)?,
    ];
    DataFrame::new(cleaned.height(), columns)
}

/// What gateways said they have.
#[derive(Default)]
pub struct Births {
    rows: Vec<BirthRow>,
}

struct BirthRow {
    agent: AgentKey,
    seq: u64,
    sealed_ms: i64,
    machine: [String; 4],
    installed_ms: i64,
    /// None in the one row of a machine without sensors.
    sensor: Option<SensorInfo>,
}

impl Births {
    pub fn push(&mut self, taken: &Taken, sealed_ms: i64, birth: Birth) {
        for machine in birth.machines {
            let sensors: Vec<Option<SensorInfo>> = match machine.sensors {
                none if none.is_empty() => vec![None],
                sensors => sensors.into_iter().map(Some).collect(),
            };
            let names = [machine.machine, machine.kind, machine.make, machine.model];
            self.rows.extend(sensors.into_iter().map(|sensor| BirthRow {
                agent: taken.agent.clone(),
                seq: taken.position.seq,
                sealed_ms,
                machine: names.clone(),
                installed_ms: machine.installed_ms,
                sensor,
            }));
        }
    }

    /// One row per machine and sensor.
    pub fn frame(&self) -> PolarsResult<DataFrame> {
        let rows = &self.rows;
        let text = |name: &str, of: &dyn Fn(&BirthRow) -> Option<String>| {
            Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>())
        };
        let time = |name: &str, of: fn(&BirthRow) -> i64| {
            datetime(name, Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>()))
        };
        let range = |name: &str, of: fn(&SensorInfo) -> f64| {
            Column::new(name.into(), rows.iter().map(|r| r.sensor.as_ref().map(of)).collect::<Vec<_>>())
        };
        let intervals: Vec<_> = rows.iter().map(|r| r.sensor.as_ref().map(|s| s.interval_ms)).collect();
        let columns = vec![
            text(SITE, &|r| Some(r.agent.site.to_string())),
            text(column::AGENT, &|r| Some(r.agent.agent.to_string())),
            Column::new(column::SEQ.into(), rows.iter().map(|r| r.seq).collect::<Vec<_>>()),
            time(column::TIME, |r| r.sealed_ms)?,
            text(column::MACHINE, &|r| Some(r.machine[0].clone())),
            text(column::KIND, &|r| Some(r.machine[1].clone())),
            text(column::MAKE, &|r| Some(r.machine[2].clone())),
            text(column::MODEL, &|r| Some(r.machine[3].clone())),
            time(column::INSTALLED, |r| r.installed_ms)?,
            text(column::SENSOR, &|r| Some(r.sensor.as_ref()?.sensor.clone())),
            text(column::UNIT, &|r| Some(r.sensor.as_ref()?.unit.clone())),
            range(column::RANGE_LOW, |s| s.range_low),
            range(column::RANGE_HIGH, |s| s.range_high),
            Column::new(column::INTERVAL_MS.into(), intervals),
        ];
        DataFrame::new(rows.len(), columns)
    }
}
