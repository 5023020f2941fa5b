//! The processor: its own cores of decode, intake, acks, recovery and commit, between a broker and a bucket.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::FutureExt;
use model::store::manifests::{Search, newest_number};
use proto::{
    ack::{Ack, ArchiveId},
    archive::{
        AgentPosition, Balance, DataObject, Manifest, ObjectRef, Shard, Table, manifest_key, object_key, snapshot_key,
    },
    asset::AssetId,
    position::Position,
    time::PlantTime,
    topic::{Channel, Topic},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use stream_processor::{
    acks::Acks,
    archive::{
        commit::{Action, Answer as CommitAnswer, Committer, Load, Staged},
        recovery::{Claim, positions, takeover},
        reshard::work::ensure_open,
        standoff::{Standoff, Verdict, renewal},
    },
    decode::{AgentKey, Content, Decoded, Refusal, Taken, decode},
    ingest::Arrival,
    intake::{EpochsLeft, Intake},
};

use crate::{
    archive::{Row, State},
    faults::{Faults, Reached},
    reshard::carve,
    s3::{Answer, Request, S3, Ticket},
    task::Task,
};

/// Small, so that outages lead to a pause.
const STAGED_MAX: usize = 4;
/// Short, beside what S3 takes to answer at its worst: owners that are alive are taken over, too.
const QUIET: Duration = Duration::from_secs(2);
const OBJECTS_PER_SEGMENT_MAX: usize = 3;

pub struct Processor {
    name: String,
    site: AssetId,
    pub shard: Shard,
    state: Phase,
}

enum Phase {
    /// Sees to it that the shard is there; gives back its newest manifest's number.
    Opening(Task<u64>),
    Starting(Start),
    Running(Box<Running>),
    /// Another writer has taken over, or the shard is closed.
    Fenced,
}

/// One request at a time, repeated until it is answered.
struct Start {
    shard: Shard,
    step: Step,
    waiting: Option<Ticket>,
    standoff: Standoff,
    /// Somebody else is the owner: not before this.
    stands_by: Option<Duration>,
}

enum Started {
    Running(Box<Running>),
    Closed,
}

#[derive(Clone)]
enum Step {
    Search(Search),
    Newest(u64),
    TakeOver(Box<Manifest>),
    Snapshot(Box<Manifest>),
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

struct Running {
    shard: Shard,
    intake: Intake,
    acks: Acks,
    committer: Committer<Waiting>,
    tickets: BTreeMap<Ticket, Action>,
    /// Uploads to come, by key.
    uploads: BTreeMap<String, Bytes>,
    incarnation: u64,
    objects: u64,
    staged_segments: usize,
    pending: Vec<Row>,
    /// A commit is due, even of nothing.
    touched: bool,
    state: State,
    cut_at: Duration,
    committed: BTreeMap<AgentKey, Position>,
    taken: u64,
    staged_batches: u64,
    committed_batches: u64,
}

impl Processor {
    pub fn new(name: String, site: &AssetId, shard: Shard) -> Self {
        let state = Phase::Opening(opening(&name, shard));
        Processor { name, site: site.clone(), shard, state }
    }

    pub fn is_fenced(&self) -> bool {
        matches!(self.state, Phase::Fenced)
    }

    /// Running, with nothing left to commit; or waiting for another one to go.
    pub fn is_idle(&self) -> bool {
        match &self.state {
            Phase::Running(r) => r.pending.is_empty() && !r.touched && r.committer.staged() == 0,
            Phase::Starting(start) => start.stands_by.is_some(),
            Phase::Opening(_) | Phase::Fenced => false,
        }
    }

    pub fn take(&mut self, agent: &AgentKey, frame: Bytes, reached: &mut Reached) {
        let Phase::Running(running) = &mut self.state else { return };
        let topic = Topic::new(&agent.site, &agent.agent, Channel::Telemetry).to_string();
        let arrival = Arrival { topic, payload: frame, received: Instant::now() };
        let decoded = decode(&mut running.intake, &self.site, &arrival, PlantTime(0));
        reached.count(decoded.outcome());
        match decoded {
            Decoded::Taken(taken) => running.apply(taken, reached),
            Decoded::Refused(agent, Refusal::Duplicate { .. } | Refusal::OutOfOrder) => {
                running.acks.repeat(&agent);
                running.touched = true;
            }
            Decoded::Refused(..) | Decoded::Lost(_) | Decoded::Dropped | Decoded::Elsewhere => {}
            Decoded::Conflict(agent, letter) => panic!("{agent:?}: {}", letter.reason),
        }
    }

    pub fn answer(&mut self, ticket: Ticket, answer: &Answer, now: Duration, reached: &mut Reached) {
        match &mut self.state {
            Phase::Opening(task) => task.answer(ticket, answer),
            Phase::Starting(start) if start.waiting == Some(ticket) => {
                start.waiting = None;
                match start.advance(answer, now, reached) {
                    None => {}
                    Some(Started::Running(running)) => self.state = Phase::Running(running),
                    Some(Started::Closed) => self.state = Phase::Fenced,
                }
            }
            Phase::Running(running) => running.answer(ticket, answer, now, reached),
            Phase::Starting(_) | Phase::Fenced => {}
        }
    }

    /// Does what is due; returns the acks to publish.
    pub fn tick(
        &mut self,
        now: Duration,
        s3: &mut S3,
        faults: &Faults,
        rng: &mut ChaCha8Rng,
        reached: &mut Reached,
    ) -> Vec<(Topic, Ack)> {
        match &mut self.state {
            Phase::Opening(task) => {
                match task.tick(now, s3, faults, rng) {
                    None => {}
                    Some(Ok(newest)) => {
                        self.state = Phase::Starting(Start::new(&self.name, self.shard, newest));
                    }
                    // Its supervisor starts it again.
                    Some(Err(_)) => *task = opening(&self.name, self.shard),
                }
                vec![]
            }
            Phase::Starting(start) => {
                start.ask(&self.name, now, s3, faults, rng);
                vec![]
            }
            Phase::Running(running) => {
                running.cut(&self.site, now, rng, reached);
                let fenced = running.work(now, s3, faults, rng, reached);
                running.check();
                let acks = running.acks.take_due(now, PlantTime(0));
                if fenced {
                    reached.count("writer fenced");
                    self.state = Phase::Fenced;
                }
                acks
            }
            Phase::Fenced => vec![],
        }
    }
}

impl Start {
    fn new(name: &str, shard: Shard, newest: u64) -> Self {
        let (step, standoff) = (Step::Search(Search::from(newest)), Standoff::new(name, QUIET, None, false));
        Start { shard, step, waiting: None, standoff, stands_by: None }
    }

    fn ask(&mut self, name: &str, now: Duration, s3: &mut S3, faults: &Faults, rng: &mut ChaCha8Rng) {
        if self.waiting.is_some() || self.stands_by.is_some_and(|until| now < until) {
            return;
        }
        let request = match &self.step {
            Step::Search(search) => match search.probe() {
                Some(number) => Request::Get { key: manifest_key(self.shard, number) },
                None => return self.found(name, search.newest(), rng),
            },
            Step::Newest(number) => Request::Get { key: manifest_key(self.shard, *number) },
            Step::TakeOver(manifest) => {
                let mut manifest = (**manifest).clone();
                name.clone_into(&mut manifest.owner);
                let bytes = manifest.encode().unwrap().into();
                self.step = Step::TakeOver(manifest.clone().into());
                Request::PutIfAbsent { key: manifest.key(), bytes }
            }
            Step::Snapshot(manifest) => Request::Get { key: manifest.snapshot.clone().unwrap().key },
        };
        self.waiting = Some(s3.request(request, now, faults, rng));
    }

    fn found(&mut self, name: &str, newest: Option<u64>, rng: &mut ChaCha8Rng) {
        self.step = match newest {
            Some(number) => Step::Newest(number),
            None => Step::TakeOver(takeover(None, &claim(name, rng)).into()),
        };
    }

    fn advance(&mut self, answer: &Answer, now: Duration, reached: &mut Reached) -> Option<Started> {
        match (&mut self.step, answer) {
            // A failed takeover may have happened; the search finds it, and it is treated as anybody's.
            (Step::TakeOver(manifest), Answer::Failed | Answer::Exists) => {
                reached.count("takeover repeated");
                self.step = Step::Search(Search::from(manifest.number - 1));
            }
            (_, Answer::Failed) => {}
            (Step::Search(search), Answer::Found(found)) => {
                let number = search.probe().unwrap();
                if found.is_some() { search.exists(number) } else { search.missing(number) }
            }
            (Step::Newest(number), Answer::Found(Some(bytes))) => {
                let newest = Manifest::decode(bytes, *number).unwrap();
                self.stands_by = None;
                match self.standoff.judge(Some(&newest), now) {
                    Verdict::TakeOver => {}
                    Verdict::Closed => {
                        reached.count("closed shard not taken");
                        return Some(Started::Closed);
                    }
                    Verdict::Wait(until) => {
                        reached.count("another owner waited for");
                        self.stands_by = Some(until);
                        self.step = Step::Search(Search::from(newest.number));
                        return None;
                    }
                }
                let claim = Claim { fresh: newest.archive, shard: self.shard, owner: String::new(), wall_ms: 0 };
                self.step = Step::TakeOver(takeover(Some(&newest), &claim).into());
            }
            (Step::TakeOver(manifest), Answer::Done) => {
                reached.count("takeover");
                if manifest.snapshot.is_none() {
                    return Some(Running::new((**manifest).clone(), (State::default(), EpochsLeft::new())).into());
                }
                self.step = Step::Snapshot(manifest.clone());
            }
            (Step::Snapshot(manifest), Answer::Found(Some(bytes))) => {
                return Some(Running::new((**manifest).clone(), State::decode(bytes)).into());
            }
            (_, answer) => panic!("{answer:?}"),
        }
        None
    }
}

impl From<Running> for Started {
    fn from(running: Running) -> Self {
        Started::Running(Box::new(running))
    }
}

/// By the program's own code.
fn opening(name: &str, shard: Shard) -> Task<u64> {
    let name = name.to_owned();
    Task::new(move |client| {
        async move {
            ensure_open(&*client, shard, &name, carve).await?;
            Ok(newest_number(&*client, shard, 0).await?.unwrap_or(0))
        }
        .boxed()
    })
}

/// Of the first shard; the others' first manifests are there before.
fn claim(name: &str, rng: &mut ChaCha8Rng) -> Claim {
    Claim { fresh: ArchiveId(rng.random()), shard: Shard::FIRST, owner: name.into(), wall_ms: 0 }
}

impl Running {
    fn new(takeover: Manifest, (state, left): (State, EpochsLeft)) -> Self {
        let committed = positions(&takeover);
        Running {
            shard: takeover.shard,
            intake: Intake::new(&committed, left).limited_to(takeover.slots),
            acks: Acks::new(takeover.archive, takeover.incarnation, &committed),
            tickets: BTreeMap::new(),
            uploads: BTreeMap::new(),
            incarnation: takeover.incarnation,
            objects: 0,
            staged_segments: 0,
            pending: Vec::new(),
            touched: false,
            state,
            cut_at: Duration::ZERO,
            committed,
            taken: 0,
            staged_batches: 0,
            committed_batches: 0,
            committer: Committer::new(takeover),
        }
    }

    fn apply(&mut self, taken: Taken, reached: &mut Reached) {
        let n = match &taken.content {
            Content::Batch { batch, .. } => Some(batch.machines[0].sensors[0].value[0] as i64),
            Content::Gap(_) => {
                reached.count("gap taken");
                None
            }
            Content::Break { .. } => None,
            Content::DeadLetter(letter) => panic!("{}", letter.reason),
        };
        let last = Position { epoch: taken.position.epoch, seq: taken.last_seq };
        let break_to = matches!(taken.content, Content::Break { .. });
        let row = Row { agent: taken.agent.clone(), from: taken.position, last_seq: taken.last_seq, n, break_to };
        self.state.apply(&row);
        self.pending.push(row);
        self.taken += 1;
        self.acks.received(&taken.agent, last);
    }

    /// The barrier: everything applied so far becomes a segment.
    fn cut(&mut self, site: &AssetId, now: Duration, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        let full = self.staged_segments >= STAGED_MAX;
        if full && !self.intake.paused() {
            reached.count("intake paused");
        }
        self.intake.set_paused(full);
        self.acks.set_paused(full, now);
        if full || (self.pending.is_empty() && !self.touched) || now < self.cut_at {
            return;
        }
        self.cut_at = now + Duration::from_millis(rng.random_range(0..1_000));
        let rows = std::mem::take(&mut self.pending);
        if rows.is_empty() {
            reached.count("commit of nothing");
        }
        self.touched = false;
        let batches = rows.len() as u64;
        let per_object = rows.len().div_ceil(rng.random_range(1..=OBJECTS_PER_SEGMENT_MAX)).max(1);
        let mut objects = Vec::new();
        for part in rows.chunks(per_object) {
            let bytes = Bytes::from(serde_json::to_vec(part).unwrap());
            self.objects += 1;
            let key = object_key(Table::Readings, site, "2026-01-01", self.shard, self.incarnation, self.objects);
            let (object, rows) = (object_ref(key.clone(), &bytes), part.len() as u64);
            objects.push(DataObject { table: Table::Readings, object, rows, min_time_ms: 0, max_time_ms: 0 });
            self.uploads.insert(key, bytes);
        }
        let state = Bytes::from(self.state.encode(self.intake.left()));
        self.objects += 1;
        let snapshot = object_ref(snapshot_key(self.shard, self.incarnation, self.objects), &state);
        self.uploads.insert(snapshot.key.clone(), state);
        let readings = rows.iter().filter(|r| r.n.is_some()).count() as u64;
        let balance =
            Balance { batches, readings_taken: readings, readings_archived: readings, readings_dead_lettered: 0 };
        let agents = self.intake.positions().into_iter();
        let agents = agents.map(|(k, position)| AgentPosition { site: k.site, agent: k.agent, position }).collect();
        let load = Waiting { segments: 1, batches };
        if self.committer.push(Staged { objects, snapshot, agents, balance, load }, 0).is_ok() {
            self.staged_batches += batches;
            self.staged_segments += 1;
        } else {
            assert!(self.committer.is_fenced());
            self.taken -= batches;
        }
    }

    /// True: fenced.
    fn work(
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
                Action::Fenced => return true,
            };
            self.tickets.insert(s3.request(request, now, faults, rng), action);
        }
        false
    }

    fn answer(&mut self, ticket: Ticket, answer: &Answer, now: Duration, reached: &mut Reached) {
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
        assert_eq!(committed.manifest.balance.batches, batches);
        self.staged_batches -= batches;
        self.committed_batches += batches;
        self.committed = positions(&committed.manifest);
        self.acks.committed(&self.committed);
        committed.manifest.objects.iter().for_each(|data| drop(self.uploads.remove(&data.object.key)));
    }

    /// Nothing in silence: what came in is committed, staged or pending.
    fn check(&self) {
        if !self.committer.is_fenced() {
            assert_eq!(self.taken, self.committed_batches + self.staged_batches + self.pending.len() as u64);
        }
        let known: BTreeSet<_> = self.committed.keys().collect();
        assert!(known.iter().all(|agent| self.intake.received(agent).is_some()));
    }
}

fn object_ref(key: String, bytes: &Bytes) -> ObjectRef {
    let sha256 = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    ObjectRef { key, bytes: bytes.len() as u64, sha256 }
}
