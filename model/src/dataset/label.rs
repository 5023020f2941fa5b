//! What came of a window: labels follow from event records and from nothing else.

use std::collections::{BTreeMap, BTreeSet};

use proto::{asset::AssetId, time::PlantTime, wire::telemetry::EventKind};
use serde::{Deserialize, Serialize};

use super::{
    MODES_MAX,
    warning::{Verdicts, Warnings},
};
pub use crate::features::Event;

/// Nobody recorded the repair: the machine counts as down for so long.
pub const DOWN_MS_MAX: i64 = 24 * 3_600_000;

/// What befell one machine, each in time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Life {
    pub failures: Vec<Failure>,
    pub repairs: Vec<Repair>,
    /// When work was done that an alert came before: what would have failed without it nobody knows.
    pub prevented: Vec<PlantTime>,
}

/// One breakdown, however many told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// None: nobody said which.
    pub mode: Option<usize>,
    pub at: PlantTime,
    /// First maintenance or replacement after it.
    pub repaired: PlantTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// None: nobody said of what.
    pub mode: Option<String>,
    pub at: PlantTime,
}

impl Life {
    /// The machine and a person may both report a breakdown: until its repair, one of the same mode, or of none, is
    /// the same one. Failures come in time, after all repairs.
    fn fail(&mut self, mode: Option<usize>, at: PlantTime) {
        let is_same = |f: &Failure| f.mode == mode || f.mode.is_none() || mode.is_none();
        let still_down = self.failures.iter_mut().rev().take_while(|f| at < f.repaired || at == f.at);
        if let Some(same) = still_down.into_iter().find(|f| is_same(f)) {
            same.mode = same.mode.or(mode);
            return;
        }
        let next = self.repairs.partition_point(|r| r.at < at);
        let repaired = self.repairs.get(next).map_or(at.plus_millis(DOWN_MS_MAX), |r| r.at);
        self.failures.push(Failure { mode, at, repaired });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Bit i: mode i fails within the horizon.
    Known { fails: u32 },
    /// Broken down, or nobody can know: not yet, or never, since work after an alert came before the horizon ended.
    Out,
}

/// All failures as known at one time.
#[derive(Debug, Clone)]
pub struct Labeller {
    modes: Vec<String>,
    lives: BTreeMap<AssetId, Life>,
    horizon_ms: i64,
    as_of: PlantTime,
}

impl Labeller {
    /// Of machines that nobody was warned of; `as_of`: what became known later does not exist.
    pub fn new(events: &[Event], horizon_ms: i64, as_of: PlantTime) -> Self {
        Self::with_warnings(events, &Warnings::default(), horizon_ms, as_of)
    }

    /// [`Labeller::new`] with the alerts that there were.
    pub fn with_warnings(events: &[Event], warnings: &Warnings, horizon_ms: i64, as_of: PlantTime) -> Self {
        let mut known: Vec<&Event> = events.iter().filter(|e| e.known <= as_of && e.time <= as_of).collect();
        known.sort_by_key(|e| e.time);
        let verdicts = Verdicts::of_events(events, as_of);
        let mut prevented = warnings.prevented(&known, &verdicts, horizon_ms);
        let (failures, others): (Vec<&Event>, Vec<&Event>) =
            known.into_iter().partition(|e| e.kind == EventKind::Failure);
        let modes: BTreeSet<&str> = failures.iter().map(|e| e.mode.as_str()).filter(|m| !m.is_empty()).collect();
        let modes: Vec<String> = modes.into_iter().take(MODES_MAX).map(String::from).collect();
        let mut lives: BTreeMap<AssetId, Life> = BTreeMap::new();
        for event in others.iter().filter(|e| matches!(e.kind, EventKind::Maintenance | EventKind::Replacement)) {
            let mode = Some(event.mode.clone()).filter(|m| !m.is_empty());
            let life = lives.entry(event.machine.clone()).or_default();
            life.repairs.push(Repair { mode, at: event.time });
        }
        for event in failures {
            let mode = modes.iter().position(|m| *m == event.mode);
            lives.entry(event.machine.clone()).or_default().fail(mode, event.time);
        }
        for (machine, life) in &mut lives {
            life.prevented = prevented.remove(machine).unwrap_or_default();
        }
        Labeller { modes, lives, horizon_ms, as_of }
    }

    pub fn modes(&self) -> &[String] {
        &self.modes
    }

    pub fn horizon_ms(&self) -> i64 {
        self.horizon_ms
    }

    pub fn life(&self, machine: &AssetId) -> Life {
        self.lives.get(machine).cloned().unwrap_or_default()
    }

