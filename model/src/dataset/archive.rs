//! Reads the archive, and only what the manifests name: sizes, checksums and row counts are held against them.
//!
//! Readings are kept by machine in plain columns, 26 bytes each, and become a frame machine by machine: the frames of
//! a whole archive, names and all, would not fit beside the processor.

mod readings;
mod selection;

use std::io::Cursor;

use bytes::Bytes;
use polars::prelude::{DataFrame, DataType, PolarsError, SerReader, StringChunked};
use polars_io::parquet::read::ParquetReader;
use proto::{
    archive::{DataObject, Table, column, event_kind},
    asset::AssetId,
    time::PlantTime,
    wire::telemetry::Verdict,
};
use sha2::{Digest, Sha256};

use super::{
    Dataset,
    label::{Event, Labeller},
    warning::{Told, Warnings},
};
use crate::{
    features::{Answer, Catalogue, CatalogueError, FeatureConfig, FeatureError, was_right, whole_with_events},
    store::{
        OBJECT_BYTES_MAX, StoreError,
        listing::{ListError, resolve_all},
        objects::Objects,
    },
};
use readings::Readings;
use selection::Selection;
pub use selection::{LeftOut, READINGS_MAX, Scope};

pub const EVENTS_MAX: usize = 10_000_000;
/// A rule's alert, and one that was closed, as the alerts table spells them.
const RULE: &str = "rule";
const CLOSED: &str = "closed";
/// What training needs.
const TABLES: [Table; 4] = [Table::Readings, Table::Births, Table::Events, Table::Alerts];

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    List(#[from] ListError),
    #[error("the archive is empty: there is no manifest")]
    Empty,
    #[error("{key}: {reason}")]
    Object { key: String, reason: String },
    #[error("{key}: {error}")]
    Table { key: String, error: PolarsError },
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Features(#[from] FeatureError),
    #[error("more than {EVENTS_MAX} events and alerts")]
    TooManyEvents,
    #[error("reading was interrupted")]
    Interrupted,
}

/// How far reading is, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadProgress {
    pub objects: usize,
    pub objects_all: usize,
}

/// What was read, before it becomes features.
#[derive(Default)]
pub struct Archive {
    catalogue: Catalogue,
    events: Vec<Event>,
    warnings: Warnings,
    readings: Readings,
    left_out: Option<LeftOut>,
}

/// Reads what the manifests name, in the objects that hold it now; all of it, where [`READINGS_MAX`] hold it.
pub async fn read(
    store: &dyn Objects,
    scope: Scope,
    progress: &mut (dyn FnMut(ReadProgress) + Send),
) -> Result<Archive, ArchiveError> {
    let listed = resolve_all(store, scope.shard, &TABLES).await?.ok_or(ArchiveError::Empty)?;
    // Births first: they are few, and how many machines there are decides what of their readings is read.
    let (births, others): (Vec<_>, Vec<_>) =
        listed.into_iter().map(|l| l.object).partition(|object| object.table == Table::Births);
    let mut archive = Archive::default();
    let objects_all = births.len() + others.len();
    archive = absorbed(store, archive, &births, &mut |objects| progress(ReadProgress { objects, objects_all })).await?;
    let selection = Selection::of(others, scope.days, archive.catalogue.machines().len());
    archive.readings.take_share(selection.share);
    archive.left_out = selection.left_out();
    let objects_all = births.len() + selection.objects.len();
    let done = births.len();
    absorbed(store, archive, &selection.objects, &mut |objects| {
        progress(ReadProgress { objects: done + objects, objects_all });
    })
    .await
}

async fn absorbed(
    store: &dyn Objects,
    mut archive: Archive,
    objects: &[DataObject],
    done: &mut (dyn FnMut(usize) + Send),
) -> Result<Archive, ArchiveError> {
    for (i, object) in objects.iter().enumerate() {
        let bytes = fetch(store, object).await?;
        let object = object.clone();
        archive = tokio::task::spawn_blocking(move || {
            archive.absorb(&object, bytes)?;
            Ok::<_, ArchiveError>(archive)
        })
        .await
        .map_err(|_| ArchiveError::Interrupted)??;
        done(i + 1);
    }
    Ok(archive)
}

async fn fetch(store: &dyn Objects, object: &DataObject) -> Result<Bytes, ArchiveError> {
    let bad = |reason: String| ArchiveError::Object { key: object.object.key.clone(), reason };
    if object.object.bytes > OBJECT_BYTES_MAX {
        return Err(bad(format!("{} bytes are over the limit", object.object.bytes)));
    }
    let bytes = store.get(&object.object.key).await?.ok_or_else(|| bad("named by a manifest and missing".into()))?;
    if bytes.len() as u64 != object.object.bytes {
        return Err(bad(format!("{} bytes, its manifest says {}", bytes.len(), object.object.bytes)));
    }
    Ok(bytes)
}

