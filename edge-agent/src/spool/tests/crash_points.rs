//! A scripted run, and the power failing at every point of it: after each single operation on the disk, with all, none
//! or half of what was not synced.

use super::{
    disk::memory::{Operation, Unsynced},
    log::Extent,
    reserve::{RESERVE, RESERVE_BYTES},
    *,
};

/// A run and what must hold after each of its operations.
struct Run {
    disk: Arc<Memory>,
    spool: Spool,
    rng: ChaCha8Rng,
    waiting: Vec<(Position, Bytes)>,
    /// Since how many operations a frame must survive.
    visible: Vec<(usize, Position, Bytes)>,
    /// Since how many operations everything up to there may be gone.
    committed: Vec<(usize, Position)>,
    /// Frames that may be gaps for another reason than an eviction.
    spoilt: Vec<(Position, GapReason)>,
}

impl Run {
    fn new() -> Self {
        let disk = Arc::new(Memory::default());
        let spool = open(&disk, 1);
        let rng = ChaCha8Rng::seed_from_u64(5);
        Run { disk, spool, rng, waiting: vec![], visible: vec![], committed: vec![], spoilt: vec![] }
    }

    fn now(&self) -> usize {
        self.disk.operations().len()
    }

    fn append(&mut self, frames: usize) {
        for _ in 0..frames {
            let noise: String = (0..160).map(|_| self.rng.random_range('a'..='z')).collect();
            self.waiting.push(append(&mut self.spool, &noise));
        }
    }

    fn commit(&mut self) {
        self.spool.commit().unwrap();
        let now = self.now();
        self.visible.extend(self.waiting.drain(..).map(|(position, bytes)| (now, position, bytes)));
    }

    fn fail(&mut self, writes: u32) {
        self.disk.fail_after(writes);
        assert!(self.spool.commit().is_err());
        self.disk.heal();
    }

    /// The disk fails for so long that frames are sent from memory, and the archive has some of them before it heals.
    fn in_memory(&mut self) {
        self.append(5);
        self.disk.fail_after(0);
        assert!(self.spool.commit().is_err());
        self.spool.hold();
        let committed = self.waiting[2].0;
        self.committed.push((self.now(), committed));
        // Nothing can be removed yet.
        let _ = self.spool.free(committed);
        self.append(1);
        self.spool.hold();
        self.disk.heal();
        self.commit();
    }

    fn nth_held(&self, nth: usize) -> Extent {
        *self.spool.log().lock().extents().filter(|e| !e.gap).nth(nth).unwrap()
    }

    fn free(&mut self, nth: usize) {
        let position = self.nth_held(nth).position;
        self.committed.push((self.now(), position));
        self.spool.free(position).unwrap();
    }

    fn free_all(&mut self) {
        let last = self.spool.log().lock().last().unwrap();
        self.committed.push((self.now(), last));
        self.spool.free(last).unwrap();
    }

    fn quarantine(&mut self, nth: usize) {
        let position = self.nth_held(nth).position;
        self.spoilt.push((position, GapReason::Quarantined));
        self.spool.quarantine(position).unwrap();
    }

    fn mend(&mut self, nth: usize) {
        let Extent { position, place, .. } = self.nth_held(nth);
        self.spoilt.push((position, GapReason::Damaged));
        self.disk.damage(&segment::name(place.segment), place.offset as usize + 90);
        self.spool.mend(position).unwrap();
    }

    fn reopen(&mut self, epoch: u8) {
        self.spool = open(&self.disk, epoch);
    }

    fn all() -> Self {
        let mut run = Run::new();
        for _ in 0..12 {
            run.append(2);
            run.commit();
        }
        run.free(6);
        run.quarantine(3);
        run.mend(5);
        run.append(1);
        for writes in 0..4 {
            run.fail(writes);
        }
        run.commit();
        run.reopen(2);
        run.append(1);
        run.commit();
        run.append(1);
        for writes in [0, 1, 2] {
            run.fail(writes);
        }
        for _ in 0..14 {
            run.append(2);
            run.commit();
        }
        assert!(run.spool.losses().evicted.batches > 0, "the run evicts");
        run.disk.fill(0);
        run.append(4);
        run.commit();
        run.disk.fill(4 * RESERVE_BYTES);
        run.append(1);
        run.commit();
        run.free(1);
        run.free(9);
        run.reopen(3);
        run.append(3);
        run.commit();
        run.free_all();
        run.reopen(4);
        run.append(3);
        run.commit();
        run.mend(1);
        run.in_memory();
        run.append(2);
        run.commit();
        run.reopen(5);
        run.in_memory();
        run
    }

    fn check(&self, operations: usize, disk: &Arc<Memory>, epoch: u8, context: &str) -> Spool {
        let opened = Spool::open(disk.clone(), CONFIG, Epoch([epoch; 16]));
        let (spool, _) = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
        let reached = self.committed.iter().rev().find(|(since, _)| *since <= operations);
        let committed = reached.map(|(_, p)| (p.epoch.0, p.seq));
        let must = self.visible.iter().filter(|(since, ..)| *since <= operations);
        for (_, position, bytes) in must.filter(|(_, p, _)| Some((p.epoch.0, p.seq)) > committed) {
            let extent = spool.log().lock().covering(*position).copied();
            let extent = extent.unwrap_or_else(|| panic!("{context}: {position} is not held"));
            let read = spool.reader().read(extent.position).unwrap_or_else(|e| panic!("{context}: {e}"));
            if extent.gap {
                let reason = Frame::split(read).unwrap().gap_content().unwrap().reason();
                let allowed = reason == GapReason::Evicted || self.spoilt.contains(&(*position, reason));
                assert!(allowed, "{context}: {position} is a gap: {reason:?}");
            } else {
                assert_eq!(&read, bytes, "{context}: {position}");
            }
        }
        assert!(spool.bytes() <= CONFIG.bytes_max + 1_000, "{context}: {} bytes", spool.bytes());
        spool
    }
}

#[test]
fn the_power_may_fail_after_every_single_operation() {
    let run = Run::all();
    let operations = run.disk.operations();
    assert!(operations.iter().any(|o| matches!(o, Operation::Truncate(..))), "the run cuts a torn tail");
    let reserve_used = operations.iter().any(|o| matches!(o, Operation::Remove(name) if name == RESERVE));
    assert!(reserve_used, "the run meets a full disk");
    for end in 0..=operations.len() {
        for bytes in Unsynced::ALL {
            for names in Unsynced::ALL {
                let context = format!(
                    "after {end} ({:?}), {bytes:?}, {names:?}",
                    end.checked_sub(1).map(|o| kind(&operations[o]))
                );
                let disk = Arc::new(Memory::after(&operations[..end]).unwrap());
                disk.power_cut(bytes, names);
                let first = run.check(end, &disk, 100, &context);
                disk.power_cut(Unsynced::Dropped, Unsynced::Dropped);
                let second = run.check(end, &disk, 101, &format!("{context}, again"));
                assert_eq!(seqs(&first), seqs(&second), "{context}");
                assert_eq!(first.next().1, second.next().1, "{context}");
            }
        }
    }
}

/// Without the bytes, which nobody wants to read.
fn kind(operation: &Operation) -> String {
    match operation {
        Operation::Append(name, bytes) => format!("append {} to {name}", bytes.len()),
        Operation::Overwrite(name, _) => format!("overwrite {name}"),
        other => format!("{other:?}"),
    }
}
