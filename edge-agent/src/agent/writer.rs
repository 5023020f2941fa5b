//! The thread that owns the spool: seals batches, commits them in groups, frees what is committed.
//! It alone waits for the disk, and no task of the runtime waits for it but through its bounded queues.
//!
//! A disk that fails is tried again and again. What was sampled stays in memory meanwhile, and the bounded queue of
//! batches stops sampling; what the archive has is freed all the same, since a full disk recovers in no other way.

use std::{io, sync::Arc, thread, time::Duration};

use proto::{asset::AssetId, position::Position, telemetry::Frame, time::PlantTime, wire::telemetry::TelemetryBatch};
use tokio::{
    runtime,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{AgentProgress, watchdog::Beats};
use crate::{
    spool::{
        Loss, Losses, Spool, SpoolConfig, SpoolError,
        disk::{Disk, DiskWork},
    },
    telemetry::Metrics,
};

const RETRY_AFTER: Duration = Duration::from_millis(500);

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

pub struct Writer<D> {
    spool: Spool<D>,
    metrics: Metrics,
    /// Of what was appended, visible or not.
    appended: AgentProgress,
    progress: watch::Sender<AgentProgress>,
    /// Already in the metrics.
    counted: Losses,
    counted_work: DiskWork,
    stop: CancellationToken,
    beats: Arc<Beats>,
    /// The last commit did not succeed.
    failing: bool,
}

impl<D: Disk> Writer<D> {
    /// After `stop`, a disk that fails is not waited for any more.
    pub fn new(spool: Spool<D>, metrics: Metrics, stop: CancellationToken) -> (Self, watch::Receiver<AgentProgress>) {
        let appended = AgentProgress {
            plant_time: spool.sealed().unwrap_or(PlantTime::MIN),
            readings_sealed: 0,
            batches: 0,
            durable: None,
            committed: None,
            backlog_bytes: 0,
        };
        let (progress, counted) = (watch::Sender::new(appended), Losses::default());
        let counted_work = DiskWork::default();
        let beats = Arc::default();
        let mut writer =
            Writer { spool, metrics, appended, progress, counted, counted_work, stop, beats, failing: false };
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
            tokio::select! {
                biased;
                Some(request) = requests.recv() => self.take(request),
                batch = batches.recv(), if !self.failing => match batch {
                    Some(batch) => self.append(&batch),
                    None => return,
                },
                () = self.stop.cancelled(), if self.failing => {}
                () = sleep(RETRY_AFTER), if self.failing => {}
            }
            while !self.failing
                && !self.spool.group_is_full()
                && let Ok(batch) = batches.try_recv()
            {
                self.append(&batch);
            }
            let committed = self.commit();
            self.report();
            self.beats.written(self.appended.batches, self.failing);
            if let Err(error) = committed
                && self.stop.is_cancelled()
            {
                tracing::error!(%error, "stopping with batches that could not be written");
                return;
            }
        }
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
        if let Err(error) = outcome {
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
    }

    fn commit(&mut self) -> Result<(), SpoolError> {
        let committed = self.spool.commit();
        match (&committed, self.failing) {
            (Err(error), false) => tracing::error!(%error, "batches can't be written; trying again"),
            (Ok(()), true) => tracing::info!("batches can be written again"),
            _ => {}
        }
        self.failing = committed.is_err();
        committed
    }

    fn report(&mut self) {
        let log = self.spool.log();
        let log = log.lock();
        let (durable, committed, backlog_bytes) = (log.last(), log.committed(), log.bytes());
        let frames = log.frames();
        drop(log);
        self.metrics.backlog_bytes.record(backlog_bytes, &self.metrics.agent);
        self.metrics.spool_bytes.record(self.spool.bytes(), &self.metrics.agent);
        self.metrics.spool_frames.record(frames, &self.metrics.agent);
        self.count_losses();
        self.count_work();
        if self.failing {
            return;
        }
        self.metrics.sealed_time.record(self.appended.plant_time.millis() as f64 / 1e3, &self.metrics.agent);
        // It reads the disk, so not at each ack.
        if durable != self.progress.borrow().durable
            && let Some(age) = self.spool.backlog_age()
        {
            self.metrics.spool_age.record(age.as_secs_f64(), &self.metrics.agent);
        }
        self.progress.send_replace(AgentProgress { durable, committed, backlog_bytes, ..self.appended });
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
