//! Replays the public data sets, where they are, and compares every value with a plain reading of the files that shares
//! no code with [`Replay`].

use std::path::PathBuf;

use chrono::NaiveDateTime;

use super::*;
use crate::source::Item;

/// Machine, time, values bit for bit.
type Row = (String, i64, Vec<u64>);

fn data(folder: &str) -> Option<PathBuf> {
    let found = std::env::var_os("MILLWRIGHT_DATA").map(|data| PathBuf::from(data).join(folder));
    if found.is_none() {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
    }
    found
}

fn replayed(mapping: &str, folder: &Path) -> (Vec<Row>, u64) {
    let mut replay = Replay::open(&toml::from_str(mapping).unwrap(), folder, None).unwrap();
    let (mut rows, mut events, mut items, mut before) = (Vec::new(), 0, Vec::new(), i64::MIN);
    loop {
        let more = replay.poll(PlantTime(i64::MAX), 1_000, &mut items).unwrap();
        for item in items.drain(..) {
            let ms = match item {
                Item::Sample(sample) => {
                    let values = sample.values.iter().map(|r| r.value.to_bits()).collect();
                    rows.push((sample.machine.to_string(), sample.time.0, values));
                    sample.time.0
                }
                Item::Event(event) => {
                    events += 1;
                    event.time_ms
                }
            };
            assert!(ms >= before, "in the order of time");
            before = ms;
        }
        if !more {
            break;
        }
    }
    rows.sort();
    (rows, events)
}

fn assert_same(replayed: &[Row], plain: &mut [Row], count: usize) {
    plain.sort();
    assert_eq!((replayed.len(), plain.len()), (count, count));
    let sum = |rows: &[Row]| rows.iter().flat_map(|row| &row.2).map(|bits| f64::from_bits(*bits)).sum::<f64>();
    assert!(sum(plain) > 0.0);
    assert_eq!(sum(replayed), sum(plain));
    assert!(replayed == plain, "values differ");
}

fn azure(file: &str, count: usize) {
    let Some(folder) = data("azure-pdm") else { return };
    let mapping = format!(
        r#"
        files = ["{file}"]
        kind = "press"
        interval_ms = 3600000
        time = {{ column = "datetime" }}
        machine = {{ column = "machineID", prefix = "m" }}
        sensors = [
            {{ column = "volt", sensor = "volt", unit = "V" }},
            {{ column = "rotate", sensor = "rotate", unit = "rpm" }},
            {{ column = "pressure", sensor = "pressure", unit = "psi" }},
            {{ column = "vibration", sensor = "vibration", unit = "1" }},
        ]
        [[events]]
        file = "PdM_failures.csv"
        kind = "failure"
        time = {{ column = "datetime" }}
        machine = {{ column = "machineID", prefix = "m" }}
        mode = "failure"
        "#
    );
    let mut plain = Vec::new();
    for record in csv::Reader::from_path(folder.join(file)).unwrap().records() {
        let record = record.unwrap();
        let ms = NaiveDateTime::parse_from_str(&record[0], "%Y-%m-%d %H:%M:%S").unwrap().and_utc().timestamp_millis();
        let values = (2..6).map(|at| record[at].parse::<f64>().unwrap().to_bits()).collect();
        plain.push((format!("m{}", &record[1]), ms, values));
    }
    let (rows, events) = replayed(&mapping, &folder);
    assert!(events > 0);
    assert_same(&rows, &mut plain, count);
}

#[test]
fn azure_telemetry_of_twenty_machines() {
    azure("PdM_telemetry_20machines_90days.csv", 43_200);
}

#[test]
fn azure_telemetry_with_gaps() {
    azure("PdM_telemetry_partial.csv", 123_968);
}

/// Every sensor in the unit that the data set's paper gives it.
fn turbofan(file: &str, count: usize) {
    const UNITS: [&str; 21] = [
        "R", "R", "R", "R", "psi", "psi", "psi", "rpm", "rpm", "1", "psi", "1", "rpm", "rpm", "1", "1", "1", "rpm",
        "rpm", "1", "1",
    ];
    const START_MS: i64 = 1_767_225_600_000;
    const HOUR_MS: i64 = 3_600_000;
    let Some(folder) = data("cmapss") else { return };
    let sensor = |(n, unit)| format!("{{ column = {}, sensor = \"s{}\", unit = \"{unit}\" }},", n + 6, n + 1);
    let sensors: String = UNITS.iter().enumerate().map(sensor).collect();
    let mapping = format!(
        r#"
        files = ["{file}"]
        separator = "whitespace"
        header = false
        kind = "turbofan"
        time = {{ column = 2, format = "step", step_ms = {HOUR_MS}, start = {START_MS} }}
        machine = {{ column = 1, prefix = "unit-" }}
        sensors = [{sensors}]
        "#
    );
    let mut plain = Vec::new();
    for line in std::fs::read_to_string(folder.join(file)).unwrap().lines() {
        let fields: Vec<f64> = line.split_ascii_whitespace().map(|field| field.parse().unwrap()).collect();
        assert_eq!(fields.len(), 26);
        let values = fields[5..].iter().map(|value| value.to_bits()).collect();
        plain.push((format!("unit-{}", fields[0]), START_MS + fields[1] as i64 * HOUR_MS, values));
    }
    let (rows, _) = replayed(&mapping, &folder);
    assert_same(&rows, &mut plain, count);
}

#[test]
fn turbofans_that_run_to_failure() {
    turbofan("train_FD001.txt", 20_631);
}

#[test]
fn turbofans_that_are_still_running() {
    turbofan("test_FD001.txt", 13_096);
}
