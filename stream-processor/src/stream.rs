//! The core of the processor: taken batches in, everything derived from them out. No clock, no I/O.
//!
//! What comes out is a function of each agent's log, however the log is cut into calls. Frames can fail, the rest
//! can't: so all frames of a run of batches are made first, from a state that does not change ([`Stream::plan`]),
//! and only then the state moves on ([`Stream::commit`]).

mod derived;
pub mod fleet;
mod generation;
mod plan;
pub mod predict;
mod prediction;
mod requests;
pub mod schedule;
mod scoring;
pub mod shards;
mod snapshot;
mod steps;
pub mod tables;
mod waiting;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use model::{
    features::{Event, FeatureConfig, WindowFeatures, aggregate::Cell, catalogue::CatalogueError, clean::Carry},
    score::Scorer,
};
use polars::prelude::PolarsError;
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::{alert::Alert, prediction::Role, telemetry::EventRecord},
};
use serde::{Deserialize, Serialize};

pub use derived::{Derived, Foreign, KnownEvent, Loss, Lost};
pub use snapshot::{SNAPSHOT_BYTES_MAX, watched};
pub use steps::Steps;

use crate::{
    alert::{self, AcknowledgeError, AlertConfig, AlertDesk, Judgement},
    archive::readings::Readings,
    clean::trusted_seal_ms,
    decode::{Content, Taken},
    window::{Step, Windows, oldest_panes},
};
use fleet::Fleet;
use generation::Run;
use plan::Plan;
use requests::Requests;
use schedule::{CHANGE_MARGIN_MS, Schedule, Scorers};
use scoring::Scored;
use steps::Happened;
use waiting::Waiting;

