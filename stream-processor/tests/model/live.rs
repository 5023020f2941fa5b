//! A version at work on a simulated plant, as the processor would have it: windows in time, alerts by the policy, a crew that
//! looks after some of them, failures, and once a day the question whether to retrain.

use std::collections::HashMap;

use edge_agent::source::simulator::{
    SimulatorConfig,
    truth::{Degradation, Ending, degradations},
};
use model::{
    artifact::Artifact,
    dataset::Dataset,
    drift::{self, BlockDrift},
    gate::contest::Said,
    policy::{AlertPolicy, Slot, Track},
    quality::{Alerted, Figures, Quality},
    trigger::{Cause, Trigger, TriggerSettings},
    watch::WatchReference,
};
use proto::time::PlantTime;

const DAY_MS: i64 = 86_400_000;
/// Of ten alerts the crew looks after so many.
const ACTS_ON: usize = 6;
const VERSION: &str = "live";

pub struct Live<'a> {
    dataset: &'a Dataset,
    faults: Vec<Degradation>,
    policy: AlertPolicy,
    quality: Quality,
    drift: Option<drift::Watch>,
    block: Option<BlockDrift>,
    tracks: HashMap<(usize, usize), (Track, bool)>,
    /// Newest failure and repair, by machine.
    down: HashMap<usize, (PlantTime, PlantTime)>,
    alerts: usize,
}

/// What came of it.
pub struct Outcome {
    pub causes: Vec<(PlantTime, Cause)>,
    pub drifted_days: usize,
    pub days: usize,
    pub figures: Figures,
    pub alerts: usize,
}

impl<'a> Live<'a> {
    /// From `from` to the end of the dataset.
    pub fn run(
        config: &SimulatorConfig,
        dataset: &'a Dataset,
        model: &Artifact,
        from: PlantTime,
        settings: &TriggerSettings,
    ) -> Outcome {
        let reference = WatchReference::of(dataset, model);
        let until = dataset.rows.iter().map(|row| row.end).max().unwrap();
        let mut live = Live {
            dataset,
            faults: degradations(config, until).unwrap(),
            policy: AlertPolicy::default(),
            quality: Quality::new(dataset.horizon_ms, (settings.figures_days * DAY_MS as f64) as i64),
            drift: reference.features.clone().map(drift::Watch::new),
            block: None,
            tracks: HashMap::new(),
            down: HashMap::new(),
            alerts: 0,
        };
        let mut rows: Vec<usize> = (0..dataset.rows.len()).filter(|row| dataset.rows[*row].start >= from).collect();
        rows.sort_by_key(|row| dataset.rows[*row].end);
        let said = Said::of(dataset, &rows, model);
        let mut happenings = live.happenings(from).into_iter().peekable();
        let mut trigger = Trigger::new(from);
        let (mut causes, mut day, mut days, mut drifted_days) = (Vec::new(), from, 0, 0);
        for (place, row) in rows.iter().enumerate() {
            let end = dataset.rows[*row].end;
            while let Some((at, machine, failure)) = happenings.next_if(|(at, ..)| *at < end) {
                live.happens(at, machine, failure);
            }
            live.window(*row, &said, place);
            if end >= day.plus_millis(DAY_MS) {
                day = end;
                days += 1;
                live.quality.advance(end);
                let drifted: Vec<String> =
                    live.block.iter().flat_map(BlockDrift::drifted).map(|f| f.name.clone()).collect();
                drifted_days += usize::from(!drifted.is_empty());
                let figures = live.quality.figures(VERSION);
                if let Some(cause) = trigger.due(settings, end, &figures, reference.estimated, &drifted) {
                    trigger.ended(end);
                    causes.push((end, cause));
                }
            }
        }
        let (figures, alerts) = (live.quality.figures(VERSION), live.alerts);
        Outcome { causes, drifted_days, days, figures, alerts }
    }

    /// Failures with their mode, and repairs, in time.
    fn happenings(&self, from: PlantTime) -> Vec<(PlantTime, usize, Option<Option<usize>>)> {
        let mut happenings = Vec::new();
        for (i, machine) in self.dataset.machines.iter().enumerate() {
            happenings.extend(machine.life.failures.iter().map(|f| (f.at, i, Some(f.mode))));
            happenings.extend(machine.life.repairs.iter().map(|r| (r.at, i, None)));
        }
        happenings.retain(|(at, ..)| *at >= from);
        happenings.sort_by_key(|(at, ..)| *at);
        happenings
    }

    fn happens(&mut self, at: PlantTime, machine: usize, failure: Option<Option<usize>>) {
        let name = &self.dataset.machines[machine].name;
        let down = self.down.entry(machine).or_insert((PlantTime::MIN, PlantTime::MIN));
        match failure {
            Some(mode) => {
                let mode = mode.map_or("", |mode| self.dataset.modes[mode].as_str());
                self.quality.failed(name, mode, at, at, VERSION);
                down.0 = at;
            }
            None => {
                self.quality.repaired(name, at);
                down.1 = at;
            }
        }
        self.tracks.retain(|(of, _), _| *of != machine);
    }

    fn window(&mut self, row: usize, said: &Said, place: usize) {
        let of = self.dataset.rows[row];
        let features: Vec<f64> = self.dataset.features(row).iter().map(|v| f64::from(*v)).collect();
        self.block = self.drift.as_mut().and_then(|drift| drift.observe(of.end, &features)).or(self.block.take());
        let mut scored = Vec::new();
        for (mode, said) in said.modes.iter().enumerate() {
            let Some(said) = said else { continue };
            let (probability, threshold) = (said.probabilities[place], said.threshold);
            scored.push((self.dataset.modes[mode].as_str(), probability, threshold));
            self.watch(row, mode, probability / threshold);
        }
        self.quality.scored(VERSION, &self.dataset.machines[of.machine].name, of.end, &scored);
    }

    fn watch(&mut self, row: usize, mode: usize, strength: f64) {
        let of = self.dataset.rows[row];
        let (failed, repaired) = self.down.get(&of.machine).copied().unwrap_or((PlantTime::MIN, PlantTime::MIN));
        let (track, open) = self.tracks.entry((of.machine, mode)).or_default();
        let quiet = self.policy.is_quiet(of.start, failed, repaired);
        let slot = Slot { start: of.start, slide_ms: self.dataset.config.slide_ms(), quiet };
        track.observe(&self.policy.scores, slot, strength);
        if *open && track.has_faded(&self.policy.scores) {
            (*track, *open) = (Track::default(), false);
        } else if !*open && track.opens(&self.policy.scores).is_some() {
            *open = true;
            self.alerted(of.machine, mode, of.end);
        }
    }

    fn alerted(&mut self, machine: usize, mode: usize, at: PlantTime) {
        let (id, name) = (self.alerts.to_string(), self.dataset.machines[machine].name.clone());
        self.alerts += 1;
        let mode = self.dataset.modes[mode].clone();
        self.quality.alerted(Alerted { id: id.clone(), machine: name.clone(), mode, version: VERSION.into(), at });
        // A multiplicative hash: which ones they look after has nothing to do with what is there.
        if self.alerts.wrapping_mul(2_654_435_761) / 7 % 10 < ACTS_ON {
            let goes_on = |fault: &Degradation| match fault.ending {
                Ending::Failed(end) | Ending::Recovered(end) => (fault.onset..=end).contains(&at),
                Ending::Open => fault.onset <= at,
            };
            let right = self.faults.iter().any(|fault| fault.machine == name && goes_on(fault));
            self.quality.judged(&id, right, at);
        }
    }
}
