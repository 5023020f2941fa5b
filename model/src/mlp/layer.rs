//! The network's layers as operations of candle: forwards the loops that score, backwards those of [`super::gradient`].
//!
//! Candle's own would multiply every row of every member with every bin; these know that a number lies in one bin and
//! that members share their weights. They run on one thread, so that no number of threads changes a bit.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Storage, Tensor};

use super::gradient::{CurveGradient, Outer, fold_passed, totals};
use crate::forward::{
    Adapt, Bins, OwnProduct,
    bins::Place,
    first::{CurveSum, Curves, passed},
    simd::{LANES_MAX, Product, run},
};

/// Encoded rows and where their numbers lie.
pub struct Rows {
    pub x: Vec<f32>,
    pub places: Vec<Option<Place>>,
}

/// What does not change while a network learns.
#[derive(Debug, Clone)]
pub struct Sizes {
    pub bins: Bins,
    pub members: usize,
    /// Inputs, hidden layers, outputs.
    pub layers: Vec<usize>,
}

/// First layer: its argument is line, bend and adapter, one after the other.
pub struct First {
    pub sizes: Arc<Sizes>,
    pub rows: Arc<Rows>,
}

/// Hidden layer: inputs, and weight and adapter one after the other.
pub struct Shared {
    pub inputs: usize,
    pub outputs: usize,
}

/// Last layer: inputs, and every member's weights.
pub struct Own {
    pub members: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// What comes after a product: numbers, and scale (unless there is but one member or weights are its own) and bias, one
/// after the other; then the rectifier, and `mask` times the result.
pub struct Adapted {
    pub members: usize,
    pub outputs: usize,
    pub scaled: bool,
    pub rectify: bool,
    pub mask: Option<Vec<f32>>,
}

impl First {
    /// Inputs, bins and outputs.
    fn sizes(&self) -> (usize, usize, usize) {
        (self.sizes.layers[0], self.sizes.bins.count(), self.sizes.layers[1])
    }

    fn is_plain(&self) -> bool {
        self.sizes.members == 1 && self.sizes.bins.is_empty()
    }
}

impl CustomOp1 for First {
    fn name(&self) -> &'static str {
        "first layer"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((inputs, bins, outputs), members) = (self.sizes(), self.sizes.members);
        let values = numbers(storage, layout)?;
        let (weight, adapter) = values.split_at((inputs + bins) * outputs);
        let (line, bend) = weight.split_at(inputs * outputs);
        let x = &self.rows.x;
        let rows = x.len() / inputs * members;
        let mut y = vec![0.0; rows * outputs];
        if self.is_plain() {
            run(Product { x, weight, adapter, inputs, outputs, y: &mut y });
        } else {
            let passed = passed(&self.sizes.bins, bend, outputs);
            let every: Vec<usize> = (0..inputs).collect();
            run(CurveSum {
                curves: Curves { line, bend, passed: &passed, outputs },
                adapter,
                members,
                x,
                places: &self.rows.places,
                inputs,
                chosen: &every,
                y: &mut y,
            });
        }
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let ((inputs, bins, outputs), members) = (self.sizes(), self.sizes.members);
        let mut gradient = vec![0.0; arg.elem_count()];
        let x = &self.rows.x;
        with_two(arg, grad, |values, g| {
            if self.is_plain() {
                run(Outer { x, g, inputs, outputs, sum: &mut gradient });
                return;
            }
            let (weight, adapter) = values.split_at((inputs + bins) * outputs);
            let (line, bend) = weight.split_at(inputs * outputs);
            let table = passed(&self.sizes.bins, bend, outputs);
            let (to_weight, to_adapter) = gradient.split_at_mut((inputs + bins) * outputs);
            let (to_line, to_bend) = to_weight.split_at_mut(inputs * outputs);
            let mut to_passed = vec![0.0; to_bend.len()];
            let mut adapters = vec![[0.0; LANES_MAX]; to_adapter.len()];
            run(CurveGradient {
                curves: Curves { line, bend, passed: &table, outputs },
                adapter,
                members,
                x,
                places: &self.rows.places,
                inputs,
                g,
                line: to_line,
                bend: to_bend,
                adapters: &mut adapters,
                passed: &mut to_passed,
            });
            fold_passed(&self.sizes.bins, &to_passed, outputs, to_bend);
            to_adapter.iter_mut().zip(totals(&adapters)).for_each(|(to, total)| *to = total);
        })?;
        Ok(Some(Tensor::from_vec(gradient, arg.shape(), arg.device())?))
    }
}

