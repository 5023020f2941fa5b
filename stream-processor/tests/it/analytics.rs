//! The archive as other people's programs read it: DuckDB and pyarrow through the file list, by our own program, on the
//! embedded S3 endpoint and on moto.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use model::{
    features::clean::inner,
    store::{S3Config, Store, manifests::newest_number},
};
use polars::prelude::df;
use proto::{
    archive::{Balance, Shard, column},
    asset::AssetId,
    position::{Epoch, Position},
};
use stream_processor::{
    archive::{
        Archive, ArchiveConfig, Claimant, Segment,
        pending::SegmentContent,
        readings::{self, Names, Readings, Stretch},
    },
    decode::AgentKey,
    embedded::s3::{Keys, S3Server},
};

use crate::components::{self, Program, moto};

const BUCKET: &str = "plant";
const SHARD: Shard = Shard(0);
const SEGMENTS: u64 = 12;
const ROWS: i64 = 500;
const HOUR_MS: i64 = 3_600_000;
const COMPACTION_MAX: Duration = Duration::from_secs(60);

/// Reads keys from a file and the objects they name: with pyarrow over S3 itself, and with DuckDB from local copies.
const READER: &str = r#"
import os, sys, tempfile, warnings
import duckdb, pyarrow.dataset as ds, pyarrow.fs as fs
endpoint, bucket, list_file = sys.argv[1:]
s3 = fs.S3FileSystem(access_key="access", secret_key="secret-secret", endpoint_override=endpoint, scheme="http", region="us-east-1")
keys = open(list_file).read().split()
table = ds.dataset([f"{bucket}/{key}" for key in keys], format="parquet", filesystem=s3).to_table(columns=["value"])
by_arrow = (table.num_rows, sum(table["value"].to_pylist()))
with tempfile.TemporaryDirectory() as folder:
    paths = []
    for n, key in enumerate(keys):
        paths.append(os.path.join(folder, f"{n}.parquet"))
        with s3.open_input_stream(f"{bucket}/{key}") as source, open(paths[-1], "wb") as copy:
            copy.write(source.read())
    query = "select count(*), sum(value), min(epoch_ms(time)), max(epoch_ms(time)) from read_parquet(?, union_by_name = true)"
    by_duckdb = duckdb.execute(query, [paths]).fetchone()
assert by_arrow == by_duckdb[:2], (by_arrow, by_duckdb)
print(*(int(n) for n in by_duckdb))
"#;

/// One that has the packages; none after saying so.
fn python() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let has_packages = |python: &PathBuf| {
        let import = Command::new(python).args(["-c", "import duckdb, pyarrow"]).stderr(Stdio::null()).status();
        import.is_ok_and(|status| status.success())
    };
    let found = path.split(':').map(|folder| Path::new(folder).join("python3")).find(has_packages);
    if found.is_none() {
        components::missing("python3 with duckdb and pyarrow");
    }
    found
}

struct Plant {
    folder: tempfile::TempDir,
    endpoint: String,
    store: Store,
    python: PathBuf,
}

