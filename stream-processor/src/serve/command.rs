//! What people tell the engine: checked at the border, bounded, and answered only after the commit that holds it.

use std::time::Duration;

use proto::{
    asset::AssetId,
    wire::{
        alert::Alert,
        telemetry::{EventKind, EventRecord, Verdict},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

pub const COMMANDS_MAX: usize = 64;
/// A commit takes milliseconds; while S3 is away the client is told so instead of waiting for hours.
const ANSWER_SECONDS_MAX: u64 = 15;

pub const NAME_CHARS_MAX: usize = 64;
pub const NOTE_CHARS_MAX: usize = 2_000;

/// A repeat of a `request_id` must get the same answer; an empty one is never a repeat.
#[derive(Debug)]
pub enum Command {
    Acknowledge {
        alert_id: String,
        author: String,
        note: String,
        request_id: String,
        reply: oneshot::Sender<Result<Alert, CommandError>>,
    },
    Record {
        event: EventRecord,
        request_id: String,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("{reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// Try again: nothing was done, or it is not known yet whether it was.
    #[error("{0}")]
    Unavailable(String),
}

#[derive(Debug, Clone)]
pub struct Commands(mpsc::Sender<Command>);

impl Commands {
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        (Commands(sender), receiver)
    }

    pub async fn acknowledge(
        &self,
        alert_id: String,
        author: String,
        note: String,
        request_id: String,
    ) -> Result<Alert, CommandError> {
        let author = author.trim().to_string();
        if alert_id.is_empty() {
            return Err(CommandError::Invalid { field: "alert_id", reason: "must be an alert's id".into() });
        }
        if author.is_empty() {
            return Err(CommandError::Invalid { field: "author", reason: "must say who acknowledges".into() });
        }
        check_line("alert_id", &alert_id)?;
        check_line("author", &author)?;
        check_line("request_id", &request_id)?;
        check_note(&note)?;
        self.ask(|reply| Command::Acknowledge { alert_id, author, note, request_id, reply }).await
    }

    pub async fn record(&self, event: EventRecord, request_id: String) -> Result<(), CommandError> {
        check_event(&event)?;
        check_line("request_id", &request_id)?;
        self.ask(|reply| Command::Record { event, request_id, reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Command,
    ) -> Result<T, CommandError> {
        let unavailable = |why: &str| CommandError::Unavailable(format!("{why}; try again with the same request_id"));
        let (reply, answer) = oneshot::channel();
        self.0.try_send(command(reply)).map_err(|_| unavailable("the processor can't take it now"))?;
        match timeout(Duration::from_secs(ANSWER_SECONDS_MAX), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unavailable("the processor is stopping")),
            Err(_) => Err(unavailable("the archive does not answer")),
        }
    }
}

fn check_event(event: &EventRecord) -> Result<(), CommandError> {
    let invalid = |field, reason: &str| Err(CommandError::Invalid { field, reason: reason.into() });
    if let Err(e) = AssetId::new(&event.machine) {
        return invalid("machine", &e.to_string());
    }
    if event.kind() == EventKind::Unspecified && event.verdict() == Verdict::Unspecified {
        return invalid("kind", "must be error, failure, maintenance or replacement, unless there is a verdict");
    }
    if event.verdict() != Verdict::Unspecified && event.alert_id.is_empty() {
        return invalid("alert_id", "a verdict is about an alert");
    }
    if event.time_ms <= 0 {
        return invalid("time", "must be a plant time in ms since 1970");
    }
    for (field, text) in [("code", &event.code), ("mode", &event.mode), ("author", &event.author)] {
        check_line(field, text)?;
    }
    check_line("alert_id", &event.alert_id)?;
    check_note(&event.note)
}

fn check_line(field: &'static str, text: &str) -> Result<(), CommandError> {
    if text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        let reason = format!("at most {NAME_CHARS_MAX} characters on one line");
        return Err(CommandError::Invalid { field, reason });
    }
    Ok(())
}

fn check_note(note: &str) -> Result<(), CommandError> {
    if note.chars().count() > NOTE_CHARS_MAX {
        return Err(CommandError::Invalid { field: "note", reason: format!("at most {NOTE_CHARS_MAX} characters") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventRecord {
        EventRecord { machine: "press-1".into(), time_ms: 1, kind: EventKind::Failure.into(), ..Default::default() }
    }

    #[test]
    fn an_event_that_cannot_be_is_refused_by_field() {
        assert_eq!(check_event(&event()), Ok(()));
        let field = |event: EventRecord| match check_event(&event) {
            Err(CommandError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(EventRecord { machine: "a/b".into(), ..event() }), "machine");
        assert_eq!(field(EventRecord { kind: 0, ..event() }), "kind");
        assert_eq!(field(EventRecord { time_ms: 0, ..event() }), "time");
        assert_eq!(field(EventRecord { author: "a\nb".into(), ..event() }), "author");
        assert_eq!(field(EventRecord { note: "x".repeat(2_001), ..event() }), "note");
        assert_eq!(field(EventRecord { verdict: Verdict::Confirmed.into(), ..event() }), "alert_id");
    }

    #[tokio::test]
    async fn a_full_queue_and_a_stopped_engine_are_unavailable() {
        let (commands, receiver) = Commands::channel();
        let ask = || commands.record(event(), String::new());
        let mut waiting: Vec<_> = (0..COMMANDS_MAX).map(|_| Box::pin(ask())).collect();
        for pending in &mut waiting {
            assert!(futures::poll!(pending).is_pending());
        }
        assert!(matches!(ask().await, Err(CommandError::Unavailable(_))));
        drop(receiver);
        for pending in waiting {
            assert!(matches!(pending.await, Err(CommandError::Unavailable(_))));
        }
    }
}
