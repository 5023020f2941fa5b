//! Decides which batch is the next one of its agent's log. Pure, and the only place where a batch can be taken twice
//! or left out, so it believes nothing but positions.
//!
//! An epoch begins only with the frame that covers its seq 1 and names exactly our position as its predecessor; with
//! no position yet, only with one that names none. Anything looser would lose data: were the first frame of epoch B
//! taken while the last ones of A are still on their way, committing B would free A unseen. An agent whose older
//! batches went into another archive is therefore not taken from an empty one: nothing is freed and its spool holds
//! everything, until it declares the break itself. Its declaration counts only if it says exactly where we are; and what
//! we had before of the epoch that it leads into (a disk was restored from an image) is not taken again.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proto::{
    archive::shards::Slots,
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{FrameHeader, FrameKind},
};
use serde::{Deserialize, Serialize};

/// An agent, as its topic names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentKey {
    pub site: AssetId,
    pub agent: AssetId,
}

/// Payload CRCs kept per agent, to tell a repeat from another batch under the same name.
pub const RECENT_CRCS_MAX: usize = 64;
/// Epochs that an agent has left behind, kept to know late repeats of them. A disk restored from an image that is more
/// starts old than this would double what the archive has of it.
pub const EPOCHS_KEPT_MAX: usize = 32;
/// Agents with a log; the next one is not taken from.
pub const AGENTS_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The next one. It counts as received from now on; of a gap that begins earlier, only the part `from..` is new.
    Take { from: u64 },
    /// The log goes on elsewhere: behind `to`, where we are from now on.
    Bridge { from: Option<Position>, to: Position },
    /// Received before: the ack is due again.
    Duplicate,
    /// Not the next one: the ack asks for that by saying again where we are.
    OutOfOrder,
    /// A position that we have, with other content: two agents under one name, or a cloned card.
    Conflict,
    /// Damage in transit: it will be sent again.
    Damaged,
    /// It would be the next one, but staging is full.
    Paused,
}

/// Where the epochs ended that each agent has left behind, the oldest first. Part of the state at a barrier.
pub type EpochsLeft = BTreeMap<AgentKey, Vec<Position>>;

#[derive(Debug)]
pub struct Intake {
    logs: HashMap<AgentKey, AgentLog>,
    /// Agents of others are not ours, whatever the broker brings.
    slots: Slots,
    paused: bool,
}

#[derive(Debug)]
struct AgentLog {
    received: Position,
    /// Sequence number and payload CRC of the newest data batches of the received epoch.
    recent: VecDeque<(u64, u32)>,
    /// Where earlier epochs ended.
    left: VecDeque<Position>,
}

impl Intake {
    /// Goes on from what is committed: nothing else of an earlier incarnation is known.
    pub fn new(committed: &BTreeMap<AgentKey, Position>, mut left: EpochsLeft) -> Self {
        let mut log = |agent: &AgentKey, position: &Position| {
            let left = left.remove(agent).unwrap_or_default().into();
            AgentLog { left, ..AgentLog::at(*position) }
        };
        let logs = committed.iter().map(|(agent, position)| (agent.clone(), log(agent, position))).collect();
        Intake { logs, slots: Slots::ALL, paused: false }
    }

    pub fn limited_to(self, slots: Slots) -> Self {
        Intake { slots, ..self }
    }

    /// May this agent's batches be taken here at all?
    pub fn serves(&self, agent: &AgentKey) -> bool {
        self.slots.holds(&agent.agent)
    }

    pub fn paused(&self) -> bool {
        self.paused
    }

    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub fn received(&self, agent: &AgentKey) -> Option<Position> {
        self.logs.get(agent).map(|log| log.received)
    }

    /// How far all agents are received: the positions of a barrier after everything taken has been applied.
    pub fn positions(&self) -> BTreeMap<AgentKey, Position> {
        self.logs.iter().map(|(agent, log)| (agent.clone(), log.received)).collect()
    }

    /// For the snapshot at the same barrier.
    pub fn left(&self) -> EpochsLeft {
        let left = self.logs.iter().filter(|(_, log)| !log.left.is_empty());
        left.map(|(agent, log)| (agent.clone(), log.left.iter().copied().collect())).collect()
    }

