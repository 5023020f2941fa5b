//! The exact list of the archive's objects: the newest compaction record's parts, and the manifests after it. Whoever
//! reads the archive has its list from here.
//!
//! Requests: twice the logarithm of the commits and of the compactions, one a part (a table's month), and one a manifest
//! after the record.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proto::archive::{
    Manifest, ManifestError, Shard, Table,
    compaction::{COMPACTION_BYTES_MAX, Compaction, Listed, Part, compaction_key},
};
use sha2::{Digest, Sha256};

use super::{
    StoreError,
    manifests::{ReadError, first_number, newest_layout, newest_number, newest_of, read_manifest},
    objects::Objects,
};

pub const READS_IN_FLIGHT_MAX: usize = 32;
/// A compactor may take away a part while it is being read; then there is a newer record.
const RESOLVE_ATTEMPTS_MAX: u32 = 8;

/// What counts, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The newest manifest of it.
    pub manifest: u64,
    /// The compaction record that it starts from; 0: none.
    pub compaction: u64,
    pub objects: Vec<Listed>,
}

#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Manifest(#[from] ReadError),
    #[error("manifest {number} is missing")]
    Hole { number: u64 },
    #[error("{key}: {error}")]
    Compaction { key: String, error: ManifestError },
    #[error("{key}: a list of objects that is named by a compaction record and is gone")]
    PartGone { key: String },
    #[error("{key}: not what its compaction record says")]
    PartChanged { key: String },
}

/// None: the archive is empty. Only objects of `tables`.
pub async fn resolve(store: &dyn Objects, shard: Shard, tables: &[Table]) -> Result<Option<Listing>, ListError> {
    let mut attempt = 1;
    loop {
        match resolve_once(store, shard, tables).await {
            Err(ListError::PartGone { .. }) if attempt < RESOLVE_ATTEMPTS_MAX => attempt += 1,
            resolved => return resolved,
        }
    }
}

/// What counts of all shards that there ever were, or of one; none: there is no manifest. In an order in which every
/// agent's log is in order: a successor's manifests are numbered above its predecessors'.
pub async fn resolve_all(
    store: &dyn Objects,
    only: Option<Shard>,
    tables: &[Table],
) -> Result<Option<Vec<Listed>>, ListError> {
    let mut all = None;
    for shard in shards(store, only).await? {
        if let Some(listing) = resolve(store, shard, tables).await? {
            all.get_or_insert_with(Vec::new).extend(listing.objects);
        }
    }
    if let Some(objects) = &mut all {
        objects.sort_by_key(|l| l.manifest);
    }
    Ok(all)
}

/// Every shard that there ever was, predecessors before successors; or the one that is asked for.
pub async fn shards(store: &dyn Objects, only: Option<Shard>) -> Result<Vec<Shard>, ReadError> {
    match only {
        Some(shard) => Ok(vec![shard]),
        None => Ok(newest_layout(store).await?.shards.into_iter().map(|d| d.shard).collect()),
    }
}

async fn resolve_once(store: &dyn Objects, shard: Shard, tables: &[Table]) -> Result<Option<Listing>, ListError> {
    // Before the manifests: a record covers only manifests that were there when it was written.
    let record = newest_compaction(store, shard, 0).await?;
    let covered = record.as_ref().map_or(0, |r| r.manifest);
    let Some(newest) = newest_number(store, shard, covered).await? else { return Ok(None) };
    let parts = record.iter().flat_map(|r| &r.parts).filter(|p| tables.contains(&p.table));
    let mut objects = read_parts(store, parts).await?;
    let first = if covered > 0 { covered + 1 } else { first_number(store, shard).await?.unwrap_or(1) };
    let tail = read_listed(store, shard, first, newest).await?;
    objects.extend(tail.into_iter().filter(|l| tables.contains(&l.object.table)));
    // Stable: what one manifest names stays in its order.
    objects.sort_by_key(|l| l.manifest);
    Ok(Some(Listing { manifest: newest, compaction: record.map_or(0, |r| r.number), objects }))
}

/// What a manifest adds.
pub fn listed(manifest: &Manifest) -> impl Iterator<Item = Listed> + '_ {
    let (number, committed_ms) = (manifest.number, manifest.written_ms);
    manifest.objects.iter().map(move |o| Listed { manifest: number, committed_ms, digest: None, object: o.clone() })
}

/// None: nothing was ever compacted. `known`: a record that is known to exist, or 0.
pub async fn newest_compaction(store: &dyn Objects, shard: Shard, known: u64) -> Result<Option<Compaction>, ListError> {
    match newest_of(store, |number| compaction_key(shard, number), known).await? {
        Some(number) => read_compaction(store, shard, number).await,
        None => Ok(None),
    }
}

/// None: there is no record of this number.
pub async fn read_compaction(store: &dyn Objects, shard: Shard, number: u64) -> Result<Option<Compaction>, ListError> {
    let key = compaction_key(shard, number);
    let Some(bytes) = store.get(&key).await? else { return Ok(None) };
    let record = Compaction::decode(&bytes, number).map_err(|error| ListError::Compaction { key, error })?;
    Ok(Some(record))
}

/// What those manifests add, which exist; the rest of them is let go at once.
pub async fn read_listed(store: &dyn Objects, shard: Shard, first: u64, last: u64) -> Result<Vec<Listed>, ListError> {
    let read = |number| async move {
        let manifest = read_manifest(store, shard, number).await?.ok_or(ListError::Hole { number })?;
        Ok::<_, ListError>(listed(&manifest).collect::<Vec<_>>())
    };
    let lists: Vec<Vec<Listed>> =
        stream::iter((first..=last).map(read)).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}

pub async fn read_parts(store: &dyn Objects, parts: impl IntoIterator<Item = &Part>) -> Result<Vec<Listed>, ListError> {
    // Collected, since the futures outlive the borrow of the iterator.
    let reads: Vec<_> = parts.into_iter().map(|part| read_part(store, part)).collect();
    let lists: Vec<Vec<Listed>> = stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}

async fn read_part(store: &dyn Objects, part: &Part) -> Result<Vec<Listed>, ListError> {
    let key = || part.list.key.clone();
    let bytes = store.get(&part.list.key).await?.ok_or_else(|| ListError::PartGone { key: key() })?;
    let objects = decode_part(&bytes, part).map_err(|error| ListError::Compaction { key: key(), error })?;
    objects.ok_or_else(|| ListError::PartChanged { key: key() })
}

/// None: it is not the part that was named.
fn decode_part(bytes: &Bytes, part: &Part) -> Result<Option<Vec<Listed>>, ManifestError> {
    if bytes.len() > COMPACTION_BYTES_MAX {
        return Err(ManifestError::TooLarge { bytes: bytes.len() });
    }
    let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    if sha256 != part.list.sha256 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(bytes)?))
}
