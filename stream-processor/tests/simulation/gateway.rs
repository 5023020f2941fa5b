//! A gateway: the agent's own log and send window over a disk that forgets.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edge_agent::{
    publish::window::{Outgoing, SendWindow, WindowConfig},
    spool::{
        ReadError, Spool, SpoolConfig, SpoolReader,
        log::{Bridge, Extent, Place},
        segment,
    },
};
use proto::{
    ack::Ack,
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{
        Frame, FrameKind, delta_encode,
        frame::{FRAME_VERSION, HEADER_BYTES},
    },
    time::PlantTime,
    wire::telemetry::{Gap, GapReason, MachineReadings, SealTime, SensorColumn, TelemetryBatch},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use stream_processor::decode::AgentKey;

use crate::{
    disk::SimDisk,
    faults::{Faults, Reached},
    instruments::{Instruments, plant_time},
};

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
    /// Those of them that nobody can decode.
    pub poison: BTreeSet<i64>,
    /// What lay on the disk once, what was durable then, and which epoch was drawn next.
    image: Option<(SimDisk, BTreeSet<i64>, Epoch)>,
    /// Where another gateway has spoken under the same name and epoch.
    pub spoken_over: HashSet<Position>,
    next_epoch: Epoch,
    /// Epochs that were drawn again, from a copy of the card.
    pub forked: BTreeSet<Epoch>,
    /// Not where only the protocol is looked at: then each batch is one reading.
    pub instruments: Option<Instruments>,
    /// Until then nothing can be written to its disk.
    failing_until: Duration,
    /// Until then its software is newer than the processor's.
    updated_until: Duration,
    /// It goes on from a copy of its card.
    pub restored: bool,
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
    pub fn new(site: &AssetId, number: usize, instruments: Option<Instruments>, rng: &mut ChaCha8Rng) -> Self {
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
            poison: BTreeSet::new(),
            image: None,
            spoken_over: HashSet::new(),
            next_epoch: Epoch(rng.random()),
            forked: BTreeSet::new(),
            instruments,
            failing_until: Duration::ZERO,
            updated_until: Duration::ZERO,
            restored: false,
            taken_away: BTreeSet::new(),
        }
    }

    /// Somebody copies the card while the gateway runs on.
    pub fn save_image(&mut self, rng: &mut ChaCha8Rng) {
        let copy = (*self.disk).clone();
        copy.crash(rng);
        self.image = Some((copy, self.durable.clone(), self.next_epoch));
    }

    /// And puts the copy in, or an empty card if there is none.
    pub fn restore(&mut self, faults: &Faults, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        if self.image.is_none() && rng.random_bool(0.5) {
            return;
        }
        self.kill(rng, reached);
        reached.count(if self.image.is_some() { "disk image restored" } else { "spool lost" });
        self.restored |= self.image.is_some();
        let (disk, durable, epoch) = self.image.clone().unwrap_or_default();
        disk.set_failing(false);
        self.disk = Arc::new(disk);
        if epoch != self.next_epoch && epoch != Epoch::NONE && rng.random_bool(faults.epoch_repeated) {
            reached.count("epoch drawn again");
            self.next_epoch = epoch;
            self.forked.insert(epoch);
        }
        self.taken_away.extend(self.durable.difference(&durable));
    }

    pub fn start(&mut self, now: Duration, faults: &Faults, rng: &mut ChaCha8Rng) {
        let config = SpoolConfig { bytes_max: self.spool_bytes_max, segment_bytes: 1_000, ..SpoolConfig::default() };
        let epoch = std::mem::replace(&mut self.next_epoch, Epoch(rng.random()));
        let Ok((spool, _)) = Spool::open(self.disk.clone(), config, epoch) else {
            assert!(self.failing_until > now, "an agent can't start");
            return;
        };
        if let Some(instruments) = &mut self.instruments {
            instruments.start(spool.sealed(), plant_time(now), faults, rng);
        }
        let window = WindowConfig {
            window_bytes_max: rng.random_range(500..5_000),
            resend_after: Duration::from_secs(1),
            resend_after_max: Duration::from_secs(4),
            ..WindowConfig::default()
        };
        let window = SendWindow::new(window, rng.random());
        self.agent = Some(Agent { reader: spool.reader(), spool, window, unsynced: Vec::new(), connected: false });
    }

    pub fn kill(&mut self, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        if let Some(agent) = self.agent.take() {
            Self::count(&agent, reached);
        }
        self.disk.crash(rng);
    }

    /// The broker ends the connection at some batch again and again.
    pub fn quarantine(&mut self, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        let Some(agent) = &mut self.agent else { return };
        let held: Vec<Position> = agent.spool.log().lock().extents().map(|e| e.position).collect();
        if !held.is_empty() && agent.spool.quarantine(held[rng.random_range(0..held.len())]).is_ok() {
            reached.count("batch quarantined");
        }
    }

    /// A frame that has been written is read back as something else. Of the last one of a file nobody could say that it
    /// was ever whole.
    pub fn damage(&mut self, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        let Some(agent) = &mut self.agent else { return };
        let held: Vec<Extent> = agent.spool.log().lock().extents().copied().collect();
        let followed = held.windows(2).filter(|two| two[0].place.segment == two[1].place.segment && !two[0].gap);
        let followed: Vec<&Extent> = followed.map(|two| &two[0]).collect();
        if !followed.is_empty() {
            let Place { segment, offset } = followed[rng.random_range(0..followed.len())].place;
            self.disk.damage(&segment::name(segment), offset as usize + HEADER_BYTES);
            reached.count("frame on the disk damaged");
        }
    }

    pub fn fail_disk(&mut self, until: Duration, reached: &mut Reached) {
        self.failing_until = until;
        reached.count("gateway's disk failing");
    }

    /// Does what the time does.
    pub fn tick(&mut self, now: Duration) {
        self.disk.set_failing(now < self.failing_until);
    }

    /// Its next frames are of a version that the processor learns later.
    pub fn update(&mut self, until: Duration, reached: &mut Reached) {
        self.updated_until = until;
        reached.count("agent updated first");
    }

    /// What it has to send now.
    pub fn send(&mut self, now: Duration, faults: &Faults, rng: &mut ChaCha8Rng, reached: &mut Reached) -> Vec<Bytes> {
        let Some(agent) = &mut self.agent else { return vec![] };
        let mut frames = agent.send(now, reached);
        if now < self.updated_until {
            return frames.iter().map(newer).collect();
        }
        for at in (0..frames.len()).rev() {
            if rng.random_bool(faults.twin_speaks)
                && let Some(twin) = self.twin(&frames[at])
            {
                frames.insert(at + rng.random_range(0..2), twin);
                reached.count("twin has spoken");
            }
        }
        frames
    }

    /// What a clone sends that has drawn the same epoch and is as far.
    fn twin(&mut self, frame: &Bytes) -> Option<Bytes> {
        let header = Frame::split(frame.clone()).ok().filter(|f| f.header.kind == FrameKind::Data)?.header;
        let n = -self.next;
        self.next += 1;
        self.appended.insert(n, header.position);
        self.spoken_over.insert(header.position);
        let batch = TelemetryBatch { machines: vec![], ..batch(n) };
        Some(Frame::seal(header.position, header.previous, 0, &batch).encode())
    }

    pub fn hear(&mut self, ack: &Ack, live: bool, now: Duration) {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.connected) else { return };
        agent.hear(ack, live, now);
        if let Some(instruments) = self.instruments.as_mut().filter(|_| live) {
            instruments.hear(ack.plant_time, plant_time(now));
        }
    }

    pub fn append(&mut self, poisoned: bool, now: Duration, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        let Some(agent) = &mut self.agent else { return };
        let (position, previous) = agent.spool.next();
        let n = self.next;
        self.next += 1;
        let (batch, readings) = match self.instruments.as_mut().filter(|_| !poisoned) {
            Some(instruments) => instruments.cut(n, plant_time(now), rng, reached),
            None => (batch(n), 1),
        };
        let sealed = match self.instruments {
            Some(_) if poisoned => plant_time(now),
            _ => PlantTime(batch.sealed.as_ref().unwrap().time_ms),
        };
        let frame = match poisoned {
            true => poison(position, previous, n),
            false => Frame::seal(position, previous, readings, &batch),
        };
        agent.spool.append(&frame, sealed);
        self.poison.extend(poisoned.then_some(n));
        agent.unsynced.push(n);
        self.appended.insert(n, position);
    }

    pub fn flush(&mut self, now: Duration, rng: &mut ChaCha8Rng, reached: &mut Reached) {
        self.append(false, now, rng, reached);
        self.sync();
    }

    /// What it heard and did in its life, as far as it is a corner.
    fn count(agent: &Agent, reached: &mut Reached) {
        let counters = agent.window.counters();
        reached.add("ack of a lower incarnation ignored", counters.acks_of_lower_incarnation as usize);
        reached.add("retained ack of another archive ignored", counters.acks_of_other_archive as usize);
        reached.add("archive adopted", counters.archives_adopted as usize);
        reached.add("acks stood still", counters.timeouts as usize);
    }

    pub fn sync(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        if agent.spool.commit().is_ok() {
            self.durable.extend(agent.unsynced.drain(..));
        }
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

    fn hear(&mut self, ack: &Ack, live: bool, now: Duration) {
        let log = self.spool.log();
        let freed = self.window.on_ack(&log.lock(), ack, live, now);
        if let Some(committed) = freed {
            // While the disk fails it can't be tidied; it will be with the next ack.
            let _ = self.spool.free(committed);
        }
    }

    /// What the window lets out now.
    fn send(&mut self, now: Duration, reached: &mut Reached) -> Vec<Bytes> {
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
                Err(ReadError::Damaged(position)) => {
                    if self.spool.mend(position).is_err() {
                        return frames;
                    }
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
}

fn batch(n: i64) -> TelemetryBatch {
    let sensors = vec![SensorColumn { sensor: "count".into(), value: vec![n as f64], quality: vec![], reason: vec![] }];
    TelemetryBatch {
        sealed: Some(SealTime { time_ms: n, monotonic_ms: n as u64, ..Default::default() }),
        machines: vec![MachineReadings { machine: "m".into(), time_delta_ms: delta_encode(&[n]), sensors }],
        ..Default::default()
    }
}

/// Says that it is a batch, and is none.
fn poison(position: Position, previous: Option<Position>, n: i64) -> Frame {
    let content = Gap { reason: GapReason::Damaged.into(), readings: n as u64, ..Default::default() };
    let mut frame = Frame::gap(position, position.seq, previous, &content);
    (frame.header.kind, frame.header.readings) = (FrameKind::Data, 1);
    frame
}

/// As a later version would write it.
fn newer(frame: &Bytes) -> Bytes {
    const VERSION_AT: usize = 4;
    let mut bytes = frame.to_vec();
    bytes[VERSION_AT] = FRAME_VERSION as u8 + 1;
    bytes.into()
}

pub fn number(batch: &TelemetryBatch) -> i64 {
    batch.sealed.as_ref().unwrap().monotonic_ms as i64
}

/// Of a batch that came in as it was sent: its place and its number.
pub fn sealed(frame: &Bytes) -> Option<(Position, i64)> {
    let frame = Frame::split(frame.clone()).ok().filter(|f| f.header.kind == FrameKind::Data && f.verify().is_ok())?;
    let n = match frame.batch() {
        Ok(batch) => number(&batch),
        Err(_) => frame.gap_content().ok()?.readings as i64,
    };
    Some((frame.header.position, n))
}
