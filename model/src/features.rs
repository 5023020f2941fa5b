//! The one way from readings to features, for the stream (incrementally) and for training (whole frames).
//!
//! ```text
//! readings ─> clean ─────────> aggregate ────────────> panes ────────────> derive ─> WindowFeatures
//!             flags per row    mergeable partials      overlapping ones    per machine, windows in order:
//!                              of series and pane      to windows          lags and the machine's own normal
//! ```

pub mod catalogue;
pub mod clean;
pub mod aggregate;
pub mod panes;
pub mod derive;
pub mod events;
pub mod expression;
pub mod rolling;
pub mod schema;
pub mod whole;

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    archive::event_kind,
    asset::{AssetId, Unit},
    time::PlantTime,
    wire::telemetry::EventKind,
};
use serde::{Deserialize, Serialize};

pub use catalogue::{Catalogue, CatalogueError};
pub use derive::derived_features;
pub use events::{Answer, Event, EventFeature, was_right};
pub use expression::Expression;
pub use schema::FeatureSchema;
pub use whole::{FeatureError, whole, whole_with_events};

/// What the windows and features are made of. Part of the model's schema: a model fits one configuration only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureConfig {
    /// Length of the windows, plant ms.
    pub window_ms: i64,
    /// From the end of a window to the end of the next one, plant ms; divides `window_ms`. None: `window_ms`, so that windows
    /// do not overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slide_ms: Option<i64>,
    /// How long after its end a window waits for readings before it closes, plant ms.
    pub lateness_ms: i64,
    /// How long after it has closed a reading still revises a window, plant ms; 0: never. None: as long as the window itself,
    /// so that a device may hand over what it held back for one. Each pane of this time costs every machine its aggregates,
    /// so that a longer one is for who has such devices. No feature means anything else because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revise_ms: Option<i64>,
    /// Sensors that have features, in this order; others are archived and cleaned but not scored.
    pub sensors: Vec<AssetId>,
    /// A sensor that repeats one value this many times in a row is stuck.
    pub stuck_after: u32,
    /// What every sensor has of [`schema::PER_SENSOR`]; none: all but `count`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_sensor: Vec<String>,
    /// Mean, spread and slope of every sensor over so many hours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rolling_hours: Vec<f64>,
    /// Physical features: expressions of the sensors' means, of constants and of those before them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub derived: Vec<Derived>,
    /// Numbers by name and kind of machine, for expressions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, BTreeMap<AssetId, f64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventFeature>,
    #[serde(skip_serializing_if = "MachineFeatures::is_empty")]
    pub machine: MachineFeatures,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    pub name: String,
    pub of: Expression,
}

/// Of the machine itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineFeatures {
    /// Years since it was installed.
    pub age: bool,
    /// Is it of this make: one feature each.
    pub makes: Vec<String>,
    pub models: Vec<String>,
}

impl MachineFeatures {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for FeatureConfig {
    fn default() -> Self {
        const SENSORS: [&str; 5] = ["temperature", "sound", "humidity", "rotation_speed", "vibration"];
        Self {
            window_ms: 600_000,
            slide_ms: None,
            // An agent's log is in order, so this is for devices only that hand their readings over with a delay:
            // one sampling interval of the slowest usual sensor. It is also the delay of every alert.
            lateness_ms: 60_000,
            revise_ms: None,
            sensors: SENSORS.iter().filter_map(|name| AssetId::new(name).ok()).collect(),
            stuck_after: 30,
            per_sensor: vec![],
            rolling_hours: vec![],
            derived: vec![],
            constants: BTreeMap::new(),
            events: vec![],
            machine: MachineFeatures::default(),
        }
    }
}

/// More sensors than this no machine has.
pub const SENSORS_MAX: usize = 64;
/// Panes in one window and in the time in which windows are revised: what is kept of every machine.
pub const PANES_MAX: i64 = 64;
/// Of rolling horizons, derived features, kinds of events, makes and models, each.
pub const EXTRA_MAX: usize = 64;
const HORIZON_HOURS_MAX: f64 = 24.0 * 366.0;
const DAY_MS: i64 = 24 * 3_600_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("features.{key}: allowed: {allowed}")]
pub struct InvalidFeatures {
    pub key: &'static str,
    pub allowed: &'static str,
}

