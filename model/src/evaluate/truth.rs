//! What really went on in a simulated plant: the ceiling that a model can be measured against, never a label.

use std::collections::HashMap;

use proto::{asset::AssetId, time::PlantTime};
use serde::Deserialize;

/// A file of more faults than this is not one of ours.
const FAULTS_MAX: usize = 1_000_000;
/// The oracle's certainty grows with the hours since the onset; at this many it is even.
const HALF_HOURS: f64 = 24.0;

/// One fault, as the simulator knows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Fault {
    machine: AssetId,
    mode: String,
    onset: PlantTime,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    Failed(PlantTime),
    Recovered(PlantTime),
    Open,
}

#[derive(Debug, Default)]
pub struct Truth {
    /// Onset and end of every fault.
    faults: HashMap<(AssetId, String), Vec<(PlantTime, PlantTime)>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    #[error("line {line}: {error}")]
    Line { line: usize, error: serde_json::Error },
    #[error("more than {FAULTS_MAX} lines")]
    TooMany,
}

impl Truth {
    /// One JSON object per line.
    pub fn parse(text: &str) -> Result<Self, TruthError> {
        let mut truth = Truth::default();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            if i >= FAULTS_MAX {
                return Err(TruthError::TooMany);
            }
            let fault: Fault = serde_json::from_str(line).map_err(|error| TruthError::Line { line: i + 1, error })?;
            let end = match fault.ending {
                Ending::Failed(at) | Ending::Recovered(at) => at,
                Ending::Open => PlantTime(i64::MAX),
            };
            truth.faults.entry((fault.machine, fault.mode)).or_default().push((fault.onset, end));
        }
        Ok(truth)
    }

    /// How long the fault has been going on at `at`, on a scale from 0 (none) towards 1. How it will end is not told:
    /// even who sees the wear does not know when it will be enough.
    pub fn progress(&self, machine: &AssetId, mode: &str, at: PlantTime) -> f64 {
        let faults = self.faults.get(&(machine.clone(), mode.to_owned())).map_or(&[][..], Vec::as_slice);
        let current = faults.iter().find(|(onset, end)| *onset < at && at <= *end);
        current.map_or(0.0, |(onset, _)| {
            let hours = (at.millis() - onset.millis()) as f64 / 3_600_000.0;
            hours / (hours + HALF_HOURS)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_grows_from_onset_to_end() {
        let file = r#"{"machine":"m1","mode":"slip","onset":0,"ending":{"failed":86400000}}
            {"machine":"m1","mode":"heat","onset":5,"ending":"open"}"#;
        let truth = Truth::parse(file).unwrap();
        let machine = AssetId::new("m1").unwrap();
        let at = |hours: i64| truth.progress(&machine, "slip", PlantTime(hours * 3_600_000));
        assert_eq!((at(0), at(24), at(25)), (0.0, 0.5, 0.0));
        assert!(at(6) > 0.0 && at(6) < at(12));
        assert!(matches!(Truth::parse("\n{}"), Err(TruthError::Line { line: 2, .. })));
    }
}
