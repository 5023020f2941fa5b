//! Replays readings and events from text files (CSV and the like), as if they were taken now.
//!
//! ```text
//! events file ───> feed ─┐
//! readings file ─> feed ─┴─ merged by plant time ──> items
//! ```
//!
//! Every file is read once when the source is opened, so that a bad row (no time, no machine, too few columns) is
//! found before the first one is given; it is named by file and line. A value that is missing or not a number
//! stops nothing: it is a reading that is absent or bad.

use std::{collections::BTreeSet, path::Path};

use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::{MachineInfo, SensorInfo},
};

use super::{INSTANT_ITEMS_MAX, Item, Source, SourceError};

mod config;
mod table;
mod feed;

pub use config::{Column, EventsConfig, MachineColumn, ReplayConfig, SensorColumn, Separator, TimeColumn, TimeFormat};
pub use feed::{MACHINES_MAX, REPLAY_BYTES_MAX};

use feed::{Feed, Format, survey};

#[derive(Debug)]
pub struct Replay {
    infos: Vec<MachineInfo>,
    /// Events first: at one instant, what happened comes before what was read.
    feeds: Vec<Feed>,
    progress: PlantTime,
}

impl Replay {
    /// Opens the files (relative to `base_dir`); what is at or before `resume_after` is left out.
    pub fn open(config: &ReplayConfig, base_dir: &Path, resume_after: Option<PlantTime>) -> Result<Self, SourceError> {
        config.check()?;
        let mut machines = BTreeSet::new();
        let mut readings = Vec::new();
        for file in &config.files {
            let format = Format::readings(config, base_dir.join(file));
            let seen = survey(&format)?;
            machines.extend(seen.machines.iter().cloned());
            readings.push(Feed::open(&format, &seen, None, resume_after)?);
        }
        let mut feeds = Vec::new();
        for events in &config.events {
            let format = Format::events(events, base_dir.join(&events.file));
            feeds.push(Feed::open(&format, &survey(&format)?, Some(machines.clone()), resume_after)?);
        }
        feeds.extend(readings);
        let infos = machines.iter().map(|machine| info(config, machine)).collect();
        let mut replay = Self { infos, feeds, progress: PlantTime::MIN };
        let before_first = replay.next_due().map(|due| due.plus_millis(-1));
        replay.progress = resume_after.or(before_first).unwrap_or(PlantTime::MIN);
        Ok(replay)
    }

    /// Time and place of the feed whose head is next.
    fn next(&self) -> Option<(PlantTime, usize)> {
        let heads = self.feeds.iter().enumerate().filter_map(|(i, feed)| Some((feed.head.as_ref()?.0, i)));
        heads.min()
    }
}

impl Source for Replay {
    fn machines(&self) -> Vec<MachineInfo> {
        self.infos.clone()
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        let full = out.len().saturating_add(items_max.max(1));
        while let Some(instant) = self.next_due().filter(|due| *due <= now) {
            self.progress = self.progress.max(instant.plus_millis(-1));
            if out.len() >= full {
                return Ok(true);
            }
            let most = out.len().saturating_add(INSTANT_ITEMS_MAX);
            while let Some((_, feed)) = self.next().filter(|(due, _)| *due == instant) {
                out.extend(self.feeds[feed].take()?);
                if out.len() > most {
                    return Err(SourceError::Instant { time: instant });
                }
            }
        }
        self.progress = self.progress.max(now);
        Ok(false)
    }

    fn progress(&self) -> PlantTime {
        self.progress
    }

    fn next_due(&self) -> Option<PlantTime> {
        self.next().map(|(due, _)| due)
    }

    fn skipped(&self) -> u64 {
        self.feeds.iter().map(|feed| feed.skipped).sum()
    }
}

fn info(config: &ReplayConfig, machine: &AssetId) -> MachineInfo {
    let interval_ms = match config.interval_ms {
        0 => config.time.step_ms.map_or(0, i64::unsigned_abs),
        known => known,
    };
    let sensors = config.sensors.iter().map(|s| SensorInfo {
        sensor: s.sensor.to_string(),
        unit: s.unit.symbol().into(),
        range_low: s.low,
        range_high: s.high,
        interval_ms,
    });
    MachineInfo {
        machine: machine.to_string(),
        kind: config.kind.to_string(),
        make: config.make.clone(),
        model: config.model.clone(),
        installed_ms: 0,
        sensors: sensors.collect(),
    }
}

