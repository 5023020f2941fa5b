//! What is known of the model in charge at one moment.

use std::collections::BTreeMap;

use model::{
    drift::FeatureDrift,
    probation::Rate,
    quality::{Estimate, Figures},
    trial::TrialWatch,
};
use serde::{Serialize, Serializer};

/// What the console shows and the trigger goes by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelReport {
    pub figures: Figures,
    /// Of the training.
    pub estimated_then: Option<Estimate>,
    /// Features that look otherwise than in training, the strongest first.
    pub drifted: Vec<FeatureDrift>,
    /// They are so many that the plant is another one.
    pub other_plant: bool,
    /// The strongest ones of the newest block, drifted or not.
    pub strongest: Vec<FeatureDrift>,
    /// How often each version that worked lately alerts.
    pub rates: BTreeMap<String, Rate>,
    /// What is on trial beside the version in charge, and how it does.
    #[serde(serialize_with = "shown")]
    pub trial: Option<TrialWatch>,
}

fn shown<S: Serializer>(trial: &Option<TrialWatch>, serializer: S) -> Result<S::Ok, S::Error> {
    trial.as_ref().map(TrialWatch::shown).serialize(serializer)
}
