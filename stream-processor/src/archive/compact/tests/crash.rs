//! Killed at every request; two at once; readers and a writer meanwhile.

use futures::future::join4;

use super::{bucket::Death, *};

/// An archive with a bit of everything: replaced objects whose grace is over, small files, an orphan of a fenced writer.
async fn busy() -> Arc<Bucket> {
    let bucket = archive(4).await;
    compact(&*bucket, &CompactSettings { grace_ms: i64::MAX, ..EAGER }).await.unwrap();
    for number in 5..7 {
        commit(&bucket, number).await;
    }
    upload(&bucket, 7, 1).await;
    let snapshot =
        Manifest::decode(&bucket.bytes(&proto::archive::manifest_key(SHARD, 6)).unwrap(), 6).unwrap().snapshot;
    put_manifest(&bucket, &Manifest { snapshot, ..takeover(7) }).await;
    bucket
}

/// Gives back how many requests a whole run takes.
async fn killed_at_every_request(death: fn(u64) -> Death) -> u64 {
    let start = busy().await;
    let expected = rows(&*start).await;
    for n in 0.. {
        let bucket = start.copy();
        bucket.die(death(n));
        let ended = compact(&*bucket, &EAGER).await;
        bucket.die(Death::Never);
        assert_eq!(rows(&*bucket).await, expected, "after a kill at request {n}");
        assert_sound(&*bucket).await;
        let whole = ended.is_ok();
        // One run to finish what was left, one more since the first may only have found out about the orphans.
        for _ in 0..2 {
            compact(&*bucket, &EAGER).await.unwrap();
        }
        assert_eq!(rows(&*bucket).await, expected, "resumed after a kill at request {n}");
        assert_sound(&*bucket).await;
        assert_no_orphans(&bucket).await;
        let files = resolve(&*bucket, SHARD, &Table::ALL).await.unwrap().unwrap().objects.len();
        assert_eq!(files, 3, "all is merged: two days of readings, one of letters");
        if whole {
            return n;
        }
    }
    unreachable!("some run comes to its end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compactor_killed_before_any_request_leaves_an_exact_archive() {
    assert!(killed_at_every_request(Death::Before).await > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compactor_killed_after_any_request_leaves_an_exact_archive() {
    assert!(killed_at_every_request(Death::After).await > 50);
}

/// Also the bound on the seeds: each is a run of everything together.
const SEEDS: u64 = 30;

#[tokio::test]
async fn two_compactors_a_writer_and_a_reader_at_once_do_no_harm() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let bucket = archive(5).await;
        bucket.interleave(seed);
        // With readers, no grace is over yet; without, the compactors delete what the other one may be about to read.
        let read = seed % 2 == 0;
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now_ms = if read { 1_000 } else { LATER_MS };
        let one = run(&*bucket, SHARD, &EAGER, a.path(), now_ms);
        let two = run(&*bucket, SHARD, &EAGER, b.path(), now_ms);
        let writer = async {
            for number in 6..9 {
                commit(&bucket, number).await;
            }
        };
        let reader = async {
            let mut counts = Vec::new();
            for _ in 0..if read { 3 } else { 0 } {
                counts.push(rows(&*bucket).await[0].1);
            }
            counts
        };
        let (one, two, (), counts) = join4(one, two, writer, reader).await;
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(
            counts.iter().all(|n| n % (2 * READINGS_PER_DAY) == 0 && *n >= 40 && *n <= 70),
            "seed {seed}: {counts:?}"
        );
        assert!(counts.is_sorted(), "seed {seed}: {counts:?}");
        lost += u64::from(one.merged > 0 && two.merged > 0);
        assert_eq!(rows(&*bucket).await, rows(&*archive(8).await).await, "seed {seed}");
        assert_sound(&*bucket).await;
        compact(&*bucket, &EAGER).await.unwrap();
        compact(&*bucket, &EAGER).await.unwrap();
        assert_no_orphans(&bucket).await;
    }
    assert!(lost > 0, "both have won something in some run");
}
