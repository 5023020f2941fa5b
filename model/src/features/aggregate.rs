//! Partial aggregates of a series in a window: mergeable in any grouping, and stable for small noise on large values.
//!
//! Frames make the partials (one group-by on integers); merging and finishing them is arithmetic on a few numbers.

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Stats,
    clean::{flag, inner},
};

const MS_PER_HOUR: f64 = 3_600_000.0;

/// Number of a tumbling window: windows are aligned to the epoch.
pub fn bin_of(time_ms: i64, window_ms: i64) -> i64 {
    time_ms.div_euclid(window_ms)
}

/// Some readings of one series in one window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
    /// Mean and squared deviations of the stamps, ms from the middle of the window.
    time_mean: f64,
    time_m2: f64,
    /// Sum of products of the deviations of stamps and values.
    co_moment: f64,
}

impl Partial {
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

/// Aggregates the clean rows of the series that are `wanted` (by id), in no particular order of cells.
pub fn aggregate(cleaned: &DataFrame, wanted: &[bool], window_ms: i64) -> PolarsResult<Vec<Cell>> {
    let rows = clean_rows(cleaned, wanted)?;
    if rows.height() == 0 {
        return Ok(vec![]);
    }
    let rows = in_time_order(rows, wanted.len())?;
    let (value, at, offset) = (col(inner::CLEAN), col("at"), col("offset"));
    let half = window_ms as f64 / 2.0;
    let groups = rows
        .lazy()
        .with_columns([
            col(inner::TIME).floor_div(lit(window_ms)).alias("bin"),
            (value.clone() - col("origin")).alias("offset"),
        ])
        .with_columns([
            ((col(inner::TIME) - col("bin") * lit(window_ms)).cast(DataType::Float64) - lit(half)).alias("at")
        ])
        .with_columns([(at.clone() * offset.clone()).alias("product")])
        .group_by([col(inner::SERIES), col("bin")])
        .agg([
            len().cast(DataType::UInt64).alias("count"),
            offset.clone().mean().alias("mean"),
            offset.var(0).alias("variance"),
            value.clone().min().alias("min"),
            value.clone().max().alias("max"),
            value.clone().first().alias("first"),
            value.last().alias("last"),
            col(inner::TIME).first().alias("first_ms"),
            col(inner::TIME).last().alias("last_ms"),
            at.clone().mean().alias("time_mean"),
            at.var(0).alias("time_variance"),
            col("origin").first(),
            col("product").sum(),
        ])
        .collect()?;
    cells(&groups)
}

/// Rows without a disqualifying flag, with an `origin` for their values: the first one of their series.
fn clean_rows(cleaned: &DataFrame, wanted: &[bool]) -> PolarsResult<DataFrame> {
    let of_row = Column::new("wanted".into(), wanted).take(cleaned.column(inner::SERIES)?.u32()?)?;
    let flags = cleaned.column(inner::FLAGS)?.u32()?;
    let clean: BooleanChunked = flags.apply_nonnull_values_generic(DataType::Boolean, |f| f & flag::DISQUALIFYING == 0);
    let mut rows = cleaned.select([inner::SERIES, inner::TIME, inner::CLEAN])?.filter(&(&clean & of_row.bool()?))?;
    rows.rechunk_mut();
    let mut origins: Vec<Option<f64>> = vec![None; wanted.len()];
    let ids = rows.column(inner::SERIES)?.u32()?;
    let values = rows.column(inner::CLEAN)?.f64()?;
    let of_rows: Vec<f64> = ids
        .into_no_null_iter()
        .zip(values.into_no_null_iter())
        .map(|(id, value)| *origins[id as usize].get_or_insert(value))
        .collect();
    rows.with_column(Column::new("origin".into(), of_rows))?;
    Ok(rows)
}

/// First and last of a group are by time; sorting is only paid for where a series is out of order.
fn in_time_order(rows: DataFrame, series: usize) -> PolarsResult<DataFrame> {
    let mut newest = vec![i64::MIN; series];
    let ids = rows.column(inner::SERIES)?.u32()?.into_no_null_iter();
    let times = rows.column(inner::TIME)?.i64()?.into_no_null_iter();
    let in_order = |(id, time): (u32, i64)| std::mem::replace(&mut newest[id as usize], time) <= time;
    if ids.zip(times).all(in_order) {
        return Ok(rows);
    }
    rows.sort([inner::TIME], SortMultipleOptions::default().with_maintain_order(true))
}

fn cells(groups: &DataFrame) -> PolarsResult<Vec<Cell>> {
    let float = |name: &str| groups.column(name)?.f64().map(ChunkedArray::rechunk);
    let int = |name: &str| groups.column(name)?.i64().map(ChunkedArray::rechunk);
    let count = groups.column("count")?.u64()?.rechunk();
    let series = groups.column(inner::SERIES)?.u32()?.rechunk();
    let (mean, variance, min, max) = (float("mean")?, float("variance")?, float("min")?, float("max")?);
    let (first, last, first_ms, last_ms) = (float("first")?, float("last")?, int("first_ms")?, int("last_ms")?);
    let (time_mean, time_variance) = (float("time_mean")?, float("time_variance")?);
    let (origin, product, bin) = (float("origin")?, float("product")?, int("bin")?);
    let (count, series, bin) = (count.cont_slice()?, series.cont_slice()?, bin.cont_slice()?);
    let (mean, variance, min, max) = (mean.cont_slice()?, variance.cont_slice()?, min.cont_slice()?, max.cont_slice()?);
    let (first, last) = (first.cont_slice()?, last.cont_slice()?);
    let (first_ms, last_ms) = (first_ms.cont_slice()?, last_ms.cont_slice()?);
    let (time_mean, time_variance) = (time_mean.cont_slice()?, time_variance.cont_slice()?);
    let (origin, product) = (origin.cont_slice()?, product.cont_slice()?);
    let cell = |i: usize| {
        let n = count[i] as f64;
        let partial = Partial {
            count: count[i],
            origin: origin[i],
            mean: mean[i],
            m2: variance[i] * n,
            min: min[i],
            max: max[i],
            first: first[i],
            first_ms: first_ms[i],
            last: last[i],
            last_ms: last_ms[i],
            time_mean: time_mean[i],
            time_m2: time_variance[i] * n,
            co_moment: product[i] - n * time_mean[i] * mean[i],
        };
        Cell { series: series[i], bin: bin[i], partial }
    };
    Ok((0..groups.height()).map(cell).collect())
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
        let seed: u64 = rand::random();
        println!("seed {seed}");
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
            assert!(near(found.mean, expected.mean, 0.0), "seed {seed}: {found:?} {expected:?}");
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
