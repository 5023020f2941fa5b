//! Machines and their sensors as any live source is told about them; only where a sensor is found (`at`) differs.

use std::{cmp::Ordering, collections::HashSet, fmt::Display, ops::RangeInclusive, time::Duration};

use proto::{
    asset::{AssetId, Unit},
    wire::telemetry::{MachineInfo, SensorInfo},
};
use serde::Deserialize;

use super::{
    Machines,
    exception::{Exception, SILENCE_MS_DEFAULT},
    outlet::{Gauge, Machine},
};
use crate::source::SourceError;

/// Wall time between two readings of a sensor.
pub const INTERVAL_MS: RangeInclusive<u64> = 10..=3_600_000;
/// Longer than this, a device that answers nothing would cost too many slots.
pub const TIMEOUT_MS: RangeInclusive<u64> = 10..=60_000;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig<A> {
    pub id: AssetId,
    pub kind: AssetId,
    #[serde(default)]
    pub make: String,
    #[serde(default)]
    pub model: String,
    pub sensors: Vec<SensorConfig<A>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorConfig<A> {
    pub sensor: AssetId,
    pub unit: Unit,
    /// Where it is found.
    pub at: A,
    /// The value is what the device says, times this, plus the offset.
    #[serde(default = "one")]
    pub scale: f64,
    #[serde(default)]
    pub offset: f64,
    /// What the sensor can report, in its unit; a value outside is bad. Without it, any number.
    #[serde(default = "lowest")]
    pub low: f64,
    #[serde(default = "highest")]
    pub high: f64,
    /// Report by exception: a value that differs by no more from the last one reported, in the unit, is not reported.
    pub deadband: Option<f64>,
    /// With `deadband`: wall time after which it is reported all the same.
    pub silence_max_ms: Option<u64>,
}

fn one() -> f64 {
    1.0
}

fn lowest() -> f64 {
    f64::MIN
}

fn highest() -> f64 {
    f64::MAX
}

impl Machines {
    /// `interval_ms`: wall time between two readings; 0 where the device decides.
    pub fn new<A>(configs: &[MachineConfig<A>], interval_ms: u64) -> Self {
        Machines {
            infos: configs.iter().map(|machine| machine.info(interval_ms)).collect(),
            gauges: configs.iter().map(MachineConfig::gauges).collect(),
        }
    }
}

impl<A> MachineConfig<A> {
    fn info(&self, interval_ms: u64) -> MachineInfo {
        let sensors = self.sensors.iter().map(|s| SensorInfo {
            sensor: s.sensor.to_string(),
            unit: s.unit.symbol().into(),
            range_low: s.low,
            range_high: s.high,
            interval_ms,
        });
        MachineInfo {
            machine: self.id.to_string(),
            kind: self.kind.to_string(),
            make: self.make.clone(),
            model: self.model.clone(),
            installed_ms: 0,
            sensors: sensors.collect(),
        }
    }

    fn gauges(&self) -> Machine {
        let gauge = |s: &SensorConfig<A>| Gauge {
            scale: s.scale,
            offset: s.offset,
            range: s.low..=s.high,
            exception: Exception::new(
                s.deadband,
                Duration::from_millis(s.silence_max_ms.unwrap_or(SILENCE_MS_DEFAULT)),
            ),
        };
        Machine { id: self.id.clone(), gauges: self.sensors.iter().map(gauge).collect() }
    }
}

impl<A> SensorConfig<A> {
    fn check(&self, machine: &AssetId) -> Result<(), SourceError> {
        let refuse = |key: &str, reason: String| refuse(key, format!("`{machine}`, `{}`: {reason}", self.sensor));
        if !(self.scale.is_finite() && self.scale != 0.0 && self.offset.is_finite()) {
            return refuse(
                "machines.sensors.scale",
                format!("{} and offset {} give no value", self.scale, self.offset),
            );
        }
        // NaN has no order.
        if self.low.partial_cmp(&self.high) != Some(Ordering::Less) {
            return refuse("machines.sensors.low", format!("{} is not below high {}", self.low, self.high));
        }
        match (self.deadband, self.silence_max_ms) {
            (Some(deadband), _) if !(deadband >= 0.0 && deadband.is_finite()) => {
                refuse("machines.sensors.deadband", format!("{deadband} is not a number from 0"))
            }
            (None, Some(_)) => refuse("machines.sensors.silence_max_ms", "goes with `deadband` only".into()),
            _ => Ok(()),
        }
    }
}

pub fn check_machines<A>(machines: &[MachineConfig<A>]) -> Result<(), SourceError> {
    if machines.is_empty() {
        return refuse("machines", "names no machine".into());
    }
    let mut ids = HashSet::new();
    for machine in machines {
        if !ids.insert(&machine.id) {
            return refuse("machines", format!("`{}` is there twice", machine.id));
        }
        if machine.sensors.is_empty() {
            return refuse("machines.sensors", format!("`{}` has no sensor", machine.id));
        }
        let mut names = HashSet::new();
        for sensor in &machine.sensors {
            if !names.insert(&sensor.sensor) {
                return refuse("machines.sensors", format!("`{}`: `{}` is there twice", machine.id, sensor.sensor));
            }
            sensor.check(&machine.id)?;
        }
    }
    Ok(())
}

pub fn check_interval(interval_ms: u64, timeout_ms: u64) -> Result<(), SourceError> {
    within("interval_ms", interval_ms, &INTERVAL_MS)?;
    within("timeout_ms", timeout_ms, &TIMEOUT_MS)
}

pub fn within<N: PartialOrd + Display>(key: &str, value: N, range: &RangeInclusive<N>) -> Result<(), SourceError> {
    match range.contains(&value) {
        true => Ok(()),
        false => refuse(key, format!("{value} is not within {} to {}", range.start(), range.end())),
    }
}

pub fn refuse<T>(key: &str, reason: String) -> Result<T, SourceError> {
    Err(SourceError::Config { key: key.into(), reason })
}
