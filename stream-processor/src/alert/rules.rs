//! Alerts without a model: what a maintenance engineer would set up on the first day.
//!
//! Rules look at window means, since single readings jump, and say how strongly they are broken in units of their
//! boundary, so that they share m-of-n and hysteresis with the scores.

use model::features::{SensorWindow, WindowFeatures};
use proto::asset::Unit;
use serde::{Deserialize, Serialize};

use super::config::{Limit, RuleConfig, VibrationGroup};

/// A normal that hardly ever moved would make every change a deviation: its spread counts as at least this share of its mean.
const NORMAL_STD_SHARE_MIN: f64 = 0.01;

/// In the order in which they explain a sensor: one that a rule has named is not named again by a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    Limit,
    VibrationZone,
    Deviation,
}

impl Rule {
    pub const ALL: [Rule; 3] = [Rule::Limit, Rule::VibrationZone, Rule::Deviation];

    pub const fn name(self) -> &'static str {
        match self {
            Rule::Limit => "limit",
            Rule::VibrationZone => "vibration_zone",
            Rule::Deviation => "deviation",
        }
    }

    pub const fn summary(self, critical: bool) -> &'static str {
        match self {
            Rule::Limit => "a sensor is beyond its limit",
            Rule::VibrationZone if critical => "vibration is in zone D (ISO 20816): it can damage the machine",
            Rule::VibrationZone => "vibration is in zone C (ISO 20816): not for continuous running",
            Rule::Deviation => "a sensor is far from the machine's own normal",
        }
    }
}

/// One sensor that breaks, or could break, a rule.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a> {
    pub sensor: &'a SensorWindow,
    /// 1: at the boundary.
    pub strength: f64,
    pub critical: bool,
}

/// What the rule says about the window's sensors, strongest first; sensors that it does not apply to are left out.
pub fn findings<'a>(rule: Rule, config: &RuleConfig, window: &'a WindowFeatures) -> Vec<Finding<'a>> {
    let judge = |sensor: &'a SensorWindow| {
        let (strength, critical) = match rule {
            Rule::Limit => limit(config, window, sensor),
            Rule::VibrationZone => vibration(config, window, sensor),
            Rule::Deviation => deviation(config, sensor),
        }?;
        Some(Finding { sensor, strength, critical })
    };
    let mut findings: Vec<_> = window.sensors.iter().filter_map(judge).filter(|f| f.strength.is_finite()).collect();
    findings.sort_by(|a, b| b.strength.total_cmp(&a.strength).then_with(|| a.sensor.sensor.cmp(&b.sensor.sensor)));
    findings
}

fn limit(config: &RuleConfig, window: &WindowFeatures, sensor: &SensorWindow) -> Option<(f64, bool)> {
    let mean = sensor.stats?.mean;
    let applies = |l: &&Limit| l.sensor == sensor.sensor && l.kind.as_ref().is_none_or(|k| *k == window.kind);
    let beyond = |over: f64, bound: f64| 1.0 + over / bound.abs().max(1.0);
    let strength = |l: &Limit| {
        let high = l.high.map_or(f64::NEG_INFINITY, |high| beyond(mean - high, high));
        let low = l.low.map_or(f64::NEG_INFINITY, |low| beyond(low - mean, low));
        high.max(low)
    };
    config.limits.iter().filter(applies).map(strength).reduce(f64::max).map(|s| (s, false))
}

/// Velocity RMS in mm/s. The boundaries B/C and C/D: zone C is not for continuous running, zone D damages.
///
/// ISO 20816-3:2022, annex A (machines above 15 kW, by power and foundation); class I of ISO 20816-1:2016, annex C, below.
const fn zones(group: VibrationGroup) -> (f64, f64) {
    match group {
        VibrationGroup::Small => (1.8, 4.5),
        VibrationGroup::MediumRigid => (2.8, 4.5),
        VibrationGroup::MediumFlexible => (4.5, 7.1),
        VibrationGroup::LargeRigid => (4.5, 7.1),
        VibrationGroup::LargeFlexible => (7.1, 11.0),
    }
}

