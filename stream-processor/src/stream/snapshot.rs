//! The state as bytes, for the archive: a restart goes on from here.

use model::{
    features::{FeatureSchema, clean::Carry},
    store::OBJECT_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

use super::{Fleet, Stream, StreamConfig, StreamError, requests::Requests, schedule::Schedule, waiting::Waiting};
use crate::{alert::AlertDesk, intake::EpochsLeft, watch::state::Watched, window::Windows};

const SNAPSHOT_VERSION: u32 = 1;
/// What is written must be readable at the next start.
pub const SNAPSHOT_BYTES_MAX: usize = OBJECT_BYTES_MAX as usize;

#[derive(Serialize)]
pub struct Written<'a, W> {
    version: u32,
    /// Windows fit one feature schema only.
    schema: &'a str,
    fleet: &'a Fleet,
    carry: &'a [Carry],
    windows: &'a Windows,
    desk: &'a AlertDesk,
    waiting: &'a Waiting,
    left: &'a EpochsLeft,
    schedule: &'a Schedule,
    requests: &'a Requests,
    /// Of the versions that score: see [`crate::watch::state`].
    watched: W,
}

/// As it was written, but for what is known of the versions.
#[derive(Deserialize)]
pub struct Parts {
    pub schema: String,
    pub fleet: Fleet,
    pub carry: Vec<Carry>,
    pub windows: Windows,
    pub desk: AlertDesk,
    #[serde(default)]
    pub waiting: Waiting,
    #[serde(default)]
    pub left: EpochsLeft,
    #[serde(default)]
    pub schedule: Schedule,
    #[serde(default)]
    pub requests: Requests,
}

impl Parts {
    pub fn written(&self) -> Written<'_, ()> {
        let Parts { schema, fleet, carry, windows, desk, waiting, left, schedule, requests } = self;
        let (version, watched) = (SNAPSHOT_VERSION, ());
        Written { version, schema, fleet, carry, windows, desk, waiting, left, schedule, requests, watched }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Stream {
    /// With what intake needs of the time before: both are state of one barrier, and stand in one object.
    pub fn snapshot(&self, left: &EpochsLeft) -> Result<Vec<u8>, StreamError> {
        self.snapshot_with(left, ())
    }

    /// And with what is known of the versions that score.
    pub fn snapshot_with(&self, left: &EpochsLeft, watched: impl Serialize) -> Result<Vec<u8>, StreamError> {
        encode(&Written {
            version: SNAPSHOT_VERSION,
            schema: &FeatureSchema::of(&self.config.features).fingerprint(),
            fleet: &self.fleet,
            carry: &self.carry,
            windows: &self.windows,
            desk: &self.desk,
            waiting: &self.waiting,
            left,
            schedule: self.entered.as_ref().unwrap_or(&self.schedule),
            requests: &self.requests,
            watched,
        })
    }

    /// With other window or feature settings than the snapshot's, windows and normals start anew; all else goes on.
    pub fn restore(config: StreamConfig, snapshot: &[u8]) -> Result<(Self, EpochsLeft), StreamError> {
        let parts = decode(snapshot)?;
        let Parts { schema, mut fleet, carry, mut windows, mut desk, waiting, left, schedule, requests } = parts;
        if schema != FeatureSchema::of(&config.features).fingerprint() {
            tracing::warn!("the settings of windows and features have changed: windows and normals start anew");
            windows = Windows::default();
            fleet.settle(&config.features);
        }
        fleet.settle_unknown(&config.features);
        fleet.index(&config.features);
        desk.reconfigure(config.alert.clone());
        // What is in a snapshot is in its manifest.
        let (entered, told) = Default::default();
        Ok((Self { config, fleet, carry, windows, desk, waiting, schedule, entered, requests, told }, left))
    }
}

/// What is known of the versions that score, from a snapshot. Where it can't be read, or shards were divided since, it begins anew.
pub fn watched(snapshot: &[u8]) -> Watched {
    #[derive(Deserialize)]
    struct Part {
        #[serde(default)]
        watched: Option<Watched>,
    }
    match rmp_serde::from_slice::<Part>(snapshot) {
        Ok(part) => part.watched.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "what was known of the models can't be read: figures and trials begin anew");
            Watched::default()
        }
    }
}

pub fn encode<W: Serialize>(state: &Written<W>) -> Result<Vec<u8>, StreamError> {
    let bytes = rmp_serde::to_vec_named(state)?;
    check_size(&bytes)?;
    Ok(bytes)
}

pub fn decode(snapshot: &[u8]) -> Result<Parts, StreamError> {
    check_size(snapshot)?;
    let Version { version } = rmp_serde::from_slice(snapshot)?;
    match version {
        SNAPSHOT_VERSION => Ok(rmp_serde::from_slice(snapshot)?),
        version => Err(StreamError::SnapshotVersion { version }),
    }
}

fn check_size(bytes: &[u8]) -> Result<(), StreamError> {
    match bytes.len() {
        bytes if bytes > SNAPSHOT_BYTES_MAX => Err(StreamError::SnapshotSize { bytes }),
        _ => Ok(()),
    }
}
