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

/// Occlusion, sensor by sensor, of every head's logit: one pass through the network tells of all of them. Per head, in
/// the model's order, the sensor that speaks loudest for its mode first.
pub fn shares(
    model: &Artifact,
    schema: &FeatureSchema,
    kind: &AssetId,
    features: &[f64],
    normal: &[f64],
) -> Vec<Vec<SensorShare>> {
    let now = model.logits(kind, features);
    let mut heads = vec![Vec::with_capacity(model.config.sensors.len()); now.len()];
    for (sensor, name) in model.config.sensors.iter().enumerate() {
        let of_sensor = |i: usize| schema.sensor_of(i) == Some(sensor);
        let pairs = features.iter().zip(normal).enumerate();
        let occluded: Vec<f64> = pairs.map(|(i, (now, normal))| if of_sensor(i) { *normal } else { *now }).collect();
        let without = model.logits(kind, &occluded);
        for (shares, (now, without)) in heads.iter_mut().zip(now.iter().zip(without)) {
            shares.push(SensorShare { sensor: name.clone(), logit: f64::from(*now) - f64::from(without) });
        }
    }
    heads.iter_mut().for_each(|shares| shares.sort_by(|a, b| b.logit.total_cmp(&a.logit)));
    heads
}
