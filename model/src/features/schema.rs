//! The names of the features, in order, and a fingerprint that a model is bound to.

use proto::asset::AssetId;
use sha2::{Digest, Sha256};

use super::FeatureConfig;

/// Counts up when the meaning of a feature changes under the same name.
const FEATURES_VERSION: u32 = 1;

/// Of every sensor, in this order; see [`super::derive`].
pub(super) const PER_SENSOR: [&str; 17] = [
    "mean",
    "std",
    "min",
    "max",
    "last",
    "slope",
    "missing",
    "slow_3h",
    "slow_24h",
    "normal",
    "deviation",
    "deviation_3h",
    "deviation_24h",
    "unrest",
    "unexplained",
    "unexplained_3h",
    "unexplained_24h",
];

#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSchema {
    /// `sensor.feature`
    pub names: Vec<String>,
    sensors: Vec<AssetId>,
    fingerprint: String,
}

impl FeatureSchema {
    pub fn of(config: &FeatureConfig) -> Self {
        let of_sensor = |sensor: &AssetId| PER_SENSOR.map(|feature| format!("{sensor}.{feature}"));
        let names: Vec<String> = config.sensors.iter().flat_map(of_sensor).collect();
        let mut hash = Sha256::new();
        hash.update(FEATURES_VERSION.to_le_bytes());
        for number in [config.window_ms, config.lateness_ms, config.stuck_after.into()] {
            hash.update(number.to_le_bytes());
        }
        for name in &names {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
        }
        let fingerprint = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Self { names, sensors: config.sensors.clone(), fingerprint }
    }

    /// SHA-256 of names and configuration: equal only where the features mean the same.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Index in [`FeatureConfig::sensors`] of the sensor that the feature is about; None past the last feature.
    pub fn sensor_of(&self, feature: usize) -> Option<usize> {
        let sensor = feature / PER_SENSOR.len();
        (sensor < self.sensors.len()).then_some(sensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_is_about_the_sensor_that_it_is_named_after() {
        let config = FeatureConfig::default();
        let schema = FeatureSchema::of(&config);
        for (i, name) in schema.names.iter().enumerate() {
            let sensor = schema.sensor_of(i).unwrap();
            assert_eq!(name.split('.').next(), Some(config.sensors[sensor].as_str()));
        }
        assert_eq!(schema.sensor_of(schema.names.len()), None);
    }

    #[test]
    fn whatever_changes_the_features_changes_the_fingerprint() {
        let config = FeatureConfig::default();
        let fingerprint = |c: &FeatureConfig| FeatureSchema::of(c).fingerprint();
        assert_eq!(fingerprint(&config), fingerprint(&config.clone()));
        let mut fewer = config.clone();
        fewer.sensors.pop();
        let others = [
            fewer,
            FeatureConfig { window_ms: 1, ..config.clone() },
            FeatureConfig { lateness_ms: 1, ..config.clone() },
            FeatureConfig { stuck_after: 1, ..config.clone() },
        ];
        assert!(others.iter().all(|other| fingerprint(other) != fingerprint(&config)));
    }
}
