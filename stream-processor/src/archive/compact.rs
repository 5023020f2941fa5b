//! Merges the archive's small files, beside a running processor or without one, and writes checkpoints of the
//! manifests' history. By the rules of [`proto::archive::compaction`]:
//!
//! ```text
//! cover:   manifests since the newest record ─> parts ─> record                    (a checkpoint)
//! merge:   small files ─> one local file, same rows ─> PUT ─> parts ─> record      (it counts from here)
//! delete:  replaced objects after their grace ─> DELETE ─> record that says so
//! sweep:   what no manifest and no record can ever name ─> DELETE
//! ```
//!
//! A record is put if absent under the next number, and derived from the record before it alone. So of two compactors
//! at once one wins each number; the other takes its file away and looks again. Killed at any point, what is there is a
//! readable archive with the same rows; what was uploaded and not recorded is swept by a later run.

mod digest;
pub mod merge;
mod parts;
pub mod plan;
mod sweep;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use model::store::{
    PutOutcome, StoreError,
    listing::{ListError, READS_IN_FLIGHT_MAX, newest_compaction, read_compaction, read_listed, read_parts},
    manifests::{ReadError, first_number, newest_number, read_manifest},
    objects::Objects,
};
use proto::{
    archive::{
        ManifestError, Shard, Table,
        compaction::{
            COMPACTION_BYTES_MAX, COMPACTION_VERSION, Compaction, InvalidReplacement, Listed, Partition, Replacement,
            Retired,
        },
    },
    time::wall_now_ms,
};

use merge::{Input, MergeError, merge};
use parts::{Change, changed};
use plan::{CompactSettings, Merge, plan};

/// Manifests that one record adds at most: what a compactor that is far behind holds in memory.
const MANIFESTS_PER_RECORD_MAX: u64 = 10_000;
/// Another compactor may be at work all the time; it gets on with it, then.
const LOST_RACES_MAX: u32 = 64;
const DOWNLOADS_IN_FLIGHT_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Manifest(#[from] ReadError),
    #[error(transparent)]
    Record(#[from] ManifestError),
    #[error(transparent)]
    Replacement(#[from] InvalidReplacement),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("{key} is listed and gone")]
    Gone { key: String },
    #[error("{key}: no object of this archive has such a key")]
    Key { key: String },
    #[error("the scratch folder {}: {reason}", folder.display())]
    Scratch { folder: PathBuf, reason: io::Error },
    #[error("merging was interrupted")]
    Interrupted,
    /// Another compactor has written the number that was meant for this one's record.
    #[error("other compactors were faster {LOST_RACES_MAX} times in a row")]
    Lost,
}

/// What a run has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The newest manifest that the records cover now, and the newest record.
    pub manifest: u64,
    pub compaction: u64,
    pub merged: u64,
    pub replaced: u64,
    /// Replaced objects whose grace was over.
    pub deleted: u64,
    /// Objects, parts and snapshots that nothing can name any more.
    pub swept: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { manifest, compaction, merged, replaced, deleted, swept } = self;
        write!(f, "manifests up to {manifest}, record {compaction}: {replaced} files merged into {merged}, ")?;
        write!(f, "{deleted} replaced objects deleted, {swept} orphans swept")
    }
}

/// One run. `scratch`: a local folder for one merge at a time. `now_ms`: wall time.
pub async fn run(
    store: &dyn Objects,
    shard: Shard,
    settings: &CompactSettings,
    scratch: &Path,
    now_ms: i64,
) -> Result<Report, CompactError> {
    let mut compactor = Compactor { store, shard, record: None, report: Report::default() };
    for _ in 0..LOST_RACES_MAX {
        match compactor.pass(settings, scratch, now_ms).await {
            Err(CompactError::Lost | CompactError::List(ListError::PartGone { .. })) => {}
            ended => return ended.map(|()| compactor.report),
        }
    }
    Err(CompactError::Lost)
}

struct Compactor<'a> {
    store: &'a dyn Objects,
    shard: Shard,
    /// The newest one, as far as this compactor knows.
    record: Option<Compaction>,
    report: Report,
}

