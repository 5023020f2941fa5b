use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use bytes::Bytes;
use proto::wire::telemetry::{EventRecord, Gap, GapReason, SealTime, TelemetryBatch};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{disk::memory::Memory, segment::SEGMENT_HEADER_BYTES, *};

mod crash_points;
mod format;
mod look;
mod room;
mod unreadable;

const CONFIG: SpoolConfig = SpoolConfig {
    bytes_max: 6_000,
    segment_bytes: 1_000,
    free_bytes_min: 0,
    age_max: None,
    ring_bytes_max: 2_000,
    group_after: Duration::ZERO,
    group_bytes: 1,
};

fn open(disk: &Arc<Memory>, epoch: u8) -> Spool {
    Spool::open(disk.clone(), CONFIG, Epoch([epoch; 16])).unwrap().0
}

fn batch(note: String) -> TelemetryBatch {
    let event = EventRecord { machine: "m".into(), note, ..Default::default() };
    TelemetryBatch { sealed: Some(Default::default()), events: vec![event], ..Default::default() }
}

fn append(spool: &mut Spool, note: &str) -> (Position, Bytes) {
    let (position, previous) = spool.next();
    let frame = Frame::seal(position, previous, 3, &batch(note.into()));
    spool.append(&frame, PlantTime(position.seq as i64));
    (position, frame.encode())
}

fn seqs(spool: &Spool) -> Vec<(u8, u64, u64, bool)> {
    spool.log().lock().extents().map(|e| (e.position.epoch.0[0], e.position.seq, e.last_seq, e.gap)).collect()
}

fn gap_at(spool: &Spool, position: Position) -> (u64, Gap) {
    let frame = Frame::split(spool.reader().read(position).unwrap()).unwrap();
    (frame.header.last_seq, frame.gap_content().unwrap())
}

#[test]
fn frames_become_visible_with_the_commit_and_survive_a_crash() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let (first, bytes) = append(&mut spool, "a");
    assert_eq!(seqs(&spool), []);
    spool.commit().unwrap();
    assert_eq!(spool.reader().read(first).unwrap(), bytes);
    append(&mut spool, "b");
    disk.crash(&mut rng);

    let mut spool = open(&disk, 2);
    assert_eq!(seqs(&spool), [(1, 1, 1, false)]);
    assert_eq!(spool.reader().read(first).unwrap(), bytes);
    assert_eq!(spool.next(), (Position { epoch: Epoch([2; 16]), seq: 1 }, Some(first)), "a new epoch, linked");
    append(&mut spool, "c");
    spool.commit().unwrap();
    assert_eq!(seqs(&spool), [(1, 1, 1, false), (2, 1, 1, false)]);
}

#[test]
fn the_chain_survives_when_every_segment_was_freed() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let last = (0..9).map(|n| append(&mut spool, &"x".repeat(n)).0).last().unwrap();
    spool.commit().unwrap();
    drop(spool);
    let mut spool = open(&disk, 2);
    spool.free(last).unwrap();
    assert_eq!(disk.list().unwrap(), ["checkpoint.b", "reserve"]);
    let spool = open(&disk, 3);
    assert_eq!(spool.next().1, Some(last));
    assert_eq!(spool.sealed(), Some(PlantTime(0)), "as the frames on the disk say");
}

#[test]
fn eviction_leaves_one_growing_gap() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..100 {
        let noise: String = (0..200).map(|_| rng.random_range('a'..='z')).collect();
        append(&mut spool, &noise);
        spool.commit().unwrap();
        assert!(spool.bytes() <= CONFIG.bytes_max);
    }
    let held = seqs(&spool);
    let (_, first, gap_end, gap) = held[0];
    assert!(gap && first == 1 && gap_end > 50 && held[1].1 == gap_end + 1 && !held[1].3, "{held:?}");
    let (last_seq, gap) = gap_at(&spool, Position { epoch: Epoch([1; 16]), seq: 1 });
    assert_eq!((last_seq, gap.reason()), (gap_end, GapReason::Evicted));
    assert_eq!(gap.readings, 3 * gap_end, "three readings per frame are known to be lost");
    assert!(gap.sealed.is_some());
    assert_eq!(seqs(&open(&disk, 2)), held);
}

