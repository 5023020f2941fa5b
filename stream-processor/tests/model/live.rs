//! A version at work on a simulated plant, as the processor would have it: windows in time, alerts by the policy, a crew that
//! looks after some of them and repairs what it finds before it fails, failures, and once a day the question whether to
//! retrain. What was true of it all is counted beside it.

use std::collections::{HashMap, VecDeque};

use edge_agent::source::simulator::{
    SimulatorConfig,
    truth::{Degradation, Ending, degradations},
};
use model::{
    artifact::Artifact,
    dataset::{self, Dataset},
    drift::{self, BlockDrift},
    gate::contest::Said,
    policy::{AlertPolicy, Slot, Track},
    quality::{Alerted, Figures, Quality, Repair},
    trigger::{Cause, Trigger, TriggerSettings},
    watch::WatchReference,
};
use proto::time::PlantTime;

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// After so long the crew is at the machine.
const CREW_MS: i64 = 2 * HOUR_MS;
const VERSION: &str = "live";

pub struct Live<'a> {
    dataset: &'a Dataset,
    faults: Vec<Degradation>,
    policy: AlertPolicy,
    quality: Quality,
    drift: Option<drift::Watch>,
    block: Option<BlockDrift>,
    tracks: HashMap<(usize, usize), Spoken>,
    /// Newest failure and repair, by machine.
    down: HashMap<usize, (PlantTime, PlantTime)>,
    /// Of ten alerts the crew looks after so many.
    acts_on: usize,
    on_their_way: VecDeque<Visit>,
    /// Machines that were repaired before they failed, and until when the dataset tells of a fault that is no more.
    cured: HashMap<usize, (PlantTime, PlantTime)>,
    truth: Truth,
}

/// What is said of a machine's mode.
#[derive(Default)]
struct Spoken {
    track: Track,
    /// That is open.
    alert: Option<String>,
    /// End of the last window over the threshold of an alert.
    crossed: Option<PlantTime>,
}

struct Visit {
    at: PlantTime,
    alert: String,
    machine: usize,
    /// In [`Live::faults`]; none: there is nothing to find.
    fault: Option<usize>,
}

/// What was true, whether anybody looked or not.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    pub alerts: usize,
    /// Something was there when they opened.
    pub right: usize,
    /// That came, or would have.
    pub failures: usize,
    /// Alerted before, or prevented.
    pub caught: usize,
}

impl Truth {
    pub fn precision(&self) -> f64 {
        self.right as f64 / self.alerts.max(1) as f64
    }

    pub fn recall(&self) -> f64 {
        self.caught as f64 / self.failures.max(1) as f64
    }
}

/// In the dataset, with its mode.
enum Happening {
    Failure(Option<usize>),
    Repair(String),
}

/// What came of it.
pub struct Outcome {
    pub causes: Vec<(PlantTime, Cause)>,
    pub drifted_days: usize,
    pub days: usize,
    pub figures: Figures,
    pub truth: Truth,
}

