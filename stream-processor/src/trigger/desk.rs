//! Whether an alert starts a retraining: told what has run and what time it is, and nothing else.
//!
//! One run at a time, and none soon after another. An alert that is still firing when the cool-down has passed asks again:
//! what was done has not helped, or was not enough to learn from.

use std::collections::BTreeMap;

use super::notice::Alert;

/// Firing alerts that are remembered; one more, and the first by fingerprint is told of as if it were new.
const ALERTS_KEPT_MAX: usize = 256;

/// What the runner knows of retrainings, whoever started them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    pub running: bool,
    /// When the newest one began, wall time.
    pub began_ms: Option<i64>,
}

/// What is done about one alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Start,
    /// It has started the run that goes on, or that was the newest one.
    Repeated,
    /// Another alert, or somebody else, has.
    Running,
    CoolingDown,
    Resolved,
    /// It does not ask for a retraining.
    NotAsked,
}

impl Decision {
    pub const ALL: [Decision; 6] = [
        Decision::Start,
        Decision::Repeated,
        Decision::Running,
        Decision::CoolingDown,
        Decision::Resolved,
        Decision::NotAsked,
    ];

    /// In metrics and logs.
    pub const fn text(self) -> &'static str {
        match self {
            Decision::Start => "start",
            Decision::Repeated => "repeated",
            Decision::Running => "running",
            Decision::CoolingDown => "cooling-down",
            Decision::Resolved => "resolved",
            Decision::NotAsked => "not-asked",
        }
    }
}

/// What becomes of a run, as far as the trigger sees it: a Job's end is the cluster's to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Started,
    NotStarted,
    Succeeded,
    Failed,
}

impl Run {
    pub const ALL: [Run; 4] = [Run::Started, Run::NotStarted, Run::Succeeded, Run::Failed];

    /// In metrics.
    pub const fn text(self) -> &'static str {
        match self {
            Run::Started => "started",
            Run::NotStarted => "not-started",
            Run::Succeeded => "succeeded",
            Run::Failed => "failed",
        }
    }
}

#[derive(Debug)]
pub struct Desk {
    cool_down_ms: i64,
    /// What was decided last about each firing alert, by fingerprint.
    firing: BTreeMap<String, Decision>,
    /// Which alert started the newest run of ours, and when.
    newest: Option<(String, i64)>,
}

impl Desk {
    pub fn new(cool_down_ms: i64) -> Self {
        Desk { cool_down_ms, firing: BTreeMap::new(), newest: None }
    }

    /// Also whether that is news, or was decided about this alert before. A start counts when [`Desk::started`] says so.
    pub fn decide(&mut self, alert: &Alert, runs: Runs, now_ms: i64) -> (Decision, bool) {
        if !alert.firing {
            let known = self.firing.remove(&alert.fingerprint).is_some();
            return (Decision::Resolved, known);
        }
        if !alert.asks {
            return (Decision::NotAsked, false);
        }
        let decision = self.decision(alert, runs, now_ms);
        let before = self.firing.insert(alert.fingerprint.clone(), decision);
        if self.firing.len() > ALERTS_KEPT_MAX {
            self.firing.pop_first();
        }
        (decision, before != Some(decision))
    }

    /// The runner has begun what was decided.
    pub fn started(&mut self, alert: &Alert, now_ms: i64) {
        self.newest = Some((alert.fingerprint.clone(), now_ms));
    }

