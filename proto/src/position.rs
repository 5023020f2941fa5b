//! Where a batch stands in its agent's log: `(epoch, seq)`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::telemetry::LogPosition;

/// 128 random bits, drawn at every agent start; unique, never ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(pub [u8; 16]);

impl Epoch {
    /// Stands for "no epoch" on the wire; never drawn.
    pub const NONE: Epoch = Epoch([0; 16]);

    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is 32 hexadecimal digits")]
pub struct InvalidEpoch;

impl TryFrom<String> for Epoch {
    type Error = InvalidEpoch;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        if s.len() != 32 || !s.is_ascii() {
            return Err(InvalidEpoch);
        }
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| InvalidEpoch)?;
        }
        Ok(Epoch(bytes))
    }
}

impl From<Epoch> for String {
    fn from(e: Epoch) -> Self {
        e.to_string()
    }
}

/// One batch of an agent's log. Positions of different epochs have no order of their own: the log's chain gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    pub epoch: Epoch,
    /// Counts from 1 without gaps within an epoch. 0: before its first batch, where a bridge may lead.
    pub seq: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.epoch, self.seq)
    }
}

impl From<Position> for LogPosition {
    fn from(p: Position) -> Self {
        LogPosition { epoch: p.epoch.0.to_vec(), seq: p.seq }
    }
}

/// A thousand batches each second would take 8,900 years. Sums of such numbers don't overflow.
pub const SEQ_MAX: u64 = 1 << 48;

impl Position {
    /// None: there can't be such a position.
    pub fn possible(epoch: Epoch, seq: u64) -> Option<Self> {
        (epoch != Epoch::NONE && seq <= SEQ_MAX).then_some(Position { epoch, seq })
    }

    pub fn from_wire(p: &LogPosition) -> Option<Self> {
        let epoch = Epoch::from_slice(&p.epoch)?;
        Self::possible(epoch, p.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_wire_and_json() {
        let p = Position { epoch: Epoch(*b"0123456789abcdef"), seq: 7 };
        assert_eq!(Position::from_wire(&p.into()), Some(p));
        let json = serde_json::to_string(&p).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), p);
    }

    #[test]
    fn positions_that_cannot_be_are_refused() {
        assert_eq!(Position::from_wire(&LogPosition { epoch: vec![1; 15], seq: 1 }), None);
        assert_eq!(Position::from_wire(&LogPosition { epoch: vec![0; 16], seq: 1 }), None);
        assert_eq!(Position::from_wire(&LogPosition { epoch: vec![1; 16], seq: SEQ_MAX + 1 }), None);
        assert!(serde_json::from_str::<Epoch>("\"0g\"").is_err());
    }
}
