use proto::{
    ack::ArchiveId,
    archive::{Shard, Table},
};

use super::*;
use crate::archive::recovery::{Claim, takeover};

impl Load for &'static str {
    fn follow(&mut self, later: Self) {
        *self = later;
    }
}

fn writer() -> Committer<&'static str> {
    let claim = Claim { fresh: ArchiveId([1; 16]), shard: Shard(0), owner: "a".into(), wall_ms: 0 };
    Committer::new(takeover(None, &claim))
}

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: key.into(), bytes: 1, sha256: "00".into() }
}

fn staged(load: &'static str, objects: usize) -> Staged<&'static str> {
    let data = |n: usize| DataObject {
        table: Table::Readings,
        object: object(&format!("{load}-{n}")),
        rows: 1,
        min_time_ms: 0,
        max_time_ms: 0,
    };
    Staged {
        objects: (0..objects).map(data).collect(),
        snapshot: object(&format!("{load}-snapshot")),
        agents: vec![],
        balance: Balance { batches: 1, ..Balance::default() },
        load,
    }
}

const T0: Duration = Duration::ZERO;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn upload_all(c: &mut Committer<&'static str>, now: Duration) -> Vec<String> {
    let mut keys = Vec::new();
    while matches!(c.state, State::Uploading { .. }) {
        for action in c.poll(now) {
            let Action::Upload { number, object, key } = action else { panic!("{action:?}") };
            keys.push(key);
            assert!(c.answer(now, Answer::Uploaded { number, object }).is_none());
        }
    }
    keys
}

fn put(c: &mut Committer<&'static str>, now: Duration) -> (u64, Bytes) {
    match c.poll(now).as_slice() {
        [Action::PutManifest { number, bytes }] => (*number, bytes.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_are_committed_in_order_objects_before_their_manifest() {
    let mut c = writer();
    assert_eq!(c.poll(T0), []);
    c.push(staged("one", 6), 10).unwrap();
    c.push(staged("two", 0), 11).unwrap();
    assert_eq!(c.poll(T0).len(), UPLOADS_IN_FLIGHT_MAX);
    assert_eq!(c.poll(T0), [], "nothing is asked for twice");
    for object in 0..4 {
        c.answer(T0, Answer::Uploaded { number: 2, object });
    }
    assert_eq!(upload_all(&mut c, T0), ["one-4", "one-5", "one-snapshot"]);
    let (number, bytes) = put(&mut c, T0);
    let written = Manifest::decode(&bytes, number).unwrap();
    assert_eq!((written.kind, written.incarnation, written.objects.len()), (ManifestKind::Commit, 1, 6));
    let done = c.answer(T0, Answer::ManifestCreated { number }).unwrap();
    assert_eq!((done.manifest.number, done.load), (2, Some("one")));
    assert_eq!(upload_all(&mut c, T0), ["two-snapshot"]);
    assert_eq!(put(&mut c, T0).0, 3);
    assert_eq!(c.answer(T0, Answer::ManifestCreated { number: 3 }).unwrap().load, Some("two"));
    assert_eq!((c.staged(), c.poll(T0)), (0, vec![]));
}

#[test]
fn a_manifest_that_is_there_already_is_ours_if_it_says_the_same() {
    let mut c = writer();
    c.push(staged("one", 1), 0).unwrap();
    upload_all(&mut c, T0);
    let (number, bytes) = put(&mut c, T0);
    c.answer(T0, Answer::ManifestExists { number });
    assert_eq!(c.poll(T0), [Action::ReadManifest { number }]);
    let done = c.answer(T0, Answer::ManifestRead { number, found: Some(bytes) });
    assert_eq!(done.unwrap().load, Some("one"));
    assert!(!c.is_fenced());
}

#[test]
fn another_writers_manifest_ends_this_one_for_good() {
    let mut c = writer();
    c.push(staged("one", 1), 0).unwrap();
    c.push(staged("two", 1), 0).unwrap();
    upload_all(&mut c, T0);
    let (number, _) = put(&mut c, T0);
    c.answer(T0, Answer::ManifestExists { number });
    c.poll(T0);
    assert!(c.answer(T0, Answer::ManifestRead { number, found: Some(Bytes::from_static(b"x")) }).is_none());
    assert!(c.is_fenced());
    assert_eq!((c.poll(ms(9)), c.staged()), (vec![Action::Fenced], 0));
    assert!(matches!(c.push(staged("three", 0), 0), Err(PushError::Ended)));
    assert!(c.answer(T0, Answer::ManifestCreated { number }).is_none());
}

#[test]
fn failures_are_tried_again_ever_later_and_for_ever() {
    let mut c = writer();
    c.push(staged("one", 0), 0).unwrap();
    let (mut now, mut waits) = (T0, Vec::new());
    for _ in 0..10 {
        let [action] = c.poll(now).try_into().unwrap();
        assert!(matches!(action, Action::Upload { .. }));
        c.answer(now, Answer::Failed(action));
        match c.poll(now).as_slice() {
            [Action::Wait(until)] => {
                waits.push((*until - now).as_millis() as u64);
                now = *until;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits[..4], [200, 400, 800, 1600]);
    assert_eq!(waits[9], BACKOFF_MS_MAX);
    upload_all(&mut c, now);
    let (number, bytes) = put(&mut c, now);
    let failed = Answer::Failed(Action::PutManifest { number, bytes: bytes.clone() });
    c.answer(now, failed);
    assert_eq!(c.poll(now), [Action::Wait(now + ms(BACKOFF_FIRST_MS))], "what succeeded ended the row of failures");
    now += ms(BACKOFF_FIRST_MS);
    assert_eq!(c.poll(now), [Action::PutManifest { number, bytes }], "the same bytes");
}

#[test]
fn uploads_that_fail_together_are_one_failure_and_only_they_are_repeated() {
    let mut c = writer();
    c.push(staged("one", 2), 0).unwrap();
    let [first, second, third] = c.poll(T0).try_into().unwrap();
    c.answer(T0, Answer::Failed(first.clone()));
    c.answer(ms(1), Answer::Failed(third.clone()));
    assert_eq!(c.poll(ms(1)), [Action::Wait(ms(200))]);
    let Action::Upload { number, object, .. } = second else { panic!() };
    c.answer(ms(2), Answer::Uploaded { number, object });
    assert_eq!(c.poll(ms(200)), [first, third]);
}

#[test]
fn a_release_comes_last_and_keeps_positions_and_snapshot() {
    let mut c = writer();
    c.push(staged("one", 0), 0).unwrap();
    c.release(5).unwrap();
    assert!(matches!(c.push(staged("two", 0), 0), Err(PushError::Ended)));
    upload_all(&mut c, T0);
    let (number, _) = put(&mut c, T0);
    c.answer(T0, Answer::ManifestCreated { number });
    let (number, bytes) = put(&mut c, T0);
    let released = Manifest::decode(&bytes, number).unwrap();
    assert_eq!((released.number, released.kind), (3, ManifestKind::Released));
    assert_eq!(released.snapshot.unwrap().key, "one-snapshot");
    assert_eq!(released.balance, Balance::default());
    assert!(c.answer(T0, Answer::ManifestCreated { number }).unwrap().load.is_none());
}

#[test]
fn an_idle_owner_renews_and_one_with_something_to_commit_does_not_need_to() {
    const EVERY: Duration = Duration::from_secs(15);
    let mut c = writer();
    assert_eq!(c.renews_at(EVERY), Some(EVERY), "the takeover is its first sign of life");
    c.push(staged("one", 0), 0).unwrap();
    assert_eq!(c.renews_at(EVERY), None);
    upload_all(&mut c, ms(500));
    let (number, _) = put(&mut c, ms(500));
    c.answer(ms(600), Answer::ManifestCreated { number });
    assert_eq!(c.renews_at(EVERY), Some(ms(600) + EVERY));

    c.renew(7).unwrap();
    let (number, bytes) = put(&mut c, ms(16_000));
    let renewed = Manifest::decode(&bytes, number).unwrap();
    assert_eq!((renewed.number, renewed.kind, renewed.written_ms), (3, ManifestKind::Renewed, 7));
    assert_eq!((renewed.snapshot.unwrap().key.as_str(), renewed.balance), ("one-snapshot", Balance::default()));
    assert!(c.answer(ms(16_000), Answer::ManifestCreated { number }).unwrap().load.is_none());
    c.release(8).unwrap();
    assert_eq!(c.renews_at(EVERY), None, "nothing follows a release");
}

#[test]
fn a_writer_that_is_thrown_out_knows_by_whom() {
    let mut c = writer();
    c.renew(0).unwrap();
    let (number, _) = put(&mut c, T0);
    assert!(c.answer(T0, Answer::ManifestExists { number }).is_none());
    c.poll(T0);
    let claim = Claim { fresh: ArchiveId([1; 16]), shard: Shard(0), owner: "b".into(), wall_ms: 0 };
    let other = Manifest { number, incarnation: number, ..takeover(None, &claim) };
    c.answer(T0, Answer::ManifestRead { number, found: Some(other.encode().unwrap().into()) });
    assert_eq!((c.is_fenced(), c.fenced_by()), (true, Some(&other)));
}

/// S3 is away: the first segment is on its way, and no snapshot but its own and the newest is kept for the others.
#[test]
fn segments_that_wait_are_taken_by_one_manifest() {
    let mut c = writer();
    for load in ["one", "two", "three", "four"] {
        c.push(staged(load, 2), 7).unwrap();
    }
    assert_eq!((c.staged(), c.load(3).copied()), (2, Some("four")));
    upload_all(&mut c, T0);
    let (number, bytes) = put(&mut c, T0);
    assert_eq!(Manifest::decode(&bytes, number).unwrap().objects.len(), 2);
    assert_eq!(c.answer(T0, Answer::ManifestCreated { number }).unwrap().load, Some("one"));
    c.push(staged("five", 1), 8).unwrap();
    assert_eq!(c.staged(), 2, "what is on its way says what it says");

    let keys = ["two-0", "two-1", "three-0", "three-1", "four-0", "four-1", "four-snapshot"];
    assert_eq!(upload_all(&mut c, T0), keys);
    let (number, bytes) = put(&mut c, T0);
    let taken = Manifest::decode(&bytes, number).unwrap();
    assert_eq!((taken.number, taken.balance.batches, taken.snapshot.unwrap().key.as_str()), (3, 3, "four-snapshot"));
    assert_eq!(c.answer(T0, Answer::ManifestCreated { number }).unwrap().load, Some("four"));
    assert_eq!(upload_all(&mut c, T0), ["five-0", "five-snapshot"]);
    assert_eq!(put(&mut c, T0).0, 4);
}

#[test]
fn a_manifest_takes_so_many_objects_and_nothing_after_a_renewal() {
    let mut c = writer();
    c.renew(0).unwrap();
    c.renew(0).unwrap();
    c.push(staged("one", OBJECTS_FOLDED_MAX - 1), 0).unwrap();
    c.push(staged("two", 1), 0).unwrap();
    assert_eq!(c.staged(), 3);
    c.push(staged("three", 1), 0).unwrap();
    assert_eq!(c.staged(), 4);
}

#[test]
fn the_queue_is_bounded() {
    let mut c = writer();
    for _ in 0..MANIFESTS_STAGED_MAX {
        c.push(staged("one", OBJECTS_FOLDED_MAX), 0).unwrap();
    }
    assert!(matches!(c.push(staged("one", 0), 0), Err(PushError::Full)));
}
