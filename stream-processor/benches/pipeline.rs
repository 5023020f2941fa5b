//! The stages of the stream, apart and together, in millions of readings per CPU second: 2,000 machines with 5 sensors at
//! 10 Hz, 10-s windows, batches of one gateway and second, about 64 of them in a run.
//!
//! `cargo bench -p stream-processor --bench pipeline`

#[path = "../examples/load/network.rs"]
mod network;
#[path = "../examples/load/traffic.rs"]
mod traffic;
#[path = "../examples/load/usage.rs"]
mod usage;

use std::{collections::BTreeMap, process, time::Instant};

use bytes::Bytes;
use model::{
    explain::Explainer,
    features::{
        FeatureSchema, WindowFeatures,
        aggregate::{Cell, aggregate},
        clean::clean,
    },
    score::Scorer,
};
use polars::prelude::DataFrame;
use proto::{
    asset::AssetId,
    time::PlantTime,
    topic::{Channel, Topic},
};
use stream_processor::{
    archive::{ArchiveConfig, parquet::encode, pending::Pending},
    clean::Rows,
    decode::{Content, Decoded, Taken, decode},
    ingest::Arrival,
    intake::{EpochsLeft, Intake},
    stream::{Stream, StreamConfig},
    window::{Step, Windows, watermark::Frontier},
};

use traffic::{SITE, Traffic, name};
use usage::cpu;

const PLANT: Traffic = Traffic { gateways: 100, machines: 20, origin_ms: 1_700_000_000_000 };
const SECONDS: u64 = 20;
const MESSAGES_PER_RUN: usize = 64;
/// Each figure is of at least so much: the kernel counts in hundredths.
const CPU_SECONDS_MIN: f64 = 1.0;

fn main() {
    let bench = Bench::new();
    println!("{:.1} M readings, M readings per CPU second of each stage:", bench.readings / 1e6);
    bench.print("decode", || drop(bench.decoded()));
    bench.print("clean", || bench.runs.iter().for_each(|run| drop(bench.cleaned(run))));
    bench.print("window (aggregate, merge)", || bench.window());
    bench.print("features (of closed windows)", || drop(bench.closed()));
    let windows = bench.closed();
    println!("  ({} windows)", windows.len());
    bench.print("score and explain", || drop(bench.scorer.score(&windows)));
    bench.print("  explain alone", || bench.explain(&windows));
    let segment = bench.segment();
    bench.print("parquet", || drop(encode(&segment)));
    bench.print("snapshot, once per million", || bench.snapshots());
    bench.print("together", || bench.together());
}

struct Bench {
    readings: f64,
    arrivals: Vec<Arrival>,
    /// All of it, as the stages after decode see it.
    runs: Vec<Vec<Taken>>,
    cleaned: Vec<DataFrame>,
    cells: Vec<Vec<Cell>>,
    /// Knows all machines.
    stream: Stream,
    scorer: Scorer,
}

impl Bench {
    fn new() -> Self {
        let logs: Vec<Vec<Bytes>> = (0..PLANT.gateways).map(|g| PLANT.frames(g, SECONDS)).collect();
        let arrival = |gateway: usize, payload: &Bytes| Arrival {
            topic: Topic::new(&name(SITE), &Traffic::gateway(gateway), Channel::Telemetry).to_string(),
            payload: payload.clone(),
            received: Instant::now(),
        };
        let second = |at: usize| logs.iter().enumerate().map(move |(gateway, log)| (gateway, &log[at]));
        let arrivals = (0..SECONDS as usize).flat_map(second).map(|(gateway, frame)| arrival(gateway, frame)).collect();
        let model = network::untrained().expect("a network");
        let mut bench = Bench {
            readings: (SECONDS * PLANT.gateways as u64 * PLANT.readings_per_batch()) as f64,
            arrivals,
            runs: vec![],
            cleaned: vec![],
            cells: vec![],
            stream: stream(),
            scorer: Scorer::new(model).expect("a model"),
        };
        bench.runs = bench.decoded();
        bench.runs.iter().for_each(|run| drop(bench.stream.read(run.clone()).expect("the log is right")));
        bench.cleaned = bench.runs.iter().map(|run| bench.cleaned(run)).collect();
        bench.cells = bench.cleaned.iter().map(|frame| bench.aggregated(frame)).collect();
        bench
    }

