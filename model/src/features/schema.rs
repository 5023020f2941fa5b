//! The names of the features, in order, and a fingerprint that a model is bound to.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{EventFeature, FeatureConfig, MachineFeatures, rolling};

/// Counts up when the meaning of a feature changes under the same name; a test holds the values against it.
const FEATURES_VERSION: u32 = 1;

/// Of every sensor, in this order; see [`super::derive`].
pub const PER_SENSOR: [&str; 18] = [
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
    "count",
];

/// So many of these are of what was measured; the others hold it against what is normal for the machine.
const MEASURED: usize = 9;
/// Only where it is asked for: at a sensor's own rate it says nothing that `missing` does not.
const COUNT: usize = PER_SENSOR.len() - 1;

#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSchema {
    /// `sensor.feature`
    pub names: Vec<String>,
    /// Features of what was measured, by place.
    measured: Vec<usize>,
    /// Of the first features the sensor that they are about.
    sensors: Vec<Option<usize>>,
    /// Those that expressions give.
    derived: Range<usize>,
    fingerprint: String,
}

impl FeatureSchema {
    pub fn of(config: &FeatureConfig) -> Self {
        let places = per_sensor(config);
        let (mut names, mut sensors, mut measured) = (vec![], vec![], vec![]);
        for (at, sensor) in config.sensors.iter().enumerate() {
            let own = places.iter().enumerate().filter(|(_, place)| **place < MEASURED || **place == COUNT);
            measured.extend(own.map(|(i, _)| names.len() + i));
            names.extend(places.iter().map(|place| format!("{sensor}.{}", PER_SENSOR[*place])));
            sensors.resize(names.len(), Some(at));
        }
        let of_sensors = names.len();
        for (at, sensor) in config.sensors.iter().enumerate() {
            for hours in &config.rolling_hours {
                names.extend(rolling::FEATURES.map(|feature| format!("{sensor}.{feature}_over_{hours}h")));
            }
            sensors.resize(names.len(), Some(at));
        }
        let first = names.len();
        names.extend(config.derived.iter().map(|d| format!("derived.{}", d.name)));
        let derived = first..names.len();
        measured.extend(of_sensors..names.len());
        names.extend(config.events.iter().flat_map(EventFeature::names));
        let MachineFeatures { age, makes, models } = &config.machine;
        names.extend(age.then(|| "machine.age".into()));
        names.extend(makes.iter().map(|make| format!("machine.make.{make}")));
        names.extend(models.iter().map(|model| format!("machine.model.{model}")));
        let mut hash = Sha256::new();
        hash.update(FEATURES_VERSION.to_le_bytes());
        for number in [config.window_ms, config.lateness_ms, config.stuck_after.into()] {
            hash.update(number.to_le_bytes());
        }
        // Windows that do not overlap are what they were before there were others.
        if config.panes() > 1 {
            hash.update(config.slide_ms().to_le_bytes());
        }
        for name in &names {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
        }
        // What an expression says its name does not.
        let defined: Vec<_> = config.derived.iter().map(|d| &d.of).collect();
        if !defined.is_empty() {
            hash.update(format!("{defined:?}{:?}", config.constants));
        }
        let fingerprint = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Self { names, measured, sensors, derived, fingerprint }
    }

    /// SHA-256 of names and configuration: equal only where the features mean the same.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Features of what was measured, by place. The others are told against the machine's own past (what is normal for
    /// it, how long ago something was) and move as that grows, whatever the plant does.
    pub fn measured(&self) -> impl Iterator<Item = usize> {
        self.measured.iter().copied()
    }

    /// Places of the features that expressions give, in the order of [`FeatureConfig::derived`].
    pub fn derived(&self) -> Range<usize> {
        self.derived.clone()
    }

    /// Index in [`FeatureConfig::sensors`] of the sensor that the feature is about; None: it is about none or several.
    pub fn sensor_of(&self, feature: usize) -> Option<usize> {
        self.sensors.get(feature).copied().flatten()
    }
}

/// Places in [`PER_SENSOR`] of what the configuration's sensors have.
pub(super) fn per_sensor(config: &FeatureConfig) -> Vec<usize> {
    let asked_for = |place: &usize| config.per_sensor.iter().any(|wanted| wanted == PER_SENSOR[*place]);
    let has = |place: &usize| if config.per_sensor.is_empty() { *place != COUNT } else { asked_for(place) };
    (0..PER_SENSOR.len()).filter(has).collect()
}

#[cfg(test)]
mod tests {
    use polars::prelude::{DataFrame, df};
    use proto::{
        archive::column,
        wire::telemetry::{Birth, MachineInfo, SensorInfo},
    };

    use super::*;
    use crate::features::{Catalogue, Derived, Expression, whole};

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
    fn what_is_told_against_a_machines_own_past_is_not_measured() {
        let config = FeatureConfig { rolling_hours: vec![6.0], ..FeatureConfig::default() };
        let schema = FeatureSchema::of(&config);
        let (measured, others): (Vec<usize>, Vec<usize>) =
            (0..schema.names.len()).partition(|place| schema.measured().any(|p| p == *place));
        let parts = |places: &[usize]| {
            let part = |place: &usize| schema.names[*place].split_once('.').unwrap().1.to_owned();
            places.iter().map(part).collect::<std::collections::BTreeSet<_>>()
        };
        let rolling = rolling::FEATURES.map(|f| format!("{f}_over_6h"));
        assert_eq!(parts(&measured), PER_SENSOR[..MEASURED].iter().map(|f| (*f).to_owned()).chain(rolling).collect());
        assert_eq!(parts(&others), PER_SENSOR[MEASURED..COUNT].iter().map(|f| (*f).to_owned()).collect());
    }

