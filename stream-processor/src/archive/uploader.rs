//! The task that does what [`Committer`] says: one shard, one uploader.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use model::store::{PutOutcome, Store, StoreError};
use proto::{
    archive::{Shard, Table, manifest_key},
    time::wall_now_ms,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    ArchiveStatus, End,
    commit::{Action, Answer, Committed, Committer, PushError, Staged},
    encoder::Waiting,
    staging::Staging,
};

pub struct Uploader {
    store: Store,
    shard: Shard,
    committer: Committer<Waiting>,
    staging: Arc<Staging>,
    status: watch::Sender<ArchiveStatus>,
    /// Segments that are not committed yet.
    segments: u64,
    /// What was said last about S3; None: all is well.
    trouble: Option<Trouble>,
    /// A segment has no way into the archive.
    failed: bool,
    /// Looked at when the last segment is here.
    release: Arc<AtomicBool>,
    /// While there is nothing to commit, so often a manifest says that the owner is alive.
    renewal: Duration,
    started: Instant,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

/// In the order in which one is worse than the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Away,
    Refuses,
}

type Outcome = Result<Answer, (Action, StoreError)>;

impl Uploader {
    pub fn new(
        store: Store,
        shard: Shard,
        committer: Committer<Waiting>,
        staging: Arc<Staging>,
        status: watch::Sender<ArchiveStatus>,
        release: Arc<AtomicBool>,
        renewal: Duration,
    ) -> Self {
        let (started, running, segments, trouble, failed) = (Instant::now(), FuturesUnordered::new(), 0, None, false);
        Uploader {
            store,
            shard,
            committer,
            staging,
            status,
            segments,
            trouble,
            failed,
            release,
            renewal,
            started,
            running,
        }
    }

    /// Until all segments are committed and there are no more, or another writer has taken over.
    pub async fn run(mut self, mut staged: mpsc::Receiver<Staged<Waiting>>) {
        let mut more = true;
        while more || self.committer.staged() > 0 {
            let Some(wake) = self.begin() else { return self.end() };
            tokio::select! {
                segment = staged.recv(), if more && self.committer.has_room() => match segment {
                    Some(segment) => {
                        self.segments += 1;
                        self.pushed(|c| c.push(segment, wall_now_ms()));
                    }
                    None => {
                        more = false;
                        if self.release.load(Ordering::Acquire) {
                            self.pushed(|c| c.release(wall_now_ms()));
                        }
                    }
                },
                Some(outcome) = self.running.next() => self.outcome(outcome),
                () = sleep_until(self.started + wake) => {}
            }
            let (bytes, segments) = (self.staging.bytes(), self.segments);
            self.status.send_if_modified(|s| {
                let changed = (s.staged_bytes, s.staged_segments) != (bytes, segments);
                (s.staged_bytes, s.staged_segments) = (bytes, segments);
                changed
            });
        }
    }

    /// Starts what is to be done now; says when to look again. None: fenced.
    fn begin(&mut self) -> Option<Duration> {
        /// Only an answer or a segment can bring news.
        const IDLE: Duration = Duration::from_secs(3600);
        let now = self.now();
        if self.committer.renews_at(self.renewal).is_some_and(|at| at <= now) {
            self.pushed(|c| c.renew(wall_now_ms()));
        }
        let mut wake = self.committer.renews_at(self.renewal).unwrap_or(now + IDLE);
        for action in self.committer.poll(now) {
            match action {
                Action::Fenced => return None,
                Action::Wait(until) => wake = until,
                action => self.running.push(self.request(action)),
            }
        }
        Some(wake)
    }

