//! What waits for a commit: people's answers and provisional alerts, in the order of the segments that hold them.

use std::collections::VecDeque;

use proto::wire::alert::Alert;
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
    /// Alerts to be shown once they are committed: people's acts.
    alerts: Vec<Alert>,
    /// Number of the last board event in the segment.
    alerts_up_to: Option<u64>,
    readings: u64,
}

/// What a commit makes true.
#[derive(Debug, Default)]
pub struct Confirmed {
    pub alerts: Vec<Alert>,
    pub alerts_up_to: Option<u64>,
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

    pub fn readings(&mut self, archived: u64) {
        self.open.readings += archived;
    }

    pub fn answer(&mut self, answer: Answer) {
        self.open.answers.push(answer);
    }

    /// An alert that a person changed: shown to others only after its commit.
    pub fn show(&mut self, alert: Alert) {
        self.open.alerts.push(alert);
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
            confirmed.alerts.extend(entry.alerts);
            confirmed.alerts_up_to = entry.alerts_up_to.or(confirmed.alerts_up_to);
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
        ledger.readings(3);
        ledger.submitted();
        let (reply, mut second) = oneshot::channel();
        ledger.answer(Answer::Recorded(reply));
        ledger.alerts_up_to(7);
        ledger.submitted();
        assert!(first.try_recv().is_err());
        assert_eq!(ledger.committed(1).readings, 3);
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
