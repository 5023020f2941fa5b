//! Which column of a file is what.

use std::{cmp::Ordering, fmt, path::PathBuf};

use proto::{
    asset::{AssetId, Unit},
    time::{PlantTime, maybe_instant},
    wire::telemetry::EventKind,
};
use serde::{Deserialize, Deserializer};

use crate::source::SourceError;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Files of readings, merged by time: one row holds what one machine's sensors read at one instant.
    pub files: Vec<PathBuf>,
    #[serde(default)]
    pub separator: Separator,
    /// Whether the first line names the columns.
    #[serde(default = "yes")]
    pub header: bool,
    pub time: TimeColumn,
    pub machine: MachineColumn,
    pub kind: AssetId,
    #[serde(default)]
    pub make: String,
    #[serde(default)]
    pub model: String,
    /// Time between two readings of a sensor; 0: not known.
    #[serde(default)]
    pub interval_ms: u64,
    pub sensors: Vec<SensorColumn>,
    #[serde(default)]
    pub events: Vec<EventsConfig>,
}

/// A file of event records; those of machines that have no readings are left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    pub file: PathBuf,
    #[serde(default)]
    pub separator: Separator,
    #[serde(default = "yes")]
    pub header: bool,
    pub time: TimeColumn,
    pub machine: MachineColumn,
    #[serde(deserialize_with = "event_kind")]
    pub kind: EventKind,
    /// Column with the failure mode.
    pub mode: Option<Column>,
    /// Column with the error or part number.
    pub code: Option<Column>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Separator {
    #[default]
    Comma,
    Semicolon,
    Tab,
    /// Any run of spaces and tabs.
    Whitespace,
}

/// By name, or by number from 1.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a column's name, or its number from 1")]
pub enum Column {
    Number(usize),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeColumn {
    pub column: Column,
    #[serde(default)]
    pub format: TimeFormat,
    /// With `step`: plant time between two steps.
    pub step_ms: Option<i64>,
    /// With `step`: plant time of step 0.
    #[serde(default, deserialize_with = "maybe_instant")]
    pub start: Option<PlantTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// RFC 3339, or `YYYY-MM-DD hh:mm:ss` in UTC.
    #[default]
    DateTime,
    UnixS,
    UnixMs,
    /// A running number.
    Step,
}

/// As the configuration spells it.
impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeFormat::DateTime => "date_time",
            TimeFormat::UnixS => "unix_s",
            TimeFormat::UnixMs => "unix_ms",
            TimeFormat::Step => "step",
        })
    }
}

/// Either a column, or one machine for the whole file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineColumn {
    pub column: Option<Column>,
    /// Set before what the column says: machine names are unique in a site, numbers in a file are not.
    #[serde(default)]
    pub prefix: String,
    pub id: Option<AssetId>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorColumn {
    pub column: Column,
    pub sensor: AssetId,
    pub unit: Unit,
    /// What the sensor can report; without it, any number.
    #[serde(default = "lowest")]
    pub low: f64,
    #[serde(default = "highest")]
    pub high: f64,
}

fn yes() -> bool {
    true
}

fn lowest() -> f64 {
    f64::MIN
}

fn highest() -> f64 {
    f64::MAX
}

fn event_kind<'de, D: Deserializer<'de>>(input: D) -> Result<EventKind, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Name {
        Failure,
        Maintenance,
        Error,
        Replacement,
    }
    Ok(match Name::deserialize(input)? {
        Name::Failure => EventKind::Failure,
        Name::Maintenance => EventKind::Maintenance,
        Name::Error => EventKind::Error,
        Name::Replacement => EventKind::Replacement,
    })
}

impl ReplayConfig {
    pub(super) fn check(&self) -> Result<(), SourceError> {
        if self.files.is_empty() {
            return refuse("files", "names no file".into());
        }
        if self.sensors.is_empty() {
            return refuse("sensors", "names no sensor".into());
        }
        for (i, column) in self.sensors.iter().enumerate() {
            if self.sensors[..i].iter().any(|before| before.sensor == column.sensor) {
                return refuse("sensors", format!("`{}` is there twice", column.sensor));
            }
            // NaN has no order.
            if column.low.partial_cmp(&column.high) != Some(Ordering::Less) {
                let reason = format!("`{}`: low {} is not below high {}", column.sensor, column.low, column.high);
                return refuse("sensors", reason);
            }
        }
        self.time.check("time")?;
        self.machine.check("machine")?;
        self.events.iter().try_for_each(|events| {
            events.time.check("events.time")?;
            events.machine.check("events.machine")
        })
    }
}

impl TimeColumn {
    fn check(&self, key: &str) -> Result<(), SourceError> {
        let is_step = self.format == TimeFormat::Step;
        match (self.step_ms, self.start) {
            (Some(step), Some(_)) if is_step && step > 0 => Ok(()),
            (None, None) if !is_step => Ok(()),
            _ if is_step => refuse(key, "format `step` needs `step_ms` (above 0) and `start`".into()),
            _ => refuse(key, "`step_ms` and `start` go with the format `step` only".into()),
        }
    }
}

impl MachineColumn {
    fn check(&self, key: &str) -> Result<(), SourceError> {
        if self.column.is_some() == self.id.is_some() {
            return refuse(key, "needs either `column` or `id`".into());
        }
        Ok(())
    }
}

fn refuse(key: &str, reason: String) -> Result<(), SourceError> {
    Err(SourceError::Config { key: key.into(), reason })
}
