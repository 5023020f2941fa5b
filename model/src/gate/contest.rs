//! Two models over the same machine-episodes: what the crew would have had from the one, and from the other.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::{
    artifact::Artifact,
    dataset::Dataset,
    evaluate::{
        bootstrap::{Interval, over_blocks},
        episode::{Tally, tally_episodes},
    },
    policy::AlertPolicy,
};

/// One-sided: of twenty models that are as bad as the bound says, one gets by.
const LEVEL: f64 = 0.05;

/// What came of some episodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub failures: f64,
    pub caught: f64,
    pub false_alarms: f64,
}

impl Events {
    /// Harmonic mean of the share of failures that were caught and the share of alerts that were right; 0 of nothing.
    pub fn f1(&self) -> f64 {
        let all = self.caught + self.false_alarms + self.failures;
        if all == 0.0 { 0.0 } else { 2.0 * self.caught / all }
    }

    fn add(&mut self, other: &Events, times: f64) {
        self.failures += times * other.failures;
        self.caught += times * other.caught;
        self.false_alarms += times * other.false_alarms;
    }
}

impl From<Tally> for Events {
    fn from(tally: Tally) -> Self {
        let (failures, caught) = (tally.failures as f64, tally.caught as f64);
        Events { failures, caught, false_alarms: tally.false_alarms as f64 }
    }
}

impl AddAssign<&Events> for Events {
    fn add_assign(&mut self, other: &Events) {
        self.add(other, 1.0);
    }
}

/// One stretch of a machine's time, as both models saw it; by mode.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Index of the dataset's kinds.
    pub kind: usize,
    pub champion: Vec<Events>,
    pub challenger: Vec<Events>,
}

/// The two, held against each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub champion: Events,
    pub challenger: Events,
    /// F1 of the challenger less the champion's, with one-sided 95 % bounds by machine-episode.
    pub difference: Interval,
}

impl Standing {
    /// Over those episodes of which `part` says what counts.
    pub fn of(episodes: &[Episode], part: impl Fn(&Episode) -> Option<[Events; 2]>) -> Self {
        let blocks: Vec<[Events; 2]> = episodes.iter().filter_map(part).collect();
        let both = |times: &[f64]| {
            let mut sums = [Events::default(); 2];
            for (block, times) in blocks.iter().zip(times) {
                sums.iter_mut().zip(block).for_each(|(sum, events)| sum.add(events, *times));
            }
            sums
        };
        let difference = |times: &[f64]| {
            let [champion, challenger] = both(times);
            challenger.f1() - champion.f1()
        };
        let [champion, challenger] = both(&vec![1.0; blocks.len()]);
        let none = Interval { mean: 0.0, low: 0.0, high: 0.0 };
        let difference = if blocks.is_empty() { none } else { over_blocks(blocks.len(), LEVEL, difference) };
        Standing { champion, challenger, difference }
    }

    pub fn failures(&self) -> usize {
        self.champion.failures as usize
    }
}

/// All modes of an episode together.
pub fn whole(episode: &Episode) -> Option<[Events; 2]> {
    let sum = |modes: &[Events]| {
        let mut sum = Events::default();
        modes.iter().for_each(|events| sum += events);
        sum
    };
    Some([sum(&episode.champion), sum(&episode.challenger)])
}

/// A model's probabilities and thresholds on some rows, by mode of the dataset.
pub struct Said {
    /// None: the model does not know the mode, and never alerts of it.
    pub modes: Vec<Option<Mode>>,
}

pub struct Mode {
    pub probabilities: Vec<f64>,
    pub threshold: f64,
}

