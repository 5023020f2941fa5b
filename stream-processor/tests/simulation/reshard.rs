//! Somebody splits and merges shards while everything else goes on, and dies of it like everybody.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::future::FutureExt;
use proto::archive::{
    Shard,
    shards::{Layout, ShardSlots, Slots, layout_key},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use stream_processor::{archive::reshard::work::change, stream::StreamError};

use crate::{
    archive::State,
    faults::{Faults, Reached, TICK},
    s3::{Answer, S3, Ticket},
    task::Task,
};

pub const CHANGES_MAX: usize = 3;
const PARTS_MAX: usize = 4;

/// As everybody sees it who looks into the bucket.
pub fn layout(objects: &BTreeMap<String, Bytes>) -> Layout {
    let records = (1..).map_while(|number| Some((number, objects.get(&layout_key(number))?)));
    records.last().map_or_else(Layout::default, |(number, bytes)| Layout::decode(bytes, number).unwrap())
}

/// The simulation's own states instead of the stream's.
pub fn carve(states: &[Vec<u8>], slots: Slots) -> Result<Vec<u8>, StreamError> {
    let (state, left) = State::carve(states.iter().map(|bytes| State::decode(bytes)), slots);
    Ok(state.encode(left))
}

/// The person with the command line.
pub struct Operator {
    /// When to begin the next change.
    begins: Vec<Duration>,
    given: Option<(Vec<Shard>, Vec<ShardSlots>)>,
    running: Option<Task<Layout>>,
}

impl Operator {
    pub fn new(span: Duration, changes_max: usize, rng: &mut ChaCha8Rng) -> Self {
        let count = rng.random_range(0..=changes_max);
        let mut begins: Vec<Duration> = (0..count).map(|_| rng.random_range(TICK..span)).collect();
        begins.sort_by(|a, b| b.cmp(a));
        Operator { begins, given: None, running: None }
    }

    pub fn is_done(&self) -> bool {
        self.begins.is_empty() && self.given.is_none()
    }

    pub fn answer(&mut self, ticket: Ticket, answer: &Answer) {
        if let Some(running) = &mut self.running {
            running.answer(ticket, answer);
        }
    }

    pub fn tick(&mut self, now: Duration, s3: &mut S3, faults: &Faults, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        if self.given.is_none() && self.begins.pop_if(|at| *at <= now).is_some() {
            self.given = Some(draw(&layout(&s3.objects), rng));
        }
        let Some((from, into)) = self.given.clone() else { return };
        let decided = layout(&s3.objects).has(&from, &into);
        if self.running.is_some() && rng.random_bool(faults.processor_killed) {
            self.running = None;
            reached.count("operator killed");
            // What is decided may be left to the successors.
            if decided && rng.random_bool(0.5) {
                reached.count("change left to the successors");
                self.given = None;
                return;
            }
        }
        let running = self.running.get_or_insert_with(|| {
            Task::new(|client| async move { change(&*client, &from, &into, "operator", carve).await }.boxed())
        });
        match running.tick(now, s3, faults, rng) {
            None => {}
            Some(Ok(_)) => {
                reached.count("change carried out");
                (self.running, self.given) = (None, None);
            }
            // The command is given again.
            Some(Err(_)) => self.running = None,
        }
    }
}

/// A split of one shard, or a merge of several.
fn draw(layout: &Layout, rng: &mut ChaCha8Rng) -> (Vec<Shard>, Vec<ShardSlots>) {
    let current: Vec<_> = layout.current().cloned().collect();
    let unused = layout.shards.iter().map(|d| d.shard.0).max().unwrap_or(0) + 1;
    let merged = if current.len() > 1 && rng.random_bool(0.7) { rng.random_range(2..=current.len()) } else { 1 };
    let from = &current[..merged];
    let slots = from.iter().fold(Slots::NONE, |all, d| all.union(d.slots));
    let parts = if merged > 1 { 1 } else { rng.random_range(1..=PARTS_MAX) };
    let into = (unused..).zip(divide(slots, parts, rng)).map(|(n, slots)| ShardSlots { shard: Shard(n), slots });
    (from.iter().map(|d| d.shard).collect(), into.collect())
}

/// In no order at all.
fn divide(slots: Slots, count: usize, rng: &mut ChaCha8Rng) -> Vec<Slots> {
    let mut parts = vec![Slots::NONE; count];
    for slot in slots.iter() {
        let part = &mut parts[rng.random_range(0..count)];
        *part = part.union(slot.to_string().parse().unwrap());
    }
    if parts.contains(&Slots::NONE) { slots.parts(count) } else { parts }
}
