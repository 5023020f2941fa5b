//! Versions of a model in S3, the pointer to the one in charge, and the history of both.
//!
//! A version is written once and never changed; the pointer is changed by conditional write only, so that of two who
//! promote at the same time one is told.
//!
//! ```text
//! the pointer's entry ─(1: put if absent)─> history
//! pointer n ──────────(2: if unchanged)───> pointer n+1 ─(3: put if absent)─> history
//! ```
//!
//! The pointer is itself the newest entry of the history, and nobody changes it before its entry is filed. So a crash
//! between any two of the steps loses nothing, and the history tells of nothing that did not happen.

pub mod canary;
pub mod history;

use bytes::Bytes;
use proto::{
    archive::{champion_key, golden_key, model_key},
    asset::AssetId,
};

use crate::{
    drift::ReferenceError,
    gate::{Comparison, golden::Golden},
    score::{ArtifactError, Scorer},
    store::{PutOutcome, ReplaceOutcome, Store, StoreError},
    watch::WatchReference,
};
pub use canary::Canary;
pub use history::{Action, Entry, history};

/// The artefact's file name under its version.
pub const MODEL_FILE: &str = "model.safetensors";
/// What training had to say about it.
pub const REPORT_FILE: &str = "report.json";
/// The golden set of a plant that has changed, beside the first version made for it and those after.
const GOLDEN_FILE: &str = "golden.safetensors";
/// What it is watched by.
pub const WATCH_FILE: &str = "watch.json";
/// How it compared with the one in charge, when it was last held against it.
pub const COMPARISON_FILE: &str = "comparison.json";

/// Who decides, and why; kept in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub who: String,
    pub why: String,
    /// Wall time.
    pub when_ms: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key}: {error}")]
    Artifact { key: String, error: ArtifactError },
    #[error("{key} does not exist")]
    Missing { key: String },
    #[error("{key}: {reason}")]
    Entry { key: String, reason: String },
    #[error("somebody else promoted a version of {name} at the same time; look at it and decide again")]
    Conflict { name: AssetId },
    #[error("{} is in charge of {name} and not {expected}; look at it and decide again", .found.as_deref().unwrap_or("none"))]
    Overtaken { name: AssetId, expected: String, found: Option<String> },
    #[error("there is no version of {name} before the one in charge")]
    NothingBefore { name: AssetId },
    #[error("no version of {name} is in charge that another one could be tried beside")]
    NothingInCharge { name: AssetId },
    #[error("{} of {name} is on trial", .version.as_deref().map_or("nothing".into(), |v| format!("no version {v}")))]
    NotOnTrial { name: AssetId, version: Option<String> },
    #[error("{version} can't be tried: it is in charge, or its share is not from 0 to below 1")]
    NoTrial { version: String },
}

/// Writes a version. Fine if it is there already: the same version scores the same.
pub async fn publish(store: &Store, name: &AssetId, version: &str, artifact: Bytes) -> Result<(), RegistryError> {
    store.put_if_absent(&model_key(name, version, MODEL_FILE), artifact).await?;
    Ok(())
}

/// Puts a file beside the version; the newest one stays.
pub async fn publish_beside(
    store: &Store,
    name: &AssetId,
    version: &str,
    file: &str,
    json: Bytes,
) -> Result<(), RegistryError> {
    Ok(store.put(&model_key(name, version, file), json).await?)
}

/// What lies beside a version for those who watch it; none: it is from before there was such a thing.
pub async fn watched_by(store: &Store, name: &AssetId, version: &str) -> Result<Option<WatchReference>, RegistryError> {
    let key = model_key(name, version, WATCH_FILE);
    let Some(bytes) = store.get(&key).await? else { return Ok(None) };
    let bad = |e: ReferenceError| RegistryError::Entry { key: key.clone(), reason: e.to_string() };
    WatchReference::decode(&bytes).map(Some).map_err(bad)
}

