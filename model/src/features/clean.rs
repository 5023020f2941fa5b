//! The cleaning rules: every reading keeps its row and its value, and gets flags; nothing is silently mended.
//!
//! What a row's predecessors in its series say (the run of equal values, the step in time) is a fold in log order with
//! carried state, so that cutting the log anywhere gives the same flags.

use std::collections::HashMap;

use polars::prelude::*;
use proto::{asset::Unit, wire::telemetry::Quality};
use serde::{Deserialize, Serialize, Serializer};

use super::catalogue::{Catalogue, Series as SensorSeries};

/// Bits of the archive's `flags`.
pub mod flag {
    pub const NOT_FINITE: u32 = 1;
    /// Outside of what the sensor can physically report.
    pub const OUT_OF_RANGE: u32 = 1 << 1;
    /// One value too many times in a row.
    pub const STUCK: u32 = 1 << 2;
    /// The first reading after a hole. Says nothing against the reading itself.
    pub const GAP: u32 = 1 << 3;
    /// The device said that the value is wrong.
    pub const BAD: u32 = 1 << 4;
    /// The device answered with an old value.
    pub const STALE: u32 = 1 << 5;
    /// Its window could not be revised any more when it came.
    pub const LATE: u32 = 1 << 6;
    /// Stamped further ahead of its batch's seal time than clocks are allowed to differ.
    pub const FUTURE: u32 = 1 << 7;
    /// No gateway has said what this sensor is.
    pub const UNKNOWN_SENSOR: u32 = 1 << 8;
    /// Not in a unit of what the sensor measures.
    pub const WRONG_UNIT: u32 = 1 << 9;
    /// From an agent that does not own the machine.
    pub const FOREIGN: u32 = 1 << 10;
    /// Its gateway did not know what time it is: the stamp is an estimate.
    pub const UNTRUSTED: u32 = 1 << 11;
    /// It came when its window had closed, in time to revise it. Says nothing against the reading itself.
    pub const REVISING: u32 = 1 << 12;

    /// Any of these keeps a reading out of the windows.
    pub const DISQUALIFYING: u32 = !(GAP | REVISING);
    /// Decided from the log around the reading, when it came in: can't be found again from the row alone.
    pub const FROM_LOG: u32 = LATE | FUTURE | FOREIGN | UNTRUSTED;
}

/// Columns of the frames inside; the archive's have names instead of ids.
pub mod inner {
    /// Id in the catalogue, u32.
    pub const SERIES: &str = "series";
    /// ms, i64.
    pub const TIME: &str = "time";
    /// As sent, f64.
    pub const VALUE: &str = "value";
    /// [`super::unit_code`], u8.
    pub const UNIT: &str = "unit";
    /// u8.
    pub const QUALITY: &str = "quality";
    /// Flags [`super::flag::FROM_LOG`] on the way in, all on the way out; u32.
    pub const FLAGS: &str = "flags";
    /// The value in its canonical unit, f64; on the way out.
    pub const CLEAN: &str = "clean";
}

/// A reading later than this many sampling intervals after the one before it comes after a gap.
const GAP_INTERVALS: u64 = 3;
/// Code of a unit that is not known.
const NO_UNIT: u8 = Unit::ALL.len() as u8;

pub fn unit_code(unit: Option<Unit>) -> u8 {
    unit.and_then(|unit| Unit::ALL.iter().position(|u| *u == unit)).map_or(NO_UNIT, |at| at as u8)
}

/// The unit of a code; None for an unknown one.
pub fn unit_of(code: u8) -> Option<Unit> {
    Unit::ALL.get(usize::from(code)).copied()
}

/// What the next reading of a series is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Carry {
    /// Bits of the last value, so that even NaN equals itself.
    bits: u64,
    /// Readings in a row with this value; 0: there was no reading yet.
    run: u32,
    newest_ms: i64,
}

/// Flags `readings` (columns of [`inner`], rows in log order) after the rules for their series. Returns the same rows
/// with all flags and the canonical value, and what to carry to the next frame: of each series that has rows here.
pub fn clean(
    mut readings: DataFrame,
    catalogue: &Catalogue,
    carried: &[Carry],
    stuck_after: u32,
) -> PolarsResult<(DataFrame, HashMap<u32, Carry>)> {
    readings.rechunk_mut();
    let mut carry = HashMap::new();
    let (flags, canonical) = flagged(&readings, catalogue, carried, stuck_after, &mut carry)?;
    readings.with_column(Column::new(inner::FLAGS.into(), flags))?;
    readings.with_column(Column::new(inner::CLEAN.into(), canonical))?;
    Ok((readings, carry))
}

