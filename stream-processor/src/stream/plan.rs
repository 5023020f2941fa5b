//! The frames of a run of batches: everything that can fail, from a state that does not change.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{Foreign, Stream, StreamError};
use crate::{
    archive::readings::{self, Stretch},
    clean::Rows,
    decode::Taken,
};
use model::features::{
    aggregate::{Cell, aggregate},
    clean::{Carry, clean, flag, inner},
};
use polars::prelude::{BooleanChunked, DataFrame, NewChunkedArray, PolarsResult};

/// Of readings whose windows had closed, with the place of their batch in the run; in the order of batches.
pub type Revising = Vec<(usize, Cell)>;

/// What a run of batches will do to the state, once it is committed.
#[derive(Default)]
pub struct Plan {
    /// Of the series that had readings.
    pub carry: HashMap<u32, Carry>,
    pub cells: Vec<Cell>,
    pub revising: Revising,
    pub archive: Option<Stretch>,
    pub late: u64,
    pub foreign: Vec<Foreign>,
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
        let foreign = std::mem::take(&mut rows.foreign).into_iter().map(|((id, agent), readings)| Foreign {
            machine: self.fleet.name(id).clone(),
            owner: self.fleet.owner(id).cloned(),
            agent,
            readings,
        });
        let foreign = foreign.collect();
        let (late, taken, reason) = (rows.late, std::mem::take(&mut rows.taken), std::mem::take(&mut rows.reason));
        let (cleaned, carry) = clean(rows.frame()?, self.fleet.catalogue(), &self.carry, config.stuck_after)?;
        let (cells, revising) = cells(&cleaned, &taken, &directory.wanted, config.slide_ms())?;
        let batches = run.iter().map(|taken| (taken.agent.clone(), taken.position.seq)).collect();
        let rows = readings::rows(&cleaned, taken, reason, &directory.generation)?;
        Ok(Plan { carry, cells, revising, archive: Some(Stretch { rows, batches }), late, foreign })
    }
}

/// Readings that come in time are merged whatever batch of the run they are of, since none of their windows is told before
/// the last of them. Those that revise a window are its next revision, of their own batch; they are few.
fn cells(cleaned: &DataFrame, taken: &[u32], wanted: &[bool], slide_ms: i64) -> PolarsResult<(Vec<Cell>, Revising)> {
    let flags = cleaned.column(inner::FLAGS)?.u32()?.cont_slice()?;
    let is_revising = |flags: &u32| flags & flag::REVISING != 0;
    if !flags.iter().any(is_revising) {
        return Ok((aggregate(cleaned, wanted, slide_ms)?, vec![]));
    }
    let mask = BooleanChunked::from_iter_values("revising".into(), flags.iter().map(is_revising));
    let of: Vec<u32> = taken.iter().zip(flags).filter(|(_, flags)| is_revising(flags)).map(|(of, _)| *of).collect();
    let (late, mut from, mut revising) = (cleaned.filter(&mask)?, 0, Vec::new());
    for batch in of.chunk_by(u32::eq) {
        let cells = aggregate(&late.slice(from, batch.len()), wanted, slide_ms)?;
        revising.extend(cells.into_iter().map(|cell| (batch[0] as usize, cell)));
        from += batch.len() as i64;
    }
    Ok((aggregate(&cleaned.filter(&!&mask)?, wanted, slide_ms)?, revising))
}
