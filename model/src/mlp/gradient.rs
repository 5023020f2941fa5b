//! What the layers' weights and inputs have to do with a loss: the way back through the loops of [`crate::forward`].

use crate::forward::{
    Bins,
    bins::Place,
    first::Curves,
    simd::{Kernel, LANES, TILE_ROWS, add_scaled, mul_add, total},
};

/// `sum = x^T g`: what a shared weight matrix gets from all rows.
pub struct Outer<'a> {
    pub x: &'a [f32],
    pub g: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
    pub sum: &'a mut [f32],
}

impl Kernel for Outer<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Outer { x, g, inputs, outputs, sum } = self;
        let whole = inputs / TILE_ROWS * TILE_ROWS;
        for first in (0..whole).step_by(TILE_ROWS) {
            outer_tile::<FUSED, TILE_ROWS>(x, g, inputs, outputs, first, sum);
        }
        for first in whole..inputs {
            outer_tile::<FUSED, 1>(x, g, inputs, outputs, first, sum);
        }
    }
}

#[inline(always)]
fn outer_tile<const FUSED: bool, const INPUTS: usize>(
    x: &[f32],
    g: &[f32],
    inputs: usize,
    outputs: usize,
    first: usize,
    sum: &mut [f32],
) {
    let chunks = outputs / LANES;
    let tile = |x: &[f32]| -> [f32; INPUTS] { x[first..first + INPUTS].as_chunks::<INPUTS>().0[0] };
    for chunk in 0..chunks {
        let mut sums = [[0.0f32; LANES]; INPUTS];
        for (x, g) in x.chunks_exact(inputs).zip(g.chunks_exact(outputs)) {
            let (x, g) = (tile(x), &g.as_chunks::<LANES>().0[chunk]);
            for input in 0..INPUTS {
                add_scaled::<FUSED, LANES>(&mut sums[input], x[input], g);
            }
        }
        for (input, sums) in sums.iter().enumerate() {
            sum[(first + input) * outputs + chunk * LANES..][..LANES].copy_from_slice(sums);
        }
    }
    for output in chunks * LANES..outputs {
        let mut sums = [0.0f32; INPUTS];
        for (x, g) in x.chunks_exact(inputs).zip(g.chunks_exact(outputs)) {
            add_scaled::<FUSED, INPUTS>(&mut sums, g[output], &tile(x));
        }
        for (input, value) in sums.iter().enumerate() {
            sum[(first + input) * outputs + output] = *value;
        }
    }
}

/// The way back through [`crate::forward::first::CurveSum`] of all inputs.
pub struct CurveGradient<'a> {
    pub curves: Curves<'a>,
    pub adapter: &'a [f32],
    pub members: usize,
    pub bins: &'a Bins,
    pub x: &'a [f32],
    pub places: &'a [Place],
    pub inputs: usize,
    /// By row, member and output.
    pub g: &'a [f32],
    pub line: &'a mut [f32],
    pub bend: &'a mut [f32],
    /// In lanes still to be added up; empty for a single member.
    pub adapters: &'a mut [[f32; LANES]],
    /// Of the sums of bends, which [`fold_passed`] brings back to the bends.
    pub passed: &'a mut [f32],
}

impl Kernel for CurveGradient<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(mut self) {
        let chunks = self.curves.outputs / LANES;
        for chunk in 0..chunks {
            let mut first = 0;
            while first < self.members {
                if !self.adapters.is_empty() && self.members - first >= TILE_ROWS {
                    self.lanes::<FUSED, TILE_ROWS>(chunk, first);
                    first += TILE_ROWS;
                } else {
                    self.lanes::<FUSED, 1>(chunk, first);
                    first += 1;
                }
            }
        }
        for unit in chunks * LANES..self.curves.outputs {
            self.unit::<FUSED>(unit);
        }
    }
}

