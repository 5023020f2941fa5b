//! What a look from outside says is what the next start finds.

use std::thread;

use super::{format::version_1, inspect::inspect, *};

#[test]
fn a_look_finds_what_the_next_start_finds_and_changes_nothing() {
    let seed = RandomState::new().hash_one("seed");
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let intact = inspect(&*version_1()).unwrap();
    assert_eq!(intact.damage(), [""; 0]);
    for _ in 0..300 {
        let disk = version_1();
        let segment = &intact.segments[rng.random_range(0..intact.segments.len())];
        let (name, at) = (segment::name(segment.number), rng.random_range(0..segment.bytes as usize));
        if rng.random_bool(0.1) {
            disk.make_unreadable(&name);
        } else {
            disk.damage(&name, at);
        }
        let before = disk.operations().len();
        let seen = inspect(&*disk).unwrap();
        assert_eq!(disk.operations().len(), before);
        let recovered = Spool::open(disk.clone(), CONFIG, Epoch([9; 16])).unwrap().1;
        let bytes = seen.segments.iter().map(|s| s.damaged_bytes + s.unfinished_bytes).sum::<u64>();
        let (lost, unreadable) = (seen.lost, seen.unreadable.len() as u64);
        assert_eq!(
            (bytes, lost, unreadable),
            (recovered.damaged_bytes, recovered.lost, recovered.unreadable),
            "{name} {at}"
        );
        assert!(!seen.damage().is_empty(), "{name} {at}");
    }
}

#[test]
fn a_segment_cut_off_at_its_end_is_no_damage_if_it_is_the_newest() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    for _ in 0..2 {
        append(&mut spool, "note");
        spool.commit().unwrap();
    }
    let name = segment::name(0);
    let bytes = disk.bytes(&name).unwrap();
    for cut in [1, 70] {
        disk.truncate(&name, bytes - cut).unwrap();
        let seen = inspect(&*disk).unwrap();
        assert_eq!((seen.segments[0].frames, seen.damage()), (1, vec![]), "cut by {cut}");
        assert!(seen.segments[0].unfinished_bytes > 0);
    }
    drop(spool);
    append(&mut open(&disk, 2), "a later epoch");
    disk.truncate(&name, 10).unwrap();
    disk.create(&segment::name(1)).unwrap();
    assert!(!inspect(&*disk).unwrap().damage().is_empty(), "nothing is cut off before the newest");
}

/// The folder of a running agent changes all the time: segments are appended to, freed, evicted.
#[test]
fn a_look_beside_a_writer_sees_no_damage() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let writer = thread::spawn(move || {
        for n in 0..3_000_u64 {
            let (position, _) = append(&mut spool, &"note".repeat(n as usize % 50));
            spool.commit().unwrap();
            // Some time without acks, so that there are evictions, and some with.
            if n % 400 > 200 {
                spool.free(Position { seq: position.seq - n % 3, ..position }).unwrap();
            }
        }
    });
    let mut looks = 0;
    while !writer.is_finished() {
        assert_eq!(inspect(&*disk).unwrap().damage(), [""; 0]);
        looks += 1;
    }
    writer.join().unwrap();
    assert!(looks > 0);
}

#[test]
fn what_was_committed_of_an_evicted_segment_is_not_missed_later() {
    let disk = Arc::new(Memory::default());
    let mut spool = open(&disk, 1);
    let first = append(&mut spool, "note").0;
    (0..4).for_each(|_| drop(append(&mut spool, "note")));
    spool.commit().unwrap();
    spool.free(Position { seq: 3, ..first }).unwrap();
    while spool.losses().evicted.batches == 0 {
        append(&mut spool, "note");
        spool.commit().unwrap();
    }
    assert_eq!(inspect(&*disk).unwrap().damage(), [""; 0]);
    assert_eq!(open(&disk, 2).losses().damaged, Loss::default());
}
