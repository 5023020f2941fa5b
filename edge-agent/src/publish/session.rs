//! One connection to the broker, from connecting to leaving it in form or losing it.

use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use prost::Message;
use proto::{ack::Ack, position::Position, telemetry::Frame, wire::telemetry::Gap};
use rumqttc::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, Packet, QoS, StateError, mqttbytes};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Publisher, Settings,
    mqtt::{INFLIGHT_MAX, Tls},
    suspects::Suspects,
    window::{Outgoing, SendWindow, WindowCounters},
};
use crate::{
    agent::{
        progress::{AgentProgress, changed},
        writer::WriterRequest,
    },
    spool::{ReadError, log::Bridge},
};

/// A connection that lived this long, or carried a frame, was a good one: the next is tried for soon.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// How long a stop waits for the broker to take what the window still lets out.
const DRAIN_MAX: Duration = Duration::from_secs(2);
const FAREWELL_MAX: Duration = Duration::from_millis(500);
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// Why a connection ended. All of them are repaired by the next one.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Connection(#[from] Box<ConnectionError>),
    #[error("the client's queue is full")]
    Queue(#[from] Box<ClientError>),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("the broker acknowledged nothing for {0:?}")]
    Stalled(Duration),
    #[error("the broker refused the subscription to acks")]
    Refused,
}

impl SessionError {
    /// Did the other side close the connection, as a broker does with one that breaks its rules? A line that fell silent
    /// looks different.
    pub fn closed_by_broker(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let SessionError::Connection(error) = self else { return false };
        match &**error {
            ConnectionError::MqttState(StateError::ConnectionAborted) => true,
            ConnectionError::Io(error)
            | ConnectionError::MqttState(
                StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
            ) => matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof),
            _ => false,
        }
    }
}

/// Why a connection was left in form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Farewell {
    Stopped,
    /// For one with renewed certificates.
    Renewed,
}

type Reading = JoinHandle<Vec<(Position, Result<Bytes, ReadError>)>>;

/// One connection.
pub(super) struct Session<'p> {
    publisher: &'p Publisher,
    window: &'p mut SendWindow,
    suspects: &'p mut Suspects,
    /// When time began for the window.
    started: Instant,
    began: Instant,
    client: AsyncClient,
    events: Option<EventLoop>,
    pub tls: watch::Receiver<Tls>,
    settings: watch::Receiver<Settings>,
    progress: watch::Receiver<AgentProgress>,
    connected: bool,
    /// What the broker owes an acknowledgement for, in the order of sending: frames and, as None, anything else.
    pub unacknowledged: VecDeque<Option<Position>>,
    frames_acknowledged: u64,
    /// Since when the broker has owed an answer.
    waiting_since: Instant,
    reading: Option<Reading>,
    counted: WindowCounters,
    stage: Stage,
}

/// How far a connection is with stopping; each step but the first takes at most until then.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Running,
    /// Certificates are renewed: what is on its way will be sent again over the next connection.
    Renewing(Instant),
    /// Nothing more will become durable; what the window lets out is still sent.
    Draining(Instant),
    /// The status says that this is a clean stop.
    Farewell(Instant),
    /// Disconnecting in form: otherwise the broker would publish the will. It is the broker that closes: if we did, with
    /// something of it unread, the reset could overtake the goodbye.
    Leaving(Instant),
    Left,
}

impl Stage {
    fn until(self) -> Option<Instant> {
        match self {
            Stage::Renewing(until) | Stage::Draining(until) | Stage::Farewell(until) | Stage::Leaving(until) => {
                Some(until)
            }
            Stage::Running | Stage::Left => None,
        }
    }
}

impl<'p> Session<'p> {
    pub fn new(
        publisher: &'p Publisher,
        window: &'p mut SendWindow,
        suspects: &'p mut Suspects,
        started: Instant,
    ) -> Self {
        let (mut tls, mut settings) = (publisher.tls.clone(), publisher.settings.clone());
        let (client, events) = publisher.endpoint.client(tls.borrow_and_update().clone());
        window.reconfigure(settings.borrow_and_update().window.clone());
        publisher.metrics.connection_attempts.add(1, &publisher.metrics.agent);
        let now = Instant::now();
        Session {
            counted: window.counters(),
            tls,
            settings,
            progress: publisher.progress.clone(),
            publisher,
            window,
            suspects,
            started,
            began: now,
            client,
            events: Some(events),
            connected: false,
            unacknowledged: VecDeque::new(),
            frames_acknowledged: 0,
            waiting_since: now,
            reading: None,
            stage: Stage::Running,
        }
    }

