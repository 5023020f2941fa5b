//! Room on the disk for what must be written when it is full: a gap in the place of what is evicted, and a checkpoint
//! before what is committed is removed. Without it a full disk could never be emptied.

use std::io::ErrorKind;

use super::{Context, Spool, SpoolError};

pub(super) const RESERVE: &str = "reserve";
pub(super) const RESERVE_BYTES: usize = 64 * 1024;

impl Spool {
    /// Does what must succeed on a full disk, too: in the room of the reserve, if there is no other.
    pub(super) fn with_reserve<T>(
        &mut self,
        act: impl Fn(&mut Self) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        match act(self) {
            Err(error) if is_full(&error) && self.reserved => {
                self.disk.remove(RESERVE).context("remove", RESERVE)?;
                self.reserved = false;
                self.sync_folder()?;
                tracing::warn!(%error, "the disk is full; the spool uses its reserve");
                act(self)
            }
            other => other,
        }
    }

    /// Makes the reserve if there is none and room for it. Without one the spool goes on.
    pub(super) fn keep_reserve(&mut self) {
        let least = 2 * RESERVE_BYTES as u64 + self.config.free_bytes_min;
        if self.reserved || self.disk.free_bytes().is_ok_and(|free| free < least) {
            return;
        }
        // Not zeros: they could be kept as a hole.
        let made = self.disk.replace(RESERVE, &[0xa5; RESERVE_BYTES]).and_then(|()| self.disk.sync_folder());
        self.reserved = made.is_ok();
    }
}

fn is_full(error: &SpoolError) -> bool {
    matches!(error.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
