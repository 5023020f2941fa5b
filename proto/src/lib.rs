//! The contract between gateway, processor, model and crew: names, time, units, topics, wire form. No I/O.
//!
//! ```text
//!  asset ─┐                         ┌─ topic      where a message goes
//!  time  ─┼─ position ─ telemetry ──┤
//!  wire  ─┘   (epoch,    (frame,    ├─ ack        what the cloud has
//!              seq)       batch)    ├─ archive    where a row goes, and the manifest
//!                                   └─ alert      what a failure mode means to the crew
//!  config, broker, clock: strict TOML, and the [mqtt] and [clock] sections of every program
//! ```

pub mod asset;
pub mod time;
pub mod position;
pub mod telemetry;
pub mod topic;
pub mod ack;
pub mod archive;
pub mod alert;
pub mod config;
pub mod broker;
pub mod clock;

/// Generated from `schema/`: messages always, services with the feature `grpc`.
/// The folders are as the packages are named, since generated code finds its neighbours that way.
pub mod wire {
    pub mod telemetry {
        pub use v1::*;
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/millwright.telemetry.v1.rs"));
        }
    }
    pub mod prediction {
        pub use v1::*;
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/millwright.prediction.v1.rs"));
        }
    }
    pub mod alert {
        pub use v1::*;
        // Generated; a stream's event is nearly always the large variant, so boxing it would save nothing.
        #[allow(clippy::large_enum_variant)]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/millwright.alert.v1.rs"));
        }
    }
}

/// Encoded `FileDescriptorSet` of the schema, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
