//! What really goes on in a simulated plant: for tests, and for the oracle that a model is measured against.
//! It is computed apart from the source, from the same configuration, and never published.

use std::io::{self, Write};

use proto::{asset::AssetId, time::PlantTime};

use super::{
    Simulator,
    config::SimulatorConfig,
    wear::{Change, Mode, Wear},
};
use crate::source::SourceError;

/// One fault of one machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Degradation {
    pub machine: AssetId,
    pub mode: Mode,
    pub onset: PlantTime,
    pub ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Failed(PlantTime),
    /// It stopped by itself.
    Recovered(PlantTime),
    /// It was going on when the log ended.
    Open,
}

#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the truth can't be written: {0}")]
    Write(#[from] io::Error),
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

/// Writes the wear of each machine at every multiple of `step_ms` up to `until`: one JSON object a line, as
/// `model evaluate --truth` reads it: `machine`, `mode`, `time` (ms) and `share`, 0 at the onset and 1 at the failure.
/// A sound machine has no line. With the window length as the step, times are the ends of windows.
pub fn write_wear(
    config: &SimulatorConfig,
    until: PlantTime,
    step_ms: i64,
    out: &mut impl Write,
) -> Result<(), TruthError> {
    let mut written = Ok(());
    walk(config, until, |time, index, wear, change| {
        if written.is_err() || time.millis().rem_euclid(step_ms.max(1)) != 0 {
            return;
        }
        let wear = match change {
            Change::Failed(mode) => Some((mode, 1.0)),
            _ => wear.map(|w| (w.mode, w.share())),
        };
        let Some((mode, share)) = wear else { return };
        let (machine, mode, time) = (&config.machines[index].id, mode.name(), time.millis());
        // Names of machines and modes have no character that JSON would escape.
        written = writeln!(out, r#"{{"machine":"{machine}","mode":"{mode}","time":{time},"share":{share}}}"#);
    })?;
    Ok(written?)
}

fn walk(
    config: &SimulatorConfig,
    until: PlantTime,
    mut see: impl FnMut(PlantTime, usize, Option<&Wear>, Change),
) -> Result<(), SourceError> {
    let mut simulator = Simulator::new(config, None)?;
    let mut unpublished = Vec::new();
    while simulator.next <= until {
        simulator.tick(&mut unpublished, |time, index, machine, change| see(time, index, machine.wear(), change));
        unpublished.clear();
    }
    Ok(())
}
