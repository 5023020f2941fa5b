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
        let follower = Follower::new(self.board.clone(), request.into_inner().machines);
        let stop = self.stop.clone();
        let responses = stream::unfold((follower, stop), |(mut follower, stop)| async {
            let event = tokio::select! {
                event = follower.next() => event?,
                () = stop.cancelled() => return None,
            };
            Some((Ok(StreamPredictionsResponse { event: Some(event) }), (follower, stop)))
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
    due: VecDeque<Due>,
}

/// Written out when it is sent: what is due is put together under the board's lock.
enum Due {
    Prediction(Arc<Prediction>),
    Missed(u64),
}

impl Follower {
    fn new(board: Board, machines: Vec<String>) -> Self {
        let changed = board.follow_predictions();
        let mut follower = Follower { board, machines, cursor: Cursor::default(), changed, due: VecDeque::new() };
        let board = follower.board.clone();
        follower.newest(&board.read());
        follower
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.due.pop_front() {
                Some(Due::Prediction(prediction)) => return Some(Event::Prediction(Arc::unwrap_or_clone(prediction))),
                Some(Due::Missed(events)) => return Some(Event::Missed(events)),
                None => {}
            }
            let here = self.cursor;
            self.changed.wait_for(|newest| *newest != here).await.ok()?;
            self.advance();
        }
    }

    fn advance(&mut self) {
        let board = self.board.clone();
        let view = board.read();
        match view.predictions_since(self.cursor) {
            Since::Events(events) => {
                for (number, prediction) in events {
                    self.cursor.number = number;
                    self.say(prediction);
                }
            }
            Since::Missed(events) => {
                self.due.push_back(Due::Missed(events));
                self.cursor.number += events;
            }
            Since::Other => self.newest(&view),
        }
    }

    /// The newest state of each machine.
    fn newest(&mut self, view: &View) {
        self.cursor = view.prediction_cursor();
        view.machines.values().filter_map(|entry| entry.prediction.clone()).for_each(|p| self.say(p));
    }

    fn say(&mut self, prediction: Arc<Prediction>) {
        if self.machines.is_empty() || self.machines.contains(&prediction.machine) {
            self.due.push_back(Due::Prediction(prediction));
        }
    }
}
