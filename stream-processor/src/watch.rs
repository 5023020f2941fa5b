//! How good the model in charge is while it works: fed with what the stream derives, read by metrics, console and trigger.
//!
//! ```text
//! derived (windows, predictions, alerts, events) ─> drift, quality ─> report ─> metrics, board
//! registry ─(what lies beside the version)──────────^
//! ```
//!
//! It decides nothing that the crew sees, so that it may forget: a restart begins its figures anew.

pub mod beside;

use std::{collections::BTreeMap, sync::Arc};

use model::{
    drift::{self, BlockDrift, FeatureDrift},
    features::WindowFeatures,
    probation::Rate,
    quality::{Alerted, Estimate, Figures, Quality},
    score::Scorer,
    trigger::TriggerSettings,
};
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::{
        alert::{Alert, AlertSource, AlertState},
        prediction::Prediction,
        telemetry::{EventKind, Verdict},
    },
};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    stream::{Derived, KnownEvent},
    telemetry::ModelMetrics,
};
use beside::Beside;

/// Gateways are not all at the same time: outcomes are drawn so much after the newest window.
const GRACE_MS: i64 = 3_600_000;
const DAY_MS: f64 = 86_400_000.0;
/// Features that a report names.
const NAMED_MAX: usize = 5;
/// Versions whose thresholds are kept: the one in charge, and those that still score for a while.
const VERSIONS_MAX: usize = 8;

/// What the console shows and the trigger goes by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelReport {
    pub figures: Figures,
    /// Of the training.
    pub estimated_then: Option<Estimate>,
    /// Features that look otherwise than in training, the strongest first.
    pub drifted: Vec<FeatureDrift>,
    /// The strongest ones of the newest block, drifted or not.
    pub strongest: Vec<FeatureDrift>,
    /// How often each version that worked lately alerts.
    pub rates: BTreeMap<String, Rate>,
}

pub struct ModelWatch {
    beside: watch::Receiver<Option<Arc<Beside>>>,
    metrics: ModelMetrics,
    window_ms: i64,
    quality: Option<(i64, Quality)>,
    drift: Option<drift::Watch>,
    block: Option<BlockDrift>,
    /// By version: mode and threshold.
    thresholds: BTreeMap<String, Vec<(String, f64)>>,
    in_charge: Option<String>,
    newest: PlantTime,
}

impl ModelWatch {
    pub fn new(
        beside: watch::Receiver<Option<Arc<Beside>>>,
        metrics: ModelMetrics,
        settings: &TriggerSettings,
    ) -> Self {
        ModelWatch {
            beside,
            metrics,
            window_ms: (settings.figures_days * DAY_MS) as i64,
            quality: None,
            drift: None,
            block: None,
            thresholds: BTreeMap::new(),
            in_charge: None,
            newest: PlantTime::MIN,
        }
    }

    /// Another version is in charge.
    pub fn in_charge(&mut self, scorer: Option<&Scorer>) {
        let version = scorer.map(|s| s.version().to_owned());
        if let Some(before) = self.in_charge.take().filter(|before| Some(before) != version.as_ref()) {
            self.metrics.forget(&before);
        }
        self.in_charge = version;
        let Some(scorer) = scorer else { return };
        let thresholds = scorer.heads().iter().map(|h| (h.mode.clone(), h.threshold)).collect();
        self.thresholds.insert(scorer.version().into(), thresholds);
        while self.thresholds.len() > VERSIONS_MAX {
            self.thresholds.pop_first();
        }
        if self.quality.as_ref().is_none_or(|(horizon_ms, _)| *horizon_ms != scorer.horizon_ms()) {
            self.quality = Some((scorer.horizon_ms(), Quality::new(scorer.horizon_ms(), self.window_ms)));
        }
    }

