//! What a simulated plant is made of.

use std::{collections::HashSet, fmt};

use proto::{
    asset::AssetId,
    time::{PlantTime, instant},
};
use serde::{Deserialize, Deserializer, de};

use super::{kinds::Kind, wear::Mode};
use crate::source::SourceError;

pub const MACHINES_MAX: usize = 10_000;
pub const INTERVAL_MS_MIN: i64 = 10;
pub const INTERVAL_MS_MAX: i64 = 3_600_000;
/// Hotter no hall gets.
const HOTTER_C_MAX: f64 = 30.0;
/// Stands for the agent's first start, until that is known.
pub const START_UNSET: PlantTime = PlantTime::MIN;
/// Machines of the built-in factory.
pub const FACTORY_MACHINES: usize = 24;
/// Machines of each kind in the built-in factory, in the order of [`Kind::ALL`].
const FACTORY: [usize; 6] = [3, 5, 5, 5, 3, 3];

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    pub seed: u64,
    /// Plant time of the first readings; the same at every start, or the plant is another one. A configuration that
    /// leaves it out means the agent's first start.
    #[serde(deserialize_with = "instant", default = "start_unset")]
    pub start: PlantTime,
    /// Plant time between two readings of a sensor.
    pub interval_ms: i64,
    /// A list of machines, or how many.
    #[serde(deserialize_with = "machines")]
    pub machines: Vec<MachineSpec>,
    /// False: no machine gets a fault, but the scripted ones.
    pub faults: bool,
    pub fault: Vec<ScriptedFault>,
    /// The plant is another one from some time on.
    pub change: Option<PlantChange>,
}

/// What changes in a plant's life, and what no model that was trained before has seen.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlantChange {
    #[serde(deserialize_with = "instant")]
    pub at: PlantTime,
    /// A hotter summer: so many degrees more in the hall.
    #[serde(default)]
    pub hotter_c: f64,
    /// Parts that begin to wear from then on are another supplier's, and show it otherwise.
    #[serde(default)]
    pub other_supplier: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    pub id: AssetId,
    pub kind: Kind,
    pub make: String,
    pub model: String,
    /// Gets no faults, but the scripted ones.
    #[serde(default)]
    pub healthy: bool,
}

/// A fault that begins when a demonstration or test needs it, and always ends in a failure.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedFault {
    pub machine: AssetId,
    pub mode: Mode,
    #[serde(deserialize_with = "instant")]
    pub onset: PlantTime,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            // A Monday at 06:00: the week's first shift.
            start: PlantTime(1_767_592_800_000),
            interval_ms: 60_000,
            machines: factory(FACTORY_MACHINES),
            faults: true,
            fault: Vec::new(),
            change: None,
        }
    }
}

fn start_unset() -> PlantTime {
    START_UNSET
}

impl SimulatorConfig {
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let refuse = |key: &str, reason: String| Err(SourceError::Config { key: key.into(), reason });
        if !(INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(&self.interval_ms) {
            let reason = format!("{} is not from {INTERVAL_MS_MIN} to {INTERVAL_MS_MAX}", self.interval_ms);
            return refuse("interval_ms", reason);
        }
        if self.machines.is_empty() || self.machines.len() > MACHINES_MAX {
            return refuse("machines", format!("{} is not from 1 to {MACHINES_MAX}", self.machines.len()));
        }
        if let Some(change) = self.change.filter(|change| !(-HOTTER_C_MAX..=HOTTER_C_MAX).contains(&change.hotter_c)) {
            return refuse(
                "change.hotter_c",
                format!("{} is not from -{HOTTER_C_MAX} to {HOTTER_C_MAX}", change.hotter_c),
            );
        }
        let mut ids = HashSet::new();
        if let Some(twice) = self.machines.iter().find(|m| !ids.insert(&m.id)) {
            return refuse("machines", format!("`{}` is there twice", twice.id));
        }
        match self.fault.iter().find(|f| !ids.contains(&f.machine)) {
            Some(stray) => refuse("fault.machine", format!("there is no machine `{}`", stray.machine)),
            None => Ok(()),
        }
    }
}

/// The built-in plant of [`FACTORY_MACHINES`] machines as three gateways see it, each with machines of every kind.
pub fn default_factory() -> [Vec<MachineSpec>; 3] {
    let mut gateways: [Vec<MachineSpec>; 3] = Default::default();
    for (i, machine) in factory(FACTORY_MACHINES).into_iter().enumerate() {
        gateways[i % 3].push(machine);
    }
    gateways
}

/// The built-in plant, repeated or cut to `count` machines.
fn factory(count: usize) -> Vec<MachineSpec> {
    let floor = Kind::ALL.into_iter().zip(FACTORY).flat_map(|(kind, n)| std::iter::repeat_n(kind, n));
    let mut made = [0usize; Kind::ALL.len()];
    floor
        .cycle()
        .take(count)
        .filter_map(|kind| {
            let n = &mut made[kind as usize];
            let (make, model) = kind.models()[*n % kind.models().len()];
            *n += 1;
            let id = AssetId::new(&format!("{}-{n}", kind.name())).ok()?;
            Some(MachineSpec { id, kind, make: make.into(), model: model.into(), healthy: false })
        })
        .collect()
}

fn machines<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<MachineSpec>, D::Error> {
    struct CountOrList;
    impl<'de> de::Visitor<'de> for CountOrList {
        type Value = Vec<MachineSpec>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a number of machines from 1 to {MACHINES_MAX}, or a list of them")
        }

        fn visit_i64<E: de::Error>(self, count: i64) -> Result<Self::Value, E> {
            match usize::try_from(count) {
                Ok(count) if (1..=MACHINES_MAX).contains(&count) => Ok(factory(count)),
                _ => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
            }
        }

        fn visit_u64<E: de::Error>(self, count: u64) -> Result<Self::Value, E> {
            self.visit_i64(i64::try_from(count).unwrap_or(i64::MAX))
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Deserialize::deserialize(de::value::SeqAccessDeserializer::new(list))
        }
    }
    input.deserialize_any(CountOrList)
}
