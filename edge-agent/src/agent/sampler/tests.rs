//! A sampler on the paused clock, with a sensor that is read once a second and a wall clock that jumps.

use std::{ops::RangeInclusive, sync::Arc};

use proto::{
    asset::AssetId,
    clock::ClockConfig,
    telemetry::delta_decode,
    wire::telemetry::{Birth, MachineInfo, SensorInfo},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    agent::{
        batch::BatchBuilder,
        clock::{
            fake::{BOOT, FakeClocks, HOUR, TODAY},
            kept::KeptTime,
        },
        identity::random_bytes,
    },
    source::{Item, Reading, Sample, Source, SourceError},
    spool::disk::memory::Memory,
};

const SECOND: i64 = 1_000;
const YEAR: i64 = 365 * 24 * HOUR;

/// Counts its readings, and stamps each with the time at which it is taken.
struct Sensor {
    clock: AgentClock,
    due: Instant,
    taken: u32,
    polled: PlantTime,
}

impl Source for Sensor {
    fn machines(&self) -> Vec<MachineInfo> {
        let sensors = vec![SensorInfo { sensor: "s".into(), unit: "C".into(), ..Default::default() }];
        vec![MachineInfo { machine: "m".into(), kind: "k".into(), sensors, ..Default::default() }]
    }

    fn poll(&mut self, now: PlantTime, _: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        while self.due <= Instant::now() {
            self.taken += 1;
            self.due += Duration::from_secs(1);
            let values = vec![Reading::good(f64::from(self.taken))];
            out.push(Item::Sample(Sample { machine: AssetId::new("m").unwrap(), time: now, values }));
        }
        self.polled = now;
        Ok(false)
    }

    fn progress(&self) -> PlantTime {
        self.polled
    }

    fn next_due(&self) -> Option<PlantTime> {
        let wait = self.due.saturating_duration_since(Instant::now());
        Some(self.clock.look().time.plus_millis(wait.as_millis() as i64))
    }
}

/// One that runs, and what it has sealed.
struct Running {
    clock: AgentClock,
    batches: mpsc::Receiver<SealedBatch>,
    _progress: watch::Sender<AgentProgress>,
    stop: CancellationToken,
}

fn start(clock: AgentClock, sealed: Option<PlantTime>) -> Running {
    let sensor = Sensor { clock: clock.clone(), due: Instant::now(), taken: 0, polled: PlantTime::MIN };
    let builder = BatchBuilder::new(&sensor.machines()).unwrap();
    let progress = AgentProgress {
        plant_time: PlantTime::MIN,
        readings_sealed: 0,
        batches: 0,
        durable: None,
        committed: None,
        backlog_bytes: 0,
        medium: Medium::Disk,
    };
    let (progress, follow) = watch::channel(progress);
    let (batches, sealed_batches) = mpsc::channel(100_000);
    let sampler = Sampler {
        cutter: Cutter::new(vec![Box::new(sensor)], builder, 10_000, Birth::default(), sealed),
        boot: crate::agent::identity::Identity::load(&Memory::default()).unwrap().boot,
        flush: Duration::from_secs(1),
        traces: TraceSampler::one_in(0),
        replacements: mpsc::channel(1).1,
        beats: Arc::default(),
        backlog_bytes_max: u64::MAX,
        look: clock.look(),
        clock: clock.clone(),
        progress: follow,
        batches,
        metrics: Metrics::new(&AssetId::new("gw").unwrap()),
    };
    let stop = CancellationToken::new();
    tokio::spawn(sampler.run(stop.clone()));
    Running { clock, batches: sealed_batches, _progress: progress, stop }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    number: u32,
    stamp: i64,
    seal: i64,
    trusted: bool,
}

async fn minutes(n: u64) {
    sleep(Duration::from_secs(60 * n)).await;
}

impl Running {
    /// All readings, in the order of the log. Seal times fall with a trusted time only.
    async fn stop(mut self) -> Vec<Row> {
        self.stop.cancel();
        let (mut rows, mut before) = (Vec::new(), i64::MIN);
        while let Some(SealedBatch { batch, .. }) = self.batches.recv().await {
            let sealed = batch.sealed.unwrap();
            assert!(before <= sealed.time_ms || sealed.trusted, "from {before} to {sealed:?}");
            before = sealed.time_ms;
            for machine in &batch.machines {
                let stamps = delta_decode(&machine.time_delta_ms);
                rows.extend(stamps.iter().zip(&machine.sensors[0].value).map(|(&stamp, &number)| Row {
                    number: number as u32,
                    stamp,
                    seal: sealed.time_ms,
                    trusted: sealed.trusted,
                }));
            }
        }
        let mut numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=rows.len() as u32).collect::<Vec<_>>(), "every reading once");
        rows
    }
}

