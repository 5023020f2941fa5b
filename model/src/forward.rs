//! The finished network in plain Rust, with nothing to set up: the same numbers as candle's own operations, of a plain network
//! to 1e-6, with bins or members to 5e-6 (logits beyond 1: in parts of them), and within 3e-6 of what is true.
//!
//! ```text
//! encoded row ─> curve of every input ─> first layer of k members ─> hidden layers ─> heads of each member ─> mean
//! ```
//!
//! Members share the weights and differ in what they multiply inputs and outputs by (TabM, Gorishniy et al. 2024), so
//! that an ensemble costs little more than one network. With one member and no bins it is a plain network.

pub mod bins;
mod encoder;
pub(crate) mod first;
pub(crate) mod simd;

pub use bins::Bins;
pub use encoder::{ENCODED_LIMIT, Encoder};
use first::{CurveSum, Curves, passed};
use simd::{Product, Simd, WithSimd, chunks, dot, load, run, store};

/// Members that an ensemble may have.
pub const MEMBERS_MAX: usize = 64;
/// Rows that are carried through all layers together; more would not stay in the nearest cache.
const BLOCK_ROWS: usize = 32;

/// One linear layer of a plain network.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    pub inputs: usize,
    pub outputs: usize,
    /// `outputs` rows of `inputs` each.
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// One layer of all members. In the last one, unless it is the first too, every member has weights of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer {
    pub inputs: usize,
    pub outputs: usize,
    /// Shared: by input and then by bin, rows of one number per output. Own: by member and output, rows of one per input.
    pub weight: Vec<f32>,
    /// What members multiply inputs by: by input in the first layer, else by member. Empty in a plain network.
    pub adapter: Vec<f32>,
    /// What members multiply outputs by; empty in a plain network, and where weights are their own.
    pub scale: Vec<f32>,
    /// By member.
    pub bias: Vec<f32>,
}

/// Layers with a rectifier after each but the last, whose outputs are logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    bins: Bins,
    members: usize,
    layers: Vec<Layer>,
    /// See [`passed`].
    passed: Vec<f32>,
    /// All inputs.
    every: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("a network has at least one layer")]
    NoLayers,
    #[error("{0} members")]
    Members(usize),
    #[error("the bins of input {input} do not rise")]
    Bins { input: usize },
    #[error("layer {layer} has {inputs} inputs and {outputs} outputs, but {weights} weights and {biases} biases")]
    Layer { layer: usize, inputs: usize, outputs: usize, weights: usize, biases: usize },
    #[error("layer {layer} has {adapter} factors for its inputs and {scale} for its outputs")]
    Factors { layer: usize, adapter: usize, scale: usize },
    #[error("layer {layer} takes {inputs} numbers, the one before it gives {outputs}")]
    Chain { layer: usize, inputs: usize, outputs: usize },
    #[error("layer {layer} has a weight that is not finite")]
    NotFinite { layer: usize },
}

impl Network {
    /// A plain network: one member, no bins.
    pub fn new(layers: Vec<Dense>) -> Result<Self, ShapeError> {
        let last = layers.len().saturating_sub(1);
        let inputs = layers.first().map_or(0, |l| l.inputs);
        for (layer, Dense { inputs, outputs, weight, bias }) in layers.iter().enumerate() {
            if inputs.checked_mul(*outputs) != Some(weight.len()) {
                let (weights, biases) = (weight.len(), bias.len());
                return Err(ShapeError::Layer { layer, inputs: *inputs, outputs: *outputs, weights, biases });
            }
        }
        let plain = |(i, dense): (usize, Dense)| Layer {
            weight: if i == last && i > 0 { dense.weight.clone() } else { dense.columns() },
            inputs: dense.inputs,
            outputs: dense.outputs,
            bias: dense.bias,
            ..Layer::default()
        };
        Network::ensemble(Bins::none(inputs), 1, layers.into_iter().enumerate().map(plain).collect())
    }

    pub fn ensemble(bins: Bins, members: usize, layers: Vec<Layer>) -> Result<Self, ShapeError> {
        if !(1..=MEMBERS_MAX).contains(&members) {
            return Err(ShapeError::Members(members));
        }
        let bins_of = |layer: usize| if layer == 0 { bins.count() } else { 0 };
        let mut before = layers.first().ok_or(ShapeError::NoLayers)?.inputs;
        for (i, layer) in layers.iter().enumerate() {
            if layer.inputs != before {
                return Err(ShapeError::Chain { layer: i, inputs: layer.inputs, outputs: before });
            }
            layer.check(i, members, bins_of(i), i > 0 && i + 1 == layers.len())?;
            before = layer.outputs;
        }
        if bins.inputs() != layers[0].inputs {
            return Err(ShapeError::Bins { input: bins.inputs() });
        }
        let first = &layers[0];
        let bend = &first.weight[first.inputs * first.outputs..];
        let (passed, every) = (passed(&bins, bend, first.outputs), (0..first.inputs).collect());
        Ok(Network { bins, members, passed, every, layers })
    }