    #[test]
    fn how_many_readings_there_were_is_a_feature_only_where_it_is_asked_for() {
        let names = |per_sensor: &[&str]| {
            let per_sensor = per_sensor.iter().map(|name| (*name).to_owned()).collect();
            let schema = FeatureSchema::of(&FeatureConfig { per_sensor, ..FeatureConfig::default() });
            assert!(
                schema.names.iter().enumerate().all(|(i, n)| !n.ends_with(".count") || schema.measured.contains(&i))
            );
            schema.names.into_iter().filter(|name| name.ends_with(".count")).count()
        };
        assert_eq!((names(&[]), names(&["mean", "count"])), (0, FeatureConfig::default().sensors.len()));
    }

    #[test]
    fn whatever_changes_the_features_changes_the_fingerprint() {
        let config = FeatureConfig::default();
        let fingerprint = |c: &FeatureConfig| FeatureSchema::of(c).fingerprint();
        assert_eq!(fingerprint(&config), fingerprint(&config.clone()));
        let mut fewer = config.clone();
        fewer.sensors.pop();
        let derived = |of: &str| {
            let of = Expression::parse(of).unwrap();
            FeatureConfig { derived: vec![Derived { name: "d".into(), of }], ..config.clone() }
        };
        assert_ne!(fingerprint(&derived("sound * 2")), fingerprint(&derived("sound * 3")));
        let others = [
            fewer,
            FeatureConfig { window_ms: 1, ..config.clone() },
            FeatureConfig { lateness_ms: 1, ..config.clone() },
            FeatureConfig { slide_ms: Some(60_000), ..config.clone() },
            FeatureConfig { stuck_after: 1, ..config.clone() },
            FeatureConfig { per_sensor: vec!["mean".into()], ..config.clone() },
            FeatureConfig { rolling_hours: vec![3.0], ..config.clone() },
            derived("sound * 2"),
        ];
        assert!(others.iter().all(|other| fingerprint(other) != fingerprint(&config)));
    }

    /// Three days of a reading a minute in plain integer arithmetic, with everything that cleaning looks at: another
    /// unit, holes, a stuck sensor, values out of range and none at all.
    fn log() -> (DataFrame, Catalogue) {
        const MINUTE: i64 = 60_000;
        let (mut sensor, mut time, mut value, mut unit) = (vec![], vec![], vec![], vec![]);
        for i in 0..3 * 24 * 60_i64 {
            let load = (i / 45 * 7919 % 13) as f64;
            let fault = if i > 3_600 { (i - 3_600) as f64 / 200.0 } else { 0.0 };
            let rows = [
                ("temperature", "F", 150.0 + 3.0 * load + (i * 31 % 17) as f64 / 4.0 + 2.0 * fault),
                ("vibration", "mm/s", 2.0 + load / 8.0 + (i * 7919 % 101) as f64 / 200.0 + fault / 5.0),
                ("sound", "dB(A)", if i % 997 == 0 { 1e9 } else { 70.0 + load + (i * 17 % 7) as f64 / 3.0 }),
                ("rotation_speed", "rpm", if (2_000..2_100).contains(&i) { 900.0 } else { 900.0 + (i % 29) as f64 }),
            ];
            for (name, of, read) in rows.into_iter().filter(|_| i % 300 < 280) {
                sensor.push(name);
                time.push(i * MINUTE);
                value.push(if i % 501 == 0 { f64::NAN } else { read });
                unit.push(of);
            }
        }
        let info = |(name, unit): (&str, &str)| SensorInfo {
            sensor: name.into(),
            unit: unit.into(),
            range_low: 0.0,
            range_high: 5_000.0,
            interval_ms: MINUTE as u64,
        };
        let sensors =
            [("temperature", "F"), ("vibration", "mm/s"), ("sound", "dB(A)"), ("rotation_speed", "rpm")].map(info);
        let machine =
            MachineInfo { machine: "m".into(), kind: "press".into(), sensors: sensors.into(), ..Default::default() };
        let mut catalogue = Catalogue::default();
        catalogue.absorb(&Birth { machines: vec![machine], ..Default::default() }).unwrap();
        let rows = time.len();
        let frame = df!(
            column::MACHINE => vec!["m"; rows], column::SENSOR => sensor, column::TIME => time,
            column::VALUE => value, column::UNIT => unit, column::QUALITY => vec![0u8; rows],
        );
        (frame.unwrap(), catalogue)
    }

    /// A changed formula gives another hash: then [`FEATURES_VERSION`] goes up, and only then the hash here is changed
    /// with it. To six digits, since mathematical libraries differ in the last ones.
    #[test]
    fn the_values_are_those_of_this_version() {
        let (readings, catalogue) = log();
        let windows = whole(readings, &catalogue, &FeatureConfig::default()).unwrap();
        let values = windows.iter().flat_map(|w| w.features.iter().chain(&w.normal));
        let mut hash = Sha256::new();
        values.for_each(|value| hash.update(format!("{value:.5e};")));
        let hash: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        assert_eq!((FEATURES_VERSION, hash.as_str()), (1, "d356f5a2f1db0b8f"));
    }
}
