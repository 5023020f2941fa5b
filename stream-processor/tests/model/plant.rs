//! A simulated plant, from its sensors through the training's features to a dataset, without a broker or a bucket.

use edge_agent::source::{
    Item, Sample, Source,
    simulator::{MachineSpec, Simulator, SimulatorConfig, truth},
};
use model::{
    dataset::{
        Dataset,
        label::{Event, Labeller},
    },
    evaluate::truth::Truth,
    features::{Catalogue, FeatureConfig, whole},
};
use polars::prelude::{Column, DataFrame, DataType, PlSmallStr, TimeUnit, TimeZone};
use proto::{
    archive::column,
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::{Birth, MachineInfo},
};

pub const WEEK_MS: i64 = 7 * 24 * 3_600_000;

/// What a trainer would find in the archive of `weeks` weeks.
pub fn dataset(config: &SimulatorConfig, weeks: i64, horizon_ms: i64) -> Dataset {
    dataset_of_events(config, weeks, horizon_ms, |events| events)
}

/// [`dataset`] with other event records than those that happened.
pub fn dataset_of_events(
    config: &SimulatorConfig,
    weeks: i64,
    horizon_ms: i64,
    told: impl FnOnce(Vec<Event>) -> Vec<Event>,
) -> Dataset {
    let until = config.start.plus_millis(weeks * WEEK_MS);
    let logs: Vec<Log> = config.machines.iter().map(|machine| Log::of(config, machine, until)).collect();
    let events: Vec<Event> = logs.iter().flat_map(|log| log.events.clone()).collect();
    let labeller = Labeller::new(&told(events), horizon_ms, until);
    let features = FeatureConfig::default();
    let mut dataset = Dataset::new(features.clone(), &labeller);
    for log in logs {
        let mut catalogue = Catalogue::default();
        catalogue.absorb(&Birth { machines: vec![log.info.clone()], ..Birth::default() }).expect("a right birth");
        let windows = whole(log.into_frame(), &catalogue, &features).expect("right readings");
        dataset.push(&windows, &labeller);
    }
    dataset
}

/// What `write_wear` says, as `model evaluate --truth` reads it.
pub fn truth(config: &SimulatorConfig, weeks: i64) -> Truth {
    let mut lines = Vec::new();
    let until = config.start.plus_millis(weeks * WEEK_MS);
    truth::write_wear(config, until, FeatureConfig::default().window_ms, &mut lines).expect("a right plant");
    Truth::parse(std::str::from_utf8(&lines).expect("text")).expect("lines as the model reads them")
}

/// One machine's readings, column by column, and its events.
struct Log {
    info: MachineInfo,
    time: Vec<i64>,
    /// Value and quality by sensor.
    sensors: Vec<(Vec<f64>, Vec<u8>)>,
    events: Vec<Event>,
}

impl Log {
    /// A machine is the same alone as among others.
    fn of(config: &SimulatorConfig, machine: &MachineSpec, until: PlantTime) -> Self {
        let fault = config.fault.iter().filter(|f| f.machine == machine.id).cloned().collect();
        let alone = SimulatorConfig { machines: vec![machine.clone()], fault, ..config.clone() };
        let mut simulator = Simulator::new(&alone, None).expect("a right plant");
        let info = simulator.machines().remove(0);
        let sensors = info.sensors.iter().map(|_| Default::default()).collect();
        let mut log = Log { info, time: vec![], sensors, events: vec![] };
        let mut items = Vec::new();
        let mut more = true;
        while more {
            more = simulator.poll(until, 10_000, &mut items).expect("a simulator never fails");
            items.drain(..).for_each(|item| log.take(item));
        }
        log
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Sample(Sample { time, values, .. }) => {
                self.time.push(time.millis());
                for ((value, quality), reading) in self.sensors.iter_mut().zip(values) {
                    value.push(reading.value);
                    quality.push(reading.quality as u8);
                }
            }
            Item::Event(event) => self.events.push(Event {
                machine: AssetId::new(&event.machine).expect("a right name"),
                time: PlantTime(event.time_ms),
                kind: event.kind(),
                known: PlantTime(event.time_ms),
                code: event.code,
                mode: event.mode,
                answer: None,
            }),
        }
    }

    fn into_frame(self) -> DataFrame {
        let rows = self.time.len() * self.sensors.len();
        let per_sensor = |text: fn(&proto::wire::telemetry::SensorInfo) -> &str| -> Vec<&str> {
            self.info.sensors.iter().flat_map(|s| std::iter::repeat_n(text(s), self.time.len())).collect()
        };
        let time: Vec<i64> = self.sensors.iter().flat_map(|_| self.time.iter().copied()).collect();
        let stamp = DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
        let machine = PlSmallStr::from_str(&self.info.machine);
        let columns = vec![
            Column::new_scalar(column::MACHINE.into(), machine.into(), rows),
            Column::new(column::SENSOR.into(), per_sensor(|s| &s.sensor)),
            Column::new(column::TIME.into(), time).cast(&stamp).expect("stamps"),
            Column::new(column::VALUE.into(), self.sensors.iter().flat_map(|s| s.0.clone()).collect::<Vec<f64>>()),
            Column::new(column::UNIT.into(), per_sensor(|s| &s.unit)),
            Column::new(column::QUALITY.into(), self.sensors.iter().flat_map(|s| s.1.clone()).collect::<Vec<u8>>()),
        ];
        DataFrame::new(rows, columns).expect("columns of one length")
    }
}
