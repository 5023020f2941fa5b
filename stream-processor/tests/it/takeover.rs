//! Two supervised processors of one shard: one works, the other waits, and they never throw each other out by turns.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use model::store::{
    S3Config, Store,
    manifests::{newest_number, read_manifest},
};
use proto::archive::{Manifest, ManifestKind, Shard};
use stream_processor::embedded::s3::{Keys, S3Server};

use crate::{
    components::{POLL, mosquitto},
    roles::Logged,
};

const BUCKET: &str = "plant";
const ANY: &str = "127.0.0.1:0";
/// The shortest that the configuration allows; an owner renews every second.
const QUIET_SECONDS: u64 = 4;
/// Well beyond the quiet time.
const RENEWALS: u64 = 8;
const REACHED_MAX: Duration = Duration::from_secs(60);
const EXIT_FENCED: i32 = 3;

struct Site {
    folder: PathBuf,
    keys: Keys,
    store: Store,
}

impl Site {
    /// A processor with its own staging folder.
    fn start(&self, owner: &str, arguments: &[&str]) -> Logged {
        let started = std::fs::read_dir(&self.folder).unwrap().count();
        let mut run = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        run.args(["run", "--config"]).arg(self.folder.join(format!("{owner}.toml"))).args(arguments);
        run.env("AWS_ACCESS_KEY_ID", &self.keys.access).env("AWS_SECRET_ACCESS_KEY", &self.keys.secret);
        Logged::start(&mut run, self.folder.join(format!("{owner}-{started}.log")))
    }

    async fn newest(&self) -> Manifest {
        let number = newest_number(&self.store, Shard::FIRST, 0).await.unwrap().unwrap();
        read_manifest(&self.store, Shard::FIRST, number).await.unwrap().unwrap()
    }

    /// Until so many more manifests are there, all by this owner.
    async fn goes_on(&self, owner: &str, more: u64) {
        let (first, until) = (self.newest().await, Instant::now() + REACHED_MAX);
        loop {
            let newest = self.newest().await;
            assert_eq!((newest.owner.as_str(), newest.incarnation), (owner, first.incarnation));
            if newest.number >= first.number + more {
                return;
            }
            assert!(Instant::now() < until, "no new manifest of {owner} after {}", newest.number);
            tokio::time::sleep(POLL).await;
        }
    }
}

fn is_up(processor: &Logged) -> bool {
    processor.lines().iter().any(|line| line["fields"]["http"].is_string())
}

fn write_config(folder: &Path, owner: &str, broker: &str, endpoint: &str) {
    let text = format!(
        "site = \"mill\"\nowner = \"{owner}\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n[s3]\nendpoint = \"{endpoint}\"\n\
         bucket = \"{BUCKET}\"\npath_style = true\n[serve]\ngrpc = \"{ANY}\"\nhttp = \"{ANY}\"\n\
         [archive]\nstaging = \"staging-{owner}\"\ntakeover_quiet_seconds = {QUIET_SECONDS}\n"
    );
    std::fs::write(folder.join(format!("{owner}.toml")), text).unwrap();
}

fn signal(processor: &Logged, name: &str) {
    let id = processor.program.child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// The lines that a test must announce.
fn complaints(processor: &Logged) -> Vec<String> {
    let of = |line: serde_json::Value| (line["level"] != "INFO").then(|| line["fields"]["message"].to_string());
    processor.lines().into_iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_works_and_the_other_waits_until_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_broker, broker)) = mosquitto(folder.path()) else { return };
    let keys = Keys { access: "test".into(), secret: "secret-of-the-test".into() };
    let server = S3Server::start(&folder.path().join("bucket"), ANY.parse().unwrap(), BUCKET, &keys).await.unwrap();
    let endpoint = format!("http://{}", server.addr);
    let store = Store::open(&S3Config::with_keys(&endpoint, BUCKET, &keys.access, &keys.secret)).await.unwrap();
    for owner in ["a", "b"] {
        write_config(folder.path(), owner, &broker.to_string(), &endpoint);
    }
    let site = Site { folder: folder.path().to_owned(), keys, store };

    let mut a = site.start("a", &[]);
    a.says("http").await;
    let mut b = site.start("b", &[]);
    b.says("owner").await;
    site.goes_on("a", RENEWALS).await;
    assert!(!is_up(&b), "it waits for as long as the other is alive");
    assert_eq!(site.newest().await.kind, ManifestKind::Renewed, "which it says although there is nothing to commit");

    // It hangs, and comes back when the other one has taken over.
    signal(&a, "-STOP");
    b.says("http").await;
    signal(&a, "-CONT");
    assert_eq!(a.program.wait_at_most(REACHED_MAX), Some(EXIT_FENCED));
    let said = complaints(&a);
    assert!(said.iter().any(|line| line.contains("another writer has taken over this shard")), "{said:#?}");

    // Its supervisor starts it again, and this time it is the one that waits.
    let mut a = site.start("a", &[]);
    a.says("owner").await;
    site.goes_on("b", RENEWALS).await;
    assert!(!is_up(&a));

    // A clean stop says so: nobody needs to wait then.
    b.stops_cleanly();
    a.says("http").await;
    site.goes_on("a", 1).await;

    // A person knows better than any rule.
    let mut b = site.start("b", &["--take-over"]);
    b.says("http").await;
    assert_eq!(a.program.wait_at_most(REACHED_MAX), Some(EXIT_FENCED));
    site.goes_on("b", 1).await;
    b.stops_cleanly();
    server.stop().await;
}
