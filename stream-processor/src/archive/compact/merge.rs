//! Several Parquet files as one, row group by row group, and the proof that no row changed. Blocking; local files only.
//!
//! A file may lack columns that another one has: the merged file has them all, null where there were none.

use std::{
    fs::File,
    io::{self, BufWriter, Read},
    path::{Path, PathBuf},
};

use polars::prelude::{Column, DataFrame, PolarsError, PolarsResult, Schema, SchemaExt};
use polars_io::{
    SerReader,
    parquet::{
        read::{ParallelStrategy, ParquetReader},
        write::{BatchedWriter, ParquetCompression, ParquetWriter},
    },
};
use polars_utils::compression::ZstdLevel;
use proto::archive::{
    DataObject, ObjectRef,
    compaction::{Listed, RowsDigest},
};
use sha2::{Digest, Sha256};

use super::{super::parquet::ROW_GROUP_ROWS, digest::digest};

const ZSTD_LEVEL: i32 = 3;
/// A row group is closed early if its rows are as large as this: dead letters are.
const ROW_GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("{key}: its content is not what its manifest says")]
    Changed { key: String },
    #[error("{key}: {error}")]
    Parquet { key: String, error: PolarsError },
    #[error("the merged file does not have the rows of its inputs")]
    Unequal,
    #[error("scratch folder: {0}")]
    Disk(#[from] io::Error),
}

/// An object and the local copy of it.
#[derive(Debug)]
pub struct Input {
    pub listed: Listed,
    pub path: PathBuf,
}

/// The merged file, proved to have the rows of the first `inputs` of those that were given.
#[derive(Debug)]
pub struct Merged {
    /// Fewer than were given, if a column has changed its type: those from there on belong into another file.
    pub inputs: usize,
    pub bytes: u64,
    pub sha256: String,
    pub rows: u64,
    pub digest: RowsDigest,
}

impl Merged {
    /// What the list says of it; `replaced` are its inputs.
    pub fn listed(&self, key: String, replaced: &[Listed]) -> Option<Listed> {
        let first = replaced.first()?;
        let time = |of: fn(&DataObject) -> i64| replaced.iter().map(move |l| of(&l.object));
        Some(Listed {
            manifest: replaced.iter().map(|l| l.manifest).min()?,
            committed_ms: replaced.iter().map(|l| l.committed_ms).max()?,
            digest: Some(self.digest),
            object: DataObject {
                table: first.object.table,
                object: ObjectRef { key, bytes: self.bytes, sha256: self.sha256.clone() },
                rows: self.rows,
                min_time_ms: time(|o| o.min_time_ms).min()?,
                max_time_ms: time(|o| o.max_time_ms).max()?,
            },
        })
    }
}

pub fn merge(inputs: &[Input], output: &Path) -> Result<Merged, MergeError> {
    let (schema, count) = common_schema(inputs)?;
    let inputs = &inputs[..count];
    let broken = |error| MergeError::Parquet { key: output.display().to_string(), error };
    let mut writer = Writer::new(output, schema)?;
    let mut sum = RowsDigest::default();
    for input in inputs {
        let (object, path) = (&input.listed.object, &input.path);
        if sha256_of(path)? != object.object.sha256 {
            return Err(MergeError::Changed { key: object.object.key.clone() });
        }
        let copied = copy(path, &mut writer);
        let (rows, digest) = copied.map_err(|error| MergeError::Parquet { key: object.object.key.clone(), error })?;
        if rows != object.rows || input.listed.digest.is_some_and(|known| known != digest) {
            return Err(MergeError::Changed { key: object.object.key.clone() });
        }
        sum = sum.plus(digest);
    }
    writer.finish().map_err(broken)?;
    let (rows, digest) = read_digest(output).map_err(broken)?;
    if (rows, digest) != (inputs.iter().map(|i| i.listed.object.rows).sum(), sum) {
        return Err(MergeError::Unequal);
    }
    let bytes = output.metadata()?.len();
    Ok(Merged { inputs: count, bytes, sha256: sha256_of(output)?, rows, digest })
}

/// How many rows a file has, and their digest.
pub fn read_digest(path: &Path) -> PolarsResult<(u64, RowsDigest)> {
    let (mut rows, mut sum) = (0, RowsDigest::default());
    for (first, many) in row_groups(path)? {
        let frame = read(path, first, many)?;
        rows += frame.height() as u64;
        sum = sum.plus(digest(&frame)?);
    }
    Ok((rows, sum))
}

