//! What a change of model costs the windows that close meanwhile: latency of scoring while versions are swapped and while
//! none is, in turns, and resident memory over many swaps. Each swap is loaded from its artefact by another thread, entered,
//! in force and settled as in the processor; the segment that carries it is not written.
//!
//! `cargo bench -p stream-processor --bench swap`

#[path = "../examples/load/network.rs"]
mod network;
#[path = "../examples/load/traffic.rs"]
#[expect(dead_code, reason = "the network's kinds are named there")]
mod traffic;

use std::{
    fs,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use model::{artifact::Artifact, score::Scorer};
use proto::{
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{check_batch, delta_encode},
    time::PlantTime,
    wire::telemetry::{Birth, MachineInfo, MachineReadings, SealTime, SensorColumn, SensorInfo, TelemetryBatch},
};
use stream_processor::{
    decode::{AgentKey, Content, Taken},
    processor::models::{Models, Offer},
    stream::{Loaded, Stream, StreamConfig, schedule::Charge},
};
use tokio::sync::watch;
use traffic::name;

const GATEWAYS: u64 = 5;
const MACHINES: u64 = 20;
const INTERVAL_MS: i64 = 1_000;
const ORIGIN_MS: i64 = 1_700_000_000_000;
/// Swaps whose latencies are held against as many windows without one.
const TIMED_SWAPS: usize = 1_000;
const SWAPS: usize = 10_000;
/// With and without swaps in turns of so many windows of each machine, so that what else the machine does meets both.
const TURN: usize = 50;

fn main() {
    let mut bench = Bench::new();
    (0..TURN).for_each(|_| drop(bench.window(false)));
    let (mut with, mut without) = (vec![], vec![]);
    while bench.swaps < TIMED_SWAPS {
        (0..TURN).for_each(|_| without.extend(bench.window(false)));
        (0..TURN).for_each(|_| with.extend(bench.window(true)));
    }
    println!(
        "{} machines, each run of one gateway's {MACHINES} windows scored, explained and judged:",
        GATEWAYS * MACHINES
    );
    let before = print("without a swap", &mut without);
    let during = print(&format!("during {} swaps", bench.swaps), &mut with);
    println!("p99.9 during swaps is {:.2} times that without (goal: within 2)", during / before);
    let (mut said, began) = (0, resident_mb());
    println!("resident memory: {began:.1} MB after {} swaps", bench.swaps);
    while bench.swaps < SWAPS {
        drop(bench.window(true));
        if bench.swaps / 2_000 > said {
            said = bench.swaps / 2_000;
            println!("                 {:.1} MB after {} swaps", resident_mb(), bench.swaps);
        }
    }
}

/// Gives p99.9, microseconds.
fn print(what: &str, latencies: &mut [Duration]) -> f64 {
    latencies.sort();
    let us = |q: f64| latencies[((latencies.len() - 1) as f64 * q).round() as usize].as_secs_f64() * 1e6;
    let (p50, p99, p999, most) = (us(0.5), us(0.99), us(0.999), us(1.0));
    println!(
        "{what:24} p50 {p50:6.0} us, p99 {p99:6.0} us, p99.9 {p999:6.0} us, most {most:6.0} us, of {}",
        latencies.len()
    );
    p999
}

/// Linux.
fn resident_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process file system");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).expect("kB") / 1e3
}

struct Bench {
    stream: Stream,
    models: Models,
    asks: SyncSender<()>,
    /// In force so far.
    swaps: usize,
    /// The next window's number.
    next: i64,
}

impl Bench {
    fn new() -> Self {
        let (out, offers) = watch::channel(None);
        let (asks, asked) = sync_channel(1);
        let first = offer(&network::untrained().expect("a network"));
        out.send_replace(Some(first));
        thread::spawn(move || load(&asked, &out));
        let models = Models::new(offers, Loaded::new(), watch::channel(None).0);
        let stream = Stream::new(StreamConfig { features: network::features(), ..Default::default() });
        let mut bench = Bench { stream, models, asks, swaps: 0, next: 0 };
        bench.change_model(PlantTime(ORIGIN_MS));
        bench.swaps = 0;
        bench
    }

