//! The programs under load, each as a process of its own on loopback: broker, S3 endpoint, processor.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use model::{
    registry::{self, Decision},
    store::Store,
};
use stream_processor::{
    config::ProcessorConfig,
    embedded::s3::{Keys, S3Server},
};
use tempfile::TempDir;

use crate::{
    network::{self, LATENESS_MS, WINDOW_MS},
    traffic::SITE,
};

const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const BUCKET: &str = "plant";
const KEYS: [&str; 2] = ["load", "secret-of-the-load"];

/// Ended, and its folder removed, when dropped.
pub struct Site {
    pub broker: SocketAddr,
    pub grpc: SocketAddr,
    mosquitto: Process,
    s3: Process,
    processor: Process,
    folder: TempDir,
}

struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Process(command.stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Site {
    /// With an empty archive and a model in charge.
    pub async fn start(processor: Option<PathBuf>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (mosquitto, broker) = mosquitto(folder.path())?;
        let (s3, endpoint) = s3(folder.path())?;
        let [grpc, http] = [free_port()?, free_port()?];
        let config = folder.path().join("processor.toml");
        fs::write(&config, processor_toml(broker, endpoint, grpc, http))?;
        fs::write(folder.path().join("access"), KEYS[0])?;
        fs::write(folder.path().join("secret"), KEYS[1])?;
        put_in_charge(&config).await?;
        let program = processor.unwrap_or(beside_this("stream-processor")?);
        ensure!(program.is_file(), "{} is missing: `cargo build --release` makes it", program.display());
        let log = File::create(folder.path().join("processor.log"))?;
        let processor = Process::start(Command::new(program).args(["run", "--config"]).arg(&config).stderr(log))?;
        let site = Site { broker, grpc, mosquitto, s3, processor, folder };
        site.ready(http).await?;
        Ok(site)
    }

    pub fn processor(&self) -> u32 {
        self.processor.0.id()
    }

    /// Of the processor: resident memory now and at most so far.
    pub fn memory_mb(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.processor())).unwrap_or_default();
        let mb = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            rest.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
        };
        (mb("VmRSS:"), mb("VmHWM:"))
    }

    /// Where the processor keeps what waits for S3.
    pub fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    /// Broker and S3 endpoint.
    pub fn others(&self) -> [u32; 2] {
        [self.mosquitto.0.id(), self.s3.0.id()]
    }

    /// Stops the processor in form; what it complained of.
    pub fn stop(mut self) -> anyhow::Result<Vec<String>> {
        let sent = Command::new("kill").args(["-TERM", &self.processor().to_string()]).status()?;
        ensure!(sent.success(), "the processor has gone");
        let until = Instant::now() + STOP_MAX;
        while self.processor.0.try_wait()?.is_none() {
            ensure!(Instant::now() < until, "the processor does not stop");
            sleep(POLL);
        }
        let log = fs::read_to_string(self.folder.path().join("processor.log"))?;
        Ok(log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(String::from).collect())
    }

    async fn ready(&self, http: SocketAddr) -> anyhow::Result<()> {
        let until = Instant::now() + START_MAX;
        loop {
            let answer = reqwest::get(format!("http://{http}/readyz")).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let log = || fs::read_to_string(self.folder.path().join("processor.log")).unwrap_or_default();
            ensure!(Instant::now() < until, "the processor is not ready:\n{}", log());
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Serves an S3 bucket in `folder` until it is killed; what this program does when it is started by itself.
pub async fn serve_s3(folder: &Path) -> anyhow::Result<()> {
    let keys = Keys { access: KEYS[0].into(), secret: KEYS[1].into() };
    let server = S3Server::start(folder, SocketAddr::from(([127, 0, 0, 1], 0)), BUCKET, &keys).await?;
    println!("{}", server.addr);
    std::future::pending().await
}

fn s3(folder: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("--serve-s3").arg(folder.join("bucket")).stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().context("its output")?).read_line(&mut line)?;
    let addr = line.trim().parse().context("the S3 endpoint did not start")?;
    Ok((process, addr))
}

fn mosquitto(folder: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let path = env::var("PATH").unwrap_or_default();
    let folders = path.split(':').map(Path::new).chain(["/usr/sbin", "/usr/bin"].map(Path::new));
    let program = folders.map(|f| f.join("mosquitto")).find(|p| p.is_file()).context("mosquitto is not installed")?;
    let (addr, config) = (free_port()?, folder.join("mosquitto.conf"));
    let port = addr.port();
    fs::write(
        &config,
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\nset_tcp_nodelay true\n\
             max_queued_messages 0\nmax_packet_size 2097152\n"
        ),
    )?;
    let process = Process::start(Command::new(program).arg("-c").arg(&config))?;
    let until = Instant::now() + START_MAX;
    while TcpStream::connect(addr).is_err() {
        ensure!(Instant::now() < until, "mosquitto does not listen on {addr}");
        sleep(POLL);
    }
    Ok((process, addr))
}

async fn put_in_charge(config: &Path) -> anyhow::Result<()> {
    let config = ProcessorConfig::load(config)?;
    let store = Store::open(&config.s3).await?;
    let model = network::untrained()?;
    let version = model.version()?;
    registry::publish(&store, &config.model, &version, model.encode()?.into()).await?;
    let decision = Decision { who: "load".into(), why: "it is the only one".into(), when_ms: 0 };
    registry::promote(&store, &config.model, &version, decision).await?;
    Ok(())
}

fn processor_toml(broker: SocketAddr, s3: SocketAddr, grpc: SocketAddr, http: SocketAddr) -> String {
    format!(
        "site = \"{SITE}\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n\
         [s3]\nendpoint = \"http://{s3}\"\nbucket = \"{BUCKET}\"\npath_style = true\n\
         access_key_file = \"access\"\nsecret_key_file = \"secret\"\n\
         [serve]\ngrpc = \"{grpc}\"\nhttp = \"{http}\"\n\
         [features]\nwindow_ms = {WINDOW_MS}\nlateness_ms = {LATENESS_MS}\n"
    )
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// This program is in `examples`, which is beside the others.
fn beside_this(program: &str) -> anyhow::Result<PathBuf> {
    let this = env::current_exe()?;
    match this.ancestors().nth(2) {
        Some(folder) => Ok(folder.join(program)),
        None => bail!("{} is nowhere", this.display()),
    }
}
