//! Fetches what lies beside the version in charge, counts what was decided about versions, ends trials, and takes a version
//! back that alarms far more than the one before it.

use std::{sync::Arc, time::Duration};

use model::{
    gate::Comparison,
    probation::{self, Rate},
    registry::{self, Action, Canary, Decision, Entry, RegistryError, canary},
    score::Scorer,
    store::Store,
    trial::Outcome,
    watch::WatchReference,
};
use proto::{asset::AssetId, time::wall_now_ms};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::ModelReport;
use crate::{serve::board::Board, telemetry::Decisions};

/// In the history.
pub const WHO: &str = "processor";

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

    /// Ends a trial if it is to end; else takes the version in charge back, if it was promoted over another one that worked
    /// here lately, and alarms far more than that.
    async fn decide(&self) -> Result<(), RegistryError> {
        let Some(report) = self.board.read().model.clone() else { return Ok(()) };
        let Some(champion) = registry::champion(&self.store, &self.name).await? else { return Ok(()) };
        let decided = match (&champion.canary, &champion.previous) {
            (Some(canary), _) => self.end_trial(&report, canary, &champion.why).await,
            (None, Some(before)) if champion.action == Action::Promoted => {
                self.take_back(&report, &champion.version, before).await
            }
            _ => return Ok(()),
        };
        match decided {
            Ok(None) => {}
            Ok(Some(_)) => self.look_again.send_modify(|n| *n += 1),
            // Somebody has decided otherwise in the meantime.
            Err(
                RegistryError::Overtaken { .. } | RegistryError::Conflict { .. } | RegistryError::NotOnTrial { .. },
            ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `why_tried`: goes with a version that is put in charge.
    async fn end_trial(
        &self,
        report: &ModelReport,
        canary: &Canary,
        why_tried: &str,
    ) -> Result<Option<Entry>, RegistryError> {
        let Some(watched) = report.trial.as_ref().filter(|watched| watched.trial == canary.trial) else {
            return Ok(None);
        };
        let version = watched.trial.version.as_str();
        let expected = self.expected(version).await?;
        match watched.outcome(canary.probation_hours, expected, report.other_plant) {
            Outcome::GoesOn => Ok(None),
            Outcome::Passes(why) => {
                tracing::info!(version, why, "the version on trial is put in charge");
                let decision = decision(format!("{why}; {why_tried}"));
                canary::finish(&self.store, &self.name, Some(version), decision).await.map(Some)
            }
            Outcome::Fails(why) => {
                tracing::warn!(version, why, "the version on trial is taken back");
                canary::take_back(&self.store, &self.name, version, decision(why)).await.map(Some)
            }
        }
    }

    /// How often the gate saw this version alert.
    async fn expected(&self, version: &str) -> Result<Option<Rate>, RegistryError> {
        let compared = registry::compared(&self.store, &self.name, version).await?;
        Ok(compared.as_ref().map(Comparison::alert_rate))
    }

    async fn take_back(
        &self,
        report: &ModelReport,
        version: &str,
        before: &str,
    ) -> Result<Option<Entry>, RegistryError> {
        let rate = |version: &str| report.rates.get(version).copied().unwrap_or_default();
        let expected = self.expected(version).await?;
        let Some(why) = probation::jump(rate(before), expected, rate(version)) else { return Ok(None) };
        tracing::warn!(version, before, why, "the new version is taken back");
        registry::rollback_from(&self.store, &self.name, version, before, decision(why)).await.map(Some)
    }

    async fn look(&mut self) -> Result<(), RegistryError> {
        self.decisions.record(registry::history::counts(&self.store, &self.name).await?);
        self.decide().await?;
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

fn decision(why: String) -> Decision {
    Decision { who: WHO.into(), why, when_ms: wall_now_ms() }
}
