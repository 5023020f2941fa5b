//! The writer against a real S3 endpoint over HTTP.
#![cfg(feature = "embedded")]

use std::{collections::BTreeSet, fs, path::Path};

use model::store::{S3Config, manifests::newest_number, manifests::read_manifest};
use proto::{
    archive::{Balance, Manifest, ManifestKind},
    asset::AssetId,
    position::Epoch,
};

use super::*;
use crate::{
    archive::readings::sample,
    embedded::s3::{Keys, S3Server},
};

const SHARD: Shard = Shard(0);

async fn endpoint(folder: &Path, addr: &str) -> (S3Server, Store) {
    let keys = Keys { access: "access".into(), secret: "secret-secret".into() };
    let server = S3Server::start(folder, addr.parse().unwrap(), "archive", &keys).await.unwrap();
    let endpoint = format!("http://{}", server.addr);
    let store = Store::open(&S3Config::with_keys(&endpoint, "archive", &keys.access, &keys.secret)).await.unwrap();
    (server, store)
}

async fn open(store: &Store, folder: &Path, owner: &str) -> (Archive, Recovered) {
    let config = ArchiveConfig { staging: folder.join(owner), ..ArchiveConfig::default() };
    Archive::open(store.clone(), &config, &forced(owner)).await.unwrap()
}

fn forced(owner: &str) -> Claimant {
    Claimant { owner: owner.into(), shard: SHARD, forced: true }
}

fn agent() -> AgentKey {
    AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() }
}

fn position(seq: u64) -> Position {
    Position { epoch: Epoch([7; 16]), seq }
}

/// One batch of two readings.
fn segment(seq: u64) -> Segment {
    let mut content = SegmentContent::new(agent().site, [].into());
    content.readings = sample(&[("mill", seq as i64, 1.0), ("mill", seq as i64 + 1, 2.0)]);
    content.balance = Balance { batches: 1, readings_taken: 2, readings_archived: 2, readings_dead_lettered: 0 };
    let snapshot = format!("after {seq}").into_bytes();
    Segment { content, snapshot, positions: BTreeMap::from([(agent(), position(seq))]) }
}

async fn until(archive: &Archive, reached: impl FnMut(&ArchiveStatus) -> bool) -> ArchiveStatus {
    archive.status().wait_for(reached).await.unwrap().clone()
}

/// All manifests, whose numbers have no gap and whose objects are there as they say.
async fn manifests(store: &Store) -> Vec<Manifest> {
    let newest = newest_number(store, SHARD, 0).await.unwrap().unwrap();
    let mut all = Vec::new();
    for number in 1..=newest {
        let manifest = read_manifest(store, SHARD, number).await.unwrap().unwrap();
        for object in manifest.objects.iter().map(|o| &o.object).chain(&manifest.snapshot) {
            let bytes = store.get(&object.key).await.unwrap().unwrap();
            assert_eq!((bytes.len() as u64, parquet::sha256(&bytes)), (object.bytes, object.sha256.clone()));
        }
        all.push(manifest);
    }
    all
}

