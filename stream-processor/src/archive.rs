//! Everything derived, cut into segments and committed to S3.
//!
//! ```text
//! Pending ── Segment ──> encoder (own thread) ── staging ──> uploader (one task, rules in Committer) ──> S3
//!                        Parquet, SHA-256       local disk   objects, snapshot, then the manifest
//! ```
//!
//! A segment is committed when its manifest is in S3, and not before. What is lost on the way comes again from the
//! gateways.
//!
//! Beside the writer are the tools, each a program of its own: [`compact`], [`files`], [`verify`].

pub mod pending;
mod rows;
pub mod readings;
pub mod parquet;
pub mod staging;
pub mod commit;
pub mod recovery;
pub mod standoff;
pub mod reshard;
mod claim;
mod encoder;
mod uploader;
pub mod compact;
#[cfg(test)]
mod bucket;
pub mod files;
pub mod verify;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use model::store::{Store, StoreError, manifests::ReadError};
use proto::{
    archive::{
        ManifestError, Shard,
        shards::{InvalidChange, ShardSlots},
    },
    position::Position,
};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout_at,
};

use crate::{
    decode::AgentKey,
    stream::{StreamError, shards::carve},
};
use claim::TAKEOVER_ATTEMPTS_MAX;
use commit::Committer;
use encoder::Encoder;
use pending::SegmentContent;
use recovery::Recovered;
use reshard::ReshardError;
use staging::Staging;
use standoff::{Standoff, TAKEOVER_QUIET_SECONDS};
use uploader::Uploader;

/// Segments in memory that wait for the encoder.
const SEGMENTS_QUEUED_MAX: usize = 2;
/// A clean stop waits so long for S3.
const CLOSE_SECONDS_MAX: u64 = 4;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Folder for what waits for S3.
    pub staging: PathBuf,
    /// When so much waits, nothing more is taken from the gateways; their spools hold it.
    pub staging_bytes_max: u64,
    /// A segment is closed with so many rows, with so much in memory, about, or after so long, whatever is first.
    pub segment_rows_max: usize,
    pub segment_bytes_max: usize,
    /// Wall time.
    pub segment_seconds_max: u64,
    /// A shard of another owner is taken over when there was no new manifest for so long; an owner renews four times as
    /// often.
    pub takeover_quiet_seconds: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        ArchiveConfig {
            staging: "staging".into(),
            staging_bytes_max: 4 * 1024 * 1024 * 1024,
            segment_rows_max: 1_000_000,
            segment_bytes_max: 64 * 1024 * 1024,
            segment_seconds_max: 10,
            takeover_quiet_seconds: TAKEOVER_QUIET_SECONDS,
        }
    }
}

/// Who wants to write, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Stable id of the instance.
    pub owner: String,
    pub shard: Shard,
    /// A person knows that the owner is gone: nothing to wait for.
    pub forced: bool,
}

/// Everything between two barriers, and the state after it.
#[derive(Debug)]
pub struct Segment {
    pub content: SegmentContent,
    pub snapshot: Vec<u8>,
    /// Of all agents, not only of those that moved.
    pub positions: BTreeMap<AgentKey, Position>,
}

/// There was no room for this segment: [`Archive::room`] tells beforehand.
#[derive(Debug, thiserror::Error)]
#[error("no room for a segment")]
pub struct Full(pub Box<Segment>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    pub committed: Arc<BTreeMap<AgentKey, Position>>,
    /// Of this incarnation, in the order in which they were submitted.
    pub committed_segments: u64,
    /// Number of the newest manifest of this writer.
    pub manifest: u64,
    pub staged_bytes: u64,
    /// Encoded and not yet committed.
    pub staged_segments: u64,
    /// False: S3 does not answer as it should.
    pub up: bool,
    /// Nothing of this writer will ever be committed again.
    pub end: Option<End>,
}

