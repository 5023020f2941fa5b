//! May a starter take a shard that has another owner? A pure core that is told the time.
//!
//! An owner that is alive writes a manifest at least once per [`renewal`], an empty one if it has nothing to commit. So
//! whoever finds another owner's manifest waits until none has come for the quiet time, by its own monotonic clock and
//! from its own first look on: nobody's wall clock is believed. A process that remembers another incarnation than the newest
//! waits even if the name of the owner is its own: then two processes share it, and else would throw each other out for
//! ever.

use std::time::Duration;

use proto::{
    ack::Incarnation,
    archive::{Manifest, ManifestKind},
};

pub const TAKEOVER_QUIET_SECONDS: u64 = 60;
/// Several, so that one that is late makes nobody think that the owner is gone.
const RENEWALS_PER_QUIET_TIME: u32 = 4;
/// Looks at the newest manifest while waiting.
const LOOKS_PER_QUIET_TIME: u32 = 16;

/// An owner's newest manifest is never older than this while S3 answers.
pub fn renewal(quiet: Duration) -> Duration {
    quiet / RENEWALS_PER_QUIET_TIME
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    TakeOver,
    /// Look again then.
    Wait(Duration),
    /// Nobody will ever write to it again.
    Closed,
}

/// One starter's patience.
#[derive(Debug)]
pub struct Standoff {
    owner: String,
    quiet: Duration,
    /// What the process before this one was, if it is remembered.
    last: Option<Incarnation>,
    /// Somebody knows that the other one is gone.
    forced: bool,
    /// Number of the newest manifest, and since when it has been that.
    seen: Option<(u64, Duration)>,
}

impl Standoff {
    pub fn new(owner: &str, quiet: Duration, last: Option<Incarnation>, forced: bool) -> Self {
        Standoff { owner: owner.into(), quiet, last, forced, seen: None }
    }

    pub fn judge(&mut self, newest: Option<&Manifest>, now: Duration) -> Verdict {
        let Some(newest) = newest else { return Verdict::TakeOver };
        let gone = match newest.kind {
            ManifestKind::Closed => return Verdict::Closed,
            // Whoever opened it has not begun to write.
            ManifestKind::Released | ManifestKind::Opened => true,
            ManifestKind::Takeover | ManifestKind::Commit | ManifestKind::Renewed => false,
        };
        let own = newest.owner == self.owner && self.last.is_none_or(|last| last == newest.incarnation);
        if gone || self.forced || own {
            return Verdict::TakeOver;
        }
        let since = match self.seen {
            Some((number, since)) if number == newest.number => since,
            _ => now,
        };
        self.seen = Some((newest.number, since));
        match since + self.quiet {
            until if until <= now => Verdict::TakeOver,
            until => Verdict::Wait(until.min(now + self.quiet / LOOKS_PER_QUIET_TIME)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{ack::ArchiveId, archive::Shard};

    use super::*;
    use crate::archive::recovery::{Claim, takeover};

    const QUIET: Duration = Duration::from_secs(60);

    fn of(owner: &str, number: u64, kind: ManifestKind) -> Manifest {
        let claim = Claim { fresh: ArchiveId([1; 16]), shard: Shard(0), owner: owner.into(), wall_ms: 0 };
        Manifest { number, kind, ..takeover(None, &claim) }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn nobody_waits_for_a_free_shard_or_for_himself() {
        let mut standoff = Standoff::new("a", QUIET, None, false);
        assert_eq!(standoff.judge(None, secs(0)), Verdict::TakeOver);
        assert_eq!(standoff.judge(Some(&of("b", 4, ManifestKind::Released)), secs(0)), Verdict::TakeOver);
        assert_eq!(standoff.judge(Some(&of("a", 4, ManifestKind::Commit)), secs(0)), Verdict::TakeOver);
    }

    #[test]
    fn another_owner_is_waited_for_until_it_has_been_quiet() {
        let mut standoff = Standoff::new("a", QUIET, None, false);
        let mut looks = 0;
        let mut now = secs(100);
        // It renews until 300 s, and is gone then.
        let taken_at = loop {
            let number = 4 + (now.min(secs(300)).as_secs() - 100) / renewal(QUIET).as_secs();
            match standoff.judge(Some(&of("b", number, ManifestKind::Renewed)), now) {
                Verdict::TakeOver => break now,
                Verdict::Wait(until) => (now, looks) = (until, looks + 1),
                Verdict::Closed => panic!("it is not closed"),
            }
        };
        assert!(taken_at >= secs(295) + QUIET && taken_at <= secs(300) + QUIET + renewal(QUIET), "{taken_at:?}");
        assert!(looks < 100, "{looks} looks");
    }

    #[test]
    fn a_word_from_a_person_ends_the_wait() {
        let other = of("b", 4, ManifestKind::Commit);
        assert_eq!(Standoff::new("a", QUIET, None, true).judge(Some(&other), secs(0)), Verdict::TakeOver);
    }

    #[test]
    fn a_closed_shard_is_nobodys_and_an_opened_one_anybodys() {
        let mut forced = Standoff::new("a", QUIET, None, true);
        assert_eq!(forced.judge(Some(&of("a", 4, ManifestKind::Closed)), secs(0)), Verdict::Closed);
        let mut patient = Standoff::new("a", QUIET, Some(2), false);
        assert_eq!(patient.judge(Some(&of("admin", 4, ManifestKind::Opened)), secs(0)), Verdict::TakeOver);
    }

    #[test]
    fn whoever_was_thrown_out_waits_even_for_his_own_name() {
        let own = of("a", 4, ManifestKind::Commit);
        assert_eq!(
            Standoff::new("a", QUIET, Some(own.incarnation), false).judge(Some(&own), secs(0)),
            Verdict::TakeOver
        );
        let mut standoff = Standoff::new("a", QUIET, Some(own.incarnation + 1), false);
        assert!(matches!(standoff.judge(Some(&own), secs(0)), Verdict::Wait(_)));
        assert_eq!(standoff.judge(Some(&own), QUIET), Verdict::TakeOver);
    }
}
