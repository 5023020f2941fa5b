//! Builds the columns of a batch, reading by reading, without an allocation per reading.

use std::collections::HashMap;

use prost::Message;
use proto::{
    telemetry::frame::FRAME_BYTES_MAX,
    wire::telemetry::{
        Birth, EventRecord, MachineInfo, MachineReadings, Quality, SealTime, SensorColumn, TelemetryBatch,
    },
};

use crate::source::{Item, Reading, Sample};

/// A batch is full at this size at the latest. It is filled by whole instants, so that it may grow by one beyond.
pub const BATCH_BYTES_MAX: usize = FRAME_BYTES_MAX / 2;
/// What is read at one instant is never divided: on top of a nearly full batch it must still fit into a frame.
pub const INSTANT_BYTES_MAX: usize = FRAME_BYTES_MAX / 2 - 1024;
/// The birth has a frame, and a retained message, for itself. The rest is for the epochs that the latter names.
pub const BIRTH_BYTES_MAX: usize = FRAME_BYTES_MAX - 16 * 1024;

/// Bounds of what protobuf takes for a row, a value with its quality and reason, a message or column beside its names, an event
/// beside its texts.
const STAMP_BYTES_MAX: usize = 10;
const VALUE_BYTES_MAX: usize = 10;
const COLUMN_BYTES_MAX: usize = 18;
const EVENT_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("machine {0} belongs to two sources")]
    TwoSources(String),
    #[error("machine `{0}` was never announced")]
    Unknown(String),
    #[error(
        "{machines} machines take {bytes} bytes to {what}, and {most} go into one frame: give them to several agents"
    )]
    TooMany { machines: usize, bytes: usize, what: &'static str, most: usize },
}

#[derive(Debug)]
struct Column {
    sensor: String,
    values: Vec<f64>,
    /// Empty while every quality is good.
    qualities: Vec<i32>,
    /// Empty while no reading has one.
    reasons: Vec<i32>,
}

impl Column {
    fn push(&mut self, reading: Reading) {
        let rows = self.values.len();
        push_sparse(&mut self.qualities, rows, reading.quality as i32);
        push_sparse(&mut self.reasons, rows, reading.reason as i32);
        self.values.push(reading.value);
    }
}

/// A column that stays empty while all of its values are 0, as good qualities are, and reasons that there are not.
fn push_sparse(column: &mut Vec<i32>, rows: usize, value: i32) {
    if value != 0 || !column.is_empty() {
        column.resize(rows, 0);
        column.push(value);
    }
}

#[derive(Debug)]
struct Machine {
    name: String,
    last_ms: i64,
    deltas: Vec<i64>,
    columns: Vec<Column>,
    /// In every batch that it has readings in, beside their rows.
    head_bytes: usize,
}

impl Machine {
    fn new(info: &MachineInfo) -> Self {
        let column = |sensor: &str| Column {
            sensor: sensor.into(),
            values: Vec::new(),
            qualities: Vec::new(),
            reasons: Vec::new(),
        };
        let names = info.sensors.iter().map(|s| &s.sensor).chain([&info.machine]);
        Machine {
            name: info.machine.clone(),
            last_ms: 0,
            deltas: Vec::new(),
            columns: info.sensors.iter().map(|s| column(&s.sensor)).collect(),
            head_bytes: names.map(|name| name.len() + COLUMN_BYTES_MAX).sum(),
        }
    }

    fn row_bytes(&self) -> usize {
        STAMP_BYTES_MAX + VALUE_BYTES_MAX * self.columns.len()
    }
}

#[derive(Debug)]
pub struct BatchBuilder {
    machines: Vec<Machine>,
    index: HashMap<String, usize>,
    events: Vec<EventRecord>,
    bytes: usize,
    readings: u32,
    heads_bytes: usize,
}

