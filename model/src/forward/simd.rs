//! Loops over weights, on as many numbers side by side as this CPU can: which, is found out as it runs (`pulp`).
//!
//! Every number of a result is summed in the same order, however many are worked on side by side; only [`dot`] adds up as many
//! sums as there are lanes. Where multiply and add are one instruction they round once instead of twice. So two CPUs may differ in
//! the last bits, and one CPU never does.
//!
//! Lanes are spelt out. Left to the compiler, loops over a constant number of them were taken apart before it looked for
//! something to do side by side, and it found the rows: a release build scored six times slower than a debug one.

pub use pulp::{Simd, WithSimd};

/// Members that share one look at an input's curve.
pub const TILE_ROWS: usize = 8;
/// Rows that share one load of a weight, and chunks of them that share one of a number: of eight sums under way each waits for itself
/// alone, and there are fewer loads than sums.
const PRODUCT_ROWS: usize = 4;
const PRODUCT_CHUNKS: usize = 2;
/// Chunks of a row by itself.
const SINGLE_CHUNKS: usize = 8;
/// Numbers that are worked on side by side, on any CPU at most.
pub const LANES_MAX: usize = 16;

/// Runs the kernel with the widest instructions at hand. What it calls must be inlined, or is compiled for the oldest CPU.
pub fn run<K: WithSimd<Output = ()>>(kernel: K) {
    #[cfg(test)]
    if OLD_CPU.get() {
        return kernel.with_simd(pulp::Scalar::new());
    }
    pulp::Arch::new().dispatch(kernel);
}

#[cfg(test)]
thread_local! {
    /// As on a CPU that works on one number at a time.
    pub static OLD_CPU: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Into so many chunks a row falls, the last of which may be shorter.
#[inline(always)]
pub fn chunks<S: Simd>(row: usize) -> usize {
    row.div_ceil(S::F32_LANES)
}

/// Zeros behind the end of the row.
#[inline(always)]
pub fn load<S: Simd>(simd: S, row: &[f32], chunk: usize) -> S::f32s {
    let (whole, rest) = S::as_simd_f32s(row);
    if chunk < whole.len() { whole[chunk] } else { simd.partial_load_f32s(rest) }
}

/// [`load`] of one of `rows` of `width` numbers, without asking where all chunks are whole.
#[inline(always)]
pub fn load_of<S: Simd>(simd: S, rows: &[f32], width: usize, row: usize, chunk: usize) -> S::f32s {
    if width.is_multiple_of(S::F32_LANES) {
        S::as_simd_f32s(rows).0[row * (width / S::F32_LANES) + chunk]
    } else {
        load(simd, &rows[row * width..][..width], chunk)
    }
}

#[inline(always)]
pub fn store<S: Simd>(simd: S, row: &mut [f32], chunk: usize, values: S::f32s) {
    let (whole, rest) = S::as_mut_simd_f32s(row);
    if chunk < whole.len() { whole[chunk] = values } else { simd.partial_store_f32s(rest, values) }
}

/// `sum + a * b`
#[inline(always)]
pub fn add_scaled<S: Simd>(simd: S, sum: S::f32s, a: f32, b: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(a), b, sum)
}

#[inline(always)]
pub fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sums = simd.splat_f32s(0.0);
    for chunk in 0..chunks::<S>(a.len()) {
        sums = simd.mul_add_e_f32s(load(simd, a, chunk), load(simd, b, chunk), sums);
    }
    simd.reduce_sum_f32s(sums)
}

/// `y = x W`, row by row: `weight` is `inputs` rows of `outputs`, and row `i` of `x` is first multiplied by row
/// `i % members` of `adapter`, unless that is empty. An output is the sum over the inputs in their order, whatever the
/// rows beside it.
pub struct Product<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub adapter: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
    pub y: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { x, weight, adapter, inputs, outputs, y } = self;
        let members = (adapter.len() / inputs).max(1);
        let rows = x.len() / inputs;
        let whole = rows / PRODUCT_ROWS * PRODUCT_ROWS;
        let mut tile = vec![[0.0f32; PRODUCT_ROWS]; if whole > 0 { inputs } else { 0 }];
        for first in (0..whole).step_by(PRODUCT_ROWS) {
            for place in 0..PRODUCT_ROWS {
                let row = &x[(first + place) * inputs..][..inputs];
                if adapter.is_empty() {
                    for (tile, x) in tile.iter_mut().zip(row) {
                        tile[place] = *x;
                    }
                } else {
                    let adapter = &adapter[(first + place) % members * inputs..][..inputs];
                    for (tile, (x, r)) in tile.iter_mut().zip(row.iter().zip(adapter)) {
                        tile[place] = x * r;
                    }
                }
            }
            tile_product::<S, PRODUCT_ROWS, PRODUCT_CHUNKS>(simd, &tile, weight, outputs, &mut y[first * outputs..]);
        }
        let mut adapted = vec![0.0; if adapter.is_empty() { 0 } else { inputs }];
        for row in whole..rows {
            let mut x = &x[row * inputs..][..inputs];
            if !adapter.is_empty() {
                let adapter = &adapter[row % members * inputs..][..inputs];
                adapted.iter_mut().zip(x.iter().zip(adapter)).for_each(|(to, (x, r))| *to = x * r);
                x = &adapted;
            }
            let single = x.as_chunks::<1>().0;
            tile_product::<S, 1, SINGLE_CHUNKS>(simd, single, weight, outputs, &mut y[row * outputs..]);
        }
    }
}

