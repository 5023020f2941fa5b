//! The finished network in plain Rust: the same numbers as candle's to 1e-6, with nothing to set up.
//!
//! Used where one row is scored (golden vector, explanation) and where candle would be too much (a gateway).

mod encoder;

pub use encoder::{ENCODED_LIMIT, Encoder};

/// One linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    pub inputs: usize,
    pub outputs: usize,
    /// `outputs` rows of `inputs` each.
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Linear layers with a rectifier after each but the last, whose outputs are logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    layers: Vec<Dense>,
    /// Per layer its weights input by input: all outputs grow side by side, each in the order of its inputs.
    columns: Vec<Vec<f32>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("a network has at least one layer")]
    NoLayers,
    #[error("layer {layer} has {weights} weights and {biases} biases for {inputs} inputs and {outputs} outputs")]
    Layer { layer: usize, inputs: usize, outputs: usize, weights: usize, biases: usize },
    #[error("layer {layer} takes {inputs} inputs, the one before gives {outputs}")]
    Chain { layer: usize, inputs: usize, outputs: usize },
    #[error("layer {layer} holds a weight that is not finite")]
    NotFinite { layer: usize },
}

impl Network {
    pub fn new(layers: Vec<Dense>) -> Result<Self, ShapeError> {
        let mut before = layers.first().ok_or(ShapeError::NoLayers)?.inputs;
        for (layer, dense) in layers.iter().enumerate() {
            let Dense { inputs, outputs, weight, bias } = dense;
            if inputs.checked_mul(*outputs) != Some(weight.len()) || *outputs != bias.len() || weight.is_empty() {
                let (weights, biases) = (weight.len(), bias.len());
                return Err(ShapeError::Layer { layer, inputs: *inputs, outputs: *outputs, weights, biases });
            }
            if *inputs != before {
                return Err(ShapeError::Chain { layer, inputs: *inputs, outputs: before });
            }
            if !weight.iter().chain(bias).all(|w| w.is_finite()) {
                return Err(ShapeError::NotFinite { layer });
            }
            before = *outputs;
        }
        let columns = layers.iter().map(Dense::columns).collect();
        Ok(Network { layers, columns })
    }

    pub fn layers(&self) -> &[Dense] {
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
        let last = self.layers.len() - 1;
        self.layers.iter().zip(&self.columns).enumerate().fold(row.to_vec(), |x, (i, (layer, columns))| {
            let mut y = layer.apply(columns, &x);
            if i < last {
                y.iter_mut().for_each(|v| *v = v.max(0.0));
            }
            y
        })
    }
}

impl Dense {
    fn columns(&self) -> Vec<f32> {
        let weight = |i: usize, o: usize| self.weight[o * self.inputs + i];
        (0..self.inputs).flat_map(|i| (0..self.outputs).map(move |o| weight(i, o))).collect()
    }

    fn apply(&self, columns: &[f32], x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; self.outputs];
        // Behind a rectifier about half of them are zero.
        for (x, column) in x.iter().zip(columns.chunks_exact(self.outputs)).filter(|(x, _)| **x != 0.0) {
            y.iter_mut().zip(column).for_each(|(y, w)| *y += w * x);
        }
        y.iter_mut().zip(&self.bias).for_each(|(y, bias)| *y += bias);
        y
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
