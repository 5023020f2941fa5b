//! Is the archive what it says? Walks every manifest and every compaction record, resolves them without the checkpoints'
//! help, and looks at every object that counts.

mod audit;
mod objects;

use std::{fmt, path::Path};

use futures::{StreamExt, stream};
use model::store::{
    StoreError,
    listing::{ListError, READS_IN_FLIGHT_MAX, read_compaction, read_parts},
    manifests::{ReadError, first_number, newest_number, newest_of, read_manifest},
    objects::Objects,
};
use proto::archive::{
    ManifestError, Predecessor, Shard,
    compaction::{InvalidReplacement, compaction_key},
    manifest_key,
};

use audit::Audit;

/// Walks, while compactors are at work.
const ATTEMPTS_MAX: u32 = 3;
/// More are only counted.
pub const FAULTS_KEPT_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("manifest {number} is missing")]
    Hole { number: u64 },
    #[error("manifest {number}: {reason}")]
    Manifest { number: u64, reason: String },
    #[error("manifest {number}: {taken} readings taken, {archived} archived + {dead_lettered} dead-lettered")]
    Balance { number: u64, taken: u64, archived: u64, dead_lettered: u64 },
    #[error("manifest {number}: {rows} rows of readings, {archived} readings archived")]
    Readings { number: u64, rows: u64, archived: u64 },
    #[error("manifest {number}: the position of {agent} falls from {from} to {to}, and no break is declared")]
    Position { number: u64, agent: String, from: String, to: String },
    #[error("manifest {number}: {agent} has no position any more")]
    AgentGone { number: u64, agent: String },
    #[error("manifest {number} names {key} again")]
    NamedTwice { number: u64, key: String },
    #[error("compaction record {number}: {reason}")]
    Compaction { number: u64, reason: String },
    #[error("compaction record {number}: {error}")]
    Replacement { number: u64, error: InvalidReplacement },
    #[error("compaction record {number}: its parts are not what manifests and replacements give: {key}")]
    Parts { number: u64, key: String },
    #[error("{key}: missing")]
    Missing { key: String },
    #[error("{key}: {reason}")]
    Object { key: String, reason: String },
}

#[derive(Debug, Default)]
pub struct Verified {
    pub manifests: u64,
    pub compactions: u64,
    /// The newest compaction record when the walk began, or 0.
    pub record: u64,
    pub objects: u64,
    pub bytes: u64,
    pub rows: u64,
    pub readings_taken: u64,
    pub readings_archived: u64,
    pub readings_dead_lettered: u64,
    /// The first [`FAULTS_KEPT_MAX`].
    pub faults: Vec<Fault>,
    pub faults_all: u64,
}

impl Verified {
    fn fault(&mut self, fault: Fault) {
        self.faults_all += 1;
        if self.faults.len() < FAULTS_KEPT_MAX {
            self.faults.push(fault);
        }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "manifests {}, compaction records {}", self.manifests, self.compactions)?;
        writeln!(f, "objects {}, rows {}, bytes {}", self.objects, self.rows, self.bytes)?;
        let (taken, archived) = (self.readings_taken, self.readings_archived);
        writeln!(f, "readings: {taken} taken = {archived} archived + {} dead-lettered", self.readings_dead_lettered)?;
        write!(f, "faults {}", self.faults_all)
    }
}

/// How much of an object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// That it is there, in its size.
    Sizes,
    /// Its checksum, its rows, and of merged ones the digest of the rows.
    Content,
}

/// Faults are in the outcome; an error is a question that S3 did not answer. `scratch`: a local folder. Holds the keys of
/// all objects that were ever named in memory.
pub async fn verify(store: &dyn Objects, shard: Shard, depth: Depth, scratch: &Path) -> Result<Verified, StoreError> {
    for _ in 1..ATTEMPTS_MAX {
        let verified = verify_once(store, shard, depth, scratch).await?;
        // A compactor that was at work meanwhile may have taken away what was being looked at.
        let newest = newest_record(store, shard).await?;
        if verified.faults.is_empty() || newest == verified.record {
            return Ok(verified);
        }
    }
    verify_once(store, shard, depth, scratch).await
}

