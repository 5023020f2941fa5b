//! From MQTT messages to batches that know their place in their agent's log. Nothing ends here unseen: a message is
//! taken, a dead letter, or refused with an outcome to be counted.
//!
//! The order of the checks is the order of what may be believed: the topic, the header by its CRC, the payload by its
//! CRC, the place in the log, and only then the content. Content that is not understood still takes its place.

use std::time::Instant;

use bytes::Bytes;
use proto::{
    asset::AssetId,
    position::Position,
    telemetry::{BatchError, Frame, FrameError, FrameKind, check_batch, frame::FRAME_BYTES_MAX},
    time::PlantTime,
    topic::{Channel, Topic},
    wire::telemetry::{Gap, GapReason, TelemetryBatch},
};

pub use crate::intake::AgentKey;
use crate::{
    ingest::Arrival,
    intake::{Decision, Intake},
};

/// A batch that intake has put into its place: the next one of its agent's log.
#[derive(Debug, Clone)]
pub struct Taken {
    pub agent: AgentKey,
    pub position: Position,
    /// Equal to `position.seq` unless this is a gap.
    pub last_seq: u64,
    pub content: Content,
    /// When it came in, for latency figures only.
    pub received: Instant,
}

#[derive(Debug, Clone)]
pub enum Content {
    /// Checked by `proto::telemetry::check_batch`.
    Batch {
        batch: TelemetryBatch,
        readings: u64,
    },
    Gap(Gap),
    /// The log goes on behind `position`, and not where it stood.
    Break {
        from: Option<Position>,
        reason: GapReason,
    },
    /// Both CRCs right, content not understood: takes its place in the log, so that poison never blocks or repeats.
    DeadLetter(DeadLetter),
}

/// Bytes that could not be used, kept with the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub topic: String,
    pub payload: Bytes,
    pub reason: String,
    pub time: PlantTime,
    /// Readings that the frame's header promised; 0 without a readable header.
    pub readings: u64,
}

/// What became of one message.
#[derive(Debug, Clone)]
pub enum Decoded {
    Taken(Taken),
    /// Has no place in any log; kept as it came.
    Lost(DeadLetter),
    /// Our position already has other content: kept as it came, and somebody must look at it.
    Conflict(AgentKey, DeadLetter),
    /// It would be one of those two, but staging is full, and nobody will send it again.
    Dropped,
    /// Of another shard's slots: its processor has it too.
    Elsewhere,
    /// Nothing new: a repeat, not the next one, damaged on the way, or not now. The agent will send again as needed.
    Refused(AgentKey, Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The agent's ack is due again.
    Duplicate {
        readings: u64,
    },
    /// Likewise: it may follow an ack of an earlier incarnation.
    OutOfOrder,
    Damaged,
    Paused,
    /// A frame of a later format: its agent keeps it until this program is updated.
    Version,
}

impl Decoded {
    /// For the counter of arrivals: every message has exactly one.
    pub fn outcome(&self) -> &'static str {
        match self {
            Decoded::Taken(taken) => match taken.content {
                Content::DeadLetter(_) => "dead_lettered_in_place",
                Content::Gap(_) => "gap",
                Content::Break { .. } => "break",
                Content::Batch { .. } => "received",
            },
            Decoded::Lost(_) => "dead_lettered",
            Decoded::Conflict(..) => "conflict",
            Decoded::Dropped => "dropped",
            Decoded::Elsewhere => "other_shard",
            Decoded::Refused(_, refusal) => match refusal {
                Refusal::Duplicate { .. } => "duplicate",
                Refusal::OutOfOrder => "out_of_order",
                Refusal::Damaged => "damaged",
                Refusal::Paused => "paused",
                Refusal::Version => "unknown_version",
            },
        }
    }
}

/// Decodes what came in for `site`. `now` stamps dead letters only.
pub fn decode(intake: &mut Intake, site: &AssetId, arrival: &Arrival, now: PlantTime) -> Decoded {
    match judge(intake, site, arrival, now) {
        // There is no place for letters either, and strangers may send any number of them.
        Decoded::Lost(_) | Decoded::Conflict(..) if intake.paused() => Decoded::Dropped,
        decoded => decoded,
    }
}

