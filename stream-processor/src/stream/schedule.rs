//! Which model judges which window. A change of model comes from outside the logs, so a replay knows of it only if it
//! stands in a manifest: there it is entered first, and from when on it holds is a matter of the windows' times.
//!
//! The model before keeps the windows that end by its line. The line lies ahead of what has been read, and ahead of the
//! clock: what an earlier life of this processor has read beyond its last commit was sealed before now, and has been
//! judged by the model before.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    features::{FeatureConfig, WindowFeatures},
    trial::Trial,
};
use proto::{asset::AssetId, time::PlantTime, wire::prediction::Role};
use serde::{Deserialize, Serialize};

use super::{Steps, Stream, fleet::Fleet};
use crate::window::watermark::Watermark;

/// Plant time that a change has for getting into a manifest before the first window waits for it; and by which a gateway's
/// clock may be ahead of ours.
pub const CHANGE_MARGIN_MS: i64 = 60_000;
/// With as many, the oldest gives way when the clock has passed its line: a machine that has been silent over all of them is
/// judged by a newer one. Before that the next change waits.
pub const CHARGES_MAX: usize = 8;

/// Who judges windows, as the registry says. What else shall decide it belongs here: a charge that differs in anything is
/// another one, which is entered and holds from a line on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    pub version: String,
    /// Beside it.
    #[serde(default)]
    pub trial: Option<Trial>,
}

/// Whose scores a window gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scorers<V> {
    /// Alerts follow from it.
    pub decides: V,
    /// The canary's or the champion's.
    pub role: Role,
    /// Scores it too, and decides nothing; in place of a canary that can't score.
    pub beside: Option<V>,
}

impl Charge {
    /// Nothing is on trial.
    pub fn of(version: &str) -> Self {
        Charge { version: version.into(), trial: None }
    }

    /// All that must be loaded for it.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.version.as_str()).chain(self.trial.as_ref().map(|trial| trial.version.as_str()))
    }

    /// Where one is on trial, both score the same windows.
    fn scorers(&self, window: &WindowFeatures) -> Scorers<&str> {
        let champion = self.version.as_str();
        let alone = Scorers { decides: champion, role: Role::Champion, beside: None };
        match &self.trial {
            Some(trial) if trial.is_shadow() => Scorers { beside: Some(&trial.version), ..alone },
            Some(trial) if trial.judges(&window.machine) => {
                Scorers { decides: &trial.version, role: Role::Canary, beside: Some(champion) }
            }
            _ => alone,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Oldest first.
    ending: Vec<Ending>,
    /// None: there was never a model; rules judge.
    newest: Option<Charge>,
}

/// A charge that has been replaced and still has windows to judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Ending {
    charge: Charge,
    lines: BTreeMap<AssetId, Line>,
    /// For machines without a line, and those whose time has begun anew.
    others: PlantTime,
}

/// Windows of this generation that end by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    generation: u32,
    until: PlantTime,
}

impl Ending {
    fn judges(&self, window: &WindowFeatures) -> bool {
        window.end <= self.line(&window.machine, window.generation)
    }

    fn line(&self, machine: &AssetId, generation: u32) -> PlantTime {
        let line = self.lines.get(machine).filter(|line| line.generation == generation);
        line.map_or(self.others, |line| line.until)
    }
}

impl Schedule {
    pub fn newest(&self) -> Option<&Charge> {
        self.newest.as_ref()
    }

    /// Of all models that may still judge a window.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.ending.iter().map(|e| &e.charge).chain(&self.newest).flat_map(Charge::versions)
    }

    /// None: rules judge it.
    pub fn scorers(&self, window: &WindowFeatures) -> Option<Scorers<&str>> {
        let ending = self.ending.iter().find(|e| e.judges(window)).map(|e| &e.charge);
        Some(ending.or(self.newest.as_ref())?.scorers(window))
    }

    /// As it is once this charge has been entered. The first one holds at once, whatever rules have said before it.
    pub(super) fn with(&self, charge: Charge, fleet: &Fleet, now: PlantTime) -> Schedule {
        let mut ending = self.ending.clone();
        ending.extend(self.newest.clone().map(|before| Ending::of(before, fleet, now)));
        ending.drain(..ending.len().saturating_sub(CHARGES_MAX - 1));
        Schedule { ending, newest: Some(charge) }
    }

    /// None of them could give way to another one yet.
    fn is_full(&self, now: PlantTime) -> bool {
        self.ending.len() + 1 >= CHARGES_MAX && self.ending.first().is_some_and(|oldest| oldest.others > now)
    }

    /// Without what no window can ask for any more.
    pub(super) fn settled(&self, fleet: &Fleet, config: &FeatureConfig) -> Schedule {
        let mut settled = self.clone();
        if settled.ending.is_empty() {
            return settled;
        }
        // A window that has closed may still be revised, by the model that judged it.
        let last_word_ms = config.lateness_ms + config.revise_ms();
        let behind = |read: Watermark, line: PlantTime| read.0 < line.plus_millis(last_word_ms).millis();
        let times = times(fleet);
        let newest = fleet.watermarks().map_or(Watermark::default(), |(_, newest)| Watermark(newest.millis()));
        settled.ending.retain(|ending| {
            let open = |(machine, (generation, read)): (&&AssetId, &(u32, Watermark))| {
                behind(*read, ending.line(machine, *generation))
            };
            behind(newest, ending.others) || times.iter().any(open)
        });
        settled
    }

    /// Takes over machines of another shard, `fleet` being that shard's. If that one's model is another, its machines stay
    /// with it up to a line, too; no clock is asked, so this one lies behind what had been read there. `ours`: with the
    /// generations of the machines that are here already.
    ///
    /// A charge may have been in force more than once, so the order in which each shard had them is kept; and where only
    /// one shard had a charge, it judges none of the other's machines.
    pub(super) fn move_in(
        &mut self,
        from: &Schedule,
        fleet: &Fleet,
        machines: &BTreeSet<AssetId>,
        ours: &BTreeMap<AssetId, u32>,
    ) {
        let mut ending = from.ending.clone();
        if let (Some(ours), Some(theirs)) = (&self.newest, &from.newest)
            && ours != theirs
        {
            let read = fleet.watermarks().map_or(PlantTime::MIN, |(_, newest)| newest);
            ending.push(Ending::of(theirs.clone(), fleet, read));
        }
        let moved = generations(fleet).into_iter().filter(|(machine, _)| machines.contains(machine)).collect();
        self.ending.iter_mut().for_each(|ending| ending.spell_out(ours));
        let mut at = 0;
        for mut theirs in ending {
            theirs.lines.retain(|machine, _| machines.contains(machine));
            theirs.spell_out(&moved);
            match self.ending[at..].iter().position(|ours| ours.charge == theirs.charge) {
                Some(passed) => {
                    self.ending[at..at + passed].iter_mut().for_each(|ours| ours.leave_out(&moved));
                    at += passed;
                    self.ending[at].others = self.ending[at].others.min(theirs.others);
                    self.ending[at].lines.extend(theirs.lines);
                }
                None => {
                    theirs.leave_out(ours);
                    self.ending.insert(at, theirs);
                }
            }
            at += 1;
        }
        self.ending[at..].iter_mut().for_each(|ours| ours.leave_out(&moved));
        self.newest = self.newest.take().or_else(|| from.newest.clone());
    }
}

