//! Readings by machine in plain columns, with the names as small numbers.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::{Column, DataFrame, DataType, PlSmallStr, PolarsError, PolarsResult, TimeUnit, TimeZone};
use proto::{archive::column, asset::AssetId, time::PlantTime};

use crate::features::clean::flag;

pub const COLUMNS: &[&str] = &[
    column::MACHINE,
    column::SENSOR,
    column::TIME,
    column::VALUE,
    column::UNIT,
    column::QUALITY,
    column::FLAGS,
    column::GENERATION,
];

/// Names of sensors, or of units, as many as ids have numbers; an archive that has more is not from a plant.
const NAMES_MAX: usize = u16::MAX as usize + 1;

#[derive(Default)]
pub struct Readings {
    /// By name, so that the dataset's order does not depend on the log's; None: left out.
    machines: BTreeMap<String, Option<Machine>>,
    /// Of all machines, that are left out.
    left_out: f64,
    sensors: Names,
    units: Names,
}

/// In the order of the log.
#[derive(Default)]
struct Machine {
    time: Vec<i64>,
    sensor: Vec<u16>,
    value: Vec<f64>,
    unit: Vec<u16>,
    quality: Vec<u8>,
    flags: Vec<u32>,
    /// From this row on it is that generation; before the first one it is 0.
    generations: Vec<(usize, u32)>,
    /// The highest generation, and its newest reading.
    newest: (u32, PlantTime),
}

#[derive(Default)]
struct Names {
    names: Vec<String>,
    ids: HashMap<String, u16>,
}

impl Names {
    fn id(&mut self, name: &str) -> PolarsResult<u16> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = u16::try_from(self.names.len())
            .map_err(|_| PolarsError::ComputeError(format!("more than {NAMES_MAX} names").into()))?;
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        Ok(id)
    }
}

impl Readings {
    pub fn len(&self) -> usize {
        self.held().map(|m| m.time.len()).sum()
    }

    /// From now on only this share of the machines, by a hash of their names, so that it is always the same ones. They are
    /// taken from the other end than those of a trial: that one is to judge machines that nobody learnt from, too.
    pub fn take_share(&mut self, share: f64) {
        self.left_out = 1.0 - share;
    }

    fn held(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values().flatten()
    }

    /// Stamp of the newest reading that did not come from the future, nor from a clock that was found to be wrong.
    pub fn newest(&self) -> PlantTime {
        self.held().map(|m| m.newest.1).max().unwrap_or_default()
    }

    pub fn absorb(&mut self, frame: &DataFrame) -> PolarsResult<()> {
        let (machines, sensors) = (frame.column(column::MACHINE)?.str()?, frame.column(column::SENSOR)?.str()?);
        let units = frame.column(column::UNIT)?.str()?;
        let times = frame.column(column::TIME)?.to_physical_repr().cast(&DataType::Int64)?;
        let (times, values) = (times.i64()?, frame.column(column::VALUE)?.f64()?);
        let quality = frame.column(column::QUALITY)?.cast(&DataType::UInt8)?;
        let flags = frame.column(column::FLAGS)?.cast(&DataType::UInt32)?;
        let (quality, flags) = (quality.u8()?, flags.u32()?);
        let generations = frame.column(column::GENERATION).and_then(|g| g.cast(&DataType::UInt32)).ok();
        let generations = generations.as_ref().map(Column::u32).transpose()?;
        let names = machines.iter().zip(sensors.iter()).zip(units.iter());
        let numbers = times.iter().zip(values.iter()).zip(quality.iter().zip(flags.iter()));
        for (row, (((machine, sensor), unit), ((time, value), (quality, flags)))) in names.zip(numbers).enumerate() {
            let (Some(machine), Some(sensor), Some(time)) = (machine, sensor, time) else { continue };
            let own = match self.machines.get_mut(machine) {
                Some(own) => own,
                None => {
                    let held = AssetId::new(machine).is_ok_and(|name| name.fraction() >= self.left_out);
                    self.machines.entry(machine.to_owned()).or_insert(held.then(Machine::default))
                }
            };
            let Some(own) = own else { continue };
            let (sensor, unit) = (self.sensors.id(sensor)?, self.units.id(unit.unwrap_or_default())?);
            own.time.push(time);
            own.sensor.push(sensor);
            own.value.push(value.unwrap_or(f64::NAN));
            own.unit.push(unit);
            own.quality.push(quality.unwrap_or_default());
            let flags = flags.unwrap_or_default();
            own.flags.push(flags);
            let generation = generations.and_then(|g| g.get(row)).unwrap_or_default();
            own.is_of(generation);
            if flags & (flag::FUTURE | flag::UNTRUSTED) == 0 {
                own.newest = own.newest.max((generation, PlantTime(time)));
            }
        }
        Ok(())
    }

    /// One frame per machine, in the archive's columns.
    pub fn into_frames(self) -> impl Iterator<Item = PolarsResult<DataFrame>> {
        let Readings { machines, sensors, units, .. } = self;
        let held = machines.into_iter().filter_map(|(name, machine)| machine.map(|machine| (name, machine)));
        held.map(move |(name, machine)| machine.into_frame(&name, &sensors.names, &units.names))
    }
}

impl Machine {
    /// The last row.
    fn is_of(&mut self, generation: u32) {
        if self.generations.last().map_or(0, |(_, before)| *before) != generation {
            self.generations.push((self.time.len() - 1, generation));
        }
    }

    fn generation_of_rows(&self) -> Vec<u32> {
        let mut rows = Vec::with_capacity(self.time.len());
        let mut generation = 0;
        for &(from, next) in &self.generations {
            rows.resize(from, generation);
            generation = next;
        }
        rows.resize(self.time.len(), generation);
        rows
    }

    fn into_frame(self, name: &str, sensors: &[String], units: &[String]) -> PolarsResult<DataFrame> {
        let rows = self.time.len();
        let sensor: Vec<&str> = self.sensor.iter().map(|id| sensors[usize::from(*id)].as_str()).collect();
        let unit: Vec<&str> = self.unit.iter().map(|id| units[usize::from(*id)].as_str()).collect();
        let generation = (!self.generations.is_empty()).then(|| self.generation_of_rows());
        let stamp = DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
        let mut columns = vec![
            Column::new_scalar(column::MACHINE.into(), PlSmallStr::from_str(name).into(), rows),
            Column::new(column::SENSOR.into(), sensor),
            Column::new(column::TIME.into(), self.time).cast(&stamp)?,
            Column::new(column::VALUE.into(), self.value),
            Column::new(column::UNIT.into(), unit),
            Column::new(column::QUALITY.into(), self.quality),
            Column::new(column::FLAGS.into(), self.flags),
        ];
        columns.extend(generation.map(|generation| Column::new(column::GENERATION.into(), generation)));
        DataFrame::new(rows, columns)
    }
}
