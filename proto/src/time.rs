//! Plant time: the time that stamps, windows, alerts and labels are in. It may run faster than the wall's.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, SecondsFormat};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Milliseconds since the Unix epoch, in plant time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlantTime(pub i64);

impl PlantTime {
    pub const MIN: PlantTime = PlantTime(i64::MIN);

    pub const fn millis(self) -> i64 {
        self.0
    }

    pub const fn plus_millis(self, ms: i64) -> Self {
        PlantTime(self.0.saturating_add(ms))
    }

    /// `YYYY-MM-DD` in UTC, the archive's date partition; stamps outside the years 0000-9999 fall into 1970-01-01.
    pub fn date(self) -> String {
        const IN_RANGE: std::ops::Range<i64> = -62_167_219_200_000..253_402_300_800_000;
        let ms = if IN_RANGE.contains(&self.0) { self.0 } else { 0 };
        DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%Y-%m-%d").to_string()
    }
}

impl fmt::Display for PlantTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_millis(self.0) {
            Some(t) => f.write_str(&t.to_rfc3339_opts(SecondsFormat::Secs, true)),
            None => write!(f, "{} ms", self.0),
        }
    }
}

/// Reads a date and time; without an offset it is UTC.
pub fn parse_date_time(text: &str) -> Option<PlantTime> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(PlantTime(time.timestamp_millis()));
    }
    let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let time = naive.into_iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    Some(PlantTime(time.and_utc().timestamp_millis()))
}

/// For configurations: plant time as RFC 3339, as `YYYY-MM-DD hh:mm:ss` (UTC), or as milliseconds since the Unix epoch.
pub fn instant<'de, D: Deserializer<'de>>(input: D) -> Result<PlantTime, D::Error> {
    struct Instant;
    impl de::Visitor<'_> for Instant {
        type Value = PlantTime;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time such as \"2026-01-05T06:00:00Z\", or milliseconds since the Unix epoch")
        }

        fn visit_i64<E: de::Error>(self, ms: i64) -> Result<PlantTime, E> {
            Ok(PlantTime(ms))
        }

        fn visit_u64<E: de::Error>(self, ms: u64) -> Result<PlantTime, E> {
            i64::try_from(ms).map(PlantTime).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(ms), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<PlantTime, E> {
            parse_date_time(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    input.deserialize_any(Instant)
}

pub fn maybe_instant<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PlantTime>, D::Error> {
    instant(input).map(Some)
}

/// Maps wall time to plant time: at `wall_origin_ms` it was `plant_origin`, and since then it runs `speed` times as fast.
/// Agents and processor share one, so that delays measured in plant time mean the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlantClock {
    pub wall_origin_ms: i64,
    pub plant_origin: PlantTime,
    /// Plant seconds per wall second; 0 holds plant time still.
    pub speed: f64,
}

impl PlantClock {
    /// Plant time is wall time.
    pub const WALL: PlantClock = PlantClock { wall_origin_ms: 0, plant_origin: PlantTime(0), speed: 1.0 };

    pub fn plant(&self, wall_ms: i64) -> PlantTime {
        let elapsed = wall_ms.saturating_sub(self.wall_origin_ms) as f64 * self.speed;
        self.plant_origin.plus_millis(elapsed as i64)
    }

    /// The wall time at which it is `plant`; none while plant time stands still.
    pub fn wall_ms(&self, plant: PlantTime) -> Option<i64> {
        let elapsed = plant.millis().saturating_sub(self.plant_origin.millis()) as f64 / self.speed;
        elapsed.is_finite().then(|| self.wall_origin_ms.saturating_add(elapsed as i64))
    }

    /// The same plant time by a wall clock that is `behind_ms` behind the one this was made for.
    pub const fn by_wall_behind(self, behind_ms: i64) -> Self {
        PlantClock { wall_origin_ms: self.wall_origin_ms.saturating_sub(behind_ms), ..self }
    }

    pub fn now(&self) -> PlantTime {
        self.plant(wall_now_ms())
    }
}

/// Wall time in ms since the Unix epoch.
pub fn wall_now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_maps_to_itself() {
        assert_eq!(PlantClock::WALL.plant(1_700_000_000_123), PlantTime(1_700_000_000_123));
    }

    #[test]
    fn plant_time_runs_at_its_speed() {
        let clock = PlantClock { wall_origin_ms: 1_000, plant_origin: PlantTime(50_000), speed: 3600.0 };
        assert_eq!(clock.plant(2_000), PlantTime(3_650_000));
        assert_eq!(clock.wall_ms(PlantTime(3_650_000)), Some(2_000));
        assert_eq!(clock.by_wall_behind(700).plant(1_300), PlantTime(3_650_000));
        let held = PlantClock { speed: 0.0, ..clock };
        assert_eq!(held.plant(9_999_999), PlantTime(50_000));
        assert_eq!(held.wall_ms(PlantTime(50_001)), None);
    }

    #[test]
    fn every_stamp_has_a_date() {
        assert_eq!(PlantTime(0).date(), "1970-01-01");
        assert_eq!(PlantTime(1_767_225_599_999).date(), "2025-12-31");
        assert_eq!(PlantTime(i64::MAX).date(), "1970-01-01");
        assert_eq!(PlantTime(i64::MIN).date(), "1970-01-01");
    }
}
