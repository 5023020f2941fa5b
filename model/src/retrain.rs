//! One retraining, from labels to a verdict: the same by schedule, by alarm, from the command line and in a Job.
//!
//! ```text
//! dataset ─> labels that can be true? ─> without the golden set ─> train ─> gate ─> try | wait | refuse, and why
//!                                                                (a few windows of time, the best of them)
//! ```

pub mod windows;

use serde::{Deserialize, Serialize};

use windows::Windows;

use crate::{
    artifact::Artifact,
    dataset::Dataset,
    evaluate::EvaluateError,
    gate::{self, Circumstances, Comparison, GateError, GateSettings, Verdict, compare, golden::Golden, labels},
    train::{Progress, TrainError, TrainSettings, Trained, fit::FitError},
    trial::TrialSettings,
    trigger::TriggerSettings,
    watch::plant_change,
};

const DAY_MS: f64 = 86_400_000.0;
const HOUR_MS: f64 = 3_600_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrainSettings {
    /// At most the newest so many days are learnt from: older ones may tell of a plant that is no more. Fewer, where what is
    /// learnt from those is better: see [`windows`].
    pub window_days: f64,
    /// An archive whose newest reading is older than this is not retrained on, hours.
    pub stale_hours_max: f64,
    pub gate: GateSettings,
    /// Of a version that has passed the gate.
    pub canary: TrialSettings,
    pub trigger: TriggerSettings,
}

impl Default for RetrainSettings {
    fn default() -> Self {
        let (gate, canary, trigger) = Default::default();
        RetrainSettings { window_days: 365.0, stale_hours_max: 48.0, gate, canary, trigger }
    }
}

impl RetrainSettings {
    /// What a type can't say: the setting that is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(self.window_days > 0.0 && self.window_days <= 36_500.0) {
            return Err(("window_days", "above 0 and at most 36500"));
        }
        if self.stale_hours_max.is_nan() || self.stale_hours_max <= 0.0 {
            return Err(("stale_hours_max", "above 0; inf: of any age"));
        }
        self.gate.check()?;
        self.canary.check()?;
        self.trigger.check()
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Retrained {
    /// None: it was refused before anything was trained.
    pub trained: Option<Trained>,
    /// None: nothing was there to compare, or to compare on.
    pub comparison: Option<Comparison>,
    pub verdict: Verdict,
    /// From when on was learnt; none: nothing was trained.
    pub windows: Option<Windows>,
}

impl Retrained {
    /// Nothing was begun.
    pub fn waits(reason: String) -> Self {
        Retrained { trained: None, comparison: None, verdict: Verdict::Wait(vec![reason]), windows: None }
    }

    fn without_training(reason: String) -> Self {
        Retrained { trained: None, comparison: None, verdict: Verdict::Refuse(vec![reason]), windows: None }
    }

    /// On one line: what was learnt from, and what came of it.
    pub fn text(&self) -> String {
        let windows = self.windows.as_ref().map_or(String::new(), |windows| format!("{windows}; "));
        format!("{windows}{}", self.verdict.text())
    }
}

