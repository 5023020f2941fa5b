//! Which program to run, and which of its names is which sensor.

use std::collections::HashMap;

use proto::asset::AssetId;
use serde::Deserialize;

use crate::source::{
    SourceError,
    live::{MachineConfig, check_machines, refuse, within},
};

pub const STALE_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// In logs and metrics; its program, if it has none.
    pub name: Option<AssetId>,
    /// The program and its arguments; no shell is in between. It runs in the folder of the configuration file.
    pub command: Vec<String>,
    /// Wall time after which a sensor that was not heard of is stale.
    #[serde(default = "stale_after")]
    pub stale_after_ms: u64,
    /// `at`: the name that the program prints.
    pub machines: Vec<MachineConfig<String>>,
}

fn stale_after() -> u64 {
    60_000
}

impl ExecConfig {
    /// Machine and sensor by the program's name for it.
    pub(super) fn names(&self) -> Result<HashMap<String, (usize, usize)>, SourceError> {
        check_machines(&self.machines)?;
        within("stale_after_ms", self.stale_after_ms, &STALE_MS)?;
        if self.command.first().is_none_or(String::is_empty) {
            return refuse("command", "names no program".into());
        }
        let mut names = HashMap::new();
        for (at, machine) in self.machines.iter().enumerate() {
            for (sensor, config) in machine.sensors.iter().enumerate() {
                if config.at.is_empty() || config.at.contains(char::is_whitespace) {
                    return refuse("machines.sensors.at", format!("`{}` is not one word", config.at));
                }
                if names.insert(config.at.clone(), (at, sensor)).is_some() {
                    return refuse("machines.sensors.at", format!("`{}` is there twice", config.at));
                }
            }
        }
        Ok(names)
    }
}