impl Said {
    pub fn of(dataset: &Dataset, rows: &[usize], model: &Artifact) -> Self {
        let of_row = |row: &usize| {
            let features: Vec<f64> = dataset.features(*row).iter().map(|v| f64::from(*v)).collect();
            model.probabilities(&model.logits(dataset.kind(*row), &features))
        };
        let by_row: Vec<Vec<f64>> = rows.iter().map(of_row).collect();
        let mode = |name: &String| {
            let (i, head) = model.heads.iter().enumerate().find(|(_, head)| head.mode == *name)?;
            let probabilities = by_row.iter().map(|probabilities| probabilities[i]).collect();
            Some(Mode { probabilities, threshold: head.threshold })
        };
        Said { modes: dataset.modes.iter().map(mode).collect() }
    }
}

/// `rows`: by machine and time.
pub fn episodes(dataset: &Dataset, rows: &[usize], champion: &Said, challenger: &Said) -> Vec<Episode> {
    let mut episodes = Vec::new();
    let mut at = 0;
    for (machine, own) in dataset.by_machine(rows) {
        let span = at..at + own.len();
        let by_mode = |said: &Said| -> Vec<Vec<Events>> {
            let of_mode = |(mode, said): (usize, &Option<Mode>)| {
                let strengths: Vec<f64> = match said {
                    Some(said) => said.probabilities[span.clone()].iter().map(|p| p / said.threshold).collect(),
                    None => vec![0.0; own.len()],
                };
                let tallies = tally_episodes(dataset, machine, own, &strengths, mode, &AlertPolicy::default());
                tallies.into_iter().map(Events::from).collect()
            };
            said.modes.iter().enumerate().map(of_mode).collect()
        };
        let (champion, challenger) = (by_mode(champion), by_mode(challenger));
        let stretches = champion.first().map_or(0, Vec::len);
        let of = |by_mode: &[Vec<Events>], i: usize| by_mode.iter().map(|stretches| stretches[i]).collect();
        let kind = dataset.machines[machine].kind;
        episodes.extend((0..stretches).map(|i| Episode {
            kind,
            champion: of(&champion, i),
            challenger: of(&challenger, i),
        }));
        at += own.len();
    }
    episodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    /// Says 0.9 before failures that `sees` picks, by machine.
    fn said(dataset: &Dataset, rows: &[usize], sees: impl Fn(usize) -> bool) -> Said {
        let mode = |mode: usize| {
            let says = |row: &usize| {
                let row = &dataset.rows[*row];
                if row.is_positive(mode) && sees(row.machine) { 0.9 } else { 0.01 }
            };
            Mode { probabilities: rows.iter().map(says).collect(), threshold: 0.5 }
        };
        Said { modes: (0..dataset.modes.len()).map(|m| Some(mode(m))).collect() }
    }

    #[test]
    fn both_models_are_cut_at_the_same_failures_and_the_better_one_leads() {
        let dataset = synthetic::xor_plant(3, 10, 30);
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        let (all, half) = (said(&dataset, &rows, |_| true), said(&dataset, &rows, |m| m % 2 == 0));
        let episodes = episodes(&dataset, &rows, &half, &all);
        assert!(episodes.len() > 60, "{}", episodes.len());
        let better = Standing::of(&episodes, whole);
        assert_eq!(better.challenger.failures, better.champion.failures);
        assert!(better.challenger.caught > 1.5 * better.champion.caught, "{better:?}");
        assert!(better.difference.low > 0.1 && better.difference.low < better.difference.mean, "{better:?}");
        let same = Standing::of(&super::episodes(&dataset, &rows, &all, &all), whole);
        assert_eq!((same.difference.low, same.difference.high), (0.0, 0.0));
    }

    #[test]
    fn a_mode_that_a_model_does_not_know_is_missed() {
        let dataset = synthetic::xor_plant(3, 4, 30);
        let rows: Vec<usize> = (0..dataset.rows.len()).collect();
        let all = said(&dataset, &rows, |_| true);
        let mut less = said(&dataset, &rows, |_| true);
        less.modes[1] = None;
        let episodes = episodes(&dataset, &rows, &all, &less);
        let second = Standing::of(&episodes, |e| Some([e.champion[1], e.challenger[1]]));
        assert!(second.champion.caught > 0.0 && second.challenger.caught == 0.0, "{second:?}");
    }
}
