//! Sensors that the gateway's own kernel reads: Linux IIO and hwmon, or any file that holds a number.
//!
//! Files of one device are read on a blocking thread, and no longer waited for than the time-out: a device that hangs
//! keeps that thread and costs nobody else's time. Until it comes back, its sensors are bad and it is not asked again.

use std::{collections::HashMap, path::Path, time::Duration};

use proto::wire::telemetry::QualityReason;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Reading, Source, SourceError,
    live::{Device, Live, Machines, Outlet, Schedule},
};

mod channel;
mod config;

pub use config::{Place, SysfsConfig};

use channel::{Channel, Device as Name, Folder};

#[derive(Debug)]
pub(super) struct Sysfs {
    interval: Duration,
    timeout: Duration,
    /// How many sensors each machine has.
    machines: Vec<usize>,
    devices: Vec<Group>,
}

/// The sensors of one device, read one after the other.
#[derive(Debug)]
struct Group {
    /// Which of all sensors these are.
    sensors: Vec<usize>,
    /// With a thread while it is read.
    reader: Option<Box<Reader>>,
    running: Option<JoinHandle<(Box<Reader>, Vec<Reading>)>>,
}

/// Does the blocking part.
#[derive(Debug)]
struct Reader {
    folder: Folder,
    channels: Vec<Channel>,
}

/// Checks the configuration; no file is touched before the source is started.
pub(super) fn build(config: &SysfsConfig, base_dir: &Path) -> Result<Box<dyn Source>, SourceError> {
    let (channels, root) = (config.channels(base_dir)?, base_dir.join(&config.root));
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Name, usize> = HashMap::new();
    for (sensor, (device, channel)) in channels.into_iter().enumerate() {
        // Files by path are each a device of their own.
        let found = device.as_ref().and_then(|device| known.get(device)).copied();
        let at = found.unwrap_or(groups.len());
        if found.is_none() {
            known.extend(device.clone().map(|device| (device, at)));
            let folder = Folder::new(root.clone(), device);
            let reader = Some(Box::new(Reader { folder, channels: Vec::new() }));
            groups.push(Group { sensors: Vec::new(), reader, running: None });
        }
        groups[at].sensors.push(sensor);
        if let Some(reader) = &mut groups[at].reader {
            reader.channels.push(channel);
        }
    }
    let device = Sysfs {
        interval: Duration::from_millis(config.interval_ms),
        timeout: Duration::from_millis(config.timeout_ms),
        machines: config.machines.iter().map(|m| m.sensors.len()).collect(),
        devices: groups,
    };
    Ok(Box::new(Live::new(config.name.as_ref(), "sysfs", Machines::new(&config.machines, config.interval_ms), device)))
}

impl Reader {
    fn read(&mut self) -> Vec<Reading> {
        let read: Vec<_> = self.channels.iter().map(|channel| channel.read(&mut self.folder)).collect();
        if read.iter().any(|reading| reading.reason == QualityReason::Disconnected) {
            // It may come back under another number.
            self.folder.forget();
        }
        read
    }
}

impl Device for Sysfs {
    async fn run(mut self, mut outlet: Outlet) {
        let mut schedule = Schedule::new(Instant::now(), self.interval);
        let sensors = self.machines.iter().sum();
        loop {
            sleep_until(schedule.next()).await;
            outlet.count_missed(schedule.take(Instant::now()));
            let time = outlet.now();
            let mut readings = vec![Reading::bad(QualityReason::Timeout); sensors];
            self.read(&mut readings, &outlet).await;
            let mut rest = &readings[..];
            for (machine, sensors) in self.machines.iter().enumerate() {
                let (now, later) = rest.split_at(*sensors);
                outlet.put(machine, time, now.iter().copied());
                rest = later;
            }
        }
    }
}

impl Sysfs {
    async fn read(&mut self, readings: &mut [Reading], outlet: &Outlet) {
        let mut asked = Vec::new();
        for (at, device) in self.devices.iter_mut().enumerate() {
            let was_hanging = device.running.is_some();
            if device.begin().await {
                asked.push((at, was_hanging));
            }
        }
        let until = Instant::now() + self.timeout;
        for (at, was_hanging) in asked {
            let device = &mut self.devices[at];
            match device.end(until).await {
                Some(read) => {
                    for (sensor, reading) in device.sensors.iter().zip(read) {
                        readings[*sensor] = reading;
                    }
                }
                None if !was_hanging => tracing::warn!(source = outlet.name, device = at, "a device hangs"),
                None => {}
            }
        }
    }
}

impl Group {
    /// False: it is still read since an earlier slot.
    async fn begin(&mut self) -> bool {
        if let Some(running) = &mut self.running {
            if !running.is_finished() {
                return false;
            }
            // What it read then is too old by now.
            self.reader = running.await.ok().map(|(reader, _)| reader);
        }
        if let Some(mut reader) = self.reader.take() {
            self.running = Some(spawn_blocking(move || {
                let read = reader.read();
                (reader, read)
            }));
        }
        true
    }

    /// None: not in time.
    async fn end(&mut self, until: Instant) -> Option<Vec<Reading>> {
        let done = timeout_at(until, self.running.as_mut()?).await.ok()?;
        self.running = None;
        let (reader, read) = done.ok()?;
        self.reader = Some(reader);
        Some(read)
    }
}

#[cfg(test)]
mod tests;
