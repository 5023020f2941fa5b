//! A version on trial beside the one in charge. It stands in the pointer, so it is changed by conditional write only.
//!
//! ```text
//! try_beside ─> canary (a share of the machines) ─┬─(nothing speaks against it)─> finish ────> in charge
//!               shadow (none of them) ────────────┴─(something does)────────────> take_back ─> as it was
//! ```

use proto::asset::AssetId;
use serde::{Deserialize, Serialize};

use super::{Action, Decision, Entry, RegistryError, load, pointer, pointer_at, written};
use crate::{artifact::ModeMetrics, store::Store, trial::Trial};

/// What stands in the pointer of a version on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    #[serde(flatten)]
    pub trial: Trial,
    /// Wall time.
    pub since_ms: i64,
    /// After so many hours of plant time it is put in charge, if nothing speaks against it; none: a person decides.
    #[serde(default)]
    pub probation_hours: Option<f64>,
    /// On the test slice of its training.
    #[serde(default)]
    pub metrics: Vec<ModeMetrics>,
}

/// Puts a version on trial beside the one in charge, after it was loaded and verified. One that is on trial already gives
/// way to it. `over`: only if that version is in charge.
pub async fn try_beside(
    store: &Store,
    name: &AssetId,
    trial: Trial,
    probation_hours: Option<f64>,
    over: Option<&str>,
    decision: Decision,
) -> Result<Entry, RegistryError> {
    let before = match over {
        Some(over) => pointer_at(store, name, over).await?,
        None => pointer(store, name).await?,
    };
    let (champion, etag) = before.ok_or_else(|| RegistryError::NothingInCharge { name: name.clone() })?;
    if champion.version == trial.version || !trial.is_possible() {
        return Err(RegistryError::NoTrial { version: trial.version });
    }
    let metrics = load(store, name, &trial.version).await?.into_model().origin.metrics;
    let canary = Canary { trial, since_ms: decision.when_ms, probation_hours, metrics };
    let tried = beside(&champion, Action::Tried, champion.version.clone(), Some(canary), decision);
    written(store, name, tried, Some((champion, etag))).await
}

/// Puts what is on trial in charge, if it is this version; of none given, whichever it is.
pub async fn finish(
    store: &Store,
    name: &AssetId,
    version: Option<&str>,
    decision: Decision,
) -> Result<Entry, RegistryError> {
    let before = pointer(store, name).await?;
    let tried = on_trial(name, before.as_ref(), version)?.version.clone();
    super::change(store, name, Action::Promoted, &tried, decision, before).await
}

/// Ends the trial of this version; what is in charge stays.
pub async fn take_back(
    store: &Store,
    name: &AssetId,
    version: &str,
    decision: Decision,
) -> Result<Entry, RegistryError> {
    let before = pointer(store, name).await?;
    let tried = on_trial(name, before.as_ref(), Some(version))?.version.clone();
    let (champion, etag) = before.ok_or_else(|| RegistryError::NothingInCharge { name: name.clone() })?;
    let back = beside(&champion, Action::TakenBack, tried, None, decision);
    written(store, name, back, Some((champion, etag))).await
}

/// The version in charge stays, with its figures.
fn beside(
    champion: &Entry,
    action: Action,
    previous: String,
    canary: Option<Canary>,
    Decision { who, why, when_ms }: Decision,
) -> Entry {
    let (number, version, metrics) = (champion.number + 1, champion.version.clone(), champion.metrics.clone());
    Entry { number, action, version, previous: Some(previous), who, why, when_ms, metrics, canary }
}

fn on_trial<'a>(
    name: &AssetId,
    before: Option<&'a (Entry, String)>,
    version: Option<&str>,
) -> Result<&'a Trial, RegistryError> {
    let trial = before.and_then(|(champion, _)| champion.canary.as_ref()).map(|canary| &canary.trial);
    let is_it = |trial: &&Trial| version.is_none_or(|version| version == trial.version);
    trial
        .filter(is_it)
        .ok_or_else(|| RegistryError::NotOnTrial { name: name.clone(), version: version.map(str::to_owned) })
}
