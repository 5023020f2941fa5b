//! How good a model is on the newest slice of the archive, beside what is cheaper and what is possible.
//!
//! ```text
//! test slice ─> contenders: model, logistic regression, single-sensor threshold, always no, (oracle)
//!               └> per mode: windows (precision ... average precision) and episodes (caught, lead, false alarms)
//!               └> paired bootstrap over machines: is the lead real?
//! ```

pub mod metrics;
pub mod ranking;
pub mod episode;
pub mod baseline;
pub mod bootstrap;
pub mod truth;
mod table;

use proto::time::PlantTime;
use serde::Serialize;

use crate::{
    artifact::{Artifact, ModeMetrics},
    calibration::{Outcome, Platt},
    dataset::{Dataset, split::Split},
    train::{Scored, TrainError, carry_out, plan::Plan, threshold},
};
use baseline::SensorThreshold;
use bootstrap::{Duel, Interval, paired_difference};
use ranking::Ranking;
use truth::Truth;

const MONTH_HOURS: f64 = 730.5;

#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("a mode of the model does not occur in this archive's failures")]
    UnknownMode,
    #[error("the model looks {model_ms} ms ahead, the labels {labels_ms} ms")]
    Horizon { model_ms: i64, labels_ms: i64 },
    #[error("the model was made for another feature schema")]
    Schema,
    #[error("the model was made with all that is known here: no window after {until} has an outcome yet")]
    NothingUnseen { until: PlantTime },
}

#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub version: String,
    pub test_rows: usize,
    pub machines: usize,
    pub contenders: Vec<ContenderResult>,
    /// Average precision of the model less that of the other, mean over the modes that occur in the slice, with a 95 %
    /// interval by machine.
    pub lead_over_threshold: Interval,
    pub lead_over_logistic: Interval,
}

#[derive(Debug, Clone, Serialize)]
pub struct ContenderResult {
    pub name: &'static str,
    pub modes: Vec<ModeResult>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ModeResult {
    #[serde(flatten)]
    pub windows: ModeMetrics,
    pub failures: usize,
    pub caught: usize,
    /// Hours from the alert to the failure; none: nothing was caught.
    pub lead_hours_median: Option<f64>,
    pub false_alarms_per_machine_month: f64,
}

/// Probabilities of the test rows and a threshold, per mode.
struct Contender {
    name: &'static str,
    modes: Vec<(Vec<f64>, f64)>,
}

/// Measures `model` on the rows that begin after everything that it was made with, beside contenders that are made
/// with the same slices.
pub fn evaluate(dataset: &Dataset, model: &Artifact, truth: Option<&Truth>) -> Result<Evaluation, EvaluateError> {
    if model.config != dataset.config {
        return Err(EvaluateError::Schema);
    }
    if model.horizon_ms != dataset.horizon_ms {
        return Err(EvaluateError::Horizon { model_ms: model.horizon_ms, labels_ms: dataset.horizon_ms });
    }
    let beside = Plan::logistic(model, dataset).ok_or(EvaluateError::UnknownMode)?;
    let split = Split::at(dataset, &beside.borders);
    if split.test.is_empty() {
        return Err(EvaluateError::NothingUnseen { until: beside.borders.calibration_end });
    }
    let logistic = carry_out(dataset, beside.clone(), 0, &mut |_| {})?.artifact;
    let field = Field { dataset, split: &split, plan: &beside };
    let mut contenders = vec![
        field.model("mlp", model),
        field.model("logistic regression", &logistic),
        field.sensor_threshold(),
        Contender { name: "always no", modes: vec![(vec![0.0; split.test.len()], f64::INFINITY); beside.modes.len()] },
    ];
    contenders.extend(truth.map(|truth| field.oracle(truth)));
    Ok(Evaluation {
        version: model.version().map_err(TrainError::from)?,
        test_rows: split.test.len(),
        machines: dataset.by_machine(&split.test).len(),
        lead_over_logistic: field.lead(&contenders[0], &contenders[1]),
        lead_over_threshold: field.lead(&contenders[0], &contenders[2]),
        contenders: contenders.iter().map(|c| field.judge(c)).collect(),
    })
}

/// What all contenders meet on.
struct Field<'a> {
    dataset: &'a Dataset,
    split: &'a Split,
    plan: &'a Plan,
}

