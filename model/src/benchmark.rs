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
mod explanations;
mod folds;
mod report;
mod sheet;

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
    #[error(transparent)]
    Sheet(#[from] sheet::SheetError),
    #[error("trees: {0}")]
    Trees(String),
    #[error("{} was expected to be of another content: SHA-256 {found}, expected {expected}", .file.display())]
    Changed { file: PathBuf, found: String, expected: &'static str },
    #[error("feature `{feature}` tells the label: {why}")]
    Leak { feature: String, why: &'static str },
    #[error("{contender}: F1 of {f1:.3} is above {max}: no honest contender reaches it, something leaks")]
    TooGood { contender: String, f1: f64, max: f64 },
}

/// What is measured, and beside whom.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The network learns by them, and their seed draws folds and samples.
    pub settings: TrainSettings,
    /// Also with settings that are chosen inside the training part.
    pub tuned: bool,
    /// Folder of what references said; see [`sheet`].
    pub references: Option<PathBuf>,
}

/// Runs what is named; reports come one by one.
pub async fn run(
    name: Name,
    data: &Path,
    options: &Options,
    say: &mut (dyn FnMut(&Report) + Send),
) -> Result<Vec<Report>, BenchmarkError> {
    let mut reports = Vec::new();
    if name.has(Name::Ai4i) {
        for set in ai4i::SETS {
            let report = ai4i::run(data, set, options).await?;
            say(&report);
            reports.push(report);
        }
    }
    if name.has(Name::Cmapss) {
        let report = cmapss::run(data, options).await?;
        say(&report);
        reports.push(report);
    }
    if name.has(Name::Azure) {
        let measured = azure::run(data, options).await?;
        measured.iter().for_each(&mut *say);
        reports.extend(measured);
    }
    Ok(reports)
}

/// Writes what references learn from and are asked; measures nothing.
pub async fn write_sheets(name: Name, data: &Path, seed: u64, folder: &Path) -> Result<(), BenchmarkError> {
    if name.has(Name::Ai4i) {
        for set in ai4i::SETS {
            ai4i::write_sheet(data, set, seed, folder).await?;
        }
    }
    if name.has(Name::Cmapss) {
        cmapss::write_sheet(data, folder).await?;
    }
    if name.has(Name::Azure) {
        azure::write_sheets(data, folder).await?;
    }
    Ok(())
}

impl Name {
    fn has(self, other: Name) -> bool {
        self == other || self == Name::All
    }
}
