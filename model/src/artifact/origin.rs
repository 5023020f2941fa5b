//! Where a model comes from; outside its version, so that the same rows and seed give the same version.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::settings::{Borders, TrainSettings};

/// Enough to train the model again from the same archive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub settings: TrainSettings,
    pub borders: Borders,
    /// Over all rows of the dataset, those that validated, calibrated and tested it too, in order.
    pub data_sha256: String,
    /// That it was trained on.
    pub rows: u64,
    pub commit: Option<String>,
    pub created_ms: i64,
    pub refused: Vec<RefusedMode>,
    /// On the test slice, which no step of training saw.
    pub metrics: Vec<ModeMetrics>,
}

/// A mode that is left to the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedMode {
    pub mode: String,
    /// That the training slice can be learnt from.
    pub failures: usize,
    pub shortage: Shortage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortage {
    /// The training slice needs so many.
    Needed(usize),
    /// There is none in the slice of this name: nothing could be chosen or said about the mode.
    NoneIn(String),
}

impl fmt::Display for RefusedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RefusedMode { mode, failures, shortage } = self;
        write!(f, "{mode} has {failures} failures to learn from")?;
        match shortage {
            Shortage::Needed(needed) => write!(f, ", {needed} are needed"),
            Shortage::NoneIn(slice) => write!(f, " and none in the {slice} slice"),
        }
    }
}

/// Figures over single windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeMetrics {
    pub mode: String,
    pub positives: u64,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub average_precision: f64,
    /// Mean squared difference of probability and outcome (Brier 1950): 0 is perfect.
    pub brier: f64,
    /// 95 % interval of it, by machine; none of a single one, nor in older artefacts.
    #[serde(default)]
    pub brier_between: Option<(f64, f64)>,
}

impl ModeMetrics {
    /// `0.0123 [0.0101, 0.0140]`
    pub fn brier_text(&self) -> String {
        let between = self.brier_between.map_or(String::new(), |(low, high)| format!(" [{low:.4}, {high:.4}]"));
        format!("{:.4}{between}", self.brier)
    }
}
