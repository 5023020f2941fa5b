//! Decides which batch is the next one of its agent's log. Pure, and the only place where a batch can be taken twice
//! or left out, so it believes nothing but positions.
//!
//! An epoch begins only with the frame that covers its seq 1 and names exactly our position as its predecessor; with
//! no position yet, only with one that names none. Anything looser would lose data: were the first frame of epoch B
//! taken while the last ones of A are still on their way, committing B would free A unseen. An agent whose older
//! batches went into another archive is therefore not taken from an empty one: nothing is freed and its spool holds
//! everything, until it declares the break itself.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proto::{
    position::{Epoch, Position},
    telemetry::{FrameHeader, FrameKind},
};

use crate::decode::AgentKey;

/// Payload CRCs kept per agent, to tell a repeat from another batch under the same name.
pub const RECENT_CRCS_MAX: usize = 64;
/// Epochs that an agent has left behind, kept to know late repeats of them.
pub const EPOCHS_KEPT_MAX: usize = 8;
/// Agents with a log; the next one is not taken from.
pub const AGENTS_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The next one. It counts as received from now on; of a gap that begins earlier, only the part `from..` is new.
    Take { from: u64 },
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

#[derive(Debug, Default)]
pub struct Intake {
    logs: HashMap<AgentKey, AgentLog>,
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
    pub fn new(committed: &BTreeMap<AgentKey, Position>) -> Self {
        let logs = committed.iter().map(|(agent, position)| (agent.clone(), AgentLog::at(*position))).collect();
        Intake { logs, paused: false }
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

    pub fn offer(&mut self, agent: &AgentKey, header: &FrameHeader, payload_intact: bool) -> Decision {
        if !payload_intact {
            return Decision::Damaged;
        }
        let decision = match self.logs.get(agent) {
            Some(log) => log.judge(header),
            None if begins_a_log(header) && self.logs.len() < AGENTS_MAX => Decision::Take { from: 1 },
            None => Decision::OutOfOrder,
        };
        match decision {
            Decision::Take { .. } if self.paused => Decision::Paused,
            Decision::Take { .. } => {
                self.take(agent, header);
                decision
            }
            other => other,
        }
    }

    fn take(&mut self, agent: &AgentKey, header: &FrameHeader) {
        let received = Position { epoch: header.position.epoch, seq: header.last_seq };
        let log = self.logs.entry(agent.clone()).or_insert_with(|| AgentLog::at(received));
        log.advance(received);
        if header.kind == FrameKind::Data {
            push_bounded(&mut log.recent, (header.last_seq, header.payload_crc), RECENT_CRCS_MAX);
        }
    }
}

fn begins_a_log(header: &FrameHeader) -> bool {
    header.position.seq == 1 && header.previous.is_none()
}

impl AgentLog {
    fn at(received: Position) -> Self {
        AgentLog { received, recent: VecDeque::new(), left: VecDeque::new() }
    }

    fn judge(&self, header: &FrameHeader) -> Decision {
        let Position { epoch, seq } = header.position;
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
        if header.position.seq == 1 && header.previous == Some(self.received) && !self.has_left(header.position.epoch) {
            return Decision::Take { from: 1 };
        }
        let behind = |end: &&Position| end.epoch == header.position.epoch && header.last_seq <= end.seq;
        match self.left.iter().find(behind) {
            Some(_) => Decision::Duplicate,
            None => Decision::OutOfOrder,
        }
    }

    fn has_left(&self, epoch: Epoch) -> bool {
        self.left.iter().any(|end| end.epoch == epoch)
    }

    /// A gap is never a contradiction: it replaces what was there.
    fn contradicts(&self, header: &FrameHeader) -> bool {
        let same = |(seq, _): &&(u64, u32)| *seq == header.last_seq;
        let known = self.recent.iter().find(same);
        header.kind == FrameKind::Data && known.is_some_and(|(_, crc)| *crc != header.payload_crc)
    }

    fn advance(&mut self, received: Position) {
        if received.epoch != self.received.epoch {
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
