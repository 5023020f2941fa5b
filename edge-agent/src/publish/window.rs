//! Which frame to send next: the sliding window between the spool and the archive, as TCP has over IP. Pure: it is
//! told the log and the time, and never sends anything itself.
//!
//! Frames go out in log order, at most `window_bytes_max` beyond what the processor has received. Nothing else is
//! believed to have arrived: not a broker's acknowledgement, only the processor's ack. When acks stand still, or after
//! anything that may have lost frames on the way, sending goes back to the first one that was not received.

use std::{collections::VecDeque, time::Duration};

use proto::{
    ack::{Ack, ArchiveId, Incarnation},
    position::Position,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::spool::log::{Extent, Log};

pub const WINDOW_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// At least three of the processor's ack intervals.
pub const RESEND_AFTER: Duration = Duration::from_secs(3);
pub const RESEND_AFTER_MAX: Duration = Duration::from_secs(60);
/// Far above what sensors give, so that history and the backlog of an outage go out in minutes; a site with a thin line
/// sets less.
pub const BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;
/// Far above what a processor takes one by one; what it costs the broker, and all who share it, is by the message.
pub const BATCHES_PER_SECOND: u32 = 20_000;
/// A pause that is not said again for this long has ended unheard: the processor repeats it several times within. It may
/// have been replaced by one that does not know this agent, and that one can't speak before it is spoken to.
pub const PAUSE_MAX: Duration = Duration::from_secs(20);
/// A thousand agents that lost the same broker return spread over this time.
pub const RETURN_JITTER_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq)]
pub struct WindowConfig {
    /// Bytes that may be out beyond what is received; one frame may always be.
    pub window_bytes_max: u64,
    /// How long an ack may stand still while data is out; doubles each time up to `resend_after_max`.
    pub resend_after: Duration,
    pub resend_after_max: Duration,
    /// Of all frames, never sent before or repeated: a thousand agents come back from the same outage.
    pub bytes_per_second: u64,
    /// Likewise.
    pub batches_per_second: u32,
    pub return_jitter_max: Duration,
}

