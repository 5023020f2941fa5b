//! Which time it is, and whether that is known. Pure: it is told the wall clock, the monotonic clock and acks.
//!
//! ```text
//!             plausible at the start                        jumps, nobody says which time is right
//!  Estimated ───────────────────────────────> Wall ─────────────────────────────────────────────────> Estimated
//!      │  last known good + monotonic          ^ │  jumps, and it was confirmed before                     │
//!      │                                agrees │ v                                                         │
//!      └──────────────── an ack ───────────> Carried <─────────────────── an ack ──────────────────────────┘
//!                              a time once confirmed + monotonic
//! ```
//!
//! A gateway has no battery: after a power cut its wall clock is in 1970, or where some program last saved it, until
//! NTP steps it. A wall clock is believed at once if it is where a right one can be. It is *confirmed* when an ack or a
//! time service agrees with it, and only what is confirmed outlives a jump of the wall. Time never jumps back but to a
//! time that is trusted.

/// Times nearer than this are the same time: an ack takes a while, time services take small steps.
pub const NEAR_MS: i64 = 10_000;
/// Nothing of this was there before: no reading is older than 2026-01-01.
pub const FLOOR_MS: i64 = 1_767_225_600_000;
/// A gateway was off for as long as this at most, unless an ack or a time service says that it was longer; and no ack
/// moves a trusted time further ahead.
pub const AHEAD_MS_MAX: i64 = 366 * DAY_MS;
/// The same at the first start, when no time is known but the floor; ends before 2038.
pub const FIRST_AHEAD_MS_MAX: i64 = 12 * 365 * DAY_MS;
/// How long after it last set the clock a time service may look at it again (it polls at least every 2048 s).
pub const SYNCHRONISED_MS_MAX: i64 = 40 * 60 * 1000;
/// Reading two clocks one after the other takes less.
const NOISE_MS: i64 = 20;
const DAY_MS: i64 = 24 * 3_600_000;

/// What the gateway's clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Milliseconds since the boot, time asleep included.
    pub monotonic_ms: i64,
    /// Wall time at which a time service last set the clock, if one says so.
    pub synchronised_ms: Option<i64>,
}

impl Moment {
    /// Wall time at the boot.
    fn wall_offset(&self) -> i64 {
        self.wall_ms.saturating_sub(self.monotonic_ms)
    }

    fn is_synchronised(&self) -> bool {
        let since = |set: i64| self.wall_ms.saturating_sub(set);
        self.wall_ms >= FLOOR_MS
            && self.synchronised_ms.is_some_and(|set| (-NEAR_MS..=SYNCHRONISED_MS_MAX).contains(&since(set)))
    }
}

/// A time that was trusted, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub wall_ms: i64,
    pub boot_id: u64,
    pub monotonic_ms: i64,
    pub confirmed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// What the wall clock says.
    Wall { confirmed: bool },
    /// A confirmed time, carried on by the monotonic clock: the wall clock is wrong.
    Carried,
    /// An unconfirmed one. After a jump, a plausible wall clock is not enough any more: it was plausible before, too.
    Estimated { jumped: bool },
}

impl Basis {
    fn is_trusted(self) -> bool {
        !matches!(self, Basis::Estimated { .. })
    }
}

/// What a look or an ack changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// From here on the time is trusted.
    Gained,
    /// The wall clock jumped, and nobody says which time is right: time goes on from before the jump.
    Lost,
    /// The wall clock jumped, and what it says now is confirmed.
    Followed,
    /// The wall clock jumped away from a time that is confirmed: that one goes on.
    Carried,
    /// The wall clock is right again.
    Returned,
    /// An ack is nearer to the truth than an unconfirmed wall clock, or than an earlier ack.
    Corrected,
    /// An ack says another time than a confirmed wall clock, or one so far ahead that the processor's clock must be
    /// wrong. Said once.
    Contradicted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Jumps {
    pub forward: u64,
    pub backward: u64,
}

