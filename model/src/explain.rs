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
    let encode = |row: &[f64]| model.encoder.encode(kind, row.iter().copied());
    let (row, at_normal) = (encode(features), encode(normal));
    let now = model.network.logits(&row);
    let mut heads = vec![Vec::with_capacity(model.config.sensors.len()); now.len()];
    let mut occluded = row.clone();
    for (sensor, name) in model.config.sensors.iter().enumerate() {
        let own = |i: &usize| schema.sensor_of(*i) == Some(sensor);
        (0..features.len()).filter(own).for_each(|i| occluded[i] = at_normal[i]);
        let without = model.network.logits(&occluded);
        (0..features.len()).filter(own).for_each(|i| occluded[i] = row[i]);
        for (shares, (now, without)) in heads.iter_mut().zip(now.iter().zip(without)) {
            shares.push(SensorShare { sensor: name.clone(), logit: f64::from(*now) - f64::from(without) });
        }
    }
    heads.iter_mut().for_each(|shares| shares.sort_by(|a, b| b.logit.total_cmp(&a.logit)));
    heads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{artifact::tests::artifact, features::FeatureSchema};

    /// Features with the given sensors away from a normal of 0.2, and that normal.
    fn row(model: &Artifact, away: &[usize]) -> (FeatureSchema, Vec<f64>, Vec<f64>) {
        let schema = model.schema();
        let normal = vec![0.2; schema.names.len()];
        let is_away = |i: usize| schema.sensor_of(i).is_some_and(|s| away.contains(&s));
        let now = normal.iter().enumerate().map(|(i, n)| if is_away(i) { n + 0.7 } else { *n }).collect();
        (schema, now, normal)
    }

    #[test]
    fn every_head_is_explained_by_all_sensors_the_loudest_first() {
        let model = artifact();
        let (schema, now, normal) = row(&model, &[0, 1, 2, 3, 4]);
        let heads = shares(&model, &schema, &model.encoder.kinds[0], &now, &normal);
        assert_eq!(heads.len(), model.heads.len());
        for shares in heads {
            let mut sensors: Vec<&AssetId> = shares.iter().map(|s| &s.sensor).collect();
            sensors.sort();
            let mut all: Vec<&AssetId> = model.config.sensors.iter().collect();
            all.sort();
            assert_eq!(sensors, all);
            assert!(shares.windows(2).all(|pair| pair[0].logit >= pair[1].logit), "{shares:?}");
        }
    }

    #[test]
    fn a_sensor_at_its_normal_says_nothing_and_the_only_other_one_says_all() {
        let model = artifact();
        let kind = &model.encoder.kinds[0];
        let (schema, now, normal) = row(&model, &[3]);
        let moved: Vec<f32> =
            model.logits(kind, &now).iter().zip(model.logits(kind, &normal)).map(|(a, b)| a - b).collect();
        for (shares, moved) in shares(&model, &schema, kind, &now, &normal).iter().zip(moved) {
            for share in shares {
                let expected = if share.sensor == model.config.sensors[3] { f64::from(moved) } else { 0.0 };
                assert!((share.logit - expected).abs() < 1e-6, "{share:?}, {expected} expected");
            }
            assert!(moved.abs() > 1e-3, "the test would say nothing");
        }
    }

    #[test]
    fn small_moves_add_up() {
        let model = artifact();
        let kind = &model.encoder.kinds[0];
        let schema = model.schema();
        let normal = vec![0.2; schema.names.len()];
        let now: Vec<f64> = normal.iter().enumerate().map(|(i, n)| n + 1e-3 * (i % 5) as f64).collect();
        for (head, shares) in shares(&model, &schema, kind, &now, &normal).iter().enumerate() {
            let moved = f64::from(model.logits(kind, &now)[head]) - f64::from(model.logits(kind, &normal)[head]);
            let sum: f64 = shares.iter().map(|s| s.logit).sum();
            assert!((sum - moved).abs() < 0.05 * moved.abs() + 1e-5, "head {head}: {sum} of {moved}");
        }
    }
}
