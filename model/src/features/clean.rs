//! The cleaning rules: every reading keeps its row and its value, and gets flags; nothing is silently mended.
//!
//! Rules that look at one row are polars expressions. What a row's predecessors in its series say (the run of equal
//! values, the step in time) is a fold in log order with carried state, so that cutting the log anywhere gives the
//! same flags.

use polars::prelude::*;
use proto::{asset::Unit, wire::telemetry::Quality};
use serde::{Deserialize, Serialize};

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
    /// Its window was closed before it came.
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

    /// Any of these keeps a reading out of the windows.
    pub const DISQUALIFYING: u32 = !GAP;
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// Bits of the last value, so that even NaN equals itself.
    bits: u64,
    /// Readings in a row with this value; 0: there was no reading yet.
    run: u32,
    newest_ms: i64,
}

/// Flags `readings` (columns of [`inner`], rows in log order) after the rules for their series. Returns the same rows
/// with all flags and the canonical value, and what to carry to the next frame.
pub fn clean(
    readings: DataFrame,
    catalogue: &Catalogue,
    carried: &[Carry],
    stuck_after: u32,
) -> PolarsResult<(DataFrame, Vec<Carry>)> {
    let (run, step, carry) = look_back(&readings, catalogue.series().len(), carried)?;
    let frame = with_rules(readings, catalogue, run, step)?;
    // To polars NaN is greater than everything; it is also what a value without a known unit becomes.
    let comparable = col("canonical").is_finite();
    let flags = [
        (col(inner::VALUE).is_finite().not(), flag::NOT_FINITE),
        (comparable.and(col("canonical").lt(col("low")).or(col("canonical").gt(col("high")))), flag::OUT_OF_RANGE),
        // A standing machine rests at the low end of a range, and that is no fault.
        (col("run").gt_eq(lit(stuck_after)).and(col("canonical").lt_eq(col("low")).not()), flag::STUCK),
        (col("step").gt(col("hole")), flag::GAP),
        (col(inner::QUALITY).gt_eq(lit(Quality::Bad as u8)), flag::BAD),
        (col(inner::QUALITY).eq(lit(Quality::Stale as u8)), flag::STALE),
        (col("expected").eq(lit(NO_UNIT)), flag::UNKNOWN_SENSOR),
        (col("expected").neq(lit(NO_UNIT)).and(col("expected").neq(col("given"))), flag::WRONG_UNIT),
    ];
    let all = flags
        .into_iter()
        .fold(col(inner::FLAGS), |all, (rule, bit)| all.or(when(rule).then(lit(bit)).otherwise(lit(0u32))));
    let frame = frame
        .lazy()
        .with_columns([(col(inner::VALUE) * col("scale") + col("offset")).alias("canonical")])
        .with_columns([all.alias(inner::FLAGS)])
        .select([
            col(inner::SERIES),
            col(inner::TIME),
            col(inner::VALUE),
            col(inner::UNIT),
            col(inner::QUALITY),
            col(inner::FLAGS),
            col("canonical").alias(inner::CLEAN),
        ])
        .collect()?;
    Ok((frame, carry))
}

/// Per row: how many readings in a row have had this value, and how long after the newest before it is stamped.
fn look_back(readings: &DataFrame, series: usize, carried: &[Carry]) -> PolarsResult<(Column, Column, Vec<Carry>)> {
    let ids = readings.column(inner::SERIES)?.u32()?.rechunk();
    let times = readings.column(inner::TIME)?.i64()?.rechunk();
    let values = readings.column(inner::VALUE)?.f64()?.rechunk();
    let mut carry = carried.to_vec();
    carry.resize(series.max(carried.len()), Carry::default());
    let (mut runs, mut steps) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
    for ((&id, &time), &value) in ids.cont_slice()?.iter().zip(times.cont_slice()?).zip(values.cont_slice()?) {
        let Some(last) = carry.get_mut(id as usize) else {
            polars_bail!(OutOfBounds: "series {id} is not in the catalogue");
        };
        let bits = value.to_bits();
        let first = last.run == 0;
        steps.push(if first { 0 } else { time.saturating_sub(last.newest_ms) });
        last.run = if bits == last.bits { last.run.saturating_add(1) } else { 1 };
        last.bits = bits;
        last.newest_ms = if first { time } else { time.max(last.newest_ms) };
        runs.push(last.run);
    }
    Ok((Column::new("run".into(), runs), Column::new("step".into(), steps), carry))
}

/// Adds to each row what the rules need to know about its series and unit.
fn with_rules(mut readings: DataFrame, catalogue: &Catalogue, run: Column, step: Column) -> PolarsResult<DataFrame> {
    let by_series = readings.column(inner::SERIES)?.u32()?.clone();
    let by_unit = readings.column(inner::UNIT)?.cast(&DataType::UInt32)?.u32()?.clone();
    let of_series = |name: &str, of: fn(&SensorSeries) -> f64| {
        let table: Vec<f64> = catalogue.series().iter().map(of).collect();
        Column::new(name.into(), table).take(&by_series)
    };
    let of_unit = |name: &str, of: fn(Unit) -> f64| {
        let table: Vec<f64> = Unit::ALL.into_iter().map(of).chain([f64::NAN]).collect();
        Column::new(name.into(), table).take(&by_unit)
    };
    let expected = |s: &SensorSeries| unit_code(s.spec.map(|spec| spec.unit.canonical()));
    let expected: Vec<u8> = catalogue.series().iter().map(expected).collect();
    let given: Vec<u8> = (0..=NO_UNIT).map(|code| unit_code(unit_of(code).map(Unit::canonical))).collect();
    let columns = [
        run,
        step,
        of_series("low", |s| range(s).0)?,
        of_series("high", |s| range(s).1)?,
        of_series("hole", hole_ms)?,
        of_unit("scale", |u| u.to_canonical().0)?,
        of_unit("offset", |u| u.to_canonical().1)?,
        Column::new("expected".into(), expected).take(&by_series)?,
        Column::new("given".into(), given).take(&by_unit)?,
    ];
    for column in columns {
        readings.with_column(column)?;
    }
    Ok(readings)
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
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..50 {
            let rows: Vec<_> = (0..60)
                .map(|_| {
                    let value = [0.0, 70.0, 70.0, 500.0, f64::NAN][rng.random_range(0..5)];
                    (rng.random_range(0..3), rng.random_range(0..9_000), value, Unit::Fahrenheit, Quality::Good)
                })
                .collect();
            let mut carry = vec![];
            let (mut cut, mut rest) = (vec![], &rows[..]);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rng.random_range(1..=rest.len()));
                let (frame, next) = clean(frame(head), &catalogue(), &carry, STUCK_AFTER).unwrap();
                cut.extend(frame.column(inner::FLAGS).unwrap().u32().unwrap().into_no_null_iter());
                (carry, rest) = (next, tail);
            }
            assert_eq!(cut, flags(&rows), "seed {seed}");
        }
    }
}