#[derive(Debug)]
pub struct WallTrust {
    boot_id: u64,
    basis: Basis,
    /// Time minus monotonic time.
    offset_ms: i64,
    /// The wall clock's time minus monotonic time, at the last look.
    wall_offset_ms: i64,
    /// The last ack's time minus monotonic time.
    ack_offset_ms: Option<i64>,
    ahead_ms_max: i64,
    jumps: Jumps,
    era: u64,
    contradicted: bool,
}

fn near(a: i64, b: i64) -> bool {
    a.abs_diff(b) <= NEAR_MS as u64
}

impl WallTrust {
    /// `known`: the last known good time; `sealed_ms`: the newest time stamp that was stored, if it was by this clock.
    pub fn start(boot_id: u64, known: Option<Known>, sealed_ms: Option<i64>, now: Moment) -> Self {
        let same_boot = known.filter(|k| k.boot_id == boot_id && k.monotonic_ms <= now.monotonic_ms);
        let known_ms = match same_boot {
            Some(known) => Some(known.wall_ms.saturating_add(now.monotonic_ms - known.monotonic_ms)),
            None => known.map(|known| known.wall_ms),
        };
        let ahead_ms_max = if known.is_some() { AHEAD_MS_MAX } else { FIRST_AHEAD_MS_MAX };
        let mut estimate = known_ms.unwrap_or(FLOOR_MS).max(FLOOR_MS);
        if let Some(sealed) = sealed_ms.filter(|sealed| sealed.saturating_sub(estimate) <= ahead_ms_max) {
            estimate = estimate.max(sealed);
        }
        let mut trust = WallTrust {
            boot_id,
            basis: Basis::Estimated { jumped: false },
            offset_ms: estimate.saturating_sub(now.monotonic_ms),
            wall_offset_ms: now.wall_offset(),
            ack_offset_ms: None,
            ahead_ms_max,
            jumps: Jumps::default(),
            era: 0,
            contradicted: false,
        };
        if same_boot.is_some_and(|known| known.confirmed) {
            trust.basis = match near(trust.offset_ms, trust.wall_offset_ms) {
                true => Basis::Wall { confirmed: true },
                false => Basis::Carried,
            };
        }
        trust.look(now);
        trust
    }

    /// Takes note of the clocks. To be called before every use of the time, and every second.
    pub fn look(&mut self, now: Moment) -> Option<Turn> {
        let (wall, before) = (now.wall_offset(), self.wall_offset_ms);
        let jumped = !near(wall, before);
        if jumped {
            self.jumps.forward += u64::from(wall > before);
            self.jumps.backward += u64::from(wall < before);
        }
        if wall.abs_diff(before) > NOISE_MS as u64 {
            self.wall_offset_ms = wall;
        }
        let confirmed = now.is_synchronised() || self.ack_offset_ms.is_some_and(|ack| near(wall, ack));
        match self.basis {
            Basis::Wall { confirmed: before } if !jumped => {
                self.turn(Basis::Wall { confirmed: before || now.is_synchronised() }, wall, None)
            }
            Basis::Wall { .. } if confirmed => self.turn(Basis::Wall { confirmed: true }, wall, Some(Turn::Followed)),
            Basis::Wall { confirmed: true } => self.turn(Basis::Carried, self.offset_ms, Some(Turn::Carried)),
            Basis::Wall { confirmed: false } => {
                self.turn(Basis::Estimated { jumped: true }, self.offset_ms, Some(Turn::Lost))
            }
            Basis::Carried if now.is_synchronised() || near(wall, self.offset_ms) => {
                self.turn(Basis::Wall { confirmed: true }, wall, Some(Turn::Returned))
            }
            Basis::Estimated { .. } if confirmed => {
                self.turn(Basis::Wall { confirmed: true }, wall, Some(Turn::Gained))
            }
            Basis::Estimated { jumped: true } if near(wall, self.offset_ms) => {
                self.turn(Basis::Wall { confirmed: false }, wall, Some(Turn::Returned))
            }
            Basis::Estimated { jumped: false } if self.is_plausible(wall) => {
                self.turn(Basis::Wall { confirmed: false }, wall, Some(Turn::Gained))
            }
            Basis::Carried | Basis::Estimated { .. } => None,
        }
    }

