//! Scores closed windows: probability per failure mode, calibrated where there were failures enough, and which sensors say so.

use std::collections::BTreeMap;

use proto::asset::AssetId;

use crate::{
    artifact::Artifact,
    explain::Explainer,
    features::{FeatureConfig, FeatureSchema, WindowFeatures},
};
pub use crate::{artifact::ArtifactError, explain::SensorShare};

/// One head of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct ModeHead {
    /// Failure mode code.
    pub mode: String,
    /// Probability from which on the alert policy counts a window.
    pub threshold: f64,
    /// Whether its probability was fitted to what happened; else there were too few failures.
    pub calibrated: bool,
}

/// The answer for one window.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Probability that the mode fails within the horizon, in the order of the scorer's heads; calibrated if its head is.
    pub probabilities: Vec<f64>,
    /// Per head, the standard deviation of what the members of the ensemble say; 0 of a single network.
    pub uncertainties: Vec<f64>,
    /// Per head, the signed change of its logit by each sensor against the machine's own normal, largest first; empty
    /// for features without a machine.
    pub shares: Vec<Vec<SensorShare>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    #[error("the window of {machine} has {found} features, the model takes {expected}")]
    Width { machine: String, expected: usize, found: usize },
    #[error("feature `{name}` is missing")]
    Missing { name: String },
    #[error("feature `{name}` is not in the model's schema")]
    Unknown { name: String },
}

/// A verified model, ready to score. Shared between threads as it is.
#[derive(Debug)]
pub struct Scorer {
    model: Artifact,
    schema: FeatureSchema,
    version: String,
    heads: Vec<ModeHead>,
    explainer: Explainer,
}

impl Scorer {
    /// Verifies everything about the artefact, the golden rows included.
    pub fn from_artifact(bytes: &[u8]) -> Result<Self, ArtifactError> {
        Self::new(Artifact::decode(bytes)?)
    }

    pub fn new(model: Artifact) -> Result<Self, ArtifactError> {
        let head = |h: &crate::artifact::Head| {
            let (mode, threshold, calibrated) = (h.mode.clone(), h.threshold, h.calibrated);
            ModeHead { mode, threshold, calibrated }
        };
        model.check_golden()?;
        let (heads, schema) = (model.heads.iter().map(head).collect(), model.schema());
        Ok(Scorer { explainer: Explainer::new(&model, &schema), schema, version: model.version()?, heads, model })
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// How far ahead the probabilities look, plant ms.
    pub fn horizon_ms(&self) -> i64 {
        self.model.horizon_ms
    }

    pub fn heads(&self) -> &[ModeHead] {
        &self.heads
    }

    /// Kinds of machine that it was trained on.
    pub fn kinds(&self) -> &[AssetId] {
        &self.model.encoder.kinds
    }

    pub fn config(&self) -> &FeatureConfig {
        &self.model.config
    }

    pub fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    pub fn schema_fingerprint(&self) -> String {
        self.schema.fingerprint()
    }

    /// The model as it was verified.
    pub fn into_model(self) -> Artifact {
        self.model
    }

    /// One score per window, in order. A window's score does not depend on the others.
    pub fn score(&self, windows: &[WindowFeatures]) -> Result<Vec<Score>, ScoreError> {
        let expected = self.model.encoder.features();
        windows
            .iter()
            .map(|w| {
                if w.features.len() != expected || w.normal.len() != expected {
                    let (machine, found) = (w.machine.to_string(), w.features.len().min(w.normal.len()));
                    return Err(ScoreError::Width { machine, expected, found });
                }
                let (members, shares) = self.explainer.explain(&self.model, w);
                Ok(self.score_of(&members, shares))
            })
            .collect()
    }

    fn score_of(&self, members: &[f32], shares: Vec<Vec<SensorShare>>) -> Score {
        let probabilities = self.model.probabilities(&self.model.network.pooled(members));
        Score { probabilities, uncertainties: self.model.uncertainties(members), shares }
    }

    /// Scores features given by their names in the schema; without a machine's own normal there are no shares.
    pub fn score_features(&self, kind: &AssetId, values: &BTreeMap<String, f64>) -> Result<Score, ScoreError> {
        let names = &self.schema.names;
        if let Some(name) = values.keys().find(|name| !names.contains(name)) {
            return Err(ScoreError::Unknown { name: name.clone() });
        }
        let value = |name: &String| values.get(name).copied().ok_or_else(|| ScoreError::Missing { name: name.clone() });
        let features = names.iter().map(value).collect::<Result<Vec<f64>, _>>()?;
        let members = self.model.network.member_logits(&self.model.encoder.encode(kind, features));
        let none = vec![Vec::new(); self.heads.len()];
        Ok(self.score_of(&members, none))
    }
}
