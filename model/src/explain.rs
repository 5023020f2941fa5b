//! Which sensors speak for a failure mode: what the logit would lose if a sensor read as the machine normally does.

use proto::asset::AssetId;

use crate::{artifact::Artifact, features::FeatureSchema};

/// How much one sensor speaks for a mode, against the machine's own normal.
#[derive(Debug, Clone, PartialEq)]
pub struct SensorShare {
    pub sensor: AssetId,
    /// Positive: the sensor's reading speaks for the mode.
    pub logit: f64,
}

/// Occlusion, sensor by sensor, of the logit of `head`; the one that speaks loudest for the mode first.
pub fn shares(
    model: &Artifact,
    schema: &FeatureSchema,
    kind: &AssetId,
    features: &[f64],
    normal: &[f64],
    head: usize,
) -> Vec<SensorShare> {
    let logit = |features: &[f64]| f64::from(model.logits(kind, features)[head]);
    let now = logit(features);
    let mut shares: Vec<SensorShare> = (model.config.sensors.iter().enumerate())
        .map(|(sensor, name)| {
            let of_sensor = |i: usize| schema.sensor_of(i) == Some(sensor);
            let pairs = features.iter().zip(normal).enumerate();
            let occluded: Vec<f64> =
                pairs.map(|(i, (now, normal))| if of_sensor(i) { *normal } else { *now }).collect();
            SensorShare { sensor: name.clone(), logit: now - logit(&occluded) }
        })
        .collect();
    shares.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    shares
}
