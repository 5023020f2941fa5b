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
