//! What comes in from the gateways.

use std::time::Instant;

use bytes::Bytes;

pub mod mqtt;

/// Messages between the MQTT client and the engine. When they are full, the client reads no further and the broker
/// and the gateways' windows hold the rest.
pub const ARRIVALS_QUEUED_MAX: usize = 1024;

/// One MQTT message, unread.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub topic: String,
    pub payload: Bytes,
    pub received: Instant,
}
