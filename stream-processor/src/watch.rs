//! How good the model in charge is while it works: fed with what the stream derives, read by metrics, console and trigger.
//!
//! ```text
//! derived (windows, predictions, alerts, events) ─> drift, quality, trial ─> report ─> metrics, board
//! registry ─(what lies beside the version)───────────^
//! ```
//!
//! What it knows decides who is in charge: it ends trials and takes versions back. So it is part of the snapshot.

pub mod beside;
pub mod report;
pub mod state;

use std::{collections::BTreeMap, sync::Arc};

use model::{
    dataset::warning::Told,
    drift::{self, BlockDrift, Counted},
    features::{WindowFeatures, was_right},
    present::{Passed, Present},
    quality::{Alerted, Quality, Repair, Sums},
    score::Scorer,
    trial::{Trial, TrialWatch},
    trigger::TriggerSettings,
};
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::{
        alert::{Alert, AlertSource, AlertState},
        prediction::{ModeProbability, Prediction},
        telemetry::EventKind,
    },
};
use tokio::sync::watch;

use crate::{
    stream::{Derived, KnownEvent, Loaded},
    telemetry::ModelMetrics,
};
use beside::Beside;
pub use report::ModelReport;
use state::{Watched, Watching};

/// Gateways are not all at the same time: outcomes are drawn so much after the present.
const GRACE_MS: i64 = 3_600_000;
const DAY_MS: f64 = 86_400_000.0;
/// Features that a report names.
const NAMED_MAX: usize = 5;

/// Mode and threshold of each head.
type Thresholds = Vec<(String, f64)>;

pub struct ModelWatch {
    beside: watch::Receiver<Option<Arc<Beside>>>,
    metrics: ModelMetrics,
    window_ms: i64,
    quality: Option<(i64, Quality)>,
    /// By which version's training rows.
    drift: Option<(String, drift::Watch)>,
    /// From before a restart, until the reference that it goes with is read.
    counted: Option<(String, Counted)>,
    block: Option<BlockDrift>,
    /// Of the versions that score.
    thresholds: BTreeMap<String, Thresholds>,
    in_charge: Option<String>,
    trial: Option<TrialWatch>,
    present: Present,
}

impl ModelWatch {
    pub fn new(
        beside: watch::Receiver<Option<Arc<Beside>>>,
        metrics: ModelMetrics,
        settings: &TriggerSettings,
        Watched { present, mut quality, drift: counted, block, trial }: Watched,
    ) -> Self {
        let window_ms = (settings.figures_days * DAY_MS) as i64;
        if let Some((_, quality)) = &mut quality {
            quality.look_back(window_ms);
        }
        if let Some(watched) = &trial {
            metrics.trial(Some((watched.trial.version.as_str(), watched.trial.share)));
        }
        let (thresholds, in_charge, drift) = Default::default();
        ModelWatch { beside, metrics, window_ms, quality, drift, counted, block, thresholds, in_charge, trial, present }
    }

