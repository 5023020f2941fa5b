use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::{
    asset::AssetId,
    wire::telemetry::{Quality, QualityReason},
};
use tokio::time::sleep;

use super::*;
use crate::source::Reading;

const CONFIG: &str = r#"
    id = "press-1"
    kind = "press"
    sensors = [
        { sensor = "a", unit = "C", at = "", scale = 0.1, offset = 1, low = 0, high = 50 },
        { sensor = "b", unit = "C", at = "", deadband = 0.5 },
    ]
"#;

/// Puts a row whenever it is asked to.
struct Puppet {
    rows: mpsc::Receiver<[Reading; 2]>,
    /// Lives as long as the device's task does.
    alive: Arc<AtomicUsize>,
}

impl Device for Puppet {
    async fn run(mut self, mut outlet: Outlet) {
        self.alive.fetch_add(1, Ordering::SeqCst);
        while let Some(row) = self.rows.recv().await {
            outlet.put(0, outlet.now(), row);
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.alive.fetch_add(10, Ordering::SeqCst);
    }
}

struct Stage {
    source: Live<Puppet>,
    rows: mpsc::Sender<[Reading; 2]>,
    alive: Arc<AtomicUsize>,
    clock: watch::Sender<PlantClock>,
}

fn held_at(ms: i64) -> PlantClock {
    PlantClock { wall_origin_ms: 0, plant_origin: PlantTime(ms), speed: 0.0 }
}

fn stage() -> Stage {
    let config: MachineConfig<String> = toml::from_str(CONFIG).unwrap();
    check_machines(std::slice::from_ref(&config)).unwrap();
    let (rows, inbox) = mpsc::channel(1);
    let alive = Arc::new(AtomicUsize::new(0));
    let device = Puppet { rows: inbox, alive: alive.clone() };
    let source = Live::new(None, "puppet", Machines::new(&[config], 100), device);
    Stage { source, rows, alive, clock: watch::Sender::new(held_at(1_000)) }
}

impl Stage {
    fn start(&mut self) {
        self.source.start(self.clock.subscribe(), &Metrics::new(&AssetId::new("gw").unwrap()));
    }

    async fn put(&self, a: Reading, b: Reading) {
        self.rows.send([a, b]).await.unwrap();
        // The puppet has taken it before it takes the next.
        sleep(Duration::from_millis(1)).await;
    }

    fn poll(&mut self, now: i64) -> Vec<Sample> {
        let mut items = Vec::new();
        while self.source.poll(PlantTime(now), 10, &mut items).unwrap() {}
        items
            .into_iter()
            .map(|item| if let Item::Sample(sample) = item { sample } else { panic!("{item:?}") })
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_is_not_touched_before_the_start_and_ends_with_its_source() {
    let mut stage = stage();
    assert!(stage.poll(1_000).is_empty());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.alive.load(Ordering::SeqCst), 0, "checking a configuration starts nothing");
    stage.start();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.alive.load(Ordering::SeqCst), 1);
    drop(stage.source);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.alive.load(Ordering::SeqCst), 11);
}

#[tokio::test(start_paused = true)]
async fn readings_are_scaled_judged_and_reported_by_exception() {
    let mut stage = stage();
    stage.start();
    let good = Reading::good;
    for (a, b) in [(10.0, 5.0), (20.0, 5.5), (500.0, 6.0), (f64::NAN, 6.0)] {
        stage.put(good(a), good(b)).await;
    }
    stage.put(Reading::bad(QualityReason::Timeout), Reading::ABSENT).await;
    stage.put(Reading::ABSENT, Reading::ABSENT).await;
    let samples = stage.poll(1_000);
    let rows: Vec<_> = samples.iter().map(|s| [s.values[0], s.values[1]]).collect();
    assert_eq!((rows.len(), samples[0].time), (5, PlantTime(1_000)), "a row with nothing in it is none");
    assert_eq!((rows[0], rows[1][0]), ([good(2.0), good(5.0)], good(3.0)));
    let out_of_range = Reading { value: 51.0, quality: Quality::Bad, reason: QualityReason::OutOfRange };
    assert_eq!((rows[2][0], rows[2][1]), (out_of_range, good(6.0)));
    assert_eq!((rows[3][0].quality, rows[3][0].reason), (Quality::Bad, QualityReason::Unreadable));
    assert_eq!((rows[4][0].quality, rows[4][0].reason), (Quality::Bad, QualityReason::Timeout));
    let told: Vec<_> = rows.iter().map(|row| row[1].quality == Quality::Good).collect();
    assert_eq!(told, [true, false, true, false, false], "0.5 is within the deadband");
}

#[tokio::test(start_paused = true)]
async fn a_silent_device_holds_nobody_back_and_no_stamp_is_newer_than_the_clock() {
    let mut stage = stage();
    assert_eq!(stage.source.next_due(), Some(PlantTime::MIN));
    stage.start();
    assert_eq!((stage.source.next_due(), stage.source.progress()), (Some(PlantTime(1_000)), PlantTime::MIN));
    assert!(stage.poll(1_000).is_empty());
    assert_eq!(stage.source.progress(), PlantTime(1_000), "it has given all that there is");
    assert!(stage.source.next_due() > Some(PlantTime(1_000)), "not again at once");

    stage.put(Reading::good(0.0), Reading::good(0.0)).await;
    stage.clock.send_replace(held_at(400));
    assert_eq!(stage.source.next_due(), Some(PlantTime(400)), "also when the clock was set back");
    assert_eq!(stage.poll(400)[0].time, PlantTime(400));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_what_is_newest_and_the_device_goes_on() {
    let mut stage = stage();
    stage.start();
    for n in 0..SAMPLES_QUEUED_MAX + 5 {
        stage.put(Reading::good(n as f64 / 100.0), Reading::ABSENT).await;
    }
    let samples = stage.poll(1_000);
    assert_eq!(samples.len(), SAMPLES_QUEUED_MAX);
    assert_eq!(samples[1].values[0], Reading::good(1.0 / 100.0 * 0.1 + 1.0));
    stage.put(Reading::good(7.0), Reading::ABSENT).await;
    assert_eq!(stage.poll(1_000)[0].values[0], Reading::good(7.0 * 0.1 + 1.0));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_key() {
    let good: MachineConfig<String> = toml::from_str(CONFIG).unwrap();
    let refused = |change: &dyn Fn(&mut MachineConfig<String>)| {
        let mut config = good.clone();
        change(&mut config);
        check_machines(&[config]).unwrap_err().to_string()
    };
    for (said, expected) in [
        (refused(&|c| c.sensors[0].scale = 0.0), "source.machines.sensors.scale: `press-1`, `a`: 0 and offset 1"),
        (refused(&|c| c.sensors[0].low = 50.0), "source.machines.sensors.low: `press-1`, `a`: 50 is not below high 50"),
        (refused(&|c| c.sensors[0].high = f64::NAN), "source.machines.sensors.low"),
        (refused(&|c| c.sensors[1].deadband = Some(-1.0)), "source.machines.sensors.deadband: `press-1`, `b`: -1"),
        (refused(&|c| c.sensors[0].silence_max_ms = Some(1)), "silence_max_ms: `press-1`, `a`: goes with `deadband`"),
        (refused(&|c| c.sensors.clear()), "source.machines.sensors: `press-1` has no sensor"),
        (refused(&|c| c.sensors[1].sensor = c.sensors[0].sensor.clone()), "`press-1`: `a` is there twice"),
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(check_machines::<String>(&[]).is_err());
    assert!(check_machines(&[good.clone(), good]).unwrap_err().to_string().contains("`press-1` is there twice"));
}
