//! Trains a network on a dataset: plan, sample, fit, calibrate, choose thresholds, and measure on what no step has seen.

pub mod fit;
mod golden;
mod optimizer;
pub mod plan;
pub mod reliability;
mod sample;
pub mod search;
mod steps;
pub mod table;
pub mod task;
pub mod threshold;

use serde::Serialize;

pub use crate::settings::TrainSettings;
use crate::{
    artifact::{Artifact, ArtifactError, Golden, Head, ModeMetrics, Origin, RefusedMode},
    calibration::{Calibration, Outcome, Platt},
    dataset::Dataset,
    evaluate::metrics::{self, average_precision},
    forward::{Encoder, Network, ShapeError},
};
use fit::{FitError, Fitted};
use plan::Plan;
use reliability::ReliabilityBin;
use sample::Sample;
use task::{Goal, Task};

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("nothing to train on: {}", refused_list(.refused, *.min))]
    NoMode { refused: Vec<RefusedMode>, min: usize },
    #[error("the {slice} slice is empty: the archive is too short for a horizon of {horizon_hours} h")]
    TooShort { slice: &'static str, horizon_hours: f64 },
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("the training slice is too short to search settings in it")]
    TooShortToSearch,
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

fn refused_list(refused: &[RefusedMode], min: usize) -> String {
    if refused.is_empty() {
        return format!("no failure with a mode is known, {min} are needed");
    }
    refused.iter().map(RefusedMode::to_string).collect::<Vec<_>>().join("; ")
}

