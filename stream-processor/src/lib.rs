//! MQTT in; archive, predictions and alerts out.
//!
//! ```text
//! ingest ─> decode ─> intake ─> stream: clean ─> window ─> features ─> score ─> alert ─> serve (gRPC, REST, console)
//! (MQTT)                │         └──────────── archive (segments, staging, manifests in S3) ──┐
//!                       └── acks to the agents: received, committed <──────────────────────────┘
//! ```

pub mod ingest;
pub mod decode;
pub mod intake;
pub mod installs;
pub mod acks;
pub mod clean;
pub mod window;
pub mod stream;
pub mod archive;
pub mod alert;
pub mod watch;
pub mod serve;
pub mod crew;
pub mod telemetry;
pub mod traces;
pub mod config;
mod panics;
pub mod tls;
pub mod processor;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod trigger;
pub mod cli;