    /// The next window of all machines, gateway after gateway; how long each run took from its being read to its alerts.
    fn window(&mut self, swaps: bool) -> Vec<Duration> {
        self.next += 1;
        if swaps {
            // One is being loaded already.
            let _ = self.asks.try_send(());
        }
        let run = |bench: &mut Bench, gateway: u64| {
            let taken = vec![batch(gateway, bench.next)];
            let now = PlantTime(ORIGIN_MS + bench.next * network::WINDOW_MS);
            let steps = bench.stream.read(taken).expect("the log is right");
            let began = Instant::now();
            if swaps {
                bench.change_model(now);
            }
            bench.stream.judge(steps, bench.models.loaded()).expect("they can be judged");
            began.elapsed()
        };
        let taken = (0..GATEWAYS).map(|gateway| run(self, gateway)).collect();
        self.stream.settle();
        self.in_force();
        taken
    }

    fn change_model(&mut self, now: PlantTime) {
        let Some(charge) = self.models.offer(self.stream.schedule()) else { return };
        if self.stream.enter(&charge, now) {
            self.models.keep_offered();
            self.in_force();
            self.swaps += 1;
        }
    }

    fn in_force(&mut self) {
        self.stream.in_force();
        self.models.follow(self.stream.schedule());
    }
}

/// Another version whenever one is asked for.
fn load(asked: &Receiver<()>, out: &watch::Sender<Option<Offer>>) {
    let mut model = network::untrained().expect("a network");
    while asked.recv().is_ok() {
        model.heads[0].threshold += 1e-9;
        out.send_replace(Some(offer(&model)));
    }
}

fn offer(model: &Artifact) -> Offer {
    let scorer = Scorer::from_artifact(&model.encode().expect("an artefact")).expect("a model");
    let charge = Charge::of(scorer.version());
    Offer { loaded: [(charge.version.clone(), scorer.into())].into(), charge }
}

/// All readings of one window and gateway, and the seal that closes the window before it.
fn batch(gateway: u64, window: i64) -> Taken {
    let from = ORIGIN_MS + (window - 1) * network::WINDOW_MS;
    let stamps: Vec<i64> = (from..from + network::WINDOW_MS).step_by(INTERVAL_MS as usize).collect();
    let machines: Vec<String> = (0..MACHINES).map(|m| format!("press-{gateway}-{m}")).collect();
    let sensors = network::features().sensors;
    let column = |(n, sensor): (usize, &AssetId)| SensorColumn {
        sensor: sensor.to_string(),
        value: stamps.iter().map(|at| 20.0 + n as f64 + (at / INTERVAL_MS % 17) as f64 / 10.0).collect(),
        ..Default::default()
    };
    let machine = |machine: &String| MachineReadings {
        machine: machine.clone(),
        time_delta_ms: delta_encode(&stamps),
        sensors: sensors.iter().enumerate().map(column).collect(),
    };
    let batch = TelemetryBatch {
        sealed: Some(SealTime { time_ms: from + network::WINDOW_MS, trusted: true, ..Default::default() }),
        birth: (window == 1).then(|| birth(&machines, &sensors)),
        machines: machines.iter().map(machine).collect(),
        ..Default::default()
    };
    Taken {
        agent: AgentKey { site: name("mill"), agent: name(&format!("gw-{gateway}")) },
        position: Position { epoch: Epoch([1; 16]), seq: window as u64 },
        last_seq: window as u64,
        content: Content::Batch { readings: check_batch(&batch).expect("a valid batch"), batch },
        received: Instant::now(),
    }
}

fn birth(machines: &[String], sensors: &[AssetId]) -> Birth {
    let sensor = |sensor: &AssetId| SensorInfo {
        sensor: sensor.to_string(),
        unit: "C".into(),
        range_high: 1e6,
        interval_ms: INTERVAL_MS as u64,
        ..Default::default()
    };
    let machine = |machine: &String| MachineInfo {
        machine: machine.clone(),
        kind: "press".into(),
        sensors: sensors.iter().map(sensor).collect(),
        ..Default::default()
    };
    Birth { machines: machines.iter().map(machine).collect(), ..Default::default() }
}
