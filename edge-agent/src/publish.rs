//! Sends the log over MQTT: the window decides what and when, this driver carries it and trusts the broker with nothing.
//!
//! One connection at a time, each with a fresh client. A connection is usable once acks are subscribed to; then birth
//! and status are announced, and frames go out. Frames are read from the disk on a blocking thread while the client is
//! polled on, and are handed over without waiting: the client's queue is longer than what is ever in flight.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::{ack::Ack, position::Position, wire::telemetry::Birth};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rumqttc::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, Outgoing, Packet, QoS};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

pub mod mqtt;
pub mod window;

use crate::{
    agent::{AgentProgress, clock::AgentClock, writer::WriterRequest},
    spool::{ReadError, SharedLog, SpoolReader, disk::Folder},
    telemetry::Metrics,
};
use mqtt::{Endpoint, INFLIGHT_MAX, KEEP_ALIVE};
use window::{SendWindow, WindowConfig, WindowCounters};

const BACK_OFF_MIN: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// A client that reports nothing for this long, not even a ping, is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(3 * KEEP_ALIVE.as_secs());
/// A broker that acknowledges nothing for this long while frames are in flight is left.
const STALL_MAX: Duration = SILENCE_MAX;
/// How long a stop waits for the broker to take what the window still lets out.
const DRAIN_MAX: Duration = Duration::from_secs(2);
const FAREWELL_MAX: Duration = Duration::from_millis(500);
const READ_BYTES_MAX: u64 = 1024 * 1024;
/// Epochs in the spool that a birth names, the newest ones.
const EPOCHS_NAMED_MAX: usize = 256;

/// Why a connection ended. All of them are repaired by the next one.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connection(#[from] Box<ConnectionError>),
    #[error("the client's queue is full")]
    Queue(#[from] Box<ClientError>),
    #[error("nothing was heard for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the broker acknowledged nothing for {} s", STALL_MAX.as_secs())]
    Stalled,
    #[error("the broker refused the subscription to acks")]
    Refused,
}

pub struct Publisher {
    pub endpoint: Endpoint,
    pub birth: Birth,
    pub log: SharedLog,
    pub reader: SpoolReader<Folder>,
    pub window: WindowConfig,
    pub requests: mpsc::Sender<WriterRequest>,
    /// Moves with every commit; closes when nothing more will become durable.
    pub progress: watch::Receiver<AgentProgress>,
    pub metrics: Metrics,
    /// Learns the time from acks.
    pub clock: AgentClock,
    /// Differs from agent to agent.
    pub jitter_seed: u64,
}

impl Publisher {
    /// As it is now. It is known to fit into a packet since before the start.
    fn birth(&self) -> Birth {
        let epochs = self.log.lock().epochs().take(EPOCHS_NAMED_MAX).map(Into::into).collect();
        Birth { epochs, ..self.birth.clone() }
    }

    pub async fn run(self) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.jitter_seed);
        let mut window = SendWindow::new(self.window.clone(), rng.random());
        let (started, mut failures) = (Instant::now(), 0u32);
        let mut progress = self.progress.clone();
        loop {
            let mut session = Session::new(&self, &mut window, started);
            let ended = session.run().await;
            if session.connected {
                failures = 0;
            }
            window.on_disconnected();
            self.metrics.connected.record(0, &self.metrics.agent);
            let Err(error) = ended else {
                return;
            };
            match failures {
                0 => tracing::warn!(%error, "no connection to the broker; the spool keeps everything"),
                _ => tracing::debug!(%error, failures, "no connection to the broker"),
            }
            let most = BACK_OFF_MIN.saturating_mul(1 << failures.min(10)).min(BACK_OFF_MAX);
            failures += 1;
            // Full jitter, so that agents that lost one broker do not come back in step.
            let pause = sleep(most.mul_f64(rng.random()));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    changed = progress.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

type Reading = JoinHandle<Vec<(Position, Result<Bytes, ReadError>)>>;

/// One connection.
struct Session<'p> {
    publisher: &'p Publisher,
    window: &'p mut SendWindow,
    started: Instant,
    client: AsyncClient,
    events: Option<EventLoop>,
    progress: watch::Receiver<AgentProgress>,
    connected: bool,
    in_flight: usize,
    /// Since when the broker owes an acknowledgement.
    waiting_since: Instant,
    reading: Option<Reading>,
    counted: WindowCounters,
    stage: Stage,
}

/// How far a connection is with stopping; each step but the first takes at most until then.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Running,
    /// Nothing more will become durable; what the window lets out is still sent.
    Draining(Instant),
    /// The status says that this is a clean stop.
    Farewell(Instant),
    /// Disconnecting in form: otherwise the broker would publish the will.
    Leaving(Instant),
    Left,
}

impl Stage {
    fn until(self) -> Option<Instant> {
        match self {
            Stage::Draining(until) | Stage::Farewell(until) | Stage::Leaving(until) => Some(until),
            Stage::Running | Stage::Left => None,
        }
    }
}

impl<'p> Session<'p> {
    fn new(publisher: &'p Publisher, window: &'p mut SendWindow, started: Instant) -> Self {
        let (client, events) = publisher.endpoint.client();
        let now = Instant::now();
        Session {
            counted: window.counters(),
            progress: publisher.progress.clone(),
            publisher,
            window,
            started,
            client,
            events: Some(events),
            connected: false,
            in_flight: 0,
            waiting_since: now,
            reading: None,
            stage: Stage::Running,
        }
    }