/// Trains a challenger and holds it against `champion`. `age_ms`: how old the newest reading is, if that can be told.
/// The same inputs give the same version and the same verdict; `created_ms` is for the record.
pub fn retrain(
    dataset: &Dataset,
    champion: &Artifact,
    golden: Option<&Golden>,
    age_ms: Option<i64>,
    (train_settings, settings): (&TrainSettings, &RetrainSettings),
    created_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Retrained, GateError> {
    let max = settings.stale_hours_max;
    if let Some(hours) = age_ms.map(|ms| ms as f64 / HOUR_MS).filter(|hours| *hours > max) {
        let reason = format!("stale data: the newest reading is {hours:.0} h old, at most {max:.0} h are allowed");
        return Ok(Retrained::without_training(reason));
    }
    let newest = dataset.rows.iter().map(|row| row.end).max();
    let recent = newest.map(|at| dataset.since(at.plus_millis(-(settings.window_days * DAY_MS) as i64)));
    let recent = recent.as_ref().unwrap_or(dataset);
    let golden = golden.filter(|golden| golden.fits(&dataset.config, dataset.horizon_ms));
    if let Some(reason) = labels::suspicion(recent, golden) {
        return Ok(Retrained::without_training(format!("poisoned labels: {reason}")));
    }
    let learnt = golden.map(|golden| golden.leave_out(recent));
    let learnt = learnt.as_ref().unwrap_or(recent);
    let change = plant_change(dataset, champion);
    let (trained, windows) =
        match windows::best(learnt, change.since, (train_settings, &settings.gate), created_ms, progress) {
            Ok(best) => best,
            Err(e @ (TrainError::NoMode { .. } | TrainError::TooShort { .. })) => {
                return Ok(Retrained::without_training(format!("too few positives: {e}")));
            }
            Err(TrainError::Fit(e @ FitError::Diverged(_))) => return Ok(Retrained::without_training(e.to_string())),
            Err(e) => return Err(e.into()),
        };
    let challenger = &trained.artifact;
    let (comparison, verdict) = if trained.report.version == champion.version().map_err(TrainError::from)? {
        (None, Verdict::Wait(vec!["it is the version in charge: nothing has changed since".into()]))
    } else {
        let latency_us = gate::latency_us(challenger, recent);
        let circumstances = Circumstances { golden, drifted: change.drifted, chosen_until: windows.chosen_until };
        // What is cheaper is made of the same rows.
        match compare(&recent.since(windows.from), champion, challenger, circumstances, latency_us, &settings.gate) {
            Ok(comparison) => {
                let verdict = comparison.verdict.clone();
                (Some(comparison), verdict)
            }
            Err(GateError::Evaluate(e @ EvaluateError::NothingUnseen { .. })) => {
                (None, Verdict::Wait(vec![e.to_string()]))
            }
            Err(e) if e.is_of_the_models() => (None, Verdict::Refuse(vec![e.to_string()])),
            Err(e) => return Err(e),
        }
    };
    Ok(Retrained { trained: Some(trained), comparison, verdict, windows: Some(windows) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::synthetic, train::train};

    const SEED: u64 = 11;
    const HOUR: i64 = 3_600_000;

    fn train_settings(epochs_max: usize) -> TrainSettings {
        TrainSettings { horizon_hours: 12.0, epochs_max, ..TrainSettings::default() }
    }

    fn champion() -> (Artifact, Option<Golden>) {
        let early = synthetic::xor_plant(SEED, 8, 40);
        let first = train(&early, &train_settings(2), 0, &mut |_| {}).unwrap().artifact;
        let golden = Golden::freeze(&early, &first);
        (first, golden)
    }

    fn retrained(dataset: &Dataset, settings: RetrainSettings, age_ms: Option<i64>) -> Retrained {
        let (champion, golden) = champion();
        let both = (&train_settings(8), &settings);
        retrain(dataset, &champion, golden.as_ref(), age_ms, both, 0, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_better_version_is_promoted_and_a_second_time_it_is_the_same_one() {
        let dataset = synthetic::xor_plant(SEED, 8, 70);
        let outcome = retrained(&dataset, RetrainSettings::default(), Some(HOUR));
        let comparison = outcome.comparison.as_ref().unwrap();
        assert_eq!(outcome.verdict, Verdict::Promote, "seed {SEED}\n{comparison}");
        assert!(comparison.golden.is_some());
        let new = outcome.trained.unwrap();
        let both = (&train_settings(8), &RetrainSettings::default());
        let golden = champion().1;
        let again = retrain(&dataset, &new.artifact, golden.as_ref(), None, both, 9, &mut |_| {}).unwrap();
        assert_eq!(again.trained.unwrap().report.version, new.report.version, "bit for bit");
        assert!(matches!(&again.verdict, Verdict::Wait(r) if r[0].starts_with("it is the version in charge")));
    }

    #[test]
    fn stale_data_and_too_few_failures_are_refused_before_anything_is_trained() {
        let dataset = synthetic::xor_plant(SEED, 8, 70);
        let stale = RetrainSettings { stale_hours_max: 50.0, ..RetrainSettings::default() };
        let reason = |outcome: Retrained| match outcome.verdict {
            Verdict::Refuse(reasons) if outcome.trained.is_none() => reasons.join("; "),
            other => panic!("{other:?}"),
        };
        assert!(
            reason(retrained(&dataset, stale, Some(72 * HOUR))).starts_with("stale data: the newest reading is 72 h")
        );
        let short = RetrainSettings { window_days: 4.0, ..RetrainSettings::default() };
        assert!(reason(retrained(&dataset, short, None)).starts_with("too few positives: "));
    }

    #[test]
    fn models_that_cannot_be_compared_are_refused_with_the_reason() {
        let dataset = synthetic::xor_plant(SEED, 8, 70);
        let (mut other, _) = champion();
        other.horizon_ms *= 2;
        let both = (&train_settings(2), &RetrainSettings::default());
        let outcome = retrain(&dataset, &other, None, None, both, 0, &mut |_| {}).unwrap();
        let Verdict::Refuse(reasons) = &outcome.verdict else { panic!("{outcome:?}") };
        assert!(reasons[0].starts_with("the champion looks 86400000 ms ahead"), "{reasons:?}");
        assert!(outcome.text().starts_with("learnt from the newest 70 days"), "{}", outcome.text());
    }

    #[test]
    fn labels_that_cannot_be_true_are_refused_before_anything_is_trained() {
        let mut dataset = synthetic::xor_plant(SEED, 8, 70);
        dataset.rows.iter_mut().filter(|row| row.machine == 1).for_each(|row| row.fails = 3);
        let outcome = retrained(&dataset, RetrainSettings::default(), None);
        let Verdict::Refuse(reasons) = &outcome.verdict else { panic!("{outcome:?}") };
        assert!(outcome.trained.is_none() && reasons[0].starts_with("poisoned labels: m1 is said"), "{reasons:?}");
    }
}
