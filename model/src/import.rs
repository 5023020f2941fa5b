//! Foreign CSV files into the archive's layout, with a mapping that says what their columns mean.
//!
//! ```text
//! mapping ─┐
//! CSV ─────┴─> readings, block by block ─> Parquet ─> objects, then their manifest
//!           └> events, machines ─────────────────────> the last commit
//! ```
//!
//! Afterwards they are readings, events and births like any others: cleaning, windows and features are the same code.

pub mod mapping;
mod block;
mod commit;
mod table;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use polars::prelude::PolarsError;
use proto::{ack::ArchiveId, asset::AssetId, wire::telemetry::EventKind};
use sha2::{Digest, Sha256};

use crate::store::{StoreError, manifests::ReadError, objects::Objects};
use block::{Block, EventRow, MachineRow, Reading, birth_parts, event_parts};
use commit::Commits;
pub use commit::hex;
use mapping::{End, EventsFile, Kind, Mapping, Text};
use table::Table;

pub const MACHINES_MAX: usize = 100_000;
/// They are held in memory until the readings are written.
pub const EVENTS_MAX: usize = 2_000_000;
pub const SENSORS_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{}: {error}", .file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("{}:{line}: {reason}", .file.display())]
    Line { file: PathBuf, line: u64, reason: String },
    #[error("{}:{line}: column `{column}`: {reason}", .file.display())]
    Cell { file: PathBuf, line: u64, column: String, reason: String },
    #[error("readings.sensors: from 1 to {SENSORS_MAX}")]
    Sensors,
    #[error("more than {MACHINES_MAX} machines")]
    Machines,
    #[error("more than {EVENTS_MAX} events")]
    Events,
    #[error("the archive has data of its own, in manifest {number}: an import needs an archive that is empty")]
    Taken { number: u64 },
    #[error("these files were imported into this archive before")]
    Imported,
    #[error("rows can't be written: {0}")]
    Rows(#[from] PolarsError),
    #[error("manifest: {0}")]
    Manifest(String),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was brought in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    pub readings: u64,
    pub events: u64,
    pub machines: u64,
    /// Of the commits, those that were there from an earlier try.
    pub commits_found: u64,
}

/// Brings the files of `folder` in. `text` is the mapping as it is written: it is a part of what the import is.
/// Memory: a block of readings, all events and all machines.
pub async fn import(
    store: &dyn Objects,
    mapping: &Mapping,
    text: &str,
    folder: &Path,
    wall_ms: i64,
) -> Result<Imported, ImportError> {
    if !(1..=SENSORS_MAX).contains(&mapping.readings.sensors.len()) {
        return Err(ImportError::Sensors);
    }
    let archive = identity(mapping, text, folder)?;
    let mut commits = Commits::begin(store, mapping, archive, wall_ms).await?;
    let mut imported = Imported::default();
    let mut machines = machines(mapping, folder)?;
    let mut readings = Readings::open(mapping, folder)?;
    loop {
        let block = readings.block(&mut machines)?;
        if block.is_empty() {
            break;
        }
        imported.readings += block.len() as u64;
        if commits.is_there() {
            commits.skip();
            imported.commits_found += 1;
        } else {
            let parts = block.parts(mapping, commits.seq())?;
            commits.commit(parts).await?;
        }
    }
    // A machine of the list without a single reading has nothing to be known by.
    machines.retain(|_, m| m.kind.is_some());
    let events = events(mapping, folder, &machines)?;
    (imported.events, imported.machines) = (events.len() as u64, machines.len() as u64);
    let seq = commits.seq();
    let mut parts = birth_parts(&machines, mapping, seq)?;
    parts.extend(event_parts(&events, mapping, seq)?);
    commits.commit(parts).await?;
    commits.end().await?;
    Ok(imported)
}

