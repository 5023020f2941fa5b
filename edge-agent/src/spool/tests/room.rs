//! A disk with little room or none.

use super::{
    reserve::{RESERVE, RESERVE_BYTES},
    *,
};

const FLOOR: u64 = 2_000;
const ROOMY: SpoolConfig = SpoolConfig { bytes_max: 100_000, segment_bytes: 1_000, free_bytes_min: FLOOR };

fn filled(disk: &Arc<Memory>) -> Spool<Memory> {
    let mut spool = Spool::open(disk.clone(), ROOMY, Epoch([1; 16])).unwrap().0;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..40 {
        let noise: String = (0..200).map(|_| rng.random_range('a'..='z')).collect();
        append(&mut spool, &noise);
        spool.commit().unwrap();
    }
    assert_eq!(spool.losses(), Losses::default());
    spool
}

#[test]
fn the_oldest_make_room_when_the_file_system_has_little() {
    let disk = Arc::new(Memory::default());
    let mut spool = filled(&disk);
    disk.fill(1_000);
    let (waiting, bytes) = append(&mut spool, "x");
    spool.commit().unwrap();
    assert!(disk.free_bytes().unwrap() >= FLOOR);
    assert_eq!(spool.reader().read(waiting).unwrap(), bytes);
    let evicted = spool.losses().evicted.batches;
    assert!(evicted > 0 && evicted < 20, "no more than needed: {evicted}");
    assert!(disk.list().unwrap().contains(&RESERVE.into()), "there was no need of it");
}

#[test]
fn a_full_disk_is_emptied_from_the_reserve() {
    let disk = Arc::new(Memory::default());
    let mut spool = filled(&disk);
    assert_eq!(disk.bytes(RESERVE).unwrap(), RESERVE_BYTES as u64);
    disk.fill(0);
    let (waiting, bytes) = append(&mut spool, "x");
    spool.commit().unwrap();
    assert_eq!(spool.reader().read(waiting).unwrap(), bytes);
    let first = seqs(&spool)[0];
    assert!(first.1 == 1 && first.3, "{first:?}");
    assert!(!disk.list().unwrap().contains(&RESERVE.into()), "used");
    assert_eq!(seqs(&open(&disk, 2)), seqs(&spool), "durable");

    disk.fill(4 * RESERVE_BYTES);
    append(&mut spool, "y");
    spool.commit().unwrap();
    assert_eq!(disk.bytes(RESERVE).unwrap(), RESERVE_BYTES as u64, "and made again when there is room");
}

#[test]
fn what_is_committed_goes_from_a_full_disk() {
    let disk = Arc::new(Memory::default());
    let mut spool = filled(&disk);
    disk.fill(0);
    let last = spool.log().lock().last().unwrap();
    let before = spool.bytes();
    spool.free(last).unwrap();
    assert!(spool.bytes() < before);
    assert_eq!(open(&disk, 2).log().lock().committed(), Some(last));
}
