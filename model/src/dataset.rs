//! From the archive to rows that can be learnt from: features of closed windows, and what came of them.
//!
//! ```text
//! manifests ─> objects ─┬ readings, births ─> features ─┬─> rows, by machine and time ─> split by time
//!                       └ events ─> failures ───────────┘
//! ```

pub mod archive;
pub mod label;
pub mod split;

use proto::{asset::AssetId, time::PlantTime};
use sha2::{Digest, Sha256};

use crate::features::{FeatureConfig, FeatureSchema, WindowFeatures};
use label::{Failure, Label, Labeller};

/// Modes are bits of a row's label.
pub const MODES_MAX: usize = 32;

/// Rows in the order of machine and time.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub config: FeatureConfig,
    pub horizon_ms: i64,
    /// Modes with at least one known failure, by name.
    pub modes: Vec<String>,
    pub kinds: Vec<AssetId>,
    pub machines: Vec<Machine>,
    pub rows: Vec<Row>,
    /// One row after the other, each as wide as the feature schema.
    features: Vec<f32>,
    width: usize,
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub name: AssetId,
    /// Index into [`Dataset::kinds`].
    pub kind: usize,
    /// In time.
    pub failures: Vec<Failure>,
}

/// One window whose outcome is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Index into [`Dataset::machines`].
    pub machine: usize,
    pub start: PlantTime,
    pub end: PlantTime,
    /// Bit i: mode i fails within the horizon.
    pub fails: u32,
}

impl Row {
    pub fn is_positive(&self, mode: usize) -> bool {
        self.fails & (1 << mode) != 0
    }
}

impl Dataset {
    pub fn new(config: FeatureConfig, labeller: &Labeller) -> Self {
        let width = FeatureSchema::of(&config).names.len();
        let (modes, horizon_ms) = (labeller.modes().to_vec(), labeller.horizon_ms());
        Dataset { config, horizon_ms, modes, kinds: vec![], machines: vec![], rows: vec![], features: vec![], width }
    }

    /// Takes the windows of one machine, in time; those without a label are left out.
    pub fn push(&mut self, windows: &[WindowFeatures], labeller: &Labeller) {
        let Some(first) = windows.first() else { return };
        let kind = self.kinds.iter().position(|k| *k == first.kind).unwrap_or_else(|| {
            self.kinds.push(first.kind.clone());
            self.kinds.len() - 1
        });
        let machine = self.machines.len();
        let failures = labeller.failures(&first.machine).to_vec();
        for window in windows.iter().filter(|w| w.features.len() == self.width) {
            if let Label::Known { fails } = labeller.label(&failures, window.start, window.end) {
                self.rows.push(Row { machine, start: window.start, end: window.end, fails });
                self.features.extend(window.features.iter().map(|v| *v as f32));
            }
        }
        self.machines.push(Machine { name: first.machine.clone(), kind, failures });
    }

    pub fn features(&self, row: usize) -> &[f32] {
        &self.features[row * self.width..(row + 1) * self.width]
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn kind(&self, row: usize) -> &AssetId {
        &self.kinds[self.machines[self.rows[row].machine].kind]
    }

    /// Known failures of each mode.
    pub fn failures_by_mode(&self) -> Vec<usize> {
        let of = |mode| self.machines.iter().flat_map(|m| &m.failures).filter(|f| f.mode == Some(mode)).count();
        (0..self.modes.len()).map(of).collect()
    }

    /// SHA-256 over what is learnt from; how it was stored has no part in it.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (i, row) in self.rows.iter().enumerate() {
            hash.update(self.machines[row.machine].name.as_str());
            hash.update([0]);
            hash.update(self.kind(i).as_str());
            hash.update([0]);
            hash.update(row.start.millis().to_le_bytes());
            hash.update(row.fails.to_le_bytes());
            self.features(i).iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        hash.update(self.modes.join(","));
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
pub(crate) mod synthetic;
