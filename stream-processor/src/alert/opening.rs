//! What an alert says when it opens, and when a change of it is worth telling.

use model::{features::WindowFeatures, score::ModeHead};
use proto::{
    alert::{alert_id, mode_text},
    time::PlantTime,
    wire::{
        alert::{Alert, AlertSource, AlertState, Severity},
        prediction::{Contribution, Prediction},
    },
};

use super::{
    config::AlertConfig,
    rules::{Finding, Rule},
};

/// A probability that moved less than this since it was last told is not worth another message.
const PROBABILITY_STEP: f64 = 0.05;

/// One head's answer for one window.
pub struct ScoredMode<'a> {
    pub mode: &'a str,
    pub threshold: f64,
    pub probability: f64,
    calibrated: bool,
    contributions: &'a [Contribution],
}

impl<'a> ScoredMode<'a> {
    /// None for a probability that is not a number: it says nothing, neither good nor bad.
    pub fn of(prediction: &'a Prediction, head: &'a ModeHead) -> Option<Self> {
        let scored = prediction.modes.iter().find(|m| m.mode == head.mode)?;
        let (mode, threshold) = (head.mode.as_str(), head.threshold);
        let (probability, contributions) = (scored.probability, scored.contributions.as_slice());
        let calibrated = scored.calibrated;
        probability.is_finite().then_some(Self { mode, threshold, probability, calibrated, contributions })
    }

    fn severity(&self, config: &AlertConfig) -> Severity {
        severity(self.probability >= config.critical_probability)
    }
}

const fn severity(critical: bool) -> Severity {
    if critical { Severity::Critical } else { Severity::Warning }
}

pub fn score_alert(
    config: &AlertConfig,
    window: &WindowFeatures,
    prediction: &Prediction,
    score: &ScoredMode,
    first: PlantTime,
) -> Alert {
    Alert {
        source: AlertSource::Model.into(),
        severity: score.severity(config).into(),
        probability: score.probability,
        calibrated: score.calibrated,
        contributions: score.contributions.to_vec(),
        summary: mode_text(score.mode).summary.into(),
        model_version: prediction.model_version.clone(),
        horizon_ms: prediction.horizon_ms,
        ..opened(window, score.mode, first)
    }
}

pub fn rule_alert(rule: Rule, window: &WindowFeatures, broken: &[Finding], first: PlantTime) -> Alert {
    let critical = broken.iter().any(|f| f.critical);
    Alert {
        source: AlertSource::Rule.into(),
        severity: severity(critical).into(),
        contributions: contributions(broken),
        summary: rule.summary(critical).into(),
        ..opened(window, rule.name(), first)
    }
}

fn opened(window: &WindowFeatures, mode: &str, first: PlantTime) -> Alert {
    Alert {
        id: alert_id(window.machine.as_str(), window.generation, mode, first),
        machine: window.machine.to_string(),
        machine_kind: window.kind.to_string(),
        mode: mode.into(),
        state: AlertState::Open.into(),
        action: mode_text(mode).action.into(),
        first_window_ms: first.millis(),
        opened_ms: window.end.millis(),
        updated_ms: window.end.millis(),
        provisional: true,
        generation: window.generation,
        ..Default::default()
    }
}

/// The change to tell, if there is one. A severity never falls while the alert is open.
pub fn update_score(
    alert: &mut Alert,
    config: &AlertConfig,
    window: &WindowFeatures,
    score: &ScoredMode,
) -> Option<Alert> {
    let severity = score.severity(config).max(alert.severity());
    let moved = (score.probability - alert.probability).abs() >= PROBABILITY_STEP;
    if !moved && severity == alert.severity() {
        return None;
    }
    alert.contributions = score.contributions.to_vec();
    (alert.probability, alert.calibrated) = (score.probability, score.calibrated);
    alert.set_severity(severity);
    Some(retold(alert, window))
}

pub fn update_rule(alert: &mut Alert, rule: Rule, window: &WindowFeatures, broken: &[Finding]) -> Option<Alert> {
    let names_all = broken.iter().all(|f| alert.contributions.iter().any(|c| c.sensor == f.sensor.sensor.as_str()));
    let severity = severity(broken.iter().any(|f| f.critical)).max(alert.severity());
    if names_all && severity == alert.severity() {
        return None;
    }
    alert.contributions = contributions(broken);
    alert.summary = rule.summary(severity == Severity::Critical).into();
    alert.set_severity(severity);
    Some(retold(alert, window))
}

fn retold(alert: &mut Alert, window: &WindowFeatures) -> Alert {
    alert.updated_ms = window.end.millis();
    alert.clone()
}

/// A rule has no logit; a machine that is new has no normal of its own yet, which is NaN on the wire.
fn contributions(broken: &[Finding]) -> Vec<Contribution> {
    let of = |f: &Finding| Contribution {
        sensor: f.sensor.sensor.to_string(),
        logit: 0.0,
        value: f.sensor.stats.map_or(f64::NAN, |s| s.mean),
        normal: f.sensor.normal.map_or(f64::NAN, |n| n.mean),
        unit: f.sensor.unit.to_string(),
    };
    broken.iter().map(of).collect()
}