impl Compactor<'_> {
    async fn pass(&mut self, settings: &CompactSettings, scratch: &Path, now_ms: i64) -> Result<(), CompactError> {
        self.record = newest_compaction(self.store, self.shard, self.number()).await?;
        self.cover().await?;
        if self.record.is_none() {
            return Ok(());
        }
        for table in Table::ALL {
            let listed = self.listed(table).await?;
            for planned in plan(&listed, settings, now_ms) {
                self.merge(&planned, scratch).await?;
            }
        }
        self.delete_replaced(now_ms.saturating_sub(settings.grace_ms)).await?;
        self.report.swept += sweep::sweep(self.store, self.shard, self.record.as_ref()).await?;
        (self.report.manifest, self.report.compaction) = (self.manifest(), self.number());
        Ok(())
    }

    fn number(&self) -> u64 {
        self.record.as_ref().map_or(0, |r| r.number)
    }

    fn manifest(&self) -> u64 {
        self.record.as_ref().map_or(0, |r| r.manifest)
    }

    /// Number of the first manifest that no record covers.
    async fn first(&self) -> Result<u64, CompactError> {
        match self.manifest() {
            0 => Ok(first_number(self.store, self.shard).await?.unwrap_or(1)),
            covered => Ok(covered + 1),
        }
    }

    async fn listed(&self, table: Table) -> Result<Vec<Listed>, CompactError> {
        let parts = self.record.iter().flat_map(|r| &r.parts).filter(|p| p.table == table);
        let mut listed = read_parts(self.store, parts).await?;
        listed.sort_by_key(|l| l.manifest);
        Ok(listed)
    }

    /// Takes all manifests into the records that there are by now.
    async fn cover(&mut self) -> Result<(), CompactError> {
        let newest = newest_number(self.store, self.shard, self.manifest()).await?.unwrap_or(0);
        while self.manifest() < newest {
            let first = self.first().await?;
            let last = newest.min(first - 1 + MANIFESTS_PER_RECORD_MAX);
            let added = read_listed(self.store, self.shard, first, last).await?;
            self.write(Change { manifest: last, added, ..Change::default() }).await?;
        }
        Ok(())
    }

    async fn merge(&mut self, planned: &Merge, scratch: &Path) -> Result<(), CompactError> {
        let mut rest = planned.objects.as_slice();
        // Several files only if a column has changed its type on the way.
        while rest.len() > 1 {
            let done = self.merge_first(&planned.partition, rest, scratch).await?;
            rest = &rest[done..];
        }
        Ok(())
    }

    /// Gives back how many of the objects went into one file.
    async fn merge_first(
        &mut self,
        partition: &Partition,
        objects: &[Listed],
        scratch: &Path,
    ) -> Result<usize, CompactError> {
        let disk = |reason| CompactError::Scratch { folder: scratch.to_owned(), reason };
        let folder = tempfile::tempdir_in(scratch).map_err(disk)?;
        let inputs = self.download(objects, folder.path()).await?;
        let path = folder.path().join("merged");
        let output = path.clone();
        let merging = tokio::task::spawn_blocking(move || merge(&inputs, &output));
        let merged = merging.await.map_err(|_| CompactError::Interrupted)??;
        let replaced = objects[..merged.inputs].to_vec();
        let key = partition.merged_key(self.number() + 1, rand::random());
        if replaced.len() > 1
            && let Some(by) = merged.listed(key, &replaced)
        {
            self.replace(Replacement { by, replaced, digest: merged.digest }, &path).await?;
        }
        Ok(merged.inputs)
    }

    async fn replace(&mut self, replacement: Replacement, file: &Path) -> Result<(), CompactError> {
        replacement.check()?;
        let (key, count) = (replacement.by.object.object.key.clone(), replacement.replaced.len() as u64);
        self.store.put_file(&key, file).await?;
        let change = Change { manifest: self.manifest(), replacements: vec![replacement], ..Change::default() };
        let written = self.write(change).await;
        if let Err(CompactError::Lost | CompactError::List(ListError::PartGone { .. })) = written {
            // Nobody else can form this key, and no record will name it.
            self.store.delete(&key).await?;
        }
        written?;
        self.report.merged += 1;
        self.report.replaced += count;
        Ok(())
    }

    async fn download(&self, objects: &[Listed], folder: &Path) -> Result<Vec<Input>, CompactError> {
        let one = |(n, listed): (usize, &Listed)| {
            let (listed, path) = (listed.clone(), folder.join(n.to_string()));
            async move {
                match self.store.get_file(&listed.object.object.key, &path).await? {
                    Some(_) => Ok(Input { listed, path }),
                    None => Err(self.gone(listed.object.object.key).await?),
                }
            }
        };
        let downloads: Vec<_> = objects.iter().enumerate().map(one).collect();
        stream::iter(downloads).buffered(DOWNLOADS_IN_FLIGHT_MAX).try_collect().await
    }

    /// Replaced and deleted by another compactor, or truly gone?
    async fn gone(&self, key: String) -> Result<CompactError, CompactError> {
        let newest = newest_compaction(self.store, self.shard, self.number()).await?;
        let lost = newest.is_some_and(|r| r.number > self.number());
        Ok(if lost { CompactError::Lost } else { CompactError::Gone { key } })
    }

    async fn delete_replaced(&mut self, until_ms: i64) -> Result<(), CompactError> {
        let retired = self.record.iter().flat_map(|r| &r.retired).filter(|r| r.since_ms <= until_ms);
        let numbers: Vec<u64> = retired.map(|r| r.compaction).collect();
        let keys = replaced_keys(self.store, self.shard, &numbers).await?;
        if numbers.is_empty() {
            return Ok(());
        }
        delete(self.store, &keys).await?;
        self.write(Change { manifest: self.manifest(), deleted: numbers, ..Change::default() }).await?;
        self.report.deleted += keys.len() as u64;
        Ok(())
    }

    /// The next record, which counts from here on. [`CompactError::Lost`]: there is another one of its number.
    async fn write(&mut self, change: Change) -> Result<(), CompactError> {
        let (number, written_ms) = (self.number() + 1, wall_now_ms());
        let archive = match &self.record {
            Some(record) => record.archive,
            None => {
                let number = self.first().await?;
                let first = read_manifest(self.store, self.shard, number).await?;
                first.ok_or(ListError::Hole { number })?.archive
            }
        };
        let before = self.record.as_ref();
        let parts = changed(self.store, self.shard, number, before.map_or(&[], |r| &r.parts), &change).await?;
        let mut retired = before.map(|r| r.retired.clone()).unwrap_or_default();
        retired.retain(|r| !change.deleted.contains(&r.compaction));
        if !change.replacements.is_empty() {
            retired.push(Retired { compaction: number, since_ms: written_ms });
        }
        let Change { manifest, replacements, deleted, .. } = change;
        let (version, shard) = (COMPACTION_VERSION, self.shard);
        let record =
            Compaction { version, archive, shard, number, written_ms, manifest, parts, replacements, retired, deleted };
        let bytes = Bytes::from(record.encode()?);
        if bytes.len() > COMPACTION_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes: bytes.len() }.into());
        }
        match self.store.put_if_absent(&record.key(), bytes.clone()).await? {
            PutOutcome::Created => {}
            // An earlier try of this very write.
            PutOutcome::Exists if self.store.get(&record.key()).await? == Some(bytes) => {}
            PutOutcome::Exists => return Err(CompactError::Lost),
        }
        self.record = Some(record);
        Ok(())
    }
}

/// Keys of the objects that these records have replaced.
async fn replaced_keys(store: &dyn Objects, shard: Shard, records: &[u64]) -> Result<BTreeSet<String>, CompactError> {
    let mut keys = BTreeSet::new();
    for number in records {
        let record = read_compaction(store, shard, *number).await?.ok_or(ListError::Hole { number: *number })?;
        let replaced = record.replacements.into_iter().flat_map(|r| r.replaced);
        keys.extend(replaced.map(|l| l.object.object.key));
    }
    Ok(keys)
}

async fn delete(store: &dyn Objects, keys: impl IntoIterator<Item = &String>) -> Result<(), CompactError> {
    let deletes: Vec<_> = keys.into_iter().map(|key| store.delete(key)).collect();
    stream::iter(deletes).buffer_unordered(READS_IN_FLIGHT_MAX).try_collect::<()>().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
