//! An agent that began without its disk makes way for a start that has it, when the disk is there and the archive has
//! what is in memory. Sampling waits for that, but not for ever: the broker or the archive may be away, too.

use std::time::Duration;

use tokio::time::Instant;

const WAIT_MAX: Duration = Duration::from_secs(30);
const AGAIN_AFTER: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct Handover {
    /// Since when no batch is taken.
    since: Option<Instant>,
    /// Not tried again before.
    next_at: Option<Instant>,
}

impl Handover {
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Looks whether the disk is back. True: everything is in the archive, and the agent shall end.
    pub fn turn(&mut self, now: Instant, all_is_archived: bool, is_back: impl FnOnce() -> bool) -> bool {
        match self.since {
            Some(_) if all_is_archived => return true,
            Some(since) if now - since >= WAIT_MAX => {
                tracing::warn!("what is in memory does not reach the archive: the agent goes on without its disk");
                (self.since, self.next_at) = (None, Some(now + AGAIN_AFTER));
            }
            None if self.next_at.is_none_or(|at| at <= now) && is_back() => {
                tracing::info!("the disk can be used: the agent ends when the archive has what is in memory");
                self.since = Some(now);
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_all_is_archived_and_gives_up_for_a_while_otherwise() {
        let (mut handover, now) = (Handover::default(), Instant::now());
        assert!(!handover.turn(now, true, || false) && !handover.is_on(), "no disk");
        assert!(!handover.turn(now, false, || true) && handover.is_on());
        assert!(!handover.turn(now + WAIT_MAX, false, || true) && !handover.is_on(), "sampling goes on");
        assert!(!handover.turn(now + AGAIN_AFTER, false, || true) && !handover.is_on(), "not at once");
        let again = now + WAIT_MAX + AGAIN_AFTER;
        assert!(!handover.turn(again, false, || true) && handover.is_on());
        assert!(handover.turn(again, true, || panic!("that is known")));
    }
}
