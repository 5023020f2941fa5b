//! The board as JSON, for REST and the console.

use std::sync::Arc;

use model::features::SensorWindow;
use proto::{
    alert::mode_text,
    wire::{
        alert::{Alert, AlertSource, AlertState, Outcome, Severity},
        prediction::{Contribution, Prediction, Role},
    },
};
use serde::Serialize;

use super::board::{Glance, MachineEntry};
use crate::alert::text;

#[derive(Debug, Serialize)]
pub struct AlertView {
    pub id: String,
    pub machine: String,
    pub kind: String,
    pub mode: String,
    pub source: &'static str,
    pub severity: &'static str,
    pub state: &'static str,
    /// None for rules.
    pub probability: Option<f64>,
    /// None for rules; false: there were too few failures to fit it to.
    pub calibrated: Option<bool>,
    /// The probability in words, or that it is a rule.
    pub certainty: String,
    pub summary: String,
    pub action: String,
    pub sensors: Vec<SensorView>,
    pub first_window_ms: i64,
    pub opened_ms: i64,
    pub updated_ms: i64,
    pub closed_ms: Option<i64>,
    pub outcome: Option<&'static str>,
    pub acknowledged_by: Option<String>,
    pub acknowledged_ms: Option<i64>,
    pub note: Option<String>,
    pub model_version: String,
    pub provisional: bool,
}

impl From<&Alert> for AlertView {
    fn from(alert: &Alert) -> Self {
        let set = |ms: i64| (ms != 0).then_some(ms);
        let said = |text: &String| (!text.is_empty()).then(|| text.clone());
        AlertView {
            id: alert.id.clone(),
            machine: alert.machine.clone(),
            kind: alert.machine_kind.clone(),
            mode: alert.mode.clone(),
            source: if alert.source() == AlertSource::Rule { "rule" } else { "model" },
            severity: if alert.severity() == Severity::Critical { "critical" } else { "warning" },
            state: state(alert.state()),
            probability: (alert.source() == AlertSource::Model).then_some(alert.probability),
            calibrated: (alert.source() == AlertSource::Model).then_some(alert.calibrated),
            certainty: text::certainty(alert),
            summary: alert.summary.clone(),
            action: alert.action.clone(),
            sensors: alert.contributions.iter().map(SensorView::from).collect(),
            first_window_ms: alert.first_window_ms,
            opened_ms: alert.opened_ms,
            updated_ms: alert.updated_ms,
            closed_ms: set(alert.closed_ms),
            outcome: outcome(alert.outcome()),
            acknowledged_by: said(&alert.acknowledged_by),
            acknowledged_ms: set(alert.acknowledged_ms),
            note: said(&alert.acknowledged_note),
            model_version: alert.model_version.clone(),
            provisional: alert.provisional,
        }
    }
}

const fn state(state: AlertState) -> &'static str {
    match state {
        AlertState::Acknowledged => "acknowledged",
        AlertState::Closed => "closed",
        AlertState::Open | AlertState::Unspecified => "open",
    }
}

const fn outcome(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Cleared => Some("cleared"),
        Outcome::Failed => Some("failed"),
        Outcome::Repaired => Some("repaired"),
        Outcome::Dismissed => Some("dismissed"),
        Outcome::Superseded => Some("superseded"),
        Outcome::Unspecified => None,
    }
}

#[derive(Debug, Serialize)]
pub struct SensorView {
    pub sensor: String,
    pub value: Option<f64>,
    /// The machine's own.
    pub normal: Option<f64>,
    pub unit: String,
    /// How much it speaks for the alert's or the most likely mode, as change of its logit; None without a model.
    pub logit: Option<f64>,
}

impl From<&Contribution> for SensorView {
    fn from(c: &Contribution) -> Self {
        let known = |value: f64| value.is_finite().then_some(value);
        SensorView {
            sensor: c.sensor.clone(),
            value: known(c.value),
            normal: known(c.normal),
            unit: c.unit.clone(),
            logit: known(c.logit),
        }
    }
}

