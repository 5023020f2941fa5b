//! AdamW (Loshchilov, Hutter 2019) as candle's, in one pass over the weights, with their average kept beside.
//!
//! Candle's own makes a dozen new tensors for every variable and step; for as small a network that costs more than the
//! gradient.

use candle_core::{Device, Result, Tensor, Var, backprop::GradStore};

use crate::mlp::with_numbers;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
/// Of the average weights at every step: an average over about so many steps.
const AVERAGE_STEPS: f32 = 500.0;

pub struct Optimizer {
    vars: Vec<Slot>,
    weight_decay: f32,
    steps: i32,
}

struct Slot {
    var: Var,
    values: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    /// The latest values count most: calmer than any single step's.
    average: Vec<f32>,
}

impl Optimizer {
    pub fn new(vars: Vec<Var>, weight_decay: f64) -> Result<Self> {
        let slot = |var: Var| {
            let values = with_numbers(&var, <[f32]>::to_vec)?;
            let zeros = vec![0.0; values.len()];
            Ok(Slot { var, first_moment: zeros.clone(), second_moment: zeros, average: values.clone(), values })
        };
        let vars = vars.into_iter().map(slot).collect::<Result<_>>()?;
        Ok(Optimizer { vars, weight_decay: weight_decay as f32, steps: 0 })
    }

    pub fn step(&mut self, gradients: &GradStore, rate: f64) -> Result<()> {
        self.steps += 1;
        let rate = rate as f32;
        let (scale_1, scale_2) = (1.0 / (1.0 - BETA_1.powi(self.steps)), 1.0 / (1.0 - BETA_2.powi(self.steps)));
        let decay = 1.0 - rate * self.weight_decay;
        // In the beginning short, so that the first weights are soon forgotten.
        let steps = self.steps as f32;
        let kept = if self.steps == 1 { 0.0 } else { (steps / (steps + 10.0)).min(1.0 - 1.0 / AVERAGE_STEPS) };
        for Slot { var, values, first_moment, second_moment, average } in &mut self.vars {
            let Some(gradient) = gradients.get(var) else { continue };
            with_numbers(gradient, |gradient| {
                for (i, g) in gradient.iter().enumerate() {
                    first_moment[i] = BETA_1 * first_moment[i] + (1.0 - BETA_1) * g;
                    second_moment[i] = BETA_2 * second_moment[i] + (1.0 - BETA_2) * g * g;
                    let step = first_moment[i] * scale_1 / ((second_moment[i] * scale_2).sqrt() + EPSILON);
                    values[i] = values[i] * decay - rate * step;
                    average[i] = kept * average[i] + (1.0 - kept) * values[i];
                }
            })?;
            var.set(&Tensor::from_slice(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    /// The averaged weights of all variables, in order.
    pub fn average(&self) -> Vec<f32> {
        self.vars.iter().flat_map(|slot| &slot.average).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::optim::{AdamW, Optimizer as _, ParamsAdamW};

    use super::*;

    #[test]
    fn steps_are_those_of_candles_own() {
        let start: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin()).collect();
        let var = || Var::from_slice(&start, start.len(), &Device::Cpu).unwrap();
        let (ours, theirs) = (var(), var());
        let mut optimizer = Optimizer::new(vec![ours.clone()], 0.1).unwrap();
        let params = ParamsAdamW { lr: 0.05, weight_decay: 0.1, ..ParamsAdamW::default() };
        let mut candle = AdamW::new(vec![theirs.clone()], params).unwrap();
        let loss = |var: &Var| (var.as_tensor() - 0.3).unwrap().sqr().unwrap().sum_all().unwrap();
        let mut path = Vec::new();
        for _ in 0..30 {
            optimizer.step(&loss(&ours).backward().unwrap(), 0.05).unwrap();
            candle.backward_step(&loss(&theirs)).unwrap();
            path.push(ours.to_vec1::<f32>().unwrap());
        }
        for (a, b) in path[29].iter().zip(theirs.to_vec1::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
        for (i, average) in optimizer.average().iter().enumerate() {
            let of_path = path.iter().map(|values| values[i]);
            assert!(of_path.clone().any(|v| v <= *average) && of_path.clone().any(|v| v >= *average));
        }
    }
}
