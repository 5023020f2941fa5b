//! The state as bytes, for the archive: a restart goes on from here.

use model::{features::clean::Carry, store::OBJECT_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::{FeatureSchema, Fleet, Stream, StreamConfig, StreamError, waiting::Waiting};
use crate::{alert::AlertDesk, intake::EpochsLeft, window::Windows};

const SNAPSHOT_VERSION: u32 = 1;
/// What is written must be readable at the next start.
pub const SNAPSHOT_BYTES_MAX: usize = OBJECT_BYTES_MAX as usize;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    /// Windows fit one feature schema only.
    schema: String,
    fleet: &'a Fleet,
    carry: &'a [Carry],
    windows: &'a Windows,
    desk: &'a AlertDesk,
    waiting: &'a Waiting,
    left: &'a EpochsLeft,
}

#[derive(Deserialize)]
struct Read {
    schema: String,
    fleet: Fleet,
    carry: Vec<Carry>,
    windows: Windows,
    desk: AlertDesk,
    #[serde(default)]
    waiting: Waiting,
    #[serde(default)]
    left: EpochsLeft,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Stream {
    /// With what intake needs of the time before: both are state of one barrier, and stand in one object.
    pub fn snapshot(&self, left: &EpochsLeft) -> Result<Vec<u8>, StreamError> {
        let bytes = rmp_serde::to_vec_named(&Written {
            version: SNAPSHOT_VERSION,
            schema: FeatureSchema::of(&self.config.features).fingerprint(),
            fleet: &self.fleet,
            carry: &self.carry,
            windows: &self.windows,
            desk: &self.desk,
            waiting: &self.waiting,
            left,
        })?;
        check_size(&bytes)?;
        Ok(bytes)
    }

    /// With other window or feature settings than the snapshot's, windows and normals start anew; all else goes on.
    pub fn restore(config: StreamConfig, snapshot: &[u8]) -> Result<(Self, EpochsLeft), StreamError> {
        check_size(snapshot)?;
        let Version { version } = rmp_serde::from_slice(snapshot)?;
        if version != SNAPSHOT_VERSION {
            return Err(StreamError::SnapshotVersion { version });
        }
        let Read { schema, mut fleet, carry, mut windows, mut desk, waiting, left } = rmp_serde::from_slice(snapshot)?;
        if schema != FeatureSchema::of(&config.features).fingerprint() {
            tracing::warn!("the settings of windows and features have changed: windows and normals start anew");
            windows = Windows::default();
        }
        fleet.index(&config.features);
        desk.reconfigure(config.alert.clone());
        Ok((Self { config, fleet, carry, windows, desk, waiting }, left))
    }
}

fn check_size(bytes: &[u8]) -> Result<(), StreamError> {
    match bytes.len() {
        bytes if bytes > SNAPSHOT_BYTES_MAX => Err(StreamError::SnapshotSize { bytes }),
        _ => Ok(()),
    }
}
