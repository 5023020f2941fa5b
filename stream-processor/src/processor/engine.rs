//! The engine: one thread that owns all state from intake to alerts. The cores it drives read no clock; it tells them.
//!
//! Natural batching: each turn takes whatever is queued, so runs grow with the load and no timer adds latency.

mod commits;
mod tell;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    ack::Incarnation,
    asset::AssetId,
    time::{PlantClock, PlantTime},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{STOP_MAX, StopBy, ledger::Ledger, models::Models, throttle::Throttle};
use crate::{
    acks::{ACK_INTERVAL, Acks},
    archive::{Archive, pending::Pending},
    decode::{AgentKey, Content, Decoded, Refusal, Taken, decode},
    ingest::{Arrival, mqtt::Ingest},
    installs::{Installs, Speaker},
    intake::Intake,
    serve::{
        board::{Board, Part},
        command::Command,
    },
    stream::{Derived, Steps, Stream, StreamError, fleet::Kinds},
    telemetry::Metrics,
    traces::{Stages, Traced, Traces},
    watch::ModelWatch,
};

/// Messages that one turn takes; bounds the frame it makes of them.
const TURN_MESSAGES_MAX: usize = 64;
/// Acks, segment age and gauges are looked at so often.
const TICK: Duration = Duration::from_millis(50);
/// How good the model is, is reckoned so often: alerts and failures are hours apart.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// What an earlier life had read beyond its last commit comes again within this.
const SETTLES_AFTER: Duration = Duration::from_secs(600);
/// At a stop, so often the last segment is offered; what is not taken then comes again from the gateways.
const DRAIN_TICKS_MAX: u32 = 10;
/// An archive that is merely busy makes room within this; one that does not is said to be full.
const PAUSE_AFTER: Duration = Duration::from_secs(2);
/// At a stop, so much of its time is kept for the last commit.
const CLOSE_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("another processor has taken over this shard; this one stops, and destroys nothing")]
    Fenced,
    #[error("this shard is closed: its slots have gone to {successors}; start processors of those")]
    Closed { successors: String },
    #[error("the archive takes no more segments")]
    Archive,
    #[error("it panicked: {0}")]
    Panic(String),
}

/// Everything the thread owns.
pub struct Engine {
    pub site: AssetId,
    pub incarnation: Incarnation,
    /// From here on nothing comes in any more.
    pub stop: CancellationToken,
    pub clock: watch::Receiver<PlantClock>,
    pub ingest: Ingest,
    pub commands: mpsc::Receiver<Command>,
    pub models: Models,
    pub intake: Intake,
    pub installs: Installs,
    pub acks: Acks,
    pub stream: Stream,
    pub pending: Pending,
    pub archive: Archive,
    pub board: Board,
    /// What is known of the fleet's sensors, for questions about machines of their kinds.
    pub kinds: watch::Sender<Arc<Kinds>>,
    pub metrics: Metrics,
    pub watch: ModelWatch,
    pub ledger: Ledger,
    /// The monotonic clock's zero.
    pub started: Instant,
    /// Waits until it is known which model judges it.
    pub held: Option<Unjudged>,
    /// Since when a segment has been waiting for room, or windows for their model.
    pub blocked_since: Option<Duration>,
    /// The next look at how good the model is.
    pub report_due: Duration,
    pub stop_by: StopBy,
    /// Version of the model in charge.
    pub in_charge: Option<String>,
    /// Anybody who reaches the broker can cause these.
    pub stray_warnings: Throttle,
    pub conflict_errors: Throttle,
    pub version_errors: Throttle,
    pub foreign_errors: Throttle,
    /// It was said that batches are unaccounted for.
    pub unbalanced: bool,
    pub traces: Option<Traces>,
}

/// What a run of batches has led to, and when these came.
pub struct Unjudged {
    steps: Steps,
    received: Vec<Instant>,
    traced: Vec<Traced>,
}

impl Engine {
    /// Until it is asked to stop and everything that came in is committed and told, as far as S3 lets it.
    pub async fn run(mut self) -> Result<(), EngineError> {
        let mut outcome = self.turn().await;
        let until = self.stop_by.get().copied().unwrap_or_else(|| Instant::now() + STOP_MAX);
        self.archive.close_by(outcome.is_ok(), until).await;
        if outcome.is_ok() {
            outcome = self.archived();
        }
        self.send_acks(self.now() + ACK_INTERVAL);
        self.ingest.ended().await;
        self.traces.iter().for_each(Traces::close);
        outcome
    }