#[test]
fn damage_becomes_a_gap_for_exactly_the_damaged_frames() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let frames: Vec<_> = (0..5).map(|_| append(&mut spool, "some note")).collect();
    spool.commit().unwrap();
    let middle = spool.log().lock().covering(frames[2].0).unwrap().place;
    disk.damage(&segment::name(middle.segment), middle.offset as usize + 90);
    assert!(matches!(spool.reader().read(frames[2].0), Err(ReadError::Damaged(_))));
    let expected = [(1, 1, 1, false), (1, 2, 2, false), (1, 3, 3, true), (1, 4, 4, false), (1, 5, 5, false)];
    assert_eq!(seqs(&open(&disk, 2)), expected, "found at start");
    disk.damage(&segment::name(middle.segment), SEGMENT_HEADER_BYTES + 90);
    let mut spool = open(&disk, 3);
    assert_eq!(seqs(&spool)[0], (1, 1, 1, true));
    assert_eq!(gap_at(&spool, frames[0].0).1.reason(), GapReason::Damaged);

    let losses = spool.losses();
    spool.mend(frames[4].0).unwrap();
    assert_eq!(
        (spool.losses(), seqs(&spool)[4]),
        (losses, (1, 5, 5, false)),
        "what can be read again needs no mending"
    );
    let place = spool.log().lock().covering(frames[3].0).unwrap().place;
    disk.damage(&segment::name(place.segment), place.offset as usize + 3);
    spool.mend(frames[3].0).unwrap();
    assert_eq!(seqs(&spool)[3], (1, 4, 4, true), "found on reading");
    assert_eq!(spool.reader().read(frames[4].0).unwrap(), frames[4].1);
}

#[test]
fn a_quarantined_frame_becomes_a_gap_and_its_bytes_are_kept() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let frames: Vec<_> = (0..40).map(|_| append(&mut spool, &"x".repeat(300))).collect();
    spool.commit().unwrap();
    for (position, _) in &frames[1..] {
        spool.quarantine(*position).unwrap();
        spool.quarantine(*position).unwrap();
    }
    assert_eq!(spool.losses().quarantined, Loss { batches: 39, readings: 3 * 39 }, "each once");
    let (last, gap) = gap_at(&spool, frames[1].0);
    assert_eq!((last, gap.reason(), gap.readings), (2, GapReason::Quarantined, 3));
    assert_eq!(gap.sealed, Some(Default::default()), "the watermark moves on");
    assert_eq!(spool.reader().read(frames[0].0).unwrap(), frames[0].1);
    spool.quarantine(Position { seq: 99, ..frames[0].0 }).unwrap();
    assert_eq!(seqs(&open(&disk, 2)), seqs(&spool), "durable");

    let aside: Vec<_> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".quarantined")).collect();
    assert_eq!(aside.len(), retention::QUARANTINED_FRAMES_MAX, "no more than that");
    assert!(aside.iter().all(|name| disk.bytes(name).unwrap() == frames[1].1.len() as u64));
}

#[test]
fn a_failed_write_is_repeated_under_the_same_sequence_numbers() {
    for writes in 0..5 {
        let disk = Arc::new(Memory::default());
        let mut spool = open(&disk, 1);
        append(&mut spool, "a");
        spool.commit().unwrap();
        let (position, bytes) = append(&mut spool, "b");
        disk.fail_after(writes % 2);
        assert!(spool.commit().is_err());
        disk.fail_after(writes);
        let failed_again = spool.commit().is_err();
        disk.heal();
        spool.commit().unwrap();
        let position = Position { seq: 2, ..position };
        assert_eq!(spool.reader().read(position).unwrap(), bytes, "{writes} {failed_again}");
        assert_eq!(seqs(&open(&disk, 2)), [(1, 1, 1, false), (1, 2, 2, false)]);
    }
}

