//! PredictionService: one answer, or all of them as their windows close.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures::{Stream, stream};
use proto::wire::prediction::{
    PredictRequest, PredictResponse, Prediction, StreamPredictionsRequest, StreamPredictionsResponse,
    predict_request::Input, prediction_service_server::PredictionService, stream_predictions_response::Event,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{ResumeToken, resume_from, text};
use crate::serve::{
    board::{Board, Cursor, Since, View},
    predict::{Predictions, Question},
};

pub struct PredictionRpc {
    pub predictions: Predictions,
    pub board: Board,
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl PredictionService for PredictionRpc {
    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, Status> {
        let question = match request.into_inner().input {
            Some(Input::Readings(raw)) => Question::Readings { kind: raw.kind, sensors: raw.sensors },
            Some(Input::Features(f)) => Question::Features { kind: f.kind, values: f.values.into_iter().collect() },
            Some(Input::Machine(machine)) => Question::Machine(machine),
            None => return Err(Status::invalid_argument("input: must be readings, features or machine")),
        };
        let prediction = self.predictions.answer(question).await?;
        Ok(Response::new(PredictResponse { prediction: Some(prediction) }))
    }

    type StreamPredictionsStream = Pin<Box<dyn Stream<Item = Result<StreamPredictionsResponse, Status>> + Send>>;

    async fn stream_predictions(
        &self,
        request: Request<StreamPredictionsRequest>,
    ) -> Result<Response<Self::StreamPredictionsStream>, Status> {
        let StreamPredictionsRequest { machines, resume_token } = request.into_inner();
        let from = resume_from(&resume_token)?;
        let follower = Follower::new(self.board.clone(), machines, from);
        let stop = self.stop.clone();
        let responses = stream::unfold((follower, stop), |(mut follower, stop)| async {
            let response = tokio::select! {
                response = follower.next() => response?,
                () = stop.cancelled() => return None,
            };
            Some((Ok(response), (follower, stop)))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

struct Follower {
    board: Board,
    /// Empty: all.
    machines: Vec<String>,
    cursor: Cursor,
    changed: watch::Receiver<Cursor>,
    due: VecDeque<(Due, ResumeToken)>,
}

/// Written out when it is sent: what is due is put together under the board's lock.
enum Due {
    Prediction(Arc<Prediction>),
    Missed(u64),
    Reset(u64),
}

impl Follower {
    fn new(board: Board, machines: Vec<String>, from: Option<Cursor>) -> Self {
        let changed = board.follow_predictions();
        let mut follower = Follower { board, machines, cursor: Cursor::default(), changed, due: VecDeque::new() };
        let board = follower.board.clone();
        let view = board.read();
        match from {
            None => follower.newest(&view),
            Some(cursor) => {
                follower.cursor = cursor;
                follower.advance(&view);
            }
        }
        follower
    }

    async fn next(&mut self) -> Option<StreamPredictionsResponse> {
        loop {
            if let Some((due, token)) = self.due.pop_front() {
                let event = match due {
                    Due::Prediction(prediction) => Event::Prediction(Arc::unwrap_or_clone(prediction)),
                    Due::Missed(events) => Event::Missed(events),
                    Due::Reset(incarnation) => Event::Reset(incarnation),
                };
                return Some(StreamPredictionsResponse { event: Some(event), resume_token: text(token) });
            }
            let here = self.cursor;
            self.changed.wait_for(|newest| *newest != here).await.ok()?;
            let board = self.board.clone();
            self.advance(&board.read());
        }
    }

    fn advance(&mut self, view: &View) {
        match view.predictions_since(self.cursor) {
            Since::Events(events) => {
                for (number, prediction) in events {
                    self.cursor.number = number;
                    if self.wants(&prediction) {
                        self.due.push_back((Due::Prediction(prediction), Some(self.cursor)));
                    }
                }
            }
            Since::Missed(events) => {
                self.cursor.number += events;
                self.due.push_back((Due::Missed(events), Some(self.cursor)));
            }
            Since::Other => {
                self.due.push_back((Due::Reset(view.incarnation), None));
                self.newest(view);
            }
        }
    }

    /// The newest state of each machine. Only the last has a token: resuming before would leave out the rest.
    fn newest(&mut self, view: &View) {
        self.cursor = view.prediction_cursor();
        let newest = view.machines.values().filter_map(|entry| entry.prediction.clone());
        let newest: Vec<_> = newest.filter(|prediction| self.wants(prediction)).collect();
        self.due.extend(newest.into_iter().map(|prediction| (Due::Prediction(prediction), None)));
        if let Some((_, token)) = self.due.back_mut() {
            *token = Some(self.cursor);
        }
    }

    fn wants(&self, prediction: &Prediction) -> bool {
        self.machines.is_empty() || self.machines.contains(&prediction.machine)
    }
}
