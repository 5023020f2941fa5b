//! What was decided about the versions of a model, by whom, when and why: objects that are written once.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proto::{
    archive::{decision_key, decision_prefix},
    asset::AssetId,
};
use serde::{Deserialize, Serialize};

use super::{Canary, Decision, RegistryError, champion};
use crate::{artifact::ModeMetrics, store::Store};

const ENTRY_BYTES_MAX: usize = 256 * 1024;
const READS_IN_FLIGHT_MAX: usize = 16;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Pointers from before there was a history say nothing else.
    #[default]
    Promoted,
    RolledBack,
    /// It was not put in charge; what was stayed.
    Refused,
    /// Another one is on trial beside it.
    Tried,
    /// What was on trial beside it is not any more.
    TakenBack,
}

impl Action {
    pub const fn text(self) -> &'static str {
        match self {
            Action::Promoted => "promoted",
            Action::RolledBack => "rolled-back",
            Action::Refused => "refused",
            Action::Tried => "tried",
            Action::TakenBack => "taken-back",
        }
    }

    pub const ALL: [Action; 5] =
        [Action::Promoted, Action::RolledBack, Action::Refused, Action::Tried, Action::TakenBack];
}

/// One decision. The newest one that changed it is the content of the pointer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the pointer: counts its changes from 1; 0 in one from before there was a history.
    #[serde(default)]
    pub number: u64,
    #[serde(default)]
    pub action: Action,
    /// In charge from here on, unless it was refused.
    pub version: String,
    /// In charge, or on trial, until then.
    pub previous: Option<String>,
    pub who: String,
    pub why: String,
    /// Wall time.
    pub when_ms: i64,
    /// Of the version, on the test slice of its training.
    #[serde(default)]
    pub metrics: Vec<ModeMetrics>,
    /// On trial beside it from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

impl Entry {
    pub(super) fn new(
        number: u64,
        action: Action,
        version: &str,
        previous: Option<String>,
        Decision { who, why, when_ms }: Decision,
        metrics: Vec<ModeMetrics>,
    ) -> Self {
        Entry { number, action, version: version.into(), previous, who, why, when_ms, metrics, canary: None }
    }

    pub(super) fn encode(&self, key: &str) -> Result<Bytes, RegistryError> {
        let json = serde_json::to_vec_pretty(self);
        json.map(Bytes::from).map_err(|e| RegistryError::Entry { key: key.into(), reason: e.to_string() })
    }

    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self, RegistryError> {
        let bad = |reason: String| RegistryError::Entry { key: key.into(), reason };
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(bad(format!("{} bytes are too many for a decision", bytes.len())));
        }
        let entry: Entry = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        // They become parts of keys.
        let is_version = |version: &String| AssetId::new(version).is_ok();
        let tried = entry.canary.as_ref().map(|canary| &canary.trial);
        let others = entry.previous.iter().chain(tried.map(|trial| &trial.version));
        if !is_version(&entry.version) || !others.into_iter().all(is_version) {
            return Err(bad("the version is not one".into()));
        }
        if tried.is_some_and(|trial| !trial.is_possible()) {
            return Err(bad("the canary's share is from 0 to below 1".into()));
        }
        Ok(entry)
    }

    fn key(&self, name: &AssetId) -> String {
        decision_key(name, self.number, self.when_ms, self.action.text(), &self.version)
    }
}

/// Every decision, the oldest first. One whose writer died before it was filed is there all the same: it is the pointer.
pub async fn history(store: &Store, name: &AssetId) -> Result<Vec<Entry>, RegistryError> {
    // The pointer first: whoever changes it in between has filed this one.
    let newest = champion(store, name).await?;
    let keys = keys(store, name).await?;
    let unfiled = newest.filter(|entry| !keys.contains(&entry.key(name)));
    let read = |key: String| async move {
        let bytes = store.get(&key).await?.ok_or_else(|| RegistryError::Missing { key: key.clone() })?;
        Entry::decode(&key, &bytes)
    };
    let reads = stream::iter(keys.into_iter().map(read)).buffered(READS_IN_FLIGHT_MAX);
    let mut entries: Vec<Entry> = reads.try_collect().await?;
    entries.extend(unfiled);
    entries.sort_by_key(|entry| entry.key(name));
    Ok(entries)
}

