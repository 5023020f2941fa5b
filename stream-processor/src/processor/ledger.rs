//! What waits for a commit: people's answers and provisional alerts, in the order of the segments that hold them.

use std::collections::VecDeque;

use proto::{archive::Balance, wire::alert::Alert};
use tokio::sync::oneshot;

use crate::serve::command::CommandError;

/// Request ids whose answers are remembered, so that a repeat gets the same one.
const REQUESTS_KEPT_MAX: usize = 1024;

/// An answer that is given after its commit.
#[derive(Debug)]
pub enum Answer {
    Acknowledged(Box<Alert>, oneshot::Sender<Result<Alert, CommandError>>),
    Recorded(oneshot::Sender<Result<(), CommandError>>),
}

impl Answer {
    /// Whoever asked may have gone; the commit stands.
    fn give(self) {
        match self {
            Answer::Acknowledged(alert, reply) => drop(reply.send(Ok(*alert))),
            Answer::Recorded(reply) => drop(reply.send(Ok(()))),
        }
    }
}

/// What one segment promises to those outside.
#[derive(Debug, Default)]
struct Entry {
    answers: Vec<Answer>,
    /// To be shown once they are committed.
    acknowledged: Vec<Alert>,
    /// Number of the last board event in the segment.
    alerts_up_to: Option<u64>,
    batches: u64,
    readings: u64,
}

/// What a commit makes true.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// As people acknowledged them; the alerts may have moved on since.
    pub acknowledged: Vec<Alert>,
    pub alerts_up_to: Option<u64>,
    pub batches: u64,
    /// Archived ones.
    pub readings: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// Of the segment that is being filled.
    open: Entry,
    /// Submitted and not committed.
    submitted: VecDeque<Entry>,
    committed: u64,
    acknowledged: VecDeque<(String, Alert)>,
    recorded: VecDeque<String>,
}

impl Ledger {
    pub fn alerts_up_to(&mut self, number: u64) {
        self.open.alerts_up_to = Some(number);
    }

    pub fn taken(&mut self, balance: &Balance) {
        self.open.batches += balance.batches;
        self.open.readings += balance.readings_archived;
    }

    /// Batches in the open segment, and in submitted ones: all that were received and are not committed.
    pub fn uncommitted(&self) -> (u64, u64) {
        (self.open.batches, self.submitted.iter().map(|entry| entry.batches).sum())
    }

    pub fn answer(&mut self, answer: Answer) {
        self.open.answers.push(answer);
    }

    /// An alert that a person changed: shown to others only after its commit.
    pub fn show(&mut self, alert: Alert) {
        self.open.acknowledged.push(alert);
    }

    /// The open segment was cut.
    pub fn submitted(&mut self) {
        self.submitted.push_back(std::mem::take(&mut self.open));
    }

    /// So many segments of this incarnation are committed; gives their answers.
    pub fn committed(&mut self, segments: u64) -> Confirmed {
        let mut confirmed = Confirmed::default();
        while self.committed < segments {
            let Some(entry) = self.submitted.pop_front() else { break };
            self.committed += 1;
            entry.answers.into_iter().for_each(Answer::give);
            confirmed.acknowledged.extend(entry.acknowledged);
            confirmed.alerts_up_to = entry.alerts_up_to.or(confirmed.alerts_up_to);
            confirmed.batches += entry.batches;
            confirmed.readings += entry.readings;
        }
        confirmed
    }

    pub fn remember_acknowledged(&mut self, request: String, alert: &Alert) {
        if !request.is_empty() {
            self.acknowledged.push_back((request, alert.clone()));
            forget_oldest(&mut self.acknowledged);
        }
    }

    pub fn acknowledged(&self, request: &str) -> Option<&Alert> {
        self.acknowledged.iter().find(|(id, _)| id == request).map(|(_, alert)| alert)
    }

    pub fn remember_recorded(&mut self, request: String) {
        if !request.is_empty() {
            self.recorded.push_back(request);
            forget_oldest(&mut self.recorded);
        }
    }

    pub fn recorded(&self, request: &str) -> bool {
        self.recorded.iter().any(|id| id == request)
    }
}

fn forget_oldest<T>(memory: &mut VecDeque<T>) {
    memory.drain(..memory.len().saturating_sub(REQUESTS_KEPT_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_with_their_own_commit_and_not_before() {
        let mut ledger = Ledger::default();
        let (reply, mut first) = oneshot::channel();
        ledger.answer(Answer::Recorded(reply));
        ledger.taken(&Balance { batches: 2, readings_archived: 3, ..Balance::default() });
        assert_eq!(ledger.uncommitted(), (2, 0));
        ledger.submitted();
        assert_eq!(ledger.uncommitted(), (0, 2));
        let (reply, mut second) = oneshot::channel();
        ledger.answer(Answer::Recorded(reply));
        ledger.alerts_up_to(7);
        ledger.submitted();
        assert!(first.try_recv().is_err());
        let first_commit = ledger.committed(1);
        assert_eq!((first_commit.batches, first_commit.readings, ledger.uncommitted()), (2, 3, (0, 0)));
        assert_eq!(first.try_recv(), Ok(Ok(())));
        assert!(second.try_recv().is_err());
        assert_eq!(ledger.committed(2).alerts_up_to, Some(7));
        assert_eq!(second.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_repeated_request_is_known_and_the_memory_is_bounded() {
        let mut ledger = Ledger::default();
        for i in 0..2 * REQUESTS_KEPT_MAX {
            ledger.remember_recorded(format!("r{i}"));
        }
        assert!(ledger.recorded(&format!("r{}", 2 * REQUESTS_KEPT_MAX - 1)));
        assert!(!ledger.recorded("r0"));
        assert_eq!(ledger.recorded.len(), REQUESTS_KEPT_MAX);
    }
}
