//! Over HTTP, as the processor speaks to it.

use bytes::Bytes;
use model::store::{S3Config, Store};
use proto::{
    ack::ArchiveId,
    archive::{Balance, MANIFEST_VERSION, Manifest, ManifestKind, ObjectRef, Shard, shards::Slots, snapshot_key},
};

use super::*;

async fn endpoint(folder: &Path, bytes_max: u64) -> (S3Server, Store) {
    let keys = Keys { access: "access".into(), secret: "secret".into() };
    let server =
        S3Server::bounded(folder, SocketAddr::from(([127, 0, 0, 1], 0)), "factory", &keys, bytes_max).await.unwrap();
    let config = S3Config::with_keys(&format!("http://{}", server.addr), "factory", "access", "secret");
    (server, Store::open(&config).await.unwrap())
}

fn manifest(number: u64, snapshot: Option<String>) -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        archive: ArchiveId([1; 16]),
        shard: Shard(0),
        number,
        incarnation: 1,
        kind: ManifestKind::Commit,
        owner: "a".into(),
        written_ms: 0,
        objects: vec![],
        agents: vec![],
        snapshot: snapshot.map(|key| ObjectRef { key, bytes: 1, sha256: "00".into() }),
        balance: Balance::default(),
        slots: Slots::ALL,
        successors: vec![],
        predecessors: vec![],
    }
}

#[tokio::test]
async fn over_the_bound_it_is_as_if_away_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path(), 100_000).await;
    let bytes = |count: usize| Bytes::from(vec![7; count]);
    store.put("a", bytes(60_000)).await.unwrap();
    let full = store.put("b", bytes(60_000)).await.unwrap_err();
    assert_eq!((full.status(), full.is_transient()), (Some(503), true), "{full}");
    let manifest = manifest(1, None);
    store.put_if_absent(&manifest.key(), manifest.encode().unwrap().into()).await.unwrap();
    // What is replaced does not count twice.
    store.put("a", bytes(50_000)).await.unwrap();
    store.delete("a").await.unwrap();
    store.put("b", bytes(60_000)).await.unwrap();
}

/// Into a file, which is asked for once: other reads would be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_replaced_is_read_as_it_was_or_as_it_is() {
    const TIMES: u8 = 150;
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(&folder.path().join("s3"), room::BYTES_MAX).await;
    let content = |n: u8| Bytes::from(vec![n; 100 + usize::from(n)]);
    store.put("pointer", content(0)).await.unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 1..=TIMES {
            writer.put("pointer", content(n)).await.unwrap();
        }
    });
    let (path, mut reads) = (folder.path().join("read"), 0);
    while !writing.is_finished() {
        store.get_file("pointer", &path).await.unwrap();
        let read = fs::read(&path).unwrap();
        assert_eq!(read, content(read[0]));
        reads += 1;
    }
    writing.await.unwrap();
    assert!(reads > 10, "{reads} reads met nothing");
}

#[tokio::test]
async fn a_manifest_ends_the_snapshots_before_it_but_for_the_last_few() {
    const SNAPSHOTS: u64 = 6;
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path(), room::BYTES_MAX).await;
    let key = |n| snapshot_key(Shard(0), 1, n);
    for n in 1..=SNAPSHOTS {
        store.put(&key(n), Bytes::from_static(b"x")).await.unwrap();
    }
    let named = manifest(1, Some(key(SNAPSHOTS - 1)));
    store.put_if_absent(&named.key(), named.encode().unwrap().into()).await.unwrap();
    let left = store.list("archive/v1/snapshot/", None).await.unwrap();
    assert_eq!(left.into_iter().map(|o| o.key).collect::<Vec<_>>(), [3, 4, 5, 6].map(key));
    // s3s-fs leaves nothing of them behind either.
    let beside = fs::read_dir(folder.path().join(OBJECTS)).unwrap().count();
    assert_eq!(beside, 1 + 2 * (4 + 1), "the bucket, and attributes and checksums of snapshots and manifest");
}
