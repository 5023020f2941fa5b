//! From the archive to rows that can be learnt from: features of closed windows, and what came of them.
//!
//! ```text
//! manifests ─> objects ─┬ readings, births ─> features ─┬─> rows, by machine and time ─> split by time
//!                       └ events ─> failures ───────────┘
//! ```

pub mod archive;
pub mod label;
pub(crate) mod order;
pub mod split;
pub mod warning;

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::features::{FeatureConfig, FeatureSchema, WindowFeatures};
use label::{Label, Labeller, Life};

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

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub name: AssetId,
    /// Index into [`Dataset::kinds`].
    pub kind: usize,
    pub life: Life,
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

    /// Takes the windows of one machine; those without a label are left out. Rows are in time whatever their generation:
    /// what is asked of them is what came of the machine, and when.
    pub fn push(&mut self, windows: &[WindowFeatures], labeller: &Labeller) {
        let Some(first) = windows.first() else { return };
        let kind = self.kinds.iter().position(|k| *k == first.kind).unwrap_or_else(|| {
            self.kinds.push(first.kind.clone());
            self.kinds.len() - 1
        });
        let machine = self.machines.len();
        let life = labeller.life(&first.machine);
        let mut windows: Vec<_> = windows.iter().filter(|w| w.features.len() == self.width).collect();
        windows.sort_by_key(|w| w.start);
        for window in windows {
            if let Label::Known { fails } = labeller.label(&life, window.start, window.end) {
                self.rows.push(Row { machine, start: window.start, end: window.end, fails });
                self.features.extend(window.features.iter().map(|v| *v as f32));
            }
        }
        self.machines.push(Machine { name: first.machine.clone(), kind, life });
    }

    /// From what [`Dataset::features`] and the fields gave; `features` of all rows, one after the other.
    pub fn from_parts(
        config: FeatureConfig,
        horizon_ms: i64,
        modes: Vec<String>,
        kinds: Vec<AssetId>,
        machines: Vec<Machine>,
        rows: Vec<Row>,
        features: Vec<f32>,
    ) -> Self {
        let width = FeatureSchema::of(&config).names.len();
        Dataset { config, horizon_ms, modes, kinds, machines, rows, features, width }
    }

    /// Only the windows that start at `from` or later.
    pub fn since(&self, from: PlantTime) -> Self {
        self.of_rows(&(0..self.rows.len()).filter(|row| self.rows[*row].start >= from).collect::<Vec<_>>())
    }

    /// With those rows alone, in their order, and every machine.
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        let features = rows.iter().flat_map(|row| self.features(*row)).copied().collect();
        let kept = rows.iter().map(|row| self.rows[*row]).collect();
        let (config, modes, kinds) = (self.config.clone(), self.modes.clone(), self.kinds.clone());
        Self::from_parts(config, self.horizon_ms, modes, kinds, self.machines.clone(), kept, features)
    }

    pub fn features(&self, row: usize) -> &[f32] {
        &self.features[row * self.width..(row + 1) * self.width]
    }

    #[cfg(test)]
    pub(crate) fn features_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.features[row * self.width..(row + 1) * self.width]
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn kind(&self, row: usize) -> &AssetId {
        &self.kinds[self.machines[self.rows[row].machine].kind]
    }

    /// Rows by machine; those of one machine in the order of time.
    pub fn by_machine<'a>(&self, rows: &'a [usize]) -> Vec<(usize, &'a [usize])> {
        let chunks = rows.chunk_by(|a, b| self.rows[*a].machine == self.rows[*b].machine);
        chunks.map(|rows| (self.rows[rows[0]].machine, rows)).collect()
    }

    /// Whether one of `rows`, one machine's in time, has `at` within its horizon.
    pub fn looks_ahead_to(&self, rows: &[usize], at: PlantTime) -> bool {
        let before = rows.partition_point(|row| self.rows[*row].end <= at);
        before > 0 && at <= self.rows[rows[before - 1]].end.plus_millis(self.horizon_ms)
    }

    pub fn positive(&self, rows: &[usize], mode: usize) -> Vec<bool> {
        rows.iter().map(|row| self.rows[*row].is_positive(mode)).collect()
    }

    /// Failures of the mode that at least one of `rows` is positive for: windows overlap in what they look ahead to,
    /// so it's these that tell how much can be learnt.
    pub fn failures_ahead(&self, rows: &[usize], mode: usize) -> usize {
        let of_machine = |(machine, rows): &(usize, &[usize])| {
            let own = self.machines[*machine].life.failures.iter().filter(|f| f.mode == Some(mode));
            own.filter(|f| self.looks_ahead_to(rows, f.at)).count()
        };
        self.by_machine(rows).iter().map(of_machine).sum()
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
