//! Whether a version on trial stays, takes over or is taken back: fed with what it and the version in charge did since the
//! trial began. It reads no clock; its time is that of the windows.
//!
//! ```text
//! a window it could not score ──────────────────────────────────┐
//! alerts on its machines, against those on the others: a jump ──┼─> taken back, and why
//! estimated F1 of both on the same windows: surely lower ───────┘
//! nothing of these for the probation, and windows enough to tell ─ in charge
//! ```

use std::{collections::BTreeMap, ops::AddAssign};

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};

use crate::{
    evaluate::bootstrap::{Interval, over_blocks},
    probation::{Rate, jump},
    quality::Sums,
};

/// By which the estimated F1 may be below that of the version in charge on the same windows, at the bound that speaks for it.
pub const F1_MARGIN: f64 = 0.1;
/// Of that bound: one trial in forty lies beyond it by chance.
const LEVEL: f64 = 0.025;
/// The estimate of fewer machines is none.
const MACHINES_MIN: usize = 5;
/// Fewer windows tell nothing, neither for a version nor against it.
const WINDOWS_MIN: u64 = 1_000;
const HOUR_MS: f64 = 3_600_000.0;
/// Plant time that passes at once counts up to this: an outage tells nothing, and a wrong clock less.
const STEP_MS_MAX: i64 = 86_400_000;

/// Which version is tried, and on which machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub version: String,
    /// It judges machines whose name's fraction ([`AssetId::fraction`]) is below this; 0: a shadow, which scores all
    /// machines and judges none.
    pub share: f64,
}

impl Trial {
    /// All machines would be a promotion.
    pub fn is_possible(&self) -> bool {
        (0.0..1.0).contains(&self.share)
    }

    pub fn is_shadow(&self) -> bool {
        self.share == 0.0
    }

    pub fn judges(&self, machine: &AssetId) -> bool {
        machine.fraction() < self.share
    }
}

/// Whether this share leaves some of the machines to each of the two versions.
pub fn divides<'a>(share: f64, machines: impl Iterator<Item = &'a AssetId>) -> bool {
    let (below, above): (Vec<_>, Vec<_>) = machines.partition(|machine| machine.fraction() < share);
    !below.is_empty() && !above.is_empty()
}

/// Settings of an automatic trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrialSettings {
    /// Of the machines that a new version judges first; 0: none, it is put in charge at once.
    pub share: f64,
    /// So long, hours of plant time.
    pub probation_hours: f64,
}

impl Default for TrialSettings {
    fn default() -> Self {
        TrialSettings { share: 0.25, probation_hours: 72.0 }
    }
}

impl TrialSettings {
    /// What a type can't say: the setting that is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(0.0..1.0).contains(&self.share) {
            return Err(("canary.share", "from 0 to below 1"));
        }
        if !(self.probation_hours > 0.0 && self.probation_hours <= 8_760.0) {
            return Err(("canary.probation_hours", "above 0 and at most 8760"));
        }
        Ok(())
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    GoesOn,
    /// To be put in charge, and why.
    Passes(String),
    /// To be taken back, and why.
    Fails(String),
}

/// What both have done since the trial began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialWatch {
    pub trial: Trial,
    /// On the machines that it judges; a shadow has windows and never an alert.
    pub rate: Rate,
    /// Of the version in charge on the other machines.
    pub rate_of_others: Rate,
    /// Windows that it could not score.
    pub errors: u64,
    /// Of the windows that both have scored, the trial's first.
    machines: BTreeMap<AssetId, [Sums; 2]>,
    /// The plant's present when it was last told, and how long the trial has run.
    now: Option<PlantTime>,
    ran_ms: i64,
}

/// What of it is shown.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    trial: &'a Trial,
    rate: Rate,
    rate_of_others: Rate,
    errors: u64,
}

