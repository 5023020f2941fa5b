//! Partial aggregates of a series in a pane: mergeable in any grouping, and stable for small noise on large values.
//!
//! Making, merging and finishing them is arithmetic on a few numbers; a group-by took a fifth of all that a reading costs.

use std::collections::HashMap;

use polars::prelude::*;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Stats,
    clean::{flag, inner},
};

const MS_PER_HOUR: f64 = 3_600_000.0;

/// Number of the pane that a reading belongs to: panes are aligned to the epoch.
pub fn bin_of(time_ms: i64, slide_ms: i64) -> i64 {
    time_ms.div_euclid(slide_ms)
}

/// Some readings of one series in one pane.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Partial {
    count: u64,
    /// One of the readings. All means are relative to such: small noise on a large value has no digits to lose.
    origin: f64,
    /// Minus the origin.
    mean: f64,
    /// Sum of squared deviations from the mean.
    m2: f64,
    min: f64,
    max: f64,
    first: f64,
    first_ms: i64,
    last: f64,
    last_ms: i64,
    /// Mean and squared deviations of the stamps, ms from the middle of the pane.
    time_mean: f64,
    time_m2: f64,
    /// Sum of products of the deviations of stamps and values.
    co_moment: f64,
}

/// Without the names of its fields, which would be half of a snapshot; those are read as well.
impl Serialize for Partial {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Partial { count, origin, mean, m2, min, max, first, first_ms, last, last_ms, .. } = *self;
        let Partial { time_mean, time_m2, co_moment, .. } = *self;
        (count, origin, mean, m2, min, max, first, first_ms, last, last_ms, time_mean, time_m2, co_moment).serialize(to)
    }
}

impl Partial {
    /// `at`: ms from the middle of the pane.
    pub(super) fn one(time_ms: i64, value: f64, at: f64) -> Partial {
        Partial {
            count: 1,
            origin: value,
            mean: 0.0,
            m2: 0.0,
            min: value,
            max: value,
            first: value,
            first_ms: time_ms,
            last: value,
            last_ms: time_ms,
            time_mean: at,
            time_m2: 0.0,
            co_moment: 0.0,
        }
    }

    /// [`Partial::merge`] with that of one reading, in less arithmetic.
    fn push(&mut self, reading: &Partial) {
        self.count += 1;
        let share = 1.0 / self.count as f64;
        let (offset, at) = (reading.origin - self.origin, reading.time_mean);
        let (delta, time_delta) = (offset - self.mean, at - self.time_mean);
        self.mean += delta * share;
        self.time_mean += time_delta * share;
        self.m2 += delta * (offset - self.mean);
        self.time_m2 += time_delta * (at - self.time_mean);
        self.co_moment += delta * (at - self.time_mean);
        self.min = self.min.min(reading.min);
        self.max = self.max.max(reading.max);
        if reading.first_ms < self.first_ms {
            (self.first, self.first_ms) = (reading.first, reading.first_ms);
        }
        if reading.last_ms >= self.last_ms {
            (self.last, self.last_ms) = (reading.last, reading.last_ms);
        }
    }

