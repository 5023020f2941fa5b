//! How good a version is while it works: from what people and machines report of it, and without any report.
//!
//! ```text
//! verdicts ─────────────────────> precision ─┐
//! failures, alerted before or not ─> recall ─┴─> F1, with intervals     as labels arrive
//! probabilities, a horizon later ──> Brier
//! probabilities alone ─────────────> estimated precision, recall, F1    at once, if they are calibrated
//! ```
//!
//! An alert without a verdict is neither right nor wrong: it lowers the coverage. A failure that the crew prevented never
//! comes; its alert's verdict stands for it. Everything is told its time, and only the newest stretch of it counts.

mod estimate;
mod realised;

use std::collections::{BTreeMap, VecDeque};

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};

pub use estimate::{Estimate, Sums};
use realised::Counts;

use crate::probation::Rate;
pub use realised::{Known, Realised};

/// Fewer resolved episodes say nothing and trigger nothing.
pub const RESOLVED_MIN: usize = 30;
/// Alerts and failures that are remembered; the oldest go first.
const EPISODES_MAX: usize = 20_000;
const DAY_MS: i64 = 86_400_000;
/// One window of a machine in so much time is held against its outcome: the others would say the same.
const BRIER_STEP_MS: i64 = 3_600_000;

/// A model's alert that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alerted {
    pub id: String,
    pub machine: AssetId,
    pub mode: String,
    pub version: String,
    pub at: PlantTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Alert {
    alerted: Alerted,
    /// Whether something was there, and when that became known.
    verdict: Option<(bool, PlantTime)>,
    /// The failure that it came before.
    failed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Failure {
    version: String,
    at: PlantTime,
    known: PlantTime,
    alerted: bool,
}

/// One window's probabilities, until it is known what came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Waiting {
    version: String,
    end: PlantTime,
    probabilities: Vec<(String, f64)>,
    /// Modes that failed within the horizon.
    failed: Vec<String>,
    /// Repaired before anything came: nobody knows what would have.
    censored: bool,
}

/// What one version said on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Day {
    windows: u64,
    sums: Sums,
    squares: f64,
    outcomes: f64,
}

/// The quality of the versions that work, or did lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    horizon_ms: i64,
    /// What is older does not count.
    window_ms: i64,
    now: PlantTime,
    alerts: VecDeque<Alert>,
    failures: VecDeque<Failure>,
    waiting: BTreeMap<AssetId, VecDeque<Waiting>>,
    days: BTreeMap<(String, i64), Day>,
}

/// What can be said of one version now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub version: String,
    pub realised: Realised,
    /// Mean squared difference of probability and outcome.
    pub brier: Option<f64>,
    /// Without labels.
    pub estimated: Option<Estimate>,
    /// From a failure or an alert to the record of it, hours, mean.
    pub label_delay_hours: Option<f64>,
    /// Of the alerts that a horizon has passed since, those with a verdict.
    pub coverage: Option<f64>,
}

impl Quality {
    /// `window_ms`: how far back the figures look.
    pub fn new(horizon_ms: i64, window_ms: i64) -> Self {
        let (alerts, failures, waiting, days) = Default::default();
        Quality { horizon_ms, window_ms, now: PlantTime::MIN, alerts, failures, waiting, days }
    }

    pub fn alerted(&mut self, alerted: Alerted) {
        self.alerts.push_back(Alert { alerted, verdict: None, failed: false });
        if self.alerts.len() > EPISODES_MAX {
            self.alerts.pop_front();
        }
    }

    /// A person has looked: `right` if something was wrong with the machine. The last word counts.
    pub fn judged(&mut self, alert_id: &str, right: bool, known: PlantTime) {
        if let Some(alert) = self.alerts.iter_mut().rev().find(|a| a.alerted.id == alert_id) {
            alert.verdict = Some((right, known));
        }
    }

    /// A machine broke down while `version` was in charge; an empty mode is one that nobody named.
    pub fn failed(&mut self, machine: &AssetId, mode: &str, at: PlantTime, known: PlantTime, version: &str) {
        let since = at.plus_millis(-self.horizon_ms);
        let is_same = |m: &str| mode.is_empty() || m == mode;
        let before = |a: &&mut Alert| {
            let Alerted { machine: of, mode, at: opened, .. } = &a.alerted;
            of == machine && is_same(mode) && (since..=at).contains(opened)
        };
        let alert = self.alerts.iter_mut().rev().find(before);
        let version = alert.as_ref().map_or(version, |a| a.alerted.version.as_str()).to_owned();
        self.failures.push_back(Failure { version, at, known, alerted: alert.is_some() });
        if let Some(alert) = alert {
            alert.failed = true;
        }
        if self.failures.len() > EPISODES_MAX {
            self.failures.pop_front();
        }
        for waiting in self.waiting.get_mut(machine).into_iter().flatten() {
            let ahead = waiting.end <= at && at <= waiting.end.plus_millis(self.horizon_ms);
            match mode {
                _ if !ahead => {}
                "" => waiting.censored = true,
                mode => waiting.failed.push(mode.to_owned()),
            }
        }
    }

