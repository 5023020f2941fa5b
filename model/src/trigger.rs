//! When to retrain: told what is known of the version in charge, says whether, and why.
//!
//! Labels decide where there are enough of them. Without, the model's own doubt counts only together with a plant that
//! looks otherwise than in training. A plant that looks otherwise and is predicted well is a matter for the model's owner
//! and no reason to retrain.

use std::fmt;

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use crate::quality::{Estimate, Figures, Realised};

const HOUR_MS: f64 = 3_600_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerSettings {
    /// Realised F1 that is still acceptable: below it with the whole interval, retrain.
    pub f1_min: f64,
    /// The estimated F1 is low below this share of what it was in training.
    pub estimated_share_min: f64,
    /// Also after so many days without a reason; not set: never.
    pub every_days: Option<f64>,
    /// At least so long between two runs, hours of plant time.
    pub cool_down_hours: f64,
    /// How far back the figures look, days of plant time.
    pub figures_days: f64,
}

impl Default for TriggerSettings {
    fn default() -> Self {
        let (f1_min, estimated_share_min, every_days) = (0.5, 0.7, None);
        TriggerSettings { f1_min, estimated_share_min, every_days, cool_down_hours: 72.0, figures_days: 14.0 }
    }
}

impl TriggerSettings {
    /// What a type can't say: the setting that is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let demands = [
            ((0.0..=1.0).contains(&self.f1_min), "trigger.f1_min", "from 0 to 1"),
            ((0.0..=1.0).contains(&self.estimated_share_min), "trigger.estimated_share_min", "from 0 to 1"),
            (self.every_days.is_none_or(|days| days > 0.0), "trigger.every_days", "above 0"),
            (self.cool_down_hours > 0.0, "trigger.cool_down_hours", "above 0"),
            ((1.0..=3_650.0).contains(&self.figures_days), "trigger.figures_days", "from 1 to 3650"),
        ];
        demands.into_iter().find(|(met, ..)| !met).map_or(Ok(()), |(_, key, allowed)| Err((key, allowed)))
    }
}

/// Why a retraining starts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Cause {
    Accuracy { f1: f64, high: f64, min: f64 },
    Estimate { f1: f64, then: f64, drifted: Vec<String> },
    Schedule { days: f64 },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Accuracy { f1, high, min } => {
                write!(f, "realised F1 is {f1:.2}, at best {high:.2}, and {min:.2} is acceptable")
            }
            Cause::Estimate { f1, then, drifted } => {
                write!(
                    f,
                    "estimated F1 is {f1:.2} and was {then:.2} in training; other than then: {}",
                    drifted.join(", ")
                )
            }
            Cause::Schedule { days } => write!(f, "by schedule, every {days} days"),
        }
    }
}

/// One run at a time, and none soon after another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trigger {
    running: bool,
    last: Option<PlantTime>,
}

impl Trigger {
    /// `since`: when the version in charge was made, or the last run ended, as far as that is remembered.
    pub fn new(since: PlantTime) -> Self {
        Trigger { running: false, last: Some(since) }
    }

    /// Whether a run is to start now; then it counts as running until [`Trigger::ended`]. `then`: the estimate of the
    /// training; `drifted`: what makes the plant another one ([`crate::drift::BlockDrift::of_another_plant`]).
    pub fn due(
        &mut self,
        settings: &TriggerSettings,
        now: PlantTime,
        figures: &Figures,
        then: Option<Estimate>,
        drifted: &[String],
    ) -> Option<Cause> {
        let since_ms = self.last.map_or(i64::MAX, |last| now.millis().saturating_sub(last.millis()));
        if self.running || (since_ms as f64) < settings.cool_down_hours * HOUR_MS {
            return None;
        }
        let cause = cause(settings, since_ms, figures, then, drifted)?;
        self.running = true;
        Some(cause)
    }

    pub fn ended(&mut self, now: PlantTime) {
        (self.running, self.last) = (false, Some(now));
    }
}

