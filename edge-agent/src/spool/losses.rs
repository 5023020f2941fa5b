//! What became gaps, counted.

use std::ops::AddAssign;

use super::log::Extent;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    pub batches: u64,
    /// Known to have been inside.
    pub readings: u64,
}

/// What became gaps since the spool was opened, and what opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    pub evicted: Loss,
    pub damaged: Loss,
    pub quarantined: Loss,
    /// Segments that became a gap to make room.
    pub segments_evicted: u64,
    /// Segments that could not be read and were set aside.
    pub segments_set_aside: u64,
}

impl<'e> FromIterator<&'e Extent> for Loss {
    fn from_iter<I: IntoIterator<Item = &'e Extent>>(lost: I) -> Self {
        lost.into_iter().fold(Loss::default(), |loss, e| Loss {
            batches: loss.batches + e.last_seq - e.position.seq + 1,
            readings: loss.readings + e.readings,
        })
    }
}

impl AddAssign for Loss {
    fn add_assign(&mut self, more: Loss) {
        self.batches += more.batches;
        self.readings += more.readings;
    }
}
