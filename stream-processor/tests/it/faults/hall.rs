//! The programs and what stands between them: the processor as a process, a mosquitto that is restarted, an S3 endpoint
//! behind a proxy, and gateways with the agent's own code.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use edge_agent::{
    agent::{Agent, AgentHandle},
    config::{AgentConfig, MqttConfig, Patience},
};
use model::store::{S3Config, Store, manifests};
use proto::{
    archive::{Manifest, Shard},
    time::{PlantClock, PlantTime, wall_now_ms},
};
use serde_json::Value;
use stream_processor::embedded::s3::{Keys, S3Server};
use tempfile::TempDir;
use tokio::{sync::watch, time::sleep};

use super::{
    plant::{self, Plant, id},
    proxy::Proxy,
};
use crate::components::{POLL, Program, find, mosquitto};

pub const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(30);
/// Without any progress for so long, nothing more is waited for.
pub const STALL_MAX: Duration = Duration::from_secs(90);
const FLUSH: Duration = Duration::from_millis(100);
const BUCKET: &str = "plant";
pub const ANY: &str = "127.0.0.1:0";

/// What a processor says when its surroundings fail, and nothing is lost by it.
pub const S3_AWAY: &str = "S3 is away: segments wait in staging";
pub const BROKER_LOST: &str = "the connection to the broker is lost; nothing is: gateways keep it";
pub const BROKER_NOT_YET: &str = "no connection to the broker yet; it is tried again until there is one";
pub const REGISTRY_AWAY: &str = "the registry can't be read; the model in charge stays";
/// Likewise of what lies beside the version in charge.
pub const FIGURES_AWAY: &str = "the figures beside the model can't be read; they are tried again";
pub const MODEL_AWAITED: &str = "windows wait for the manifest that enters their model";
/// Its last words, if S3 does not answer at the start.
pub const NO_START: &str = "S3 ";

pub struct Hall {
    folder: TempDir,
    broker: (Program, SocketAddr),
    /// Held for its end.
    _server: S3Server,
    pub proxy: Proxy,
    /// The archive without the proxy.
    pub store: Store,
    pub clock: PlantClock,
    keys: Keys,
    starts: usize,
    seen: Progress,
}

/// What of the manifests has been read already.
#[derive(Default)]
struct Progress {
    number: u64,
    readings: u64,
}

impl Hall {
    /// Plant time begins at `origin` now. None: no mosquitto, which was said.
    pub async fn new(origin: PlantTime, speed: f64) -> Option<Hall> {
        let folder = tempfile::tempdir().unwrap();
        let broker = mosquitto(folder.path())?;
        let keys = Keys { access: "test".into(), secret: "secret-of-the-test".into() };
        let server = S3Server::start(&folder.path().join("bucket"), ANY.parse().unwrap(), BUCKET, &keys).await.unwrap();
        let proxy = Proxy::start(server.addr).await;
        let s3 = S3Config::with_keys(&format!("http://{}", server.addr), BUCKET, &keys.access, &keys.secret);
        let store = Store::open(&s3).await.unwrap();
        plant::put_in_charge(&store, plant::THRESHOLD).await;
        let clock = PlantClock { wall_origin_ms: wall_now_ms(), plant_origin: origin, speed };
        let (starts, seen) = (0, Progress::default());
        Some(Hall { folder, broker, _server: server, proxy, store, clock, keys, starts, seen })
    }

    pub fn now_step(&self) -> i64 {
        self.clock.now().millis() / plant::STEP_MS
    }

    fn spool(&self, gateway: usize) -> PathBuf {
        self.folder.path().join(format!("gateway-{gateway}"))
    }

    /// Of an agent that is gone; its threads may still be about to notice.
    pub fn destroy_spool(&self, gateway: usize) {
        let folder = self.spool(gateway);
        let until = Instant::now() + START_MAX;
        while folder.exists() {
            let destroyed = fs::remove_dir_all(&folder);
            assert!(destroyed.is_ok() || Instant::now() < until, "{destroyed:?}");
        }
    }

    pub fn agent(&self, gateway: usize, plant: &Plant) -> AgentHandle {
        let mut mqtt = MqttConfig::plain(self.broker.1);
        mqtt.patience = Patience {
            keep_alive: Duration::from_secs(2),
            silence_max: Duration::from_secs(4),
            stall_max: Duration::from_secs(1),
            back_off_max: Duration::from_millis(200),
            ..Patience::default()
        };
        let mut config = AgentConfig::new(id("mill"), id(&format!("gateway-{gateway}")), self.spool(gateway), mqtt);
        config.batch.flush = FLUSH;
        config.spool.group_after = Duration::ZERO;
        let until = Instant::now() + START_MAX;
        let agent = loop {
            match Agent::open(config.clone()) {
                Ok(agent) => break agent,
                // The threads of one that has crashed let go of its folder when they notice.
                Err(e) => assert!(Instant::now() < until, "{e}"),
            }
            std::thread::sleep(POLL);
        };
        let source = plant.source(gateway, agent.resume_after());
        agent.start(vec![source], watch::channel(self.clock).1).unwrap()
    }

    pub fn agents(&self, plant: &Plant) -> Vec<AgentHandle> {
        (0..plant.gateways).map(|gateway| self.agent(gateway, plant)).collect()
    }

    /// With SIGKILL, and back after a while: what it had queued or retained is gone.
    pub async fn restart_broker(&mut self, away: Duration) {
        drop(self.broker.0.child.kill());
        self.broker.0.child.wait().unwrap();
        sleep(away).await;
        let mut command = Command::new(find("mosquitto").unwrap());
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf")).stderr(Stdio::null());
        self.broker.0 = Program::start(&mut command);
    }

