//! A score as the crew and the archive get it.

use model::{
    features::{SensorWindow, WindowFeatures},
    score::{ModeHead, Score, SensorShare},
};
use proto::{
    alert::prediction_id,
    wire::prediction::{Contribution, ModeProbability, Prediction, Role},
};

/// What all predictions of one model in one role have in common.
pub struct Model<'a> {
    pub heads: &'a [ModeHead],
    pub version: &'a str,
    pub horizon_ms: i64,
    pub role: Role,
}

pub fn prediction(window: &WindowFeatures, score: &Score, model: &Model) -> Prediction {
    Prediction {
        id: prediction_id(window.machine.as_str(), window.generation, window.start, window.revision, model.version),
        machine: window.machine.to_string(),
        machine_kind: window.kind.to_string(),
        window_start_ms: window.start.millis(),
        window_end_ms: window.end.millis(),
        revision: window.revision,
        model_version: model.version.into(),
        modes: modes(model.heads, score, |share| contribution(window, share)),
        horizon_ms: model.horizon_ms,
        generation: window.generation,
        role: model.role.into(),
    }
}

/// The most likely first.
pub fn modes(
    heads: &[ModeHead],
    score: &Score,
    contribution: impl Fn(&SensorShare) -> Contribution,
) -> Vec<ModeProbability> {
    let of_head = |(i, head): (usize, &ModeHead)| ModeProbability {
        mode: head.mode.clone(),
        probability: score.probabilities[i],
        contributions: score.shares[i].iter().map(&contribution).collect(),
        uncertainty: score.uncertainties[i],
        calibrated: head.calibrated,
    };
    let mut modes: Vec<ModeProbability> = heads.iter().enumerate().map(of_head).collect();
    modes.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    modes
}

/// NaN where the sensor was silent or its normal is not known.
fn contribution(window: &WindowFeatures, share: &SensorShare) -> Contribution {
    let sensor: Option<&SensorWindow> = window.sensors.iter().find(|s| s.sensor == share.sensor);
    Contribution {
        sensor: share.sensor.to_string(),
        logit: share.logit,
        value: sensor.and_then(|s| s.stats).map_or(f64::NAN, |s| s.mean),
        normal: sensor.and_then(|s| s.normal).map_or(f64::NAN, |n| n.mean),
        unit: sensor.map(|s| s.unit.symbol().to_owned()).unwrap_or_default(),
    }
}
