//! A folder as damage may leave it: the input says what its files are made of, intact frames among arbitrary bytes, since
//! no fuzzer guesses a CRC. It is opened, used and opened again.
#![no_main]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edge_agent::spool::{
    Spool, SpoolConfig,
    disk::{Disk, memory::Memory},
    segment::{self, SegmentHeader},
};
use libfuzzer_sys::fuzz_target;
use proto::{
    position::{Epoch, Position, SEQ_MAX},
    telemetry::Frame,
    time::PlantTime,
    wire::telemetry::{Gap, GapReason, SealTime, TelemetryBatch},
};

/// Large enough for anything that the input makes, so that nothing is evicted.
const CONFIG: SpoolConfig = SpoolConfig {
    bytes_max: 1 << 30,
    segment_bytes: 4096,
    free_bytes_min: 0,
    age_max: None,
    ring_bytes_max: 1 << 20,
    group_after: Duration::ZERO,
    group_bytes: 1,
};

const OTHERS: [&str; 4] = ["checkpoint.a", "checkpoint.b", "reserve", "0000000000000001.seg.tmp"];

fuzz_target!(|bytes: &[u8]| {
    let disk = Arc::new(Memory::default());
    for (name, content) in folder(Input(bytes)) {
        disk.replace(&name, &content).expect("this disk does not fail");
    }
    let mut spool = open(&disk, 0xfe);
    let found = log(&spool);
    drop(spool);
    assert_eq!(log(&open(&disk, 0xfd)), found, "opening again finds the same");

    spool = open(&disk, 0xfc);
    let appended: Vec<_> = (0..3).map(|_| append(&mut spool)).collect();
    let used = log(&spool);
    assert!(used.starts_with(&found), "what was there stays");
    assert_eq!(used.len(), found.len() + appended.len());
    drop(spool);
    let mut spool = open(&disk, 0xfb);
    assert_eq!(log(&spool), used);
    spool.free(appended[1]).expect("this disk does not fail");
    drop(spool);
    let left = log(&open(&disk, 0xfa));
    let freed = used.ends_with(&left) && (1..=appended.len()).contains(&left.len());
    assert!(freed, "of {used:?} only whole segments are freed, but all that are committed: {left:?}");
});

fn open(disk: &Arc<Memory>, epoch: u8) -> Spool {
    Spool::open(disk.clone(), CONFIG, Epoch([epoch; 16])).expect("opening never fails for what is in the files").0
}

fn append(spool: &mut Spool) -> Position {
    let (position, previous) = spool.next();
    spool.append(&data(position, previous), PlantTime(1));
    spool.commit().expect("this disk does not fail");
    position
}

/// First position and last sequence number of all that can be read, which is all that there is.
fn log(spool: &Spool) -> Vec<(Position, u64)> {
    let extents: Vec<_> = spool.log().lock().extents().copied().collect();
    for pair in extents.windows(2) {
        let (here, next) = (pair[0].last(), pair[1]);
        // A gap may begin earlier than needed: whoever takes it takes its end.
        let joins = next.position.seq <= here.seq + 1 && here.seq < next.last_seq;
        assert!(here.epoch != next.position.epoch || joins, "a hole between {here} and {next:?}");
    }
    for extent in &extents {
        let bytes = spool.reader().read(extent.position).expect("what is in the log can be read");
        let header = Frame::split(bytes).expect("it is a frame").header;
        assert_eq!((header.position, header.last_seq), (extent.position, extent.last_seq));
    }
    extents.iter().map(|extent| (extent.position, extent.last_seq)).collect()
}

fn data(position: Position, previous: Option<Position>) -> Frame {
    let sealed = Some(SealTime { time_ms: 1, ..Default::default() });
    Frame::seal(position, previous, 0, &TelemetryBatch { sealed, ..Default::default() })
}

/// Zeros when it is at its end.
struct Input<'i>(&'i [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn bytes(&mut self) -> &[u8] {
        let count = usize::from(self.byte()).min(self.0.len());
        self.0.split_off(..count).unwrap_or_default()
    }

    /// Low, so that they meet; now and then the highest.
    fn seq(&mut self) -> u64 {
        match self.byte() {
            high @ 251.. => SEQ_MAX + 3 - (255 - u64::from(high)),
            low => 1 + u64::from(low % 16),
        }
    }
}

/// Two segments an epoch; whatever is damaged, intact frames are in a segment of their epoch and rise in it, and an intact
/// header says where that began.
fn folder(mut input: Input) -> BTreeMap<String, Vec<u8>> {
    let (mut files, mut name, mut epoch) = (BTreeMap::<String, Vec<u8>>::new(), segment::name(0), 1);
    let mut ends = BTreeMap::<String, u64>::new();
    while !input.0.is_empty() {
        let file = files.entry(name.clone()).or_default();
        match input.byte() % 8 {
            0 => {
                let number = input.byte() % 8;
                (name, epoch) = (segment::name(number.into()), 1 + number / 2);
            }
            1 => name = OTHERS[usize::from(input.byte()) % OTHERS.len()].into(),
            2..=5 => {
                let (kind, seq, more) = (input.byte(), input.seq(), u64::from(input.byte() % 16));
                let end = ends.entry(name.clone()).or_default();
                let last_seq = if kind % 4 == 0 { seq.saturating_add(more) } else { seq };
                if seq <= std::mem::replace(end, last_seq.max(*end)) {
                    continue;
                }
                let position = Position { epoch: Epoch([epoch; 16]), seq };
                let previous = (epoch > 1).then(|| Position { epoch: Epoch([epoch - 1; 16]), seq: 1 + more });
                if file.is_empty() {
                    file.extend(SegmentHeader { first: position, previous }.encode());
                }
                let chained = previous.filter(|_| seq == 1);
                let frame = match kind % 4 {
                    0 => {
                        let gap = Gap { reason: GapReason::Damaged as i32, sealed: None, readings: more };
                        Frame::gap(position, last_seq, chained, &gap)
                    }
                    _ => data(position, chained),
                };
                file.extend(frame.encode());
            }
            6 => file.truncate(file.len().saturating_sub(usize::from(input.byte()))),
            _ => file.extend(input.bytes()),
        }
    }
    files
}
