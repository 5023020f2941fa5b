//! Piecewise-linear encoding of numbers by the quantiles of the training rows (Gorishniy et al. 2022).
//!
//! A number is encoded by how far it has come through each bin: 1 through those below it, 0 through those above, and a
//! share through its own. The first and the last bin go on for ever, so that what lies outside is told apart too. So
//! only one bin's share has to be worked out, and a layer's weights of all bins below are one sum known beforehand.

use super::ShapeError;

/// Edges nearer to each other than this, in deviations, are one.
const WIDTH_MIN: f32 = 1e-3;
/// Rows whose quantiles are taken at most; more change no edge that matters.
const QUANTILE_ROWS_MAX: usize = 10_000;

/// Per input of the network the edges of its bins, ascending; an input without edges has none, and stays a line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bins {
    edges: Vec<f32>,
    /// Where in `edges` each input's begin, and at last their number.
    starts: Vec<usize>,
}

/// Numbers between which an input's curve may rise or fall at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub from: f32,
    pub to: f32,
}

/// Where a number lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Of all bins of all inputs.
    pub bin: usize,
    /// How far through the bin; below 0 or above 1 only in the outermost ones.
    pub share: f32,
}

impl Bins {
    /// No bins for any of so many inputs.
    pub fn none(inputs: usize) -> Self {
        Bins { edges: vec![], starts: vec![0; inputs + 1] }
    }

    pub fn new(edges: Vec<Vec<f32>>) -> Result<Self, ShapeError> {
        let sound = |own: &Vec<f32>| {
            let apart = own.windows(2).all(|pair| pair[1] - pair[0] > 0.0);
            own.is_empty() || (own.len() >= 3 && apart && own.iter().all(|e| e.is_finite()))
        };
        if let Some(input) = edges.iter().position(|own| !sound(own)) {
            return Err(ShapeError::Bins { input });
        }
        let mut starts = vec![0];
        edges.iter().for_each(|own| starts.push(starts[starts.len() - 1] + own.len()));
        Ok(Bins { edges: edges.concat(), starts })
    }

    /// For each input so many bins of equal shares of its values, both outermost ones halved `halved` times outwards: at
    /// most `equal + 2 * halved`, and none where that would be less than two.
    pub fn fit(columns: impl Iterator<Item = Vec<f32>>, equal: usize, halved: usize) -> Self {
        let edges = columns.map(|column| if equal < 2 { vec![] } else { quantiles(column, equal, halved) }).collect();
        Bins::new(edges).unwrap_or_default()
    }

    /// With an edge on both sides of each of an input's steps, and none between them.
    pub fn with_steps(&self, steps: &[Vec<Step>]) -> Self {
        let of_input = |(input, steps): (usize, &Vec<Step>)| {
            let apart = |edge: &&f32| steps.iter().all(|s| **edge < s.from - WIDTH_MIN || **edge > s.to + WIDTH_MIN);
            let mut edges: Vec<f32> = self.edges(input).iter().filter(apart).copied().collect();
            // Outermost bins go on for ever, and must not be as steep as a step.
            let lowest = steps.iter().map(|s| s.from).reduce(f32::min);
            let highest = steps.iter().map(|s| s.to).reduce(f32::max);
            let below = lowest.filter(|from| edges.first().is_none_or(|first| first > from)).map(|from| from - 1.0);
            let above = highest.filter(|to| edges.last().is_none_or(|last| last < to)).map(|to| to + 1.0);
            edges.extend(steps.iter().flat_map(|s| [s.from, s.to]).chain(below).chain(above));
            edges.sort_by(f32::total_cmp);
            edges.dedup_by(|b, a| *b - *a < WIDTH_MIN);
            edges
        };
        Bins::new(steps.iter().enumerate().map(of_input).collect()).unwrap_or_else(|_| self.clone())
    }

