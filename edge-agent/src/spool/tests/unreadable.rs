//! Files that the disk fails to read, or that a newer version wrote.

use super::{format::version_1, *};

fn at(epoch: u8, seq: u64) -> Position {
    Position { epoch: Epoch([epoch; 16]), seq }
}

#[test]
fn a_segment_that_cannot_be_read_is_set_aside_and_becomes_a_gap() {
    let disk = version_1();
    disk.make_unreadable(&segment::name(7));
    let (spool, recovered) = Spool::open(disk.clone(), CONFIG, Epoch([4; 16])).unwrap();
    assert_eq!((recovered.lost, recovered.unreadable), (4, 1));
    assert_eq!(spool.losses().segments_set_aside, 1);
    assert!(disk.list().unwrap().contains(&segment::aside_name(7)));
    assert_eq!(gap_at(&spool, at(1, 29)).0, 32);
    assert_eq!(gap_at(&spool, at(1, 29)).1.reason(), GapReason::Damaged);
    let again = Spool::open(disk, CONFIG, Epoch([5; 16])).unwrap();
    assert_eq!((seqs(&again.0), again.1.unreadable, again.1.lost), (seqs(&spool), 0, 0));
}

#[test]
fn a_segment_of_a_newer_version_is_set_aside() {
    let disk = version_1();
    let name = segment::name(0xa);
    let mut bytes = disk.read(&name, 0, disk.bytes(&name).unwrap() as usize).unwrap();
    bytes[4] = 2;
    let damaged = bytes.clone();
    let crc = crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
    bytes[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    disk.replace(&name, &bytes).unwrap();
    let (spool, recovered) = Spool::open(disk.clone(), CONFIG, Epoch([4; 16])).unwrap();
    assert_eq!((recovered.lost, recovered.unreadable), (4, 1));
    assert_eq!(gap_at(&spool, at(2, 1)).0, 4);
    assert_eq!(disk.bytes(&segment::aside_name(0xa)).unwrap(), bytes.len() as u64, "its bytes are kept");

    let disk = version_1();
    disk.replace(&name, &damaged).unwrap();
    let recovered = Spool::open(disk, CONFIG, Epoch([4; 16])).unwrap().1;
    assert_eq!((recovered.lost, recovered.unreadable), (0, 0), "a flipped bit is no newer version");
}

#[test]
fn no_more_than_a_few_are_kept() {
    let disk = version_1();
    for number in 5..=0xb {
        disk.make_unreadable(&segment::name(number));
    }
    let (spool, recovered) = Spool::open(disk.clone(), CONFIG, Epoch([4; 16])).unwrap();
    assert_eq!(recovered.unreadable, 7);
    let mut kept = disk.list().unwrap();
    kept.retain(|name| segment::is_aside(name));
    assert_eq!(kept.len(), retention::UNREADABLE_SEGMENTS_MAX);
    assert_eq!(kept.last(), Some(&segment::aside_name(0xb)), "the newest ones");
    assert_eq!(spool.next().1, Some(at(1, 8)), "all that is known");
}

#[test]
fn a_frame_that_the_disk_fails_to_read_is_given_up_after_a_few_tries() {
    let disk = version_1();
    let mut spool = open(&disk, 4);
    disk.make_unreadable(&segment::name(0xa));
    assert!(matches!(spool.reader().read(at(2, 1)), Err(ReadError::Io(_))));
    for _ in 1..READ_TRIES_MAX {
        assert!(spool.mend(at(2, 1)).is_err());
        assert!(!spool.log().lock().covering(at(2, 1)).unwrap().gap);
    }
    spool.mend(at(2, 1)).unwrap();
    for seq in 1..=4 {
        assert_eq!(gap_at(&spool, at(2, seq)).1.reason(), GapReason::Damaged);
    }
    assert_eq!(spool.losses().damaged.batches, 3, "one was a gap before");
}