/// What the gate found of a version; none: it never had to pass it.
pub async fn compared(store: &Store, name: &AssetId, version: &str) -> Result<Option<Comparison>, RegistryError> {
    let key = model_key(name, version, COMPARISON_FILE);
    let Some(bytes) = store.get(&key).await? else { return Ok(None) };
    let bad = |e: serde_json::Error| RegistryError::Entry { key: key.clone(), reason: e.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(bad)
}

/// A verified version.
pub async fn load(store: &Store, name: &AssetId, version: &str) -> Result<Scorer, RegistryError> {
    let key = model_key(name, version, MODEL_FILE);
    let bytes = store.get(&key).await?.ok_or_else(|| RegistryError::Missing { key: key.clone() })?;
    let scorer = Scorer::from_artifact(&bytes).map_err(|error| RegistryError::Artifact { key: key.clone(), error })?;
    if scorer.version() != version {
        let error = ArtifactError::Version { says: version.into(), is: scorer.version().into() };
        return Err(RegistryError::Artifact { key, error });
    }
    Ok(scorer)
}

/// `golden` becomes the golden set, if there is none yet.
pub async fn freeze(store: &Store, name: &AssetId, golden: &Golden) -> Result<(), RegistryError> {
    put_golden(store, golden_key(name), golden).await
}

/// The golden set that goes with a version: from it on, since the plant has changed; or handed on since then.
pub async fn freeze_beside(store: &Store, name: &AssetId, version: &str, golden: &Golden) -> Result<(), RegistryError> {
    put_golden(store, model_key(name, version, GOLDEN_FILE), golden).await
}

async fn put_golden(store: &Store, key: String, golden: &Golden) -> Result<(), RegistryError> {
    let encoded = golden.encode().map_err(|error| RegistryError::Artifact { key: key.clone(), error })?;
    store.put_if_absent(&key, encoded.into()).await?;
    Ok(())
}

/// What a challenger of this version is held against: its own golden set, or the first. None: nothing was frozen yet.
pub async fn frozen(store: &Store, name: &AssetId, version: &str) -> Result<Option<Golden>, RegistryError> {
    for key in [model_key(name, version, GOLDEN_FILE), golden_key(name)] {
        if let Some(bytes) = store.get(&key).await? {
            return Golden::decode(&bytes).map(Some).map_err(|error| RegistryError::Artifact { key, error });
        }
    }
    Ok(None)
}

/// The decision that put a version in charge. None: no version was ever promoted.
pub async fn champion(store: &Store, name: &AssetId) -> Result<Option<Entry>, RegistryError> {
    Ok(pointer(store, name).await?.map(|(champion, _)| champion))
}

/// The version in charge, verified. None: none was ever promoted.
pub async fn load_champion(store: &Store, name: &AssetId) -> Result<Option<Scorer>, RegistryError> {
    match champion(store, name).await? {
        Some(champion) => Ok(Some(load(store, name, &champion.version).await?)),
        None => Ok(None),
    }
}

/// Puts a version in charge after it was loaded and verified once more.
pub async fn promote(store: &Store, name: &AssetId, version: &str, decision: Decision) -> Result<Entry, RegistryError> {
    let before = pointer(store, name).await?;
    change(store, name, Action::Promoted, version, decision, before).await
}

/// [`promote`] only if the version that the candidate was compared with is still in charge.
pub async fn promote_over(
    store: &Store,
    name: &AssetId,
    version: &str,
    over: &str,
    decision: Decision,
) -> Result<Entry, RegistryError> {
    let before = pointer_at(store, name, over).await?;
    change(store, name, Action::Promoted, version, decision, before).await
}

/// Puts `to` in charge again in place of `version`, if that still is.
pub async fn rollback_from(
    store: &Store,
    name: &AssetId,
    version: &str,
    to: &str,
    decision: Decision,
) -> Result<Entry, RegistryError> {
    let before = pointer_at(store, name, version).await?;
    change(store, name, Action::RolledBack, to, decision, before).await
}

/// [`RegistryError::Overtaken`] if another version than `expected` is in charge.
async fn pointer_at(store: &Store, name: &AssetId, expected: &str) -> Result<Option<(Entry, String)>, RegistryError> {
    let before = pointer(store, name).await?;
    let found = before.as_ref().map(|(champion, _)| champion.version.clone());
    match found.as_deref() == Some(expected) {
        true => Ok(before),
        false => Err(RegistryError::Overtaken { name: name.clone(), expected: expected.into(), found }),
    }
}

/// Ends the trial of a version, if one is on trial; or puts the version in charge again that was before the one in charge,
/// or `to`. One rollback after another goes further back, and not to and fro.
pub async fn rollback(
    store: &Store,
    name: &AssetId,
    to: Option<&str>,
    decision: Decision,
) -> Result<Entry, RegistryError> {
    let before = pointer(store, name).await?;
    let nothing = || RegistryError::NothingBefore { name: name.clone() };
    let (champion, _) = before.as_ref().ok_or_else(nothing)?;
    if let (None, Some(canary)) = (to, &champion.canary) {
        return canary::take_back(store, name, &canary.trial.version, decision).await;
    }
    let target = match to {
        Some(version) => version.to_owned(),
        None => history::before(&history(store, name).await?, champion).ok_or_else(nothing)?,
    };
    change(store, name, Action::RolledBack, &target, decision, before).await
}

/// Writes down that `version` was not put in charge, and why; the pointer stays as it is.
pub async fn refuse(store: &Store, name: &AssetId, version: &str, decision: Decision) -> Result<Entry, RegistryError> {
    let champion = champion(store, name).await?;
    // A candidate may be refused before it is anything that can be loaded.
    let metrics = match load(store, name, version).await {
        Ok(scorer) => scorer.into_model().origin.metrics,
        Err(RegistryError::Missing { .. } | RegistryError::Artifact { .. }) => vec![],
        Err(e) => return Err(e),
    };
    let number = champion.as_ref().map_or(0, |c| c.number);
    let previous = champion.map(|c| c.version);
    let entry = Entry::new(number, Action::Refused, version, previous, decision, metrics);
    history::file(store, name, &entry).await?;
    Ok(entry)
}

/// A change on top of the pointer that it was decided on; [`RegistryError::Conflict`] if that has changed.
async fn change(
    store: &Store,
    name: &AssetId,
    action: Action,
    version: &str,
    decision: Decision,
    before: Option<(Entry, String)>,
) -> Result<Entry, RegistryError> {
    let metrics = load(store, name, version).await?.into_model().origin.metrics;
    let number = before.as_ref().map_or(0, |(champion, _)| champion.number) + 1;
    let previous = before.as_ref().map(|(champion, _)| champion.version.clone());
    written(store, name, Entry::new(number, action, version, previous, decision, metrics), before).await
}

/// The three steps of a change.
async fn written(
    store: &Store,
    name: &AssetId,
    champion: Entry,
    before: Option<(Entry, String)>,
) -> Result<Entry, RegistryError> {
    if let Some((before, _)) = &before {
        history::file(store, name, before).await?;
    }
    let key = champion_key(name);
    let json = champion.encode(&key)?;
    let written = match before {
        Some((_, etag)) => store.replace_if_match(&key, json, &etag).await? == ReplaceOutcome::Replaced,
        None => store.put_if_absent(&key, json).await? == PutOutcome::Created,
    };
    // A retried write may have met its own first try.
    if !written && self::champion(store, name).await?.as_ref() != Some(&champion) {
        return Err(RegistryError::Conflict { name: name.clone() });
    }
    history::file(store, name, &champion).await?;
    Ok(champion)
}

async fn pointer(store: &Store, name: &AssetId) -> Result<Option<(Entry, String)>, RegistryError> {
    let key = champion_key(name);
    let Some((bytes, etag)) = store.get_with_etag(&key).await? else { return Ok(None) };
    Ok(Some((Entry::decode(&key, &bytes)?, etag)))
}
