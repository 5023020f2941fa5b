//! What the processor tells an agent: how far its log is received and committed.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    position::{Epoch, InvalidEpoch, Position},
    time::PlantTime,
    wire,
};

/// Random name of an archive, drawn by its first manifest. Incarnations are compared only within one archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchiveId(pub [u8; 16]);

impl std::fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Epoch(self.0).fmt(f)
    }
}

impl TryFrom<String> for ArchiveId {
    type Error = InvalidEpoch;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        Epoch::try_from(s).map(|e| ArchiveId(e.0))
    }
}

impl From<ArchiveId> for String {
    fn from(id: ArchiveId) -> Self {
        id.to_string()
    }
}

/// Number of the takeover manifest of the writer that speaks.
pub type Incarnation = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub archive: ArchiveId,
    pub incarnation: Incarnation,
    /// Frees nothing.
    pub received: Option<Position>,
    /// Frees the spool up to here, and every epoch before it in the chain.
    pub committed: Option<Position>,
    pub paused: bool,
    pub plant_time: PlantTime,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid ack: {reason}")]
pub struct InvalidAck {
    pub reason: String,
}

/// Acks are small; anything larger is not one.
pub const ACK_BYTES_MAX: usize = 1024;

impl Ack {
    pub fn encode(&self) -> Vec<u8> {
        wire::telemetry::Ack {
            archive: self.archive.0.to_vec(),
            incarnation: self.incarnation,
            received: self.received.map(Into::into),
            committed: self.committed.map(Into::into),
            paused: self.paused,
            plant_time_ms: self.plant_time.millis(),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidAck> {
        let invalid = |reason: &str| InvalidAck { reason: reason.into() };
        if bytes.len() > ACK_BYTES_MAX {
            return Err(invalid("too large"));
        }
        let ack = wire::telemetry::Ack::decode(bytes).map_err(|e| invalid(&e.to_string()))?;
        let archive = ack.archive.as_slice().try_into().map_err(|_| invalid("archive id"))?;
        let position = |p: &Option<wire::telemetry::LogPosition>| match p {
            None => Ok(None),
            Some(p) => Position::from_wire(p).map(Some).ok_or_else(|| invalid("position")),
        };
        Ok(Ack {
            archive: ArchiveId(archive),
            incarnation: ack.incarnation,
            received: position(&ack.received)?,
            committed: position(&ack.committed)?,
            paused: ack.paused,
            plant_time: PlantTime(ack.plant_time_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_survive_the_wire() {
        let p = |seq| Some(Position { epoch: Epoch([3; 16]), seq });
        let ack = Ack {
            archive: ArchiveId([7; 16]),
            incarnation: 12,
            received: p(9),
            committed: p(4),
            paused: true,
            plant_time: PlantTime(55),
        };
        assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
        let none = Ack { received: None, committed: None, ..ack };
        assert_eq!(Ack::decode(&none.encode()), Ok(none));
    }

    #[test]
    fn bytes_that_are_no_ack_are_refused() {
        assert!(Ack::decode(b"").is_err());
        assert!(Ack::decode(&[0xff; 64]).is_err());
        assert!(Ack::decode(&[0; ACK_BYTES_MAX + 1]).is_err());
    }
}
