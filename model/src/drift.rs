//! Whether the plant still looks as it did when a model was trained: each feature's distribution over the newest week,
//! block of time by block of time, against the training rows'.
//!
//! ```text
//! training rows ─> bins and shares per feature ─┐
//!              └─> its own weeks ─> how far a week strays from the others by itself ─> limits
//! live windows ──> counts per bin ─(block ends)─> newest week: PSI, KS ─> over its limit, k blocks in a row? ─> drifted
//! ```
//!
//! A plant lives by the week: a Sunday looks like no other day, and limits that let it pass would let everything pass.
//! Windows of a week are not independent, so that no textbook limit holds: the limits are what the reference's own weeks
//! reach, each against the rest. Of many features one always strays; so a limit is what the worst of all features reached
//! in a week, each measured in units of its own usual straying (after Westfall and Young: no feature is treated as
//! independent of another). Only what was measured is watched: what is told against a machine's own past moves as that grows.

pub mod reference;

use std::collections::VecDeque;

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use reference::{Counts, Distance};
pub use reference::{Reference, ReferenceError};

/// Blocks that are held against the reference together: the days of a week.
pub const SPAN_BLOCKS: usize = 7;
/// A block with fewer windows says nothing.
pub const BLOCK_WINDOWS_MIN: u64 = 200;
/// A feature has drifted when it was over its limit in so many blocks in a row.
pub const BLOCKS_IN_A_ROW: u32 = 3;

/// One feature in the span that a block ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureDrift {
    pub name: String,
    /// Population stability index, less what so few windows give by chance.
    pub psi: f64,
    /// Largest distance of the cumulative shares, at the edges of the bins (Kolmogorov-Smirnov).
    pub ks: f64,
    /// The larger of the two in units of its limit: above 1 it strays more than the reference ever did.
    pub strength: f64,
    /// Spans in a row above 1, each a block on.
    pub in_a_row: u32,
}

/// Of the features that are watched: so many look otherwise in another plant.
const PLANT_CHANGED_SHARE: f64 = 0.2;

/// What the span said that a block ended.
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

    /// The same, if they make the plant another one: one that strays does not.
    pub fn of_another_plant(&self) -> Vec<&FeatureDrift> {
        let drifted = self.drifted();
        let many = drifted.len() as f64 >= PLANT_CHANGED_SHARE * self.features.len() as f64;
        if many { drifted } else { vec![] }
    }
}

/// What was counted up to now; goes with the reference that it was counted by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Number of the block that is being filled.
    block: Option<i64>,
    windows: u64,
    counts: Counts,
    /// Blocks that ended, the newest last; at most a span.
    ended: VecDeque<Counts>,
    in_a_row: Vec<u32>,
}

impl Counted {
    fn nothing(reference: &Reference) -> Self {
        let counts = reference.empty();
        let in_a_row = vec![0; counts.len()];
        Counted { block: None, windows: 0, counts, ended: VecDeque::new(), in_a_row }
    }

    fn fits(&self, reference: &Reference) -> bool {
        let shape = |counts: &Counts| counts.iter().map(Vec::len).collect::<Vec<_>>();
        let own = shape(&reference.empty());
        self.in_a_row.len() == own.len()
            && self.ended.len() <= SPAN_BLOCKS
            && self.ended.iter().chain([&self.counts]).all(|counts| shape(counts) == own)
    }
}

/// Watches the live windows, one block after the other.
#[derive(Debug, Clone)]
pub struct Watch {
    reference: Reference,
    counted: Counted,
}

impl Watch {
    pub fn new(reference: Reference) -> Self {
        Watch { counted: Counted::nothing(&reference), reference }
    }

    /// Goes on from what was counted before a restart, if it was counted by this reference.
    pub fn resume(reference: Reference, counted: Counted) -> Self {
        if counted.fits(&reference) { Watch { reference, counted } } else { Watch::new(reference) }
    }

    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// The plant's clocks fell back: what was said of the time between is let go.
    pub fn begin_anew(&mut self) {
        self.counted = Counted::nothing(&self.reference);
    }

    /// Takes one window; gives what the newest span said, if this ends its last block. Windows of blocks that have ended
    /// are left out, and a block of too few windows neither counts nor breaks a row.
    pub fn observe(&mut self, end: PlantTime, features: &[f64]) -> Option<BlockDrift> {
        let block = (end.millis() - 1).div_euclid(self.reference.block_ms);
        let ended = match self.counted.block {
            Some(current) if block < current => return None,
            Some(current) if block > current => self.close(current),
            _ => None,
        };
        self.counted.block = Some(block);
        self.counted.windows += 1;
        self.reference.count(features, &mut self.counted.counts);
        ended
    }

    fn close(&mut self, block: i64) -> Option<BlockDrift> {
        let Counted { windows, counts, ended, in_a_row, .. } = &mut self.counted;
        let counts = std::mem::replace(counts, self.reference.empty());
        if std::mem::take(windows) < BLOCK_WINDOWS_MIN {
            return None;
        }
        ended.push_back(counts);
        if ended.len() > SPAN_BLOCKS {
            ended.pop_front();
        }
        if ended.len() < SPAN_BLOCKS {
            return None;
        }
        let span = reference::sum(&*ended);
        let windows = span.first().map_or(0, |counts| counts.iter().sum());
        let distances = self.reference.distances(&span);
        let features = self.reference.features.iter().zip(distances).zip(in_a_row);
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
