//! The network in candle, where it learns.

mod gradient;
mod layer;

use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::forward::{Bins, Layer};
pub(crate) use layer::with as with_numbers;
use layer::{Adapted, First, Own, Rows, Shared, Sizes};

/// The network while it learns. Variables lie in a vector in layer order: their order decides the order of additions,
/// and with it every bit of the result.
pub struct Mlp {
    sizes: Arc<Sizes>,
    /// Two per layer: weights with the inputs' factors, and the outputs' factors with biases.
    vars: Vec<Var>,
}

/// Numbers of one layer's variables.
#[derive(Clone, Copy)]
struct Counts {
    weight: usize,
    adapter: usize,
    scale: usize,
    bias: usize,
}

impl Sizes {
    fn last(&self) -> usize {
        self.layers.len() - 2
    }

    fn is_own(&self, layer: usize) -> bool {
        layer > 0 && layer == self.last()
    }

    fn counts(&self, layer: usize) -> Counts {
        let (inputs, outputs, members) = (self.layers[layer], self.layers[layer + 1], self.members);
        let bins = if layer == 0 { self.bins.count() } else { 0 };
        let factors = if members == 1 || self.is_own(layer) { 0 } else { members };
        let copies = if self.is_own(layer) { members } else { 1 };
        Counts {
            weight: (inputs + bins) * outputs * copies,
            adapter: inputs * factors,
            scale: outputs * factors,
            bias: outputs * members,
        }
    }
}

impl Mlp {
    /// `layers`: inputs, hidden layers, outputs. Weights are drawn uniformly after He; candle's own generator can't be
    /// seeded on the CPU. Bends begin at zero: the network begins as one without bins. Members begin by listening to the
    /// first layer's inputs with random signs, and alike in all else but the biases.
    pub fn new(layers: &[usize], bins: Bins, members: usize, rng: &mut ChaCha8Rng) -> Result<Self> {
        let sizes = Arc::new(Sizes { bins, members, layers: layers.to_vec() });
        let mut vars = Vec::new();
        for layer in 0..=sizes.last() {
            let (inputs, counts) = (layers[layer], sizes.counts(layer));
            let bound = (6.0 / inputs as f32).sqrt();
            let drawn = counts.weight - if layer == 0 { sizes.bins.count() * layers[1] } else { 0 };
            let mut product: Vec<f32> = (0..drawn).map(|_| rng.random_range(-bound..bound)).collect();
            product.resize(counts.weight, 0.0);
            product.extend((0..counts.adapter).map(|_| if layer == 0 && rng.random() { -1.0 } else { 1.0f32 }));
            let mut adapted = vec![1.0f32; counts.scale];
            let bound = if members == 1 { 0.0 } else { 1.0 / (inputs as f32).sqrt() };
            adapted.extend((0..counts.bias).map(|_| bound * rng.random_range(-1.0..1.0f32)));
            for values in [product, adapted] {
                let len = values.len();
                vars.push(Var::from_vec(values, len, &Device::Cpu)?);
            }
        }
        Ok(Mlp { sizes, vars })
    }

    pub fn vars(&self) -> Vec<Var> {
        self.vars.clone()
    }

    /// Encoded rows, one after the other, to one logit per row, member and head: a matrix with `members` rows for each.
    /// With `dropout` a share of the hidden units is silenced at random and the others are raised to make up.
    pub fn logits(&self, rows: Vec<f32>, mut dropout: Option<(f32, &mut ChaCha8Rng)>) -> Result<Tensor> {
        let sizes = &self.sizes;
        let mut places = Vec::with_capacity(rows.len());
        rows.chunks_exact(sizes.layers[0]).for_each(|row| sizes.bins.place(row, &mut places));
        let rows = Arc::new(Rows { x: rows, places });
        let first = First { sizes: sizes.clone(), rows };
        let mut x = self.vars[0].apply_op1_arc(Arc::new(Box::new(first)))?;
        for (layer, pair) in self.vars.chunks_exact(2).enumerate() {
            let (inputs, outputs, members) = (sizes.layers[layer], sizes.layers[layer + 1], sizes.members);
            if sizes.is_own(layer) {
                x = x.apply_op2(&pair[0], Own { members, inputs, outputs })?;
            } else if layer > 0 {
                x = x.apply_op2(&pair[0], Shared { inputs, outputs })?;
            }
            let rectify = layer < sizes.last();
            let mask = match &mut dropout {
                Some((share, rng)) if rectify && *share > 0.0 => Some(mask(x.elem_count(), *share, rng)),
                _ => None,
            };
            let scaled = sizes.counts(layer).scale > 0;
            x = x.apply_op2(&pair[1], Adapted { members, outputs, scaled, rectify, mask })?;
        }
        Ok(x)
    }

