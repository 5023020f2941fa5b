//! The phases of the embedded factory, one after the other, each resumed where a stop left it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use edge_agent::agent::{AgentError, AgentHandle, AgentProgress};
use futures::stream::{FuturesUnordered, StreamExt};
use model::{
    features::FeatureConfig,
    job::{self, JobError, Step, TrainJob},
    registry::Decision,
    retrain::RetrainSettings,
    store::Store,
    train::TrainSettings,
};
use proto::{
    asset::AssetId,
    position::Position,
    time::{PlantClock, PlantTime, wall_now_ms},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Status,
    gateways::{Gateways, Opened},
    held_at,
    retraining::Retraining,
    state::{Phase, State},
};
use crate::serve::board::{Activity, Board};

/// Progress is looked at, and plant time saved, so often.
const LOOK: Duration = Duration::from_millis(250);

pub struct Life {
    pub data: PathBuf,
    pub state: State,
    pub speed: f64,
    pub clock: watch::Sender<PlantClock>,
    pub gateways: Gateways,
    pub store: Store,
    /// Bumped when there is a new champion.
    pub champion: watch::Sender<u64>,
    pub model_name: AssetId,
    pub features: FeatureConfig,
    pub training: TrainSettings,
    /// None: retraining is left to others.
    pub retrain: Option<RetrainSettings>,
    pub board: Board,
    pub report: Arc<watch::Sender<Status>>,
}

