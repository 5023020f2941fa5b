//! The training loop: AdamW on shuffled batches, the learning rate on a cosine, stopped by the validation slice.

use candle_core::{Device, Tensor};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use rand::{Rng, seq::SliceRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::StandardNormal;

use super::{Progress, TrainSettings, sample::Sample};
use crate::{
    dataset::Dataset,
    evaluate::metrics::average_precision,
    forward::{Dense, Encoder, Network, ShapeError},
    mlp::{BlockForward, Mlp, loss},
};

/// Small enough that a batch's products stay on one thread: the same bits on every machine, and no handover to pay.
const BATCH_ROWS: usize = 64;
/// Of the average weights at every step: an average over about 500 steps.
const AVERAGE_KEPT: f32 = 0.998;

#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error("training failed: {0}")]
    Candle(#[from] candle_core::Error),
    #[error("training diverged: {0}")]
    Diverged(#[from] ShapeError),
}

pub struct Fitted {
    pub network: Network,
    /// Until the best one.
    pub epochs: usize,
}

/// Encoded inputs, targets and weights, flat.
struct Matrix {
    width: usize,
    heads: usize,
    inputs: Vec<f32>,
    targets: Vec<f32>,
    weights: Vec<f32>,
}

pub fn fit(
    dataset: &Dataset,
    encoder: &Encoder,
    sample: &Sample,
    validation: &[usize],
    modes: &[usize],
    settings: &TrainSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<Fitted, FitError> {
    let matrix = Matrix::new(dataset, encoder, sample, modes);
    let encode = |row: &usize| {
        let features = dataset.features(*row).iter().map(|v| f64::from(*v));
        encoder.encode(dataset.kind(*row), features)
    };
    let unseen: Vec<Vec<f32>> = validation.iter().map(encode).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let sizes: Vec<usize> =
        std::iter::once(matrix.width).chain(settings.hidden.iter().copied()).chain([modes.len()]).collect();
    let mlp = Mlp::new(&sizes, &mut rng)?;
    let params = ParamsAdamW { weight_decay: settings.weight_decay, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(mlp.vars(), params)?;
    let mut order: Vec<usize> = (0..sample.rows.len()).collect();
    let mut average = Average::default();
    let mut best: Option<(f64, Fitted)> = None;
    for epoch in 1..=settings.epochs_max.max(1) {
        optimizer.set_learning_rate(learning_rate(epoch, settings));
        order.shuffle(&mut rng);
        for batch in order.chunks(BATCH_ROWS) {
            let (inputs, targets, weights) = matrix.batch(batch, settings.input_noise, &mut rng)?;
            let logits = mlp.logits_with_dropout(&inputs, settings.dropout, &mut rng)?;
            optimizer.backward_step(&loss(&logits, &targets, &weights)?)?;
            average.add(mlp.layers()?);
        }
        let network = Network::new(average.layers.clone())?;
        let logits = BlockForward::new(&network)?.logits(&unseen)?;
        let precision = mean_average_precision(dataset, validation, modes, &logits);
        progress(Progress { epoch, epochs_max: settings.epochs_max, average_precision: precision });
        match &best {
            Some((top, fitted)) if precision <= *top => {
                if epoch - fitted.epochs >= settings.patience {
                    break;
                }
            }
            _ => best = Some((precision, Fitted { network, epochs: epoch })),
        }
    }
    best.map(|(_, fitted)| fitted).ok_or(FitError::Diverged(ShapeError::NoLayers))
}

/// From the full rate down to a twentieth of it.
fn learning_rate(epoch: usize, settings: &TrainSettings) -> f64 {
    let done = (epoch - 1) as f64 / settings.epochs_max.max(1) as f64;
    settings.learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
}

/// Over the modes that occur in the slice; a mode without a positive row says nothing.
fn mean_average_precision(dataset: &Dataset, rows: &[usize], modes: &[usize], logits: &[Vec<f32>]) -> f64 {
    let of_head = |(head, mode): (usize, &usize)| {
        let scores: Vec<f64> = logits.iter().map(|l| f64::from(l[head])).collect();
        let positive = dataset.positive(rows, *mode);
        positive.contains(&true).then(|| average_precision(&scores, &positive))
    };
    let values: Vec<f64> = modes.iter().enumerate().filter_map(of_head).collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The weights averaged over the steps, the latest counting most: calmer than any single step's.
#[derive(Default)]
struct Average {
    layers: Vec<Dense>,
    steps: f32,
}

impl Average {
    fn add(&mut self, now: Vec<Dense>) {
        self.steps += 1.0;
        if self.layers.is_empty() {
            self.layers = now;
            return;
        }
        // In the beginning short, so that the first weights are soon forgotten.
        let kept = (self.steps / (self.steps + 10.0)).min(AVERAGE_KEPT);
        for (average, now) in self.layers.iter_mut().zip(&now) {
            let blend = |(a, n): (&mut f32, &f32)| *a = kept * *a + (1.0 - kept) * n;
            average.weight.iter_mut().zip(&now.weight).for_each(blend);
            average.bias.iter_mut().zip(&now.bias).for_each(blend);
        }
    }
}

impl Matrix {
    fn new(dataset: &Dataset, encoder: &Encoder, sample: &Sample, modes: &[usize]) -> Self {
        let (width, heads, rows) = (encoder.width(), modes.len(), sample.rows.len());
        let mut matrix = Matrix {
            width,
            heads,
            inputs: Vec::with_capacity(rows * width),
            targets: Vec::with_capacity(rows * heads),
            weights: Vec::with_capacity(rows * heads),
        };
        for sampled in &sample.rows {
            let features = dataset.features(sampled.row).iter().map(|v| f64::from(*v));
            matrix.inputs.extend(encoder.encode(dataset.kind(sampled.row), features));
            for (mode, class_weight) in modes.iter().zip(&sample.class_weights) {
                let positive = dataset.rows[sampled.row].is_positive(*mode);
                matrix.targets.push(f32::from(u8::from(positive)));
                matrix.weights.push((sampled.weight * if positive { *class_weight } else { 1.0 }) as f32);
            }
        }
        // Mean weight 1, so that the learning rate means the same whatever was sampled.
        let mean = matrix.weights.iter().map(|w| f64::from(*w)).sum::<f64>() / matrix.weights.len().max(1) as f64;
        matrix.weights.iter_mut().for_each(|w| *w = (f64::from(*w) / mean) as f32);
        matrix
    }

    fn batch(&self, rows: &[usize], noise: f32, rng: &mut ChaCha8Rng) -> candle_core::Result<(Tensor, Tensor, Tensor)> {
        let gather = |flat: &[f32], width: usize| -> Vec<f32> {
            rows.iter().flat_map(|r| &flat[r * width..(r + 1) * width]).copied().collect()
        };
        let tensor = |values: Vec<f32>, width: usize| Tensor::from_vec(values, (rows.len(), width), &Device::Cpu);
        let mut inputs = gather(&self.inputs, self.width);
        inputs.iter_mut().for_each(|x| *x += noise * rng.sample::<f32, _>(StandardNormal));
        let (targets, weights) = (gather(&self.targets, self.heads), gather(&self.weights, self.heads));
        Ok((tensor(inputs, self.width)?, tensor(targets, self.heads)?, tensor(weights, self.heads)?))
    }
}
