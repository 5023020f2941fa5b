//! Builds the columns of a batch, reading by reading, without an allocation per reading.

use std::collections::HashMap;

use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::{
        Birth, EventRecord, MachineInfo, MachineReadings, Quality, SealTime, SensorColumn, TelemetryBatch,
    },
};

use crate::source::{Item, Reading, Sample};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("machine {0} belongs to two sources")]
    TwoSources(String),
    #[error("machine `{0}` was never announced")]
    Unknown(String),
}

#[derive(Debug)]
struct Column {
    sensor: String,
    values: Vec<f64>,
    /// Empty while every quality is good.
    qualities: Vec<i32>,
}

impl Column {
    fn push(&mut self, reading: Reading) {
        if reading.quality != Quality::Good && self.qualities.is_empty() {
            self.qualities.resize(self.values.len(), Quality::Good as i32);
        }
        if reading.quality != Quality::Good || !self.qualities.is_empty() {
            self.qualities.push(reading.quality as i32);
        }
        self.values.push(reading.value);
    }
}

#[derive(Debug)]
struct Machine {
    name: String,
    last_ms: i64,
    deltas: Vec<i64>,
    columns: Vec<Column>,
}

#[derive(Debug)]
pub struct BatchBuilder {
    machines: Vec<Machine>,
    index: HashMap<String, usize>,
    events: Vec<EventRecord>,
    bytes: usize,
    readings: u32,
    newest: PlantTime,
}

impl BatchBuilder {
    pub fn new(machines: &[MachineInfo]) -> Result<Self, BatchError> {
        let mut index = HashMap::with_capacity(machines.len());
        for (at, machine) in machines.iter().enumerate() {
            if index.insert(machine.machine.clone(), at).is_some() {
                return Err(BatchError::TwoSources(machine.machine.clone()));
            }
        }
        let column = |sensor: &str| Column { sensor: sensor.into(), values: Vec::new(), qualities: Vec::new() };
        let machine = |m: &MachineInfo| Machine {
            name: m.machine.clone(),
            last_ms: 0,
            deltas: Vec::new(),
            columns: m.sensors.iter().map(|s| column(&s.sensor)).collect(),
        };
        let machines = machines.iter().map(machine).collect();
        Ok(BatchBuilder { machines, index, events: Vec::new(), bytes: 0, readings: 0, newest: PlantTime::MIN })
    }

    pub fn push(&mut self, item: Item) -> Result<(), BatchError> {
        match item {
            Item::Sample(sample) => self.push_sample(sample)?,
            Item::Event(event) => {
                self.newest = self.newest.max(PlantTime(event.time_ms));
                self.bytes += 32 + event.machine.len() + event.code.len() + event.mode.len() + event.note.len();
                self.events.push(event);
            }
        }
        Ok(())
    }

    fn push_sample(&mut self, sample: Sample) -> Result<(), BatchError> {
        let unknown = |machine: &AssetId| BatchError::Unknown(machine.to_string());
        let at = self.index.get(sample.machine.as_str()).ok_or_else(|| unknown(&sample.machine))?;
        let machine = &mut self.machines[*at];
        let ms = sample.time.millis();
        machine.deltas.push(ms.wrapping_sub(std::mem::replace(&mut machine.last_ms, ms)));
        let absent = Reading { value: f64::NAN, quality: Quality::Absent };
        let readings = sample.values.iter().copied().chain(std::iter::repeat(absent));
        for (column, reading) in machine.columns.iter_mut().zip(readings) {
            self.readings += u32::from(reading.quality != Quality::Absent);
            column.push(reading);
        }
        self.bytes += 3 + 8 * machine.columns.len();
        self.newest = self.newest.max(sample.time);
        Ok(())
    }

    /// About as many as the batch takes before compression.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stamp of the newest item inside; `PlantTime::MIN` when empty.
    pub fn newest(&self) -> PlantTime {
        self.newest
    }