#[test]
fn retries_on_a_full_disk_leave_nothing_behind() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    append(&mut spool, "a");
    spool.commit().unwrap();
    let bytes_on_disk = |disk: &Memory| -> u64 {
        let segments = disk.list().unwrap().into_iter().filter(|name| segment::number(name).is_some());
        segments.map(|name| disk.bytes(&name).unwrap()).sum()
    };
    append(&mut spool, "b");
    for writes in (0..6).cycle().take(60) {
        disk.fail_after(writes);
        if spool.commit().is_ok() {
            append(&mut spool, &"more".repeat(40));
        }
        assert!(disk.list().unwrap().len() as u64 <= spool.segments.len() as u64 + 2, "a file for each try");
        // The disk has room again for a moment: at least to cut what is torn.
        disk.heal();
        spool.clear_torn().unwrap();
        assert_eq!(bytes_on_disk(&disk), spool.bytes(), "{writes} writes");
    }
    spool.commit().unwrap();
    let last = spool.log().lock().last().unwrap();
    assert_eq!(open(&disk, 2).next().1, Some(last));
}

#[test]
fn a_full_disk_has_room_again_when_the_archive_has_what_is_on_it() {
    let disk = Arc::new(Memory::default());
    let mut spool = Spool::open(disk.clone(), SpoolConfig { bytes_max: 60_000, ..CONFIG }, Epoch([1; 16])).unwrap().0;
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut noise = || (0..400).map(|_| rng.random_range('a'..='z')).collect::<String>();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(append(&mut spool, &noise()).0);
        spool.commit().unwrap();
    }
    disk.fill(200);
    let (waiting, bytes) = append(&mut spool, &noise());
    let files = disk.list().unwrap();
    for _ in 0..10 {
        assert!(spool.commit().is_err());
        assert_eq!(disk.list().unwrap(), files, "no file is left of a try");
    }
    spool.free(held[6]).unwrap();
    assert!(disk.list().unwrap().len() < files.len());
    spool.commit().unwrap();
    assert_eq!(spool.reader().read(waiting).unwrap(), bytes);
}

#[test]
fn losses_are_counted() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let frames: Vec<_> = (0..4).map(|_| append(&mut spool, "note")).collect();
    spool.commit().unwrap();
    let place = spool.log().lock().covering(frames[1].0).unwrap().place;
    disk.damage(&segment::name(place.segment), place.offset as usize + 90);
    spool.mend(frames[1].0).unwrap();
    let damaged = Losses { damaged: Loss { batches: 1, readings: 3 }, ..Default::default() };
    assert_eq!(spool.losses(), damaged);
    spool.mend(frames[1].0).unwrap();
    assert_eq!(spool.losses(), damaged, "once");
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..100 {
        let noise: String = (0..200).map(|_| rng.random_range('a'..='z')).collect();
        append(&mut spool, &noise);
        spool.commit().unwrap();
    }
    let (gap_end, held) = (seqs(&spool)[0].2, seqs(&spool));
    assert!(held[0].3 && gap_end > 50, "{held:?}");
    let evicted = Loss { batches: gap_end - 1, readings: 3 * (gap_end - 1) };
    let segments_evicted = spool.losses().segments_evicted;
    assert!((2..gap_end).contains(&segments_evicted), "each has a few frames: {segments_evicted}");
    assert_eq!(
        spool.losses(),
        Losses { evicted, segments_evicted, ..damaged },
        "what was damaged before is not counted twice"
    );

    let place = spool.log().lock().covering(Position { seq: gap_end + 2, ..frames[0].0 }).unwrap().place;
    disk.damage(&segment::name(place.segment), place.offset as usize + 90);
    let (recovered, opened) = (open(&disk, 2).losses(), Loss { batches: 1, readings: 0 });
    assert_eq!(recovered, Losses { damaged: opened, ..Default::default() }, "found at start");
}