impl Ending {
    fn of(charge: Charge, fleet: &Fleet, now: PlantTime) -> Ending {
        let line = |(generation, watermark): (u32, Watermark)| {
            let until = now.max(PlantTime(watermark.0)).plus_millis(CHANGE_MARGIN_MS);
            Line { generation, until }
        };
        let lines = times(fleet).into_iter().map(|(machine, time)| (machine.clone(), line(time))).collect();
        Ending { charge, lines, others: now.plus_millis(CHANGE_MARGIN_MS) }
    }

    /// Each of these gets the line that holds for it, so that it does not change with `others`.
    fn spell_out(&mut self, generations: &BTreeMap<AssetId, u32>) {
        for (machine, generation) in generations {
            let line = Line { generation: *generation, until: self.line(machine, *generation) };
            self.lines.insert(machine.clone(), line);
        }
    }

    /// Judges nothing of these.
    fn leave_out(&mut self, generations: &BTreeMap<AssetId, u32>) {
        let line = |(machine, generation): (&AssetId, &u32)| {
            (machine.clone(), Line { generation: *generation, until: PlantTime::MIN })
        };
        self.lines.extend(generations.iter().map(line));
    }
}

impl Stream {
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// From now on it is written with every snapshot, and it is in force when the first of them is committed. False: it is
    /// the newest one already, or other changes come first.
    pub fn enter(&mut self, charge: &Charge, now: PlantTime) -> bool {
        if self.entered.is_some() || self.schedule.newest() == Some(charge) || self.schedule.is_full(now) {
            return false;
        }
        self.entered = Some(self.schedule.with(charge.clone(), &self.fleet, now));
        true
    }

    /// Enters that some models have judged their last windows, if it is so and no other change is on its way. Not while a
    /// log is replayed: a machine whose clock falls back may have been judged by such a model further on in it.
    pub fn settle(&mut self) {
        if self.entered.is_none() {
            let settled = self.schedule.settled(&self.fleet, &self.config.features);
            self.entered = Some(settled).filter(|settled| *settled != self.schedule);
        }
    }

    pub fn has_entered(&self) -> bool {
        self.entered.is_some()
    }

    /// Has windows whose model, or whose features, depend on whether what was entered is in a manifest, which is not known
    /// yet.
    pub fn undecided(&self, steps: &Steps) -> bool {
        let differs = |entered: &Schedule, window| entered.scorers(window) != self.schedule.scorers(window);
        let lateness_ms = self.config.features.lateness_ms;
        let sees = |window: &WindowFeatures, (machine, known): &(AssetId, PlantTime)| {
            *machine == window.machine && window.end.plus_millis(lateness_ms) > *known
        };
        self.entered.as_ref().is_some_and(|entered| steps.windows().any(|window| differs(entered, window)))
            || (!self.told.is_empty() && steps.windows().any(|window| self.told.iter().any(|told| sees(window, told))))
    }

    /// What was entered is committed.
    pub fn in_force(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.schedule = entered;
        }
    }
}

/// Of every machine that an agent owns: its generation, and how far it has been read.
fn times(fleet: &Fleet) -> BTreeMap<&AssetId, (u32, Watermark)> {
    let time = |(id, (machine, _, agent)): (usize, (_, _, Option<_>))| {
        Some((machine, (fleet.generation(id as u32), fleet.watermark(agent?))))
    };
    fleet.known().enumerate().filter_map(time).collect()
}

/// Of the same machines.
pub(super) fn generations(fleet: &Fleet) -> BTreeMap<AssetId, u32> {
    times(fleet).into_iter().map(|(machine, (generation, _))| (machine.clone(), generation)).collect()
}
