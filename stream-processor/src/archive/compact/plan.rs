//! Which files to merge: a pure function of the list, the settings and the time.

use std::collections::BTreeMap;

use proto::archive::compaction::{Listed, Partition};

/// Files that are merged into one; each is opened and named in the record.
pub const FILES_PER_MERGE_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactSettings {
    /// Merging goes on until a file has at least so many bytes; those with half of it are left alone, so that none
    /// has more than one and a half times as many.
    pub target_bytes: u64,
    /// Fewer small files than this stay as they are.
    pub files_min: usize,
    /// Wall time since its commit, ms; younger files stay as they are.
    pub age_ms: i64,
    /// Replaced objects stay for so much wall time, for readers that have an older list.
    pub grace_ms: i64,
}

/// Files of one partition, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub partition: Partition,
    pub objects: Vec<Listed>,
}

/// `listed`: in the order of the log. Objects whose keys are not of our spelling are left alone.
pub fn plan(listed: &[Listed], settings: &CompactSettings, now_ms: i64) -> Vec<Merge> {
    let mut partitions: BTreeMap<Partition, Vec<&Listed>> = BTreeMap::new();
    for object in listed {
        if let Some((partition, _)) = Partition::of_key(&object.object.object.key) {
            partitions.entry(partition).or_default().push(object);
        }
    }
    partitions.into_iter().flat_map(|(p, objects)| merges(p, &objects, settings, now_ms)).collect()
}

fn merges(partition: Partition, objects: &[&Listed], settings: &CompactSettings, now_ms: i64) -> Vec<Merge> {
    let is_old = |l: &&Listed| l.committed_ms.saturating_add(settings.age_ms) <= now_ms;
    // As long as more files come, the last few wait for them.
    let quiet = objects.iter().all(&is_old);
    let (mut merges, mut open, mut bytes) = (Vec::new(), Vec::new(), 0u64);
    for object in objects.iter().filter(|l| is_old(l) && l.object.object.bytes < settings.target_bytes.div_ceil(2)) {
        open.push((*object).clone());
        bytes += object.object.object.bytes;
        if bytes >= settings.target_bytes || open.len() == FILES_PER_MERGE_MAX {
            merges.push(Merge { partition: partition.clone(), objects: std::mem::take(&mut open) });
            bytes = 0;
        }
    }
    if quiet && open.len() >= settings.files_min.max(2) {
        merges.push(Merge { partition, objects: open });
    }
    merges
}

#[cfg(test)]
mod tests {
    use proto::{
        archive::{DataObject, ObjectRef, Shard, Table, object_key},
        asset::AssetId,
    };

    use super::*;

    const SETTINGS: CompactSettings = CompactSettings { target_bytes: 100, files_min: 3, age_ms: 10, grace_ms: 0 };

    fn listed(date: &str, n: u64, bytes: u64, committed_ms: i64) -> Listed {
        let key = object_key(Table::Readings, &AssetId::new("mill").unwrap(), date, Shard(0), 1, n);
        let object = ObjectRef { key, bytes, sha256: String::new() };
        let object = DataObject { table: Table::Readings, object, rows: 1, min_time_ms: 0, max_time_ms: 0 };
        Listed { manifest: n, committed_ms, digest: None, object }
    }

    /// Numbers of the files of each merge.
    fn planned(list: &[Listed], now_ms: i64) -> Vec<Vec<u64>> {
        let numbers = |m: Merge| m.objects.iter().map(|l| l.manifest).collect();
        plan(list, &SETTINGS, now_ms).into_iter().map(numbers).collect()
    }

    #[test]
    fn small_files_of_a_partition_are_merged_up_to_the_target() {
        let list: Vec<_> = (1..=8).map(|n| listed("2026-01-01", n, 40, 0)).collect();
        assert_eq!(planned(&list, 10), [vec![1, 2, 3], vec![4, 5, 6]], "two more are too few");
        let mut list: Vec<_> = (1..=3).map(|n| listed("2026-01-01", n, 1, 0)).collect();
        list.extend((4..=6).map(|n| listed("2026-01-02", n, 1, 0)));
        list.insert(2, listed("2026-01-01", 9, 50, 0));
        assert_eq!(planned(&list, 10), [[1, 2, 3], [4, 5, 6]], "one of half the target stays");
    }

    #[test]
    fn young_files_stay_and_hold_back_the_last_few() {
        let mut list: Vec<_> = (1..=6).map(|n| listed("2026-01-01", n, 40, 0)).collect();
        list.push(listed("2026-01-01", 7, 1, 5));
        assert!(planned(&list, 9).is_empty());
        assert_eq!(planned(&list[..2], 10), Vec::<Vec<u64>>::new());
        assert_eq!(planned(&list, 10), [[1, 2, 3], [4, 5, 6]]);
        list.truncate(5);
        list.push(listed("2026-01-01", 7, 1, 5));
        assert_eq!(planned(&list, 14), [[1, 2, 3]], "4 and 5 wait for 7");
        assert_eq!(planned(&list, 15), [vec![1, 2, 3], vec![4, 5, 7]]);
    }
}