impl BatchBuilder {
    /// Refuses machines that belong to two sources, and more of them than one agent's frames can carry.
    pub fn new(machines: &[MachineInfo]) -> Result<Self, BatchError> {
        let mut index = HashMap::with_capacity(machines.len());
        for (at, machine) in machines.iter().enumerate() {
            if index.insert(machine.machine.clone(), at).is_some() {
                return Err(BatchError::TwoSources(machine.machine.clone()));
            }
        }
        let columns: Vec<_> = machines.iter().map(Machine::new).collect();
        let heads_bytes = columns.iter().map(|m| m.head_bytes).sum::<usize>();
        let instant = heads_bytes + columns.iter().map(Machine::row_bytes).sum::<usize>();
        let birth = Birth { machines: machines.to_vec(), ..Default::default() }.encoded_len();
        for (what, bytes, most) in [("announce", birth, BIRTH_BYTES_MAX), ("be read once", instant, INSTANT_BYTES_MAX)]
        {
            if bytes > most {
                return Err(BatchError::TooMany { machines: machines.len(), bytes, what, most });
            }
        }
        Ok(BatchBuilder { machines: columns, index, events: Vec::new(), bytes: 0, readings: 0, heads_bytes })
    }

    fn machine(&self, name: &str) -> Result<usize, BatchError> {
        self.index.get(name).copied().ok_or_else(|| BatchError::Unknown(name.to_owned()))
    }

    /// What an item adds to a batch at most, beside what its machine takes once.
    pub fn measure(&self, item: &Item) -> Result<usize, BatchError> {
        Ok(match item {
            Item::Sample(sample) => self.machines[self.machine(sample.machine.as_str())?].row_bytes(),
            Item::Event(event) => event_bytes(event),
        })
    }

    /// What all machines take once in a batch, beside their rows.
    pub fn heads_bytes(&self) -> usize {
        self.heads_bytes
    }

    pub fn push(&mut self, item: Item) -> Result<(), BatchError> {
        match item {
            Item::Sample(sample) => self.push_sample(sample)?,
            Item::Event(event) => {
                self.bytes += event_bytes(&event);
                self.events.push(event);
            }
        }
        Ok(())
    }

    fn push_sample(&mut self, sample: Sample) -> Result<(), BatchError> {
        let at = self.machine(sample.machine.as_str())?;
        let machine = &mut self.machines[at];
        self.bytes += machine.row_bytes() + if machine.deltas.is_empty() { machine.head_bytes } else { 0 };
        let ms = sample.time.millis();
        machine.deltas.push(ms.wrapping_sub(std::mem::replace(&mut machine.last_ms, ms)));
        let readings = sample.values.iter().copied().chain(std::iter::repeat(Reading::ABSENT));
        for (column, reading) in machine.columns.iter_mut().zip(readings) {
            self.readings += u32::from(reading.quality != Quality::Absent);
            column.push(reading);
        }
        Ok(())
    }

    /// The batch takes at most as many before compression, beside its seal time and birth.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch of all that was pushed since the last one, and how many readings are in it.
    pub fn seal(&mut self, sealed: SealTime, birth: Option<Birth>) -> (TelemetryBatch, u32) {
        let filled = self.machines.iter_mut().filter(|m| !m.deltas.is_empty());
        let machines = filled.map(Machine::take).collect();
        let events = std::mem::take(&mut self.events);
        self.bytes = 0;
        let batch = TelemetryBatch { sealed: Some(sealed), birth, machines, events, trace: None };
        (batch, std::mem::take(&mut self.readings))
    }
}

