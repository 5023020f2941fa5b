//! How good a model is on the newest slice of the archive, beside what is cheaper and what is possible.
//!
//! ```text
//! test slice ─> contenders: model, logistic regression, single-sensor threshold, always no, (oracle)
//!               └> per mode: windows (precision ... average precision) and episodes (caught, lead, false alarms)
//!               └> paired bootstrap over machines: is the lead real?
//! ```

pub mod metrics;
pub mod episode;
pub mod baseline;
pub mod bootstrap;
pub mod truth;
mod table;

use serde::Serialize;

use crate::{
    artifact::{Artifact, ModeMetrics},
    dataset::{Dataset, split::Split},
    train::{Scored, TrainError, TrainSettings, by_machine, threshold, train},
};
use baseline::SensorThreshold;
use bootstrap::Interval;
use episode::{AlertRule, Tally, tally_machine};
use metrics::Ranking;
use truth::Truth;

const MONTH_HOURS: f64 = 730.5;

#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("mode {mode} of the model does not occur in this archive's failures")]
    UnknownMode { mode: String },
    #[error("the model looks {model_ms} ms ahead, the labels {labels_ms} ms")]
    Horizon { model_ms: i64, labels_ms: i64 },
    #[error("the model was made for another feature schema")]
    Schema,
}

#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub version: String,
    pub test_rows: usize,
    pub machines: usize,
    pub contenders: Vec<ContenderResult>,
    /// Average precision of the model less that of the other, mean over the modes, with a 95 % interval by machine.
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

/// Scores of the test rows and a threshold, per mode.
struct Contender {
    name: &'static str,
    modes: Vec<(Vec<f64>, f64)>,
}

pub fn evaluate(
    dataset: &Dataset,
    model: &Artifact,
    settings: &TrainSettings,
    truth: Option<&Truth>,
) -> Result<Evaluation, EvaluateError> {
    if model.config != dataset.config {
        return Err(EvaluateError::Schema);
    }
    if model.horizon_ms != dataset.horizon_ms {
        return Err(EvaluateError::Horizon { model_ms: model.horizon_ms, labels_ms: dataset.horizon_ms });
    }
    let mode_of = |mode: &String| dataset.modes.iter().position(|m| m == mode);
    let modes = (model.heads.iter())
        .map(|h| mode_of(&h.mode).ok_or_else(|| EvaluateError::UnknownMode { mode: h.mode.clone() }))
        .collect::<Result<Vec<usize>, _>>()?;
    let split = Split::by_time(dataset, settings.split);
    let logistic = TrainSettings { hidden: vec![], ..settings.clone() };
    let logistic = train(dataset, &logistic, 0, &mut |_| {})?.artifact;
    let field = Field { dataset, split: &split, modes: &modes, settings };
    let mut contenders = vec![
        field.model("mlp", model)?,
        field.model("logistic regression", &logistic)?,
        field.sensor_threshold(),
        Contender { name: "always no", modes: vec![(vec![0.0; split.test.len()], f64::INFINITY); modes.len()] },
    ];
    contenders.extend(truth.map(|truth| field.oracle(truth)));
    let positive: Vec<Vec<bool>> = modes.iter().map(|m| field.positive(*m)).collect();
    let rankings = |contender: &Contender| {
        contender.modes.iter().zip(&positive).map(|((scores, _), positive)| Ranking::new(scores, positive)).collect()
    };
    let machine_of: Vec<usize> = split.test.iter().map(|r| dataset.rows[*r].machine).collect();
    let mlp = rankings(&contenders[0]);
    let lead_over = |other: &Contender| bootstrap::paired_difference(&mlp, &rankings(other), &machine_of);
    Ok(Evaluation {
        version: model.version().map_err(TrainError::from)?,
        test_rows: split.test.len(),
        machines: by_machine(dataset, &split.test).len(),
        lead_over_logistic: lead_over(&contenders[1]),
        lead_over_threshold: lead_over(&contenders[2]),
        contenders: contenders.iter().map(|c| field.judge(c)).collect(),
    })
}

/// What all contenders meet on.
struct Field<'a> {
    dataset: &'a Dataset,
    split: &'a Split,
    modes: &'a [usize],
    settings: &'a TrainSettings,
}

