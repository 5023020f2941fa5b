//! Names of sites, agents, machines and sensors, validated once, and the units of what sensors report.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub const ASSET_ID_BYTES_MAX: usize = 64;

/// Number of slots that agents are spread over; fixed for ever, since topics and shards are made of slots.
pub const SLOTS: u8 = 64;

/// A name that is safe in a topic, an object key, a file path and a metric label:
/// 1 to 64 of `A-Z a-z 0-9 _ -`, the first one a letter or digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AssetId(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid name: 1 to {ASSET_ID_BYTES_MAX} of A-Z a-z 0-9 _ -, beginning with a letter or digit")]
pub struct InvalidAssetId {
    pub name: String,
}

impl AssetId {
    pub fn new(name: &str) -> Result<Self, InvalidAssetId> {
        Self::check(name).map(|()| Self(name.into()))
    }

    /// Is it one? Without a copy of it.
    pub fn check(name: &str) -> Result<(), InvalidAssetId> {
        let bytes = name.as_bytes();
        let safe = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let valid = bytes.len() <= ASSET_ID_BYTES_MAX
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(safe);
        if valid { Ok(()) } else { Err(InvalidAssetId { name: name.chars().take(ASSET_ID_BYTES_MAX + 1).collect() }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The agent's slot: the first byte of SHA-256 of its name, modulo [`SLOTS`].
    pub fn slot(&self) -> u8 {
        Sha256::digest(self.0.as_bytes())[0] % SLOTS
    }

    /// Where the name lies from 0 to 1: the first four bytes of SHA-256 of it, as a big-endian part of 2^32. The same on
    /// every instance and in every release, so that a share of the machines is the same ones everywhere.
    pub fn fraction(&self) -> f64 {
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(self.0.as_bytes()));
        f64::from(u32::from_be_bytes([a, b, c, d])) / 4_294_967_296.0
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for AssetId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// So that a map keyed by names can be asked with a plain `&str` from the wire.
impl std::borrow::Borrow<str> for AssetId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for AssetId {
    type Err = InvalidAssetId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl TryFrom<String> for AssetId {
    type Error = InvalidAssetId;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::new(&s)
    }
}

impl From<AssetId> for String {
    fn from(id: AssetId) -> Self {
        id.0.to_string()
    }
}

/// Units known to the cleaning rules. The canonical unit of a dimension is the one that the features are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "C")]
    Celsius,
    #[serde(rename = "F")]
    Fahrenheit,
    #[serde(rename = "K")]
    Kelvin,
    #[serde(rename = "R")]
    Rankine,
    #[serde(rename = "dB(A)")]
    DecibelA,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "rpm")]
    RevolutionsPerMinute,
    #[serde(rename = "Hz")]
    Hertz,
    #[serde(rename = "mm/s")]
    MillimetrePerSecond,
    #[serde(rename = "in/s")]
    InchPerSecond,
    #[serde(rename = "bar")]
    Bar,
    #[serde(rename = "psi")]
    PoundPerSquareInch,
    #[serde(rename = "V")]
    Volt,
    #[serde(rename = "A")]
    Ampere,
    #[serde(rename = "Nm")]
    NewtonMetre,
    #[serde(rename = "min")]
    Minute,
    /// A plain number.
    #[serde(rename = "1")]
    One,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unit `{unit}` is not known; allowed: {}", Unit::ALL.map(Unit::symbol).join(", "))]
pub struct UnknownUnit {
    pub unit: String,
}

impl Unit {
    pub const ALL: [Unit; 17] = [
        Unit::Celsius,
        Unit::Fahrenheit,
        Unit::Kelvin,
        Unit::Rankine,
        Unit::DecibelA,
        Unit::Percent,
        Unit::RevolutionsPerMinute,
        Unit::Hertz,
        Unit::MillimetrePerSecond,
        Unit::InchPerSecond,
        Unit::Bar,
        Unit::PoundPerSquareInch,
        Unit::Volt,
        Unit::Ampere,
        Unit::NewtonMetre,
        Unit::Minute,
        Unit::One,
    ];

    pub const fn symbol(self) -> &'static str {
        match self {
            Unit::Celsius => "C",
            Unit::Fahrenheit => "F",
            Unit::Kelvin => "K",
            Unit::Rankine => "R",
            Unit::DecibelA => "dB(A)",
            Unit::Percent => "%",
            Unit::RevolutionsPerMinute => "rpm",
            Unit::Hertz => "Hz",
            Unit::MillimetrePerSecond => "mm/s",
            Unit::InchPerSecond => "in/s",
            Unit::Bar => "bar",
            Unit::PoundPerSquareInch => "psi",
            Unit::Volt => "V",
            Unit::Ampere => "A",
            Unit::NewtonMetre => "Nm",
            Unit::Minute => "min",
            Unit::One => "1",
        }
    }

    /// The unit that features of this dimension are in.
    pub const fn canonical(self) -> Unit {
        match self {
            Unit::Fahrenheit | Unit::Kelvin | Unit::Rankine => Unit::Celsius,
            Unit::Hertz => Unit::RevolutionsPerMinute,
            Unit::InchPerSecond => Unit::MillimetrePerSecond,
            Unit::PoundPerSquareInch => Unit::Bar,
            other => other,
        }
    }

    /// `(scale, offset)` with `canonical = value * scale + offset`.
    pub const fn to_canonical(self) -> (f64, f64) {
        match self {
            Unit::Fahrenheit => (5.0 / 9.0, -160.0 / 9.0),
            Unit::Kelvin => (1.0, -273.15),
            Unit::Rankine => (5.0 / 9.0, -273.15),
            Unit::Hertz => (60.0, 0.0),
            Unit::InchPerSecond => (25.4, 0.0),
            Unit::PoundPerSquareInch => (0.068_947_572_931_783_6, 0.0),
            _ => (1.0, 0.0),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

impl FromStr for Unit {
    type Err = UnknownUnit;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Unit::ALL
            .into_iter()
            .find(|u| u.symbol() == s)
            .ok_or_else(|| UnknownUnit { unit: s.chars().take(32).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for bad in ["", "a/b", "..", "a.b", "+", "#", "a b", "-a", "ä", "a\n", &"a".repeat(65)] {
            assert!(AssetId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "press-01", "Line_2", &"a".repeat(64)] {
            assert_eq!(AssetId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn slots_never_change() {
        // Fixed for ever: a change would move agents between shards.
        assert_eq!(AssetId::new("gateway-1").unwrap().slot(), Sha256::digest(b"gateway-1")[0] % 64);
        assert!(AssetId::new("gateway-2").unwrap().slot() < SLOTS);
    }

    #[test]
    fn fractions_never_change_and_are_even() {
        let fraction = |name: &str| AssetId::new(name).unwrap().fraction();
        // Computed elsewhere: a change would give a canary other machines on other instances.
        assert_eq!((fraction("press-1"), fraction("gateway-1")), (0.121_513_701_509_684_32, 0.879_377_962_788_567));
        let below = (0..10_000).filter(|n| fraction(&format!("press-{n}")) < 0.2).count();
        assert!((1_900..2_100).contains(&below), "{below}");
    }

    #[test]
    fn units_convert_to_their_canonical_unit() {
        let canonical = |u: Unit, v: f64| {
            let (scale, offset) = u.to_canonical();
            v * scale + offset
        };
        assert!((canonical(Unit::Fahrenheit, 212.0) - 100.0).abs() < 1e-9);
        assert!((canonical(Unit::Kelvin, 273.15)).abs() < 1e-9);
        assert!((canonical(Unit::Rankine, 671.67) - 100.0).abs() < 1e-9);
        assert!((canonical(Unit::PoundPerSquareInch, 14.503_773_8) - 1.0).abs() < 1e-8);
        assert_eq!(canonical(Unit::Hertz, 50.0), 3000.0);
        for unit in Unit::ALL {
            assert_eq!(unit.canonical().to_canonical(), (1.0, 0.0), "{unit}");
            assert_eq!(unit.symbol().parse::<Unit>().unwrap(), unit);
        }
    }
}