fn event_bytes(event: &EventRecord) -> usize {
    let EventRecord { machine, code, mode, note, author, alert_id, .. } = event;
    EVENT_BYTES_MAX + [machine, code, mode, note, author, alert_id].map(String::len).iter().sum::<usize>()
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
            reason: std::mem::take(&mut c.reasons),
        });
        let sensors = sensors.collect();
        let time_delta_ms = std::mem::replace(&mut self.deltas, Vec::with_capacity(rows));
        MachineReadings { machine: self.name.clone(), time_delta_ms, sensors }
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        asset::AssetId,
        telemetry::{check_batch, delta_decode},
        time::PlantTime,
        wire::telemetry::{QualityReason, SensorInfo},
    };

    use super::*;
    use crate::source::{
        Source,
        simulator::{Simulator, SimulatorConfig},
    };

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
        let reading = |&(value, quality)| match quality {
            Quality::Stale => Reading::stale(value),
            quality => Reading { value, quality, reason: QualityReason::None },
        };
        let values = values.iter().map(reading).collect();
        Item::Sample(Sample { machine: AssetId::new(machine).unwrap(), time: PlantTime(ms), values })
    }

    #[test]
    fn columns_keep_every_reading_with_its_quality() {
        use Quality::*;
        let mut builder = BatchBuilder::new(&[machine("m1"), machine("m2")]).unwrap();
        builder.push(sample("m1", 1_000, &[(1.0, Good), (5.0, Good)])).unwrap();
        builder.push(sample("m1", 3_000, &[(2.0, Good), (6.0, Stale)])).unwrap();
        builder.push(sample("m1", 4_000, &[(3.0, Good)])).unwrap();
        let bytes_max = builder.bytes();
        let (batch, readings) = builder.seal(SealTime::default(), None);
        assert_eq!((check_batch(&batch), readings), (Ok(5), 5), "one reading is absent");
        assert!(batch.encoded_len() <= bytes_max + 64, "{} {bytes_max}", batch.encoded_len());
        assert_eq!(batch.machines.len(), 1, "only machines with readings");
        let m1 = &batch.machines[0];
        assert_eq!(delta_decode(&m1.time_delta_ms), [1_000, 3_000, 4_000]);
        assert_eq!(m1.sensors[0].quality, [0; 0]);
        assert_eq!(m1.sensors[1].quality, [Good as i32, Stale as i32, Absent as i32]);
        assert_eq!(m1.sensors[0].reason, [0; 0]);
        assert_eq!(m1.sensors[1].reason, [0, QualityReason::Timeout as i32, 0]);

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

    #[test]
    fn more_machines_than_a_frame_can_carry_are_refused_before_anything_is_read() {
        let plant = |n: usize| (0..n).map(|i| machine(&format!("machine-{i}"))).collect::<Vec<_>>();
        let simulated =
            SimulatorConfig { machines: vec![SimulatorConfig::default().machines[0].clone()], ..Default::default() };
        let [press] = &Simulator::new(&simulated, None).unwrap().machines()[..] else { panic!() };
        let hall = |n| MachineInfo { machine: format!("a-long-machine-name-{n}"), ..press.clone() };
        BatchBuilder::new(&(0..2_000).map(hall).collect::<Vec<_>>()).unwrap();
        let error = BatchBuilder::new(&plant(20_000)).unwrap_err();
        assert!(matches!(error, BatchError::TooMany { machines: 20_000, what: "be read once", .. }), "{error}");
        let wordy = MachineInfo { model: "x".repeat(FRAME_BYTES_MAX), ..machine("wordy") };
        let error = BatchBuilder::new(&[wordy]).unwrap_err();
        assert!(matches!(error, BatchError::TooMany { what: "announce", .. }), "{error}");
    }

    #[test]
    fn events_never_take_more_than_they_are_measured_as() {
        let mut builder = BatchBuilder::new(&[machine("m1")]).unwrap();
        let text = "x".repeat(1_000);
        let event = EventRecord {
            machine: "m1".into(),
            time_ms: i64::MIN,
            kind: 4,
            code: text.clone(),
            mode: text.clone(),
            note: text.clone(),
            author: text.clone(),
            alert_id: text,
            verdict: 4,
        };
        builder.push(Item::Event(event)).unwrap();
        let bytes_max = builder.bytes();
        let (batch, _) = builder.seal(SealTime::default(), None);
        assert!(batch.encoded_len() <= bytes_max + 64);
    }
}
