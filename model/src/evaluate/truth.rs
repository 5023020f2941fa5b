//! What really went on in a simulated plant: the ceiling that a model can be measured against, never a label.

use std::collections::HashMap;

use proto::{asset::AssetId, time::PlantTime};
use serde::Deserialize;

/// A file of more lines than this is not one of ours.
pub const LINES_MAX: usize = 10_000_000;

/// Wear at one instant, one JSON object a line; a machine that is sound has no line.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wear {
    machine: AssetId,
    mode: String,
    /// End of the window.
    time: PlantTime,
    /// Of what the part stands: 0 at the onset, 1 at the failure.
    share: f64,
}

#[derive(Debug, Default)]
pub struct Truth {
    /// Share by machine, mode and time.
    wear: HashMap<AssetId, HashMap<(String, PlantTime), f64>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    #[error("line {line}: {error}")]
    Line { line: usize, error: serde_json::Error },
    #[error("line {line}: `share` is not a number from 0 to 1")]
    Share { line: usize },
    #[error("more than {LINES_MAX} lines")]
    TooMany,
}

impl Truth {
    pub fn parse(text: &str) -> Result<Self, TruthError> {
        let mut truth = Truth::default();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            if line > LINES_MAX {
                return Err(TruthError::TooMany);
            }
            let wear: Wear = serde_json::from_str(text).map_err(|error| TruthError::Line { line, error })?;
            if !(0.0..=1.0).contains(&wear.share) {
                return Err(TruthError::Share { line });
            }
            truth.wear.entry(wear.machine).or_default().insert((wear.mode, wear.time), wear.share);
        }
        Ok(truth)
    }

    /// Wear of the part at the end of a window, 0 to 1. How fast it will go on, and whether it will stop by itself, is
    /// not told: even who sees the wear does not know when it will be enough.
    pub fn share(&self, machine: &AssetId, mode: &str, end: PlantTime) -> f64 {
        let own = self.wear.get(machine);
        own.and_then(|own| own.get(&(mode.to_owned(), end))).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_the_one_at_the_windows_end() {
        let file = "{\"machine\":\"m1\",\"mode\":\"slip\",\"time\":600000,\"share\":0.25}\n\n\
                    {\"machine\":\"m1\",\"mode\":\"heat\",\"time\":600000,\"share\":1}\n";
        let truth = Truth::parse(file).unwrap();
        let machine = AssetId::new("m1").unwrap();
        let at = |mode: &str, ms| truth.share(&machine, mode, PlantTime(ms));
        assert_eq!((at("slip", 600_000), at("heat", 600_000), at("slip", 0)), (0.25, 1.0, 0.0));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let refusal = |text: &str| Truth::parse(text).unwrap_err().to_string();
        assert!(refusal("\n{}").starts_with("line 2: missing field"));
        let share = "{\"machine\":\"m1\",\"mode\":\"slip\",\"time\":0,\"share\":1.5}";
        assert!(refusal(share).starts_with("line 1: `share`"));
        assert!(refusal("{\"machine\":\"m/1\",\"mode\":\"slip\",\"time\":0,\"share\":1}").starts_with("line 1: "));
    }
}
