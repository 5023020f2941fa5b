//! Batches that have been read, and what happened in them that is still to be judged.

use model::features::{FeatureConfig, WindowFeatures};
use prost::Message;
use proto::{
    archive::Balance,
    time::PlantTime,
    topic::{Channel, Topic},
    wire::telemetry::{EventRecord, TelemetryBatch},
};

use super::{
    derived::{Foreign, KnownEvent, Loss, Lost},
    tables::Births,
};
use crate::{
    alert::Generation,
    archive::readings::Stretch,
    clean::sealed_ms,
    decode::{Content, DeadLetter, Taken},
};

/// What has come out of the batches read so far, and is to be judged.
#[derive(Default)]
pub struct Steps {
    pub(super) readings: Vec<Stretch>,
    pub(super) births: Births,
    pub(super) events: Vec<KnownEvent>,
    pub(super) happened: Vec<Happened>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) losses: Vec<Loss>,
    pub(super) balance: Balance,
    pub(super) late: u64,
    pub(super) revising: u64,
    pub(super) foreign: Vec<Foreign>,
    pub(super) failures: u32,
}

/// In log order, which is the order in which the alert desk must hear it; and within a batch in the order in which it
/// would have come in many small ones, so that the pace at which an agent seals changes nothing.
pub(super) enum Happened {
    Event(EventRecord),
    Window(Box<WindowFeatures>),
    Generation(Generation),
}

impl Happened {
    /// The earliest seal that could have brought it.
    pub(super) fn due(&self, config: &FeatureConfig) -> i64 {
        match self {
            Happened::Event(event) => event.time_ms,
            Happened::Window(window) => window.end.millis().saturating_add(config.lateness_ms),
            Happened::Generation(_) => i64::MIN,
        }
    }
}

impl Steps {
    pub(super) fn windows(&self) -> impl Iterator<Item = &WindowFeatures> {
        self.happened.iter().filter_map(|happened| match happened {
            Happened::Window(window) => Some(&**window),
            Happened::Event(_) | Happened::Generation(_) => None,
        })
    }

    /// Of all that was read.
    pub fn batches(&self) -> u64 {
        self.balance.batches
    }

    /// What a batch carries besides its readings.
    pub(super) fn take(&mut self, mut taken: Taken) {
        self.balance.batches += 1;
        match std::mem::replace(&mut taken.content, Content::Gap(Default::default())) {
            Content::Batch { batch, readings } => {
                self.balance.readings_taken += readings;
                self.balance.readings_archived += readings;
                self.take_records(&taken, batch);
            }
            Content::DeadLetter(letter) => self.dead(letter),
            Content::Break { from, reason } => self.losses.push(Loss {
                reason,
                agent: taken.agent,
                lost: Lost::Break { from, to: taken.position },
                readings: 0,
                declared: PlantTime(0),
            }),
            Content::Gap(gap) => self.losses.push(Loss {
                reason: gap.reason(),
                agent: taken.agent,
                lost: Lost::Batches { from: taken.position, last_seq: taken.last_seq },
                readings: gap.readings,
                declared: PlantTime(gap.sealed.map_or(0, |sealed| sealed.time_ms)),
            }),
        }
    }

    fn take_records(&mut self, taken: &Taken, batch: TelemetryBatch) {
        let sealed = sealed_ms(&batch);
        if let Some(birth) = batch.birth {
            self.births.push(taken, sealed, birth);
        }
        self.happened.extend(batch.events.into_iter().map(Happened::Event));
    }

    fn dead(&mut self, letter: DeadLetter) {
        self.balance.readings_taken += letter.readings;
        self.balance.readings_dead_lettered += letter.readings;
        self.dead_letters.push(letter);
    }

    /// A batch that could be decoded and still not be used.
    pub(super) fn refuse(&mut self, taken: Taken, reason: String) {
        let Content::Batch { batch, readings } = &taken.content else { return self.take(taken) };
        tracing::error!(agent = %taken.agent.agent, position = %taken.position, reason, "batch is dead-lettered");
        self.balance.batches += 1;
        self.dead(DeadLetter {
            topic: Topic::new(&taken.agent.site, &taken.agent.agent, Channel::Telemetry).to_string(),
            payload: batch.encode_to_vec().into(),
            reason,
            time: PlantTime(sealed_ms(batch)),
            readings: *readings,
        });
    }
}
