//! A disk with little room or none.

use super::{
    reserve::{RESERVE, RESERVE_BYTES},
    *,
};

const FLOOR: u64 = 2_000;
const ROOMY: SpoolConfig = SpoolConfig {
    bytes_max: 100_000,
    segment_bytes: 1_000,
    free_bytes_min: FLOOR,
    age_max: None,
    ring_bytes_max: 2_000,
    group_after: Duration::ZERO,
    group_bytes: 1,
};

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

#[test]
fn what_is_too_old_is_evicted_if_the_clock_was_trusted() {
    const HOUR_MS: i64 = 3_600_000;
    for trusted in [true, false] {
        let disk = Arc::new(Memory::default());
        let config = SpoolConfig { age_max: Some(Duration::from_millis(10 * HOUR_MS as u64)), ..ROOMY };
        let mut spool = Spool::open(disk, config, Epoch([1; 16])).unwrap().0;
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for hour in 0..40 {
            let noise: String = (0..600).map(|_| rng.random_range('a'..='z')).collect();
            let sealed = Some(SealTime { time_ms: hour * HOUR_MS, trusted, ..Default::default() });
            let batch = TelemetryBatch { sealed, ..batch(noise) };
            let (position, previous) = spool.next();
            spool.append(&Frame::seal(position, previous, 3, &batch), PlantTime(hour * HOUR_MS));
            spool.commit().unwrap();
        }
        let first = seqs(&spool)[0];
        match trusted {
            // Frame n was sealed at hour n - 1; when the last one was appended, the newest was of hour 38.
            true => assert_eq!(first, (1, 1, 28, true), "all that was older than ten hours"),
            false => assert_eq!(first, (1, 1, 1, false)),
        }
        // The gap is as old as the last of what it stands for.
        let hours = if trusted { 39 - 27 } else { 39 };
        assert_eq!(spool.backlog_age(), Some(Duration::from_millis(hours * HOUR_MS as u64)));
        let last = spool.log().lock().last().unwrap();
        spool.free(last).unwrap();
        assert_eq!(spool.backlog_age(), Some(Duration::ZERO));
    }
}
