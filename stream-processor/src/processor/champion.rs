//! Watches the registry's pointer: loads and verifies the model that it names, and offers it to the engine, which enters the
//! change into a manifest before it judges by it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use model::{
    registry::{self, Entry as Pointer, RegistryError},
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

use crate::stream::{Loaded, schedule::Schedule};

const REGISTRY_AWAY: &str = "the registry can't be read; the model in charge stays";
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What earlier looks have led to, so that nothing is loaded, or reported, at every look.
#[derive(Debug, Default)]
pub struct Seen {
    /// Offered last, or in charge since before.
    offered: Option<String>,
    /// Does not fit.
    refused: Option<String>,
}

/// Watches one model name.
pub struct Champion {
    pub store: Store,
    pub name: AssetId,
    pub refresh: Duration,
    /// Features of the stream: a model of others is refused.
    pub fingerprint: String,
    pub offers: watch::Sender<Option<Arc<Scorer>>>,
    /// Champions that could not be used.
    pub refused: Counter<u64>,
}

impl Champion {
    /// The models that the schedule still needs: what was entered holds, whatever the pointer says by now. Repeated until
    /// the registry answers.
    pub async fn recall(&self, schedule: &Schedule) -> Loaded {
        let mut loaded = Loaded::new();
        let versions: BTreeSet<&str> = schedule.versions().collect();
        for version in versions {
            match self.loaded(version).await {
                Ok(scorer) => drop(loaded.insert(version.to_owned(), scorer)),
                Err(reason) => {
                    tracing::error!(version, reason, "a model in charge can't be used any more; rules judge for it");
                    self.refused.add(1, &[]);
                }
            }
        }
        loaded
    }

    async fn loaded(&self, version: &str) -> Result<Arc<Scorer>, String> {
        loop {
            match self.load(version).await {
                Ok(answer) => return answer,
                Err(e) => tracing::warn!(error = %e, "{REGISTRY_AWAY}"),
            }
            sleep(BEGIN_AGAIN_AFTER).await;
        }
    }

    /// The first look, repeated until the registry answers. The stream begins after it: a window that closes while nobody
    /// is in charge yet would be judged by rules, and by the model in a start whose registry was faster.
    pub async fn begin(&self, in_charge: Option<String>) -> Seen {
        let mut seen = Seen { offered: in_charge, refused: None };
        while !self.looked(&mut seen).await {
            sleep(BEGIN_AGAIN_AFTER).await;
        }
        seen
    }

    /// Looks at the pointer whenever asked, and at the latest after `refresh`.
    pub async fn watch(self, mut seen: Seen, mut asked: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(self.refresh, asked.changed()) => {}
            }
            self.looked(&mut seen).await;
        }
    }

    /// False: the registry can't be read.
    async fn looked(&self, seen: &mut Seen) -> bool {
        match self.look(seen).await {
            Ok(None) => {}
            Ok(Some((version, Ok(scorer)))) => {
                *seen = Seen { offered: Some(version), refused: None };
                self.offers.send_replace(Some(scorer));
            }
            Ok(Some((version, Err(reason)))) => {
                tracing::error!(version, reason, "the champion can't be used; the model before it stays");
                self.refused.add(1, &[]);
                seen.refused = Some(version);
            }
            Err(e) => {
                tracing::warn!(error = %e, "{REGISTRY_AWAY}");
                return false;
            }
        }
        true
    }

    /// The pointer's version, if it is news, and its model or why that can't be used.
    async fn look(&self, seen: &Seen) -> Result<Option<(String, Result<Arc<Scorer>, String>)>, RegistryError> {
        let Some(Pointer { version, .. }) = registry::champion(&self.store, &self.name).await? else {
            return Ok(None);
        };
        if [&seen.offered, &seen.refused].contains(&&Some(version.clone())) {
            return Ok(None);
        }
        let loaded = self.load(&version).await?;
        Ok(Some((version, loaded)))
    }

    async fn load(&self, version: &str) -> Result<Result<Arc<Scorer>, String>, RegistryError> {
        match registry::load(&self.store, &self.name, version).await {
            Ok(scorer) if scorer.schema_fingerprint() == self.fingerprint => Ok(Ok(Arc::new(scorer))),
            Ok(_) => Ok(Err("it is for other features than this processor makes".into())),
            Err(e @ (RegistryError::Artifact { .. } | RegistryError::Missing { .. })) => Ok(Err(e.to_string())),
            Err(e) => Err(e),
        }
    }
}
