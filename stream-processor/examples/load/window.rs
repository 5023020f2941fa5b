//! Which batch a gateway sends next: as the agent does, at most so many beyond what is received, and from there anew
//! when acks stand still. Pure.

use std::time::Duration;

use proto::{ack::Ack, position::Position};

/// In a stormy run the broker holds these for all gateways.
pub const BATCHES_OUT_MAX: u64 = 24;
pub const RESEND_AFTER: Duration = Duration::from_secs(3);

/// Sequence numbers of one gateway's log, which begins at 1.
#[derive(Debug, Clone, Default)]
pub struct Window {
    pub sent: u64,
    pub received: u64,
    pub committed: u64,
    /// Sent more than once.
    pub repeated: u64,
    furthest: u64,
    deadline: Duration,
}

impl Window {
    /// The next one that may be sent, of those up to `due`.
    pub fn next(&self, due: u64) -> Option<u64> {
        let next = self.sent + 1;
        (next <= due && self.sent < self.received + BATCHES_OUT_MAX).then_some(next)
    }

    pub fn sent(&mut self, now: Duration) {
        if self.sent == self.received {
            self.deadline = now + RESEND_AFTER;
        }
        self.sent += 1;
        self.repeated += u64::from(self.sent <= self.furthest);
        self.furthest = self.furthest.max(self.sent);
    }

    pub fn acked(&mut self, ack: &Ack, now: Duration) {
        let seq = |position: Option<Position>| position.map_or(0, |p| p.seq);
        if seq(ack.received) > self.received {
            self.received = seq(ack.received);
            self.deadline = now + RESEND_AFTER;
        }
        self.sent = self.sent.max(self.received);
        self.committed = self.committed.max(seq(ack.committed));
    }

    /// Looks whether what is out was lost, and if so goes back to it.
    pub fn look(&mut self, now: Duration) {
        if self.sent > self.received && now >= self.deadline {
            self.sent = self.received;
        }
    }
}