    /// Ok: everything is said, the agent is stopping.
    async fn run(&mut self) -> Result<(), SessionError> {
        let Some(mut events) = self.events.take() else {
            return Ok(());
        };
        loop {
            // The future is kept until it resolves: dropping it in between could lose a packet half written.
            let poll = timeout(SILENCE_MAX, events.poll());
            tokio::pin!(poll);
            let event = loop {
                self.send()?;
                self.stop()?;
                if self.stage == Stage::Left {
                    return Ok(());
                }
                let wakeup = self.wakeup();
                tokio::select! {
                    event = &mut poll => break event.map_err(|_| SessionError::Silent)?.map_err(Box::new)?,
                    frames = finished(&mut self.reading) => self.publish(frames)?,
                    moved = self.progress.changed(), if self.stage == Stage::Running => {
                        match moved {
                            Ok(()) => self.free(),
                            Err(_) => self.stage = Stage::Draining(Instant::now() + DRAIN_MAX),
                        }
                    }
                    () = sleep_until(wakeup) => {}
                }
            };
            self.on_event(event)?;
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// May the window be asked for frames?
    fn takes_frames(&self) -> bool {
        self.reading.is_none()
            && self.in_flight < INFLIGHT_MAX
            && matches!(self.stage, Stage::Running | Stage::Draining(_))
    }

    fn wakeup(&self) -> Instant {
        let next = || self.window.next_wakeup(&self.publisher.log.lock(), self.now());
        let window = self.takes_frames().then(next).flatten().map(|at| self.started + at);
        [window, self.stage.until()].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + SILENCE_MAX)
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
            Event::Incoming(Packet::PubAck(_)) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.waiting_since = Instant::now();
            }
            Event::Outgoing(Outgoing::Disconnect) => self.stage = Stage::Left,
            _ => {}
        }
        match self.in_flight > 0 && self.waiting_since.elapsed() > STALL_MAX {
            true => Err(SessionError::Stalled),
            false => Ok(()),
        }
    }

    fn on_subscribed(&mut self) -> Result<(), SessionError> {
        let endpoint = &self.publisher.endpoint;
        self.hand_over(&endpoint.birth, true, self.publisher.birth().encode_to_vec())?;
        self.hand_over(&endpoint.status, true, endpoint.status(true, false))?;
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
        self.window.on_ack(&self.publisher.log.lock(), &ack, self.now());
        if live && self.window.counters().acks > taken {
            self.publisher.clock.on_ack(ack.plant_time);
        }
        metrics.paused.record(u64::from(self.window.paused()), &metrics.agent);
        self.free();
    }

    /// If the writer is busy, the next ack or the next commit says it again.
    fn free(&self) {
        let freeable = self.window.freeable(&self.publisher.log.lock());
        if let Some(committed) = freeable {
            self.request(WriterRequest::Free(committed));
        }
    }

    fn request(&self, request: WriterRequest) {
        let _ = self.publisher.requests.try_send(request);
    }

    /// Begins to read what may be sent now.
    fn send(&mut self) -> Result<(), SessionError> {
        if !self.takes_frames() {
            return Ok(());
        }
        let (mut positions, mut bytes) = (Vec::new(), 0);
        {
            let log = self.publisher.log.lock();
            while self.in_flight + positions.len() < INFLIGHT_MAX
                && bytes < READ_BYTES_MAX
                && let Some(position) = self.window.next(&log, self.started.elapsed())
            {
                bytes += log.covering(position).map_or(0, |e| u64::from(e.bytes));
                positions.push(position);
            }
        }
        self.count();
        if !positions.is_empty() {
            let reader = self.publisher.reader.clone();
            let read = move || positions.into_iter().map(|p| (p, reader.read(p))).collect();
            self.reading = Some(tokio::task::spawn_blocking(read));
        }
        Ok(())
    }

    fn publish(&mut self, frames: Vec<(Position, Result<Bytes, ReadError>)>) -> Result<(), SessionError> {
        for (position, frame) in frames {
            match frame {
                Ok(bytes) => self.hand_over(&self.publisher.endpoint.telemetry, false, bytes.into())?,
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
            ReadError::Damaged(_) => self.request(WriterRequest::Mend(position)),
            ReadError::Io(_) => tracing::warn!(%error, "a frame can't be read; it will be tried again"),
        }
    }

    fn hand_over(&mut self, topic: &str, retain: bool, payload: Vec<u8>) -> Result<(), SessionError> {
        if self.in_flight == 0 {
            self.waiting_since = Instant::now();
        }
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).map_err(Box::new)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Takes the next step of stopping, if it is time.
    fn stop(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        let late = self.stage.until().is_some_and(|until| now >= until);
        let idle = self.in_flight == 0 && self.reading.is_none();
        self.stage = match self.stage {
            Stage::Running => Stage::Running,
            _ if !self.connected => Stage::Left,
            Stage::Draining(_) if idle || late => {
                let status = self.publisher.endpoint.status(false, true);
                self.hand_over(&self.publisher.endpoint.status, true, status)?;
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
