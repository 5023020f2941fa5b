//! Frames of the tables that are not frames already.

use model::features::WindowFeatures;
use polars::prelude::{Column, DataFrame, NamedFrom, PolarsResult, Series};
use proto::{
    archive::column,
    asset::AssetId,
    position::Position,
    time::PlantTime,
    wire::{
        alert::{Alert, AlertSource, AlertState},
        prediction::{Prediction, Role},
        telemetry::{EventKind, GapReason, Verdict},
    },
};

use super::pending::SegmentContent;
use crate::{
    decode::DeadLetter,
    stream::{
        KnownEvent, Loss, Lost,
        tables::{SITE, datetime},
    },
};

/// Collects the columns of rows of one type.
struct Columns<'a, R> {
    rows: &'a [R],
    columns: Vec<Column>,
}

impl<'a, R> Columns<'a, R> {
    fn new(site: &AssetId, rows: &'a [R]) -> Self {
        Columns { rows, columns: vec![Column::new(SITE.into(), vec![site.as_str(); rows.len()])] }
    }

    fn with<T, P: ?Sized>(mut self, name: &str, of: impl Fn(&'a R) -> T) -> Self
    where
        Series: NamedFrom<Vec<T>, P>,
    {
        let values: Vec<T> = self.rows.iter().map(of).collect();
        self.columns.push(Column::new(name.into(), values));
        self
    }

    fn time<T, P: ?Sized>(mut self, name: &str, ms: impl Fn(&'a R) -> T) -> PolarsResult<Self>
    where
        Series: NamedFrom<Vec<T>, P>,
    {
        let values: Vec<T> = self.rows.iter().map(ms).collect();
        self.columns.push(datetime(name, Column::new(name.into(), values))?);
        Ok(self)
    }

    fn frame(self) -> PolarsResult<DataFrame> {
        DataFrame::new(self.rows.len(), self.columns)
    }
}

/// One column per feature; null where there is no value.
pub fn features(content: &SegmentContent) -> PolarsResult<DataFrame> {
    let mut columns = Columns::new(&content.site, &content.windows)
        .with(column::MACHINE, |w: &WindowFeatures| w.machine.as_str())
        .with(column::KIND, |w| w.kind.as_str())
        .time(column::WINDOW_START, |w| w.start.millis())?
        .time(column::WINDOW_END, |w| w.end.millis())?
        .with(column::REVISION, |w| w.revision)
        .with(column::GENERATION, |w| w.generation);
    for (i, name) in content.features.iter().enumerate() {
        columns = columns.with(name, |w| w.features.get(i).copied().filter(|v| !v.is_nan()));
    }
    columns.frame()
}

/// One row per mode.
pub fn predictions(content: &SegmentContent) -> PolarsResult<DataFrame> {
    let modes = |p: &'_ Prediction| (0..p.modes.len()).collect::<Vec<_>>();
    let rows: Vec<(&Prediction, usize)> =
        content.predictions.iter().flat_map(|p| modes(p).into_iter().map(move |mode| (p, mode))).collect();
    Columns::new(&content.site, &rows)
        .with(column::ID, |(p, _)| p.id.as_str())
        .with(column::MACHINE, |(p, _)| p.machine.as_str())
        .with(column::KIND, |(p, _)| p.machine_kind.as_str())
        .time(column::WINDOW_START, |(p, _)| p.window_start_ms)?
        .time(column::WINDOW_END, |(p, _)| p.window_end_ms)?
        .with(column::REVISION, |(p, _)| p.revision)
        .with(column::GENERATION, |(p, _)| p.generation)
        .with(column::MODEL_VERSION, |(p, _)| p.model_version.as_str())
        .with(column::ROLE, |(p, _)| word(p.role().as_str_name(), Role::Unspecified.as_str_name()))
        .with(column::MODE, |(p, mode)| p.modes[*mode].mode.as_str())
        .with(column::PROBABILITY, |(p, mode)| p.modes[*mode].probability)
        .frame()
}

/// One row per change of an alert.
pub fn alerts(content: &SegmentContent) -> PolarsResult<DataFrame> {
    let is_model = |a: &Alert| a.source() == AlertSource::Model;
    Columns::new(&content.site, &content.alerts)
        .with(column::ID, |a: &Alert| a.id.as_str())
        .with(column::MACHINE, |a| a.machine.as_str())
        .with(column::KIND, |a| a.machine_kind.as_str())
        .with(column::MODE, |a| a.mode.as_str())
        .with(column::SOURCE, |a| word(a.source().as_str_name(), AlertSource::Unspecified.as_str_name()))
        .with(column::STATE, |a| word(a.state().as_str_name(), AlertState::Unspecified.as_str_name()))
        .time(column::TIME, |a| a.updated_ms)?
        .with(column::PROBABILITY, |a| is_model(a).then_some(a.probability))
        .with(column::MODEL_VERSION, |a| a.model_version.as_str())
        .with(column::AUTHOR, |a| a.acknowledged_by.as_str())
        .with(column::NOTE, |a| a.acknowledged_note.as_str())
        .with(column::GENERATION, |a| a.generation)
        .frame()
}

pub fn events(content: &SegmentContent) -> PolarsResult<DataFrame> {
    Columns::new(&content.site, &content.events)
        .with(column::AGENT, |e: &KnownEvent| e.agent.as_ref().map(|a| a.agent.as_str()))
        .with(column::SEQ, |e| e.agent.as_ref().map(|_| e.seq))
        .with(column::MACHINE, |e| e.event.machine.as_str())
        .time(column::TIME, |e| e.event.time_ms)?
        .with(column::KIND, |e| word(e.event.kind().as_str_name(), EventKind::Unspecified.as_str_name()))
        .with(column::CODE, |e| e.event.code.as_str())
        .with(column::MODE, |e| e.event.mode.as_str())
        .with(column::NOTE, |e| e.event.note.as_str())
        .with(column::AUTHOR, |e| e.event.author.as_str())
        .with(column::ALERT_ID, |e| e.event.alert_id.as_str())
        .with(column::VERDICT, |e| word(e.event.verdict().as_str_name(), Verdict::Unspecified.as_str_name()))
        .time(column::KNOWN, |e| e.known.map(PlantTime::millis))?
        .frame()
}

/// One row per run of batches that is lost, or per break: that one says where it begins and where the log goes on.
pub fn gaps(content: &SegmentContent) -> PolarsResult<DataFrame> {
    Columns::new(&content.site, &content.losses)
        .time(column::TIME, |l: &Loss| l.declared.millis())?
        .with(column::AGENT, |l| l.agent.agent.as_str())
        .with(column::EPOCH, |l| first_lost(&l.lost).map(|p| p.epoch.to_string()))
        .with(column::SEQ, |l| first_lost(&l.lost).map(|p| p.seq))
        .with(column::LAST_SEQ, |l| match l.lost {
            Lost::Batches { last_seq, .. } => Some(last_seq),
            Lost::Break { .. } => None,
        })
        .with(column::NEXT_EPOCH, |l| next_held(&l.lost).map(|p| p.epoch.to_string()))
        .with(column::NEXT_SEQ, |l| next_held(&l.lost).map(|p| p.seq))
        .with(column::READINGS, |l| l.readings)
        .with(column::REASON, |l| word(l.reason.as_str_name(), GapReason::Unspecified.as_str_name()))
        .frame()
}

fn first_lost(lost: &Lost) -> Option<Position> {
    match *lost {
        Lost::Batches { from, .. } => Some(from),
        Lost::Break { from, .. } => from.map(|p| Position { seq: p.seq + 1, ..p }),
    }
}

/// Behind a run of lost batches it is the next number.
fn next_held(lost: &Lost) -> Option<Position> {
    match *lost {
        Lost::Batches { .. } => None,
        Lost::Break { to, .. } => Some(Position { seq: to.seq + 1, ..to }),
    }
}

pub fn dead_letters(content: &SegmentContent) -> PolarsResult<DataFrame> {
    Columns::new(&content.site, &content.dead_letters)
        .time(column::TIME, |d: &DeadLetter| d.time.millis())?
        .with(column::TOPIC, |d| d.topic.as_str())
        .with(column::PAYLOAD, |d| d.payload.as_ref())
        .with(column::REASON, |d| d.reason.as_str())
        .frame()
}

/// `EVENT_KIND_FAILURE` is `failure` in the archive, as in JSON; what is not specified is empty.
fn word(name: &str, unspecified: &str) -> String {
    let prefix = unspecified.trim_end_matches("UNSPECIFIED");
    if name == unspecified { String::new() } else { name.trim_start_matches(prefix).to_lowercase() }
}
