//! The same decisions, one reading at a time, with nothing clever.

use std::collections::BTreeMap;

use model::features::{Stats, WindowFeatures, clean::flag};
use polars::prelude::DataFrame;
use proto::{telemetry::delta_decode, wire::telemetry::Quality};

use super::log::{INTERVAL_MS, LARGE, LATENESS_MS, RANGE_HIGH, STUCK_AFTER, WINDOW_MS};
use crate::decode::{Content, Taken};

#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub seq: u64,
    pub machine: String,
    pub sensor: String,
    pub time: i64,
    pub bits: u64,
    pub reason: u8,
    pub flags: u32,
    pub generation: u32,
}

/// By machine, generation and start: per sensor what is in the window.
type Windows = BTreeMap<(String, u32, i64), [Vec<(i64, f64)>; 2]>;

#[derive(Default)]
pub struct Expected {
    /// By agent, in log order.
    pub readings: Vec<Reading>,
    /// Closed ones.
    pub windows: Windows,
}

impl Expected {
    pub fn late(&self) -> u64 {
        self.readings.iter().filter(|r| r.flags & flag::LATE != 0).count() as u64
    }
}

/// Of one sensor: bits of its last value, how often it came in a row, its newest stamp.
type Last = BTreeMap<(String, String), (u64, u32, i64)>;

pub fn read(logs: &[Vec<Taken>]) -> Expected {
    let mut expected = Expected::default();
    for log in logs {
        let (mut watermark, mut generation, mut last) = (i64::MIN, 0, Last::new());
        let mut open = Windows::new();
        for taken in log {
            let Content::Batch { batch, .. } = &taken.content else { panic!("a batch") };
            let (sealed, trusted) = (batch.sealed.as_ref().unwrap().time_ms, batch.sealed.as_ref().unwrap().trusted);
            if trusted && sealed + LATENESS_MS < watermark {
                (watermark, generation) = (i64::MIN, generation + 1);
                expected.windows.append(&mut open);
            }
            for machine in &batch.machines {
                let stamps = delta_decode(&machine.time_delta_ms);
                for column in &machine.sensors {
                    for (i, &time) in stamps.iter().enumerate() {
                        let quality = column.quality.get(i).copied().unwrap_or(0);
                        if quality == Quality::Absent as i32 {
                            continue;
                        }
                        let start = time.div_euclid(WINDOW_MS) * WINDOW_MS;
                        let (name, value) = ((machine.machine.clone(), column.sensor.clone()), column.value[i]);
                        let mut flags = rules(&name, time, value, quality, &mut last);
                        if !trusted {
                            flags |= flag::UNTRUSTED;
                        } else if watermark != i64::MIN && start + WINDOW_MS + LATENESS_MS <= watermark {
                            flags |= flag::LATE;
                        }
                        if trusted && time > sealed + LATENESS_MS {
                            flags |= flag::FUTURE;
                        }
                        if flags & !flag::GAP == 0 {
                            let slot = usize::from(column.sensor == "vibration");
                            open.entry((name.0.clone(), generation, start)).or_default()[slot].push((time, value));
                        }
                        let (seq, (machine, sensor), bits) = (taken.position.seq, name, value.to_bits());
                        let reason = column.reason.get(i).map_or(0, |r| *r as u8);
                        expected.readings.push(Reading { seq, machine, sensor, time, bits, reason, flags, generation });
                    }
                }
            }
            if trusted {
                watermark = watermark.max(sealed);
            }
        }
        open.retain(|(.., start), _| start + WINDOW_MS + LATENESS_MS <= watermark);
        expected.windows.append(&mut open);
    }
    expected
}

fn rules(name: &(String, String), time: i64, value: f64, quality: i32, last: &mut Last) -> u32 {
    let (bits, run, newest) = last.get(name).copied().unwrap_or((0, 0, time));
    let run = if run > 0 && bits == value.to_bits() { run + 1 } else { 1 };
    last.insert(name.clone(), (value.to_bits(), run, newest.max(time)));
    let known = name.1 != "unannounced";
    let high = if name.1 == "temperature" { RANGE_HIGH } else { 2.0 * LARGE };
    let mut flags = 0;
    let mut set = |bit: u32, is: bool| flags |= if is { bit } else { 0 };
    set(flag::NOT_FINITE, !value.is_finite());
    set(flag::OUT_OF_RANGE, known && value.is_finite() && !(0.0..=high).contains(&value));
    let resting = known && value <= 0.0;
    set(flag::STUCK, run >= STUCK_AFTER && !resting);
    set(flag::GAP, known && time - newest > 3 * INTERVAL_MS);
    set(flag::STALE, quality == Quality::Stale as i32);
    set(flag::BAD, quality == Quality::Bad as i32);
    set(flag::UNKNOWN_SENSOR, !known);
    flags
}