    /// Positive for a mode that fails in `[end, end + horizon]`. Known only once the whole horizon has passed: a
    /// failure shows early and its absence late, so that the newest windows would all be positive.
    pub fn label(&self, life: &Life, start: PlantTime, end: PlantTime) -> Label {
        let Life { failures, prevented, .. } = life;
        let horizon = end.plus_millis(self.horizon_ms);
        if horizon > self.as_of || failures.iter().any(|f| end > f.at && start < f.repaired) {
            return Label::Out;
        }
        let ahead = || failures.iter().filter(|f| f.at >= end && f.at <= horizon);
        if ahead().any(|f| f.mode.is_none()) {
            return Label::Out;
        }
        // What failed before the work was done was not prevented by it.
        let open = |at: PlantTime| at >= end && at <= horizon && !ahead().any(|f| f.at <= at);
        if prevented.iter().any(|at| open(*at)) {
            return Label::Out;
        }
        Label::Known { fails: ahead().filter_map(|f| f.mode).fold(0, |bits, mode| bits | 1 << mode) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Answer;

    const HOUR: i64 = 3_600_000;

    fn event(hour: i64, kind: EventKind, mode: &str) -> Event {
        let time = PlantTime(hour * HOUR);
        let machine = AssetId::new("m").unwrap();
        Event { machine, time, kind, code: String::new(), mode: mode.into(), answer: None, known: time }
    }

    fn labels(events: &[Event], as_of: i64, hours: &[i64]) -> Vec<Label> {
        let labeller = Labeller::new(events, 24 * HOUR, PlantTime(as_of * HOUR));
        let life = labeller.life(&AssetId::new("m").unwrap());
        hours.iter().map(|h| labeller.label(&life, PlantTime((h - 1) * HOUR), PlantTime(h * HOUR))).collect()
    }

    const HEALTHY: Label = Label::Known { fails: 0 };
    const FAILS: Label = Label::Known { fails: 1 };

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
        assert_eq!(labels(&events, 110, &[80, 86, 87]), [FAILS, FAILS, Label::Out], "positives wait as long as others");
        assert_eq!(labels(&events, 99, &[70, 75, 76]), [HEALTHY, HEALTHY, Label::Out], "the failure is not known yet");
        assert_eq!(labels(&events, 1000, &[110, 124, 125]), [Label::Out, Label::Out, HEALTHY], "no repair recorded");
    }

    #[test]
    fn a_record_that_came_late_did_not_exist_before() {
        let late = Event { known: PlantTime(500 * HOUR), ..event(100, EventKind::Failure, "slip") };
        assert_eq!(labels(std::slice::from_ref(&late), 400, &[90]), [HEALTHY]);
        assert_eq!(labels(&[late], 500, &[90]), [FAILS]);
    }

    #[test]
    fn what_was_prevented_after_an_alert_is_neither_healthy_nor_failing() {
        let work = |hour, alert: &str| Event {
            answer: Answer::new(alert, None),
            ..event(hour, EventKind::Maintenance, "slip")
        };
        assert_eq!(labels(&[work(100, "a")], 1000, &[75, 76, 100, 101]), [HEALTHY, Label::Out, Label::Out, HEALTHY]);
        assert_eq!(labels(&[work(100, "")], 1000, &[76, 100]), [HEALTHY, HEALTHY], "nobody was warned");
        let repaired = [event(90, EventKind::Failure, "slip"), work(92, "a")];
        assert_eq!(labels(&repaired, 1000, &[80]), [FAILS], "it failed first");
    }

    #[test]
    fn a_failure_without_a_mode_is_no_label() {
        assert_eq!(labels(&[event(100, EventKind::Failure, "")], 1000, &[70, 90]), [HEALTHY, Label::Out]);
    }

    #[test]
    fn a_breakdown_that_two_tell_of_is_one() {
        let failures = |events: &[Event]| {
            let life = Labeller::new(events, 24 * HOUR, PlantTime(1_000 * HOUR)).life(&AssetId::new("m").unwrap());
            life.failures.iter().map(|f| (f.mode, f.at.millis() / HOUR)).collect::<Vec<_>>()
        };
        let fails = |hour, mode| event(hour, EventKind::Failure, mode);
        let repaired = |hour| event(hour, EventKind::Maintenance, "");
        // By the machine, then by a person who does not know the mode; and again after the repair.
        let twice = [fails(100, "slip"), fails(101, ""), repaired(104), fails(200, ""), fails(200, "slip")];
        assert_eq!(failures(&twice), [(Some(0), 100), (Some(0), 200)]);
        assert_eq!(failures(&[fails(100, "slip"), fails(101, "heat")]), [(Some(1), 100), (Some(0), 101)]);
        assert_eq!(failures(&[fails(100, "slip"), repaired(101), fails(102, "slip")]).len(), 2);
        assert_eq!(failures(&[fails(100, "slip"), fails(130, "slip")]).len(), 2, "no repair recorded: down for a day");
    }
}
