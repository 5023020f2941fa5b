//! One file as items in the order of plant time. A file in that order is streamed; one that is not (grouped by machine,
//! for example) is read whole and sorted, up to a bound.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    vec,
};

use proto::{
    asset::AssetId,
    time::{PlantTime, parse_date_time},
    wire::telemetry::{EventKind, EventRecord, QualityReason},
};

use super::{
    config::{Column, EventsConfig, MachineColumn, ReplayConfig, Separator, TimeColumn, TimeFormat},
    table::{Table, file_error},
};
use crate::source::{Item, Reading, Sample, SourceError};

/// A file that is not in the order of time may be this long.
pub const REPLAY_BYTES_MAX: u64 = 256 * 1024 * 1024;
pub const MACHINES_MAX: usize = 10_000;

/// How to read one file.
#[derive(Debug, Clone)]
pub(super) struct Format {
    path: PathBuf,
    separator: Separator,
    header: bool,
    time: TimeColumn,
    machine: MachineColumn,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Readings(Vec<Column>),
    Events { kind: EventKind, mode: Option<Column>, code: Option<Column> },
}

impl Format {
    pub(super) fn readings(config: &ReplayConfig, path: PathBuf) -> Self {
        Self {
            path,
            separator: config.separator,
            header: config.header,
            time: config.time.clone(),
            machine: config.machine.clone(),
            content: Content::Readings(config.sensors.iter().map(|s| s.column.clone()).collect()),
        }
    }

    pub(super) fn events(config: &EventsConfig, path: PathBuf) -> Self {
        let (mode, code) = (config.mode.clone(), config.code.clone());
        Self {
            path,
            separator: config.separator,
            header: config.header,
            time: config.time.clone(),
            machine: config.machine.clone(),
            content: Content::Events { kind: config.kind, mode, code },
        }
    }
}

/// An open file, with the places of its columns.
#[derive(Debug)]
struct Rows {
    table: Table,
    time_at: usize,
    time: TimeColumn,
    machine_at: Option<usize>,
    machine: MachineColumn,
    content: Places,
}

#[derive(Debug)]
enum Places {
    Readings(Vec<usize>),
    Events { kind: EventKind, mode: Option<usize>, code: Option<usize> },
}

impl Rows {
    fn open(format: &Format) -> Result<Self, SourceError> {
        let table = Table::open(&format.path, format.separator, format.header)?;
        let maybe = |column: &Option<Column>| column.as_ref().map(|c| table.find(c)).transpose();
        let content = match &format.content {
            Content::Readings(columns) => {
                Places::Readings(columns.iter().map(|c| table.find(c)).collect::<Result<_, _>>()?)
            }
            Content::Events { kind, mode, code } => {
                Places::Events { kind: *kind, mode: maybe(mode)?, code: maybe(code)? }
            }
        };
        Ok(Self {
            time_at: table.find(&format.time.column)?,
            time: format.time.clone(),
            machine_at: maybe(&format.machine.column)?,
            machine: format.machine.clone(),
            content,
            table,
        })
    }

    fn next(&mut self) -> Result<Option<(PlantTime, AssetId, Item)>, SourceError> {
        if !self.table.advance()? {
            return Ok(None);
        }
        let (time, machine) = (self.time()?, self.machine()?);
        let item = match &self.content {
            Places::Readings(columns) => {
                let values = columns.iter().map(|c| self.table.field(*c).map(reading)).collect::<Result<_, _>>()?;
                Item::Sample(Sample { machine: machine.clone(), time, values })
            }
            Places::Events { kind, mode, code } => {
                let text = |at: &Option<usize>| at.map_or(Ok(""), |at| self.table.field(at)).map(String::from);
                Item::Event(EventRecord {
                    machine: machine.to_string(),
                    time_ms: time.millis(),
                    kind: (*kind).into(),
                    mode: text(mode)?,
                    code: text(code)?,
                    ..EventRecord::default()
                })
            }
        };
        Ok(Some((time, machine, item)))
    }

    fn time(&self) -> Result<PlantTime, SourceError> {
        let text = self.table.field(self.time_at)?;
        let number = || text.parse::<i64>().ok();
        let time = match self.time.format {
            TimeFormat::DateTime => parse_date_time(text),
            TimeFormat::UnixS => number().and_then(|s| s.checked_mul(1_000)).map(PlantTime),
            TimeFormat::UnixMs => number().map(PlantTime),
            TimeFormat::Step => number().and_then(|n| {
                let after = n.checked_mul(self.time.step_ms?)?;
                self.time.start?.millis().checked_add(after).map(PlantTime)
            }),
        };
        time.ok_or_else(|| self.table.error(format!("`{text}` is not a time in the format `{}`", self.time.format)))
    }

