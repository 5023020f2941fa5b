//! A change that dies at any request, or runs beside others and beside the writer, ends as one that nothing happened to.

use std::sync::Arc;

use futures::future::join_all;
use model::store::{StoreError, listing::shards, manifests::first_number, manifests::newest_number};
use proto::{
    archive::{AgentPosition, manifest_key},
    asset::AssetId,
    position::{Epoch, Position},
};

use super::*;
use crate::archive::{
    bucket::{Bucket, Death},
    recovery::takeover,
    verify::{Depth, verify},
};

const AGENTS: u64 = 30;
const SPLIT: [(u8, &str); 4] = [(1, "0-15"), (2, "16-31"), (3, "32-47"), (4, "48-63")];

/// A state is the sequence numbers of its agents.
type State = BTreeMap<AssetId, u64>;

fn carve(states: &[Vec<u8>], slots: Slots) -> Result<Vec<u8>, StreamError> {
    let all = states.iter().flat_map(|bytes| serde_json::from_slice::<State>(bytes).unwrap());
    Ok(serde_json::to_vec(&all.filter(|(agent, _)| slots.holds(agent)).collect::<State>()).unwrap())
}

fn agents(seq: u64) -> Vec<AgentPosition> {
    let agent = |n: u64| AgentPosition {
        site: AssetId::new("mill").unwrap(),
        agent: AssetId::new(&format!("gw-{n}")).unwrap(),
        position: Position { epoch: Epoch([7; 16]), seq: seq + n },
    };
    (0..AGENTS).map(agent).collect()
}

fn state(agents: &[AgentPosition]) -> Vec<u8> {
    serde_json::to_vec(&agents.iter().map(|a| (a.agent.clone(), a.position.seq)).collect::<State>()).unwrap()
}

/// A commit of all agents of the manifest's slots.
async fn commit(bucket: &Bucket, before: &Manifest, seq: u64) -> Result<Option<Manifest>, StoreError> {
    let agents: Vec<_> = agents(seq).into_iter().filter(|a| before.slots.holds(&a.agent)).collect();
    let bytes = state(&agents);
    let number = before.number + 1;
    let key = snapshot_key(before.shard, before.incarnation, number);
    let snapshot = Some(ObjectRef { key, bytes: bytes.len() as u64, sha256: sha256(&bytes) });
    bucket.put(&snapshot.as_ref().unwrap().key, bytes.into()).await?;
    let kind = ManifestKind::Commit;
    let manifest = Manifest { number, kind, agents, snapshot, predecessors: vec![], ..before.clone() };
    let created = bucket.put_if_absent(&manifest.key(), manifest.encode().unwrap().into()).await?;
    Ok((created == PutOutcome::Created).then_some(manifest))
}

async fn archive() -> Arc<Bucket> {
    let bucket = Bucket::new();
    let first = takeover(None, &claim(Shard(0), "writer"));
    bucket.put_if_absent(&first.key(), first.encode().unwrap().into()).await.unwrap();
    commit(&bucket, &first, 100).await.unwrap().unwrap();
    bucket
}

fn into(parts: &[(u8, &str)]) -> Vec<ShardSlots> {
    parts.iter().map(|(shard, slots)| ShardSlots { shard: Shard(*shard), slots: slots.parse().unwrap() }).collect()
}

async fn split(bucket: &Bucket) -> Result<Layout, ArchiveError> {
    change(bucket, &[Shard(0)], &into(&SPLIT), "command", carve).await
}

/// Every shard is what its predecessors left, and together they have everything once. Gives back how far the agents are.
async fn check(bucket: &Bucket) -> State {
    let mut open = State::new();
    let layout = newest_layout(bucket).await.unwrap();
    for shard in shards(bucket, None).await.unwrap() {
        let scratch = tempfile::tempdir().unwrap();
        let verified = verify(bucket, shard, Depth::Content, scratch.path()).await.unwrap();
        assert!(verified.faults.is_empty(), "shard {shard}: {:?}", verified.faults);
        let newest = claim::newest(bucket, shard, 0).await.unwrap().unwrap();
        let snapshot = claim::snapshot(bucket, &newest).await.unwrap().unwrap();
        assert_eq!(snapshot, state(&newest.agents), "shard {shard}: positions and state are of one barrier");
        if layout.successors(shard).is_empty() {
            open.extend(newest.agents.into_iter().map(|a| (a.agent, a.position.seq)));
        } else {
            assert_eq!(newest.kind, ManifestKind::Closed, "shard {shard}");
        }
    }
    assert_eq!(open.len() as u64, AGENTS);
    open
}

