//! A look at a spool from outside, which changes nothing: no lock is taken, so that a running agent is not in the way.
//!
//! A running agent removes and replaces files meanwhile. Its checkpoint says so before: it is read last, and what it
//! calls freed by then is no part of the spool, whatever was seen of it; but what it only merged since then still counts.

use std::{fmt, io};

use proto::{
    position::{Epoch, Position},
    telemetry::{FrameHeader, HEADER_BYTES},
};

use super::{
    Context, READ_TRIES_MAX, SpoolError,
    checkpoint::{Checkpoint, Checkpoints},
    disk::Disk,
    log::Extent,
    opening::read_segment,
    recovery,
    segment::{self, SEGMENT_HEADER_BYTES, Scanned},
};

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentSummary {
    pub number: u64,
    /// None: no frame of it can be read.
    pub epoch: Option<Epoch>,
    pub first_seq: u64,
    pub last_seq: u64,
    pub frames: u64,
    /// Of the frames, those that stand for what is lost.
    pub gaps: u64,
    pub bytes: u64,
    pub damaged_bytes: u64,
    /// At the end of the newest segment: being written just now, or cut off by a power cut. Never durable, so no damage.
    pub unfinished_bytes: u64,
}

/// What lies in the folder of a spool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    pub segments: Vec<SegmentSummary>,
    /// Segments that can't be read at all, and why.
    pub unreadable: Vec<(u64, String)>,
    pub checkpoint: Checkpoint,
    /// The last ack is known from none of the checkpoints, or from an older one.
    pub checkpoint_damaged: bool,
    /// Batches that the next start will replace by a gap.
    pub lost: u64,
    /// Segments that an earlier start took out of the log.
    pub set_aside: u64,
}

struct Seen {
    scanned: Scanned,
    /// Bytes at the end.
    unfinished: u64,
}

/// Reads every frame of the spool, and checks both its CRCs.
///
/// # Errors
/// The folder can't be listed. A file that can't be read is part of what is found.
pub fn inspect(disk: &dyn Disk) -> Result<Inspection, SpoolError> {
    let names = disk.list().context("list", "the folder")?;
    let mut numbers: Vec<_> = names.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    let mut found = Vec::with_capacity(numbers.len());
    let mut unreadable = Vec::new();
    for number in &numbers {
        match look(disk, *number, numbers.last() == Some(number)) {
            Ok(seen) => found.extend(seen),
            Err(reason) => unreadable.push((*number, reason)),
        }
    }
    let (checkpoint_damaged, checkpoint) = load_checkpoint(disk)?;
    unreadable.retain(|(number, _)| *number >= checkpoint.keep_from);
    found.retain(|seen| seen.scanned.number >= checkpoint.keep_from || seen.is_beyond(checkpoint.committed));
    let segments = found.iter().map(summary).collect();
    let found: Vec<_> = found.into_iter().map(|seen| seen.scanned).collect();
    let begin = match checkpoint_damaged {
        true => recovery::begin(&found, checkpoint.committed),
        false => checkpoint.committed,
    };
    let lost = recovery::resolve(found, begin).lost;
    let set_aside = names.iter().filter(|name| segment::is_aside(name)).count() as u64;
    Ok(Inspection { segments, unreadable, checkpoint, checkpoint_damaged, lost, set_aside })
}

impl Seen {
    /// It was not freed: it was read, and then merged into a later one, before the checkpoint was.
    fn is_beyond(&self, committed: Option<Position>) -> bool {
        let last = self.scanned.extents.last().map(Extent::last);
        last.zip(committed).is_some_and(|(last, committed)| last.epoch == committed.epoch && last.seq > committed.seq)
    }
}

/// What is replaced or cut while it is read looks damaged, but hardly so often.
fn look(disk: &dyn Disk, number: u64, newest: bool) -> Result<Option<Seen>, String> {
    let mut seen = look_once(disk, number, newest);
    for _ in 1..READ_TRIES_MAX {
        if matches!(&seen, Ok(None)) || matches!(&seen, Ok(Some(seen)) if seen.scanned.damaged_bytes == seen.unfinished)
        {
            break;
        }
        seen = look_once(disk, number, newest);
    }
    seen
}

