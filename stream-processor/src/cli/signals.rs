//! SIGINT and SIGTERM.

use std::{io, process::exit, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// A stop has its own, shorter deadline; one that hangs all the same is ended by force after this.
const FORCE_SECONDS: u64 = 5;

/// Listened to from the first moment on, so that none is lost between two waits.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub async fn asked_to_stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// A second signal means now; so does a stop that hangs.
    pub fn force_the_stop(mut self) {
        tokio::spawn(async move {
            let _ = timeout(Duration::from_secs(FORCE_SECONDS), self.asked_to_stop()).await;
            tracing::warn!("stopped by force; nothing that was acknowledged is lost");
            exit(1);
        });
    }
}
