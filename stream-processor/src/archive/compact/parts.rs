//! The parts of the next record: those of the record before it, but for the months that change.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::store::{listing::read_parts, objects::Objects};
use proto::archive::{
    ManifestError, ObjectRef, Shard, Table,
    compaction::{Listed, PART_OBJECTS_MAX, Part, Partition, Replacement, part_key},
};

use super::{super::parquet::sha256, CompactError};

/// What a record does.
#[derive(Debug, Default)]
pub struct Change {
    /// The newest manifest that it covers.
    pub manifest: u64,
    /// By manifests that no record covered before.
    pub added: Vec<Listed>,
    pub replacements: Vec<Replacement>,
    /// Records whose replaced objects are gone.
    pub deleted: Vec<u64>,
}

/// A table's month.
type Month = (Table, String);

pub async fn changed(
    store: &dyn Objects,
    shard: Shard,
    number: u64,
    before: &[Part],
    change: &Change,
) -> Result<Vec<Part>, CompactError> {
    let mut months: BTreeMap<Month, (Vec<Listed>, Vec<&Replacement>)> = BTreeMap::new();
    for listed in &change.added {
        months.entry(month(listed)?).or_default().0.push(listed.clone());
    }
    for replacement in &change.replacements {
        months.entry(month(&replacement.by)?).or_default().1.push(replacement);
    }
    let is_changed = |p: &&Part| months.contains_key(&(p.table, p.month.clone()));
    let (old, mut parts): (Vec<&Part>, Vec<&Part>) = before.iter().partition(is_changed);
    let mut new = Vec::new();
    for (month, (added, replacements)) in &months {
        let of_month: Vec<&Part> = old.iter().filter(|p| (p.table, &p.month) == (month.0, &month.1)).copied().collect();
        let mut listed = read_parts(store, of_month.iter().copied()).await?;
        listed.extend(added.iter().cloned());
        replacements.iter().try_for_each(|r| r.apply(&mut listed))?;
        for (part, bytes) in split(shard, number, month, listed)? {
            match of_month.iter().find(|p| p.list.sha256 == part.list.sha256) {
                Some(same) => parts.push(same),
                None => {
                    store.put(&part.list.key, bytes).await?;
                    new.push(part);
                }
            }
        }
    }
    let mut parts: Vec<Part> = parts.into_iter().cloned().chain(new).collect();
    parts.sort_by(|a, b| (a.table, &a.month, &a.list.key).cmp(&(b.table, &b.month, &b.list.key)));
    Ok(parts)
}

/// By day and in the order of the log, so that what is added comes at the end and most parts stay as they are.
fn split(
    shard: Shard,
    number: u64,
    (table, month): &Month,
    mut listed: Vec<Listed>,
) -> Result<Vec<(Part, Bytes)>, CompactError> {
    let date = |l: &Listed| Partition::of_key(&l.object.object.key).map(|(partition, _)| partition.date);
    listed.sort_by_cached_key(|l| (date(l), l.manifest, l.object.object.key.clone()));
    let part = |objects: &[Listed]| {
        let bytes = Bytes::from(serde_json::to_vec(objects).map_err(ManifestError::from)?);
        let sha256 = sha256(&bytes);
        let list = ObjectRef { key: part_key(shard, number, &sha256), bytes: bytes.len() as u64, sha256 };
        let part = Part { table: *table, month: month.clone(), objects: objects.len() as u64, list };
        Ok((part, bytes))
    };
    listed.chunks(PART_OBJECTS_MAX).map(part).collect()
}

fn month(listed: &Listed) -> Result<Month, CompactError> {
    let key = &listed.object.object.key;
    let (partition, _) = Partition::of_key(key).ok_or_else(|| CompactError::Key { key: key.clone() })?;
    Ok((partition.table, partition.month().to_owned()))
}
