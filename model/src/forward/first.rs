//! The first layer: every input's own curve, and how much each member listens to it.
//!
//! An input's curve is a line and a bend in each of its bins, for all units at once. It is worked out once for a row;
//! the members, which differ in how much they listen to an input, then only add what is there.

use super::{
    bins::{Bins, Place},
    simd::{Kernel, LANES, TILE_ROWS, add_scaled},
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
    /// Units `chunk * LANES ..` of an input's curve.
    #[inline(always)]
    pub fn lanes<const FUSED: bool>(
        &self,
        input: usize,
        value: f32,
        place: Option<&Place>,
        chunk: usize,
    ) -> [f32; LANES] {
        let of = |rows: &'_ [f32], row: usize| rows[row * self.outputs..][..self.outputs].as_chunks::<LANES>().0[chunk];
        let mut curve = [0.0; LANES];
        if let Some(place) = place {
            curve = of(self.passed, place.bin);
            add_scaled::<FUSED, LANES>(&mut curve, place.share, &of(self.bend, place.bin));
        }
        add_scaled::<FUSED, LANES>(&mut curve, value, &of(self.line, input));
        curve
    }

    /// One unit.
    #[inline(always)]
    pub fn one(&self, input: usize, value: f32, place: Option<&Place>, unit: usize) -> f32 {
        let bent = place.map_or(0.0, |p| {
            let at = p.bin * self.outputs + unit;
            self.passed[at] + p.share * self.bend[at]
        });
        bent + value * self.line[input * self.outputs + unit]
    }
}

/// `y`: per row and member the sum of the curves of the inputs in `range`, each times what the member makes of it.
pub struct CurveSum<'a> {
    pub curves: Curves<'a>,
    /// By input, of every member; empty for a single one, that takes all as it is.
    pub adapter: &'a [f32],
    pub members: usize,
    pub bins: &'a Bins,
    pub x: &'a [f32],
    /// As many as numbers in `x`.
    pub places: &'a [Place],
    pub inputs: usize,
    /// The inputs that count.
    pub chosen: &'a [usize],
    pub y: &'a mut [f32],
}

impl Kernel for CurveSum<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (outputs, members) = (self.curves.outputs, self.members);
        let chunks = outputs / LANES;
        for (row, y) in self.y.chunks_exact_mut(members * outputs).enumerate() {
            let x = &self.x[row * self.inputs..][..self.inputs];
            let places = &self.places[row * self.inputs..][..self.inputs];
            let place = |input: usize| (!self.bins.edges(input).is_empty()).then_some(&places[input]);
            for chunk in 0..chunks {
                let mut first = 0;
                while first < members {
                    if members - first >= TILE_ROWS {
                        let mut sums = [[0.0f32; LANES]; TILE_ROWS];
                        for &input in self.chosen {
                            let curve = self.curves.lanes::<FUSED>(input, x[input], place(input), chunk);
                            let adapter = &self.adapter[input * members + first..][..TILE_ROWS];
                            for member in 0..TILE_ROWS {
                                add_scaled::<FUSED, LANES>(&mut sums[member], adapter[member], &curve);
                            }
                        }
                        for (member, sums) in sums.iter().enumerate() {
                            y[(first + member) * outputs + chunk * LANES..][..LANES].copy_from_slice(sums);
                        }
                        first += TILE_ROWS;
                    } else {
                        let mut sums = [0.0f32; LANES];
                        for &input in self.chosen {
                            let curve = self.curves.lanes::<FUSED>(input, x[input], place(input), chunk);
                            let adapter = self.adapter.get(input * members + first).copied().unwrap_or(1.0);
                            add_scaled::<FUSED, LANES>(&mut sums, adapter, &curve);
                        }
                        y[first * outputs + chunk * LANES..][..LANES].copy_from_slice(&sums);
                        first += 1;
                    }
                }
            }
            for unit in chunks * LANES..outputs {
                for member in 0..members {
                    let of_input = |input: &usize| {
                        let adapter = self.adapter.get(input * members + member).copied().unwrap_or(1.0);
                        adapter * self.curves.one(*input, x[*input], place(*input), unit)
                    };
                    y[member * outputs + unit] = self.chosen.iter().map(of_input).sum();
                }
            }
        }
    }
}