async fn verify_once(store: &dyn Objects, shard: Shard, depth: Depth, scratch: &Path) -> Result<Verified, StoreError> {
    let mut audit = Audit::default();
    let first = first_number(store, shard).await?.unwrap_or(1);
    let (mut next, records) = (first, newest_record(store, shard).await?);
    audit.out.record = records;
    let mut newest = None;
    for number in 1..=records {
        match answered(read_compaction(store, shard, number).await)? {
            Ok(Some(record)) => {
                next = walk(store, shard, &mut audit, next, record.manifest).await?;
                audit.compaction(&record);
                newest = Some(record).filter(|r| r.number == records);
            }
            Ok(None) => audit.out.fault(Fault::Compaction { number, reason: "missing".into() }),
            Err(e) => audit.out.fault(Fault::Compaction { number, reason: e.to_string() }),
        }
    }
    if let Some(record) = newest {
        match answered(read_parts(store, &record.parts).await)? {
            Ok(listed) => audit.parts(record.number, listed),
            Err(e) => audit.out.fault(Fault::Compaction { number: record.number, reason: e.to_string() }),
        }
    }
    let newest = newest_number(store, shard, 0).await?.unwrap_or(0);
    walk(store, shard, &mut audit, next, newest).await?;
    descent(store, shard, &mut audit, first).await?;
    if has_more(store, &manifest_key(shard, newest)).await? {
        audit.out.fault(Fault::Hole { number: newest + 1 });
    }
    if has_more(store, &compaction_key(shard, records)).await? {
        audit.out.fault(Fault::Compaction { number: records + 1, reason: "missing".into() });
    }
    objects::look(store, audit, depth, scratch).await
}

/// Number of the newest compaction record, or 0.
async fn newest_record(store: &dyn Objects, shard: Shard) -> Result<u64, StoreError> {
    let newest = newest_of(store, |number| compaction_key(shard, number), 0).await?;
    Ok(newest.unwrap_or(0))
}

/// Is there a number behind a hole? The search for the newest one stops there.
async fn has_more(store: &dyn Objects, newest: &str) -> Result<bool, StoreError> {
    let Some((folder, _)) = newest.rsplit_once('/') else { return Ok(false) };
    let next = store.list(&format!("{folder}/"), Some(newest)).await?;
    // Numbers sort before the folders of other things.
    Ok(next.first().is_some_and(|o| !o.key[folder.len() + 1..].contains('/')))
}

/// Gives back the number to go on from.
async fn walk(store: &dyn Objects, shard: Shard, audit: &mut Audit, first: u64, last: u64) -> Result<u64, StoreError> {
    let read = |number| async move { (number, read_manifest(store, shard, number).await) };
    let mut manifests = stream::iter((first..=last).map(read)).buffered(READS_IN_FLIGHT_MAX);
    while let Some((number, manifest)) = manifests.next().await {
        match manifest {
            Ok(Some(manifest)) => audit.manifest(&manifest),
            Ok(None) => audit.out.fault(Fault::Hole { number }),
            Err(ReadError::Store(e)) => return Err(e),
            Err(ReadError::Manifest { error, .. }) => audit.out.fault(unreadable(number, &error)),
        }
    }
    Ok(first.max(last + 1))
}

/// Has a successor begun with exactly what its predecessors ended with?
async fn descent(store: &dyn Objects, shard: Shard, audit: &mut Audit, first: u64) -> Result<(), StoreError> {
    let opened = match read_manifest(store, shard, first).await {
        Ok(Some(opened)) => opened,
        Err(ReadError::Store(e)) => return Err(e),
        // A fault already, or an empty shard.
        Ok(None) | Err(ReadError::Manifest { .. }) => return Ok(()),
    };
    let mut closed = Vec::new();
    for Predecessor { shard, number } in &opened.predecessors {
        match read_manifest(store, *shard, *number).await {
            Ok(manifest) => closed.extend(manifest),
            Err(ReadError::Store(e)) => return Err(e),
            Err(ReadError::Manifest { error, .. }) => audit.out.fault(unreadable(*number, &error)),
        }
    }
    audit.descent(&opened, &closed);
    Ok(())
}

fn unreadable(number: u64, error: &ManifestError) -> Fault {
    Fault::Manifest { number, reason: error.to_string() }
}

/// What S3 answered may be a fault; that it did not answer is none.
fn answered<T>(read: Result<T, ListError>) -> Result<Result<T, ListError>, StoreError> {
    match read {
        Err(ListError::Store(e) | ListError::Manifest(ReadError::Store(e))) => Err(e),
        other => Ok(other),
    }
}
