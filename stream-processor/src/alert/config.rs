//! Settings of the alert policy and the rules.

use std::collections::BTreeMap;

use model::policy::{AlertPolicy, Policy};
use proto::asset::AssetId;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertConfig {
    /// When a mode's probability opens an alert.
    pub scores: Policy,
    /// A mode that is not the machine's leading one opens only if it is also at least this likely by itself.
    pub second_mode_probability: f64,
    /// From this probability on an alert is critical.
    pub critical_probability: f64,
    /// After a repair the windows still show the time before it and the running-in: they open nothing.
    pub quiet_after_repair_ms: i64,
    /// After a failure nothing opens until a repair is recorded, at most for so long.
    pub down_after_failure_ms: i64,
    pub rules: RuleConfig,
}

impl Default for AlertConfig {
    fn default() -> Self {
        let AlertPolicy { scores, quiet_after_repair_ms, down_after_failure_ms } = AlertPolicy::default();
        Self {
            scores,
            second_mode_probability: 0.5,
            critical_probability: 0.8,
            quiet_after_repair_ms,
            down_after_failure_ms,
            rules: RuleConfig::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Rules see load changes and warming up as well as faults, so they ask for more windows than the network.
    pub policy: Policy,
    /// Own normal: so many standard deviations away.
    pub deviation_std: f64,
    /// By machine kind; others are `default_group`.
    pub groups: BTreeMap<AssetId, VibrationGroup>,
    pub default_group: VibrationGroup,
    pub limits: Vec<Limit>,
}

impl Default for RuleConfig {
    fn default() -> Self {
        Self {
            policy: Policy { open_windows: 5, of_windows: 6, close_factor: 0.9, close_windows: 6 },
            deviation_std: 5.0,
            groups: impacting_kinds(),
            default_group: VibrationGroup::MediumFlexible,
            limits: Vec::new(),
        }
    }
}

/// Machines whose work is blows or heavy rolls shake when they are sound, on foundations made for it: with the
/// boundaries of the others a healthy die-cutter warned once a day.
fn impacting_kinds() -> BTreeMap<AssetId, VibrationGroup> {
    let kinds = ["baler", "corrugator", "die-cutter"].into_iter().filter_map(|kind| AssetId::new(kind).ok());
    kinds.map(|kind| (kind, VibrationGroup::LargeFlexible)).collect()
}

/// What a sensor may show, in its canonical unit, judged on the window's mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// None: machines of every kind.
    pub kind: Option<AssetId>,
    pub sensor: AssetId,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// Machine groups of ISO 20816-3 by power and foundation, and class I of ISO 20816-1 annex for small machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VibrationGroup {
    /// Up to 15 kW.
    Small,
    /// 15 to 300 kW.
    MediumRigid,
    MediumFlexible,
    /// Above 300 kW.
    LargeRigid,
    LargeFlexible,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("alerts.{key}: allowed: {allowed}")]
pub struct InvalidAlertConfig {
    pub key: &'static str,
    pub allowed: &'static str,
}

impl AlertConfig {
    /// What evaluation counts by, too.
    pub fn policy(&self) -> AlertPolicy {
        let Self { scores, quiet_after_repair_ms, down_after_failure_ms, .. } = *self;
        AlertPolicy { scores, quiet_after_repair_ms, down_after_failure_ms }
    }

    pub fn check(&self) -> Result<(), InvalidAlertConfig> {
        let probability = |p: f64| (0.0..=1.0).contains(&p);
        let limit_is_ordered = |l: &Limit| match (l.low, l.high) {
            (Some(low), Some(high)) => low < high,
            (None, None) => false,
            (low, high) => low.or(high).is_some_and(f64::is_finite),
        };
        let demands = [
            (self.scores.fits(), "scores", Policy::ALLOWED),
            (self.rules.policy.fits(), "rules.policy", Policy::ALLOWED),
            (probability(self.second_mode_probability), "second_mode_probability", "0 to 1"),
            (probability(self.critical_probability), "critical_probability", "0 to 1"),
            (self.quiet_after_repair_ms >= 0, "quiet_after_repair_ms", "0 or more"),
            (self.down_after_failure_ms >= 0, "down_after_failure_ms", "0 or more"),
            (self.rules.deviation_std > 0.0, "rules.deviation_std", "above 0"),
            (self.rules.limits.iter().all(limit_is_ordered), "rules.limits", "low, high or both, with low < high"),
        ];
        match demands.into_iter().find(|(met, ..)| !met) {
            Some((_, key, allowed)) => Err(InvalidAlertConfig { key, allowed }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(AlertConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_setting_that_cannot_work_is_named() {
        let mut config = AlertConfig::default();
        config.scores.open_windows = 5;
        assert_eq!(config.check().unwrap_err().key, "scores");
        let mut config = AlertConfig::default();
        let sensor = AssetId::new("temperature").unwrap();
        config.rules.limits.push(Limit { kind: None, sensor, low: Some(9.0), high: Some(1.0) });
        assert!(config.check().unwrap_err().to_string().contains("rules.limits"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<AlertConfig>(r#"{"open": 3}"#).is_err());
        assert!(serde_json::from_str::<AlertConfig>(r#"{"critical_probability": 0.9}"#).is_ok());
    }
}
