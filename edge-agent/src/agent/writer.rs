//! The thread that owns the spool: seals batches, commits them in groups, frees what is committed.
//! It alone waits for the disk, and no task of the runtime waits for it but through its bounded inbox.

use std::{io, thread, time::Duration};

use proto::{asset::AssetId, position::Position, telemetry::Frame, time::PlantTime, wire::telemetry::TelemetryBatch};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::AgentProgress;
use crate::{
    spool::{Spool, SpoolError, disk::Disk},
    telemetry::Metrics,
};

const RETRY_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub enum WriterRequest {
    Append {
        batch: Box<TelemetryBatch>,
        readings: u32,
    },
    /// An ack says that this is in the archive.
    Free(Position),
    /// This frame can't be read back.
    Mend(Position),
}

pub struct Writer<D> {
    spool: Spool<D>,
    metrics: Metrics,
    /// Of what was appended, visible or not.
    appended: AgentProgress,
    progress: watch::Sender<AgentProgress>,
    stop: CancellationToken,
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
        let writer = Writer { spool, metrics, appended, progress: watch::Sender::new(appended), stop };
        writer.report();
        let progress = writer.progress.subscribe();
        (writer, progress)
    }

    /// Runs until all senders of the inbox are gone.
    pub fn spawn(mut self, agent: &AssetId, mut inbox: mpsc::Receiver<WriterRequest>) -> io::Result<()> {
        let run = move || {
            while let Some(request) = inbox.blocking_recv() {
                self.take(request);
                while !self.spool.group_is_full()
                    && let Ok(request) = inbox.try_recv()
                {
                    self.take(request);
                }
                if self.commit() {
                    self.report();
                }
            }
        };
        thread::Builder::new().name(format!("spool-{agent}")).spawn(run).map(drop)
    }

    fn take(&mut self, request: WriterRequest) {
        match request {
            WriterRequest::Append { batch, readings } => self.append(&batch, readings),
            WriterRequest::Free(committed) => {
                let freed = self.spool.free(committed);
                self.note(freed);
            }
            WriterRequest::Mend(position) => {
                let mended = self.spool.mend(position);
                self.note(mended);
            }
        }
    }

    fn append(&mut self, batch: &TelemetryBatch, readings: u32) {
        let (position, previous) = self.spool.next();
        let sealed = PlantTime(batch.sealed.as_ref().map_or(0, |s| s.time_ms));
        self.spool.append(&Frame::seal(position, previous, readings, batch), sealed);
        self.appended.plant_time = sealed;
        self.appended.readings_sealed += u64::from(readings);
        self.appended.batches += 1;
        self.metrics.readings_sealed.add(u64::from(readings), &self.metrics.agent);
        self.metrics.batches_sealed.add(1, &self.metrics.agent);
    }

    /// Waits for a disk that fails: what was sampled stays in memory meanwhile, and the bounded inbox stops sampling.
    /// False: given up.
    fn commit(&mut self) -> bool {
        let mut failed = false;
        while let Err(error) = self.spool.commit() {
            if self.stop.is_cancelled() {
                tracing::error!(%error, "stopping with batches that could not be written");
                return false;
            }
            if !failed {
                tracing::error!(%error, "batches can't be written; trying again");
            }
            failed = true;
            thread::sleep(RETRY_AFTER);
        }
        if failed {
            tracing::info!("batches can be written again");
        }
        true
    }

    fn note(&self, outcome: Result<(), SpoolError>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "the spool could not be tidied; it will be with the next ack");
        }
    }

    fn report(&self) {
        let log = self.spool.log();
        let log = log.lock();
        let (durable, committed, backlog_bytes) = (log.last(), log.committed(), log.bytes());
        drop(log);
        self.metrics.backlog_bytes.record(backlog_bytes, &self.metrics.agent);
        self.metrics.spool_bytes.record(self.spool.bytes(), &self.metrics.agent);
        self.metrics.sealed_time.record(self.appended.plant_time.millis() as f64 / 1e3, &self.metrics.agent);
        self.progress.send_replace(AgentProgress { durable, committed, backlog_bytes, ..self.appended });
    }
}
