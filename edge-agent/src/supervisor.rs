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

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use proto::{asset::AssetId, position::Epoch, wire::telemetry::TelemetryBatch};
    use tokio::{sync::mpsc, time::timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        agent::writer::{SealedBatch, Writer},
        spool::{
            Spool, SpoolConfig,
            disk::{Disk, memory::Memory},
        },
        telemetry::Metrics,
    };

    const STUCK: Duration = Duration::from_millis(100);
    const LOOK: Duration = Duration::from_millis(5);

    /// Every sync waits while it hangs.
    #[derive(Debug, Default)]
    struct Hanging {
        disk: Memory,
        hangs: Mutex<bool>,
        changed: Condvar,
    }

    impl Hanging {
        fn set(&self, hangs: bool) {
            *self.hangs.lock().unwrap() = hangs;
            self.changed.notify_all();
        }
    }

    impl Disk for Hanging {
        fn list(&self) -> io::Result<Vec<String>> {
            self.disk.list()
        }
        fn bytes(&self, name: &str) -> io::Result<u64> {
            self.disk.bytes(name)
        }
        fn read(&self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
            self.disk.read(name, offset, bytes)
        }
        fn create(&self, name: &str) -> io::Result<()> {
            self.disk.create(name)
        }
        fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.disk.append(name, bytes)
        }
        fn sync(&self, name: &str) -> io::Result<()> {
            drop(self.changed.wait_while(self.hangs.lock().unwrap(), |hangs| *hangs).unwrap());
            self.disk.sync(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.disk.rename(from, to)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.disk.remove(name)
        }
        fn sync_folder(&self) -> io::Result<()> {
            self.disk.sync_folder()
        }
    }

    /// A sampler that hands on a batch whenever there is room.
    async fn cut(batches: mpsc::Sender<SealedBatch>, beats: Arc<Beats>) {
        let batch = || SealedBatch {
            batch: Box::new(TelemetryBatch { sealed: Some(Default::default()), ..Default::default() }),
            readings: 0,
        };
        while batches.send(batch()).await.is_ok() {
            beats.cut(Duration::from_millis(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_hangs_stops_the_feeding_and_one_that_goes_on_resumes_it() {
        let disk = Arc::new(Hanging::default());
        let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
        let gw = AssetId::new("gw").unwrap();
        let (writer, _progress) = Writer::new(spool, Metrics::new(&gw), CancellationToken::new());
        let (batches, batches_inbox) = mpsc::channel(2);
        let (_requests, requests_inbox) = mpsc::channel(2);
        let beats = writer.beats();
        writer.spawn(&gw, batches_inbox, requests_inbox).unwrap();
        let sampling = tokio::spawn(cut(batches, beats.clone()));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::new(Some(path.into()), Some(STUCK)).unwrap();
        let (health, mut healthy) = watch::channel(Health::Starting);
        let watching = tokio::spawn(async move {
            supervisor.watch_every(LOOK, STUCK, &beats, &health).await;
        });
        let mut state = [0; 64];
        let fed = |bytes: usize, state: &[u8]| assert_eq!(&state[..bytes], b"WATCHDOG=1");
        let bytes = socket.recv(&mut state).await.unwrap();
        fed(bytes, &state);

        disk.set(true);
        healthy.wait_for(|health| *health == Health::Stuck).await.unwrap();
        while socket.try_recv(&mut state).is_ok() {}
        assert!(timeout(20 * LOOK, socket.recv(&mut state)).await.is_err(), "not fed while it hangs");

        disk.set(false);
        healthy.wait_for(|health| *health == Health::Running).await.unwrap();
        let bytes = socket.recv(&mut state).await.unwrap();
        fed(bytes, &state);
        watching.abort();
        sampling.abort();
    }

    #[tokio::test]
    async fn a_supervisor_that_is_not_there_or_gone_is_no_reason_to_stop() {
        Supervisor::new(None, None).unwrap().ready();
        let gone = Supervisor::new(Some("/nowhere/notify".into()), None).unwrap();
        gone.ready();
        let name = format!("millwright-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Supervisor::new(Some(format!("@{name}").into()), None).unwrap().stopping();
        let mut state = [0; 64];
        let bytes = listener.recv(&mut state).unwrap();
        assert_eq!(&state[..bytes], b"STOPPING=1");
    }
}
