//! Many writers at once against an endpoint that is not ours.

use std::collections::BTreeSet;

use futures::future::join_all;
use model::store::{
    S3Config, Store,
    manifests::{newest_number, read_manifest},
};
use proto::archive::{ManifestKind, Shard};
use stream_processor::archive::{Archive, ArchiveConfig, Claimant};

use crate::components::moto;

const SHARD: Shard = Shard(0);
const WRITERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_start_together_follow_one_another_without_a_gap() {
    let Some((_moto, addr)) = moto() else { return };
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3Config::with_keys(&format!("http://{addr}"), "archive", "access", "secret");
    let store = Store::open(&s3).await.unwrap();
    store.create_bucket_if_missing().await.unwrap();
    let writers = (0..WRITERS).map(|n| {
        let owner = format!("writer-{n}");
        let config = ArchiveConfig { staging: folder.path().join(&owner), ..ArchiveConfig::default() };
        let store = store.clone();
        let claimant = Claimant { owner, shard: SHARD, forced: true };
        async move { Archive::open(store, &config, &claimant).await.unwrap() }
    });
    let (mut archives, recovered): (Vec<_>, Vec<_>) = join_all(writers).await.into_iter().unzip();

    let incarnations: BTreeSet<u64> = recovered.iter().map(|r| r.incarnation).collect();
    assert_eq!(incarnations, (1..=WRITERS as u64).collect());
    assert!(recovered.iter().all(|r| r.archive_id == recovered[0].archive_id), "the first one named the archive");
    // Each says at its end that it goes; only the last one may.
    join_all(archives.iter_mut().map(|a| a.close(true))).await;
    let newest = newest_number(&store, SHARD, 0).await.unwrap();
    assert_eq!(newest, Some(WRITERS as u64 + 1));
    let last = read_manifest(&store, SHARD, WRITERS as u64 + 1).await.unwrap().unwrap();
    assert_eq!((last.kind, last.incarnation), (ManifestKind::Released, WRITERS as u64));
}