    /// A life of the real program. `settings`: more lines of its section `[archive]`. Whoever finds another's manifest, or
    /// one of its own that it does not remember, has little patience.
    pub fn processor(&mut self, owner: &str, settings: &str) -> Life {
        self.starts += 1;
        let folder = self.folder.path();
        let clock = self.clock;
        let config = folder.join(format!("{owner}.toml"));
        let sensors = plant::features().sensors.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
        fs::write(
            &config,
            format!(
                "site = \"mill\"\nowner = \"{owner}\"\n[mqtt]\nurl = \"mqtt://{}\"\n\
                 [s3]\nendpoint = \"http://{}\"\nbucket = \"{BUCKET}\"\npath_style = true\n\
                 [serve]\ngrpc = \"{ANY}\"\nhttp = \"{ANY}\"\n\
                 [archive]\nstaging = \"staging-{owner}\"\nsegment_seconds_max = 1\ntakeover_quiet_seconds = 4\n{settings}\n\
                 [features]\nsensors = [{sensors}]\nwindow_ms = {}\nlateness_ms = {}\n\
                 [model]\nname = \"{}\"\nrefresh_seconds = 1\n\
                 [clock]\nwall_origin_ms = {}\nplant_origin = {}\nspeed = {:?}\n",
                self.broker.1,
                self.proxy.addr,
                plant::WINDOW_MS,
                plant::LATENESS_MS,
                plant::MODEL,
                clock.wall_origin_ms,
                clock.plant_origin.millis(),
                clock.speed,
            ),
        )
        .unwrap();
        let log = folder.join(format!("processor-{}.log", self.starts));
        let mut run = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        run.args(["run", "--config"]).arg(&config).env("RUST_LOG", "info");
        run.env("AWS_ACCESS_KEY_ID", &self.keys.access).env("AWS_SECRET_ACCESS_KEY", &self.keys.secret);
        let program = Program::start(run.stderr(File::create(&log).unwrap()).stdout(Stdio::null()));
        Life { program, log }
    }

    /// Readings in the archive, as the manifests say, whose balances are checked.
    pub async fn archived(&mut self) -> u64 {
        let newest = manifests::newest_number(&self.store, Shard(0), self.seen.number).await.unwrap().unwrap_or(0);
        while self.seen.number < newest {
            self.seen.number += 1;
            let manifest = manifests::read_manifest(&self.store, Shard(0), self.seen.number).await.unwrap();
            let manifest = manifest.expect("manifest numbers have no gaps");
            check_balance(&manifest);
            self.seen.readings += manifest.balance.readings_archived;
        }
        self.seen.readings
    }

    /// Waits until so many readings are in the archive.
    pub async fn until_archived(&mut self, readings: u64) {
        let (mut before, mut since) = (self.archived().await, Instant::now());
        while before < readings {
            sleep(5 * POLL).await;
            let archived = self.archived().await;
            if archived > before {
                (before, since) = (archived, Instant::now());
            }
            assert!(since.elapsed() < STALL_MAX, "no progress at {archived} of {readings} readings");
        }
    }
}

/// `taken = archived + dead-lettered`, and the rows of the objects are those that are archived.
pub fn check_balance(manifest: &Manifest) {
    let balance = &manifest.balance;
    assert_eq!(balance.readings_taken, balance.readings_archived + balance.readings_dead_lettered, "{manifest:?}");
    let readings = manifest.objects.iter().filter(|o| o.table == proto::archive::Table::Readings);
    assert_eq!(readings.map(|o| o.rows).sum::<u64>(), balance.readings_archived, "{manifest:?}");
}

/// A processor from its start to its end, killed when dropped; its log is kept.
pub struct Life {
    program: Program,
    log: PathBuf,
}

impl Life {
    pub fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap().lines().map(String::from).collect()
    }

    pub fn said(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }

    pub async fn until_up_or_ended(&mut self) {
        while !self.said("the processor is up") && !self.has_ended() {
            sleep(POLL).await;
        }
    }

    pub async fn until_said(&mut self, text: &str) {
        let until = Instant::now() + START_MAX;
        while !self.said(text) {
            assert!(Instant::now() < until && !self.has_ended(), "never said `{text}`: {:#?}", self.lines());
            sleep(POLL).await;
        }
    }

    /// Waits for a field that the program logs.
    pub async fn field(&mut self, field: &str) -> String {
        let until = Instant::now() + START_MAX;
        loop {
            let said = self.lines().iter().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                Some(line["fields"][field].as_str()?.to_owned())
            });
            if let Some(said) = said {
                return said;
            }
            assert!(Instant::now() < until && !self.has_ended(), "never said `{field}`: {:#?}", self.lines());
            sleep(POLL).await;
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.program.child.try_wait().unwrap().is_some()
    }

    /// With SIGKILL. False: it had ended before.
    pub fn kill(&mut self) -> bool {
        let running = !self.has_ended();
        drop(self.program.child.kill());
        self.program.child.wait().unwrap();
        running
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.program.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.program.wait_at_most(STOP_MAX)
    }

    pub fn stop(mut self, announced: &[&str]) {
        self.program.terminate();
        assert_eq!(self.exit_code(), Some(0), "{:#?}", self.lines());
        self.expect_only(announced);
    }

    /// Panics if there is a WARN or ERROR, or anything that is no log line, but what is announced.
    pub fn expect_only(&self, announced: &[&str]) {
        for line in self.lines() {
            let level = serde_json::from_str(&line).map(|line: Value| line["level"].as_str().map(String::from));
            let quiet = matches!(level.ok().flatten().as_deref(), Some("INFO" | "DEBUG" | "TRACE"));
            assert!(quiet || announced.iter().any(|text| line.contains(text)), "not announced: {line}");
        }
    }

    /// Resident memory, kB.
    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
