//! A stand-in for the processor, which takes an agent's frames in order and calls them committed at once; and agents to
//! send them.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use edge_agent::{
    agent::{Agent, AgentHandle, AgentProgress},
    config::{AgentConfig, MqttConfig, Patience},
    source::{Item, Reading, Sample, Source, SourceError},
};
use prost::Message;
use proto::{
    ack::{Ack, ArchiveId},
    asset::AssetId,
    position::Position,
    telemetry::{Frame, FrameKind},
    time::{PlantClock, PlantTime, wall_now_ms},
    topic::{Channel, Topic},
    wire::telemetry::{Birth, GapReason, MachineInfo, SensorInfo, Status},
};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

const PACKET_BYTES_MAX: usize = 4 << 20;
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Far beyond what anything here takes.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub fn id(name: &str) -> AssetId {
    AssetId::new(name).unwrap()
}

fn topic(channel: Channel) -> String {
    Topic::new(&id("mill"), &id("gw"), channel).to_string()
}

/// What came from agent `gw` of site `mill`.
#[derive(Debug, Default)]
pub struct Seen {
    pub received: Option<Position>,
    pub readings: u64,
    /// First and last sequence number, reason, and readings known to be lost.
    pub gaps: Vec<(u64, u64, GapReason, u64)>,
    /// In the log.
    pub births: Vec<Birth>,
    /// As messages, retained or not.
    pub announced: Vec<Birth>,
    pub statuses: Vec<Status>,
}

pub struct Processor {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Processor {
    pub fn start(options: MqttOptions) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = tokio::spawn(run(options, seen.clone()));
        Processor { seen, task }
    }

    pub fn on(port: u16) -> Self {
        Self::start(MqttOptions::new("processor", "127.0.0.1", port))
    }

    pub fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.lock().unwrap())
    }

    /// Panics with what it has if that takes too long.
    pub async fn wait_for(&self, what: &str, mut done: impl FnMut(&Seen) -> bool) {
        let waited = timeout(WAIT_MAX, async {
            while !self.look(&mut done) {
                sleep(AGAIN_AFTER).await;
            }
        });
        if waited.await.is_err() {
            self.look(|seen| panic!("waited too long for {what}: {seen:?}"));
        }
    }

    /// Everything that is durable now has arrived.
    pub async fn catch_up(&self, handle: &AgentHandle) {
        let now = *handle.progress().borrow();
        self.wait_for_all(now).await;
    }

    /// Everything up to there has arrived.
    pub async fn wait_for_all(&self, progress: AgentProgress) {
        let Some(durable) = progress.durable else { return };
        let there = |seen: &Seen| seen.received.is_some_and(|p| p.epoch == durable.epoch && p.seq >= durable.seq);
        self.wait_for(&format!("{durable}"), there).await;
    }
}

async fn run(mut options: MqttOptions, seen: Arc<Mutex<Seen>>) {
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events): (AsyncClient, EventLoop) = AsyncClient::new(options, 100_000);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                for channel in [Channel::Telemetry, Channel::Birth, Channel::Status] {
                    client.try_subscribe(topic(channel), QoS::AtLeastOnce).unwrap();
                }
                acknowledge(&client, seen.lock().unwrap().received);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let mut seen = seen.lock().unwrap();
                match Topic::parse(&publish.topic).unwrap().channel {
                    Channel::Birth => seen.announced.push(Birth::decode(&publish.payload[..]).unwrap()),
                    Channel::Status => seen.statuses.push(Status::decode(&publish.payload[..]).unwrap()),
                    _ => {
                        seen.take(Frame::split(publish.payload).unwrap());
                        acknowledge(&client, seen.received);
                    }
                }
            }
            Ok(_) => {}
            Err(_) => sleep(AGAIN_AFTER).await,
        }
    }
}