/// The same files with the same mapping are the same archive.
fn identity(mapping: &Mapping, text: &str, folder: &Path) -> Result<ArchiveId, ImportError> {
    let mut hash = Sha256::new();
    hash.update(text);
    for file in mapping.files() {
        hash.update(file_sha256(&folder.join(file))?);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    Ok(ArchiveId(id))
}

/// Hexadecimal.
pub fn file_sha256(path: &Path) -> Result<String, ImportError> {
    let failed = |error| ImportError::File { file: path.into(), error };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The file of readings, cut into blocks.
struct Readings<'a> {
    mapping: &'a Mapping,
    table: Table,
    machine: usize,
    kind: Option<usize>,
    time: usize,
    sensors: Vec<usize>,
}

impl<'a> Readings<'a> {
    fn open(mapping: &'a Mapping, folder: &Path) -> Result<Self, ImportError> {
        let of = &mapping.readings;
        let table = Table::open(folder, &of.source)?;
        let kind = match &of.machine.kind {
            Kind::Column(name) => Some(table.column(name)?),
            Kind::All(_) => None,
        };
        let sensors = of.sensors.iter().map(|s| table.column(&s.column)).collect::<Result<_, _>>()?;
        let (machine, time) = (table.column(&of.machine.column)?, table.column(&of.time.column)?);
        Ok(Readings { mapping, table, machine, kind, time, sensors })
    }

    /// Empty: there is no further row.
    fn block(&mut self, machines: &mut BTreeMap<AssetId, MachineRow>) -> Result<Block, ImportError> {
        let mut block = Block::default();
        while !block.is_full() && self.table.next()? {
            let of = &self.mapping.readings;
            let machine =
                self.table.read(self.machine, |cell| AssetId::new(&format!("{}{cell}", of.machine.prefix)))?;
            let time_ms = self.table.read(self.time, |cell| of.time.parse(cell))?;
            self.meet(&machine, time_ms, machines)?;
            for (sensor, column) in (0..).zip(&self.sensors) {
                // An empty cell is a reading that was not made.
                if !self.table.cell(*column).is_empty() {
                    let value = self.table.read(*column, str::parse::<f64>)?;
                    block.push(Reading { machine: machine.clone(), sensor, time_ms, value });
                }
            }
        }
        Ok(block)
    }

    fn meet(
        &self,
        name: &AssetId,
        time_ms: i64,
        machines: &mut BTreeMap<AssetId, MachineRow>,
    ) -> Result<(), ImportError> {
        if machines.len() >= MACHINES_MAX && !machines.contains_key(name) {
            return Err(ImportError::Machines);
        }
        let machine = machines.entry(name.clone()).or_default();
        if machine.kind.is_none() {
            machine.kind = Some(match (&self.mapping.readings.machine.kind, self.kind) {
                (Kind::All(kind), _) => kind.clone(),
                (_, column) => self.table.read(column.unwrap_or_default(), AssetId::new)?,
            });
            (machine.first_ms, machine.last_ms) = (time_ms, time_ms);
        }
        machine.first_ms = machine.first_ms.min(time_ms);
        machine.last_ms = machine.last_ms.max(time_ms);
        Ok(())
    }
}

/// Of the list of machines; their kind is known once there is a reading.
fn machines(mapping: &Mapping, folder: &Path) -> Result<BTreeMap<AssetId, MachineRow>, ImportError> {
    let mut machines = BTreeMap::new();
    let Some(of) = &mapping.machines else { return Ok(machines) };
    let mut table = Table::open(folder, &of.source)?;
    let name = table.column(&of.column)?;
    let place = |column: &Option<String>| column.as_ref().map(|c| table.column(c)).transpose();
    let (make, model) = (place(&of.make)?, place(&of.model)?);
    let age = of.age.as_ref().map(|age| Ok::<_, ImportError>((age, table.column(&age.column)?))).transpose()?;
    while table.next()? {
        let prefix = &mapping.readings.machine.prefix;
        let name = table.read(name, |cell| AssetId::new(&format!("{prefix}{cell}")))?;
        let installed_ms = match age {
            Some((age, column)) => table.read(column, |cell| age.installed(cell))?,
            None => 0,
        };
        let text = |column: Option<usize>| column.map(|c| table.cell(c).to_owned()).unwrap_or_default();
        let row = MachineRow { make: text(make), model: text(model), installed_ms, ..MachineRow::default() };
        machines.insert(name, row);
        if machines.len() > MACHINES_MAX {
            return Err(ImportError::Machines);
        }
    }
    Ok(machines)
}

/// Of all files, and the failures that runs end in; in time.
fn events(
    mapping: &Mapping,
    folder: &Path,
    machines: &BTreeMap<AssetId, MachineRow>,
) -> Result<Vec<EventRow>, ImportError> {
    let mut events = Vec::new();
    for of in &mapping.events {
        read_events(of, folder, &mut events)?;
    }
    if let Some(End { mode, after_ms }) = &mapping.readings.ends_in {
        let end = |(name, m): (&AssetId, &MachineRow)| EventRow {
            machine: name.clone(),
            time_ms: m.last_ms.saturating_add(*after_ms),
            kind: EventKind::Failure,
            code: String::new(),
            mode: mode.clone(),
        };
        events.extend(machines.iter().map(end));
    }
    events.sort_by_key(|e| e.time_ms);
    Ok(events)
}

fn read_events(of: &EventsFile, folder: &Path, events: &mut Vec<EventRow>) -> Result<(), ImportError> {
    let mut table = Table::open(folder, &of.source)?;
    let (machine, time) = (table.column(&of.machine.column)?, table.column(&of.time.column)?);
    let only = of.only.as_ref().map(|only| Ok::<_, ImportError>((table.column(&only.column)?, only))).transpose()?;
    let (code, mode) = (text_columns(&table, &of.code)?, text_columns(&table, &of.mode)?);
    while table.next()? {
        if only.as_ref().is_some_and(|(column, only)| table.cell(*column) != only.is) {
            continue;
        }
        if events.len() >= EVENTS_MAX {
            return Err(ImportError::Events);
        }
        events.push(EventRow {
            machine: table.read(machine, |cell| AssetId::new(&format!("{}{cell}", of.machine.prefix)))?,
            time_ms: table.read(time, |cell| of.time.parse(cell))?,
            kind: of.kind,
            code: text(&table, &of.code, &code),
            mode: text(&table, &of.mode, &mode),
        });
    }
    Ok(())
}

fn text_columns(table: &Table, text: &Text) -> Result<Vec<usize>, ImportError> {
    match text {
        Text::None | Text::Always(_) => Ok(vec![]),
        Text::Column(name) => Ok(vec![table.column(name)?]),
        Text::Flags(names) => names.iter().map(|name| table.column(name)).collect(),
    }
}

fn text(table: &Table, text: &Text, columns: &[usize]) -> String {
    match text {
        Text::None => String::new(),
        Text::Always(text) => text.clone(),
        Text::Column(_) => columns.first().map_or(String::new(), |c| table.cell(*c).to_owned()),
        Text::Flags(names) => {
            let set = names.iter().zip(columns).filter(|(_, column)| table.cell(**column) == "1");
            set.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("+")
        }
    }
}

#[cfg(test)]
mod tests;
