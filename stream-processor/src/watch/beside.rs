//! Fetches what lies beside the version in charge, counts what was decided about versions, and takes a version back that
//! alarms far more than the one before it.

use std::{sync::Arc, time::Duration};

use model::{
    probation,
    registry::{self, Action, Decision, RegistryError},
    score::Scorer,
    store::Store,
    watch::WatchReference,
};
use proto::{asset::AssetId, time::wall_now_ms};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{serve::board::Board, telemetry::Decisions};

/// In the history.
const WHO: &str = "processor";

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
    pub board: Board,
    /// Bumped when the pointer has changed.
    pub look_again: watch::Sender<u64>,
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

    /// Of the version in charge, if it is on probation: promoted, and the version before it worked here lately.
    async fn take_back(&mut self) -> Result<(), RegistryError> {
        let Some(report) = self.board.read().model.clone() else { return Ok(()) };
        let Some(champion) = registry::champion(&self.store, &self.name).await? else { return Ok(()) };
        let Some(before) = champion.previous.filter(|_| champion.action == Action::Promoted) else { return Ok(()) };
        let rate = |version: &str| report.rates.get(version).copied().unwrap_or_default();
        let Some(why) = probation::jump(rate(&before), rate(&champion.version)) else { return Ok(()) };
        tracing::warn!(version = champion.version, before, why, "the new version is taken back");
        let decision = Decision { who: WHO.into(), why, when_ms: wall_now_ms() };
        match registry::rollback_from(&self.store, &self.name, &champion.version, &before, decision).await {
            // Somebody has decided otherwise in the meantime.
            Err(RegistryError::Overtaken { .. } | RegistryError::Conflict { .. }) => {}
            outcome => drop(outcome?),
        }
        self.look_again.send_modify(|n| *n += 1);
        Ok(())
    }

    async fn look(&mut self) -> Result<(), RegistryError> {
        self.decisions.record(registry::history::counts(&self.store, &self.name).await?);
        self.take_back().await?;
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