    /// All weights as they are now, in the order of the variables.
    pub fn values(&self) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.vars.iter().try_for_each(|var| with_numbers(var, |own| values.extend_from_slice(own)))?;
        Ok(values)
    }

    /// The layers that `values`, in the order of [`Mlp::values`], make.
    pub fn layers(&self, values: &[f32]) -> Vec<Layer> {
        let mut rest = values;
        let mut take = |n: usize| {
            let (own, after) = rest.split_at(n);
            rest = after;
            own.to_vec()
        };
        let layer = |layer: usize| {
            let Counts { weight, adapter, scale, bias } = self.sizes.counts(layer);
            let (inputs, outputs) = (self.sizes.layers[layer], self.sizes.layers[layer + 1]);
            Layer {
                inputs,
                outputs,
                weight: take(weight),
                adapter: take(adapter),
                scale: take(scale),
                bias: take(bias),
            }
        };
        (0..=self.sizes.last()).map(layer).collect()
    }

    pub fn bins(&self) -> &Bins {
        &self.sizes.bins
    }

    pub fn members(&self) -> usize {
        self.sizes.members
    }
}

/// One random byte per unit: a share of more digits than that is not meant.
fn mask(units: usize, share: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut bytes = vec![0u8; units];
    rng.fill(&mut bytes[..]);
    let silent = (share * 256.0).round().min(255.0);
    let kept = 256.0 / (256.0 - silent);
    bytes.into_iter().map(|byte| if f32::from(byte) < silent { 0.0 } else { kept }).collect()
}

/// Mean over the rows of the weighted binary cross entropy of all heads, on logits: `max(z, 0) - z*y + ln(1 + e^-|z|)`.
/// The plain form takes the logarithm of a rounded zero as soon as the network is sure.
pub fn loss(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let softplus = ((logits.abs()?.neg()?.exp()? + 1.0)?).log()?;
    let per_head = ((logits.relu()? - (logits * targets)?)? + softplus)?;
    (per_head * weights)?.sum(D::Minus1)?.mean_all()
}

