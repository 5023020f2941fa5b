//! From whole frames of the archive to features: the training's way, over the same parts as the stream's.

use std::collections::HashMap;

use polars::prelude::*;
use proto::{archive::column, asset::Unit};

use super::{
    Event, FeatureConfig, WindowFeatures,
    aggregate::{Cell, aggregate},
    catalogue::{Catalogue, CatalogueError},
    clean::{clean, flag, inner, unit_code},
    derive::History,
    panes::Panes,
};

#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    #[error("readings: {0}")]
    Frame(#[from] PolarsError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// Features of every window in `readings`: columns of the archive's table (`proto::archive::column`: machine, sensor,
/// time, value, unit, quality and, if they are there, flags and generation), rows in the order in which they were
/// archived. By machine and generation, then in time.
///
/// The rules are applied anew, so that training sees the rules of today; only what the log around a reading decided
/// when it came in (late, future, foreign) is taken from the archived flags.
pub fn whole(
    readings: DataFrame,
    catalogue: &Catalogue,
    config: &FeatureConfig,
) -> Result<Vec<WindowFeatures>, FeatureError> {
    whole_with_events(readings, &[], catalogue, config)
}

/// [`whole`] with what befell the machines, in the order in which it became known.
pub fn whole_with_events(
    readings: DataFrame,
    events: &[Event],
    catalogue: &Catalogue,
    config: &FeatureConfig,
) -> Result<Vec<WindowFeatures>, FeatureError> {
    let mut catalogue = catalogue.clone();
    let rows = with_ids(&readings, &mut catalogue)?;
    let generation = readings.column(column::GENERATION).ok().cloned();
    drop(readings);
    let (cleaned, _) = clean(rows, &catalogue, &[], config.stuck_after)?;
    let slots = slots(&catalogue, config);
    let wanted: Vec<bool> = slots.iter().map(Option::is_some).collect();
    let mut cells = Vec::new();
    for (generation, part) in by_generation(cleaned, generation)? {
        cells.extend(aggregate(&part, &wanted, config.slide_ms())?.into_iter().map(|cell| (generation, cell)));
    }
    Ok(fold(cells, events, &slots, &catalogue, config))
}

/// Rows of one time and two generations must not meet in a window.
fn by_generation(mut rows: DataFrame, generation: Option<Column>) -> PolarsResult<Vec<(u32, DataFrame)>> {
    let Some(generation) = generation else { return Ok(vec![(0, rows)]) };
    // Rows of older files are null in a file that was merged with newer ones.
    rows.with_column(generation.cast(&DataType::UInt32)?.fill_null(FillNullStrategy::Zero)?)?;
    let parts = rows.partition_by_stable([column::GENERATION], true)?.into_iter();
    parts.map(|part| Ok((part.column(column::GENERATION)?.u32()?.get(0).unwrap_or(0), part))).collect()
}

/// Per series its place in the configuration's sensors; None for one without features.
pub fn slots(catalogue: &Catalogue, config: &FeatureConfig) -> Vec<Option<usize>> {
    catalogue.series().iter().map(|s| config.sensors.iter().position(|sensor| *sensor == s.sensor)).collect()
}

/// The archive's names as ids; names that are not in the catalogue are added to it.
fn with_ids(readings: &DataFrame, catalogue: &mut Catalogue) -> Result<DataFrame, FeatureError> {
    let text = |name: &str| readings.column(name)?.str();
    let mut series = Ids::default();
    let mut ids = Vec::with_capacity(readings.height());
    for (machine, sensor) in text(column::MACHINE)?.iter().zip(text(column::SENSOR)?.iter()) {
        ids.push(series.get(machine.unwrap_or_default(), sensor.unwrap_or_default(), catalogue)?);
    }
    let mut units: HashMap<&str, u8> = HashMap::new();
    let code = |unit: &str| unit_code(unit.parse::<Unit>().ok());
    let units: Vec<u8> = text(column::UNIT)?
        .iter()
        .map(|unit| unit.map_or(unit_code(None), |unit| *units.entry(unit).or_insert_with(|| code(unit))))
        .collect();
    let flags = match readings.column(column::FLAGS) {
        Ok(flags) => flags.u32()?.apply_values(|f| f & flag::FROM_LOG).into_column().with_name(inner::FLAGS.into()),
        Err(_) => Column::new_scalar(inner::FLAGS.into(), 0u32.into(), readings.height()),
    };
    let as_type = |from: &str, to: &str, dtype: DataType| -> PolarsResult<Column> {
        Ok(readings.column(from)?.cast(&dtype)?.with_name(to.into()))
    };
    let time = readings.column(column::TIME)?.to_physical_repr().cast(&DataType::Int64)?.with_name(inner::TIME.into());
    let columns = vec![
        Column::new(inner::SERIES.into(), ids),
        time,
        as_type(column::VALUE, inner::VALUE, DataType::Float64)?,
        Column::new(inner::UNIT.into(), units),
        as_type(column::QUALITY, inner::QUALITY, DataType::UInt8)?,
        flags,
    ];
    Ok(DataFrame::new(readings.height(), columns)?)
}

/// Remembers ids by name, and by the last name first: rows come in runs.
#[derive(Default)]
struct Ids<'a> {
    known: HashMap<(&'a str, &'a str), u32>,
    last: Option<((&'a str, &'a str), u32)>,
}

