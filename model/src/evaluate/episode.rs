//! What the crew would have seen: the processor's alert policy over a slice, and its alerts held against what happened.
//!
//! Each mode is judged by itself. The processor opens, of several related modes that cross at once, the leading one
//! only; that has no part in here.

use std::ops::AddAssign;

use proto::time::PlantTime;

use crate::{
    dataset::{
        Dataset,
        label::{Failure, Life, Repair},
    },
    policy::{AlertPolicy, Slot, Track},
};

const HOUR_MS: f64 = 3_600_000.0;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    pub failures: usize,
    /// Failures that an alert of their mode came before, at most a horizon.
    pub caught: usize,
    /// Of the caught ones, from the alert to the failure; more than the horizon nobody was promised.
    pub lead_hours: Vec<f64>,
    /// Alerts that no failure of their mode followed; one that stands on counts again with every horizon.
    pub false_alarms: usize,
    pub machine_hours: f64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.failures += other.failures;
        self.caught += other.caught;
        self.lead_hours.extend(other.lead_hours);
        self.false_alarms += other.false_alarms;
        self.machine_hours += other.machine_hours;
    }
}

/// An alert of one machine and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alarm {
    opened: PlantTime,
    /// End of the last window at or above the threshold: up to then it promised a failure.
    crossed: PlantTime,
    /// None: it stands.
    closed: Option<PlantTime>,
}

/// What ends all that was said of a machine's mode before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The mode failed.
    Failed,
    /// Another mode failed, or this one behind a hole in the rows longer than a horizon.
    FailedOtherwise,
    /// Repaired before it failed: nobody knows whether it would have.
    Repaired,
    /// Nothing happened.
    Slice,
}

/// The alerts of one machine and mode by `policy`, held against the machine's failures. `rows`: the machine's, in time;
/// `strengths`: their probabilities in units of the threshold. A failure counts if one of `rows` looks ahead to it.
pub fn tally_machine(
    dataset: &Dataset,
    machine: usize,
    rows: &[usize],
    strengths: &[f64],
    mode: usize,
    policy: &AlertPolicy,
) -> Tally {
    let mut all = Tally::default();
    tally_episodes(dataset, machine, rows, strengths, mode, policy).into_iter().for_each(|episode| all += episode);
    all
}

/// [`tally_machine`] for each stretch of the machine's time that ends with a failure, of whatever mode, or with the rows.
/// Where they are cut does not depend on the mode nor on who scores, so that two models can be compared on the same ones.
pub fn tally_episodes(
    dataset: &Dataset,
    machine: usize,
    rows: &[usize],
    strengths: &[f64],
    mode: usize,
    policy: &AlertPolicy,
) -> Vec<Tally> {
    let slide_ms = dataset.config.slide_ms();
    let life = &dataset.machines[machine].life;
    let mut watch = Watch::new(policy, slide_ms, dataset.horizon_ms);
    let is_seen = |at: PlantTime| dataset.looks_ahead_to(rows, at);
    let mut events = events(life, mode, &dataset.modes[mode]).into_iter().peekable();
    for (row, strength) in rows.iter().map(|row| &dataset.rows[*row]).zip(strengths) {
        while let Some((at, event)) = events.next_if(|(at, _)| *at < row.end) {
            watch.happens(at, event, is_seen(at));
        }
        watch.observe(row.start, row.end, *strength);
    }
    let last = rows.last().map_or(PlantTime::MIN, |row| dataset.rows[*row].end);
    for (at, event) in events.take_while(|(at, _)| *at <= last.plus_millis(dataset.horizon_ms)) {
        watch.happens(at, event, is_seen(at));
    }
    watch.end(last, End::Slice);
    watch.cut();
    watch.episodes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Failure { own: bool },
    Repair { own: bool },
}

/// In time; a failure comes before a repair at the same instant.
fn events(life: &Life, mode: usize, name: &str) -> Vec<(PlantTime, Event)> {
    let failure = |f: &Failure| (f.at, Event::Failure { own: f.mode == Some(mode) });
    let repair = |r: &Repair| (r.at, Event::Repair { own: r.mode.as_ref().is_none_or(|of| of == name) });
    let mut events: Vec<_> = life.failures.iter().map(failure).chain(life.repairs.iter().map(repair)).collect();
    events.sort_by_key(|(at, _)| *at);
    events
}

