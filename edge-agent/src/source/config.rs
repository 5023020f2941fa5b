//! Which source an agent reads, from its configuration file.

use std::{fmt, path::Path};

use chrono::{DateTime, NaiveDateTime};
use proto::time::PlantTime;
use serde::{Deserialize, Deserializer, de};

use super::{
    Source, SourceError,
    replay::{Replay, ReplayConfig},
    simulator::{Simulator, SimulatorConfig},
};

/// A source, by `type`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    Simulator(SimulatorConfig),
    Replay(ReplayConfig),
}

impl SourceConfig {
    /// Opens the source. Files are relative to `base_dir`; items at or before `resume_after` are not given again.
    pub fn build(&self, base_dir: &Path, resume_after: Option<PlantTime>) -> Result<Box<dyn Source>, SourceError> {
        let _ = base_dir;
        Ok(match self {
            SourceConfig::Simulator(config) => Box::new(Simulator::new(config, resume_after)?),
            SourceConfig::Replay(config) => Box::new(Replay::open(config, base_dir, resume_after)?),
        })
    }
}

/// Plant time as RFC 3339, as `YYYY-MM-DD hh:mm:ss` (UTC), or as milliseconds since the Unix epoch.
pub(super) fn instant<'de, D: Deserializer<'de>>(input: D) -> Result<PlantTime, D::Error> {
    struct Instant;
    impl de::Visitor<'_> for Instant {
        type Value = PlantTime;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time such as \"2026-01-05T06:00:00Z\", or milliseconds since the Unix epoch")
        }

        fn visit_i64<E: de::Error>(self, ms: i64) -> Result<PlantTime, E> {
            Ok(PlantTime(ms))
        }

        fn visit_u64<E: de::Error>(self, ms: u64) -> Result<PlantTime, E> {
            i64::try_from(ms).map(PlantTime).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(ms), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<PlantTime, E> {
            parse_date_time(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    input.deserialize_any(Instant)
}

/// A date and time; without an offset it is UTC.
pub(super) fn parse_date_time(text: &str) -> Option<PlantTime> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(PlantTime(time.timestamp_millis()));
    }
    let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let time = naive.into_iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    Some(PlantTime(time.and_utc().timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::simulator::{Kind, Mode};

    fn parse(text: &str) -> Result<SourceConfig, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_simulator_needs_no_more_than_its_type() {
        let Ok(SourceConfig::Simulator(config)) = parse("type = 'simulator'") else { panic!() };
        assert_eq!(config, SimulatorConfig::default());
        assert_eq!(config.machines.len(), 24);
    }

    #[test]
    fn machines_are_a_count_or_a_list() {
        let Ok(SourceConfig::Simulator(config)) = parse("type = 'simulator'\nmachines = 30") else { panic!() };
        assert_eq!(config.machines.len(), 30);
        let text = r#"
            type = "simulator"
            start = "2026-01-05T06:00:00Z"
            [[machines]]
            id = "press-1"
            kind = "flexo-printer"
            make = "Kestrel"
            model = "FX-4"
            healthy = true
            [[fault]]
            machine = "press-1"
            mode = "belt_slip"
            onset = 1767600000000
        "#;
        let Ok(SourceConfig::Simulator(config)) = parse(text) else { panic!() };
        assert_eq!((config.machines[0].kind, config.machines[0].healthy), (Kind::FlexoPrinter, true));
        assert_eq!((config.fault[0].mode, config.fault[0].onset), (Mode::BeltSlip, PlantTime(1_767_600_000_000)));
        assert_eq!(config.start, PlantTime(1_767_592_800_000));
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for (text, said) in [
            ("type = 'modbus'", "expected `simulator` or `replay`"),
            ("type = 'simulator'\nspeed = 3", "unknown field `speed`"),
            ("type = 'simulator'\nmachines = 0", "a number of machines from 1 to 10000"),
            ("type = 'simulator'\nstart = 'today'", "a time such as"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
