//! What goes wrong, and how often. After [`Faults::none`] everything must come to rest.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

pub const TICK: Duration = Duration::from_millis(50);

/// Probabilities; per message, per request or per tick.
#[derive(Debug, Clone)]
pub struct Faults {
    pub message_lost: f64,
    pub message_twice: f64,
    pub message_damaged: f64,
    /// Per batch: a clone of the gateway sends another one in its place.
    pub twin_speaks: f64,
    /// Longest time that a message may be overtaken by.
    pub message_delay_max: Duration,
    pub agent_killed: f64,
    pub agent_disconnected: f64,
    /// Of starts: the wall clock is not where it should be.
    pub clock_wrong: f64,
    pub clock_stepped: f64,
    /// A machine that several gateways read moves from one to another.
    pub machine_moved: f64,
    pub model_changed: f64,
    pub people_ask: bool,
    pub batch_refused: f64,
    /// Per batch: its content is nonsense.
    pub batch_poisoned: f64,
    /// A frame on the gateway's disk, with others behind it.
    pub frame_damaged: f64,
    pub disk_failing: f64,
    /// The gateway is updated before the processor is.
    pub agent_updated: f64,
    /// The card is copied; the next exchange puts that copy in, or an empty card.
    pub disk_copied: f64,
    pub disk_exchanged: f64,
    /// Of exchanges: the gateway draws the same epoch from that card as before, since at its start nothing is random.
    pub epoch_repeated: f64,
    pub broker_restarted: f64,
    pub processor_killed: f64,
    pub processor_stopped: f64,
    /// A second processor is started while the first one runs.
    pub processor_doubled: f64,
    /// Of starts: somebody says that the owner is gone.
    pub takeover_forced: f64,
    pub s3_failed: f64,
    /// The write is done, but nobody hears of it.
    pub s3_unanswered: f64,
    pub s3_delay_max: Duration,
    pub s3_outage: f64,
    pub archive_exchanged: f64,
}

impl Faults {
    /// Each world has its own weather: in a calm one things get so far that it shows when a card is exchanged.
    pub fn drawn(rng: &mut ChaCha8Rng) -> Self {
        let storm = if rng.random_bool(0.5) { 1.0 } else { 0.1 };
        let mut often = |max: f64| if rng.random_bool(0.3) { 0.0 } else { rng.random_range(0.0..max) };
        Faults {
            message_lost: storm * often(0.2),
            message_twice: often(0.2),
            message_damaged: often(0.05),
            twin_speaks: often(0.02),
            agent_killed: storm * often(0.02),
            agent_disconnected: storm * often(0.03),
            clock_wrong: often(0.8),
            clock_stepped: often(0.005),
            machine_moved: often(0.01),
            model_changed: often(0.02),
            people_ask: true,
            batch_refused: often(0.01),
            batch_poisoned: often(0.05),
            frame_damaged: often(0.01),
            disk_failing: often(0.01),
            agent_updated: storm * often(0.005),
            disk_copied: often(0.02),
            disk_exchanged: often(0.015),
            epoch_repeated: often(0.5),
            broker_restarted: storm * often(0.01),
            processor_killed: storm * often(0.02),
            processor_stopped: storm * often(0.02),
            processor_doubled: storm * often(0.01),
            takeover_forced: often(0.4),
            s3_failed: storm * often(0.3),
            s3_unanswered: storm * often(0.2),
            s3_outage: storm * often(0.01),
            archive_exchanged: often(0.006),
            message_delay_max: TICK * rng.random_range(1..10),
            s3_delay_max: TICK * rng.random_range(1..if storm < 1.0 { 6 } else { 60 }),
        }
    }

    pub fn none() -> Self {
        Faults {
            message_lost: 0.0,
            message_twice: 0.0,
            message_damaged: 0.0,
            twin_speaks: 0.0,
            message_delay_max: TICK,
            agent_killed: 0.0,
            agent_disconnected: 0.0,
            clock_wrong: 0.0,
            clock_stepped: 0.0,
            machine_moved: 0.0,
            model_changed: 0.0,
            people_ask: false,
            batch_refused: 0.0,
            batch_poisoned: 0.0,
            frame_damaged: 0.0,
            disk_failing: 0.0,
            agent_updated: 0.0,
            disk_copied: 0.0,
            disk_exchanged: 0.0,
            epoch_repeated: 0.0,
            broker_restarted: 0.0,
            processor_killed: 0.0,
            processor_stopped: 0.0,
            processor_doubled: 0.0,
            takeover_forced: 0.0,
            s3_failed: 0.0,
            s3_unanswered: 0.0,
            s3_delay_max: TICK,
            s3_outage: 0.0,
            archive_exchanged: 0.0,
        }
    }
}

/// Situations that the seeds must lead into, or the simulation proves nothing.
#[derive(Debug, Default)]
pub struct Reached(pub std::collections::BTreeMap<&'static str, u64>);

impl Reached {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, times: usize) {
        if times > 0 {
            *self.0.entry(what).or_default() += times as u64;
        }
    }
}
