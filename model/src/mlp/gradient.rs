//! What the layers' weights and inputs have to do with a loss: the way back through the loops of [`crate::forward`].

use crate::forward::{
    Bins,
    bins::Place,
    first::Curves,
    simd::{LANES_MAX, Simd, TILE_ROWS, WithSimd, add_scaled, chunks, load, store},
};

/// `sum = x^T g`: what a shared weight matrix gets from all rows.
pub struct Outer<'a> {
    pub x: &'a [f32],
    pub g: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
    pub sum: &'a mut [f32],
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Outer { x, g, inputs, outputs, sum } = self;
        let whole = inputs / TILE_ROWS * TILE_ROWS;
        for first in (0..whole).step_by(TILE_ROWS) {
            outer_tile::<S, TILE_ROWS>(simd, x, g, (inputs, outputs), first, sum);
        }
        for first in whole..inputs {
            outer_tile::<S, 1>(simd, x, g, (inputs, outputs), first, sum);
        }
    }
}

#[inline(always)]
fn outer_tile<S: Simd, const INPUTS: usize>(
    simd: S,
    x: &[f32],
    g: &[f32],
    (inputs, outputs): (usize, usize),
    first: usize,
    sum: &mut [f32],
) {
    for chunk in 0..chunks::<S>(outputs) {
        let mut sums = [simd.splat_f32s(0.0); INPUTS];
        for (x, g) in x.chunks_exact(inputs).zip(g.chunks_exact(outputs)) {
            let (x, g) = (&x[first..first + INPUTS], load(simd, g, chunk));
            for input in 0..INPUTS {
                sums[input] = add_scaled(simd, sums[input], x[input], g);
            }
        }
        for (input, sums) in sums.into_iter().enumerate() {
            store(simd, &mut sum[(first + input) * outputs..][..outputs], chunk, sums);
        }
    }
}

/// The way back through [`crate::forward::first::CurveSum`] of all inputs.
pub struct CurveGradient<'a> {
    pub curves: Curves<'a>,
    pub adapter: &'a [f32],
    pub members: usize,
    pub x: &'a [f32],
    pub places: &'a [Option<Place>],
    pub inputs: usize,
    /// By row, member and output.
    pub g: &'a [f32],
    pub line: &'a mut [f32],
    pub bend: &'a mut [f32],
    /// In lanes still to be added up; empty for a single member.
    pub adapters: &'a mut [[f32; LANES_MAX]],
    /// Of the sums of bends, which [`fold_passed`] brings back to the bends.
    pub passed: &'a mut [f32],
}

impl WithSimd for CurveGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let whole = if self.adapters.is_empty() { 0 } else { self.members / TILE_ROWS * TILE_ROWS };
        for chunk in 0..chunks::<S>(self.curves.outputs) {
            for first in (0..whole).step_by(TILE_ROWS) {
                self.of_members::<S, TILE_ROWS>(simd, chunk, first);
            }
            for first in whole..self.members {
                self.of_members::<S, 1>(simd, chunk, first);
            }
        }
    }
}

impl CurveGradient<'_> {
    /// A chunk of the units of `MEMBERS` members.
    #[inline(always)]
    fn of_members<S: Simd, const MEMBERS: usize>(&mut self, simd: S, chunk: usize, first: usize) {
        let (outputs, members, inputs) = (self.curves.outputs, self.members, self.inputs);
        for (row, g) in self.g.chunks_exact(members * outputs).enumerate() {
            let mut own = [simd.splat_f32s(0.0); MEMBERS];
            for (member, own) in own.iter_mut().enumerate() {
                *own = load(simd, &g[(first + member) * outputs..][..outputs], chunk);
            }
            for input in 0..inputs {
                let (value, place) = (self.x[row * inputs + input], self.places[row * inputs + input].as_ref());
                let mut of_curve = own[0];
                if !self.adapters.is_empty() {
                    of_curve = simd.splat_f32s(0.0);
                    let curve = self.curves.lanes(simd, input, value, place, chunk);
                    let adapter = &self.adapter[input * members + first..][..MEMBERS];
                    let adapters = &mut self.adapters[input * members + first..][..MEMBERS];
                    for member in 0..MEMBERS {
                        of_curve = add_scaled(simd, of_curve, adapter[member], own[member]);
                        let sum = &mut S::as_mut_simd_f32s(&mut adapters[member]).0[0];
                        *sum = simd.mul_add_e_f32s(own[member], curve, *sum);
                    }
                }
                let at = |row: usize| row * outputs..(row + 1) * outputs;
                grow(simd, &mut self.line[at(input)], chunk, value, of_curve);
                if let Some(place) = place {
                    grow(simd, &mut self.bend[at(place.bin)], chunk, place.share, of_curve);
                    grow(simd, &mut self.passed[at(place.bin)], chunk, 1.0, of_curve);
                }
            }
        }
    }
}

#[inline(always)]
fn grow<S: Simd>(simd: S, sums: &mut [f32], chunk: usize, by: f32, of: S::f32s) {
    let grown = add_scaled(simd, load(simd, sums, chunk), by, of);
    store(simd, sums, chunk, grown);
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

pub fn totals(lanes: &[[f32; LANES_MAX]]) -> impl Iterator<Item = f32> {
    lanes.iter().map(|lanes| lanes.iter().sum())
}