impl Field<'_> {
    fn positive(&self, mode: usize) -> Vec<bool> {
        self.split.test.iter().map(|r| self.dataset.rows[*r].is_positive(mode)).collect()
    }

    fn model(&self, name: &'static str, model: &Artifact) -> Result<Contender, EvaluateError> {
        let scored = Scored::new(self.dataset, &model.encoder, &model.network)?;
        let of_mode = |mode: &usize| {
            let head = model.heads.iter().position(|h| h.mode == self.dataset.modes[*mode]);
            // A mode that this model was not trained for is one that it never sees.
            let Some(head) = head else { return (vec![0.0; self.split.test.len()], f64::INFINITY) };
            let probability = |row: &usize| model.heads[head].platt.probability(scored.logit(*row, head));
            (self.split.test.iter().map(probability).collect(), model.heads[head].threshold)
        };
        Ok(Contender { name, modes: self.modes.iter().map(of_mode).collect() })
    }

    fn sensor_threshold(&self) -> Contender {
        let tune = |mode: &usize| SensorThreshold::tune(self.dataset, &self.split.train, *mode);
        let tuned: Vec<SensorThreshold> = self.modes.iter().map(tune).collect();
        self.with_thresholds("single sensor", |row, place| tuned[place].score(self.dataset, row))
    }

    fn oracle(&self, truth: &Truth) -> Contender {
        self.with_thresholds("oracle", |row, place| {
            let (row, mode) = (&self.dataset.rows[row], &self.dataset.modes[self.modes[place]]);
            truth.progress(&self.dataset.machines[row.machine].name, mode, row.end)
        })
    }

    /// A contender by scores between 0 and 1, with the thresholds that the same costs choose on the same slice as the
    /// model's.
    fn with_thresholds(&self, name: &'static str, score: impl Fn(usize, usize) -> f64) -> Contender {
        let costs = &self.settings.costs;
        let thresholds = threshold::choose(self.dataset, &self.split.validation, self.modes, costs, &score);
        let scores = |place: usize| self.split.test.iter().map(|r| score(*r, place)).collect();
        let modes = thresholds.into_iter().enumerate().map(|(place, threshold)| (scores(place), threshold));
        Contender { name, modes: modes.collect() }
    }

    fn judge(&self, contender: &Contender) -> ContenderResult {
        let of_mode = |(mode, (scores, threshold)): (&usize, &(Vec<f64>, f64))| {
            let tally = self.tally(*mode, scores, *threshold);
            ModeResult {
                windows: metrics::of_mode(&self.dataset.modes[*mode], scores, &self.positive(*mode), *threshold),
                failures: tally.failures,
                caught: tally.caught,
                lead_hours_median: median(tally.lead_hours),
                false_alarms_per_machine_month: tally.false_alarms as f64 * MONTH_HOURS / tally.machine_hours.max(1.0),
            }
        };
        ContenderResult { name: contender.name, modes: self.modes.iter().zip(&contender.modes).map(of_mode).collect() }
    }

    fn tally(&self, mode: usize, scores: &[f64], threshold: f64) -> Tally {
        let above: Vec<bool> = scores.iter().map(|s| *s >= threshold).collect();
        let (mut tally, mut at) = (Tally::default(), 0);
        for (machine, rows) in by_machine(self.dataset, &self.split.test) {
            let above = &above[at..at + rows.len()];
            tally += tally_machine(self.dataset, machine, &rows, above, mode, AlertRule::default());
            at += rows.len();
        }
        tally
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get((values.len().max(1) - 1) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

impl Evaluation {
    /// The contender's mean average precision over the modes.
    pub fn average_precision(&self, contender: &str) -> Option<f64> {
        let modes = &self.contenders.iter().find(|c| c.name == contender)?.modes;
        Some(modes.iter().map(|m| m.windows.average_precision).sum::<f64>() / modes.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    #[test]
    fn the_network_sees_what_no_line_and_no_single_sensor_can() {
        let seed = 7;
        let dataset = synthetic::xor_plant(seed, 10, 60);
        let settings = TrainSettings { horizon_hours: 12.0, ..TrainSettings::default() };
        let model = train(&dataset, &settings, 0, &mut |_| {}).unwrap().artifact;
        let evaluation = evaluate(&dataset, &model, &settings, None).unwrap();
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
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