    /// For the snapshot.
    pub fn watching(&self) -> Watching<'_> {
        let now = self.drift.as_ref().map(|(version, drift)| (version.as_str(), drift.counted()));
        let before = self.counted.as_ref().map(|(version, counted)| (version.as_str(), counted));
        Watching {
            present: &self.present,
            quality: self.quality.as_ref(),
            drift: now.or(before),
            block: self.block.as_ref(),
            trial: self.trial.as_ref(),
        }
    }

    /// Who judges may have changed. `loaded`: all that may still score.
    pub fn in_charge(&mut self, scorer: Option<&Scorer>, loaded: &Loaded, trial: Option<&Trial>) {
        let of_heads = |s: &Scorer| s.heads().iter().map(|h| (h.mode.clone(), h.threshold)).collect();
        self.thresholds = loaded.iter().map(|(version, scorer)| (version.clone(), of_heads(scorer))).collect();
        if self.trial.as_ref().map(|watched| &watched.trial) != trial {
            self.metrics.trial(trial.map(|begun| (begun.version.as_str(), begun.share)));
            self.trial = trial.cloned().map(TrialWatch::new);
        }
        let version = scorer.map(|s| s.version().to_owned());
        if self.in_charge != version {
            self.metrics.forget();
        }
        self.in_charge = version;
        let Some(scorer) = scorer else { return };
        if self.quality.as_ref().is_none_or(|(horizon_ms, _)| *horizon_ms != scorer.horizon_ms()) {
            self.quality = Some((scorer.horizon_ms(), Quality::new(scorer.horizon_ms(), self.window_ms)));
        }
    }

    /// Takes what a run of batches led to.
    pub fn see(&mut self, derived: &Derived) {
        if self.beside.has_changed().unwrap_or(false) {
            let beside = self.beside.borrow_and_update().clone();
            self.watch_drift(beside);
        }
        self.see_windows(&derived.windows);
        let present = &self.present;
        if let Some(trial) = &mut self.trial {
            see_trial(trial, &self.thresholds, present, derived);
        }
        let Some((_, quality)) = &mut self.quality else { return };
        let past = |at_ms: i64| present.is_past(PlantTime(at_ms));
        for prediction in derived.predictions.iter().filter(|prediction| past(prediction.window_end_ms)) {
            see_prediction(quality, &self.thresholds, prediction);
        }
        derived.alerts.iter().filter(|alert| past(alert.updated_ms)).for_each(|alert| see_alert(quality, alert));
        let champion = self.in_charge.as_deref().unwrap_or_default();
        let trial = self.trial.as_ref().map(|watched| &watched.trial);
        for event in derived.events.iter().filter(|event| past(event.event.time_ms)) {
            let judges =
                |trial: &&Trial| AssetId::new(&event.event.machine).is_ok_and(|machine| trial.judges(&machine));
            see_event(quality, event, trial.filter(judges).map_or(champion, |trial| &trial.version));
        }
    }

    fn watch_drift(&mut self, beside: Option<Arc<Beside>>) {
        let reference = beside.and_then(|b| Some((b.version.clone(), b.reference.features.clone()?)));
        let counted = self.counted.take();
        self.drift = reference.map(|(version, reference)| match counted.filter(|(of, _)| *of == version) {
            Some((_, counted)) => (version, drift::Watch::resume(reference, counted)),
            None => {
                self.block = None;
                (version, drift::Watch::new(reference))
            }
        });
    }

    fn see_windows(&mut self, windows: &[WindowFeatures]) {
        // A revision tells of the same time again.
        let first = || windows.iter().filter(|window| window.revision == 0);
        first().for_each(|window| self.present.hear(&window.machine, window.generation, window.end));
        if let (Passed::FellBack, Some((_, drift))) = (self.present.pass(), &mut self.drift) {
            drift.begin_anew();
        }
        for window in first().filter(|window| self.present.is_past(window.end)) {
            let drift = self.drift.as_mut();
            if let Some(block) = drift.and_then(|(_, drift)| drift.observe(window.end, &window.features)) {
                self.metrics.drift(&block);
                self.block = Some(block);
            }
        }
    }

    /// None: no model is in charge.
    pub fn report(&mut self) -> Option<ModelReport> {
        let (_, quality) = self.quality.as_mut()?;
        let version = self.in_charge.as_ref()?;
        if let Some(now) = self.present.now() {
            quality.advance(now.plus_millis(-GRACE_MS));
        }
        let beside = self.beside.borrow().clone().filter(|beside| beside.version == *version);
        let block = self.block.as_ref();
        let drifted = block.map_or(vec![], |b| b.drifted().into_iter().cloned().collect());
        let other_plant = block.is_some_and(|b| !b.of_another_plant().is_empty());
        let mut strongest = block.map_or(vec![], |b| b.features.clone());
        strongest.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        strongest.truncate(NAMED_MAX);
        let estimated_then = beside.and_then(|b| b.reference.estimated);
        let rates = quality.versions().into_iter().map(|version| (version.clone(), quality.rate(&version))).collect();
        let (figures, trial) = (quality.figures(version), self.trial.clone());
        let report = ModelReport { figures, estimated_then, drifted, other_plant, strongest, rates, trial };
        self.metrics.report(&report);
        Some(report)
    }
}

