//! Whether the plant still looks as it did when a model was trained: each feature's distribution, block of time by block
//! of time, against the training rows'.
//!
//! ```text
//! training rows ─> bins and shares per feature ─┐
//!              └─> its own blocks of time ─> how far a block strays by itself ─> limits
//! live windows ──> counts per bin ─(block ends)─> PSI, KS ─> over its limit, k blocks in a row? ─> drifted
//! ```
//!
//! Windows of a day are not independent, so that no textbook limit holds: the limits are what the reference's own blocks
//! reach. Of many features one always strays; so a limit is what the worst of all features reached in a block, each
//! measured in units of its own usual straying (after Westfall and Young: no feature is treated as independent of another).

pub mod reference;

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use reference::Distance;
pub use reference::{Reference, ReferenceError};

/// A block with fewer windows says nothing.
pub const BLOCK_WINDOWS_MIN: u64 = 200;
/// A feature has drifted when it was over its limit in so many blocks in a row.
pub const BLOCKS_IN_A_ROW: u32 = 3;

/// One feature in one block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureDrift {
    pub name: String,
    /// Population stability index, less what so few windows give by chance.
    pub psi: f64,
    /// Largest distance of the cumulative shares, at the edges of the bins (Kolmogorov-Smirnov).
    pub ks: f64,
    /// The larger of the two in units of its limit: above 1 it strays more than the reference ever did.
    pub strength: f64,
    /// Blocks in a row above 1.
    pub in_a_row: u32,
}

/// What a block said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockDrift {
    pub end: PlantTime,
    pub windows: u64,
    pub features: Vec<FeatureDrift>,
}

impl BlockDrift {
    /// The strongest first.
    pub fn drifted(&self) -> Vec<&FeatureDrift> {
        let mut drifted: Vec<_> = self.features.iter().filter(|f| f.in_a_row >= BLOCKS_IN_A_ROW).collect();
        drifted.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        drifted
    }
}

/// Watches the live windows, one block after the other.
#[derive(Debug, Clone)]
pub struct Watch {
    reference: Reference,
    /// Number of the block that is being filled.
    block: Option<i64>,
    windows: u64,
    counts: Vec<Vec<u64>>,
    in_a_row: Vec<u32>,
}

impl Watch {
    pub fn new(reference: Reference) -> Self {
        let counts = reference.empty();
        let in_a_row = vec![0; counts.len()];
        Watch { reference, block: None, windows: 0, counts, in_a_row }
    }

    /// Takes one window; gives what the block said that it ends. Windows of blocks that have ended are left out, and a
    /// block of too few windows neither counts nor breaks a row.
    pub fn observe(&mut self, end: PlantTime, features: &[f64]) -> Option<BlockDrift> {
        let block = (end.millis() - 1).div_euclid(self.reference.block_ms);
        let ended = match self.block {
            Some(current) if block < current => return None,
            Some(current) if block > current => self.close(current),
            _ => None,
        };
        self.block = Some(block);
        self.windows += 1;
        self.reference.count(features, &mut self.counts);
        ended
    }

    fn close(&mut self, block: i64) -> Option<BlockDrift> {
        let counts = std::mem::replace(&mut self.counts, self.reference.empty());
        let windows = std::mem::take(&mut self.windows);
        if windows < BLOCK_WINDOWS_MIN {
            return None;
        }
        let distances = self.reference.distances(&counts);
        let features = self.reference.features.iter().zip(distances).zip(&mut self.in_a_row);
        let features = features.map(|((feature, distance), in_a_row)| {
            let strength = feature.strength(distance);
            *in_a_row = if strength > 1.0 { in_a_row.saturating_add(1) } else { 0 };
            let Distance { psi, ks } = distance;
            FeatureDrift { name: feature.name.clone(), psi, ks, strength, in_a_row: *in_a_row }
        });
        let features = features.collect();
        Some(BlockDrift { end: PlantTime((block + 1) * self.reference.block_ms), windows, features })
    }
}

#[cfg(test)]
mod tests;
