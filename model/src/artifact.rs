//! A trained model as one file: safetensors, with one JSON header in its metadata.
//!
//! Every number that scores depend on is a tensor, so that it survives bit for bit; the header holds names and origin.
//! Loading trusts nothing: size, checksum, version, feature schema, shapes, finite weights, and at last the golden rows,
//! which must score today as they did when the model was trained.

mod origin;
mod tensors;

use std::collections::BTreeSet;

use proto::asset::AssetId;
use serde::{Deserialize, Serialize};

use crate::{
    calibration::{Calibration, Isotonic, KNOTS_MAX, Platt},
    features::{FeatureConfig, FeatureSchema, InvalidFeatures},
    forward::{Encoder, MEMBERS_MAX, Network, ShapeError},
};
pub use origin::{ModeMetrics, Origin, RefusedMode, Shortage};
pub(crate) use tensors::{Tensors, TensorsBuilder};

pub const ARTIFACT_FORMAT: u32 = 3;
pub const ARTIFACT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest chain of layers that a file may ask for.
const LAYERS_MAX: usize = 16;
/// Golden rows that a file may bring at most.
const GOLDEN_MAX: usize = 16;
/// Allowed difference of the golden rows' probabilities: other CPUs add in another order.
const GOLDEN_TOLERANCE: f64 = 1e-5;
/// Hexadecimal digits of a version: short enough to read out, long enough to be unique in a registry.
const VERSION_DIGITS: usize = 12;

#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    pub config: FeatureConfig,
    pub horizon_ms: i64,
    pub encoder: Encoder,
    pub network: Network,
    pub heads: Vec<Head>,
    pub golden: Vec<Golden>,
    pub origin: Origin,
}

/// What belongs to one failure mode besides its output of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub mode: String,
    pub calibration: Calibration,
    /// Whether `calibration` was fitted; else there were too few failures, and it only undoes the class weights.
    pub calibrated: bool,
    /// Probability from which on a window counts for an alert.
    pub threshold: f64,
}

