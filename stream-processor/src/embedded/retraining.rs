//! Retrains in the background when the trigger says so: the same run as `model retrain`, one at a time.

use model::{
    job::{self, JobError, Outcome, RetrainJob},
    registry::Decision,
    retrain::RetrainSettings,
    store::Store,
    train::TrainSettings,
    trigger::{Cause, Trigger},
};
use proto::{
    asset::AssetId,
    time::{PlantTime, wall_now_ms},
};
use tokio::{sync::watch, task::JoinHandle};

use crate::serve::board::Board;

pub struct Retraining {
    pub store: Store,
    pub name: AssetId,
    pub train: TrainSettings,
    pub settings: RetrainSettings,
    pub board: Board,
    /// Bumped when there is a new champion.
    pub champion: watch::Sender<u64>,
    pub trigger: Trigger,
    /// Why the run that goes on was begun.
    pub cause: Option<String>,
    /// When the last run ended, plant time.
    pub ended_at: Option<PlantTime>,
    pub running: Option<JoinHandle<Result<Outcome, JobError>>>,
}

impl Retraining {
    /// Begins a run if one is due, and takes the outcome of one that has ended.
    pub async fn look(&mut self, now: PlantTime) {
        if let Some(run) = self.running.take_if(|run| run.is_finished()) {
            match run.await {
                Ok(outcome) => self.told(outcome),
                Err(error) => tracing::error!(%error, "a retraining panicked; the model in charge stays"),
            }
            self.trigger.ended(now);
            (self.ended_at, self.cause) = (Some(now), None);
        }
        if let Some(cause) = self.due(now) {
            tracing::info!(%cause, "retraining begins");
            self.running = Some(self.begin(now, &cause));
            self.cause = Some(cause.to_string());
        }
    }

    fn due(&mut self, now: PlantTime) -> Option<Cause> {
        // One version at a time is on trial.
        let report = self.board.read().model.clone().filter(|report| report.trial.is_none())?;
        let drifted = report.drifted.iter().filter(|_| report.other_plant);
        let drifted: Vec<String> = drifted.map(|f| f.name.clone()).collect();
        self.trigger.due(&self.settings.trigger, now, &report.figures, report.estimated_then, &drifted)
    }

    fn begin(&self, now: PlantTime, cause: &Cause) -> JoinHandle<Result<Outcome, JobError>> {
        let job = RetrainJob {
            name: self.name.clone(),
            shard: None,
            train: self.train.clone(),
            settings: self.settings,
            now: Some(now),
            hold: false,
            decision: Decision { who: "factory".into(), why: cause.to_string(), when_ms: wall_now_ms() },
        };
        let store = self.store.clone();
        tokio::spawn(async move { job::retrain(&store, job, |_| {}).await })
    }

    fn told(&self, outcome: Result<Outcome, JobError>) {
        match outcome {
            Ok(outcome) => {
                let version = outcome.decided.as_ref().map(|entry| entry.version.as_str());
                tracing::info!(version, verdict = outcome.retrained.text(), "retraining ended");
                self.champion.send_modify(|n| *n += 1);
            }
            Err(error) => tracing::warn!(%error, "a retraining failed; the model in charge stays"),
        }
    }

    /// At a stop. What it would have come to, the next start finds out.
    pub fn give_up(&mut self) {
        if let Some(run) = self.running.take() {
            run.abort();
        }
    }
}
