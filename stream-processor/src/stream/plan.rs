//! The frames of a run of batches: everything that can fail, from a state that does not change.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{Stream, StreamError};
use crate::{
    archive::readings::{self, Stretch},
    clean::Rows,
    decode::Taken,
};
use model::features::{
    aggregate::{Cell, aggregate},
    clean::{Carry, clean},
};

/// What a run of batches will do to the state, once it is committed.
#[derive(Default)]
pub struct Plan {
    /// Of the series that had readings.
    pub carry: HashMap<u32, Carry>,
    pub cells: Vec<Cell>,
    pub archive: Option<Stretch>,
    pub late: u64,
}

impl Stream {
    /// [`Stream::plan`], with a panic inside the frames as an error. The state is only read, so it stays whole.
    pub(super) fn plan_caught(&self, run: &[Taken]) -> Result<Plan, StreamError> {
        catch_unwind(AssertUnwindSafe(|| self.plan(run))).unwrap_or(Err(StreamError::Panic))
    }

    fn plan(&self, run: &[Taken]) -> Result<Plan, StreamError> {
        let (config, directory) = (&self.config.features, self.fleet.directory());
        let mut rows = Rows::of(run, &self.fleet, config);
        if rows.is_empty() {
            return Ok(Plan::default());
        }
        let (late, taken, reason) = (rows.late, std::mem::take(&mut rows.taken), std::mem::take(&mut rows.reason));
        let (cleaned, carry) = clean(rows.frame()?, self.fleet.catalogue(), &self.carry, config.stuck_after)?;
        let cells = aggregate(&cleaned, &directory.wanted, config.window_ms)?;
        let batches = run.iter().map(|taken| (taken.agent.clone(), taken.position.seq)).collect();
        let rows = readings::rows(&cleaned, taken, reason, &directory.generation)?;
        Ok(Plan { carry, cells, archive: Some(Stretch { rows, batches }), late })
    }
}
