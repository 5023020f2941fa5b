//! Keeps the model in charge loaded: watches the registry's pointer and swaps whole scorers.

use std::{sync::Arc, time::Duration};

use model::{
    registry::{self, RegistryError},
    score::Scorer,
    store::Store,
};
use opentelemetry::metrics::Counter;
use proto::asset::AssetId;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

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
    /// Looks at the pointer now, then whenever asked, and at the latest after `refresh`.
    pub async fn watch(self, mut asked: watch::Receiver<u64>, stop: CancellationToken) {
        // So that a model that does not fit is reported once and not at every look.
        let mut refused: Option<String> = None;
        loop {
            match self.look(refused.as_deref()).await {
                Ok(Look::Same) => {}
                Ok(Look::New(scorer)) => {
                    tracing::info!(version = scorer.version(), "model in charge");
                    refused = None;
                    self.scorer.send_replace(Some(scorer));
                }
                Ok(Look::Refused { version, reason }) => {
                    tracing::error!(version, reason, "the champion can't be used; the model before it stays");
                    self.refused.add(1, &[]);
                    refused = Some(version);
                }
                Err(e) => tracing::warn!(error = %e, "the registry can't be read; the model in charge stays"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(self.refresh, asked.changed()) => {}
            }
        }
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
