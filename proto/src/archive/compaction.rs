//! The compaction sequence of a shard: a second sequence of numbered records beside the commits', written put-if-absent
//! like them, which takes no number of theirs and loses no row.
//!
//! Record `n` says which objects hold the rows of all manifests up to [`Compaction::manifest`]: the commits' own, and
//! merged ones in place of those that [`Replacement`]s of this and earlier records name. So the newest record is a
//! checkpoint of the manifests' history, and the archive is *the newest record's parts + the manifests after it*.
//! The list itself is in *parts*, by table and month, which a record names and shares with the records before it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{DataObject, ManifestError, ObjectRef, Shard, Table, decode_numbered, manifest_prefix};
use crate::{ack::ArchiveId, asset::AssetId};

pub const COMPACTION_VERSION: u32 = 1;
/// Larger records and parts are refused unread.
pub const COMPACTION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Objects that one part lists; a month with more has several parts.
pub const PART_OBJECTS_MAX: usize = 20_000;

const MERGED: &str = "compact";

/// `manifest/v1/shard=NN/compact/{n:020}.json`.
pub fn compaction_key(shard: Shard, number: u64) -> String {
    format!("{}compact/{number:020}.json", manifest_prefix(shard))
}

pub fn parts_prefix(shard: Shard) -> String {
    format!("{}compact/parts/", manifest_prefix(shard))
}

/// Named by content, so that two compactors that write the same key write the same part.
pub fn part_key(shard: Shard, number: u64, sha256: &str) -> String {
    format!("{}{number:020}-{sha256}.json", parts_prefix(shard))
}

/// Number of the record that was to name this part first; none: the key is not a part's.
pub fn part_number(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?.strip_suffix(".json")?;
    name.split_once('-')?.0.parse().ok()
}

/// Where an object belongs, as its key has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    pub table: Table,
    pub site: AssetId,
    pub date: String,
    pub shard: Shard,
}

/// Who formed a key, and which number made it his alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Commit {
        incarnation: u64,
        n: u64,
    },
    /// `number`: of the record that was to name it.
    Compaction {
        number: u64,
        nonce: u64,
    },
}

impl Partition {
    fn folder(&self) -> String {
        format!("site={}/date={}/shard={:02}", self.site, self.date, self.shard.0)
    }

    pub fn merged_key(&self, number: u64, nonce: u64) -> String {
        format!("{}{}/{MERGED}-{number:020}-{nonce:016x}.parquet", table_prefix(self.table), self.folder())
    }

    /// The list of the partition's objects for readers that know symlink manifests.
    pub fn symlink_key(&self) -> String {
        format!("{}{}/manifest", symlink_prefix(self.table), self.folder())
    }

    /// None: no object of a table has such a key.
    pub fn of_key(key: &str) -> Option<(Partition, Origin)> {
        let (partition, name) = Self::of_folder(key.strip_prefix("archive/v1/")?)?;
        Some((partition, Origin::of_name(name.strip_suffix(".parquet")?)?))
    }

    /// None: no symlink manifest has such a key.
    pub fn of_symlink_key(key: &str) -> Option<Partition> {
        let key = key.strip_prefix("archive/v1/")?.replacen("/_symlink_format_manifest/", "/", 1);
        Self::of_folder(&key).filter(|(_, name)| *name == "manifest").map(|(partition, _)| partition)
    }

    fn of_folder(key: &str) -> Option<(Partition, &str)> {
        let mut steps = key.split('/');
        let table = steps.next()?;
        let table = Table::ALL.into_iter().find(|t| t.folder() == table)?;
        let site = AssetId::new(steps.next()?.strip_prefix("site=")?).ok()?;
        let date = steps.next()?.strip_prefix("date=")?.to_owned();
        let shard = Shard(steps.next()?.strip_prefix("shard=")?.parse().ok()?);
        let name = steps.next().filter(|_| steps.next().is_none())?;
        Some((Partition { table, site, date, shard }, name))
    }

    /// `2026-01`.
    pub fn month(&self) -> &str {
        self.date.rsplit_once('-').map_or(&self.date, |(month, _)| month)
    }
}

impl Origin {
    fn of_name(name: &str) -> Option<Self> {
        match name.strip_prefix(MERGED).and_then(|rest| rest.strip_prefix('-')) {
            Some(rest) => {
                let (number, nonce) = rest.split_once('-')?;
                Some(Origin::Compaction { number: number.parse().ok()?, nonce: u64::from_str_radix(nonce, 16).ok()? })
            }
            None => {
                let (incarnation, n) = name.split_once('-')?;
                Some(Origin::Commit { incarnation: incarnation.parse().ok()?, n: n.parse().ok()? })
            }
        }
    }
}