    fn request(&self, action: Action) -> BoxFuture<'static, Outcome> {
        let (store, shard) = (self.store.clone(), self.shard);
        let path = match &action {
            Action::Upload { number, object, .. } => {
                self.committer.load(*number).and_then(|l| l.files.get(*object)).map(|f| f.path().to_owned())
            }
            _ => None,
        };
        async move {
            let answer = match &action {
                Action::Upload { number, object, key } => {
                    let path = path.unwrap_or_default();
                    store.put_file(key, &path).await.map(|()| Answer::Uploaded { number: *number, object: *object })
                }
                Action::PutManifest { number, bytes } => put_manifest(&store, shard, *number, bytes.clone()).await,
                Action::ReadManifest { number } => {
                    let found = store.get(&manifest_key(shard, *number)).await;
                    found.map(|found| Answer::ManifestRead { number: *number, found })
                }
                // No requests.
                Action::Wait(_) | Action::Fenced => Ok(Answer::Failed(action.clone())),
            };
            answer.map_err(|error| (action, error))
        }
        .boxed()
    }

    fn outcome(&mut self, outcome: Outcome) {
        let now = self.now();
        let answer = match outcome {
            Ok(answer) => {
                self.up();
                answer
            }
            Err((action, error)) if error.is_of_file() => return self.give_up(&action, &error),
            Err((action, error)) => {
                self.down(&error);
                Answer::Failed(action)
            }
        };
        if let Some(committed) = self.committer.answer(now, answer) {
            self.committed(committed);
        }
    }

    fn committed(&mut self, committed: Committed<Waiting>) {
        self.segments -= committed.load.as_ref().map_or(0, |load| load.segments);
        let manifest = committed.manifest;
        let readings: u64 = manifest.objects.iter().filter(|o| o.table == Table::Readings).map(|o| o.rows).sum();
        if readings != manifest.balance.readings_archived {
            let (number, expected) = (manifest.number, manifest.balance.readings_archived);
            tracing::error!(number, readings, expected, "a manifest's readings are not those that were taken");
        }
        self.status.send_modify(|status| {
            status.manifest = manifest.number;
            if let Some(load) = &committed.load {
                status.committed_segments += load.segments;
                status.committed = load.positions.clone();
            }
        });
    }

    fn pushed(&mut self, push: impl FnOnce(&mut Committer<Waiting>) -> Result<(), PushError>) {
        if let Err(error) = push(&mut self.committer) {
            // Later segments must not be committed without it; the gateways have everything.
            tracing::error!(%error, "a segment has no place in the archive: this writer stops");
            self.failed = true;
            self.committer.stop();
        }
    }

    /// What was staged can't be read, which no other try will mend; but the gateways have everything.
    fn give_up(&mut self, action: &Action, error: &StoreError) {
        tracing::error!(?action, %error, "a staged file can't be read: this writer stops, and its next start takes all of it again");
        self.failed = true;
        self.committer.stop();
    }

    fn up(&mut self) {
        self.trouble = None;
        if self.status.send_if_modified(|s| !std::mem::replace(&mut s.up, true)) {
            tracing::info!("S3 is back");
        }
    }

    /// Said once, and again when it gets worse.
    fn down(&mut self, error: &StoreError) {
        self.status.send_if_modified(|s| std::mem::replace(&mut s.up, false));
        let trouble = if error.is_transient() { Trouble::Away } else { Trouble::Refuses };
        if self.trouble >= Some(trouble) {
            return;
        }
        self.trouble = Some(trouble);
        match trouble {
            Trouble::Away => tracing::warn!(%error, "S3 is away: segments wait in staging"),
            Trouble::Refuses => tracing::error!(%error, "S3 refuses: segments wait in staging until that is mended"),
        }
    }

    fn end(self) {
        let by = self.committer.fenced_by();
        let closed_into = by.map(|by| by.successors.clone()).unwrap_or_default();
        let end = match closed_into.is_empty() {
            _ if self.failed => End::Failed,
            true => {
                let owner = by.map_or("unknown", |by| by.owner.as_str());
                tracing::error!(owner, "another writer has taken over this shard: this one writes no more");
                End::Fenced
            }
            false => End::Closed(closed_into),
        };
        self.staging.end();
        self.status.send_modify(|s| (s.end, s.staged_segments) = (Some(end), 0));
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

async fn put_manifest(store: &Store, shard: Shard, number: u64, bytes: Bytes) -> Result<Answer, StoreError> {
    Ok(match store.put_if_absent(&manifest_key(shard, number), bytes).await? {
        PutOutcome::Created => Answer::ManifestCreated { number },
        PutOutcome::Exists => Answer::ManifestExists { number },
    })
}
