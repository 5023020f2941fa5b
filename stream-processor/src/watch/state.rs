//! What is known of the versions that work, as part of the snapshot: it ends trials and takes versions back, so a restart in the
//! middle of one must not begin it anew.

use model::{
    drift::{BlockDrift, Counted},
    present::Present,
    quality::Quality,
    trial::TrialWatch,
};
use serde::{Deserialize, Serialize};

/// As it was read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Watched {
    pub present: Present,
    pub quality: Option<(i64, Quality)>,
    /// Of which version's training rows, and what was counted.
    pub drift: Option<(String, Counted)>,
    pub block: Option<BlockDrift>,
    pub trial: Option<TrialWatch>,
}

/// As it is written.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Watching<'a> {
    pub present: &'a Present,
    pub quality: Option<&'a (i64, Quality)>,
    pub drift: Option<(&'a str, &'a Counted)>,
    pub block: Option<&'a BlockDrift>,
    pub trial: Option<&'a TrialWatch>,
}
