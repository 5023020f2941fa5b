//! The archive's object keys, tables and manifest: one spelling for writer and readers.
//!
//! The manifests of a shard, numbered without gaps, are the truth: an object that no manifest names is an orphan. What
//! [`compaction`] has merged since has the same rows in fewer objects. Which shards there are, [`shards`] says.

pub mod compaction;
pub mod shards;

use std::{collections::BTreeMap, ops::AddAssign};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ack::{ArchiveId, Incarnation},
    asset::AssetId,
    position::Position,
    wire::telemetry::EventKind,
};
use shards::{ShardSlots, Slots};

pub const MANIFEST_VERSION: u32 = 1;
/// Larger ones are refused unread.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a row is about; one folder of Parquet files each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    Readings,
    Features,
    Predictions,
    Alerts,
    Events,
    /// What the gateways said they have: one row per machine and sensor.
    Births,
    /// Batches that a gateway has declared as lost: one row per gap in its log.
    Gaps,
    DeadLetter,
}

impl Table {
    pub const ALL: [Table; 8] = [
        Table::Readings,
        Table::Features,
        Table::Predictions,
        Table::Alerts,
        Table::Events,
        Table::Births,
        Table::Gaps,
        Table::DeadLetter,
    ];

    pub const fn folder(self) -> &'static str {
        match self {
            Table::Readings => "readings",
            Table::Features => "features",
            Table::Predictions => "predictions",
            Table::Alerts => "alerts",
            Table::Events => "events",
            Table::Births => "births",
            Table::Gaps => "gaps",
            Table::DeadLetter => "dead-letter",
        }
    }
}

/// Column names of the tables; times are `Datetime(ms, UTC)`, that is `TIMESTAMP` to every reader of Parquet.
pub mod column {
    pub const TIME: &str = "time";
    pub const AGENT: &str = "agent";
    /// Hexadecimal.
    pub const EPOCH: &str = "epoch";
    pub const SEQ: &str = "seq";
    pub const LAST_SEQ: &str = "last_seq";
    /// Of a break: where the log goes on.
    pub const NEXT_EPOCH: &str = "next_epoch";
    pub const NEXT_SEQ: &str = "next_seq";
    pub const READINGS: &str = "readings";
    pub const MACHINE: &str = "machine";
    pub const SENSOR: &str = "sensor";
    /// As the sensor sent it, in `UNIT`.
    pub const VALUE: &str = "value";
    pub const UNIT: &str = "unit";
    /// `Quality` of the wire, u8.
    pub const QUALITY: &str = "quality";
    /// Bits of the cleaning rules, u32; 0 is clean.
    pub const FLAGS: &str = "flags";
    pub const KIND: &str = "kind";
    pub const CODE: &str = "code";
    pub const MODE: &str = "mode";
    pub const NOTE: &str = "note";
    pub const AUTHOR: &str = "author";
    pub const ALERT_ID: &str = "alert_id";
    pub const VERDICT: &str = "verdict";
    /// When the processor learnt it: training at time T sees only what was known at T. Null: nobody knows when.
    pub const KNOWN: &str = "known";
    pub const WINDOW_START: &str = "window_start";
    pub const WINDOW_END: &str = "window_end";
    pub const REVISION: &str = "revision";
    /// How often the machine's time had begun anew before this row, u32: with the machine and the time a part of what a
    /// window is. Files from before there were generations do not have it, or null when merged with newer ones: 0.
    pub const GENERATION: &str = "generation";
    pub const ID: &str = "id";
    pub const MODEL_VERSION: &str = "model_version";
    /// Who scored: `champion`, `canary`, or `shadow`, which decided nothing. Older files do not have it, or null when
    /// merged with newer ones: `champion`.
    pub const ROLE: &str = "role";
    pub const PROBABILITY: &str = "probability";
    pub const STATE: &str = "state";
    pub const SOURCE: &str = "source";
    pub const MAKE: &str = "make";
    pub const MODEL: &str = "model";
    pub const INSTALLED: &str = "installed";
    pub const RANGE_LOW: &str = "range_low";
    pub const RANGE_HIGH: &str = "range_high";
    pub const INTERVAL_MS: &str = "interval_ms";
    pub const TOPIC: &str = "topic";
    pub const PAYLOAD: &str = "payload";
    /// Of a reading why its quality is not good, `QualityReason` of the wire, u8, 0 for none, not in older files and
    /// null when they were merged with newer ones; of a gap or a dead letter a text.
    pub const REASON: &str = "reason";
}

/// Event kinds as the events table's `kind` spells them.
const EVENT_KINDS: [(EventKind, &str); 4] = [
    (EventKind::Error, "error"),
    (EventKind::Failure, "failure"),
    (EventKind::Maintenance, "maintenance"),
    (EventKind::Replacement, "replacement"),
];

