//! Trains a network on a dataset: sample, fit, calibrate, choose thresholds, and measure on what no step has seen.

pub mod fit;
mod sample;
pub mod threshold;

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{Artifact, ArtifactError, Golden, Head, ModeMetrics, Origin},
    calibration::{Outcome, Platt},
    dataset::{
        Dataset,
        split::{Split, SplitShares},
    },
    evaluate::metrics,
    forward::{Encoder, Network, ShapeError},
    mlp::BlockForward,
};
use fit::FitError;
use threshold::Costs;

/// Below so many positive rows in the calibration slice a fit would be noise: only the class weights are undone.
const CALIBRATION_POSITIVES_MIN: usize = 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    pub seed: u64,
    /// How far ahead a failure is to be seen, hours of plant time.
    pub horizon_hours: f64,
    /// Sizes of the hidden layers; none: logistic regression.
    pub hidden: Vec<usize>,
    /// A mode with fewer known failures is left to the rules.
    pub min_failures: usize,
    /// Rows that are trained on at most; a larger slice is sampled, and the sample weighted.
    pub rows_max: usize,
    pub epochs_max: usize,
    /// Epochs without improvement on the validation slice after which training stops.
    pub patience: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// Share of hidden units that are silenced at each step.
    pub dropout: f32,
    /// Noise on the standardized features at each step: few failures must not be learnt by heart.
    pub input_noise: f32,
    pub costs: Costs,
    pub split: SplitShares,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            seed: 1,
            horizon_hours: 24.0,
            hidden: vec![64, 32],
            min_failures: 10,
            rows_max: 40_000,
            epochs_max: 16,
            patience: 4,
            learning_rate: 2e-3,
            weight_decay: 1e-2,
            dropout: 0.3,
            input_noise: 0.3,
            costs: Costs::default(),
            split: SplitShares::default(),
        }
    }
}

