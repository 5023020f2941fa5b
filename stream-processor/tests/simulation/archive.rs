//! What lies in the bucket, read back as any reader would, and what it must look like.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use bytes::Bytes;
use proto::{
    archive::{
        Balance, Manifest, ManifestKind, ObjectRef, Shard, Table, manifest_key, manifest_prefix,
        shards::{Descent, Slots},
    },
    position::{Epoch, Position},
    topic::Topic,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use stream_processor::{archive::recovery::positions, decode::AgentKey, intake::EpochsLeft, stream::shards};

use crate::{
    gateway::{Gateway, sealed},
    reshard::layout,
};

/// One taken batch, or what was new of a gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub agent: AgentKey,
    pub from: Position,
    pub last_seq: u64,
    /// The batch's number; none: a gap or a break.
    pub n: Option<i64>,
    /// Nobody understood what is in it.
    pub dead: bool,
    /// The log goes on behind this.
    pub break_to: bool,
}

/// A message that was kept without a place in its agent's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    pub topic: String,
    pub payload: Vec<u8>,
    /// Its place has another batch.
    pub conflict: bool,
}

/// A digest of each agent's rows stands for windows, watermarks and alerts: it depends on every row and its order. With
/// the stream's own snapshot where there is one.
#[derive(Debug, Clone, Default)]
pub struct State {
    agents: BTreeMap<String, (AgentKey, u64)>,
    pub stream: Option<Vec<u8>>,
}

/// With what intake needs beside it.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    agents: BTreeMap<String, (AgentKey, u64)>,
    stream: Option<String>,
    left: Vec<(AgentKey, Vec<Position>)>,
}

impl State {
    pub fn apply(&mut self, row: &Row) {
        let name = row.agent.agent.to_string();
        let (_, digest) = self.agents.entry(name).or_insert_with(|| (row.agent.clone(), 0));
        let mut step = DefaultHasher::new();
        (*digest, row.from, row.last_seq, row.n, row.dead, row.break_to).hash(&mut step);
        *digest = step.finish();
    }

    /// Of some slots, with what intake needs beside it.
    pub fn carve(states: impl Iterator<Item = (State, EpochsLeft)>, slots: Slots) -> (State, EpochsLeft) {
        let (mut state, mut left, mut streams) = (State::default(), EpochsLeft::new(), Vec::new());
        for (part, part_left) in states {
            state.agents.extend(part.agents.into_iter().filter(|(_, (agent, _))| slots.holds(&agent.agent)));
            left.extend(part_left.into_iter().filter(|(agent, _)| slots.holds(&agent.agent)));
            streams.extend(part.stream);
        }
        state.stream = (!streams.is_empty()).then(|| shards::carve(&streams, slots).unwrap());
        (state, left)
    }

    pub fn encode(&self, left: EpochsLeft) -> Vec<u8> {
        let stream = self.stream.as_ref().map(|bytes| STANDARD.encode(bytes));
        let (agents, left) = (self.agents.clone(), left.into_iter().collect());
        serde_json::to_vec(&Snapshot { agents, stream, left }).unwrap()
    }