/// `archive/v1/readings/`.
pub fn table_prefix(table: Table) -> String {
    format!("archive/v1/{}/", table.folder())
}

/// Below the table, where Athena, Trino and Spark look for lists of objects.
pub fn symlink_prefix(table: Table) -> String {
    format!("{}_symlink_format_manifest/", table_prefix(table))
}

/// The sum of the rows' hashes, modulo 2^128: the same for the same rows in any order and in any files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowsDigest(pub u128);

impl RowsDigest {
    pub fn plus(self, other: RowsDigest) -> RowsDigest {
        RowsDigest(self.0.wrapping_add(other.0))
    }
}

impl std::fmt::Display for RowsDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TryFrom<String> for RowsDigest {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(RowsDigest)
    }
}

impl From<RowsDigest> for String {
    fn from(digest: RowsDigest) -> Self {
        digest.to_string()
    }
}

/// An object whose rows count, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The manifest that named it; of a merged one, the first that named a row of it. The order of the log.
    pub manifest: u64,
    /// Wall time of that commit, ms; of a merged one, of its newest row's.
    pub committed_ms: i64,
    /// Of merged objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<RowsDigest>,
    #[serde(flatten)]
    pub object: DataObject,
}

/// A list of objects, all of one table and month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub table: Table,
    pub month: String,
    pub objects: u64,
    #[serde(flatten)]
    pub list: ObjectRef,
}

/// One object in place of several, with the very same rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub by: Listed,
    pub replaced: Vec<Listed>,
    /// Of all rows of `replaced`.
    pub digest: RowsDigest,
}

/// The replaced objects of a record wait for their deletion, so that whoever still has an older list can read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    pub compaction: u64,
    /// Wall time, ms.
    pub since_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    pub version: u32,
    pub archive: ArchiveId,
    pub shard: Shard,
    pub number: u64,
    /// Wall time, ms.
    pub written_ms: i64,
    /// The parts list the rows of all manifests up to this one.
    pub manifest: u64,
    pub parts: Vec<Part>,
    pub replacements: Vec<Replacement>,
    /// Records whose replaced objects may still be there.
    pub retired: Vec<Retired>,
    /// Records whose replaced objects are deleted, as of this record.
    pub deleted: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReplacement {
    #[error("{by}: {rows} rows in place of {replaced}")]
    Rows { by: String, rows: u64, replaced: u64 },
    #[error("{by}: its rows are not those of what it replaces")]
    Digest { by: String },
    #[error("{key} is replaced and not listed")]
    NotListed { key: String },
    #[error("{key} is replaced by an object of another partition")]
    Partition { key: String },
}

impl Replacement {
    /// As far as the record alone can tell.
    pub fn check(&self) -> Result<(), InvalidReplacement> {
        let by = self.by.object.object.key.clone();
        let place = Partition::of_key(&by).map(|(partition, _)| partition);
        let elsewhere = |l: &&Listed| Partition::of_key(&l.object.object.key).map(|(p, _)| p) != place;
        if let Some(stray) = self.replaced.iter().find(elsewhere) {
            return Err(InvalidReplacement::Partition { key: stray.object.object.key.clone() });
        }
        let (rows, replaced) = (self.by.object.rows, self.replaced.iter().map(|l| l.object.rows).sum());
        if rows != replaced {
            return Err(InvalidReplacement::Rows { by, rows, replaced });
        }
        if self.by.digest != Some(self.digest) {
            return Err(InvalidReplacement::Digest { by });
        }
        Ok(())
    }

    /// Puts it into effect on a list that has all of `replaced`.
    pub fn apply(&self, listed: &mut Vec<Listed>) -> Result<(), InvalidReplacement> {
        self.check()?;
        let mut gone: BTreeSet<&str> = self.replaced.iter().map(|l| l.object.object.key.as_str()).collect();
        listed.retain(|l| !gone.remove(l.object.object.key.as_str()));
        if let Some(key) = gone.pop_first() {
            return Err(InvalidReplacement::NotListed { key: key.to_owned() });
        }
        listed.push(self.by.clone());
        Ok(())
    }
}

