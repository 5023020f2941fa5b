//! The same decisions, one reading at a time, with nothing clever.

use std::collections::{BTreeMap, BTreeSet};

use model::features::{FeatureConfig, Stats, WindowFeatures, clean::flag};
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

/// By machine, generation, start and revision: per sensor what was in the window.
type Windows = BTreeMap<(String, u32, i64, u32), [Vec<(i64, f64)>; 2]>;

#[derive(Default)]
pub struct Expected {
    /// By agent, in log order.
    pub readings: Vec<Reading>,
    /// All that were told, as they were told.
    pub windows: Windows,
}

impl Expected {
    pub fn late(&self) -> u64 {
        self.readings.iter().filter(|r| r.flags & flag::LATE != 0).count() as u64
    }

    /// Without those that other flags keep out of windows.
    pub fn revising(&self) -> u64 {
        let revises = |flags: u32| flags & !flag::GAP == flag::REVISING;
        self.readings.iter().filter(|r| revises(r.flags)).count() as u64
    }

    pub fn revisions(&self) -> usize {
        self.windows.keys().filter(|(.., revision)| *revision > 0).count()
    }
}

/// Of one sensor: bits of its last value, how often it came in a row, its newest stamp.
type Last = BTreeMap<(String, String), (u64, u32, i64)>;

/// One machine in one generation.
#[derive(Default)]
struct Machine {
    readings: [Vec<(i64, f64)>; 2],
    /// Of all windows with readings.
    ends: BTreeSet<i64>,
    /// By the end of the window.
    told: BTreeMap<i64, u32>,
    /// Stamps in this batch of readings whose windows had closed.
    revising: Vec<i64>,
}

impl Machine {
    fn push(&mut self, slot: usize, time: i64, value: f64, config: &FeatureConfig) {
        self.readings[slot].push((time, value));
        let slide = config.slide_ms();
        self.ends.extend(((time.div_euclid(slide) + 1) * slide..=time + WINDOW_MS).step_by(slide as usize));
    }

    /// The windows that `is_due`, for the first time or once more.
    fn tell(&mut self, place: (&str, u32), is_due: impl Fn(i64) -> bool, out: &mut Windows) {
        let revised = self.revising.drain(..).min();
        for end in self.ends.iter().copied().filter(|end| is_due(*end)) {
            let again = revised.is_some_and(|time| time < end);
            let revision = match self.told.get(&end) {
                Some(_) if !again => continue,
                told => told.map_or(0, |revision| revision + 1),
            };
            self.told.insert(end, revision);
            let own =
                |all: &Vec<(i64, f64)>| all.iter().filter(|r| (end - WINDOW_MS..end).contains(&r.0)).copied().collect();
            out.insert((place.0.into(), place.1, end - WINDOW_MS, revision), self.readings.each_ref().map(own));
        }
    }
}

pub fn read(logs: &[Vec<Taken>], config: &FeatureConfig) -> Expected {
    let mut expected = Expected::default();
    // Of the watermark, those that may be none yet.
    let closes = |end: i64, watermark: Option<i64>| watermark.is_some_and(|w| end + LATENESS_MS <= w);
    let settles = |end: i64, watermark: Option<i64>| closes(end + config.revise_ms(), watermark);
    for log in logs {
        let (mut watermark, mut generation, mut last) = (None, 0, Last::new());
        let mut machines = BTreeMap::<String, Machine>::new();
        for taken in log {
            let Content::Batch { batch, .. } = &taken.content else { panic!("a batch") };
            let (sealed, trusted) = (batch.sealed.as_ref().unwrap().time_ms, batch.sealed.as_ref().unwrap().trusted);
            if trusted && watermark.is_some_and(|w| sealed + LATENESS_MS < w) {
                for (name, mut machine) in std::mem::take(&mut machines) {
                    machine.tell((&name, generation), |_| true, &mut expected.windows);
                }
                (watermark, generation) = (None, generation + 1);
            }
            for machine in &batch.machines {
                let stamps = delta_decode(&machine.time_delta_ms);
                for column in &machine.sensors {
                    for (i, &time) in stamps.iter().enumerate() {
                        let quality = column.quality.get(i).copied().unwrap_or(0);
                        if quality == Quality::Absent as i32 {
                            continue;
                        }
                        // Of the first window that it is in.
                        let end = (time.div_euclid(config.slide_ms()) + 1) * config.slide_ms();
                        let (name, value) = ((machine.machine.clone(), column.sensor.clone()), column.value[i]);
                        let mut flags = rules(&name, time, value, quality, &mut last);
                        if !trusted {
                            flags |= flag::UNTRUSTED;
                        } else if settles(end, watermark) {
                            flags |= flag::LATE;
                        } else if closes(end, watermark) {
                            flags |= flag::REVISING;
                        }
                        if trusted && time > sealed + LATENESS_MS {
                            flags |= flag::FUTURE;
                        }
                        if flags & !flag::GAP & !flag::REVISING == 0 {
                            let known = machines.entry(name.0.clone()).or_default();
                            known.push(usize::from(column.sensor == "vibration"), time, value, config);
                            known.revising.extend((flags & flag::REVISING != 0).then_some(time));
                        }
                        let (seq, (machine, sensor), bits) = (taken.position.seq, name, value.to_bits());
                        let reason = column.reason.get(i).map_or(0, |r| *r as u8);
                        expected.readings.push(Reading { seq, machine, sensor, time, bits, reason, flags, generation });
                    }
                }
            }
            if trusted {
                let before = watermark;
                watermark = watermark.max(Some(sealed));
                let is_due = |end: i64| closes(end, watermark) && !settles(end, before);
                for (name, machine) in &mut machines {
                    machine.tell((name, generation), is_due, &mut expected.windows);
                }
            }
        }
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
    let place = |w: &WindowFeatures| (w.machine.to_string(), w.generation, w.start.millis(), w.revision);
    let places: Vec<_> = found.iter().map(place).collect();
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
