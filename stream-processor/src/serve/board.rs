//! What everybody outside may know: written by the engine in short locked steps, read by any number of clients.
//!
//! Readers follow by a cursor into a bounded ring and never hold anything back: one that is slower than the ring finds
//! out that it missed events, and the writer never notices it.

mod ring;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use model::features::{SensorWindow, WindowFeatures};
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::{
        alert::{Alert, AlertState},
        prediction::Prediction,
        telemetry::MachineInfo,
    },
};
use serde::Serialize;
use tokio::sync::watch;

use crate::{decode::AgentKey, watch::report::ModelReport};
use ring::Ring;
pub use ring::Since;

pub const CLOSED_ALERTS_MAX: usize = 1_000;
pub const ALERT_EVENTS_MAX: usize = 4_096;
pub const PREDICTION_EVENTS_MAX: usize = 8_192;

/// Shared by cloning.
#[derive(Clone)]
pub struct Board {
    view: Arc<RwLock<View>>,
    alerts_changed: watch::Sender<Cursor>,
    predictions_changed: watch::Sender<Cursor>,
    ready: watch::Sender<bool>,
}

/// A place in the events of one incarnation. As text it is a resume token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    pub incarnation: u64,
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a resume token is `<incarnation>-<number>`")]
pub struct InvalidToken;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.incarnation, self.number)
    }
}

impl FromStr for Cursor {
    type Err = InvalidToken;
    fn from_str(token: &str) -> Result<Self, InvalidToken> {
        let (incarnation, number) = token.split_once('-').ok_or(InvalidToken)?;
        let parse = |digits: &str| digits.parse().map_err(|_| InvalidToken);
        Ok(Cursor { incarnation: parse(incarnation)?, number: parse(number)? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ProcessorState {
    /// No champion yet: rules alert.
    Learning,
    Live {
        model_version: String,
    },
}

/// What has to work before the processor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Broker,
    Archive,
    Recovery,
}

/// What the process is busy with before it is live: history, training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activity {
    pub text: String,
    /// 0..1.
    pub done: f64,
}

/// All that is known now. Only the engine changes it, through [`Board`].
#[derive(Debug)]
pub struct View {
    pub incarnation: u64,
    pub state: ProcessorState,
    pub activity: Option<Activity>,
    /// How good the model in charge is.
    pub model: Option<Arc<ModelReport>>,
    pub plant_time: PlantTime,
    pub machines: BTreeMap<String, Arc<MachineEntry>>,
    /// Open and acknowledged, by id.
    pub open: BTreeMap<String, Arc<Alert>>,
    /// Newest last.
    pub closed: VecDeque<Arc<Alert>>,
    /// By alert, the number of the event in which it was last told before its commit.
    provisional: BTreeMap<String, u64>,
    /// Why a part is not ready; those that are, are not here.
    pub waiting: BTreeMap<Part, String>,
    /// Counts every change of a machine, so that a reader can ask for what is new.
    pub version: u64,
    alert_events: Ring<Alert>,
    prediction_events: Ring<Prediction>,
}

#[derive(Debug, Clone, Default)]
pub struct MachineEntry {
    pub machine: String,
    /// Empty: no gateway has said it.
    pub kind: String,
    pub agent: Option<AgentKey>,
    /// End of the newest closed window, of this generation.
    pub window_end: Option<PlantTime>,
    pub generation: u32,
    pub sensors: Vec<SensorWindow>,
    pub prediction: Option<Arc<Prediction>>,
    pub version: u64,
}

/// What a reader takes out of the lock, to work on it for as long as it likes: nothing in it is copied but references.
#[derive(Debug, Clone)]
pub struct Glance {
    pub state: ProcessorState,
    pub ready: bool,
    pub activity: Option<Activity>,
    pub model: Option<Arc<ModelReport>>,
    pub plant_time: PlantTime,
    pub machines: Vec<Arc<MachineEntry>>,
    /// Open and acknowledged.
    pub open: Vec<Arc<Alert>>,
    pub version: u64,
    pub alerts: Cursor,
}

impl Default for Board {
    fn default() -> Self {
        let starting = || "starting".to_string();
        let view = View {
            incarnation: 0,
            state: ProcessorState::Learning,
            activity: None,
            model: None,
            plant_time: PlantTime(0),
            machines: BTreeMap::new(),
            open: BTreeMap::new(),
            closed: VecDeque::new(),
            provisional: BTreeMap::new(),
            waiting: [Part::Broker, Part::Archive, Part::Recovery].map(|part| (part, starting())).into(),
            version: 0,
            alert_events: Ring::new(ALERT_EVENTS_MAX),
            prediction_events: Ring::new(PREDICTION_EVENTS_MAX),
        };
        Board {
            view: Arc::new(RwLock::new(view)),
            alerts_changed: watch::Sender::new(Cursor::default()),
            predictions_changed: watch::Sender::new(Cursor::default()),
            ready: watch::Sender::new(false),
        }
    }
}

/// For the engine.
impl Board {
    pub fn new() -> Self {
        Self::default()
    }

    /// A new incarnation has recovered: what is in neither list is void, and every stream is told so. `closed`: oldest first.
    pub fn begin(&self, incarnation: u64, open: Vec<Alert>, closed: Vec<Alert>) {
        let mut view = self.write();
        view.incarnation = incarnation;
        // They come out of a manifest, and it is this incarnation that vouches for them now.
        let ours = |alert| Alert { incarnation, provisional: false, ..alert };
        view.open = open.into_iter().map(|alert| (alert.id.clone(), Arc::new(ours(alert)))).collect();
        view.closed = closed.into_iter().map(|alert| Arc::new(ours(alert))).collect();
        view.provisional.clear();
        view.alert_events = Ring::new(ALERT_EVENTS_MAX);
        view.prediction_events = Ring::new(PREDICTION_EVENTS_MAX);
        view.version += 1;
        self.alerts_changed.send_replace(view.alert_cursor());
        self.predictions_changed.send_replace(view.prediction_cursor());
    }

    /// What earlier incarnations learnt: name, kind and agent. Windows and predictions come as they close.
    pub fn recall<'a>(&self, known: impl Iterator<Item = (&'a AssetId, Option<&'a AssetId>, Option<&'a AgentKey>)>) {
        let mut view = self.write();
        for (machine, kind, agent) in known {
            let entry = view.touch(machine.as_str());
            entry.kind = kind.map(AssetId::to_string).unwrap_or_default();
            entry.agent = agent.cloned();
        }
    }

