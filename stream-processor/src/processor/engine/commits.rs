//! What has to be in S3 first: segments, what people ask for, a change of model; and what follows once it is there.

use proto::wire::alert::Alert;

use super::{Engine, EngineError, SETTLES_AFTER};
use crate::{
    alert::AcknowledgeError,
    archive::{self, End, Segment},
    processor::ledger::Answer,
    serve::{
        board::{Part, ProcessorState},
        command::{Command, CommandError},
    },
    stream::Derived,
};

impl Engine {
    /// Somebody waits for the commit. While S3 is away that would only fill staging with small segments.
    pub(super) fn force(&mut self) {
        if self.archive.status().borrow().up {
            self.pending.force(self.started.elapsed());
        }
    }

    /// What people ask for changes the state now, and is answered and shown after its commit.
    pub(super) fn obey(&mut self, command: Command) -> Result<(), EngineError> {
        let now = self.plant_now();
        match command {
            Command::Acknowledge { alert_id, author, note, request_id, reply } => {
                if let Some(alert) = self.stream.requests.acknowledged(&request_id) {
                    let alert = Alert { incarnation: self.incarnation, ..alert.clone() };
                    self.ledger.answer(Answer::Acknowledged(Box::new(alert), reply));
                } else {
                    match self.stream.acknowledge(&alert_id, &author, &note, now) {
                        Err(e) => drop(reply.send(Err(refusal(e)))),
                        Ok(mut alert) => {
                            alert.incarnation = self.incarnation;
                            alert.provisional = false;
                            self.stream.requests.remember_acknowledged(request_id, &alert);
                            let derived = Derived { alerts: vec![alert.clone()], ..Derived::default() };
                            self.pending.add(derived, self.started.elapsed());
                            self.ledger.show(alert.clone());
                            self.ledger.answer(Answer::Acknowledged(Box::new(alert), reply));
                        }
                    }
                }
            }
            Command::Record { event, request_id, reply } => {
                if self.stream.requests.recorded(&request_id) {
                    self.ledger.answer(Answer::Recorded(reply));
                } else if self.stream.sees_events() && !self.can_enter() {
                    let reason = "the archive does not take it now; say it again".into();
                    drop(reply.send(Err(CommandError::Unavailable(reason))));
                } else {
                    let derived = self.stream.record(event, now);
                    self.stream.requests.remember_recorded(request_id);
                    self.keep(derived);
                    self.ledger.answer(Answer::Recorded(reply));
                    if self.stream.sees_events() {
                        self.ledger.recorded();
                        // Windows that see it wait for it.
                        self.submit()?;
                    }
                }
            }
        }
        self.force();
        Ok(())
    }

    /// What is entered now can be expected to be in S3 soon.
    fn can_enter(&self) -> bool {
        self.held.is_none() && self.archive.room() && self.archive.status().borrow().up
    }

    /// Cuts the barrier: everything taken so far, and the state after it.
    pub(super) fn submit(&mut self) -> Result<(), EngineError> {
        if self.pending.is_empty() || self.held.is_some() || !self.archive.room() {
            return Ok(());
        }
        // Beside an S3 that is away it could only make windows wait.
        if self.archive.status().borrow().up && self.now() >= SETTLES_AFTER {
            self.stream.settle();
        }
        let snapshot = self.stream.snapshot_with(&self.intake.left(), self.watch.watching())?;
        let segment = Segment { content: self.pending.take(), snapshot, positions: self.intake.positions() };
        self.ledger.submitted();
        if self.stream.has_entered() {
            self.models.submitted(self.ledger.segments());
        }
        self.archive.submit(segment).map_err(|_| EngineError::Archive)
    }

    /// Enters the model that was offered. Its line is drawn at the barrier, so it gets a segment at once, and only when that
    /// can be expected to be in S3 soon.
    pub(super) fn change_model(&mut self) -> Result<(), EngineError> {
        let Some(charge) = self.models.offer(self.stream.schedule()) else { return Ok(()) };
        if !self.can_enter() || !self.stream.enter(&charge, self.plant_now()) {
            return Ok(());
        }
        let trial = charge.trial.as_ref().map(|trial| trial.version.as_str());
        tracing::info!(version = charge.version, trial, "the model is entered");
        self.models.keep_offered();
        self.pending.force(self.now());
        self.submit()
    }

    /// The archive has moved: acks, answers, alerts that are certain now; and who judges which windows.
    pub(super) fn archived(&mut self) -> Result<(), EngineError> {
        let status = self.archive.status().borrow().clone();
        match &status.end {
            None => {}
            Some(End::Fenced) => return Err(EngineError::Fenced),
            Some(End::Closed(into)) => return Err(EngineError::Closed { successors: archive::text(into) }),
            Some(End::Failed) => return Err(EngineError::Archive),
        }
        self.acks.committed(&status.committed);
        if self.models.committed(status.committed_segments) {
            self.stream.in_force();
            self.model_in_charge();
        }
        let confirmed = self.ledger.committed(status.committed_segments);
        self.stream.recorded(confirmed.records);
        self.metrics.readings_archived.add(confirmed.readings, &[]);
        self.metrics.batches_committed.add(confirmed.batches, &[]);
        if let Some(number) = confirmed.alerts_up_to {
            self.board.confirm_alerts(number);
        }
        confirmed.acknowledged.iter().for_each(|alert| self.board.acknowledged(alert));
        self.metrics.staged_bytes.record(status.staged_bytes, &[]);
        self.metrics.staged_segments.record(status.staged_segments, &[]);
        self.metrics.manifest.record(status.manifest, &[]);
        self.board.set_part(Part::Archive, (!status.up).then(|| "S3 does not answer".into()));
        match self.held.take() {
            Some(held) => self.judge(held),
            None => Ok(()),
        }
    }

    pub(super) fn model_in_charge(&mut self) {
        let version = self.models.follow(self.stream.schedule());
        if let Some(version) = version.as_ref().filter(|_| version != self.in_charge) {
            tracing::info!(version, "model in charge");
        }
        let trial = self.stream.schedule().newest().and_then(|charge| charge.trial.as_ref());
        self.watch.in_charge(self.models.in_charge().as_deref(), self.models.loaded(), trial);
        self.metrics.model_in_charge(self.in_charge.as_deref(), version.as_deref());
        self.in_charge.clone_from(&version);
        self.board.set_state(match version {
            Some(model_version) => ProcessorState::Live { model_version },
            None => ProcessorState::Learning,
        });
    }
}

fn refusal(error: AcknowledgeError) -> CommandError {
    match error {
        AcknowledgeError::NotOpen { .. } => CommandError::NotFound(error.to_string()),
        AcknowledgeError::Already { .. } => CommandError::Conflict(error.to_string()),
    }
}