    pub fn inputs(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Of all inputs together.
    pub fn count(&self) -> usize {
        (0..self.inputs()).map(|input| self.edges(input).len().saturating_sub(1)).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    pub fn edges(&self, input: usize) -> &[f32] {
        &self.edges[self.starts[input]..self.starts[input + 1]]
    }

    /// The first of all bins of each input, and at last their number.
    pub fn offsets(&self) -> Vec<usize> {
        let mut offsets = vec![0];
        (0..self.inputs()).for_each(|i| offsets.push(offsets[i] + self.edges(i).len().saturating_sub(1)));
        offsets
    }

    /// Where each number of a row lies; None: its input has no bins.
    pub fn place(&self, row: &[f32], places: &mut Vec<Option<Place>>) {
        let mut first = 0;
        for (input, value) in row.iter().enumerate() {
            let edges = self.edges(input);
            let [_, inner @ .., _] = edges else {
                places.push(None);
                continue;
            };
            let own = inner.iter().filter(|edge| **edge <= *value).count();
            let share = (value - edges[own]) / (edges[own + 1] - edges[own]);
            places.push(Some(Place { bin: first + own, share }));
            first += edges.len() - 1;
        }
    }
}

fn quantiles(mut column: Vec<f32>, equal: usize, halved: usize) -> Vec<f32> {
    let step = column.len().div_ceil(QUANTILE_ROWS_MAX).max(1);
    column = column.into_iter().step_by(step).filter(|v| v.is_finite()).collect();
    column.sort_by(f32::total_cmp);
    let Some(last) = column.len().checked_sub(1) else { return vec![] };
    let tails = (1..=halved as u32).map(|times| (last / equal) >> times);
    let mut ranks: Vec<usize> =
        (0..=equal).map(|i| i * last / equal).chain(tails.flat_map(|rank| [rank, last - rank])).collect();
    ranks.sort_unstable();
    let mut edges: Vec<f32> = ranks.into_iter().map(|rank| column[rank]).collect();
    edges.dedup_by(|b, a| *b - *a < WIDTH_MIN);
    if edges.len() < 3 { vec![] } else { edges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bins: &Bins, row: &[f32]) -> Vec<Option<(usize, f32)>> {
        let mut places = Vec::new();
        bins.place(row, &mut places);
        places.iter().map(|place| place.map(|p| (p.bin, p.share))).collect()
    }

    #[test]
    fn edges_are_quantiles_and_equal_ones_are_one() {
        let even: Vec<f32> = (0..=100).map(|i| i as f32).collect();
        let mostly_zero: Vec<f32> = (0..100).map(|i| if i < 80 { 0.0 } else { i as f32 }).collect();
        let two_values: Vec<f32> = (0..100).map(|i| (i % 2) as f32).collect();
        let bins = Bins::fit([even, mostly_zero, two_values].into_iter(), 4, 0);
        assert_eq!(bins.edges(0), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert!(bins.edges(1).is_empty(), "one edge beside zero is a line: {:?}", bins.edges(1));
        assert!(bins.edges(2).is_empty());
        assert_eq!((bins.count(), bins.offsets()), (4, vec![0, 4, 4, 4]));
    }

    #[test]
    fn a_number_lies_in_one_bin_and_outside_of_all_it_goes_on() {
        let bins = Bins::new(vec![vec![0.0, 1.0, 3.0], vec![], vec![-1.0, 0.0, 1.0]]).unwrap();
        assert_eq!(place(&bins, &[2.0, 9.0, -0.5]), [Some((1, 0.5)), None, Some((2, 0.5))]);
        assert_eq!(place(&bins, &[-1.0, 9.0, 5.0]), [Some((0, -1.0)), None, Some((3, 5.0))]);
        assert_eq!(place(&bins, &[1.0, 9.0, 0.0])[0], Some((1, 0.0)));
    }

    #[test]
    fn a_step_has_an_edge_on_either_side_and_is_never_the_outermost_bin() {
        let bins = Bins::new(vec![vec![0.0, 1.0, 2.0, 4.0], vec![], vec![0.0, 1.0, 3.0], vec![]]).unwrap();
        let step = |from, to| Step { from, to };
        let steps = [vec![step(1.75, 2.25), step(0.5, 0.75)], vec![step(3.0, 3.5)], vec![], vec![]];
        let with = bins.with_steps(&steps);
        assert_eq!(with.edges(0), [0.0, 0.5, 0.75, 1.0, 1.75, 2.25, 4.0]);
        assert_eq!(with.edges(1), [2.0, 3.0, 3.5, 4.5]);
        assert_eq!((with.edges(2), with.edges(3)), (bins.edges(2), bins.edges(3)));
        assert_eq!(
            bins.with_steps(&[vec![step(-0.25, 0.25)], vec![], vec![], vec![]]).edges(0)[..3],
            [-1.25, -0.25, 0.25]
        );
    }

    #[test]
    fn edges_that_do_not_rise_are_refused() {
        for edges in [vec![1.0], vec![0.0, 1.0], vec![0.0, 1.0, 1.0], vec![0.0, f32::NAN, 1.0]] {
            assert_eq!(Bins::new(vec![vec![], edges]), Err(ShapeError::Bins { input: 1 }));
        }
    }
}
