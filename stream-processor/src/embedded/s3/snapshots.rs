//! Every commit leaves a whole snapshot behind, and recovery needs the newest manifest's only: what is older goes.

use std::{fs, io, path::Path};

use proto::archive::{Manifest, snapshot_place};

/// Of those that have been named, the newest so many stay, for whoever looks at what happened.
const SNAPSHOTS_KEPT_MAX: usize = 3;

/// Keys of the snapshots that nobody needs once this manifest is there.
pub fn superseded(bucket: &Path, manifest: &Path) -> io::Result<Vec<String>> {
    let number = manifest.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
    let read = number.map(|number| fs::read(manifest).map(|bytes| Manifest::decode(&bytes, number)));
    // What can't be read as a manifest says nothing about snapshots.
    let Some(Ok(Manifest { snapshot: Some(named), .. })) = read.transpose()? else { return Ok(vec![]) };
    let Some((folder, name)) = named.key.rsplit_once('/') else { return Ok(vec![]) };
    let mut names = Vec::new();
    for entry in fs::read_dir(bucket.join(folder))? {
        names.extend(entry?.file_name().to_str().map(String::from));
    }
    Ok(older_than(name, names).into_iter().map(|name| format!("{folder}/{name}")).collect())
}

/// Those that were written before the named one, but for the last few. Later ones may be named by the next manifest.
fn older_than(named: &str, names: Vec<String>) -> Vec<String> {
    let Some(named) = snapshot_place(named) else { return vec![] };
    let mut older: Vec<_> = names.into_iter().filter_map(|name| Some((snapshot_place(&name)?, name))).collect();
    older.retain(|(place, _)| *place < named);
    older.sort_unstable();
    older.truncate((older.len() + 1).saturating_sub(SNAPSHOTS_KEPT_MAX));
    older.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use proto::archive::{Shard, snapshot_key};

    use super::*;

    fn name(incarnation: u64, n: u64) -> String {
        snapshot_key(Shard(0), incarnation, n).rsplit_once('/').unwrap().1.into()
    }

    #[test]
    fn only_what_is_older_than_the_last_few_goes() {
        let names = || [(1, 7), (3, 10), (3, 9), (3, 2), (3, 11)].map(|(i, n)| name(i, n)).to_vec();
        assert_eq!(older_than(&name(3, 10), names()), [name(1, 7), name(3, 2)][..1]);
        assert_eq!(older_than(&name(3, 11), names()), [name(1, 7), name(3, 2)]);
        assert!(older_than(&name(1, 7), names()).is_empty());
        assert!(older_than("notes.txt", names()).is_empty());
    }
}
