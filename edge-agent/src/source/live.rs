//! Devices that give readings when they have them: each runs as a task of its own and puts samples into a bounded queue,
//! which the source empties when it is polled. So a device that is slow or dead holds back neither the seal time of its
//! agent nor any other source, and ends with its source.
//!
//! ```text
//! device (task) ──readings──> outlet (range, report by exception, counts) ──samples──> queue ──poll──> cutter
//! ```
//!
//! A sample is stamped with the plant time of its slot. It may be sealed a little later than that: the answer takes its
//! time, and an item that is older than the newest seal time goes into the next batch.

use proto::{
    asset::AssetId,
    time::{PlantClock, PlantTime},
    wire::telemetry::MachineInfo,
};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    watch,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Item, Sample, Source, SourceError};
use crate::telemetry::Metrics;

mod back_off;
mod exception;
mod machine;
mod outlet;
mod schedule;

pub(super) use back_off::BackOff;
pub use exception::{Exception, SILENCE_MS_DEFAULT};
pub use machine::{MachineConfig, SensorConfig};
pub(super) use machine::{check_interval, check_machines, refuse, within};
pub(super) use outlet::Outlet;
pub(super) use schedule::Schedule;

/// Samples of one source between its device and the cutter: enough for the time in which a slow disk stops sampling.
pub const SAMPLES_QUEUED_MAX: usize = 8192;
/// Wall time between two looks into the queue.
const POLL_INTERVAL_MS: f64 = 100.0;

pub(super) trait Device: Send + 'static {
    /// Reads for ever; it is dropped at its next await when the source is.
    fn run(self, outlet: Outlet) -> impl Future<Output = ()> + Send;
}

/// A device as a source.
pub(super) struct Live<D> {
    /// For logs and metrics.
    name: String,
    machines: Machines,
    /// Until it is started.
    device: Option<D>,
    running: Option<Running>,
    polled: Option<PlantTime>,
}

/// Everything that the outlet has to know of machines, whatever the device.
pub(super) struct Machines {
    pub infos: Vec<MachineInfo>,
    pub gauges: Vec<outlet::Machine>,
}

struct Running {
    clock: watch::Receiver<PlantClock>,
    samples: mpsc::Receiver<Sample>,
    ended: bool,
    _task: AbortOnDropHandle<()>,
}

impl<D: Device> Live<D> {
    /// `unnamed`: what it is called where it has no name.
    pub fn new(name: Option<&AssetId>, unnamed: &str, machines: Machines, device: D) -> Self {
        let name = name.map_or(unnamed, AssetId::as_str).to_owned();
        Live { name, machines, device: Some(device), running: None, polled: None }
    }
}

impl<D: Device> Source for Live<D> {
    fn machines(&self) -> Vec<MachineInfo> {
        self.machines.infos.clone()
    }

    fn start(&mut self, clock: watch::Receiver<PlantClock>, metrics: &Metrics) {
        let Some(device) = self.device.take() else { return };
        let (sender, samples) = mpsc::channel(SAMPLES_QUEUED_MAX);
        let gauges = std::mem::take(&mut self.machines.gauges);
        let outlet = Outlet::new(&self.name, gauges, clock.clone(), sender, metrics);
        let task = AbortOnDropHandle::new(tokio::spawn(device.run(outlet)));
        self.running = Some(Running { clock, samples, ended: false, _task: task });
    }

    fn is_live(&self) -> bool {
        true
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        self.polled = Some(now);
        let Some(running) = &mut self.running else { return Ok(false) };
        for _ in 0..items_max.max(1) {
            match running.samples.try_recv() {
                // The clock may have been set back since.
                Ok(sample) => out.push(Item::Sample(Sample { time: sample.time.min(now), ..sample })),
                Err(TryRecvError::Disconnected) if !running.ended => {
                    running.ended = true;
                    tracing::error!(source = self.name, "the task that reads a device ended; restart the agent");
                    return Ok(false);
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn progress(&self) -> PlantTime {
        self.polled.unwrap_or(PlantTime::MIN)
    }

    fn next_due(&self) -> Option<PlantTime> {
        let Some(running) = &self.running else { return Some(PlantTime::MIN) };
        let clock = *running.clock.borrow();
        let (now, pause) = (clock.now(), (POLL_INTERVAL_MS * clock.speed) as i64);
        // After a clock that was set back, too.
        Some(self.polled.filter(|at| *at <= now).map_or(now, |at| at.plus_millis(pause.max(1))))
    }
}

#[cfg(test)]
mod tests;
