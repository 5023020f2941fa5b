//! How the kernel presents a value: which files, and in which unit (Documentation/ABI/testing/sysfs-bus-iio and
//! Documentation/hwmon/sysfs-interface.rst).

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use proto::{asset::Unit, wire::telemetry::QualityReason};

use crate::source::Reading;

/// More is no number.
const FILE_BYTES_MAX: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Iio,
    Hwmon,
}

impl Class {
    fn folder(self) -> &'static str {
        match self {
            Class::Iio => "bus/iio/devices",
            Class::Hwmon => "class/hwmon",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    pub class: Class,
    pub name: String,
}

/// A device's folder, looked for by its name when it is needed: its number may be another one after each start.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    device: Option<Device>,
    found: Option<PathBuf>,
    /// Someone was told that several devices have this name.
    told: bool,
}

impl Folder {
    pub fn new(root: PathBuf, device: Option<Device>) -> Self {
        Folder { root, device, found: None, told: false }
    }

    pub fn forget(&mut self) {
        self.found = None;
    }

    fn path(&mut self) -> Result<&Path, QualityReason> {
        if self.found.is_none() {
            self.found = Some(self.find()?);
        }
        self.found.as_deref().ok_or(QualityReason::Disconnected)
    }

    fn find(&mut self) -> Result<PathBuf, QualityReason> {
        let device = self.device.as_ref().ok_or(QualityReason::Disconnected)?;
        let entries = fs::read_dir(self.root.join(device.class.folder())).map_err(|_| QualityReason::Disconnected)?;
        let is_it = |folder: &PathBuf| {
            let named = text(&folder.join("name")).is_ok_and(|name| name.trim() == device.name);
            named || folder.file_name().is_some_and(|name| name == device.name.as_str())
        };
        let mut found = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_it);
        match (found.next(), found.next()) {
            (Some(folder), None) => Ok(folder),
            (None, _) => Err(QualityReason::Disconnected),
            (Some(_), Some(_)) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(device = device.name, "several devices have this name: use a path");
                }
                Err(QualityReason::DeviceError)
            }
        }
    }
}

/// One value, and what brings it into its sensor's unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Channel {
    files: Files,
    scale: f64,
    offset: f64,
}

#[derive(Debug, Clone, PartialEq)]
enum Files {
    Iio(String),
    Hwmon(String),
    One(PathBuf),
}

impl Channel {
    /// A file whose value is taken as it is.
    pub fn file(path: PathBuf) -> Self {
        Channel { files: Files::One(path), scale: 1.0, offset: 0.0 }
    }

    /// Refuses a unit that the channel's kind of value can't be given in.
    pub fn of(class: Class, name: &str, unit: Unit) -> Result<Self, String> {
        let (scale, offset) = match native(class, name) {
            Some((factor, native)) if native.canonical() == unit.canonical() => {
                let ((to, plus), (from, minus)) = (native.to_canonical(), unit.to_canonical());
                (factor * to / from, (plus - minus) / from)
            }
            Some((_, native)) => return Err(format!("`{name}` is in {native}, which can't be given in {unit}")),
            None => (1.0, 0.0),
        };
        let files = match class {
            Class::Iio => Files::Iio(name.into()),
            Class::Hwmon => Files::Hwmon(name.into()),
        };
        Ok(Channel { files, scale, offset })
    }

    /// Blocks as long as the device takes.
    pub fn read(&self, folder: &mut Folder) -> Reading {
        let value = match &self.files {
            Files::One(path) => number(path),
            Files::Iio(name) => folder.path().and_then(|folder| iio(folder, name)),
            Files::Hwmon(name) => folder.path().and_then(|folder| hwmon(folder, name)),
        };
        match value {
            Ok(value) => Reading::good(value * self.scale + self.offset),
            Err(reason) => Reading::bad(reason),
        }
    }
}

/// What a channel's value is times, and in which unit then. None: the kernel's unit is none of ours, such as m/s^2.
fn native(class: Class, name: &str) -> Option<(f64, Unit)> {
    let kind = name.strip_prefix("in_").filter(|_| class == Class::Iio).unwrap_or(name);
    let kind = &kind[..kind.find(|c: char| c == '_' || c.is_ascii_digit()).unwrap_or(kind.len())];
    Some(match (class, kind) {
        (_, "temp") => (1e-3, Unit::Celsius),
        (Class::Iio, "humidityrelative") | (Class::Hwmon, "humidity") => (1e-3, Unit::Percent),
        (Class::Iio, "voltage") | (Class::Hwmon, "in") => (1e-3, Unit::Volt),
        (Class::Iio, "current") | (Class::Hwmon, "curr") => (1e-3, Unit::Ampere),
        (Class::Iio, "pressure") => (1e-2, Unit::Bar),
        (Class::Hwmon, "fan") => (1.0, Unit::RevolutionsPerMinute),
        _ => return None,
    })
}

/// Either the processed value, or the raw one with its offset and scale.
fn iio(folder: &Path, name: &str) -> Result<f64, QualityReason> {
    match number(&folder.join(format!("{name}_input"))) {
        Err(QualityReason::Disconnected) => {}
        read => return read,
    }
    let raw = number(&folder.join(format!("{name}_raw")))?;
    Ok((raw + attribute(folder, name, "offset")?.unwrap_or(0.0)) * attribute(folder, name, "scale")?.unwrap_or(1.0))
}

/// An attribute of one channel, or of all channels of its kind: `in_accel_x_scale`, `in_accel_scale`.
fn attribute(folder: &Path, channel: &str, attribute: &str) -> Result<Option<f64>, QualityReason> {
    let kind = channel.rsplit_once('_').map_or(channel, |(kind, _)| kind);
    for name in [channel, kind, channel.trim_end_matches(|c: char| c.is_ascii_digit())] {
        match number(&folder.join(format!("{name}_{attribute}"))) {
            Err(QualityReason::Disconnected) => {}
            read => return read.map(Some),
        }
    }
    Ok(None)
}

fn hwmon(folder: &Path, name: &str) -> Result<f64, QualityReason> {
    if number(&folder.join(format!("{name}_fault"))).is_ok_and(|fault| fault != 0.0) {
        return Err(QualityReason::DeviceError);
    }
    number(&folder.join(format!("{name}_input")))
}

fn number(path: &Path) -> Result<f64, QualityReason> {
    let text = text(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => QualityReason::Disconnected,
        ErrorKind::TimedOut => QualityReason::Timeout,
        ErrorKind::InvalidData => QualityReason::Unreadable,
        _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => QualityReason::Disconnected,
            _ => QualityReason::DeviceError,
        },
    })?;
    text.trim().parse().map_err(|_| QualityReason::Unreadable)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
