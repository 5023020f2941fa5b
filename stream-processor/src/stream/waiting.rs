//! Event records whose batch was sealed before its gateway knew what time it was. Nobody can say when the cloud learnt
//! of them, until a seal of the same log can be trusted: then at the latest. That is later than it was, at worst, and
//! never earlier, so that training sees nothing before its time.

use std::collections::BTreeMap;

use proto::{archive::shards::Slots, time::PlantTime, wire::telemetry::EventRecord};
use serde::{Deserialize, Serialize};

use super::KnownEvent;
use crate::{
    clean::trusted_seal_ms,
    decode::{AgentKey, Content, Taken},
};

/// Of one agent. What comes on top of them is archived at once, without a time at which it became known.
pub const WAITING_RECORDS_MAX: usize = 1_000;

/// With the sequence numbers of their batches.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Waiting {
    agents: BTreeMap<AgentKey, Vec<(u64, EventRecord)>>,
}

impl Waiting {
    /// Takes over the agents in these slots.
    pub fn move_in(&mut self, from: &mut Waiting, slots: Slots) {
        self.agents.extend(from.agents.extract_if(.., |agent, _| slots.holds(&agent.agent)));
    }

    /// The records of a batch come in; those that can be archived now come out, in log order.
    pub fn take(&mut self, taken: &Taken) -> Vec<KnownEvent> {
        let Content::Batch { batch, .. } = &taken.content else { return vec![] };
        let own = batch.events.iter().map(|event| (taken.position.seq, event.clone()));
        let known = |known: Option<PlantTime>| {
            move |(seq, event)| KnownEvent { agent: Some(taken.agent.clone()), seq, event, known }
        };
        match trusted_seal_ms(taken) {
            Some(sealed) => {
                let before = self.agents.remove(&taken.agent).unwrap_or_default();
                before.into_iter().chain(own).map(known(Some(PlantTime(sealed)))).collect()
            }
            None if batch.events.is_empty() => vec![],
            None => {
                let waiting = self.agents.entry(taken.agent.clone()).or_default();
                waiting.extend(own);
                let most = waiting.len().min(WAITING_RECORDS_MAX);
                waiting.split_off(most).into_iter().map(known(None)).collect()
            }
        }
    }
}