impl Default for WindowConfig {
    fn default() -> Self {
        WindowConfig {
            window_bytes_max: WINDOW_BYTES_MAX,
            resend_after: RESEND_AFTER,
            resend_after_max: RESEND_AFTER_MAX,
            bytes_per_second: BYTES_PER_SECOND,
            batches_per_second: BATCHES_PER_SECOND,
            return_jitter_max: RETURN_JITTER_MAX,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowCounters {
    pub sent: u64,
    /// Of those, sent before.
    pub resent: u64,
    pub acks: u64,
    /// Acks of a writer that has been replaced.
    pub acks_of_lower_incarnation: u64,
    /// Acks of another archive than the one this window adopted.
    pub acks_of_other_archive: u64,
    /// How often acks stood still for too long.
    pub timeouts: u64,
}

#[derive(Debug)]
pub struct SendWindow {
    config: WindowConfig,
    rng: ChaCha8Rng,
    writer: Option<(ArchiveId, Incarnation)>,
    received: Option<Position>,
    /// As the acks say, whether this log holds it or not.
    committed: Option<Position>,
    /// Until then nothing is sent, unless an ack ends it before.
    paused_until: Option<Duration>,
    connected: bool,
    /// Last position that was sent; the frame after it is next.
    cursor: Option<Position>,
    /// Furthest position ever sent: up to here a frame is a re-send.
    furthest: Option<Position>,
    /// Sent and not received, in log order: last position and bytes.
    out: VecDeque<(Position, u64)>,
    out_bytes: u64,
    /// When acks that stand still are taken as a loss; means something while data is out.
    deadline: Duration,
    timeouts_in_a_row: u32,
    hold_until: Duration,
    bytes: TokenBucket,
    batches: TokenBucket,
    counters: WindowCounters,
}

impl SendWindow {
    pub fn new(config: WindowConfig, rng_seed: u64) -> Self {
        SendWindow {
            bytes: TokenBucket::new(config.bytes_per_second as f64),
            batches: TokenBucket::new(f64::from(config.batches_per_second)),
            config,
            rng: ChaCha8Rng::seed_from_u64(rng_seed),
            writer: None,
            received: None,
            committed: None,
            paused_until: None,
            connected: false,
            cursor: None,
            furthest: None,
            out: VecDeque::new(),
            out_bytes: 0,
            deadline: Duration::ZERO,
            timeouts_in_a_row: 0,
            hold_until: Duration::ZERO,
            counters: WindowCounters::default(),
        }
    }

    /// Other limits from now on; what is out stays out.
    pub fn reconfigure(&mut self, config: WindowConfig) {
        self.bytes.set_rate(config.bytes_per_second as f64);
        self.batches.set_rate(f64::from(config.batches_per_second));
        self.config = config;
    }

    pub fn counters(&self) -> WindowCounters {
        self.counters
    }

    pub fn paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// The connection is up and acks are subscribed to. What was out may be lost.
    pub fn on_connected(&mut self, now: Duration) {
        self.connected = true;
        self.go_back(now);
    }

    pub fn on_disconnected(&mut self) {
        self.connected = false;
    }

    /// Returns the position to free the log up to, as [`SendWindow::freeable`] does.
    pub fn on_ack(&mut self, log: &Log, ack: &Ack, now: Duration) -> Option<Position> {
        let received = ack.received.and_then(|p| log.clamp(p));
        let order = |p: Option<Position>| p.and_then(|p| log.order(p));
        let risen = match self.writer {
            // The first ack ends the wait for the retained one. Whatever went out before there was a writer is lost.
            None => {
                self.hold_until = now;
                self.out.front().is_some_and(|(first, _)| order(received) < log.order(*first))
            }
            Some((archive, _)) if archive != ack.archive => {
                self.counters.acks_of_other_archive += 1;
                return None;
            }
            Some((_, incarnation)) if ack.incarnation < incarnation => {
                self.counters.acks_of_lower_incarnation += 1;
                return None;
            }
            Some((_, incarnation)) => ack.incarnation > incarnation,
        };
        self.counters.acks += 1;
        self.writer = Some((ack.archive, ack.incarnation));
        let paused_until = ack.paused.then_some(now + PAUSE_MAX);
        let resumed = std::mem::replace(&mut self.paused_until, paused_until).is_some() && !ack.paused;
        if risen {
            // A new writer goes on from what is committed, which is less than the one before had received.
            self.received = received;
            self.timeouts_in_a_row = 0;
        }
        self.advance(log, received, now);
        if risen || resumed {
            self.go_back(now);
        }
        let held = |p: Option<Position>| order(p.and_then(|p| log.clamp(p)));
        if ack.committed.is_some() && held(ack.committed) >= held(self.committed) {
            self.committed = ack.committed;
        }
        self.freeable(log)
    }

    /// Up to where the archive has the log, if that is more than the log was freed of. A claim beyond what is held of an
    /// epoch is believed up to there, and judged again by whoever asks when the log has grown.
    pub fn freeable(&self, log: &Log) -> Option<Position> {
        let committed = log.clamp(self.committed?)?;
        let freed = log.committed().and_then(|p| log.order(p));
        (log.order(committed) > freed).then_some(committed)
    }

    /// The next frame to send, if one may be sent now. It counts as sent: a frame that the caller then fails to send
    /// is lost on the way like any other, and sent again.
    pub fn next(&mut self, log: &Log, now: Duration) -> Option<Position> {
        if self.paused_until.take_if(|until| *until <= now).is_some() {
            self.go_back(now);
        }
        if !self.connected || self.paused() {
            return None;
        }
        if !self.out.is_empty() && now >= self.deadline {
            self.counters.timeouts += 1;
            self.timeouts_in_a_row += 1;
            self.go_back(now);
        }
        let (extent, resend) = self.candidate(log)?;
        let extent = *extent;
        let bytes = u64::from(extent.bytes);
        if now < self.hold_until || !self.bytes.is_ready(now) || !self.batches.is_ready(now) {
            return None;
        }
        self.bytes.take(bytes as f64, now);
        self.batches.take(1.0, now);
        if self.out.is_empty() {
            self.deadline = now + self.patience();
        }
        self.out.push_back((extent.last(), bytes));
        self.out_bytes += bytes;
        self.cursor = Some(extent.last());
        self.counters.sent += 1;
        if resend {
            self.counters.resent += 1;
        } else {
            self.furthest = self.cursor;
        }
        Some(extent.position)
    }

    /// When to ask [`SendWindow::next`] again if nothing else happens. None: only an event can change its answer.
    pub fn next_wakeup(&self, log: &Log, now: Duration) -> Option<Duration> {
        if !self.connected {
            return None;
        }
        if self.paused() {
            return self.paused_until;
        }
        let stall = (!self.out.is_empty()).then_some(self.deadline);
        let ready = self.candidate(log).map(|_| self.ready_at(now));
        stall.into_iter().chain(ready).min()
    }

    fn ready_at(&self, now: Duration) -> Duration {
        self.hold_until.max(self.bytes.ready_at(now)).max(self.batches.ready_at(now))
    }

    /// The frame after the cursor, if the window has room for it, and whether it was sent before.
    fn candidate<'l>(&self, log: &'l Log) -> Option<(&'l Extent, bool)> {
        let extent = log.after(self.cursor)?;
        let room = self.out.is_empty() || self.out_bytes + u64::from(extent.bytes) <= self.config.window_bytes_max;
        let furthest = self.furthest.and_then(|p| log.order(p));
        room.then_some((extent, furthest >= log.order(extent.last())))
    }

    /// Takes note of a received position; one that is not further than before changes nothing.
    fn advance(&mut self, log: &Log, received: Option<Position>, now: Duration) {
        let order = |p: Option<Position>| p.and_then(|p| log.order(p));
        if order(received) <= order(self.received) {
            return;
        }
        self.received = received;
        while let Some((_, bytes)) = self.out.pop_front_if(|(last, _)| log.order(*last) <= order(received)) {
            self.out_bytes -= bytes;
        }
        if order(self.cursor) < order(received) {
            self.cursor = received;
        }
        self.timeouts_in_a_row = 0;
        self.deadline = now + self.patience();
    }

    fn go_back(&mut self, now: Duration) {
        self.cursor = self.received;
        self.out.clear();
        self.out_bytes = 0;
        let jitter = self.rng.random_range(0.5..1.0);
        self.hold_until = now + self.config.return_jitter_max.mul_f64(jitter);
    }

    /// Grows with every time-out in a row; jitter only lengthens it, so that it never falls below what is set.
    fn patience(&mut self) -> Duration {
        let doublings = self.timeouts_in_a_row.min(16);
        let patience = self.config.resend_after.saturating_mul(1 << doublings).min(self.config.resend_after_max);
        patience.mul_f64(self.rng.random_range(1.0..1.25))
    }
}

/// Holds at most one second's worth; may go into debt by one frame, so that no frame is too large to pass.
#[derive(Debug)]
struct TokenBucket {
    per_second: f64,
    tokens: f64,
    at: Duration,
}

impl TokenBucket {
    fn new(per_second: f64) -> Self {
        let per_second = per_second.max(1.0);
        TokenBucket { per_second, tokens: per_second, at: Duration::ZERO }
    }

    fn set_rate(&mut self, per_second: f64) {
        self.per_second = per_second.max(1.0);
    }

    fn tokens(&self, now: Duration) -> f64 {
        let earned = now.saturating_sub(self.at).as_secs_f64() * self.per_second;
        (self.tokens + earned).min(self.per_second)
    }

    fn is_ready(&self, now: Duration) -> bool {
        self.tokens(now) > 0.0
    }

    fn take(&mut self, tokens: f64, now: Duration) {
        self.tokens = self.tokens(now) - tokens;
        self.at = now;
    }

    fn ready_at(&self, now: Duration) -> Duration {
        let debt = -self.tokens(now);
        // The millisecond is for rounding: to be woken just before the debt is paid would be to spin.
        if debt < 0.0 { now } else { now + Duration::from_secs_f64(debt / self.per_second) + Duration::from_millis(1) }
    }
}

#[cfg(test)]
mod tests;
