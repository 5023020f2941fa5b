//! Cleaned readings on their way into a file. Inside they have ids for names, which take a quarter of the memory; a
//! file has the names in dictionaries, whose keys follow from the ids, so that no name is looked at per row.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use model::{
    features::clean::{inner, unit_of},
    store::schema,
};
use polars::prelude::{
    ArrayRef, ChunkApply, Column, CompatLevel, DataFrame, DataType, IntoColumn, PolarsError, PolarsResult, SchemaExt,
};
use polars_arrow::{
    array::{DictionaryArray, PrimitiveArray, Utf8ViewArray},
    datatypes::{ArrowDataType, IntegerType},
};
use polars_parquet::{
    read::{ParquetError, fallible_streaming_iterator::FallibleStreamingIterator},
    write::{Compressor, DynIter, DynStreamingIterator, Encoding, FileWriter, WriteOptions, array_to_columns},
};
use proto::{
    archive::column,
    asset::{AssetId, Unit},
};

use crate::{decode::AgentKey, stream::tables::datetime};

/// A reading's batch, as a number into [`Stretch::batches`].
pub const BATCH: &str = "batch";

/// Names by id. Ids are given in turn, so that a later one of these knows all that an earlier one did.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub machines: Vec<AssetId>,
    pub sensors: Vec<AssetId>,
    /// Machine and sensor of each series.
    pub series: Vec<(u32, u32)>,
}

/// Where a batch comes from: its agent, and its place in the agent's log.
pub type Origin = (AgentKey, u64);

/// The readings of some batches, in log order.
#[derive(Debug, Clone, Default)]
pub struct Stretch {
    /// As [`rows`] makes them.
    pub rows: DataFrame,
    pub batches: Vec<Origin>,
}

#[derive(Debug, Clone, Default)]
pub struct Readings {
    pub stretches: Vec<Stretch>,
    pub names: Arc<Names>,
}

/// Of cleaned rows, what is archived. Per row `batch` is its number, and `reason` why it is not good; `generation` is by
/// series.
pub fn rows(cleaned: &DataFrame, batch: Vec<u32>, reason: Vec<u8>, generation: &[u32]) -> PolarsResult<DataFrame> {
    let of_row = [inner::SERIES, inner::TIME, inner::VALUE, inner::UNIT, inner::QUALITY, inner::FLAGS];
    let mut rows = cleaned.select(of_row)?;
    let generation = rows.column(inner::SERIES)?.u32()?.apply_values(|id| generation[id as usize]);
    rows.with_column(Column::new(BATCH.into(), batch))?;
    rows.with_column(Column::new(column::REASON.into(), reason))?;
    rows.with_column(generation.into_column().with_name(column::GENERATION.into()))?;
    Ok(rows)
}

impl Readings {
    pub fn height(&self) -> usize {
        self.stretches.iter().map(|stretch| stretch.rows.height()).sum()
    }

    /// Those that came after these.
    pub fn append(&mut self, later: Readings) {
        self.stretches.extend(later.stretches);
        self.names = later.names;
    }

    /// As one frame, whose batches are numbered on from one to the next.
    pub fn stacked(&self) -> PolarsResult<(DataFrame, Vec<&Origin>)> {
        let (mut all, mut batches) = (DataFrame::default(), Vec::new());
        for stretch in &self.stretches {
            let before = batches.len() as u32;
            let mut rows = stretch.rows.clone();
            let numbers = rows.column(BATCH)?.u32()?.apply_values(|n| n + before);
            rows.with_column(numbers.into_column())?;
            all.vstack_mut(&rows)?;
            batches.extend(&stretch.batches);
        }
        Ok((all, batches))
    }
}

/// Per site its rows.
pub fn by_site(rows: DataFrame, batches: &[&Origin]) -> PolarsResult<Vec<(AssetId, DataFrame)>> {
    let sites: BTreeSet<&AssetId> = batches.iter().map(|(agent, _)| &agent.site).collect();
    let own = |site: &AssetId| {
        let own = |batch: u32| batches[batch as usize].0.site == *site;
        rows.filter(&rows.column(BATCH)?.u32()?.apply_nonnull_values_generic(DataType::Boolean, own))
    };
    match Vec::from_iter(sites)[..] {
        [site] => Ok(vec![(site.clone(), rows)]),
        ref sites => sites.iter().map(|site| Ok(((*site).clone(), own(site)?))).collect(),
    }
}

/// A Parquet file of the table `readings`.
pub fn write(
    rows: &DataFrame,
    batches: &[&Origin],
    names: &Names,
    group_rows: usize,
    options: WriteOptions,
) -> PolarsResult<Vec<u8>> {
    let mut file = FileWriter::try_new(Vec::new(), schema::readings().to_arrow(CompatLevel::newest()), options)?;
    for from in (0..rows.height()).step_by(group_rows) {
        let mut group = rows.slice(from as i64, group_rows);
        group.rechunk_mut();
        let types = file.parquet_schema().fields().to_vec();
        let mut pages = Vec::with_capacity(types.len());
        for (array, of) in columns(&group, batches, names)?.iter().zip(types) {
            for column in array_to_columns(array, of, options, &[Encoding::RleDictionary])? {
                let plain = column.map(|page| page.map_err(|e| ParquetError::FeatureNotSupported(e.to_string())));
                let compressed = Compressor::new(plain, options.compression, vec![]).map_err(PolarsError::from);
                pages.push(Ok(DynStreamingIterator::new(compressed)));
            }
        }
        file.write(group.height() as u64, DynIter::new(pages.into_iter()))?;
    }
    file.end(None)?;
    Ok(file.into_inner())
}