impl FeatureConfig {
    /// From the end of a window to the end of the next one.
    pub fn slide_ms(&self) -> i64 {
        self.slide_ms.unwrap_or(self.window_ms)
    }

    pub fn revise_ms(&self) -> i64 {
        self.revise_ms.unwrap_or(self.window_ms)
    }

    /// In one window; 1 where [`Self::check`] finds that there can be none.
    pub fn panes(&self) -> i64 {
        self.window_ms.checked_div(self.slide_ms()).unwrap_or(1)
    }

    /// Whether features of both mean the same: for how long windows are revised has no part in that.
    pub fn means(&self, other: &FeatureConfig) -> bool {
        let meaning = |c: &FeatureConfig| FeatureConfig { slide_ms: Some(c.slide_ms()), revise_ms: None, ..c.clone() };
        meaning(self) == meaning(other)
    }

    /// What a type can't say.
    pub fn check(&self) -> Result<(), InvalidFeatures> {
        let once = self.sensors.iter().collect::<BTreeSet<_>>().len() == self.sensors.len();
        let sensors = once && (1..=SENSORS_MAX).contains(&self.sensors.len());
        let (window, slide, revise) = (self.window_ms, self.slide_ms(), self.revise_ms());
        let slides = (1..=window).contains(&slide) && window % slide == 0 && window / slide < PANES_MAX;
        let revises = |kept: i64| (0..=DAY_MS).contains(&revise) && (revise - 1).div_euclid(slide) < kept;
        let demands = [
            ((1..=DAY_MS).contains(&window), "window_ms", "from 1 to 86400000, a day"),
            (slides, "slide_ms", "a divisor of window_ms, at least a 63rd of it"),
            ((0..=DAY_MS).contains(&self.lateness_ms), "lateness_ms", "from 0 to 86400000, a day"),
            (
                slides && revises(PANES_MAX - window / slide),
                "revise_ms",
                "from 0 to a day, with window_ms at most 64 slides",
            ),
            (sensors, "sensors", "from 1 to 64 names, each once"),
            (self.stuck_after >= 2, "stuck_after", "2 or more"),
            (self.per_sensor_is_known(), "per_sensor", "names of what a sensor has, each once, like mean, std, slope"),
            (hours_are(&self.rolling_hours), "rolling_hours", "up to 64 horizons above 0 and at most 8784"),
            (
                self.derived_is_known(),
                "derived",
                "names, each once, of expressions of sensors, constants and those before",
            ),
            (self.events_are_known(), "events", "up to 64, kind one of error, failure, maintenance, replacement"),
            (
                self.machine.makes.len().max(self.machine.models.len()) <= EXTRA_MAX,
                "machine",
                "up to 64 makes and models",
            ),
        ];
        match demands.into_iter().find(|(met, ..)| !met) {
            Some((_, key, allowed)) => Err(InvalidFeatures { key, allowed }),
            None => Ok(()),
        }
    }

    fn per_sensor_is_known(&self) -> bool {
        let once = self.per_sensor.iter().collect::<BTreeSet<_>>().len() == self.per_sensor.len();
        once && self.per_sensor.iter().all(|name| schema::PER_SENSOR.contains(&name.as_str()))
    }

    fn derived_is_known(&self) -> bool {
        let mut known: BTreeSet<&str> = self.sensors.iter().map(AssetId::as_str).collect();
        known.extend(self.constants.keys().map(String::as_str));
        self.derived.len() <= EXTRA_MAX
            && self.derived.iter().all(|d| d.of.names().iter().all(|n| known.contains(n)) && known.insert(&d.name))
    }

    fn events_are_known(&self) -> bool {
        let known = |e: &EventFeature| event_kind(&e.kind) != EventKind::Unspecified && hours_are(&e.count_hours);
        self.events.len() <= EXTRA_MAX && self.events.iter().all(known)
    }
}

fn hours_are(hours: &[f64]) -> bool {
    hours.len() <= EXTRA_MAX && hours.iter().all(|h| *h > 0.0 && *h <= HORIZON_HOURS_MAX)
}

