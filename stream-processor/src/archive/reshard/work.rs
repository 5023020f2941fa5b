//! [`super`]'s rules over S3. Every write is put-if-absent, so that any number may work on one change at a time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::store::{PutOutcome, manifests::newest_layout, objects::Objects};
use proto::{
    ack::ArchiveId,
    archive::{
        Manifest, ManifestKind, ObjectRef, Shard,
        shards::{Layout, ShardSlots, Slots},
        snapshot_key,
    },
    time::wall_now_ms,
};

use super::{Step, closing, next, opening, opening_number};
use crate::{
    archive::{
        ArchiveError,
        claim::{self, TAKEOVER_ATTEMPTS_MAX},
        parquet::sha256,
        recovery::Claim,
    },
    stream::StreamError,
};

/// The state of some slots out of the states that predecessors ended with.
pub type Carve = fn(&[Vec<u8>], Slots) -> Result<Vec<u8>, StreamError>;

/// Decides a change, and carries it out. Given again after a crash, it goes on where it was.
pub async fn change(
    store: &dyn Objects,
    from: &[Shard],
    into: &[ShardSlots],
    owner: &str,
    carve: Carve,
) -> Result<Layout, ArchiveError> {
    let layout = decide(store, from, into).await?;
    for new in into {
        carry_out(store, &layout, new.shard, owner, carve).await?;
    }
    Ok(layout)
}

/// Puts the layout's next record, unless it has the change already.
pub async fn decide(store: &dyn Objects, from: &[Shard], into: &[ShardSlots]) -> Result<Layout, ArchiveError> {
    for _ in 0..TAKEOVER_ATTEMPTS_MAX {
        let layout = newest_layout(store).await?;
        if layout.has(from, into) {
            return Ok(layout);
        }
        let next = layout.change(from, into, wall_now_ms())?;
        if store.put_if_absent(&next.key(), next.encode()?.into()).await? == PutOutcome::Created {
            return Ok(next);
        }
    }
    Err(ArchiveError::Contended)
}

/// Makes sure that the shard has a first manifest, if the layout says that it is one.
pub async fn ensure_open(store: &dyn Objects, shard: Shard, owner: &str, carve: Carve) -> Result<(), ArchiveError> {
    if shard == Shard::FIRST || claim::newest(store, shard, 0).await?.is_some() {
        return Ok(());
    }
    let layout = newest_layout(store).await?;
    carry_out(store, &layout, shard, owner, carve).await
}

async fn carry_out(
    store: &dyn Objects,
    layout: &Layout,
    shard: Shard,
    owner: &str,
    carve: Carve,
) -> Result<(), ArchiveError> {
    let mut newest = BTreeMap::new();
    for shard in lineage(layout, shard) {
        newest.extend(claim::newest(store, shard, 0).await?.map(|manifest| (shard, manifest)));
    }
    loop {
        let manifest = match next(layout, &newest, shard)? {
            Step::Close(shard) => close(store, layout, shard, owner).await?,
            Step::Open(shard) => open(store, layout, shard, &newest, owner, carve).await?,
            Step::Done => return Ok(()),
        };
        newest.insert(manifest.shard, manifest);
    }
}

/// The shard and all that it comes from.
fn lineage(layout: &Layout, shard: Shard) -> BTreeSet<Shard> {
    let (mut found, mut open) = (BTreeSet::new(), vec![shard]);
    while let Some(shard) = open.pop() {
        if found.insert(shard) {
            open.extend(layout.of(shard).iter().flat_map(|d| &d.predecessors));
        }
    }
    found
}

async fn close(store: &dyn Objects, layout: &Layout, shard: Shard, owner: &str) -> Result<Manifest, ArchiveError> {
    let mut known = 0;
    for _ in 0..TAKEOVER_ATTEMPTS_MAX {
        let newest = claim::newest(store, shard, known).await?;
        if let Some(closed) = newest.as_ref().filter(|m| m.kind == ManifestKind::Closed) {
            return Ok(closed.clone());
        }
        let manifest = closing(newest.as_ref(), layout, &claim(shard, owner));
        if put(store, &manifest).await? {
            tracing::info!(%shard, number = manifest.number, "the shard is closed");
            return Ok(manifest);
        }
        // Its writer has committed meanwhile.
        known = newest.map_or(0, |m| m.number);
    }
    Err(ArchiveError::Contended)
}

async fn open(
    store: &dyn Objects,
    layout: &Layout,
    shard: Shard,
    newest: &BTreeMap<Shard, Manifest>,
    owner: &str,
    carve: Carve,
) -> Result<Manifest, ArchiveError> {
    let descent = layout.of(shard).ok_or(super::ReshardError::Unknown(shard))?;
    let closed: Vec<Manifest> = descent.predecessors.iter().filter_map(|p| newest.get(p)).cloned().collect();
    let mut states = Vec::new();
    for manifest in &closed {
        states.extend(claim::snapshot(store, manifest).await?);
    }
    let number = opening_number(&closed);
    let snapshot = match states.is_empty() {
        true => None,
        false => Some(put_state(store, shard, number, carve(&states, descent.slots)?).await?),
    };
    let manifest = opening(descent, &closed, snapshot, &claim(shard, owner))?;
    if put(store, &manifest).await? {
        tracing::info!(%shard, number, slots = %descent.slots, "the shard is open");
        return Ok(manifest);
    }
    // Somebody else has opened it, and it may have been written to since.
    claim::newest(store, shard, number).await?.ok_or(ArchiveError::ManifestGone { number })
}

/// Under a key of this incarnation, which writes nothing else. Whoever else opens the shard at this very time has the
/// same state, unless it is another version of this program: then another key.
async fn put_state(
    store: &dyn Objects,
    shard: Shard,
    incarnation: u64,
    state: Vec<u8>,
) -> Result<ObjectRef, ArchiveError> {
    let (sha256, state) = (sha256(&state), Bytes::from(state));
    for n in 0..u64::from(TAKEOVER_ATTEMPTS_MAX) {
        let key = snapshot_key(shard, incarnation, n);
        let there = store.put_if_absent(&key, state.clone()).await? == PutOutcome::Created
            || store.get(&key).await?.as_ref() == Some(&state);
        if there {
            return Ok(ObjectRef { key, bytes: state.len() as u64, sha256 });
        }
    }
    Err(ArchiveError::Contended)
}

/// False: the number is taken.
async fn put(store: &dyn Objects, manifest: &Manifest) -> Result<bool, ArchiveError> {
    let bytes = Bytes::from(manifest.encode()?);
    match store.put_if_absent(&manifest.key(), bytes.clone()).await? {
        PutOutcome::Created => Ok(true),
        PutOutcome::Exists => Ok(store.get(&manifest.key()).await? == Some(bytes)),
    }
}

fn claim(shard: Shard, owner: &str) -> Claim {
    Claim { fresh: ArchiveId(rand::random()), shard, owner: owner.into(), wall_ms: wall_now_ms() }
}

#[cfg(test)]
mod tests;