impl<'a> Ids<'a> {
    fn get(&mut self, machine: &'a str, sensor: &'a str, catalogue: &mut Catalogue) -> Result<u32, CatalogueError> {
        let name = (machine, sensor);
        if let Some((_, id)) = self.last.filter(|(last, _)| *last == name) {
            return Ok(id);
        }
        let id = match self.known.get(&name) {
            Some(id) => *id,
            None => catalogue.meet(machine, sensor)?,
        };
        self.known.insert(name, id);
        self.last = Some((name, id));
        Ok(id)
    }
}

/// Closes the windows of every machine in order.
fn fold(
    mut cells: Vec<(u32, Cell)>,
    events: &[Event],
    slots: &[Option<usize>],
    catalogue: &Catalogue,
    config: &FeatureConfig,
) -> Vec<WindowFeatures> {
    let time = |(generation, cell): &(u32, Cell)| (catalogue.series()[cell.series as usize].machine, *generation);
    // Stable: cells of one series and pane merge in their order.
    cells.sort_by_key(|cell| (time(cell), cell.1.bin, cell.1.series));
    let mut windows = Vec::new();
    let mut history = (u32::MAX, History::default());
    for cells in cells.chunk_by(|a, b| time(a) == time(b)) {
        let (id, generation) = time(&cells[0]);
        if history.0 != id {
            history = (id, History::default());
            let own = events.iter().filter(|e| e.machine == catalogue.machines()[id as usize].name);
            own.for_each(|event| history.1.learn(config, event));
        }
        let mut panes = Panes::default();
        for (_, cell) in cells {
            if let Some(slot) = slots[cell.series as usize] {
                panes.add(cell.bin, slot, cell.partial, config);
            }
        }
        let mut next = panes.window_after(i64::MIN, config);
        while let Some(window) = next {
            windows.extend(history.1.close(catalogue, config, id, generation, window, &panes));
            next = panes.window_after(window, config);
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::telemetry::{Birth, MachineInfo, SensorInfo};

    const MINUTE: i64 = 60_000;

    fn catalogue() -> Catalogue {
        let sensor = |sensor: &str, unit: &str| SensorInfo {
            sensor: sensor.into(),
            unit: unit.into(),
            interval_ms: MINUTE as u64,
            ..Default::default()
        };
        let machine = |name: &str| MachineInfo {
            machine: name.into(),
            kind: "press".into(),
            sensors: vec![sensor("temperature", "F"), sensor("vibration", "mm/s")],
            ..Default::default()
        };
        let mut catalogue = Catalogue::default();
        catalogue.absorb(&Birth { machines: vec![machine("m1"), machine("m2")], ..Default::default() }).unwrap();
        catalogue
    }

    fn readings(minutes: i64, temperature: impl Fn(i64) -> f64) -> DataFrame {
        let rows: Vec<(&str, &str, i64, f64, &str)> = (0..minutes)
            .flat_map(|i| ["m2", "m1"].map(|m| (i, m)))
            .flat_map(|(i, m)| {
                let temperature = (m, "temperature", i * MINUTE, temperature(i), "F");
                [temperature, (m, "vibration", i * MINUTE, (i % 7) as f64, "mm/s")]
            })
            .collect();
        let mut frame = df!(
            column::MACHINE => rows.iter().map(|r| r.0).collect::<Vec<_>>(),
            column::SENSOR => rows.iter().map(|r| r.1).collect::<Vec<_>>(),
            column::TIME => rows.iter().map(|r| r.2).collect::<Vec<_>>(),
            column::VALUE => rows.iter().map(|r| r.3).collect::<Vec<_>>(),
            column::UNIT => rows.iter().map(|r| r.4).collect::<Vec<_>>(),
            column::QUALITY => vec![0u8; rows.len()],
        )
        .unwrap();
        let utc = DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
        let time = frame.column(column::TIME).unwrap().cast(&utc).unwrap();
        frame.with_column(time).unwrap();
        frame
    }

    #[test]
    fn windows_come_by_machine_and_in_time_with_values_in_canonical_units() {
        let config = FeatureConfig::default();
        let windows = whole(readings(25, |i| 212.0 + i as f64), &catalogue(), &config).unwrap();
        let places: Vec<_> = windows.iter().map(|w| (w.machine.as_str(), w.start.millis() / MINUTE)).collect();
        assert_eq!(places, [("m1", 0), ("m1", 10), ("m1", 20), ("m2", 0), ("m2", 10), ("m2", 20)]);
        let stats = windows[0].sensors[0].stats.unwrap();
        assert_eq!((stats.count, windows[0].sensors[0].unit), (10, Unit::Celsius));
        assert!((stats.mean - (100.0 + 4.5 * 5.0 / 9.0)).abs() < 1e-9);
        assert!((stats.slope - 60.0 * 5.0 / 9.0).abs() < 1e-9);
        assert_eq!(windows[0].sensors[1].stats, None, "no sensor `sound`");
        let names = super::super::FeatureSchema::of(&config).names;
        assert_eq!((windows[0].features.len(), windows[0].normal.len()), (names.len(), names.len()));
        let missing = names.iter().position(|n| n == "temperature.missing").unwrap();
        assert_eq!((windows[0].features[missing], windows[2].features[missing]), (0.0, 0.5));
    }

    #[test]
    fn a_machine_is_measured_against_its_own_past() {
        let config = FeatureConfig::default();
        let hot = |i: i64| if i >= 3_000 { 180.0 } else { 150.0 + ((i * 7) % 11) as f64 + (i / 10 % 5) as f64 };
        let windows = whole(readings(3_010, hot), &catalogue(), &config).unwrap();
        let of_m1: Vec<_> = windows.iter().filter(|w| w.machine.as_str() == "m1").collect();
        let names = super::super::FeatureSchema::of(&config).names;
        let deviation = names.iter().position(|n| n == "temperature.deviation").unwrap();
        assert!(of_m1[0].features[deviation].is_nan(), "its normal is not known yet");
        assert!(of_m1[299].features[deviation].abs() < 4.0);
        assert!(of_m1[300].features[deviation] > 5.0);
        assert_eq!(of_m1[300].normal[deviation], 0.0);
    }

    #[test]
    fn generations_of_one_time_do_not_meet_in_a_window() {
        let config = FeatureConfig::default();
        let (mut rows, again) = (readings(10, |i| i as f64), readings(5, |i| 100.0 + i as f64));
        let first = rows.height();
        rows.vstack_mut(&again).unwrap();
        let of_row = |row: usize| if row < 4 { None } else { Some(u32::from(row >= first)) };
        let generations: Vec<Option<u32>> = (0..rows.height()).map(of_row).collect();
        rows.with_column(Column::new(column::GENERATION.into(), generations)).unwrap();
        let windows = whole(rows, &catalogue(), &config).unwrap();
        let of = |w: &WindowFeatures| {
            (w.machine.to_string(), w.generation, w.start.millis(), w.sensors[0].stats.unwrap().count)
        };
        let place = |machine: &str, generation, count| (machine.to_owned(), generation, 0, count);
        let expected = [place("m1", 0, 10), place("m1", 1, 5), place("m2", 0, 10), place("m2", 1, 5)];
        assert_eq!(windows.iter().map(of).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_the_log_decided_stays_decided() {
        let mut rows = readings(10, |i| i as f64);
        let late = Column::new(column::FLAGS.into(), vec![flag::LATE | flag::STUCK; rows.height()]);
        rows.with_column(late).unwrap();
        assert_eq!(whole(rows.clone(), &catalogue(), &FeatureConfig::default()).unwrap(), []);
        let stuck = Column::new(column::FLAGS.into(), vec![flag::STUCK; rows.height()]);
        rows.with_column(stuck).unwrap();
        assert_eq!(whole(rows, &catalogue(), &FeatureConfig::default()).unwrap().len(), 2, "rules of today");
    }
}
