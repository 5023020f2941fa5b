//! Windows of every machine: partial aggregates that merge as readings come, and are told as the watermark moves.
//!
//! ```text
//!                    watermark >= end + lateness          ... + revise_ms
//! readings ──> open ────────────────────────────> told ──────────────────> settled
//!                                                  └─ more readings: told again, with the next revision
//! ```
//!
//! What a window is measured against (the machine's normal and the like) comes of the windows before it. So a reading that
//! revises one revises those told after it as well, and each one's last revision is what training finds in the archive. For
//! that, the history goes no further than the settled windows; what comes behind it is made again when it is needed.

pub mod watermark;

use std::collections::{BTreeMap, VecDeque};

use model::features::{
    Event, FeatureConfig, WindowFeatures, aggregate::Cell, catalogue::Catalogue, derive::History, panes::Panes,
};
use serde::{Deserialize, Serialize};

use watermark::Frontier;

/// By machine id. What is kept is bounded by time: a row is either late, or too far in the future, or in one of the
/// panes in between (`features::PANES_MAX` of them have had their time); a first batch may open more, and its own seal
/// closes them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Windows {
    machines: Vec<MachineWindows>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct MachineWindows {
    /// Under the name that it had when all of it was open windows.
    #[serde(rename = "open")]
    panes: Panes,
    /// Of the settled windows.
    history: History,
    /// Those that are told and not settled, in order.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    told: VecDeque<Told>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Told {
    window: i64,
    revision: u32,
}

/// Of one batch: how far its agent was before it, and is now.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub before: Frontier,
    pub now: Frontier,
}

impl Windows {
    /// Merges what came after what is there. `slots`: per series its place among the configuration's sensors.
    pub fn add<'a>(
        &mut self,
        cells: impl IntoIterator<Item = &'a Cell>,
        slots: &[Option<usize>],
        catalogue: &Catalogue,
        config: &FeatureConfig,
    ) {
        self.machines.resize_with(catalogue.machines().len(), Default::default);
        for cell in cells {
            let Some(slot) = slots[cell.series as usize] else { continue };
            let machine = catalogue.series()[cell.series as usize].machine;
            self.machines[machine as usize].panes.add(cell.bin, slot, cell.partial, config);
        }
    }

    /// What befell a machine, for the features of windows that close later.
    pub fn learn(&mut self, machine: u32, config: &FeatureConfig, event: &Event) {
        self.machines.resize_with(self.machines.len().max(machine as usize + 1), Default::default);
        self.machines[machine as usize].history.learn(config, event);
    }

    /// Tells the machine's windows that close by this step, and again those that `revised`, the oldest pane with readings that
    /// came after its window had closed, has a part in; oldest first. All that are kept are of one `generation`.
    pub fn close(
        &mut self,
        machine: u32,
        generation: u32,
        step: &Step,
        revised: Option<i64>,
        catalogue: &Catalogue,
        config: &FeatureConfig,
    ) -> Vec<WindowFeatures> {
        let Some(windows) = self.machines.get_mut(machine as usize) else { return vec![] };
        let close = |history: &mut History, panes: &Panes, window: i64| {
            history.close(catalogue, config, machine, generation, window, panes)
        };
        windows.close(step, revised, config, close)
    }

    /// Takes over a machine of others, whose id there is `there`.
    pub fn move_in(&mut self, machine: u32, from: &mut Windows, there: u32) {
        if let Some(windows) = from.machines.get_mut(there as usize) {
            self.machines.resize_with(self.machines.len().max(machine as usize + 1), Default::default);
            self.machines[machine as usize] = std::mem::take(windows);
        }
    }

    /// The machine starts anew, as one that was never seen.
    pub fn restart(&mut self, machine: u32) {
        if let Some(windows) = self.machines.get_mut(machine as usize) {
            *windows = MachineWindows::default();
        }
    }
}

impl MachineWindows {
    fn close(
        &mut self,
        step: &Step,
        revised: Option<i64>,
        config: &FeatureConfig,
        close: impl Fn(&mut History, &Panes, i64) -> Option<WindowFeatures>,
    ) -> Vec<WindowFeatures> {
        let mut news = Vec::new();
        let mut at = step.before.newest_settled(config);
        let newest = self.told.back().map_or(at, |told| told.window);
        let next = self.panes.window_after(newest, config).filter(|next| step.now.closes(*next, config));
        let first = revised.into_iter().chain(next).min();
        // What windows behind the settled ones are measured against; only there when they are to be told.
        let mut ahead: Option<History> = None;
        while let Some(window) = self.panes.window_after(at, config).filter(|w| step.now.closes(*w, config)) {
            let settles = step.now.settles(window, config);
            if !settles && first.is_none() {
                break;
            }
            let history = if settles { &mut self.history } else { ahead.get_or_insert_with(|| self.history.clone()) };
            let features = close(history, &self.panes, window);
            if first.is_some_and(|first| first <= window) {
                let revision = self.tell(window);
                news.extend(features.map(|features| WindowFeatures { revision, ..features }));
            }
            at = window;
        }
        let settled = step.now.newest_settled(config);
        while self.told.front().is_some_and(|told| told.window <= settled) {
            self.told.pop_front();
        }
        self.panes.forget_before(settled.saturating_add(1), config);
        news
    }

    /// The revision under which a window is told now.
    fn tell(&mut self, window: i64) -> u32 {
        let place = self.told.partition_point(|told| told.window < window);
        match self.told.get_mut(place).filter(|told| told.window == window) {
            Some(told) => {
                told.revision = told.revision.saturating_add(1);
                told.revision
            }
            None => {
                self.told.insert(place, Told { window, revision: 0 });
                0
            }
        }
    }
}

/// Per machine the oldest pane that these cells are of.
pub fn oldest_panes<'a>(cells: impl Iterator<Item = &'a Cell>, catalogue: &Catalogue) -> BTreeMap<u32, i64> {
    let mut oldest = BTreeMap::new();
    for cell in cells {
        let pane: &mut i64 = oldest.entry(catalogue.series()[cell.series as usize].machine).or_insert(cell.bin);
        *pane = cell.bin.min(*pane);
    }
    oldest
}