/// How far training is, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Counts from 1.
    pub epoch: usize,
    pub epochs_max: usize,
    /// On the validation slice, mean over the modes.
    pub average_precision: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainReport {
    pub version: String,
    pub heads: Vec<HeadReport>,
    pub refused: Vec<RefusedMode>,
    pub rows: SliceRows,
    pub epochs: usize,
    /// On the test slice.
    pub metrics: Vec<ModeMetrics>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadReport {
    pub mode: String,
    pub threshold: f64,
    /// Whether probabilities were fitted to what happened; else there were too few failures.
    pub calibrated: bool,
    pub calibration: &'static str,
    /// Said and seen on the test slice.
    pub reliability: Vec<ReliabilityBin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SliceRows {
    /// What was trained on, out of the slice.
    pub sampled: usize,
    pub train: usize,
    pub validation: usize,
    pub calibration: usize,
    pub test: usize,
}

#[derive(Debug, Clone)]
pub struct Trained {
    pub artifact: Artifact,
    /// As the registry keeps it.
    pub bytes: Vec<u8>,
    pub report: TrainReport,
}

/// The same rows, in whatever order, and the same settings give the same version, bit for bit. `created_ms` is wall time, for the record.
pub fn train(
    dataset: &Dataset,
    settings: &TrainSettings,
    created_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, TrainError> {
    carry_out(dataset, Plan::new(dataset, settings)?, created_ms, progress)
}

/// [`train`] by a plan.
pub fn carry_out(
    dataset: &Dataset,
    plan: Plan,
    created_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, TrainError> {
    let dataset = &*dataset.in_order();
    let split = plan.split(dataset)?;
    let Plan { settings, borders, modes, refused } = plan;
    let sample = sample::draw(dataset, &split.train, &modes, &settings);
    let mut kinds = dataset.kinds.clone();
    kinds.sort();
    let rows = sample.rows.iter().map(|r| dataset.features(r.row));
    let encoder = Encoder::fit(kinds, dataset.width(), rows);
    let fitted = learn(dataset, &encoder, &sample, &split.validation, &modes, &settings, progress)?;
    let scored = Scored::new(dataset, &encoder, &fitted.network);
    let fit = |(head, mode): (usize, &usize)| scored.calibrate(&split.calibration, head, *mode);
    let fits: Vec<Option<Calibration>> = modes.iter().enumerate().map(fit).collect();
    let calibrations: Vec<Calibration> = (fits.iter().zip(&sample.class_weights))
        .map(|(fit, class_weight)| fit.clone().unwrap_or(Platt::prior_shift(*class_weight).into()))
        .collect();
    let probability = |row: usize, head: usize| calibrations[head].probability(scored.logit(row, head));
    let thresholds = threshold::choose(dataset, &split.validation, &modes, &settings.costs, probability);
    let head = |i: usize| Head {
        mode: dataset.modes[modes[i]].clone(),
        calibration: calibrations[i].clone(),
        calibrated: fits[i].is_some(),
        threshold: thresholds[i],
    };
    let heads: Vec<Head> = (0..modes.len()).map(head).collect();
    let machine_of: Vec<usize> = split.test.iter().map(|row| dataset.rows[*row].machine).collect();
    let measured = modes.iter().enumerate().map(|(head, &mode)| {
        let probabilities: Vec<f64> = split.test.iter().map(|r| probability(*r, head)).collect();
        let positive = dataset.positive(&split.test, mode);
        let metrics = metrics::of_mode(&dataset.modes[mode], &probabilities, &positive, thresholds[head], &machine_of);
        (metrics, reliability::bins(&probabilities, &positive, &machine_of))
    });
    let (metrics, reliability): (Vec<ModeMetrics>, Vec<Vec<ReliabilityBin>>) = measured.unzip();
    let origin = Origin {
        settings,
        borders,
        data_sha256: dataset.sha256(),
        rows: sample.rows.len() as u64,
        commit: option_env!("GIT_COMMIT").filter(|c| !c.is_empty()).map(String::from),
        created_ms,
        refused: refused.clone(),
        metrics: metrics.clone(),
    };
    let golden = golden::choose(dataset, &sample, &modes);
    let (config, horizon_ms, network) = (dataset.config.clone(), dataset.horizon_ms, fitted.network);
    let mut artifact = Artifact { config, horizon_ms, encoder, network, heads, golden, origin };
    let score = |g: &Golden| artifact.probabilities(&artifact.logits(&g.kind, &g.features));
    let scores: Vec<Vec<f64>> = artifact.golden.iter().map(score).collect();
    artifact.golden.iter_mut().zip(scores).for_each(|(golden, scores)| golden.probabilities = scores);
    let rows = SliceRows {
        sampled: sample.rows.len(),
        train: split.train.len(),
        validation: split.validation.len(),
        calibration: split.calibration.len(),
        test: split.test.len(),
    };
    let about = |(h, reliability): (&Head, Vec<ReliabilityBin>)| HeadReport {
        mode: h.mode.clone(),
        threshold: h.threshold,
        calibrated: h.calibrated,
        calibration: if h.calibrated { h.calibration.name() } else { "none" },
        reliability,
    };
    let heads = artifact.heads.iter().zip(reliability).map(about).collect();
    let report = TrainReport { version: artifact.version()?, heads, refused, rows, epochs: fitted.epochs, metrics };
    Ok(Trained { bytes: artifact.encode()?, artifact, report })
}

fn learn(
    dataset: &Dataset,
    encoder: &Encoder,
    sample: &Sample,
    validation: &[usize],
    modes: &[usize],
    settings: &TrainSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<Fitted, FitError> {
    let rows = sample.rows.iter().map(|r| dataset.features(r.row));
    let sampled: Vec<usize> = sample.rows.iter().map(|r| r.row).collect();
    let evidence = |mode: &usize| {
        let positive = sampled.iter().filter(|row| dataset.rows[**row].is_positive(*mode)).count();
        dataset.failures_ahead(&sampled, *mode) as f64 / positive.max(1) as f64
    };
    let mut task = Task {
        width: encoder.width(),
        heads: modes.len(),
        inputs: sample.rows.iter().flat_map(|r| encoded(dataset, encoder, r.row)).collect(),
        targets: Vec::with_capacity(sample.rows.len() * modes.len()),
        weights: Vec::with_capacity(sample.rows.len() * modes.len()),
        bins: encoder.bins(rows, settings.bins, settings.tail_halvings),
        evidence: modes.iter().map(evidence).collect(),
        goal: Goal::Classes,
    };
    for sampled in &sample.rows {
        for (mode, class_weight) in modes.iter().zip(&sample.class_weights) {
            let positive = dataset.rows[sampled.row].is_positive(*mode);
            task.targets.push(f32::from(u8::from(positive)));
            task.weights.push((sampled.weight * if positive { *class_weight } else { 1.0 }) as f32);
        }
    }
    task.level_weights();
    let unseen: Vec<f32> = validation.iter().flat_map(|row| encoded(dataset, encoder, *row)).collect();
    let (epochs_max, _) = settings.epochs_and_patience(sample.rows.len(), task.width);
    let mut judge = |epoch: usize, network: &Network| {
        let average_precision = mean_average_precision(dataset, validation, modes, &network.all_logits(&unseen));
        progress(Progress { epoch, epochs_max, average_precision });
        Some(average_precision)
    };
    fit::fit(&task, settings, &mut judge)
}

fn encoded(dataset: &Dataset, encoder: &Encoder, row: usize) -> Vec<f32> {
    encoder.encode(dataset.kind(row), dataset.features(row).iter().map(|v| f64::from(*v)))
}

/// Over the modes that occur in the slice; a mode without a positive row says nothing.
fn mean_average_precision(dataset: &Dataset, rows: &[usize], modes: &[usize], logits: &[f32]) -> f64 {
    let of_head = |(head, mode): (usize, &usize)| {
        let scores: Vec<f64> = logits.iter().skip(head).step_by(modes.len()).map(|l| f64::from(*l)).collect();
        let positive = dataset.positive(rows, *mode);
        positive.contains(&true).then(|| average_precision(&scores, &positive))
    };
    let values: Vec<f64> = modes.iter().enumerate().filter_map(of_head).collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The logits of every row of a dataset.
pub struct Scored<'a> {
    dataset: &'a Dataset,
    heads: usize,
    logits: Vec<f32>,
}

impl<'a> Scored<'a> {
    pub fn new(dataset: &'a Dataset, encoder: &Encoder, network: &Network) -> Self {
        // Row by row encoded: of a whole archive there would be gigabytes.
        let of_row = |row| network.logits(&encoded(dataset, encoder, row));
        Scored { dataset, heads: network.outputs(), logits: (0..dataset.rows.len()).flat_map(of_row).collect() }
    }

    pub fn logit(&self, row: usize, head: usize) -> f64 {
        f64::from(self.logits[row * self.heads + head])
    }

    /// None: too few failures, or they do not lie where the logits are high; then only the class weights are undone.
    fn calibrate(&self, rows: &[usize], head: usize, mode: usize) -> Option<Calibration> {
        let outcome = |row: &usize| {
            let positive = self.dataset.rows[*row].is_positive(mode);
            Outcome { logit: self.logit(*row, head), positive }
        };
        let failures = self.dataset.failures_ahead(rows, mode);
        let outcomes: Vec<Outcome> = rows.iter().map(outcome).collect();
        Calibration::fit(&outcomes, failures)
    }
}

#[cfg(test)]
mod tests;
