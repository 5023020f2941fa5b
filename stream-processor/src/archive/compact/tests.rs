//! The archive's tools against a bucket in memory that counts requests, and can die at any of them.

mod crash;
mod faults;
mod history;
mod lists;
mod training;

use std::{path::Path, sync::Arc};

use model::store::{listing::resolve, objects::Objects};
use proto::{
    ack::ArchiveId,
    archive::{
        AgentPosition, Balance, DataObject, MANIFEST_VERSION, Manifest, ManifestKind, ObjectRef,
        compaction::{Partition, RowsDigest, part_key},
        object_key,
        shards::Slots,
        snapshot_key,
    },
    asset::AssetId,
    position::{Epoch, Position},
    time::PlantTime,
};

use super::*;
use crate::{
    archive::{
        bucket::{self, Bucket},
        parquet::{encode, sha256},
        pending::SegmentContent,
        readings::sample,
        verify::{Depth, verify},
    },
    decode::DeadLetter,
};

const SHARD: Shard = Shard(0);
const DAY_MS: i64 = 86_400_000;
/// Far behind every commit and every record: everything is old, and every grace is over.
const LATER_MS: i64 = i64::MAX / 2;
const EAGER: CompactSettings = CompactSettings { target_bytes: 1 << 20, files_min: 2, age_ms: 0, grace_ms: 0 };
const NEVER_MERGE: CompactSettings = CompactSettings { age_ms: i64::MAX, ..EAGER };
const READINGS_PER_DAY: u64 = 5;

fn takeover(number: u64) -> Manifest {
    let agent = |seq| AgentPosition {
        site: AssetId::new("mill").unwrap(),
        agent: AssetId::new("gw").unwrap(),
        position: Position { epoch: Epoch([7; 16]), seq },
    };
    Manifest {
        version: MANIFEST_VERSION,
        archive: ArchiveId([1; 16]),
        shard: SHARD,
        number,
        incarnation: number,
        kind: ManifestKind::Takeover,
        owner: "a".into(),
        written_ms: number as i64,
        objects: vec![],
        agents: vec![agent(number)],
        snapshot: None,
        balance: Balance::default(),
        slots: Slots::ALL,
        successors: vec![],
        predecessors: vec![],
    }
}

/// Readings of two days, and a dead letter.
fn content(n: u64) -> SegmentContent {
    let rows = 2 * READINGS_PER_DAY as i64;
    let ms = |row: i64| (row / READINGS_PER_DAY as i64) * DAY_MS + n as i64 * 100 + row;
    let readings: Vec<_> = (0..rows).map(|row| ("mill", ms(row), (n as i64 * 10 + row) as f64)).collect();
    let mut content = SegmentContent::new(AssetId::new("mill").unwrap(), [].into());
    content.readings = sample(&readings);
    let time = PlantTime(n as i64);
    content.dead_letters.push(DeadLetter {
        topic: "t".into(),
        payload: vec![0; 9].into(),
        reason: "r".into(),
        time,
        readings: 1,
    });
    content
}

/// Puts the objects of one commit; gives back its manifest, which is not there yet.
async fn upload(bucket: &Bucket, number: u64, incarnation: u64) -> Manifest {
    let taken = 2 * READINGS_PER_DAY + 1;
    let (readings_archived, readings_dead_lettered) = (taken - 1, 1);
    let balance = Balance { batches: 1, readings_taken: taken, readings_archived, readings_dead_lettered };
    Manifest { balance, ..upload_of(bucket, number, incarnation, &content(number)).await }
}

/// [`upload`] with other rows.
async fn upload_of(bucket: &Bucket, number: u64, incarnation: u64, content: &SegmentContent) -> Manifest {
    let mut objects = Vec::new();
    for (n, file) in encode(content).unwrap().into_iter().enumerate() {
        let key = object_key(file.table, &file.site, &file.date, SHARD, incarnation, number * 10 + n as u64);
        let object = ObjectRef { key: key.clone(), bytes: file.bytes.len() as u64, sha256: file.sha256 };
        bucket.put(&key, file.bytes.into()).await.unwrap();
        let (min_time_ms, max_time_ms) = (file.min_time_ms, file.max_time_ms);
        objects.push(DataObject { table: file.table, object, rows: file.rows, min_time_ms, max_time_ms });
    }
    let state = format!("after {number}");
    let key = snapshot_key(SHARD, incarnation, number * 10 + 9);
    let snapshot = ObjectRef { key: key.clone(), bytes: state.len() as u64, sha256: sha256(state.as_bytes()) };
    bucket.put(&key, state.into()).await.unwrap();
    let kind = ManifestKind::Commit;
    Manifest { incarnation, kind, objects, snapshot: Some(snapshot), ..takeover(number) }
}

async fn put_manifest(bucket: &Bucket, manifest: &Manifest) {
    bucket.put(&manifest.key(), manifest.encode().unwrap().into()).await.unwrap();
}

