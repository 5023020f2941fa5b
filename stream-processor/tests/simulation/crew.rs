//! People: they acknowledge alerts, record events, and call again with the same request until they have an answer.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use proto::{
    time::PlantTime,
    wire::telemetry::{EventKind, EventRecord, Verdict},
};
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// After so long without an answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const CALLS_MAX: usize = 20;

#[derive(Debug, Clone)]
pub enum Ask {
    Acknowledge { alert: String },
    Record { event: EventRecord },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// At this time.
    Acknowledged(i64),
    Recorded,
    /// There is no such alert.
    Refused,
}

#[derive(Debug)]
pub struct Call {
    pub request: String,
    pub ask: Ask,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    asked_at: Duration,
    answer: Option<Answer>,
    /// Somebody presses the button once more.
    again: bool,
}

impl Call {
    pub fn answer(&self, answer: Answer) {
        let mut state = self.state.borrow_mut();
        let before = state.answer.get_or_insert_with(|| answer.clone());
        // One that was refused by a processor of the past may have been taken by another.
        let same = *before == answer || *before == Answer::Refused || answer == Answer::Refused;
        assert!(same, "{}: {before:?}, and then {answer:?}", self.request);
        *before = answer;
    }

    pub fn answered(&self) -> Option<Answer> {
        self.state.borrow().answer.clone()
    }
}

#[derive(Default)]
pub struct Crew {
    pub calls: Vec<Rc<Call>>,
}

impl Crew {
    /// Somebody may want something of these alerts and machines.
    pub fn think(&mut self, alerts: &BTreeSet<String>, machines: &[String], at: PlantTime, rng: &mut ChaCha8Rng) {
        let Some(machine) = machines.choose(rng).filter(|_| self.calls.len() < CALLS_MAX && rng.random_bool(0.05))
        else {
            return;
        };
        let alerts: Vec<&String> = alerts.iter().collect();
        let ask = match (alerts.choose(rng), rng.random_range(0..3)) {
            (Some(alert), 0..2) => Ask::Acknowledge { alert: (*alert).clone() },
            (alert, _) => {
                let about = alert.filter(|_| rng.random_bool(0.5)).map(|alert| (*alert).clone());
                let verdict = if about.is_some() { Verdict::FalseAlarm } else { Verdict::Unspecified };
                let event = EventRecord {
                    machine: machine.clone(),
                    time_ms: at.millis(),
                    kind: EventKind::Maintenance.into(),
                    author: "crew".into(),
                    alert_id: about.unwrap_or_default(),
                    verdict: verdict.into(),
                    ..Default::default()
                };
                Ask::Record { event }
            }
        };
        let state = State { again: rng.random_bool(0.3), ..State::default() };
        let request = format!("r{}", self.calls.len());
        self.calls.push(Rc::new(Call { request, ask, state: RefCell::new(state) }));
    }

    /// Calls that go out now.
    pub fn due(&self, now: Duration) -> Vec<Rc<Call>> {
        let due = |call: &&Rc<Call>| {
            let mut state = call.state.borrow_mut();
            if state.asked_at > Duration::ZERO && now < state.asked_at + AGAIN_AFTER {
                return false;
            }
            let due = state.answer.is_none() || std::mem::take(&mut state.again);
            if due {
                state.asked_at = now;
            }
            due
        };
        self.calls.iter().filter(due).cloned().collect()
    }

    pub fn is_done(&self) -> bool {
        self.calls.iter().all(|call| call.answered().is_some())
    }
}
