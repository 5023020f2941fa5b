//! The network in candle: trained here, and run over blocks of rows when many windows close at once.

use candle_core::{D, Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::forward::{Dense, Network};

/// Rows are scored in blocks of exactly this many, the last one padded. One size has two uses: a block's products stay
/// below the size from which candle hands work to other threads (a handover costs more than the block), and a row's
/// score can't depend on how many others closed with it, so that a replay gives the same bits.
pub const BLOCK_ROWS: usize = 32;

/// A trained network, ready for blocks of rows.
#[derive(Debug)]
pub struct BlockForward {
    /// Weight (transposed) and bias per layer.
    layers: Vec<(Tensor, Tensor)>,
    inputs: usize,
}

impl BlockForward {
    pub fn new(network: &Network) -> Result<Self> {
        let layers = network.layers().iter().map(|layer| {
            let weight = Tensor::from_slice(&layer.weight, (layer.outputs, layer.inputs), &Device::Cpu)?;
            let bias = Tensor::from_slice(&layer.bias, layer.outputs, &Device::Cpu)?;
            Ok((weight.t()?.contiguous()?, bias))
        });
        Ok(BlockForward { layers: layers.collect::<Result<_>>()?, inputs: network.inputs() })
    }

    /// One row of logits per encoded row.
    pub fn logits(&self, rows: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let mut logits = Vec::with_capacity(rows.len());
        for block in rows.chunks(BLOCK_ROWS) {
            let mut flat = block.concat();
            flat.resize(BLOCK_ROWS * self.inputs, 0.0);
            let out = forward(&self.layers, Tensor::from_vec(flat, (BLOCK_ROWS, self.inputs), &Device::Cpu)?)?;
            logits.extend(out.to_vec2::<f32>()?.into_iter().take(block.len()));
        }
        Ok(logits)
    }
}

/// The network while it learns. Variables lie in a vector in layer order: their order decides the order of additions,
/// and with it every bit of the result.
pub struct Mlp {
    vars: Vec<Var>,
}

impl Mlp {
    /// `sizes`: inputs, hidden layers, outputs. Weights are drawn uniformly after He; candle's own generator can't be
    /// seeded on the CPU.
    pub fn new(sizes: &[usize], rng: &mut ChaCha8Rng) -> Result<Self> {
        let mut vars = Vec::new();
        for pair in sizes.windows(2) {
            let (inputs, outputs) = (pair[0], pair[1]);
            let bound = (6.0 / inputs as f32).sqrt();
            let weight: Vec<f32> = (0..inputs * outputs).map(|_| rng.random_range(-bound..bound)).collect();
            vars.push(Var::from_vec(weight, (inputs, outputs), &Device::Cpu)?);
            vars.push(Var::zeros(outputs, candle_core::DType::F32, &Device::Cpu)?);
        }
        Ok(Mlp { vars })
    }

    pub fn vars(&self) -> Vec<Var> {
        self.vars.clone()
    }

    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let layers: Vec<_> = (self.vars.chunks_exact(2))
            .map(|pair| (pair[0].as_tensor().clone(), pair[1].as_tensor().clone()))
            .collect();
        forward(&layers, rows.clone())
    }

    /// As [`Mlp::logits`], with a share of the hidden units silenced at random and the others raised to make up.
    pub fn logits_with_dropout(&self, rows: &Tensor, share: f32, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let last = self.vars.len() / 2 - 1;
        self.vars.chunks_exact(2).enumerate().try_fold(rows.clone(), |x, (i, pair)| {
            let y = x.matmul(&pair[0])?.broadcast_add(&pair[1])?;
            if i == last {
                return Ok(y);
            }
            let kept = 1.0 / (1.0 - share);
            let mask: Vec<f32> =
                (0..y.elem_count()).map(|_| if rng.random::<f32>() < share { 0.0 } else { kept }).collect();
            y.relu()? * Tensor::from_vec(mask, y.shape(), &Device::Cpu)?
        })
    }

    /// The weights as they are now.
    pub fn layers(&self) -> Result<Vec<Dense>> {
        let dense = |pair: &[Var]| {
            let (inputs, outputs) = pair[0].dims2()?;
            let weight = pair[0].t()?.flatten_all()?.to_vec1()?;
            Ok(Dense { inputs, outputs, weight, bias: pair[1].to_vec1()? })
        };
        self.vars.chunks_exact(2).map(dense).collect()
    }
}