/// Why a writer writes no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Another writer has taken over.
    Fenced,
    /// The shard is closed, and these have its slots.
    Closed(Vec<ShardSlots>),
    /// A segment can't be committed, by no fault of S3's. What was not comes again from the gateways.
    Failed,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(
        "the S3 endpoint of bucket `{bucket}` ignores `If-None-Match: *`: two processors could overwrite each other's \
         manifests; use one that honours it"
    )]
    NotConditional { bucket: String },
    #[error("manifest {number} was there and is gone")]
    ManifestGone { number: u64 },
    #[error("other writers were faster {TAKEOVER_ATTEMPTS_MAX} times in a row")]
    Contended,
    #[error("snapshot {key}: {reason}")]
    Snapshot { key: String, reason: &'static str },
    #[error("shard {shard} is closed: its slots have gone to {}; start processors of those", text(successors))]
    Closed { shard: Shard, successors: Vec<ShardSlots> },
    #[error(transparent)]
    Layout(#[from] InvalidChange),
    #[error(transparent)]
    Reshard(#[from] ReshardError),
    #[error("the state of the predecessors can't be divided: {0}")]
    Carve(#[from] StreamError),
    #[error("staging folder {}: {reason}", folder.display())]
    Staging { folder: PathBuf, reason: io::Error },
    #[error("the encoder's thread can't be started: {0}")]
    Thread(io::Error),
}

/// For people.
pub fn text(successors: &[ShardSlots]) -> String {
    let one = |s: &ShardSlots| format!("shard {} (slots {})", s.shard, s.slots);
    successors.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The one writer of a shard.
pub struct Archive {
    /// None: closed.
    segments: Option<mpsc::Sender<Segment>>,
    staging: Arc<Staging>,
    status: watch::Receiver<ArchiveStatus>,
    release: Arc<AtomicBool>,
    uploader: JoinHandle<()>,
}

impl Archive {
    /// Takes the shard over from whoever had it, as soon as it may.
    pub async fn open(
        store: Store,
        config: &ArchiveConfig,
        claimant: &Claimant,
    ) -> Result<(Archive, Recovered), ArchiveError> {
        let Claimant { owner, shard, forced } = claimant;
        let (shard, quiet) = (*shard, Duration::from_secs(config.takeover_quiet_seconds));
        claim::prove_conditional(&store, shard).await?;
        let failed = |reason| ArchiveError::Staging { folder: config.staging.clone(), reason };
        let staging = Staging::open(&config.staging, shard, config.staging_bytes_max).map_err(failed)?;
        reshard::work::ensure_open(&store, shard, owner, carve).await?;
        let standoff = Standoff::new(owner, quiet, staging.last_incarnation(), *forced);
        let takeover = claim::take_over(&store, shard, owner, standoff).await?;
        staging.remember_incarnation(takeover.incarnation).map_err(failed)?;
        let snapshot = claim::snapshot(&store, &takeover).await?;
        let recovered = Recovered::new(&takeover, snapshot);
        tracing::info!(incarnation = recovered.incarnation, archive = %recovered.archive_id, "the archive is ours");

        let (segments, queued) = mpsc::channel(SEGMENTS_QUEUED_MAX);
        let (staged, staged_in) = mpsc::channel(1);
        let (status_out, status) = watch::channel(ArchiveStatus {
            committed: Arc::new(recovered.positions.clone()),
            manifest: takeover.number,
            up: true,
            ..ArchiveStatus::default()
        });
        let encoder = Encoder::new(shard, recovered.incarnation, staging.clone());
        std::thread::Builder::new()
            .name("archive-encoder".into())
            .spawn(move || encoder.run(queued, &staged))
            .map_err(ArchiveError::Thread)?;
        let release = Arc::new(AtomicBool::new(false));
        let committer = Committer::new(takeover);
        let (staged_here, renewal) = (staging.clone(), standoff::renewal(quiet));
        let uploader = Uploader::new(store, shard, committer, staged_here, status_out, release.clone(), renewal);
        let uploader = tokio::spawn(uploader.run(staged_in));
        Ok((Archive { segments: Some(segments), staging, status, release, uploader }, recovered))
    }

    /// Never blocks. Refused only if there was no [`Archive::room`].
    pub fn submit(&self, segment: Segment) -> Result<(), Full> {
        match &self.segments {
            Some(segments) => segments.try_send(segment).map_err(|e| Full(Box::new(e.into_inner()))),
            None => Err(Full(Box::new(segment))),
        }
    }

    /// May the engine go on? No: staging is full, its segments are not encoded yet, or this writer has ended.
    pub fn room(&self) -> bool {
        let queue = self.segments.as_ref().map_or(0, mpsc::Sender::capacity);
        queue > 0 && self.staging.has_room()
    }

    pub fn status(&self) -> watch::Receiver<ArchiveStatus> {
        self.status.clone()
    }

    /// [`Self::close_by`], with the usual patience.
    pub async fn close(&mut self, released: bool) {
        self.close_by(released, Instant::now() + Duration::from_secs(CLOSE_SECONDS_MAX)).await;
    }

    /// Commits what was submitted, if S3 lets it until then; the status tells how far that came. Nothing can be
    /// submitted any more. `released`: the next writer need not wait.
    pub async fn close_by(&mut self, released: bool, until: Instant) {
        self.release.store(released, Ordering::Release);
        self.segments = None;
        match timeout_at(until.into(), &mut self.uploader).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "the uploader ended badly"),
            Err(_) => {
                self.uploader.abort();
                let segments = self.status.borrow().staged_segments;
                tracing::warn!(segments, "stopped before all was committed: the gateways will send it again");
            }
        }
        self.staging.end();
    }
}

#[cfg(test)]
mod tests;