impl Life {
    /// Until `stop`; then gives back the gateways that run, to be stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Vec<AgentHandle> {
        let mut agents = Vec::new();
        if let Err(reason) = self.lead(&mut agents, &stop).await {
            tracing::error!(reason, "the factory can't go on");
            self.report.send_modify(|s| s.failed = Some(reason));
            stop.cancelled().await;
        }
        self.save();
        agents
    }

    /// Ok when stopped.
    async fn lead(&mut self, agents: &mut Vec<AgentHandle>, stop: &CancellationToken) -> Result<(), String> {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = self.gateways.open() => opened.map_err(|e| e.to_string())?,
        };
        let furthest = opened.iter().filter_map(Opened::resumes_after).max();
        // A crash may have come after the last save: plant time never runs backwards.
        let resume_at = self.state.resume_at().max(furthest.unwrap_or(PlantTime::MIN));
        self.clock.send_replace(held_at(resume_at));
        for gateway in opened {
            agents.push(gateway.start(self.clock.subscribe()).map_err(|e| e.to_string())?);
        }
        let progress = agents.iter().map(AgentHandle::progress).collect();
        tokio::select! {
            outcome = self.phases(progress, resume_at, stop) => outcome,
            error = first_ended(agents) => Err(format!("a gateway has ended: {error}")),
        }
    }

    /// Ok when stopped.
    async fn phases(
        &mut self,
        progress: Vec<watch::Receiver<AgentProgress>>,
        resume_at: PlantTime,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        if self.state.phase == Phase::History {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.history(&progress) => self.enter(Phase::Training),
            }
        }
        if self.state.phase == Phase::Training {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                trained = self.train() => trained?,
            }
            self.enter(Phase::Live);
        }
        self.board.set_activity(None);
        self.report("live", 1.0, String::new());
        self.live(resume_at, stop).await;
        Ok(())
    }

    /// Ends when the archive holds everything up to the start of live.
    async fn history(&self, progress: &[watch::Receiver<AgentProgress>]) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Vec<Option<Position>> = vec![None; progress.len()];
        loop {
            looks.tick().await;
            let now: Vec<AgentProgress> = progress.iter().map(|p| *p.borrow()).collect();
            for (last, at) in last.iter_mut().zip(&now) {
                if last.is_none() && at.plant_time >= self.state.live_start {
                    *last = at.durable;
                }
            }
            let committed = |(last, at): (&Option<Position>, &AgentProgress)| match (last, at.committed) {
                (Some(last), Some(committed)) => committed.epoch == last.epoch && committed.seq >= last.seq,
                _ => false,
            };
            if last.iter().zip(&now).all(committed) {
                return;
            }
            let slowest = now.iter().map(|p| p.plant_time).min().unwrap_or(self.state.history_start);
            let span = (self.state.live_start.millis() - self.state.history_start.millis()).max(1);
            let done = slowest.millis().saturating_sub(self.state.history_start.millis()).max(0) as f64 / span as f64;
            let readings: u64 = now.iter().map(|p| p.readings_sealed).sum();
            self.report("history", done.min(1.0), format!("{:.2} M readings", readings as f64 / 1e6));
        }
    }

    async fn train(&self) -> Result<(), String> {
        let job = TrainJob {
            name: self.model_name.clone(),
            shard: None,
            features: self.features.clone(),
            settings: self.training.clone(),
            promote: false,
            decision: Decision { who: "factory".into(), why: "the first training".into(), when_ms: wall_now_ms() },
        };
        let (report, board) = (self.report.clone(), self.board.clone());
        let progress = move |step: Step| {
            let (done, detail) = told(step);
            show(&report, &board, Phase::Training, "training", done, detail);
        };
        match job::run(&self.store, job, progress).await {
            Ok((trained, _)) => {
                let refused = trained.report.refused.iter().map(|refused| format!("; {refused}"));
                let detail = format!("model {}{}", trained.report.version, refused.collect::<String>());
                self.report("training", 1.0, detail);
                self.champion.send_modify(|n| *n += 1);
                Ok(())
            }
            // A short history: the factory goes live all the same, and alerts by its rules.
            Err(JobError::Train(e)) => {
                tracing::warn!(error = %e, "no model could be trained; alerts come from rules");
                self.report("training", 1.0, e.to_string());
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    async fn live(&mut self, resume_at: PlantTime, stop: &CancellationToken) {
        let clock = PlantClock { wall_origin_ms: wall_now_ms(), plant_origin: resume_at, speed: self.speed };
        self.clock.send_replace(clock);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retraining = self.retrain.map(|settings| Retraining {
            store: self.store.clone(),
            name: self.model_name.clone(),
            train: self.training.clone(),
            settings,
            board: self.board.clone(),
            champion: self.champion.clone(),
            trigger: self.state.trigger(),
            cause: None,
            ended_at: self.state.retrained_at,
            running: None,
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => self.save(),
            }
            let now = self.clock.borrow().now();
            if let Some(retraining) = &mut retraining {
                retraining.look(now).await;
                self.state.retrained_at = retraining.ended_at;
                let doing = retraining.cause.as_ref().map_or(String::new(), |cause| format!("retrains: {cause}"));
                if self.report.borrow().detail != doing {
                    self.report("live", 1.0, doing);
                }
            }
        }
        if let Some(mut retraining) = retraining {
            retraining.give_up();
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.state.phase = phase;
        self.save();
    }

    fn save(&mut self) {
        if self.state.phase == Phase::Live {
            self.state.plant_now = self.state.plant_now.max(self.clock.borrow().now());
        }
        if let Err(e) = self.state.save(&self.data) {
            tracing::warn!(error = %e, "plant time could not be saved; the next start begins where the gateways are");
        }
    }

    fn report(&self, text: &str, done: f64, detail: String) {
        show(&self.report, &self.board, self.state.phase, text, done, detail);
    }
}

/// Why the first gateway that ends by itself does so.
async fn first_ended(agents: &mut [AgentHandle]) -> AgentError {
    let mut ended: FuturesUnordered<_> = agents.iter_mut().map(AgentHandle::ended).collect();
    match ended.next().await {
        Some(error) => error,
        // There is no gateway.
        None => std::future::pending().await,
    }
}

/// Reading and features are the first part of the bar.
fn told(step: Step) -> (f64, String) {
    match step {
        Step::Reading(p) => {
            (0.3 * p.objects as f64 / p.objects_all.max(1) as f64, format!("object {} of {}", p.objects, p.objects_all))
        }
        Step::Features { readings, left_out } => {
            let left_out = left_out.map_or(String::new(), |left_out| format!("; {left_out}"));
            (0.3, format!("features of {:.2} M readings{left_out}", readings as f64 / 1e6))
        }
        Step::Training(p) => {
            let done = 0.4 + 0.6 * p.epoch as f64 / p.epochs_max.max(1) as f64;
            (done, format!("epoch {}, average precision {:.2}", p.epoch, p.average_precision))
        }
    }
}

fn show(report: &watch::Sender<Status>, board: &Board, phase: Phase, text: &str, done: f64, detail: String) {
    if phase != Phase::Live {
        board.set_activity(Some(Activity { text: format!("{text}: {detail}"), done }));
    }
    report.send_replace(Status { phase, done, detail, failed: None });
}