async fn commit(bucket: &Bucket, number: u64) {
    put_manifest(bucket, &upload(bucket, number, 1).await).await;
}

/// A takeover, and commits 2 to `last`.
async fn archive(last: u64) -> Arc<Bucket> {
    let bucket = Bucket::new();
    put_manifest(&bucket, &takeover(1)).await;
    for number in 2..=last {
        commit(&bucket, number).await;
    }
    bucket
}

/// Rows of each table, and the digest of them, as a reader finds them.
async fn rows(store: &dyn Objects) -> Vec<(Table, u64, RowsDigest)> {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for table in Table::ALL {
        let (mut count, mut sum) = (0, RowsDigest::default());
        for listed in resolve(store, SHARD, &[table]).await.unwrap().unwrap().objects {
            let path = folder.path().join("object");
            store.get_file(&listed.object.object.key, &path).await.unwrap().expect("what is listed is there");
            let (rows, digest) = merge::read_digest(&path).unwrap();
            (count, sum) = (count + rows, sum.plus(digest));
        }
        rows.push((table, count, sum));
    }
    rows
}

async fn compact(store: &dyn Objects, settings: &CompactSettings) -> Result<Report, CompactError> {
    let folder = tempfile::tempdir().unwrap();
    run(store, SHARD, settings, folder.path(), LATER_MS).await
}

async fn assert_sound(store: &dyn Objects) {
    let folder = tempfile::tempdir().unwrap();
    let verified = verify(store, SHARD, Depth::Content, folder.path()).await.unwrap();
    assert_eq!(verified.faults_all, 0, "{:#?}", verified.faults);
}

/// Everything under the tables' prefixes is listed.
async fn assert_no_orphans(bucket: &Bucket) {
    let listing = resolve(bucket, SHARD, &Table::ALL).await.unwrap().unwrap();
    let listed: BTreeSet<String> = listing.objects.into_iter().map(|l| l.object.object.key).collect();
    let stored: BTreeSet<String> =
        bucket.keys("archive/v1/").into_iter().filter(|key| !key.contains("/snapshot/")).collect();
    assert_eq!(stored, listed);
    let record = newest_compaction(bucket, SHARD, 0).await.unwrap().unwrap();
    let parts: BTreeSet<String> = record.parts.into_iter().map(|p| p.list.key).collect();
    assert_eq!(
        bucket.keys(&proto::archive::compaction::parts_prefix(SHARD)).into_iter().collect::<BTreeSet<_>>(),
        parts
    );
}

#[tokio::test]
async fn small_files_become_few_with_the_same_rows_and_replaced_ones_go_after_their_grace() {
    let bucket = archive(8).await;
    let (before, files) = (rows(&*bucket).await, bucket.keys("archive/v1/readings/").len());
    assert_eq!(files, 14, "two days in seven commits");
    let patient = CompactSettings { grace_ms: i64::MAX, ..EAGER };
    let report = compact(&*bucket, &patient).await.unwrap();
    assert_eq!((report.manifest, report.merged, report.replaced, report.deleted), (8, 3, 21, 0));
    let listing = resolve(&*bucket, SHARD, &[Table::Readings]).await.unwrap().unwrap();
    assert_eq!((listing.objects.len(), listing.manifest), (2, 8));
    let first = &listing.objects[0];
    assert_eq!((first.manifest, first.committed_ms, first.object.rows), (2, 8, 7 * READINGS_PER_DAY));
    assert_eq!((first.object.min_time_ms, first.object.max_time_ms), (200, 804));
    assert_eq!(rows(&*bucket).await, before);
    assert_eq!(bucket.keys("archive/v1/readings/").len(), 16, "the replaced ones are still there");
    assert_sound(&*bucket).await;

    let again = compact(&*bucket, &patient).await.unwrap();
    assert_eq!((again.merged, again.deleted, again.compaction), (0, 0, report.compaction), "nothing to do");
    let later = compact(&*bucket, &EAGER).await.unwrap();
    assert_eq!((later.merged, later.deleted), (0, 21));
    assert_eq!(bucket.keys("archive/v1/readings/").len(), 2);
    assert_eq!(rows(&*bucket).await, before);
    assert_no_orphans(&bucket).await;
    assert_sound(&*bucket).await;

    for number in 9..12 {
        commit(&bucket, number).await;
    }
    assert_eq!(resolve(&*bucket, SHARD, &[Table::Readings]).await.unwrap().unwrap().objects.len(), 2 + 6);
    assert_eq!(
        compact(&*bucket, &EAGER).await.unwrap().merged,
        3,
        "merged files are merged again while they are small"
    );
    assert_eq!(rows(&*bucket).await, rows(&*archive(11).await).await);
    assert_sound(&*bucket).await;
}

