//! The program under SIGKILL, again and again, with its broker and its processor killed meanwhile. Whatever happens,
//! every reading is in the archive exactly once, or inside a break that the log declares.
//!
//! Each run draws a fresh seed and prints it; `MILLWRIGHT_SEED` runs that one. `MILLWRIGHT_KILLS` makes the first test
//! as long as wanted.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use proto::{
    asset::AssetId,
    telemetry::{Frame, FrameKind},
    time::{PlantClock, PlantTime, wall_now_ms},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::{
    agent::{self, Agent},
    broker::{Mosquitto, POLL},
    committer::{Archive, Committer, Manner},
    table::{self, STEP_MS},
};

const KILLS: u32 = 100;
const LIFE_MS: std::ops::Range<u64> = 50..1_500;
const BROKER_AWAY_MS: std::ops::Range<u64> = 0..300;
/// Rows of the table that become due in a second.
const STEPS_PER_SECOND: i64 = 100;
/// How far into the future a window of the table reaches, in wall time: beyond any life.
const AHEAD: Duration = Duration::from_secs(10);
/// Without any progress for so long, nothing more is waited for.
const STALL_MAX: Duration = Duration::from_secs(60);
pub const STOP_MAX: Duration = Duration::from_secs(20);

/// Nothing is lost by these, and each is said once for a reason that the test gave.
pub const BROKER_LOST: &str = "no connection to the broker; the spool keeps everything";
pub const ROWS_SKIPPED: &str = "rows at or before the time up to which the spool is sealed are not replayed";
const EVICTED: &str = "over the bounds of the spool: oldest readings evicted";

/// A gateway, its broker and its processor, on one machine.
pub struct Hall {
    rng: ChaCha8Rng,
    folder: TempDir,
    pub broker: Mosquitto,
    ids: (AssetId, AssetId),
    archive: Archive,
    committer: Option<Committer>,
    clock: PlantClock,
    first_step: i64,
    /// No rows from there on.
    end_step: Option<i64>,
    /// Of the window that was written last.
    last_step: i64,
    note_bytes: usize,
    kills: u32,
    broker_kills: u32,
}

impl Hall {
    pub fn new(note_bytes: usize, settings: &str) -> Option<Hall> {
        let seed = match std::env::var("MILLWRIGHT_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => wall_now_ms() as u64,
        };
        println!("MILLWRIGHT_SEED={seed}");
        let (broker, folder) = (Mosquitto::open()?, tempfile::tempdir().unwrap());
        let first_step = 1_000_000;
        let plant_origin = PlantTime((first_step - 1) * STEP_MS);
        let speed = (STEPS_PER_SECOND * STEP_MS / 1_000) as f64;
        let clock = PlantClock { wall_origin_ms: wall_now_ms(), plant_origin, speed };
        let config = format!(
            "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\
             [batch]\nflush_ms = 50\n[clock]\nwall_origin_ms = {}\nplant_origin = {}\nspeed = {speed}\n{settings}{}",
            broker.port(),
            clock.wall_origin_ms,
            plant_origin.millis(),
            table::SOURCE,
        );
        fs::write(folder.path().join("gateway.toml"), config).unwrap();
        let mut hall = Hall {
            rng: ChaCha8Rng::seed_from_u64(seed),
            folder,
            broker,
            ids: (AssetId::new("mill").unwrap(), AssetId::new("gw").unwrap()),
            archive: Archive::new(seed),
            committer: None,
            clock,
            first_step,
            end_step: None,
            last_step: first_step,
            note_bytes,
            kills: 0,
            broker_kills: 0,
        };
        hall.restart_committer();
        Some(hall)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn now_step(&self) -> i64 {
        self.clock.now().millis() / STEP_MS
    }

    /// Seal time of the newest batch in the archive, as a step.
    fn archived_step(&self) -> i64 {
        let sealed = self.archive.lock().frames.last().and_then(|taken| sealed_ms(&taken.frame));
        sealed.map_or(self.first_step - 1, |ms| ms / STEP_MS)
    }

    /// The window of the table from what the archive has; never without a row.
    pub fn write_table(&mut self) {
        let ahead = self.now_step() + STEPS_PER_SECOND * AHEAD.as_secs() as i64;
        self.last_step = self.end_step.unwrap_or(ahead);
        let first = self.archived_step().clamp(self.first_step, self.last_step);
        table::write(self.folder.path(), first..=self.last_step, self.note_bytes);
    }

    /// What was behind the window's end is not there for an agent that is still running then.
    fn kill(&mut self, agent: Agent) {
        agent.kill();
        assert!(self.end_step.is_some() || self.now_step() < self.last_step, "this machine is too slow for the table");
    }

    fn restart_committer(&mut self) {
        self.committer = None;
        let ids = (&self.ids.0, &self.ids.1);
        self.committer =
            Some(Committer::start(self.broker.port(), ids, &self.archive, Manner::LATE, self.clock, self.rng.random()));
    }

    pub fn kill_broker(&mut self) {
        self.broker.kill();
        self.broker_kills += 1;
    }

    fn pause(&mut self, ms: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(ms)));
    }

    /// One life of the agent, of random length, that ends with SIGKILL.
    fn life(&mut self) {
        self.write_table();
        let agent = Agent::start(self.folder.path());
        self.pause(LIFE_MS);
        self.kill(agent);
        self.kills += 1;
    }

    /// The same, with one of the others killed somewhere in it.
    fn troubled_life(&mut self) {
        self.write_table();
        let agent = Agent::start(self.folder.path());
        let ms = self.rng.random_range(LIFE_MS);
        let before = self.rng.random_range(0..ms);
        sleep(Duration::from_millis(before));
        if self.rng.random() {
            self.kill_broker();
            self.pause(BROKER_AWAY_MS);
            self.broker.restart();
        } else {
            self.restart_committer();
        }
        sleep(Duration::from_millis(ms - before));
        self.kill(agent);
        self.kills += 1;
    }

    /// No rows after this moment.
    fn end_table(&mut self) {
        self.end_table_after(Duration::ZERO);
    }

    pub fn end_table_after(&mut self, time: Duration) {
        self.end_step = Some(self.now_step() + STEPS_PER_SECOND * time.as_secs() as i64);
    }

    /// The table ends with what is in the archive.
    pub fn end_table_with_archive(&mut self) {
        self.end_step = Some(self.archived_step());
    }

    pub fn archived_readings(&self) -> u64 {
        self.archive.lock().readings
    }

    fn is_drained(&self) -> bool {
        Some(self.archived_step()) > self.end_step
    }

    /// Lets the agent live until the archive has all there is, and stop.
    fn drain(&mut self) {
        self.write_table();
        let agent = Agent::start(self.folder.path());
        self.wait_drained();
        assert!(agent.stop(STOP_MAX).success());
    }

    pub fn wait_drained(&self) {
        let (mut before, mut since) = (0, Instant::now());
        while !self.is_drained() {
            let frames = self.archive.lock().frames.len();
            if frames > before {
                (before, since) = (frames, Instant::now());
            }
            assert!(since.elapsed() < STALL_MAX, "no progress: {:#?}", agent::log(self.folder.path()));
            sleep(POLL);
        }
    }

    /// Readings that are missing in breaks that were declared.
    pub fn check(&self, expected: &[&str]) -> u64 {
        agent::expect_only(self.folder.path(), expected);
        let committed = self.archive.lock();
        let missing = table::check(&committed.frames, self.first_step..=self.end_step.unwrap());
        let gaps = committed.frames.iter().filter(|taken| taken.frame.header.kind == FrameKind::Gap).count();
        println!(
            "{} kills, {} of the broker; {} epochs, {} frames, {gaps} gaps, {} readings, {} missing; {:?}",
            self.kills,
            self.broker_kills,
            committed.chain.epochs(),
            committed.frames.len(),
            committed.readings,
            missing,
            committed.arrivals,
        );
        missing
    }
}

