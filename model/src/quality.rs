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
//! comes; a repair after an alert that was right stands for it. Everything is told its time, and only the newest stretch of it counts.

mod episodes;
mod estimate;
mod outcomes;
mod realised;

use std::collections::BTreeMap;

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};

use episodes::Episodes;
pub use estimate::{Estimate, Sums};
use outcomes::{Happened, Judged, Outcomes, Waiting};
use realised::Counts;

use crate::{dataset::warning::Told, probation::Rate};
pub use realised::{Known, Realised};

/// Fewer resolved episodes say nothing and trigger nothing.
pub const RESOLVED_MIN: usize = 30;
const DAY_MS: i64 = 86_400_000;

/// A model's alert that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alerted {
    pub id: String,
    pub machine: AssetId,
    pub mode: String,
    pub version: String,
    pub at: PlantTime,
}

/// Maintenance or a replacement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repair<'a> {
    /// Empty: of what, nobody said.
    pub mode: &'a str,
    pub at: PlantTime,
    pub known: PlantTime,
    /// That it answers; empty: none.
    pub alert_id: &'a str,
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
    episodes: Episodes,
    outcomes: Outcomes,
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
        let (episodes, outcomes) = (Episodes::new(horizon_ms), Outcomes::new(horizon_ms));
        Quality { horizon_ms, window_ms, now: PlantTime::MIN, episodes, outcomes, days: BTreeMap::new() }
    }

    /// Looks back so far from now on.
    pub fn look_back(&mut self, window_ms: i64) {
        self.window_ms = window_ms;
    }

    pub fn alerted(&mut self, alerted: Alerted) {
        self.episodes.alerted(alerted);
    }

    /// A change of any alert: work that follows it prevents what nobody can know.
    pub fn warned(&mut self, told: Told) {
        self.outcomes.warned(told);
    }

    /// Faded, or closed by what happened: from then on it promises no more than it has.
    pub fn closed(&mut self, alert_id: &str, at: PlantTime) {
        self.episodes.closed(alert_id, at);
    }

    /// A person has looked: `right` if something was wrong with the machine. The newest word counts.
    pub fn judged(&mut self, alert_id: &str, right: bool, known: PlantTime) {
        self.outcomes.judged(Judged { alert_id: alert_id.into(), right, known });
        self.episodes.judged(alert_id, right, known);
    }

    /// A machine broke down while `version` was in charge; an empty mode is one that nobody named.
    pub fn failed(&mut self, machine: &AssetId, mode: &str, at: PlantTime, known: PlantTime, version: &str) {
        let happened = Happened { time: at, known, failure: true, mode: mode.into(), alert_id: String::new() };
        if self.outcomes.happens(machine, happened) {
            self.episodes.failed(machine, mode, at, known, version);
        }
    }

    /// Work was done: what had been ahead of the machine is not any more.
    pub fn repaired(&mut self, machine: &AssetId, repair: &Repair) {
        let Repair { mode, at, known, alert_id } = *repair;
        let happened = Happened { time: at, known, failure: false, mode: mode.into(), alert_id: alert_id.into() };
        self.outcomes.happens(machine, happened);
        self.episodes.repaired(machine, mode, at, alert_id);
    }

    /// One window, from start to end: probability and threshold by mode.
    pub fn scored(
        &mut self,
        version: &str,
        machine: &AssetId,
        window: (PlantTime, PlantTime),
        modes: &[(&str, f64, f64)],
    ) {
        let (start, end) = window;
        let day = self.day(version, end);
        day.windows += 1;
        modes.iter().for_each(|(_, probability, threshold)| day.sums.add(*probability, *threshold));
        for (mode, ..) in modes.iter().filter(|(_, probability, threshold)| probability >= threshold) {
            self.episodes.crossed(machine, mode, end);
        }
        let probabilities = modes.iter().map(|(mode, probability, _)| ((*mode).to_owned(), *probability)).collect();
        self.outcomes.wait(machine, Waiting { version: version.into(), start, end, probabilities });
    }

    fn day(&mut self, version: &str, at: PlantTime) -> &mut Day {
        self.days.entry((version.to_owned(), at.millis().div_euclid(DAY_MS))).or_default()
    }

    /// Up to `now`, which may fall back where clocks do, everything has been told: windows whose horizon has passed have their
    /// outcome, and what is too old goes.
    pub fn advance(&mut self, now: PlantTime) {
        self.now = now;
        for (window, failed) in self.outcomes.due(now) {
            let day = self.day(&window.version, window.end);
            for ((_, probability), failed) in window.probabilities.iter().zip(failed) {
                day.squares += (probability - f64::from(u8::from(failed))).powi(2);
                day.outcomes += 1.0;
            }
        }
        let oldest = now.plus_millis(-self.window_ms);
        self.episodes.forget(oldest);
        self.days.retain(|(_, day), _| (day + 1) * DAY_MS > oldest.millis());
    }

    /// Versions that anything is known of.
    pub fn versions(&self) -> Vec<String> {
        let mut versions: Vec<String> = self.days.keys().map(|(version, _)| version.clone()).collect();
        versions.dedup();
        versions
    }

    fn alerts_of(&self, version: &str) -> impl Iterator<Item = &episodes::Alert> {
        self.episodes.alerts.iter().filter(move |alert| alert.alerted.version == version)
    }

    /// How often the version alerts.
    pub fn rate(&self, version: &str) -> Rate {
        let alerts = self.alerts_of(version).count() as u64;
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
        let due = self.now.plus_millis(-self.horizon_ms);
        let (mut ripe, mut ripe_judged) = (0usize, 0usize);
        let mut counts = Counts::default();
        let mut delays = Vec::new();
        for alert in self.alerts_of(version) {
            let is_ripe = alert.alerted.at <= due;
            counts.resolved += usize::from(alert.failed() || alert.verdict.is_some());
            ripe += usize::from(is_ripe);
            if let Some((right, known)) = alert.verdict {
                ripe_judged += usize::from(is_ripe);
                counts.verdict(right);
                delays.push(known.millis() - alert.alerted.at.millis());
            }
        }
        counts.caught += self.episodes.prevented(version, due);
        for failure in self.episodes.failures.iter().filter(|failure| failure.version == version) {
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