#[tokio::test]
async fn a_split_and_a_merge_that_die_at_any_request_can_be_gone_on_with() {
    let start = archive().await;
    let whole = start.copy();
    whole.die(Death::Never);
    split(&whole).await.unwrap();
    let split_requests = whole.requests();
    let (merged, all) = ([Shard(1), Shard(2), Shard(3), Shard(4)], into(&[(5, "0-63")]));
    whole.die(Death::Never);
    change(&*whole, &merged, &all, "command", carve).await.unwrap();
    let requests = [split_requests, whole.requests()];
    let expected = check(&whole).await;

    let mut undecided = 0;
    for (merges, requests) in [false, true].into_iter().zip(requests) {
        for death in (0..requests).flat_map(|n| [Death::Before(n), Death::After(n)]) {
            let bucket = start.copy();
            if merges {
                split(&bucket).await.unwrap();
            }
            let (from, into) = if merges { (&merged[..], all.clone()) } else { (&[Shard(0)][..], into(&SPLIT)) };
            bucket.die(death);
            change(&*bucket, from, &into, "command", carve).await.unwrap_err();
            bucket.die(Death::Never);
            // Either the processors of the successors find it, or somebody gives the command again.
            for new in &into {
                match ensure_open(&*bucket, new.shard, "successor", carve).await {
                    Ok(()) => {}
                    Err(ArchiveError::Reshard(super::super::ReshardError::Unknown(_))) => {
                        undecided += 1;
                        assert_eq!(check(&bucket).await, expected, "{death:?}: nothing has happened");
                        change(&*bucket, from, &into, "command", carve).await.unwrap();
                    }
                    Err(e) => panic!("{death:?}: {e}"),
                }
            }
            assert_eq!(check(&bucket).await, expected, "{death:?}");
        }
    }
    println!("{requests:?} requests, {undecided} deaths before the decision");
    assert!(undecided > 0);
}

/// Commits some times, or until it is thrown out; gives back the last sequence number that it committed.
async fn writer(bucket: &Bucket) -> u64 {
    let mut seq = 200;
    let mut last = claim::newest(bucket, Shard(0), 0).await.unwrap().unwrap();
    let mut committed = 100;
    // Fewer than the attempts of whoever closes the shard.
    while last.kind != ManifestKind::Closed && seq < 200 + u64::from(TAKEOVER_ATTEMPTS_MAX) / 2 {
        match commit(bucket, &last, seq).await.unwrap() {
            Some(manifest) => (last, committed) = (manifest, seq),
            None => break,
        }
        seq += 1;
    }
    committed
}

#[tokio::test]
async fn many_that_carry_out_one_change_beside_the_writer_lose_nothing_that_was_committed() {
    for seed in 0..200 {
        let bucket = archive().await;
        bucket.interleave(seed);
        let commands = join_all((0..2).map(|_| split(&bucket)));
        let successors = join_all(into(&SPLIT).into_iter().map(|new| {
            let bucket = &bucket;
            async move {
                while let Err(e) = ensure_open(&**bucket, new.shard, "successor", carve).await {
                    // Not decided yet.
                    assert!(matches!(e, ArchiveError::Reshard(_)), "seed {seed}: {e}");
                    tokio::task::yield_now().await;
                }
            }
        }));
        let (committed, commands, _) = tokio::join!(writer(&bucket), commands, successors);
        assert!(commands.iter().all(Result::is_ok), "seed {seed}: {commands:?}");
        let expected: State = agents(committed).into_iter().map(|a| (a.agent, a.position.seq)).collect();
        assert_eq!(check(&bucket).await, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn of_two_changes_that_contradict_each_other_one_is_decided() {
    let bucket = archive().await;
    bucket.interleave(7);
    let (halves, others) = (into(&[(1, "0-31"), (2, "32-63")]), into(&[(3, "0-31"), (4, "32-63")]));
    let one = change(&*bucket, &[Shard(0)], &halves, "command", carve);
    let two = change(&*bucket, &[Shard(0)], &others, "command", carve);
    let (one, two) = tokio::join!(one, two);
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let refused = one.err().or(two.err()).unwrap().to_string();
    assert!(refused.contains("shard 0 is not there, or has given its slots away"), "{refused}");
    check(&bucket).await;
}

#[tokio::test]
async fn an_empty_archive_is_split_before_anything_was_written() {
    let bucket = Bucket::new();
    let layout = change(&*bucket, &[Shard(0)], &into(&SPLIT), "command", carve).await.unwrap();
    assert_eq!(layout.current().count(), 4);
    assert_eq!(newest_number(&*bucket, Shard(0), 0).await.unwrap(), Some(1));
    for (shard, _) in SPLIT {
        let first = first_number(&*bucket, Shard(shard)).await.unwrap().unwrap();
        assert_eq!(first, 2);
        let opened = Manifest::decode(&bucket.bytes(&manifest_key(Shard(shard), first)).unwrap(), first).unwrap();
        assert!(opened.snapshot.is_none() && opened.agents.is_empty());
    }
}
