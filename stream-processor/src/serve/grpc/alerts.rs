//! AlertService: the list, the resumable stream, the acknowledgement.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures::{Stream, stream};
use proto::wire::alert::{
    AcknowledgeAlertRequest, AcknowledgeAlertResponse, Alert, ListAlertsRequest, ListAlertsResponse, Live, Missed,
    Reset, StreamAlertsRequest, StreamAlertsResponse, alert_service_server::AlertService,
    stream_alerts_response::Event,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{ResumeToken, may_write, resume_from, text};
use crate::serve::{
    auth::Writes,
    board::{Board, Cursor, Since, View},
    command::Commands,
};

pub struct Alerts {
    pub board: Board,
    pub commands: Commands,
    pub writes: Writes,
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl AlertService for Alerts {
    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        let ListAlertsRequest { include_closed, machines } = request.into_inner();
        let filter = Filter(machines);
        let (open, closed) = self.board.read().alerts(include_closed);
        let alerts = open.iter().chain(&closed).filter(|a| filter.lets_pass(a)).map(|a| Alert::clone(a));
        Ok(Response::new(ListAlertsResponse { alerts: alerts.collect() }))
    }

    type StreamAlertsStream = Pin<Box<dyn Stream<Item = Result<StreamAlertsResponse, Status>> + Send>>;

    async fn stream_alerts(
        &self,
        request: Request<StreamAlertsRequest>,
    ) -> Result<Response<Self::StreamAlertsStream>, Status> {
        let StreamAlertsRequest { resume_token, machines } = request.into_inner();
        let from = resume_from(&resume_token)?;
        let follower = Follower::new(self.board.clone(), Filter(machines), from);
        let stop = self.stop.clone();
        let responses = stream::unfold((follower, stop), |(mut follower, stop)| async {
            let next = tokio::select! {
                next = follower.next() => next?,
                () = stop.cancelled() => {
                    follower.ended = true;
                    Err(Status::unavailable("the processor is stopping"))
                }
            };
            Some((next, (follower, stop)))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn acknowledge_alert(
        &self,
        request: Request<AcknowledgeAlertRequest>,
    ) -> Result<Response<AcknowledgeAlertResponse>, Status> {
        may_write(&self.writes, request.metadata())?;
        let AcknowledgeAlertRequest { alert_id, author, note, request_id } = request.into_inner();
        let alert = self.commands.acknowledge(alert_id, author, note, request_id).await?;
        Ok(Response::new(AcknowledgeAlertResponse { alert: Some(alert) }))
    }
}

/// Empty: all machines.
struct Filter(Vec<String>);

impl Filter {
    fn lets_pass(&self, alert: &Alert) -> bool {
        self.0.is_empty() || self.0.contains(&alert.machine)
    }
}

/// One client's place in the alert events. It is asked only when the client can take more, so that a slow one queues
/// nothing here.
struct Follower {
    board: Board,
    filter: Filter,
    cursor: Cursor,
    changed: watch::Receiver<Cursor>,
    due: VecDeque<(Due, ResumeToken)>,
    ended: bool,
}

/// Written out when it is sent: what is due is put together under the board's lock.
enum Due {
    Alert(Arc<Alert>),
    Live,
    Missed(u64),
    Reset(u64),
}

impl Follower {
    fn new(board: Board, filter: Filter, from: Option<Cursor>) -> Self {
        let changed = board.follow_alerts();
        let mut follower =
            Follower { board, filter, cursor: Cursor::default(), changed, due: VecDeque::new(), ended: false };
        let board = follower.board.clone();
        let view = board.read();
        match from.map(|cursor| (cursor, view.alerts_since(cursor))) {
            None => follower.list(&view, &[]),
            Some((cursor, Since::Events(events))) => {
                follower.cursor = cursor;
                follower.take(events);
                follower.say(Due::Live);
            }
            Some((_, Since::Missed(_) | Since::Other)) => follower.reset(&view),
        }
        follower
    }

    /// None: the stream is over.
    async fn next(&mut self) -> Option<Result<StreamAlertsResponse, Status>> {
        loop {
            if let Some((due, token)) = self.due.pop_front() {
                let event = match due {
                    Due::Alert(alert) => Event::Alert(Arc::unwrap_or_clone(alert)),
                    Due::Live => Event::Live(Live {}),
                    Due::Missed(events) => Event::Missed(Missed { events }),
                    Due::Reset(incarnation) => Event::Reset(Reset { incarnation }),
                };
                return Some(Ok(StreamAlertsResponse { event: Some(event), resume_token: text(token) }));
            }
            let here = self.cursor;
            if self.ended || self.changed.wait_for(|newest| *newest != here).await.is_err() {
                return None;
            }
            self.advance();
        }
    }

    fn advance(&mut self) {
        let board = self.board.clone();
        let view = board.read();
        match view.alerts_since(self.cursor) {
            Since::Events(events) => self.take(events),
            Since::Other => self.reset(&view),
            Since::Missed(events) => {
                self.say(Due::Missed(events));
                self.ended = true;
            }
        }
    }

    fn take(&mut self, events: Vec<(u64, Arc<Alert>)>) {
        for (number, alert) in events {
            self.cursor.number = number;
            if self.filter.lets_pass(&alert) {
                self.say(Due::Alert(alert));
            }
        }
    }

    /// What it has seen open may have closed since: then it is told how that ended.
    fn reset(&mut self, view: &View) {
        self.due.push_back((Due::Reset(view.incarnation), None));
        let closed: Vec<_> = view.closed.iter().cloned().collect();
        self.list(view, &closed);
    }

    /// Only the end of the list has a token: resuming in its middle would leave the rest of it out.
    fn list(&mut self, view: &View, closed: &[Arc<Alert>]) {
        self.cursor = view.alert_cursor();
        let filter = &self.filter;
        let alerts = view.open.values().chain(closed).filter(|a| filter.lets_pass(a));
        self.due.extend(alerts.map(|alert| (Due::Alert(alert.clone()), None)));
        self.say(Due::Live);
    }

    fn say(&mut self, due: Due) {
        self.due.push_back((due, Some(self.cursor)));
    }
}