    pub fn offer(&mut self, agent: &AgentKey, header: &FrameHeader, payload_intact: bool) -> Decision {
        if !payload_intact {
            return Decision::Damaged;
        }
        let decision = match self.logs.get(agent) {
            Some(log) => log.judge(header),
            None if header.previous.is_some() || self.logs.len() >= AGENTS_MAX => Decision::OutOfOrder,
            None if header.kind == FrameKind::Bridge => Decision::Bridge { from: None, to: header.position },
            None if header.position.seq == 1 => Decision::Take { from: 1 },
            None => Decision::OutOfOrder,
        };
        match decision {
            Decision::Take { .. } | Decision::Bridge { .. } if self.paused => return Decision::Paused,
            Decision::Take { .. } => self.take(agent, header),
            Decision::Bridge { to, .. } => {
                self.advance(agent, to);
            }
            _ => {}
        }
        decision
    }

    fn advance(&mut self, agent: &AgentKey, received: Position) -> &mut AgentLog {
        let log = self.logs.entry(agent.clone()).or_insert_with(|| AgentLog::at(received));
        log.advance(received);
        log
    }

    fn take(&mut self, agent: &AgentKey, header: &FrameHeader) {
        let received = Position { epoch: header.position.epoch, seq: header.last_seq };
        let log = self.advance(agent, received);
        if header.kind == FrameKind::Data {
            push_bounded(&mut log.recent, (header.last_seq, header.payload_crc), RECENT_CRCS_MAX);
        }
    }
}

impl AgentLog {
    fn at(received: Position) -> Self {
        AgentLog { received, recent: VecDeque::new(), left: VecDeque::new() }
    }

    fn judge(&self, header: &FrameHeader) -> Decision {
        let Position { epoch, seq } = header.position;
        if header.kind == FrameKind::Bridge {
            return self.judge_bridge(header);
        }
        if epoch != self.received.epoch {
            return self.judge_other_epoch(header);
        }
        if header.last_seq <= self.received.seq {
            return if self.contradicts(header) { Decision::Conflict } else { Decision::Duplicate };
        }
        let next = self.received.seq + 1;
        if seq <= next { Decision::Take { from: next } } else { Decision::OutOfOrder }
    }

    fn judge_other_epoch(&self, header: &FrameHeader) -> Decision {
        let follows = header.position.seq == 1 && header.previous == Some(self.received);
        match self.end_of(header.position.epoch) {
            None if follows => Decision::Take { from: 1 },
            // A restored disk sends again what we have: it is passed over as a whole.
            Some(to) if follows => Decision::Bridge { from: Some(self.received), to },
            Some(end) if header.last_seq <= end.seq => Decision::Duplicate,
            _ => Decision::OutOfOrder,
        }
    }

    fn judge_bridge(&self, header: &FrameHeader) -> Decision {
        let to = header.position;
        if header.previous == Some(self.received) && to != self.received {
            let known = self.end_of(to.epoch).map_or(0, |end| end.seq);
            return Decision::Bridge { from: Some(self.received), to: Position { seq: to.seq.max(known), ..to } };
        }
        match to.epoch == self.received.epoch && to.seq <= self.received.seq {
            true => Decision::Duplicate,
            false => Decision::OutOfOrder,
        }
    }

    /// Where an epoch ended that was left behind.
    fn end_of(&self, epoch: Epoch) -> Option<Position> {
        self.left.iter().rev().find(|end| end.epoch == epoch).copied()
    }

    /// A gap is never a contradiction: it replaces what was there.
    fn contradicts(&self, header: &FrameHeader) -> bool {
        let same = |(seq, _): &&(u64, u32)| *seq == header.last_seq;
        let known = self.recent.iter().find(same);
        header.kind == FrameKind::Data && known.is_some_and(|(_, crc)| *crc != header.payload_crc)
    }

    fn advance(&mut self, received: Position) {
        if received.epoch != self.received.epoch {
            self.left.retain(|end| end.epoch != received.epoch);
            push_bounded(&mut self.left, self.received, EPOCHS_KEPT_MAX);
            self.recent.clear();
        }
        self.received = received;
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, len_max: usize) {
    if queue.len() == len_max {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests;
