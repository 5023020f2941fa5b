//! Sends the log over MQTT: the window decides what and when, this driver carries it and trusts the broker with nothing.
//!
//! One connection at a time, each with a fresh client. A connection is usable once acks are subscribed to; then birth
//! and status are announced, and frames go out. Frames are read from the disk on a blocking thread while the client is
//! polled on, and are handed over without waiting: the client's queue is longer than what is ever in flight.

use std::time::Duration;

use proto::wire::telemetry::Birth;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

pub mod certificates;
pub mod mqtt;
mod session;
pub mod suspects;
pub mod window;

use crate::{
    agent::{
        clock::AgentClock,
        progress::{AgentProgress, changed},
        writer::WriterRequest,
    },
    config::Patience,
    spool::{SharedLog, SpoolReader},
    telemetry::Metrics,
};
use mqtt::{Endpoint, Tls};
use session::{Farewell, Session, SessionError};
use suspects::Suspects;
use window::{SendWindow, WindowConfig};

const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Epochs in the spool that a birth names, the newest ones.
const EPOCHS_NAMED_MAX: usize = 256;

/// What may change while the agent runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Without epochs. Known to fit into a packet.
    pub birth: Birth,
    pub window: WindowConfig,
}

pub struct Publisher {
    pub endpoint: Endpoint,
    pub tls: watch::Receiver<Tls>,
    pub patience: Patience,
    pub settings: watch::Receiver<Settings>,
    pub log: SharedLog,
    pub reader: SpoolReader,
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
    /// As it is now.
    fn birth(&self) -> Birth {
        let epochs = self.log.lock().epochs().take(EPOCHS_NAMED_MAX).map(Into::into).collect();
        Birth { epochs, ..self.settings.borrow().birth.clone() }
    }

    pub async fn run(self) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.jitter_seed);
        let mut window = SendWindow::new(self.settings.borrow().window.clone(), rng.random());
        let (mut suspects, mut failures) = (Suspects::default(), Failures::default());
        let started = Instant::now();
        loop {
            let mut session = Session::new(&self, &mut window, &mut suspects, started);
            let ended = session.run().await;
            if session.was_good() {
                failures = Failures::default();
            }
            let Session { unacknowledged: out, tls, .. } = session;
            window.on_disconnected();
            self.metrics.connected.record(0, &self.metrics.agent);
            self.metrics.in_flight.record(0, &self.metrics.agent);
            let error = match ended {
                Ok(Farewell::Stopped) => return,
                Ok(Farewell::Renewed) => continue,
                Err(error) => error,
            };
            if let Some(guilty) = suspects.on_end(Vec::from(out).as_slice(), error.closed_by_broker()) {
                self.request(WriterRequest::Quarantine(guilty));
            }
            // Full jitter, so that agents that lost one broker do not come back in step.
            let pause = failures.add(&error, self.patience.back_off_max).mul_f64(rng.random());
            if !self.rest(pause, tls).await {
                return;
            }
        }
    }

    /// Waits, but not after new certificates are there. False: nothing more will become durable.
    async fn rest(&self, pause: Duration, mut tls: watch::Receiver<Tls>) -> bool {
        let mut progress = self.progress.clone();
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                () = changed(&mut tls) => return true,
                moved = progress.changed() => if moved.is_err() { return false },
            }
        }
    }

    /// One that finds the writer busy is lost: whatever asks for it lasts, and asks again.
    fn request(&self, request: WriterRequest) {
        let _ = self.requests.try_send(request);
    }
}

/// Of connections, in a row.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    said: String,
}

impl Failures {
    /// Says why, once for each reason; returns the longest time to wait.
    fn add(&mut self, error: &SessionError, back_off_max: Duration) -> Duration {
        let reason = error.to_string();
        match self.said == reason {
            false => tracing::warn!(%error, "no connection to the broker; the spool keeps everything"),
            true => tracing::debug!(%error, failures = self.count, "no connection to the broker"),
        }
        self.said = reason;
        let most = BACK_OFF_MIN.saturating_mul(1 << self.count.min(10)).min(back_off_max);
        self.count += 1;
        most
    }
}