impl Field<'_> {
    fn model(&self, name: &'static str, model: &Artifact) -> Contender {
        let scored = Scored::new(self.dataset, &model.encoder, &model.network);
        let of_head = |(i, head): (usize, &crate::artifact::Head)| {
            let probability = |row: &usize| head.calibration.probability(scored.logit(*row, i));
            (self.split.test.iter().map(probability).collect(), head.threshold)
        };
        Contender { name, modes: model.heads.iter().enumerate().map(of_head).collect() }
    }

    fn sensor_threshold(&self) -> Contender {
        let tuned = SensorThreshold::tune(self.dataset, &self.split.train, &self.plan.modes);
        self.tuned("single sensor", |row, place| tuned[place].probability(self.dataset, row))
    }

    /// Knows how worn each part is, and from the training slice what that wear means.
    fn oracle(&self, truth: &Truth) -> Contender {
        let share = |row: usize, place: usize| {
            let (row, mode) = (&self.dataset.rows[row], &self.dataset.modes[self.plan.modes[place]]);
            truth.share(&self.dataset.machines[row.machine].name, mode, row.end)
        };
        let curve = |(place, mode): (usize, &usize)| {
            let outcome = |row: &usize| {
                let positive = self.dataset.rows[*row].is_positive(*mode);
                Outcome { logit: share(*row, place), positive }
            };
            Platt::fit(&self.split.train.iter().map(outcome).collect::<Vec<_>>()).unwrap_or(Platt::IDENTITY)
        };
        let curves: Vec<Platt> = self.plan.modes.iter().enumerate().map(curve).collect();
        self.tuned("oracle", |row, place| curves[place].probability(share(row, place)))
    }

    /// A contender that is made with the training slice alone: its thresholds too, by the costs that the model's follow.
    fn tuned(&self, name: &'static str, probability: impl Fn(usize, usize) -> f64) -> Contender {
        let of = |rows: &[usize], place: usize| -> Vec<f64> { rows.iter().map(|r| probability(*r, place)).collect() };
        let of_mode = |(place, mode): (usize, &usize)| {
            let (train, costs) = (&self.split.train, &self.plan.settings.costs);
            let threshold = threshold::among_scores(self.dataset, train, *mode, costs, &of(train, place));
            (of(&self.split.test, place), threshold)
        };
        Contender { name, modes: self.plan.modes.iter().enumerate().map(of_mode).collect() }
    }

    fn judge(&self, contender: &Contender) -> ContenderResult {
        let machine_of = self.machine_of();
        let of_mode = |(mode, (scores, threshold)): (&usize, &(Vec<f64>, f64))| {
            let positive = self.dataset.positive(&self.split.test, *mode);
            let tally = threshold::tally(self.dataset, &self.split.test, scores, *threshold, *mode);
            ModeResult {
                windows: metrics::of_mode(&self.dataset.modes[*mode], scores, &positive, *threshold, &machine_of),
                failures: tally.failures,
                caught: tally.caught,
                lead_hours_median: median(tally.lead_hours),
                false_alarms_per_machine_month: tally.false_alarms as f64 * MONTH_HOURS / tally.machine_hours.max(1.0),
            }
        };
        let modes = self.plan.modes.iter().zip(&contender.modes).map(of_mode).collect();
        ContenderResult { name: contender.name, modes }
    }

    fn lead(&self, of: &Contender, over: &Contender) -> Interval {
        let rankings = |c: &Contender| c.modes.iter().map(|(scores, _)| Ranking::new(scores)).collect::<Vec<_>>();
        let (a, b) = (rankings(of), rankings(over));
        let positive: Vec<Vec<bool>> =
            self.plan.modes.iter().map(|mode| self.dataset.positive(&self.split.test, *mode)).collect();
        let duel = |i: usize| Duel { a: &a[i], b: &b[i], positive: &positive[i] };
        // A mode without a positive window says nothing about who ranks better.
        let duels: Vec<Duel> = (0..a.len()).filter(|i| positive[*i].contains(&true)).map(duel).collect();
        paired_difference(&duels, &self.machine_of())
    }

    /// Of each row of the test slice.
    fn machine_of(&self) -> Vec<usize> {
        self.split.test.iter().map(|row| self.dataset.rows[*row].machine).collect()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get((values.len().max(1) - 1) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

impl Evaluation {
    /// The contender's mean average precision over the modes that occur in the slice.
    pub fn average_precision(&self, contender: &str) -> Option<f64> {
        let modes = &self.contenders.iter().find(|c| c.name == contender)?.modes;
        let modes = || modes.iter().map(|m| &m.windows).filter(|w| w.positives > 0);
        Some(modes().map(|w| w.average_precision).sum::<f64>() / modes().count().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::synthetic, settings::TrainSettings, train::train};

    #[test]
    fn the_network_sees_what_no_line_and_no_single_sensor_can() {
        let seed = 7;
        let dataset = synthetic::xor_plant(seed, 10, 60);
        let settings = TrainSettings { horizon_hours: 12.0, ..TrainSettings::default() };
        let model = train(&dataset, &settings, 0, &mut |_| {}).unwrap().artifact;
        let evaluation = evaluate(&dataset, &model, None).unwrap();
        let precision = |name| evaluation.average_precision(name).unwrap();
        assert!(precision("mlp") > 0.8, "seed {seed}\n{evaluation}");
        assert!(evaluation.lead_over_logistic.low > 0.2, "seed {seed}\n{evaluation}");
        assert!(evaluation.lead_over_threshold.low > 0.2, "seed {seed}\n{evaluation}");
        let mlp = &evaluation.contenders[0].modes;
        assert!(mlp.iter().all(|m| m.caught * 10 >= m.failures * 8 && m.failures > 10), "seed {seed}\n{evaluation}");
        let silent = &evaluation.contenders[3].modes;
        assert!(silent.iter().all(|m| m.caught == 0 && m.false_alarms_per_machine_month == 0.0));
        assert!(serde_json::to_string(&evaluation).is_ok());
    }

    #[test]
    fn only_rows_that_training_never_saw_are_measured_whatever_came_later() {
        let settings = TrainSettings { horizon_hours: 12.0, epochs_max: 2, ..TrainSettings::default() };
        let early = synthetic::xor_plant(3, 4, 40);
        let model = train(&early, &settings, 0, &mut |_| {}).unwrap().artifact;
        let until = model.origin.borders.calibration_end;
        let later = synthetic::xor_plant(3, 4, 60);
        let evaluation = evaluate(&later, &model, None).unwrap();
        let unseen = later.rows.iter().filter(|r| r.start >= until).count();
        assert_eq!(evaluation.test_rows, unseen);
        let mut known = later;
        known.rows.retain(|r| r.start < until);
        let error = evaluate(&known, &model, None).unwrap_err().to_string();
        assert!(error.starts_with("the model was made with all that is known here"), "{error}");
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
