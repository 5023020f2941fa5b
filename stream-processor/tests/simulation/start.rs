//! How a processor begins: by the rules of recovery and standoff, over a bucket that answers late or not at all.

use std::time::Duration;

use futures::future::FutureExt;
use model::store::manifests::{Search, newest_number};
use proto::{
    ack::ArchiveId,
    archive::{Manifest, ManifestKind, Shard, manifest_key},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use stream_processor::{
    archive::{
        recovery::{Claim, takeover},
        reshard::work::ensure_open,
        standoff::{Standoff, Verdict},
    },
    intake::EpochsLeft,
};

use crate::{
    archive::State,
    derived::Plant,
    faults::{Faults, Reached},
    reshard::carve,
    running::Running,
    s3::{Answer, Request, S3, Ticket},
    task::Task,
};

/// Short, beside what S3 takes to answer at its worst: owners that are alive are taken over, too.
pub const QUIET: Duration = Duration::from_secs(2);

/// One request at a time, repeated until it is answered.
pub struct Start {
    name: String,
    plant: Option<Plant>,
    shard: Shard,
    step: Step,
    waiting: Option<Ticket>,
    standoff: Standoff,
    /// Somebody else is the owner: not before this.
    stands_by: Option<Duration>,
}

pub enum Started {
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

impl Start {
    pub fn new(name: &str, plant: Option<Plant>, shard: Shard, newest: u64, last: Option<u64>, forced: bool) -> Self {
        let (step, standoff) = (Step::Search(Search::from(newest)), Standoff::new(name, QUIET, last, forced));
        Start { name: name.into(), plant, shard, step, waiting: None, standoff, stands_by: None }
    }

    pub fn waits_for(&self, ticket: Ticket) -> bool {
        self.waiting == Some(ticket)
    }

    pub fn stands_by(&self) -> bool {
        self.stands_by.is_some()
    }

    pub fn ask(&mut self, now: Duration, s3: &mut S3, faults: &Faults, rng: &mut ChaCha8Rng) {
        if self.waiting.is_some() || self.stands_by.is_some_and(|until| now < until) {
            return;
        }
        let request = match &self.step {
            Step::Search(search) => match search.probe() {
                Some(number) => Request::Get { key: manifest_key(self.shard, number) },
                None => return self.found(search.newest(), rng),
            },
            Step::Newest(number) => Request::Get { key: manifest_key(self.shard, *number) },
            Step::TakeOver(manifest) => {
                let mut manifest = (**manifest).clone();
                self.name.clone_into(&mut manifest.owner);
                let bytes = manifest.encode().unwrap().into();
                self.step = Step::TakeOver(manifest.clone().into());
                Request::PutIfAbsent { key: manifest.key(), bytes }
            }
            Step::Snapshot(manifest) => Request::Get { key: manifest.snapshot.clone().unwrap().key },
        };
        self.waiting = Some(s3.request(request, now, faults, rng));
    }

    fn found(&mut self, newest: Option<u64>, rng: &mut ChaCha8Rng) {
        self.step = match newest {
            Some(number) => Step::Newest(number),
            None => Step::TakeOver(takeover(None, &claim(&self.name, rng)).into()),
        };
    }

    pub fn advance(&mut self, answer: &Answer, now: Duration, reached: &mut Reached) -> Option<Started> {
        self.waiting = None;
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
                    Verdict::TakeOver if newest.kind == ManifestKind::Released => reached.count("released shard taken"),
                    Verdict::TakeOver if newest.owner != self.name => reached.count("another owner taken over"),
                    Verdict::TakeOver => {}
                    Verdict::Closed => {
                        reached.count("closed shard not taken");
                        return Some(Started::Closed);
                    }
                    Verdict::Wait(until) => {
                        let own = newest.owner == self.name;
                        reached.count(if own { "own name waited for" } else { "another owner waited for" });
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
                    let nothing = (State::default(), EpochsLeft::new());
                    return Some(Running::new((**manifest).clone(), nothing, self.plant.take(), reached).into());
                }
                self.step = Step::Snapshot(manifest.clone());
            }
            (Step::Snapshot(manifest), Answer::Found(Some(bytes))) => {
                let state = State::decode(bytes);
                return Some(Running::new((**manifest).clone(), state, self.plant.take(), reached).into());
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
pub fn opening(name: &str, shard: Shard) -> Task<u64> {
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
