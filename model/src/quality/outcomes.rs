//! What came of windows, by the rule of training (`dataset/label.rs`): failures are what they are labelled by, and what was
//! prevented after an alert, or lies between failure and repair, is no label at all.

use std::collections::{BTreeMap, VecDeque};

use proto::{asset::AssetId, time::PlantTime, wire::telemetry::EventKind};
use serde::{Deserialize, Serialize};

use crate::{
    dataset::{
        label::{DOWN_MS_MAX, Label, Labeller},
        warning::{Told, Warnings},
    },
    features::{Answer, Event},
};

/// One window of a machine in so much time is held against its outcome: the others would say the same.
const STEP_MS: i64 = 3_600_000;
/// Of one machine, until they are too old; the oldest beyond it are forgotten.
const HAPPENED_MAX: usize = 256;
/// Alerts of one machine, likewise.
const WARNINGS_MAX: usize = 256;
/// Of all machines, likewise.
const VERDICTS_MAX: usize = 4_096;

/// One window's probabilities, until it is known what came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub version: String,
    pub start: PlantTime,
    pub end: PlantTime,
    pub probabilities: Vec<(String, f64)>,
}

/// What befell a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Happened {
    pub time: PlantTime,
    pub known: PlantTime,
    /// Else it was worked on.
    pub failure: bool,
    pub mode: String,
    /// That the work answers; empty: it names none.
    #[serde(default)]
    pub alert_id: String,
}

/// What people found after an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Judged {
    pub alert_id: String,
    pub right: bool,
    pub known: PlantTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcomes {
    horizon_ms: i64,
    /// Most of what there is, and of a horizon only: a restart begins it anew.
    #[serde(skip)]
    waiting: BTreeMap<AssetId, VecDeque<Waiting>>,
    happened: BTreeMap<AssetId, VecDeque<Happened>>,
    #[serde(default)]
    warnings: Warnings,
    #[serde(default)]
    verdicts: VecDeque<Judged>,
}

impl Outcomes {
    pub fn new(horizon_ms: i64) -> Self {
        let (waiting, happened, warnings, verdicts) = Default::default();
        Outcomes { horizon_ms, waiting, happened, warnings, verdicts }
    }

    pub fn wait(&mut self, machine: &AssetId, window: Waiting) {
        let own = self.waiting.entry(machine.clone()).or_default();
        // Its clock fell back: what it said of later is of no time.
        while own.pop_back_if(|last| last.end > window.end).is_some() {}
        if own.back().is_none_or(|last| window.end.millis() - last.end.millis() >= STEP_MS) {
            own.push_back(window);
        }
    }

    /// An alert has opened, changed or closed.
    pub fn warned(&mut self, told: Told) {
        self.warnings.tell(told);
    }

    pub fn judged(&mut self, judged: Judged) {
        self.verdicts.push_back(judged);
        if self.verdicts.len() > VERDICTS_MAX {
            self.verdicts.pop_front();
        }
    }

    /// Whether it is a failure that nobody had told of yet.
    pub fn happens(&mut self, machine: &AssetId, happened: Happened) -> bool {
        let horizon_ms = self.horizon_ms;
        let own = self.happened.entry(machine.clone()).or_default();
        let failures = |own: &VecDeque<Happened>| {
            let events: Vec<Event> = own.iter().map(|happened| happened.event(machine)).collect();
            Labeller::new(&events, horizon_ms, PlantTime(i64::MAX)).life(machine).failures.len()
        };
        let before = failures(own);
        own.push_back(happened);
        let is_new = failures(own) > before;
        if own.len() > HAPPENED_MAX {
            own.pop_front();
        }
        is_new
    }

    /// Windows whose horizon has passed by `now`, and per mode whether it failed.
    pub fn due(&mut self, now: PlantTime) -> Vec<(Waiting, Vec<bool>)> {
        let due = now.plus_millis(-self.horizon_ms);
        let mut known = Vec::new();
        for (machine, waiting) in &mut self.waiting {
            let over: Vec<Waiting> = std::iter::from_fn(|| waiting.pop_front_if(|w| w.end <= due)).collect();
            if over.is_empty() {
                continue;
            }
            let (happened, warnings) = (self.happened.get(machine), self.warnings.of(machine));
            let happened = || happened.into_iter().flatten();
            let concerns = |id: &str| warnings.names(id) || happened().any(|happened| happened.alert_id == id);
            let verdicts = self.verdicts.iter().filter(|judged| concerns(&judged.alert_id));
            let told = verdicts.map(|judged| judged.event(machine));
            let events: Vec<Event> = happened().map(|happened| happened.event(machine)).chain(told).collect();
            let labeller = Labeller::with_warnings(&events, &warnings, self.horizon_ms, now);
            let life = labeller.life(machine);
            for window in over {
                let Label::Known { fails } = labeller.label(&life, window.start, window.end) else { continue };
                let bit = |mode: &String| labeller.modes().iter().position(|m| m == mode);
                let failed = |(mode, _): &(String, f64)| bit(mode).is_some_and(|bit| fails & (1 << bit) != 0);
                let failed = window.probabilities.iter().map(failed).collect();
                known.push((window, failed));
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        let oldest = due.plus_millis(-self.horizon_ms - DOWN_MS_MAX);
        self.happened.values_mut().for_each(|own| own.retain(|happened| happened.time > oldest));
        self.happened.retain(|_, own| !own.is_empty());
        self.warnings.forget(oldest, self.horizon_ms, WARNINGS_MAX);
        self.verdicts.retain(|judged| judged.known > oldest);
        known
    }

    #[cfg(test)]
    pub fn waiting(&self, machine: &AssetId) -> usize {
        self.waiting.get(machine).map_or(0, VecDeque::len)
    }
}

impl Happened {
    fn event(&self, machine: &AssetId) -> Event {
        Event {
            machine: machine.clone(),
            time: self.time,
            kind: if self.failure { EventKind::Failure } else { EventKind::Maintenance },
            code: String::new(),
            mode: self.mode.clone(),
            answer: Answer::new(&self.alert_id, None),
            known: self.known,
        }
    }
}

impl Judged {
    /// Labels find it by its alert: whose machine that is nobody asks.
    fn event(&self, machine: &AssetId) -> Event {
        Event {
            machine: machine.clone(),
            time: self.known,
            kind: EventKind::Unspecified,
            code: String::new(),
            mode: String::new(),
            answer: Answer::new(&self.alert_id, Some(self.right)),
            known: self.known,
        }
    }
}
