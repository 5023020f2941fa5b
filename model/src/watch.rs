//! What lies beside a version for those who watch it: how its training rows looked, and how well its own probabilities
//! thought of it then.

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::Artifact,
    dataset::{Dataset, split::Split},
    drift::{BLOCKS_IN_A_ROW, Reference, ReferenceError, Watch, reference::REFERENCE_BYTES_MAX},
    gate::contest::Said,
    quality::{Estimate, Sums},
};

/// Windows of so much plant time are held against the training rows together.
const BLOCK_MS: i64 = 86_400_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchReference {
    /// None: the training rows span too few days to know how far a day strays by itself.
    pub features: Option<Reference>,
    /// On windows that no step of training saw; none: nothing was expected there.
    pub estimated: Option<Estimate>,
}

impl WatchReference {
    /// Of the rows that `model` was made of, and those after them.
    pub fn of(dataset: &Dataset, model: &Artifact) -> Self {
        let seen = model.origin.borders.calibration_end;
        let rows: Vec<usize> = (0..dataset.rows.len()).filter(|row| dataset.rows[*row].end <= seen).collect();
        let test = Split::at(dataset, &model.origin.borders).test;
        let said = Said::of(dataset, &test, model);
        let mut sums = Sums::default();
        for mode in said.modes.iter().flatten() {
            mode.probabilities.iter().for_each(|probability| sums.add(*probability, mode.threshold));
        }
        WatchReference { features: Reference::of(dataset, &rows, BLOCK_MS), estimated: sums.estimate() }
    }

    pub fn encode(&self) -> Result<Vec<u8>, ReferenceError> {
        serde_json::to_vec(self).map_err(|e| ReferenceError::Format(e.to_string()))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReferenceError> {
        if bytes.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError::TooLarge { bytes: bytes.len() });
        }
        let read: WatchReference = serde_json::from_slice(bytes).map_err(|e| ReferenceError::Format(e.to_string()))?;
        read.features.as_ref().map_or(Ok(()), Reference::check)?;
        Ok(read)
    }
}

/// Whether the plant is another one than a model was made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlantChange {
    /// Features that look otherwise in the newest week, the strongest first.
    pub drifted: Vec<String>,
    /// The first day of those that told of it without a break; none: it has not changed.
    pub since: Option<PlantTime>,
}

/// Holds the rows of `dataset` against those that `model` was made of. A change is none unless a fifth of the features that are
/// watched look otherwise: one that strays does not make another plant.
pub fn plant_change(dataset: &Dataset, model: &Artifact) -> PlantChange {
    let seen = model.origin.borders.calibration_end;
    let (before, mut after): (Vec<usize>, Vec<usize>) =
        (0..dataset.rows.len()).partition(|row| dataset.rows[*row].end <= seen);
    let Some(reference) = Reference::of(dataset, &before, BLOCK_MS) else { return PlantChange::default() };
    after.sort_by_key(|row| dataset.rows[*row].end);
    let mut watch = Watch::new(reference);
    let mut change = PlantChange::default();
    for row in after {
        let features: Vec<f64> = dataset.features(row).iter().map(|v| f64::from(*v)).collect();
        let Some(block) = watch.observe(dataset.rows[row].end, &features) else { continue };
        let drifted = block.of_another_plant();
        if drifted.is_empty() {
            change = PlantChange::default();
            continue;
        }
        change.drifted = drifted.iter().map(|feature| feature.name.clone()).collect();
        // As many blocks in a row were over their limit.
        let first = block.end.plus_millis(-i64::from(BLOCKS_IN_A_ROW) * BLOCK_MS);
        change.since = change.since.or(Some(first));
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::synthetic, settings::TrainSettings, train::train};

    #[test]
    fn what_lies_beside_a_version_is_of_its_own_rows() {
        let seed = 4;
        let dataset = synthetic::xor_plant(seed, 12, 40);
        let settings = TrainSettings { horizon_hours: 12.0, epochs_max: 3, ..TrainSettings::default() };
        let model = train(&dataset, &settings, 0, &mut |_| {}).unwrap().artifact;
        let reference = WatchReference::of(&dataset, &model);
        let estimated = reference.estimated.unwrap();
        assert!(estimated.f1 > 0.0 && estimated.f1 < 1.0, "seed {seed}: {estimated:?}");
        assert!(reference.features.as_ref().unwrap().fits(&model.schema()));
        let read = WatchReference::decode(&reference.encode().unwrap()).unwrap();
        assert!(read.features.unwrap().fits(&model.schema()) && read.estimated.is_some());
        assert!(WatchReference::decode(b"[]").is_err());
    }
}
