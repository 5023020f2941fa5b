//! Which sensors speak for a failure mode: how the logit comes from that of the machine's own normal to where it is now.
//!
//! Sensor after sensor is moved from normal to now, and each gets what the logit moves by; so the shares add up to the
//! whole way. What two sensors say only together would go to the one moved later: so it is done in one order and in the
//! reverse, and the mean taken, which parts it evenly (the Shapley value of everything that pairs of sensors say). A feature
//! that follows from several sensors is worked out anew at every stop of the way, so that each of them gets its part of it.

use proto::asset::AssetId;

use crate::{
    artifact::Artifact,
    features::{FeatureSchema, WindowFeatures, derived_features},
    forward::Network,
};

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
    /// Inputs of each sensor.
    sensors: Vec<Vec<usize>>,
    /// Inputs that follow from several sensors.
    derived: Vec<usize>,
    /// The others, which are the same at normal: the kind, and what befell the machine.
    still: Vec<usize>,
}

/// Whether a source is at now.
pub type IsNow<'a> = &'a dyn Fn(usize) -> bool;

/// The way from normal to now: a network's inputs at both ends, and which of them are moved one after the other.
pub struct Way<'a> {
    pub now: &'a [f32],
    pub normal: &'a [f32],
    /// Inputs of each source.
    pub sources: &'a [Vec<usize>],
    /// Inputs that stay at now.
    pub still: &'a [usize],
    /// Inputs that follow from where the sources are, and a whole row in which they have the values of a stop: which sources
    /// are at now there, is asked.
    pub derived: &'a [usize],
    pub row_at: &'a dyn Fn(IsNow) -> Vec<f32>,
}

impl Explainer {
    pub fn new(model: &Artifact, schema: &FeatureSchema) -> Self {
        let derived: Vec<usize> = schema.derived().collect();
        let of = |sensor: Option<usize>| -> Vec<usize> {
            let own = |i: &usize| schema.sensor_of(*i) == sensor && !derived.contains(i);
            (0..model.encoder.width()).filter(own).collect()
        };
        let sensors = (0..model.config.sensors.len()).map(|sensor| of(Some(sensor))).collect();
        Explainer { sensors, still: of(None), derived }
    }

    /// Every member's logits now, and per head, in the model's order, the shares of the sensors, of which the one that
    /// speaks loudest for its mode comes first.
    pub fn explain(&self, model: &Artifact, window: &WindowFeatures) -> (Vec<f32>, Vec<Vec<SensorShare>>) {
        let encode = |row: &[f64]| model.encoder.encode(&window.kind, row.iter().copied());
        let row_at = |is_now: IsNow| {
            let mean = |sensor: usize| {
                let own = window.sensors.get(sensor)?;
                if is_now(sensor) { own.stats.map(|s| s.mean) } else { own.normal.map(|n| n.mean) }
            };
            let mut row = window.features.clone();
            let values = derived_features(&model.config, &window.kind, mean);
            self.derived.iter().zip(values).for_each(|(place, value)| row[*place] = value);
            encode(&row)
        };
        let (now, normal) = (encode(&window.features), encode(&window.normal));
        let (sources, still, derived) = (&self.sensors[..], &self.still[..], &self.derived[..]);
        let way = Way { now: &now, normal: &normal, sources, still, derived, row_at: &row_at };
        let (members, heads) = way.shares(&model.network);
        let of_head = |shares: Vec<f64>| {
            let named = model.config.sensors.iter().zip(shares);
            let mut shares: Vec<SensorShare> =
                named.map(|(sensor, logit)| SensorShare { sensor: sensor.clone(), logit }).collect();
            shares.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            shares
        };
        (members, heads.into_iter().map(of_head).collect())
    }
}