    /// What an agent said it has.
    pub fn introduce(&self, agent: &AgentKey, machines: &[MachineInfo]) {
        let mut view = self.write();
        for info in machines {
            let entry = view.touch(&info.machine);
            entry.kind.clone_from(&info.kind);
            entry.agent = Some(agent.clone());
        }
    }

    pub fn publish_windows(&self, windows: &[WindowFeatures]) {
        let mut view = self.write();
        for window in windows {
            let entry = view.touch(window.machine.as_str());
            if (entry.generation, entry.window_end) <= (window.generation, Some(window.end)) {
                entry.generation = window.generation;
                entry.kind = window.kind.to_string();
                entry.window_end = Some(window.end);
                entry.sensors.clone_from(&window.sensors);
            }
        }
    }

    pub fn publish_predictions(&self, predictions: &[Prediction]) {
        let mut view = self.write();
        for prediction in predictions {
            let prediction = Arc::new(prediction.clone());
            let entry = view.touch(&prediction.machine);
            let place = |p: &Prediction| (p.generation, p.window_end_ms);
            if entry.prediction.as_ref().is_none_or(|last| place(last) <= place(&prediction)) {
                entry.prediction = Some(prediction.clone());
            }
            view.prediction_events.push(prediction);
        }
        self.predictions_changed.send_replace(view.prediction_cursor());
    }

    /// Returns the number of the last event, for [`Self::confirm_alerts`] after its commit.
    pub fn publish_alerts(&self, alerts: &[Alert]) -> u64 {
        let mut view = self.write();
        alerts.iter().for_each(|alert| view.publish_alert(alert.clone()));
        self.alerts_changed.send_replace(view.alert_cursor());
        view.alert_cursor().number
    }

    /// The manifest that holds the events up to this number is in S3: their alerts are no longer provisional.
    pub fn confirm_alerts(&self, up_to: u64) {
        let mut view = self.write();
        let committed = view.provisional.iter().filter(|(_, number)| **number <= up_to);
        let mut committed: Vec<(u64, String)> = committed.map(|(id, number)| (*number, id.clone())).collect();
        committed.sort_unstable();
        for (_, id) in committed {
            // Unless it closed so long ago that it is not shown any more.
            match view.alert(&id) {
                Some(alert) => view.publish_alert(Alert { provisional: false, ..Alert::clone(&alert) }),
                None => drop(view.provisional.remove(&id)),
            }
        }
        self.alerts_changed.send_replace(view.alert_cursor());
    }

    /// A person's acknowledgement is in S3: shown on the alert as it stands now, unless it has closed since.
    pub fn acknowledged(&self, by: &Alert) {
        let mut view = self.write();
        let Some(now) = view.open.get(&by.id).map(|alert| Alert::clone(alert)) else { return };
        view.publish_alert(Alert {
            state: by.state,
            acknowledged_by: by.acknowledged_by.clone(),
            acknowledged_note: by.acknowledged_note.clone(),
            acknowledged_ms: by.acknowledged_ms,
            updated_ms: now.updated_ms.max(by.updated_ms),
            ..now
        });
        self.alerts_changed.send_replace(view.alert_cursor());
    }

