//! The manifests of a shard: numbered without gaps and never deleted, so that the newest is found with a few HEAD requests.
//! The first shard's begin at 1, a successor's above the last ones of its predecessors: one listing finds them.

use proto::archive::{
    Manifest, ManifestError, Shard, manifest_key, manifest_prefix,
    shards::{Layout, layout_key},
};

use super::{StoreError, objects::Objects};

/// Finds the highest number that exists by galloping up and then halving: 2 log n questions.
/// Ask [`Search::probe`], answer with [`Search::exists`] or [`Search::missing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Exists; 0 stands for "none".
    low: u64,
    /// Lowest number known not to exist.
    high: Option<u64>,
    step: u64,
}

impl Search {
    /// `known` exists, or is 0.
    pub fn from(known: u64) -> Self {
        Search { low: known, high: None, step: 1 }
    }

    /// The number to ask for next; none when the search is over.
    pub fn probe(&self) -> Option<u64> {
        match self.high {
            None => Some(self.low.saturating_add(self.step)),
            Some(high) => (high - self.low > 1).then(|| self.low + (high - self.low) / 2),
        }
    }

    pub fn exists(&mut self, number: u64) {
        self.low = self.low.max(number);
        self.step = self.step.saturating_mul(2);
    }

    pub fn missing(&mut self, number: u64) {
        self.high = Some(self.high.map_or(number, |high| high.min(number)).max(self.low + 1));
    }

    /// The newest number once there is nothing left to ask; none: there is no manifest at all.
    pub fn newest(&self) -> Option<u64> {
        (self.low > 0).then_some(self.low)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key}: {error}")]
    Manifest { key: String, error: ManifestError },
}

/// Number of the shard's first manifest; none: there may be none yet.
pub async fn first_number(store: &dyn Objects, shard: Shard) -> Result<Option<u64>, StoreError> {
    if shard == Shard::FIRST {
        return Ok(Some(1));
    }
    let prefix = manifest_prefix(shard);
    let page = store.list(&prefix, None).await?;
    // Numbers sort before the folders of other things.
    let number = |key: &str| key.strip_prefix(&prefix)?.strip_suffix(".json")?.parse().ok();
    Ok(page.first().and_then(|first| number(&first.key)))
}

/// Number of the shard's newest manifest; none: it is empty. `known`: one that is known to exist, or 0.
pub async fn newest_number(store: &dyn Objects, shard: Shard, known: u64) -> Result<Option<u64>, StoreError> {
    let known = match (known, shard) {
        (0, Shard::FIRST) => 0,
        (0, _) => match first_number(store, shard).await? {
            Some(first) => first,
            None => return Ok(None),
        },
        (known, _) => known,
    };
    newest_of(store, |number| manifest_key(shard, number), known).await
}

/// Of any sequence that is numbered without gaps.
pub async fn newest_of(
    store: &dyn Objects,
    key: impl Fn(u64) -> String,
    known: u64,
) -> Result<Option<u64>, StoreError> {
    let mut search = Search::from(known);
    while let Some(number) = search.probe() {
        match store.head(&key(number)).await? {
            Some(_) => search.exists(number),
            None => search.missing(number),
        }
    }
    Ok(search.newest())
}

/// None: there is no manifest of this number.
pub async fn read_manifest(store: &dyn Objects, shard: Shard, number: u64) -> Result<Option<Manifest>, ReadError> {
    let key = manifest_key(shard, number);
    let Some(bytes) = store.get(&key).await? else { return Ok(None) };
    let manifest = Manifest::decode(&bytes, number).map_err(|error| ReadError::Manifest { key, error })?;
    Ok(Some(manifest))
}

/// Which shards there are: shard 0 alone, while nothing was ever split.
pub async fn newest_layout(store: &dyn Objects) -> Result<Layout, ReadError> {
    let Some(number) = newest_of(store, layout_key, 0).await? else { return Ok(Layout::default()) };
    let key = layout_key(number);
    // Records are never deleted.
    let bytes = store.get(&key).await?.unwrap_or_default();
    Layout::decode(&bytes, number).map_err(|error| ReadError::Manifest { key, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(newest: u64, known: u64) -> (Option<u64>, u32) {
        let (mut search, mut questions) = (Search::from(known), 0);
        while let Some(n) = search.probe() {
            questions += 1;
            if n <= newest { search.exists(n) } else { search.missing(n) }
        }
        (search.newest(), questions)
    }

    #[test]
    fn the_newest_is_found_from_every_start() {
        assert_eq!(search(0, 0), (None, 1));
        for newest in 1..200 {
            for known in 0..=newest {
                assert_eq!(search(newest, known).0, Some(newest), "newest {newest} known {known}");
            }
        }
    }

    #[test]
    fn questions_grow_with_the_logarithm() {
        let (newest, questions) = search(1_000_000, 0);
        assert_eq!(newest, Some(1_000_000));
        assert!(questions <= 41, "{questions}");
        assert_eq!(search(1_000_000, 1_000_000).1, 1);
    }
}
