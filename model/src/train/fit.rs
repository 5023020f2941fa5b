//! The training loop: AdamW on shuffled batches, the learning rate on a cosine, stopped by rows that it does not learn from.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    TrainSettings,
    optimizer::Optimizer,
    steps::steps,
    task::{Goal, Task},
};
use crate::{
    forward::{Network, ShapeError},
    mlp::{Mlp, huber, loss},
};

/// Of the learning rate at the end.
const RATE_LEFT: f64 = 0.05;

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

/// After each epoch `judge` says how good the network is, and the best one is kept; None: there is nothing to judge it
/// by, and the last one is.
pub fn fit(
    task: &Task,
    settings: &TrainSettings,
    judge: &mut dyn FnMut(usize, &Network) -> Option<f64>,
) -> Result<Fitted, FitError> {
    let rows = task.inputs.len() / task.width.max(1);
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let sizes = [&[task.width], &settings.hidden[..], &[task.heads]].concat();
    let bins = if settings.bins < 2 { task.bins.clone() } else { task.bins.with_steps(&steps(task, settings.steps)) };
    let mlp = Mlp::new(&sizes, bins, settings.members, &mut rng)?;
    let mut optimizer = Optimizer::new(mlp.vars(), settings.weight_decay)?;
    let mut order: Vec<usize> = (0..rows).collect();
    let mut best: Option<(f64, Fitted)> = None;
    let (epochs, patience) = settings.epochs_and_patience(rows, task.width);
    let schedule = Schedule { steps: epochs * rows.div_ceil(settings.batch_rows), settings };
    let mut step = 0;
    for epoch in 1..=epochs {
        order.shuffle(&mut rng);
        for batch in order.chunks(settings.batch_rows) {
            let outputs =
                mlp.logits(task.inputs_of(batch, settings.input_noise, &mut rng), Some((settings.dropout, &mut rng)))?;
            let (targets, weights) =
                (task.repeated(&task.targets, batch, &mlp)?, task.repeated(&task.weights, batch, &mlp)?);
            let loss = match task.goal {
                Goal::Classes => loss(&outputs, &targets, &weights)?,
                Goal::Numbers => huber(&outputs, &targets, &weights)?,
            };
            optimizer.step(&loss.backward()?, schedule.rate(step))?;
            step += 1;
        }
        let network = Network::ensemble(mlp.bins().clone(), mlp.members(), mlp.layers(&optimizer.average()))?;
        let good = judge(epoch, &network);
        match (&best, good) {
            (Some((top, fitted)), Some(good)) if good <= *top => {
                if epoch - fitted.epochs >= patience {
                    break;
                }
            }
            _ => best = Some((good.unwrap_or_default(), Fitted { network, epochs: epoch })),
        }
    }
    best.map(|(_, fitted)| fitted).ok_or(FitError::Diverged(ShapeError::NoLayers))
}

/// The learning rate by step: up on a line, down on a cosine.
struct Schedule<'a> {
    steps: usize,
    settings: &'a TrainSettings,
}

impl Schedule<'_> {
    fn rate(&self, step: usize) -> f64 {
        let warm_up = self.settings.warm_up * self.steps as f64;
        let (step, steps) = (step as f64, self.steps.max(1) as f64);
        let share = if step < warm_up {
            (step + 1.0) / (warm_up + 1.0)
        } else {
            let done = (step - warm_up) / (steps - warm_up);
            RATE_LEFT + (1.0 - RATE_LEFT) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
        };
        self.settings.learning_rate * share
    }
}
