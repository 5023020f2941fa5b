//! A shard is split into four and merged again while gateways send, by the programs alone: real broker, real S3 endpoint.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use model::store::{S3Config, Store, listing::resolve_all, manifests::newest_layout};
use polars::prelude::{DataFrame, SerReader};
use polars_io::parquet::read::ParquetReader;
use proto::archive::{Table, column, compaction::Listed};
use stream_processor::embedded::s3::{Keys, S3Server};

use crate::{
    archive::{Readings, assert_same, count, readings_of},
    components::{POLL, Program, mosquitto},
    roles::{Logged, edge_agent, replay_of, sent},
};

const BUCKET: &str = "plant";
const ANY: &str = "127.0.0.1:0";
const GATEWAYS: usize = 4;
const HOURS: i64 = 24 * 40;
const REACHED_MAX: Duration = Duration::from_secs(120);
const EXIT_CLOSED: i32 = 4;

/// Everything around the processors.
struct Plant {
    folder: tempfile::TempDir,
    server: S3Server,
    _broker: Program,
    broker: String,
    keys: Keys,
    store: Store,
}

impl Plant {
    async fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (_broker, broker) = mosquitto(folder.path())?;
        let keys = Keys { access: "test".into(), secret: "secret-of-the-test".into() };
        let server = S3Server::start(&folder.path().join("bucket"), ANY.parse().unwrap(), BUCKET, &keys).await.unwrap();
        let endpoint = format!("http://{}", server.addr);
        let store = Store::open(&S3Config::with_keys(&endpoint, BUCKET, &keys.access, &keys.secret)).await.unwrap();
        let text = format!(
            "site = \"mill\"\nowner = \"test\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n[s3]\nendpoint = \"{endpoint}\"\n\
             bucket = \"{BUCKET}\"\npath_style = true\n[serve]\ngrpc = \"{ANY}\"\nhttp = \"{ANY}\"\n\
             [archive]\nsegment_seconds_max = 1\ntakeover_quiet_seconds = 4\n\
             [features]\nsensors = [\"volt\", \"rotate\", \"pressure\", \"vibration\"]\nwindow_ms = 10800000\n"
        );
        std::fs::write(folder.path().join("processor.toml"), text).unwrap();
        Some(Plant { folder, server, _broker, broker: broker.to_string(), keys, store })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        command.args(arguments).arg("--config").arg(self.folder.path().join("processor.toml"));
        command.env("AWS_ACCESS_KEY_ID", &self.keys.access).env("AWS_SECRET_ACCESS_KEY", &self.keys.secret);
        command
    }

    fn processor(&self, shard: u8) -> Logged {
        let mut run = self.command(&["run", "--shard", &shard.to_string()]);
        Logged::start(&mut run, self.folder.path().join(format!("processor-{shard}.log")))
    }

    fn tool(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).env_remove("RUST_LOG").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(output.stderr));
        text(output.stdout)
    }

    fn gateway(&self, number: usize, file: &Path) -> Logged {
        let folder = self.folder.path();
        let config = folder.join(format!("gateway-{number}.toml"));
        let own = format!(
            "site = \"mill\"\nagent = \"gateway-{number}\"\ndata = \"spool-{number}\"\n[mqtt]\nurl = \"mqtt://{}\"\n",
            self.broker
        );
        std::fs::write(&config, own + &replay_of(file)).unwrap();
        Logged::start(
            Command::new(edge_agent()).arg("--config").arg(&config),
            folder.join(format!("agent-{number}.log")),
        )
    }

    async fn listed(&self, table: Table) -> Vec<Listed> {
        resolve_all(&self.store, None, &[table]).await.unwrap().unwrap_or_default()
    }

    async fn archived(&self, at_least: u64) {
        let until = Instant::now() + REACHED_MAX;
        loop {
            let rows: u64 = self.listed(Table::Readings).await.iter().map(|l| l.object.rows).sum();
            if rows >= at_least {
                return;
            }
            assert!(Instant::now() < until, "{rows} of {at_least} readings are archived");
            tokio::time::sleep(5 * POLL).await;
        }
    }

    async fn frames(&self, table: Table) -> Vec<DataFrame> {
        let mut frames = Vec::new();
        for listed in self.listed(table).await {
            let bytes = self.store.get(&listed.object.object.key).await.unwrap().unwrap();
            frames.push(ParquetReader::new(std::io::Cursor::new(bytes)).finish().unwrap());
        }
        frames
    }

    /// These columns of all rows, in an order of their own.
    async fn rows(&self, table: Table, columns: &[&str]) -> Vec<String> {
        let mut rows = Vec::new();
        for frame in self.frames(table).await {
            for row in 0..frame.height() {
                let value = |name: &&str| format!("{:?}", frame.column(name).unwrap().get(row).unwrap());
                rows.push(columns.iter().map(value).collect::<Vec<_>>().join(" "));
            }
        }
        rows.sort();
        rows
    }

    /// Windows and alerts, as far as they do not depend on the order of a summation.
    async fn derived(&self) -> [Vec<String>; 2] {
        let window = [column::MACHINE, column::WINDOW_START, column::GENERATION, column::REVISION];
        let alert = [column::ID, column::MACHINE, column::MODE, column::STATE, column::TIME];
        [self.rows(Table::Features, &window).await, self.rows(Table::Alerts, &alert).await]
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let file = |gateway: usize| {
        let mut text = "datetime,machineID,volt,rotate,pressure,vibration\n".to_string();
        for hour in 0..HOURS {
            let (day, hour_of_day) = (1 + hour / 24, hour % 24);
            let date = if day <= 31 { format!("2015-01-{day:02}") } else { format!("2015-02-{:02}", day - 31) };
            for machine in 0..3 {
                let x = (hour * (machine + 1)) as f64 / 7.0 % 13.0;
                // It shakes for some days and is sound again.
                let vibration = if (200..300).contains(&hour) || hour > 800 { 90.0 + x } else { 0.2 + x / 100.0 };
                let id = gateway * 10 + machine as usize;
                text += &format!(
                    "{date} {hour_of_day:02}:00:00,{id},{},{},{},{vibration}\n",
                    170.0 + x,
                    440.0 - x,
                    100.0 + x
                );
            }
        }
        let path = folder.join(format!("pumps-{gateway}.csv"));
        std::fs::write(&path, text).unwrap();
        path
    };
    (0..GATEWAYS).map(file).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_and_a_merge_under_load_change_nothing_that_is_archived() {
    let data = tempfile::tempdir().unwrap();
    let files = files(data.path());
    let mut all = Readings::new();
    files.iter().for_each(|file| all.extend(sent(&replay_of(file))));
    let total = count(&all) as u64;

    let Some(plain) = Plant::new().await else { return };
    let mut processor = plain.processor(0);
    let mut gateways: Vec<Logged> = files.iter().enumerate().map(|(n, file)| plain.gateway(n, file)).collect();
    plain.archived(total).await;
    gateways.iter_mut().chain([&mut processor]).for_each(Logged::stops_cleanly);
    let expected = plain.derived().await;
    assert!(expected[0].len() > 1_000 && !expected[1].is_empty(), "{} windows", expected[0].len());

    let Some(plant) = Plant::new().await else { return };
    let mut zero = plant.processor(0);
    let mut gateways = vec![plant.gateway(0, &files[0]), plant.gateway(1, &files[1])];
    plant.archived(1).await;
    let said = plant.tool(&["shard", "split", "--from", "0", "--into", "1,2,3,4"]);
    assert!(said.contains("shard 4 (slots 48-63)"), "{said}");
    assert_eq!(zero.program.wait_at_most(REACHED_MAX), Some(EXIT_CLOSED), "its slots have gone");
    let mut parts: Vec<Logged> = (1..=4).map(|shard| plant.processor(shard)).collect();
    gateways.push(plant.gateway(2, &files[2]));
    plant.archived(total / 2).await;

    plant.tool(&["shard", "merge", "--from", "1,2,3,4", "--into", "5"]);
    for part in &mut parts {
        assert_eq!(part.program.wait_at_most(REACHED_MAX), Some(EXIT_CLOSED), "{:#?}", part.lines());
    }
    let mut five = plant.processor(5);
    gateways.push(plant.gateway(3, &files[3]));
    plant.archived(total).await;
    gateways.iter_mut().chain([&mut five]).for_each(Logged::stops_cleanly);

    assert_same(&all, &readings_of(&plant.frames(Table::Readings).await));
    assert_eq!(plant.derived().await, expected, "windows and alerts go on over both changes");
    assert_eq!(newest_layout(&plant.store).await.unwrap().current().count(), 1);
    let list = plant.tool(&["shard", "list"]);
    assert_eq!(list.matches(", closed: now").count(), 5, "{list}");
    let verified = plant.tool(&["archive", "verify"]);
    assert_eq!(verified.matches("faults 0").count(), 6, "{verified}");
    let again = plant.processor(0).program.wait_at_most(REACHED_MAX);
    assert_eq!(again, Some(EXIT_CLOSED), "no start can help");
    plain.server.stop().await;
    plant.server.stop().await;
}
