//! Versions of a model in S3, and the pointer to the one in charge.
//!
//! A version is written once and never changed; the pointer is changed by conditional write only, so that of two who
//! promote at the same time one is told.

use bytes::Bytes;
use proto::{
    archive::{champion_key, model_key},
    asset::AssetId,
};
use serde::{Deserialize, Serialize};

use crate::{
    score::{ArtifactError, Scorer},
    store::{PutOutcome, ReplaceOutcome, Store, StoreError},
};

/// The artefact's file name under its version.
pub const MODEL_FILE: &str = "model.safetensors";
/// What training had to say about it.
pub const REPORT_FILE: &str = "report.json";
const POINTER_BYTES_MAX: usize = 64 * 1024;

/// The pointer's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Champion {
    pub version: String,
    pub previous: Option<String>,
    pub who: String,
    pub why: String,
    /// Wall time.
    pub when_ms: i64,
}

/// Who promotes, and why; kept in the pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub who: String,
    pub why: String,
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
    Pointer { key: String, reason: String },
    #[error("somebody else promoted a version of {name} at the same time; look at it and decide again")]
    Conflict { name: AssetId },
}

/// Writes a version. Fine if it is there already: the same version scores the same.
pub async fn publish(store: &Store, name: &AssetId, version: &str, artifact: Bytes) -> Result<(), RegistryError> {
    store.put_if_absent(&model_key(name, version, MODEL_FILE), artifact).await?;
    Ok(())
}

/// Puts the report beside the version; the newest training's stays.
pub async fn publish_report(store: &Store, name: &AssetId, version: &str, json: Bytes) -> Result<(), RegistryError> {
    Ok(store.put(&model_key(name, version, REPORT_FILE), json).await?)
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

/// None: no version was ever promoted.
pub async fn champion(store: &Store, name: &AssetId) -> Result<Option<Champion>, RegistryError> {
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
pub async fn promote(
    store: &Store,
    name: &AssetId,
    version: &str,
    decision: Decision,
) -> Result<Champion, RegistryError> {
    let before = pointer(store, name).await?;
    promote_after(store, name, version, decision, before).await
}

/// [`promote`] on top of the pointer that the decision was made on; [`RegistryError::Conflict`] if it has changed.
async fn promote_after(
    store: &Store,
    name: &AssetId,
    version: &str,
    decision: Decision,
    before: Option<(Champion, String)>,
) -> Result<Champion, RegistryError> {
    load(store, name, version).await?;
    let Decision { who, why, when_ms } = decision;
    let previous = before.as_ref().map(|(champion, _)| champion.version.clone());
    let champion = Champion { version: version.into(), previous, who, why, when_ms };
    let key = champion_key(name);
    let json = serde_json::to_vec_pretty(&champion)
        .map_err(|e| RegistryError::Pointer { key: key.clone(), reason: e.to_string() })?;
    let written = match before {
        Some((_, etag)) => store.replace_if_match(&key, json.into(), &etag).await? == ReplaceOutcome::Replaced,
        None => store.put_if_absent(&key, json.into()).await? == PutOutcome::Created,
    };
    // A retried write may have met its own first try.
    if written || self::champion(store, name).await?.as_ref() == Some(&champion) {
        Ok(champion)
    } else {
        Err(RegistryError::Conflict { name: name.clone() })
    }
}

async fn pointer(store: &Store, name: &AssetId) -> Result<Option<(Champion, String)>, RegistryError> {
    let key = champion_key(name);
    let Some((bytes, etag)) = store.get_with_etag(&key).await? else { return Ok(None) };
    let bad = |reason: String| RegistryError::Pointer { key: key.clone(), reason };
    if bytes.len() > POINTER_BYTES_MAX {
        return Err(bad(format!("{} bytes are too many for a pointer", bytes.len())));
    }
    let champion: Champion = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    // It becomes part of a key.
    if AssetId::new(&champion.version).is_err() {
        return Err(bad("the version is not one".into()));
    }
    Ok(Some((champion, etag)))
}
