//! What leaves the spool: committed segments are removed, evicted ones become a gap, damaged frames too.

use std::time::Duration;

use proto::{
    position::Position,
    telemetry::{Frame, FrameKind},
    wire::telemetry::{GapReason, SealTime},
};

use super::{
    Context, Loss, READ_TRIES_MAX, Segment, Spool, SpoolConfig, SpoolError,
    checkpoint::Checkpoint,
    log::Extent,
    recovery::{self, Piece},
    segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// Frames that were taken out of the log as they were, for someone to look at. The first ones tell as much as later ones.
const QUARANTINED: &str = ".quarantined";
pub(super) const QUARANTINED_FRAMES_MAX: usize = 16;

/// Segments that can't be read, for someone to look at: the newest ones.
pub(super) const UNREADABLE_SEGMENTS_MAX: usize = 4;
const UNREADABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;

impl Spool {
    /// Forgets what is committed. A position that is unknown, beyond what is held, or behind an earlier one does nothing.
    pub fn free(&mut self, committed: Position) -> Result<(), SpoolError> {
        if self.log.lock().free(committed) {
            self.free_ring();
        }
        self.with_reserve(Self::remove_freed)
    }

    /// Bytes of all segment files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// From the seal time of the oldest frame that is not committed to that of the newest; None: it can't be read. Reads
    /// the disk.
    pub fn backlog_age(&self) -> Option<Duration> {
        let Some(oldest) = self.log.lock().after(None).copied() else {
            return Some(Duration::ZERO);
        };
        let age_ms = self.sealed?.millis() - self.seal_time(&oldest)?.time_ms;
        Some(Duration::from_millis(age_ms.try_into().unwrap_or(0)))
    }

    /// Removes whole segments that nothing is needed of; first the checkpoint says that they are freed.
    pub(super) fn remove_freed(&mut self) -> Result<(), SpoolError> {
        let (oldest, committed) = {
            let log = self.log.lock();
            (log.after(None).map(|e| e.place.segment), log.committed())
        };
        let appended_to = if self.active { self.segments.back().map(|s| s.number) } else { None };
        let keep_from = [oldest, appended_to].into_iter().flatten().fold(self.next_number, u64::min);
        if self.segments.front().is_none_or(|s| s.number >= keep_from) && !self.checkpoint_due {
            return Ok(());
        }
        let checkpoint = Checkpoint { committed, keep_from, sealed: self.sealed };
        self.checkpoints.store(&*self.disk, &checkpoint)?;
        self.checkpoint_due = false;
        while let Some(segment) = self.segments.front().filter(|s| s.number < keep_from) {
            self.remove(segment.number)?;
            self.segments.pop_front();
        }
        self.sync_folder()
    }

    /// Evicts oldest segments until `bytes` more fit.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), SpoolError> {
        while !self.fits(bytes) {
            self.with_reserve(Self::remove_freed)?;
            if !self.fits(bytes) && !self.with_reserve(Self::evict)? {
                break;
            }
        }
        Ok(())
    }

    fn fits(&self, bytes: u64) -> bool {
        let SpoolConfig { bytes_max, free_bytes_min, .. } = self.config;
        let scarce = || free_bytes_min > 0 && self.disk.free_bytes().is_ok_and(|free| free < bytes + free_bytes_min);
        self.bytes() + bytes <= bytes_max && !scarce()
    }

    /// Evicts segments whose newest frame was sealed too long before the newest of all. A time that was not trusted says
    /// nothing about age. Asked for with each new segment only: it reads the disk.
    pub(super) fn evict_aged(&mut self, group_bytes: usize) -> Result<(), SpoolError> {
        let Some(age_max) = self.config.age_max.filter(|_| self.begins_segment(group_bytes)) else {
            return Ok(());
        };
        self.with_reserve(Self::remove_freed)?;
        let newest = {
            let log = self.log.lock();
            log.last().and_then(|last| log.covering(last).copied())
        };
        let Some(now) = newest.and_then(|e| self.trusted_time_ms(&e)) else {
            return Ok(());
        };
        while let Some(at) = self.evictable().filter(|at| at + 1 < self.segments.len()) {
            let sealed = self.held(self.segments[at].number).last().and_then(|e| self.trusted_time_ms(e));
            let age = sealed.and_then(|sealed| u64::try_from(now.saturating_sub(sealed)).ok());
            if age.is_none_or(|age| Duration::from_millis(age) <= age_max) {
                break;
            }
            self.with_reserve(Self::evict)?;
        }
        Ok(())
    }

    fn trusted_time_ms(&self, extent: &Extent) -> Option<i64> {
        self.seal_time(extent).filter(|s| s.trusted).map(|s| s.time_ms)
    }

    /// The oldest segment that has more than a gap in it.
    fn evictable(&self) -> Option<usize> {
        self.segments.iter().position(|s| !matches!(&self.held(s.number)[..], [only] if only.gap))
    }

    /// Puts a gap in the place of the oldest segment that has more than a gap in it. False: there is none.
    fn evict(&mut self) -> Result<bool, SpoolError> {
        let Some((at, segment)) = self.evictable().and_then(|at| Some((at, *self.segments.get(at)?))) else {
            return Ok(false);
        };
        let evicted = self.held(segment.number);
        let loss: Loss = evicted.iter().filter(|e| !e.gap).collect();
        // Gaps that follow each other in one epoch become one, so that they do not fill the spool themselves.
        let before = at.checked_sub(1).and_then(|b| self.segments.get(b)).filter(|s| s.epoch == segment.epoch).copied();
        let mut covered = before.map(|s| self.held(s.number)).unwrap_or_default();
        covered.extend(&evicted);
        if let (Some(first), Some(last)) = (covered.first(), covered.last()) {
            let (from, readings) = (first.position, covered.iter().map(|e| e.readings).sum());
            let sealed = self.seal_time(last);
            let gap = recovery::gap(from, last.last_seq, segment.previous, GapReason::Evicted, sealed, readings);
            self.put(at, from, gap.into_iter().map(Piece::gap).collect())?;
            self.losses.evicted += loss;
            self.losses.segments_evicted += 1;
            let Loss { batches, readings } = loss;
            tracing::error!(%from, to = last.last_seq, batches, readings, "over the bounds of the spool: oldest readings evicted");
        } else {
            self.sync_folder()?;
            self.remove(segment.number)?;
            self.segments.remove(at);
        }
        if let Some(before) = before {
            self.remove(before.number)?;
            self.segments.retain(|s| s.number != before.number);
        }
        Ok(true)
    }

    /// A frame could not be read back: it becomes a gap, and what else is damaged in its segment, too. One that the disk
    /// fails to read is an error at first, and given up when it was asked for a few times.
    pub fn mend(&mut self, position: Position) -> Result<(), SpoolError> {
        let number = self.log.lock().covering(position).map(|e| e.place.segment);
        let Some(at) = self.segments.iter().position(|s| Some(s.number) == number) else {
            return Ok(());
        };
        let held = self.held(self.segments[at].number);
        let Some(first) = held.first().map(|e| e.position) else {
            return Ok(());
        };
        let tries = self.failed_read.filter(|(failed, _)| *failed == position).map_or(1, |(_, tries)| tries + 1);
        self.failed_read = Some((position, tries));
        let pieces = self.without_damage(&held, self.segments[at].previous, tries >= READ_TRIES_MAX)?;
        self.failed_read = None;
        // It was read while an eviction changed its segment, and can be read by now.
        if pieces.iter().all(|piece| matches!(piece, Piece::Keep(_))) {
            return Ok(());
        }
        let damaged = held.iter().zip(&pieces).filter(|(e, piece)| !e.gap && matches!(piece, Piece::Gap(_)));
        let loss: Loss = damaged.map(|(e, _)| e).collect();
        self.put(at, first, pieces)?;
        self.losses.damaged += loss;
        let Loss { batches, readings } = loss;
        tracing::error!(frame = %position, batches, readings, "damaged frames became a gap");
        Ok(())
    }

    /// Puts a gap in the place of a frame that nobody takes, so that the log goes on behind it. Its bytes are kept beside
    /// the log. What is not held, or a gap already, stays as it is.
    pub fn quarantine(&mut self, position: Position) -> Result<(), SpoolError> {
        let frame = self.log.lock().covering(position).copied().filter(|e| !e.gap);
        let at = frame.and_then(|f| self.segments.iter().position(|s| s.number == f.place.segment));
        let (Some(frame), Some(at)) = (frame, at) else {
            return Ok(());
        };
        self.keep_aside(&frame)?;
        let (held, previous) = (self.held(frame.place.segment), self.segments[at].previous);
        let Extent { position, last_seq, bytes, readings, .. } = frame;
        let sealed = self.seal_time(&frame);
        let gap = recovery::gap(position, last_seq, previous, GapReason::Quarantined, sealed, readings);
        let found = held.iter().zip(self.without_damage(&held, previous, false)?);
        let (mut pieces, mut damaged) = (Vec::with_capacity(held.len()), Loss::default());
        for (extent, piece) in found {
            match piece {
                _ if extent.position == position => pieces.extend(gap.clone().map(Piece::gap)),
                piece => {
                    if !extent.gap && matches!(piece, Piece::Gap(_)) {
                        damaged += [extent].into_iter().collect();
                    }
                    pieces.push(piece);
                }
            }
        }
        let first = held.first().map_or(position, |e| e.position);
        self.put(at, first, pieces)?;
        self.losses.quarantined += Loss { batches: 1, readings };
        self.losses.damaged += damaged;
        tracing::error!(frame = %position, bytes, readings, "a batch that the broker refuses is quarantined");
        Ok(())
    }

    /// Takes a segment that can't be read out of the log, so that it does not keep the agent from starting.
    pub(super) fn set_aside(&self, number: u64, reason: &str) -> Result<(), SpoolError> {
        let (name, aside) = (segment::name(number), segment::aside_name(number));
        self.disk.rename(&name, &aside).context("set aside", &name)?;
        tracing::error!(
            segment = name,
            reason,
            "a segment of the spool can't be read; it is set aside, a gap stands for it"
        );
        let mut kept = self.disk.list().context("list", "the folder")?;
        kept.retain(|name| segment::is_aside(name));
        kept.sort_unstable();
        let bytes = |name: &String| self.disk.bytes(name).unwrap_or(0);
        while kept.len() > UNREADABLE_SEGMENTS_MAX || kept.iter().map(bytes).sum::<u64>() > UNREADABLE_BYTES_MAX {
            let oldest = kept.remove(0);
            self.disk.remove(&oldest).context("remove", &oldest)?;
        }
        Ok(())
    }

    fn keep_aside(&self, frame: &Extent) -> Result<(), SpoolError> {
        let kept = self.disk.list().context("list", "the folder")?;
        let record = self.reader().read_at(frame)?;
        if let Some(record) =
            record.filter(|_| kept.iter().filter(|name| name.ends_with(QUARANTINED)).count() < QUARANTINED_FRAMES_MAX)
        {
            let name = format!("{}-{}{QUARANTINED}", frame.position.epoch, frame.position.seq);
            self.disk.replace(&name, &record.bytes).context("write", &name)?;
        }
        Ok(())
    }

    /// Frames of one segment.
    fn held(&self, number: u64) -> Vec<Extent> {
        self.log.lock().extents().filter(|e| e.place.segment == number).copied().collect()
    }

    /// Gives a segment other content, which is durable after this and visible even if the last step fails.
    fn put(&mut self, at: usize, first: Position, pieces: Vec<Piece>) -> Result<(), SpoolError> {
        if at + 1 == self.segments.len() {
            self.active = false;
        }
        self.remember_committed(first)?;
        let Segment { number, previous, .. } = self.segments[at];
        let extents = self.rewrite(number, SegmentHeader { first, previous }, pieces)?;
        self.segments[at].bytes = SEGMENT_HEADER_BYTES as u64 + extents.iter().map(|e| u64::from(e.bytes)).sum::<u64>();
        let mut log = self.log.lock();
        extents.into_iter().for_each(|e| log.replace(e));
        drop(log);
        self.sync_folder()
    }

    /// What is committed just before `first` may be in the segment that is about to lose it: a start must not miss it.
    fn remember_committed(&mut self, first: Position) -> Result<(), SpoolError> {
        let committed = self.log.lock().committed();
        let (Some(committed), Some(oldest)) = (committed, self.segments.front().map(|s| s.number)) else {
            return Ok(());
        };
        if committed.epoch != first.epoch || committed.seq + 1 != first.seq {
            return Ok(());
        }
        let checkpoint = Checkpoint { committed: Some(committed), keep_from: oldest, sealed: self.sealed };
        self.checkpoints.store(&*self.disk, &checkpoint)
    }

    /// When the frame was sealed; a gap that stands for it keeps the watermark moving.
    pub(super) fn seal_time(&self, extent: &Extent) -> Option<SealTime> {
        let record = self.reader().read_at(extent).ok().flatten()?;
        let frame = Frame::split(record.bytes).ok()?;
        match frame.header.kind {
            FrameKind::Data => frame.batch().ok()?.sealed,
            FrameKind::Gap => frame.gap_content().ok()?.sealed,
            FrameKind::Bridge => None,
        }
    }

    /// What the disk fails to read is an error, or damage too if it is `given_up`.
    fn without_damage(
        &self,
        held: &[Extent],
        previous: Option<Position>,
        given_up: bool,
    ) -> Result<Vec<Piece>, SpoolError> {
        let mut pieces = Vec::with_capacity(held.len());
        let reader = self.reader();
        for extent in held {
            let read = match reader.read_at(extent) {
                Err(_) if given_up => None,
                other => other?,
            };
            pieces.extend(match read {
                Some(_) => Some(Piece::Keep(*extent)),
                None => {
                    recovery::gap(extent.position, extent.last_seq, previous, GapReason::Damaged, None, extent.readings)
                        .map(Piece::gap)
                }
            });
        }
        Ok(pieces)
    }
}
