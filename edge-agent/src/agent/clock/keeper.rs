//! Drives [`WallTrust`]: reads the clocks, publishes the plant clock that comes of it, stores the last known good time,
//! and says in the log what happened.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use proto::time::{PlantClock, PlantTime, wall_now_ms};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Look,
    kept::KeptTime,
    trust::{Jumps, Moment, Turn, WallTrust},
};
use crate::{agent::identity::Boot, spool::disk::Disk, telemetry::Metrics};

/// Whoever stamps by the published plant clock may be misled by a jump of the wall clock for as long as this.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Flash wears with every write.
pub const SAVE_EVERY: Duration = Duration::from_secs(600);
/// Two looks at the same clock that are further apart in time were interrupted.
const READ_MS_MAX: i64 = 20;
const READS_MAX: usize = 8;
/// Touched by systemd-timesyncd whenever it has set the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// The gateway's clocks.
pub type Clocks = Box<dyn Fn() -> Moment + Send + Sync>;

/// The real ones.
pub fn clocks(boot: Boot) -> Clocks {
    Box::new(move || {
        let monotonic = || boot.monotonic_ms() as i64;
        let mut moment = Moment { wall_ms: 0, monotonic_ms: monotonic(), synchronised_ms: synchronised_ms() };
        for _ in 0..READS_MAX {
            let before = monotonic();
            moment.wall_ms = wall_now_ms();
            moment.monotonic_ms = monotonic();
            if moment.monotonic_ms - before <= READ_MS_MAX {
                break;
            }
        }
        moment
    })
}

fn synchronised_ms() -> Option<i64> {
    let modified = fs::metadata(Path::new(SYNCHRONISED)).ok()?.modified().ok()?;
    i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

struct State {
    trust: WallTrust,
    resume_after: Option<PlantTime>,
}

pub struct Keeper {
    clocks: Clocks,
    disk: Arc<dyn Disk>,
    /// By a wall clock that is right.
    base: PlantClock,
    /// The processor's plant time is the same.
    shared: bool,
    state: Mutex<State>,
    published: watch::Sender<PlantClock>,
}

impl Keeper {
    pub fn new(
        clocks: Clocks,
        disk: Arc<dyn Disk>,
        base: PlantClock,
        shared: bool,
        trust: WallTrust,
        resume_after: Option<PlantTime>,
    ) -> Self {
        let published = watch::Sender::new(base.by_wall_behind(trust.wall_behind_ms()));
        Keeper { clocks, disk, base, shared, state: Mutex::new(State { trust, resume_after }), published }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn published(&self) -> watch::Receiver<PlantClock> {
        self.published.subscribe()
    }

    pub fn is_shared(&self) -> bool {
        self.shared
    }

    pub fn look(&self) -> Look {
        let mut state = self.state();
        let now = (self.clocks)();
        let turn = state.trust.look(now);
        self.settle(&state.trust, now, turn)
    }

    /// Takes the plant time of an ack that was sent a moment ago.
    pub fn on_ack(&self, plant_time: PlantTime) {
        let Some(wall_ms) = self.base.wall_ms(plant_time).filter(|_| self.shared) else { return };
        let mut state = self.state();
        let now = (self.clocks)();
        let jumped = state.trust.look(now);
        self.settle(&state.trust, now, jumped);
        let turn = state.trust.on_ack(now, wall_ms);
        self.settle(&state.trust, now, turn);
    }

    fn settle(&self, trust: &WallTrust, now: Moment, turn: Option<Turn>) -> Look {
        let plant = self.base.by_wall_behind(trust.wall_behind_ms());
        self.published.send_if_modified(|published| std::mem::replace(published, plant) != plant);
        let (wall_ms, offset_ms) = (trust.wall_ms(now.monotonic_ms), trust.wall_behind_ms());
        if let Some(turn) = turn {
            tell(turn, now.wall_ms, wall_ms, offset_ms);
        }
        Look {
            time: self.base.plant(wall_ms),
            trusted: trust.is_trusted(),
            offset_ms,
            era: trust.era(),
            base: self.base,
            wall_ms,
            monotonic_ms: now.monotonic_ms,
        }
    }

    /// Said once at the start, when there is nothing good to say.
    pub fn tell_doubt(&self) {
        let look = self.look();
        if !look.trusted {
            let (wall, estimate) = (PlantTime(look.wall_ms - look.offset_ms), PlantTime(look.wall_ms));
            tracing::warn!(%wall, %estimate, "the wall clock can't be right: readings get an estimated time until an ack or a time service says which time it is");
        }
    }

    fn save(&self) -> io::Result<()> {
        let (now, state) = ((self.clocks)(), self.state());
        let kept = KeptTime { known: state.trust.known(now.monotonic_ms), resume_after: state.resume_after };
        drop(state);
        match kept.known {
            // What was known before is better than nothing.
            None => Ok(()),
            Some(_) => kept.store(&*self.disk),
        }
    }

    async fn save_aside(self: &Arc<Self>) {
        let keeper = self.clone();
        match spawn_blocking(move || keeper.save()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last known good time can't be stored"),
            Err(_) => {}
        }
    }

    /// Before seal times fall: where sources that go on where they were have to go on after a restart.
    pub async fn leave(self: &Arc<Self>, sealed: PlantTime) {
        self.set_resume_after(sealed);
        self.save_aside().await;
    }

    /// Up to where sources were read before seal times fell, if they did.
    pub fn resume_after(&self) -> Option<PlantTime> {
        self.state().resume_after
    }

    fn set_resume_after(&self, sealed: PlantTime) {
        let mut state = self.state();
        state.resume_after = state.resume_after.max(Some(sealed));
    }

    /// Until it is stopped.
    pub async fn run(self: Arc<Self>, metrics: Metrics, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut saved, mut counted): (Option<Instant>, _) = (None, Jumps::default());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => {}
            }
            let look = self.look();
            metrics.clock_trusted.record(look.trusted.into(), &metrics.agent);
            metrics.clock_offset.record(look.offset_ms as f64 / 1e3, &metrics.agent);
            let jumps = self.state().trust.jumps();
            metrics.clock_jumps.add(jumps.forward - counted.forward, &metrics.with("direction", "forward"));
            metrics.clock_jumps.add(jumps.backward - counted.backward, &metrics.with("direction", "backward"));
            counted = jumps;
            if look.trusted && saved.is_none_or(|saved| saved.elapsed() >= SAVE_EVERY) {
                self.save_aside().await;
                saved = Some(Instant::now());
            }
        }
        self.save_aside().await;
    }
}

fn tell(turn: Turn, wall_ms: i64, time_ms: i64, offset_ms: i64) {
    let (wall, time) = (PlantTime(wall_ms), PlantTime(time_ms));
    match turn {
        Turn::Gained => tracing::info!(%wall, %time, offset_ms, "the time is known and trusted"),
        Turn::Returned => tracing::info!(%wall, "the wall clock is right again"),
        Turn::Corrected => {
            tracing::warn!(%wall, %time, offset_ms, "the wall clock is wrong; the time is from the acks")
        }
        Turn::Followed => tracing::warn!(%wall, "the wall clock jumped, and is confirmed"),
        Turn::Carried => {
            tracing::warn!(%wall, %time, offset_ms, "the wall clock jumped away from a time that is confirmed; it is not followed")
        }
        Turn::Lost => {
            tracing::warn!(%wall, %time, offset_ms, "the wall clock jumped, and nobody says which time is right: readings get an estimated time")
        }
        Turn::Contradicted => tracing::warn!(%wall, %time, "acks say another time than the one that is confirmed"),
    }
}

#[cfg(test)]
mod tests;
