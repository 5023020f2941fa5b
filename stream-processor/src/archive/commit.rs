//! The rules of the commit: staged segments go to S3 in order, by numbered manifests. No clock, no I/O.
//!
//! A segment has a manifest of its own unless S3 is slow or away: then those that wait behind the first are taken by one,
//! with the newest snapshot only, so that hours without S3 cost what the readings cost and no snapshot every few seconds.
//!
//! Ask [`Committer::poll`] what to do now, do it, and bring the outcome to [`Committer::answer`]. Nothing that failed
//! is given up: S3 may be away for hours. A manifest number that somebody else took is the end of this writer.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use proto::archive::{
    AgentPosition, Balance, DataObject, MANIFEST_VERSION, Manifest, ManifestError, ManifestKind, ObjectRef,
};

/// Manifests that may wait for S3; each holds the positions of all agents in memory.
pub const MANIFESTS_STAGED_MAX: usize = 1024;
/// Of the segments that one manifest takes together: it is written again whenever one more follows.
pub const OBJECTS_FOLDED_MAX: usize = 256;
pub const UPLOADS_IN_FLIGHT_MAX: usize = 4;
pub const BACKOFF_FIRST_MS: u64 = 200;
pub const BACKOFF_MS_MAX: u64 = 15_000;

/// What a driver gives with a segment, to have it back when that is committed.
pub trait Load {
    /// A later segment goes into the same manifest: from now on this is of both. The earlier one's snapshot is of no use any
    /// more.
    fn follow(&mut self, later: Self);
}

/// A segment on the local disk.
#[derive(Debug)]
pub struct Staged<T> {
    pub objects: Vec<DataObject>,
    pub snapshot: ObjectRef,
    pub agents: Vec<AgentPosition>,
    pub balance: Balance,
    pub load: T,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Object `object` of what will be manifest `number`: the data objects, then the snapshot.
    Upload { number: u64, object: usize, key: String },
    /// Only if there is none of this number yet.
    PutManifest { number: u64, bytes: Bytes },
    /// The number is taken: by whom?
    ReadManifest { number: u64 },
    /// Nothing before this time, unless something is answered or pushed.
    Wait(Duration),
    /// A newer writer has taken over: never write again.
    Fenced,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Uploaded {
        number: u64,
        object: usize,
    },
    ManifestCreated {
        number: u64,
    },
    /// 412: there is one of this number.
    ManifestExists {
        number: u64,
    },
    ManifestRead {
        number: u64,
        found: Option<Bytes>,
    },
    /// What became of it is not known; trying again can do no harm.
    Failed(Action),
}

/// One manifest is in S3.
#[derive(Debug)]
pub struct Committed<T> {
    pub manifest: Manifest,
    /// None for manifests that only renew or release the shard.
    pub load: Option<T>,
}

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{MANIFESTS_STAGED_MAX} manifests wait for S3 already")]
    Full,
    #[error("nothing follows the manifest that releases the shard, or that of another writer")]
    Ended,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// One writer's way through the manifest numbers.
#[derive(Debug)]
pub struct Committer<T> {
    /// The newest manifest of this writer, committed or still to come; the first one is its takeover.
    last: Manifest,
    queue: VecDeque<Entry<T>>,
    state: State,
    /// When the newest manifest was known to be in S3.
    settled_at: Duration,
    /// The writer of the manifest that ended this one.
    fenced_by: Option<Box<Manifest>>,
    failures: u32,
    retry_at: Duration,
}

#[derive(Debug)]
struct Entry<T> {
    manifest: Manifest,
    /// The same at every try, so that an earlier one is recognised.
    bytes: Bytes,
    load: Option<T>,
}

/// Of the first segment in the queue.
#[derive(Debug)]
enum State {
    Uploading { open: BTreeSet<usize>, in_flight: BTreeSet<usize> },
    Manifest { step: Step, in_flight: bool },
    Fenced,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Put,
    Read,
}

impl<T: Load> Committer<T> {
    /// Its clock begins with the takeover.
    pub fn new(takeover: Manifest) -> Self {
        let mut committer = Committer {
            last: takeover,
            queue: VecDeque::new(),
            state: State::Fenced,
            settled_at: Duration::ZERO,
            fenced_by: None,
            failures: 0,
            retry_at: Duration::ZERO,
        };
        committer.state = committer.first_state();
        committer
    }

