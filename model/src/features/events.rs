//! Features of what befell a machine: how often within a horizon, and how long ago.
//!
//! A window sees an event if it happened before the window's end and was known before the window closed, at its end and
//! the allowed lateness: what a failure at the window's end caused, its repair for one, is not among them.

use std::collections::VecDeque;

use proto::{
    archive::event_kind_text,
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::{EventKind, Verdict},
};
use serde::{Deserialize, Serialize};

/// Remembered of one machine, all its features together: the oldest beyond it are forgotten.
const EVENTS_KEPT_MAX: usize = 4_096;
const HOUR_MS: f64 = 3_600_000.0;

/// An event record, and when it became known.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub machine: AssetId,
    pub time: PlantTime,
    pub kind: EventKind,
    pub code: String,
    pub mode: String,
    /// What it says of an alert; most are of none.
    pub answer: Option<Box<Answer>>,
    pub known: PlantTime,
}

/// Work that was done after an alert, or what people found there, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub alert_id: String,
    /// Whether something was wrong with the machine; None: it does not say.
    pub right: Option<bool>,
}

impl Answer {
    /// An empty id is none.
    pub fn new(alert_id: &str, right: Option<bool>) -> Option<Box<Self>> {
        (!alert_id.is_empty()).then(|| Box::new(Answer { alert_id: alert_id.into(), right }))
    }
}

/// Whether the alert was: it is about the machine, so a sensor that was broken made it wrong.
pub fn was_right(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Unspecified => None,
        Verdict::Confirmed | Verdict::Partly => Some(true),
        Verdict::FalseAlarm | Verdict::SensorFault => Some(false),
    }
}

/// Which events to count, and to measure the time since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFeature {
    /// error, failure, maintenance or replacement.
    pub kind: String,
    /// None: whatever its code.
    #[serde(default)]
    pub code: Option<String>,
    /// None: whatever its mode.
    #[serde(default)]
    pub mode: Option<String>,
    /// Counted within so many hours before the window's end.
    #[serde(default)]
    pub count_hours: Vec<f64>,
    /// Whether hours since the last one are a feature; none: there was none yet.
    #[serde(default)]
    pub since: bool,
}

impl EventFeature {
    pub fn matches(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        self.kind == event_kind_text(event.kind) && is(&self.code, &event.code) && is(&self.mode, &event.mode)
    }

    /// `event.error.error1.count_24h`
    pub fn names(&self) -> Vec<String> {
        let parts = [Some(self.kind.as_str()), self.code.as_deref(), self.mode.as_deref()];
        let what = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
        let counts = self.count_hours.iter().map(|hours| format!("event.{what}.count_{hours}h"));
        counts.chain(self.since.then(|| format!("event.{what}.hours_since"))).collect()
    }

    fn horizon_ms(&self) -> i64 {
        (self.count_hours.iter().copied().fold(0.0, f64::max) * HOUR_MS) as i64
    }
}

/// What is remembered of one machine's events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventLog {
    kept: VecDeque<Kept>,
    /// Per feature the newest one that a window has seen.
    last_ms: Vec<Option<i64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Place among the configuration's.
    feature: u16,
    time_ms: i64,
    known_ms: i64,
}

impl EventLog {
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.last_ms.is_empty()
    }

    pub fn push(&mut self, features: &[EventFeature], event: &Event) {
        let (time_ms, known_ms) = (event.time.millis(), event.known.millis());
        for (feature, _) in (0..).zip(features).filter(|(_, f)| f.matches(event)) {
            self.kept.push_back(Kept { feature, time_ms, known_ms });
            if self.kept.len() > EVENTS_KEPT_MAX {
                self.kept.pop_front();
            }
        }
    }

    /// The features of a window that ended at `end_ms`, in the order of their names; NaN: never yet.
    pub fn close(&mut self, features: &[EventFeature], end_ms: i64, lateness_ms: i64) -> Vec<f64> {
        self.last_ms.resize(features.len(), None);
        let closed_ms = end_ms.saturating_add(lateness_ms);
        let sees = |kept: &Kept| kept.time_ms < end_ms && kept.known_ms < closed_ms;
        for kept in self.kept.iter().filter(|kept| sees(kept)) {
            let last = &mut self.last_ms[usize::from(kept.feature)];
            *last = (*last).max(Some(kept.time_ms));
        }
        self.kept.retain(|kept| {
            let horizon = features.get(usize::from(kept.feature)).map_or(0, EventFeature::horizon_ms);
            !sees(kept) || kept.time_ms >= end_ms.saturating_sub(horizon)
        });
        let mut values = Vec::new();
        for ((at, feature), last) in (0..).zip(features).zip(&self.last_ms) {
            let own = || self.kept.iter().filter(|kept| kept.feature == at && sees(kept));
            let within = |hours: &f64| own().filter(|k| k.time_ms >= end_ms - (hours * HOUR_MS) as i64).count() as f64;
            values.extend(feature.count_hours.iter().map(within));
            if feature.since {
                values.push(last.map_or(f64::NAN, |last| (end_ms - last) as f64 / HOUR_MS));
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn event(hour: i64, known: i64, kind: EventKind) -> Event {
        Event {
            machine: AssetId::new("m").unwrap(),
            time: PlantTime(hour * HOUR),
            kind,
            code: "e".into(),
            mode: "comp".into(),
            answer: None,
            known: PlantTime(known * HOUR),
        }
    }

    fn features() -> Vec<EventFeature> {
        let feature = |kind: &str, count_hours, since| EventFeature {
            kind: kind.into(),
            code: None,
            mode: Some("comp".into()),
            count_hours,
            since,
        };
        vec![feature("error", vec![3.0, 24.0], true), feature("replacement", vec![], true)]
    }

    #[test]
    fn events_are_counted_within_horizons_and_timed() {
        let (features, mut log) = (features(), EventLog::default());
        for hour in [1, 20, 22] {
            log.push(&features, &event(hour, hour, EventKind::Error));
        }
        log.push(&features, &event(2, 2, EventKind::Failure));
        assert_eq!(log.close(&features, 23 * HOUR, 0)[..3], [2.0, 3.0, 1.0]);
        assert!(log.close(&features, 23 * HOUR, 0)[3].is_nan(), "nothing was ever replaced");
        assert_eq!(log.close(&features, 60 * HOUR, 0)[..3], [0.0, 0.0, 38.0]);
        assert!(log.kept.is_empty(), "what no horizon reaches is forgotten");
        let names: Vec<String> = features.iter().flat_map(EventFeature::names).collect();
        assert_eq!(names[..2], ["event.error.comp.count_3h", "event.error.comp.count_24h"]);
        assert_eq!(names[2..], ["event.error.comp.hours_since", "event.replacement.comp.hours_since"]);
    }

    #[test]
    fn the_replacement_that_a_failure_caused_is_not_seen_before_it() {
        let (features, mut log) = (features(), EventLog::default());
        log.push(&features, &event(2, 2, EventKind::Replacement));
        log.push(&features, &event(10, 10, EventKind::Replacement));
        assert_eq!(log.close(&features, 10 * HOUR, 0)[3], 8.0, "the failure at 10 is still ahead");
        assert_eq!(log.close(&features, 11 * HOUR, 0)[3], 1.0);
    }

    #[test]
    fn what_was_not_known_when_the_window_closed_is_not_seen() {
        let (features, mut log) = (features(), EventLog::default());
        log.push(&features, &event(5, 9, EventKind::Error));
        assert_eq!(log.close(&features, 8 * HOUR, HOUR)[1], 0.0);
        assert_eq!(log.close(&features, 9 * HOUR, HOUR)[1], 1.0);
    }
}
