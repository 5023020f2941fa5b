//! The exact list of a table's objects, for whoever reads the archive without us.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt, stream};
use model::store::{
    StoreError,
    listing::{ListError, READS_IN_FLIGHT_MAX, resolve_all, shards},
    objects::Objects,
};
use proto::archive::{
    Shard, Table,
    compaction::{Listed, Partition, symlink_prefix},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One key a line
    Keys,
    /// One s3://bucket/key a line
    Uris,
    /// One JSON object a line: key, bytes, SHA-256, rows, times, manifest
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("the archive is empty: there is no manifest")]
    Empty,
}

/// What is wanted of a list; dates are those of the partitions, both ends included.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only partitions of this day and later, as 2026-01-31
    #[arg(long, value_name = "DATE")]
    from: Option<String>,
    /// Only partitions up to this day
    #[arg(long, value_name = "DATE")]
    to: Option<String>,
    #[arg(long)]
    site: Option<String>,
}

impl Filter {
    fn takes(&self, listed: &Listed) -> bool {
        let Some((partition, _)) = Partition::of_key(&listed.object.object.key) else { return false };
        let date = &partition.date;
        self.from.as_ref().is_none_or(|from| from <= date)
            && self.to.as_ref().is_none_or(|to| date <= to)
            && self.site.as_ref().is_none_or(|site| site == partition.site.as_str())
    }
}

/// Lines, in the order of the agents' logs. `shard`: only this one.
pub async fn files(
    store: &dyn Objects,
    shard: Option<Shard>,
    tables: &[Table],
    filter: &Filter,
    format: Format,
    bucket: &str,
) -> Result<String, FilesError> {
    let objects = resolve_all(store, shard, tables).await?.ok_or(FilesError::Empty)?;
    let mut lines = String::new();
    for listed in objects.iter().filter(|l| filter.takes(l)) {
        let key = &listed.object.object.key;
        // Writing to a string can't fail.
        let _ = match format {
            Format::Keys => writeln!(lines, "{key}"),
            Format::Uris => writeln!(lines, "s3://{bucket}/{key}"),
            Format::Json => writeln!(lines, "{}", serde_json::to_string(listed)?),
        };
    }
    Ok(lines)
}

/// Writes a list for each partition, and takes away the lists of partitions that are none any more. Gives back how many
/// there are now.
pub async fn symlinks(
    store: &dyn Objects,
    shard: Option<Shard>,
    tables: &[Table],
    bucket: &str,
) -> Result<usize, FilesError> {
    let objects = resolve_all(store, shard, tables).await?.ok_or(FilesError::Empty)?;
    let mut lists: BTreeMap<String, String> = BTreeMap::new();
    for listed in &objects {
        let key = &listed.object.object.key;
        if let Some((partition, _)) = Partition::of_key(key) {
            let _ = writeln!(lists.entry(partition.symlink_key()).or_default(), "s3://{bucket}/{key}");
        }
    }
    let (count, named) = (lists.len(), lists.keys().cloned().collect::<BTreeSet<_>>());
    let puts: Vec<_> = lists.into_iter().map(|(key, list)| async move { store.put(&key, list.into()).await }).collect();
    stream::iter(puts).buffer_unordered(READS_IN_FLIGHT_MAX).try_collect::<()>().await?;
    let shards = shards(store, shard).await.map_err(ListError::from)?;
    for table in tables {
        remove_others(store, &shards, *table, &named).await?;
    }
    Ok(count)
}

async fn remove_others(
    store: &dyn Objects,
    shards: &[Shard],
    table: Table,
    named: &BTreeSet<String>,
) -> Result<(), StoreError> {
    let (prefix, mut after) = (symlink_prefix(table), None::<String>);
    loop {
        let page = store.list(&prefix, after.as_deref()).await?;
        for key in page.iter().map(|o| &o.key) {
            let ours = |partition: Partition| shards.contains(&partition.shard);
            if Partition::of_symlink_key(key).is_some_and(ours) && !named.contains(key) {
                store.delete(key).await?;
            }
        }
        match page.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(()),
        }
    }
}
