//! The state of some slots, out of the states of the shards that have had them: nothing in it is made anew, so windows and
//! alerts go on as if the slots had never moved.
//!
//! A machine goes with the agent that owns it. If agents of different shards have owned it, since a gateway was replaced,
//! it goes with the one whose log has come further. Who owns machines in other shards is not known in any.

use std::collections::{BTreeMap, BTreeSet};

use proto::{archive::shards::Slots, asset::AssetId};

use super::{
    StreamError,
    fleet::carve::Moved,
    schedule::generations,
    snapshot::{Parts, decode, encode},
};

/// `snapshots`: at least one, of disjoint slots.
pub fn carve(snapshots: &[Vec<u8>], slots: Slots) -> Result<Vec<u8>, StreamError> {
    let mut parts = snapshots.iter().map(|bytes| decode(bytes)).collect::<Result<Vec<Parts>, _>>()?;
    let winners = winners(&parts, slots);
    let mut carved = Parts::like(parts.first().ok_or(StreamError::NoState)?);
    for (at, part) in parts.iter_mut().enumerate() {
        let wins = |machine: &AssetId| winners.get(machine).is_some_and(|(winner, _)| *winner == at);
        let moved = carved.fleet.move_in(&part.fleet, slots, wins)?;
        carved.take(part, &moved, slots);
    }
    encode(&carved.written())
}

/// For each machine of the slots the state that it is taken from, and how far that one's agent is.
fn winners(parts: &[Parts], slots: Slots) -> BTreeMap<AssetId, (usize, i64)> {
    let mut winners = BTreeMap::<AssetId, (usize, i64)>::new();
    for (at, part) in parts.iter().enumerate() {
        let owned = part.fleet.known().filter_map(|(machine, _, agent)| Some((machine, agent?)));
        for (machine, agent) in owned.filter(|(_, agent)| slots.holds(&agent.agent)) {
            let watermark = part.fleet.watermark(agent).0;
            let best = winners.entry(machine.clone()).or_insert((at, watermark));
            *best = if watermark > best.1 { (at, watermark) } else { *best };
        }
    }
    winners
}

impl Parts {
    /// Nothing yet, under the same settings.
    fn like(first: &Parts) -> Parts {
        let (fleet, carry, windows, waiting, left) = Default::default();
        let (schedule, requests) = Default::default();
        let mut desk = first.desk.clone();
        desk.clear();
        Parts { schema: first.schema.clone(), fleet, carry, windows, desk, waiting, left, schedule, requests }
    }

    fn take(&mut self, part: &mut Parts, moved: &Moved, slots: Slots) {
        let same = part.schema == self.schema;
        if !same {
            tracing::warn!("shards with other settings of windows and features: theirs and their normals start anew");
        }
        for (there, here) in &moved.series {
            self.carry.resize(self.carry.len().max(*here as usize + 1), Default::default());
            self.carry[*here as usize] = part.carry.get(*there as usize).copied().unwrap_or_default();
        }
        for (there, here) in &moved.machines {
            if same {
                self.windows.move_in(*here, &mut part.windows, *there);
            }
            self.desk.move_in(&mut part.desk, part.fleet.name(*there));
        }
        let names: BTreeSet<_> = moved.machines.iter().map(|(there, _)| part.fleet.name(*there).clone()).collect();
        let ours = generations(&self.fleet).into_iter().filter(|(machine, _)| !names.contains(machine)).collect();
        self.schedule.move_in(&part.schedule, &part.fleet, &names, &ours);
        self.requests.move_in(&part.requests);
        self.waiting.move_in(&mut part.waiting, slots);
        let left = std::mem::take(&mut part.left);
        self.left.extend(left.into_iter().filter(|(agent, _)| slots.holds(&agent.agent)));
    }
}