impl TrialWatch {
    pub fn shown(&self) -> Shown<'_> {
        let TrialWatch { trial, rate, rate_of_others, errors, .. } = self;
        Shown { trial, rate: *rate, rate_of_others: *rate_of_others, errors: *errors }
    }

    pub fn new(trial: Trial) -> Self {
        let (rate, rate_of_others, errors, machines, now, ran_ms) = Default::default();
        TrialWatch { trial, rate, rate_of_others, errors, machines, now, ran_ms }
    }

    /// What time it is in the plant, from when it has scored a window on.
    pub fn passes(&mut self, now: PlantTime) {
        if self.rate.windows == 0 {
            return;
        }
        let passed = self.now.map_or(0, |before| now.millis() - before.millis());
        self.ran_ms += passed.clamp(0, STEP_MS_MAX);
        self.now = Some(now);
    }

    /// A window that `version` has scored, and what it expects of it; `alone`: no other version has scored it.
    pub fn scored(&mut self, version: &str, machine: &AssetId, sums: Sums, alone: bool) {
        let tried = version == self.trial.version;
        if tried {
            self.rate.windows += 1;
        } else if alone {
            self.rate_of_others.windows += 1;
        }
        if !alone {
            let [own, others] = self.machines.entry(machine.clone()).or_default();
            if tried { own } else { others }.add_assign(sums);
        }
    }

    pub fn alerted(&mut self, version: &str, machine: &AssetId) {
        if version == self.trial.version {
            self.rate.alerts += 1;
        } else if !self.trial.judges(machine) {
            self.rate_of_others.alerts += 1;
        }
    }

    pub fn failed(&mut self, version: &str, windows: u64) {
        if version == self.trial.version {
            self.errors += windows;
        }
    }

    /// `probation_hours`: after which it passes, once both versions have windows enough to tell; none: that is for a person to say.
    /// `expected`: how often it alerts by what the gate saw. `drifted`: the plant looks otherwise than when the version in
    /// charge was made, so that what that one expects of itself is no measure.
    pub fn outcome(&self, probation_hours: Option<f64>, expected: Option<Rate>, drifted: bool) -> Outcome {
        if self.errors > 0 {
            return Outcome::Fails(format!("it could not score {} of its windows", self.errors));
        }
        if let Some(why) = jump(self.rate_of_others, expected, self.rate) {
            return Outcome::Fails(why);
        }
        let estimated = if drifted { None } else { self.estimated() };
        if let Some(Interval { mean, high, .. }) = estimated.filter(|estimated| estimated.high < -F1_MARGIN) {
            return Outcome::Fails(format!(
                "its estimated F1 is {:.2} below that of the version in charge on the same windows, at least {:.2}",
                -mean, -high
            ));
        }
        match (probation_hours, self.hours()) {
            (Some(probation), hours) if hours >= probation && self.is_known() => {
                let percent = 100.0 * self.trial.share;
                Outcome::Passes(format!(
                    "nothing spoke against it in {hours:.0} h as canary on {percent:.0} % of the machines"
                ))
            }
            _ => Outcome::GoesOn,
        }
    }

    /// Both have scored so many windows that a jump would have been seen: hours alone may be those of an outage.
    fn is_known(&self) -> bool {
        self.rate.windows.min(self.rate_of_others.windows) >= WINDOWS_MIN
    }

    /// Plant time that has passed in it.
    pub fn hours(&self) -> f64 {
        self.ran_ms as f64 / HOUR_MS
    }

    /// Estimated F1 of the trial less that of the version in charge, by machine; none: too little to tell.
    fn estimated(&self) -> Option<Interval> {
        if self.machines.len() < MACHINES_MIN || self.rate.windows < WINDOWS_MIN {
            return None;
        }
        let machines: Vec<&[Sums; 2]> = self.machines.values().collect();
        let difference = |times: &[f64]| {
            let mut all = [Sums::default(); 2];
            for (of, times) in machines.iter().zip(times) {
                all.iter_mut().zip(*of).for_each(|(all, of)| *all += of.times(*times));
            }
            let [own, others] = all.map(|sums| sums.estimate().map_or(0.0, |estimate| estimate.f1));
            own - others
        };
        Some(over_blocks(machines.len(), LEVEL, difference))
    }
}

#[cfg(test)]
mod tests;