    async fn turn(&mut self) -> Result<(), EngineError> {
        let mut arrivals = Vec::with_capacity(TURN_MESSAGES_MAX);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status = self.archive.status();
        self.model_in_charge();
        self.change_model()?;
        loop {
            tokio::select! {
                taken = self.ingest.arrivals.recv_many(&mut arrivals, TURN_MESSAGES_MAX), if self.takes() => {
                    if taken == 0 {
                        break;
                    }
                    self.take(&mut arrivals)?;
                }
                Some(command) = self.commands.recv() => self.obey(command)?,
                Ok(()) = status.changed() => self.archived()?,
                Ok(()) = self.ingest.connections.changed() => self.acks.repeat_all(),
                _ = tick.tick() => {
                    self.tick();
                    self.change_model()?;
                }
            }
            self.send_acks(self.now());
            if self.pending.due(self.now()) {
                self.submit()?;
            }
            if self.must_close() {
                break;
            }
        }
        self.drained().await
    }

    /// The last segment, for which there may be no room for a moment, or windows that still wait for their model.
    async fn drained(&mut self) -> Result<(), EngineError> {
        let mut tick = interval(TICK);
        for _ in 0..DRAIN_TICKS_MAX {
            self.archived()?;
            self.submit()?;
            if (self.pending.is_empty() && self.held.is_none()) || self.must_close() {
                break;
            }
            tick.tick().await;
        }
        Ok(())
    }

    /// A stop is running out of time: what is left of it belongs to the last commit.
    fn must_close(&self) -> bool {
        self.stop_by.get().is_some_and(|until| Instant::now() + CLOSE_MIN >= *until)
    }

