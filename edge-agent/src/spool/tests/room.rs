//! A disk with little room or none.

use proto::telemetry::HEADER_BYTES;

use super::{
    disk::memory::Operation,
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

fn filled(disk: &Arc<Memory>) -> Spool {
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

/// An hour of 200 readings a second, in a group each second, with an ack every five: all bytes that are given to write
/// calls, reserve, headers and checkpoints too, over those of the payloads.
#[test]
fn little_more_is_written_than_what_was_read() {
    const SECONDS: u64 = 3_600;
    let disk = Arc::new(Memory::default());
    let (mut spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut payload_bytes = 0;
    for second in 1..=SECONDS {
        // As many bytes as 200 readings take.
        let noise: String = (0..1_080).map(|_| rng.random_range('a'..='z')).collect();
        let (position, bytes) = append(&mut spool, &noise);
        payload_bytes += bytes.len() - HEADER_BYTES;
        spool.commit().unwrap();
        if second % 5 == 0 {
            spool.free(position).unwrap();
        }
    }
    let per_second = payload_bytes as u64 / SECONDS;
    assert!((600..750).contains(&per_second), "{per_second} bytes a second");
    let written = |operation: &Operation| match operation {
        Operation::Append(_, bytes) | Operation::Overwrite(_, bytes) => bytes.len(),
        _ => 0,
    };
    let amplification = disk.operations().iter().map(written).sum::<usize>() as f64 / payload_bytes as f64;
    println!("{amplification:.3} bytes are written for each of a payload");
    assert!(amplification <= 1.3, "{amplification}");
}