/// How many decisions there are of each kind; reads their names only.
pub async fn counts(store: &Store, name: &AssetId) -> Result<Vec<(Action, u64)>, RegistryError> {
    let keys = keys(store, name).await?;
    let of = |action: Action| {
        let part = format!("-{}-", action.text());
        (action, keys.iter().filter(|key| key.contains(&part)).count() as u64)
    };
    Ok(Action::ALL.map(of).into())
}

async fn keys(store: &Store, name: &AssetId) -> Result<Vec<String>, RegistryError> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = store.list(&decision_prefix(name), keys.last().map(String::as_str)).await?;
        if page.is_empty() {
            return Ok(keys);
        }
        keys.extend(page.into_iter().map(|object| object.key));
    }
}

/// Also fine if it is filed already: an entry has one key and never changes.
pub(super) async fn file(store: &Store, name: &AssetId, entry: &Entry) -> Result<(), RegistryError> {
    let key = entry.key(name);
    store.put_if_absent(&key, entry.encode(&key)?).await?;
    Ok(())
}

/// The version that was in charge when `champion`'s was promoted for the first time since it was last taken back.
pub(super) fn before(entries: &[Entry], champion: &Entry) -> Option<String> {
    let promoted = |e: &&Entry| e.action == Action::Promoted && e.version == champion.version;
    let before = entries.iter().rev().filter(promoted).find_map(|e| e.previous.clone());
    before.filter(|before| *before != champion.version)
}

/// Whether the version was in charge or on trial and taken back: what was wrong with it then is wrong with it now.
pub fn was_taken_back(entries: &[Entry], version: &str) -> bool {
    let back = |e: &Entry| matches!(e.action, Action::RolledBack | Action::TakenBack);
    entries.iter().any(|e| back(e) && e.previous.as_deref() == Some(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, action: Action, version: &str, previous: Option<&str>) -> Entry {
        let decision = Decision { who: "ann".into(), why: "a test".into(), when_ms: 5 };
        Entry::new(number, action, version, previous.map(String::from), decision, vec![])
    }

    #[test]
    fn one_rollback_after_another_goes_further_back() {
        let mut entries = vec![
            entry(1, Action::Promoted, "a", None),
            entry(2, Action::Promoted, "b", Some("a")),
            entry(2, Action::Refused, "x", Some("b")),
            entry(3, Action::Promoted, "c", Some("b")),
        ];
        assert_eq!(before(&entries, &entries[3]).as_deref(), Some("b"));
        entries.push(entry(4, Action::RolledBack, "b", Some("c")));
        assert_eq!(before(&entries, &entries[4]).as_deref(), Some("a"));
        entries.push(entry(5, Action::RolledBack, "a", Some("b")));
        assert_eq!(before(&entries, &entries[5]), None);
        assert!(was_taken_back(&entries, "c") && was_taken_back(&entries, "b") && !was_taken_back(&entries, "a"));
        entries.push(entry(6, Action::Tried, "a", Some("a")));
        entries.push(entry(7, Action::TakenBack, "a", Some("d")));
        assert!(was_taken_back(&entries, "d") && !was_taken_back(&entries, "a"));
    }

    #[test]
    fn a_pointer_from_before_there_was_a_history_is_read_and_a_wrong_one_is_not() {
        let old = br#"{"version":"a","previous":null,"who":"ann","why":"first","when_ms":1}"#;
        let entry = Entry::decode("k", old).unwrap();
        assert_eq!((entry.number, entry.action, entry.metrics.len()), (0, Action::Promoted, 0));
        let refused = |json: &str| Entry::decode("k", json.as_bytes()).unwrap_err().to_string();
        assert!(refused(r#"{"version":"../a","previous":null,"who":"","why":"","when_ms":1}"#).contains("not one"));
        assert!(refused(r#"{"version":"a","previous":"a/b","who":"","why":"","when_ms":1}"#).contains("not one"));
        assert!(refused(&" ".repeat(ENTRY_BYTES_MAX + 1)).contains("too many"));
        let tried = |version: &str, share: f64| {
            let canary = format!(r#"{{"version":"{version}","share":{share},"since_ms":1}}"#);
            format!(r#"{{"version":"a","previous":"a","who":"","why":"","when_ms":1,"canary":{canary}}}"#)
        };
        let canary = Entry::decode("k", tried("b", 0.2).as_bytes()).unwrap().canary.unwrap();
        assert_eq!((canary.trial.version.as_str(), canary.probation_hours), ("b", None));
        assert!(refused(&tried("../b", 0.2)).contains("not one") && refused(&tried("b", 1.0)).contains("share"));
    }
}
