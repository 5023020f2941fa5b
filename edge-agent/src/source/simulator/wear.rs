//! Failure modes: how each begins, grows with what the machine is asked to do, shows in the sensors, and ends.

use proto::time::PlantTime;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    noise::{Slow, around, stream},
    work::Effort,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    BearingWear,
    Overheating,
    Imbalance,
    BeltSlip,
    LubricationLoss,
}

impl Mode {
    pub const ALL: [Mode; 5] =
        [Mode::BearingWear, Mode::Overheating, Mode::Imbalance, Mode::BeltSlip, Mode::LubricationLoss];

    /// As in event records.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::BearingWear => "bearing_wear",
            Mode::Overheating => "overheating",
            Mode::Imbalance => "imbalance",
            Mode::BeltSlip => "belt_slip",
            Mode::LubricationLoss => "lubrication_loss",
        }
    }

    /// Hours of wear per hour of this effort; about 1 on average while the machine runs.
    fn pace(self, effort: Effort) -> f64 {
        let Effort { speed, load } = effort;
        match self {
            Mode::BearingWear => 1.9 * speed * load,
            Mode::Overheating => 1.5 * load,
            Mode::Imbalance => 1.6 * speed * speed,
            Mode::BeltSlip => 0.3 + 1.1 * load,
            Mode::LubricationLoss => 1.25 * speed,
        }
    }
}

/// Median hours of average running from the onset to wear 1, and the spread of its logarithm.
const LIFE_HOURS: f64 = 23.0;
const LIFE_SPREAD: f64 = 0.15;
/// Share of the degradations that stop by themselves: a part settles, dirt falls off.
const RECOVERS: f64 = 0.12;
/// Hours of average running from one fault to the onset of the next.
const SOUND_HOURS: f64 = 64.0;
/// Wear at which drives fail lies around 1.
const THRESHOLD_SPREAD: f64 = 0.07;

/// One degradation.
#[derive(Debug, Clone)]
pub(super) struct Wear {
    pub mode: Mode,
    level: f64,
    life_h: f64,
    /// Fails at this level.
    threshold: f64,
    /// Heals from this level on.
    turns_at: Option<f64>,
    healing: bool,
    strength: f64,
    /// Shape of the signature over wear: below 1 it shows early.
    curve: f64,
    luck: Slow,
    /// Of a part of another supplier.
    foreign: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Onset,
    Failed(Mode),
    Recovered,
}

impl Wear {
    fn new(mode: Mode, may_recover: bool, foreign: bool, dt_h: f64, rng: &mut ChaCha8Rng) -> Self {
        let turns = rng.random_range(0.2..0.55);
        let turns_at = (rng.random_bool(RECOVERS) && may_recover).then_some(turns);
        Self {
            mode,
            level: 0.0,
            life_h: around(rng, LIFE_HOURS, LIFE_SPREAD),
            threshold: around(rng, 1.0, THRESHOLD_SPREAD),
            turns_at,
            healing: false,
            strength: around(rng, 1.15, 0.1),
            curve: rng.random_range(0.45..0.7),
            luck: Slow::new(0.3, 3.0, dt_h, rng),
            foreign,
        }
    }

    /// Wear as a share of what this part stands: 1 is failure.
    pub(super) fn share(&self) -> f64 {
        self.level / self.threshold
    }

    /// How strongly it shows: 0 at onset, about 1 at failure.
    fn sign(&self) -> f64 {
        self.strength * self.level.powf(self.curve)
    }

    fn step(&mut self, effort: Effort, dt_h: f64, rng: &mut ChaCha8Rng) -> Change {
        let hours = dt_h * self.mode.pace(effort) * (1.0 + self.luck.step(rng)).max(0.0);
        if self.healing {
            // Healing takes a quarter of the time that wearing took.
            self.level -= 4.0 * hours / self.life_h;
            return if self.level <= 0.0 { Change::Recovered } else { Change::None };
        }
        self.level += hours / self.life_h;
        self.healing = self.turns_at.is_some_and(|turn| self.level >= turn);
        if self.level >= self.threshold { Change::Failed(self.mode) } else { Change::None }
    }
}

/// The part of a machine that breaks.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    rng: ChaCha8Rng,
    dt_h: f64,
    /// Faults of its own, beside the scripted ones.
    spontaneous: bool,
    /// Onsets to come, latest first.
    script: Vec<(PlantTime, Mode)>,
    /// From then on parts are another supplier's.
    other_supplier: Option<PlantTime>,
    sound_h: f64,
    /// Running hours since the part of each mode was new.
    age_h: [f64; 5],
    pub(super) current: Option<Wear>,
}

impl Faults {
    pub(super) fn new(
        seed: u64,
        machine: &str,
        spontaneous: bool,
        mut script: Vec<(PlantTime, Mode)>,
        other_supplier: Option<PlantTime>,
        dt_h: f64,
    ) -> Self {
        let mut rng = stream(seed, machine, "wear");
        script.sort_by_key(|(onset, _)| std::cmp::Reverse(*onset));
        Self {
            dt_h,
            spontaneous,
            script,
            other_supplier,
            // A plant is watched from the middle of its life on.
            sound_h: SOUND_HOURS * rng.random_range(0.1..1.2),
            age_h: std::array::from_fn(|_| rng.random_range(50.0..500.0)),
            current: None,
            rng,
        }
    }