fn stats(readings: &[(i64, f64)]) -> Option<Stats> {
    let mut rows = readings.to_vec();
    rows.sort_by_key(|r| r.0);
    let ((_, first), (_, last)) = (*rows.first()?, *rows.last()?);
    let n = rows.len() as f64;
    // Relative to the first, so that the oracle itself loses nothing.
    let sum = |f: &dyn Fn(&(i64, f64)) -> f64| rows.iter().map(f).sum::<f64>();
    let (mean, time) = (sum(&|r| r.1 - first) / n, sum(&|r| (r.0 - rows[0].0) as f64) / n);
    let value_of = |r: &(i64, f64)| r.1 - first - mean;
    let time_of = |r: &(i64, f64)| (r.0 - rows[0].0) as f64 - time;
    let time_m2 = sum(&|r| time_of(r).powi(2));
    let slope = sum(&|r| time_of(r) * value_of(r)) / time_m2 * 3_600_000.0;
    Some(Stats {
        count: rows.len() as u64,
        mean: first + mean,
        std: (sum(&|r| value_of(r).powi(2)) / n).sqrt(),
        min: rows.iter().map(|r| r.1).fold(f64::INFINITY, f64::min),
        max: rows.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max),
        first,
        last,
        slope: if time_m2 > 0.0 { slope } else { 0.0 },
    })
}

pub fn assert_windows(
    found: &[WindowFeatures],
    expected: &Expected,
    same: fn(&Option<Stats>, &Option<Stats>) -> bool,
    seed: u64,
) {
    let places: Vec<_> = found.iter().map(|w| (w.machine.to_string(), w.generation, w.start.millis())).collect();
    assert_eq!(places, expected.windows.keys().cloned().collect::<Vec<_>>(), "seed {seed}");
    for (window, readings) in found.iter().zip(expected.windows.values()) {
        for (sensor, readings) in window.sensors.iter().zip(readings) {
            let right = stats(readings);
            assert!(same(&sensor.stats, &right), "seed {seed}: {:?} instead of {right:?}", sensor.stats);
        }
    }
}

/// Every reading is there exactly once, as it was sent, with its flags; each agent's in log order.
pub fn assert_archive(archive: &DataFrame, expected: &Expected, seed: u64) {
    let text = |name: &str| archive.column(name).unwrap().str().unwrap().clone();
    let (machine, sensor, agent) = (text("machine"), text("sensor"), text("agent"));
    let time = archive.column("time").unwrap().to_physical_repr().i64().unwrap().clone();
    let value = archive.column("value").unwrap().f64().unwrap().clone();
    let number = |name: &str| archive.column(name).unwrap().u32().unwrap().clone();
    let (flags, generation) = (number("flags"), number("generation"));
    let reason = archive.column("reason").unwrap().u8().unwrap().clone();
    let seq = archive.column("seq").unwrap().u64().unwrap().clone();
    let mut rows: Vec<usize> = (0..archive.height()).collect();
    rows.sort_by_key(|&row| agent.get(row).unwrap().to_owned());
    let found = rows.into_iter().map(|row| Reading {
        seq: seq.get(row).unwrap(),
        machine: machine.get(row).unwrap().into(),
        sensor: sensor.get(row).unwrap().into(),
        time: time.get(row).unwrap(),
        bits: value.get(row).unwrap().to_bits(),
        reason: reason.get(row).unwrap(),
        flags: flags.get(row).unwrap(),
        generation: generation.get(row).unwrap(),
    });
    assert_eq!(archive.height(), expected.readings.len(), "seed {seed}");
    for (found, expected) in found.zip(&expected.readings) {
        assert_eq!(found, *expected, "seed {seed}");
    }
}
