//! The frames of a run of batches: everything that can fail, from a state that does not change.

use std::panic::{AssertUnwindSafe, catch_unwind};

use model::features::{
    aggregate::{Cell, aggregate},
    clean::{Carry, clean},
};
use polars::prelude::DataFrame;

use super::{Stream, StreamError, tables};
use crate::{clean::Rows, decode::Taken};

/// What a run of batches will do to the state, once it is committed.
#[derive(Default)]
pub struct Plan {
    /// None: there were no readings.
    pub carry: Option<Vec<Carry>>,
    pub cells: Vec<Cell>,
    pub archive: Option<DataFrame>,
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
        let archive = tables::readings(&cleaned, taken, reason, run, directory)?;
        Ok(Plan { carry: Some(carry), cells, archive: Some(archive), late })
    }
}