    /// Until the agent is stopping and everything is said, or certificates are renewed.
    pub async fn run(&mut self) -> Result<Farewell, SessionError> {
        let Some(mut events) = self.events.take() else {
            return Ok(Farewell::Stopped);
        };
        let silence_max = self.publisher.patience.silence_max;
        let mut farewell = Farewell::Stopped;
        loop {
            // The future is kept until it resolves: dropping it in between could lose a packet half written.
            let poll = timeout(silence_max, events.poll());
            tokio::pin!(poll);
            let event = loop {
                self.send()?;
                self.stop()?;
                if self.stage == Stage::Left {
                    return Ok(farewell);
                }
                let wakeup = self.wakeup();
                let running = self.stage == Stage::Running;
                tokio::select! {
                    event = &mut poll => match event {
                        Ok(Ok(event)) => break event,
                        // It has said goodbye, too.
                        _ if matches!(self.stage, Stage::Leaving(_)) => return Ok(farewell),
                        Ok(Err(error)) => return Err(Box::new(error).into()),
                        Err(_) => return Err(SessionError::Silent(silence_max)),
                    },
                    frames = finished(&mut self.reading) => self.publish(frames)?,
                    moved = self.progress.changed(), if running => {
                        match moved {
                            Ok(()) => self.free(),
                            Err(_) => self.stage = Stage::Draining(Instant::now() + DRAIN_MAX),
                        }
                    }
                    () = changed(&mut self.settings), if running => self.on_settings()?,
                    () = changed(&mut self.tls), if running => {
                        farewell = Farewell::Renewed;
                        self.stage = Stage::Renewing(Instant::now());
                    }
                    () = sleep_until(wakeup) => self.check_stall()?,
                }
            };
            self.on_event(event)?;
            self.check_stall()?;
        }
    }

    pub fn was_good(&self) -> bool {
        self.connected && (self.frames_acknowledged > 0 || self.began.elapsed() >= SETTLED_AFTER)
    }

    /// A connection that does not come up is as useless as one that answers nothing.
    fn stalls_at(&self) -> Option<Instant> {
        let waiting = !self.connected || !self.unacknowledged.is_empty();
        (waiting && self.stage == Stage::Running).then(|| self.waiting_since + self.publisher.patience.stall_max)
    }