/// Random appends, commits, frees, failures, crashes: whatever was visible once is committed, readable with the same
/// bytes, or covered by a gap that says it was evicted.
#[test]
fn nothing_visible_is_ever_lost_in_silence() {
    let given = std::env::var("MILLWRIGHT_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = given.map_or_else(|| (0..100).map(|_| RandomState::new().hash_one(0)).collect(), |seed| vec![seed]);
    for seed in seeds {
        println!("MILLWRIGHT_SEED={seed}");
        let mut model = Model::new(seed);
        for step in 0..60 {
            model.step();
            model.check(&format!("seed {seed}, step {step}"));
        }
    }
}

struct Model {
    rng: ChaCha8Rng,
    disk: Arc<Memory>,
    spool: Spool,
    epochs: u8,
    appended: Vec<(Position, Bytes)>,
    visible: BTreeMap<(u8, u64), Bytes>,
    committed: Option<(u8, u64)>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = Arc::new(Memory::default());
        let spool = open(&disk, 1);
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Model { rng, disk, spool, epochs: 1, appended: vec![], visible: BTreeMap::new(), committed: None }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..10 => self.append_some(),
            10..13 => self.free_some(),
            13 => self.crash(),
            14 => self.reopen(),
            15..17 => {
                self.disk.fail_after(self.rng.random_range(0..12));
                self.append_some();
                self.free_some();
                self.crash();
            }
            17 => self.go_on_in_memory(),
            _ => {
                self.disk.fail_after(self.rng.random_range(0..12));
                self.append_some();
                self.disk.heal();
            }
        }
    }

    fn append_some(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let length = self.rng.random_range(0..300);
            let note: String = (0..length).map(|_| self.rng.random_range('a'..='z')).collect();
            self.appended.push(append(&mut self.spool, &note));
        }
        if self.spool.commit().is_ok() {
            self.visible.extend(self.appended.drain(..).map(|(p, bytes)| ((p.epoch.0[0], p.seq), bytes)));
        }
    }

    fn free_some(&mut self) {
        if self.visible.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.visible.len());
        let key = *self.visible.keys().nth(at).unwrap();
        // After an error, what it covers may or may not be gone.
        let _ = self.spool.free(Position { epoch: Epoch([key.0; 16]), seq: key.1 });
        self.committed = self.committed.max(Some(key));
    }

    /// What is only in memory may be sent and committed, too.
    fn go_on_in_memory(&mut self) {
        self.disk.fail_after(self.rng.random_range(0..12));
        for _ in 0..self.rng.random_range(1..4) {
            self.append_some();
            self.spool.hold();
            let held = self.spool.log().lock().last();
            if let Some(last) = held.filter(|last| last.epoch.0[0] == self.epochs && self.rng.random_bool(0.3)) {
                let seq = self.rng.random_range(1..=last.seq);
                let _ = self.spool.free(Position { seq, ..last });
                self.committed = self.committed.max(Some((self.epochs, seq)));
            }
        }
        match self.rng.random_bool(0.3) {
            true => self.crash(),
            false => self.disk.heal(),
        }
    }

    fn crash(&mut self) {
        self.disk.crash(&mut self.rng);
        self.reopen();
    }

    fn reopen(&mut self) {
        self.epochs += 1;
        self.appended.clear();
        self.spool = open(&self.disk, self.epochs);
    }

    fn check(&self, context: &str) {
        let log = self.spool.log().lock().clone();
        let reader = self.spool.reader();
        for (&(epoch, seq), bytes) in self.visible.iter().filter(|(key, _)| Some(**key) > self.committed) {
            let position = Position { epoch: Epoch([epoch; 16]), seq };
            let extent = log.covering(position).unwrap_or_else(|| panic!("{context}: {position} is not held"));
            let read = reader.read(extent.position).unwrap_or_else(|e| panic!("{context}: {e}"));
            if extent.gap {
                let gap = Frame::split(read).unwrap().gap_content().unwrap();
                assert_eq!(gap.reason(), GapReason::Evicted, "{context}: {position}");
            } else {
                assert_eq!(&read, bytes, "{context}: {position}");
            }
        }
        let mut last = None;
        for extent in log.extents() {
            let follows = match last {
                Some(Position { epoch, seq }) if epoch == extent.position.epoch => extent.position.seq == seq + 1,
                Some(_) => extent.position.seq == 1,
                None => true,
            };
            assert!(follows, "{context}: {} after {last:?}", extent.position);
            last = Some(extent.last());
        }
        assert!(self.spool.bytes() <= CONFIG.bytes_max + 1_000, "{context}: {} bytes", self.spool.bytes());
    }
}