/// Mean over the rows of Huber's loss: squared up to one, and from there on a line, so that no single row rules.
pub fn huber(outputs: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let error = (outputs - targets)?.abs()?;
    let near = error.minimum(1.0)?;
    // Half the square where it is near, and a slope of one beyond: n * (e - n / 2).
    ((&near * (error - (&near * 0.5)?)?)? * weights)?.sum(D::Minus1)?.mean_all()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use rand::SeedableRng;

    use super::*;
    use crate::forward::Network;

    const INPUTS: usize = 21;
    const ROWS: usize = 37;

    fn rows(n: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        (0..n * width).map(|_| rng.random_range(-3.0..3.0)).collect()
    }

    /// Bins for every second input.
    fn bins() -> Bins {
        let edges = |i: usize| if i.is_multiple_of(2) { vec![-2.0, -0.5, 0.1, 1.5] } else { vec![] };
        Bins::new((0..INPUTS).map(edges).collect()).unwrap()
    }

    /// Networks of every kind, with weights that are all in use.
    fn networks(rng: &mut ChaCha8Rng) -> Vec<Mlp> {
        let none = || Bins::none(INPUTS);
        let shapes: [(Bins, usize, &[usize]); 7] = [
            (none(), 1, &[INPUTS, 40, 16, 3]),
            (none(), 1, &[INPUTS, 64, 32, 1]),
            (none(), 8, &[INPUTS, 32, 3]),
            (bins(), 1, &[INPUTS, 20, 5, 2]),
            (bins(), 8, &[INPUTS, 37, 18, 3]),
            (bins(), 3, &[INPUTS, 16, 16, 1]),
            (bins(), 2, &[INPUTS, 4]),
        ];
        let shapes = shapes.into_iter().map(|(bins, members, layers)| Mlp::new(layers, bins, members, rng).unwrap());
        let networks: Vec<Mlp> = shapes.collect();
        for var in networks.iter().flat_map(Mlp::vars) {
            let moved: Vec<f32> =
                var.to_vec1::<f32>().unwrap().iter().map(|v| v + rng.random_range(-0.2..0.2)).collect();
            var.set(&Tensor::from_slice(&moved, moved.len(), &Device::Cpu).unwrap()).unwrap();
        }
        networks
    }

    /// The same network in candle's own operations, with every bin of every number spelt out.
    fn reference(mlp: &Mlp, rows: &[f32], precision: DType) -> Tensor {
        let sizes = &mlp.sizes;
        let (n, members, bins) = (rows.len() / INPUTS, sizes.members, sizes.bins.count());
        let mut spelt = Vec::new();
        for row in rows.chunks_exact(INPUTS) {
            let passed = |value: f32, own: &[f32]| -> Vec<f64> {
                let last = own.len().saturating_sub(2);
                let edge = |at: usize| f64::from(own[at]);
                let share = |bin: usize| (f64::from(value) - edge(bin)) / (edge(bin + 1) - edge(bin));
                let low = |bin: usize, s: f64| if bin == 0 { s } else { s.max(0.0) };
                let high = |bin: usize, s: f64| if bin == last { s } else { s.min(1.0) };
                (0..own.len().saturating_sub(1)).map(|bin| high(bin, low(bin, share(bin)))).collect()
            };
            spelt.push((
                row.iter().map(|v| f64::from(*v)).collect(),
                row.iter().enumerate().flat_map(|(i, v)| passed(*v, sizes.bins.edges(i))).collect(),
            ));
        }
        let owner: Vec<u32> =
            (0..INPUTS).flat_map(|i| vec![i as u32; sizes.bins.edges(i).len().saturating_sub(1)]).collect();
        let wide: Vec<f64> = spelt.into_iter().flat_map(|(x, bins): (Vec<f64>, Vec<f64>)| [x, bins].concat()).collect();
        let mut x = Tensor::from_vec(wide, (n, 1, INPUTS + bins), &Device::Cpu).unwrap().to_dtype(precision).unwrap();
        for (layer, pair) in mlp.vars.chunks_exact(2).enumerate() {
            let counts = sizes.counts(layer);
            let (inputs, outputs) = (sizes.layers[layer], sizes.layers[layer + 1]);
            let part = |var: &Var, at: usize, len: usize| var.narrow(0, at, len).unwrap().to_dtype(precision).unwrap();
            let weight = part(&pair[0], 0, counts.weight);
            if sizes.is_own(layer) {
                let weight = weight.reshape((members, outputs, inputs)).unwrap().transpose(1, 2).unwrap();
                x = x.transpose(0, 1).unwrap().contiguous().unwrap().matmul(&weight.contiguous().unwrap()).unwrap();
                x = x.transpose(0, 1).unwrap();
            } else {
                let wide = counts.weight / outputs;
                if counts.adapter > 0 {
                    let mut adapter = part(&pair[0], counts.weight, counts.adapter);
                    if layer == 0 {
                        adapter = adapter.reshape((inputs, members)).unwrap().t().unwrap();
                        let index = Tensor::from_slice(&owner, owner.len(), &Device::Cpu).unwrap();
                        let of_bins = adapter.contiguous().unwrap().index_select(&index, 1).unwrap();
                        adapter = Tensor::cat(&[adapter.contiguous().unwrap(), of_bins], 1).unwrap();
                    }
                    x = x.broadcast_mul(&adapter.reshape((1, members, wide)).unwrap()).unwrap();
                }
                let m = x.dim(1).unwrap();
                let flat = x.reshape((n * m, wide)).unwrap();
                x = flat.matmul(&weight.reshape((wide, outputs)).unwrap()).unwrap().reshape((n, m, outputs)).unwrap();
                if counts.scale > 0 {
                    let scale = part(&pair[1], 0, counts.scale).reshape((1, members, outputs)).unwrap();
                    x = x.broadcast_mul(&scale).unwrap();
                }
            }
            let bias = part(&pair[1], counts.scale, counts.bias).reshape((1, members, outputs)).unwrap();
            x = x.broadcast_add(&bias).unwrap();
            if layer < sizes.last() {
                x = x.relu().unwrap();
            }
        }
        x.reshape((n * members, sizes.layers[sizes.layers.len() - 1])).unwrap()
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The largest differences, of numbers beyond one in parts of them. Both sides round, each in an order of its own: of a
    /// plain network they agree to 1e-6, though both may be twice as far from what is true.
    #[test]
    fn plain_rust_and_candle_give_the_same_logits() {
        const PLAIN: f64 = 1e-6;
        const ENCODED_OR_ENSEMBLE: f64 = 5e-6;
        const TRUE: f64 = 3e-6;
        let off = |a: f32, b: f64| (f64::from(a) - b).abs() / b.abs().max(1.0);
        for seed in 0..25 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for mlp in networks(&mut rng) {
                let rows = rows(ROWS, INPUTS, &mut rng);
                let network =
                    Network::ensemble(mlp.bins().clone(), mlp.members(), mlp.layers(&mlp.values().unwrap())).unwrap();
                let learning = flat(&mlp.logits(rows.clone(), None).unwrap());
                assert_eq!(learning, network.member_logits(&rows), "what learns is what scores");
                let is_plain = mlp.members() == 1 && mlp.bins().count() == 0;
                let bound = if is_plain { PLAIN } else { ENCODED_OR_ENSEMBLE };
                let candle = flat(&reference(&mlp, &rows, DType::F32));
                let exact: Vec<f64> = reference(&mlp, &rows, DType::F64).flatten_all().unwrap().to_vec1().unwrap();
                for ((ours, candle), exact) in learning.iter().zip(candle).zip(exact) {
                    let what = format!("seed {seed}, {:?}: {ours}, candle {candle}, {exact}", mlp.sizes);
                    assert!(off(*ours, f64::from(candle)) <= bound, "{what}");
                    assert!(off(*ours, exact) <= TRUE, "{what}");
                }
            }
        }
    }

    #[test]
    fn gradients_are_those_of_candles_own_operations() {
        let seed = 3;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for mlp in networks(&mut rng) {
            let rows = rows(ROWS, INPUTS, &mut rng);
            let outputs = mlp.logits(rows.clone(), None).unwrap();
            let numbers = |low: f32, rng: &mut ChaCha8Rng| {
                let values = (0..outputs.elem_count()).map(|_| rng.random_range(low..1.0)).collect();
                Tensor::from_vec(values, outputs.shape(), &Device::Cpu).unwrap()
            };
            let (targets, weights) = (numbers(0.0, &mut rng), numbers(0.1, &mut rng));
            let ours = loss(&outputs, &targets, &weights).unwrap().backward().unwrap();
            let theirs = loss(&reference(&mlp, &rows, DType::F32), &targets, &weights).unwrap().backward().unwrap();
            for (i, var) in mlp.vars.iter().enumerate() {
                let (ours, theirs) = (flat(ours.get(var).unwrap()), flat(theirs.get(var).unwrap()));
                let largest = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                assert!(largest > 0.0);
                for (a, b) in ours.iter().zip(&theirs) {
                    assert!((a - b).abs() <= 1e-4 * largest, "seed {seed}, {:?}, variable {i}: {a} and {b}", mlp.sizes);
                }
            }
        }
    }

    #[test]
    fn a_row_scores_the_same_whoever_stands_beside_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(12);
        for mlp in networks(&mut rng) {
            let network =
                Network::ensemble(mlp.bins().clone(), mlp.members(), mlp.layers(&mlp.values().unwrap())).unwrap();
            let rows = rows(70, INPUTS, &mut rng);
            let alone: Vec<f32> = rows.chunks_exact(INPUTS).flat_map(|row| network.member_logits(row)).collect();
            assert_eq!(network.member_logits(&rows), alone);
        }
    }

    #[test]
    fn silenced_units_are_a_share_and_the_others_make_up_for_them() {
        let mask = mask(100_000, 0.3, &mut ChaCha8Rng::seed_from_u64(2));
        let silent = mask.iter().filter(|m| **m == 0.0).count();
        assert!((29_000..31_000).contains(&silent), "{silent}");
        assert!((mask.iter().sum::<f32>() / 1e5 - 1.0).abs() < 0.02);
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
        let far =
            |z: f32, y: f32| huber(&tensor(&[z]), &tensor(&[y]), &tensor(&[1.0])).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!((far(0.5, 0.0), far(0.0, 3.0)), (0.125, 2.5));
    }
}
