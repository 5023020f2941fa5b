//! Answers a prediction request with the same cleaning, features and network as the stream.

use std::{collections::BTreeMap, sync::Arc};

use model::score::Scorer;
use proto::{
    asset::AssetId,
    wire::prediction::{Prediction, SensorReadings},
};
use tokio::sync::{Semaphore, watch};

use super::board::{Board, ProcessorState};
use crate::stream::{StreamConfig, fleet::Kinds, predict};

/// Requests that are scored at the same time; more of them wait, so that they can't crowd out the pipeline.
const PREDICTIONS_AT_ONCE_MAX: usize = 8;

/// Answers by the model in charge, or with [`PredictError::Learning`] while there is none.
pub trait Predictor: Send + Sync {
    /// The stream's answer for the last window of these readings.
    fn readings(&self, kind: &AssetId, sensors: &[SensorReadings]) -> Result<Prediction, PredictError>;
    /// By name in the model's feature schema; all of them.
    fn features(&self, kind: &AssetId, values: &BTreeMap<String, f64>) -> Result<Prediction, PredictError>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// The request's fault.
    #[error("{reason}")]
    Invalid { field: String, reason: String },
    #[error("no model is in charge yet: the processor is learning, and alerts by rules only")]
    Learning,
    #[error("the machine `{machine}` is not known")]
    UnknownMachine { machine: String },
    #[error("`{machine}` has no prediction yet: the first one comes when its next window closes")]
    NotYet { machine: String },
    #[error("scoring failed: {0}")]
    Failed(String),
}

impl From<predict::PredictError> for PredictError {
    fn from(e: predict::PredictError) -> Self {
        match e {
            predict::PredictError::Field { field, reason } => PredictError::Invalid { field, reason },
            other => PredictError::Failed(other.to_string()),
        }
    }
}

/// The stream's own way from readings to probabilities, asked from outside.
pub struct LiveModel {
    config: StreamConfig,
    scorer: watch::Receiver<Option<Arc<Scorer>>>,
    /// What the engine knows of the fleet's sensors.
    kinds: watch::Receiver<Arc<Kinds>>,
}

impl LiveModel {
    pub fn new(
        config: StreamConfig,
        scorer: watch::Receiver<Option<Arc<Scorer>>>,
        kinds: watch::Receiver<Arc<Kinds>>,
    ) -> Self {
        Self { config, scorer, kinds }
    }

    fn scorer(&self) -> Result<Arc<Scorer>, PredictError> {
        self.scorer.borrow().clone().ok_or(PredictError::Learning)
    }
}

impl Predictor for LiveModel {
    fn readings(&self, kind: &AssetId, sensors: &[SensorReadings]) -> Result<Prediction, PredictError> {
        let kinds = self.kinds.borrow().clone();
        Ok(predict::predict_raw(&self.config, &*self.scorer()?, &kinds, kind, sensors)?)
    }

    fn features(&self, kind: &AssetId, values: &BTreeMap<String, f64>) -> Result<Prediction, PredictError> {
        Ok(predict::predict_features(&*self.scorer()?, kind, values)?)
    }
}

pub enum Question {
    Readings { kind: String, sensors: Vec<SensorReadings> },
    Features { kind: String, values: BTreeMap<String, f64> },
    Machine(String),
}

#[derive(Clone)]
pub struct Predictions {
    board: Board,
    model: Arc<dyn Predictor>,
    at_once: Arc<Semaphore>,
}

impl Predictions {
    pub fn new(board: Board, model: Arc<dyn Predictor>) -> Self {
        Self { board, model, at_once: Arc::new(Semaphore::new(PREDICTIONS_AT_ONCE_MAX)) }
    }

    pub async fn answer(&self, question: Question) -> Result<Prediction, PredictError> {
        match question {
            Question::Machine(machine) => self.latest(machine),
            Question::Readings { kind, sensors } => {
                let kind = check_kind(&kind)?;
                self.score(move |model| model.readings(&kind, &sensors)).await
            }
            Question::Features { kind, values } => {
                let kind = check_kind(&kind)?;
                self.score(move |model| model.features(&kind, &values)).await
            }
        }
    }

    fn latest(&self, machine: String) -> Result<Prediction, PredictError> {
        let view = self.board.read();
        let Some(entry) = view.machines.get(&machine) else { return Err(PredictError::UnknownMachine { machine }) };
        match (&entry.prediction, &view.state) {
            (Some(prediction), _) => Ok(Prediction::clone(prediction)),
            (None, ProcessorState::Learning) => Err(PredictError::Learning),
            (None, ProcessorState::Live { .. }) => Err(PredictError::NotYet { machine }),
        }
    }

    async fn score(
        &self,
        ask: impl FnOnce(&dyn Predictor) -> Result<Prediction, PredictError> + Send + 'static,
    ) -> Result<Prediction, PredictError> {
        let model = self.model.clone();
        let stopping = |_| PredictError::Failed("the processor is stopping".into());
        let _permit = self.at_once.acquire().await.map_err(stopping)?;
        let answer = tokio::task::spawn_blocking(move || ask(&*model)).await;
        answer.unwrap_or_else(|e| Err(PredictError::Failed(e.to_string())))
    }
}

fn check_kind(kind: &str) -> Result<AssetId, PredictError> {
    AssetId::new(kind).map_err(|e| PredictError::Invalid { field: "kind".into(), reason: e.to_string() })
}