    pub fn decode(bytes: &[u8]) -> (Self, EpochsLeft) {
        let Snapshot { agents, stream, left } = serde_json::from_slice(bytes).unwrap();
        let stream = stream.map(|text| STANDARD.decode(text).unwrap());
        (State { agents, stream }, left.into_iter().collect())
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
pub fn manifests(objects: &BTreeMap<String, Bytes>, shard: Shard, after: u64) -> impl Iterator<Item = Manifest> + '_ {
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
#[derive(Default)]
pub struct Archive {
    rows: Vec<Row>,
    letters: Vec<Letter>,
    positions: BTreeMap<AgentKey, Position>,
}

impl Archive {
    pub fn read(objects: &BTreeMap<String, Bytes>) -> Self {
        let mut archive = Archive::default();
        let (mut ends, mut named, mut count) = (BTreeMap::new(), BTreeSet::new(), 0);
        // Predecessors come before successors, so that each agent's rows are in order.
        for descent in layout(objects).shards {
            let before: Vec<End> = descent.predecessors.iter().filter_map(|p| ends.get(p)).cloned().collect();
            let end = archive.read_shard(objects, &descent, &before, &mut named, &mut count);
            ends.insert(descent.shard, end);
        }
        let all = objects.keys().filter(|k| k.starts_with("manifest/") && !k.contains("/layout/")).count() as u64;
        assert_eq!(all, count, "the manifests are numbered without gaps");
        archive.letters.iter().filter(|letter| letter.conflict).for_each(|letter| archive.check_conflict(letter));
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
            let of = |table| manifest.objects.iter().filter(move |o| o.table == table).map(|o| &o.object);
            let rows: Vec<Row> = of(Table::Readings).flat_map(|o| read(objects, o)).collect();
            self.letters.extend(of(Table::DeadLetter).flat_map(|o| read(objects, o)));
            assert_eq!(manifest.balance, balance(&rows), "manifest {} of shard {}", manifest.number, descent.shard);
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
                let (state, _) = State::decode(&content(objects, snapshot));
                assert_eq!(state.agents, end.state.agents, "manifest {number} of shard {shard}");
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

    /// What is in its place is another batch, or a gap that stands for one.
    fn check_conflict(&self, letter: &Letter) {
        let (at, n) = sealed(&Bytes::from(letter.payload.clone())).unwrap();
        let agent = Topic::parse(&letter.topic).unwrap().agent;
        let covers = |row: &&Row| row.from.epoch == at.epoch && (row.from.seq..=row.last_seq).contains(&at.seq);
        let mut there = self.rows.iter().filter(|row| row.agent.agent == agent).filter(covers);
        assert!(there.any(|row| row.n != Some(n)), "{at} of {agent} is a conflict with nothing");
    }

    /// What there is of this gateway is here once, and in order. Gives it back. `is_new`: there was another archive before.
    fn of(&self, gateway: &Gateway, is_new: bool) -> Vec<&Row> {
        let rows: Vec<&Row> = self.rows.iter().filter(|r| r.agent == gateway.key).collect();
        // Those of a twin are below 0, and in whatever order it was.
        let own = rows.iter().filter_map(|r| r.n.map(|n| (r.from.epoch, n))).filter(|(_, n)| *n > 0);
        let mut seen = BTreeSet::new();
        assert!(own.clone().all(|(_, n)| seen.insert(n)), "{:?}: twice", gateway.key);
        // A card of before goes on where it stood then, and a new archive has never heard of its epochs: what is on it is new
        // there, and older than what came while the gateway had another card.
        let may_go_back = is_new && gateway.restored;
        let in_order = own.is_sorted_by(|(before, a), (epoch, b)| a < b || (may_go_back && before != epoch));
        assert!(in_order, "{:?}: out of order", gateway.key);
        for row in &rows {
            let Some(n) = row.n else { continue };
            let place = gateway.appended[&n];
            assert!(place == row.from, "{row:?} was sealed as {place:?}");
            assert_eq!(row.dead, gateway.poison.contains(&n), "{row:?}");
        }
        rows
    }
}

/// What this gateway made durable is in one of the archives that there were, or declared as lost. In each it is once and
/// in order; in two of them if it was sent before the first one had told that it has it.
pub fn check(archives: &[Archive], gateway: &Gateway) {
    let rows: Vec<&Row> =
        archives.iter().enumerate().flat_map(|(place, archive)| archive.of(gateway, place > 0)).collect();
    let numbers: BTreeSet<i64> = rows.iter().filter_map(|r| r.n).collect();
    for n in gateway.durable.iter().filter(|n| !numbers.contains(n)) {
        let at = gateway.appended[n];
        let declared =
            |r: &&&Row| r.n.is_none() && r.from.epoch == at.epoch && (r.from.seq..=r.last_seq).contains(&at.seq);
        // What only an exchanged card knew, nobody can know. What the archive had beyond the new card's log led to a
        // break, or the rows would not follow on each other.
        // Nor can anybody know of two batches under one name that the second was sent, once the first is committed.
        let spoken_over = gateway.spoken_over.contains(&at) || gateway.forked.contains(&at.epoch);
        let unknowable = gateway.taken_away.contains(n) || spoken_over;
        assert!(
            unknowable || rows.iter().find(declared).is_some(),
            "{:?}: batch {n} at {at} is lost in silence",
            gateway.key
        );
    }
}

/// In batches and in readings, of which each batch counts one.
pub fn balance(rows: &[Row]) -> Balance {
    let count = |dead: bool| rows.iter().filter(|row| row.n.is_some() && row.dead == dead).count() as u64;
    let (archived, dead) = (count(false), count(true));
    Balance {
        batches: rows.len() as u64,
        readings_taken: archived + dead,
        readings_archived: archived,
        readings_dead_lettered: dead,
    }
}

fn read<R: DeserializeOwned>(objects: &BTreeMap<String, Bytes>, object: &ObjectRef) -> Vec<R> {
    serde_json::from_slice(&content(objects, object)).unwrap()
}

fn content(objects: &BTreeMap<String, Bytes>, object: &ObjectRef) -> Bytes {
    let bytes = objects.get(&object.key).unwrap_or_else(|| panic!("{} is named, but not there", object.key));
    let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((bytes.len() as u64, sha256.as_str()), (object.bytes, object.sha256.as_str()));
    bytes.clone()
}
