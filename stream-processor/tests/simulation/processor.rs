//! The processor: its own cores of decode, intake, acks, recovery and commit, between a broker and a bucket.

use std::time::Duration;

use bytes::Bytes;
use proto::{
    ack::Ack,
    archive::{ObjectRef, Shard},
    asset::AssetId,
    topic::Topic,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use stream_processor::decode::AgentKey;

use crate::{
    derived::Plant,
    faults::{Faults, Reached},
    running::Running,
    s3::{Answer, S3, Ticket},
    start::{Start, Started, opening},
    task::Task,
};

pub struct Processor {
    name: String,
    site: AssetId,
    plant: Option<Plant>,
    /// What the process before it was, if that is remembered.
    last: Option<u64>,
    pub shard: Shard,
    phase: Phase,
}

enum Phase {
    /// Sees to it that the shard is there; gives back its newest manifest's number.
    Opening(Task<u64>),
    Starting(Start),
    Running(Box<Running>),
    /// Another writer has taken over, the shard is closed, or it was told to stop and has.
    Over,
}

impl Processor {
    pub fn new(name: String, site: &AssetId, shard: Shard, plant: Option<Plant>, last: Option<u64>) -> Self {
        let phase = Phase::Opening(opening(&name, shard));
        Processor { name, site: site.clone(), plant, last, shard, phase }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Running, with nothing left to commit; or waiting for another one to go.
    pub fn is_idle(&self) -> bool {
        match &self.phase {
            Phase::Running(running) => running.is_idle(),
            Phase::Starting(start) => start.stands_by(),
            Phase::Opening(_) | Phase::Over => false,
        }
    }

    /// Its supervisor asks it to end: it commits what it has, and releases the shard.
    pub fn stop(&mut self) {
        match &mut self.phase {
            Phase::Running(running) => running.stop(),
            Phase::Opening(_) | Phase::Starting(_) => self.phase = Phase::Over,
            Phase::Over => {}
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn running(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Running(running) => Some(running),
            Phase::Opening(_) | Phase::Starting(_) | Phase::Over => None,
        }
    }

    pub fn take(&mut self, agent: &AgentKey, frame: Bytes, reached: &mut Reached) {
        if let Phase::Running(running) = &mut self.phase {
            running.take(&self.site, agent, frame, reached);
        }
    }

    pub fn answer(&mut self, ticket: Ticket, answer: &Answer, now: Duration, reached: &mut Reached) {
        match &mut self.phase {
            Phase::Opening(task) => task.answer(ticket, answer),
            Phase::Starting(start) if start.waits_for(ticket) => match start.advance(answer, now, reached) {
                None => {}
                Some(Started::Running(running)) => self.phase = Phase::Running(running),
                Some(Started::Closed) => self.phase = Phase::Over,
            },
            Phase::Running(running) => running.answer(ticket, answer, now, reached),
            Phase::Starting(_) | Phase::Over => {}
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
        match &mut self.phase {
            Phase::Opening(task) => {
                match task.tick(now, s3, faults, rng) {
                    None => {}
                    Some(Ok(newest)) => {
                        let forced = rng.random_bool(faults.takeover_forced);
                        self.phase = Phase::Starting(Start::new(
                            &self.name,
                            self.plant.clone(),
                            self.shard,
                            newest,
                            self.last,
                            forced,
                        ));
                    }
                    // Its supervisor starts it again.
                    Some(Err(_)) => *task = opening(&self.name, self.shard),
                }
                vec![]
            }
            Phase::Starting(start) => {
                start.ask(now, s3, faults, rng);
                vec![]
            }
            Phase::Running(running) => {
                running.derive(&self.site, now, reached);
                running.cut(&self.site, now, rng, reached);
                let over = running.work(now, s3, faults, rng, reached);
                running.check();
                let acks = running.due_acks(now);
                if over {
                    self.phase = Phase::Over;
                }
                acks
            }
            Phase::Over => vec![],
        }
    }
}

pub fn object_ref(key: String, bytes: &Bytes) -> ObjectRef {
    let sha256 = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    ObjectRef { key, bytes: bytes.len() as u64, sha256 }
}