    fn print(&self, what: &str, mut stage: impl FnMut()) {
        let (begun, mut times, mut spent) = (cpu(process::id()), 0.0, 0.0);
        while spent < CPU_SECONDS_MIN {
            stage();
            times += 1.0;
            spent = cpu(process::id()) - begun;
        }
        let per_million = spent / times / self.readings * 1e6;
        println!("{what:32} {:8.2}   ({per_million:.4} CPU s per million readings)", 1.0 / per_million);
    }

    fn decoded(&self) -> Vec<Vec<Taken>> {
        let (mut intake, site) = (Intake::new(&BTreeMap::new(), EpochsLeft::new()), name(SITE));
        let runs = self.arrivals.chunks(MESSAGES_PER_RUN);
        runs.map(|run| run.iter().map(|arrival| taken(&mut intake, &site, arrival)).collect()).collect()
    }

    fn cleaned(&self, run: &[Taken]) -> DataFrame {
        let (config, catalogue) = (network::features(), self.stream.fleet().catalogue());
        let mut rows = Rows::of(run, self.stream.fleet(), &config);
        rows.taken.clear();
        clean(rows.frame().expect("a frame"), catalogue, &[], config.stuck_after).expect("clean rows").0
    }

    fn aggregated(&self, cleaned: &DataFrame) -> Vec<Cell> {
        aggregate(cleaned, &self.stream.fleet().directory().wanted, network::WINDOW_MS).expect("cells")
    }

    fn window(&self) {
        let (fleet, config) = (self.stream.fleet(), network::features());
        let mut windows = Windows::default();
        for frame in &self.cleaned {
            windows.add(&self.aggregated(frame), &fleet.directory().slots, fleet.catalogue(), &config);
        }
    }

    /// The windows' merges are in this, too.
    fn closed(&self) -> Vec<WindowFeatures> {
        let (fleet, config) = (self.stream.fleet(), network::features());
        let mut windows = Windows::default();
        for cells in &self.cells {
            windows.add(cells, &fleet.directory().slots, fleet.catalogue(), &config);
        }
        let machines = 0..fleet.catalogue().machines().len() as u32;
        let step = Step { before: Frontier::default(), now: Frontier::END };
        machines.flat_map(|machine| windows.close(machine, 0, &step, None, fleet.catalogue(), &config)).collect()
    }

    fn explain(&self, windows: &[WindowFeatures]) {
        let model = network::untrained().expect("a network");
        let explainer = Explainer::new(&model, self.scorer.schema());
        for w in windows {
            explainer.explain(&model, w);
        }
    }

    fn segment(&self) -> stream_processor::archive::pending::SegmentContent {
        let (mut stream, mut pending) = (stream(), pending());
        for run in &self.runs {
            pending.add(stream.apply(run.clone(), Some(&self.scorer)).expect("the log is right"), Default::default());
        }
        pending.take()
    }

    fn snapshots(&self) {
        for _ in 0..(self.readings / 1e6) as u32 {
            self.stream.snapshot(&EpochsLeft::new()).expect("a snapshot");
        }
    }

    fn together(&self) {
        let (mut intake, site) = (Intake::new(&BTreeMap::new(), EpochsLeft::new()), name(SITE));
        let (mut stream, mut pending) = (stream(), pending());
        for run in self.arrivals.chunks(MESSAGES_PER_RUN) {
            let run = run.iter().map(|arrival| taken(&mut intake, &site, arrival)).collect();
            pending.add(stream.apply(run, Some(&self.scorer)).expect("the log is right"), Default::default());
            if pending.due(Default::default()) {
                encode(&pending.take()).expect("files");
                stream.snapshot(&EpochsLeft::new()).expect("a snapshot");
            }
        }
        encode(&pending.take()).expect("files");
    }
}

fn stream() -> Stream {
    Stream::new(StreamConfig { features: network::features(), ..Default::default() })
}

fn pending() -> Pending {
    Pending::new(&ArchiveConfig::default(), name(SITE), &FeatureSchema::of(&network::features()))
}

fn taken(intake: &mut Intake, site: &AssetId, arrival: &Arrival) -> Taken {
    match decode(intake, site, arrival, PlantTime(0)) {
        Decoded::Taken(taken) if matches!(taken.content, Content::Batch { .. }) => taken,
        other => panic!("{other:?}"),
    }
}