    /// Maintenance: what had been ahead of the machine is not any more.
    pub fn repaired(&mut self, machine: &AssetId, at: PlantTime) {
        for waiting in self.waiting.get_mut(machine).into_iter().flatten() {
            waiting.censored |= waiting.end <= at && waiting.failed.is_empty();
        }
    }

    /// One window: probability and threshold by mode.
    pub fn scored(&mut self, version: &str, machine: &AssetId, end: PlantTime, modes: &[(&str, f64, f64)]) {
        let day = self.day(version, end);
        day.windows += 1;
        modes.iter().for_each(|(_, probability, threshold)| day.sums.add(*probability, *threshold));
        let waiting = self.waiting.entry(machine.clone()).or_default();
        if waiting.back().is_none_or(|last| end.millis() - last.end.millis() >= BRIER_STEP_MS) {
            let probabilities = modes.iter().map(|(mode, probability, _)| ((*mode).to_owned(), *probability)).collect();
            waiting.push_back(Waiting { version: version.into(), end, probabilities, failed: vec![], censored: false });
        }
    }

    fn day(&mut self, version: &str, at: PlantTime) -> &mut Day {
        self.days.entry((version.to_owned(), at.millis().div_euclid(DAY_MS))).or_default()
    }

    /// Up to `now` everything has been told: windows whose horizon has passed have their outcome, and what is too old goes.
    pub fn advance(&mut self, now: PlantTime) {
        self.now = self.now.max(now);
        let due = self.now.plus_millis(-self.horizon_ms);
        let mut over = Vec::new();
        for waiting in self.waiting.values_mut() {
            while let Some(known) = waiting.pop_front_if(|w| w.end <= due) {
                over.push(known);
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        for window in over.into_iter().filter(|w| !w.censored) {
            let day = self.day(&window.version, window.end);
            for (mode, probability) in &window.probabilities {
                let outcome = f64::from(u8::from(window.failed.contains(mode)));
                day.squares += (probability - outcome).powi(2);
                day.outcomes += 1.0;
            }
        }
        let oldest = self.now.plus_millis(-self.window_ms);
        self.alerts.retain(|a| a.alerted.at.plus_millis(self.horizon_ms) > oldest);
        self.failures.retain(|f| f.at > oldest);
        self.days.retain(|(_, day), _| (day + 1) * DAY_MS > oldest.millis());
    }

    /// Versions that anything is known of.
    pub fn versions(&self) -> Vec<String> {
        let mut versions: Vec<String> = self.days.keys().map(|(version, _)| version.clone()).collect();
        versions.dedup();
        versions
    }

    /// How often the version alerts.
    pub fn rate(&self, version: &str) -> Rate {
        let alerts = self.alerts.iter().filter(|a| a.alerted.version == version).count() as u64;
        let days = self.days.iter().filter(|((of, _), _)| of == version);
        Rate { alerts, windows: days.map(|(_, day)| day.windows).sum() }
    }

    pub fn figures(&self, version: &str) -> Figures {
        let of_version = |(key, day): (&(String, i64), &Day)| (key.0 == version).then_some(*day);
        let mut all = Day::default();
        for day in self.days.iter().filter_map(of_version) {
            all.sums += day.sums;
            all.squares += day.squares;
            all.outcomes += day.outcomes;
        }
        let alerts = || self.alerts.iter().filter(|a| a.alerted.version == version);
        let failures = || self.failures.iter().filter(|f| f.version == version);
        let due = self.now.plus_millis(-self.horizon_ms);
        let (mut ripe, mut ripe_judged) = (0usize, 0usize);
        let mut counts = Counts::default();
        let mut delays = Vec::new();
        for alert in alerts() {
            let is_ripe = alert.alerted.at <= due;
            counts.resolved += usize::from(alert.failed || alert.verdict.is_some());
            ripe += usize::from(is_ripe);
            if let Some((right, known)) = alert.verdict {
                ripe_judged += usize::from(is_ripe);
                counts.verdict(right);
                delays.push(known.millis() - alert.alerted.at.millis());
                // Nothing came, because somebody was there first.
                if right && is_ripe && !alert.failed {
                    counts.caught += 1;
                }
            }
        }
        for failure in failures() {
            counts.failure(failure.alerted);
            delays.push(failure.known.millis() - failure.at.millis());
        }
        let hours = |ms: i64| ms as f64 / 3_600_000.0;
        Figures {
            version: version.into(),
            realised: counts.realised(),
            brier: (all.outcomes > 0.0).then(|| all.squares / all.outcomes),
            estimated: all.sums.estimate(),
            label_delay_hours: (!delays.is_empty())
                .then(|| delays.iter().map(|d| hours(*d)).sum::<f64>() / delays.len() as f64),
            coverage: (ripe > 0).then(|| ripe_judged as f64 / ripe as f64),
        }
    }
}

#[cfg(test)]
mod tests;