fn kinds(manifests: &[Manifest]) -> Vec<(ManifestKind, u64)> {
    manifests.iter().map(|m| (m.kind, m.incarnation)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_what_the_next_writer_starts_from() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let (mut archive, recovered) = open(&store, dir.path(), "a").await;
    assert_eq!((recovered.incarnation, recovered.snapshot, recovered.positions.len()), (1, None, 0));
    assert!(archive.room());
    archive.submit(segment(1)).unwrap();
    let status = until(&archive, |s| s.committed_segments == 1).await;
    assert_eq!(status.committed.get(&agent()), Some(&position(1)));
    assert_eq!(status.manifest, 2);
    archive.submit(segment(2)).unwrap();
    archive.close(true).await;

    let (mut second, again) = open(&store, dir.path(), "b").await;
    assert_eq!((again.incarnation, again.archive_id), (5, recovered.archive_id));
    assert_eq!((again.snapshot.as_deref(), again.positions.get(&agent())), (Some(&b"after 2"[..]), Some(&position(2))));
    second.close(false).await;

    let manifests = manifests(&store).await;
    use ManifestKind::{Commit, Released, Takeover};
    assert_eq!(kinds(&manifests), [(Takeover, 1), (Commit, 1), (Commit, 1), (Released, 1), (Takeover, 5)]);
    assert_eq!(manifests.iter().map(|m| m.balance.readings_archived).collect::<Vec<_>>(), [0, 2, 2, 0, 0]);
    let named: BTreeSet<&str> = manifests.iter().flat_map(|m| &m.objects).map(|o| o.object.key.as_str()).collect();
    let stored = store.list("archive/v1/readings/", None).await.unwrap();
    assert_eq!(named, stored.iter().map(|o| o.key.as_str()).collect());
    assert!(store.list("manifest/probe/", None).await.unwrap().is_empty(), "the probe is taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_writers_is_fenced_and_commits_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let (mut old, _) = open(&store, dir.path(), "old").await;
    old.submit(segment(1)).unwrap();
    until(&old, |s| s.committed_segments == 1).await;
    let (mut new, recovered) = open(&store, dir.path(), "new").await;
    assert_eq!(recovered.positions.get(&agent()), Some(&position(1)));

    old.submit(segment(2)).unwrap();
    let status = until(&old, |s| s.end.is_some()).await;
    assert_eq!((status.committed.get(&agent()), status.committed_segments), (Some(&position(1)), 1));
    assert!(!old.room());
    old.close(true).await;

    new.submit(segment(2)).unwrap();
    until(&new, |s| s.committed_segments == 1).await;
    new.close(false).await;
    use ManifestKind::{Commit, Takeover};
    assert_eq!(kinds(&manifests(&store).await), [(Takeover, 1), (Commit, 1), (Takeover, 3), (Commit, 3)]);
}

/// Two processes, each with a staging folder of its own, that have one name by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_name_do_not_throw_each_other_out_by_turns() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let config = |folder: &str| ArchiveConfig {
        staging: dir.path().join(folder),
        takeover_quiet_seconds: 1,
        ..ArchiveConfig::default()
    };
    let name = Claimant { owner: "same".into(), shard: SHARD, forced: false };
    let (mut first, _) = Archive::open(store.clone(), &config("first"), &name).await.unwrap();
    let (mut second, _) = Archive::open(store.clone(), &config("second"), &name).await.unwrap();
    until(&first, |s| s.end == Some(End::Fenced)).await;
    first.close(false).await;

    let patience = config("first");
    let again = Archive::open(store.clone(), &patience, &name);
    tokio::pin!(again);
    // It renews four times in a quiet time.
    let other = async { until(&second, |s| s.manifest >= 12).await };
    tokio::select! {
        _ = &mut again => panic!("it must not throw out whoever threw it out"),
        status = other => assert_eq!(status.end, None),
    }
    second.close(true).await;
    let (mut first, recovered) = again.await.unwrap();
    assert!(recovered.incarnation > 12);
    first.close(false).await;
    // It is the one that it remembers.
    let (mut again, _) = Archive::open(store.clone(), &config("first"), &name).await.unwrap();
    again.close(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_closes_its_predecessor_and_its_writer_learns_who_has_its_slots() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let (mut old, _) = open(&store, dir.path(), "old").await;
    let slots = |text: &str| text.parse().unwrap();
    let into = [(1, "0-31"), (2, "32-63")].map(|(n, text)| ShardSlots { shard: Shard(n), slots: slots(text) });
    reshard::work::decide(&store, &[SHARD], &into).await.unwrap();

    let config = ArchiveConfig { staging: dir.path().join("new"), ..ArchiveConfig::default() };
    let unknown = Claimant { owner: "new".into(), shard: Shard(3), forced: false };
    let refused = Archive::open(store.clone(), &config, &unknown).await.err().unwrap().to_string();
    assert!(refused.contains("there is no shard 3"), "{refused}");
    let claimant = Claimant { shard: Shard(2), ..unknown };
    let (mut new, recovered) = Archive::open(store.clone(), &config, &claimant).await.unwrap();
    // 1 the old one's takeover, 2 closed, 3 opened.
    assert_eq!((recovered.incarnation, recovered.slots), (4, into[1].slots));

    old.submit(segment(1)).unwrap();
    let status = until(&old, |s| s.end.is_some()).await;
    assert_eq!(status.end, Some(End::Closed(into.to_vec())));
    old.close(true).await;
    let again = Archive::open(store.clone(), &config, &forced("old")).await.err().unwrap().to_string();
    assert!(again.contains("shard 0 is closed: its slots have gone to shard 1 (slots 0-31), shard 2"), "{again}");
    new.close(true).await;
    use ManifestKind::{Closed, Takeover};
    assert_eq!(kinds(&manifests(&store).await), [(Takeover, 1), (Closed, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_killed_before_its_manifest_leaves_an_orphan_and_no_readings() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let takeover =
        claim::take_over(&store, SHARD, "old", Standoff::new("old", Duration::ZERO, None, false)).await.unwrap();
    let staging = Staging::open(&dir.path().join("old"), SHARD, 1_000_000).unwrap();
    let (segments, queued) = mpsc::channel(1);
    let (out, mut staged) = mpsc::channel(1);
    let encoder = Encoder::new(SHARD, takeover.incarnation, staging);
    std::thread::spawn(move || encoder.run(queued, &out));
    segments.send(segment(1)).await.unwrap();
    let killed = staged.recv().await.unwrap();
    for (object, file) in killed.objects.iter().zip(&killed.load.files) {
        store.put_file(&object.object.key, file.path()).await.unwrap();
    }
    drop(killed);

    let (mut new, recovered) = open(&store, dir.path(), "new").await;
    assert!(recovered.positions.is_empty(), "the gateway sends it again");
    new.submit(segment(1)).unwrap();
    until(&new, |s| s.committed_segments == 1).await;
    new.close(false).await;
    let manifests = manifests(&store).await;
    let rows: u64 = manifests.iter().flat_map(|m| &m.objects).map(|o| o.rows).sum();
    assert_eq!(rows, 2, "once by the manifests");
    assert_eq!(store.list("archive/v1/readings/", None).await.unwrap().len(), 2, "and an orphan that none names");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_s3_is_away_segments_wait_and_then_go_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    let (mut archive, _) = open(&store, dir.path(), "a").await;
    server.stop().await;
    archive.submit(segment(1)).unwrap();
    archive.submit(segment(2)).unwrap();
    let status = until(&archive, |s| !s.up && s.staged_segments == 2).await;
    assert!(status.committed.is_empty() && status.staged_bytes > 0 && archive.room());

    let (_server, store) = endpoint(dir.path(), &addr).await;
    let status = until(&archive, |s| s.up && s.committed_segments == 2).await;
    assert_eq!(status.committed.get(&agent()), Some(&position(2)));
    assert_eq!(until(&archive, |s| s.staged_segments == 0).await.staged_bytes, 0);
    archive.close(false).await;
    let positions: Vec<_> = manifests(&store).await[1..].iter().map(|m| m.agents[0].position.seq).collect();
    assert_eq!(positions, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_not_what_its_manifest_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let (mut archive, _) = open(&store, dir.path(), "a").await;
    archive.submit(segment(1)).unwrap();
    archive.close(false).await;
    let key = manifests(&store).await.pop().unwrap().snapshot.unwrap().key;
    store.put(&key, "after 9".into()).await.unwrap();
    let config = ArchiveConfig { staging: dir.path().join("b"), ..ArchiveConfig::default() };
    let refused = Archive::open(store, &config, &forced("b")).await;
    assert!(matches!(refused, Err(ArchiveError::Snapshot { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_staging_folder_has_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let config = ArchiveConfig { staging: dir.path().join("a"), staging_bytes_max: 1, ..ArchiveConfig::default() };
    let (archive, _) = Archive::open(store, &config, &forced("a")).await.unwrap();
    server.stop().await;
    archive.submit(segment(1)).unwrap();
    until(&archive, |s| s.staged_bytes > 0).await;
    assert!(!archive.room());
}

#[test]
fn settings_are_strict() {
    let parse = toml::from_str::<ArchiveConfig>;
    assert_eq!(parse("").unwrap(), ArchiveConfig::default());
    assert!(parse("staging_bytes = 1").is_err());
}

/// Somebody cleared the staging folder. Trying on could never help; the gateways have everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_staged_file_that_is_gone_ends_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (server, store) = endpoint(dir.path(), "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    let (mut archive, _) = open(&store, dir.path(), "a").await;
    server.stop().await;
    archive.submit(segment(1)).unwrap();
    until(&archive, |s| !s.up && s.staged_segments == 1).await;
    let own = fs::read_dir(dir.path().join("a/shard=00")).unwrap().map(|entry| entry.unwrap().path());
    for folder in own.filter(|path| path.is_dir()) {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|e| e == "staged"))
            .for_each(|file| fs::remove_file(file).unwrap());
    }
    let (_server, store) = endpoint(dir.path(), &addr).await;
    let status = until(&archive, |s| s.end.is_some()).await;
    assert_eq!((status.end, status.committed_segments), (Some(End::Failed), 0));
    archive.close(false).await;
    assert_eq!(manifests(&store).await.len(), 1, "its takeover, and nothing else");
}

/// The client asks again for what never began, and not for what broke off.
#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_once_more() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        for body in ["hal", "half"] {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(client.read_buf(&mut request).await.unwrap() > 0);
            }
            let head = "HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
            client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
        }
    });
    let mut config = S3Config::with_keys(&endpoint, "archive", "access", "secret-secret");
    config.path_style = true;
    let store = Store::open(&config).await.unwrap();
    assert_eq!(store.get("key").await.unwrap().as_deref(), Some(&b"half"[..]));
    serving.await.unwrap();
}
