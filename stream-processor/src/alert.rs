//! From scores and rules to alerts that open once, change and close.
//!
//! A pure function of the closed windows and the events that became known: no clock, no randomness. The same log gives
//! the same alerts with the same ids, which is what lets a replay after a crash repeat none.
//!
//! ```text
//! scored window ────> policy: m of n slots at or above the head's threshold ──┐
//! unscored window ──> rules: limits, vibration zones, own normal; m of n ─────┼─> Alert: open, changed, closed
//! event record ─────> failure, repair or verdict closes ──────────────────────┤
//! a person ─────────> acknowledges ───────────────────────────────────────────┘
//! ```

pub mod config;
mod machine;
mod opening;
mod rules;
pub mod text;

use std::collections::{BTreeMap, VecDeque};

use model::{features::WindowFeatures, score::ModeHead};
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::{
        alert::{Alert, AlertState},
        prediction::Prediction,
        telemetry::EventRecord,
    },
};
use serde::{Deserialize, Serialize};

pub use config::{AlertConfig, InvalidAlertConfig};
use machine::MachineDesk;

/// Closed alerts that outlive a restart: they are part of every snapshot. All of them are in the archive.
pub const CLOSED_KEPT_MAX: usize = 100;

/// One closed window, in the order of its machine's windows.
#[derive(Debug, Clone, Copy)]
pub struct Judgement<'a> {
    pub window: &'a WindowFeatures,
    /// From the start of a window to the start of the next one, plant ms.
    pub slide_ms: i64,
    /// None while there is no model, or when this window could not be scored: then the rules judge it.
    pub scored: Option<Scored<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    pub prediction: &'a Prediction,
    pub heads: &'a [ModeHead],
}

/// A machine's time begins anew: its gateway's clock fell back, or another gateway took it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub machine: AssetId,
    pub number: u32,
    /// None: its gateway does not know what time it is.
    pub begins: Option<PlantTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcknowledgeError {
    #[error("no open alert has the id `{id}`")]
    NotOpen { id: String },
    #[error("already acknowledged by {by}")]
    Already { by: String },
}

/// All machines' alerts. Part of the processor's snapshot; per machine its size is bounded by modes, rules and `of_windows`.
///
/// Alerts come out `provisional` and without incarnation: whoever commits them stamps both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AlertDesk {
    config: AlertConfig,
    machines: BTreeMap<AssetId, MachineDesk>,
    /// Newest last.
    #[serde(default)]
    closed: VecDeque<Alert>,
}

impl AlertDesk {
    pub fn new(config: AlertConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// For a start whose settings differ from those in the snapshot.
    pub fn reconfigure(&mut self, config: AlertConfig) {
        self.config = config;
    }

    pub fn clear(&mut self) {
        self.machines.clear();
        self.closed.clear();
    }

    /// Takes over a machine of another desk.
    pub fn move_in(&mut self, from: &mut AlertDesk, machine: &AssetId) {
        self.machines.extend(from.machines.remove_entry(machine));
        let of_others = |alert: &Alert| alert.machine != machine.as_str();
        let (others, moved): (Vec<_>, Vec<_>) = from.closed.drain(..).partition(of_others);
        from.closed = others.into();
        self.remember(&moved);
    }

    /// What opened, changed or closed by this window. Windows that are not newer than the last one change nothing: a
    /// revision is shown and archived, and what the crew was told on time stays.
    pub fn judge(&mut self, judgement: &Judgement) -> Vec<Alert> {
        let window = judgement.window;
        let desk = self.machines.entry(window.machine.clone()).or_default();
        let changed = match judgement.scored {
            _ if !desk.is_next(window) => Vec::new(),
            Some(scored) => desk.judge_scores(&self.config, judgement, &scored),
            None => desk.judge_rules(&self.config, judgement),
        };
        self.remember(&changed);
        changed
    }

    /// A failure or repair closes what it explains; a verdict dismisses its alert.
    pub fn event(&mut self, event: &EventRecord) -> Vec<Alert> {
        let changed = self.machines.get_mut(event.machine.as_str()).map_or_else(Vec::new, |desk| desk.event(event));
        self.remember(&changed);
        changed
    }

    fn remember(&mut self, changed: &[Alert]) {
        let closed = changed.iter().filter(|alert| alert.state() == AlertState::Closed);
        let before = self.closed.len();
        self.closed.extend(closed.cloned());
        if self.closed.len() > before {
            self.closed.make_contiguous().sort_by_key(|alert| alert.closed_ms);
            let surplus = self.closed.len().saturating_sub(CLOSED_KEPT_MAX);
            self.closed.drain(..surplus);
        }
    }

    /// The windows that follow are of this generation, whatever their times.
    pub fn begin_generation(&mut self, generation: &Generation) {
        if let Some(desk) = self.machines.get_mut(generation.machine.as_str()) {
            desk.begin_generation(generation);
        }
    }

    /// A repeat by the same author gives the same answer.
    pub fn acknowledge(
        &mut self,
        id: &str,
        author: &str,
        note: &str,
        now: PlantTime,
    ) -> Result<Alert, AcknowledgeError> {
        let mut alerts = self.machines.values_mut().flat_map(MachineDesk::open_mut);
        let alert = alerts.find(|a| a.id == id).ok_or_else(|| AcknowledgeError::NotOpen { id: id.into() })?;
        machine::acknowledge(alert, author, note, now)
    }

    /// The newest, oldest first.
    pub fn closed(&self) -> impl Iterator<Item = &Alert> {
        self.closed.iter()
    }

    /// Open and acknowledged alerts, by machine and mode.
    pub fn open(&self) -> Vec<Alert> {
        self.machines.values().flat_map(MachineDesk::open).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
