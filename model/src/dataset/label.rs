//! What came of a window: labels follow from event records and from nothing else.

use std::collections::{BTreeMap, BTreeSet};

use proto::{asset::AssetId, time::PlantTime, wire::telemetry::EventKind};

use super::MODES_MAX;

/// Nobody recorded the repair: the machine counts as down for so long.
pub const DOWN_MS_MAX: i64 = 24 * 3_600_000;

/// An event record, and when it became known.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub machine: AssetId,
    pub time: PlantTime,
    pub kind: EventKind,
    pub mode: String,
    pub known: PlantTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// None: nobody said which.
    pub mode: Option<usize>,
    pub at: PlantTime,
    /// First maintenance or replacement after it.
    pub repaired: PlantTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Bit i: mode i fails within the horizon.
    Known { fails: u32 },
    /// Broken down, or nobody can know yet.
    Out,
}

/// All failures as known at one time.
#[derive(Debug, Clone)]
pub struct Labeller {
    modes: Vec<String>,
    failures: BTreeMap<AssetId, Vec<Failure>>,
    horizon_ms: i64,
    as_of: PlantTime,
}

impl Labeller {
    /// `as_of`: what became known later does not exist.
    pub fn new(events: &[Event], horizon_ms: i64, as_of: PlantTime) -> Self {
        let known = || events.iter().filter(|e| e.known <= as_of && e.time <= as_of);
        let failures = || known().filter(|e| e.kind == EventKind::Failure);
        let modes: BTreeSet<&str> = failures().map(|e| e.mode.as_str()).filter(|m| !m.is_empty()).collect();
        let modes: Vec<String> = modes.into_iter().take(MODES_MAX).map(String::from).collect();
        let mut by_machine: BTreeMap<AssetId, Vec<Failure>> = BTreeMap::new();
        for event in failures() {
            let repairs = known().filter(|e| matches!(e.kind, EventKind::Maintenance | EventKind::Replacement));
            let own = repairs.filter(|e| e.machine == event.machine && e.time >= event.time).map(|e| e.time).min();
            by_machine.entry(event.machine.clone()).or_default().push(Failure {
                mode: modes.iter().position(|m| *m == event.mode),
                at: event.time,
                repaired: own.unwrap_or(event.time.plus_millis(DOWN_MS_MAX)),
            });
        }
        by_machine.values_mut().for_each(|failures| failures.sort_by_key(|f| f.at));
        Labeller { modes, failures: by_machine, horizon_ms, as_of }
    }

    pub fn modes(&self) -> &[String] {
        &self.modes
    }

    pub fn horizon_ms(&self) -> i64 {
        self.horizon_ms
    }

    pub fn failures(&self, machine: &AssetId) -> &[Failure] {
        self.failures.get(machine).map_or(&[], Vec::as_slice)
    }

    /// Positive for a mode that fails in `(end, end + horizon]`.
    pub fn label(&self, failures: &[Failure], start: PlantTime, end: PlantTime) -> Label {
        if failures.iter().any(|f| end > f.at && start < f.repaired) {
            return Label::Out;
        }
        let horizon = end.plus_millis(self.horizon_ms);
        let ahead = || failures.iter().filter(|f| f.at >= end && f.at <= horizon);
        if ahead().any(|f| f.mode.is_none()) {
            return Label::Out;
        }
        let fails = ahead().filter_map(|f| f.mode).fold(0, |bits, mode| bits | 1 << mode);
        if fails == 0 && horizon > self.as_of { Label::Out } else { Label::Known { fails } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn event(hour: i64, kind: EventKind, mode: &str) -> Event {
        let time = PlantTime(hour * HOUR);
        Event { machine: AssetId::new("m").unwrap(), time, kind, mode: mode.into(), known: time }
    }

    fn labels(events: &[Event], as_of: i64, hours: &[i64]) -> Vec<Label> {
        let labeller = Labeller::new(events, 24 * HOUR, PlantTime(as_of * HOUR));
        let failures = labeller.failures(&AssetId::new("m").unwrap());
        hours.iter().map(|h| labeller.label(failures, PlantTime((h - 1) * HOUR), PlantTime(h * HOUR))).collect()
    }

    const HEALTHY: Label = Label::Known { fails: 0 };

    #[test]
    fn windows_before_a_failure_are_positive_and_those_until_its_repair_are_out() {
        let events = [
            event(100, EventKind::Failure, "slip"),
            event(90, EventKind::Maintenance, ""),
            event(104, EventKind::Replacement, "slip"),
            event(400, EventKind::Failure, "heat"),
        ];
        // Modes by name: heat is bit 0, slip is bit 1.
        let expected = [
            (75, HEALTHY),
            (76, Label::Known { fails: 2 }),
            (100, Label::Known { fails: 2 }),
            (101, Label::Out),
            (104, Label::Out),
            (105, HEALTHY),
            (390, Label::Known { fails: 1 }),
        ];
        assert_eq!(labels(&events, 1000, &expected.map(|e| e.0)), expected.map(|e| e.1));
    }

    #[test]
    fn what_nobody_can_know_yet_is_neither_healthy_nor_failing() {
        let events = [event(100, EventKind::Failure, "slip")];
        assert_eq!(labels(&events, 110, &[80, 86]), [Label::Known { fails: 1 }; 2]);
        assert_eq!(labels(&events, 99, &[70, 75, 76]), [HEALTHY, HEALTHY, Label::Out], "the failure is not known yet");
        assert_eq!(labels(&events, 1000, &[110, 124, 125]), [Label::Out, Label::Out, HEALTHY], "no repair recorded");
    }

    #[test]
    fn a_record_that_came_late_did_not_exist_before() {
        let late = Event { known: PlantTime(500 * HOUR), ..event(100, EventKind::Failure, "slip") };
        assert_eq!(labels(std::slice::from_ref(&late), 400, &[90]), [HEALTHY]);
        assert_eq!(labels(&[late], 500, &[90]), [Label::Known { fails: 1 }]);
    }

    #[test]
    fn a_failure_without_a_mode_is_no_label() {
        assert_eq!(labels(&[event(100, EventKind::Failure, "")], 1000, &[70, 90]), [HEALTHY, Label::Out]);
    }
}
