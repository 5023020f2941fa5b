//! What really went on in the built-in plant, for whoever wants to see how near a model comes to knowing it.

use std::{io::Write, path::Path};

use edge_agent::source::simulator::truth::{TruthError, write_wear};
use model::features::FeatureConfig;

use super::{
    DAY_MS,
    gateways::Plant,
    state::{State, StateError},
};

#[derive(Debug, thiserror::Error)]
pub enum PlantTruthError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{folder} holds no factory: start one there first")]
    None { folder: String },
    #[error(transparent)]
    Truth(#[from] TruthError),
}

/// Writes the wear of each machine at the end of each window, from the start of the history in `folder` up to now and so many
/// days more: as `model evaluate --truth` reads it. It is simulated anew from the seed; the running plant tells nobody.
pub fn write(folder: &Path, days_ahead: u32, out: &mut impl Write) -> Result<(), PlantTruthError> {
    let none = || PlantTruthError::None { folder: folder.display().to_string() };
    let state = State::load(folder)?.ok_or_else(none)?;
    let plant = Plant { start: state.history_start, ..Plant::default() }.changing(state.change_at);
    let until = state.resume_at().plus_millis(i64::from(days_ahead) * DAY_MS);
    for gateway in 0..plant.gateways.len() {
        write_wear(&plant.simulator(gateway, state.seed), until, FeatureConfig::default().window_ms, out)?;
    }
    Ok(())
}