impl CustomOp2 for Shared {
    fn name(&self) -> &'static str {
        "hidden layer"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l1: &Layout, w: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let Shared { inputs, outputs, .. } = *self;
        let (x, values) = (numbers(x, l1)?, numbers(w, l2)?);
        let (weight, adapter) = values.split_at(inputs * outputs);
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        run(Product { x, weight, adapter, inputs, outputs, y: &mut y });
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Shared { inputs, outputs, .. } = *self;
        let (mut to_x, mut to_w) = (vec![0.0; x.elem_count()], vec![0.0; w.elem_count()]);
        with_two(x, grad, |x, g| {
            with(w, |values| {
                let (weight, adapter) = values.split_at(inputs * outputs);
                let (to_weight, to_adapter) = to_w.split_at_mut(inputs * outputs);
                let turned: Vec<f32> =
                    (0..outputs).flat_map(|o| weight[o..].iter().step_by(outputs)).copied().collect();
                let (i, o) = (inputs, outputs);
                run(Product { x: g, weight: &turned, adapter: &[], inputs: o, outputs: i, y: &mut to_x });
                if adapter.is_empty() {
                    run(Outer { x, g, inputs, outputs, sum: to_weight });
                    return;
                }
                let mut adapted = x.to_vec();
                let of_rows = adapted.chunks_exact_mut(inputs).zip(x.chunks_exact(inputs));
                for (row, ((adapted, x), to_x)) in of_rows.zip(to_x.chunks_exact_mut(inputs)).enumerate() {
                    let own = row * inputs % adapter.len();
                    let (r, to_r) = (&adapter[own..own + inputs], &mut to_adapter[own..own + inputs]);
                    for i in 0..inputs {
                        adapted[i] *= r[i];
                        to_r[i] += x[i] * to_x[i];
                        to_x[i] *= r[i];
                    }
                }
                run(Outer { x: &adapted, g, inputs, outputs, sum: to_weight });
            })
        })??;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(tensor(to_x, x)?), Some(tensor(to_w, w)?)))
    }
}

impl CustomOp2 for Own {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l1: &Layout, w: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let Own { inputs, outputs, .. } = *self;
        let (x, weight) = (numbers(x, l1)?, numbers(w, l2)?);
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        run(OwnProduct { x, weight, inputs, outputs, y: &mut y });
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Own { inputs, outputs, members } = *self;
        let (mut to_x, mut to_w) = (vec![0.0; x.elem_count()], vec![0.0; w.elem_count()]);
        with_two(x, grad, |x, g| {
            with(w, |weight| {
                let rows = x.chunks_exact(inputs).zip(to_x.chunks_exact_mut(inputs)).zip(g.chunks_exact(outputs));
                for (row, ((x, to_x), g)) in rows.enumerate() {
                    let own = row % members * inputs * outputs..(row % members + 1) * inputs * outputs;
                    let heads = weight[own.clone()].chunks_exact(inputs).zip(to_w[own].chunks_exact_mut(inputs));
                    for (g, (w, to_w)) in g.iter().zip(heads) {
                        for i in 0..inputs {
                            to_x[i] += g * w[i];
                            to_w[i] += g * x[i];
                        }
                    }
                }
            })
        })??;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(tensor(to_x, x)?), Some(tensor(to_w, w)?)))
    }
}

impl Adapted {
    fn split<'a>(&self, values: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        values.split_at(if self.scaled { self.members * self.outputs } else { 0 })
    }
}

impl CustomOp2 for Adapted {
    fn name(&self) -> &'static str {
        "scale and bias"
    }

    fn cpu_fwd(&self, y: &CpuStorage, l1: &Layout, a: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = numbers(y, l1)?.to_vec();
        let (scale, bias) = self.split(numbers(a, l2)?);
        run(Adapt { scale, bias, outputs: self.outputs, rectify: self.rectify, y: &mut y });
        if let Some(mask) = &self.mask {
            y.iter_mut().zip(mask).for_each(|(y, mask)| *y *= mask);
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, y: &Tensor, a: &Tensor, result: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut to_y, mut to_a) = (vec![0.0; y.elem_count()], vec![0.0; a.elem_count()]);
        let outputs = self.outputs;
        with_two(y, grad, |y, g| {
            with_two(a, result, |values, result| {
                let (scale, _) = self.split(values);
                to_y.copy_from_slice(g);
                if self.rectify {
                    to_y.iter_mut().zip(result).for_each(|(to, y)| *to = if *y > 0.0 { *to } else { 0.0 });
                }
                if let Some(mask) = &self.mask {
                    to_y.iter_mut().zip(mask).for_each(|(to, mask)| *to *= mask);
                }
                let (to_scale, to_bias) = to_a.split_at_mut(scale.len());
                for (row, (y, to_y)) in y.chunks_exact(outputs).zip(to_y.chunks_exact_mut(outputs)).enumerate() {
                    let own = row % self.members * outputs..(row % self.members + 1) * outputs;
                    to_bias[own.clone()].iter_mut().zip(&*to_y).for_each(|(to, g)| *to += g);
                    if self.scaled {
                        let factors = to_scale[own.clone()].iter_mut().zip(&scale[own]);
                        for ((to_scale, scale), (y, to_y)) in factors.zip(y.iter().zip(to_y)) {
                            *to_scale += y * *to_y;
                            *to_y *= scale;
                        }
                    }
                }
            })
        })??;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(tensor(to_y, y)?), Some(tensor(to_a, a)?)))
    }
}

/// All of them, in order.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "layer" })?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls with the tensor's numbers in order.
pub fn with<R>(tensor: &Tensor, call: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(call(numbers(storage, layout)?)),
        _ => candle_core::bail!("layers run on the CPU"),
    }
}

fn with_two<R>(a: &Tensor, b: &Tensor, call: impl FnOnce(&[f32], &[f32]) -> R) -> Result<R> {
    with(a, |a| with(b, |b| call(a, b)))?
}
