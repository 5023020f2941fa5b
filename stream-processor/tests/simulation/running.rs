//! A processor that has taken over.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::{
    ack::Ack,
    archive::{AgentPosition, DataObject, Manifest, Shard, Table, manifest_key, object_key, snapshot_key},
    asset::AssetId,
    position::Position,
    telemetry::{FrameHeader, FrameKind},
    time::PlantTime,
    topic::{Channel, Topic},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use stream_processor::{
    acks::Acks,
    archive::{
        commit::{Action, Answer as CommitAnswer, Committer, Load, Staged},
        recovery::positions,
        standoff::renewal,
    },
    decode::{AgentKey, Content, DeadLetter, Decoded, Refusal, Taken, decode},
    ingest::Arrival,
    intake::{EpochsLeft, Intake, RECENT_CRCS_MAX},
};

use crate::{
    archive::{Letter, Row, State, balance},
    corners::{broken, lost},
    derived::{Derivation, Plant},
    faults::{Faults, Reached},
    gateway::{number, sealed},
    instruments::plant_time,
    processor::object_ref,
    s3::{Answer, Request, S3, Ticket},
    start::QUIET,
};

/// Small, so that outages lead to a pause.
const STAGED_MAX: usize = 4;
const OBJECTS_PER_SEGMENT_MAX: usize = 3;
/// When windows wait for their model for so long, gateways are told to wait, too.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

pub struct Running {
    shard: Shard,
    intake: Intake,
    acks: Acks,
    committer: Committer<Waiting>,
    tickets: BTreeMap<Ticket, Action>,
    /// Uploads to come, by key.
    uploads: BTreeMap<String, Bytes>,
    incarnation: u64,
    objects: u64,
    /// Of the newest segment.
    snapshot: Option<String>,
    staged_segments: usize,
    pending: Vec<Row>,
    letters: Vec<Letter>,
    /// A commit is due, even of nothing.
    touched: bool,
    state: State,
    cut_at: Duration,
    committed: BTreeMap<AgentKey, Position>,
    taken: u64,
    staged_batches: u64,
    committed_batches: u64,
    /// What was taken of each agent's current epoch, as far as intake can know it.
    recent: BTreeMap<AgentKey, VecDeque<(Position, i64)>>,
    stopping: Stopping,
    derivation: Option<Derivation>,
    /// Taken, and still to be read.
    run: Vec<Taken>,
    /// What comes while windows wait for their model.
    inbox: Vec<(AgentKey, Bytes)>,
}

/// What waits for one manifest.
#[derive(Debug)]
struct Waiting {
    segments: usize,
    batches: u64,
}

