//! The simulated gateways: the real agent, with a simulator where the sensors would be.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use edge_agent::{
    agent::{Agent, AgentError, AgentHandle},
    config::{AgentConfig, MqttConfig},
    source::{
        Source, SourceError,
        simulator::{MachineSpec, PlantChange, ScriptedFault, Simulator, SimulatorConfig, default_factory},
    },
};
use futures::future::join_all;
use proto::{
    asset::{AssetId, InvalidAssetId},
    time::{PlantClock, PlantTime},
};
use tokio::{sync::watch, task::spawn_blocking, time::timeout_at};

/// Short, because plant time is fast: at an hour a second a batch still holds minutes of it.
const FLUSH: Duration = Duration::from_millis(100);

/// What stands in the hall.
#[derive(Debug, Clone)]
pub struct Plant {
    pub seed: u64,
    pub start: PlantTime,
    /// Plant time between two readings of a sensor.
    pub interval_ms: i64,
    /// Machines by gateway.
    pub gateways: Vec<Vec<MachineSpec>>,
    pub faults: bool,
    pub scripted: Vec<ScriptedFault>,
    pub change: Option<PlantChange>,
}

impl Default for Plant {
    fn default() -> Self {
        let SimulatorConfig { seed, start, interval_ms, faults, .. } = SimulatorConfig::default();
        Plant {
            seed,
            start,
            interval_ms,
            gateways: default_factory().into(),
            faults,
            scripted: Vec::new(),
            change: None,
        }
    }
}

impl Plant {
    /// Another plant from then on: a hotter summer, and parts of another supplier, which wear otherwise.
    pub fn changing(self, at: Option<PlantTime>) -> Self {
        let change = at.map(|at| PlantChange { at, hotter_c: 8.0, other_supplier: true });
        Plant { change: change.or(self.change), ..self }
    }

    /// What the simulator of one gateway is told.
    pub fn simulator(&self, gateway: usize, seed: u64) -> SimulatorConfig {
        let machines = self.gateways[gateway].clone();
        let here = |f: &&ScriptedFault| machines.iter().any(|m| m.id == f.machine);
        let fault = self.scripted.iter().filter(here).cloned().collect();
        let Plant { start, interval_ms, faults, change, .. } = *self;
        SimulatorConfig { seed, start, interval_ms, machines, faults, fault, change }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GatewaysError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Name(#[from] InvalidAssetId),
    #[error("a gateway could not be opened: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// How to start them.
#[derive(Debug, Clone)]
pub struct Gateways {
    pub site: AssetId,
    pub broker: SocketAddr,
    pub data: PathBuf,
    pub plant: Plant,
    pub seed: u64,
    pub start: PlantTime,
}

/// One that is ready to run on from where it stopped.
pub struct Opened {
    agent: Agent,
    source: Box<dyn Source>,
}

impl Opened {
    /// Plant time up to which its readings are durable.
    pub fn resumes_after(&self) -> Option<PlantTime> {
        self.agent.resume_after()
    }

    pub fn start(self, clock: watch::Receiver<PlantClock>) -> Result<AgentHandle, GatewaysError> {
        Ok(self.agent.start(vec![self.source], clock)?)
    }
}

/// All at the same time, since each may drain for seconds. One that has not said goodbye by `until` is cut off: its
/// spool holds what it did not send.
pub async fn stop(agents: Vec<AgentHandle>, until: Instant) {
    let goodbyes = join_all(agents.into_iter().map(AgentHandle::stop));
    if timeout_at(until.into(), goodbyes).await.is_err() {
        tracing::info!("gateways that were still sending were cut off");
    }
}

impl Gateways {
    /// Recovers the spools and brings the simulators to where they were: reads disks and computes, on other threads.
    pub async fn open(&self) -> Result<Vec<Opened>, GatewaysError> {
        let mut opening = Vec::new();
        for gateway in 0..self.plant.gateways.len() {
            let name = AssetId::new(&format!("gateway-{}", gateway + 1))?;
            let folder = self.data.join(name.as_str());
            let mut config = AgentConfig::new(self.site.clone(), name, folder, MqttConfig::plain(self.broker));
            config.batch.flush = FLUSH;
            // No flash that wears; and plant time may run so fast that a second is an hour.
            config.spool.group_after = Duration::ZERO;
            let simulator = SimulatorConfig { start: self.start, ..self.plant.simulator(gateway, self.seed) };
            opening.push(spawn_blocking(move || -> Result<Opened, GatewaysError> {
                let agent = Agent::open(config)?;
                let source = Box::new(Simulator::new(&simulator, agent.resume_after())?);
                Ok(Opened { agent, source })
            }));
        }
        let mut opened = Vec::with_capacity(opening.len());
        for gateway in opening {
            opened.push(gateway.await??);
        }
        Ok(opened)
    }
}
