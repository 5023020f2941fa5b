use proto::{asset::AssetId, clock::ClockConfig};
use tokio::time::sleep;

use super::*;
use crate::{
    agent::clock::{
        AgentClock,
        fake::{FakeClocks, HOUR, TODAY},
    },
    spool::disk::memory::Memory,
};

fn stored(disk: &Memory) -> Option<i64> {
    KeptTime::load(disk).known.map(|known| known.wall_ms)
}

fn run(clock: &AgentClock) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let stop = CancellationToken::new();
    let keeper = clock.keeper().unwrap().clone();
    let running = tokio::spawn(keeper.run(Metrics::new(&AssetId::new("gw").unwrap()), stop.clone()));
    (stop, running)
}

#[tokio::test(start_paused = true)]
async fn the_known_time_is_stored_now_and_then_and_at_the_stop_and_the_next_start_goes_on_from_it() {
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(TODAY));
    let (stop, running) = run(&clocks.resume(&disk, &ClockConfig::default()));
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..3_600 {
        sleep(Duration::from_secs(1)).await;
        times.extend(stored(&disk));
    }
    assert!((6..=7).contains(&times.len()), "{times:?}: once in ten minutes");
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stored(&disk), Some(clocks.now().wall_ms));

    // The power was away, and the wall clock has forgotten everything.
    let (known, clocks) = (stored(&disk).unwrap(), FakeClocks::at(0));
    let clock = clocks.resume(&disk, &ClockConfig::default());
    assert_eq!((clock.look().trusted, clock.look().time), (false, PlantTime(known)));
    let (stop, running) = run(&clock);
    sleep(SAVE_EVERY * 3).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stored(&disk), Some(known), "an estimate is not a known time");
}

#[tokio::test(start_paused = true)]
async fn everyone_who_stamps_gets_the_time_that_is_used() {
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(0));
    let clock = clocks.resume(&disk, &ClockConfig::default());
    let mut plant = clock.plant();
    let (_stop, _running) = run(&clock);
    let agree = |plant: &mut watch::Receiver<PlantClock>| {
        let published = *plant.borrow_and_update();
        let look = clock.look();
        assert_eq!(published.plant(clocks.now().wall_ms), look.time);
        look.trusted
    };
    assert!(!agree(&mut plant));
    clock.on_ack(PlantTime(TODAY));
    assert!(agree(&mut plant));
    for jump in [HOUR, -50 * HOUR, 20 * 365 * 24 * HOUR] {
        clocks.jump(jump);
        plant.changed().await.unwrap();
        assert!(agree(&mut plant), "{jump}: the time is confirmed");
    }
    clocks.synchronise(TODAY + 30 * HOUR);
    plant.changed().await.unwrap();
    assert!(agree(&mut plant));
    assert_eq!(*plant.borrow(), PlantClock::WALL, "the wall clock is believed");
}

#[tokio::test(start_paused = true)]
async fn plant_time_of_a_replay_is_no_matter_of_acks_and_goes_by_the_wall_clock_under_it() {
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(TODAY));
    let start = PlantTime(1_420_070_400_000);
    let replay = ClockConfig { start: Some(start), speed: 60.0, ..Default::default() };
    let clock = clocks.resume(&disk, &replay);
    assert_eq!((clock.look().trusted, clock.look().time), (true, start));
    clock.on_ack(PlantTime(TODAY + HOUR));
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!((clock.look().trusted, clock.look().time), (true, start.plus_millis(60 * HOUR)));
    // Another program was told where this plant time began.
    let (wall_origin_ms, plant_origin) = (Some(TODAY), Some(start));
    let shared = ClockConfig { wall_origin_ms, plant_origin, speed: 60.0, ..Default::default() };
    let clocks = FakeClocks::at(0);
    let clock = clocks.resume(&Arc::new(Memory::default()), &shared);
    clock.on_ack(start.plus_millis(60 * HOUR));
    assert_eq!((clock.look().trusted, clock.look().time), (true, start.plus_millis(60 * HOUR)));
    assert_eq!(clock.look().offset_ms, TODAY + HOUR);
}

#[test]
fn the_real_clocks_are_read_together() {
    let boot = crate::agent::identity::Identity::load(&Memory::default()).unwrap().boot;
    let (clocks, before) = (clocks(boot), wall_now_ms());
    let (first, second) = (clocks(), clocks());
    assert!(first.wall_ms >= before && first.monotonic_ms > 0, "{first:?}");
    assert!(second.monotonic_ms >= first.monotonic_ms, "{first:?} {second:?}");
}