impl TrainSettings {
    pub fn horizon_ms(&self) -> i64 {
        (self.horizon_hours * 3_600_000.0) as i64
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("nothing to train on: {}", refused_list(.refused, *.min))]
    NoMode { refused: Vec<RefusedMode>, min: usize },
    #[error("the {slice} slice holds {rows} rows: the archive is too short for a horizon of {horizon_hours} h")]
    TooShort { slice: &'static str, rows: usize, horizon_hours: f64 },
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error("the network can't be run: {0}")]
    Candle(#[from] candle_core::Error),
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// A mode that is left to the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedMode {
    pub mode: String,
    pub failures: usize,
}

fn refused_list(refused: &[RefusedMode], min: usize) -> String {
    if refused.is_empty() {
        return format!("no failure with a mode is known, {min} are needed");
    }
    let modes: Vec<_> = refused.iter().map(|r| format!("{} has {} failures", r.mode, r.failures)).collect();
    format!("{}; {min} are needed", modes.join(", "))
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
    pub refused: Vec<RefusedMode>,
    pub rows: SliceRows,
    pub epochs: usize,
    /// On the test slice.
    pub metrics: Vec<ModeMetrics>,
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

/// The same dataset and settings give the same version, bit for bit. `created_ms` is wall time, for the record.
pub fn train(
    dataset: &Dataset,
    settings: &TrainSettings,
    created_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, TrainError> {
    let (modes, refused) = trainable_modes(dataset, settings)?;
    let split = Split::by_time(dataset, settings.split);
    for (slice, rows) in [("training", &split.train), ("validation", &split.validation), ("test", &split.test)] {
        if rows.is_empty() {
            let horizon_hours = settings.horizon_hours;
            return Err(TrainError::TooShort { slice, rows: rows.len(), horizon_hours });
        }
    }
    let sample = sample::draw(dataset, &split.train, &modes, settings);
    let mut kinds = dataset.kinds.clone();
    kinds.sort();
    let rows = sample.rows.iter().map(|r| dataset.features(r.row));
    let encoder = Encoder::fit(kinds, dataset.width(), rows);
    let fitted = fit::fit(dataset, &encoder, &sample, &split.validation, &modes, settings, progress)?;
    let scored = Scored::new(dataset, &encoder, &fitted.network)?;
    let calibrate =
        |(head, mode): (usize, &usize)| scored.calibrate(&split.calibration, head, *mode, sample.class_weights[head]);
    let platts: Vec<Platt> = modes.iter().enumerate().map(calibrate).collect();
    let probability = |row: usize, head: usize| platts[head].probability(scored.logit(row, head));
    let thresholds = threshold::choose(dataset, &split.validation, &modes, &settings.costs, probability);
    let heads: Vec<Head> = (modes.iter().zip(platts.iter().zip(thresholds)))
        .map(|(mode, (platt, threshold))| Head { mode: dataset.modes[*mode].clone(), platt: *platt, threshold })
        .collect();
    let metrics = modes.iter().enumerate().map(|(head, &mode)| {
        let probabilities: Vec<f64> = split.test.iter().map(|r| probability(*r, head)).collect();
        let positive: Vec<bool> = split.test.iter().map(|r| dataset.rows[*r].is_positive(mode)).collect();
        metrics::of_mode(&dataset.modes[mode], &probabilities, &positive, heads[head].threshold)
    });
    let metrics: Vec<ModeMetrics> = metrics.collect();
    let origin = Origin {
        seed: settings.seed,
        data_sha256: dataset.sha256(),
        rows: sample.rows.len() as u64,
        commit: option_env!("GIT_COMMIT").map(String::from),
        created_ms,
        metrics: metrics.clone(),
    };
    let golden_row = sample.rows[0].row;
    let mut artifact = Artifact {
        config: dataset.config.clone(),
        horizon_ms: dataset.horizon_ms,
        encoder,
        network: fitted.network,
        golden: Golden {
            kind: dataset.kind(golden_row).clone(),
            features: dataset.features(golden_row).iter().map(|v| f64::from(*v)).collect(),
            probabilities: vec![],
        },
        heads,
        origin,
    };
    let logits = artifact.logits(&artifact.golden.kind, &artifact.golden.features);
    artifact.golden.probabilities = artifact.probabilities(&logits);
    let rows = SliceRows {
        sampled: sample.rows.len(),
        train: split.train.len(),
        validation: split.validation.len(),
        calibration: split.calibration.len(),
        test: split.test.len(),
    };
    let report = TrainReport { version: artifact.version()?, refused, rows, epochs: fitted.epochs, metrics };
    Ok(Trained { bytes: artifact.encode()?, artifact, report })
}

/// Indices of the modes with enough failures, and the others.
fn trainable_modes(dataset: &Dataset, settings: &TrainSettings) -> Result<(Vec<usize>, Vec<RefusedMode>), TrainError> {
    let failures = dataset.failures_by_mode();
    let (modes, refused): (Vec<usize>, Vec<usize>) =
        (0..failures.len()).partition(|mode| failures[*mode] >= settings.min_failures.max(1));
    let refused: Vec<_> = (refused.into_iter())
        .map(|mode| RefusedMode { mode: dataset.modes[mode].clone(), failures: failures[mode] })
        .collect();
    if modes.is_empty() {
        return Err(TrainError::NoMode { refused, min: settings.min_failures });
    }
    Ok((modes, refused))
}

/// The logits of every row of a dataset.
pub struct Scored<'a> {
    dataset: &'a Dataset,
    logits: Vec<Vec<f32>>,
}

impl<'a> Scored<'a> {
    pub fn new(dataset: &'a Dataset, encoder: &Encoder, network: &Network) -> Result<Self, TrainError> {
        let row = |i: usize| {
            let features = dataset.features(i).iter().map(|v| f64::from(*v));
            encoder.encode(dataset.kind(i), features)
        };
        let forward = BlockForward::new(network)?;
        let mut logits = Vec::with_capacity(dataset.rows.len());
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        for chunk in rows.chunks(1024) {
            logits.extend(forward.logits(&chunk.iter().map(|i| row(*i)).collect::<Vec<_>>())?);
        }
        Ok(Scored { dataset, logits })
    }

    pub fn logit(&self, row: usize, head: usize) -> f64 {
        f64::from(self.logits[row][head])
    }

    fn calibrate(&self, rows: &[usize], head: usize, mode: usize, class_weight: f64) -> Platt {
        let outcome = |row: &usize| {
            let positive = self.dataset.rows[*row].is_positive(mode);
            Outcome { logit: self.logit(*row, head), positive }
        };
        let outcomes: Vec<Outcome> = rows.iter().map(outcome).collect();
        let enough = outcomes.iter().filter(|o| o.positive).count() >= CALIBRATION_POSITIVES_MIN;
        let fitted = if enough { Platt::fit(&outcomes) } else { None };
        fitted.unwrap_or(Platt::prior_shift(class_weight))
    }
}

/// Rows by machine, in the order of time.
pub fn by_machine(dataset: &Dataset, rows: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let chunks = rows.chunk_by(|a, b| dataset.rows[*a].machine == dataset.rows[*b].machine);
    chunks.map(|rows| (dataset.rows[rows[0]].machine, rows.to_vec())).collect()
}

#[cfg(test)]
mod tests;
