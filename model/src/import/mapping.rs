//! What the columns of foreign CSV files mean: a TOML file beside them.

use std::path::PathBuf;

use chrono::{NaiveDate, NaiveDateTime};
use proto::{
    archive::event_kind,
    asset::{AssetId, Unit},
    config::ConfigError,
    wire::telemetry::EventKind,
};
use serde::Deserialize;

/// Larger files are no mapping.
pub const MAPPING_BYTES_MAX: u64 = 1024 * 1024;
const YEAR_MS: f64 = 365.25 * 24.0 * 3_600_000.0;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    pub site: AssetId,
    /// Stands where otherwise a gateway's name does.
    pub source: AssetId,
    pub readings: ReadingsFile,
    #[serde(default)]
    pub events: Vec<EventsFile>,
    /// Make, model and age; without it machines are what `readings.machine` says.
    pub machines: Option<MachinesFile>,
}

/// A file, and how it is cut into cells.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Relative to the folder that `--data` names.
    pub file: PathBuf,
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Names of the columns in a file without a header.
    #[serde(default)]
    pub columns: Vec<String>,
}

fn comma() -> char {
    ','
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingsFile {
    pub source: Source,
    pub machine: MachineColumn,
    pub time: TimeColumn,
    pub sensors: Vec<Sensor>,
    /// The failure that follows each machine's last row: for runs to failure.
    pub ends_in: Option<End>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub mode: String,
    /// So long after the last row, ms.
    pub after_ms: i64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineColumn {
    pub column: String,
    /// Before what the column says.
    #[serde(default)]
    pub prefix: String,
    pub kind: Kind,
}

/// What kind of machine it is: the same for all, or in a column.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    All(AssetId),
    Column(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "TimeKeys")]
pub struct TimeColumn {
    pub column: String,
    pub form: TimeForm,
    /// Added, ms.
    pub offset_ms: i64,
}

#[derive(Debug, Clone)]
pub enum TimeForm {
    /// As in `strftime`; taken to be UTC.
    Format(String),
    /// A number, each of which is so many ms since 1970.
    EachMs(i64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeKeys {
    column: String,
    format: Option<String>,
    each_ms: Option<i64>,
    #[serde(default)]
    offset_ms: i64,
}

impl TryFrom<TimeKeys> for TimeColumn {
    type Error = &'static str;
    fn try_from(keys: TimeKeys) -> Result<Self, Self::Error> {
        let form = match (keys.format, keys.each_ms) {
            (Some(format), None) => TimeForm::Format(format),
            (None, Some(each)) => TimeForm::EachMs(each),
            _ => return Err("either `format` or `each_ms`"),
        };
        Ok(TimeColumn { column: keys.column, form, offset_ms: keys.offset_ms })
    }
}

impl TimeColumn {
    pub fn parse(&self, cell: &str) -> Result<i64, String> {
        let ms = match &self.form {
            TimeForm::Format(format) => match NaiveDateTime::parse_from_str(cell, format) {
                Ok(time) => time.and_utc().timestamp_millis(),
                Err(e) => return Err(format!("`{cell}` is not a time like {format}: {e}")),
            },
            TimeForm::EachMs(each) => match cell.parse::<i64>() {
                Ok(number) => number.saturating_mul(*each),
                Err(_) => return Err(format!("`{cell}` is not a whole number")),
            },
        };
        Ok(ms.saturating_add(self.offset_ms))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensor {
    pub column: String,
    pub name: AssetId,
    pub unit: Unit,
    /// What it can physically report, in its unit.
    pub range: Option<[f64; 2]>,
    /// 0: not known.
    #[serde(default)]
    pub interval_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsFile {
    pub source: Source,
    pub machine: EventMachine,
    pub time: TimeColumn,
    /// error, failure, maintenance or replacement.
    #[serde(deserialize_with = "kind")]
    pub kind: EventKind,
    #[serde(default)]
    pub code: Text,
    #[serde(default)]
    pub mode: Text,
    /// Only rows whose column says so.
    pub only: Option<Only>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventMachine {
    pub column: String,
    #[serde(default)]
    pub prefix: String,
}

/// Where a text comes from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Text {
    #[default]
    None,
    /// The same in every row.
    Always(String),
    Column(String),
    /// Names of those of the columns that say 1, joined by `+`.
    Flags(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    pub column: String,
    pub is: String,
}

fn kind<'de, D: serde::Deserializer<'de>>(from: D) -> Result<EventKind, D::Error> {
    match event_kind(&String::deserialize(from)?) {
        EventKind::Unspecified => Err(serde::de::Error::custom("error, failure, maintenance or replacement")),
        kind => Ok(kind),
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinesFile {
    pub source: Source,
    pub column: String,
    pub make: Option<String>,
    pub model: Option<String>,
    pub age: Option<Age>,
}

/// Age in years on a day: `installed` is so much earlier.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Age {
    pub column: String,
    /// Like 2015-01-01.
    #[serde(deserialize_with = "date")]
    pub on: NaiveDate,
}

fn date<'de, D: serde::Deserializer<'de>>(from: D) -> Result<NaiveDate, D::Error> {
    String::deserialize(from)?.parse().map_err(|_| serde::de::Error::custom("a date like 2015-01-01"))
}

impl Age {
    /// When a machine of this age was installed, plant ms.
    pub fn installed(&self, cell: &str) -> Result<i64, String> {
        let years: f64 = cell.parse().map_err(|_| format!("`{cell}` is not a number of years"))?;
        let on = self.on.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
        Ok(on - (years * YEAR_MS) as i64)
    }
}

impl Mapping {
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        proto::config::parse(file, text)
    }

    /// Every file that is read, once.
    pub fn files(&self) -> Vec<&PathBuf> {
        let sources = std::iter::once(&self.readings.source).chain(self.events.iter().map(|e| &e.source));
        let mut files: Vec<_> = sources.chain(self.machines.iter().map(|m| &m.source)).map(|s| &s.file).collect();
        files.sort();
        files.dedup();
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let time = |form, offset_ms| TimeColumn { column: "t".into(), form, offset_ms };
        let stamp = time(TimeForm::Format("%Y-%m-%d %H:%M:%S".into()), 0);
        assert_eq!(stamp.parse("1970-01-02 00:00:01"), Ok(86_401_000));
        assert!(stamp.parse("1970-13-02 00:00:01").unwrap_err().starts_with("`1970-13-02 00:00:01` is not a time"));
        assert_eq!(time(TimeForm::EachMs(60_000), 5).parse("3"), Ok(180_005));
        assert!(time(TimeForm::EachMs(60_000), 0).parse("3.5").is_err());
    }

    #[test]
    fn an_age_is_told_from_its_day() {
        let age = Age { column: "age".into(), on: NaiveDate::from_ymd_opt(1971, 1, 1).unwrap() };
        assert_eq!(age.installed("1"), Ok(365 * 86_400_000 - YEAR_MS as i64));
        assert!(age.installed("old").is_err());
    }
}