fn judge(intake: &mut Intake, site: &AssetId, arrival: &Arrival, now: PlantTime) -> Decoded {
    let letter = |reason: String, readings| DeadLetter {
        topic: arrival.topic.clone(),
        payload: bounded(&arrival.payload),
        reason,
        time: now,
        readings,
    };
    let agent = match addressed(site, &arrival.topic) {
        Ok(agent) => agent,
        Err(reason) => return Decoded::Lost(letter(reason, 0)),
    };
    if !intake.serves(&agent) {
        return Decoded::Elsewhere;
    }
    let frame = match Frame::split(arrival.payload.clone()) {
        Ok(frame) => frame,
        Err(FrameError::Version { .. }) => return Decoded::Refused(agent, Refusal::Version),
        // The header is right, so the rest was cut off or added on the way.
        Err(FrameError::Length { .. }) => return Decoded::Refused(agent, Refusal::Damaged),
        Err(e) => return Decoded::Lost(letter(e.to_string(), 0)),
    };
    let readings = u64::from(frame.header.readings);
    let from = match intake.offer(&agent, &frame.header, frame.verify().is_ok()) {
        Decision::Take { from } => from,
        Decision::Bridge { from, to } => {
            let content = Content::Break { from, reason: break_reason(&frame) };
            let (position, last_seq, received) = (to, to.seq, arrival.received);
            return Decoded::Taken(Taken { agent, position, last_seq, content, received });
        }
        Decision::Conflict => {
            let reason = format!("{} is known with other content", frame.header.position);
            return Decoded::Conflict(agent, letter(reason, readings));
        }
        Decision::Duplicate => return Decoded::Refused(agent, Refusal::Duplicate { readings }),
        Decision::OutOfOrder => return Decoded::Refused(agent, Refusal::OutOfOrder),
        Decision::Damaged => return Decoded::Refused(agent, Refusal::Damaged),
        Decision::Paused => return Decoded::Refused(agent, Refusal::Paused),
    };
    let content = content(&frame).unwrap_or_else(|reason| Content::DeadLetter(letter(reason, readings)));
    let position = Position { epoch: frame.header.position.epoch, seq: from };
    Decoded::Taken(Taken { agent, position, last_seq: frame.header.last_seq, content, received: arrival.received })
}

fn addressed(site: &AssetId, topic: &str) -> Result<AgentKey, String> {
    let topic = Topic::parse(topic).map_err(|e| e.to_string())?;
    if topic.channel != Channel::Telemetry {
        return Err("not the topic of telemetry".into());
    }
    if topic.site != *site {
        return Err(format!("site {} is not ours", topic.site));
    }
    Ok(AgentKey { site: topic.site, agent: topic.agent })
}

/// A frame that is no declaration leads over what the archive has of its epoch.
fn break_reason(frame: &Frame) -> GapReason {
    match frame.header.kind {
        FrameKind::Bridge => frame.gap_content().map_or(GapReason::Unspecified, |gap| gap.reason()),
        FrameKind::Data | FrameKind::Gap => GapReason::Repeated,
    }
}

fn content(frame: &Frame) -> Result<Content, String> {
    match frame.header.kind {
        FrameKind::Gap => frame.gap_content().map(Content::Gap).map_err(|e| e.to_string()),
        FrameKind::Bridge => Err("a declared break where none is taken".into()),
        FrameKind::Data => {
            let batch = frame.batch().map_err(|e| e.to_string())?;
            let readings = check_batch(&batch).map_err(|e| e.to_string())?;
            if readings != u64::from(frame.header.readings) {
                let count = BatchError::Count { header: frame.header.readings, batch: readings };
                return Err(count.to_string());
            }
            Ok(Content::Batch { batch, readings })
        }
    }
}

/// An oversized message is kept up to the limit, and without holding on to the rest of it.
fn bounded(payload: &Bytes) -> Bytes {
    match payload.get(..FRAME_BYTES_MAX) {
        Some(start) if payload.len() > FRAME_BYTES_MAX => Bytes::copy_from_slice(start),
        _ => payload.clone(),
    }
}

#[cfg(test)]
mod tests;