    /// Takes an ack that was just sent with the time in it, as wall time.
    pub fn on_ack(&mut self, now: Moment, ack_ms: i64) -> Option<Turn> {
        if ack_ms < FLOOR_MS {
            return None;
        }
        let (ack, wall) = (ack_ms.saturating_sub(now.monotonic_ms), self.wall_offset_ms);
        self.ack_offset_ms = Some(ack);
        let (wall_agrees, too_far) = (near(wall, ack), ack.saturating_sub(self.offset_ms) > AHEAD_MS_MAX);
        self.contradicted &= !wall_agrees;
        match self.basis {
            Basis::Wall { .. } if wall_agrees => self.turn(Basis::Wall { confirmed: true }, wall, None),
            Basis::Wall { confirmed: false } if !too_far => self.turn(Basis::Carried, ack, Some(Turn::Corrected)),
            Basis::Wall { .. } => self.contradict(),
            Basis::Estimated { .. } if wall_agrees => {
                self.turn(Basis::Wall { confirmed: true }, wall, Some(Turn::Gained))
            }
            Basis::Estimated { .. } => self.turn(Basis::Carried, ack, Some(Turn::Gained)),
            Basis::Carried if wall_agrees => self.turn(Basis::Wall { confirmed: true }, wall, Some(Turn::Returned)),
            Basis::Carried if too_far => self.contradict(),
            // An ack is late by its way: the one that was fastest is right, unless this clock itself runs fast.
            Basis::Carried if near(ack, self.offset_ms) => self.turn(Basis::Carried, self.offset_ms.max(ack), None),
            Basis::Carried => self.turn(Basis::Carried, ack, Some(Turn::Corrected)),
        }
    }

    fn contradict(&mut self) -> Option<Turn> {
        (!std::mem::replace(&mut self.contradicted, true)).then_some(Turn::Contradicted)
    }

    fn is_plausible(&self, wall_offset_ms: i64) -> bool {
        let ahead = wall_offset_ms.saturating_sub(self.offset_ms);
        (-NEAR_MS..=self.ahead_ms_max).contains(&ahead)
    }

    fn turn(&mut self, basis: Basis, offset_ms: i64, turn: Option<Turn>) -> Option<Turn> {
        self.era += u64::from(basis.is_trusted() != self.is_trusted() || !near(offset_ms, self.offset_ms));
        (self.basis, self.offset_ms) = (basis, offset_ms);
        turn
    }

    pub fn is_trusted(&self) -> bool {
        self.basis.is_trusted()
    }

    /// Milliseconds since the Unix epoch. It goes on by the monotonic clock until the next look.
    pub fn wall_ms(&self, monotonic_ms: i64) -> i64 {
        self.offset_ms.saturating_add(monotonic_ms)
    }

    /// By how much the gateway's wall clock is behind; 0 while it is believed.
    pub fn wall_behind_ms(&self) -> i64 {
        match self.basis {
            Basis::Wall { .. } => 0,
            Basis::Carried | Basis::Estimated { .. } => self.offset_ms.saturating_sub(self.wall_offset_ms),
        }
    }

    /// Another one after each break: when trust is gained or lost, or time is not what it was going to be.
    pub fn era(&self) -> u64 {
        self.era
    }

    pub fn jumps(&self) -> Jumps {
        self.jumps
    }

    /// To be stored for the next start, if there is something to know.
    pub fn known(&self, monotonic_ms: i64) -> Option<Known> {
        let (boot_id, wall_ms) = (self.boot_id, self.wall_ms(monotonic_ms));
        let known = |confirmed| Some(Known { wall_ms, boot_id, monotonic_ms, confirmed });
        match self.basis {
            Basis::Wall { confirmed } => known(confirmed),
            Basis::Carried => known(true),
            Basis::Estimated { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
