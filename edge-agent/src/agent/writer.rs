//! The thread that owns the spool: seals batches, commits them in groups, frees what is committed.
//! It alone waits for the disk, and no task of the runtime waits for it but through its bounded queues.
//!
//! A group is committed at once if none was for `spool.group_ms`, else when that time is over or it is large: a lone batch
//! is not kept waiting, and many small ones do not wear out the flash.
//!
//! A disk that fails is tried again and again. For a moment the bounded queue of batches stops sampling; after that
//! batches are kept in memory, and are sent from there, until they can be written. What the archive has is freed all
//! the same, since a full disk recovers in no other way.

use std::{io, sync::Arc, thread, time::Duration};

use proto::{asset::AssetId, position::Position, telemetry::Frame, time::PlantTime, wire::telemetry::TelemetryBatch};
use tokio::{
    runtime,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

mod handover;

use super::{
    progress::{AgentProgress, Medium},
    watchdog::Beats,
};
use crate::{
    spool::{Loss, Losses, Spool, SpoolConfig, SpoolError, disk::DiskWork},
    telemetry::Metrics,
};
use handover::Handover;

const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A disk that fails for so long is not waited for any more.
const RING_AFTER: Duration = Duration::from_secs(5);

/// For the next place in the log.
#[derive(Debug)]
pub struct SealedBatch {
    pub batch: Box<TelemetryBatch>,
    pub readings: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum WriterRequest {
    /// An ack says that this is in the archive.
    Free(Position),
    /// This frame can't be read back.
    Mend(Position),
    /// The broker refuses this frame again and again.
    Quarantine(Position),
    /// Keep to these bounds from now on.
    Reconfigure(SpoolConfig),
}

pub struct Writer {
    spool: Spool,
    metrics: Metrics,
    /// Of what was appended, visible or not.
    appended: AgentProgress,
    /// Of what is durable.
    written: AgentProgress,
    progress: watch::Sender<AgentProgress>,
    /// Already in the metrics.
    counted: Losses,
    counted_work: DiskWork,
    stop: CancellationToken,
    beats: Arc<Beats>,
    committed_at: Option<Instant>,
    /// When the group that waits is to be committed; None: none waits.
    due: Option<Instant>,
    /// The last commit did not succeed.
    failing: Option<Failing>,
    handover: Handover,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    /// Batches are taken all the same, and kept in memory.
    in_memory: bool,
}

/// What the writer was woken by.
#[derive(Debug)]
enum Wake {
    Request(WriterRequest),
    Batch(SealedBatch),
    Due,
    /// There is no one to send batches.
    End,
}

impl Writer {
    /// After `stop`, a disk that fails is not waited for any more.
    pub fn new(spool: Spool, metrics: Metrics, stop: CancellationToken) -> (Self, watch::Receiver<AgentProgress>) {
        let none = AgentProgress {
            plant_time: spool.sealed().unwrap_or(PlantTime::MIN),
            readings_sealed: 0,
            batches: 0,
            durable: spool.log().lock().last(),
            committed: None,
            backlog_bytes: 0,
            medium: Medium::Disk,
        };
        let mut writer = Writer {
            spool,
            metrics,
            appended: none,
            written: none,
            progress: watch::Sender::new(none),
            counted: Losses::default(),
            counted_work: DiskWork::default(),
            stop,
            beats: Arc::default(),
            committed_at: None,
            due: None,
            failing: None,
            handover: Handover::default(),
        };
        writer.report();
        let progress = writer.progress.subscribe();
        (writer, progress)
    }

    /// Shows that it goes on.
    pub fn beats(&self) -> Arc<Beats> {
        self.beats.clone()
    }

    pub fn spawn(
        self,
        agent: &AssetId,
        batches: mpsc::Receiver<SealedBatch>,
        requests: mpsc::Receiver<WriterRequest>,
    ) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let run = move || runtime.block_on(self.run(batches, requests));
        thread::Builder::new().name(format!("spool-{agent}")).spawn(run).map(drop)
    }

    /// Runs until there is no one to send batches.
    pub async fn run(mut self, mut batches: mpsc::Receiver<SealedBatch>, mut requests: mpsc::Receiver<WriterRequest>) {
        loop {
            let wake = self.wake(&mut batches, &mut requests).await;
            let ends = matches!(wake, Wake::End) || self.hands_over();
            let commits = self.commits_after(&wake);
            let waits = !commits && matches!(wake, Wake::Batch(_)) && !self.is_in_memory();
            match wake {
                Wake::Request(request) => self.take(request),
                Wake::Batch(batch) => self.append(&batch),
                Wake::Due | Wake::End => {}
            }
            let committed = if commits { self.commit() } else { Ok(()) };
            if self.is_in_memory() {
                self.spool.hold();
            }
            if !waits {
                self.report();
            }
            self.beats.written(self.appended.batches, self.failing.is_some() && !self.is_in_memory());
            if ends {
                if let Err(error) = committed {
                    let Loss { batches, readings } = self.spool.waiting();
                    tracing::error!(%error, batches, readings, "stopping with batches that could not be written");
                }
                return;
            }
        }
    }

    /// Batches first, so that a group takes all that are there; what is freed before them.
    async fn wake(
        &mut self,
        batches: &mut mpsc::Receiver<SealedBatch>,
        requests: &mut mpsc::Receiver<WriterRequest>,
    ) -> Wake {
        let (failing, in_memory) = (self.failing.is_some(), self.is_in_memory());
        let takes = if failing { in_memory && !self.handover.is_on() } else { !self.spool.group_is_full() };
        tokio::select! {
            biased;
            Some(request) = requests.recv() => Wake::Request(request),
            () = self.stop.cancelled(), if failing && !in_memory => Wake::Due,
            batch = batches.recv(), if takes => batch.map_or(Wake::End, Wake::Batch),
            () = sleep_until(self.due.unwrap_or_else(Instant::now)), if self.due.is_some() => Wake::Due,
        }
    }

    /// While the disk fails not with each batch, since the disk may take its time to fail; but in time.
    fn commits_after(&self, wake: &Wake) -> bool {
        let late = || self.failing.is_some() && self.due.is_some_and(|due| due <= Instant::now());
        matches!(wake, Wake::Due | Wake::End) || late()
    }

    fn hands_over(&mut self) -> bool {
        let spool = &self.spool;
        let ends =
            self.is_in_memory() && self.handover.turn(Instant::now(), spool.is_written(), || spool.disk().is_back());
        if ends {
            tracing::info!("the archive has what was in memory: ending for a start that has the disk");
        }
        ends
    }

    fn is_in_memory(&self) -> bool {
        self.failing.is_some_and(|failing| failing.in_memory)
    }

    fn take(&mut self, request: WriterRequest) {
        let outcome = match request {
            WriterRequest::Free(committed) => self.spool.free(committed),
            WriterRequest::Mend(position) => self.spool.mend(position),
            WriterRequest::Quarantine(position) => self.spool.quarantine(position),
            WriterRequest::Reconfigure(config) => {
                self.spool.reconfigure(config);
                Ok(())
            }
        };
        // While the disk fails, that has been said.
        if let Err(error) = outcome
            && self.failing.is_none()
        {
            tracing::warn!(%error, "the spool could not be tidied; it will be with the next ack");
        }
    }

    fn append(&mut self, SealedBatch { batch, readings }: &SealedBatch) {
        let (position, previous) = self.spool.next();
        let sealed = PlantTime(batch.sealed.as_ref().map_or(0, |s| s.time_ms));
        self.spool.append(&Frame::seal(position, previous, *readings, batch), sealed);
        self.appended.plant_time = sealed;
        self.appended.readings_sealed += u64::from(*readings);
        self.appended.batches += 1;
        self.metrics.readings_sealed.add(u64::from(*readings), &self.metrics.agent);
        self.metrics.batches_sealed.add(1, &self.metrics.agent);
        if self.failing.is_none() {
            let now = Instant::now();
            let next = self.committed_at.map_or(now, |at| at + self.spool.config().group_after);
            let due = if self.spool.group_is_large() { now } else { next };
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
        }
    }

    fn commit(&mut self) -> Result<(), SpoolError> {
        let now = Instant::now();
        if self.failing.is_some() && self.spool.is_written() {
            // The archive has it all, which says nothing about the disk.
            self.due = Some(now + RETRY_AFTER);
            return Ok(());
        }
        let committed = self.spool.commit();
        self.committed_at = Some(now);
        match &committed {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!("batches can be written again");
                }
                self.due = None;
                self.written = AgentProgress { durable: self.spool.log().lock().last(), ..self.appended };
            }
            Err(error) => {
                self.due = Some(now + RETRY_AFTER);
                if self.failing.is_none() {
                    tracing::warn!(%error, "batches can't be written; trying again");
                }
                let failing = self.failing.get_or_insert(Failing { since: now, in_memory: false });
                let waited = now - failing.since >= RING_AFTER || self.stop.is_cancelled();
                if waited && !failing.in_memory {
                    tracing::error!(%error, "batches still can't be written; they are kept in memory only");
                    failing.in_memory = true;
                }
            }
        }
        committed
    }

    fn report(&mut self) {
        let log = self.spool.log();
        let log = log.lock();
        let (committed, backlog_bytes, frames) = (log.committed(), log.bytes(), log.frames());
        drop(log);
        let medium = match self.is_in_memory() {
            false => Medium::Disk,
            true if self.spool.ring_is_short() => Medium::ScarceMemory,
            true => Medium::Memory,
        };
        self.metrics.backlog_bytes.record(backlog_bytes, &self.metrics.agent);
        self.metrics.spool_bytes.record(self.spool.bytes(), &self.metrics.agent);
        self.metrics.spool_frames.record(frames, &self.metrics.agent);
        self.metrics.spool_in_memory.record((medium != Medium::Disk).into(), &self.metrics.agent);
        self.metrics.sealed_time.record(self.written.plant_time.millis() as f64 / 1e3, &self.metrics.agent);
        self.count_losses();
        self.count_work();
        // It reads the disk, so not at each ack.
        if self.written.batches != self.progress.borrow().batches
            && let Some(age) = self.spool.backlog_age()
        {
            self.metrics.spool_age.record(age.as_secs_f64(), &self.metrics.agent);
        }
        self.progress.send_replace(AgentProgress { committed, backlog_bytes, medium, ..self.written });
    }

    fn count_losses(&mut self) {
        let (now, before) = (self.spool.losses(), std::mem::replace(&mut self.counted, self.spool.losses()));
        let count = |reason, now: Loss, before: Loss| {
            let reason = self.metrics.with("reason", reason);
            self.metrics.batches_lost.add(now.batches - before.batches, &reason);
            self.metrics.readings_lost.add(now.readings - before.readings, &reason);
        };
        count("evicted", now.evicted, before.evicted);
        count("damaged", now.damaged, before.damaged);
        count("quarantined", now.quarantined, before.quarantined);
        self.metrics.spool_evictions.add(now.segments_evicted - before.segments_evicted, &self.metrics.agent);
        self.metrics.spool_set_aside.add(now.segments_set_aside - before.segments_set_aside, &self.metrics.agent);
    }

    fn count_work(&mut self) {
        let (now, before) = (self.spool.work(), std::mem::replace(&mut self.counted_work, self.spool.work()));
        self.metrics.spool_syncs.add(now.syncs - before.syncs, &self.metrics.agent);
        self.metrics.spool_written_bytes.add(now.bytes_written - before.bytes_written, &self.metrics.agent);
    }
}

#[cfg(test)]
mod tests;
