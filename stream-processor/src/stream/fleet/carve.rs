//! Agents and machines go to another fleet, and get ids there.

use std::collections::HashMap;

use model::features::catalogue::CatalogueError;
use proto::{archive::shards::Slots, asset::AssetId};

use super::{Agent, Fleet};

/// Ids there and ids here, in order.
#[derive(Debug, Default)]
pub struct Moved {
    pub machines: Vec<(u32, u32)>,
    pub series: Vec<(u32, u32)>,
}

impl Fleet {
    /// Takes over another fleet's agents in these slots, and those of their machines that `wins` lets through, which are new
    /// here.
    pub fn move_in(
        &mut self,
        from: &Fleet,
        slots: Slots,
        wins: impl Fn(&AssetId) -> bool,
    ) -> Result<Moved, CatalogueError> {
        let ours = |id: &u32| {
            let owner = from.owners.get(*id as usize).and_then(Option::as_ref);
            owner.is_some_and(|agent| slots.holds(&agent.agent)) && wins(from.name(*id))
        };
        let machines: Vec<u32> = (0..from.catalogue.machines().len() as u32).filter(ours).collect();
        let (machines, series) = self.catalogue.extend(&from.catalogue, &machines)?;
        for (there, here) in &machines {
            self.owners.resize(*here as usize + 1, None);
            self.owners[*here as usize] = from.owners[*there as usize].clone();
            self.generations.resize(*here as usize + 1, 0);
            self.generations[*here as usize] = from.generation(*there);
        }
        let by_id: HashMap<u32, u32> = machines.iter().copied().collect();
        for (key, agent) in from.agents.iter().filter(|(key, _)| slots.holds(&key.agent)) {
            let machines = agent.machines.iter().filter_map(|there| by_id.get(there).copied()).collect();
            self.agents.insert(key.clone(), Agent { machines, ..*agent });
        }
        Ok(Moved { machines, series })
    }
}