fn vibration(config: &RuleConfig, window: &WindowFeatures, sensor: &SensorWindow) -> Option<(f64, bool)> {
    if sensor.unit != Unit::MillimetrePerSecond {
        return None;
    }
    let group = config.groups.get(&window.kind).copied().unwrap_or(config.default_group);
    let (zone_c, zone_d) = zones(group);
    let mean = sensor.stats?.mean;
    Some((mean / zone_c, mean >= zone_d))
}

fn deviation(config: &RuleConfig, sensor: &SensorWindow) -> Option<(f64, bool)> {
    let (stats, normal) = (sensor.stats?, sensor.normal?);
    let std = normal.std.max(normal.mean.abs() * NORMAL_STD_SHARE_MIN);
    Some(((stats.mean - normal.mean).abs() / (config.deviation_std * std), false))
}

#[cfg(test)]
mod tests {
    use model::features::Normal;
    use proto::asset::AssetId;

    use super::*;
    use crate::alert::tests::{sensor, window};

    fn strongest(rule: Rule, config: &RuleConfig, sensors: Vec<SensorWindow>) -> Option<(String, f64, bool)> {
        let window = window("press-1", 0, sensors);
        findings(rule, config, &window).first().map(|f| (f.sensor.sensor.to_string(), f.strength, f.critical))
    }

    #[test]
    fn a_limit_is_judged_on_both_sides_and_by_kind() {
        let limit = |kind: &str| Limit {
            kind: Some(AssetId::new(kind).unwrap()),
            sensor: AssetId::new("temperature").unwrap(),
            low: Some(10.0),
            high: Some(80.0),
        };
        let mut config = RuleConfig { limits: vec![limit("press")], ..Default::default() };
        let strength = |config: &RuleConfig, mean| {
            strongest(Rule::Limit, config, vec![sensor("temperature", Unit::Celsius, mean)]).map(|f| f.1)
        };
        assert_eq!(strength(&config, 80.0), Some(1.0));
        assert_eq!(strength(&config, 10.0), Some(1.0));
        assert!(strength(&config, 50.0).unwrap() < 0.9);
        assert!(strength(&config, 88.0).unwrap() > 1.0);
        config.limits[0] = limit("baler");
        assert_eq!(strength(&config, 500.0), None);
    }

    #[test]
    fn vibration_zones_go_by_the_machine_group() {
        let mut config = RuleConfig::default();
        let judge = |config: &RuleConfig, mean| {
            let vibration = vec![sensor("vibration", Unit::MillimetrePerSecond, mean)];
            strongest(Rule::VibrationZone, config, vibration).map(|(_, strength, critical)| (strength >= 1.0, critical))
        };
        assert_eq!(judge(&config, 4.4), Some((false, false)));
        assert_eq!(judge(&config, 4.5), Some((true, false)));
        assert_eq!(judge(&config, 7.1), Some((true, true)));
        config.groups.insert(AssetId::new("press").unwrap(), VibrationGroup::Small);
        assert_eq!(judge(&config, 4.5), Some((true, true)));
        let temperature = vec![sensor("temperature", Unit::Celsius, 400.0)];
        assert_eq!(strongest(Rule::VibrationZone, &config, temperature), None);
    }

    #[test]
    fn deviation_needs_a_known_normal_and_a_spread() {
        let config = RuleConfig::default();
        let at = |mean, std| {
            let mut s = sensor("sound", Unit::DecibelA, mean);
            s.normal = Some(Normal { mean: 80.0, std });
            strongest(Rule::Deviation, &config, vec![s]).map(|f| f.1)
        };
        assert_eq!(strongest(Rule::Deviation, &config, vec![sensor("sound", Unit::DecibelA, 99.0)]), None);
        assert_eq!(at(90.0, 2.0), Some(1.0));
        assert_eq!(at(70.0, 2.0), Some(1.0));
        // A spread of zero counts as 1 % of the mean.
        assert_eq!(at(84.0, 0.0), Some(1.0));
    }
}