impl<'a> Live<'a> {
    /// From `from` to the end of the dataset.
    pub fn run(
        config: &SimulatorConfig,
        dataset: &'a Dataset,
        model: &Artifact,
        from: PlantTime,
        (settings, acts_on): (&TriggerSettings, usize),
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
            acts_on,
            on_their_way: VecDeque::new(),
            cured: HashMap::new(),
            truth: Truth::default(),
        };
        let mut rows: Vec<usize> = (0..dataset.rows.len()).filter(|row| dataset.rows[*row].start >= from).collect();
        rows.sort_by_key(|row| dataset.rows[*row].end);
        let said = Said::of(dataset, &rows, model);
        let mut happenings = live.happenings(from).into_iter().peekable();
        let mut trigger = Trigger::new(from);
        let (mut causes, mut day, mut days, mut drifted_days) = (Vec::new(), from, 0, 0);
        for (place, row) in rows.iter().enumerate() {
            let end = dataset.rows[*row].end;
            while let Some((at, machine, happening)) = happenings.next_if(|(at, ..)| *at < end) {
                live.crew(at);
                live.happens(at, machine, happening);
            }
            live.crew(end);
            live.window(*row, &said, place);
            if end >= day.plus_millis(DAY_MS) {
                day = end;
                days += 1;
                live.quality.advance(end);
                drifted_days += usize::from(live.block.as_ref().is_some_and(|block| !block.drifted().is_empty()));
                let drifted: Vec<String> =
                    live.block.iter().flat_map(BlockDrift::of_another_plant).map(|f| f.name.clone()).collect();
                let figures = live.quality.figures(VERSION);
                if let Some(cause) = trigger.due(settings, end, &figures, reference.estimated, &drifted) {
                    trigger.ended(end);
                    causes.push((end, cause));
                }
            }
        }
        Outcome { causes, drifted_days, days, figures: live.quality.figures(VERSION), truth: live.truth }
    }

    /// Failures and repairs, in time.
    fn happenings(&self, from: PlantTime) -> Vec<(PlantTime, usize, Happening)> {
        let mut happenings = Vec::new();
        for (i, machine) in self.dataset.machines.iter().enumerate() {
            happenings.extend(machine.life.failures.iter().map(|f| (f.at, i, Happening::Failure(f.mode))));
            let repair = |r: &dataset::label::Repair| (r.at, i, Happening::Repair(r.mode.clone().unwrap_or_default()));
            happenings.extend(machine.life.repairs.iter().map(repair));
        }
        happenings.retain(|(at, ..)| *at >= from);
        happenings.sort_by_key(|(at, ..)| *at);
        happenings
    }

    fn happens(&mut self, at: PlantTime, machine: usize, happening: Happening) {
        if self.is_cured(machine, at) {
            return;
        }
        let name = &self.dataset.machines[machine].name;
        let down = self.down.entry(machine).or_insert((PlantTime::MIN, PlantTime::MIN));
        match happening {
            Happening::Failure(mode) => {
                let text = mode.map_or("", |mode| self.dataset.modes[mode].as_str());
                let horizon_ms = self.dataset.horizon_ms;
                let spoken = mode.and_then(|mode| self.tracks.get(&(machine, mode)));
                let lately = |spoken: &Spoken| spoken.crossed.is_some_and(|c| at <= c.plus_millis(horizon_ms));
                self.truth.failures += 1;
                self.truth.caught += usize::from(spoken.is_some_and(|s| s.alert.is_some() || lately(s)));
                down.0 = at;
                self.close(at, machine, "");
                self.quality.failed(name, text, at, at, VERSION);
            }
            Happening::Repair(mode) => {
                down.1 = at;
                self.close(at, machine, &mode);
                self.quality.repaired(name, &Repair { mode: &mode, at, known: at, alert_id: "" });
            }
        }
    }

    /// All that was said of the mode, or of all modes, is over.
    fn close(&mut self, at: PlantTime, machine: usize, mode: &str) {
        let modes = &self.dataset.modes;
        let quality = &mut self.quality;
        self.tracks.retain(|(of, i), spoken| {
            let over = *of == machine && (mode.is_empty() || modes[*i] == mode);
            if over && let Some(id) = &spoken.alert {
                quality.closed(id, at);
            } else if *of == machine && spoken.alert.is_none() {
                spoken.track.clear();
            }
            !over
        });
    }

    fn is_cured(&self, machine: usize, at: PlantTime) -> bool {
        self.cured.get(&machine).is_some_and(|(from, until)| (*from..=*until).contains(&at))
    }

    /// Those that are at their machine by `now`.
    fn crew(&mut self, now: PlantTime) {
        while let Some(visit) = self.on_their_way.pop_front_if(|visit| visit.at <= now) {
            self.quality.judged(&visit.alert, visit.fault.is_some(), visit.at);
            let Some(fault) = visit.fault.map(|fault| self.faults[fault].clone()) else { continue };
            let ends = match fault.ending {
                Ending::Failed(end) | Ending::Recovered(end) => end,
                Ending::Open => PlantTime(i64::MAX),
            };
            // It was faster, or somebody was there before.
            if ends <= visit.at || self.is_cured(visit.machine, visit.at) {
                continue;
            }
            let machine = &self.dataset.machines[visit.machine];
            // What the dataset tells up to here is of the fault.
            let failure = machine.life.failures.iter().find(|f| f.at >= visit.at && f.at <= ends);
            let until = failure.map_or(ends, |failure| failure.repaired);
            let fails = usize::from(matches!(fault.ending, Ending::Failed(_)));
            self.truth.failures += fails;
            self.truth.caught += fails;
            self.close(visit.at, visit.machine, "");
            let (mode, at) = (fault.mode.name(), visit.at);
            self.quality.repaired(&machine.name, &Repair { mode, at, known: at, alert_id: &visit.alert });
            self.cured.insert(visit.machine, (visit.at, until));
            self.down.entry(visit.machine).or_insert((PlantTime::MIN, PlantTime::MIN)).1 = until;
        }
    }

    fn window(&mut self, row: usize, said: &Said, place: usize) {
        let of = self.dataset.rows[row];
        if self.is_cured(of.machine, of.end) {
            return;
        }
        let features: Vec<f64> = self.dataset.features(row).iter().map(|v| f64::from(*v)).collect();
        self.block = self.drift.as_mut().and_then(|drift| drift.observe(of.end, &features)).or(self.block.take());
        let mut scored = Vec::new();
        for (mode, said) in said.modes.iter().enumerate() {
            let Some(said) = said else { continue };
            let (probability, threshold) = (said.probabilities[place], said.threshold);
            scored.push((self.dataset.modes[mode].as_str(), probability, threshold));
            self.watch(row, mode, probability / threshold);
        }
        self.quality.scored(VERSION, &self.dataset.machines[of.machine].name, (of.start, of.end), &scored);
    }

    fn watch(&mut self, row: usize, mode: usize, strength: f64) {
        let of = self.dataset.rows[row];
        let (failed, repaired) = self.down.get(&of.machine).copied().unwrap_or((PlantTime::MIN, PlantTime::MIN));
        let spoken = self.tracks.entry((of.machine, mode)).or_default();
        let quiet = self.policy.is_quiet(of.start, failed, repaired);
        let slot = Slot { start: of.start, slide_ms: self.dataset.config.slide_ms(), quiet };
        spoken.track.observe(&self.policy.scores, slot, strength);
        if let Some(id) = spoken.alert.take_if(|_| spoken.track.has_faded(&self.policy.scores)) {
            spoken.track.clear();
            self.quality.closed(&id, of.end);
        } else if spoken.alert.is_some() {
            spoken.crossed = spoken.crossed.max((strength >= 1.0).then_some(of.end));
        } else if spoken.track.opens(&self.policy.scores).is_some() {
            let id = self.truth.alerts.to_string();
            (spoken.alert, spoken.crossed) = (Some(id.clone()), Some(of.end));
            self.alerted(id, of.machine, mode, of.end);
        }
    }

    fn alerted(&mut self, id: String, machine: usize, mode: usize, at: PlantTime) {
        let name = self.dataset.machines[machine].name.clone();
        let goes_on = |fault: &Degradation| match fault.ending {
            Ending::Failed(end) | Ending::Recovered(end) => (fault.onset..=end).contains(&at),
            Ending::Open => fault.onset <= at,
        };
        let fault = self.faults.iter().position(|fault| fault.machine == name && goes_on(fault));
        self.truth.alerts += 1;
        self.truth.right += usize::from(fault.is_some());
        let mode = self.dataset.modes[mode].clone();
        self.quality.alerted(Alerted { id: id.clone(), machine: name, mode, version: VERSION.into(), at });
        // A multiplicative hash: which ones they look after has nothing to do with what is there.
        if self.truth.alerts.wrapping_mul(2_654_435_761) / 7 % 10 < self.acts_on {
            self.on_their_way.push_back(Visit { at: at.plus_millis(CREW_MS), alert: id, machine, fault });
        }
    }
}