    pub fn set_state(&self, state: ProcessorState) {
        self.write().state = state;
    }

    pub fn set_activity(&self, activity: Option<Activity>) {
        self.write().activity = activity;
    }

    pub fn set_model(&self, report: Option<ModelReport>) {
        self.write().model = report.map(Arc::new);
    }

    pub fn set_plant_time(&self, now: PlantTime) {
        self.write().plant_time = now;
    }

    /// `waiting`: why the part is not ready.
    pub fn set_part(&self, part: Part, waiting: Option<String>) {
        let mut view = self.write();
        match waiting {
            Some(reason) => view.waiting.insert(part, reason),
            None => view.waiting.remove(&part),
        };
        // Looked at many times a second: only a change is news.
        let ready = view.waiting.is_empty();
        self.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
    }

    /// A panic elsewhere can't leave a step half done that matters here: every value is replaced whole.
    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For readers.
impl Board {
    /// Keep it short, the engine waits for it: to write something out, take a [`View::glance`] first.
    pub fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn follow_alerts(&self) -> watch::Receiver<Cursor> {
        self.alerts_changed.subscribe()
    }

    pub fn follow_predictions(&self) -> watch::Receiver<Cursor> {
        self.predictions_changed.subscribe()
    }

    pub fn follow_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

impl View {
    fn touch(&mut self, machine: &str) -> &mut MachineEntry {
        self.version += 1;
        let entry = self.machines.entry(machine.into()).or_default();
        // A copy only where a reader still works on it.
        let entry = Arc::make_mut(entry);
        machine.clone_into(&mut entry.machine);
        entry.version = self.version;
        entry
    }

    fn alert(&self, id: &str) -> Option<Arc<Alert>> {
        self.open.get(id).or_else(|| self.closed.iter().rev().find(|alert| alert.id == id)).cloned()
    }

    fn publish_alert(&mut self, alert: Alert) {
        let alert = Arc::new(alert);
        self.touch(&alert.machine);
        self.closed.retain(|closed| closed.id != alert.id);
        if alert.state() == AlertState::Closed {
            self.open.remove(&alert.id);
            self.closed.push_back(alert.clone());
            let surplus = self.closed.len().saturating_sub(CLOSED_ALERTS_MAX);
            self.closed.drain(..surplus);
        } else {
            self.open.insert(alert.id.clone(), alert.clone());
        }
        let (id, provisional) = (alert.id.clone(), alert.provisional);
        self.alert_events.push(alert);
        match provisional {
            true => drop(self.provisional.insert(id, self.alert_events.last())),
            false => drop(self.provisional.remove(&id)),
        }
    }

    /// Machines: those that changed after this version, or all.
    pub fn glance(&self, after: Option<u64>) -> Glance {
        let changed = |entry: &&Arc<MachineEntry>| after.is_none_or(|version| entry.version > version);
        Glance {
            state: self.state.clone(),
            ready: self.waiting.is_empty(),
            activity: self.activity.clone(),
            model: self.model.clone(),
            plant_time: self.plant_time,
            machines: self.machines.values().filter(changed).cloned().collect(),
            open: self.open.values().cloned().collect(),
            version: self.version,
            alerts: self.alert_cursor(),
        }
    }

    /// The open ones and, if asked for, the closed ones, newest first.
    pub fn alerts(&self, include_closed: bool) -> (Vec<Arc<Alert>>, Vec<Arc<Alert>>) {
        let closed = self.closed.iter().rev().filter(|_| include_closed);
        (self.open.values().cloned().collect(), closed.cloned().collect())
    }

    pub fn alert_cursor(&self) -> Cursor {
        Cursor { incarnation: self.incarnation, number: self.alert_events.last() }
    }

    pub fn prediction_cursor(&self) -> Cursor {
        Cursor { incarnation: self.incarnation, number: self.prediction_events.last() }
    }

    pub fn alerts_since(&self, cursor: Cursor) -> Since<Alert> {
        self.since(&self.alert_events, cursor)
    }

    pub fn predictions_since(&self, cursor: Cursor) -> Since<Prediction> {
        self.since(&self.prediction_events, cursor)
    }

    fn since<T>(&self, ring: &Ring<T>, cursor: Cursor) -> Since<T> {
        if cursor.incarnation == self.incarnation { ring.since(cursor.number) } else { Since::Other }
    }
}

#[cfg(test)]
mod tests;