impl Compaction {
    pub fn key(&self) -> String {
        compaction_key(self.shard, self.number)
    }

    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(serde_json::to_vec(self)?)
    }

    pub fn decode(bytes: &[u8], number: u64) -> Result<Self, ManifestError> {
        decode_numbered(bytes, COMPACTION_BYTES_MAX, COMPACTION_VERSION, number, |record: &Compaction| record.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::object_key;

    fn partition() -> Partition {
        let site = AssetId::new("mill").unwrap();
        Partition { table: Table::DeadLetter, site, date: "2026-01-31".into(), shard: Shard(7) }
    }

    fn listed(key: String, rows: u64, digest: Option<u128>) -> Listed {
        let object = ObjectRef { key, bytes: 9, sha256: "00".into() };
        let object = DataObject { table: Table::DeadLetter, object, rows, min_time_ms: 1, max_time_ms: 2 };
        Listed { manifest: 3, committed_ms: 4, digest: digest.map(RowsDigest), object }
    }

    fn commit(n: u64) -> Listed {
        let p = partition();
        listed(object_key(p.table, &p.site, &p.date, p.shard, 5, n), n, None)
    }

    fn replacement() -> Replacement {
        let by = listed(partition().merged_key(12, 255), 3, Some(77));
        Replacement { by, replaced: vec![commit(1), commit(2)], digest: RowsDigest(77) }
    }

    #[test]
    fn keys_say_where_an_object_belongs_and_who_wrote_it() {
        let of = |key: &str| Partition::of_key(key).unwrap();
        assert_eq!(of(&commit(9).object.object.key), (partition(), Origin::Commit { incarnation: 5, n: 9 }));
        let merged = partition().merged_key(12, 255);
        assert_eq!(
            merged,
            "archive/v1/dead-letter/site=mill/date=2026-01-31/shard=07/compact-00000000000000000012-00000000000000ff.parquet"
        );
        assert_eq!(of(&merged), (partition(), Origin::Compaction { number: 12, nonce: 255 }));
        assert_eq!(partition().month(), "2026-01");
        for strange in
            ["archive/v1/snapshot/shard=00/1-1.bin", &partition().symlink_key(), "models/a/b/c", &merged[1..]]
        {
            assert_eq!(Partition::of_key(strange), None, "{strange}");
        }
        assert_eq!(Partition::of_symlink_key(&partition().symlink_key()), Some(partition()));
        assert_eq!(compaction_key(Shard(0), 2), "manifest/v1/shard=00/compact/00000000000000000002.json");
        assert_eq!(part_number(&part_key(Shard(0), 2, "ab")), Some(2));
    }

    #[test]
    fn records_survive_json() {
        let list = ObjectRef { key: part_key(Shard(7), 2, "ab"), bytes: 3, sha256: "ab".into() };
        let record = Compaction {
            version: COMPACTION_VERSION,
            archive: ArchiveId([1; 16]),
            shard: Shard(7),
            number: 2,
            written_ms: 5,
            manifest: 40,
            parts: vec![Part { table: Table::DeadLetter, month: "2026-01".into(), objects: 1, list }],
            replacements: vec![replacement()],
            retired: vec![Retired { compaction: 2, since_ms: 5 }],
            deleted: vec![1],
        };
        let bytes = record.encode().unwrap();
        assert_eq!(Compaction::decode(&bytes, 2).unwrap(), record);
        assert!(matches!(Compaction::decode(&bytes, 3), Err(ManifestError::Number { .. })));
    }

    #[test]
    fn only_equal_rows_of_listed_objects_of_one_partition_are_replaced() {
        let mut list = vec![commit(1), commit(2), commit(3)];
        replacement().apply(&mut list).unwrap();
        assert_eq!(list, [commit(3), replacement().by]);
        assert!(matches!(replacement().apply(&mut list), Err(InvalidReplacement::NotListed { .. })));
        let changed = |change: fn(&mut Replacement)| {
            let mut r = replacement();
            change(&mut r);
            r.check().unwrap_err()
        };
        assert!(matches!(changed(|r| r.by.object.rows = 4), InvalidReplacement::Rows { rows: 4, replaced: 3, .. }));
        assert!(matches!(changed(|r| r.by.digest = None), InvalidReplacement::Digest { .. }));
        assert!(matches!(changed(|r| r.digest = RowsDigest(1)), InvalidReplacement::Digest { .. }));
        let elsewhere = |r: &mut Replacement| {
            r.replaced[0].object.object.key = partition().merged_key(1, 1).replace("mill", "annex");
        };
        assert!(matches!(changed(elsewhere), InvalidReplacement::Partition { .. }));
    }
}
