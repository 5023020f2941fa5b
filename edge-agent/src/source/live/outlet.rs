//! Where a device puts what it read: every reading is scaled, judged by its sensor's range and reported or held back,
//! and everything is counted.

use std::ops::RangeInclusive;

use opentelemetry::KeyValue;
use proto::{
    asset::AssetId,
    time::{PlantClock, PlantTime},
    wire::telemetry::{Quality, QualityReason},
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::Instant,
};

use super::exception::Exception;
use crate::{
    source::{Reading, Sample},
    telemetry::Metrics,
};

pub struct Outlet {
    pub name: String,
    machines: Vec<Machine>,
    clock: watch::Receiver<PlantClock>,
    samples: mpsc::Sender<Sample>,
    metrics: Metrics,
    attributes: [KeyValue; 2],
    /// The queue was full the last time.
    full: bool,
}

#[derive(Debug)]
pub struct Machine {
    pub id: AssetId,
    pub gauges: Vec<Gauge>,
}

/// One sensor, from what its device says to what is reported.
#[derive(Debug)]
pub struct Gauge {
    pub scale: f64,
    pub offset: f64,
    /// In the sensor's unit.
    pub range: RangeInclusive<f64>,
    pub exception: Exception,
}

impl Gauge {
    fn judge(&self, Reading { value, quality, reason }: Reading) -> Reading {
        let value = value * self.scale + self.offset;
        match quality {
            Quality::Good if !value.is_finite() => Reading::bad(QualityReason::Unreadable),
            Quality::Good if !self.range.contains(&value) => {
                Reading { value, quality: Quality::Bad, reason: QualityReason::OutOfRange }
            }
            _ => Reading { value, quality, reason },
        }
    }
}

impl Outlet {
    pub fn new(
        name: &str,
        machines: Vec<Machine>,
        clock: watch::Receiver<PlantClock>,
        samples: mpsc::Sender<Sample>,
        metrics: &Metrics,
    ) -> Self {
        let [agent] = metrics.agent.clone();
        let attributes = [agent, KeyValue::new("source", name.to_owned())];
        Outlet { name: name.into(), machines, clock, samples, metrics: metrics.clone(), attributes, full: false }
    }

    pub fn clock(&self) -> PlantClock {
        *self.clock.borrow()
    }

    /// The stamp of a slot that begins now.
    pub fn now(&self) -> PlantTime {
        self.clock().now()
    }

    /// What the sensors of a machine said, in the order of the configuration and before scaling; an absent one was not
    /// read.
    pub fn put(&mut self, machine: usize, time: PlantTime, readings: impl IntoIterator<Item = Reading>) {
        let now = Instant::now();
        let Some(Machine { id, gauges }) = self.machines.get_mut(machine) else { return };
        let (id, mut reads, mut reported, mut errors) = (id.clone(), 0, 0, Vec::new());
        let judged = gauges.iter_mut().zip(readings).map(|(gauge, reading)| {
            if reading.quality == Quality::Absent {
                return Reading::ABSENT;
            }
            let reading = gauge.judge(reading);
            reads += 1;
            if reading.quality != Quality::Good {
                errors.push(reading.reason);
            }
            match gauge.exception.admits(reading, now) {
                true => {
                    reported += 1;
                    reading
                }
                false => Reading::ABSENT,
            }
        });
        let values: Vec<_> = judged.collect();
        self.metrics.source_reads.add(reads, &self.attributes);
        self.metrics.source_suppressed.add(reads - reported, &self.attributes);
        for reason in errors {
            self.count_error(reason);
        }
        if reported > 0 {
            self.send(Sample { machine: id, time, values }, reported);
        }
    }

    /// Never waits: a device has to be read on, and what is lost here was lost because the disk stands still.
    fn send(&mut self, sample: Sample, readings: u64) {
        match self.samples.try_send(sample) {
            Ok(()) => self.full = false,
            Err(TrySendError::Full(_)) => {
                self.metrics.source_dropped.add(readings, &self.attributes);
                if !std::mem::replace(&mut self.full, true) {
                    tracing::error!(source = self.name, "readings are lost: the agent does not take them in time");
                }
            }
            // The source was dropped, and this task ends at its next await.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    pub fn count_error(&self, reason: QualityReason) {
        let reason = match reason {
            QualityReason::None => "none",
            QualityReason::Timeout => "timeout",
            QualityReason::Disconnected => "disconnected",
            QualityReason::DeviceError => "device_error",
            QualityReason::OutOfRange => "out_of_range",
            QualityReason::Unreadable => "unreadable",
            QualityReason::Ended => "ended",
        };
        let [agent, source] = self.attributes.clone();
        self.metrics.source_errors.add(1, &[agent, source, KeyValue::new("reason", reason)]);
    }

    pub fn count_missed(&self, slots: u64) {
        if slots > 0 {
            self.metrics.source_slots_missed.add(slots, &self.attributes);
        }
    }

    /// A connection that came up again, a program that was started again.
    pub fn count_restart(&self) {
        self.metrics.source_restarts.add(1, &self.attributes);
    }
}