impl Load for Waiting {
    fn follow(&mut self, later: Waiting) {
        self.segments += later.segments;
        self.batches += later.batches;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stopping {
    No,
    Asked,
    Released,
}

impl Running {
    pub fn new(
        takeover: Manifest,
        (state, left): (State, EpochsLeft),
        plant: Option<Plant>,
        reached: &mut Reached,
    ) -> Self {
        let committed = positions(&takeover);
        let life = (takeover.shard, takeover.incarnation);
        let derivation = plant.map(|plant| Derivation::new(state.stream.as_deref(), life, plant, reached));
        Running {
            shard: takeover.shard,
            intake: Intake::new(&committed, left).limited_to(takeover.slots),
            acks: Acks::new(takeover.archive, takeover.incarnation, &committed),
            tickets: BTreeMap::new(),
            uploads: BTreeMap::new(),
            incarnation: takeover.incarnation,
            objects: 0,
            snapshot: None,
            staged_segments: 0,
            pending: Vec::new(),
            letters: Vec::new(),
            touched: false,
            state,
            cut_at: Duration::ZERO,
            committed,
            taken: 0,
            staged_batches: 0,
            committed_batches: 0,
            recent: BTreeMap::new(),
            stopping: Stopping::No,
            derivation,
            run: Vec::new(),
            inbox: Vec::new(),
            committer: Committer::new(takeover),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.has_nothing() && self.committer.staged() == 0
    }

    /// To commit.
    fn has_nothing(&self) -> bool {
        let derived = self.derivation.as_ref().is_some_and(|d| d.holds() || d.has_news());
        self.pending.is_empty() && self.letters.is_empty() && !self.touched && !derived
    }

    fn holds(&self) -> bool {
        self.derivation.as_ref().is_some_and(Derivation::holds)
    }

    pub fn derivation(&mut self) -> Option<&mut Derivation> {
        self.derivation.as_mut().filter(|_| self.stopping == Stopping::No)
    }

    pub fn stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
        }
    }

    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub fn due_acks(&mut self, now: Duration) -> Vec<(Topic, Ack)> {
        self.acks.take_due(now, plant_time(now))
    }

    pub fn take(&mut self, site: &AssetId, agent: &AgentKey, frame: Bytes, reached: &mut Reached) {
        if self.stopping != Stopping::No {
            return;
        }
        if self.holds() && !self.intake.paused() {
            return self.inbox.push((agent.clone(), frame));
        }
        let topic = Topic::new(&agent.site, &agent.agent, Channel::Telemetry).to_string();
        let sealed = sealed(&frame);
        let header = FrameHeader::decode(&frame).ok();
        let arrival = Arrival { topic, payload: frame, received: Instant::now() };
        let decoded = decode(&mut self.intake, site, &arrival, PlantTime(0));
        reached.count(decoded.outcome());
        let known = sealed.and_then(|(at, n)| Some((self.known(agent, at)?, n)));
        match decoded {
            Decoded::Taken(taken) => {
                let inside = |header: FrameHeader| header.position.seq < taken.position.seq;
                if header.is_some_and(|h| h.kind == FrameKind::Gap && inside(h)) {
                    reached.count("rest of a gap taken");
                }
                self.apply(taken, reached);
            }
            Decoded::Refused(agent, refusal @ (Refusal::Duplicate { .. } | Refusal::OutOfOrder)) => {
                let differs = known.filter(|(known, n)| known != n);
                assert!(differs.is_none(), "{agent:?}: another batch at the same place is {refusal:?}: {differs:?}");
                self.acks.repeat(&agent);
                self.touched = true;
            }
            Decoded::Conflict(agent, letter) => {
                assert!(known.is_some_and(|(known, n)| known != n), "{agent:?}: {known:?} is no conflict");
                self.keep(letter, true);
            }
            Decoded::Lost(letter) => self.keep(letter, false),
            Decoded::Refused(..) | Decoded::Dropped | Decoded::Elsewhere => {}
        }
    }

    /// Everything that came in this tick, and what had to wait.
    pub fn derive(&mut self, site: &AssetId, now: Duration, reached: &mut Reached) {
        self.read(now, reached);
        if !self.holds() {
            for (agent, frame) in std::mem::take(&mut self.inbox) {
                self.take(site, &agent, frame, reached);
            }
            self.read(now, reached);
        }
    }

    fn read(&mut self, now: Duration, reached: &mut Reached) {
        let run = std::mem::take(&mut self.run);
        if let Some(derivation) = &mut self.derivation {
            derivation.read(run, now, reached);
        }
    }

    /// Number of the batch that intake knows to be there.
    fn known(&self, agent: &AgentKey, at: Position) -> Option<i64> {
        self.recent.get(agent)?.iter().find(|(position, _)| *position == at).map(|(_, n)| *n)
    }

    fn remember(&mut self, taken: &Taken, n: Option<i64>) {
        let recent = self.recent.entry(taken.agent.clone()).or_default();
        if recent.back().is_some_and(|(newest, _)| newest.epoch != taken.position.epoch) {
            recent.clear();
        }
        recent.extend(n.map(|n| (taken.position, n)));
        recent.drain(..recent.len().saturating_sub(RECENT_CRCS_MAX));
    }

    fn keep(&mut self, letter: DeadLetter, conflict: bool) {
        self.letters.push(Letter { topic: letter.topic, payload: letter.payload.to_vec(), conflict });
    }

    fn apply(&mut self, taken: Taken, reached: &mut Reached) {
        let (mut n, mut dead) = (None, false);
        match &taken.content {
            Content::Batch { batch, .. } => n = Some(number(batch)),
            Content::Gap(gap) => reached.count(lost(gap.reason())),
            Content::Break { reason, .. } => reached.count(broken(*reason)),
            Content::DeadLetter(letter) => {
                n = sealed(&letter.payload).map(|(_, n)| n);
                dead = true;
            }
        }
        self.remember(&taken, n);
        let last = Position { epoch: taken.position.epoch, seq: taken.last_seq };
        let break_to = matches!(taken.content, Content::Break { .. });
        let row = Row { agent: taken.agent.clone(), from: taken.position, last_seq: taken.last_seq, n, dead, break_to };
        self.state.apply(&row);
        self.pending.push(row);
        self.taken += 1;
        self.acks.received(&taken.agent, last);
        if self.derivation.is_some() {
            self.run.push(taken);
        }
    }

    /// The barrier: everything applied so far becomes a segment.
    pub fn cut(&mut self, site: &AssetId, now: Duration, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        let full = self.staged_segments >= STAGED_MAX;
        let held = self.derivation.as_ref().is_some_and(|d| d.held_for(now) >= PAUSE_AFTER);
        if full && !self.intake.paused() {
            reached.count("intake paused");
        }
        self.intake.set_paused(full || held);
        self.acks.set_paused(full || held, now);
        if !full && self.derivation().is_some_and(|d| d.change_model(plant_time(now), reached)) {
            (self.touched, self.cut_at) = (true, now);
        }
        let empty = self.has_nothing();
        if self.stopping == Stopping::Asked && (empty || full) {
            self.stopping = Stopping::Released;
            let _ = self.committer.release(0);
        }
        let due = now >= self.cut_at || self.stopping == Stopping::Asked;
        if full || empty || !due || self.stopping == Stopping::Released || self.holds() {
            return;
        }
        self.cut_at = now + Duration::from_millis(rng.random_range(0..1_000));
        let (rows, letters) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.letters));
        if rows.is_empty() && letters.is_empty() {
            reached.count("commit of nothing");
        }
        self.touched = false;
        let mut objects = Vec::new();
        let per_object = rows.len().div_ceil(rng.random_range(1..=OBJECTS_PER_SEGMENT_MAX)).max(1);
        for part in rows.chunks(per_object) {
            objects.push(self.object(site, Table::Readings, part));
        }
        if !letters.is_empty() {
            objects.push(self.object(site, Table::DeadLetter, &letters));
        }
        if let Some(derivation) = &mut self.derivation {
            self.state.stream = Some(derivation.snapshot(&self.intake.left(), reached));
        }
        let state = Bytes::from(self.state.encode(self.intake.left()));
        self.objects += 1;
        let snapshot = object_ref(snapshot_key(self.shard, self.incarnation, self.objects), &state);
        self.uploads.insert(snapshot.key.clone(), state);
        let (batches, balance) = (rows.len() as u64, balance(&rows));
        let agents = self.intake.positions().into_iter();
        let agents = agents.map(|(k, position)| AgentPosition { site: k.site, agent: k.agent, position }).collect();
        let (key, load, staged) = (snapshot.key.clone(), Waiting { segments: 1, batches }, self.committer.staged());
        if self.committer.push(Staged { objects, snapshot, agents, balance, load }, 0).is_ok() {
            // One manifest takes this one and those before it, with this one's snapshot.
            let folded = self.snapshot.replace(key.clone()).filter(|_| self.committer.staged() == staged);
            if let Some(derivation) = &mut self.derivation {
                derivation.submitted(&key, folded.as_deref(), batches);
            }
            self.staged_batches += batches;
            self.staged_segments += 1;
        } else {
            assert!(self.committer.is_fenced());
            self.taken -= batches;
        }
    }

    fn object<R: serde::Serialize>(&mut self, site: &AssetId, table: Table, rows: &[R]) -> DataObject {
        let bytes = Bytes::from(serde_json::to_vec(rows).unwrap());
        self.objects += 1;
        let key = object_key(table, site, "2026-01-01", self.shard, self.incarnation, self.objects);
        let object = object_ref(key.clone(), &bytes);
        self.uploads.insert(key, bytes);
        DataObject { table, object, rows: rows.len() as u64, min_time_ms: 0, max_time_ms: 0 }
    }

    /// True: it is over.
    pub fn work(
        &mut self,
        now: Duration,
        s3: &mut S3,
        faults: &Faults,
        rng: &mut ChaCha8Rng,
        reached: &mut Reached,
    ) -> bool {
        if self.committer.renews_at(renewal(QUIET)).is_some_and(|at| at <= now) {
            self.committer.renew(0).unwrap();
            reached.count("renewed");
        }
        for action in self.committer.poll(now) {
            let request = match &action {
                Action::Upload { key, .. } => Request::Put { key: key.clone(), bytes: self.uploads[key].clone() },
                Action::PutManifest { number, bytes } => {
                    Request::PutIfAbsent { key: manifest_key(self.shard, *number), bytes: bytes.clone() }
                }
                Action::ReadManifest { number } => Request::Get { key: manifest_key(self.shard, *number) },
                Action::Wait(_) => continue,
                Action::Fenced => {
                    reached.count("writer fenced");
                    return true;
                }
            };
            self.tickets.insert(s3.request(request, now, faults, rng), action);
        }
        let released = self.stopping == Stopping::Released && self.committer.staged() == 0;
        if released {
            reached.count("shard released");
        }
        released
    }

    pub fn answer(&mut self, ticket: Ticket, answer: &Answer, now: Duration, reached: &mut Reached) {
        let Some(action) = self.tickets.remove(&ticket) else { return };
        let answer = match (&action, answer) {
            (_, Answer::Failed) => CommitAnswer::Failed(action),
            (Action::Upload { number, object, .. }, _) => CommitAnswer::Uploaded { number: *number, object: *object },
            (Action::PutManifest { number, .. }, Answer::Done) => CommitAnswer::ManifestCreated { number: *number },
            (Action::PutManifest { number, .. }, _) => {
                reached.count("manifest was there already");
                CommitAnswer::ManifestExists { number: *number }
            }
            (Action::ReadManifest { number }, Answer::Found(found)) => {
                CommitAnswer::ManifestRead { number: *number, found: found.clone() }
            }
            (action, answer) => panic!("{action:?}: {answer:?}"),
        };
        let Some(committed) = self.committer.answer(now, answer) else { return };
        reached.count("committed");
        // Of one that renews: none.
        let (segments, batches) = committed.load.map_or((0, 0), |load| (load.segments, load.batches));
        if segments > 1 {
            reached.count("segments taken by one manifest");
        }
        self.staged_segments -= segments;
        if let (1.., Some(derivation)) = (segments, &mut self.derivation) {
            derivation.committed(segments, reached);
        }
        assert_eq!(committed.manifest.balance.batches, batches);
        self.staged_batches -= batches;
        self.committed_batches += batches;
        self.committed = positions(&committed.manifest);
        self.acks.committed(&self.committed);
        committed.manifest.objects.iter().for_each(|data| drop(self.uploads.remove(&data.object.key)));
    }

    /// Nothing in silence: what came in is committed, staged or pending.
    pub fn check(&self) {
        if !self.committer.is_fenced() && self.stopping == Stopping::No {
            assert_eq!(self.taken, self.committed_batches + self.staged_batches + self.pending.len() as u64);
        }
        let known: BTreeSet<_> = self.committed.keys().collect();
        assert!(known.iter().all(|agent| self.intake.received(agent).is_some()));
    }
}
