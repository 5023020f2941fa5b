//! A broker that keeps only what it retains, and that only until it is restarted.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proto::ack::Ack;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::faults::{Faults, Reached, TICK};

#[derive(Default)]
pub struct Broker {
    /// By when they come out and the order in which they went in.
    up: BTreeMap<(Duration, u64), (usize, Bytes)>,
    down: BTreeMap<(Duration, u64), (usize, Ack)>,
    retained: BTreeMap<usize, Ack>,
    order: u64,
}

impl Broker {
    pub fn publish(
        &mut self,
        from: usize,
        frame: Bytes,
        now: Duration,
        faults: &Faults,
        rng: &mut ChaCha8Rng,
        reached: &mut Reached,
    ) {
        if rng.random_bool(faults.message_lost) {
            return reached.count("message lost");
        }
        let copies = if rng.random_bool(faults.message_twice) { 2 } else { 1 };
        for _ in 0..copies {
            let mut frame = frame.clone();
            if rng.random_bool(faults.message_damaged) {
                let mut bytes = frame.to_vec();
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
                frame = bytes.into();
                reached.count("message damaged");
            }
            let at = now + rng.random_range(TICK..=faults.message_delay_max);
            let place = (at, self.ticket());
            self.up.insert(place, (from, frame));
        }
    }

    pub fn publish_ack(&mut self, to: usize, ack: Ack, now: Duration, faults: &Faults, rng: &mut ChaCha8Rng) {
        self.retained.insert(to, ack);
        if !rng.random_bool(faults.message_lost) {
            let at = now + rng.random_range(TICK..=faults.message_delay_max);
            let place = (at, self.ticket());
            self.down.insert(place, (to, ack));
        }
    }

    pub fn retained(&self, agent: usize) -> Option<Ack> {
        self.retained.get(&agent).copied()
    }

    /// What the processors get now. Their sessions are clean: what comes while there is none is gone.
    pub fn frames(&mut self, now: Duration) -> Vec<(usize, Bytes)> {
        let later = self.up.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.up, later).into_values().collect()
    }

    pub fn acks(&mut self, now: Duration) -> Vec<(usize, Ack)> {
        let later = self.down.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.down, later).into_values().collect()
    }

    pub fn restart(&mut self) {
        *self = Broker { order: self.order, ..Default::default() };
    }

    fn ticket(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}