/// One machine and mode as the processor watches it.
struct Watch<'a> {
    policy: &'a AlertPolicy,
    slide_ms: i64,
    horizon_ms: i64,
    track: Track,
    failed: PlantTime,
    repaired: PlantTime,
    /// Since the last failure or repair; at most the last one stands.
    alarms: Vec<Alarm>,
    /// Of the stretch that runs.
    tally: Tally,
    episodes: Vec<Tally>,
}

impl<'a> Watch<'a> {
    fn new(policy: &'a AlertPolicy, slide_ms: i64, horizon_ms: i64) -> Self {
        let (failed, repaired) = (PlantTime::MIN, PlantTime::MIN);
        let (track, alarms, tally, episodes) = Default::default();
        Watch { policy, slide_ms, horizon_ms, track, failed, repaired, alarms, tally, episodes }
    }

    /// As the processor's desk does it.
    fn observe(&mut self, start: PlantTime, end: PlantTime, strength: f64) {
        self.tally.machine_hours += self.slide_ms as f64 / HOUR_MS;
        let policy = &self.policy.scores;
        let quiet = self.policy.is_quiet(start, self.failed, self.repaired);
        self.track.observe(policy, Slot { start, slide_ms: self.slide_ms, quiet }, strength);
        match self.alarms.last_mut().filter(|a| a.closed.is_none()) {
            Some(alarm) if self.track.has_faded(policy) => {
                alarm.closed = Some(end);
                self.track.clear();
            }
            Some(alarm) if strength >= 1.0 => alarm.crossed = end,
            Some(_) => {}
            None if self.track.opens(policy).is_some() => {
                self.alarms.push(Alarm { opened: end, crossed: end, closed: None });
            }
            None => {}
        }
    }

    fn happens(&mut self, at: PlantTime, event: Event, is_seen: bool) {
        match event {
            Event::Failure { own } => {
                let counts = own && is_seen;
                self.tally.failures += usize::from(counts);
                self.end(at, if counts { End::Failed } else { End::FailedOtherwise });
                self.failed = at;
                self.cut();
            }
            Event::Repair { own } => {
                if own {
                    self.end(at, End::Repaired);
                } else if self.alarms.last().is_none_or(|a| a.closed.is_some()) {
                    self.track.clear();
                }
                self.repaired = at;
            }
        }
    }

    /// Begins a new stretch. One without a window belongs to the one before it, so that the cuts are the same for every
    /// mode; before the first window nothing counts.
    fn cut(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        if tally.machine_hours > 0.0 {
            self.episodes.push(tally);
        } else if let Some(last) = self.episodes.last_mut() {
            *last += tally;
        }
    }

    /// Judges the alarms since the last end.
    fn end(&mut self, at: PlantTime, end: End) {
        self.track.clear();
        let mut lead_ms = None;
        for alarm in std::mem::take(&mut self.alarms) {
            let is_due = alarm.closed.is_none() || at <= alarm.crossed.plus_millis(self.horizon_ms);
            // A standing alarm renews its promise: each horizon that passed was one broken.
            let stood_ms = alarm.closed.map_or(at, |closed| closed.min(at)).millis() - alarm.opened.millis();
            self.tally.false_alarms += ((stood_ms - 1).max(0) / self.horizon_ms) as usize;
            match end {
                End::Failed if is_due => {
                    let lead = (at.millis() - alarm.opened.millis()).min(self.horizon_ms);
                    lead_ms = lead_ms.or(Some(lead));
                }
                End::Repaired if is_due => {}
                _ => self.tally.false_alarms += 1,
            }
        }
        if let Some(lead) = lead_ms {
            self.tally.caught += 1;
            self.tally.lead_hours.push(lead as f64 / HOUR_MS);
        }
    }
}

#[cfg(test)]
mod tests;
