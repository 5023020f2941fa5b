//! Where readings come from. A source is told how far plant time has come and gives what there is up to then, either
//! as a pure generator (simulator, replay) or from devices that it reads meanwhile ([`live`]); the agent owns clocks,
//! batching and the log.

use proto::{
    asset::AssetId,
    time::{PlantClock, PlantTime},
    wire::telemetry::{EventRecord, MachineInfo, Quality, QualityReason},
};
use tokio::sync::watch;

use crate::telemetry::Metrics;

pub mod simulator;
pub mod replay;
pub mod live;
pub mod modbus;
pub mod sysfs;
pub mod exec;
mod config;

pub use config::SourceConfig;

/// All readings that one machine took at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub machine: AssetId,
    pub time: PlantTime,
    /// By sensor, in the order of the machine's `MachineInfo`; a sensor that was not read is absent.
    pub values: Vec<Reading>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// In the sensor's unit; NaN when the quality is not good and there is no value.
    pub value: f64,
    pub quality: Quality,
    pub reason: QualityReason,
}

impl Reading {
    /// The sensor was not read.
    pub const ABSENT: Reading = Reading { value: f64::NAN, quality: Quality::Absent, reason: QualityReason::None };

    pub const fn good(value: f64) -> Self {
        Reading { value, quality: Quality::Good, reason: QualityReason::None }
    }

    /// A reading without a value.
    pub const fn bad(reason: QualityReason) -> Self {
        Reading { value: f64::NAN, quality: Quality::Bad, reason }
    }

    /// The last value of a sensor that has not been heard for too long.
    pub const fn stale(value: f64) -> Self {
        Reading { value, quality: Quality::Stale, reason: QualityReason::Timeout }
    }
}

/// What a source produced, in plant-time order per machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Sample(Sample),
    Event(EventRecord),
}

impl Item {
    pub fn time(&self) -> PlantTime {
        match self {
            Item::Sample(sample) => sample.time,
            Item::Event(event) => PlantTime(event.time_ms),
        }
    }

    pub fn machine(&self) -> &str {
        match self {
            Item::Sample(sample) => sample.machine.as_str(),
            Item::Event(event) => &event.machine,
        }
    }
}

/// A source gives an instant as a whole, so it must fit into memory.
pub const INSTANT_ITEMS_MAX: usize = 65_536;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("source.{key}: {reason}")]
    Config { key: String, reason: String },
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("{file}, line {line}: {reason}")]
    Line { file: String, line: u64, reason: String },
    #[error("more than {INSTANT_ITEMS_MAX} rows are at {time}")]
    Instant { time: PlantTime },
}

/// A generator of items. Everything up to [`Source::progress`] has been produced, so it is the seal time of a batch:
/// a source that is behind its clock (history, replay) holds its agent's seal time back instead of making its data late.
pub trait Source: Send {
    /// What this source has; constant for its life.
    fn machines(&self) -> Vec<MachineInfo>;

    /// Called once, on the runtime of the agent that starts: here a source of devices begins to read them. Until then it
    /// touches none, so that a configuration can be checked.
    fn start(&mut self, _clock: watch::Receiver<PlantClock>, _metrics: &Metrics) {}

    /// Produces the items up to and including `now`, at most about `items_max` of them, into `out`; never a part of an
    /// instant. Returns true when there are more up to `now`: call again at once.
    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError>;

    /// Plant time up to which everything has been produced (at most the last `now`).
    fn progress(&self) -> PlantTime;

    /// Plant time of the next item, if the source knows: no need to poll before it. None: it has ended.
    fn next_due(&self) -> Option<PlantTime>;

    /// Whether what it gives is given once, and is new when it comes: it can't wait until others have caught up, and may
    /// be older than the newest seal time. One that reads a file or makes things up gives it again when it is built anew
    /// to go on from an earlier point.
    fn is_live(&self) -> bool {
        false
    }

    /// Items that it has and does not give, since they are at or before the point from which it goes on.
    fn skipped(&self) -> u64 {
        0
    }
}
