//! Keeps the model in charge loaded: watches the registry's pointer and swaps whole scorers.

use std::{sync::Arc, time::Duration};

use model::{
    registry::{self, RegistryError},
    score::Scorer,
    store::Store,
};
use opentelemetry::metrics::Counter;
use proto::asset::AssetId;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A version that does not fit: reported once, and not at every look.
#[derive(Debug, Default)]
pub struct Refused(Option<String>);

/// Watches one model name.
pub struct Champion {
    pub store: Store,
    pub name: AssetId,
    pub refresh: Duration,
    /// Features of the stream: a model of others is refused.
    pub fingerprint: String,
    pub scorer: watch::Sender<Option<Arc<Scorer>>>,
    /// Champions that could not be used.
    pub refused: Counter<u64>,
}

impl Champion {
    /// The first look, repeated until the registry answers. The stream begins after it: a window that closes while nobody
    /// is in charge yet would be judged by rules, and by the model in a start whose registry was faster.
    pub async fn begin(&self) -> Refused {
        let mut refused = Refused::default();
        while !self.looked(&mut refused).await {
            sleep(BEGIN_AGAIN_AFTER).await;
        }
        refused
    }

    /// Looks at the pointer whenever asked, and at the latest after `refresh`.
    pub async fn watch(self, mut refused: Refused, mut asked: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(self.refresh, asked.changed()) => {}
            }
            self.looked(&mut refused).await;
        }
    }

    /// False: the registry can't be read.
    async fn looked(&self, refused: &mut Refused) -> bool {
        match self.look(refused.0.as_deref()).await {
            Ok(Look::Same) => {}
            Ok(Look::New(scorer)) => {
                tracing::info!(version = scorer.version(), "model in charge");
                refused.0 = None;
                self.scorer.send_replace(Some(scorer));
            }
            Ok(Look::Refused { version, reason }) => {
                tracing::error!(version, reason, "the champion can't be used; the model before it stays");
                self.refused.add(1, &[]);
                refused.0 = Some(version);
            }
            Err(e) => {
                tracing::warn!(error = %e, "the registry can't be read; the model in charge stays");
                return false;
            }
        }
        true
    }

    async fn look(&self, refused: Option<&str>) -> Result<Look, RegistryError> {
        let Some(pointer) = registry::champion(&self.store, &self.name).await? else { return Ok(Look::Same) };
        let version = pointer.version;
        let in_charge = self.scorer.borrow().as_ref().is_some_and(|s| s.version() == version);
        if in_charge || refused == Some(version.as_str()) {
            return Ok(Look::Same);
        }
        match registry::load(&self.store, &self.name, &version).await {
            Ok(scorer) if scorer.schema_fingerprint() == self.fingerprint => Ok(Look::New(Arc::new(scorer))),
            Ok(_) => Ok(Look::Refused { version, reason: "it is for other features than this processor makes".into() }),
            Err(e @ (RegistryError::Artifact { .. } | RegistryError::Missing { .. })) => {
                Ok(Look::Refused { version, reason: e.to_string() })
            }
            Err(e) => Err(e),
        }
    }
}

enum Look {
    Same,
    New(Arc<Scorer>),
    Refused { version: String, reason: String },
}
