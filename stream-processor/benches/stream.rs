//! How many readings a second the stream core takes, and how long training's way over the same readings is.
//! `cargo bench -p stream-processor --bench stream`

use std::{io::Cursor, time::Instant};

use model::features::{FeatureConfig, whole};
use polars::prelude::DataFrame;
use polars_io::{SerReader, parquet::read::ParquetReader};
use proto::{
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{check_batch, delta_encode},
    wire::telemetry::{Birth, MachineInfo, MachineReadings, SealTime, SensorColumn, SensorInfo, TelemetryBatch},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stream_processor::{
    archive::{
        parquet::{Encoded, encode},
        pending::SegmentContent,
    },
    decode::{AgentKey, Content, Taken},
    stream::{Stream, StreamConfig},
};

/// One shape of a plant's traffic.
struct Traffic {
    agents: usize,
    machines: usize,
    interval_ms: i64,
    flush_ms: i64,
    flushes: i64,
    window_ms: i64,
}

const ROWS_PER_APPLY: u64 = 65_536;

fn main() {
    let fast = Traffic { agents: 40, machines: 50, interval_ms: 100, flush_ms: 1_000, flushes: 60, window_ms: 10_000 };
    run("2,000 machines at 10 Hz, flushed every second, 10-s windows", &fast);
    let slow =
        Traffic { agents: 3, machines: 8, interval_ms: 60_000, flush_ms: 600_000, flushes: 6_048, window_ms: 600_000 };
    run("24 machines at one reading a minute, six weeks, 10-min windows", &slow);
}

fn run(what: &str, traffic: &Traffic) {
    let (window_ms, lateness_ms) = (traffic.window_ms, traffic.window_ms / 10);
    let features = FeatureConfig { window_ms, lateness_ms, ..Default::default() };
    let mut stream = Stream::new(StreamConfig { features: features.clone(), ..Default::default() });
    let log = log(traffic, &features.sensors);
    let (mut rows, mut windows) = (0, 0);
    let mut archive = SegmentContent::new(AssetId::new("mill").expect("a valid name"), [].into());
    let begun = Instant::now();
    for taken in in_applies(log) {
        let derived = stream.apply(taken, None).expect("the log is right");
        rows += derived.balance.readings_archived;
        windows += derived.windows.len();
        archive.readings.append(derived.readings);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{what}:");
    println!("  stream:   {rows} readings, {windows} windows, {:.2} M readings/s", rows as f64 / seconds / 1e6);
    let files = encode(&archive).expect("files");
    let read = |file: &Encoded| ParquetReader::new(Cursor::new(file.bytes.clone())).finish().expect("a file");
    let mut frames = files.iter().map(read);
    let mut all: DataFrame = frames.next().expect("there are readings");
    frames.for_each(|frame| all = all.vstack(&frame).expect("one schema"));
    let begun = Instant::now();
    let trained = whole(all, stream.fleet().catalogue(), &features).expect("the archive is right").len();
    println!("  training: {trained} windows, {:.2} s", begun.elapsed().as_secs_f64());
}

fn in_applies(log: Vec<Taken>) -> Vec<Vec<Taken>> {
    let (mut applies, mut rows) = (vec![vec![]], 0);
    for taken in log {
        if let Content::Batch { readings, .. } = taken.content {
            rows += readings;
        }
        if let Some(last) = applies.last_mut() {
            last.push(taken);
        }
        if rows >= ROWS_PER_APPLY {
            applies.push(vec![]);
            rows = 0;
        }
    }
    applies
}

fn log(traffic: &Traffic, sensors: &[AssetId]) -> Vec<Taken> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut log = Vec::new();
    for flush in 0..traffic.flushes {
        for agent in 0..traffic.agents {
            let names: Vec<String> = (0..traffic.machines).map(|m| format!("press-{agent}-{m}")).collect();
            let from = flush * traffic.flush_ms;
            let stamps: Vec<i64> = (from..from + traffic.flush_ms).step_by(traffic.interval_ms as usize).collect();
            let column = |sensor: &AssetId, rng: &mut ChaCha8Rng| SensorColumn {
                sensor: sensor.to_string(),
                value: stamps.iter().map(|_| rng.random_range(10.0..90.0)).collect(),
                quality: vec![],
                reason: vec![],
            };
            let machine = |machine: &String, rng: &mut ChaCha8Rng| MachineReadings {
                machine: machine.clone(),
                time_delta_ms: delta_encode(&stamps),
                sensors: sensors.iter().map(|s| column(s, rng)).collect(),
            };
            let batch = TelemetryBatch {
                sealed: Some(SealTime { time_ms: from + traffic.flush_ms, trusted: true, ..Default::default() }),
                birth: (flush == 0).then(|| birth(&names, sensors, traffic)),
                machines: names.iter().map(|m| machine(m, &mut rng)).collect(),
                ..Default::default()
            };
            log.push(taken(agent, flush as u64 + 1, batch));
        }
    }
    log
}

fn taken(agent: usize, seq: u64, batch: TelemetryBatch) -> Taken {
    let name = |name: &str| AssetId::new(name).expect("a valid name");
    Taken {
        agent: AgentKey { site: name("mill"), agent: name(&format!("gw-{agent}")) },
        position: Position { epoch: Epoch([1; 16]), seq },
        last_seq: seq,
        content: Content::Batch { readings: check_batch(&batch).expect("a valid batch"), batch },
        received: Instant::now(),
    }
}

fn birth(machines: &[String], sensors: &[AssetId], traffic: &Traffic) -> Birth {
    let sensor = |sensor: &AssetId| SensorInfo {
        sensor: sensor.to_string(),
        unit: "C".into(),
        range_low: 0.0,
        range_high: 100.0,
        interval_ms: traffic.interval_ms as u64,
    };
    let machine = |name: &String| MachineInfo {
        machine: name.clone(),
        kind: "press".into(),
        sensors: sensors.iter().map(sensor).collect(),
        ..Default::default()
    };
    Birth { machines: machines.iter().map(machine).collect(), ..Default::default() }
}
