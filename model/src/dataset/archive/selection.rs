//! Which readings of an archive are read when it holds more than memory does.
//!
//! First those before the days that are asked for go; then machines, down to so many that a model can still be learnt from
//! them; and at last the oldest of what is left. What goes is told.

use std::fmt;

use proto::{
    archive::{DataObject, Shard, Table},
    time::PlantTime,
};

/// Readings held at most: about 2.7 GB of columns.
pub const READINGS_MAX: u64 = 100_000_000;
/// Fewer machines are not chosen from: then the oldest readings go.
const MACHINES_MIN: usize = 200;
/// Before the days that are asked for: what features are measured against learns in days.
const WARM_UP_DAYS: f64 = 14.0;
const DAY_MS: f64 = 86_400_000.0;

/// What is asked for of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scope {
    /// None: all of them.
    pub shard: Option<Shard>,
    /// Where not all readings fit: so many of the newest days of plant time are enough. None: the more the better.
    pub days: Option<f64>,
}

/// What an archive holds and was not read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeftOut {
    /// Of the machines, that are read.
    pub share: f64,
    /// Readings from here on.
    pub from: Option<PlantTime>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the archive has more than {} M readings: ", READINGS_MAX / 1_000_000)?;
        match self.from.and_then(|from| chrono::DateTime::from_timestamp_millis(from.millis())) {
            Some(from) => write!(f, "those from {} on are read", from.format("%Y-%m-%d %H:%M"))?,
            None => f.write_str("those of all times are read")?,
        }
        write!(f, ", of {:.1} % of the machines", 100.0 * self.share)
    }
}

#[derive(Debug)]
pub struct Selection {
    /// In the order of the log.
    pub objects: Vec<DataObject>,
    pub share: f64,
    /// Of readings.
    from: Option<PlantTime>,
}

impl Selection {
    pub fn of(objects: Vec<DataObject>, days: Option<f64>, machines: usize) -> Self {
        let mut selection = Selection { objects, share: 1.0, from: None };
        if selection.rows() <= READINGS_MAX {
            return selection;
        }
        let mut times: Vec<i64> = selection.readings().map(|object| object.max_time_ms).collect();
        times.sort_unstable();
        // Of the newest hundredth the oldest: a clock that was years ahead must not make everything else old.
        let present = times.get(times.len() - 1 - times.len() / 100).copied().unwrap_or_default();
        if let Some(days) = days {
            let from = present.saturating_sub(((days + WARM_UP_DAYS) * DAY_MS) as i64);
            selection.keep(|object| object.max_time_ms >= from);
        }
        let fits = READINGS_MAX as f64 / selection.rows().max(1) as f64;
        selection.share = fits.max(MACHINES_MIN as f64 / machines.max(1) as f64).min(1.0);
        // From the newest back, until there is no room.
        let mut rows = 0.0;
        let mut times: Vec<(i64, u64)> = selection.readings().map(|o| (o.max_time_ms, o.rows)).collect();
        times.sort_unstable();
        let share = selection.share;
        let fitting = times.iter().rev().take_while(|(_, held)| {
            rows += *held as f64 * share;
            rows <= READINGS_MAX as f64
        });
        let oldest = fitting.last().or(times.last()).map_or(i64::MIN, |(time, _)| *time);
        selection.keep(|object| object.max_time_ms >= oldest);
        selection
    }

    /// None: nothing.
    pub fn left_out(&self) -> Option<LeftOut> {
        let LeftOut { share, from } = LeftOut { share: self.share, from: self.from };
        (share < 1.0 || from.is_some()).then_some(LeftOut { share, from })
    }

    fn readings(&self) -> impl Iterator<Item = &DataObject> {
        self.objects.iter().filter(|object| object.table == Table::Readings)
    }

    fn rows(&self) -> u64 {
        self.readings().map(|object| object.rows).fold(0, u64::saturating_add)
    }

    fn keep(&mut self, wanted: impl Fn(&DataObject) -> bool) {
        let before = self.objects.len();
        self.objects.retain(|object| object.table != Table::Readings || wanted(object));
        if self.objects.len() < before {
            self.from = self.readings().map(|object| PlantTime(object.min_time_ms)).min();
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::archive::ObjectRef;

    use super::*;

    const DAY: i64 = DAY_MS as i64;

    fn object(table: Table, day: i64, rows: u64) -> DataObject {
        DataObject {
            table,
            object: ObjectRef { key: format!("{day}"), bytes: 1, sha256: String::new() },
            rows,
            min_time_ms: day * DAY,
            max_time_ms: (day + 1) * DAY - 1,
        }
    }

    /// One object of readings a day, the newest last, with an object of events behind each.
    fn days(days: i64, rows: u64) -> Vec<DataObject> {
        (0..days).flat_map(|day| [object(Table::Readings, day, rows), object(Table::Events, day, 7)]).collect()
    }

    fn first_day(selection: &Selection) -> i64 {
        selection.readings().map(|object| object.min_time_ms / DAY).min().unwrap()
    }

    #[test]
    fn what_fits_is_read_whole_and_nothing_is_told() {
        let selection = Selection::of(days(100, 1_000_000), Some(3.0), 5);
        assert_eq!((selection.objects.len(), selection.left_out()), (200, None));
    }

    #[test]
    fn days_that_nobody_asked_for_go_first_and_events_never() {
        let selection = Selection::of(days(100, 2_000_000), Some(10.0), 5);
        // One more: the hundredth that may be of a clock that was ahead.
        assert_eq!(first_day(&selection), 98 - 10 - WARM_UP_DAYS as i64);
        assert_eq!(selection.objects.iter().filter(|object| object.table == Table::Events).count(), 100);
        let told = selection.left_out().unwrap();
        assert_eq!(told, LeftOut { share: 1.0, from: Some(PlantTime(74 * DAY)) });
        let line = "the archive has more than 100 M readings: those from 1970-03-16 00:00 on are read, of 100.0 % of the machines";
        assert_eq!(told.to_string(), line);
    }

    #[test]
    fn a_clock_that_was_years_ahead_makes_nothing_old() {
        let mut objects = days(100, 2_000_000);
        objects.push(object(Table::Readings, 4_000, 10));
        assert_eq!(first_day(&Selection::of(objects, Some(10.0), 5)), 99 - 10 - WARM_UP_DAYS as i64);
    }

    #[test]
    fn of_many_machines_some_are_enough_for_all_days_and_of_few_all_for_the_newest() {
        let many = Selection::of(days(100, 100_000_000), None, 100_000);
        assert_eq!((many.share, first_day(&many)), (0.01, 0));
        let few = Selection::of(days(100, 10_000_000), None, 100);
        assert_eq!((few.share, first_day(&few)), (1.0, 90));
        // Both: no fewer than two hundred machines.
        let both = Selection::of(days(100, 100_000_000), None, 2_000);
        assert_eq!((both.share, first_day(&both)), (0.1, 90));
    }

    #[test]
    fn an_object_that_is_too_large_alone_is_read_all_the_same() {
        let selection = Selection::of(days(2, READINGS_MAX + 1), None, 5);
        assert_eq!(first_day(&selection), 1);
    }
}
