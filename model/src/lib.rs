//! From readings to features to probabilities; and the model's life: archive, dataset, training, evaluation, registry.
//!
//! ```text
//! readings ─> features ─────────────────> score ──> probability per mode, and why
//!             (clean, aggregate, derive)    ^
//! archive ──> dataset ─> train ─> evaluate ─> gate ─> registry (S3)
//!                          ^── trigger <── quality, drift <── what became of the scores
//! ```

pub mod store;
pub mod features;
pub mod forward;
pub mod mlp;
pub mod calibration;
pub mod settings;
pub mod artifact;
pub mod explain;
pub mod score;
pub mod policy;
pub mod import;
pub mod dataset;
pub mod train;
pub mod evaluate;
pub mod present;
pub mod drift;
pub mod gate;
pub mod quality;
pub mod watch;
pub mod trigger;
pub mod probation;
pub mod trial;
pub mod retrain;
pub mod registry;
pub mod benchmark;
pub mod job;
pub mod config;
pub mod cli;
