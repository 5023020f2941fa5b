//! What waits for a commit: people's answers and provisional alerts, in the order of the segments that hold them; and the
//! balance of what was taken: nothing of it may ever be unaccounted for.

use std::collections::VecDeque;

use proto::{archive::Balance, wire::alert::Alert};
use tokio::sync::oneshot;

use crate::serve::command::CommandError;

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
    /// Records that windows see.
    records: usize,
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
    pub records: usize,
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
    received_batches: u64,
    committed_batches: u64,
}

/// Batches of this incarnation: `received = committed + staged + pending`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    pub received: u64,
    pub committed: u64,
    /// In segments on their way to S3.
    pub staged: u64,
    /// In the segment that is being filled, and what waits for its model.
    pub pending: u64,
}

impl Batches {
    pub fn balance(&self) -> bool {
        self.received == self.committed + self.staged + self.pending
    }
}

impl Ledger {
    pub fn alerts_up_to(&mut self, number: u64) {
        self.open.alerts_up_to = Some(number);
    }

    pub fn taken(&mut self, balance: &Balance) {
        self.open.batches += balance.batches;
        self.open.readings += balance.readings_archived;
    }

    /// In their places in their logs.
    pub fn received(&mut self, batches: u64) {
        self.received_batches += batches;
    }

    /// `held`: batches that are read and not judged yet.
    pub fn batches(&self, held: u64) -> Batches {
        Batches {
            received: self.received_batches,
            committed: self.committed_batches,
            staged: self.submitted.iter().map(|entry| entry.batches).sum(),
            pending: self.open.batches + held,
        }
    }

    pub fn answer(&mut self, answer: Answer) {
        self.open.answers.push(answer);
    }

    /// An alert that a person changed: shown to others only after its commit.
    pub fn show(&mut self, alert: Alert) {
        self.open.acknowledged.push(alert);
    }

    /// A person's record that windows see.
    pub fn recorded(&mut self) {
        self.open.records += 1;
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
            confirmed.records += entry.records;
            confirmed.alerts_up_to = entry.alerts_up_to.or(confirmed.alerts_up_to);
            confirmed.batches += entry.batches;
            self.committed_batches += entry.batches;
            confirmed.readings += entry.readings;
        }
        confirmed
    }

    /// How many segments must be committed for everything that was submitted so far.
    pub fn segments(&self) -> u64 {
        self.committed + self.submitted.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_with_their_own_commit_and_not_before() {
        let mut ledger = Ledger::default();
        let (reply, mut first) = oneshot::channel();
        ledger.answer(Answer::Recorded(reply));
        ledger.received(2);
        let batches = |ledger: &Ledger, held| {
            let batches = ledger.batches(held);
            assert!(batches.balance(), "{batches:?}");
            (batches.committed, batches.staged, batches.pending)
        };
        assert_eq!(batches(&ledger, 2), (0, 0, 2), "they wait for their model");
        ledger.taken(&Balance { batches: 2, readings_archived: 3, ..Balance::default() });
        assert_eq!(batches(&ledger, 0), (0, 0, 2));
        assert!(!ledger.batches(1).balance(), "one that nobody received");
        ledger.submitted();
        assert_eq!(batches(&ledger, 0), (0, 2, 0));
        let (reply, mut second) = oneshot::channel();
        ledger.answer(Answer::Recorded(reply));
        ledger.alerts_up_to(7);
        ledger.submitted();
        assert!(first.try_recv().is_err());
        let first_commit = ledger.committed(1);
        assert_eq!((first_commit.batches, first_commit.readings, batches(&ledger, 0)), (2, 3, (2, 0, 0)));
        assert_eq!(first.try_recv(), Ok(Ok(())));
        assert!(second.try_recv().is_err());
        assert_eq!(ledger.committed(2).alerts_up_to, Some(7));
        assert_eq!(second.try_recv(), Ok(Ok(())));
    }
}
