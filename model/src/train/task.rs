//! What a network learns from, row by row.

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::{forward::Bins, mlp::Mlp};

/// What is learnt: encoded inputs, and targets and weights of every head; all of them row by row.
pub struct Task {
    pub width: usize,
    pub heads: usize,
    pub inputs: Vec<f32>,
    pub targets: Vec<f32>,
    pub weights: Vec<f32>,
    pub bins: Bins,
    /// Per head how many independent rows a row is worth: those before one failure are one observation.
    pub evidence: Vec<f64>,
    pub goal: Goal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Targets are 0 or 1, outputs logits.
    Classes,
    /// Targets and outputs are numbers of about unit size.
    Numbers,
}

impl Task {
    /// Mean weight 1, so that the learning rate means the same whatever was sampled.
    pub fn level_weights(&mut self) {
        let mean = self.weights.iter().map(|w| f64::from(*w)).sum::<f64>() / self.weights.len().max(1) as f64;
        self.weights.iter_mut().for_each(|w| *w = (f64::from(*w) / mean) as f32);
    }

    pub(super) fn inputs_of(&self, rows: &[usize], noise: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let mut inputs = Vec::with_capacity(rows.len() * self.width);
        rows.iter().for_each(|row| inputs.extend_from_slice(&self.inputs[row * self.width..][..self.width]));
        if noise > 0.0 {
            inputs.iter_mut().for_each(|x| *x += noise * rng.sample::<f32, _>(StandardNormal));
        }
        inputs
    }

    /// Each row once for every member: each of them learns by its own error, as if it were alone.
    pub(super) fn repeated(&self, of_heads: &[f32], rows: &[usize], mlp: &Mlp) -> candle_core::Result<Tensor> {
        let members = mlp.members();
        let mut values = Vec::with_capacity(rows.len() * members * self.heads);
        for row in rows {
            let own = &of_heads[row * self.heads..][..self.heads];
            (0..members).for_each(|_| values.extend_from_slice(own));
        }
        Tensor::from_vec(values, (rows.len() * members, self.heads), &Device::Cpu)
    }
}