/// Machine, window, and per mode its probability and threshold.
type Said<'a> = (AssetId, (PlantTime, PlantTime), Vec<(&'a str, f64, f64)>);

/// None: it does not count. A revision tells of the same time again.
fn said<'a>(thresholds: &BTreeMap<String, Thresholds>, prediction: &'a Prediction) -> Option<Said<'a>> {
    let thresholds = thresholds.get(&prediction.model_version).filter(|_| prediction.revision == 0)?;
    let machine = AssetId::new(&prediction.machine).ok()?;
    let of_mode = |m: &ModeProbability| thresholds.iter().find(|(mode, _)| *mode == m.mode);
    let modes = prediction.modes.iter().filter_map(|m| Some((m.mode.as_str(), m.probability, of_mode(m)?.1)));
    let window = (PlantTime(prediction.window_start_ms), PlantTime(prediction.window_end_ms));
    Some((machine, window, modes.collect()))
}

fn see_prediction(quality: &mut Quality, thresholds: &BTreeMap<String, Thresholds>, prediction: &Prediction) {
    if let Some((machine, window, modes)) = said(thresholds, prediction) {
        quality.scored(&prediction.model_version, &machine, window, &modes);
    }
}

fn see_trial(trial: &mut TrialWatch, thresholds: &BTreeMap<String, Thresholds>, present: &Present, derived: &Derived) {
    let all = trial.trial.is_shadow();
    for prediction in derived.predictions.iter().chain(&derived.shadows) {
        let Some((machine, (_, end), modes)) = said(thresholds, prediction) else { continue };
        if !present.is_past(end) {
            continue;
        }
        let mut sums = Sums::default();
        modes.iter().for_each(|(_, probability, threshold)| sums.add(*probability, *threshold));
        let alone = !all && !trial.trial.judges(&machine);
        trial.scored(&prediction.model_version, &machine, sums, alone);
    }
    if let Some(now) = present.now() {
        trial.passes(now);
    }
    for alert in derived.alerts.iter().filter(|alert| opens(alert)) {
        if let Ok(machine) = AssetId::new(&alert.machine) {
            trial.alerted(&alert.model_version, &machine);
        }
    }
    derived.unscored.iter().for_each(|(version, windows)| trial.failed(version, *windows));
}

/// One of a model, and not a change of one that is open.
fn opens(alert: &Alert) -> bool {
    alert.state() == AlertState::Open && alert.updated_ms == alert.opened_ms && alert.source() == AlertSource::Model
}

fn see_alert(quality: &mut Quality, alert: &Alert) {
    let Ok(machine) = AssetId::new(&alert.machine) else { return };
    quality.warned(Told {
        id: &alert.id,
        machine: &machine,
        mode: (alert.source() == AlertSource::Model).then_some(&alert.mode),
        at: PlantTime(alert.updated_ms),
        closed: alert.state() == AlertState::Closed,
    });
    if opens(alert) {
        quality.alerted(Alerted {
            id: alert.id.clone(),
            machine,
            mode: alert.mode.clone(),
            version: alert.model_version.clone(),
            at: PlantTime(alert.opened_ms),
        });
    } else if alert.state() == AlertState::Closed {
        quality.closed(&alert.id, PlantTime(alert.closed_ms));
    }
}

/// `version`: that judges the machine now.
fn see_event(quality: &mut Quality, KnownEvent { event, known, .. }: &KnownEvent, version: &str) {
    let Ok(machine) = AssetId::new(&event.machine) else { return };
    let at = PlantTime(event.time_ms);
    let known = known.unwrap_or(at);
    if let Some(right) = was_right(event.verdict()) {
        quality.judged(&event.alert_id, right, known);
    }
    match event.kind() {
        EventKind::Failure => quality.failed(&machine, &event.mode, at, known, version),
        EventKind::Maintenance | EventKind::Replacement => {
            let repair = Repair { mode: &event.mode, at, known, alert_id: &event.alert_id };
            quality.repaired(&machine, &repair);
        }
        EventKind::Error | EventKind::Unspecified => {}
    }
}

#[cfg(test)]
mod tests;
