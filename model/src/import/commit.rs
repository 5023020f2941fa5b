//! Commits of an import: numbered manifests that are written only if there is none of their number.
//!
//! What is written follows from the mapping and the files alone, so that an import that was cut short is gone on with,
//! and the same one is never written twice.

use bytes::Bytes;
use proto::{
    ack::ArchiveId,
    archive::{
        AgentPosition, Balance, DataObject, MANIFEST_VERSION, Manifest, ManifestKind, ObjectRef, Shard, Table,
        manifest_key, object_key, shards::Slots,
    },
    position::{Epoch, Position},
};
use sha2::{Digest, Sha256};

use super::{ImportError, block::Part, mapping::Mapping};
use crate::store::{
    PutOutcome,
    manifests::{newest_number, read_manifest},
    objects::Objects,
};

/// The import is the first and only writer of its archive.
const INCARNATION: u64 = 1;
const OWNER: &str = "model-import";

pub struct Commits<'a> {
    store: &'a dyn Objects,
    mapping: &'a Mapping,
    archive: ArchiveId,
    wall_ms: i64,
    /// Of the manifest that comes next.
    number: u64,
    /// Up to here they are there already.
    there: u64,
}

impl<'a> Commits<'a> {
    /// Takes the archive, or goes on with what the same import began; one that has other data is refused.
    pub async fn begin(
        store: &'a dyn Objects,
        mapping: &'a Mapping,
        archive: ArchiveId,
        wall_ms: i64,
    ) -> Result<Self, ImportError> {
        let there = newest_number(store, Shard::FIRST, 0).await?.unwrap_or(0);
        let mut commits = Commits { store, mapping, archive, wall_ms, number: 1, there };
        if there > 0 {
            let first = commits.read(1).await?;
            if first.archive != archive {
                return Err(ImportError::Taken { number: 1 });
            }
            if commits.read(there).await?.kind == ManifestKind::Released {
                return Err(ImportError::Imported);
            }
        }
        commits.put(ManifestKind::Takeover, vec![], Balance::default()).await?;
        Ok(commits)
    }

    /// What distinguishes the batch of this commit from others.
    pub fn seq(&self) -> u64 {
        self.number
    }

    /// Whether the next commit is there from an earlier try.
    pub fn is_there(&self) -> bool {
        self.number <= self.there
    }

    /// Passes over a commit that is there.
    pub fn skip(&mut self) {
        self.number += 1;
    }

    pub async fn commit(&mut self, parts: Vec<Part>) -> Result<(), ImportError> {
        let (mut objects, mut readings) = (Vec::with_capacity(parts.len()), 0);
        for (n, part) in (0..).zip(parts) {
            // Like no other commit's, and at another try the same.
            let n = self.number * u64::from(u32::MAX) + n;
            let key = object_key(part.table, &self.mapping.site, &part.date, Shard::FIRST, INCARNATION, n);
            let (bytes, sha256) = (part.bytes.len() as u64, hex(&Sha256::digest(&part.bytes)));
            self.store.put(&key, part.bytes.into()).await?;
            readings += if part.table == Table::Readings { part.rows } else { 0 };
            objects.push(DataObject {
                table: part.table,
                object: ObjectRef { key, bytes, sha256 },
                rows: part.rows,
                min_time_ms: part.min_time_ms,
                max_time_ms: part.max_time_ms,
            });
        }
        let balance =
            Balance { batches: 1, readings_taken: readings, readings_archived: readings, readings_dead_lettered: 0 };
        self.put(ManifestKind::Commit, objects, balance).await
    }

    /// Whoever comes next need not wait.
    pub async fn end(mut self) -> Result<(), ImportError> {
        self.put(ManifestKind::Released, vec![], Balance::default()).await
    }

    async fn put(&mut self, kind: ManifestKind, objects: Vec<DataObject>, balance: Balance) -> Result<(), ImportError> {
        let manifest = self.manifest(kind, objects, balance);
        let bytes = Bytes::from(manifest.encode().map_err(|e| ImportError::Manifest(e.to_string()))?);
        if self.store.put_if_absent(&manifest.key(), bytes).await? == PutOutcome::Exists {
            // This import's own, from a try before; or another writer was faster.
            let found = self.read(self.number).await?;
            if (found.archive, found.kind, &found.objects) != (self.archive, kind, &manifest.objects) {
                return Err(ImportError::Taken { number: self.number });
            }
        }
        self.number += 1;
        Ok(())
    }

    fn manifest(&self, kind: ManifestKind, objects: Vec<DataObject>, balance: Balance) -> Manifest {
        let position = Position { epoch: Epoch(self.archive.0), seq: self.number };
        let (site, agent) = (self.mapping.site.clone(), self.mapping.source.clone());
        Manifest {
            version: MANIFEST_VERSION,
            archive: self.archive,
            shard: Shard::FIRST,
            number: self.number,
            incarnation: INCARNATION,
            kind,
            owner: OWNER.into(),
            written_ms: self.wall_ms,
            objects,
            agents: vec![AgentPosition { site, agent, position }],
            snapshot: None,
            balance,
            slots: Slots::ALL,
            successors: vec![],
            predecessors: vec![],
        }
    }

    async fn read(&self, number: u64) -> Result<Manifest, ImportError> {
        let read = read_manifest(self.store, Shard::FIRST, number).await?;
        read.ok_or_else(|| ImportError::Manifest(format!("{} is missing", manifest_key(Shard::FIRST, number))))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