impl Archive {
    /// Takes one object in; objects come in the order of the log.
    pub fn absorb(&mut self, object: &DataObject, bytes: Bytes) -> Result<(), ArchiveError> {
        let key = &object.object.key;
        let bad = |reason: String| ArchiveError::Object { key: key.clone(), reason };
        let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        if sha256 != object.object.sha256 {
            return Err(bad("its checksum is not the manifest's".into()));
        }
        let failed = |error| ArchiveError::Table { key: key.clone(), error };
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        let rows = reader.num_rows().map_err(failed)?;
        if rows as u64 != object.rows {
            return Err(bad(format!("{rows} rows, its manifest says {}", object.rows)));
        }
        let schema = reader.schema().map_err(failed)?;
        // Older files have fewer columns.
        let there = |columns: &[&str]| columns.iter().filter(|c| schema.contains(c)).map(|c| (*c).into()).collect();
        let columns = columns(object.table).map(there);
        let frame = reader.with_columns(columns).finish().map_err(failed)?;
        match object.table {
            Table::Births => self.catalogue.absorb_rows(&frame)?,
            Table::Events => self.absorb_events(&frame).map_err(failed)?,
            Table::Alerts => self.absorb_alerts(&frame).map_err(failed)?,
            Table::Readings => self.readings.absorb(&frame).map_err(failed)?,
            _ => {}
        }
        let told = self.events.len() + self.warnings.len();
        if told > EVENTS_MAX { Err(ArchiveError::TooManyEvents) } else { Ok(()) }
    }

    fn absorb_events(&mut self, frame: &DataFrame) -> Result<(), PolarsError> {
        let text = |name: &str| frame.column(name)?.str().cloned();
        let time = |name: &str| frame.column(name)?.to_physical_repr().cast(&DataType::Int64)?.i64().cloned();
        let (machine, kind, mode) = (text(column::MACHINE)?, text(column::KIND)?, text(column::MODE)?);
        // Not in older files.
        let [code, alert, verdict] = [column::CODE, column::ALERT_ID, column::VERDICT].map(|name| text(name).ok());
        let word = |column: &Option<StringChunked>, row| {
            column.as_ref().and_then(|c| c.get(row)).unwrap_or_default().to_owned()
        };
        let (time, known) = (time(column::TIME)?, time(column::KNOWN)?);
        for row in 0..frame.height() {
            let machine = AssetId::new(machine.get(row).unwrap_or_default());
            let (Ok(machine), Some(time), Some(known)) = (machine, time.get(row), known.get(row)) else { continue };
            self.events.push(Event {
                machine,
                time: PlantTime(time),
                kind: event_kind(kind.get(row).unwrap_or_default()),
                code: word(&code, row),
                mode: mode.get(row).unwrap_or_default().into(),
                answer: Answer::new(&word(&alert, row), was_right(verdict_of(&word(&verdict, row)))),
                known: PlantTime(known),
            });
        }
        Ok(())
    }

    fn absorb_alerts(&mut self, frame: &DataFrame) -> Result<(), PolarsError> {
        let text = |name: &str| frame.column(name)?.str().cloned();
        let (id, machine, mode) = (text(column::ID)?, text(column::MACHINE)?, text(column::MODE)?);
        let (source, state) = (text(column::SOURCE)?, text(column::STATE)?);
        let time = frame.column(column::TIME)?.to_physical_repr().cast(&DataType::Int64)?.i64()?.clone();
        for row in 0..frame.height() {
            let machine = AssetId::new(machine.get(row).unwrap_or_default());
            let (Ok(machine), Some(id), Some(at)) = (machine, id.get(row), time.get(row)) else { continue };
            self.warnings.tell(Told {
                id,
                machine: &machine,
                mode: mode.get(row).filter(|_| source.get(row) != Some(RULE)),
                at: PlantTime(at),
                closed: state.get(row) == Some(CLOSED),
            });
        }
        Ok(())
    }

    /// Readings held.
    pub fn readings(&self) -> usize {
        self.readings.len()
    }

    /// None: all readings are held.
    pub fn left_out(&self) -> Option<LeftOut> {
        self.left_out
    }

    /// Plant time of the newest reading: what training can know.
    pub fn newest(&self) -> PlantTime {
        self.readings.newest()
    }

    /// Features and labels, machine by machine; each machine's readings are let go before the next one's turn.
    pub fn into_dataset(self, config: &FeatureConfig, horizon_ms: i64) -> Result<Dataset, ArchiveError> {
        let newest = self.newest();
        self.into_dataset_as_of(config, horizon_ms, newest)
    }

    /// [`Archive::into_dataset`] where it is known until when the plant was watched.
    pub fn into_dataset_as_of(
        mut self,
        config: &FeatureConfig,
        horizon_ms: i64,
        as_of: PlantTime,
    ) -> Result<Dataset, ArchiveError> {
        let labeller = Labeller::with_warnings(&self.events, &self.warnings, horizon_ms, as_of);
        // As the stream hears of them.
        self.events.sort_by_key(|e| e.known);
        let mut dataset = Dataset::new(config.clone(), &labeller);
        for frame in self.readings.into_frames() {
            let frame = frame.map_err(FeatureError::from)?;
            let windows = whole_with_events(frame, &self.events, &self.catalogue, config)?;
            dataset.push(&windows, &labeller);
        }
        Ok(dataset)
    }

    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

/// As the events table spells it.
fn verdict_of(text: &str) -> Verdict {
    Verdict::from_str_name(&format!("VERDICT_{}", text.to_uppercase())).unwrap_or_default()
}

const EVENT_COLUMNS: &[&str] = &[
    column::MACHINE,
    column::TIME,
    column::KIND,
    column::CODE,
    column::MODE,
    column::ALERT_ID,
    column::VERDICT,
    column::KNOWN,
];

const ALERT_COLUMNS: &[&str] =
    &[column::ID, column::MACHINE, column::MODE, column::SOURCE, column::STATE, column::TIME];

/// The columns that are read; none: all.
fn columns(table: Table) -> Option<&'static [&'static str]> {
    match table {
        Table::Readings => Some(readings::COLUMNS),
        Table::Events => Some(EVENT_COLUMNS),
        Table::Alerts => Some(ALERT_COLUMNS),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
