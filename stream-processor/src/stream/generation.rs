//! When a machine's time begins anew: its gateway's clock has fallen back, or another gateway takes it over. Windows before
//! and after it may have the same times and are never the same.

use std::collections::BTreeMap;

use proto::time::PlantTime;

use super::{Steps, Stream, steps::Happened};
use crate::{
    alert::Generation,
    clean::trusted_seal_ms,
    decode::{AgentKey, Taken},
    window::{
        Step,
        watermark::{Frontier, Watermark},
    },
};

/// Batches that are cleaned and windowed together, and how far the trusted seals in it have come.
#[derive(Default)]
pub struct Run {
    pub batches: Vec<Taken>,
    sealed: BTreeMap<AgentKey, Watermark>,
}

impl Run {
    pub fn push(&mut self, taken: Taken) {
        if let Some(sealed) = trusted_seal_ms(&taken) {
            match self.sealed.get_mut(&taken.agent) {
                Some(watermark) => watermark.advance(sealed),
                None => drop(self.sealed.insert(taken.agent.clone(), Watermark(sealed))),
            }
        }
        self.batches.push(taken);
    }

    fn watermark(&self, agent: &AgentKey) -> Watermark {
        self.sealed.get(agent).copied().unwrap_or_default()
    }
}

impl Stream {
    /// After what has been read, and after `run`, which is still to be.
    pub(super) fn falls_back(&self, run: &Run, taken: &Taken) -> bool {
        let newest = self.fleet.watermark(&taken.agent).max(run.watermark(&taken.agent));
        trusted_seal_ms(taken).is_some_and(|sealed| newest.is_left_by(sealed, &self.config.features))
    }

    /// Ends what was read under the time that the batch leaves; its readings are the first of the new one.
    pub(super) fn follow_clock(&mut self, taken: &Taken, steps: &mut Steps) {
        let (agent, begins) = (&taken.agent, trusted_seal_ms(taken));
        let left = PlantTime(self.fleet.watermark(agent).0);
        let to = begins.map(|ms| PlantTime(ms).to_string());
        tracing::warn!(agent = %agent.agent, %left, to,
            "a gateway's clock has fallen back: the windows of its machines end, and new ones begin");
        let machines = self.fleet.machines_of(agent).to_vec();
        let end = Step { before: self.fleet.frontier(agent), now: Frontier::END };
        for machine in &machines {
            let closed = self.close_machine(*machine, &end, None);
            steps.happened.extend(closed.into_iter().map(|window| Happened::Window(Box::new(window))));
        }
        self.fleet.restart_watermark(agent);
        self.begin_generation(&machines, begins, steps);
    }

    /// None: nobody knows when the new time begins.
    pub(super) fn begin_generation(&mut self, machines: &[u32], begins_ms: Option<i64>, steps: &mut Steps) {
        if machines.is_empty() {
            return;
        }
        self.fleet.begin_generation(machines);
        steps.happened.extend(machines.iter().map(|machine| {
            let (name, number) = (self.fleet.name(*machine).clone(), self.fleet.generation(*machine));
            Happened::Generation(Generation { machine: name, number, begins: begins_ms.map(PlantTime) })
        }));
    }
}