    /// The next segment; `wall_ms` is for people who read the manifest.
    pub fn push(&mut self, staged: Staged<T>, wall_ms: i64) -> Result<(), PushError> {
        if !self.has_room() {
            return Err(PushError::Full);
        }
        // The first one is on its way, and says what it says.
        if let Some(last) = self.queue.iter_mut().skip(1).last().filter(|last| last.has_place(&staged)) {
            last.follow(staged, wall_ms)?;
            self.last = Manifest { objects: vec![], ..last.manifest.clone() };
            return Ok(());
        }
        let manifest = Manifest {
            kind: ManifestKind::Commit,
            objects: staged.objects,
            agents: staged.agents,
            snapshot: Some(staged.snapshot),
            balance: staged.balance,
            ..self.next(wall_ms)
        };
        self.enqueue(manifest, Some(staged.load))
    }

    /// Tells the next writer, after all that was pushed, that it need not wait.
    pub fn release(&mut self, wall_ms: i64) -> Result<(), PushError> {
        let manifest = Manifest { kind: ManifestKind::Released, ..self.next(wall_ms) };
        self.enqueue(manifest, None)
    }

    /// When an empty manifest is due, `every` so long; None while there is something to commit.
    pub fn renews_at(&self, every: Duration) -> Option<Duration> {
        let idle = self.queue.is_empty() && !self.is_fenced() && self.last.kind != ManifestKind::Released;
        idle.then(|| self.settled_at + every)
    }

    /// Tells whoever wants the shard that its owner is alive.
    pub fn renew(&mut self, wall_ms: i64) -> Result<(), PushError> {
        let manifest = Manifest { kind: ManifestKind::Renewed, ..self.next(wall_ms) };
        self.enqueue(manifest, None)
    }

    pub fn has_room(&self) -> bool {
        self.queue.len() < MANIFESTS_STAGED_MAX
    }

    /// Commits nothing more, and drops what waits.
    pub fn stop(&mut self) {
        self.queue.clear();
        self.state = State::Fenced;
    }

    /// The manifest under the number that was to be this writer's next one, if it can be read.
    pub fn fenced_by(&self) -> Option<&Manifest> {
        self.fenced_by.as_deref()
    }

    pub fn is_fenced(&self) -> bool {
        matches!(self.state, State::Fenced)
    }

    /// Manifests that are not in S3 yet.
    pub fn staged(&self) -> usize {
        self.queue.len()
    }

    /// What the driver gave with the segments that will be manifest `number`.
    pub fn load(&self, number: u64) -> Option<&T> {
        self.queue.iter().find(|e| e.manifest.number == number)?.load.as_ref()
    }