/// Rows share the load of a weight, and where there is only one, chunks share the load of its numbers: so many sums are
/// under way at a time, since each addition waits for the one before it.
#[inline(always)]
fn tile_product<S: Simd, const ROWS: usize, const CHUNKS: usize>(
    simd: S,
    tile: &[[f32; ROWS]],
    weight: &[f32],
    outputs: usize,
    y: &mut [f32],
) {
    let all = chunks::<S>(outputs);
    let whole = all / CHUNKS * CHUNKS;
    for first in (0..whole).step_by(CHUNKS) {
        sums::<S, ROWS, CHUNKS>(simd, tile, weight, outputs, first, y);
    }
    for first in whole..all {
        sums::<S, ROWS, 1>(simd, tile, weight, outputs, first, y);
    }
}

#[inline(always)]
fn add_rows<S: Simd, const ROWS: usize>(simd: S, sums: &mut [S::f32s; ROWS], x: &[f32; ROWS], weight: S::f32s) {
    for row in 0..ROWS {
        sums[row] = add_scaled(simd, sums[row], x[row], weight);
    }
}

#[inline(always)]
fn sums<S: Simd, const ROWS: usize, const CHUNKS: usize>(
    simd: S,
    tile: &[[f32; ROWS]],
    weight: &[f32],
    outputs: usize,
    first: usize,
    y: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); ROWS]; CHUNKS];
    if outputs.is_multiple_of(S::F32_LANES) {
        // All chunks are whole, so nothing has to be asked of each.
        let weights = S::as_simd_f32s(weight).0;
        for (x, weights) in tile.iter().zip(weights.chunks_exact(outputs / S::F32_LANES)) {
            let weights = &weights[first..first + CHUNKS];
            for chunk in 0..CHUNKS {
                add_rows::<S, ROWS>(simd, &mut sums[chunk], x, weights[chunk]);
            }
        }
    } else {
        for (x, weights) in tile.iter().zip(weight.chunks_exact(outputs)) {
            for (chunk, sums) in sums.iter_mut().enumerate() {
                add_rows::<S, ROWS>(simd, sums, x, load(simd, weights, first + chunk));
            }
        }
    }
    for (chunk, sums) in sums.into_iter().enumerate() {
        for (row, sums) in sums.into_iter().enumerate() {
            store(simd, &mut y[row * outputs..][..outputs], first + chunk, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn numbers(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn products_are_those_of_the_plain_loop_and_a_row_does_not_depend_on_its_neighbours() {
        let seed = 5;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (rows, inputs, outputs, members) in [(19, 5, 37, 1), (24, 33, 16, 3), (1, 7, 3, 1), (8, 4, 64, 8)] {
            let (x, weight) = (numbers(rows * inputs, &mut rng), numbers(inputs * outputs, &mut rng));
            let adapter = if members > 1 { numbers(members * inputs, &mut rng) } else { vec![] };
            let mut y = vec![0.0; rows * outputs];
            run(Product { x: &x, weight: &weight, adapter: &adapter, inputs, outputs, y: &mut y });
            for row in 0..rows {
                let scale = |i: usize| adapter.get(row % members * inputs + i).copied().unwrap_or(1.0);
                for o in 0..outputs {
                    let sum: f32 = (0..inputs).map(|i| x[row * inputs + i] * scale(i) * weight[i * outputs + o]).sum();
                    assert!((sum - y[row * outputs + o]).abs() < 1e-5, "seed {seed}, row {row}, output {o}");
                }
            }
            if members == 1 {
                let mut alone = vec![0.0; outputs];
                let last = &x[(rows - 1) * inputs..];
                run(Product { x: last, weight: &weight, adapter: &[], inputs, outputs, y: &mut alone });
                assert_eq!(alone, y[(rows - 1) * outputs..]);
            }
        }
    }

    #[test]
    fn a_dot_product_takes_every_number() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        struct Dot<'a>(&'a [f32], &'a mut f32);
        impl WithSimd for Dot<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                *self.1 = dot(simd, self.0, self.0);
            }
        }
        let mut sum = 0.0;
        run(Dot(&a, &mut sum));
        assert_eq!(sum, (0..37).map(|i| (i * i) as f32).sum::<f32>());
    }
}
