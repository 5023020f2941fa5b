//! A group of frames on its way to the disk: one append and one sync for all of them.

use super::{
    Context, Segment, Spool, SpoolError,
    log::Extent,
    record::Record,
    segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
};

impl Spool {
    pub(super) fn commit_group(&mut self, group: &[Record]) -> Result<(), SpoolError> {
        let bytes = group.iter().map(|r| r.bytes.len()).sum();
        self.clear_torn()?;
        if self.checkpoint_due {
            self.with_reserve(Self::remove_freed)?;
        }
        self.evict_aged(bytes)?;
        self.make_room((bytes + SEGMENT_HEADER_BYTES) as u64)?;
        let extents = match self.write_group(group, bytes) {
            Ok(extents) => extents,
            Err(error) => {
                // At once, since the disk may be full; if that fails, too, before anything else is written.
                let _ = self.clear_torn();
                return Err(error);
            }
        };
        let mut log = self.log.lock();
        for extent in extents {
            match log.order(extent.position) {
                // It was visible in memory.
                Some(_) => log.replace(extent),
                None => log.push(extent),
            }
        }
        drop(log);
        self.ring.lock().remove_first(group.len());
        Ok(())
    }

    fn write_group(&mut self, group: &[Record], bytes: usize) -> Result<Vec<Extent>, SpoolError> {
        if self.begins_segment(bytes) {
            self.begin_segment(group)?;
        }
        let Some(active) = self.segments.back_mut() else {
            return Ok(Vec::new());
        };
        let name = segment::name(active.number);
        let bytes = group.iter().fold(Vec::with_capacity(bytes), |mut all, record| {
            all.extend_from_slice(&record.bytes);
            all
        });
        // After a failed sync nobody knows what is on the disk: the file is never appended to again.
        (self.torn, self.active) = (true, false);
        self.disk.append(&name, &bytes).context("append to", &name)?;
        self.disk.sync(&name).context("sync", &name)?;
        (self.torn, self.active) = (false, true);
        let extents = segment::extents(active.number, active.bytes, group);
        active.bytes += bytes.len() as u64;
        Ok(extents)
    }

    /// A group of so many bytes goes into a segment of its own.
    pub(super) fn begins_segment(&self, group_bytes: usize) -> bool {
        let full = |s: &Segment| s.bytes + group_bytes as u64 > u64::from(self.config.segment_bytes);
        !self.active || self.segments.back().is_none_or(full)
    }

    fn begin_segment(&mut self, group: &[Record]) -> Result<(), SpoolError> {
        let Some(first) = group.first().map(|r| r.header.position) else {
            return Ok(());
        };
        let number = self.next_number;
        let header = SegmentHeader { first, previous: self.previous }.encode();
        let name = segment::name(number);
        self.next_number += 1;
        self.active = false;
        self.disk.create(&name).context("create", &name)?;
        let (epoch, previous, bytes) = (self.epoch, self.previous, header.len() as u64);
        self.segments.push_back(Segment { number, epoch, previous, bytes });
        self.torn = true;
        self.disk.append(&name, &header).context("append to", &name)?;
        self.sync_folder()?;
        (self.torn, self.active) = (false, true);
        Ok(())
    }

    /// Cuts what a failed write left in the last segment, so that retries never fill the disk themselves.
    pub(super) fn clear_torn(&mut self) -> Result<(), SpoolError> {
        let Some(last) = self.segments.back().filter(|_| self.torn).copied() else {
            return Ok(());
        };
        if last.bytes > SEGMENT_HEADER_BYTES as u64 {
            let name = segment::name(last.number);
            self.disk.truncate(&name, last.bytes).context("cut", &name)?;
        } else {
            self.remove(last.number)?;
            self.segments.pop_back();
        }
        self.torn = false;
        Ok(())
    }
}
