//! Which shard has which slots, now and ever: a third sequence of records, numbered from 1 and written put-if-absent.
//!
//! Every archive begins as shard 0 with all slots. Record `n` is record `n - 1` with one change: some shards that are
//! nobody's predecessors yet give all their slots to new shards. So one write decides a split or a merge as a whole, two
//! that contradict each other can't both be decided, and no shard number is used twice. What is decided is carried out by
//! anybody (predecessors closed, successors opened), in any number of attempts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ManifestError, Shard, decode_numbered};
use crate::asset::{AssetId, SLOTS};

pub const LAYOUT_VERSION: u32 = 1;
/// 256 shards, and room.
pub const LAYOUT_BYTES_MAX: usize = 1024 * 1024;

/// `manifest/v1/layout/{n:020}.json`.
pub fn layout_key(number: u64) -> String {
    format!("manifest/v1/layout/{number:020}.json")
}

/// A set of slots, one bit each; as a text `0-15,17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slots(u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no set of slots, such as 0-15,17, each below {SLOTS}")]
pub struct InvalidSlots {
    pub text: String,
}

impl Slots {
    pub const ALL: Slots = Slots(u64::MAX);
    pub const NONE: Slots = Slots(0);

    pub fn holds(self, agent: &AssetId) -> bool {
        self.0 >> agent.slot() & 1 == 1
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..SLOTS).filter(move |slot| self.0 >> slot & 1 == 1)
    }

    pub fn is_all(&self) -> bool {
        *self == Slots::ALL
    }

    pub fn union(self, other: Slots) -> Slots {
        Slots(self.0 | other.0)
    }

    pub fn overlaps(self, other: Slots) -> bool {
        self.0 & other.0 != 0
    }

    /// Into so many sets of about equal size; at least one, and no more than there are slots.
    pub fn parts(self, count: usize) -> Vec<Slots> {
        let slots: Vec<u8> = self.iter().collect();
        let size = slots.len().div_ceil(count.max(1)).max(1);
        slots.chunks(size).map(|part| Slots(part.iter().fold(0, |bits, slot| bits | 1 << slot))).collect()
    }
}