    fn check_stall(&self) -> Result<(), SessionError> {
        match self.stalls_at().is_some_and(|at| Instant::now() >= at) {
            true => Err(SessionError::Stalled(self.publisher.patience.stall_max)),
            false => Ok(()),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn in_flight_max(&self) -> usize {
        if self.suspects.send_alone() { 1 } else { INFLIGHT_MAX }
    }

    /// May the window be asked for frames?
    fn takes_frames(&self) -> bool {
        self.reading.is_none()
            && self.unacknowledged.len() < self.in_flight_max()
            && matches!(self.stage, Stage::Running | Stage::Draining(_))
    }

    fn wakeup(&self) -> Instant {
        let next = || self.window.next_wakeup(&self.publisher.log.lock(), self.now());
        let window = self.takes_frames().then(next).flatten().map(|at| self.started + at);
        let known = [window, self.stage.until(), self.stalls_at()];
        let silence_max = self.publisher.patience.silence_max;
        known.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + silence_max)
    }

    fn on_event(&mut self, event: Event) -> Result<(), SessionError> {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                let subscribed = self.client.try_subscribe(&self.publisher.endpoint.ack, QoS::AtLeastOnce);
                subscribed.map_err(Box::new)?;
            }
            Event::Incoming(Packet::SubAck(suback)) => {
                if suback.return_codes.contains(&rumqttc::SubscribeReasonCode::Failure) {
                    return Err(SessionError::Refused);
                }
                self.on_subscribed()?;
            }
            Event::Incoming(Packet::Publish(publish)) => self.on_ack(&publish.payload, !publish.retain),
            Event::Incoming(Packet::PubAck(_)) => self.on_acknowledged(),
            _ => {}
        }
        Ok(())
    }

    /// A broker acknowledges in the order of sending (MQTT 3.1.1, 4.6).
    fn on_acknowledged(&mut self) {
        self.waiting_since = Instant::now();
        if let Some(Some(frame)) = self.unacknowledged.pop_front() {
            self.frames_acknowledged += 1;
            self.suspects.on_acknowledged(&self.publisher.log.lock(), frame);
        }
        self.count_in_flight();
    }

    fn on_settings(&mut self) -> Result<(), SessionError> {
        let window = self.settings.borrow_and_update().window.clone();
        self.window.reconfigure(window);
        match self.connected {
            true => self.hand_over(&self.publisher.endpoint.birth, true, self.publisher.birth().encode_to_vec(), None),
            // It is announced with the birth that there is then.
            false => Ok(()),
        }
    }

    fn on_subscribed(&mut self) -> Result<(), SessionError> {
        let endpoint = &self.publisher.endpoint;
        self.hand_over(&endpoint.birth, true, self.publisher.birth().encode_to_vec(), None)?;
        self.hand_over(&endpoint.status, true, endpoint.status(true, false), None)?;
        self.connected = true;
        self.window.on_connected(self.now());
        self.publisher.metrics.connects.add(1, &self.publisher.metrics.agent);
        self.publisher.metrics.connected.record(1, &self.publisher.metrics.agent);
        tracing::info!(topic = endpoint.telemetry, "connected to the broker");
        Ok(())
    }

    /// `live`: it was sent a moment ago, and not kept by the broker since who knows when.
    fn on_ack(&mut self, payload: &[u8], live: bool) {
        let metrics = &self.publisher.metrics;
        let ack = match Ack::decode(payload) {
            Ok(ack) => ack,
            Err(error) => {
                metrics.acks_ignored.add(1, &metrics.with("reason", "undecodable"));
                tracing::warn!(%error, "an ack was not understood");
                return;
            }
        };
        let taken = self.window.counters().acks;
        self.window.on_ack(&self.publisher.log.lock(), &ack, live, self.now());
        if live && self.window.counters().acks > taken {
            self.publisher.clock.on_ack(ack.plant_time);
        }
        metrics.paused.record(u64::from(self.window.paused()), &metrics.agent);
        self.free();
    }

    fn free(&self) {
        let freeable = self.window.freeable(&self.publisher.log.lock());
        if let Some(committed) = freeable {
            self.publisher.request(WriterRequest::Free(committed));
        }
    }

    /// Begins to read what may be sent now.
    fn send(&mut self) -> Result<(), SessionError> {
        if !self.takes_frames() {
            return Ok(());
        }
        let (mut positions, mut bytes, mut bridge) = (Vec::new(), 0, None);
        {
            let log = self.publisher.log.lock();
            while self.unacknowledged.len() + positions.len() < self.in_flight_max()
                && bytes < READ_BYTES_MAX
                && bridge.is_none()
                && let Some(next) = self.window.next(&log, self.started.elapsed())
            {
                match next {
                    Outgoing::Frame(position) => {
                        bytes += log.covering(position).map_or(0, |e| u64::from(e.bytes));
                        positions.push(position);
                    }
                    Outgoing::Bridge(declared) => bridge = Some(declared),
                }
            }
        }
        self.count();
        if let Some(bridge) = bridge {
            self.declare(&bridge)?;
        }
        if !positions.is_empty() {
            let reader = self.publisher.reader.clone();
            let read = move || positions.into_iter().map(|p| (p, reader.read(p))).collect();
            self.reading = Some(tokio::task::spawn_blocking(read));
        }
        Ok(())
    }

    /// Whoever runs the plant must look at this, whatever the reason: a spool or an archive is not what it was.
    fn declare(&mut self, Bridge { from, to, reason }: &Bridge) -> Result<(), SessionError> {
        let stands = from.map_or("nowhere".into(), |from| from.to_string());
        let word = reason.as_str_name();
        tracing::error!(stands, %to, reason = word, "the log does not go on where the processor stands: a break is declared");
        let gap = Gap { reason: (*reason).into(), ..Default::default() };
        let frame = Frame::bridge(*from, *to, &gap).encode();
        self.hand_over(&self.publisher.endpoint.telemetry, false, frame.into(), None)
    }

    fn publish(&mut self, frames: Vec<(Position, Result<Bytes, ReadError>)>) -> Result<(), SessionError> {
        for (position, frame) in frames {
            match frame {
                Ok(bytes) => {
                    self.hand_over(&self.publisher.endpoint.telemetry, false, bytes.into(), Some(position))?;
                }
                Err(error) => self.on_unreadable(position, &error),
            }
        }
        Ok(())
    }

    /// The window takes the frame as lost on the way and asks for it again, or for the gap in its place.
    fn on_unreadable(&self, position: Position, error: &ReadError) {
        let metrics = &self.publisher.metrics;
        metrics.frames_unreadable.add(1, &metrics.agent);
        match error {
            ReadError::NotHeld(_) => tracing::debug!(%error, "a frame was freed before it was sent"),
            ReadError::Damaged(_) => self.publisher.request(WriterRequest::Mend(position)),
            ReadError::Io(_) => {
                tracing::warn!(%error, "a frame can't be read; it will be tried a few times");
                self.publisher.request(WriterRequest::Mend(position));
            }
        }
    }

    fn hand_over(
        &mut self,
        topic: &str,
        retain: bool,
        payload: Vec<u8>,
        frame: Option<Position>,
    ) -> Result<(), SessionError> {
        if self.unacknowledged.is_empty() {
            self.waiting_since = Instant::now();
        }
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).map_err(Box::new)?;
        self.unacknowledged.push_back(frame);
        self.count_in_flight();
        Ok(())
    }

    fn count_in_flight(&self) {
        let metrics = &self.publisher.metrics;
        metrics.in_flight.record(self.unacknowledged.len() as u64, &metrics.agent);
    }

    /// Takes the next step of stopping, if it is time.
    fn stop(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        let late = self.stage.until().is_some_and(|until| now >= until);
        let idle = self.unacknowledged.is_empty() && self.reading.is_none();
        self.stage = match self.stage {
            Stage::Running => Stage::Running,
            _ if !self.connected => Stage::Left,
            Stage::Renewing(_) => {
                self.client.try_disconnect().map_err(Box::new)?;
                Stage::Leaving(now + FAREWELL_MAX)
            }
            Stage::Draining(_) if idle || late => {
                let status = self.publisher.endpoint.status(false, true);
                self.hand_over(&self.publisher.endpoint.status, true, status, None)?;
                Stage::Farewell(now + FAREWELL_MAX)
            }
            Stage::Farewell(_) if idle || late => {
                self.client.try_disconnect().map_err(Box::new)?;
                Stage::Leaving(now + FAREWELL_MAX)
            }
            Stage::Leaving(_) if late => Stage::Left,
            going_on => going_on,
        };
        Ok(())
    }

    /// Brings the metrics up to the window's counters.
    fn count(&mut self) {
        let (now, before) = (self.window.counters(), self.counted);
        let metrics = &self.publisher.metrics;
        metrics.frames_sent.add(now.sent - before.sent, &metrics.agent);
        metrics.frames_resent.add(now.resent - before.resent, &metrics.agent);
        metrics.send_timeouts.add(now.timeouts - before.timeouts, &metrics.agent);
        metrics.acks.add(now.acks - before.acks, &metrics.agent);
        let ignored = |n: u64, reason| match n {
            0 => {}
            n => metrics.acks_ignored.add(n, &metrics.with("reason", reason)),
        };
        ignored(now.acks_of_lower_incarnation - before.acks_of_lower_incarnation, "lower_incarnation");
        ignored(now.acks_of_other_archive - before.acks_of_other_archive, "other_archive");
        let adopted = now.archives_adopted - before.archives_adopted;
        metrics.archives_adopted.add(adopted, &metrics.agent);
        metrics.breaks_declared.add(now.bridges - before.bridges, &metrics.agent);
        if adopted > 0 {
            tracing::error!("another archive answers than before; from now on it gets what the spool holds");
        }
        self.counted = now;
    }
}

/// What was read; pends while nothing is being read.
async fn finished(reading: &mut Option<Reading>) -> Vec<(Position, Result<Bytes, ReadError>)> {
    let frames = match reading {
        Some(task) => task.await.unwrap_or_default(),
        None => std::future::pending().await,
    };
    *reading = None;
    frames
}

#[cfg(test)]
mod tests;
