//! What lies in the bucket, read back as any reader would, and what it must look like.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use proto::{
    archive::{
        Manifest, ManifestKind, ObjectRef, Shard, manifest_key, manifest_prefix,
        shards::{Descent, Slots},
    },
    position::{Epoch, Position},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stream_processor::{archive::recovery::positions, decode::AgentKey, intake::EpochsLeft};

use crate::{gateway::Gateway, reshard::layout};

/// One taken batch, or what was new of a gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub agent: AgentKey,
    pub from: Position,
    pub last_seq: u64,
    /// The batch's number; none: a gap or a break.
    pub n: Option<i64>,
    /// The log goes on behind this.
    pub break_to: bool,
}

/// Stands for windows, watermarks and alerts: it depends on every row and its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State(BTreeMap<String, (AgentKey, u64)>);

/// With what intake needs beside it.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    state: BTreeMap<String, (AgentKey, u64)>,
    left: Vec<(AgentKey, Vec<Position>)>,
}

impl State {
    pub fn apply(&mut self, row: &Row) {
        let name = row.agent.agent.to_string();
        let (_, digest) = self.0.entry(name).or_insert_with(|| (row.agent.clone(), 0));
        let mut step = DefaultHasher::new();
        (*digest, row.from, row.last_seq, row.n, row.break_to).hash(&mut step);
        *digest = step.finish();
    }

    /// Of some slots, with what intake needs beside it.
    pub fn carve(states: impl Iterator<Item = (State, EpochsLeft)>, slots: Slots) -> (State, EpochsLeft) {
        let (mut state, mut left) = (State::default(), EpochsLeft::new());
        for (part, part_left) in states {
            state.0.extend(part.0.into_iter().filter(|(_, (agent, _))| slots.holds(&agent.agent)));
            left.extend(part_left.into_iter().filter(|(agent, _)| slots.holds(&agent.agent)));
        }
        (state, left)
    }

    pub fn encode(&self, left: EpochsLeft) -> Vec<u8> {
        serde_json::to_vec(&Snapshot { state: self.0.clone(), left: left.into_iter().collect() }).unwrap()
    }

    pub fn decode(bytes: &[u8]) -> (Self, EpochsLeft) {
        let Snapshot { state, left } = serde_json::from_slice(bytes).unwrap();
        (State(state), left.into_iter().collect())
    }
}

/// How far the manifests went at any time, for those who claim that something is committed.
#[derive(Default)]
pub struct Ledger {
    newest: BTreeMap<Shard, u64>,
    furthest: BTreeMap<(AgentKey, Epoch), u64>,
}

impl Ledger {
    pub fn catch_up(&mut self, objects: &BTreeMap<String, Bytes>) {
        for descent in layout(objects).shards {
            let newest = self.newest.entry(descent.shard).or_default();
            for manifest in manifests(objects, descent.shard, *newest) {
                *newest = manifest.number;
                for (agent, position) in positions(&manifest) {
                    self.furthest.insert((agent, position.epoch), position.seq);
                }
            }
        }
    }

    pub fn holds(&self, agent: &AgentKey, position: Position) -> bool {
        self.furthest.get(&(agent.clone(), position.epoch)).is_some_and(|seq| *seq >= position.seq)
    }
}

/// Where a shard's last manifest stands.
#[derive(Clone, Default)]
struct End {
    positions: BTreeMap<AgentKey, Position>,
    state: State,
    number: u64,
    closed: bool,
}

impl End {
    fn of(before: &[End], slots: Slots) -> Self {
        let states = before.iter().map(|b| (b.state.clone(), EpochsLeft::new()));
        let positions = before.iter().flat_map(|b| b.positions.clone());
        let positions = positions.filter(|(agent, _)| slots.holds(&agent.agent)).collect();
        End { positions, state: State::carve(states, slots).0, ..End::default() }
    }
}

/// Of a shard, behind one of its numbers, or all.
fn manifests(objects: &BTreeMap<String, Bytes>, shard: Shard, after: u64) -> impl Iterator<Item = Manifest> + '_ {
    let prefix = manifest_prefix(shard);
    let number = move |key: &String| key.strip_prefix(&prefix)?.strip_suffix(".json")?.parse::<u64>().ok();
    let first = objects.range(manifest_key(shard, after + 1)..).next().and_then(|(key, _)| number(key));
    let first = first.filter(|first| after == 0 || *first == after + 1);
    first.into_iter().flat_map(|first| first..).map_while(move |number| {
        let bytes = objects.get(&manifest_key(shard, number))?;
        Some(Manifest::decode(bytes, number).unwrap())
    })
}

/// Everything that the manifests name, checked against itself.
pub struct Archive {
    pub rows: Vec<Row>,
    pub positions: BTreeMap<AgentKey, Position>,
}

