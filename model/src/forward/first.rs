//! The first layer: every input's own curve, and how much each member listens to it.
//!
//! An input's curve is a line and a bend in each of its bins, for all units at once. It is worked out once for a row;
//! the members, which differ in how much they listen to an input, then only add what is there.

use super::{
    bins::{Bins, Place},
    simd::{Simd, TILE_ROWS, WithSimd, add_scaled, chunks, load_of, store},
};

/// Weights of all bins before each bin, per input: what a number has already come through.
pub fn passed(bins: &Bins, weight: &[f32], outputs: usize) -> Vec<f32> {
    let mut passed = vec![0.0; weight.len()];
    for pair in bins.offsets().windows(2) {
        for bin in (pair[0] + 1)..pair[1] {
            for o in 0..outputs {
                passed[bin * outputs + o] = passed[(bin - 1) * outputs + o] + weight[(bin - 1) * outputs + o];
            }
        }
    }
    passed
}

/// What a curve is made of; each is rows of one number per unit.
#[derive(Clone, Copy)]
pub struct Curves<'a> {
    /// By input.
    pub line: &'a [f32],
    /// By bin: what the bin adds from its beginning to its end.
    pub bend: &'a [f32],
    /// By bin: what all bins before it add.
    pub passed: &'a [f32],
    pub outputs: usize,
}

impl Curves<'_> {
    /// A chunk of the units of an input's curve.
    #[inline(always)]
    pub fn lanes<S: Simd>(&self, simd: S, input: usize, value: f32, place: Option<&Place>, chunk: usize) -> S::f32s {
        let width = self.outputs;
        let mut curve = simd.splat_f32s(0.0);
        if let Some(&Place { bin, share }) = place {
            let passed = load_of(simd, self.passed, width, bin, chunk);
            curve = add_scaled(simd, passed, share, load_of(simd, self.bend, width, bin, chunk));
        }
        add_scaled(simd, curve, value, load_of(simd, self.line, width, input, chunk))
    }
}

/// `y`: per row and member the sum of the curves of the inputs in `range`, each times what the member makes of it.
pub struct CurveSum<'a> {
    pub curves: Curves<'a>,
    /// By input, of every member; empty for a single one, that takes all as it is.
    pub adapter: &'a [f32],
    pub members: usize,
    pub x: &'a [f32],
    /// As many as numbers in `x`.
    pub places: &'a [Option<Place>],
    pub inputs: usize,
    /// The inputs that count.
    pub chosen: &'a [usize],
    pub y: &'a mut [f32],
}

impl WithSimd for CurveSum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for row in 0..self.x.len() / self.inputs {
            for chunk in 0..chunks::<S>(self.curves.outputs) {
                let whole = if self.adapter.is_empty() { 0 } else { self.members / TILE_ROWS * TILE_ROWS };
                for first in (0..whole).step_by(TILE_ROWS) {
                    self.of_members::<S, TILE_ROWS>(simd, row, chunk, first);
                }
                for first in whole..self.members {
                    self.of_members::<S, 1>(simd, row, chunk, first);
                }
            }
        }
    }
}

impl CurveSum<'_> {
    /// A chunk of the units of `MEMBERS` members.
    #[inline(always)]
    fn of_members<S: Simd, const MEMBERS: usize>(&mut self, simd: S, row: usize, chunk: usize, first: usize) {
        let (outputs, members) = (self.curves.outputs, self.members);
        let x = &self.x[row * self.inputs..][..self.inputs];
        let places = &self.places[row * self.inputs..][..self.inputs];
        let mut sums = [simd.splat_f32s(0.0); MEMBERS];
        for &input in self.chosen {
            let curve = self.curves.lanes(simd, input, x[input], places[input].as_ref(), chunk);
            let listens = match self.adapter.is_empty() {
                true => &[1.0; MEMBERS],
                false => &self.adapter[input * members + first..].as_chunks::<MEMBERS>().0[0],
            };
            for member in 0..MEMBERS {
                sums[member] = add_scaled(simd, sums[member], listens[member], curve);
            }
        }
        for (member, sums) in sums.into_iter().enumerate() {
            store(simd, &mut self.y[(row * members + first + member) * outputs..][..outputs], chunk, sums);
        }
    }
}