fn forward(layers: &[(Tensor, Tensor)], rows: Tensor) -> Result<Tensor> {
    let last = layers.len().saturating_sub(1);
    layers.iter().enumerate().try_fold(rows, |x, (i, (weight, bias))| {
        let y = x.matmul(weight)?.broadcast_add(bias)?;
        if i < last { y.relu() } else { Ok(y) }
    })
}

/// Mean over the rows of the weighted binary cross entropy of all heads, on logits: `max(z, 0) - z*y + ln(1 + e^-|z|)`.
/// The plain form takes the logarithm of a rounded zero as soon as the network is sure.
pub fn loss(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let softplus = ((logits.abs()?.neg()?.exp()? + 1.0)?).log()?;
    let per_head = ((logits.relu()? - (logits * targets)?)? + softplus)?;
    (per_head * weights)?.sum(D::Minus1)?.mean_all()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn rows(n: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
        (0..n).map(|_| (0..width).map(|_| rng.random_range(-3.0..3.0)).collect()).collect()
    }

    fn network(rng: &mut ChaCha8Rng) -> Network {
        Network::new(Mlp::new(&[40, 64, 32, 5], rng).unwrap().layers().unwrap()).unwrap()
    }

    #[test]
    fn candle_and_plain_rust_give_the_same_logits() {
        let seed = 11;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let network = network(&mut rng);
        let rows = rows(75, 40, &mut rng);
        for (row, candle) in rows.iter().zip(BlockForward::new(&network).unwrap().logits(&rows).unwrap()) {
            for (a, b) in network.logits(row).iter().zip(candle) {
                assert!((a - b).abs() <= 1e-6 * a.abs().max(1.0) * 8.0, "seed {seed}: {a} and {b}");
            }
        }
    }

    #[test]
    fn a_row_scores_the_same_whoever_stands_beside_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(12);
        let forward = BlockForward::new(&network(&mut rng)).unwrap();
        let rows = rows(70, 40, &mut rng);
        let together = forward.logits(&rows).unwrap();
        for (row, together) in rows.iter().zip(together) {
            assert_eq!(forward.logits(std::slice::from_ref(row)).unwrap(), vec![together]);
        }
    }

    #[test]
    fn the_loss_is_the_one_worked_out_by_hand_and_never_overflows() {
        let tensor = |v: &[f32]| Tensor::from_slice(v, (1, v.len()), &Device::Cpu).unwrap();
        let value = |z: f32, y: f32, w: f32| {
            loss(&tensor(&[z]), &tensor(&[y]), &tensor(&[w])).unwrap().to_scalar::<f32>().unwrap()
        };
        assert!((value(0.0, 1.0, 1.0) - 2f32.ln()).abs() < 1e-6);
        assert!((value(2.0, 1.0, 3.0) - 3.0 * (1.0 + (-2f32).exp()).ln()).abs() < 1e-5);
        assert_eq!(value(500.0, 0.0, 1.0), 500.0);
        assert_eq!(value(-500.0, 0.0, 1.0), 0.0);
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let seed = 3;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mlp = Mlp::new(&[3, 4, 2], &mut rng).unwrap();
        let x = Tensor::from_vec(rows(6, 3, &mut rng).concat(), (6, 3), &Device::Cpu).unwrap();
        let y = Tensor::from_vec((0..12).map(|i| (i % 3 == 0) as u8 as f32).collect(), (6, 2), &Device::Cpu).unwrap();
        let w = Tensor::from_vec((0..12).map(|i| 1.0 + i as f32 / 4.0).collect(), (6, 2), &Device::Cpu).unwrap();
        let at = || loss(&mlp.logits(&x).unwrap(), &y, &w).unwrap();
        let gradients = at().backward().unwrap();
        for var in mlp.vars() {
            let gradient = gradients.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..start.len() {
                let moved = |by: f32| {
                    let mut values = start.clone();
                    values[i] += by;
                    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    at().to_scalar::<f32>().unwrap()
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                moved(0.0);
                assert!((numeric - gradient[i]).abs() < 2e-2 + 0.05 * numeric.abs(), "seed {seed}, weight {i}");
            }
        }
    }
}