pub fn row_count(path: &Path) -> PolarsResult<u64> {
    Ok(ParquetReader::new(File::open(path)?).num_rows()? as u64)
}

/// Hexadecimal.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// All columns of the inputs, up to the first input that has one of them in another type.
fn common_schema(inputs: &[Input]) -> Result<(Schema, usize), MergeError> {
    let mut common = Schema::default();
    for (count, input) in inputs.iter().enumerate() {
        let schema = read_schema(&input.path);
        let schema =
            schema.map_err(|error| MergeError::Parquet { key: input.listed.object.object.key.clone(), error })?;
        if schema.iter().any(|(name, kind)| common.get(name).is_some_and(|known| known != kind)) {
            return Ok((common, count));
        }
        common.extend(schema);
    }
    Ok((common, inputs.len()))
}

fn read_schema(path: &Path) -> PolarsResult<Schema> {
    let schema = ParquetReader::new(File::open(path)?).schema()?;
    Ok(Schema::from_arrow_schema(&schema))
}

/// First row and number of rows of each.
fn row_groups(path: &Path) -> PolarsResult<Vec<(usize, usize)>> {
    let mut reader = ParquetReader::new(File::open(path)?);
    let groups = reader.get_metadata()?.row_groups.iter().map(|group| group.num_rows());
    let place = |first: &mut usize, many| Some((std::mem::replace(first, *first + many), many));
    Ok(groups.scan(0, place).collect())
}

fn read(path: &Path, first: usize, many: usize) -> PolarsResult<DataFrame> {
    let reader = ParquetReader::new(File::open(path)?).read_parallel(ParallelStrategy::None);
    reader.with_slice(Some((first, many))).finish()
}

fn copy(path: &Path, writer: &mut Writer) -> PolarsResult<(u64, RowsDigest)> {
    let (mut rows, mut sum) = (0, RowsDigest::default());
    for (first, many) in row_groups(path)? {
        let frame = read(path, first, many)?;
        rows += frame.height() as u64;
        sum = sum.plus(digest(&frame)?);
        writer.push(frame)?;
    }
    Ok((rows, sum))
}

/// Collects rows up to a row group.
struct Writer {
    schema: Schema,
    open: DataFrame,
    file: BatchedWriter<BufWriter<File>>,
}

impl Writer {
    fn new(path: &Path, schema: Schema) -> Result<Self, MergeError> {
        let file = BufWriter::new(File::create(path)?);
        let batched = || {
            let zstd = ParquetCompression::Zstd(Some(ZstdLevel::try_new(ZSTD_LEVEL)?));
            ParquetWriter::new(file).with_compression(zstd).set_parallel(false).batched(&schema)
        };
        let file = batched().map_err(|error| MergeError::Parquet { key: path.display().to_string(), error })?;
        Ok(Writer { open: DataFrame::empty_with_schema(&schema), schema, file })
    }

    fn push(&mut self, frame: DataFrame) -> PolarsResult<()> {
        self.open.vstack_mut(&self.widened(&frame)?)?;
        while self.open.height() >= ROW_GROUP_ROWS {
            let rest = self.open.slice(ROW_GROUP_ROWS as i64, usize::MAX);
            self.open = self.open.slice(0, ROW_GROUP_ROWS);
            self.flush()?;
            self.open = rest;
        }
        if self.open.estimated_size() >= ROW_GROUP_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    fn widened(&self, frame: &DataFrame) -> PolarsResult<DataFrame> {
        let column = |(name, kind): (&polars::prelude::PlSmallStr, &polars::prelude::DataType)| {
            frame.column(name).cloned().unwrap_or_else(|_| Column::full_null(name.clone(), frame.height(), kind))
        };
        DataFrame::new(frame.height(), self.schema.iter().map(column).collect())
    }

    fn flush(&mut self) -> PolarsResult<()> {
        let mut group = std::mem::replace(&mut self.open, DataFrame::empty_with_schema(&self.schema));
        if group.height() == 0 {
            return Ok(());
        }
        // One chunk is one row group.
        group.rechunk_mut();
        self.file.write_batch(&group)
    }

    fn finish(mut self) -> PolarsResult<()> {
        self.flush()?;
        self.file.finish().map(drop)
    }
}
