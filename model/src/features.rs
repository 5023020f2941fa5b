//! The one way from readings to features, for the stream (incrementally) and for training (whole frames).
//!
//! ```text
//! readings ─> clean ─────────> aggregate ─────────────> derive ─> WindowFeatures
//!             flags per row    mergeable partials of    per machine, windows in order:
//!             (polars)         series and window        lags and the machine's own normal
//!                              (polars)
//! ```

pub mod catalogue;
pub mod clean;
pub mod aggregate;
pub mod derive;
pub mod schema;
pub mod whole;

use proto::{
    asset::{AssetId, Unit},
    time::PlantTime,
};
use serde::{Deserialize, Serialize};

pub use catalogue::{Catalogue, CatalogueError};
pub use schema::FeatureSchema;
pub use whole::{FeatureError, whole};

/// What the windows and features are made of. Part of the model's schema: a model fits one configuration only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureConfig {
    /// Length of the tumbling windows, plant ms.
    pub window_ms: i64,
    /// How long after its end a window still takes readings, plant ms.
    pub lateness_ms: i64,
    /// Sensors that have features, in this order; others are archived and cleaned but not scored.
    pub sensors: Vec<AssetId>,
    /// A sensor that repeats one value this many times in a row is stuck.
    pub stuck_after: u32,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        const SENSORS: [&str; 5] = ["temperature", "sound", "humidity", "rotation_speed", "vibration"];
        Self {
            window_ms: 600_000,
            // An agent's log is in order, so this is for devices only that hand their readings over with a delay:
            // one sampling interval of the slowest usual sensor. It is also the delay of every alert.
            lateness_ms: 60_000,
            sensors: SENSORS.iter().filter_map(|name| AssetId::new(name).ok()).collect(),
            stuck_after: 30,
        }
    }
}

/// One sensor in one closed window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensorWindow {
    pub sensor: AssetId,
    /// Canonical unit of the values below.
    pub unit: Unit,
    /// Clean readings only; None: there was none.
    pub stats: Option<Stats>,
    /// The machine's own normal for this sensor before this window; None until enough is known.
    pub normal: Option<Normal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub count: u64,
    pub mean: f64,
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub first: f64,
    pub last: f64,
    /// Per hour.
    pub slope: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Normal {
    pub mean: f64,
    pub std: f64,
}

/// One closed window of one machine, ready to be scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowFeatures {
    pub machine: AssetId,
    pub kind: AssetId,
    pub start: PlantTime,
    pub end: PlantTime,
    pub revision: u32,
    /// In the order of [`FeatureConfig::sensors`].
    pub sensors: Vec<SensorWindow>,
    /// In the order of the feature schema; NaN where there is no value.
    pub features: Vec<f64>,
    /// What `features` would be if the machine ran at its own normal: the base of explanations.
    pub normal: Vec<f64>,
}
