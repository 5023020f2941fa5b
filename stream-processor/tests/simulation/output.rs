//! What a stream has derived, as it is held against what another one has.

use model::features::WindowFeatures;
use proto::{
    archive::{Balance, Shard},
    time::PlantTime,
    wire::{
        alert::{Alert, AlertState},
        prediction::{Prediction, Role},
    },
};
use stream_processor::stream::Derived;

/// Machine, generation and start.
pub type Window = (String, u32, i64);

/// Id, role, version, and probabilities in billionths: how batches are cut into runs shows in the last digits.
pub type Score = (String, Role, String, Vec<i64>);

/// What was derived, as far as it tells one from another.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Output {
    /// With their revisions.
    pub windows: Vec<(Window, u32)>,
    pub predictions: Vec<Score>,
    pub shadows: Vec<Score>,
    /// By id, with state and time.
    pub alerts: Vec<(String, AlertState, i64)>,
    /// By machine and time, with the time at which they became known.
    pub events: Vec<(String, i64, Option<PlantTime>)>,
    pub balance: Balance,
    pub late: u64,
    pub revising: u64,
}

impl Output {
    pub fn add(&mut self, derived: &Derived) {
        let window = |w: &WindowFeatures| ((w.machine.to_string(), w.generation, w.start.millis()), w.revision);
        let told = |p: &Prediction| {
            let probabilities = p.modes.iter().map(|mode| (mode.probability * 1e9).round() as i64).collect();
            (p.id.clone(), p.role(), p.model_version.clone(), probabilities)
        };
        self.windows.extend(derived.windows.iter().map(window));
        self.predictions.extend(derived.predictions.iter().map(told));
        self.shadows.extend(derived.shadows.iter().map(told));
        derived.alerts.iter().for_each(|alert| self.add_alert(alert));
        self.events.extend(derived.events.iter().map(|e| (e.event.machine.clone(), e.event.time_ms, e.known)));
        self.balance += derived.balance;
        self.late += derived.late;
        self.revising += derived.revising;
    }

    pub fn follow(&mut self, later: Output) {
        self.windows.extend(later.windows);
        self.predictions.extend(later.predictions);
        self.shadows.extend(later.shadows);
        self.alerts.extend(later.alerts);
        self.events.extend(later.events);
        self.balance += later.balance;
        self.late += later.late;
        self.revising += later.revising;
    }

    /// Names what differs first.
    pub fn assert_is(&self, expected: &Output, number: u64, shard: Shard) {
        fn same<T: std::fmt::Debug + PartialEq>(found: &[T], expected: &[T], what: &str, at: &str) {
            let differs = (0..found.len().max(expected.len())).find(|n| found.get(*n) != expected.get(*n));
            if let Some(n) = differs {
                panic!("{what} {n} of {at}: {:?} instead of {:?}", found.get(n), expected.get(n));
            }
        }
        let at = format!("manifest {number} of shard {shard}");
        same(&self.windows, &expected.windows, "window", &at);
        same(&self.predictions, &expected.predictions, "prediction", &at);
        same(&self.shadows, &expected.shadows, "shadow", &at);
        same(&self.alerts, &expected.alerts, "alert", &at);
        same(&self.events, &expected.events, "event", &at);
        assert_eq!(self, expected, "{at}");
    }

    pub fn add_alert(&mut self, alert: &Alert) {
        self.alerts.push((alert.id.clone(), alert.state(), alert.updated_ms));
    }
}