    /// While a segment waits for room nothing is received, so that it can't grow, and nothing behind windows that wait for
    /// their model; once paused, what comes is refused.
    fn takes(&self) -> bool {
        (self.blocked_since.is_none() && self.held.is_none()) || self.intake.paused()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn plant_now(&self) -> PlantTime {
        self.clock.borrow().now()
    }

    /// Puts messages into their places and everything they lead to where it belongs.
    fn take(&mut self, arrivals: &mut Vec<Arrival>) -> Result<(), EngineError> {
        let plant_now = self.plant_now();
        let mut run = Vec::with_capacity(arrivals.len());
        let mut derived = Derived::default();
        for arrival in arrivals.drain(..) {
            let decoded = decode(&mut self.intake, &self.site, &arrival, plant_now);
            self.metrics.batch(decoded.outcome());
            match decoded {
                Decoded::Taken(taken) => run.push(taken),
                Decoded::Lost(letter) => {
                    if let Some(unsaid) = self.stray_warnings.says(self.started.elapsed()) {
                        let (topic, reason) = (&letter.topic, &letter.reason);
                        tracing::warn!(topic, reason, unsaid, "a message without a place was kept");
                    }
                    derived.dead_letters.push(letter);
                }
                Decoded::Conflict(agent, letter) => {
                    if let Some(unsaid) = self.conflict_errors.says(self.started.elapsed()) {
                        let (agent, reason) = (&agent.agent, &letter.reason);
                        tracing::error!(%agent, reason, unsaid, "two agents use one name");
                    }
                    derived.dead_letters.push(letter);
                }
                Decoded::Refused(agent, refusal @ (Refusal::Duplicate { .. } | Refusal::OutOfOrder)) => {
                    if let Refusal::Duplicate { readings } = refusal {
                        self.metrics.readings_duplicate.add(readings, &[]);
                    }
                    self.acks.repeat(&agent);
                    // Or does it not listen to us, because a newer incarnation has spoken? A commit will tell.
                    self.pending.touch(self.started.elapsed());
                }
                Decoded::Refused(agent, Refusal::Version) => {
                    if let Some(unsaid) = self.version_errors.says(self.started.elapsed()) {
                        let agent = &agent.agent;
                        tracing::error!(%agent, unsaid, "its frames are of a later version; update this processor");
                    }
                }
                Decoded::Refused(..) | Decoded::Dropped | Decoded::Elsewhere => {}
            }
        }
        if !derived.dead_letters.is_empty() {
            self.keep(derived);
        }
        self.ledger.received(run.len() as u64);
        if run.is_empty() { Ok(()) } else { self.apply(run) }
    }

    fn apply(&mut self, run: Vec<Taken>) -> Result<(), EngineError> {
        let received: Vec<Instant> = run.iter().map(|t| t.received).collect();
        let traced: Vec<Traced> = self.traces.iter().flat_map(|_| run.iter().filter_map(Traced::of)).collect();
        for taken in &run {
            if let Some(position) = self.intake.received(&taken.agent) {
                self.acks.received(&taken.agent, position);
            }
            self.introduce(taken);
        }
        let born = run.iter().any(|t| matches!(&t.content, Content::Batch { batch, .. } if batch.birth.is_some()));
        let began = Instant::now();
        let steps = self.stream.read(run)?;
        if born {
            self.kinds.send_replace(Arc::new(self.stream.fleet().kinds()));
        }
        self.metrics.window_seconds.record(began.elapsed().as_secs_f64(), &[]);
        self.judge(Unjudged { steps, received, traced })
    }

    fn judge(&mut self, unjudged: Unjudged) -> Result<(), EngineError> {
        if self.stream.undecided(&unjudged.steps) {
            self.held = Some(unjudged);
            return Ok(());
        }
        let scoring = Instant::now();
        let derived = self.stream.judge(unjudged.steps, self.models.loaded())?;
        let scored = Instant::now();
        self.metrics.scoring_seconds.record(scored.duration_since(scoring).as_secs_f64(), &[]);
        self.trace(&unjudged.traced, &derived, Stages { scoring, scored, done: Instant::now() });
        self.keep(derived);
        for at in unjudged.received {
            self.metrics.batch_seconds.record(at.elapsed().as_secs_f64(), &[]);
        }
        Ok(())
    }

    fn introduce(&mut self, taken: &Taken) {
        if let Content::Batch { batch, .. } = &taken.content
            && let Some(birth) = &batch.birth
        {
            self.board.introduce(&taken.agent, &birth.machines);
            let (agent, install) = (&taken.agent.agent, &birth.install_id);
            match self.installs.hear(&taken.agent, install) {
                Speaker::Known => {}
                Speaker::New => tracing::warn!(%agent, install, "a gateway was installed anew"),
                Speaker::Alternating => {
                    self.metrics.installs_alternating.add(1, &[]);
                    tracing::error!(%agent, install, "two gateways take turns under one name");
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let blocked = self.held.is_some() || (self.pending.due(now) && !self.archive.room());
        self.blocked_since = blocked.then(|| self.blocked_since.unwrap_or(now));
        let patient = |since| !self.stop.is_cancelled() && now.saturating_sub(since) < PAUSE_AFTER;
        let paused = self.blocked_since.is_some_and(|since| !patient(since));
        if paused != self.intake.paused() {
            match paused {
                true if self.held.is_some() => {
                    tracing::warn!("windows wait for the manifest that enters their model; gateways keep everything");
                }
                true => tracing::error!("staging is full: nothing is taken until S3 is back; gateways keep everything"),
                false => tracing::info!("there is room again: taking on"),
            }
            self.intake.set_paused(paused);
            self.acks.set_paused(paused, now);
            self.metrics.paused.record(u64::from(paused), &[]);
        }
        let plant_now = self.plant_now();
        self.board.set_plant_time(plant_now);
        let up = *self.ingest.up.borrow();
        self.board.set_part(Part::Broker, (!up).then(|| "no connection to the broker".into()));
        self.metrics.queue_depth.record(self.ingest.arrivals.len() as u64, &[]);
        self.metrics.machines.record(self.stream.fleet().catalogue().machines().len() as u64, &[]);
        let behind = |at: PlantTime| plant_now.millis().saturating_sub(at.millis()).max(0) as f64 / 1000.0;
        if let Some((slowest, newest)) = self.stream.fleet().watermarks() {
            self.metrics.watermark_lag.record(behind(slowest), &[]);
            self.metrics.newest_batch_age.record(behind(newest), &[]);
        }
        if now >= self.report_due {
            self.report_due = now + REPORT_INTERVAL;
            self.board.set_model(self.watch.report());
        }
        let batches = self.ledger.batches(self.held.as_ref().map_or(0, |held| held.steps.batches()));
        self.metrics.batches_pending.record(batches.pending, &[]);
        self.metrics.batches_staged.record(batches.staged, &[]);
        // Every test that reads the log holds this against whatever it does to the program.
        if !batches.balance() && !std::mem::replace(&mut self.unbalanced, true) {
            tracing::error!(
                ?batches,
                "what was received is not what is committed, staged or pending: a defect of ours"
            );
        }
    }

    /// All that is due by `due`. Without a connection it stays due.
    fn send_acks(&mut self, due: Duration) {
        if !*self.ingest.up.borrow() {
            return;
        }
        for (topic, ack) in self.acks.take_due(due, self.plant_now()) {
            if !self.ingest.acks.send(&topic, &ack) {
                self.acks.repeat(&AgentKey { site: topic.site, agent: topic.agent });
            }
        }
    }
}
