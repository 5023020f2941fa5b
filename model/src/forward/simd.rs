//! Loops over weights, compiled for several instruction sets; the widest one that this CPU has is chosen as it runs.
//!
//! All of them add in the same order. Where multiply and add are one instruction they round once instead of twice, so
//! that two CPUs may differ in the last bits, and one CPU never does.

/// Numbers that are worked on side by side.
pub const LANES: usize = 16;
/// Rows that share one load of a weight.
pub const TILE_ROWS: usize = 8;

/// Work on slices. `run` must be inlined, or it is compiled for the oldest CPU.
pub trait Kernel {
    fn run<const FUSED: bool>(self);
}

/// Runs the kernel with the widest instructions at hand.
pub fn run<K: Kernel>(kernel: K) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has just said that it has these instructions.
            return unsafe { x86::wide(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { x86::fused(kernel) };
        }
    }
    // Every 64-bit ARM has the fused instruction; elsewhere it would be a call per number.
    if cfg!(target_arch = "aarch64") { kernel.run::<true>() } else { kernel.run::<false>() }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Kernel;

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub fn wide<K: Kernel>(kernel: K) {
        kernel.run::<true>();
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn fused<K: Kernel>(kernel: K) {
        kernel.run::<true>();
    }
}

/// `a * b + c`
#[inline(always)]
pub fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Every number of `sum` grows by `a` times its neighbour in `b`.
#[inline(always)]
pub fn add_scaled<const FUSED: bool, const N: usize>(sum: &mut [f32; N], a: f32, b: &[f32; N]) {
    for lane in 0..N {
        sum[lane] = mul_add::<FUSED>(a, b[lane], sum[lane]);
    }
}

/// The lanes added in a tree: the same order on every CPU.
#[inline(always)]
pub fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] = mul_add::<FUSED>(a[lane], b[lane], lanes[lane]);
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest = mul_add::<FUSED>(*a, *b, rest);
    }
    total(lanes) + rest
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

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Product { x, weight, adapter, inputs, outputs, y } = self;
        let members = (adapter.len() / inputs).max(1);
        let rows = x.len() / inputs;
        let whole = rows / TILE_ROWS * TILE_ROWS;
        let mut tile = vec![[0.0f32; TILE_ROWS]; inputs];
        for first in (0..whole).step_by(TILE_ROWS) {
            for place in 0..TILE_ROWS {
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
            tile_product::<FUSED, TILE_ROWS>(&tile, weight, outputs, &mut y[first * outputs..]);
        }
        let mut single = vec![[0.0f32; 1]; inputs];
        for row in whole..rows {
            let x = &x[row * inputs..][..inputs];
            let adapter = if adapter.is_empty() { adapter } else { &adapter[row % members * inputs..][..inputs] };
            for (i, (to, x)) in single.iter_mut().zip(x).enumerate() {
                to[0] = adapter.get(i).map_or(*x, |r| x * r);
            }
            tile_product::<FUSED, 1>(&single, weight, outputs, &mut y[row * outputs..]);
        }
    }
}

#[inline(always)]
fn tile_product<const FUSED: bool, const ROWS: usize>(
    tile: &[[f32; ROWS]],
    weight: &[f32],
    outputs: usize,
    y: &mut [f32],
) {
    let chunks = outputs / LANES;
    for chunk in 0..chunks {
        let mut sums = [[0.0f32; LANES]; ROWS];
        for (x, weight) in tile.iter().zip(weight.chunks_exact(outputs)) {
            let weight = &weight.as_chunks::<LANES>().0[chunk];
            for row in 0..ROWS {
                add_scaled::<FUSED, LANES>(&mut sums[row], x[row], weight);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            y[row * outputs + chunk * LANES..][..LANES].copy_from_slice(sums);
        }
    }
    for output in chunks * LANES..outputs {
        let mut sums = [0.0f32; ROWS];
        for (x, weight) in tile.iter().zip(weight.chunks_exact(outputs)) {
            add_scaled::<FUSED, ROWS>(&mut sums, weight[output], x);
        }
        for (row, sum) in sums.iter().enumerate() {
            y[row * outputs + output] = *sum;
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
        impl Kernel for Dot<'_> {
            #[inline(always)]
            fn run<const FUSED: bool>(self) {
                *self.1 = dot::<FUSED>(self.0, self.0);
            }
        }
        let mut sum = 0.0;
        run(Dot(&a, &mut sum));
        assert_eq!(sum, (0..37).map(|i| (i * i) as f32).sum::<f32>());
    }
}
