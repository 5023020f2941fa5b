//! When to tell which agent how far its log is: after a change, but not for every batch. Pure.
//!
//! Acks are retained and repeat themselves as a whole, so only the newest state of an agent ever waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proto::{
    ack::{Ack, ArchiveId, Incarnation},
    position::Position,
    time::PlantTime,
    topic::{Channel, Topic},
};

use crate::{decode::AgentKey, intake::AGENTS_MAX};

/// Shortest time between two acks to one agent. Agents wait at least three of these before they send again.
pub const ACK_INTERVAL: Duration = Duration::from_millis(250);
/// While nothing is taken, agents hear so again this often.
pub const PAUSED_ACK_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Acks {
    archive: ArchiveId,
    incarnation: Incarnation,
    paused: bool,
    agents: BTreeMap<AgentKey, Agent>,
    /// Those with something to say, when their interval is over.
    due: BTreeSet<AgentKey>,
    repeat_at: Duration,
}

#[derive(Debug, Default)]
struct Agent {
    received: Option<Position>,
    committed: Option<Position>,
    sent_at: Option<Duration>,
}

impl Agent {
    fn ready_at(&self) -> Duration {
        self.sent_at.map_or(Duration::ZERO, |at| at + ACK_INTERVAL)
    }
}

impl Acks {
    /// Announces the new incarnation to every agent that the archive knows.
    pub fn new(archive: ArchiveId, incarnation: Incarnation, committed: &BTreeMap<AgentKey, Position>) -> Self {
        let known = |p: &Position| Agent { received: Some(*p), committed: Some(*p), sent_at: None };
        Acks {
            archive,
            incarnation,
            paused: false,
            agents: committed.iter().map(|(agent, p)| (agent.clone(), known(p))).collect(),
            due: committed.keys().cloned().collect(),
            repeat_at: Duration::ZERO,
        }
    }

    pub fn received(&mut self, agent: &AgentKey, position: Position) {
        self.agents.entry(agent.clone()).or_default().received = Some(position);
        self.due.insert(agent.clone());
    }

    pub fn committed(&mut self, positions: &BTreeMap<AgentKey, Position>) {
        for (agent, position) in positions {
            let state = self.agents.entry(agent.clone()).or_default();
            if state.committed.replace(*position) != Some(*position) {
                self.due.insert(agent.clone());
            }
        }
    }

    /// The agent sent something that is not next: our last ack did not reach it, or it follows an earlier incarnation,
    /// even one that knew it while we do not. It would wait for ever if we kept silent.
    pub fn repeat(&mut self, agent: &AgentKey) {
        if self.agents.contains_key(agent) || self.agents.len() < AGENTS_MAX {
            self.agents.entry(agent.clone()).or_default();
            self.due.insert(agent.clone());
        }
    }

    /// For a broker that may have forgotten what it retained.
    pub fn repeat_all(&mut self) {
        self.due.extend(self.agents.keys().cloned());
    }

    pub fn set_paused(&mut self, paused: bool, now: Duration) {
        if std::mem::replace(&mut self.paused, paused) != paused {
            self.repeat_all();
            self.repeat_at = now + PAUSED_ACK_INTERVAL;
        }
    }

    /// What to publish now, retained.
    pub fn take_due(&mut self, now: Duration, plant_time: PlantTime) -> Vec<(Topic, Ack)> {
        if self.paused && now >= self.repeat_at {
            self.repeat_all();
            self.repeat_at = now + PAUSED_ACK_INTERVAL;
        }
        let agents = &mut self.agents;
        let ready = |agent: &AgentKey| agents.get(agent).is_some_and(|a| a.ready_at() <= now);
        let ready: Vec<AgentKey> = self.due.extract_if(.., ready).collect();
        let mut acks = Vec::with_capacity(ready.len());
        for agent in ready {
            let Some(state) = self.agents.get_mut(&agent) else { continue };
            state.sent_at = Some(now);
            let (received, committed) = (state.received, state.committed);
            let (archive, incarnation, paused) = (self.archive, self.incarnation, self.paused);
            let ack = Ack { archive, incarnation, received, committed, paused, plant_time };
            acks.push((Topic::new(&agent.site, &agent.agent, Channel::Ack), ack));
        }
        acks
    }
}

#[cfg(test)]
mod tests;
