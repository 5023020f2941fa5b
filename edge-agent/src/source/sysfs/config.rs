//! Which file is which sensor.

use std::path::{Path, PathBuf};

use proto::asset::{AssetId, Unit};
use serde::Deserialize;

use super::channel::{Channel, Class, Device};
use crate::source::{
    SourceError,
    live::{MachineConfig, check_interval, check_machines, refuse},
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SysfsConfig {
    /// In logs and metrics; `sysfs`, if it has none.
    pub name: Option<AssetId>,
    /// Where the kernel's tree is mounted.
    #[serde(default = "root")]
    pub root: PathBuf,
    #[serde(default = "interval")]
    pub interval_ms: u64,
    /// For all files of one device.
    #[serde(default = "timeout")]
    pub timeout_ms: u64,
    pub machines: Vec<MachineConfig<Place>>,
}

/// A channel of a device, or a file that holds a number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// What the device's file `name` says, or the name of its folder (`iio:device0`, `hwmon2`), which may change.
    pub device: Option<String>,
    /// As the kernel calls it, without the last part: `in_temp` (IIO), `temp1` (hwmon).
    pub channel: Option<String>,
    pub path: Option<PathBuf>,
}

fn root() -> PathBuf {
    "/sys".into()
}

fn interval() -> u64 {
    1_000
}

fn timeout() -> u64 {
    1_000
}

impl SysfsConfig {
    /// Of each sensor, machine by machine: its device, and how to read it. None: a file that stands for itself.
    pub(super) fn channels(&self, base_dir: &Path) -> Result<Vec<(Option<Device>, Channel)>, SourceError> {
        check_machines(&self.machines)?;
        check_interval(self.interval_ms, self.timeout_ms)?;
        let sensors = self.machines.iter().flat_map(|m| m.sensors.iter().map(move |s| (m, s)));
        let channel = |(machine, sensor): (&MachineConfig<Place>, &crate::source::live::SensorConfig<Place>)| {
            sensor.at.channel(sensor.unit, base_dir).or_else(|reason| {
                refuse("machines.sensors.at", format!("`{}`, `{}`: {reason}", machine.id, sensor.sensor))
            })
        };
        sensors.map(channel).collect()
    }
}

impl Place {
    fn channel(&self, unit: Unit, base_dir: &Path) -> Result<(Option<Device>, Channel), String> {
        match (&self.device, &self.channel, &self.path) {
            (None, None, Some(path)) => Ok((None, Channel::file(base_dir.join(path)))),
            (Some(device), Some(channel), None) => {
                if [device, channel].iter().any(|name| name.is_empty() || name.contains('/')) {
                    return Err("a device and a channel are names, not paths".into());
                }
                let class = if channel.starts_with("in_") { Class::Iio } else { Class::Hwmon };
                Ok((Some(Device { class, name: device.clone() }), Channel::of(class, channel, unit)?))
            }
            _ => Err("needs either `device` and `channel`, or `path`".into()),
        }
    }
}