#[tokio::test]
async fn only_what_nothing_can_name_any_more_is_swept() {
    let bucket = Bucket::new();
    put_manifest(&bucket, &takeover(1)).await;
    commit(&bucket, 2).await;
    let orphan = upload(&bucket, 3, 1).await;
    put_manifest(&bucket, &Manifest { snapshot: upload(&bucket, 2, 1).await.snapshot, ..takeover(3) }).await;
    let coming = upload(&bucket, 4, 3).await;
    let partition = Partition::of_key(&orphan.objects[0].object.key).unwrap().0;
    let (lost, ahead) = (partition.merged_key(1, 5), partition.merged_key(9, 5));
    let of_another_shard = partition.merged_key(1, 6).replace("shard=00", "shard=01");
    for key in [&lost, &ahead, &of_another_shard, &part_key(SHARD, 1, "aa"), &part_key(SHARD, 9, "aa")] {
        bucket.put(key, "x".into()).await.unwrap();
    }
    let report = compact(&*bucket, &NEVER_MERGE).await.unwrap();
    let gone = |key: &str| bucket.keys(key).is_empty();
    assert!(orphan.objects.iter().all(|o| gone(&o.object.key)) && gone(&lost) && gone(&part_key(SHARD, 1, "aa")));
    assert_eq!(report.swept, orphan.objects.len() as u64 + 2);
    let kept = |key: &str| !gone(key);
    assert!(coming.objects.iter().all(|o| kept(&o.object.key)), "its writer is the one in charge");
    assert!(kept(&ahead) && kept(&of_another_shard) && kept(&part_key(SHARD, 9, "aa")));
    assert!(kept(&orphan.snapshot.unwrap().key), "it is later than the newest manifest's");
    put_manifest(&bucket, &coming).await;
    assert_sound(&*bucket).await;
    let swept = compact(&*bucket, &NEVER_MERGE).await.unwrap().swept;
    assert_eq!(bucket.keys("archive/v1/snapshot/").len(), 1, "the newest manifest's is enough");
    assert_eq!(swept, 2 + 2, "and the two parts that the record before had");
}

#[tokio::test]
async fn files_with_fewer_columns_are_merged_and_those_with_another_type_are_not() {
    use polars::prelude::*;
    let folder = tempfile::tempdir().unwrap();
    let input = |name: &str, mut frame: DataFrame| {
        let path = folder.path().join(name);
        polars_io::parquet::write::ParquetWriter::new(std::fs::File::create(&path).unwrap())
            .finish(&mut frame)
            .unwrap();
        let object = ObjectRef {
            key: name.into(),
            bytes: path.metadata().unwrap().len(),
            sha256: merge::sha256_of(&path).unwrap(),
        };
        let rows = frame.height() as u64;
        let object = DataObject { table: Table::Gaps, object, rows, min_time_ms: 0, max_time_ms: 0 };
        Input { listed: Listed { manifest: 1, committed_ms: 1, digest: None, object }, path }
    };
    let old = input("old", df!("a" => [1i64, 2]).unwrap());
    let new = input("new", df!("b" => ["x"], "a" => [3i64]).unwrap());
    let other = input("other", df!("a" => ["text"]).unwrap());
    let output = folder.path().join("merged");
    let merged = merge::merge(&[old, new, other], &output).unwrap();
    assert_eq!((merged.inputs, merged.rows), (2, 3), "the third has another type of `a`");
    let frame = polars_io::parquet::read::ParquetReader::new(std::fs::File::open(&output).unwrap()).finish().unwrap();
    let expected = df!("a" => [1i64, 2, 3], "b" => [None, None, Some("x")]).unwrap();
    assert!(frame.equals_missing(&expected), "{frame}");
    assert_eq!(merged.digest, digest::digest(&expected).unwrap());

    let mut damaged = input("damaged", df!("a" => [1i64]).unwrap());
    damaged.listed.object.rows = 2;
    assert!(matches!(merge::merge(&[damaged], &output), Err(MergeError::Changed { .. })));
    let mut damaged = input("damaged", df!("a" => [1i64]).unwrap());
    damaged.listed.object.object.sha256 = "00".into();
    assert!(matches!(merge::merge(&[damaged], &output), Err(MergeError::Changed { .. })));
}

fn exists(path: &Path) -> bool {
    std::fs::read_dir(path).unwrap().next().is_some()
}

#[tokio::test]
async fn a_run_leaves_nothing_in_its_scratch_folder() {
    let bucket = archive(4).await;
    let folder = tempfile::tempdir().unwrap();
    run(&*bucket, SHARD, &EAGER, folder.path(), LATER_MS).await.unwrap();
    assert!(!exists(folder.path()));
    let nothing = Bucket::new();
    let report = run(&*nothing, SHARD, &EAGER, folder.path(), LATER_MS).await.unwrap();
    assert_eq!(report, Report::default(), "an empty archive needs no record");
}
