//! What was derived, shown and counted, and put into the segment that is being filled.

use std::{
    collections::HashSet,
    time::{Instant, SystemTime},
};

use proto::wire::alert::{Alert, AlertSource, AlertState};

use super::Engine;
use crate::{
    stream::{Derived, Foreign, Loss, Lost},
    traces::{self, Outcome, Stages, Traced},
};

impl Engine {
    /// Shows and counts what was derived, and puts it into the segment that is being filled.
    pub(super) fn keep(&mut self, mut derived: Derived) {
        for alert in &mut derived.alerts {
            alert.incarnation = self.incarnation;
            self.count_alert(alert);
        }
        derived.losses.iter().for_each(|loss| self.count_loss(loss));
        derived.foreign.iter().for_each(|foreign| self.count_foreign(foreign));
        let metrics = &self.metrics;
        metrics.readings_received.add(derived.balance.readings_taken, &[]);
        metrics.readings_dead_lettered.add(derived.balance.readings_dead_lettered, &[]);
        metrics.readings_late.add(derived.late, &[]);
        metrics.readings_revising.add(derived.revising, &[]);
        let revised = derived.windows.iter().filter(|w| w.revision > 0).count() as u64;
        metrics.windows_closed.add(derived.windows.len() as u64 - revised, &[]);
        metrics.windows_revised.add(revised, &[]);
        metrics.predictions.add(derived.predictions.len() as u64, &[]);
        derived.unscored.iter().for_each(|(version, windows)| metrics.unscored(version, *windows));
        self.watch.see(&derived);
        self.board.publish_windows(&derived.windows);
        self.board.publish_predictions(&derived.predictions);
        if !derived.alerts.is_empty() {
            let number = self.board.publish_alerts(&derived.alerts);
            self.ledger.alerts_up_to(number);
            self.force();
        }
        self.ledger.taken(&derived.balance);
        self.pending.add(derived, self.started.elapsed());
    }

    /// Tells the collector what the traced ones of a run led to.
    pub(super) fn trace(&self, traced: &[Traced], derived: &Derived, stages: Stages) {
        let (clock, now) = (*self.clock.borrow(), (Instant::now(), SystemTime::now()));
        for (traces, traced) in self.traces.iter().flat_map(|traces| traced.iter().map(move |t| (traces, t))) {
            let fleet = self.stream.fleet();
            let machines = fleet.machines_of(&traced.agent).iter().map(|id| fleet.name(*id).as_str());
            let machines: HashSet<&str> = machines.collect();
            let outcome = Outcome {
                windows: derived.windows.iter().filter(|w| machines.contains(w.machine.as_str())).count(),
                alerts: derived.alerts.iter().filter(|alert| machines.contains(alert.machine.as_str())).collect(),
            };
            traces.tell(traces::spans(traced, &outcome, stages, &clock, now));
        }
    }

    fn count_loss(&self, loss: &Loss) {
        let (agent, reason) = (&loss.agent.agent, loss.reason.as_str_name());
        match loss.lost {
            Lost::Batches { from, last_seq } => {
                let (batches, readings) = ((last_seq - from.seq).saturating_add(1), loss.readings);
                tracing::error!(%agent, %from, last_seq, batches, readings, reason, "a gateway declares batches as lost");
                self.metrics.lost(reason, batches, readings);
            }
            Lost::Break { from, to } => {
                let from = from.map_or("nowhere".into(), |from| from.to_string());
                tracing::error!(%agent, from, %to, reason, "a gateway's log goes on elsewhere: its disk or its archive is another");
                self.metrics.log_break(reason);
            }
        }
    }

    fn count_foreign(&mut self, foreign: &Foreign) {
        let Foreign { machine, agent, owner, readings } = foreign;
        self.metrics.readings_foreign.add(*readings, &[]);
        if let Some(unsaid) = self.foreign_errors.says(self.started.elapsed()) {
            let owner = owner.as_ref().map_or("nobody", |owner| owner.agent.as_str());
            let agent = &agent.agent;
            tracing::error!(%machine, %agent, owner, unsaid, "readings of a machine that is another gateway's: they enter no window");
        }
    }

    fn count_alert(&self, alert: &Alert) {
        let source = match alert.source() {
            AlertSource::Model => "model",
            AlertSource::Rule | AlertSource::Unspecified => "rule",
        };
        match alert.state() {
            AlertState::Closed => self.metrics.alert("closed", source),
            AlertState::Open if alert.updated_ms == alert.opened_ms => {
                self.metrics.alert("opened", source);
                let delay_ms = self.plant_now().millis().saturating_sub(alert.opened_ms);
                self.metrics.sensor_to_alert_seconds.record(delay_ms as f64 / 1000.0, &[]);
            }
            _ => {}
        }
    }
}
