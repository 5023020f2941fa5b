//! A segment's rows as Parquet files: one per table, site and day. Pure: bytes in memory out.
//!
//! Times are written as `TIMESTAMP(MILLIS, UTC)`. The site is in a file's path only, as Hive has it.

use std::collections::BTreeMap;

use model::features::clean::inner;
use polars::prelude::{Column, DataFrame, DataType, PolarsError, PolarsResult};
use polars_io::parquet::write::{ParquetCompression, ParquetWriter, StatisticsOptions};
use polars_parquet::write::{Version, WriteOptions};
use polars_utils::compression::ZstdLevel;
use proto::{
    archive::{Table, column},
    asset::AssetId,
    time::PlantTime,
};
use sha2::{Digest, Sha256};

use super::{
    pending::SegmentContent,
    readings::{self, Readings},
    rows,
};
use crate::stream::tables::SITE;

/// Stamps are the sensors' own, and one broken clock could ask for a file per row: the rows of further days, those
/// with the fewest rows, share the file of 1970-01-01. Manifests name every file's real times.
pub const DAYS_PER_TABLE_MAX: usize = 64;
pub const ROW_GROUP_ROWS: usize = 262_144;
/// A quarter less work than the usual level; compaction, for which nobody waits, presses harder.
const ZSTD_LEVEL: i32 = 1;
const DAY_MS: i64 = 86_400_000;
const DAY: &str = "day";

/// One Parquet file.
#[derive(Debug, Clone)]
pub struct Encoded {
    pub table: Table,
    pub site: AssetId,
    pub date: String,
    pub bytes: Vec<u8>,
    pub sha256: String,
    pub rows: u64,
    pub min_time_ms: i64,
    pub max_time_ms: i64,
}

/// All files of a segment; none for a table without rows.
pub fn encode(content: &SegmentContent) -> PolarsResult<Vec<Encoded>> {
    let mut files = Vec::new();
    for table in Table::ALL {
        let frame = match table {
            Table::Readings => {
                files.extend(encode_readings(&content.readings)?);
                continue;
            }
            Table::Births => stacked(&content.births)?,
            Table::Features => rows::features(content)?,
            Table::Predictions => rows::predictions(content)?,
            Table::Alerts => rows::alerts(content)?,
            Table::Events => rows::events(content)?,
            Table::Gaps => rows::gaps(content)?,
            Table::DeadLetter => rows::dead_letters(content)?,
        };
        if frame.height() > 0 {
            for part in split(frame, time_column(table))? {
                let bytes = write(&part)?;
                files.push(part.encoded(table, bytes));
            }
        }
    }
    Ok(files)
}

fn encode_readings(readings: &Readings) -> PolarsResult<Vec<Encoded>> {
    let (rows, batches) = readings.stacked()?;
    let mut files = Vec::new();
    for (site, rows) in readings::by_site(rows, &batches)? {
        for part in by_day(&site, rows, inner::TIME)? {
            let bytes = readings::write(&part.frame, &batches, &readings.names, ROW_GROUP_ROWS, options()?)?;
            files.push(part.encoded(Table::Readings, bytes));
        }
    }
    Ok(files)
}

/// Hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What a table's rows are dated by.
const fn time_column(table: Table) -> &'static str {
    match table {
        Table::Features | Table::Predictions => column::WINDOW_END,
        _ => column::TIME,
    }
}

/// The rows of one site and day.
struct Part {
    site: AssetId,
    date: String,
    min_time_ms: i64,
    max_time_ms: i64,
    frame: DataFrame,
}

impl Part {
    fn encoded(self, table: Table, bytes: Vec<u8>) -> Encoded {
        let Part { site, date, min_time_ms, max_time_ms, frame } = self;
        let (sha256, rows) = (sha256(&bytes), frame.height() as u64);
        Encoded { table, site, date, bytes, sha256, rows, min_time_ms, max_time_ms }
    }
}

