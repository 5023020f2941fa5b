//! Which work came of an alert: what would have failed without it nobody knows.
//!
//! Training asks this of the archive, and the realised figures of what the stream tells; so that both have the same
//! answer, both ask here. An alert is never a label: it only says what is none.

use std::collections::{BTreeMap, HashMap};

use proto::{asset::AssetId, time::PlantTime, wire::telemetry::EventKind};
use serde::{Deserialize, Serialize};

use crate::features::Event;

/// One change of an alert.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub id: &'a str,
    pub machine: &'a AssetId,
    /// None: of a rule, which can't tell the mode.
    pub mode: Option<&'a str>,
    pub at: PlantTime,
    pub closed: bool,
}

/// An alert: from when to when it spoke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    id: String,
    mode: Option<String>,
    opened: PlantTime,
    /// The last change of it before it was closed.
    said: PlantTime,
    /// None: it stands.
    closed: Option<PlantTime>,
}

/// The alerts of each machine, in the order in which they were told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Warnings(BTreeMap<AssetId, Vec<Warning>>);

/// Whether an alert that spoke last at `said` still warns at `at`: it stands, or a horizon has not passed since.
pub fn is_due(said: PlantTime, closed: Option<PlantTime>, at: PlantTime, horizon_ms: i64) -> bool {
    closed.is_none_or(|closed| at <= closed) || at <= said.plus_millis(horizon_ms)
}

impl Warning {
    /// An empty mode is one that nobody named.
    fn is_of(&self, mode: &str) -> bool {
        mode.is_empty() || self.mode.as_ref().is_none_or(|own| own == mode)
    }

    fn is_over(&self, at: PlantTime, horizon_ms: i64) -> bool {
        !is_due(self.said, self.closed, at, horizon_ms)
    }
}

impl Warnings {
    /// Told again, it is the same one.
    pub fn tell(&mut self, told: Told) {
        let own = self.0.entry(told.machine.clone()).or_default();
        let warning = match own.iter_mut().rev().find(|w| w.id == told.id) {
            Some(warning) => warning,
            None => own.push_mut(Warning {
                id: told.id.into(),
                mode: told.mode.map(String::from),
                opened: told.at,
                said: told.at,
                closed: None,
            }),
        };
        warning.opened = warning.opened.min(told.at);
        match told.closed {
            true => warning.closed = Some(told.at),
            false => warning.said = warning.said.max(told.at),
        }
    }

    /// Those of one machine alone.
    pub fn of(&self, machine: &AssetId) -> Self {
        Warnings(self.0.get_key_value(machine).map(|(name, own)| (name.clone(), own.clone())).into_iter().collect())
    }

    /// Whether this alert is among them.
    pub fn names(&self, alert_id: &str) -> bool {
        self.0.values().flatten().any(|warning| warning.id == alert_id)
    }

    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps so many of a machine, the newest, and of them those that may still warn at `oldest`.
    pub fn forget(&mut self, oldest: PlantTime, horizon_ms: i64, per_machine: usize) {
        for own in self.0.values_mut() {
            own.drain(..own.len().saturating_sub(per_machine));
            own.retain(|warning| !warning.is_over(oldest, horizon_ms));
        }
        self.0.retain(|_, own| !own.is_empty());
    }

    /// When work was done on each machine that an alert came before, as `events` tell it, which are in time. Work that
    /// names its alert answers that one; other work answers what warned of its mode when it was done. An alert ends
    /// with the first failure or work that it came before; and where the newest `verdicts` say that nothing was there,
    /// nothing was prevented.
    pub fn prevented(
        &self,
        events: &[&Event],
        verdicts: &Verdicts,
        horizon_ms: i64,
    ) -> BTreeMap<AssetId, Vec<PlantTime>> {
        let mut prevented: BTreeMap<AssetId, Vec<PlantTime>> = BTreeMap::new();
        let was_nothing = |id: &str| verdicts.of(id) == Some(false);
        let mut open: BTreeMap<&AssetId, Vec<&Warning>> =
            self.0.iter().map(|(machine, own)| (machine, own.iter().collect())).collect();
        for event in events {
            let (at, mode) = (event.time, event.mode.as_str());
            let mut none = Vec::new();
            let warnings = open.get_mut(&event.machine).unwrap_or(&mut none);
            match event.kind {
                EventKind::Failure => warnings.retain(|w| w.opened > at),
                EventKind::Maintenance | EventKind::Replacement => {
                    let warns = |w: &&&Warning| w.opened <= at && w.is_of(mode) && !w.is_over(at, horizon_ms);
                    let answers = match &event.answer {
                        Some(answer) => !was_nothing(&answer.alert_id),
                        None => warnings.iter().filter(warns).any(|w| !was_nothing(&w.id)),
                    };
                    if answers {
                        prevented.entry(event.machine.clone()).or_default().push(at);
                    }
                    let named = event.answer.as_ref().map(|answer| answer.alert_id.as_str());
                    warnings.retain(|w| w.opened > at || !(w.is_of(mode) || named == Some(&w.id)));
                }
                EventKind::Error | EventKind::Unspecified => {}
            }
        }
        prevented
    }
}

/// What people found, by alert. The newest word counts, once.
#[derive(Debug, Default)]
pub struct Verdicts<'a>(HashMap<&'a str, (PlantTime, bool)>);

