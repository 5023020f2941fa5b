//! Batches come in any order, again and again, to a processor that dies at random and goes on from its last commit.

use std::collections::BTreeMap;

use proto::{
    position::Position,
    telemetry::{Codec, FrameHeader, FrameKind},
};

use super::*;
use crate::intake::{Decision, Intake};

/// What a manifest keeps: all that was derived up to here, and how to go on.
struct Commit {
    snapshot: Vec<u8>,
    positions: BTreeMap<AgentKey, Position>,
    derived: usize,
}

struct Processor {
    config: StreamConfig,
    stream: Stream,
    intake: Intake,
    derived: Vec<Derived>,
    last: Commit,
    deaths: u32,
}

impl Processor {
    fn new(config: StreamConfig) -> Self {
        let stream = Stream::new(config.clone());
        let snapshot = stream.snapshot(&EpochsLeft::new()).unwrap();
        let last = Commit { snapshot, positions: BTreeMap::new(), derived: 0 };
        let intake = Intake::new(&last.positions, EpochsLeft::new());
        Processor { config, stream, intake, derived: vec![], last, deaths: 0 }
    }

    fn commit(&mut self) {
        let snapshot = self.stream.snapshot(&self.intake.left()).unwrap();
        self.last = Commit { snapshot, positions: self.intake.positions(), derived: self.derived.len() };
    }

    /// What was not committed is gone, and comes again.
    fn die(&mut self) {
        let (stream, left) = Stream::restore(self.config.clone(), &self.last.snapshot).unwrap();
        (self.stream, self.intake) = (stream, Intake::new(&self.last.positions, left));
        self.derived.truncate(self.last.derived);
        self.deaths += 1;
    }

    fn arrive(&mut self, arrivals: Vec<Taken>) {
        let mut run = Vec::new();
        for taken in arrivals {
            if let Decision::Take { .. } = self.intake.offer(&taken.agent, &header(&taken), true) {
                run.push(taken);
            }
        }
        self.derived.push(self.stream.apply(run, None).unwrap());
    }

    /// How much of a log has been taken.
    fn received(&self, log: &[Taken]) -> usize {
        self.intake.received(&log[0].agent).map_or(0, |position| position.seq as usize)
    }
}

fn header(taken: &Taken) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Data,
        codec: Codec::Plain,
        position: taken.position,
        last_seq: taken.last_seq,
        previous: None,
        readings: taken::readings(taken) as u32,
        payload_bytes: 1,
        payload_crc: taken.position.seq as u32,
    }
}

/// The batch that is due, an older one once more, or one that is too early.
fn arrival(
    processor: &Processor,
    logs: &[Vec<Taken>],
    ahead: &mut BTreeMap<usize, usize>,
    rng: &mut ChaCha8Rng,
) -> Taken {
    let agent = rng.random_range(0..logs.len());
    let log = &logs[agent];
    // Of this call, which the intake has not seen yet.
    let due = ahead.entry(agent).or_insert_with(|| processor.received(log));
    let at = if rng.random_bool(0.7) { *due } else { rng.random_range(0..log.len()) };
    let at = at.min(log.len() - 1);
    *due += usize::from(at == *due);
    log[at].clone()
}

/// All that is committed in the end.
fn delivered(config: &StreamConfig, logs: &[Vec<Taken>], rng: &mut ChaCha8Rng) -> (Vec<Derived>, u32) {
    let mut processor = Processor::new(config.clone());
    while logs.iter().any(|log| processor.received(log) < log.len()) {
        let mut ahead = BTreeMap::new();
        let arrivals = (0..rng.random_range(1..12)).map(|_| arrival(&processor, logs, &mut ahead, rng)).collect();
        processor.arrive(arrivals);
        match rng.random_range(0..20) {
            0 => processor.die(),
            1..6 => processor.commit(),
            _ => {}
        }
    }
    (processor.derived, processor.deaths)
}

#[test]
fn repeats_disorder_and_deaths_change_no_window_and_no_revision() {
    let (seed, mut rng) = rng();
    let (mut deaths, mut revisions) = (0, 0);
    for config in shapes() {
        let logs: Vec<Vec<Taken>> = (0..3).map(|agent| log(agent, 60, &mut rng)).collect();
        let expected = oracle::read(&logs, &config.features);
        let (derived, died) = delivered(&config, &logs, &mut rng);
        let found = windows(&derived);
        oracle::assert_windows(&found, &expected, same_stats, seed);
        oracle::assert_archive(&archived(&derived), &expected, seed);
        // A backlog that is read in one go, by a processor that has nothing else to do.
        let backlog = windows(&[Stream::new(config).apply(logs.concat(), None).unwrap()]);
        assert_same(&backlog, &found, seed);
        (deaths, revisions) = (deaths + died, revisions + expected.revisions());
    }
    assert!(deaths > 0 && revisions > 0, "seed {seed}: {deaths} deaths and {revisions} revisions prove nothing");
}