fn cause(
    settings: &TriggerSettings,
    since_ms: i64,
    figures: &Figures,
    then: Option<Estimate>,
    drifted: &[String],
) -> Option<Cause> {
    if let Realised::Known(known) = figures.realised
        && known.f1.high < settings.f1_min
    {
        return Some(Cause::Accuracy { f1: known.f1.mean, high: known.f1.high, min: settings.f1_min });
    }
    if let (Some(now), Some(then)) = (figures.estimated, then)
        && now.f1 < settings.estimated_share_min * then.f1
        && !drifted.is_empty()
    {
        return Some(Cause::Estimate { f1: now.f1, then: then.f1, drifted: drifted.to_vec() });
    }
    let days = settings.every_days?;
    (since_ms as f64 >= days * 24.0 * HOUR_MS).then_some(Cause::Schedule { days })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluate::bootstrap::Interval, quality::Known};

    const HOUR: i64 = 3_600_000;
    const GOOD: Estimate = Estimate { precision: 0.8, recall: 0.8, f1: 0.8 };

    fn figures(f1: Option<(f64, f64)>, estimated: f64) -> Figures {
        let interval = |mean, high| Interval { mean, low: 0.0, high };
        let realised = match f1 {
            Some((mean, high)) => {
                let f1 = interval(mean, high);
                Realised::Known(Known { resolved: 50, precision: f1, recall: f1, f1 })
            }
            None => Realised::NotEnoughLabels { resolved: 3 },
        };
        let estimated = Some(Estimate { f1: estimated, ..GOOD });
        Figures { version: "v".into(), realised, brier: None, estimated, label_delay_hours: None, coverage: None }
    }

    fn due(figures: &Figures, drifted: &[String]) -> Option<Cause> {
        let now = PlantTime(1_000 * HOUR);
        Trigger::default().due(&TriggerSettings::default(), now, figures, Some(GOOD), drifted)
    }

    #[test]
    fn labels_decide_once_their_whole_interval_is_below_the_limit() {
        assert!(matches!(due(&figures(Some((0.3, 0.45)), 0.8), &[]), Some(Cause::Accuracy { .. })));
        assert_eq!(due(&figures(Some((0.4, 0.55)), 0.8), &[]), None);
        assert_eq!(due(&figures(None, 0.8), &[]), None, "too few labels trigger nothing");
    }

    #[test]
    fn doubt_and_drift_trigger_together_and_neither_alone() {
        let drifted = ["vibration.mean".to_string()];
        let cause = due(&figures(None, 0.4), &drifted).unwrap();
        assert!(cause.to_string().ends_with("other than then: vibration.mean"), "{cause}");
        assert_eq!(due(&figures(None, 0.4), &[]), None);
        assert_eq!(due(&figures(Some((0.8, 0.9)), 0.8), &drifted), None, "drift alone is for the owner");
    }

    #[test]
    fn one_run_at_a_time_then_a_cool_down_then_the_schedule() {
        let settings = TriggerSettings { every_days: Some(30.0), ..TriggerSettings::default() };
        let (good, bad) = (figures(None, 0.8), figures(Some((0.1, 0.2)), 0.8));
        let mut trigger = Trigger::new(PlantTime(0));
        let ask = |trigger: &mut Trigger, hour: i64, figures: &Figures| {
            trigger.due(&settings, PlantTime(hour * HOUR), figures, Some(GOOD), &[])
        };
        assert_eq!(ask(&mut trigger, 10, &bad), None, "cooling down");
        assert!(ask(&mut trigger, 80, &bad).is_some());
        assert_eq!(ask(&mut trigger, 200, &bad), None, "running");
        trigger.ended(PlantTime(200 * HOUR));
        assert_eq!(ask(&mut trigger, 271, &bad), None, "cooling down");
        assert_eq!(ask(&mut trigger, 919, &good), None);
        assert!(matches!(ask(&mut trigger, 920, &good), Some(Cause::Schedule { .. })));
    }
}
