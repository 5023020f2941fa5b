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
use serde_json::Value;
use stream_processor::embedded::s3::{Keys, S3Server};

use crate::{
    archive::{self, Readings, assert_same, canonical_bits, count},
    components::{POLL, Program, data_folder, mosquitto},
};

const ARCHIVED_MAX: Duration = Duration::from_secs(240);
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const BUCKET: &str = "plant";

/// The agent's program, which the workspace's tests build beside ours.
pub fn edge_agent() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_stream-processor")).with_file_name("edge-agent");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo test --workspace`, or `cargo build -p edge-agent`",
        path.display()
    );
    path
}

pub fn replay_of(file: &Path) -> String {
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
pub fn sent(replay: &str) -> Readings {
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

/// A program of ours, whose log is kept: WARN and ERROR are failures of the test.
pub struct Logged {
    pub program: Program,
    log: PathBuf,
}

impl Logged {
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        let program = Program::start(command.env("RUST_LOG", "info").stderr(file).stdout(Stdio::null()));
        Logged { program, log }
    }

    pub fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a field that the program logs.
    pub async fn says(&self, field: &str) -> String {
        let until = Instant::now() + START_MAX;
        loop {
            let said = self.lines().iter().find_map(|line| Some(line["fields"][field].as_str()?.to_owned()));
            match said {
                Some(said) => return said,
                None => assert!(Instant::now() < until, "never logged `{field}`: {:#?}", self.lines()),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub fn stops_cleanly(&mut self) {
        self.program.terminate();
        assert_eq!(self.program.wait_at_most(STOP_MAX), Some(0), "{}: {:#?}", self.log.display(), self.lines());
        let complaints: Vec<Value> = self.lines().into_iter().filter(|l| l["level"] != "INFO").collect();
        assert!(complaints.is_empty(), "{}: {complaints:#?}", self.log.display());
    }
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

    let config = folder.path().join("processor.toml");
    std::fs::write(
        &config,
        format!(
            "site = \"mill\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n[s3]\nendpoint = \"{endpoint}\"\nbucket = \"{BUCKET}\"\n\
             path_style = true\n[serve]\ngrpc = \"{any}\"\nhttp = \"{any}\"\n\
             [archive]\nsegment_seconds_max = 1\n[features]\nsensors = [\"volt\", \"rotate\", \"pressure\", \"vibration\"]\n\
             window_ms = 10800000\n"
        ),
    )
    .unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
    run.args(["run", "--config"]).arg(&config);
    run.env("AWS_ACCESS_KEY_ID", &keys.access).env("AWS_SECRET_ACCESS_KEY", &keys.secret);
    let mut processor = Logged::start(&mut run, folder.path().join("processor.log"));
    nothing_is_in_charge(&processor.says("http").await).await;

    let config = folder.path().join("gateway.toml");
    let own = format!("site = \"mill\"\nagent = \"gateway-1\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n");
    std::fs::write(&config, own + &replay).unwrap();
    let mut run = Command::new(edge_agent());
    run.arg("--config").arg(&config);
    let mut agent = Logged::start(&mut run, folder.path().join("agent.log"));

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
    agent.stops_cleanly();
    processor.stops_cleanly();

    let manifests = archive::manifests(&store).await;
    let archived = archive::readings(&store, &manifests).await;
    assert_same(&sent, &archived);
    let balance: u64 = manifests.iter().map(|m| m.balance.readings_archived).sum();
    assert_eq!(balance, count(&archived) as u64);
    server.stop().await;
}

/// An empty bucket holds no model: the processor is ready all the same, learns, and says so.
async fn nothing_is_in_charge(http: &str) {
    let until = Instant::now() + START_MAX;
    while !reqwest::get(format!("http://{http}/readyz")).await.unwrap().status().is_success() {
        assert!(Instant::now() < until, "never ready");
        tokio::time::sleep(POLL).await;
    }
    let question = serde_json::json!({"kind": "pump", "features": {}});
    let answer = reqwest::Client::new().post(format!("http://{http}/predict")).json(&question).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    let text = answer.text().await.unwrap();
    assert!(text.contains("learning"), "{text}");
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
