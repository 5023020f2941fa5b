//! Whoever watches over the process is told how it is: systemd by its notify protocol (sd_notify(3)), probes by
//! [`Health`]. The watchdog is fed only while the agent makes progress.

use std::{
    convert::Infallible,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    agent::watchdog::{Beats, STUCK_AFTER, Watchdog},
    telemetry::Health,
};

/// How often progress is looked at if nobody asks for more.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The other end of `NOTIFY_SOCKET`; without one nothing is said.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It ends a process that it has not heard from for this long.
    watchdog: Option<Duration>,
}

impl Supervisor {
    pub fn from_env() -> io::Result<Self> {
        let watchdog = std::env::var("WATCHDOG_USEC").ok().and_then(|usec| usec.parse().ok());
        Self::new(std::env::var_os("NOTIFY_SOCKET"), watchdog.map(Duration::from_micros))
    }

    pub fn new(socket: Option<OsString>, watchdog: Option<Duration>) -> io::Result<Self> {
        let Some(name) = socket else {
            return Ok(Supervisor::default());
        };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not hold the agent up.
        socket.set_nonblocking(true)?;
        Ok(Supervisor { socket: Some((socket, address)), watchdog })
    }

    pub fn ready(&self) {
        self.tell("READY=1");
    }

    pub fn reloading(&self) {
        self.tell("RELOADING=1");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, state, "the supervisor can't be told");
        }
    }

    /// Looks at the agent's progress for ever, and says whether there is any.
    pub async fn watch(&self, beats: Arc<Beats>, health: &watch::Sender<Health>) -> Infallible {
        let look_every = self.watchdog.map_or(LOOK_EVERY, |limit| LOOK_EVERY.min(limit / 3));
        self.watch_every(look_every, STUCK_AFTER, &beats, health).await
    }

    async fn watch_every(
        &self,
        look_every: Duration,
        stuck_after: Duration,
        beats: &Beats,
        health: &watch::Sender<Health>,
    ) -> Infallible {
        let started = Instant::now();
        let mut watchdog = Watchdog::new(stuck_after, Duration::ZERO);
        let mut look = interval(look_every.max(Duration::from_millis(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let stuck = *health.borrow() == Health::Stuck;
            match (watchdog.check(beats.now(), started.elapsed()), stuck) {
                (Ok(()), stuck) => {
                    if stuck {
                        tracing::warn!("the agent makes progress again");
                    }
                    health.send_if_modified(|health| std::mem::replace(health, Health::Running) != Health::Running);
                    if self.watchdog.is_some() {
                        self.tell("WATCHDOG=1");
                    }
                }
                (Err(error), false) => {
                    tracing::error!(%error, "no progress: a supervisor should start the agent anew");
                    health.send_replace(Health::Stuck);
                }
                (Err(_), true) => {}
            }
        }
    }
}