    pub fn bins(&self) -> &Bins {
        &self.bins
    }

    pub fn members(&self) -> usize {
        self.members
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |l| l.inputs)
    }

    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |l| l.outputs)
    }

    /// One encoded row to one logit per head.
    pub fn logits(&self, row: &[f32]) -> Vec<f32> {
        let members = self.member_logits(row);
        if self.members == 1 { members } else { self.pooled(&members) }
    }

    /// As [`Network::logits`] of encoded rows, one after the other.
    pub fn all_logits(&self, rows: &[f32]) -> Vec<f32> {
        let members = self.member_logits(rows);
        if self.members == 1 {
            return members;
        }
        members.chunks_exact(self.members * self.outputs()).flat_map(|row| self.pooled(row)).collect()
    }

    /// Encoded rows, one after the other, to every member's logits: by row, member and head. A row's do not depend on
    /// the rows beside it.
    pub fn member_logits(&self, rows: &[f32]) -> Vec<f32> {
        if rows.len() <= BLOCK_ROWS * self.inputs() {
            return self.finish(self.begin(rows));
        }
        let per_row = self.members * self.outputs();
        let mut logits = Vec::with_capacity(rows.len() / self.inputs() * per_row);
        for block in rows.chunks(BLOCK_ROWS * self.inputs()) {
            logits.extend(self.finish(self.begin(block)));
        }
        logits
    }

    /// The first layer's sums.
    fn begin(&self, rows: &[f32]) -> Vec<f32> {
        let Layer { inputs, outputs, weight, adapter, .. } = &self.layers[0];
        let (inputs, outputs) = (*inputs, *outputs);
        if self.members > 1 || !self.bins.is_empty() {
            return self.parts(rows, std::slice::from_ref(&self.every)).concat();
        }
        let mut sums = vec![0.0; rows.len() / inputs * outputs];
        run(Product { x: rows, weight, adapter, inputs, outputs, y: &mut sums });
        sums
    }

    /// Of the first layer's sums the part that comes from each group of inputs. Groups that have all inputs between them add
    /// up to what [`Network::finish`] takes.
    pub fn parts(&self, rows: &[f32], groups: &[Vec<usize>]) -> Vec<Vec<f32>> {
        let Layer { inputs, outputs, weight, adapter, .. } = &self.layers[0];
        let (inputs, outputs) = (*inputs, *outputs);
        let mut places = Vec::with_capacity(rows.len());
        rows.chunks_exact(inputs).for_each(|row| self.bins.place(row, &mut places));
        let (line, bend) = weight.split_at(inputs * outputs);
        let part = |chosen: &Vec<usize>| {
            let mut sums = vec![0.0; rows.len() / inputs * self.members * outputs];
            run(CurveSum {
                curves: Curves { line, bend, passed: &self.passed, outputs },
                adapter,
                members: self.members,
                x: rows,
                places: &places,
                inputs,
                chosen,
                y: &mut sums,
            });
            sums
        };
        groups.iter().map(part).collect()
    }

    /// From the first layer's sums to every member's logits.
    pub fn finish(&self, mut sums: Vec<f32>) -> Vec<f32> {
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                let mut y = vec![0.0; sums.len() / layer.inputs * layer.outputs];
                if i == last {
                    run(OwnProduct::of(layer, &sums, &mut y));
                } else {
                    let Layer { inputs, outputs, weight, adapter, .. } = layer;
                    run(Product { x: &sums, weight, adapter, inputs: *inputs, outputs: *outputs, y: &mut y });
                }
                sums = y;
            }
            run(Adapt {
                scale: &layer.scale,
                bias: &layer.bias,
                outputs: layer.outputs,
                rectify: i < last,
                y: &mut sums,
            });
        }
        sums
    }

    /// The members' logits of one row as one: that of the mean of their probabilities.
    pub fn pooled(&self, members: &[f32]) -> Vec<f32> {
        let heads = self.outputs();
        if self.members == 1 {
            return members.to_vec();
        }
        (0..heads).map(|head| logit_of_mean(members[head..].iter().step_by(heads).copied())).collect()
    }

    /// As [`Network::pooled`] where outputs are numbers and not logits.
    pub fn mean(&self, members: &[f32]) -> Vec<f32> {
        let heads = self.outputs();
        let of_head = |head: usize| members[head..].iter().step_by(heads).sum::<f32>() / self.members as f32;
        (0..heads).map(of_head).collect()
    }
}

/// `ln(p / (1 - p))` of the mean `p` of the logits' probabilities, exact where they are next to 0 or 1.
fn logit_of_mean(logits: impl Iterator<Item = f32>) -> f32 {
    let (mut yes, mut no) = (0.0, 0.0);
    for logit in logits.map(f64::from) {
        let small = (-logit.abs()).exp();
        let (rare, common) = (small / (1.0 + small), 1.0 / (1.0 + small));
        let (p, q) = if logit > 0.0 { (common, rare) } else { (rare, common) };
        yes += p;
        no += q;
    }
    // The smallest probability that there is stands for those that round to nothing.
    (yes.max(f64::MIN_POSITIVE) / no.max(f64::MIN_POSITIVE)).ln() as f32
}

