//! Rows for the archive that are frames from the beginning.

use polars::prelude::{Column, DataFrame, DataType, IntoColumn, PolarsResult, TimeUnit, TimeZone};
use proto::{
    archive::column,
    wire::telemetry::{Birth, SensorInfo},
};

use crate::decode::{AgentKey, Taken};

/// Not written into files: it is in their path.
pub const SITE: &str = "site";

/// A column of plant times. A cast would lose the time zone, since Polars is built without their names.
pub fn datetime(name: &str, ms: Column) -> PolarsResult<Column> {
    let ms = ms.cast(&DataType::Int64)?.i64()?.clone();
    Ok(ms.into_datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC)).into_column().with_name(name.into()))
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
