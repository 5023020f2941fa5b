//! A stand-in for the processor: takes an agent's log off the broker by the rule of the log, commits late and by halves,
//! and tells the agent. What it committed is the archive, and outlives it; what it had only received does not.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};

use proto::{
    ack::{Ack, ArchiveId, Incarnation},
    asset::AssetId,
    position::Position,
    telemetry::{
        Frame, FrameHeader, FrameKind,
        frame::{FRAME_BYTES_MAX, FrameError},
    },
    time::PlantClock,
    topic::{Channel, Topic},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::{runtime, time};
use tokio_util::sync::CancellationToken;

const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 64 * 1024;
const REQUESTS_MAX: usize = 64;
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// One frame of the log, or the part of a gap that was new.
#[derive(Debug, Clone)]
pub struct Taken {
    pub from: u64,
    pub frame: Frame,
}

/// Where each epoch of the chain ended, the newest last: the position that the log has come to.
#[derive(Debug, Clone, Default)]
pub struct Chain(Vec<Position>);

impl Chain {
    pub fn position(&self) -> Option<Position> {
        self.0.last().copied()
    }

    pub fn epochs(&self) -> usize {
        self.0.len()
    }

    /// The first sequence number that is new, if the frame is the next one.
    fn next(&self, header: &FrameHeader) -> Result<u64, Refusal> {
        let first = header.position;
        let left = self.0.iter().find(|end| end.epoch == first.epoch);
        match (self.position(), left) {
            _ if header.kind == FrameKind::Bridge => Err(Refusal::OutOfOrder),
            (_, Some(end)) if header.last_seq <= end.seq => Err(Refusal::Duplicate),
            (Some(here), _) if here.epoch == first.epoch && first.seq <= here.seq + 1 => Ok(here.seq + 1),
            (here, None) if first.seq == 1 && header.previous == here => Ok(1),
            _ => Err(Refusal::OutOfOrder),
        }
    }

    fn advance(&mut self, header: &FrameHeader) {
        let reached = Position { epoch: header.position.epoch, seq: header.last_seq };
        match self.0.last_mut() {
            Some(here) if here.epoch == reached.epoch => *here = reached,
            _ => self.0.push(reached),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Refusal {
    Duplicate,
    OutOfOrder,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Arrivals {
    pub taken: u64,
    pub duplicate: u64,
    pub out_of_order: u64,
    pub damaged: u64,
}

/// What is committed, and what every committer counted.
#[derive(Debug, Default)]
pub struct Committed {
    incarnation: Incarnation,
    pub chain: Chain,
    /// Empty if frames are only counted.
    pub frames: Vec<Taken>,
    pub readings: u64,
    pub bytes: u64,
    pub arrivals: Arrivals,
    counts_only: bool,
}

/// Outlives its committers.
#[derive(Debug, Clone)]
pub struct Archive {
    id: ArchiveId,
    committed: Arc<Mutex<Committed>>,
}

impl Archive {
    /// Keeps every frame.
    pub fn new(seed: u64) -> Self {
        let id = ArchiveId(ChaCha8Rng::seed_from_u64(seed).random());
        Archive { id, committed: Arc::default() }
    }

    /// Keeps no frames, only numbers.
    #[allow(dead_code, reason = "what measures uses it, what tests does not")]
    pub fn counting(seed: u64) -> Self {
        let archive = Self::new(seed);
        archive.lock().counts_only = true;
        archive
    }

    pub fn lock(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap()
    }
}

/// How a committer goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub ack_interval: Duration,
    /// Chance that an interval commits: a random part of what is received, or with 1 all of it.
    pub commits: f64,
}

impl Manner {
    /// As the processor, but that its commits are at once.
    #[allow(dead_code, reason = "what measures uses it, what tests does not")]
    pub const PROMPT: Manner = Manner { ack_interval: Duration::from_millis(250), commits: 1.0 };
    /// Far behind what it has received, as the processor is.
    #[allow(dead_code, reason = "what tests uses it, what measures does not")]
    pub const LATE: Manner = Manner { ack_interval: Duration::from_millis(50), commits: 0.3 };
}

/// Killed when dropped: what it had received is forgotten.
pub struct Committer {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Takes over the archive: a new incarnation, that goes on from what is committed. Agents that share a plant clock
    /// believe its acks about the time.
    pub fn start(
        port: u16,
        agent: (&AssetId, &AssetId),
        archive: &Archive,
        manner: Manner,
        clock: PlantClock,
        seed: u64,
    ) -> Self {
        let (incarnation, chain) = {
            let mut committed = archive.lock();
            committed.incarnation += 1;
            (committed.incarnation, committed.chain.clone())
        };
        let topic = |channel| Topic::new(agent.0, agent.1, channel).to_string();
        let task = Task {
            archive: archive.clone(),
            incarnation,
            announce: chain.position().is_some(),
            received: chain,
            pending: Vec::new(),
            manner,
            clock,
            rng: ChaCha8Rng::seed_from_u64(seed ^ incarnation),
            telemetry: topic(Channel::Telemetry),
            ack: topic(Channel::Ack),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let run = move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stopped.run_until_cancelled(task.run(port)));
        };
        Committer { stop, thread: Some(std::thread::Builder::new().name("committer".into()).spawn(run).unwrap()) }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

struct Task {
    archive: Archive,
    incarnation: Incarnation,
    received: Chain,
    pending: Vec<Taken>,
    /// There is something to say.
    announce: bool,
    manner: Manner,
    clock: PlantClock,
    rng: ChaCha8Rng,
    telemetry: String,
    ack: String,
}

impl Task {
    async fn run(mut self, port: u16) {
        loop {
            // A fresh client: the old one would send again what it had queued.
            let mut options = MqttOptions::new(format!("committer-{}", self.incarnation), "127.0.0.1", port);
            options.set_clean_session(true).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
            let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
            self.connection(&client, events).await;
            time::sleep(CONNECT_AGAIN_AFTER).await;
        }
    }

    /// Until it breaks.
    async fn connection(&mut self, client: &AsyncClient, mut events: EventLoop) {
        events.network_options.set_tcp_nodelay(true);
        let mut acks = time::interval(self.manner.ack_interval);
        let mut subscribed = false;
        loop {
            // Not dropped before it resolves: a packet could be half written.
            let poll = events.poll();
            tokio::pin!(poll);
            let event = loop {
                tokio::select! {
                    event = &mut poll => break event,
                    _ = acks.tick(), if subscribed => self.acknowledge(client),
                }
            };
            match event {
                Err(_) => return,
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    client.try_subscribe(&self.telemetry, QoS::AtLeastOnce).unwrap();
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => subscribed = true,
                Ok(Event::Incoming(Packet::Publish(publish))) => self.arrive(Frame::split(publish.payload)),
                Ok(_) => {}
            }
        }
    }

    fn arrive(&mut self, frame: Result<Frame, FrameError>) {
        self.announce = true;
        let mut committed = self.archive.lock();
        let arrivals = &mut committed.arrivals;
        let intact = frame.and_then(|frame| frame.verify().map(|()| frame));
        let Ok(frame) = intact else {
            arrivals.damaged += 1;
            return;
        };
        match self.received.next(&frame.header) {
            Ok(from) => {
                arrivals.taken += 1;
                self.received.advance(&frame.header);
                self.pending.push(Taken { from, frame });
            }
            Err(Refusal::Duplicate) => arrivals.duplicate += 1,
            Err(Refusal::OutOfOrder) => arrivals.out_of_order += 1,
        }
    }

    fn acknowledge(&mut self, client: &AsyncClient) {
        let commits = self.rng.random_bool(self.manner.commits);
        let ready = match self.manner.commits < 1.0 {
            _ if !commits => 0,
            true => self.rng.random_range(0..=self.pending.len()),
            false => self.pending.len(),
        };
        let committed = self.commit(ready);
        if self.announce || ready > 0 {
            self.announce = false;
            let ack = Ack {
                archive: self.archive.id,
                incarnation: self.incarnation,
                received: self.received.position(),
                committed,
                paused: false,
                plant_time: self.clock.now(),
            };
            // If the queue is full, the next one says it as well.
            let said = client.try_publish(&self.ack, QoS::AtLeastOnce, true, ack.encode());
            self.announce = said.is_err();
        }
    }

    /// The oldest `ready` frames of what is pending, all or nothing.
    fn commit(&mut self, ready: usize) -> Option<Position> {
        let mut committed = self.archive.lock();
        assert_eq!(committed.incarnation, self.incarnation, "there is one committer at a time");
        for taken in self.pending.drain(..ready) {
            let header = taken.frame.header;
            assert_eq!(committed.chain.next(&header), Ok(taken.from));
            committed.chain.advance(&header);
            committed.readings += u64::from(header.readings);
            committed.bytes += header.frame_bytes() as u64;
            if !committed.counts_only {
                committed.frames.push(taken);
            }
        }
        committed.chain.position()
    }
}
