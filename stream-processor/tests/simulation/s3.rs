//! A bucket that honours conditional writes, and nothing else is sure: requests fail, answers get lost, and a write
//! that was given up can still happen later, even when its writer is long dead.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::faults::{Faults, Reached, TICK};

#[derive(Debug, Clone)]
pub enum Request {
    Put {
        key: String,
        bytes: Bytes,
    },
    PutIfAbsent {
        key: String,
        bytes: Bytes,
    },
    Get {
        key: String,
    },
    /// The first key, as the content.
    First {
        prefix: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    Exists,
    Found(Option<Bytes>),
    Failed,
}

pub type Ticket = u64;

enum Step {
    Apply(Request),
    Answer(Answer),
}

#[derive(Default)]
pub struct S3 {
    pub objects: BTreeMap<String, Bytes>,
    steps: BTreeMap<(Duration, u64), (Ticket, Step, bool)>,
    tickets: u64,
    order: u64,
    outage_until: Duration,
}

impl S3 {
    pub fn outage(&mut self, until: Duration) {
        self.outage_until = until;
    }

    pub fn request(&mut self, request: Request, now: Duration, faults: &Faults, rng: &mut ChaCha8Rng) -> Ticket {
        self.tickets += 1;
        let ticket = self.tickets;
        let mut later = || now + rng.random_range(TICK..=faults.s3_delay_max);
        let (first, second) = (later(), later());
        if now < self.outage_until || rng.random_bool(faults.s3_failed) {
            self.schedule(first, ticket, Step::Answer(Answer::Failed), true);
        } else if rng.random_bool(faults.s3_unanswered) {
            // In either order: a time-out may come before the write that it gave up.
            self.schedule(first, ticket, Step::Apply(request), false);
            self.schedule(second, ticket, Step::Answer(Answer::Failed), true);
        } else {
            self.schedule(first, ticket, Step::Apply(request), true);
        }
        ticket
    }

    /// What is answered by now.
    pub fn answers(&mut self, now: Duration, reached: &mut Reached) -> Vec<(Ticket, Answer)> {
        let mut answers = Vec::new();
        while let Some(step) = self.steps.first_entry().filter(|s| s.key().0 <= now) {
            let (ticket, step, heard) = step.remove();
            let answer = match step {
                Step::Apply(request) => self.apply(request),
                Step::Answer(answer) => answer,
            };
            if heard {
                answers.push((ticket, answer));
            } else {
                reached.count("S3 request done, but not answered");
            }
        }
        answers
    }

    fn apply(&mut self, request: Request) -> Answer {
        match request {
            Request::Put { key, bytes } => {
                self.objects.insert(key, bytes);
                Answer::Done
            }
            Request::PutIfAbsent { key, bytes } => match self.objects.contains_key(&key) {
                true => Answer::Exists,
                false => {
                    self.objects.insert(key, bytes);
                    Answer::Done
                }
            },
            Request::Get { key } => Answer::Found(self.objects.get(&key).cloned()),
            Request::First { prefix } => {
                let first = self.objects.keys().find(|key| key.starts_with(&prefix));
                Answer::Found(first.map(|key| key.clone().into()))
            }
        }
    }

    fn schedule(&mut self, at: Duration, ticket: Ticket, step: Step, heard: bool) {
        self.order += 1;
        self.steps.insert((at, self.order), (ticket, step, heard));
    }
}
