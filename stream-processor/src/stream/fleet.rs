//! Who is who: machines, sensors, the agents that own them, and how far each agent's log has been read.

pub mod carve;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use model::features::{
    FeatureConfig,
    catalogue::{Catalogue, CatalogueError, SensorSpec},
    whole::slots,
};
use proto::{
    asset::{AssetId, Unit},
    time::PlantTime,
    wire::telemetry::TelemetryBatch,
};
use serde::{Deserialize, Serialize};

use crate::{
    archive::readings::Names,
    decode::AgentKey,
    window::watermark::{Frontier, Watermark},
};

/// What the sensors of one kind of machine report, by name.
pub type SensorSpecs = BTreeMap<AssetId, SensorSpec>;
/// By kind.
pub type Kinds = BTreeMap<AssetId, SensorSpecs>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Fleet {
    catalogue: Catalogue,
    agents: BTreeMap<AgentKey, Agent>,
    /// By machine id.
    owners: Vec<Option<AgentKey>>,
    /// By machine id: how often its time has begun anew. Not by agent, since a machine may get another one.
    #[serde(default)]
    generations: Vec<u32>,
    #[serde(skip)]
    directory: Directory,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Agent {
    watermark: Watermark,
    /// See [`Frontier`].
    #[serde(default)]
    settled: Watermark,
    machines: Vec<u32>,
}

/// Tables by series, made again when there are new ones.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// Place among the configuration's sensors.
    pub slots: Vec<Option<usize>>,
    pub wanted: Vec<bool>,
    pub names: Arc<Names>,
    /// By series.
    pub generation: Vec<u32>,
}

impl Agent {
    fn frontier(&self) -> Frontier {
        Frontier { watermark: self.watermark, settled: self.settled }
    }

    fn move_to(&mut self, frontier: Frontier) -> Frontier {
        (self.watermark, self.settled) = (frontier.watermark, frontier.settled);
        frontier
    }

    fn settle(&mut self, config: &FeatureConfig) {
        let mut frontier = self.frontier();
        frontier.settle(0, config);
        self.move_to(frontier);
    }
}

impl Fleet {
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn name(&self, machine: u32) -> &AssetId {
        &self.catalogue.machines()[machine as usize].name
    }

    /// Every machine with its kind and its agent, as far as they are known.
    pub fn known(&self) -> impl Iterator<Item = (&AssetId, Option<&AssetId>, Option<&AgentKey>)> {
        let owner = |id: usize| self.owners.get(id).and_then(Option::as_ref);
        self.catalogue.machines().iter().enumerate().map(move |(id, m)| (&m.name, m.kind.as_ref(), owner(id)))
    }

    /// What is known of each kind. Machines of one kind are built alike: the one that was met first speaks for them.
    pub fn kinds(&self) -> Kinds {
        let mut kinds = Kinds::new();
        for series in self.catalogue.series() {
            let machine = &self.catalogue.machines()[series.machine as usize];
            if let (Some(kind), Some(spec)) = (&machine.kind, series.spec) {
                kinds.entry(kind.clone()).or_default().entry(series.sensor.clone()).or_insert(spec);
            }
        }
        kinds
    }

    pub fn watermark(&self, agent: &AgentKey) -> Watermark {
        self.agents.get(agent).map(|a| a.watermark).unwrap_or_default()
    }

    pub fn frontier(&self, agent: &AgentKey) -> Frontier {
        self.agents.get(agent).map(Agent::frontier).unwrap_or_default()
    }

    /// The watermark that is furthest behind, and the one that is furthest ahead; None before the first batch.
    pub fn watermarks(&self) -> Option<(PlantTime, PlantTime)> {
        let all = || self.agents.values().map(|a| PlantTime(a.watermark.0));
        all().min().zip(all().max())
    }

    pub fn advance(&mut self, agent: &AgentKey, sealed_ms: i64, config: &FeatureConfig) -> Frontier {
        let agent = self.agents.entry(agent.clone()).or_default();
        let mut frontier = agent.frontier();
        frontier.advance(sealed_ms, config);
        agent.move_to(frontier)
    }

    /// Every window that is closed can't be revised any more: it is not known here what was in it.
    pub fn settle(&mut self, config: &FeatureConfig) {
        self.agents.values_mut().for_each(|agent| agent.settle(config));
    }