/// Per row all flags and the value in its canonical unit. One pass over the columns: as polars expressions, the rules
/// took a quarter of all that a reading cost.
fn flagged(
    readings: &DataFrame,
    catalogue: &Catalogue,
    carried: &[Carry],
    stuck_after: u32,
    carry: &mut HashMap<u32, Carry>,
) -> PolarsResult<(Vec<u32>, Vec<f64>)> {
    let time = readings.column(inner::TIME)?.i64()?.cont_slice()?;
    let value = readings.column(inner::VALUE)?.f64()?.cont_slice()?;
    let unit = readings.column(inner::UNIT)?.u8()?.cont_slice()?;
    let quality = readings.column(inner::QUALITY)?.u8()?.cont_slice()?;
    let from_log = readings.column(inner::FLAGS)?.u32()?.cont_slice()?;
    let (mut flags, mut canonical) = (Vec::with_capacity(value.len()), Vec::with_capacity(value.len()));
    // Rows come in runs of one series.
    for run in readings.column(inner::SERIES)?.u32()?.cont_slice()?.chunk_by(u32::eq) {
        let (id, from) = (run[0], flags.len());
        let Some(series) = catalogue.series().get(id as usize) else {
            polars_bail!(OutOfBounds: "series {id} is not in the catalogue");
        };
        let last = carry.entry(id).or_insert_with(|| carried.get(id as usize).copied().unwrap_or_default());
        let mut rules = Rules::new(unit[from], series);
        for row in from..from + run.len() {
            if rules.unit != unit[row] {
                rules = Rules::new(unit[row], series);
            }
            let (repeats, step) = last.follow(time[row], value[row]);
            let clean = value[row] * rules.scale + rules.offset;
            flags.push(from_log[row] | rules.flags(value[row], clean, quality[row], repeats >= stuck_after, step));
            canonical.push(clean);
        }
    }
    Ok((flags, canonical))
}

/// Without the names of its fields, which would be half of a snapshot; those are read as well.
impl Serialize for Carry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.bits, self.run, self.newest_ms).serialize(to)
    }
}

impl Carry {
    /// How many readings in a row have had this value, and how long after the newest before it this one is stamped.
    fn follow(&mut self, time: i64, value: f64) -> (u32, i64) {
        let (bits, first) = (value.to_bits(), self.run == 0);
        let step = if first { 0 } else { time.saturating_sub(self.newest_ms) };
        self.run = if bits == self.bits { self.run.saturating_add(1) } else { 1 };
        self.bits = bits;
        self.newest_ms = if first { time } else { time.max(self.newest_ms) };
        (self.run, step)
    }
}

/// What the rules need to know about rows of one series in one unit.
#[derive(Debug)]
struct Rules {
    unit: u8,
    /// Of every row.
    always: u32,
    scale: f64,
    offset: f64,
    low: f64,
    high: f64,
    hole_ms: f64,
}

impl Rules {
    fn new(unit: u8, series: &SensorSeries) -> Self {
        let given = unit_of(unit);
        let always = match series.spec {
            None => flag::UNKNOWN_SENSOR,
            Some(spec) if given.map(Unit::canonical) != Some(spec.unit.canonical()) => flag::WRONG_UNIT,
            Some(_) => 0,
        };
        let (scale, offset) = given.map_or((f64::NAN, f64::NAN), Unit::to_canonical);
        let (low, high) = range(series);
        Rules { unit, always, scale, offset, low, high, hole_ms: hole_ms(series) }
    }

    fn flags(&self, value: f64, canonical: f64, quality: u8, repeats: bool, step: i64) -> u32 {
        let flag_if = |rule: bool, bit: u32| if rule { bit } else { 0 };
        let outside = canonical < self.low || canonical > self.high;
        // A standing machine rests at the low end of a range, and that is no fault.
        let resting = canonical <= self.low;
        self.always
            | flag_if(!value.is_finite(), flag::NOT_FINITE)
            | flag_if(canonical.is_finite() && outside, flag::OUT_OF_RANGE)
            | flag_if(repeats && !resting, flag::STUCK)
            | flag_if(step as f64 > self.hole_ms, flag::GAP)
            | flag_if(quality >= Quality::Bad as u8, flag::BAD)
            | flag_if(quality == Quality::Stale as u8, flag::STALE)
    }
}