/// Whether the readings taken in these seconds have stamps a second apart from `first_ms` on, and this trust.
fn assert_stamps(rows: &[Row], seconds: RangeInclusive<usize>, first_ms: i64, trusted: bool) {
    for (n, row) in rows[seconds].iter().enumerate() {
        let expected = first_ms + n as i64 * SECOND;
        assert!((expected..expected + 20).contains(&row.stamp), "{row:?} is not at {expected}");
        assert_eq!(row.trusted, trusted, "{row:?}");
        assert!((row.stamp..row.stamp + 2 * SECOND).contains(&row.seal), "{row:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_in_1970_is_sealed_by_an_estimate_before_the_time_is_known() {
    let (disk, known) = (Arc::new(Memory::default()), TODAY - 5 * HOUR);
    let before =
        crate::agent::clock::trust::Known { wall_ms: known, boot_id: BOOT - 1, monotonic_ms: 0, confirmed: true };
    KeptTime { known: Some(before), resume_after: None }.store(&*disk).unwrap();
    let by_ack = |_: &FakeClocks, clock: &AgentClock| clock.on_ack(PlantTime(TODAY));
    let by_service = |clocks: &FakeClocks, _: &AgentClock| clocks.synchronise(TODAY);
    let by_hand = |clocks: &FakeClocks, _: &AgentClock| clocks.jump(TODAY - clocks.now().wall_ms);
    for set in [by_ack as fn(&FakeClocks, &AgentClock), by_service, by_hand] {
        let clocks = FakeClocks::at(0);
        let running = start(clocks.resume(&disk, &ClockConfig::default()), Some(PlantTime(known - SECOND)));
        minutes(10).await;
        set(&clocks, &running.clock);
        minutes(10).await;
        let rows = running.stop().await;
        assert!(rows.len() >= 1_200);
        assert_stamps(&rows, 0..=598, known, false);
        assert_stamps(&rows, 602..=1_199, TODAY + 2 * SECOND, true);
        let odd: Vec<_> = rows[599..602].iter().filter(|row| row.trusted != (row.stamp >= TODAY)).collect();
        assert!(odd.is_empty(), "{odd:?}: an estimate under a trusted seal, or the reverse");
    }
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_ten_years_there_and_back_leaves_no_mark_on_the_stamps() {
    for jump in [10 * YEAR, -HOUR, HOUR, -TODAY] {
        let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(TODAY));
        let running = start(clocks.resume(&disk, &ClockConfig::default()), None);
        minutes(10).await;
        clocks.jump(jump);
        minutes(10).await;
        clocks.jump(-jump);
        minutes(10).await;
        let rows = running.stop().await;
        for (seconds, trusted) in [(0..=598, true), (602..=1_198, false), (1_202..=1_799, true)] {
            assert_stamps(&rows, seconds.clone(), TODAY + *seconds.start() as i64 * SECOND, trusted);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn seal_times_fall_with_a_time_that_was_wrong_and_a_restart_still_goes_on_behind_it() {
    let wrong = TODAY + 3 * YEAR;
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(wrong));
    let running = start(clocks.resume(&disk, &ClockConfig::default()), None);
    minutes(10).await;
    running.clock.on_ack(PlantTime(TODAY));
    minutes(10).await;
    let rows = running.stop().await;
    assert_stamps(&rows, 0..=598, wrong, true);
    assert_stamps(&rows, 602..=1_199, TODAY + 2 * SECOND, true);
    let seals: Vec<_> = rows.iter().map(|row| row.seal).collect();
    assert_eq!(seals.windows(2).filter(|two| two[0] > two[1]).count(), 1, "they fell once");
    let left = *seals.iter().max().unwrap();
    let kept = KeptTime::load(&*disk);
    assert_eq!(kept.resume_after, Some(PlantTime(left)), "a simulator gives nothing twice");
    let known = kept.known.unwrap().wall_ms;
    assert!((TODAY..TODAY + 2 * SECOND).contains(&known), "{known}: stored at once");
}

#[tokio::test(start_paused = true)]
async fn a_spool_sealed_in_2038_does_not_hold_a_right_clock() {
    let sealed = PlantTime(2_147_483_648_000);
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(TODAY));
    let running = start(clocks.resume(&disk, &ClockConfig::default()), Some(sealed));
    minutes(1).await;
    assert_stamps(&running.stop().await, 0..=59, TODAY, true);
    assert_eq!(KeptTime::load(&*disk).resume_after, Some(sealed));

    // Nor one that is only known later; until then the seal stays, untrusted as it is.
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(0));
    let running = start(clocks.resume(&disk, &ClockConfig::default()), Some(sealed));
    minutes(1).await;
    running.clock.on_ack(PlantTime(TODAY));
    minutes(1).await;
    let rows = running.stop().await;
    assert!(rows[..58].iter().all(|row| !row.trusted && row.seal == sealed.millis()), "{:?}", rows[57]);
    assert_stamps(&rows, 62..=119, TODAY + 2 * SECOND, true);
}

#[tokio::test(start_paused = true)]
async fn a_small_step_back_holds_the_seal_and_is_no_break() {
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(TODAY));
    let running = start(clocks.resume(&disk, &ClockConfig::default()), None);
    minutes(1).await;
    clocks.jump(-5 * SECOND);
    minutes(1).await;
    let era = running.clock.look().era;
    // Many of them are more than the seal is held for.
    for _ in 0..10 {
        clocks.jump(-5 * SECOND);
        sleep(Duration::from_secs(1)).await;
    }
    minutes(1).await;
    assert_eq!(running.clock.look().era, era);
    let rows = running.stop().await;
    assert!(rows.iter().all(|row| row.trusted && row.stamp <= row.seal));
    assert!(rows[..120].is_sorted_by_key(|row| row.seal));
    assert_stamps(&rows[rows.len() - 40..], 0..=38, rows[rows.len() - 40].stamp, true);
}

#[tokio::test(start_paused = true)]
async fn plant_time_of_a_replay_never_falls() {
    let (disk, clocks) = (Arc::new(Memory::default()), FakeClocks::at(TODAY));
    let config = ClockConfig { start: Some(PlantTime(0)), ..Default::default() };
    let sealed = PlantTime(HOUR);
    let running = start(clocks.resume(&disk, &config), Some(sealed));
    minutes(1).await;
    let rows = running.stop().await;
    assert!(rows.iter().all(|row| row.trusted && row.seal == sealed.millis()));
    assert_eq!(KeptTime::load(&*disk), KeptTime::default());
}

/// Jumps of all sizes, restarts of the service, acks: all but the wall clock itself tell the truth.
#[tokio::test(start_paused = true)]
async fn whatever_the_wall_clock_does_every_reading_is_sealed_once_and_seals_fall_to_a_trusted_time_only() {
    let seed = u64::from_le_bytes(*random_bytes().unwrap().first_chunk().unwrap());
    println!("seed {seed}");
    for round in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let jumps = [SECOND, 9 * SECOND, 11 * SECOND, HOUR, 30 * 24 * HOUR, 10 * YEAR];
        let off = [0, -TODAY, HOUR, -HOUR, 3 * YEAR][rng.random_range(0..5)];
        let (disk, clocks, began) = (Arc::new(Memory::default()), FakeClocks::at(TODAY + off), Instant::now());
        let running = start(clocks.resume(&disk, &ClockConfig::default()), None);
        let truth = || TODAY + began.elapsed().as_millis() as i64;
        for _ in 0..20 {
            sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
            match rng.random_range(0..4) {
                0 => running.clock.on_ack(PlantTime(truth() - rng.random_range(0..SECOND))),
                1 => clocks.synchronise(truth()),
                _ => clocks.jump(jumps[rng.random_range(0..jumps.len())] * [1, -1][rng.random_range(0..2)]),
            }
        }
        clocks.synchronise(truth());
        minutes(1).await;
        let last = truth();
        let rows = running.stop().await;
        assert!(rows.iter().all(|row| row.stamp <= row.seal), "seed {seed} round {round}");
        for (back, row) in rows.iter().rev().take(50).enumerate() {
            let late = last - back as i64 * SECOND - row.stamp;
            assert!(row.trusted && (0..2 * SECOND).contains(&late), "seed {seed} round {round}: {late} {row:?}");
        }
    }
}
