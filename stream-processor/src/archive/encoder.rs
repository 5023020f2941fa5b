//! The thread that turns segments into staged files. Polars stays off the runtime's threads.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use polars::prelude::PolarsError;
use proto::{
    ack::Incarnation,
    archive::{AgentPosition, DataObject, ObjectRef, Shard, object_key, snapshot_key},
    position::Position,
};
use tokio::sync::mpsc;

use super::{
    Segment,
    commit::{Load, Staged},
    parquet::{Encoded, encode, sha256},
    staging::{StagedFile, Staging},
};
use crate::{decode::AgentKey, panics};

/// The local disk may be full for a while.
const RETRY_MS: u64 = 1_000;

/// What of the segments of one manifest stays on this side until it is committed.
pub struct Waiting {
    pub segments: u64,
    /// In the order of the manifest's objects, then the snapshot.
    pub files: Vec<StagedFile>,
    pub positions: Arc<BTreeMap<AgentKey, Position>>,
}

impl Load for Waiting {
    fn follow(&mut self, later: Waiting) {
        self.segments += later.segments;
        // The snapshot; its room on the disk is free again.
        self.files.pop();
        self.files.extend(later.files);
        self.positions = later.positions;
    }
}

#[derive(Debug, thiserror::Error)]
enum EncodeError {
    #[error("frame: {0}")]
    Frame(#[from] PolarsError),
    #[error("the encoder panicked: {0}")]
    Panic(String),
    #[error("staging: {0}")]
    Staging(#[from] std::io::Error),
}

pub struct Encoder {
    shard: Shard,
    incarnation: Incarnation,
    staging: Arc<Staging>,
    /// Never repeated under one incarnation.
    objects: u64,
}

impl Encoder {
    pub fn new(shard: Shard, incarnation: Incarnation, staging: Arc<Staging>) -> Self {
        Encoder { shard, incarnation, staging, objects: 0 }
    }

    /// Until there is nobody left to encode for.
    pub fn run(mut self, mut segments: mpsc::Receiver<Segment>, staged: &mpsc::Sender<Staged<Waiting>>) {
        while let Some(segment) = segments.blocking_recv() {
            let Some(done) = self.until_staged(segment) else { return };
            if staged.blocking_send(done).is_err() {
                return;
            }
        }
    }

    /// A segment is not given up: nothing after it may be committed without it. None: staging has ended.
    fn until_staged(&mut self, segment: Segment) -> Option<Staged<Waiting>> {
        let mut failed = false;
        loop {
            match self.stage(&segment) {
                Ok(staged) => return staged,
                Err(error) if !failed => {
                    failed = true;
                    tracing::error!(%error, "a segment can't be staged and holds up all that follow; trying on");
                }
                Err(_) => {}
            }
            if !self.staging.wait_unless_ended(Duration::from_millis(RETRY_MS)) {
                return None;
            }
        }
    }

    fn stage(&mut self, segment: &Segment) -> Result<Option<Staged<Waiting>>, EncodeError> {
        let encoded = catch_unwind(AssertUnwindSafe(|| encode(&segment.content)))
            .map_err(|panic| EncodeError::Panic(panics::text(&*panic)))??;
        let bytes = encoded.iter().map(|f| f.bytes.len()).sum::<usize>() + segment.snapshot.len();
        if !self.staging.wait_for_room(bytes as u64) {
            return Ok(None);
        }
        let (mut objects, mut files) = (Vec::with_capacity(encoded.len()), Vec::with_capacity(encoded.len() + 1));
        for file in encoded {
            let n = self.number();
            files.push(self.write(n, &file.bytes)?);
            objects.push(self.object(n, file));
        }
        let n = self.number();
        files.push(self.write(n, &segment.snapshot)?);
        let snapshot = ObjectRef {
            key: snapshot_key(self.shard, self.incarnation, n),
            bytes: segment.snapshot.len() as u64,
            sha256: sha256(&segment.snapshot),
        };
        let balance = segment.content.balance;
        let positions = Arc::new(segment.positions.clone());
        let load = Waiting { segments: 1, files, positions };
        Ok(Some(Staged { objects, snapshot, agents: agents(&segment.positions), balance, load }))
    }

    fn number(&mut self) -> u64 {
        self.objects += 1;
        self.objects
    }

    fn write(&self, n: u64, bytes: &[u8]) -> std::io::Result<StagedFile> {
        self.staging.write(&format!("{}-{n}", self.incarnation), bytes)
    }

    fn object(&self, n: u64, file: Encoded) -> DataObject {
        let key = object_key(file.table, &file.site, &file.date, self.shard, self.incarnation, n);
        DataObject {
            table: file.table,
            object: ObjectRef { key, bytes: file.bytes.len() as u64, sha256: file.sha256 },
            rows: file.rows,
            min_time_ms: file.min_time_ms,
            max_time_ms: file.max_time_ms,
        }
    }
}

fn agents(positions: &BTreeMap<AgentKey, Position>) -> Vec<AgentPosition> {
    let agent = |(key, position): (&AgentKey, &Position)| AgentPosition {
        site: key.site.clone(),
        agent: key.agent.clone(),
        position: *position,
    };
    positions.iter().map(agent).collect()
}
