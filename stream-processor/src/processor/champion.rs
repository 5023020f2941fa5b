//! Watches the registry's pointer: loads and verifies the models that it names, and offers them to the engine, which enters
//! the change into a manifest before it judges by it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use model::{
    registry::{self, Decision, Entry as Pointer, RegistryError, canary},
    score::Scorer,
    store::Store,
};
use opentelemetry::metrics::Counter;
use proto::{asset::AssetId, time::wall_now_ms};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::models::Offer;
use crate::{
    stream::{
        Loaded,
        schedule::{Charge, Schedule},
    },
    watch::beside::WHO,
};

const REGISTRY_AWAY: &str = "the registry can't be read; the model in charge stays";
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What earlier looks have led to, so that nothing is loaded, or reported, at every look.
#[derive(Debug, Default)]
pub struct Seen {
    /// Offered last, or in charge since before.
    offered: Option<Charge>,
    loaded: Loaded,
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
    pub offers: watch::Sender<Option<Offer>>,
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
                    tracing::error!(
                        version,
                        reason,
                        "a model can't be used any more; the champion or rules judge for it"
                    );
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
    pub async fn begin(&self, in_charge: Option<Charge>, loaded: &Loaded) -> Seen {
        let mut seen = Seen { offered: in_charge, loaded: loaded.clone(), refused: None };
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
            Ok(()) => true,
            Err(e) => {
                tracing::warn!(error = %e, "{REGISTRY_AWAY}");
                false
            }
        }
    }

    /// Offers what the pointer says, if it is news. What is on trial and can't be used is taken back.
    async fn look(&self, seen: &mut Seen) -> Result<(), RegistryError> {
        let Some(Pointer { version, canary, .. }) = registry::champion(&self.store, &self.name).await? else {
            return Ok(());
        };
        if seen.refused.as_ref() == Some(&version) {
            return Ok(());
        }
        let mut charge = Charge { version, trial: canary.map(|canary| canary.trial) };
        let tried = charge.trial.as_ref().map(|trial| &trial.version);
        if seen.offered.as_ref() == Some(&charge) && tried.is_none_or(|version| seen.loaded.contains_key(version)) {
            return Ok(());
        }
        seen.loaded.retain(|version, _| charge.versions().any(|named| named == version));
        if let Err(reason) = self.have(&charge.version, &mut seen.loaded).await? {
            tracing::error!(version = charge.version, reason, "the champion can't be used; the model before it stays");
            self.refused.add(1, &[]);
            seen.refused = Some(charge.version);
            return Ok(());
        }
        seen.refused = None;
        if let Some(trial) = charge.trial.take() {
            match self.have(&trial.version, &mut seen.loaded).await? {
                Ok(()) => charge.trial = Some(trial),
                Err(reason) => self.take_back(&trial.version, reason).await?,
            }
        }
        if seen.offered.as_ref() != Some(&charge) {
            seen.offered = Some(charge.clone());
            self.offers.send_replace(Some(Offer { charge, loaded: seen.loaded.clone() }));
        }
        Ok(())
    }

    /// Loads the version unless it is there; the inner error says why it can't be used.
    async fn have(&self, version: &str, loaded: &mut Loaded) -> Result<Result<(), String>, RegistryError> {
        if loaded.contains_key(version) {
            return Ok(Ok(()));
        }
        Ok(self.load(version).await?.map(|scorer| drop(loaded.insert(version.to_owned(), scorer))))
    }

    async fn take_back(&self, version: &str, why: String) -> Result<(), RegistryError> {
        tracing::warn!(version, why, "what is on trial can't be used and is taken back");
        let decision = Decision { who: WHO.into(), why, when_ms: wall_now_ms() };
        match canary::take_back(&self.store, &self.name, version, decision).await {
            // Somebody has decided otherwise in the meantime.
            Err(RegistryError::NotOnTrial { .. } | RegistryError::Conflict { .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
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
