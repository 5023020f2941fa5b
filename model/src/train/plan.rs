//! What a run is about, before a weight is drawn: slices of time, and the modes that can be learnt from them.

use crate::{
    artifact::{Artifact, RefusedMode, Shortage},
    dataset::{Dataset, split::Split},
    settings::{Borders, TrainSettings},
};

use super::TrainError;

#[derive(Debug, Clone)]
pub struct Plan {
    pub settings: TrainSettings,
    pub borders: Borders,
    /// Indices in the dataset's modes, one per head.
    pub modes: Vec<usize>,
    pub refused: Vec<RefusedMode>,
}

impl Plan {
    pub fn new(dataset: &Dataset, settings: &TrainSettings) -> Result<Self, TrainError> {
        let borders = Borders::of(dataset, settings.split);
        let split = Split::at(dataset, &borders);
        check(&split, settings)?;
        let (mut modes, mut refused) = (Vec::new(), Vec::new());
        for mode in 0..dataset.modes.len() {
            match shortage(dataset, &split, mode, settings) {
                Some(short) => refused.push(short),
                None => modes.push(mode),
            }
        }
        if modes.is_empty() {
            return Err(TrainError::NoMode { refused, min: settings.min_failures });
        }
        Ok(Plan { settings: settings.clone(), borders, modes, refused })
    }

    /// The run that `model` came from with logistic regression in place of its network: same borders, same modes, so
    /// that a comparison is about the network alone. None: a mode of the model is not among the dataset's.
    pub fn logistic(model: &Artifact, dataset: &Dataset) -> Option<Self> {
        let mode_of = |mode: &String| dataset.modes.iter().position(|m| m == mode);
        let modes = model.heads.iter().map(|h| mode_of(&h.mode)).collect::<Option<Vec<usize>>>()?;
        let settings = TrainSettings { hidden: vec![], members: 1, bins: 0, ..model.origin.settings.clone() };
        Some(Plan { settings, borders: model.origin.borders, modes, refused: model.origin.refused.clone() })
    }

    /// The rows of each slice, none of them empty.
    pub fn split(&self, dataset: &Dataset) -> Result<Split, TrainError> {
        let split = Split::at(dataset, &self.borders);
        check(&split, &self.settings)?;
        Ok(split)
    }
}

fn check(split: &Split, settings: &TrainSettings) -> Result<(), TrainError> {
    match split.slices().into_iter().find(|(_, rows)| rows.is_empty()) {
        Some((slice, _)) => Err(TrainError::TooShort { slice, horizon_hours: settings.horizon_hours }),
        None => Ok(()),
    }
}

fn shortage(dataset: &Dataset, split: &Split, mode: usize, settings: &TrainSettings) -> Option<RefusedMode> {
    let failures = dataset.failures_ahead(&split.train, mode);
    let refuse = |shortage| Some(RefusedMode { mode: dataset.modes[mode].clone(), failures, shortage });
    let needed = settings.min_failures.max(1);
    if failures < needed {
        return refuse(Shortage::Needed(needed));
    }
    let [_, rest @ ..] = split.slices();
    let silent = rest.into_iter().find(|(_, rows)| dataset.failures_ahead(rows, mode) == 0);
    silent.and_then(|(slice, _)| refuse(Shortage::NoneIn(slice.into())))
}
