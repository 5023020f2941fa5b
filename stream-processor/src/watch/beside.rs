//! Fetches what lies beside the version in charge, and counts what was decided about versions.

use std::{sync::Arc, time::Duration};

use model::{
    registry::{self, RegistryError},
    score::Scorer,
    store::Store,
    watch::WatchReference,
};
use proto::asset::AssetId;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Decisions;

/// What a version is watched by.
#[derive(Debug)]
pub struct Beside {
    pub version: String,
    pub reference: WatchReference,
}

pub struct Follow {
    pub store: Store,
    pub name: AssetId,
    /// Between two looks at the history.
    pub refresh: Duration,
    pub scorer: watch::Receiver<Option<Arc<Scorer>>>,
    pub out: watch::Sender<Option<Arc<Beside>>>,
    pub decisions: Decisions,
}

impl Follow {
    /// Until `stop`. Without it the model works all the same; so a registry that does not answer is no more than a line.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the figures beside the model can't be read; they are tried again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = timeout(self.refresh, self.scorer.changed()) => if let Ok(Err(_)) = changed { return },
            }
        }
    }

    async fn look(&mut self) -> Result<(), RegistryError> {
        self.decisions.record(registry::history::counts(&self.store, &self.name).await?);
        let version = self.scorer.borrow().as_ref().map(|s| s.version().to_owned());
        let Some(version) = version else { return Ok(()) };
        if self.out.borrow().as_ref().is_some_and(|b| b.version == version) {
            return Ok(());
        }
        let reference = registry::watched_by(&self.store, &self.name, &version).await?;
        self.out.send_replace(reference.map(|reference| Arc::new(Beside { version, reference })));
        Ok(())
    }
}
