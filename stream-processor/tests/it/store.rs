//! The S3 client against real endpoints over HTTP, ours and moto: what the commit, the registry and the readers build on.

use bytes::Bytes;
use model::store::{
    PutOutcome, ReplaceOutcome, S3Config, Store,
    manifests::{newest_number, read_manifest},
};
use proto::{
    ack::ArchiveId,
    archive::{Shard, manifest_key},
};
use stream_processor::{
    archive::recovery::{Claim, takeover},
    embedded::s3::{Keys, S3Server},
};
use tempfile::TempDir;

use crate::components::{Program, moto};

const SHARD: Shard = Shard(0);
const BUCKET: &str = "factory";
const WRITERS: usize = 16;

/// An endpoint that is there as long as this is.
struct Endpoint {
    _folder: TempDir,
    _moto: Option<Program>,
    server: Option<S3Server>,
    url: String,
}

impl Endpoint {
    async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys { access: "access".into(), secret: "secret".into() };
        let server = S3Server::start(folder.path(), "127.0.0.1:0".parse().unwrap(), BUCKET, &keys).await.unwrap();
        let url = format!("http://{}", server.addr);
        Endpoint { _folder: folder, _moto: None, server: Some(server), url }
    }

    async fn store(&self, secret: &str) -> Store {
        let store = Store::open(&S3Config::with_keys(&self.url, BUCKET, "access", secret)).await.unwrap();
        if self.server.is_none() {
            store.create_bucket_if_missing().await.unwrap();
        }
        store
    }
}

/// All that are here; moto is skipped where it is not installed, and says so.
async fn stores() -> Vec<(Endpoint, Store)> {
    let mut endpoints = vec![Endpoint::embedded().await];
    endpoints.extend(moto().map(|(program, addr)| Endpoint {
        _folder: tempfile::tempdir().unwrap(),
        _moto: Some(program),
        server: None,
        url: format!("http://{addr}"),
    }));
    let mut stores = Vec::new();
    for endpoint in endpoints {
        let store = endpoint.store("secret").await;
        stores.push((endpoint, store));
    }
    stores
}

#[tokio::test]
async fn objects_come_back_as_they_were_put() {
    let folder = tempfile::tempdir().unwrap();
    for (_endpoint, store) in stores().await {
        store.create_bucket_if_missing().await.unwrap();
        assert_eq!(store.get("a/b").await.unwrap(), None);
        assert_eq!(store.head("a/b").await.unwrap(), None);
        let bytes = Bytes::from(vec![7; 300_000]);
        store.put("a/b", bytes.clone()).await.unwrap();
        assert_eq!(store.get("a/b").await.unwrap(), Some(bytes.clone()));
        assert_eq!(store.head("a/b").await.unwrap().unwrap().bytes, 300_000);
        let file = folder.path().join("file");
        std::fs::write(&file, &bytes).unwrap();
        store.put_file("a/c", &file).await.unwrap();
        assert_eq!(store.get("a/c").await.unwrap(), Some(bytes));
        store.delete("a/c").await.unwrap();
        store.delete("a/c").await.unwrap();
        assert_eq!(store.get("a/c").await.unwrap(), None);
    }
}

#[tokio::test]
async fn lists_go_on_behind_a_key() {
    for (_endpoint, store) in stores().await {
        for key in ["p/1", "p/2", "p/3", "q/1"] {
            store.put(key, Bytes::from_static(b"x")).await.unwrap();
        }
        let keys = |found: Vec<model::store::ObjectMeta>| found.into_iter().map(|o| o.key).collect::<Vec<_>>();
        assert_eq!(keys(store.list("p/", None).await.unwrap()), ["p/1", "p/2", "p/3"]);
        assert_eq!(keys(store.list("p/", Some("p/1")).await.unwrap()), ["p/2", "p/3"]);
        assert!(store.list("p/", Some("p/3")).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn of_many_writers_of_one_key_exactly_one_wins() {
    for (_endpoint, store) in stores().await {
        let writers = (0..WRITERS).map(|n| {
            let store = store.clone();
            tokio::spawn(
                async move { (n, store.put_if_absent("k", Bytes::from(format!("writer {n}"))).await.unwrap()) },
            )
        });
        let outcomes = futures::future::join_all(writers.collect::<Vec<_>>()).await;
        let winners: Vec<usize> = outcomes
            .into_iter()
            .map(Result::unwrap)
            .filter(|(_, o)| *o == PutOutcome::Created)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(store.get("k").await.unwrap(), Some(Bytes::from(format!("writer {}", winners[0]))));
    }
}

#[tokio::test]
async fn only_what_was_read_is_replaced() {
    for (_endpoint, store) in stores().await {
        let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
        assert_eq!(store.replace_if_match("k", one.clone(), "\"0\"").await.unwrap(), ReplaceOutcome::Conflict);
        store.put("k", one).await.unwrap();
        let (_, etag) = store.get_with_etag("k").await.unwrap().unwrap();
        assert_eq!(store.replace_if_match("k", two.clone(), &etag).await.unwrap(), ReplaceOutcome::Replaced);
        assert_eq!(store.replace_if_match("k", two.clone(), &etag).await.unwrap(), ReplaceOutcome::Conflict);
        assert_eq!(store.get("k").await.unwrap(), Some(two));
    }
}

#[tokio::test]
async fn the_newest_manifest_is_found_and_read() {
    for (_endpoint, store) in stores().await {
        assert_eq!(newest_number(&store, SHARD, 0).await.unwrap(), None);
        let claim = Claim { fresh: ArchiveId([1; 16]), shard: SHARD, owner: "a".into(), wall_ms: 0 };
        let mut newest = takeover(None, &claim);
        for _ in 0..5 {
            store.put_if_absent(&newest.key(), newest.encode().unwrap().into()).await.unwrap();
            newest = takeover(Some(&newest), &claim);
        }
        assert_eq!(newest_number(&store, SHARD, 0).await.unwrap(), Some(5));
        assert_eq!(newest_number(&store, SHARD, 4).await.unwrap(), Some(5));
        assert_eq!(read_manifest(&store, SHARD, 5).await.unwrap().unwrap().number, 5);
        assert!(read_manifest(&store, SHARD, 6).await.unwrap().is_none());
        store.put(&manifest_key(SHARD, 6), Bytes::from_static(b"{}")).await.unwrap();
        assert!(read_manifest(&store, SHARD, 6).await.unwrap_err().to_string().contains("manifest/v1/shard=00/"));
    }
}

#[tokio::test]
async fn an_error_says_whether_a_retry_can_help() {
    // Moto takes any secret.
    let mut endpoint = Endpoint::embedded().await;
    let (stranger, store) = (endpoint.store("wrong").await, endpoint.store("secret").await);
    let refused = stranger.get("k").await.unwrap_err();
    assert_eq!((refused.status(), refused.is_transient()), (Some(403), false), "{refused}");
    endpoint.server.take().unwrap().stop().await;
    let away = store.get("k").await.unwrap_err();
    assert!(away.is_transient(), "{away}");
}
