//! A gateway: the agent's own log and send window over a disk that forgets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edge_agent::{
    publish::window::{Outgoing, SendWindow, WindowConfig},
    spool::{ReadError, Spool, SpoolConfig, SpoolReader, log::Bridge},
};
use proto::{
    ack::Ack,
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{Frame, delta_encode},
    time::PlantTime,
    wire::telemetry::{Gap, MachineReadings, SealTime, SensorColumn, TelemetryBatch},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use stream_processor::decode::AgentKey;

use crate::{disk::SimDisk, faults::Reached};

pub struct Gateway {
    pub key: AgentKey,
    disk: Arc<SimDisk>,
    spool_bytes_max: u64,
    pub agent: Option<Agent>,
    /// Batches are told apart by a number that only grows: it is their one reading.
    next: i64,
    /// Every batch that was ever appended, and where.
    pub appended: BTreeMap<i64, Position>,
    /// Those whose sync succeeded: they must arrive, or be declared as lost.
    pub durable: BTreeSet<i64>,
    /// What lay on the disk once, and what was durable then.
    image: Option<(SimDisk, BTreeSet<i64>)>,
    /// Durable once, and not on the card that somebody put into the gateway.
    pub taken_away: BTreeSet<i64>,
}

pub struct Agent {
    spool: Spool,
    reader: SpoolReader,
    window: SendWindow,
    unsynced: Vec<i64>,
    pub connected: bool,
}

impl Gateway {
    pub fn new(site: &AssetId, number: usize, rng: &mut ChaCha8Rng) -> Self {
        let agent = AssetId::new(&format!("gw-{number}")).unwrap();
        // Some cards are so small that the spool must evict.
        let spool_bytes_max = if rng.random_bool(0.2) { 8_000 } else { 10_000_000 };
        Gateway {
            key: AgentKey { site: site.clone(), agent },
            disk: Arc::default(),
            spool_bytes_max,
            agent: None,
            next: 1,
            appended: BTreeMap::new(),
            durable: BTreeSet::new(),
            image: None,
            taken_away: BTreeSet::new(),
        }
    }

    /// Somebody copies the card of a gateway that is switched off.
    pub fn save_image(&mut self, rng: &mut ChaCha8Rng) {
        self.kill(rng);
        self.image = Some(((*self.disk).clone(), self.durable.clone()));
    }

    /// And puts the copy in, or an empty card if there is none.
    pub fn restore(&mut self, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        self.kill(rng);
        reached.count(if self.image.is_some() { "disk image restored" } else { "spool lost" });
        let (disk, durable) = self.image.take().unwrap_or_default();
        self.disk = Arc::new(disk);
        self.taken_away.extend(self.durable.difference(&durable));
    }

    pub fn start(&mut self, rng: &mut ChaCha8Rng) {
        let config = SpoolConfig { bytes_max: self.spool_bytes_max, segment_bytes: 1_000, ..SpoolConfig::default() };
        let (spool, _) = Spool::open(self.disk.clone(), config, Epoch(rng.random())).unwrap();
        let window = WindowConfig {
            window_bytes_max: rng.random_range(500..5_000),
            resend_after: Duration::from_secs(1),
            resend_after_max: Duration::from_secs(4),
            ..WindowConfig::default()
        };
        let window = SendWindow::new(window, rng.random());
        self.agent = Some(Agent { reader: spool.reader(), spool, window, unsynced: Vec::new(), connected: false });
    }

    pub fn kill(&mut self, rng: &mut ChaCha8Rng) {
        self.agent = None;
        self.disk.crash(rng);
    }

    /// The broker ends the connection at some batch again and again.
    pub fn quarantine(&mut self, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        let Some(agent) = &mut self.agent else { return };
        let held: Vec<Position> = agent.spool.log().lock().extents().map(|e| e.position).collect();
        if !held.is_empty() {
            agent.spool.quarantine(held[rng.random_range(0..held.len())]).unwrap();
            reached.count("batch quarantined");
        }
    }

    pub fn append(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let (position, previous) = agent.spool.next();
        let n = self.next;
        self.next += 1;
        agent.spool.append(&Frame::seal(position, previous, 1, &batch(n)), PlantTime(n));
        agent.unsynced.push(n);
        self.appended.insert(n, position);
    }

    pub fn flush(&mut self) {
        self.append();
        self.sync();
    }

    pub fn sync(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        agent.spool.commit().unwrap();
        self.durable.extend(agent.unsynced.drain(..));
    }

    /// Everything that is durable is committed, too.
    pub fn is_empty(&self) -> bool {
        self.agent.as_ref().is_some_and(|a| a.unsynced.is_empty() && a.spool.log().lock().bytes() == 0)
    }
}

impl Agent {
    pub fn connect(&mut self, now: Duration) {
        self.connected = true;
        self.window.on_connected(now);
    }

    pub fn disconnect(&mut self) {
        self.connected = false;
        self.window.on_disconnected();
    }

    pub fn hear(&mut self, ack: &Ack, live: bool, now: Duration) {
        let log = self.spool.log();
        let freed = self.window.on_ack(&log.lock(), ack, live, now);
        if let Some(committed) = freed {
            self.spool.free(committed).unwrap();
        }
    }

    /// What the window lets out now.
    pub fn send(&mut self, now: Duration, reached: &mut Reached) -> Vec<Bytes> {
        let log = self.spool.log();
        let mut frames = Vec::new();
        loop {
            let next = self.window.next(&log.lock(), now);
            let position = match next {
                None => return frames,
                Some(Outgoing::Frame(position)) => position,
                Some(Outgoing::Bridge(Bridge { from, to, reason })) => {
                    reached.count("break declared");
                    let gap = Gap { reason: reason.into(), ..Default::default() };
                    frames.push(Frame::bridge(from, to, &gap).encode());
                    continue;
                }
            };
            match self.reader.read(position) {
                Ok(frame) => frames.push(frame),
                // Evicted or freed since: the window will find what is there now.
                Err(ReadError::NotHeld(_)) => reached.count("frame gone before it was sent"),
                Err(e) => panic!("{e}"),
            }
        }
    }
}

fn batch(n: i64) -> TelemetryBatch {
    let sensors = vec![SensorColumn { sensor: "count".into(), value: vec![n as f64], quality: vec![], reason: vec![] }];
    TelemetryBatch {
        sealed: Some(SealTime { time_ms: n, ..Default::default() }),
        machines: vec![MachineReadings { machine: "m".into(), time_delta_ms: delta_encode(&[n]), sensors }],
        ..Default::default()
    }
}
