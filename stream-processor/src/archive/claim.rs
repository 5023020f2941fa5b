//! How a writer gets hold of a shard: over S3, by the rules of [`super::recovery`].

use bytes::Bytes;
use model::store::{
    PutOutcome, Store,
    manifests::{newest_number, read_manifest},
    objects::Objects,
};
use proto::{
    ack::ArchiveId,
    archive::{Manifest, Shard, probe_key},
    time::wall_now_ms,
};

use tokio::time::{Instant, sleep_until};

use super::{
    ArchiveError,
    parquet::sha256,
    recovery::{Claim, takeover},
    standoff::{Standoff, Verdict},
};

pub const TAKEOVER_ATTEMPTS_MAX: u32 = 16;

/// An endpoint that overwrites where it must not would let two writers share a manifest number.
pub async fn prove_conditional(store: &Store, shard: Shard) -> Result<(), ArchiveError> {
    let nonce: u128 = rand::random();
    let key = probe_key(shard, &format!("{nonce:032x}"));
    // The client tries again by itself, so the first answer may be "exists" too.
    store.put_if_absent(&key, Bytes::from_static(b"1")).await?;
    let second = store.put_if_absent(&key, Bytes::from_static(b"2")).await?;
    store.delete(&key).await?;
    match second {
        PutOutcome::Exists => Ok(()),
        PutOutcome::Created => Err(ArchiveError::NotConditional { bucket: store.bucket().into() }),
    }
}

/// The newest manifest; `known`: one that is known to exist, or 0.
pub async fn newest(store: &dyn Objects, shard: Shard, known: u64) -> Result<Option<Manifest>, ArchiveError> {
    let Some(number) = newest_number(store, shard, known).await? else { return Ok(None) };
    let found = read_manifest(store, shard, number).await?;
    Ok(Some(found.ok_or(ArchiveError::ManifestGone { number })?))
}

/// Puts the takeover manifest, once the standoff lets it; gives it back.
pub async fn take_over(
    store: &Store,
    shard: Shard,
    owner: &str,
    mut standoff: Standoff,
) -> Result<Manifest, ArchiveError> {
    let (fresh, started) = (ArchiveId(rand::random()), Instant::now());
    let (mut known, mut attempts, mut said) = (0, 0, false);
    while attempts < TAKEOVER_ATTEMPTS_MAX {
        let newest = newest(store, shard, known).await?;
        match (standoff.judge(newest.as_ref(), started.elapsed()), &newest) {
            (Verdict::TakeOver, _) | (_, None) => {}
            (Verdict::Closed, Some(last)) => {
                return Err(ArchiveError::Closed { shard, successors: last.successors.clone() });
            }
            (Verdict::Wait(until), Some(other)) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(
                        owner = other.owner,
                        "the shard has another owner: waiting until it goes, or is quiet"
                    );
                }
                known = other.number;
                sleep_until(started + until).await;
                continue;
            }
        }
        attempts += 1;
        let claim = Claim { fresh, shard, owner: owner.into(), wall_ms: wall_now_ms() };
        let manifest = takeover(newest.as_ref(), &claim);
        let bytes = Bytes::from(manifest.encode()?);
        match store.put_if_absent(&manifest.key(), bytes.clone()).await? {
            PutOutcome::Created => return Ok(manifest),
            // Two instances of one owner may claim at the same time, and then only the nonce tells them apart.
            PutOutcome::Exists if store.get(&manifest.key()).await?.as_ref() == Some(&bytes) => return Ok(manifest),
            PutOutcome::Exists => known = manifest.number,
        }
    }
    Err(ArchiveError::Contended)
}

/// The state that the manifest names, checked.
pub async fn snapshot(store: &dyn Objects, manifest: &Manifest) -> Result<Option<Vec<u8>>, ArchiveError> {
    let Some(named) = &manifest.snapshot else { return Ok(None) };
    let broken = |reason| ArchiveError::Snapshot { key: named.key.clone(), reason };
    let bytes = store.get(&named.key).await?.ok_or_else(|| broken("named by a manifest and not there"))?;
    if bytes.len() as u64 != named.bytes || sha256(&bytes) != named.sha256 {
        return Err(broken("not what its manifest says"));
    }
    Ok(Some(bytes.into()))
}
