//! What comes out of the stream, for the archive, the board and the metrics.

use std::collections::BTreeMap;

use model::features::WindowFeatures;
use polars::prelude::DataFrame;
use proto::{
    archive::Balance,
    asset::AssetId,
    position::Position,
    time::PlantTime,
    wire::{
        alert::Alert,
        prediction::Prediction,
        telemetry::{EventRecord, GapReason},
    },
};

use crate::{
    archive::readings::Readings,
    decode::{AgentKey, DeadLetter},
};

/// What a run of taken batches led to, in log order. Rows for the archive are in its tables' columns
/// (`proto::archive::column`) plus `site`, by which the archive splits them.
#[derive(Debug, Default)]
pub struct Derived {
    pub readings: Readings,
    pub births: DataFrame,
    pub windows: Vec<WindowFeatures>,
    /// At most one for each window: of the version that decides.
    pub predictions: Vec<Prediction>,
    /// Of versions that decide nothing: for the archive, and to be held against those.
    pub shadows: Vec<Prediction>,
    /// Windows that a version could not score.
    pub unscored: BTreeMap<String, u64>,
    /// Alerts that opened, changed or closed.
    pub alerts: Vec<Alert>,
    pub events: Vec<KnownEvent>,
    pub dead_letters: Vec<DeadLetter>,
    pub losses: Vec<Loss>,
    pub balance: Balance,
    /// Readings that came when their window could not be revised any more: archived with the flag, in no window.
    pub late: u64,
    /// Readings that came after their window had closed, and revised it.
    pub revising: u64,
    pub foreign: Vec<Foreign>,
}

/// Readings of a machine from an agent that does not own it: in the archive, with a flag, and in no window.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreign {
    pub machine: AssetId,
    pub agent: AgentKey,
    pub owner: Option<AgentKey>,
    pub readings: u64,
}

/// An event record and when the cloud learnt of it; None: nobody knows.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownEvent {
    pub agent: Option<AgentKey>,
    pub seq: u64,
    pub event: EventRecord,
    pub known: Option<PlantTime>,
}

/// What a gateway can't give any more, by its own declaration.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    pub agent: AgentKey,
    pub lost: Lost,
    pub reason: GapReason,
    /// Known to be lost; 0 when unknown.
    pub readings: u64,
    pub declared: PlantTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// `from.seq..=last_seq`.
    Batches { from: Position, last_seq: u64 },
    /// Whatever there was behind `from`: the log goes on behind `to`. How much that is, if anything, nobody knows.
    Break { from: Option<Position>, to: Position },
}