impl std::fmt::Display for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut slots = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = slots.next() {
            let mut last = first;
            while let Some(next) = slots.next_if(|next| *next == last + 1) {
                last = next;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl std::str::FromStr for Slots {
    type Err = InvalidSlots;
    fn from_str(text: &str) -> Result<Self, InvalidSlots> {
        let invalid = || InvalidSlots { text: text.chars().take(200).collect() };
        let slot = |text: &str| text.trim().parse().ok().filter(|slot: &u8| *slot < SLOTS).ok_or_else(invalid);
        let mut bits = 0u64;
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (slot(first)?, slot(last)?);
            if first > last {
                return Err(invalid());
            }
            bits = (first..=last).fold(bits, |bits, slot| bits | 1 << slot);
        }
        Ok(Slots(bits))
    }
}

impl TryFrom<String> for Slots {
    type Error = InvalidSlots;
    fn try_from(text: String) -> Result<Self, InvalidSlots> {
        text.parse()
    }
}

impl From<Slots> for String {
    fn from(slots: Slots) -> Self {
        slots.to_string()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSlots {
    pub shard: Shard,
    pub slots: Slots,
}

/// A shard, and from which ones it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descent {
    pub shard: Shard,
    pub slots: Slots,
    pub predecessors: Vec<Shard>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub version: u32,
    /// 0: there is no record yet.
    pub number: u64,
    /// Wall time, ms.
    pub written_ms: i64,
    /// All that there ever were, predecessors before successors.
    pub shards: Vec<Descent>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChange {
    #[error("shard {0} is not there, or has given its slots away already")]
    NotCurrent(Shard),
    #[error("shard {0} is or was there already: take a number that was never used")]
    Used(Shard),
    #[error("the new shards' slots are not those of the old ones, each once")]
    Slots,
}

impl Default for Layout {
    fn default() -> Self {
        let first = Descent { shard: Shard(0), slots: Slots::ALL, predecessors: vec![] };
        Layout { version: LAYOUT_VERSION, number: 0, written_ms: 0, shards: vec![first] }
    }
}

impl Layout {
    pub fn of(&self, shard: Shard) -> Option<&Descent> {
        self.shards.iter().find(|d| d.shard == shard)
    }

    /// Empty: the shard has its slots.
    pub fn successors(&self, shard: Shard) -> Vec<ShardSlots> {
        let from = self.shards.iter().filter(|d| d.predecessors.contains(&shard));
        from.map(|d| ShardSlots { shard: d.shard, slots: d.slots }).collect()
    }

    /// Those that have the slots.
    pub fn current(&self) -> impl Iterator<Item = &Descent> {
        self.shards.iter().filter(|d| self.successors(d.shard).is_empty())
    }

    /// The next record: all slots of `from` go to `into`.
    pub fn change(&self, from: &[Shard], into: &[ShardSlots], written_ms: i64) -> Result<Layout, InvalidChange> {
        let mut given = Slots::NONE;
        for shard in from {
            let current = self.current().find(|d| d.shard == *shard).ok_or(InvalidChange::NotCurrent(*shard))?;
            given = given.union(current.slots);
        }
        let (mut taken, mut used) = (Slots::NONE, self.shards.iter().map(|d| d.shard).collect::<BTreeSet<_>>());
        let mut next = Layout { number: self.number + 1, written_ms, ..self.clone() };
        for ShardSlots { shard, slots } in into {
            if !used.insert(*shard) {
                return Err(InvalidChange::Used(*shard));
            }
            if taken.overlaps(*slots) || *slots == Slots::NONE {
                return Err(InvalidChange::Slots);
            }
            taken = taken.union(*slots);
            let predecessors = from.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            next.shards.push(Descent { shard: *shard, slots: *slots, predecessors });
        }
        if taken == given && taken != Slots::NONE { Ok(next) } else { Err(InvalidChange::Slots) }
    }

    /// Is this very change one of those that were decided?
    pub fn has(&self, from: &[Shard], into: &[ShardSlots]) -> bool {
        let from: BTreeSet<Shard> = from.iter().copied().collect();
        into.iter().all(|new| {
            let known = self.of(new.shard);
            known.is_some_and(|d| {
                d.slots == new.slots && d.predecessors.iter().copied().collect::<BTreeSet<_>>() == from
            })
        })
    }

    pub fn key(&self) -> String {
        layout_key(self.number)
    }

    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    pub fn decode(bytes: &[u8], number: u64) -> Result<Self, ManifestError> {
        decode_numbered(bytes, LAYOUT_BYTES_MAX, LAYOUT_VERSION, number, |layout: &Layout| layout.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(text: &str) -> Slots {
        text.parse().unwrap()
    }

    fn new(shard: u8, text: &str) -> ShardSlots {
        ShardSlots { shard: Shard(shard), slots: slots(text) }
    }

    #[test]
    fn slots_survive_their_text() {
        assert_eq!(Slots::ALL.to_string(), "0-63");
        for text in ["0-63", "5", "0-15,17,40-41", "63"] {
            assert_eq!(slots(text).to_string(), text);
        }
        assert_eq!(slots("1,0, 2-3").to_string(), "0-3");
        for text in ["", "64", "3-1", "-", "a", "1,,2", "0-64"] {
            assert!(text.parse::<Slots>().is_err(), "{text}");
        }
        let agent = AssetId::new("gateway-1").unwrap();
        assert!(slots(&agent.slot().to_string()).holds(&agent) && !Slots::NONE.holds(&agent));
    }

    #[test]
    fn parts_are_even_and_lose_nothing() {
        let parts: Vec<String> = Slots::ALL.parts(4).iter().map(Slots::to_string).collect();
        assert_eq!(parts, ["0-15", "16-31", "32-47", "48-63"]);
        for count in 1..=64 {
            let all = Slots::ALL.parts(count).into_iter().reduce(Slots::union);
            assert_eq!(all, Some(Slots::ALL), "{count}");
        }
    }

    #[test]
    fn a_change_moves_all_slots_and_uses_no_number_twice() {
        let split = [new(1, "0-31"), new(2, "32-63")];
        let halves = Layout::default().change(&[Shard(0)], &split, 5).unwrap();
        assert_eq!(halves.successors(Shard(0)), split);
        assert!(halves.has(&[Shard(0)], &split) && !Layout::default().has(&[Shard(0)], &split));
        let merged = halves.change(&[Shard(2), Shard(1)], &[new(3, "0-63")], 6).unwrap();
        assert_eq!(merged.current().map(|d| d.shard).collect::<Vec<_>>(), [Shard(3)]);
        assert_eq!(merged.of(Shard(3)).unwrap().predecessors, [Shard(1), Shard(2)]);
        assert_eq!(Layout::decode(&merged.encode().unwrap(), 2).unwrap(), merged);

        let refused = |from: &[u8], into: &[ShardSlots]| {
            let from: Vec<Shard> = from.iter().map(|s| Shard(*s)).collect();
            halves.change(&from, into, 0).unwrap_err()
        };
        assert_eq!(refused(&[0], &[new(3, "0-63")]), InvalidChange::NotCurrent(Shard(0)));
        assert_eq!(refused(&[1], &[new(2, "0-31")]), InvalidChange::Used(Shard(2)));
        assert_eq!(refused(&[1], &[new(3, "0-15"), new(3, "16-31")]), InvalidChange::Used(Shard(3)));
        assert_eq!(refused(&[1], &[new(3, "0-15")]), InvalidChange::Slots);
        assert_eq!(refused(&[1], &[new(3, "0-16"), new(4, "16-31")]), InvalidChange::Slots);
        assert_eq!(refused(&[], &[]), InvalidChange::Slots);
    }
}