#[cfg(test)]
mod public_data;

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::wire::telemetry::{EventKind, Quality};

    use super::*;

    /// Grouped by machine, as the real file is.
    const GROUPED: &str = "\
datetime,machineID,volt,rotate,vibration
2015-01-01 06:00:00,1,176.2,418.5,45.1
2015-01-01 07:00:00,1,162.9,,43.4
2015-01-01 06:00:00,2,170.9,broken,34.2
2015-01-01 07:00:00,2,162.5,402.7,43.5
";
    const FAILURES: &str = "\
\"datetime\",\"machineID\",\"failure\"
2015-01-01 07:00:00,1,\"comp4\"
2015-01-01 06:30:00,99,\"comp1\"
";
    const MAPPING: &str = r#"
        files = ["telemetry.csv"]
        kind = "press"
        interval_ms = 3600000
        time = { column = "datetime" }
        machine = { column = "machineID", prefix = "m" }
        sensors = [
            { column = "volt", sensor = "volt", unit = "V" },
            { column = "rotate", sensor = "rotate", unit = "rpm" },
            { column = "vibration", sensor = "vibration", unit = "1" },
        ]
        [[events]]
        file = "failures.csv"
        kind = "failure"
        time = { column = "datetime" }
        machine = { column = "machineID", prefix = "m" }
        mode = "failure"
    "#;
    const CYCLES: &str = "1 1 -0.0007 518.67 641.82 \n1 2 0.0019 518.67 642.15  \n2 1 0.0008 518.67 641.9  \n";
    const CYCLES_MAPPING: &str = r#"
        files = ["train.txt"]
        separator = "whitespace"
        header = false
        kind = "turbofan"
        time = { column = 2, format = "step", step_ms = 3600000, start = "2026-01-01T00:00:00Z" }
        machine = { column = 1, prefix = "unit-" }
        sensors = [{ column = 5, sensor = "t24", unit = "K" }]
    "#;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("telemetry.csv"), GROUPED).unwrap();
        fs::write(folder.path().join("failures.csv"), FAILURES).unwrap();
        fs::write(folder.path().join("train.txt"), CYCLES).unwrap();
        folder
    }

    fn open(mapping: &str, folder: &Path, after: Option<PlantTime>) -> Result<Replay, SourceError> {
        Replay::open(&toml::from_str(mapping).unwrap(), folder, after)
    }

    fn rest(replay: &mut Replay) -> Vec<Item> {
        let mut items = Vec::new();
        while replay.poll(PlantTime(i64::MAX), 1_000, &mut items).unwrap() {}
        items
    }

    fn hour(at: &str) -> PlantTime {
        proto::time::parse_date_time(&format!("2015-01-01 {at}:00")).unwrap()
    }

    /// Time, machine and what it is, in short.
    fn brief(items: &[Item]) -> Vec<(PlantTime, String, &'static str)> {
        let one = |item: &Item| match item {
            Item::Sample(s) => (s.time, s.machine.to_string(), "sample"),
            Item::Event(e) => (PlantTime(e.time_ms), e.machine.clone(), "event"),
        };
        items.iter().map(one).collect()
    }

    #[test]
    fn rows_grouped_by_machine_come_in_the_order_of_time() {
        let folder = folder();
        let mut replay = open(MAPPING, folder.path(), None).unwrap();
        assert_eq!(replay.next_due(), Some(hour("06:00")));
        let mut early = Vec::new();
        assert!(!replay.poll(hour("06:59"), 10, &mut early).unwrap());
        assert_eq!(replay.progress(), hour("06:59"));
        let expected = [("06:00", "m1", "sample"), ("06:00", "m2", "sample")];
        assert_eq!(brief(&early), expected.map(|(t, m, what)| (hour(t), m.into(), what)));
        // The failure of a machine without readings is left out; that of m1 comes before its reading.
        let expected = [("07:00", "m1", "event"), ("07:00", "m1", "sample"), ("07:00", "m2", "sample")];
        let late = rest(&mut replay);
        assert_eq!(brief(&late), expected.map(|(t, m, what)| (hour(t), m.into(), what)));
        let Item::Event(failure) = &late[0] else { panic!() };
        assert_eq!((failure.kind(), failure.mode.as_str()), (EventKind::Failure, "comp4"));
        assert_eq!(replay.next_due(), None);
    }

    #[test]
    fn a_value_that_is_none_is_absent_or_bad() {
        let folder = folder();
        let items = rest(&mut open(MAPPING, folder.path(), None).unwrap());
        let quality = |i: usize| match &items[i] {
            Item::Sample(s) => s.values.iter().map(|r| r.quality).collect::<Vec<_>>(),
            Item::Event(_) => panic!(),
        };
        assert_eq!(quality(1), [Quality::Good, Quality::Bad, Quality::Good]);
        assert_eq!(quality(3), [Quality::Good, Quality::Absent, Quality::Good]);
    }

    #[test]
    fn a_resumed_replay_goes_on_where_it_stopped() {
        let folder = folder();
        let mut replay = open(MAPPING, folder.path(), Some(hour("06:00"))).unwrap();
        assert_eq!(replay.progress(), hour("06:00"));
        assert_eq!(replay.machines().len(), 2);
        assert_eq!(rest(&mut replay).len(), 3);
    }

    #[test]
    fn steps_without_a_header_become_times() {
        let folder = folder();
        let mut replay = open(CYCLES_MAPPING, folder.path(), None).unwrap();
        let info = replay.machines();
        assert_eq!((info[1].machine.as_str(), info[1].sensors[0].interval_ms), ("unit-2", 3_600_000));
        let hours: Vec<i64> = brief(&rest(&mut replay)).iter().map(|(t, ..)| t.millis() / 3_600_000 % 24).collect();
        assert_eq!(hours, [1, 1, 2]);
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let folder = folder();
        let bad_row = |row: &str| fs::write(folder.path().join("telemetry.csv"), format!("{GROUPED}{row}\n")).unwrap();
        let said = |mapping: &str| open(mapping, folder.path(), None).unwrap_err().to_string();
        assert!(
            said(&MAPPING.replace("\"volt\", s", "\"volts\", s")).ends_with(
                "telemetry.csv: has no column `volts`; it has: datetime, machineID, volt, rotate, vibration"
            )
        );
        assert!(said(&MAPPING.replace("telemetry.csv", "none.csv")).contains("none.csv: "));
        assert!(said(&CYCLES_MAPPING.replace("column = 5", "column = 'T24'")).contains("train.txt: has no header"));
        assert!(said(&CYCLES_MAPPING.replace("step_ms = 3600000, ", "")).starts_with("source.time: "));
        for (row, reason) in [
            (
                "2015-01-01 25:00:00,1,1,1,1",
                "telemetry.csv, line 6: `2015-01-01 25:00:00` is not a time in the format `date_time`",
            ),
            ("2015-01-01 08:00:00,1/2,1,1,1", "telemetry.csv, line 6: `m1/2` is not a valid name"),
            ("2015-01-01 08:00:00,1,1", "telemetry.csv, line 6: has 3 columns, not 4"),
            (&"x".repeat(70_000), "telemetry.csv, line 6: is longer than 65536 bytes"),
        ] {
            bad_row(row);
            assert!(said(MAPPING).contains(reason), "{}", said(MAPPING));
        }
    }

    #[test]
    fn a_mark_and_spaces_in_the_header_are_no_part_of_a_name() {
        let folder = folder();
        let spaced = GROUPED.replace("datetime,machineID,", "\u{feff}datetime , machineID, ");
        fs::write(folder.path().join("telemetry.csv"), spaced).unwrap();
        assert_eq!(rest(&mut open(MAPPING, folder.path(), None).unwrap()).len(), 5);
        fs::write(folder.path().join("train.txt"), format!("\u{feff}{CYCLES}")).unwrap();
        assert_eq!(rest(&mut open(CYCLES_MAPPING, folder.path(), None).unwrap()).len(), 3);
    }

    #[test]
    fn an_instant_is_never_divided() {
        let folder = folder();
        let mut replay = open(MAPPING, folder.path(), None).unwrap();
        let mut items = Vec::new();
        assert!(replay.poll(hour("09:00"), 1, &mut items).unwrap());
        assert_eq!((items.len(), replay.progress()), (2, hour("07:00").plus_millis(-1)));
        assert!(!replay.poll(hour("09:00"), 1, &mut items).unwrap(), "the rest is one instant");
        assert_eq!((items.len(), replay.progress()), (5, hour("09:00")));
    }

    #[test]
    fn rows_behind_the_resume_point_are_counted() {
        let folder = folder();
        let skipped = |at| open(MAPPING, folder.path(), Some(at)).unwrap().skipped();
        assert_eq!(skipped(hour("05:00")), 0);
        assert_eq!(skipped(hour("06:30")), 2, "the failure of a machine without readings is not one");
        assert_eq!(skipped(PlantTime(i64::MAX)), 5);
    }

    #[test]
    fn a_range_that_holds_nothing_is_refused() {
        let folder = folder();
        for range in ["low = 5, high = 5", "low = 9", "low = nan", "high = nan"] {
            let mapping = MAPPING.replace("unit = \"V\"", &format!("unit = \"V\", {range}"));
            let mapping = if range == "low = 9" { mapping.replace("low = 9", "low = 9, high = 1") } else { mapping };
            let error = open(&mapping, folder.path(), None).unwrap_err().to_string();
            assert!(error.starts_with("source.sensors: `volt`: low "), "{error}");
        }
    }
}