impl Way<'_> {
    /// Every member's logits now, and per head what each source moves the pooled logit by. What a source adds to the first
    /// layer is worked out once; only what comes behind is done for every stop.
    pub fn shares(&self, network: &Network) -> (Vec<f32>, Vec<Vec<f64>>) {
        let sources = self.sources.len();
        let groups: Vec<Vec<usize>> = self.sources.iter().cloned().chain([self.still.to_vec()]).collect();
        let parts = network.parts(&[self.now, self.normal].concat(), &groups);
        let width = parts[0].len() / 2;
        // Stop `n` has the first n sources at now and the rest at normal; behind the last come those of the reverse.
        let mut stops = Vec::with_capacity(2 * sources * width);
        let mut rows = Vec::new();
        let mut stop = |is_now: IsNow| {
            let first = stops.len();
            stops.extend_from_slice(&parts[sources][..width]);
            for (source, part) in parts[..sources].iter().enumerate() {
                let part = if is_now(source) { &part[..width] } else { &part[width..] };
                stops[first..].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            if !self.derived.is_empty() {
                rows.extend((self.row_at)(is_now));
            }
        };
        (0..=sources).for_each(|n| stop(&|source| source < n));
        (1..sources).for_each(|n| stop(&|source| source >= sources - n));
        for part in network.parts(&rows, &[self.derived.to_vec()]) {
            stops.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let members = network.finish(stops);
        let per_stop = network.members() * network.outputs();
        let logits: Vec<Vec<f32>> = members.chunks_exact(per_stop).map(|stop| network.pooled(stop)).collect();
        let forth = |n: usize| &logits[n];
        // The reverse begins and ends where the other does.
        let back = |n: usize| if n == 0 || n == sources { &logits[n] } else { &logits[sources + n] };
        let step = |to: &Vec<f32>, from: &Vec<f32>, head: usize| f64::from(to[head]) - f64::from(from[head]);
        let share = |head: usize, source: usize| {
            let turn = sources - source;
            let first = step(forth(source + 1), forth(source), head);
            let second = step(back(turn), back(turn - 1), head);
            (first + second) / 2.0
        };
        let of_head = |head: usize| (0..sources).map(|source| share(head, source)).collect();
        let heads = (0..network.outputs()).map(of_head).collect();
        (members[sources * per_stop..(sources + 1) * per_stop].to_vec(), heads)
    }
}

#[cfg(test)]
mod tests {
    use proto::{asset::Unit, time::PlantTime};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{
        artifact::tests::artifact,
        features::{Derived, Normal, SensorWindow, Stats, expression::Expression},
        forward::{Dense, Encoder},
        mlp::Mlp,
    };

    /// A window with the given sensors away from a normal of 0.2.
    fn window(model: &Artifact, away: &[usize]) -> WindowFeatures {
        let schema = model.schema();
        let kind = model.encoder.kinds[0].clone();
        let sensor = |(i, sensor): (usize, &AssetId)| {
            let mean = if away.contains(&i) { 0.9 } else { 0.2 };
            let stats = Stats { count: 1, mean, std: 0.0, min: mean, max: mean, first: mean, last: mean, slope: 0.0 };
            let normal = Some(Normal { mean: 0.2, std: 1.0 });
            SensorWindow { sensor: sensor.clone(), unit: Unit::One, stats: Some(stats), normal }
        };
        let sensors: Vec<SensorWindow> = model.config.sensors.iter().enumerate().map(sensor).collect();
        let mut normal = vec![0.2; schema.names.len()];
        let is_away = |i: usize| schema.sensor_of(i).is_some_and(|s| away.contains(&s));
        let mut features: Vec<f64> =
            normal.iter().enumerate().map(|(i, n)| if is_away(i) { n + 0.7 } else { *n }).collect();
        let at_now = derived_features(&model.config, &kind, |s| sensors[s].stats.map(|stats| stats.mean));
        let at_normal = derived_features(&model.config, &kind, |s| sensors[s].normal.map(|normal| normal.mean));
        for (place, (now, usual)) in schema.derived().zip(at_now.into_iter().zip(at_normal)) {
            (features[place], normal[place]) = (now, usual);
        }
        let (machine, start, end) = (AssetId::new("press-1").unwrap(), PlantTime(0), PlantTime(60_000));
        WindowFeatures { machine, kind, generation: 0, start, end, revision: 0, sensors, features, normal }
    }

    fn shares(model: &Artifact, window: &WindowFeatures) -> Vec<Vec<SensorShare>> {
        Explainer::new(model, &model.schema()).explain(model, window).1
    }

    /// The same network with inputs for the product of two sensors and a ratio of that, whose weights are no others'.
    fn with_derived(mut model: Artifact) -> Artifact {
        let [a, b, ..] = &model.config.sensors[..] else { panic!("two sensors") };
        let derived = |name: &str, of: String| Derived { name: name.into(), of: Expression::parse(&of).unwrap() };
        model.config.derived = vec![
            derived("power", format!("{} * {}", a.as_str(), b.as_str())),
            derived("share", format!("power / ({} + 2)", a.as_str())),
        ];
        let width = model.schema().names.len();
        let rows: Vec<Vec<f32>> =
            (0..9).map(|r| (0..width).map(|i| ((r * 7 + i) % 5) as f32 * 0.3).collect()).collect();
        model.encoder = Encoder::fit(model.encoder.kinds.clone(), width, rows.iter().map(Vec::as_slice));
        let sizes = [model.encoder.width(), 16, model.heads.len()];
        let bins = model.encoder.bins(rows.iter().map(Vec::as_slice), 4, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mlp = Mlp::new(&sizes, bins, 3, &mut rng).unwrap();
        // All weights are in use, those too that are nothing before a network learns.
        let values: Vec<f32> = mlp.values().unwrap().iter().map(|v| v + rng.random_range(-0.2..0.2)).collect();
        let layers = mlp.layers(&values);
        model.network = Network::ensemble(mlp.bins().clone(), 3, layers).unwrap();
        model
    }

    #[test]
    fn every_head_is_explained_by_all_sensors_the_loudest_first() {
        let model = artifact();
        let heads = shares(&model, &window(&model, &[0, 1, 2, 3, 4]));
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
        let window = window(&model, &[3]);
        let logits = |row: &[f64]| model.logits(&window.kind, row);
        let moved: Vec<f32> = logits(&window.features).iter().zip(logits(&window.normal)).map(|(a, b)| a - b).collect();
        for (shares, moved) in shares(&model, &window).iter().zip(moved) {
            for share in shares {
                let expected = if share.sensor == model.config.sensors[3] { f64::from(moved) } else { 0.0 };
                assert!((share.logit - expected).abs() < 1e-6, "{share:?}, {expected} expected");
            }
            assert!(moved.abs() > 1e-3, "the test would say nothing");
        }
    }

    #[test]
    fn shares_add_up_to_the_way_from_normal_to_now() {
        for model in [artifact(), with_derived(artifact())] {
            let window = window(&model, &[0, 1, 2, 3, 4]);
            let (members, heads) = Explainer::new(&model, &model.schema()).explain(&model, &window);
            let logits = |row: &[f64]| model.logits(&window.kind, row);
            let (at_now, at_normal) = (logits(&window.features), logits(&window.normal));
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
    }

    #[test]
    fn a_derived_feature_speaks_for_the_sensors_that_it_follows_from() {
        let mut model = with_derived(artifact());
        let power = model.schema().derived().next().unwrap();
        // Nothing but the product counts.
        let mut weight = vec![0.0; model.encoder.width()];
        weight[power] = 1.0;
        let hidden = Dense { inputs: weight.len(), outputs: 1, weight, bias: vec![10.0] };
        let head = Dense { inputs: 1, outputs: 2, weight: vec![1.0, -1.0], bias: vec![0.0; 2] };
        model.network = Network::new(vec![hidden, head]).unwrap();
        for (away, of_first, of_second) in [(&[0, 1, 4][..], true, true), (&[1, 4], false, true)] {
            let window = window(&model, away);
            let heads = shares(&model, &window);
            let share =
                |sensor: usize| heads[0].iter().find(|s| s.sensor == model.config.sensors[sensor]).unwrap().logit;
            assert_eq!((share(0) > 1e-3, share(1) > 1e-3), (of_first, of_second), "{:?}", heads[0]);
            assert!((2..5).all(|sensor| share(sensor) == 0.0), "{:?}", heads[0]);
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
        let heads = shares(&model, &window(&model, &[1, 3]));
        for name in [&model.config.sensors[1], &model.config.sensors[3]] {
            let share = heads[0].iter().find(|s| s.sensor == *name).unwrap();
            // Both go up by 0.7 / (1 / 3) = 2.1 from 0.3: the unit wakes by 4.8 - 3, and neither would alone.
            assert!((share.logit - 0.9).abs() < 1e-5, "{share:?}");
        }
    }
}