    fn decision(&self, alert: &Alert, runs: Runs, now_ms: i64) -> Decision {
        let ours = self.newest.as_ref();
        let began_ms = ours.map(|(_, began_ms)| *began_ms).max(runs.began_ms);
        let cools = began_ms.is_some_and(|began_ms| now_ms.saturating_sub(began_ms) < self.cool_down_ms);
        let its_own = ours.is_some_and(|(by, began)| *by == alert.fingerprint && Some(*began) >= runs.began_ms);
        match (runs.running, cools) {
            (false, false) => Decision::Start,
            _ if its_own => Decision::Repeated,
            (true, _) => Decision::Running,
            (false, true) => Decision::CoolingDown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOL_DOWN: i64 = 1_000;
    const IDLE: Runs = Runs { running: false, began_ms: None };

    fn alert(fingerprint: &str, firing: bool) -> Alert {
        Alert { fingerprint: fingerprint.into(), firing, asks: true, why: "low".into() }
    }

    /// Starts what is to be started, as the driver does.
    fn told(desk: &mut Desk, alert: &Alert, runs: Runs, now_ms: i64) -> (Decision, bool) {
        let decided = desk.decide(alert, runs, now_ms);
        if decided.0 == Decision::Start {
            desk.started(alert, now_ms);
        }
        decided
    }

    #[test]
    fn an_alert_starts_one_run_and_its_repeats_nothing_until_the_cool_down_has_passed() {
        let (mut desk, low) = (Desk::new(COOL_DOWN), alert("a", true));
        assert_eq!(told(&mut desk, &low, IDLE, 0), (Decision::Start, true));
        let running = Runs { running: true, began_ms: Some(0) };
        assert_eq!(told(&mut desk, &low, running, 10), (Decision::Repeated, true));
        assert_eq!(told(&mut desk, &low, running, 20), (Decision::Repeated, false), "said once");
        assert_eq!(told(&mut desk, &low, IDLE, 999), (Decision::Repeated, false));
        assert_eq!(told(&mut desk, &low, IDLE, 1_000), (Decision::Start, true), "it still fires");
        assert_eq!(told(&mut desk, &alert("a", false), IDLE, 1_001), (Decision::Resolved, true));
        assert_eq!(told(&mut desk, &alert("a", false), IDLE, 1_002), (Decision::Resolved, false));
        assert_eq!(told(&mut desk, &low, IDLE, 1_003), (Decision::Repeated, true), "it is back, within the cool-down");
    }

    #[test]
    fn another_alert_waits_for_the_run_and_the_cool_down() {
        let mut desk = Desk::new(COOL_DOWN);
        told(&mut desk, &alert("a", true), IDLE, 0);
        let running = Runs { running: true, began_ms: Some(0) };
        assert_eq!(told(&mut desk, &alert("b", true), running, 10).0, Decision::Running);
        assert_eq!(told(&mut desk, &alert("b", true), IDLE, 20), (Decision::CoolingDown, true));
        assert_eq!(told(&mut desk, &alert("b", true), IDLE, 2_000).0, Decision::Start);
    }

    #[test]
    fn a_run_of_somebody_else_counts_and_one_that_could_not_start_does_not() {
        let (mut desk, low) = (Desk::new(COOL_DOWN), alert("a", true));
        let theirs = Runs { running: true, began_ms: Some(500) };
        assert_eq!(told(&mut desk, &low, theirs, 600).0, Decision::Running);
        assert_eq!(told(&mut desk, &low, Runs { running: false, ..theirs }, 1_400).0, Decision::CoolingDown);
        assert_eq!(desk.decide(&low, Runs { running: false, ..theirs }, 1_500), (Decision::Start, true));
        assert_eq!(desk.decide(&low, IDLE, 1_501).0, Decision::Start, "nobody said that it has started");
    }

    #[test]
    fn what_does_not_ask_starts_nothing_and_is_not_remembered() {
        let mut desk = Desk::new(COOL_DOWN);
        let other = Alert { asks: false, ..alert("a", true) };
        assert_eq!(told(&mut desk, &other, IDLE, 0), (Decision::NotAsked, false));
        assert!(desk.firing.is_empty() && desk.newest.is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut desk = Desk::new(COOL_DOWN);
        for n in 0..2 * ALERTS_KEPT_MAX {
            told(&mut desk, &alert(&n.to_string(), true), IDLE, 0);
        }
        assert_eq!(desk.firing.len(), ALERTS_KEPT_MAX);
    }
}