fn sealed_ms(frame: &Frame) -> Option<i64> {
    let sealed = match frame.header.kind {
        FrameKind::Data => frame.batch().unwrap().sealed,
        FrameKind::Gap => frame.gap_content().unwrap().sealed,
        FrameKind::Bridge => None,
    };
    sealed.map(|sealed| sealed.time_ms)
}

#[test]
fn nothing_is_lost_or_doubled_however_often_anyone_is_killed() {
    let Some(mut hall) = Hall::new(0, "") else { return };
    let kills = std::env::var("MILLWRIGHT_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    for _ in 0..kills {
        match hall.rng.random_bool(0.4) {
            true => hall.troubled_life(),
            false => hall.life(),
        }
    }
    hall.end_table();
    hall.drain();
    assert_eq!(hall.check(&[BROKER_LOST, ROWS_SKIPPED]), 0);
    let committed = hall.archive.lock();
    assert!(committed.chain.epochs() as u32 > kills / 4, "most lives must get somewhere");
    assert!(committed.arrivals.duplicate > 0, "frames must be sent again");
}

#[test]
fn nothing_is_lost_or_doubled_when_the_agent_is_killed_while_a_backlog_drains() {
    let Some(mut hall) = Hall::new(8_000, "[publish]\nbytes_per_second = 200000\n") else { return };
    hall.kill_broker();
    hall.write_table();
    let agent = Agent::start(hall.folder.path());
    sleep(AHEAD / 2);
    hall.kill(agent);
    hall.end_table();
    hall.broker.restart();
    let begun = Instant::now();
    while !hall.is_drained() {
        assert!(begun.elapsed() < STALL_MAX);
        hall.life();
    }
    assert_eq!(hall.check(&[BROKER_LOST, ROWS_SKIPPED]), 0);
    assert!(hall.kills > 5, "the backlog was too small");
}

#[test]
fn what_a_full_spool_evicts_is_declared_and_nothing_else_is_missing() {
    let spool = "[spool]\nbytes_max = 8388608\nsegment_bytes = 65536\n";
    let Some(mut hall) = Hall::new(12_000, spool) else { return };
    (0..5).for_each(|_| hall.life());
    hall.kill_broker();
    let evicted = |hall: &Hall| agent::log(hall.folder.path()).iter().filter(|line| line.contains(EVICTED)).count();
    let begun = Instant::now();
    while evicted(&hall) < 20 {
        assert!(begun.elapsed() < STALL_MAX);
        hall.life();
    }
    hall.broker.restart();
    (0..5).for_each(|_| hall.troubled_life());
    hall.end_table();
    hall.drain();
    assert!(hall.check(&[BROKER_LOST, ROWS_SKIPPED, EVICTED]) > 0, "nothing was evicted");
}