fn stacked(frames: &[DataFrame]) -> PolarsResult<DataFrame> {
    let mut all = DataFrame::default();
    for frame in frames {
        all.vstack_mut(frame)?;
    }
    Ok(all)
}

fn split(frame: DataFrame, time: &str) -> PolarsResult<Vec<Part>> {
    let mut parts = Vec::new();
    for rows in frame.partition_by_stable([SITE], true)? {
        let site = rows.column(SITE)?.str()?.get(0).unwrap_or_default();
        let site = AssetId::new(site).map_err(|e| PolarsError::ComputeError(format!("site `{site}`: {e}").into()))?;
        parts.extend(by_day(&site, rows.drop(SITE)?, time)?);
    }
    Ok(parts)
}

fn by_day(site: &AssetId, mut frame: DataFrame, time: &str) -> PolarsResult<Vec<Part>> {
    let times = times(&frame, time)?;
    let whole = part(site, frame.clone(), &times);
    // Nearly always; and looking at two stamps costs less than dividing all rows.
    if whole.min_time_ms.div_euclid(DAY_MS) == whole.max_time_ms.div_euclid(DAY_MS) {
        return Ok(vec![whole]);
    }
    frame.with_column(Column::new(DAY.into(), days(&times)))?;
    let days = frame.partition_by_stable([DAY], true)?;
    days.into_iter()
        .map(|frame| {
            let times = self::times(&frame, time)?;
            let day = frame.column(DAY)?.i64()?.get(0).unwrap_or(0);
            Ok(Part { date: PlantTime(day * DAY_MS).date(), ..part(site, frame.drop(DAY)?, &times) })
        })
        .collect()
}

/// All of it, dated by its first row.
fn part(site: &AssetId, frame: DataFrame, times: &[i64]) -> Part {
    let (min_time_ms, max_time_ms) =
        (times.iter().copied().min().unwrap_or(0), times.iter().copied().max().unwrap_or(0));
    Part { site: site.clone(), date: PlantTime(min_time_ms).date(), min_time_ms, max_time_ms, frame }
}

fn times(frame: &DataFrame, time: &str) -> PolarsResult<Vec<i64>> {
    let ms = frame.column(time)?.to_physical_repr().cast(&DataType::Int64)?;
    Ok(ms.i64()?.iter().map(|ms| ms.unwrap_or(0)).collect())
}

/// Every row's day since 1970, as its partition has it.
fn days(times: &[i64]) -> Vec<i64> {
    let named = |ms: i64| if PlantTime(ms).date() == PlantTime(0).date() { 0 } else { ms.div_euclid(DAY_MS) };
    let mut days: Vec<i64> = times.iter().map(|ms| ms.div_euclid(DAY_MS)).collect();
    let mut rows: BTreeMap<i64, usize> = BTreeMap::new();
    days.iter().for_each(|day| *rows.entry(*day).or_default() += 1);
    let mut largest: Vec<(usize, i64)> = rows.into_iter().map(|(day, rows)| (rows, day)).collect();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let kept: BTreeMap<i64, i64> =
        largest.iter().take(DAYS_PER_TABLE_MAX).map(|(_, day)| (*day, named(day.saturating_mul(DAY_MS)))).collect();
    days.iter_mut().for_each(|day| *day = kept.get(day).copied().unwrap_or(0));
    days
}

fn options() -> PolarsResult<WriteOptions> {
    let compression = ParquetCompression::Zstd(Some(ZstdLevel::try_new(ZSTD_LEVEL)?));
    let (statistics, version) = (StatisticsOptions::default(), Version::V1);
    Ok(WriteOptions { statistics, version, compression: compression.into(), data_page_size: None })
}

fn write(part: &Part) -> PolarsResult<Vec<u8>> {
    let mut bytes = Vec::new();
    // Not in parallel: the other cores are for what people wait for.
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(Some(ZstdLevel::try_new(ZSTD_LEVEL)?)))
        .with_row_group_size(Some(ROW_GROUP_ROWS))
        .set_parallel(false)
        .finish(&mut part.frame.clone())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
