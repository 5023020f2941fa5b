//! Public data sets by fixed protocols, the network beside baselines: `model benchmark ai4i|cmapss|azure|all --data DIR`.
//!
//! ```text
//! CSV ─> import ─> archive in memory ─> features, labels ─> folds ─> contenders ─> table
//! ```
//!
//! Data comes in as any foreign data does, through the same import, cleaning, windows, features and labels. What a
//! contender is told (settings, bins, weights, when to stop) is chosen inside the training part alone.

pub mod ai4i;
pub mod azure;
pub mod cmapss;
pub mod contender;
mod data;
mod folds;
mod report;

use std::path::{Path, PathBuf};

pub use data::DataError;
pub use report::Report;

use crate::{settings::TrainSettings, train::fit::FitError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    Ai4i,
    Cmapss,
    Azure,
    All,
}

/// What a contender says of each row, a probability or a number; None where it does not take part.
pub type Predicted = Result<Option<Vec<f64>>, BenchmarkError>;

#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error("trees: {0}")]
    Trees(String),
    #[error("{} was expected to be of another content: SHA-256 {found}, expected {expected}", .file.display())]
    Changed { file: PathBuf, found: String, expected: &'static str },
    #[error("feature `{feature}` tells the label: {why}")]
    Leak { feature: String, why: &'static str },
    #[error("{contender}: F1 of {f1:.3} is above {max}: no honest contender reaches it, something leaks")]
    TooGood { contender: String, f1: f64, max: f64 },
}

/// Runs what is named; reports come one by one. The network learns by `settings` and its seed draws folds and samples.
/// `tuned`: also with settings that are chosen inside the training part.
pub async fn run(
    name: Name,
    data: &Path,
    settings: &TrainSettings,
    tuned: bool,
    say: &mut (dyn FnMut(&Report) + Send),
) -> Result<Vec<Report>, BenchmarkError> {
    let mut reports = Vec::new();
    if matches!(name, Name::Ai4i | Name::All) {
        for set in [ai4i::Set::Sensors, ai4i::Set::Engineered] {
            let report = ai4i::run(data, set, settings, tuned).await?;
            say(&report);
            reports.push(report);
        }
    }
    if matches!(name, Name::Cmapss | Name::All) {
        let report = cmapss::run(data, settings, tuned).await?;
        say(&report);
        reports.push(report);
    }
    if matches!(name, Name::Azure | Name::All) {
        let measured = azure::run(data, settings).await?;
        measured.iter().for_each(&mut *say);
        reports.extend(measured);
    }
    Ok(reports)
}