    /// The batch of all that was pushed since the last one, and how many readings are in it.
    pub fn seal(&mut self, sealed: SealTime, birth: Option<Birth>) -> (TelemetryBatch, u32) {
        let filled = self.machines.iter_mut().filter(|m| !m.deltas.is_empty());
        let machines = filled.map(Machine::take).collect();
        let events = std::mem::take(&mut self.events);
        self.bytes = 0;
        self.newest = PlantTime::MIN;
        (TelemetryBatch { sealed: Some(sealed), birth, machines, events }, std::mem::take(&mut self.readings))
    }
}

impl Machine {
    fn take(&mut self) -> MachineReadings {
        self.last_ms = 0;
        // The next batch is probably as long as this one.
        let rows = self.deltas.len();
        let sensors = self.columns.iter_mut().map(|c| SensorColumn {
            sensor: c.sensor.clone(),
            value: std::mem::replace(&mut c.values, Vec::with_capacity(rows)),
            quality: std::mem::take(&mut c.qualities),
        });
        let sensors = sensors.collect();
        let time_delta_ms = std::mem::replace(&mut self.deltas, Vec::with_capacity(rows));
        MachineReadings { machine: self.name.clone(), time_delta_ms, sensors }
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        telemetry::{check_batch, delta_decode},
        wire::telemetry::SensorInfo,
    };

    use super::*;

    fn machine(name: &str) -> MachineInfo {
        let sensor = |s: &str| SensorInfo { sensor: s.into(), unit: "C".into(), ..Default::default() };
        MachineInfo {
            machine: name.into(),
            kind: "k".into(),
            sensors: vec![sensor("a"), sensor("b")],
            ..Default::default()
        }
    }

    fn sample(machine: &str, ms: i64, values: &[(f64, Quality)]) -> Item {
        let values = values.iter().map(|(value, quality)| Reading { value: *value, quality: *quality }).collect();
        Item::Sample(Sample { machine: AssetId::new(machine).unwrap(), time: PlantTime(ms), values })
    }

    #[test]
    fn columns_keep_every_reading_with_its_quality() {
        use Quality::*;
        let mut builder = BatchBuilder::new(&[machine("m1"), machine("m2")]).unwrap();
        builder.push(sample("m1", 1_000, &[(1.0, Good), (5.0, Good)])).unwrap();
        builder.push(sample("m1", 3_000, &[(2.0, Good), (6.0, Stale)])).unwrap();
        builder.push(sample("m1", 4_000, &[(3.0, Good)])).unwrap();
        assert_eq!(builder.newest(), PlantTime(4_000));
        let (batch, readings) = builder.seal(SealTime::default(), None);
        assert_eq!((check_batch(&batch), readings), (Ok(5), 5), "one reading is absent");
        assert_eq!(batch.machines.len(), 1, "only machines with readings");
        let m1 = &batch.machines[0];
        assert_eq!(delta_decode(&m1.time_delta_ms), [1_000, 3_000, 4_000]);
        assert_eq!(m1.sensors[0].quality, [0; 0]);
        assert_eq!(m1.sensors[1].quality, [Good as i32, Stale as i32, Absent as i32]);

        builder.push(sample("m1", 9_000, &[(1.0, Good), (1.0, Good)])).unwrap();
        let (next, readings) = builder.seal(SealTime::default(), None);
        assert_eq!((next.machines[0].time_delta_ms.clone(), readings), (vec![9_000], 2), "each batch stands alone");
        assert_eq!(builder.seal(SealTime::default(), None).0.machines, []);
    }

    #[test]
    fn machines_have_one_source_each() {
        let twice = BatchBuilder::new(&[machine("m1"), machine("m1")]);
        assert_eq!(twice.err(), Some(BatchError::TwoSources("m1".into())));
        let mut builder = BatchBuilder::new(&[machine("m1")]).unwrap();
        assert_eq!(builder.push(sample("m9", 0, &[])), Err(BatchError::Unknown("m9".into())));
    }
}