    /// Takes what a run of batches led to.
    pub fn see(&mut self, derived: &Derived) {
        if self.beside.has_changed().unwrap_or(false) {
            let beside = self.beside.borrow_and_update().clone();
            self.drift = beside.and_then(|b| b.reference.features.clone()).map(drift::Watch::new);
            self.block = None;
        }
        derived.windows.iter().for_each(|window| self.see_window(window));
        let Some((_, quality)) = &mut self.quality else { return };
        for prediction in &derived.predictions {
            self.newest = self.newest.max(PlantTime(prediction.window_end_ms));
            see_prediction(quality, &self.thresholds, prediction);
        }
        derived.alerts.iter().for_each(|alert| see_alert(quality, alert));
        let version = self.in_charge.as_deref().unwrap_or_default();
        derived.events.iter().for_each(|event| see_event(quality, event, version));
    }

    fn see_window(&mut self, window: &WindowFeatures) {
        // A revision tells of the same time again.
        if window.revision > 0 {
            return;
        }
        if let Some(block) = self.drift.as_mut().and_then(|drift| drift.observe(window.end, &window.features)) {
            self.metrics.drift(&block);
            self.block = Some(block);
        }
    }

    /// None: no model is in charge.
    pub fn report(&mut self) -> Option<ModelReport> {
        let (_, quality) = self.quality.as_mut()?;
        let version = self.in_charge.as_ref()?;
        if self.newest > PlantTime::MIN {
            quality.advance(self.newest.plus_millis(-GRACE_MS));
        }
        let beside = self.beside.borrow().clone().filter(|beside| beside.version == *version);
        let block = self.block.as_ref();
        let drifted = block.map_or(vec![], |b| b.drifted().into_iter().cloned().collect());
        let mut strongest = block.map_or(vec![], |b| b.features.clone());
        strongest.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        strongest.truncate(NAMED_MAX);
        let estimated_then = beside.and_then(|b| b.reference.estimated);
        let rates = quality.versions().into_iter().map(|version| (version.clone(), quality.rate(&version))).collect();
        let report = ModelReport { figures: quality.figures(version), estimated_then, drifted, strongest, rates };
        self.metrics.report(&report);
        Some(report)
    }
}

fn see_prediction(quality: &mut Quality, thresholds: &BTreeMap<String, Vec<(String, f64)>>, prediction: &Prediction) {
    let Some(thresholds) = thresholds.get(&prediction.model_version) else { return };
    let Ok(machine) = AssetId::new(&prediction.machine) else { return };
    if prediction.revision > 0 {
        return;
    }
    let of_mode = |m: &proto::wire::prediction::ModeProbability| thresholds.iter().find(|(mode, _)| *mode == m.mode);
    let modes: Vec<(&str, f64, f64)> =
        (prediction.modes.iter()).filter_map(|m| Some((m.mode.as_str(), m.probability, of_mode(m)?.1))).collect();
    quality.scored(&prediction.model_version, &machine, PlantTime(prediction.window_end_ms), &modes);
}

fn see_alert(quality: &mut Quality, alert: &Alert) {
    let opens = alert.state() == AlertState::Open && alert.updated_ms == alert.opened_ms;
    let Ok(machine) = AssetId::new(&alert.machine) else { return };
    if opens && alert.source() == AlertSource::Model {
        quality.alerted(Alerted {
            id: alert.id.clone(),
            machine,
            mode: alert.mode.clone(),
            version: alert.model_version.clone(),
            at: PlantTime(alert.opened_ms),
        });
    }
}

/// `version`: in charge now.
fn see_event(quality: &mut Quality, KnownEvent { event, known, .. }: &KnownEvent, version: &str) {
    let Ok(machine) = AssetId::new(&event.machine) else { return };
    let at = PlantTime(event.time_ms);
    let known = known.unwrap_or(at);
    match event.verdict() {
        Verdict::Unspecified => {}
        Verdict::Confirmed | Verdict::Partly => quality.judged(&event.alert_id, true, known),
        Verdict::FalseAlarm | Verdict::SensorFault => quality.judged(&event.alert_id, false, known),
    }
    match event.kind() {
        EventKind::Failure => quality.failed(&machine, &event.mode, at, known, version),
        EventKind::Maintenance | EventKind::Replacement => quality.repaired(&machine, at),
        EventKind::Error | EventKind::Unspecified => {}
    }
}

#[cfg(test)]
mod tests;