impl From<&SensorWindow> for SensorView {
    fn from(window: &SensorWindow) -> Self {
        SensorView {
            sensor: window.sensor.to_string(),
            value: window.stats.map(|s| s.mean),
            normal: window.normal.map(|n| n.mean),
            unit: window.unit.to_string(),
            logit: None,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ModeView {
    pub mode: String,
    pub probability: f64,
    /// Else there were too few failures to fit it to.
    pub calibrated: bool,
    pub summary: &'static str,
}

fn modes(prediction: &Prediction) -> Vec<ModeView> {
    let view = |m: &proto::wire::prediction::ModeProbability| ModeView {
        mode: m.mode.clone(),
        probability: m.probability,
        calibrated: m.calibrated,
        summary: mode_text(&m.mode).summary,
    };
    prediction.modes.iter().map(view).collect()
}

/// Which sensors speak for the most likely mode.
fn explained(prediction: &Prediction) -> &[Contribution] {
    prediction.modes.first().map_or(&[], |mode| &mode.contributions)
}

#[derive(Debug, Serialize)]
pub struct PredictionView {
    pub id: String,
    pub machine: String,
    pub kind: String,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    pub horizon_ms: i64,
    pub model_version: String,
    /// `canary`: a version on trial decides about this machine.
    pub role: &'static str,
    /// Most likely first.
    pub modes: Vec<ModeView>,
    pub sensors: Vec<SensorView>,
}

impl From<&Prediction> for PredictionView {
    fn from(p: &Prediction) -> Self {
        PredictionView {
            id: p.id.clone(),
            machine: p.machine.clone(),
            kind: p.machine_kind.clone(),
            window_start_ms: p.window_start_ms,
            window_end_ms: p.window_end_ms,
            horizon_ms: p.horizon_ms,
            model_version: p.model_version.clone(),
            role: if p.role() == Role::Canary { "canary" } else { "champion" },
            modes: modes(p),
            sensors: explained(p).iter().map(SensorView::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct MachineView {
    pub machine: String,
    pub kind: String,
    pub site: Option<String>,
    pub agent: Option<String>,
    pub window_end_ms: Option<i64>,
    /// How old the newest window is, plant ms.
    pub behind_ms: Option<i64>,
    /// Probability of the leading mode; None without a model.
    pub risk: Option<f64>,
    pub horizon_ms: Option<i64>,
    pub modes: Vec<ModeView>,
    pub sensors: Vec<SensorView>,
    /// Of the open alerts.
    pub severity: Option<&'static str>,
    pub why: String,
    pub action: Option<String>,
}

impl MachineView {
    pub fn new(entry: &MachineEntry, glance: &Glance) -> Self {
        let alert = worst_alert(&entry.machine, &glance.open);
        let prediction = entry.prediction.as_deref();
        let modes = prediction.map(modes).unwrap_or_default();
        let window_end_ms = entry.window_end.map(|end| end.millis());
        MachineView {
            machine: entry.machine.clone(),
            kind: entry.kind.clone(),
            site: entry.agent.as_ref().map(|a| a.site.to_string()),
            agent: entry.agent.as_ref().map(|a| a.agent.to_string()),
            window_end_ms,
            behind_ms: window_end_ms.map(|end| (glance.plant_time.millis() - end).max(0)),
            risk: modes.first().map(|m| m.probability),
            horizon_ms: prediction.map(|p| p.horizon_ms),
            sensors: sensors(entry),
            severity: alert.map(|a| AlertView::from(a).severity),
            why: why(alert, &modes),
            action: alert.map(|a| a.action.clone()),
            modes,
        }
    }
}

/// What the model looked at; before there is one, what the machine shows.
fn sensors(entry: &MachineEntry) -> Vec<SensorView> {
    match entry.prediction.as_deref().map_or(&[][..], explained) {
        [] => entry.sensors.iter().map(SensorView::from).collect(),
        contributions => contributions.iter().map(SensorView::from).collect(),
    }
}

fn why(alert: Option<&Alert>, modes: &[ModeView]) -> String {
    match (alert, modes.first()) {
        (Some(alert), _) => alert.summary.clone(),
        (None, Some(mode)) => format!("no alert; of all modes most likely: {}", mode.summary),
        (None, None) => "no alert".into(),
    }
}

fn worst_alert<'a>(machine: &str, open: &'a [Arc<Alert>]) -> Option<&'a Alert> {
    let open = open.iter().map(Arc::as_ref).filter(|a| a.machine == machine);
    open.max_by(|a, b| {
        (a.severity(), a.probability).partial_cmp(&(b.severity(), b.probability)).unwrap_or(std::cmp::Ordering::Equal)
    })
}

/// Machines in the order in which to service them: first those with an alert, since several windows agreed on it, the
/// worst ones first; then by probability.
pub fn plan(glance: &Glance) -> Vec<MachineView> {
    let mut machines: Vec<_> = glance.machines.iter().map(|entry| MachineView::new(entry, glance)).collect();
    let rank = |m: &MachineView| match m.severity {
        Some("critical") => 2,
        Some(_) => 1,
        None => 0,
    };
    machines.sort_by(|a, b| {
        let risk = |m: &MachineView| m.risk.unwrap_or(0.0);
        rank(b).cmp(&rank(a)).then(risk(b).total_cmp(&risk(a))).then_with(|| a.machine.cmp(&b.machine))
    });
    machines
}

/// Open alerts, the worst first, then the newest.
pub fn open_alerts(open: &[Arc<Alert>]) -> Vec<AlertView> {
    let mut open: Vec<_> = open.iter().collect();
    let waits = |a: &Alert| a.state() == AlertState::Open;
    open.sort_by(|a, b| {
        let key = |a: &Alert| (waits(a), a.severity(), a.opened_ms);
        key(b).cmp(&key(a)).then_with(|| a.id.cmp(&b.id))
    });
    open.into_iter().map(|a| AlertView::from(&**a)).collect()
}