    /// The same, for agents of a snapshot from before windows were revised.
    pub fn settle_unknown(&mut self, config: &FeatureConfig) {
        let unknown = self.agents.values_mut().filter(|agent| agent.settled == Watermark::default());
        unknown.for_each(|agent| agent.settle(config));
    }

    /// Its clock fell back.
    pub fn restart_watermark(&mut self, agent: &AgentKey) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.move_to(Frontier::default());
        }
    }

    pub fn generation(&self, machine: u32) -> u32 {
        self.generations.get(machine as usize).copied().unwrap_or_default()
    }

    /// The time of these machines begins anew.
    pub fn begin_generation(&mut self, machines: &[u32]) {
        self.generations.resize(self.catalogue.machines().len(), 0);
        machines.iter().for_each(|machine| self.generations[*machine as usize] += 1);
        self.directory.generation = self.generation_by_series();
    }

    fn generation_by_series(&self) -> Vec<u32> {
        self.catalogue.series().iter().map(|s| self.generation(s.machine)).collect()
    }

    /// In the order in which the agent named them.
    pub fn machines_of(&self, agent: &AgentKey) -> &[u32] {
        self.agents.get(agent).map_or(&[], |a| &a.machines)
    }

    pub fn owner(&self, machine: u32) -> Option<&AgentKey> {
        self.owners.get(machine as usize).and_then(Option::as_ref)
    }

    pub fn owns(&self, agent: &AgentKey, machine: u32) -> bool {
        self.owner(machine) == Some(agent)
    }

    pub fn series(&self, machine: u32, sensor: &str) -> Option<(u32, Option<Unit>)> {
        let id = self.catalogue.series_of(machine, sensor)?;
        Some((id, self.catalogue.series()[id as usize].spec.map(|s| s.unit)))
    }

    /// Learns the names in a batch before its readings are looked at. Only a birth may take a machine from another
    /// agent (a gateway was replaced); answers those machines.
    pub fn meet(
        &mut self,
        agent: &AgentKey,
        batch: &TelemetryBatch,
        config: &FeatureConfig,
    ) -> Result<Vec<u32>, CatalogueError> {
        let mut taken_over = Vec::new();
        if let Some(birth) = &batch.birth {
            self.catalogue.absorb(birth)?;
            for machine in &birth.machines {
                let id = self.catalogue.meet_machine(&machine.machine)?;
                taken_over.extend(self.adopt(agent, id, true).then_some(id));
            }
        }
        for machine in &batch.machines {
            let id = self.catalogue.meet_machine(&machine.machine)?;
            self.adopt(agent, id, false);
            for column in &machine.sensors {
                self.catalogue.meet_sensor(id, &column.sensor)?;
            }
        }
        self.index(config);
        Ok(taken_over)
    }

    /// Makes the agent the machine's owner if it has none, or if the agent may take it over: then true.
    fn adopt(&mut self, agent: &AgentKey, id: u32, take_over: bool) -> bool {
        if self.owners.len() <= id as usize {
            self.owners.resize(id as usize + 1, None);
        }
        let owner = &mut self.owners[id as usize];
        if owner.as_ref() == Some(agent) || (owner.is_some() && !take_over) {
            return false;
        }
        let before = owner.replace(agent.clone());
        if let Some(before) = before.as_ref().and_then(|b| self.agents.get_mut(b)) {
            before.machines.retain(|m| *m != id);
        }
        self.agents.entry(agent.clone()).or_default().machines.push(id);
        before.is_some()
    }

    /// Brings the directory up to date.
    pub fn index(&mut self, config: &FeatureConfig) {
        let series = self.catalogue.series();
        if self.directory.slots.len() == series.len() && !series.is_empty() {
            return;
        }
        let slots = slots(&self.catalogue, config);
        let mut sensors = Vec::new();
        let mut numbers = HashMap::new();
        let mut sensor = |name: &AssetId| {
            *numbers.entry(name.clone()).or_insert_with(|| {
                sensors.push(name.clone());
                sensors.len() as u32 - 1
            })
        };
        let series = series.iter().map(|s| (s.machine, sensor(&s.sensor))).collect();
        let machines = self.catalogue.machines().iter().map(|m| m.name.clone()).collect();
        self.directory = Directory {
            wanted: slots.iter().map(Option::is_some).collect(),
            slots,
            names: Arc::new(Names { machines, sensors, series }),
            generation: self.generation_by_series(),
        };
    }
}