    /// All that should be begun now. Asked again before an answer, it does not repeat itself.
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        if self.is_fenced() {
            return vec![Action::Fenced];
        }
        let Some(first) = self.queue.front() else { return vec![] };
        let number = first.manifest.number;
        let waits = self.retry_at > now;
        match &mut self.state {
            State::Uploading { open, in_flight } => {
                let idle: Vec<usize> = open.difference(in_flight).copied().collect();
                if waits && !idle.is_empty() {
                    return vec![Action::Wait(self.retry_at)];
                }
                let room = UPLOADS_IN_FLIGHT_MAX - in_flight.len();
                let begin: Vec<usize> = idle.into_iter().take(room).collect();
                in_flight.extend(&begin);
                let action = |object| Action::Upload { number, object, key: object_key(&first.manifest, object) };
                begin.into_iter().map(action).collect()
            }
            State::Manifest { in_flight: true, .. } => vec![],
            State::Manifest { .. } if waits => vec![Action::Wait(self.retry_at)],
            State::Manifest { step, in_flight } => {
                *in_flight = true;
                vec![match step {
                    Step::Put => Action::PutManifest { number, bytes: first.bytes.clone() },
                    Step::Read => Action::ReadManifest { number },
                }]
            }
            State::Fenced => vec![Action::Fenced],
        }
    }

    /// The outcome of an action; says what is committed by it.
    pub fn answer(&mut self, now: Duration, answer: Answer) -> Option<Committed<T>> {
        let current = self.queue.front().map(|e| e.manifest.number);
        match answer {
            Answer::Failed(action) => self.failed(now, &action),
            Answer::Uploaded { number, object } if current == Some(number) => self.uploaded(object),
            Answer::ManifestCreated { number } if current == Some(number) => return self.committed(now),
            Answer::ManifestExists { number } if current == Some(number) => self.step(Step::Read),
            Answer::ManifestRead { number, found } if current == Some(number) => return self.examine(now, found),
            // Of a segment that is done with.
            _ => {}
        }
        None
    }

    fn next(&self, wall_ms: i64) -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            number: self.last.number + 1,
            written_ms: wall_ms,
            objects: vec![],
            balance: Balance::default(),
            ..self.last.clone()
        }
    }

    fn enqueue(&mut self, manifest: Manifest, load: Option<T>) -> Result<(), PushError> {
        if self.is_fenced() || self.last.kind == ManifestKind::Released {
            return Err(PushError::Ended);
        }
        let bytes = manifest.encode()?.into();
        self.last = Manifest { objects: vec![], ..manifest.clone() };
        self.queue.push_back(Entry { manifest, bytes, load });
        if self.queue.len() == 1 {
            self.state = self.first_state();
        }
        Ok(())
    }

    fn first_state(&self) -> State {
        match self.queue.front().map(|e| &e.manifest) {
            Some(m) if m.kind == ManifestKind::Commit => {
                State::Uploading { open: (0..=m.objects.len()).collect(), in_flight: BTreeSet::new() }
            }
            _ => State::Manifest { step: Step::Put, in_flight: false },
        }
    }

    fn uploaded(&mut self, object: usize) {
        self.failures = 0;
        let State::Uploading { open, in_flight } = &mut self.state else { return };
        in_flight.remove(&object);
        open.remove(&object);
        if open.is_empty() {
            self.step(Step::Put);
        }
    }

    fn step(&mut self, step: Step) {
        self.failures = 0;
        self.state = State::Manifest { step, in_flight: false };
    }

    fn examine(&mut self, now: Duration, found: Option<Bytes>) -> Option<Committed<T>> {
        match (found, self.queue.front()) {
            (None, _) => self.step(Step::Put),
            (Some(found), Some(first)) if found == first.bytes => return self.committed(now),
            (Some(found), first) => {
                let other = first.and_then(|first| Manifest::decode(&found, first.manifest.number).ok());
                self.fenced_by = other.map(Box::new);
                self.stop();
            }
        }
        None
    }

    fn committed(&mut self, now: Duration) -> Option<Committed<T>> {
        self.failures = 0;
        self.settled_at = now;
        let done = self.queue.pop_front()?;
        self.state = self.first_state();
        Some(Committed { manifest: done.manifest, load: done.load })
    }

    fn failed(&mut self, now: Duration, action: &Action) {
        match (&mut self.state, action) {
            (State::Uploading { in_flight, .. }, Action::Upload { object, .. }) => drop(in_flight.remove(object)),
            (State::Manifest { in_flight, .. }, _) => *in_flight = false,
            _ => return,
        }
        // Uploads that fail together are one failure.
        if self.retry_at <= now {
            self.retry_at = now + backoff(self.failures);
            self.failures = self.failures.saturating_add(1);
        }
    }
}

impl<T: Load> Entry<T> {
    /// One that renews or releases the shard has none.
    fn has_place(&self, staged: &Staged<T>) -> bool {
        self.load.is_some() && self.manifest.objects.len() + staged.objects.len() <= OBJECTS_FOLDED_MAX
    }

    fn follow(&mut self, staged: Staged<T>, wall_ms: i64) -> Result<(), ManifestError> {
        let manifest = &mut self.manifest;
        manifest.objects.extend(staged.objects);
        manifest.balance += staged.balance;
        (manifest.agents, manifest.snapshot, manifest.written_ms) = (staged.agents, Some(staged.snapshot), wall_ms);
        self.bytes = manifest.encode()?.into();
        match &mut self.load {
            Some(load) => load.follow(staged.load),
            None => self.load = Some(staged.load),
        }
        Ok(())
    }
}

fn backoff(failures: u32) -> Duration {
    let factor = 1u64.checked_shl(failures).unwrap_or(u64::MAX);
    Duration::from_millis(BACKOFF_FIRST_MS.saturating_mul(factor).min(BACKOFF_MS_MAX))
}

fn object_key(manifest: &Manifest, object: usize) -> String {
    let data = manifest.objects.get(object).map(|o| &o.object);
    data.or(manifest.snapshot.as_ref()).map(|o| o.key.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
