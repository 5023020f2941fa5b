//! Which installation speaks under an agent's name. One after the other is a gateway that was exchanged; two that take
//! turns are two gateways with one name, which drive each other off the broker.

use std::collections::HashMap;

use crate::decode::AgentKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// As before, or the first that is heard of.
    Known,
    /// Another than before, never heard of.
    New,
    /// The one before the last again.
    Alternating,
}

/// The last two installations of each agent, as far as their births came in since the start.
#[derive(Debug, Default)]
pub struct Installs(HashMap<AgentKey, (String, Option<String>)>);

impl Installs {
    /// Bounded by the agents that intake takes from, since only their batches bring a birth.
    pub fn hear(&mut self, agent: &AgentKey, install: &str) -> Speaker {
        let Some((last, before)) = self.0.get_mut(agent) else {
            self.0.insert(agent.clone(), (install.to_owned(), None));
            return Speaker::Known;
        };
        if last == install {
            return Speaker::Known;
        }
        let alternates = before.as_deref() == Some(install);
        *before = Some(std::mem::replace(last, install.to_owned()));
        if alternates { Speaker::Alternating } else { Speaker::New }
    }
}

#[cfg(test)]
mod tests {
    use proto::asset::AssetId;

    use super::*;

    #[test]
    fn two_that_take_turns_are_told_from_one_that_was_exchanged() {
        let key = |agent| AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new(agent).unwrap() };
        let (mut installs, agent) = (Installs::default(), key("gw"));
        let heard = ["a", "a", "b", "b", "a", "b", "c"].map(|install| installs.hear(&agent, install));
        use Speaker::{Alternating, Known, New};
        assert_eq!(heard, [Known, Known, New, Known, Alternating, Alternating, New]);
        assert_eq!(installs.hear(&key("other"), "a"), Known);
    }
}