impl<'a> Verdicts<'a> {
    /// Of what was known at `as_of`.
    pub fn of_events(events: &'a [Event], as_of: PlantTime) -> Self {
        let mut verdicts = Verdicts::default();
        for event in events.iter().filter(|e| e.known <= as_of) {
            let Some(answer) = &event.answer else { continue };
            let Some(right) = answer.right else { continue };
            let newest = verdicts.0.entry(&answer.alert_id).or_insert((event.known, right));
            if newest.0 <= event.known {
                *newest = (event.known, right);
            }
        }
        verdicts
    }

    fn of(&self, alert_id: &str) -> Option<bool> {
        self.0.get(alert_id).map(|(_, right)| *right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Answer;

    const HOUR: i64 = 3_600_000;
    const HORIZON: i64 = 24 * HOUR;

    fn at(hour: i64) -> PlantTime {
        PlantTime(hour * HOUR)
    }

    fn machine() -> AssetId {
        AssetId::new("m").unwrap()
    }

    fn event(hour: i64, kind: EventKind, mode: &str, answer: Option<Box<Answer>>) -> Event {
        let (time, mode) = (at(hour), mode.into());
        Event { machine: machine(), time, kind, code: String::new(), mode, answer, known: time }
    }

    /// That names no alert.
    fn work(hour: i64, mode: &str) -> Event {
        event(hour, EventKind::Maintenance, mode, None)
    }

    fn verdict(known: i64, alert: &str, right: bool) -> Event {
        event(known, EventKind::Unspecified, "", Answer::new(alert, Some(right)))
    }

    /// One of mode `slip` at hour 10 that is told once more at 12 and closed at 20, and one of a rule from hour 200 on.
    fn warnings() -> Warnings {
        let (mut warnings, machine) = (Warnings::default(), machine());
        let slip = Told { id: "a", machine: &machine, mode: Some("slip"), at: at(10), closed: false };
        let rule = Told { id: "rule", mode: None, at: at(200), ..slip };
        for told in [slip, Told { at: at(12), ..slip }, Told { at: at(20), closed: true, ..slip }, rule, slip] {
            warnings.tell(told);
        }
        assert_eq!(warnings.len(), 2, "told again, it is the same one");
        warnings
    }

    /// Hours of the work that prevented what nobody knows.
    fn prevented(events: &[Event], as_of: i64) -> Vec<i64> {
        let mut in_time: Vec<&Event> = events.iter().filter(|e| e.known <= at(as_of)).collect();
        in_time.sort_by_key(|e| e.time);
        let verdicts = Verdicts::of_events(events, at(as_of));
        let prevented = warnings().prevented(&in_time, &verdicts, HORIZON).remove(&machine()).unwrap_or_default();
        prevented.into_iter().map(|at| at.millis() / HOUR).collect()
    }

    #[test]
    fn work_that_names_no_alert_answers_what_warned_of_its_mode() {
        for (hour, mode, answers) in [
            (9, "slip", false),
            (10, "slip", true),
            (15, "", true),
            (15, "heat", false),
            (36, "slip", true),
            (37, "slip", false),
            (300, "heat", true),
        ] {
            assert_eq!(!prevented(&[work(hour, mode)], 1_000).is_empty(), answers, "at {hour} of `{mode}`");
        }
    }

    #[test]
    fn an_alert_ends_with_what_it_came_before() {
        assert_eq!(prevented(&[work(14, "heat"), work(15, "slip"), work(16, "slip")], 1_000), [15]);
        let failed = event(13, EventKind::Failure, "slip", None);
        assert_eq!(prevented(&[failed, work(15, "slip")], 1_000), [0; 0], "repaired, not prevented");
        let named = event(12, EventKind::Replacement, "heat", Answer::new("a", None));
        assert_eq!(prevented(&[named, work(15, "slip")], 1_000), [12]);
    }

    #[test]
    fn of_several_verdicts_on_one_alert_the_newest_known_one_counts_once() {
        let named = |hour, right| event(hour, EventKind::Maintenance, "slip", Answer::new("a", right));
        let nothing = [0; 0];
        assert_eq!(prevented(&[named(15, Some(true)), named(16, Some(false))], 1_000), nothing, "of both visits");
        assert_eq!(prevented(&[named(15, Some(true)), named(16, Some(false))], 15), [15], "as it was known then");
        assert_eq!(prevented(&[work(15, "slip"), verdict(17, "a", false)], 1_000), nothing);
        let again = [work(15, "slip"), verdict(18, "a", true), verdict(17, "a", false)];
        assert_eq!(prevented(&again, 1_000), [15], "whatever order they come in");
        assert_eq!(prevented(&again, 17), nothing);
    }

    #[test]
    fn what_is_over_is_forgotten_and_no_machine_has_more_than_its_share() {
        let mut kept = warnings();
        kept.forget(at(36), HORIZON, 10);
        assert_eq!(kept.len(), 2);
        kept.forget(at(37), HORIZON, 10);
        assert!(kept.names("rule") && !kept.names("a"), "one that stands is not over");
        let mut few = warnings();
        few.forget(at(0), HORIZON, 1);
        assert!(few.names("rule") && few.len() == 1, "the newest");
    }
}