    /// Both together; of readings with one stamp, `self`'s count as the earlier ones.
    pub fn merge(&self, other: &Partial) -> Partial {
        let (a, b) = (self.count as f64, other.count as f64);
        let (share, weight) = (b / (a + b), a * b / (a + b));
        let delta = (other.origin - self.origin) + (other.mean - self.mean);
        let time_delta = other.time_mean - self.time_mean;
        let (first, last) = (
            if other.first_ms < self.first_ms { other } else { self },
            if other.last_ms >= self.last_ms { other } else { self },
        );
        Partial {
            count: self.count + other.count,
            origin: self.origin,
            mean: self.mean + delta * share,
            m2: self.m2 + other.m2 + delta * delta * weight,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            first: first.first,
            first_ms: first.first_ms,
            last: last.last,
            last_ms: last.last_ms,
            time_mean: self.time_mean + time_delta * share,
            time_m2: self.time_m2 + other.time_m2 + time_delta * time_delta * weight,
            co_moment: self.co_moment + other.co_moment + delta * time_delta * weight,
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// With its stamps told from a middle that lies `by_ms` earlier.
    pub fn moved(&self, by_ms: f64) -> Partial {
        Partial { time_mean: self.time_mean + by_ms, ..*self }
    }

    pub fn finish(&self) -> Stats {
        Stats {
            count: self.count,
            mean: self.origin + self.mean,
            std: (self.m2 / self.count as f64).max(0.0).sqrt(),
            min: self.min,
            max: self.max,
            first: self.first,
            last: self.last,
            slope: if self.time_m2 > 0.0 { self.co_moment / self.time_m2 * MS_PER_HOUR } else { 0.0 },
        }
    }
}

/// A partial and what it is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    pub series: u32,
    pub bin: i64,
    pub partial: Partial,
}

/// Aggregates the clean rows of the series that are `wanted` (by id), in no particular order of cells. A series whose
/// rows go back to a pane that they had left has several cells of it, to be merged in their order.
pub fn aggregate(cleaned: &DataFrame, wanted: &[bool], slide_ms: i64) -> PolarsResult<Vec<Cell>> {
    let time = cleaned.column(inner::TIME)?.i64()?.cont_slice()?;
    let flags = cleaned.column(inner::FLAGS)?.u32()?.cont_slice()?;
    let value = cleaned.column(inner::CLEAN)?.f64()?.cont_slice()?;
    let half = slide_ms as f64 / 2.0;
    let mut cells: Vec<Cell> = Vec::new();
    // Of each series, the place of its newest cell.
    let mut newest: HashMap<u32, usize> = HashMap::new();
    let (mut bin, mut start, mut next) = (0, 0, 0);
    // Rows come in runs of one series, and mostly of one pane: a division costs more than all else here.
    for run in cleaned.column(inner::SERIES)?.u32()?.cont_slice()?.chunk_by(u32::eq) {
        let (series, from) = (run[0], next);
        next += run.len();
        if !wanted[series as usize] {
            continue;
        }
        let newest = newest.entry(series).or_insert(usize::MAX);
        for row in (from..next).filter(|row| flags[*row] & flag::DISQUALIFYING == 0) {
            if !(0..slide_ms).contains(&time[row].wrapping_sub(start)) {
                bin = bin_of(time[row], slide_ms);
                start = bin.wrapping_mul(slide_ms);
            }
            let reading = Partial::one(time[row], value[row], time[row].wrapping_sub(start) as f64 - half);
            match cells.get_mut(*newest).filter(|cell| cell.bin == bin) {
                Some(cell) => cell.partial.push(&reading),
                None => {
                    *newest = cells.len();
                    cells.push(Cell { series, bin, partial: reading });
                }
            }
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, seq::SliceRandom};
    use rand_chacha::ChaCha8Rng;

    const WINDOW_MS: i64 = 10_000;

    fn frame(rows: &[(i64, f64)]) -> DataFrame {
        df!(
            inner::SERIES => vec![0u32; rows.len()],
            inner::TIME => rows.iter().map(|r| r.0).collect::<Vec<_>>(),
            inner::FLAGS => vec![0u32; rows.len()],
            inner::CLEAN => rows.iter().map(|r| r.1).collect::<Vec<_>>(),
        )
        .unwrap()
    }

    /// In two plain passes over the sorted rows.
    fn oracle(rows: &[(i64, f64)]) -> Stats {
        let mut rows = rows.to_vec();
        rows.sort_by_key(|r| r.0);
        let n = rows.len() as f64;
        let first = rows[0].1;
        let mean = rows.iter().map(|r| r.1 - first).sum::<f64>() / n;
        let time = rows.iter().map(|r| r.0 as f64).sum::<f64>() / n;
        let sum = |f: &dyn Fn(&(i64, f64)) -> f64| rows.iter().map(f).sum::<f64>();
        let time_m2 = sum(&|r| (r.0 as f64 - time).powi(2));
        let co = sum(&|r| (r.0 as f64 - time) * (r.1 - first - mean));
        Stats {
            count: rows.len() as u64,
            mean: first + mean,
            std: (sum(&|r| (r.1 - first - mean).powi(2)) / n).sqrt(),
            min: rows.iter().map(|r| r.1).fold(f64::INFINITY, f64::min),
            max: rows.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max),
            first,
            last: rows[rows.len() - 1].1,
            slope: if time_m2 > 0.0 { co / time_m2 * MS_PER_HOUR } else { 0.0 },
        }
    }

    fn near(a: f64, b: f64, scale: f64) -> bool {
        (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(scale)
    }

    #[test]
    fn partials_merge_to_what_two_plain_passes_find() {
        let seed = std::env::var("MILLWRIGHT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("MILLWRIGHT_SEED={seed}");
        compare_with_two_passes(seed);
    }

    /// Values of about 1 whose mean is a ten-thousandth of that: it can't be more exact than they are.
    #[test]
    fn a_mean_near_zero_is_as_exact_as_its_values() {
        compare_with_two_passes(9_592_416_381_549_999_561);
    }

    fn compare_with_two_passes(seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for case in 0..40 {
            let base = [0.0, 50.0, 1e9][case % 3];
            let mut rows: Vec<(i64, f64)> =
                (0..rng.random_range(1..200)).map(|i| (i * 50, base + rng.random_range(-1.0..1.0))).collect();
            if case % 2 == 0 {
                rows.shuffle(&mut rng);
            }
            let (mut merged, mut rest) = (None::<Partial>, &rows[..]);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rng.random_range(1..=rest.len()));
                let cells = aggregate(&frame(head), &[true], WINDOW_MS).unwrap();
                let partial = cells[0].partial;
                merged = Some(merged.map_or(partial, |m| m.merge(&partial)));
                rest = tail;
            }
            let (found, expected) = (merged.unwrap().finish(), oracle(&rows));
            let exact = |s: Stats| (s.count, s.min, s.max, s.first, s.last);
            assert_eq!(exact(found), exact(expected), "seed {seed}");
            assert!(near(found.mean, expected.mean, 1.0), "seed {seed}: {found:?} {expected:?}");
            assert!(near(found.std, expected.std, 1.0), "seed {seed}: {found:?} {expected:?}");
            assert!(near(found.slope, expected.slope, 1e4), "seed {seed}: {found:?} {expected:?}");
        }
    }

    #[test]
    fn only_clean_rows_of_wanted_series_count_and_windows_before_the_epoch_are_windows_too() {
        let mut rows = frame(&[(-1, 1.0), (-10_000, 2.0), (0, 4.0), (1, 8.0), (2, 16.0)]);
        rows.with_column(Column::new(inner::FLAGS.into(), [0, flag::GAP, 0, flag::STUCK, 0])).unwrap();
        rows.with_column(Column::new(inner::SERIES.into(), [0u32, 0, 0, 0, 1])).unwrap();
        let mut cells = aggregate(&rows, &[true, false], WINDOW_MS).unwrap();
        cells.sort_by_key(|c| c.bin);
        let found: Vec<_> = cells.iter().map(|c| (c.bin, c.partial.finish().count, c.partial.finish().last)).collect();
        assert_eq!(found, [(-1, 2, 1.0), (0, 1, 4.0)]);
        assert_eq!(bin_of(-1, WINDOW_MS), -1);
    }

    #[test]
    fn nothing_clean_is_no_cell() {
        assert_eq!(aggregate(&frame(&[]), &[true], WINDOW_MS).unwrap(), []);
        assert_eq!(aggregate(&frame(&[(0, 1.0)]), &[false], WINDOW_MS).unwrap(), []);
    }
}