    fn machine(&self) -> Result<AssetId, SourceError> {
        match (&self.machine.id, self.machine_at) {
            (Some(id), _) => Ok(id.clone()),
            (None, at) => {
                let name = format!("{}{}", self.machine.prefix, self.table.field(at.unwrap_or_default())?);
                AssetId::new(&name).map_err(|e| self.table.error(e.to_string()))
            }
        }
    }
}

/// An empty field is no reading; one that is not a number is a bad one. Neither stops the replay.
fn reading(text: &str) -> Reading {
    match text.parse::<f64>() {
        Ok(value) => Reading::good(value),
        Err(_) if text.is_empty() => Reading::ABSENT,
        Err(_) => Reading::bad(QualityReason::Unreadable),
    }
}

#[derive(Debug)]
enum Order {
    Streamed(Box<Rows>),
    Sorted(vec::IntoIter<(PlantTime, Item)>),
}

/// The items of one file that are after a given time and of known machines.
#[derive(Debug)]
pub(super) struct Feed {
    order: Order,
    after: Option<PlantTime>,
    /// None: every machine.
    known: Option<BTreeSet<AssetId>>,
    /// Items that were left out since they are not after the given time.
    pub(super) skipped: u64,
    pub(super) head: Option<(PlantTime, Item)>,
}

/// What a first pass over a file tells.
#[derive(Debug)]
pub(super) struct Survey {
    pub machines: BTreeSet<AssetId>,
    in_order: bool,
}

/// Reads every row once, so that a bad one is found before the first is given.
pub(super) fn survey(format: &Format) -> Result<Survey, SourceError> {
    let mut rows = Rows::open(format)?;
    let mut survey = Survey { machines: BTreeSet::new(), in_order: true };
    let mut latest = PlantTime::MIN;
    while let Some((time, machine, _)) = rows.next()? {
        survey.in_order &= time >= latest;
        latest = time;
        if !survey.machines.contains(&machine) {
            survey.machines.insert(machine);
        }
        if survey.machines.len() > MACHINES_MAX {
            return Err(rows.table.error(format!("brings in more than {MACHINES_MAX} machines")));
        }
    }
    Ok(survey)
}

impl Feed {
    pub(super) fn open(
        format: &Format,
        survey: &Survey,
        known: Option<BTreeSet<AssetId>>,
        after: Option<PlantTime>,
    ) -> Result<Self, SourceError> {
        let rows = Rows::open(format)?;
        let order =
            if survey.in_order { Order::Streamed(Box::new(rows)) } else { Order::Sorted(sorted(&format.path, rows)?) };
        let mut feed = Self { order, after, known, skipped: 0, head: None };
        feed.advance()?;
        Ok(feed)
    }

    /// Gives the head and looks for the next.
    pub(super) fn take(&mut self) -> Result<Option<Item>, SourceError> {
        let head = self.head.take();
        self.advance()?;
        Ok(head.map(|(_, item)| item))
    }

    fn advance(&mut self) -> Result<(), SourceError> {
        self.head = loop {
            let next = match &mut self.order {
                Order::Streamed(rows) => rows.next()?.map(|(time, _, item)| (time, item)),
                Order::Sorted(items) => items.next(),
            };
            match next {
                Some((_, item)) if !self.knows(&item) => {}
                Some((time, _)) if self.after.is_some_and(|after| time <= after) => self.skipped += 1,
                next => break next,
            }
        };
        Ok(())
    }

    fn knows(&self, item: &Item) -> bool {
        let Some(known) = &self.known else { return true };
        match item {
            Item::Sample(sample) => known.contains(&sample.machine),
            Item::Event(event) => known.contains(event.machine.as_str()),
        }
    }
}

fn sorted(path: &Path, mut rows: Rows) -> Result<vec::IntoIter<(PlantTime, Item)>, SourceError> {
    let bytes = fs::metadata(path).map_err(|e| file_error(path, e.to_string()))?.len();
    if bytes > REPLAY_BYTES_MAX {
        let reason = format!("is not in the order of time and longer than {REPLAY_BYTES_MAX} bytes: sort it by time");
        return Err(file_error(path, reason));
    }
    let mut items = Vec::new();
    while let Some((time, _, item)) = rows.next()? {
        items.push((time, item));
    }
    // Stable: rows of one instant stay as the file has them.
    items.sort_by_key(|(time, _)| *time);
    Ok(items.into_iter())
}