/// One row and what it scored when the model was trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    pub kind: AssetId,
    pub features: Vec<f64>,
    pub probabilities: Vec<f64>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("the artefact has {bytes} bytes, the limit is {ARTIFACT_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("not a model artefact: {0}")]
    Format(String),
    #[error("artefact format {format} is not read here, format {ARTIFACT_FORMAT} is: train the model again")]
    UnknownFormat { format: u32 },
    #[error("wrong checksum: the artefact was changed after it was written")]
    Checksum,
    #[error("the artefact says it is version {says}, its content is {is}")]
    Version { says: String, is: String },
    #[error("made for another feature schema: fingerprint {theirs}, this build computes {ours}")]
    Fingerprint { theirs: String, ours: String },
    #[error("{what} holds a value that is not finite")]
    NotFinite { what: &'static str },
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("made with impossible settings: {0}")]
    Features(#[from] InvalidFeatures),
    #[error("a golden row scores {now} for {mode}, and scored {then} when the model was trained")]
    Golden { mode: String, then: f64, now: f64 },
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    version: String,
    identity: Identity,
    golden_kinds: Vec<AssetId>,
    origin: Origin,
}

/// The part of the header that decides scores.
#[derive(Serialize, Deserialize)]
struct Identity {
    horizon_ms: i64,
    config: FeatureConfig,
    fingerprint: String,
    features: Vec<String>,
    kinds: Vec<AssetId>,
    modes: Vec<String>,
    calibrated: Vec<bool>,
    /// Per head the knots of its curve; 0: a slope and an intercept.
    knots: Vec<usize>,
    members: usize,
    /// Inputs, hidden layers, outputs.
    sizes: Vec<usize>,
    /// Per input the edges of its bins.
    edges: Vec<usize>,
}

impl Artifact {
    /// Short hash of all that scores depend on.
    pub fn version(&self) -> Result<String, ArtifactError> {
        version(&self.identity(), &self.scoring_tensors())
    }

    pub fn schema(&self) -> FeatureSchema {
        FeatureSchema::of(&self.config)
    }

    /// One logit per head for one row of features.
    pub fn logits(&self, kind: &AssetId, features: &[f64]) -> Vec<f32> {
        self.network.logits(&self.encoder.encode(kind, features.iter().copied()))
    }

    /// One calibrated probability per head.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f64> {
        self.heads.iter().zip(logits).map(|(head, logit)| head.calibration.probability(f64::from(*logit))).collect()
    }

    pub fn encode(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut tensors = self.scoring_tensors();
        let flat = |f: fn(&Golden) -> &[f64]| self.golden.iter().flat_map(f).copied().collect::<Vec<f64>>();
        tensors.f64("golden.features", &flat(|g| &g.features));
        tensors.f64("golden.probabilities", &flat(|g| &g.probabilities));
        let identity = self.identity();
        let version = version(&identity, &self.scoring_tensors())?;
        let golden_kinds = self.golden.iter().map(|g| g.kind.clone()).collect();
        let header = Header { format: ARTIFACT_FORMAT, version, identity, golden_kinds, origin: self.origin.clone() };
        tensors.seal(&json(&header)?)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ArtifactError> {
        if bytes.len() > ARTIFACT_BYTES_MAX {
            return Err(ArtifactError::TooLarge { bytes: bytes.len() });
        }
        let tensors = Tensors::open(bytes)?;
        check_format(&tensors.header)?;
        let header: Header = parse(&tensors.header)?;
        let artifact = Artifact::assemble(&tensors, header.identity, header.golden_kinds, header.origin)?;
        let is = artifact.version()?;
        if is != header.version {
            return Err(ArtifactError::Version { says: header.version, is });
        }
        artifact.check_golden()?;
        Ok(artifact)
    }

    fn assemble(
        tensors: &Tensors<'_>,
        identity: Identity,
        golden_kinds: Vec<AssetId>,
        origin: Origin,
    ) -> Result<Self, ArtifactError> {
        identity.config.check()?;
        let schema = FeatureSchema::of(&identity.config);
        if schema.fingerprint() != identity.fingerprint || schema.names != identity.features {
            return Err(ArtifactError::Fingerprint { theirs: identity.fingerprint, ours: schema.fingerprint() });
        }
        if !(2..=LAYERS_MAX + 1).contains(&identity.sizes.len()) || !(1..=MEMBERS_MAX).contains(&identity.members) {
            let (sizes, members) = (identity.sizes.len(), identity.members);
            return Err(ArtifactError::Format(format!("{sizes} sizes of layers, {members} members")));
        }
        let (features, modes) = (schema.names.len(), identity.modes.len());
        if identity.modes.iter().collect::<BTreeSet<_>>().len() != modes || modes == 0 {
            return Err(ArtifactError::Format("failure modes are missing or named twice".into()));
        }
        if identity.calibrated.len() != modes || !(1..=GOLDEN_MAX).contains(&golden_kinds.len()) {
            return Err(ArtifactError::Format("calibration does not fit the modes, or no golden row".into()));
        }
        let layers =
            (0..identity.sizes.len() - 1).map(|i| tensors.layer(i, &identity.sizes)).collect::<Result<_, _>>()?;
        let network = Network::ensemble(tensors.bins(&identity.edges)?, identity.members, layers)?;
        let mean = tensors.finite("encoder.mean", features)?;
        let std = tensors.finite("encoder.std", features)?;
        if std.iter().any(|s| *s <= 0.0) {
            return Err(ArtifactError::NotFinite { what: "encoder" });
        }
        let encoder = Encoder { kinds: identity.kinds, mean, std };
        if (network.inputs(), network.outputs()) != (encoder.width(), modes) {
            return Err(ArtifactError::Format("the network does not fit features, kinds and modes".into()));
        }
        let calibrations = calibrations(tensors, &identity.knots, modes)?;
        let thresholds = tensors.finite("threshold", modes)?;
        let heads = identity.modes.into_iter().zip(calibrations).enumerate().map(|(i, (mode, calibration))| Head {
            mode,
            calibration,
            calibrated: identity.calibrated[i],
            threshold: thresholds[i],
        });
        let golden_features = tensors.f64("golden.features", golden_kinds.len() * features)?;
        let golden_probabilities = tensors.finite("golden.probabilities", golden_kinds.len() * modes)?;
        let scored = golden_features.chunks_exact(features).zip(golden_probabilities.chunks_exact(modes));
        let golden = golden_kinds.into_iter().zip(scored).map(|(kind, (features, probabilities))| Golden {
            kind,
            features: features.into(),
            probabilities: probabilities.into(),
        });
        let (config, horizon_ms) = (identity.config, identity.horizon_ms);
        let (heads, golden) = (heads.collect(), golden.collect());
        Ok(Artifact { config, horizon_ms, encoder, network, heads, golden, origin })
    }

    fn identity(&self) -> Identity {
        let schema = self.schema();
        let (bins, outputs) = (self.network.bins(), self.network.layers().iter().map(|l| l.outputs));
        Identity {
            horizon_ms: self.horizon_ms,
            config: self.config.clone(),
            fingerprint: schema.fingerprint(),
            features: schema.names.clone(),
            kinds: self.encoder.kinds.clone(),
            modes: self.heads.iter().map(|h| h.mode.clone()).collect(),
            calibrated: self.heads.iter().map(|h| h.calibrated).collect(),
            knots: self.heads.iter().map(|h| h.knots().len()).collect(),
            members: self.network.members(),
            sizes: std::iter::once(self.network.inputs()).chain(outputs).collect(),
            edges: (0..bins.inputs()).map(|input| bins.edges(input).len()).collect(),
        }
    }

    fn scoring_tensors(&self) -> TensorsBuilder {
        let mut tensors = TensorsBuilder::default();
        for (i, layer) in self.network.layers().iter().enumerate() {
            tensors.layer(i, layer);
        }
        let bins = self.network.bins();
        tensors
            .f32("bins.edges", &(0..bins.inputs()).flat_map(|input| bins.edges(input)).copied().collect::<Vec<f32>>());
        tensors.f64("encoder.mean", &self.encoder.mean);
        tensors.f64("encoder.std", &self.encoder.std);
        let column = |f: fn(&Head) -> f64| self.heads.iter().map(f).collect::<Vec<_>>();
        tensors.f64("calibration.slope", &column(|h| h.line().slope));
        tensors.f64("calibration.intercept", &column(|h| h.line().intercept));
        let knots = |f: fn(&(f64, f64)) -> f64| self.heads.iter().flat_map(|h| h.knots()).map(f).collect::<Vec<_>>();
        tensors.f64("calibration.logit", &knots(|knot| knot.0));
        tensors.f64("calibration.probability", &knots(|knot| knot.1));
        tensors.f64("threshold", &column(|h| h.threshold));
        tensors
    }

    /// Per head, the standard deviation of the members' calibrated probabilities, from every member's logits of a row.
    pub fn uncertainties(&self, members: &[f32]) -> Vec<f64> {
        let of_head = |(i, head): (usize, &Head)| {
            let said = members[i..].iter().step_by(self.heads.len());
            let said: Vec<f64> = said.map(|logit| head.calibration.probability(f64::from(*logit))).collect();
            let mean = said.iter().sum::<f64>() / said.len() as f64;
            (said.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / said.len() as f64).sqrt()
        };
        self.heads.iter().enumerate().map(of_head).collect()
    }

    /// Whether the golden rows score as they did.
    pub fn check_golden(&self) -> Result<(), ArtifactError> {
        for golden in &self.golden {
            let now = self.probabilities(&self.logits(&golden.kind, &golden.features));
            for ((head, now), then) in self.heads.iter().zip(now).zip(&golden.probabilities) {
                // Written so that a NaN fails.
                let same = (now - then).abs() <= GOLDEN_TOLERANCE;
                if !same {
                    return Err(ArtifactError::Golden { mode: head.mode.clone(), then: *then, now });
                }
            }
        }
        Ok(())
    }
}

impl Head {
    fn knots(&self) -> &[(f64, f64)] {
        match &self.calibration {
            Calibration::Isotonic(isotonic) => isotonic.knots(),
            Calibration::Platt(_) => &[],
        }
    }

    fn line(&self) -> Platt {
        match &self.calibration {
            Calibration::Platt(platt) => *platt,
            Calibration::Isotonic(_) => Platt::IDENTITY,
        }
    }
}

fn calibrations(tensors: &Tensors<'_>, knots: &[usize], modes: usize) -> Result<Vec<Calibration>, ArtifactError> {
    if knots.len() != modes || knots.iter().any(|n| *n > KNOTS_MAX) {
        return Err(ArtifactError::Format("calibration does not fit the modes".into()));
    }
    let slopes = tensors.finite("calibration.slope", modes)?;
    let intercepts = tensors.finite("calibration.intercept", modes)?;
    let all = knots.iter().sum();
    let logits = tensors.finite("calibration.logit", all)?;
    let mut points = logits.into_iter().zip(tensors.finite("calibration.probability", all)?);
    let calibration = |(head, knots): (usize, &usize)| match knots {
        0 => Ok(Platt { slope: slopes[head], intercept: intercepts[head] }.into()),
        _ => Isotonic::new(points.by_ref().take(*knots).collect())
            .map(Calibration::from)
            .ok_or_else(|| ArtifactError::Format("a calibration curve does not rise".into())),
    };
    knots.iter().enumerate().map(calibration).collect()
}

fn version(identity: &Identity, tensors: &TensorsBuilder) -> Result<String, ArtifactError> {
    let mut digits = tensors.digest(&json(identity)?).iter().map(|b| format!("{b:02x}")).collect::<String>();
    digits.truncate(VERSION_DIGITS);
    Ok(digits)
}

/// The format number is read first: a later format need not fit the rest.
fn check_format(header: &str) -> Result<(), ArtifactError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = parse(header)?;
    if format == ARTIFACT_FORMAT { Ok(()) } else { Err(ArtifactError::UnknownFormat { format }) }
}

fn json<T: Serialize>(value: &T) -> Result<String, ArtifactError> {
    serde_json::to_string(value).map_err(|e| ArtifactError::Format(e.to_string()))
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ArtifactError> {
    serde_json::from_str(text).map_err(|e| ArtifactError::Format(e.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
