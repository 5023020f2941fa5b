//! The topic grammar: `millwright/v1/{site}/{slot}/{agent}/{channel}`. Nothing else spells a topic.

use std::fmt;

use crate::{archive::shards::Slots, asset::AssetId};

const PREFIX: &str = "millwright/v1";
/// Longest topic that can be valid.
pub const TOPIC_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Frames of the agent's log; QoS 1, not retained.
    Telemetry,
    /// Retained.
    Birth,
    /// Retained; also the last will.
    Status,
    /// Retained; only the processor publishes it.
    Ack,
    Command,
}

impl Channel {
    const ALL: [Channel; 5] = [Channel::Telemetry, Channel::Birth, Channel::Status, Channel::Ack, Channel::Command];

    const fn name(self) -> &'static str {
        match self {
            Channel::Telemetry => "telemetry",
            Channel::Birth => "birth",
            Channel::Status => "status",
            Channel::Ack => "ack",
            Channel::Command => "command",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    pub site: AssetId,
    pub agent: AssetId,
    pub channel: Channel,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topic `{topic}` is not of the form {PREFIX}/site/slot/agent/channel: {reason}")]
pub struct InvalidTopic {
    pub topic: String,
    pub reason: &'static str,
}

impl Topic {
    pub fn new(site: &AssetId, agent: &AssetId, channel: Channel) -> Self {
        Topic { site: site.clone(), agent: agent.clone(), channel }
    }

    pub fn parse(topic: &str) -> Result<Self, InvalidTopic> {
        let invalid = |reason| InvalidTopic { topic: topic.chars().take(TOPIC_BYTES_MAX).collect(), reason };
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(invalid("too long"));
        }
        let rest = topic.strip_prefix(PREFIX).and_then(|r| r.strip_prefix('/')).ok_or_else(|| invalid("prefix"))?;
        let mut parts = rest.split('/');
        let mut part = || parts.next().ok_or_else(|| invalid("too short"));
        let (site, slot, agent, channel) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(invalid("too long"));
        }
        let site = AssetId::new(site).map_err(|_| invalid("site"))?;
        let agent = AssetId::new(agent).map_err(|_| invalid("agent"))?;
        if slot != format!("{:02}", agent.slot()) {
            return Err(invalid("slot is not the agent's"));
        }
        let channel = Channel::ALL.into_iter().find(|c| c.name() == channel).ok_or_else(|| invalid("channel"))?;
        Ok(Topic { site, agent, channel })
    }

    /// Filters for one channel of all agents of a site in these slots.
    pub fn filters(site: &AssetId, slots: Slots, channel: Channel) -> Vec<String> {
        let filter = |slot: &str| format!("{PREFIX}/{site}/{slot}/+/{}", channel.name());
        match slots.is_all() {
            true => vec![filter("+")],
            false => slots.iter().map(|slot| filter(&format!("{slot:02}"))).collect(),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}/{}/{:02}/{}/{}", self.site, self.agent.slot(), self.agent, self.channel.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_their_spelling() {
        let (site, agent) = (AssetId::new("mill").unwrap(), AssetId::new("gw-1").unwrap());
        for channel in Channel::ALL {
            let topic = Topic::new(&site, &agent, channel);
            assert_eq!(Topic::parse(&topic.to_string()), Ok(topic));
        }
    }

    #[test]
    fn filters_are_those_of_the_slots() {
        let site = AssetId::new("mill").unwrap();
        let filters = |slots: &str| Topic::filters(&site, slots.parse().unwrap(), Channel::Telemetry);
        assert_eq!(filters("0-63"), ["millwright/v1/mill/+/+/telemetry"]);
        assert_eq!(filters("7,40"), ["millwright/v1/mill/07/+/telemetry", "millwright/v1/mill/40/+/telemetry"]);
    }

    #[test]
    fn foreign_topics_are_refused_with_the_reason() {
        let slot = AssetId::new("gw").unwrap().slot();
        let wrong = (slot + 1) % 64;
        let cases = [
            ("spBv1.0/x".to_string(), "prefix"),
            (format!("millwright/v1/mill/{slot:02}/gw"), "too short"),
            (format!("millwright/v1/mill/{slot:02}/gw/telemetry/x"), "too long"),
            (format!("millwright/v1/mill/{wrong:02}/gw/telemetry"), "slot is not the agent's"),
            (format!("millwright/v1/mi ll/{slot:02}/gw/telemetry"), "site"),
            (format!("millwright/v1/mill/{slot:02}/gw/other"), "channel"),
            ("millwright/v1/".repeat(40), "too long"),
        ];
        for (topic, reason) in cases {
            assert_eq!(Topic::parse(&topic).unwrap_err().reason, reason, "{topic}");
        }
    }
}
