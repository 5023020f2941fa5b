//! The two programs apart, by configuration alone: a real mosquitto between them, an S3 endpoint over HTTP behind them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use edge_agent::source::{Item, SourceConfig};
use model::store::{S3Config, Store};
use proto::config::parse;
use proto::{time::PlantTime, wire::telemetry::Quality};
use serde::Deserialize;
use stream_processor::embedded::s3::{Keys, S3Server};

use crate::{
    archive::{self, Readings, assert_same, canonical_bits, count},
    components::{POLL, Program, data_folder, free_port, mosquitto},
};

const ARCHIVED_MAX: Duration = Duration::from_secs(240);
const BUCKET: &str = "plant";

/// The agent's program, which the workspace's tests build beside ours.
fn edge_agent() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_stream-processor")).with_file_name("edge-agent");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo test --workspace`, or `cargo build -p edge-agent`",
        path.display()
    );
    path
}

fn replay_of(file: &Path) -> String {
    format!(
        r#"
[[source]]
type = "replay"
files = ["{}"]
time = {{ column = "datetime" }}
machine = {{ column = "machineID", prefix = "m" }}
kind = "pump"
sensors = [
  {{ column = "volt", sensor = "volt", unit = "V" }},
  {{ column = "rotate", sensor = "rotate", unit = "rpm" }},
  {{ column = "pressure", sensor = "pressure", unit = "bar" }},
  {{ column = "vibration", sensor = "vibration", unit = "mm/s" }},
]
"#,
        file.display()
    )
}

#[derive(Deserialize)]
struct Sources {
    source: Vec<SourceConfig>,
}

/// What the file says, by the source's own reading of it.
fn sent(replay: &str) -> Readings {
    let config: Sources = parse("replay", replay).unwrap();
    let mut source = config.source[0].build(Path::new(""), None).unwrap();
    let machines = source.machines();
    let (mut sent, mut items) = (Readings::new(), Vec::new());
    while source.poll(PlantTime(i64::MAX / 2), 100_000, &mut items).unwrap() {}
    for item in items {
        let Item::Sample(sample) = item else { continue };
        let info = machines.iter().find(|m| m.machine == sample.machine.as_str()).unwrap();
        for (sensor, reading) in info.sensors.iter().zip(&sample.values) {
            if reading.quality != Quality::Absent {
                let key = (info.machine.clone(), sensor.sensor.clone());
                sent.entry(key).or_default().push((sample.time.millis(), canonical_bits(reading.value)));
            }
        }
    }
    sent.values_mut().for_each(|column| column.sort_unstable());
    sent
}

async fn replayed_through_the_programs(file: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let Some((_broker, broker)) = mosquitto(folder.path()) else { return };
    let keys = Keys { access: "test".into(), secret: "secret-of-the-test".into() };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = S3Server::start(&folder.path().join("bucket"), any, BUCKET, &keys).await.unwrap();
    let endpoint = format!("http://{}", server.addr);

    let replay = replay_of(file);
    let sent = sent(&replay);
    assert!(count(&sent) > 0);

    let processor = folder.path().join("processor.toml");
    let (grpc, http) = (free_port(), free_port());
    std::fs::write(
        &processor,
        format!(
            "site = \"mill\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n[s3]\nendpoint = \"{endpoint}\"\nbucket = \"{BUCKET}\"\n\
             path_style = true\n[serve]\ngrpc = \"127.0.0.1:{grpc}\"\nhttp = \"127.0.0.1:{http}\"\n\
             [archive]\nsegment_seconds_max = 1\n[features]\nsensors = [\"volt\", \"rotate\", \"pressure\", \"vibration\"]\n\
             window_ms = 10800000\n"
        ),
    )
    .unwrap();
    let gateway = folder.path().join("gateway.toml");
    std::fs::write(
        &gateway,
        format!(
            "site = \"mill\"\nagent = \"gateway-1\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n{replay}"
        ),
    )
    .unwrap();

    let mut run = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
    run.arg("run").arg("--config").arg(&processor).stderr(Stdio::inherit()).stdout(Stdio::null());
    run.env("AWS_ACCESS_KEY_ID", &keys.access).env("AWS_SECRET_ACCESS_KEY", &keys.secret).env("RUST_LOG", "warn");
    let mut processor = Program::start(&mut run);
    let mut run = Command::new(edge_agent());
    run.arg("--config").arg(&gateway).stderr(Stdio::inherit()).stdout(Stdio::null()).env("RUST_LOG", "warn");
    let mut agent = Program::start(&mut run);

    let store = Store::open(&S3Config::with_keys(&endpoint, BUCKET, &keys.access, &keys.secret)).await.unwrap();
    let until = Instant::now() + ARCHIVED_MAX;
    loop {
        let manifests = archive::manifests(&store).await;
        let rows: u64 = manifests.iter().map(|m| m.balance.readings_archived).sum();
        if rows >= count(&sent) as u64 {
            break;
        }
        assert!(Instant::now() < until, "{rows} of {} readings are archived", count(&sent));
        tokio::time::sleep(10 * POLL).await;
    }
    agent.terminate();
    assert_eq!(agent.wait_at_most(Duration::from_secs(10)), Some(0), "the agent stops cleanly");
    processor.terminate();
    assert_eq!(processor.wait_at_most(Duration::from_secs(10)), Some(0), "the processor stops cleanly");

    let manifests = archive::manifests(&store).await;
    let archived = archive::readings(&store, &manifests).await;
    assert_same(&sent, &archived);
    let balance: u64 = manifests.iter().map(|m| m.balance.readings_archived).sum();
    assert_eq!(balance, count(&archived) as u64);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_is_archived_row_for_row() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pumps.csv");
    let mut text = "datetime,machineID,volt,rotate,pressure,vibration\n".to_string();
    for hour in 0..48 {
        for machine in 1..=3 {
            let (day, hour) = (1 + hour / 24, hour % 24);
            let x = f64::from(hour * machine) / 7.0;
            text += &format!(
                "2015-01-{day:02} {hour:02}:00:00,{machine},{},{},{},{}\n",
                170.0 + x,
                440.0 - x,
                100.0 + x,
                40.0 + x
            );
        }
    }
    std::fs::write(&file, text).unwrap();
    replayed_through_the_programs(&file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_azure_telemetry_is_archived_row_for_row() {
    let Some(data) = data_folder() else { return };
    replayed_through_the_programs(&data.join("azure-pdm/PdM_telemetry_20machines_90days.csv")).await;
}