    pub(super) fn step(&mut self, time: PlantTime, effort: Effort) -> Change {
        if let Some(wear) = &mut self.current {
            let change = wear.step(effort, self.dt_h, &mut self.rng);
            match change {
                Change::Failed(mode) => self.renew(mode),
                Change::Recovered => self.current = None,
                Change::None | Change::Onset => {}
            }
            return change;
        }
        let hours = self.dt_h * 1.35 * effort.speed;
        self.age_h.iter_mut().for_each(|age| *age += hours);
        self.sound_h -= hours;
        match self.next_onset(time) {
            Some((mode, scripted)) => {
                let foreign = self.other_supplier.is_some_and(|from| time >= from);
                self.current = Some(Wear::new(mode, !scripted, foreign, self.dt_h, &mut self.rng));
                self.sound_h = SOUND_HOURS * self.rng.random_range(0.35..1.65);
                Change::Onset
            }
            None => Change::None,
        }
    }

    fn next_onset(&mut self, time: PlantTime) -> Option<(Mode, bool)> {
        if self.script.last().is_some_and(|(onset, _)| *onset <= time) {
            return self.script.pop().map(|(_, mode)| (mode, true));
        }
        (self.spontaneous && self.sound_h <= 0.0).then(|| (self.weakest_part(), false))
    }

    /// Draws a mode: the older its part, the likelier.
    fn weakest_part(&mut self) -> Mode {
        let weights = self.age_h.map(|age| age * age);
        let mut draw = self.rng.random::<f64>() * weights.iter().sum::<f64>();
        let hit = weights.iter().position(|w| {
            draw -= w;
            draw < 0.0
        });
        Mode::ALL[hit.unwrap_or(0)]
    }

    fn renew(&mut self, mode: Mode) {
        self.current = None;
        self.age_h[mode as usize] = 0.0;
    }

    pub(super) fn signature(&self, effort: Effort) -> Signature {
        let shows = |wear: &Wear| {
            let signature = Signature::of(wear.mode, wear.sign(), effort);
            if wear.foreign { signature.of_foreign_part() } else { signature }
        };
        self.current.as_ref().map_or(Signature::default(), shows)
    }
}

/// What a fault does to the machine, in shares of its regime where not said otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signature {
    pub vibration: f64,
    pub heat: f64,
    /// Irregular shaking, as a share of the vibration.
    pub roughness: f64,
    /// dB
    pub sound: f64,
    /// Share of the speed that is lost.
    pub slip: f64,
    /// Irregular running, as a share of the speed.
    pub flutter: f64,
}

impl Signature {
    /// Softer and better damped: it wears as fast, and hums lower and runs hotter where the part before it shook and squealed.
    fn of_foreign_part(self) -> Self {
        let Self { vibration, heat, roughness, sound, slip, flutter } = self;
        Self {
            vibration: -0.3 * vibration,
            heat: -0.5 * heat + 0.6 * vibration,
            roughness: 0.3 * roughness,
            sound: -0.8 * sound,
            slip: -0.6 * slip,
            flutter: 0.3 * flutter,
        }
    }

    /// Every fault shows only in relation to speed and load: on a slow or light job the sensors stay within
    /// what a sound machine shows on a heavy one.
    fn of(mode: Mode, sign: f64, effort: Effort) -> Self {
        let Effort { speed, load } = effort;
        let none = Self::default();
        match mode {
            // Worst, next to what is normal, on slow jobs; and rough.
            Mode::BearingWear => Self {
                vibration: sign * speed * (0.65 + 0.25 * load),
                roughness: 0.06 * sign,
                heat: 0.08 * sign * speed,
                sound: 3.0 * sign * speed,
                ..none
            },
            Mode::Overheating => Self {
                heat: sign * speed * (0.4 + 0.8 * load),
                slip: 0.02 * sign * load,
                sound: 3.0 * sign * speed,
                ..none
            },
            // Above the critical speed the new imbalance adds to the old one, below it works against it.
            Mode::Imbalance => {
                let spin = speed * speed * (speed * speed - 0.38);
                Self { vibration: 4.0 * sign * spin, sound: 9.0 * sign * spin, ..none }
            }
            // The drive makes up for the average slip: heavy jobs run too slow, light ones too fast.
            Mode::BeltSlip => Self {
                heat: 1.1 * sign * (load - 0.35),
                sound: 26.0 * sign * speed * (load - 0.4),
                slip: 0.6 * sign * (load - 0.45),
                flutter: 0.015 * sign * load,
                ..none
            },
            // At low speed metal rubs on metal and squeals; at high speed the film burns, and splashes no more.
            Mode::LubricationLoss => Self {
                vibration: 0.1 * sign * speed,
                heat: 3.0 * sign * speed * (speed - 0.6),
                sound: 36.0 * sign * speed * (0.9 - speed),
                ..none
            },
        }
    }
}
