//! What an earlier version wrote stays readable.

use std::{fs, path::Path};

use super::*;

/// Written by format version 1: segments with a gap of evicted frames, a gap of a damaged one, three epochs, and a
/// single checkpoint.
pub(super) fn version_1() -> Arc<Memory> {
    let disk = Arc::new(Memory::default());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spool-v1");
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        disk.replace(&entry.file_name().into_string().unwrap(), &fs::read(entry.path()).unwrap()).unwrap();
    }
    disk.sync_folder().unwrap();
    disk
}

#[test]
fn a_spool_of_version_1_is_readable() {
    let disk = version_1();
    let (spool, recovered) = Spool::open(disk, CONFIG, Epoch([4; 16])).unwrap();
    assert_eq!(recovered, Recovered { frames: 23, ..Default::default() });
    let mut expected = vec![(1, 9, 24, true)];
    expected.extend((25..=40).map(|seq| (1, seq, seq, false)));
    expected.extend([(2, 1, 1, false), (2, 2, 2, true), (2, 3, 3, false), (2, 4, 4, false)]);
    expected.extend([(3, 1, 1, false), (3, 2, 2, false)]);
    assert_eq!(seqs(&spool), expected);

    let at = |epoch, seq| Position { epoch: Epoch([epoch; 16]), seq };
    assert_eq!(spool.log().lock().committed(), Some(at(1, 8)));
    assert_eq!(spool.next(), (at(4, 1), Some(at(3, 2))), "the chain goes on");
    let previous = spool.segments.iter().map(|s| s.previous).collect::<Vec<_>>();
    assert_eq!(previous[previous.len() - 3..], [None, Some(at(1, 40)), Some(at(2, 4))]);
    assert_eq!(gap_at(&spool, at(1, 9)).1.reason(), GapReason::Evicted);
    assert_eq!(gap_at(&spool, at(2, 2)).1.reason(), GapReason::Damaged);
    let held: Vec<_> = spool.log().lock().extents().map(|e| e.position).collect();
    let crc = held.iter().fold(0, |crc, position| crc32c::crc32c_append(crc, &spool.reader().read(*position).unwrap()));
    assert_eq!(crc, 0x7c56_5273, "every byte of every frame");
}

#[test]
fn the_single_checkpoint_goes_after_the_first_of_two_is_durable() {
    let disk = version_1();
    let mut spool = open(&disk, 4);
    let committed = Position { epoch: Epoch([2; 16]), seq: 4 };
    spool.free(committed).unwrap();
    let files = disk.list().unwrap();
    assert!(files.contains(&"checkpoint.b".into()) && !files.contains(&"checkpoint".into()), "{files:?}");
    let spool = open(&disk, 5);
    assert_eq!(spool.log().lock().committed(), Some(committed));
    assert_eq!(seqs(&spool), [(3, 1, 1, false), (3, 2, 2, false)]);
}

#[test]
fn a_damaged_checkpoint_is_no_loss_of_readings() {
    let disk = version_1();
    open(&disk, 4).free(Position { epoch: Epoch([1; 16]), seq: 27 }).unwrap();
    disk.damage("checkpoint.b", 20);
    let (spool, recovered) = Spool::open(disk, CONFIG, Epoch([5; 16])).unwrap();
    assert_eq!(recovered.lost, 0, "what is freed was committed");
    let first = seqs(&spool)[0];
    assert!(first.0 == 1 && first.1 > 24 && !first.3, "{first:?}");
}

#[test]
fn a_lost_segment_becomes_a_gap_for_exactly_its_numbers() {
    let disk = version_1();
    disk.remove(&segment::name(0xa)).unwrap();
    let (spool, recovered) = Spool::open(disk.clone(), CONFIG, Epoch([4; 16])).unwrap();
    assert_eq!(recovered.lost, 4, "the second epoch");
    let at = |epoch, seq| Position { epoch: Epoch([epoch; 16]), seq };
    assert_eq!(gap_at(&spool, at(2, 1)).0, 4);
    let held = seqs(&spool);
    assert_eq!(held[held.len() - 4..], [(1, 40, 40, false), (2, 1, 4, true), (3, 1, 1, false), (3, 2, 2, false)]);
    let again = Spool::open(disk, CONFIG, Epoch([5; 16])).unwrap();
    assert_eq!((seqs(&again.0), again.1.lost), (held, 0));
}
