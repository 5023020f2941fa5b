//! One machine's memory of its windows, and its open alerts.

use std::collections::BTreeMap;

use model::{
    features::WindowFeatures,
    policy::{Slot, Track},
};
use proto::{
    time::PlantTime,
    wire::{
        alert::{Alert, AlertSource, AlertState, Outcome},
        telemetry::{EventKind, EventRecord, Verdict},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    AcknowledgeError, Generation, Judgement, Scored,
    config::AlertConfig,
    opening::{ScoredMode, rule_alert, score_alert, update_rule, update_score},
    rules::{self, Finding, Rule},
};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineDesk {
    #[serde(default)]
    generation: u32,
    /// Start of the last window seen, of this generation.
    last: PlantTime,
    failed: PlantTime,
    repaired: PlantTime,
    /// By mode or rule name.
    tracks: BTreeMap<String, Track>,
    /// By mode or rule name, as last told.
    open: BTreeMap<String, Alert>,
}

impl Default for MachineDesk {
    fn default() -> Self {
        let never = PlantTime::MIN;
        Self {
            generation: 0,
            last: never,
            failed: never,
            repaired: never,
            tracks: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }
}

impl MachineDesk {
    pub fn open(&self) -> impl Iterator<Item = &Alert> {
        self.open.values()
    }

    pub fn open_mut(&mut self) -> impl Iterator<Item = &mut Alert> {
        self.open.values_mut()
    }

    pub fn is_next(&mut self, window: &WindowFeatures) -> bool {
        let next = window.start > self.last;
        self.last = self.last.max(window.start);
        next
    }

    /// Windows before and after it have no common time, so they don't open an alert together; one that is open stays.
    pub fn begin_generation(&mut self, generation: &Generation) {
        self.generation = generation.number;
        self.last = PlantTime::MIN;
        self.tracks.values_mut().for_each(Track::clear);
        // The quiet after a failure or a repair counts on from here, and only the newer one of them counts.
        let older = if self.failed > self.repaired { &mut self.repaired } else { &mut self.failed };
        *older = PlantTime::MIN;
        if let Some(begins) = generation.begins {
            self.failed = self.failed.min(begins);
            self.repaired = self.repaired.min(begins);
        }
    }

    pub fn judge_scores(&mut self, config: &AlertConfig, judgement: &Judgement, scored: &Scored) -> Vec<Alert> {
        let window = judgement.window;
        let scores: Vec<_> = scored.heads.iter().filter_map(|h| ScoredMode::of(scored.prediction, h)).collect();
        let is_known = |name: &str| scores.iter().any(|s| s.mode == name);
        let slot = self.slot(config, judgement);
        let mut told = self.close(window.end, Outcome::Superseded, |a| is_rule(a) || !is_known(&a.mode));
        self.tracks.retain(|name, _| is_known(name));
        for score in &scores {
            let track = self.tracks.entry(score.mode.into()).or_default();
            track.observe(&config.scores, slot, score.probability / score.threshold);
            if track.has_faded(&config.scores) {
                told.extend(self.close(window.end, Outcome::Cleared, |a| a.mode == score.mode));
            }
        }
        for score in &scores {
            if let Some(alert) = self.open.get_mut(score.mode) {
                told.extend(update_score(alert, config, window, score));
            } else if let Some(first) = self.opens(config, &scores, score) {
                told.push(self.open_alert(score_alert(config, window, scored.prediction, score, first)));
            }
        }
        told
    }

    /// Related modes move the same sensors, so several cross at once. The one that the last windows speak for most opens;
    /// another only if it is clearly there too.
    fn opens(&self, config: &AlertConfig, scores: &[ScoredMode], score: &ScoredMode) -> Option<PlantTime> {
        let policy = &config.scores;
        let track = self.tracks.get(score.mode).filter(|_| !self.open.contains_key(score.mode))?;
        let first = track.opens(policy)?;
        let evidence = |s: &ScoredMode| self.tracks.get(s.mode).map_or(0.0, |t| t.evidence() * s.threshold);
        let leads = scores.iter().all(|other| evidence(other) <= evidence(score));
        let explained = self.open.keys().any(|open| self.tracks.get(open).is_some_and(|t| t.is_full(policy)));
        let clear = track.is_clear(policy, config.second_mode_probability / score.threshold);
        (clear || (leads && !explained)).then_some(first)
    }

    pub fn judge_rules(&mut self, config: &AlertConfig, judgement: &Judgement) -> Vec<Alert> {
        let window = judgement.window;
        let policy = &config.rules.policy;
        let slot = self.slot(config, judgement);
        let mut told = Vec::new();
        for rule in Rule::ALL {
            let findings = rules::findings(rule, &config.rules, window);
            // No finding means no value to judge, which is not the same as a good one.
            let Some(strongest) = findings.first().map(|f| f.strength) else { continue };
            let track = self.tracks.entry(rule.name().into()).or_default();
            track.observe(policy, slot, strongest);
            if track.has_faded(policy) {
                told.extend(self.close(window.end, Outcome::Cleared, |a| a.mode == rule.name()));
                continue;
            }
            let broken: Vec<_> = findings.into_iter().filter(|f| f.strength >= 1.0).collect();
            if let Some(alert) = self.open.get_mut(rule.name()) {
                told.extend(update_rule(alert, rule, window, &broken));
            } else if let Some(first) = track.opens(policy)
                && broken.iter().any(|f| !self.names(f))
            {
                told.push(self.open_alert(rule_alert(rule, window, &broken, first)));
            }
        }
        told
    }

    /// Whether an open alert speaks of this sensor already.
    fn names(&self, finding: &Finding) -> bool {
        self.open.values().flat_map(|a| &a.contributions).any(|c| c.sensor == finding.sensor.sensor.as_str())
    }

    pub fn event(&mut self, event: &EventRecord) -> Vec<Alert> {
        let at = PlantTime(event.time_ms);
        let generation = self.generation;
        let before = |a: &Alert| a.generation < generation || a.first_window_ms <= event.time_ms;
        if matches!(event.verdict(), Verdict::FalseAlarm | Verdict::SensorFault) {
            return self.dismiss(event);
        }
        match event.kind() {
            EventKind::Failure => {
                self.failed = self.failed.max(at);
                self.tracks.values_mut().for_each(Track::clear);
                self.close(at, Outcome::Failed, before)
            }
            EventKind::Maintenance | EventKind::Replacement => {
                self.repaired = self.repaired.max(at);
                // A repair of one mode says nothing about another; a rule can't tell which it was.
                let repairs = |a: &Alert| event.mode.is_empty() || event.mode == a.mode || is_rule(a);
                let told = self.close(at, Outcome::Repaired, |a| before(a) && repairs(a));
                let open = &self.open;
                self.tracks.iter_mut().filter(|(name, _)| !open.contains_key(*name)).for_each(|(_, t)| t.clear());
                told
            }
            EventKind::Error | EventKind::Unspecified => Vec::new(),
        }
    }

    fn dismiss(&mut self, event: &EventRecord) -> Vec<Alert> {
        let told = self.close(PlantTime(event.time_ms), Outcome::Dismissed, |a| a.id == event.alert_id);
        for alert in &told {
            if let Some(track) = self.tracks.get_mut(&alert.mode) {
                track.dismiss();
            }
        }
        told
    }

    fn slot(&self, config: &AlertConfig, judgement: &Judgement) -> Slot {
        let start = judgement.window.start;
        let quiet = config.policy().is_quiet(start, self.failed, self.repaired);
        Slot { start, slide_ms: judgement.slide_ms, quiet }
    }

    fn open_alert(&mut self, alert: Alert) -> Alert {
        self.open.insert(alert.mode.clone(), alert.clone());
        alert
    }

    fn close(&mut self, at: PlantTime, outcome: Outcome, which: impl Fn(&Alert) -> bool) -> Vec<Alert> {
        let closed = self.open.extract_if(.., |_, alert| which(alert));
        let tracks = &mut self.tracks;
        closed
            .map(|(name, mut alert)| {
                if let Some(track) = tracks.get_mut(&name) {
                    track.clear();
                }
                // The event may lie inside the window that opened it.
                alert.closed_ms = at.millis().max(alert.opened_ms);
                alert.updated_ms = alert.closed_ms;
                alert.set_state(AlertState::Closed);
                alert.set_outcome(outcome);
                alert
            })
            .collect()
    }
}

pub fn acknowledge(alert: &mut Alert, author: &str, note: &str, now: PlantTime) -> Result<Alert, AcknowledgeError> {
    if alert.state() == AlertState::Acknowledged && alert.acknowledged_by != author {
        return Err(AcknowledgeError::Already { by: alert.acknowledged_by.clone() });
    }
    if alert.state() == AlertState::Open {
        alert.set_state(AlertState::Acknowledged);
        alert.acknowledged_by = author.into();
        alert.acknowledged_note = note.into();
        alert.acknowledged_ms = now.millis();
        alert.updated_ms = now.millis();
    }
    Ok(alert.clone())
}

fn is_rule(alert: &Alert) -> bool {
    alert.source() == AlertSource::Rule
}
