//! The `[clock]` section of every program's configuration, and what a program keeps of it so that its next start goes
//! on in the same plant time. Opens no file.

use serde::{Deserialize, Serialize};

use crate::time::{PlantClock, PlantTime, maybe_instant};

/// Without anything, plant time is wall time. With `start` and `speed`, it begins there at the first start. With
/// `wall_origin_ms` and `plant_origin`, it is the same for all programs that are told the same.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// Plant time at the first start, for example `"2015-01-01T00:00:00Z"`.
    #[serde(deserialize_with = "maybe_instant")]
    pub start: Option<PlantTime>,
    /// Plant seconds per wall second.
    pub speed: f64,
    pub wall_origin_ms: Option<i64>,
    #[serde(deserialize_with = "maybe_instant")]
    pub plant_origin: Option<PlantTime>,
}

impl Default for ClockConfig {
    fn default() -> Self {
        ClockConfig { start: None, speed: 1.0, wall_origin_ms: None, plant_origin: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`clock.{key}`: {reason}")]
pub struct InvalidClock {
    pub key: &'static str,
    pub reason: &'static str,
}

/// What a program stores beside its data at every start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KeptClock {
    /// As the configuration said: another one is another plant time.
    start: Option<PlantTime>,
    /// Plant time of the first start.
    pub since: PlantTime,
    pub clock: PlantClock,
}

impl KeptClock {
    pub fn encode(&self) -> Vec<u8> {
        // Plain numbers: there is nothing in it that JSON could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// None: not what [`KeptClock::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl ClockConfig {
    pub fn check(&self) -> Result<(), InvalidClock> {
        let invalid = |key, reason| Err(InvalidClock { key, reason });
        match (self.start, self.wall_origin_ms, self.plant_origin) {
            _ if !(self.speed > 0.0 && self.speed.is_finite()) => invalid("speed", "must be above 0"),
            (_, None, None) | (None, Some(_), Some(_)) => Ok(()),
            (None, ..) => invalid("wall_origin_ms", "needs plant_origin, and plant_origin needs it"),
            (Some(_), ..) => invalid("start", "does not go with wall_origin_ms and plant_origin"),
        }
    }

    /// The clock, if it is the same for every program with this section, wherever and whenever it starts.
    pub fn shared(&self) -> Option<PlantClock> {
        match (self.wall_origin_ms.zip(self.plant_origin), self.start) {
            (Some((wall_origin_ms, plant_origin)), _) => {
                Some(PlantClock { wall_origin_ms, plant_origin, speed: self.speed })
            }
            (None, None) if self.speed == 1.0 => Some(PlantClock::WALL),
            _ => None,
        }
    }

    /// The clock of this start, to be stored; `kept` is what the start before stored. Plant time went on meanwhile, and
    /// another speed holds from now on.
    pub fn resume(&self, kept: Option<KeptClock>, wall_now_ms: i64) -> KeptClock {
        let speed = self.speed;
        let began = |plant_origin| PlantClock { wall_origin_ms: wall_now_ms, plant_origin, speed };
        let kept = kept.filter(|k| k.start == self.start);
        let clock = match (self.shared(), self.start, kept) {
            (Some(clock), ..) => clock,
            (None, _, Some(kept)) if kept.clock.speed == speed => kept.clock,
            (None, _, Some(kept)) => began(kept.clock.plant(wall_now_ms)),
            (None, start, None) => began(start.unwrap_or(PlantTime(wall_now_ms))),
        };
        KeptClock { start: self.start, since: kept.map_or(clock.plant(wall_now_ms), |k| k.since), clock }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn config(text: &str) -> ClockConfig {
        let config: ClockConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    #[test]
    fn a_start_and_a_speed_go_on_at_the_next_start() {
        let replay = config("start = '2015-01-01T00:00:00Z'\nspeed = 60");
        let start = PlantTime(1_420_070_400_000);
        let first = replay.resume(None, 1_000);
        assert_eq!((first.since, first.clock.plant(1_000)), (start, start));
        assert_eq!(replay.shared(), None);
        let kept = KeptClock::decode(&first.encode()).unwrap();
        let second = replay.resume(Some(kept), HOUR_MS);
        assert_eq!(second, first, "wherever the second start is");
        assert_eq!(second.clock.plant(1_000 + HOUR_MS), start.plus_millis(60 * HOUR_MS));

        let faster = ClockConfig { speed: 120.0, ..replay }.resume(Some(second), 1_000 + HOUR_MS);
        assert_eq!(faster.clock.plant(1_000 + HOUR_MS), start.plus_millis(60 * HOUR_MS), "no jump");
        assert_eq!(faster.clock.plant(2_000 + HOUR_MS), start.plus_millis(60 * HOUR_MS + 120_000));
        assert_eq!(faster.since, start);

        let other = config("start = '2020-01-01T00:00:00Z'").resume(Some(faster), 5_000);
        assert_eq!(other.clock.plant(5_000), PlantTime(1_577_836_800_000), "another start is another plant time");
    }

    #[test]
    fn without_a_section_plant_time_is_wall_time_and_the_first_start_is_known() {
        let first = ClockConfig::default().resume(None, 77);
        assert_eq!((first.clock, first.since), (PlantClock::WALL, PlantTime(77)));
        assert_eq!(ClockConfig::default().shared(), Some(PlantClock::WALL));
        assert_eq!(ClockConfig::default().resume(Some(first), 99), first);
    }

    #[test]
    fn an_origin_is_shared_by_all_that_are_told_it() {
        let shared = config("wall_origin_ms = 10\nplant_origin = 5000\nspeed = 2.0");
        let clock = PlantClock { wall_origin_ms: 10, plant_origin: PlantTime(5_000), speed: 2.0 };
        assert_eq!(shared.resume(None, 99).clock, clock);
        assert_eq!(shared.resume(Some(shared.resume(None, 99)), 200).since, clock.plant(99));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, key) in [
            ("speed = 0", "speed"),
            ("speed = nan", "speed"),
            ("plant_origin = 5", "wall_origin_ms"),
            ("start = 5\nwall_origin_ms = 5", "start"),
        ] {
            assert_eq!(toml::from_str::<ClockConfig>(text).unwrap().check().unwrap_err().key, key, "{text}");
        }
        assert_eq!(KeptClock::decode(b"{}"), None);
    }
}