impl CurveGradient<'_> {
    /// Units `chunk * LANES ..` of `MEMBERS` members.
    #[inline(always)]
    fn lanes<const FUSED: bool, const MEMBERS: usize>(&mut self, chunk: usize, first: usize) {
        let (outputs, members, inputs) = (self.curves.outputs, self.members, self.inputs);
        let at = |row: usize| row * outputs + chunk * LANES;
        for (row, g) in self.g.chunks_exact(members * outputs).enumerate() {
            let mut own = [[0.0f32; LANES]; MEMBERS];
            for (member, own) in own.iter_mut().enumerate() {
                own.copy_from_slice(&g[at(first + member)..][..LANES]);
            }
            for input in 0..inputs {
                let (value, place) = (self.x[row * inputs + input], &self.places[row * inputs + input]);
                let place = (!self.bins.edges(input).is_empty()).then_some(place);
                let mut of_curve = [0.0f32; LANES];
                if self.adapters.is_empty() {
                    of_curve = own[0];
                } else {
                    let curve = self.curves.lanes::<FUSED>(input, value, place, chunk);
                    let adapter = &self.adapter[input * members + first..][..MEMBERS];
                    let adapters = &mut self.adapters[input * members + first..][..MEMBERS];
                    for member in 0..MEMBERS {
                        add_scaled::<FUSED, LANES>(&mut of_curve, adapter[member], &own[member]);
                        for lane in 0..LANES {
                            adapters[member][lane] =
                                mul_add::<FUSED>(own[member][lane], curve[lane], adapters[member][lane]);
                        }
                    }
                }
                grow::<FUSED>(self.line, at(input), value, &of_curve);
                if let Some(place) = place {
                    grow::<FUSED>(self.bend, at(place.bin), place.share, &of_curve);
                    grow::<FUSED>(self.passed, at(place.bin), 1.0, &of_curve);
                }
            }
        }
    }

    /// One unit of all members: what is left over beside whole lanes.
    #[inline(always)]
    fn unit<const FUSED: bool>(&mut self, unit: usize) {
        let (outputs, members, inputs) = (self.curves.outputs, self.members, self.inputs);
        for (row, g) in self.g.chunks_exact(members * outputs).enumerate() {
            for input in 0..inputs {
                let (value, place) = (self.x[row * inputs + input], &self.places[row * inputs + input]);
                let place = (!self.bins.edges(input).is_empty()).then_some(place);
                let curve = self.curves.one(input, value, place, unit);
                let mut of_curve = 0.0;
                for member in 0..members {
                    let own = g[member * outputs + unit];
                    of_curve += self.adapter.get(input * members + member).copied().unwrap_or(1.0) * own;
                    if let Some(adapter) = self.adapters.get_mut(input * members + member) {
                        adapter[0] += own * curve;
                    }
                }
                self.line[input * outputs + unit] += value * of_curve;
                if let Some(place) = place {
                    self.bend[place.bin * outputs + unit] += place.share * of_curve;
                    self.passed[place.bin * outputs + unit] += of_curve;
                }
            }
        }
    }
}

#[inline(always)]
fn grow<const FUSED: bool>(sums: &mut [f32], at: usize, by: f32, of: &[f32; LANES]) {
    for (sum, of) in sums[at..at + LANES].iter_mut().zip(of) {
        *sum = mul_add::<FUSED>(by, *of, *sum);
    }
}

/// A bend is part of what every later bin of its input has passed.
pub fn fold_passed(bins: &Bins, passed: &[f32], outputs: usize, bend: &mut [f32]) {
    let mut later = vec![0.0; outputs];
    for pair in bins.offsets().windows(2) {
        later.fill(0.0);
        for bin in (pair[0]..pair[1]).rev() {
            for o in 0..outputs {
                bend[bin * outputs + o] += later[o];
                later[o] += passed[bin * outputs + o];
            }
        }
    }
}

pub fn totals(lanes: &[[f32; LANES]]) -> impl Iterator<Item = f32> {
    lanes.iter().map(|lanes| total(*lanes))
}
