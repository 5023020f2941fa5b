//! The agent on the gateway: reads sensors, keeps every reading in a durable log, sends the log until the archive has it.
//!
//! ```text
//! source ──samples, events──> agent ──batches──> spool ──frames──> publish ──MQTT──> broker
//! (simulator, replay)         (seals)            (fsynced log)        ^                 │
//!                                                   ^                 └──── ack ────────┘
//!                                                   └── frees what is committed
//! ```

pub mod config;
pub mod source;
pub mod agent;
pub mod spool;
pub mod publish;
pub mod telemetry;
pub mod supervisor;