/// None: the file is gone, and was no longer needed.
fn look_once(disk: &dyn Disk, number: u64, newest: bool) -> Result<Option<Seen>, String> {
    let bytes = match read_segment(disk, number, Vec::new()) {
        Ok(bytes) => bytes,
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.source.to_string()),
    };
    let scanned = segment::scan(number, &bytes);
    if scanned.is_newer(&bytes) {
        return Err("it was written by a newer version".to_owned());
    }
    let unfinished = if newest { unfinished_bytes(&scanned, &bytes) } else { 0 };
    Ok(Some(Seen { scanned, unfinished }))
}

/// Bytes at the end that are the beginning of a header or of a frame.
fn unfinished_bytes(scanned: &Scanned, bytes: &[u8]) -> u64 {
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return bytes.len() as u64;
    }
    let end = scanned.extents.last().map_or(SEGMENT_HEADER_BYTES, |e| (e.place.offset + e.bytes) as usize);
    let tail = bytes.get(end..).unwrap_or_default();
    let cut_off = tail.len() < HEADER_BYTES || FrameHeader::decode(tail).is_ok_and(|h| h.frame_bytes() > tail.len());
    if cut_off { tail.len() as u64 } else { 0 }
}

fn load_checkpoint(disk: &dyn Disk) -> Result<(bool, Checkpoint), SpoolError> {
    let mut loaded = Checkpoints::load(disk)?;
    // One that is written over in place just now looks damaged.
    for _ in 1..READ_TRIES_MAX {
        if loaded.0.damaged {
            loaded = Checkpoints::load(disk)?;
        }
    }
    Ok((loaded.0.damaged, loaded.1))
}

fn summary(Seen { scanned, unfinished }: &Seen) -> SegmentSummary {
    let (first, last) = (scanned.extents.first(), scanned.extents.last());
    SegmentSummary {
        number: scanned.number,
        epoch: first.map(|e| e.position.epoch),
        first_seq: first.map_or(0, |e| e.position.seq),
        last_seq: last.map_or(0, |e| e.last_seq),
        frames: scanned.extents.len() as u64,
        gaps: scanned.extents.iter().filter(|e| e.gap).count() as u64,
        bytes: scanned.bytes,
        damaged_bytes: scanned.damaged_bytes - unfinished,
        unfinished_bytes: *unfinished,
    }
}

impl Inspection {
    /// A line for each thing that can't be read; none: the spool is intact.
    pub fn damage(&self) -> Vec<String> {
        let mut lines: Vec<_> =
            self.unreadable.iter().map(|(number, why)| format!("{}: {why}", segment::name(*number))).collect();
        let damaged = self.segments.iter().filter(|s| s.damaged_bytes > 0);
        lines.extend(damaged.map(|s| format!("{}: {} damaged bytes", segment::name(s.number), s.damaged_bytes)));
        if self.checkpoint_damaged {
            lines.push("a checkpoint is damaged; the next ack says what is committed".to_owned());
        }
        if self.lost > 0 {
            lines.push(format!("{} batches are missing in the log; the next start makes them a gap", self.lost));
        }
        lines
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20}  {:<32}  {:>10}  {:>10}  {:>8}  {:>6}  {:>10}",
            "segment", "epoch", "first", "last", "frames", "gaps", "bytes"
        )?;
        for s in &self.segments {
            let epoch = s.epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
            let SegmentSummary { first_seq, last_seq, frames, gaps, bytes, .. } = s;
            let name = segment::name(s.number);
            writeln!(f, "{name}  {epoch:<32}  {first_seq:>10}  {last_seq:>10}  {frames:>8}  {gaps:>6}  {bytes:>10}")?;
        }
        match self.checkpoint.committed {
            Some(p) => writeln!(f, "committed at least to {} of epoch {}", p.seq, p.epoch)?,
            None => writeln!(f, "no checkpoint says what is committed")?,
        }
        if self.set_aside > 0 {
            writeln!(f, "{} segments were set aside as unreadable by an earlier start", self.set_aside)?;
        }
        let sum = |of: fn(&SegmentSummary) -> u64| self.segments.iter().map(of).sum::<u64>();
        let (frames, gaps, bytes) = (sum(|s| s.frames), sum(|s| s.gaps), sum(|s| s.bytes));
        write!(f, "{} segments, {frames} frames, {gaps} of them gaps, {bytes} bytes", self.segments.len())
    }
}