/// One sensor in one closed window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensorWindow {
    pub sensor: AssetId,
    /// Canonical unit of the values below.
    pub unit: Unit,
    /// Clean readings only; None: there was none.
    pub stats: Option<Stats>,
    /// The machine's own normal for this sensor before this window; None until enough is known.
    pub normal: Option<Normal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub count: u64,
    pub mean: f64,
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub first: f64,
    pub last: f64,
    /// Per hour.
    pub slope: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Normal {
    pub mean: f64,
    pub std: f64,
}

/// One closed window of one machine, ready to be scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowFeatures {
    pub machine: AssetId,
    pub kind: AssetId,
    /// Of the machine's time: windows of one `start` in two generations are two windows.
    pub generation: u32,
    pub start: PlantTime,
    pub end: PlantTime,
    pub revision: u32,
    /// In the order of [`FeatureConfig::sensors`].
    pub sensors: Vec<SensorWindow>,
    /// In the order of the feature schema; NaN where there is no value.
    pub features: Vec<f64>,
    /// What `features` would be if the machine ran at its own normal: the base of explanations.
    pub normal: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_what_cannot_work_is_named() {
        assert_eq!(FeatureConfig::default().check(), Ok(()));
        let refused = |change: fn(&mut FeatureConfig)| {
            let mut config = FeatureConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.window_ms = 0).starts_with("features.window_ms: "));
        assert!(refused(|c| c.lateness_ms = -1).starts_with("features.lateness_ms: "));
        assert!(refused(|c| c.slide_ms = Some(0)).starts_with("features.slide_ms: "));
        assert!(refused(|c| c.slide_ms = Some(7_000)).starts_with("features.slide_ms: "), "no divisor");
        assert!(refused(|c| c.slide_ms = Some(6_000)).starts_with("features.slide_ms: "), "too many panes");
        assert!(refused(|c| c.revise_ms = Some(-1)).starts_with("features.revise_ms: "));
        assert!(refused(|c| c.revise_ms = Some(63 * 600_000 + 1)).starts_with("features.revise_ms: "));
        assert!(refused(|c| c.sensors.clear()).starts_with("features.sensors: "));
        assert!(refused(|c| c.sensors.push(c.sensors[0].clone())).starts_with("features.sensors: "));
        assert!(refused(|c| c.stuck_after = 1).starts_with("features.stuck_after: "));
        assert!(refused(|c| c.per_sensor = vec!["median".into()]).starts_with("features.per_sensor: "));
        assert!(refused(|c| c.rolling_hours = vec![f64::NAN]).starts_with("features.rolling_hours: "));
        let derived = |name: &str, of: &str| Derived { name: name.into(), of: Expression::parse(of).unwrap() };
        let derived = vec![derived("a", "sound * 2"), derived("b", "a / vibration")];
        let mut config = FeatureConfig { derived, ..FeatureConfig::default() };
        assert_eq!(config.check(), Ok(()));
        config.derived.reverse();
        assert_eq!(config.check().unwrap_err().key, "derived", "`b` comes before what it is made of");
        let allowed = |change: fn(&mut FeatureConfig)| {
            let mut config = FeatureConfig::default();
            change(&mut config);
            config.check()
        };
        assert_eq!(allowed(|c| c.revise_ms = Some(63 * 600_000)), Ok(()));
        assert_eq!(allowed(|c| c.revise_ms = Some(0)), Ok(()));
        assert_eq!(allowed(|c| c.slide_ms = Some(60_000)), Ok(()));
    }

    #[test]
    fn how_long_windows_are_revised_and_a_slide_that_is_the_default_change_no_meaning() {
        let config = FeatureConfig::default();
        let same = FeatureConfig { slide_ms: Some(config.window_ms), revise_ms: Some(0), ..config.clone() };
        let other = FeatureConfig { slide_ms: Some(60_000), ..config.clone() };
        assert!(same.means(&config) && !other.means(&config));
        let fingerprint = |c: &FeatureConfig| FeatureSchema::of(c).fingerprint();
        assert_eq!(fingerprint(&same), fingerprint(&config));
        assert_ne!(fingerprint(&other), fingerprint(&config));
    }
}