/// Empty for an event of no kind.
pub fn event_kind_text(kind: EventKind) -> &'static str {
    EVENT_KINDS.iter().find(|(k, _)| *k == kind).map_or("", |(_, text)| text)
}

pub fn event_kind(text: &str) -> EventKind {
    EVENT_KINDS.iter().find(|(_, t)| *t == text).map_or(EventKind::Unspecified, |(kind, _)| *kind)
}

/// One sequence of manifests; by default one shard owns all slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u8);

impl Shard {
    /// The one that every archive begins with.
    pub const FIRST: Shard = Shard(0);
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Shard {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Shard)
    }
}

/// `archive/v1/readings/site=S/date=D/shard=NN/{incarnation:020}-{n}.parquet`: the incarnation and a number that its
/// writer never repeats, so that no two writers can form the same key.
pub fn object_key(table: Table, site: &AssetId, date: &str, shard: Shard, incarnation: Incarnation, n: u64) -> String {
    format!("archive/v1/{}/site={site}/date={date}/shard={:02}/{incarnation:020}-{n}.parquet", table.folder(), shard.0)
}

pub fn snapshot_key(shard: Shard, incarnation: Incarnation, n: u64) -> String {
    format!("{}{incarnation:020}-{n}.bin", snapshot_prefix(shard))
}

pub fn snapshot_prefix(shard: Shard) -> String {
    format!("archive/v1/snapshot/shard={:02}/", shard.0)
}

/// Incarnation and number: the order in which snapshots are written. None: the key is not a snapshot's.
pub fn snapshot_place(key: &str) -> Option<(Incarnation, u64)> {
    let (incarnation, n) = key.rsplit('/').next()?.strip_suffix(".bin")?.split_once('-')?;
    Some((incarnation.parse().ok()?, n.parse().ok()?))
}

pub fn manifest_prefix(shard: Shard) -> String {
    format!("manifest/v1/shard={:02}/", shard.0)
}

pub fn manifest_key(shard: Shard, number: u64) -> String {
    format!("{}{number:020}.json", manifest_prefix(shard))
}

/// Written and refused again at every start, to prove that the endpoint honours `If-None-Match: *`.
pub fn probe_key(shard: Shard, nonce: &str) -> String {
    format!("manifest/probe/shard={:02}/{nonce}", shard.0)
}

pub fn model_key(name: &AssetId, version: &str, file: &str) -> String {
    format!("models/{name}/{version}/{file}")
}

/// The pointer to the version in charge.
pub fn champion_key(name: &AssetId) -> String {
    format!("models/{name}/champion.json")
}

/// The episodes that every version is held against.
pub fn golden_key(name: &AssetId) -> String {
    format!("models/{name}/golden.safetensors")
}

/// What was decided about a model, in order: `number` is the pointer's after the decision, and of decisions that left the
/// pointer alone the time tells.
pub fn decision_key(name: &AssetId, number: u64, when_ms: i64, action: &str, version: &str) -> String {
    format!("{}{number:020}-{when_ms:020}-{action}-{version}.json", decision_prefix(name))
}

pub fn decision_prefix(name: &AssetId) -> String {
    format!("models/{name}/history/")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestKind {
    /// A writer begins: its number is the writer's incarnation.
    Takeover,
    Commit,
    /// Nothing new: its owner is alive.
    Renewed,
    /// A clean stop: the next writer need not wait.
    Released,
    /// The last one of its shard: what it has goes to its successors. Its number is an incarnation that wrote nothing
    /// else, so that it throws the writer out and ends the shard in one.
    Closed,
    /// The first one of a successor, numbered above its predecessors' last ones, with positions and state of its slots.
    Opened,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub key: String,
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataObject {
    pub table: Table,
    #[serde(flatten)]
    pub object: ObjectRef,
    pub rows: u64,
    /// Event time of the first and last row, ms.
    pub min_time_ms: i64,
    pub max_time_ms: i64,
}

/// Readings of one manifest: `taken = archived + dead_lettered`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub batches: u64,
    pub readings_taken: u64,
    pub readings_archived: u64,
    pub readings_dead_lettered: u64,
}

impl AddAssign for Balance {
    fn add_assign(&mut self, more: Balance) {
        self.batches += more.batches;
        self.readings_taken += more.readings_taken;
        self.readings_archived += more.readings_archived;
        self.readings_dead_lettered += more.readings_dead_lettered;
    }
}

/// Where one agent's log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPosition {
    pub site: AssetId,
    pub agent: AssetId,
    pub position: Position,
}

