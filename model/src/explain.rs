//! Which sensors speak for a failure mode: how the logit comes from that of the machine's own normal to where it is now.
//!
//! Sensor after sensor is moved from normal to now, and each gets what the logit moves by; so the shares add up to the
//! whole way. What two sensors say only together would go to the one moved later: so it is done in one order and in the
//! reverse, and the mean taken, which parts it evenly (the Shapley value of everything that pairs of sensors say).

use proto::asset::AssetId;

use crate::{artifact::Artifact, features::FeatureSchema};

/// How much one sensor speaks for a mode, against the machine's own normal.
#[derive(Debug, Clone, PartialEq)]
pub struct SensorShare {
    pub sensor: AssetId,
    /// Positive: the sensor's reading speaks for the mode.
    pub logit: f64,
}

/// Which of the network's inputs belong together.
#[derive(Debug)]
pub struct Explainer {
    /// Inputs of each sensor, and behind them those of none: the kind.
    groups: Vec<Vec<usize>>,
}

impl Explainer {
    pub fn new(model: &Artifact, schema: &FeatureSchema) -> Self {
        let of =
            |sensor: Option<usize>| (0..model.encoder.width()).filter(|i| schema.sensor_of(*i) == sensor).collect();
        Explainer { groups: (0..model.config.sensors.len()).map(Some).chain([None]).map(of).collect() }
    }

    /// Every member's logits now, and per head, in the model's order, the shares of the sensors, of which the one that
    /// speaks loudest for its mode comes first. What a sensor adds to the first layer is worked out once; only what comes
    /// behind is done for every step.
    pub fn explain(
        &self,
        model: &Artifact,
        kind: &AssetId,
        features: &[f64],
        normal: &[f64],
    ) -> (Vec<f32>, Vec<Vec<SensorShare>>) {
        let network = &model.network;
        let encode = |row: &[f64]| model.encoder.encode(kind, row.iter().copied());
        // What each sensor adds to the first layer now and at normal; the kind adds the same to both.
        let parts = network.parts(&[encode(features), encode(normal)].concat(), &self.groups);
        let width = parts[0].len() / 2;
        let sensors = self.groups.len() - 1;
        // Stop `n` has the first n sensors at now and the rest at normal; behind the last come those of the reverse.
        let mut stops = Vec::with_capacity(2 * sensors * width);
        let mut stop = |is_now: &dyn Fn(usize) -> bool| {
            let first = stops.len();
            stops.extend_from_slice(&parts[sensors][..width]);
            for (sensor, part) in parts[..sensors].iter().enumerate() {
                let part = if is_now(sensor) { &part[..width] } else { &part[width..] };
                stops[first..].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        };
        (0..=sensors).for_each(|n| stop(&|sensor| sensor < n));
        (1..sensors).for_each(|n| stop(&|sensor| sensor >= sensors - n));
        let members = network.finish(stops);
        let per_stop = network.members() * network.outputs();
        let logits: Vec<Vec<f32>> = members.chunks_exact(per_stop).map(|stop| network.pooled(stop)).collect();
        let forth = |n: usize| &logits[n];
        // The reverse begins and ends where the other does.
        let back = |n: usize| if n == 0 || n == sensors { &logits[n] } else { &logits[sensors + n] };
        let step = |to: &Vec<f32>, from: &Vec<f32>, head: usize| f64::from(to[head]) - f64::from(from[head]);
        let shares = |head: usize| {
            let share = |(sensor, name): (usize, &AssetId)| {
                let turn = sensors - sensor;
                let first = step(forth(sensor + 1), forth(sensor), head);
                let second = step(back(turn), back(turn - 1), head);
                SensorShare { sensor: name.clone(), logit: (first + second) / 2.0 }
            };
            let mut shares: Vec<SensorShare> = model.config.sensors.iter().enumerate().map(share).collect();
            shares.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            shares
        };
        let heads = (0..network.outputs()).map(shares).collect();
        (members[sensors * per_stop..(sensors + 1) * per_stop].to_vec(), heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        artifact::tests::artifact,
        forward::{Dense, Network},
    };

    /// Features with the given sensors away from a normal of 0.2, and that normal.
    fn row(model: &Artifact, away: &[usize]) -> (FeatureSchema, Vec<f64>, Vec<f64>) {
        let schema = model.schema();
        let normal = vec![0.2; schema.names.len()];
        let is_away = |i: usize| schema.sensor_of(i).is_some_and(|s| away.contains(&s));
        let now = normal.iter().enumerate().map(|(i, n)| if is_away(i) { n + 0.7 } else { *n }).collect();
        (schema, now, normal)
    }

    fn shares(
        model: &Artifact,
        schema: &FeatureSchema,
        kind: &AssetId,
        now: &[f64],
        normal: &[f64],
    ) -> Vec<Vec<SensorShare>> {
        Explainer::new(model, schema).explain(model, kind, now, normal).1
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
    fn shares_add_up_to_the_way_from_normal_to_now() {
        let model = artifact();
        let kind = &model.encoder.kinds[0];
        let (schema, now, normal) = row(&model, &[0, 1, 2, 3, 4]);
        let (members, heads) = Explainer::new(&model, &schema).explain(&model, kind, &now, &normal);
        let (at_now, at_normal) = (model.logits(kind, &now), model.logits(kind, &normal));
        for (head, shares) in heads.iter().enumerate() {
            let moved = f64::from(at_now[head]) - f64::from(at_normal[head]);
            let sum: f64 = shares.iter().map(|s| s.logit).sum();
            assert!((sum - moved).abs() < 1e-5, "head {head}: {sum} of {moved}");
            assert!(moved.abs() > 1e-3, "the test would say nothing");
        }
        for (a, b) in model.network.pooled(&members).iter().zip(at_now) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn what_two_sensors_say_only_together_is_parted_evenly() {
        let mut model = artifact();
        let schema = model.schema();
        let first_of = |sensor: usize| (0..).find(|i| schema.sensor_of(*i) == Some(sensor)).unwrap();
        // One unit that wakes when both sensors are up, as an AND.
        let mut weight = vec![0.0; model.encoder.width()];
        [1, 3].into_iter().for_each(|sensor| weight[first_of(sensor)] = 1.0);
        let hidden = Dense { inputs: weight.len(), outputs: 1, weight, bias: vec![-3.0] };
        let head = Dense { inputs: 1, outputs: 2, weight: vec![1.0, -1.0], bias: vec![0.0; 2] };
        model.network = Network::new(vec![hidden, head]).unwrap();
        let (_, now, normal) = row(&model, &[1, 3]);
        let heads = shares(&model, &schema, &model.encoder.kinds[0], &now, &normal);
        for name in [&model.config.sensors[1], &model.config.sensors[3]] {
            let share = heads[0].iter().find(|s| s.sensor == *name).unwrap();
            // Both go up by 0.7 / (1 / 3) = 2.1 from 0.3: the unit wakes by 4.8 - 3, and neither would alone.
            assert!((share.logit - 0.9).abs() < 1e-5, "{share:?}");
        }
    }
}
