//! Alerts and failures held against each other, by the rule of the gate (`evaluate/episode.rs`): an alert comes before a
//! failure if it stands, or if the failure is within a horizon of its last window over the threshold. A failure ends all that was
//! said of the machine, a repair what was said of its mode.

use std::collections::{BTreeSet, VecDeque};

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};

use super::Alerted;
use crate::dataset::warning::is_due;

/// Alerts and failures that are remembered; the oldest go first.
const EPISODES_MAX: usize = 20_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Alert {
    pub alerted: Alerted,
    /// End of the last window over the threshold.
    crossed: PlantTime,
    /// None: it stands.
    closed: Option<PlantTime>,
    /// Whether something was there, and when that became known.
    pub verdict: Option<(bool, PlantTime)>,
    end: Option<End>,
}

/// What ended that which the alert had said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    /// Its mode failed.
    Failed,
    /// Somebody was there before.
    Repaired(PlantTime),
    /// Another mode failed, or its time was over.
    Otherwise,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub version: String,
    pub at: PlantTime,
    pub known: PlantTime,
    pub alerted: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Episodes {
    horizon_ms: i64,
    pub alerts: VecDeque<Alert>,
    pub failures: VecDeque<Failure>,
}

impl Alert {
    pub fn failed(&self) -> bool {
        self.end == Some(End::Failed)
    }

    fn is_open(&self, machine: &AssetId, at: PlantTime) -> bool {
        // What is reported late may have come before the repair that was told first.
        let goes_on = match self.end {
            None => true,
            Some(End::Repaired(repaired)) => at <= repaired,
            Some(End::Failed | End::Otherwise) => false,
        };
        goes_on && self.alerted.machine == *machine && self.alerted.at <= at
    }

    fn is_due(&self, at: PlantTime, horizon_ms: i64) -> bool {
        is_due(self.crossed, self.closed, at, horizon_ms)
    }

    fn is_of(&self, mode: &str) -> bool {
        mode.is_empty() || self.alerted.mode == mode
    }
}

impl Episodes {
    pub fn new(horizon_ms: i64) -> Self {
        Episodes { horizon_ms, alerts: VecDeque::new(), failures: VecDeque::new() }
    }

    pub fn alerted(&mut self, alerted: Alerted) {
        // A replay after a restart tells it again, under the same id.
        if self.find(&alerted.id).is_some() {
            return;
        }
        self.alerts.push_back(Alert { crossed: alerted.at, alerted, closed: None, verdict: None, end: None });
        if self.alerts.len() > EPISODES_MAX {
            self.alerts.pop_front();
        }
    }

    /// A window over the mode's threshold: an alert that stands says it again.
    pub fn crossed(&mut self, machine: &AssetId, mode: &str, end: PlantTime) {
        let stands = |a: &&mut Alert| a.closed.is_none() && a.alerted.mode == mode && a.alerted.machine == *machine;
        if let Some(alert) = self.alerts.iter_mut().rev().find(stands) {
            alert.crossed = alert.crossed.max(end);
        }
    }

    pub fn closed(&mut self, id: &str, at: PlantTime) {
        if let Some(alert) = self.find(id) {
            alert.closed = Some(at);
        }
    }

    pub fn judged(&mut self, id: &str, right: bool, known: PlantTime) {
        let Some(alert) = self.find(id) else { return };
        if alert.verdict.is_none_or(|(_, before)| before <= known) {
            alert.verdict = Some((right, known));
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Alert> {
        self.alerts.iter_mut().rev().find(|alert| alert.alerted.id == id)
    }

    /// `version`: in charge; where an alert came before, it is the alert's.
    pub fn failed(&mut self, machine: &AssetId, mode: &str, at: PlantTime, known: PlantTime, version: &str) {
        let mut failure = Failure { version: version.to_owned(), at, known, alerted: false };
        for alert in self.alerts.iter_mut().filter(|alert| alert.is_open(machine, at)) {
            if alert.is_of(mode) && alert.is_due(at, self.horizon_ms) {
                alert.end = Some(End::Failed);
                failure.alerted = true;
                failure.version.clone_from(&alert.alerted.version);
            } else {
                alert.end = Some(End::Otherwise);
            }
        }
        self.failures.push_back(failure);
        if self.failures.len() > EPISODES_MAX {
            self.failures.pop_front();
        }
    }

    /// `alert_id`: that the work answers; empty: none.
    pub fn repaired(&mut self, machine: &AssetId, mode: &str, at: PlantTime, alert_id: &str) {
        let horizon_ms = self.horizon_ms;
        for alert in self.alerts.iter_mut().filter(|alert| alert.is_open(machine, at)) {
            let was_nothing = alert.verdict.is_some_and(|(right, _)| !right);
            let answered = !alert_id.is_empty() && alert.alerted.id == alert_id && !was_nothing;
            if answered || (alert.is_of(mode) && alert.is_due(at, horizon_ms)) {
                alert.end = Some(End::Repaired(at));
            } else if alert.is_of(mode) {
                alert.end = Some(End::Otherwise);
            }
        }
    }

    /// Failures that never came, since somebody was there before: what was repaired at once, after alerts that were right,
    /// is one, however many of them there were. `ripe`: the newest that count.
    pub fn prevented(&self, version: &str, ripe: PlantTime) -> usize {
        let of = |alert: &Alert| match (alert.verdict, alert.end) {
            (Some((true, _)), Some(End::Repaired(at))) if alert.alerted.at <= ripe => Some(at),
            _ => None,
        };
        let own = self.alerts.iter().filter(|alert| alert.alerted.version == version);
        own.filter_map(|a| Some((&a.alerted.machine, &a.alerted.mode, of(a)?))).collect::<BTreeSet<_>>().len()
    }

    /// What came before `oldest` goes.
    pub fn forget(&mut self, oldest: PlantTime) {
        let horizon_ms = self.horizon_ms;
        self.alerts.retain(|a| a.crossed.plus_millis(horizon_ms) > oldest);
        self.failures.retain(|f| f.at > oldest);
    }
}
