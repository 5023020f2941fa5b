//! What was heard of each sensor, and of which for too long nothing. Pure: it is told the time.

use std::time::Duration;

use proto::{
    time::PlantTime,
    wire::telemetry::{Quality, QualityReason},
};
use tokio::time::Instant;

use crate::source::Reading;

/// The readings of one machine at one instant.
pub type Row = (usize, PlantTime, Vec<Reading>);

#[derive(Debug)]
pub struct Hearing {
    machines: Vec<Machine>,
    stale_after: Duration,
    /// The program has ended, and was not started again yet.
    ended: bool,
}

#[derive(Debug)]
struct Machine {
    sensors: Vec<Sensor>,
    /// Heard at one instant, and not given yet.
    pending: Option<(PlantTime, Vec<Reading>)>,
}

#[derive(Debug, Clone, Copy)]
struct Sensor {
    last: Option<f64>,
    /// When something was last heard or reported.
    since: Instant,
}

impl Hearing {
    /// `sensors`: how many each machine has.
    pub fn new(sensors: impl IntoIterator<Item = usize>, stale_after: Duration, now: Instant) -> Self {
        let sensor = Sensor { last: None, since: now };
        let machine = |count| Machine { sensors: vec![sensor; count], pending: None };
        Hearing { machines: sensors.into_iter().map(machine).collect(), stale_after, ended: false }
    }

    /// Collects what belongs to one instant. Returns what was collected before, if this is not of that instant.
    pub fn hear(
        &mut self,
        (machine, sensor): (usize, usize),
        time: PlantTime,
        reading: Reading,
        now: Instant,
    ) -> Option<Row> {
        let at = machine;
        let machine = &mut self.machines[at];
        let same =
            |(then, row): &mut (PlantTime, Vec<Reading>)| *then == time && row[sensor].quality == Quality::Absent;
        let before = machine.pending.take_if(|pending| !same(pending));
        let count = machine.sensors.len();
        machine.pending.get_or_insert_with(|| (time, vec![Reading::ABSENT; count])).1[sensor] = reading;
        let last = Some(reading.value).filter(|value| !value.is_nan());
        machine.sensors[sensor] = Sensor { last, since: now };
        before.map(|(time, row)| (at, time, row))
    }

    /// All that was collected.
    pub fn take(&mut self) -> impl Iterator<Item = Row> {
        self.machines.iter_mut().enumerate().filter_map(|(at, machine)| {
            let (time, row) = machine.pending.take()?;
            Some((at, time, row))
        })
    }

    pub fn started(&mut self) {
        self.ended = false;
    }

    /// The program has ended: nothing is known of any sensor any more.
    pub fn end(&mut self, time: PlantTime, now: Instant) -> Vec<Row> {
        self.ended = true;
        for sensor in self.machines.iter_mut().flat_map(|m| &mut m.sensors) {
            *sensor = Sensor { last: None, since: now };
        }
        let row = |(at, machine): (usize, &Machine)| {
            (at, time, vec![Reading::bad(QualityReason::Ended); machine.sensors.len()])
        };
        self.machines.iter().enumerate().map(row).collect()
    }

    /// When the next sensor will have been silent for too long.
    pub fn stale_at(&self) -> Instant {
        let since = self.machines.iter().flat_map(|m| &m.sensors).map(|s| s.since).min();
        since.unwrap_or_else(Instant::now) + self.stale_after
    }

    /// The sensors that were silent for too long, each once in that time.
    pub fn stale(&mut self, time: PlantTime, now: Instant) -> Vec<Row> {
        let (stale_after, ended) = (self.stale_after, self.ended);
        let mut reading = |sensor: &mut Sensor| {
            if now.saturating_duration_since(sensor.since) < stale_after {
                return Reading::ABSENT;
            }
            sensor.since = now;
            match sensor.last {
                _ if ended => Reading::bad(QualityReason::Ended),
                Some(value) => Reading::stale(value),
                None => Reading::bad(QualityReason::Timeout),
            }
        };
        let rows = self.machines.iter_mut().enumerate();
        rows.map(|(at, machine)| (at, time, machine.sensors.iter_mut().map(&mut reading).collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use QualityReason::{Ended, Timeout};

    use super::*;

    const STALE: Duration = Duration::from_secs(10);

    fn quality(rows: &[Row]) -> Vec<(usize, usize, f64, Quality)> {
        let cells = rows.iter().flat_map(|(m, _, row)| row.iter().enumerate().map(move |(s, r)| (*m, s, r)));
        cells.filter(|c| c.2.quality != Quality::Absent).map(|(m, s, r)| (m, s, r.value, r.quality)).collect()
    }

    #[test]
    fn what_is_said_of_one_instant_becomes_one_row() {
        let now = Instant::now();
        let mut hearing = Hearing::new([2, 1], STALE, now);
        let mut hear = |at, ms, value| hearing.hear(at, PlantTime(ms), Reading::good(value), now);
        assert_eq!(hear((0, 0), 5, 1.0), None);
        assert_eq!(hear((1, 0), 5, 9.0), None, "another machine");
        assert_eq!(hear((0, 1), 5, 2.0), None, "the same row");
        let row = hear((0, 0), 5, 3.0);
        assert_eq!(row, Some((0, PlantTime(5), vec![Reading::good(1.0), Reading::good(2.0)])), "said again");
        let row = hear((0, 1), 6, 4.0).unwrap();
        assert_eq!(quality(&[row]), [(0, 0, 3.0, Quality::Good)], "another time");
        let rest: Vec<_> = hearing.take().collect();
        assert_eq!(quality(&rest), [(0, 1, 4.0, Quality::Good), (1, 0, 9.0, Quality::Good)]);
        assert_eq!(hearing.take().count(), 0);
    }

    #[test]
    fn a_silent_sensor_is_stale_again_and_again_and_of_an_ended_program_nothing_is_known() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut hearing = Hearing::new([2], STALE, start);
        hearing.hear((0, 0), PlantTime(0), Reading::good(7.0), at(4));
        assert_eq!(hearing.stale_at(), at(10), "the other was never heard");
        let rows = hearing.stale(PlantTime(0), at(10));
        assert_eq!((rows[0].2[0].quality, rows[0].2[1].reason), (Quality::Absent, Timeout));
        assert_eq!(hearing.stale_at(), at(14));
        assert_eq!(quality(&hearing.stale(PlantTime(0), at(14))), [(0, 0, 7.0, Quality::Stale)]);
        assert_eq!(hearing.stale_at(), at(20));
        let is_ended = |rows: &[Row]| rows[0].2.iter().all(|r| (r.quality, r.reason) == (Quality::Bad, Ended));
        assert!(is_ended(&hearing.end(PlantTime(0), at(21))));
        assert_eq!(quality(&hearing.stale(PlantTime(0), at(30))), []);
        assert!(is_ended(&hearing.stale(PlantTime(0), at(31))), "still");
        hearing.started();
        assert_eq!(hearing.stale(PlantTime(0), at(41))[0].2[0].reason, Timeout, "started, and silent");
    }
}
