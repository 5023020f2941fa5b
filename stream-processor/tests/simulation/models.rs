//! Two models that differ in their threshold, and the settings that they fit.

use std::sync::Arc;

use model::{
    artifact::{Artifact, Head, Origin},
    calibration::{Calibration, Platt},
    features::{FeatureConfig, FeatureSchema},
    forward::{Dense, Encoder, Network},
    policy::Policy,
    score::Scorer,
};
use proto::asset::AssetId;
use stream_processor::{
    alert::{
        AlertConfig,
        config::{Limit, RuleConfig},
    },
    stream::{Loaded, StreamConfig},
};

use crate::instruments::{KIND, SENSOR};

pub const WINDOW_MS: i64 = 2_000;

/// Short windows, few features, and alerts that are quick to come and to go.
pub fn config() -> StreamConfig {
    let sensor = AssetId::new(SENSOR).unwrap();
    let policy = Policy { open_windows: 2, of_windows: 3, close_factor: 0.9, close_windows: 2 };
    let limits = vec![Limit { kind: None, sensor: sensor.clone(), low: None, high: Some(75.0) }];
    let per_sensor = vec!["mean".into(), "missing".into()];
    StreamConfig {
        features: FeatureConfig {
            window_ms: WINDOW_MS,
            lateness_ms: 1_000,
            revise_ms: Some(2 * WINDOW_MS),
            sensors: vec![sensor],
            per_sensor,
            ..FeatureConfig::default()
        },
        alert: AlertConfig {
            scores: policy,
            rules: RuleConfig { policy, limits, ..RuleConfig::default() },
            quiet_after_repair_ms: 10_000,
            down_after_failure_ms: 10_000,
            ..AlertConfig::default()
        },
    }
}

pub fn loaded() -> Loaded {
    let scorers = [0.5, 0.6, 0.7].map(|threshold| Arc::new(Scorer::new(artifact(threshold)).unwrap()));
    scorers.into_iter().map(|scorer| (scorer.version().to_owned(), scorer)).collect()
}

/// Listens to the mean of the one sensor: half past seventy.
fn artifact(threshold: f64) -> Artifact {
    let features = config().features;
    let names = FeatureSchema::of(&features).names;
    let listens = |name: &String| if name.ends_with(".mean") { 1.0 } else { 0.0 };
    let weight: Vec<f32> = names.iter().map(listens).chain([0.0]).collect();
    let dense = Dense { inputs: names.len() + 1, outputs: 1, weight, bias: vec![0.0] };
    let calibration = Calibration::from(Platt { slope: 1.0, intercept: 0.0 });
    Artifact {
        config: features,
        horizon_ms: 1,
        encoder: Encoder {
            kinds: vec![AssetId::new(KIND).unwrap()],
            mean: vec![70.0; names.len()],
            std: vec![10.0; names.len()],
        },
        network: Network::new(vec![dense]).unwrap(),
        heads: vec![Head { mode: "bearing_wear".into(), calibration, calibrated: true, threshold }],
        golden: vec![],
        origin: Origin::default(),
    }
}
