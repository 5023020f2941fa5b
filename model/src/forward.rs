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
        Ok(Network { layers })
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
        self.layers.iter().enumerate().fold(row.to_vec(), |x, (i, layer)| {
            let mut y = layer.apply(&x);
            if i < last {
                y.iter_mut().for_each(|v| *v = v.max(0.0));
            }
            y
        })
    }
}

impl Dense {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks_exact(self.inputs);
        rows.zip(&self.bias).map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>() + bias).collect()
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
