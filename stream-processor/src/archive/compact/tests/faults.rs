//! `archive verify` names what is wrong.

use proto::archive::{compaction::compaction_key, manifest_key};

use super::*;
use crate::archive::verify::Fault;

async fn found(bucket: &Bucket, depth: Depth) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let verified = verify(bucket, SHARD, depth, folder.path()).await.unwrap();
    assert_eq!(verified.faults.len() as u64, verified.faults_all);
    verified.faults.iter().map(Fault::to_string).collect()
}

fn change(bucket: &Bucket, number: u64, change: impl FnOnce(&mut Manifest)) {
    let key = manifest_key(SHARD, number);
    let mut manifest = Manifest::decode(&bucket.bytes(&key).unwrap(), number).unwrap();
    change(&mut manifest);
    bucket.set(&key, Some(manifest.encode().unwrap().into()));
}

#[tokio::test]
async fn a_sound_archive_is_counted_and_has_no_fault() {
    let bucket = archive(4).await;
    let folder = tempfile::tempdir().unwrap();
    let verified = verify(&*bucket, SHARD, Depth::Content, folder.path()).await.unwrap();
    assert_eq!((verified.manifests, verified.compactions, verified.objects), (4, 0, 9));
    assert_eq!((verified.rows, verified.readings_taken, verified.readings_archived), (33, 33, 30));
    assert!(verified.to_string().contains("readings: 33 taken = 30 archived + 3 dead-lettered"), "{verified}");
}

#[tokio::test]
async fn a_broken_manifest_is_named() {
    let start = archive(4).await;
    let faults = async |what: &dyn Fn(&Bucket)| {
        let bucket = start.copy();
        what(&bucket);
        found(&bucket, Depth::Sizes).await.join("\n")
    };
    let unreadable = faults(&|b| b.set(&manifest_key(SHARD, 3), Some("{}".into()))).await;
    assert!(unreadable.starts_with("manifest 3: manifest is not valid JSON"), "{unreadable}");
    let balance = faults(&|b| change(b, 3, |m| m.balance.readings_taken += 1)).await;
    assert_eq!(balance, "manifest 3: 12 readings taken, 10 archived + 1 dead-lettered");
    let more = |m: &mut Manifest| (m.balance.readings_archived, m.balance.readings_taken) = (11, 12);
    assert_eq!(faults(&|b| change(b, 3, more)).await, "manifest 3: 10 rows of readings, 11 readings archived");
    let falls = faults(&|b| change(b, 4, |m| m.agents[0].position.seq = 2)).await;
    assert!(falls.starts_with("manifest 4: the position of mill/gw falls from 0707"), "{falls}");
    let gone = faults(&|b| change(b, 4, |m| m.agents.clear())).await;
    assert_eq!(gone, "manifest 4: mill/gw has no position any more");
    let foreign = faults(&|b| change(b, 4, |m| m.archive = ArchiveId([2; 16]))).await;
    assert_eq!(foreign, "manifest 4: of another archive");
    let usurper = faults(&|b| change(b, 4, |m| m.incarnation = 3)).await;
    assert_eq!(usurper, "manifest 4: of a writer that has not taken over");
    let twice = Manifest::decode(&start.bytes(&manifest_key(SHARD, 2)).unwrap(), 2).unwrap().objects;
    let twice = faults(&|b| change(b, 3, |m| m.objects[0] = twice[0].clone())).await;
    assert!(twice.contains("manifest 3 names archive/v1/readings/"), "{twice}");
}

#[tokio::test]
async fn a_hole_in_the_numbers_is_named() {
    let start = archive(9).await;
    compact(&*start, &NEVER_MERGE).await.unwrap();
    for hole in 2..9 {
        let bucket = start.copy();
        bucket.set(&manifest_key(SHARD, hole), None);
        let faults = found(&bucket, Depth::Sizes).await;
        assert!(faults.contains(&format!("manifest {hole} is missing")), "{faults:?}");
        bucket.set(&compaction_key(SHARD, 1), None);
        let faults = found(&bucket, Depth::Sizes).await;
        assert!(faults.iter().any(|f| f.starts_with("manifest ") && f.ends_with(" is missing")), "{hole}: {faults:?}");
    }
}

#[tokio::test]
async fn a_broken_object_is_named() {
    let start = archive(3).await;
    let key = start.keys("archive/v1/readings/").remove(0);
    let bucket = start.copy();
    bucket.set(&key, None);
    assert_eq!(found(&bucket, Depth::Sizes).await, [format!("{key}: missing")]);
    let mut bytes = start.bytes(&key).unwrap().to_vec();
    bytes[30] ^= 1;
    let bucket = start.copy();
    bucket.set(&key, Some(bytes.clone().into()));
    assert!(found(&bucket, Depth::Sizes).await.is_empty(), "the size is right");
    assert!(found(&bucket, Depth::Content).await[0].starts_with(&format!("{key}: SHA-256 ")));
    bytes.pop();
    bucket.set(&key, Some(bytes.into()));
    assert!(found(&bucket, Depth::Sizes).await[0].contains(" bytes, listed with "));
    let bucket = start.copy();
    change(&bucket, 2, |m| {
        m.objects[0].rows += 1;
        m.balance.readings_archived += 1;
        m.balance.readings_taken += 1;
    });
    assert!(found(&bucket, Depth::Content).await[0].ends_with("5 rows, listed with 6"));
    let snapshot = start.keys("archive/v1/snapshot/").pop().unwrap();
    let bucket = start.copy();
    bucket.set(&snapshot, None);
    assert_eq!(found(&bucket, Depth::Sizes).await, [format!("{snapshot}: missing")]);
}

#[tokio::test]
async fn a_broken_compaction_is_named() {
    let start = archive(4).await;
    compact(&*start, &EAGER).await.unwrap();
    let newest = newest_compaction(&*start, SHARD, 0).await.unwrap().unwrap().number;
    let mut merging = 0;
    for number in 1..=newest {
        let record = read_compaction(&*start, SHARD, number).await.unwrap().unwrap();
        if record.replacements.is_empty() {
            continue;
        }
        merging += 1;
        let faults = async |what: &dyn Fn(&mut Compaction)| {
            let (bucket, mut record) = (start.copy(), record.clone());
            what(&mut record);
            bucket.set(&compaction_key(SHARD, number), Some(record.encode().unwrap().into()));
            found(&bucket, Depth::Sizes).await.join("\n")
        };
        assert!(faults(&|_| {}).await.is_empty());
        assert!(faults(&|r| r.replacements[0].by.object.rows += 1).await.contains(" rows in place of "));
        assert!(faults(&|r| r.replacements[0].digest = RowsDigest(1)).await.contains("not those of what it replaces"));
        assert!(faults(&|r| r.manifest = 0).await.contains("it covers manifests up to 0"));
        let ghost = |r: &mut Compaction| {
            let stray = r.replacements[0].replaced[0].object.object.key.replace(".parquet", "9.parquet");
            r.replacements[0].replaced[0].object.object.key = stray;
        };
        assert!(faults(&ghost).await.contains("is replaced and not listed"));
        let forgets = |r: &mut Compaction| r.replacements.clear();
        assert!(faults(&forgets).await.contains("its parts are not what manifests and replacements give"));
    }
    assert_eq!(merging, 3);
}
