//! What really goes on in a simulated plant: for tests, and for the oracle that a model is measured against.
//! It is computed apart from the source, from the same configuration, and never published.

use proto::{asset::AssetId, time::PlantTime};
use serde::Serialize;

use super::{
    Simulator,
    config::SimulatorConfig,
    wear::{Change, Mode},
};
use crate::source::SourceError;

/// One fault of one machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Degradation {
    pub machine: AssetId,
    pub mode: Mode,
    pub onset: PlantTime,
    pub ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Failed(PlantTime),
    /// It stopped by itself.
    Recovered(PlantTime),
    /// It was going on when the log ended.
    Open,
}

/// Wear of a machine at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WearLevel {
    pub mode: Mode,
    /// 0 at the onset, 1 at the failure.
    pub share: f64,
}

/// Every degradation that begins up to `until`, by onset.
pub fn degradations(config: &SimulatorConfig, until: PlantTime) -> Result<Vec<Degradation>, SourceError> {
    let mut log: Vec<Degradation> = Vec::new();
    let mut open: Vec<Option<usize>> = vec![None; config.machines.len()];
    walk(config, until, |time, index, wear, change| match change {
        Change::None => {}
        Change::Onset => {
            let Some(wear) = wear else { return };
            open[index] = Some(log.len());
            let machine = config.machines[index].id.clone();
            log.push(Degradation { machine, mode: wear.mode, onset: time, ending: Ending::Open });
        }
        Change::Failed(_) | Change::Recovered => {
            let Some(entry) = open[index].take() else { return };
            let failed = matches!(change, Change::Failed(_));
            log[entry].ending = if failed { Ending::Failed(time) } else { Ending::Recovered(time) };
        }
    })?;
    Ok(log)
}

/// Shows `see` the wear of each machine (by its place in the configuration) at each sampling instant up to `until`.
pub fn wear(
    config: &SimulatorConfig,
    until: PlantTime,
    mut see: impl FnMut(PlantTime, usize, Option<WearLevel>),
) -> Result<(), SourceError> {
    walk(config, until, |time, index, wear, _| see(time, index, wear))
}

fn walk(
    config: &SimulatorConfig,
    until: PlantTime,
    mut see: impl FnMut(PlantTime, usize, Option<WearLevel>, Change),
) -> Result<(), SourceError> {
    let mut simulator = Simulator::new(config, None)?;
    let mut unpublished = Vec::new();
    while simulator.next <= until {
        simulator.tick(&mut unpublished, |time, index, machine, change| {
            let wear = machine.wear().map(|w| WearLevel { mode: w.mode, share: w.share() });
            see(time, index, wear, change);
        });
        unpublished.clear();
    }
    Ok(())
}