/// Of one row group, in the order of the schema.
fn columns(rows: &DataFrame, batches: &[&Origin], names: &Names) -> PolarsResult<Vec<ArrayRef>> {
    let plain = |column: &Column| column.as_materialized_series().to_arrow(0, CompatLevel::newest());
    let batch = rows.column(BATCH)?.u32()?.cont_slice()?;
    let series = rows.column(inner::SERIES)?.u32()?.cont_slice()?;
    let unit = rows.column(inner::UNIT)?.u8()?.cont_slice()?;
    let agents = Numbers::of(batches.iter().map(|(agent, _)| &agent.agent));
    let seq: Vec<u64> = batch.iter().map(|n| batches[*n as usize].1).collect();
    let agent = batch.iter().map(|n| agents.of[*n as usize]);
    let machine = series.iter().map(|id| names.series[*id as usize].0);
    let sensor = series.iter().map(|id| names.series[*id as usize].1);
    let unit = unit.iter().map(|code| u32::from(*code));
    Ok(vec![
        dictionary(agent, |id| Some(agents.names[id as usize].as_str()))?,
        plain(&Column::new(column::SEQ.into(), seq)),
        dictionary(machine, |id| Some(names.machines[id as usize].as_str()))?,
        dictionary(sensor, |id| Some(names.sensors[id as usize].as_str()))?,
        plain(&datetime(column::TIME, rows.column(inner::TIME)?.clone())?),
        plain(rows.column(inner::VALUE)?),
        dictionary(unit, |code| unit_of(code as u8).map(Unit::symbol))?,
        plain(rows.column(inner::QUALITY)?),
        plain(rows.column(column::REASON)?),
        plain(rows.column(inner::FLAGS)?),
        plain(rows.column(column::GENERATION)?),
    ])
}

/// Different names, numbered in the order in which they come.
struct Numbers<'a> {
    names: Vec<&'a AssetId>,
    /// Per name that came, its number.
    of: Vec<u32>,
}

impl<'a> Numbers<'a> {
    fn of(all: impl Iterator<Item = &'a AssetId>) -> Self {
        let (mut names, mut known) = (Vec::new(), HashMap::new());
        let of = all.map(|name| {
            *known.entry(name).or_insert_with(|| {
                names.push(name);
                names.len() as u32 - 1
            })
        });
        let of = of.collect();
        Numbers { names, of }
    }
}

/// Rows of names by their ids; only those that occur are in the dictionary. A name of None is no value.
fn dictionary<'a>(
    ids: impl ExactSizeIterator<Item = u32>,
    name: impl Fn(u32) -> Option<&'a str>,
) -> PolarsResult<ArrayRef> {
    const UNSEEN: u32 = u32::MAX;
    const NONE: u32 = u32::MAX - 1;
    let (mut keys, mut values) = (Vec::with_capacity(ids.len()), Vec::new());
    let mut key_of = Vec::new();
    for id in ids {
        let at = id as usize;
        if key_of.len() <= at {
            key_of.resize(at + 1, UNSEEN);
        }
        if key_of[at] == UNSEEN {
            key_of[at] = name(id).map_or(NONE, |name| {
                values.push(name);
                values.len() as u32 - 1
            });
        }
        keys.push(key_of[at]);
    }
    let keys = match keys.contains(&NONE) {
        true => PrimitiveArray::from_iter(keys.into_iter().map(|key| (key != NONE).then_some(key))),
        false => PrimitiveArray::from_vec(keys),
    };
    let dtype = ArrowDataType::Dictionary(IntegerType::UInt32, Box::new(ArrowDataType::Utf8View), false);
    Ok(DictionaryArray::try_new(dtype, keys, Utf8ViewArray::from_slice_values(values).boxed())?.boxed())
}

/// Each one a batch by itself, of one sensor that says nothing about its unit.
#[cfg(test)]
pub fn sample(rows: &[(&str, i64, f64)]) -> Readings {
    use polars::prelude::*;
    let name = |name: &str| AssetId::new(name).unwrap();
    let zeros = vec![0u32; rows.len()];
    let frame = df!(
        inner::SERIES => &zeros,
        inner::TIME => rows.iter().map(|r| r.1).collect::<Vec<_>>(),
        inner::VALUE => rows.iter().map(|r| r.2).collect::<Vec<_>>(),
        inner::UNIT => vec![u8::MAX; rows.len()],
        inner::QUALITY => vec![0u8; rows.len()],
        inner::FLAGS => &zeros,
        BATCH => (0..rows.len() as u32).collect::<Vec<_>>(),
        column::REASON => vec![0u8; rows.len()],
        column::GENERATION => &zeros,
    );
    let batches = rows.iter().map(|r| (AgentKey { site: name(r.0), agent: name("gw") }, 9)).collect();
    let names = Names { machines: vec![name("press-1")], sensors: vec![name("sound")], series: vec![(0, 0)] };
    Readings { stretches: vec![Stretch { rows: frame.unwrap(), batches }], names: names.into() }
}
