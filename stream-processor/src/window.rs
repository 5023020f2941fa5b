//! Open windows of every machine: partial aggregates that merge as readings come and close as the watermark moves.

pub mod watermark;

use std::collections::BTreeMap;

use model::features::{
    Event, FeatureConfig, WindowFeatures,
    aggregate::{Cell, Partial},
    catalogue::Catalogue,
    derive::History,
};
use serde::{Deserialize, Serialize};

use watermark::Watermark;

/// By machine id. What is open is bounded by time: a row is either late, or too far in the future, or in one of the
/// windows in between; a first batch may open more, and its own seal closes them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Windows {
    machines: Vec<MachineWindows>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct MachineWindows {
    /// By window number; aggregates in the order of the configuration's sensors.
    open: BTreeMap<i64, Vec<Option<Partial>>>,
    history: History,
}

/// A window that closed, and the watermark that it waited for.
pub struct Closed {
    pub bin: i64,
    pub window: WindowFeatures,
}

impl Windows {
    /// Merges what came after what is there. `slots`: per series its place among the configuration's sensors.
    pub fn add(&mut self, cells: &[Cell], slots: &[Option<usize>], catalogue: &Catalogue, config: &FeatureConfig) {
        self.machines.resize_with(catalogue.machines().len(), Default::default);
        for cell in cells {
            let Some(slot) = slots[cell.series as usize] else { continue };
            let machine = catalogue.series()[cell.series as usize].machine;
            let open = &mut self.machines[machine as usize].open;
            let row = open.entry(cell.bin).or_insert_with(|| vec![None; config.sensors.len()]);
            row[slot] = Some(row[slot].map_or(cell.partial, |before| before.merge(&cell.partial)));
        }
    }

    /// What befell a machine, for the features of windows that close later.
    pub fn learn(&mut self, machine: u32, config: &FeatureConfig, event: &Event) {
        self.machines.resize_with(self.machines.len().max(machine as usize + 1), Default::default);
        self.machines[machine as usize].history.learn(config, event);
    }

    /// Closes the machine's windows that `watermark` has passed, oldest first; all that are open are of one `generation`.
    pub fn close(
        &mut self,
        machine: u32,
        generation: u32,
        watermark: Watermark,
        catalogue: &Catalogue,
        config: &FeatureConfig,
    ) -> Vec<Closed> {
        let mut closed = Vec::new();
        let Some(windows) = self.machines.get_mut(machine as usize) else { return closed };
        while let Some(entry) = windows.open.first_entry() {
            if !watermark.closes(*entry.key(), config) {
                break;
            }
            let (bin, cells) = entry.remove_entry();
            let window = windows.history.close(catalogue, config, machine, generation, bin, &cells);
            closed.extend(window.map(|window| Closed { bin, window }));
        }
        closed
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