/// So many batches in one call whose frames fail: then it is not the batches.
const FRAME_FAILURES_MAX: u32 = 8;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    pub features: FeatureConfig,
    pub alert: AlertConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("frame: {0}")]
    Frame(#[from] PolarsError),
    #[error("the frames panicked")]
    Panic,
    #[error("the frames of more than {FRAME_FAILURES_MAX} batches failed, the last one: {last}")]
    Failing { last: Box<StreamError> },
    #[error("snapshot of {bytes} bytes is over the limit of {SNAPSHOT_BYTES_MAX}")]
    SnapshotSize { bytes: usize },
    #[error("snapshot version {version} is not known here")]
    SnapshotVersion { version: u32 },
    #[error("there is no snapshot to divide")]
    NoState,
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("snapshot can't be written: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    #[error("snapshot can't be read: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
}

/// Everything that the next batch is judged by.
pub struct Stream {
    config: StreamConfig,
    fleet: Fleet,
    /// By series id.
    carry: Vec<Carry>,
    windows: Windows,
    desk: AlertDesk,
    waiting: Waiting,
    schedule: Schedule,
    /// Written with the state from now on, and in force when that is committed.
    entered: Option<Schedule>,
    pub requests: Requests,
    /// What people have said of which machine, in the order in which they did, and what windows that close after this time
    /// see of it: not in a manifest yet.
    told: VecDeque<(AssetId, PlantTime)>,
}

/// Verified models by version.
pub type Loaded = BTreeMap<String, Arc<Scorer>>;

impl Stream {
    pub fn new(config: StreamConfig) -> Self {
        let desk = AlertDesk::new(config.alert.clone());
        let (fleet, windows, waiting) = (Fleet::default(), Windows::default(), Waiting::default());
        let (schedule, entered, requests) = (Schedule::default(), None, Requests::default());
        let told = VecDeque::new();
        Self { config, fleet, carry: vec![], windows, desk, waiting, schedule, entered, requests, told }
    }

    /// [`Stream::read`], then judged by this model, whatever the schedule says.
    pub fn apply(&mut self, taken: Vec<Taken>, scorer: Option<&Scorer>) -> Result<Derived, StreamError> {
        let steps = self.read(taken)?;
        let alone = |decides| Scorers { decides, role: Role::Champion, beside: None };
        let scorers = vec![scorer.map(alone); steps.windows().count()];
        self.judge_by(steps, &scorers)
    }

    /// Cleans and windows batches that intake has put in order. An error means that the frames can't be trusted any
    /// more: the caller drops this state and goes on from the last snapshot.
    pub fn read(&mut self, taken: Vec<Taken>) -> Result<Steps, StreamError> {
        let mut steps = Steps::default();
        let mut run = Run::default();
        for taken in taken {
            // A birth changes by what rules readings are judged, a clock that falls back in which windows they are: those
            // before it are judged first.
            let is_birth = matches!(&taken.content, Content::Batch { batch, .. } if batch.birth.is_some());
            if is_birth || self.falls_back(&run, &taken) {
                self.run(std::mem::take(&mut run).batches, &mut steps)?;
            }
            match self.meet(&taken, &mut steps) {
                Ok(()) => run.push(taken),
                Err(reason) => steps.refuse(taken, reason),
            }
        }
        self.run(run.batches, &mut steps)?;
        Ok(steps)
    }

    pub fn acknowledge(
        &mut self,
        alert_id: &str,
        author: &str,
        note: &str,
        now: PlantTime,
    ) -> Result<Alert, AcknowledgeError> {
        self.desk.acknowledge(alert_id, author, note, now)
    }

    /// An event record from a person. As a change of model does, it comes from outside the logs: windows see it from a line on
    /// that lies ahead of what has been read, and of the clock, so that a replay which does not know of it makes the same
    /// windows up to there.
    pub fn record(&mut self, event: EventRecord, now: PlantTime) -> Derived {
        let alerts = self.desk.event(&event);
        let machine = self.fleet.catalogue().id(&event.machine);
        let read = machine
            .and_then(|id| self.fleet.owner(id))
            .map_or(PlantTime::MIN, |owner| PlantTime(self.fleet.watermark(owner).0));
        let known = now.max(read).plus_millis(CHANGE_MARGIN_MS);
        if let (Some(id), true) = (machine, self.sees_events()) {
            self.told.push_back((self.fleet.name(id).clone(), known));
        }
        let event = KnownEvent { agent: None, seq: 0, event, known: Some(known) };
        self.learn(&event);
        Derived { alerts, events: vec![event], ..Derived::default() }
    }

    /// Whether windows have features of events: then what people say must be in a manifest soon.
    pub fn sees_events(&self) -> bool {
        !self.config.features.events.is_empty()
    }

    /// So many of the records that people made are in a manifest now, the oldest ones.
    pub fn recorded(&mut self, records: usize) {
        self.told.drain(..records.min(self.told.len()));
    }

    /// Open and acknowledged alerts.
    pub fn open_alerts(&self) -> Vec<Alert> {
        self.desk.open()
    }

    /// The newest, oldest first.
    pub fn closed_alerts(&self) -> Vec<Alert> {
        self.desk.closed().cloned().collect()
    }

    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Names and machines of a batch become known before its readings are looked at, and from which time on it counts.
    fn meet(&mut self, taken: &Taken, steps: &mut Steps) -> Result<(), String> {
        let Content::Batch { batch, .. } = &taken.content else { return Ok(()) };
        let agent = &taken.agent;
        let taken_over = self.fleet.meet(agent, batch, &self.config.features).map_err(|e| e.to_string())?;
        for machine in &taken_over {
            tracing::warn!(machine = %self.fleet.name(*machine), agent = %agent.agent,
                "another agent takes the machine over: its windows and its normal start anew");
            self.windows.restart(*machine);
        }
        self.begin_generation(&taken_over, trusted_seal_ms(taken), steps);
        // Asked again: of those that were read just now, one may have been refused.
        if self.falls_back(&Run::default(), taken) {
            self.follow_clock(taken, steps);
        }
        Ok(())
    }

    fn close_machine(&mut self, machine: u32, step: &Step, revised: Option<i64>) -> Vec<WindowFeatures> {
        let generation = self.fleet.generation(machine);
        self.windows.close(machine, generation, step, revised, self.fleet.catalogue(), &self.config.features)
    }

    /// All batches at once; if their frames fail, one by one, so that only the guilty ones are lost to it.
    fn run(&mut self, mut run: Vec<Taken>, steps: &mut Steps) -> Result<(), StreamError> {
        match self.plan_caught(&run) {
            Ok(plan) => self.commit(plan, run, steps),
            Err(error) if run.len() == 1 => {
                steps.failures += 1;
                if steps.failures > FRAME_FAILURES_MAX {
                    return Err(StreamError::Failing { last: error.into() });
                }
                run.drain(..).for_each(|taken| steps.refuse(taken, error.to_string()));
            }
            Err(_) => run.into_iter().try_for_each(|taken| self.run(vec![taken], steps))?,
        }
        Ok(())
    }

    /// Moves the state on. Nothing here can fail.
    fn commit(&mut self, plan: Plan, run: Vec<Taken>, steps: &mut Steps) {
        self.carry.resize(self.fleet.catalogue().series().len(), Carry::default());
        plan.carry.into_iter().for_each(|(series, carry)| self.carry[series as usize] = carry);
        let (catalogue, directory) = (self.fleet.catalogue(), self.fleet.directory());
        self.windows.add(&plan.cells, &directory.slots, catalogue, &self.config.features);
        steps.readings.extend(plan.archive);
        steps.late += plan.late;
        steps.foreign.extend(plan.foreign);
        let mut revising = plan.revising.as_slice();
        for (at, taken) in run.into_iter().enumerate() {
            let known = self.waiting.take(&taken);
            known.iter().for_each(|event| self.learn(event));
            let cells = revising.split_off(..revising.partition_point(|(of, _)| *of <= at)).unwrap_or_default();
            steps.revising += cells.iter().map(|(_, cell)| cell.partial.count()).sum::<u64>();
            let told = self.close(&taken, cells);
            let before = steps.happened.len();
            steps.events.extend(known);
            steps.take(taken);
            steps.happened.extend(told.into_iter().map(|window| Happened::Window(Box::new(window))));
            steps.happened[before..].sort_by_key(|happened| happened.due(&self.config.features));
        }
    }

    /// For the features of windows that close later; what nobody knows the time of is none.
    fn learn(&mut self, KnownEvent { event, known, .. }: &KnownEvent) {
        let features = &self.config.features;
        let machine = self.fleet.catalogue().id(&event.machine);
        let (Some(machine), Some(known), false) = (machine, *known, features.events.is_empty()) else { return };
        let event = Event {
            machine: self.fleet.name(machine).clone(),
            time: PlantTime(event.time_ms),
            kind: event.kind(),
            code: event.code.clone(),
            mode: event.mode.clone(),
            answer: None,
            known,
        };
        self.windows.learn(machine, features, &event);
    }

    /// Moves the watermark by the batch's seal and tells the windows that it passed, and again those that `revising` is of.
    fn close(&mut self, taken: &Taken, revising: &[(usize, Cell)]) -> Vec<WindowFeatures> {
        let Some(sealed) = trusted_seal_ms(taken) else { return vec![] };
        let before = self.fleet.frontier(&taken.agent);
        let step = Step { before, now: self.fleet.advance(&taken.agent, sealed, &self.config.features) };
        let cells = || revising.iter().map(|(_, cell)| cell);
        let (catalogue, directory) = (self.fleet.catalogue(), self.fleet.directory());
        self.windows.add(cells(), &directory.slots, catalogue, &self.config.features);
        let revised = oldest_panes(cells(), catalogue);
        let level = step.now.is_level_with(&step.before, &self.config.features);
        if level && revised.is_empty() {
            return vec![];
        }
        let machines = self.fleet.machines_of(&taken.agent).to_vec();
        machines
            .into_iter()
            .flat_map(|machine| self.close_machine(machine, &step, revised.get(&machine).copied()))
            .collect()
    }

    /// Scores all closed windows at once, each by the model whose turn it is, then tells the alert desk what happened in
    /// the order in which it did. Where the model is not in `loaded`, rules judge. Not for steps that are
    /// [`Stream::undecided`].
    pub fn judge(&mut self, steps: Steps, loaded: &Loaded) -> Result<Derived, StreamError> {
        let scorers = |window| self.schedule.scorers(window).and_then(|versions| scoring::found(versions, loaded));
        let scorers: Vec<_> = steps.windows().map(scorers).collect();
        self.judge_by(steps, &scorers)
    }

    fn judge_by(&mut self, steps: Steps, scorers: &[Option<Scorers<&Scorer>>]) -> Result<Derived, StreamError> {
        let mut out = Derived {
            readings: Readings { stretches: steps.readings, names: self.fleet.directory().names.clone() },
            births: steps.births.frame()?,
            events: steps.events,
            dead_letters: steps.dead_letters,
            losses: steps.losses,
            balance: steps.balance,
            late: steps.late,
            revising: steps.revising,
            foreign: steps.foreign,
            ..Derived::default()
        };
        let mut order = Vec::with_capacity(steps.happened.len());
        for happened in steps.happened {
            match happened {
                Happened::Window(window) => {
                    order.push(None);
                    out.windows.push(*window);
                }
                other => order.push(Some(other)),
            }
        }
        let slide_ms = self.config.features.slide_ms();
        let Scored { decided, beside, unscored } = scoring::score(&self.config.features, &out.windows, scorers);
        let mut judged = out.windows.iter().zip(&decided);
        for happened in order {
            let alerts = match happened {
                Some(Happened::Event(event)) => self.desk.event(&event),
                Some(Happened::Generation(generation)) => {
                    self.desk.begin_generation(&generation);
                    vec![]
                }
                Some(Happened::Window(_)) | None => judged.next().map_or_else(Vec::new, |(window, decided)| {
                    let scored = decided.as_ref().map(|(prediction, heads)| alert::Scored { prediction, heads });
                    self.desk.judge(&Judgement { window, slide_ms, scored })
                }),
            };
            out.alerts.extend(alerts);
        }
        out.predictions = decided.into_iter().flatten().map(|(prediction, _)| prediction).collect();
        (out.shadows, out.unscored) = (beside, unscored);
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
