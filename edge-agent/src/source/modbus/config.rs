//! Which register of which device is what.

use std::path::PathBuf;

use proto::asset::AssetId;
use serde::Deserialize;

use super::{
    plan::Table,
    value::{Number, Order},
};
use crate::source::{
    SourceError,
    live::{MachineConfig, check_interval, check_machines, refuse},
};

/// The port that Modbus TCP has for itself.
pub const PORT_DEFAULT: u16 = 502;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModbusConfig {
    /// In logs and metrics; its URL, if it has none.
    pub name: Option<AssetId>,
    /// `tcp://host:port`, or `rtu:///dev/ttyUSB0`. A source is one connection.
    pub url: String,
    /// For `rtu://`.
    pub serial: Option<SerialConfig>,
    #[serde(default = "interval")]
    pub interval_ms: u64,
    /// For connecting, and for the answer to one request.
    #[serde(default = "timeout")]
    pub timeout_ms: u64,
    /// Of registers that do not say it themselves.
    #[serde(default = "unit_id")]
    pub unit_id: u8,
    #[serde(default)]
    pub word_order: Order,
    #[serde(default)]
    pub byte_order: Order,
    pub machines: Vec<MachineConfig<Register>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SerialConfig {
    pub baud: u32,
    pub parity: Parity,
    pub stop_bits: u8,
}

/// What the specification of Modbus over serial line wants a device to begin with.
impl Default for SerialConfig {
    fn default() -> Self {
        SerialConfig { baud: 19_200, parity: Parity::Even, stop_bits: 1 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// A place in a device, as the protocol counts: from 0, in a table of its own (40001 in a manual is `holding`, 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub unit_id: Option<u8>,
    pub table: Table,
    pub address: u16,
    /// `u16` in a table of registers, `bool` in one of bits.
    #[serde(rename = "type")]
    pub number: Option<Number>,
    pub word_order: Option<Order>,
    pub byte_order: Option<Order>,
}

fn interval() -> u64 {
    1_000
}

fn timeout() -> u64 {
    1_000
}

fn unit_id() -> u8 {
    1
}

/// What a source connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tcp(String),
    Rtu { path: PathBuf, serial: SerialConfig },
}

impl Register {
    pub fn number(&self) -> Number {
        self.number.unwrap_or(if self.table.is_bits() { Number::Bool } else { Number::U16 })
    }
}

impl ModbusConfig {
    pub(super) fn check(&self) -> Result<Target, SourceError> {
        check_machines(&self.machines)?;
        check_interval(self.interval_ms, self.timeout_ms)?;
        for (machine, sensor) in self.machines.iter().flat_map(|m| m.sensors.iter().map(move |s| (m, s))) {
            let refuse = |reason: String| {
                refuse("machines.sensors.at", format!("`{}`, `{}`: {reason}", machine.id, sensor.sensor))
            };
            let at = &sensor.at;
            if at.table.is_bits() && at.number() != Number::Bool {
                refuse("a coil or discrete input is a bool".into())?;
            }
            if u32::from(at.address) + u32::from(at.number().registers()) > 1 << 16 {
                refuse(format!("address {} leaves no room for its type", at.address))?;
            }
        }
        self.target()
    }

    fn target(&self) -> Result<Target, SourceError> {
        let wrong = |reason: &str| refuse("url", format!("`{}` {reason}", self.url));
        match (self.url.split_once("://"), self.serial) {
            (Some(("tcp", _)), Some(_)) => wrong("has no `serial`"),
            (Some(("tcp", host)), None) if !host.is_empty() && !host.contains('/') => {
                // A last colon within brackets belongs to an IPv6 address.
                let port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
                match port.map(|(_, port)| port.parse::<u16>()) {
                    None => Ok(Target::Tcp(format!("{host}:{PORT_DEFAULT}"))),
                    Some(Ok(_)) => Ok(Target::Tcp(host.into())),
                    Some(Err(_)) => wrong("has a port that is no number to 65535"),
                }
            }
            (Some(("rtu", path)), serial) if path.starts_with('/') => {
                let serial = serial.unwrap_or_default();
                if !(300..=4_000_000).contains(&serial.baud) {
                    return wrong(&format!("at {} baud: 300 to 4000000 are possible", serial.baud));
                }
                if !(1..=2).contains(&serial.stop_bits) {
                    return wrong(&format!("with {} stop bits: 1 or 2 are possible", serial.stop_bits));
                }
                Ok(Target::Rtu { path: path.into(), serial })
            }
            _ => wrong("is not tcp://host:port or rtu:///dev/..."),
        }
    }
}