impl Archive {
    pub fn read(objects: &BTreeMap<String, Bytes>) -> Self {
        let mut archive = Archive { rows: Vec::new(), positions: BTreeMap::new() };
        let (mut ends, mut named, mut count) = (BTreeMap::new(), BTreeSet::new(), 0);
        // Predecessors come before successors, so that each agent's rows are in order.
        for descent in layout(objects).shards {
            let before: Vec<End> = descent.predecessors.iter().filter_map(|p| ends.get(p)).cloned().collect();
            let end = archive.read_shard(objects, &descent, &before, &mut named, &mut count);
            ends.insert(descent.shard, end);
        }
        let all = objects.keys().filter(|k| k.starts_with("manifest/") && !k.contains("/layout/")).count() as u64;
        assert_eq!(all, count, "the manifests are numbered without gaps");
        archive
    }

    /// `before`: how its predecessors ended. Gives back how it does.
    fn read_shard(
        &mut self,
        objects: &BTreeMap<String, Bytes>,
        descent: &Descent,
        before: &[End],
        named: &mut BTreeSet<String>,
        count: &mut u64,
    ) -> End {
        let mut end = End::default();
        for manifest in manifests(objects, descent.shard, 0) {
            *count += 1;
            assert_eq!(manifest.slots, descent.slots, "shard {}", descent.shard);
            assert!(!end.closed, "shard {} was closed before manifest {}", descent.shard, manifest.number);
            if manifest.kind == ManifestKind::Opened {
                assert!(before.iter().all(|b| b.closed && b.number < manifest.number), "shard {}", descent.shard);
                assert_eq!(before.len(), descent.predecessors.len());
                end = End::of(before, descent.slots);
            }
            let rows: Vec<Row> = manifest.objects.iter().flat_map(|o| rows(objects, &o.object)).collect();
            assert_eq!(rows.len() as u64, manifest.balance.batches);
            assert_eq!(rows.iter().filter(|r| r.n.is_some()).count() as u64, manifest.balance.readings_archived);
            for object in &manifest.objects {
                assert!(named.insert(object.object.key.clone()), "{} is in two manifests", object.object.key);
            }
            for row in rows {
                assert!(descent.slots.holds(&row.agent.agent), "shard {} has {row:?}", descent.shard);
                end.positions.insert(row.agent.clone(), Position { epoch: row.from.epoch, seq: row.last_seq });
                self.follow(&row);
                end.state.apply(&row);
                self.rows.push(row);
            }
            let (shard, number) = (descent.shard, manifest.number);
            assert_eq!(end.positions, positions(&manifest), "manifest {number} of shard {shard} is not cut whole");
            if let Some(snapshot) = &manifest.snapshot {
                assert_eq!(
                    State::decode(&content(objects, snapshot)).0,
                    end.state,
                    "manifest {number} of shard {shard}"
                );
            }
            (end.number, end.closed) = (number, manifest.kind == ManifestKind::Closed);
        }
        end
    }

    /// Each row goes on exactly where its agent's log stood.
    fn follow(&mut self, row: &Row) {
        let last = Position { epoch: row.from.epoch, seq: row.last_seq };
        match self.positions.insert(row.agent.clone(), last) {
            _ if row.break_to => {}
            Some(before) if before.epoch == row.from.epoch => assert_eq!(row.from.seq, before.seq + 1, "{row:?}"),
            _ => assert_eq!(row.from.seq, 1, "{row:?}"),
        }
    }

    /// What this gateway made durable is here exactly once and in order, or declared as lost.
    pub fn check(&self, gateway: &Gateway) {
        let rows: Vec<&Row> = self.rows.iter().filter(|r| r.agent == gateway.key).collect();
        let numbers: Vec<i64> = rows.iter().filter_map(|r| r.n).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}: twice, or out of order", gateway.key);
        for row in &rows {
            let place = row.n.map(|n| gateway.appended[&n]);
            assert!(place.is_none_or(|p| p == row.from), "{row:?} was sealed as {place:?}");
        }
        let numbers: BTreeSet<i64> = numbers.into_iter().collect();
        for n in gateway.durable.iter().filter(|n| !numbers.contains(n)) {
            let at = gateway.appended[n];
            let declared =
                |r: &&&Row| r.n.is_none() && r.from.epoch == at.epoch && (r.from.seq..=r.last_seq).contains(&at.seq);
            // What only an exchanged card knew, nobody can know. What the archive had beyond the new card's log led to a
            // break, or the rows would not follow on each other.
            let unknowable = gateway.taken_away.contains(n);
            assert!(
                unknowable || rows.iter().find(declared).is_some(),
                "{:?}: batch {n} at {at} is lost in silence",
                gateway.key
            );
        }
    }
}

fn rows(objects: &BTreeMap<String, Bytes>, object: &ObjectRef) -> Vec<Row> {
    serde_json::from_slice(&content(objects, object)).unwrap()
}

fn content(objects: &BTreeMap<String, Bytes>, object: &ObjectRef) -> Bytes {
    let bytes = objects.get(&object.key).unwrap_or_else(|| panic!("{} is named, but not there", object.key));
    let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((bytes.len() as u64, sha256.as_str()), (object.bytes, object.sha256.as_str()));
    bytes.clone()
}
