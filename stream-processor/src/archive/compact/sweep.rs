//! Takes away what nothing can name any more. No clock: the numbers in the keys say who could.
//!
//! - An object of an earlier incarnation than the newest manifest's that no manifest has named: its writer is fenced.
//! - A merged object whose number has gone to a record that does not name it, and a part of the like.
//! - A snapshot from before the newest manifest's: recovery needs that one.
//!
//! What a commit or a compaction is just about to name has a higher number, and is left alone.

use std::collections::BTreeSet;

use model::store::{
    listing::{ListError, read_parts},
    manifests::read_manifest,
    objects::Objects,
};
use proto::archive::{
    Manifest, Shard, Table,
    compaction::{Compaction, Origin, Partition, part_number, parts_prefix, table_prefix},
    snapshot_place, snapshot_prefix,
};

use super::{CompactError, delete, replaced_keys};

/// Gives back how many objects are gone. The record covers all manifests up to one whose writer is the newest it knows.
pub async fn sweep(store: &dyn Objects, shard: Shard, record: Option<&Compaction>) -> Result<u64, CompactError> {
    let Some(record) = record else { return Ok(0) };
    let newest = read_manifest(store, shard, record.manifest).await?;
    let newest = newest.ok_or(ListError::Hole { number: record.manifest })?;
    let retired: Vec<u64> = record.retired.iter().map(|r| r.compaction).collect();
    let retired = replaced_keys(store, shard, &retired).await?;
    let mut swept = 0;
    for table in Table::ALL {
        let parts = record.parts.iter().filter(|p| p.table == table);
        let listed = read_parts(store, parts).await?;
        let named: BTreeSet<&str> = listed.iter().map(|l| l.object.object.key.as_str()).collect();
        let kept = |key: &str| named.contains(key) || retired.contains(key);
        swept +=
            remove(store, &table_prefix(table), |key| is_orphan(key, shard, &newest, record) && !kept(key)).await?;
    }
    let parts: BTreeSet<&str> = record.parts.iter().map(|p| p.list.key.as_str()).collect();
    let past = |key: &str| part_number(key).is_some_and(|number| number <= record.number);
    swept += remove(store, &parts_prefix(shard), |key| past(key) && !parts.contains(key)).await?;
    let named = newest.snapshot.as_ref().and_then(|s| snapshot_place(&s.key));
    let older = |key: &str| snapshot_place(key).is_some_and(|place| Some(place) < named);
    swept += remove(store, &snapshot_prefix(shard), older).await?;
    Ok(swept)
}

/// Unless it is named.
fn is_orphan(key: &str, shard: Shard, newest: &Manifest, record: &Compaction) -> bool {
    let Some((partition, origin)) = Partition::of_key(key) else { return false };
    let past = match origin {
        Origin::Commit { incarnation, .. } => incarnation < newest.incarnation,
        Origin::Compaction { number, .. } => number <= record.number,
    };
    past && partition.shard == shard
}

async fn remove(store: &dyn Objects, prefix: &str, goes: impl Fn(&str) -> bool) -> Result<u64, CompactError> {
    let (mut after, mut gone) = (None::<String>, 0);
    loop {
        let page = store.list(prefix, after.as_deref()).await?;
        let keys: Vec<String> = page.iter().filter(|o| goes(&o.key)).map(|o| o.key.clone()).collect();
        delete(store, &keys).await?;
        gone += keys.len() as u64;
        match page.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(gone),
        }
    }
}
