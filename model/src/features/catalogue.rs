//! What machines there are, what kind they are and what their sensors report; and the integer ids that frames use.
//!
//! A *series* is one sensor of one machine. Series and machines are numbered in the order in which they were met,
//! so that inside the frames they are plain integers; names exist only at the edges.

use std::collections::HashMap;

use polars::prelude::{DataFrame, DataType, PolarsError};
use proto::{
    archive::column,
    asset::{AssetId, InvalidAssetId, Unit, UnknownUnit},
    time::PlantTime,
    wire::telemetry::{Birth, MachineInfo, SensorInfo},
};
use serde::{Deserialize, Serialize};

use super::FeatureConfig;

/// Pairs of an id in one catalogue and one in another.
pub type Ids = Vec<(u32, u32)>;

/// Machines and sensors come from outside: more series than this are refused.
pub const SERIES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Lists", into = "Lists")]
pub struct Catalogue {
    machines: Vec<Machine>,
    series: Vec<Series>,
    by_name: HashMap<AssetId, u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub name: AssetId,
    /// None: no gateway has said yet what it is.
    pub kind: Option<AssetId>,
    pub make: String,
    pub model: String,
    pub installed: PlantTime,
    /// Ids of its series.
    pub series: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub machine: u32,
    pub sensor: AssetId,
    /// None: readings came in, but no gateway has said what the sensor is.
    pub spec: Option<SensorSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SensorSpec {
    /// Unit of the values on the wire.
    pub unit: Unit,
    /// What the sensor can physically report, in its unit; no range unless low < high.
    pub low: f64,
    pub high: f64,
    pub interval_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error(transparent)]
    Name(#[from] InvalidAssetId),
    #[error(transparent)]
    Unit(#[from] UnknownUnit),
    #[error("more than {SERIES_MAX} sensors in all")]
    TooMany,
    #[error("births table: {0}")]
    Table(#[from] PolarsError),
}

/// The serialised form: the index by name is made again.
#[derive(Serialize, Deserialize)]
struct Lists {
    machines: Vec<Machine>,
    series: Vec<Series>,
}

impl From<Lists> for Catalogue {
    fn from(Lists { machines, series }: Lists) -> Self {
        let by_name = (0..).zip(&machines).map(|(id, m)| (m.name.clone(), id)).collect();
        Self { machines, series, by_name }
    }
}

impl From<Catalogue> for Lists {
    fn from(Catalogue { machines, series, .. }: Catalogue) -> Self {
        Self { machines, series }
    }
}

impl Catalogue {
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    pub fn series(&self) -> &[Series] {
        &self.series
    }

    pub fn id(&self, machine: &str) -> Option<u32> {
        self.by_name.get(machine).copied()
    }

    pub fn machine(&self, machine: &str) -> Option<&Machine> {
        self.id(machine).map(|id| &self.machines[id as usize])
    }

    /// The series of a machine's sensor.
    pub fn series_of(&self, machine: u32, sensor: &str) -> Option<u32> {
        let series = &self.machines[machine as usize].series;
        series.iter().copied().find(|&s| self.series[s as usize].sensor.as_str() == sensor)
    }

    /// What the machine's sensors are, in the order of the configuration's; None for one that it does not have.
    pub fn specs(&self, machine: u32, config: &FeatureConfig) -> Vec<Option<SensorSpec>> {
        let series = &self.machines[machine as usize].series;
        let own = |sensor: &AssetId| series.iter().map(|&s| &self.series[s as usize]).find(|s| s.sensor == *sensor);
        config.sensors.iter().map(|sensor| own(sensor)?.spec).collect()
    }

    /// The id of a machine, given at first sight.
    pub fn meet_machine(&mut self, name: &str) -> Result<u32, CatalogueError> {
        if let Some(id) = self.id(name) {
            return Ok(id);
        }
        if self.machines.len() >= SERIES_MAX {
            return Err(CatalogueError::TooMany);
        }
        let (id, name) = (self.machines.len() as u32, AssetId::new(name)?);
        self.by_name.insert(name.clone(), id);
        let (make, model, installed) = Default::default();
        self.machines.push(Machine { name, kind: None, make, model, installed, series: vec![] });
        Ok(id)
    }

    /// The id of a series, given at first sight.
    pub fn meet(&mut self, machine: &str, sensor: &str) -> Result<u32, CatalogueError> {
        AssetId::check(sensor)?;
        let machine = self.meet_machine(machine)?;
        self.meet_sensor(machine, sensor)
    }

    /// [`Catalogue::meet`] with a machine by its id.
    pub fn meet_sensor(&mut self, machine: u32, sensor: &str) -> Result<u32, CatalogueError> {
        if let Some(id) = self.series_of(machine, sensor) {
            return Ok(id);
        }
        if self.series.len() >= SERIES_MAX {
            return Err(CatalogueError::TooMany);
        }
        let (sensor, id) = (AssetId::new(sensor)?, self.series.len() as u32);
        self.machines[machine as usize].series.push(id);
        self.series.push(Series { machine, sensor, spec: None });
        Ok(id)
    }

    /// Takes over machines of another catalogue, which are new here, and their series. Gives ids there and ids here.
    pub fn extend(&mut self, from: &Catalogue, machines: &[u32]) -> Result<(Ids, Ids), CatalogueError> {
        let (mut by_id, mut met, mut series) = (HashMap::new(), Ids::new(), Ids::new());
        for there in machines {
            let machine = &from.machines[*there as usize];
            let here = self.meet_machine(machine.name.as_str())?;
            self.machines[here as usize] = Machine { series: vec![], ..machine.clone() };
            by_id.insert(*there, here);
            met.push((*there, here));
        }
        for (there, sensor) in (0..).zip(&from.series) {
            let Some(machine) = by_id.get(&sensor.machine).copied() else { continue };
            if self.series.len() >= SERIES_MAX {
                return Err(CatalogueError::TooMany);
            }
            let here = self.series.len() as u32;
            self.machines[machine as usize].series.push(here);
            self.series.push(Series { machine, ..sensor.clone() });
            series.push((there, here));
        }
        Ok((met, series))
    }

    /// Takes over what a gateway says it has; what it no longer names stays, since its readings may still come.
    pub fn absorb(&mut self, birth: &Birth) -> Result<(), CatalogueError> {
        birth.machines.iter().try_for_each(|machine| self.absorb_machine(machine))
    }

    fn absorb_machine(&mut self, info: &MachineInfo) -> Result<(), CatalogueError> {
        let kind = AssetId::new(&info.kind)?;
        let id = self.meet_machine(&info.machine)?;
        let machine = &mut self.machines[id as usize];
        machine.kind = Some(kind);
        machine.make.clone_from(&info.make);
        machine.model.clone_from(&info.model);
        machine.installed = PlantTime(info.installed_ms);
        for sensor in &info.sensors {
            let unit = sensor.unit.parse()?;
            let series = self.meet_sensor(id, &sensor.sensor)?;
            let spec =
                SensorSpec { unit, low: sensor.range_low, high: sensor.range_high, interval_ms: sensor.interval_ms };
            self.series[series as usize].spec = Some(spec);
        }
        Ok(())
    }

    /// [`Catalogue::absorb`] from the archive's table of births, oldest first.
    pub fn absorb_rows(&mut self, births: &DataFrame) -> Result<(), CatalogueError> {
        let text = |name: &str| births.column(name)?.str().cloned();
        let int = |name: &str| births.column(name)?.cast(&DataType::Int64)?.i64().cloned();
        let float = |name: &str| births.column(name)?.f64().cloned();
        let (machine, kind, make, model) =
            (text(column::MACHINE)?, text(column::KIND)?, text(column::MAKE)?, text(column::MODEL)?);
        let (sensor, unit, installed) = (text(column::SENSOR)?, text(column::UNIT)?, int(column::INSTALLED)?);
        let (low, high) = (float(column::RANGE_LOW)?, float(column::RANGE_HIGH)?);
        let interval = int(column::INTERVAL_MS)?;
        for row in 0..births.height() {
            // A machine without sensors has one row without a sensor.
            let sensors = sensor.get(row).map(|name| SensorInfo {
                sensor: name.into(),
                unit: unit.get(row).unwrap_or_default().into(),
                range_low: low.get(row).unwrap_or(f64::NAN),
                range_high: high.get(row).unwrap_or(f64::NAN),
                interval_ms: interval.get(row).unwrap_or(0).max(0) as u64,
            });
            self.absorb_machine(&MachineInfo {
                machine: machine.get(row).unwrap_or_default().into(),
                kind: kind.get(row).unwrap_or_default().into(),
                make: make.get(row).unwrap_or_default().into(),
                model: model.get(row).unwrap_or_default().into(),
                installed_ms: installed.get(row).unwrap_or(0),
                sensors: sensors.into_iter().collect(),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::df;

    fn birth() -> Birth {
        let sensor = SensorInfo {
            sensor: "temperature".into(),
            unit: "F".into(),
            range_low: 0.0,
            range_high: 500.0,
            interval_ms: 60_000,
        };
        let machine = MachineInfo {
            machine: "press-1".into(),
            kind: "press".into(),
            make: "Acme".into(),
            model: "X".into(),
            installed_ms: 5,
            sensors: vec![sensor],
        };
        Birth { machines: vec![machine], ..Default::default() }
    }

    #[test]
    fn ids_stay_when_births_repeat_and_when_it_is_stored() {
        let mut catalogue = Catalogue::default();
        assert_eq!(catalogue.meet("press-0", "sound").unwrap(), 0);
        catalogue.absorb(&birth()).unwrap();
        let once = catalogue.clone();
        catalogue.absorb(&birth()).unwrap();
        assert_eq!(catalogue, once);
        let id = catalogue.id("press-1").unwrap();
        assert_eq!(catalogue.series_of(id, "temperature"), Some(1));
        let stored = serde_json::to_vec(&catalogue).unwrap();
        assert_eq!(serde_json::from_slice::<Catalogue>(&stored).unwrap(), catalogue);
    }

    #[test]
    fn the_archive_tells_the_same_as_the_wire() {
        let mut wire = Catalogue::default();
        wire.absorb(&birth()).unwrap();
        let rows = df!(
            "machine" => ["press-1"], "kind" => ["press"], "make" => ["Acme"], "model" => ["X"],
            "installed" => [5i64], "sensor" => [Some("temperature")], "unit" => [Some("F")],
            "range_low" => [Some(0.0)], "range_high" => [Some(500.0)], "interval_ms" => [Some(60_000u64)],
        );
        let mut archive = Catalogue::default();
        archive.absorb_rows(&rows.unwrap()).unwrap();
        assert_eq!(archive, wire);
    }

    #[test]
    fn names_and_units_that_cannot_be_are_refused() {
        let mut catalogue = Catalogue::default();
        assert!(matches!(catalogue.meet("a/b", "x"), Err(CatalogueError::Name(_))));
        let mut odd = birth();
        odd.machines[0].sensors[0].unit = "furlong".into();
        assert!(matches!(catalogue.absorb(&odd), Err(CatalogueError::Unit(_))));
    }
}