/// `y = y * scale + bias` by member, and no less than zero if `rectify`.
pub(crate) struct Adapt<'a> {
    pub scale: &'a [f32],
    pub bias: &'a [f32],
    pub outputs: usize,
    pub rectify: bool,
    pub y: &'a mut [f32],
}

impl WithSimd for Adapt<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let members = self.bias.len() / self.outputs;
        let zero = simd.splat_f32s(0.0);
        for (row, y) in self.y.chunks_exact_mut(self.outputs).enumerate() {
            let own = row % members * self.outputs;
            let bias = &self.bias[own..own + self.outputs];
            for chunk in 0..chunks::<S>(self.outputs) {
                let (at, bias) = (load(simd, y, chunk), load(simd, bias, chunk));
                let moved = match self.scale.is_empty() {
                    true => simd.add_f32s(at, bias),
                    false => simd.mul_add_e_f32s(at, load(simd, &self.scale[own..own + self.outputs], chunk), bias),
                };
                store(simd, y, chunk, if self.rectify { simd.max_f32s(moved, zero) } else { moved });
            }
        }
    }
}

/// Every member's own weights, by member and output.
pub(crate) struct OwnProduct<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
    pub y: &'a mut [f32],
}

impl<'a> OwnProduct<'a> {
    fn of(layer: &'a Layer, x: &'a [f32], y: &'a mut [f32]) -> Self {
        OwnProduct { x, weight: &layer.weight, inputs: layer.inputs, outputs: layer.outputs, y }
    }
}

impl WithSimd for OwnProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let OwnProduct { x, weight, inputs, outputs, y } = self;
        let members = weight.len() / (inputs * outputs);
        for (row, (x, y)) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)).enumerate() {
            let own = &weight[row % members * inputs * outputs..][..inputs * outputs];
            for (y, w) in y.iter_mut().zip(own.chunks_exact(inputs)) {
                *y = dot(simd, x, w);
            }
        }
    }
}

impl Layer {
    /// `own`: every member has weights of its own.
    fn check(&self, layer: usize, members: usize, bins: usize, own: bool) -> Result<(), ShapeError> {
        let Layer { inputs, outputs, weight, adapter, scale, bias } = self;
        let (weights, biases) = (weight.len(), bias.len());
        let times = usize::saturating_mul;
        let rows = if own { times(*inputs, members) } else { inputs.saturating_add(bins) };
        if weights != times(rows, *outputs) || biases != times(members, *outputs) || weight.is_empty() || *inputs == 0 {
            return Err(ShapeError::Layer { layer, inputs: *inputs, outputs: *outputs, weights, biases });
        }
        let factors = if own || members == 1 { (0, 0) } else { (inputs * members, outputs * members) };
        if (adapter.len(), scale.len()) != factors {
            return Err(ShapeError::Factors { layer, adapter: adapter.len(), scale: scale.len() });
        }
        let all = weight.iter().chain(bias).chain(adapter).chain(scale);
        if all.into_iter().all(|w| w.is_finite()) { Ok(()) } else { Err(ShapeError::NotFinite { layer }) }
    }
}

impl Dense {
    fn columns(&self) -> Vec<f32> {
        let weight = |i: usize, o: usize| self.weight[o * self.inputs + i];
        (0..self.inputs).flat_map(|i| (0..self.outputs).map(move |o| weight(i, o))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(inputs: usize, outputs: usize, weight: &[f32], bias: &[f32]) -> Dense {
        Dense { inputs, outputs, weight: weight.into(), bias: bias.into() }
    }

    #[test]
    fn logits_are_those_worked_out_by_hand() {
        let hidden = dense(2, 2, &[1.0, 2.0, -1.0, 0.5], &[0.5, 0.0]);
        let network = Network::new(vec![hidden, dense(2, 1, &[2.0, 3.0], &[-1.0])]).unwrap();
        // Hidden: 1 + 4 + 0.5 = 5.5, and -1 + 1 = 0; the head: 11 - 1.
        assert_eq!(network.logits(&[1.0, 2.0]), vec![10.0]);
        // The second hidden unit is negative and must not count.
        assert_eq!(network.logits(&[1.0, 0.0]), vec![2.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        assert_eq!(Network::new(vec![]), Err(ShapeError::NoLayers));
        assert!(matches!(Network::new(vec![dense(2, 1, &[1.0], &[0.0])]), Err(ShapeError::Layer { .. })));
        assert!(matches!(
            Network::new(vec![dense(1, 1, &[1.0], &[0.0]), dense(2, 1, &[1.0, 1.0], &[0.0])]),
            Err(ShapeError::Chain { .. })
        ));
        assert!(matches!(
            Network::new(vec![dense(1, 1, &[f32::NAN], &[0.0])]),
            Err(ShapeError::NotFinite { layer: 0 })
        ));
        assert!(Network::new(vec![dense(usize::MAX, 2, &[1.0], &[0.0, 0.0])]).is_err());
    }
}
