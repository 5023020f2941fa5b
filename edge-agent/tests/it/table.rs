//! An endless table of readings, a pure function of time, so that whoever looks into an archive knows what must be there.
//! A file holds a window of it.

use std::{collections::BTreeMap, fmt::Write, fs, ops::RangeInclusive, path::Path};

use proto::{
    telemetry::{FrameKind, check_batch, delta_decode},
    wire::telemetry::TelemetryBatch,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::committer::Taken;

/// Plant time between two rows of a machine.
pub const STEP_MS: i64 = 1_000;
const MACHINES: i64 = 3;
const SENSORS: i64 = 4;
pub const READINGS_PER_STEP: u64 = (MACHINES * SENSORS) as u64;

/// Two sources in the configuration's words: the table, and notes that do nothing but fill a disk.
pub const SOURCE: &str = r#"
[[source]]
type = "replay"
files = ["rows.csv"]
kind = "press"
time = { column = "time", format = "unix_ms" }
machine = { column = "machine" }
sensors = [
    { column = "a", sensor = "a", unit = "1" },
    { column = "b", sensor = "b", unit = "1" },
    { column = "c", sensor = "c", unit = "1" },
    { column = "d", sensor = "d", unit = "1" },
]
[[source.events]]
file = "notes.csv"
kind = "error"
time = { column = "time", format = "unix_ms" }
machine = { column = "machine" }
code = "code"
"#;

/// No two values are the same.
fn value(ms: i64, machine: i64, sensor: i64) -> f64 {
    ((ms / STEP_MS * MACHINES + machine) * SENSORS + sensor) as f64
}

/// Writes the rows at these multiples of [`STEP_MS`], with a note of so many random characters at each.
pub fn write(folder: &Path, steps: RangeInclusive<i64>, note_bytes: usize) {
    let (mut rows, mut notes) = (String::from("time,machine,a,b,c,d\n"), String::from("time,machine,code\n"));
    for step in steps {
        let ms = step * STEP_MS;
        for machine in 0..MACHINES {
            write!(rows, "{ms},press-{machine}").unwrap();
            (0..SENSORS).for_each(|sensor| write!(rows, ",{}", value(ms, machine, sensor)).unwrap());
            rows.push('\n');
        }
        if note_bytes > 0 {
            let letters = ChaCha8Rng::seed_from_u64(step as u64).random_iter::<u8>().take(note_bytes);
            writeln!(notes, "{ms},press-0,{}", letters.map(|b| char::from(b'0' + b % 64)).collect::<String>()).unwrap();
        }
    }
    fs::write(folder.join("rows.csv"), rows).unwrap();
    fs::write(folder.join("notes.csv"), notes).unwrap();
}

/// A break that the log declared: plant times behind the first one, up to the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Declared {
    after_ms: i64,
    up_to_ms: i64,
    /// It says so; more, if a part of it is in the archive after all.
    readings: u64,
    exact: bool,
}

/// Panics unless every row at `steps` is in the archive exactly once or inside a break that the log declared, with the
/// number of readings that it told. Returns how many readings are missing.
pub fn check(archive: &[Taken], steps: RangeInclusive<i64>) -> u64 {
    let (mut found, mut breaks) = (BTreeMap::<i64, i64>::new(), Vec::new());
    let mut sealed_ms = i64::MIN;
    for Taken { from, frame } in archive {
        match frame.header.kind {
            FrameKind::Data => {
                let batch = frame.batch().unwrap();
                assert_eq!(check_batch(&batch), Ok(u64::from(frame.header.readings)));
                let up_to_ms = batch.sealed.as_ref().unwrap().time_ms;
                for ms in rows(&batch) {
                    assert!(sealed_ms < ms && ms <= up_to_ms, "{ms} is not behind {sealed_ms} up to {up_to_ms}");
                    *found.entry(ms).or_default() += 1;
                }
                sealed_ms = up_to_ms;
            }
            FrameKind::Bridge => panic!("the log of one spool and one archive has no break"),
            FrameKind::Gap => {
                let gap = frame.gap_content().unwrap();
                let up_to_ms = gap.sealed.unwrap().time_ms;
                let exact = *from == frame.header.position.seq;
                breaks.push(Declared { after_ms: sealed_ms, up_to_ms, readings: gap.readings, exact });
                sealed_ms = up_to_ms;
            }
        }
    }
    let mut missing = 0;
    for ms in steps.map(|step| step * STEP_MS) {
        let rows = found.remove(&ms).unwrap_or_default();
        if rows != MACHINES {
            assert_eq!(rows, 0, "an instant is never divided");
            let at = breaks.iter_mut().find(|b| b.after_ms < ms && ms <= b.up_to_ms);
            let declared = at.unwrap_or_else(|| panic!("the row at {ms} is missing in silence"));
            missing += READINGS_PER_STEP;
            declared.readings = declared.readings.checked_sub(READINGS_PER_STEP).expect("more is lost than declared");
        }
    }
    assert!(breaks.iter().all(|b| b.readings == 0 || !b.exact), "less is lost than declared: {breaks:?}");
    assert_eq!(found, BTreeMap::new(), "there are rows that never were");
    missing
}

/// Times of the batch's rows, each with the table's values.
fn rows(batch: &TelemetryBatch) -> impl Iterator<Item = i64> {
    batch.machines.iter().flat_map(|m| {
        let machine: i64 = m.machine.strip_prefix("press-").unwrap().parse().unwrap();
        assert_eq!(m.sensors.len() as i64, SENSORS);
        delta_decode(&m.time_delta_ms).into_iter().enumerate().map(move |(row, ms)| {
            for (sensor, column) in m.sensors.iter().enumerate() {
                assert_eq!(column.value[row], value(ms, machine, sensor as i64), "{machine} at {ms}");
                assert_eq!(column.quality, [0; 0]);
            }
            ms
        })
    })
}