impl Plant {
    async fn new(endpoint: String, python: PathBuf) -> Plant {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&S3Config::with_keys(&endpoint, BUCKET, "access", "secret-secret")).await.unwrap();
        store.create_bucket_if_missing().await.unwrap();
        for (file, text) in [("access", "access"), ("secret", "secret-secret")] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let config = format!(
            "[s3]\nendpoint = \"{endpoint}\"\nbucket = \"{BUCKET}\"\npath_style = true\naccess_key_file = \"access\"\n\
             secret_key_file = \"secret\"\n"
        );
        std::fs::write(folder.path().join("processor.toml"), config).unwrap();
        Plant { folder, endpoint, store, python }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        command.current_dir(&self.folder).arg("archive").args(args);
        command
    }

    /// What it prints; it must succeed, and complain of nothing.
    fn archive(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn list(&self) -> Vec<String> {
        self.archive(&["files", "readings"]).lines().map(String::from).collect()
    }

    fn read(&self, keys: &[String]) -> Sums {
        let list = self.folder.path().join("list");
        std::fs::write(&list, keys.join("\n")).unwrap();
        let address = self.endpoint.trim_start_matches("http://");
        let output = Command::new(&self.python).args(["-c", READER, address, BUCKET]).arg(&list).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let numbers: Vec<i64> = text(&output).split_whitespace().map(|n| n.parse().unwrap()).collect();
        Sums { rows: numbers[0], values: numbers[1], first_ms: numbers[2], last_ms: numbers[3] }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sums {
    rows: i64,
    values: i64,
    first_ms: i64,
    last_ms: i64,
}

/// Of the first so many segments.
fn sent(segments: u64) -> Sums {
    let rows = segments as i64 * ROWS;
    Sums { rows, values: (0..rows).sum(), first_ms: 0, last_ms: (rows - 1) * HOUR_MS / 100 }
}

/// The readings numbered from `n * ROWS`, a hundred an hour.
fn segment(n: u64) -> Segment {
    let numbers: Vec<i64> = (n as i64 * ROWS..(n as i64 + 1) * ROWS).collect();
    let (none, zeros) = (vec![0u8; ROWS as usize], vec![0u32; ROWS as usize]);
    let rows = df!(
        inner::SERIES => &zeros,
        inner::TIME => numbers.iter().map(|k| k * HOUR_MS / 100).collect::<Vec<_>>(),
        inner::VALUE => numbers.iter().map(|k| *k as f64).collect::<Vec<_>>(),
        inner::UNIT => &none,
        inner::QUALITY => &none,
        inner::FLAGS => &zeros,
        readings::BATCH => &zeros,
        column::REASON => &none,
        column::GENERATION => &zeros,
    );
    let (site, name) = (AssetId::new("mill").unwrap(), |name| AssetId::new(name).unwrap());
    let origin = (AgentKey { site: site.clone(), agent: name("gw") }, n + 1);
    let names = Names { machines: vec![name("press-1")], sensors: vec![name("sound")], series: vec![(0, 0)] };
    let mut content = SegmentContent::new(site.clone(), [].into());
    let stretches = vec![Stretch { rows: rows.unwrap(), batches: vec![origin] }];
    content.readings = Readings { stretches, names: names.into() };
    let taken = ROWS as u64;
    content.balance =
        Balance { batches: 1, readings_taken: taken, readings_archived: taken, readings_dead_lettered: 0 };
    let agent = AgentKey { site, agent: AssetId::new("gw").unwrap() };
    let position = Position { epoch: Epoch([7; 16]), seq: n + 1 };
    Segment { content, snapshot: vec![n as u8; 9], positions: BTreeMap::from([(agent, position)]) }
}

/// Commits segments; then dies between the Parquet PUT of one more and its manifest.
async fn write(plant: &Plant, segments: std::ops::Range<u64>) {
    let config = ArchiveConfig { staging: plant.folder.path().join("staging"), ..ArchiveConfig::default() };
    let claimant = Claimant { owner: "writer".into(), shard: SHARD, forced: false };
    let (mut archive, _) = Archive::open(plant.store.clone(), &config, &claimant).await.unwrap();
    for (done, n) in segments.enumerate() {
        archive.submit(segment(n)).unwrap();
        archive.status().wait_for(|s| s.committed_segments > done as u64).await.unwrap();
    }
    archive.close(false).await;
    let orphan = plant.list().pop().unwrap();
    let bytes = plant.store.get(&orphan).await.unwrap().unwrap();
    plant.store.put(&orphan.replace(".parquet", "9.parquet"), bytes).await.unwrap();
}

async fn read_by_others(plant: &Plant) {
    let half = SEGMENTS / 2;
    write(plant, 0..half).await;
    let before = plant.list();
    assert_eq!(plant.read(&before), sent(half), "the orphan is not in the list");
    let manifests = newest_number(&plant.store, SHARD, 0).await.unwrap();

    let eager = ["--older-than-hours", "0", "--files-min", "2"];
    let mut during = plant.command(&[&["compact"][..], &eager].concat());
    let mut compactor = Program::start(during.stdout(Stdio::null()));
    assert_eq!(plant.read(&before), sent(half), "with a list from before, while files are merged");
    assert_eq!(plant.read(&plant.list()), sent(half), "with a list from meanwhile");
    assert_eq!(compactor.wait_at_most(COMPACTION_MAX), Some(0));
    let merged = plant.list();
    assert!(merged.len() < before.len() && merged.iter().all(|key| key.contains("/compact-")), "{merged:#?}");
    assert_eq!(plant.read(&merged), sent(half));
    assert_eq!(plant.read(&before), sent(half), "within the grace");
    assert_eq!(newest_number(&plant.store, SHARD, 0).await.unwrap(), manifests, "no number of the commits is taken");

    write(plant, half..SEGMENTS).await;
    assert_eq!(plant.read(&plant.list()), sent(SEGMENTS));
    let said = plant.archive(&[&["compact", "--grace-hours", "0"][..], &eager].concat());
    assert!(said.contains("orphans swept") && !said.contains(" 0 orphans"), "{said}");
    plant.archive(&[&["compact", "--grace-hours", "0"][..], &eager].concat());
    let last = plant.list();
    assert_eq!(plant.read(&last), sent(SEGMENTS));
    let verified = plant.archive(&["verify"]);
    assert!(verified.contains(&format!("readings: {0} taken = {0} archived + 0", sent(SEGMENTS).rows)), "{verified}");

    let partitions = plant.archive(&["symlinks", "readings"]);
    assert_eq!(partitions, "3 partitions\n", "60 hours");
    let list = "archive/v1/readings/_symlink_format_manifest/site=mill/date=1970-01-02/shard=00/manifest";
    let list = plant.store.get(list).await.unwrap().unwrap();
    let uris = plant.archive(&["files", "readings", "--format", "uris", "--from", "1970-01-02", "--to", "1970-01-02"]);
    assert_eq!(list, uris.as_bytes());

    plant.store.delete(&last[0]).await.unwrap();
    let broken = plant.command(&["verify", "--sizes-only"]).output().unwrap();
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken).contains(&format!("{}: missing", last[0])), "{}", text(&broken));
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_and_pyarrow_read_what_was_sent_from_the_embedded_endpoint() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys { access: "access".into(), secret: "secret-secret".into() };
    let server = S3Server::start(folder.path(), "127.0.0.1:0".parse().unwrap(), BUCKET, &keys).await.unwrap();
    read_by_others(&Plant::new(format!("http://{}", server.addr), python).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_and_pyarrow_read_what_was_sent_from_moto() {
    let (Some(python), Some((_moto, addr))) = (python(), moto()) else { return };
    read_by_others(&Plant::new(format!("http://{addr}"), python).await).await;
}
