//! How far an agent is, for whoever waits for it.

use proto::{position::Position, time::PlantTime};
use tokio::sync::watch;

/// How far an agent is. All of it is durable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AgentProgress {
    /// Seal time of the newest durable batch; `PlantTime::MIN` before the very first.
    pub plant_time: PlantTime,
    /// Since this start.
    pub readings_sealed: u64,
    /// Since this start.
    pub batches: u64,
    pub durable: Option<Position>,
    pub committed: Option<Position>,
    /// Bytes of frames in the spool that are not committed.
    pub backlog_bytes: u64,
    /// Where batches are that are newer than all this.
    pub medium: Medium,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// On their way to the disk.
    Disk,
    /// The disk fails for long: they are in memory only, and sent from there.
    Memory,
    /// And there is little room left: before anything is evicted, whoever can wait waits.
    ScarceMemory,
}

/// Pends for ever when the sender is gone: the last value stays.
pub(crate) async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}