/// One commit. Cut whole: everything derived from the batches up to `agents`, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub archive: ArchiveId,
    pub shard: Shard,
    pub number: u64,
    pub incarnation: Incarnation,
    pub kind: ManifestKind,
    /// Stable id of the instance that wrote it.
    pub owner: String,
    /// Wall time, ms.
    pub written_ms: i64,
    pub objects: Vec<DataObject>,
    /// All agents of the shard, not only those that moved.
    pub agents: Vec<AgentPosition>,
    /// State to go on from; none before the first commit.
    pub snapshot: Option<ObjectRef>,
    pub balance: Balance,
    /// What the shard owns.
    #[serde(default = "all_slots", skip_serializing_if = "Slots::is_all")]
    pub slots: Slots,
    /// Of a closed shard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub successors: Vec<ShardSlots>,
    /// Of an opened one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predecessors: Vec<Predecessor>,
}

/// The manifest that closed a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    pub shard: Shard,
    pub number: u64,
}

fn all_slots() -> Slots {
    Slots::ALL
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest is not valid JSON of this format: {0}")]
    Json(#[from] serde_json::Error),
    #[error("manifest version {version} is not known here")]
    Version { version: u32 },
    #[error("manifest says it is number {found}, its key says {expected}")]
    Number { expected: u64, found: u64 },
    #[error("manifest of {bytes} bytes is over the limit")]
    TooLarge { bytes: usize },
}

/// A JSON record whose number is also in its key. Its version is looked at first: a newer one may have any form.
fn decode_numbered<R: DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
    known_version: u32,
    expected: u64,
    number: impl Fn(&R) -> u64,
) -> Result<R, ManifestError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    if bytes.len() > bytes_max {
        return Err(ManifestError::TooLarge { bytes: bytes.len() });
    }
    let Version { version } = serde_json::from_slice(bytes)?;
    if version != known_version {
        return Err(ManifestError::Version { version });
    }
    let record: R = serde_json::from_slice(bytes)?;
    match number(&record) {
        found if found == expected => Ok(record),
        found => Err(ManifestError::Number { expected, found }),
    }
}

impl Manifest {
    pub fn key(&self) -> String {
        manifest_key(self.shard, self.number)
    }

    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    pub fn decode(bytes: &[u8], number: u64) -> Result<Self, ManifestError> {
        decode_numbered(bytes, MANIFEST_BYTES_MAX, MANIFEST_VERSION, number, |manifest: &Manifest| manifest.number)
    }

    pub fn positions(&self) -> BTreeMap<(AssetId, AssetId), Position> {
        self.agents.iter().map(|a| ((a.site.clone(), a.agent.clone()), a.position)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{position::Epoch, time::PlantTime};

    fn manifest() -> Manifest {
        let site = AssetId::new("mill").unwrap();
        Manifest {
            version: MANIFEST_VERSION,
            archive: ArchiveId([1; 16]),
            shard: Shard(0),
            number: 3,
            incarnation: 2,
            kind: ManifestKind::Commit,
            owner: "a".into(),
            written_ms: 5,
            objects: vec![DataObject {
                table: Table::DeadLetter,
                object: ObjectRef {
                    key: object_key(Table::DeadLetter, &site, &PlantTime(0).date(), Shard(0), 2, 9),
                    bytes: 4,
                    sha256: "00".into(),
                },
                rows: 1,
                min_time_ms: 0,
                max_time_ms: 0,
            }],
            agents: vec![AgentPosition {
                agent: AssetId::new("gw").unwrap(),
                site,
                position: Position { epoch: Epoch([2; 16]), seq: 8 },
            }],
            snapshot: None,
            balance: Balance { batches: 1, readings_taken: 1, readings_archived: 0, readings_dead_lettered: 1 },
            slots: Slots::ALL,
            successors: vec![],
            predecessors: vec![],
        }
    }

    #[test]
    fn manifests_survive_json() {
        let m = manifest();
        assert_eq!(Manifest::decode(&m.encode().unwrap(), 3).unwrap(), m);
        assert!(matches!(Manifest::decode(&m.encode().unwrap(), 4), Err(ManifestError::Number { .. })));
    }

    #[test]
    fn an_unknown_version_is_refused_before_its_content_is_read() {
        assert!(matches!(
            Manifest::decode(br#"{"version": 2, "new": true}"#, 1),
            Err(ManifestError::Version { version: 2 })
        ));
    }

    #[test]
    fn event_kinds_are_read_as_they_are_written() {
        for (kind, text) in EVENT_KINDS {
            assert_eq!((event_kind(event_kind_text(kind)), event_kind_text(kind)), (kind, text));
        }
        assert_eq!(event_kind(event_kind_text(EventKind::Unspecified)), EventKind::Unspecified);
    }

    #[test]
    fn keys_are_spelt_as_the_readers_expect() {
        let m = manifest();
        assert_eq!(m.key(), "manifest/v1/shard=00/00000000000000000003.json");
        assert_eq!(
            m.objects[0].object.key,
            "archive/v1/dead-letter/site=mill/date=1970-01-01/shard=00/00000000000000000002-9.parquet"
        );
    }
}