/// What the sensor can report, in its canonical unit; everything where that is not known.
fn range(series: &SensorSeries) -> (f64, f64) {
    match series.spec {
        Some(spec) if spec.low < spec.high => {
            let (scale, offset) = spec.unit.to_canonical();
            (spec.low * scale + offset, spec.high * scale + offset)
        }
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}

fn hole_ms(series: &SensorSeries) -> f64 {
    match series.spec {
        Some(spec) if spec.interval_ms > 0 => spec.interval_ms.saturating_mul(GAP_INTERVALS) as f64,
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::telemetry::{Birth, MachineInfo, SensorInfo};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const STUCK_AFTER: u32 = 3;

    fn catalogue() -> Catalogue {
        let sensor = |name: &str, unit: &str, range_low, range_high| SensorInfo {
            sensor: name.into(),
            unit: unit.into(),
            range_low,
            range_high,
            interval_ms: 1_000,
        };
        let machine = MachineInfo {
            machine: "m".into(),
            kind: "press".into(),
            sensors: vec![sensor("temperature", "F", 32.0, 212.0), sensor("rotation_speed", "rpm", 0.0, 3_000.0)],
            ..Default::default()
        };
        let mut catalogue = Catalogue::default();
        catalogue.absorb(&Birth { machines: vec![machine], ..Default::default() }).unwrap();
        catalogue.meet("m", "mystery").unwrap();
        catalogue
    }

    fn frame(rows: &[(u32, i64, f64, Unit, Quality)]) -> DataFrame {
        df!(
            inner::SERIES => rows.iter().map(|r| r.0).collect::<Vec<_>>(),
            inner::TIME => rows.iter().map(|r| r.1).collect::<Vec<_>>(),
            inner::VALUE => rows.iter().map(|r| r.2).collect::<Vec<_>>(),
            inner::UNIT => rows.iter().map(|r| unit_code(Some(r.3))).collect::<Vec<_>>(),
            inner::QUALITY => rows.iter().map(|r| r.4 as u8).collect::<Vec<_>>(),
            inner::FLAGS => vec![0u32; rows.len()],
        )
        .unwrap()
    }

    fn flags(rows: &[(u32, i64, f64, Unit, Quality)]) -> Vec<u32> {
        let (frame, _) = clean(frame(rows), &catalogue(), &[], STUCK_AFTER).unwrap();
        frame.column(inner::FLAGS).unwrap().u32().unwrap().into_no_null_iter().collect()
    }

    #[test]
    fn every_rule_flags_its_case_and_only_that() {
        use Quality::{Bad, Good, Stale};
        use Unit::{Celsius, Fahrenheit, Percent, RevolutionsPerMinute};
        let cases = [
            ((0, 0, 100.0, Fahrenheit, Good), 0),
            ((0, 1_000, 32.0, Fahrenheit, Good), 0),
            ((0, 2_000, 212.1, Fahrenheit, Good), flag::OUT_OF_RANGE),
            ((0, 3_000, 99.0, Celsius, Good), 0),
            ((0, 4_000, 100.1, Celsius, Good), flag::OUT_OF_RANGE),
            ((0, 5_000, f64::NAN, Fahrenheit, Good), flag::NOT_FINITE),
            ((0, 6_000, f64::INFINITY, Fahrenheit, Bad), flag::NOT_FINITE | flag::BAD),
            ((0, 7_000, 50.0, Fahrenheit, Stale), flag::STALE),
            ((0, 8_000, 50.5, Percent, Good), flag::WRONG_UNIT),
            ((0, 12_000, 51.0, Fahrenheit, Good), flag::GAP),
            ((1, 0, 0.0, RevolutionsPerMinute, Good), 0),
            ((2, 0, 1.0, RevolutionsPerMinute, Good), flag::UNKNOWN_SENSOR),
        ];
        let rows = cases.map(|c| c.0);
        assert_eq!(flags(&rows), cases.map(|c| c.1));
    }

    #[test]
    fn a_stuck_sensor_is_flagged_but_a_resting_one_is_not() {
        let stuck = |at: i64| (0, at, 70.0, Unit::Fahrenheit, Quality::Good);
        let resting = |at: i64| (1, at, 0.0, Unit::RevolutionsPerMinute, Quality::Good);
        let rows: Vec<_> = (0..5).flat_map(|i| [stuck(i * 1_000), resting(i * 1_000)]).collect();
        let f = flag::STUCK;
        assert_eq!(flags(&rows), [0, 0, 0, 0, f, 0, f, 0, f, 0]);
    }

    #[test]
    fn values_become_canonical_and_stay_as_sent() {
        let rows = [(0, 0, 212.0, Unit::Fahrenheit, Quality::Good)];
        let (frame, _) = clean(frame(&rows), &catalogue(), &[], STUCK_AFTER).unwrap();
        let value = |name: &str| frame.column(name).unwrap().f64().unwrap().get(0).unwrap();
        assert!((value(inner::CLEAN) - 100.0).abs() < 1e-9);
        assert_eq!(value(inner::VALUE), 212.0);
    }

    #[test]
    fn cutting_the_log_anywhere_gives_the_same_flags() {
        let seed = std::env::var("MILLWRIGHT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("MILLWRIGHT_SEED={seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..50 {
            let rows: Vec<_> = (0..60)
                .map(|_| {
                    let value = [0.0, 70.0, 70.0, 500.0, f64::NAN][rng.random_range(0..5)];
                    (rng.random_range(0..3), rng.random_range(0..9_000), value, Unit::Fahrenheit, Quality::Good)
                })
                .collect();
            let mut carry = vec![Carry::default(); catalogue().series().len()];
            let (mut cut, mut rest) = (vec![], &rows[..]);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rng.random_range(1..=rest.len()));
                let (frame, next) = clean(frame(head), &catalogue(), &carry, STUCK_AFTER).unwrap();
                cut.extend(frame.column(inner::FLAGS).unwrap().u32().unwrap().into_no_null_iter());
                next.into_iter().for_each(|(id, of)| carry[id as usize] = of);
                rest = tail;
            }
            assert_eq!(cut, flags(&rows), "seed {seed}");
        }
    }
}