fn acknowledge(client: &AsyncClient, received: Option<Position>) {
    let (archive, plant_time) = (ArchiveId([7; 16]), PlantTime(wall_now_ms()));
    let ack = Ack { archive, incarnation: 1, received, committed: received, paused: false, plant_time };
    client.try_publish(topic(Channel::Ack), QoS::AtLeastOnce, true, ack.encode()).unwrap();
}

impl Seen {
    /// If it is the next one.
    fn take(&mut self, frame: Frame) {
        frame.verify().unwrap();
        let header = frame.header;
        let next = match self.received {
            _ if header.kind == FrameKind::Bridge => false,
            Some(at) if at.epoch == header.position.epoch => header.position.seq == at.seq + 1,
            at => header.position.seq == 1 && header.previous == at,
        };
        if !next {
            return;
        }
        self.received = Some(Position { seq: header.last_seq, ..header.position });
        match header.kind {
            FrameKind::Data => {
                self.readings += u64::from(header.readings);
                self.births.extend(frame.batch().unwrap().birth);
            }
            FrameKind::Gap => {
                let gap = frame.gap_content().unwrap();
                self.gaps.push((header.position.seq, header.last_seq, gap.reason(), gap.readings));
            }
            FrameKind::Bridge => {}
        }
    }
}

/// Soon tired of a connection, so that tests do not wait.
pub fn impatient() -> Patience {
    Patience {
        keep_alive: Duration::from_secs(1),
        silence_max: Duration::from_millis(1_500),
        stall_max: Duration::from_millis(500),
        back_off_max: Duration::from_millis(100),
        certificates_every: Duration::from_millis(50),
    }
}

pub fn config(data: &Path, mut mqtt: MqttConfig) -> AgentConfig {
    mqtt.patience = impatient();
    let mut config = AgentConfig::new(id("mill"), id("gw"), data, mqtt);
    config.batch.flush = Duration::from_millis(10);
    // There is always something on its way.
    config.spool.group_after = Duration::ZERO;
    config
}

pub fn start(config: AgentConfig, source: Box<dyn Source>) -> AgentHandle {
    // The clock stays as it is when its owner is gone.
    let clock = PlantClock { wall_origin_ms: 0, plant_origin: PlantTime(0), speed: 1.0 };
    Agent::open(config).unwrap().start(vec![source], watch::channel(clock).1).unwrap()
}

/// A reading at every tenth millisecond of plant time from its start on, and before that a burst, one every millisecond.
pub struct Ticks {
    machine: AssetId,
    next: PlantTime,
    polled: PlantTime,
    burst_until: PlantTime,
}

impl Ticks {
    pub fn of(machine: &str) -> Box<dyn Source> {
        Self::after_burst(machine, 0)
    }

    pub fn after_burst(machine: &str, readings: i64) -> Box<dyn Source> {
        let now = PlantTime(wall_now_ms() / 10 * 10);
        let next = now.plus_millis(-readings);
        Box::new(Ticks { machine: id(machine), next, polled: next.plus_millis(-1), burst_until: now })
    }
}

pub fn machine(name: &str) -> MachineInfo {
    let sensor = SensorInfo { sensor: "a".into(), unit: "C".into(), ..Default::default() };
    MachineInfo { machine: name.into(), kind: "k".into(), sensors: vec![sensor], ..Default::default() }
}

impl Source for Ticks {
    fn machines(&self) -> Vec<MachineInfo> {
        vec![machine(self.machine.as_str())]
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        while self.next <= now && out.len() < items_max {
            // Not compressible.
            let values = vec![Reading::good((self.next.0 as f64).sin())];
            out.push(Item::Sample(Sample { machine: self.machine.clone(), time: self.next, values }));
            self.next = self.next.plus_millis(if self.next < self.burst_until { 1 } else { 10 });
        }
        self.polled = now.min(self.next.plus_millis(-1));
        Ok(self.next <= now)
    }

    fn progress(&self) -> PlantTime {
        self.polled
    }

    fn next_due(&self) -> Option<PlantTime> {
        Some(self.next)
    }
}
