//! Which source an agent reads, from its configuration file.

use std::path::Path;

use proto::{
    config::ConfigError,
    time::{PlantTime, wall_now_ms},
};
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeValue, ValueDeserializer},
};

use super::{
    Source, SourceError,
    exec::{self, ExecConfig},
    modbus::{self, ModbusConfig},
    replay::{Replay, ReplayConfig},
    simulator::{START_UNSET, Simulator, SimulatorConfig},
    sysfs::{self, SysfsConfig},
};

/// A source, by `type`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    Simulator(SimulatorConfig),
    Replay(ReplayConfig),
    Modbus(ModbusConfig),
    Sysfs(SysfsConfig),
    Exec(ExecConfig),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    Simulator,
    Replay,
    Modbus,
    Sysfs,
    Exec,
}

const TYPES: &str = "`simulator`, `replay`, `modbus`, `sysfs` or `exec`";

impl SourceConfig {
    /// One `[[source]]` of `text`, read by its type and not from a copy, so that an error knows its line and key.
    pub fn read(file: &str, text: &str, source: Spanned<DeValue<'_>>) -> Result<SourceConfig, ConfigError> {
        let (refused, span) = (|e| ConfigError::toml(file, text, &e), source.span());
        let DeValue::Table(mut table) = source.into_inner() else {
            return Err(ConfigError::at(file, text, span, "a source is a table: [[source]]"));
        };
        let Some(kind) = table.remove("type") else {
            return Err(ConfigError::at(file, text, span, format!("missing field `type`, expected {TYPES}")));
        };
        let kind = Type::deserialize(ValueDeserializer::from(kind)).map_err(refused)?;
        let rest = ValueDeserializer::from(Spanned::new(span, DeValue::Table(table)));
        Ok(match kind {
            Type::Simulator => SourceConfig::Simulator(SimulatorConfig::deserialize(rest).map_err(refused)?),
            Type::Replay => SourceConfig::Replay(ReplayConfig::deserialize(rest).map_err(refused)?),
            Type::Modbus => SourceConfig::Modbus(ModbusConfig::deserialize(rest).map_err(refused)?),
            Type::Sysfs => SourceConfig::Sysfs(SysfsConfig::deserialize(rest).map_err(refused)?),
            Type::Exec => SourceConfig::Exec(ExecConfig::deserialize(rest).map_err(refused)?),
        })
    }

    /// A simulator that is not told when its plant begins gets this time.
    pub fn starting_at(&self, start: PlantTime) -> SourceConfig {
        match self {
            SourceConfig::Simulator(config) if config.start == START_UNSET => {
                SourceConfig::Simulator(SimulatorConfig { start, ..config.clone() })
            }
            other => other.clone(),
        }
    }

    /// Opens the source: checks what it is told and reads the files of a replay, but touches no device before it is
    /// started. Files are relative to `base_dir`; items at or before `resume_after` are not given again.
    pub fn build(&self, base_dir: &Path, resume_after: Option<PlantTime>) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self.starting_at(PlantTime(wall_now_ms())) {
            SourceConfig::Simulator(config) => Box::new(Simulator::new(&config, resume_after)?),
            SourceConfig::Replay(config) => Box::new(Replay::open(&config, base_dir, resume_after)?),
            SourceConfig::Modbus(config) => modbus::build(&config)?,
            SourceConfig::Sysfs(config) => sysfs::build(&config, base_dir)?,
            SourceConfig::Exec(config) => exec::build(&config, base_dir)?,
        })
    }
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
        assert_eq!(config, SimulatorConfig { start: START_UNSET, ..SimulatorConfig::default() });
        assert_eq!(config.machines.len(), 24);
        let started = |source: SourceConfig| match source.starting_at(PlantTime(5)) {
            SourceConfig::Simulator(config) => config.start,
            _ => panic!(),
        };
        assert_eq!(started(SourceConfig::Simulator(config)), PlantTime(5), "at the first start, not in the past");
        assert_eq!(started(parse("type = 'simulator'\nstart = 9").unwrap()), PlantTime(9));
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
            ("type = 'magic'", "expected one of `simulator`, `replay`, `modbus`, `sysfs`, `exec`"),
            ("type = 'simulator'\nspeed = 3", "unknown field `speed`"),
            ("type = 'simulator'\nmachines = 0", "a number of machines from 1 to 10000"),
            ("type = 'simulator'\nstart = 'today'", "a time such as"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
