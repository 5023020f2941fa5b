//! A plant's worth of gateways against the real processor: how many readings a second it takes from MQTT to committed
//! Parquet, and what that costs; or, with `--latency`, how long a prediction takes at a modest pace.
//!
//! ```console
//! $ cargo build --release && cargo run --release --example load
//! $ cargo run --release --example load -- --latency
//! ```
//!
//! Broker (mosquitto), S3 endpoint and processor are processes of their own, all on loopback. The gateways follow the
//! agents' protocol over real MQTT, with frames that were made beforehand.

#[path = "load/gateway.rs"]
mod gateway;
#[path = "load/latency.rs"]
mod latency;
#[path = "load/network.rs"]
mod network;
#[path = "load/site.rs"]
mod site;
#[path = "load/traffic.rs"]
mod traffic;
#[path = "load/usage.rs"]
mod usage;
#[path = "load/window.rs"]
mod window;

use std::{
    cell::RefCell,
    path::PathBuf,
    process,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::Parser;
use proto::time::wall_now_ms;
use tokio::{
    sync::{mpsc, watch},
    task::{LocalSet, spawn_local},
    time::sleep,
};

use gateway::{Gateway, Orders, Seen};
use latency::Latencies;
use network::WINDOW_MS;
use site::Site;
use traffic::Traffic;
use usage::{Cpu, cpu};

const LOOK: Duration = Duration::from_millis(50);
/// Without any progress for so long, something is wrong.
const STALL_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Options {
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000), default_value_t = 100, default_value_if("latency", "true", "10"))]
    gateways: u64,
    /// Of each gateway, with 5 sensors at 10 Hz
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=500), default_value_t = 20)]
    machines: u64,
    /// Plant time that is sent
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=3_600), default_value_t = 200, default_value_if("latency", "true", "90"))]
    seconds: u64,
    /// Plant seconds per second; 0: as fast as the processor takes it
    #[arg(long, default_value_t = 0.0, default_value_if("latency", "true", "1"))]
    rate: f64,
    /// Follow the predictions and time them
    #[arg(long)]
    latency: bool,
    /// Another processor than the one beside this program
    #[arg(long)]
    processor: Option<PathBuf>,
    #[arg(long, hide = true)]
    serve_s3: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &options.serve_s3 {
        Some(folder) => runtime.block_on(site::serve_s3(folder)),
        None => LocalSet::new().block_on(&runtime, load(options)),
    }
}

async fn load(options: Options) -> anyhow::Result<()> {
    ensure!(options.rate >= 0.0 && options.rate <= 1_000.0, "--rate: from 0 to 1000");
    let origin_ms = wall_now_ms().div_euclid(WINDOW_MS) * WINDOW_MS;
    let traffic = Traffic { gateways: options.gateways as usize, machines: options.machines as usize, origin_ms };
    let mut load = Load::start(traffic, options.seconds, options.processor.clone()).await?;
    println!("processor: pid {}", load.site.processor());
    // The first batches bring the births; what all this costs is not the steady state.
    load.order(Duration::ZERO, 1);
    load.until(|seen| seen.window.received >= 1).await?;
    let interval = if options.rate > 0.0 { Duration::from_secs_f64(1.0 / options.rate) } else { Duration::ZERO };
    let before = load.cpu();
    let begun = load.order(interval, options.seconds);
    load.until(|seen| seen.window.received >= options.seconds).await?;
    let taken = begun.elapsed();
    let committed_then = load.sum(|seen| seen.window.committed.saturating_sub(1));
    load.until(|seen| seen.window.committed >= options.seconds).await?;
    let figures = Figures { before, taken, committed_then, committed: begun.elapsed() };
    load.report(&figures, options.latency);
    for complaint in load.site.stop()? {
        println!("  the processor says: {complaint}");
    }
    Ok(())
}

/// A running load.
struct Load {
    site: Site,
    traffic: Traffic,
    gateways: Vec<Rc<RefCell<Seen>>>,
    orders: watch::Sender<Orders>,
    latencies: Rc<RefCell<Latencies>>,
    /// Nothing that runs beside the load may end before it.
    ended: mpsc::Receiver<String>,
    memory_mb: Vec<f64>,
}

impl Load {
    async fn start(traffic: Traffic, seconds: u64, processor: Option<PathBuf>) -> anyhow::Result<Self> {
        let logs: Vec<_> = (0..traffic.gateways).map(|g| traffic.frames(g, seconds)).collect();
        let site = Site::start(processor).await?;
        let gateways: Vec<Rc<RefCell<Seen>>> = (0..traffic.gateways).map(|_| Rc::default()).collect();
        let (orders, _) = watch::channel(Orders { start: Instant::now(), interval: Duration::ZERO, last: 0 });
        // Each of them ends once.
        let (end, ended) = mpsc::channel(traffic.gateways + 1);
        for (id, (frames, seen)) in logs.into_iter().zip(&gateways).enumerate() {
            let broker = (site.broker.ip().to_string(), site.broker.port());
            let part = id as f64 / traffic.gateways as f64;
            let gateway = Gateway { id, broker, frames, part, seen: seen.clone() };
            let (run, end) = (gateway.run(orders.subscribe()), end.clone());
            spawn_local(async move { end.send(format!("gateway {id} ended: {:?}", run.await)).await });
        }
        let latencies = Rc::default();
        let follow = latency::follow(site.grpc, traffic, gateways.clone(), Rc::clone(&latencies));
        spawn_local(async move { end.send(format!("the stream of predictions ended: {:?}", follow.await)).await });
        Ok(Load { site, traffic, gateways, orders, latencies, ended, memory_mb: vec![] })
    }

    /// From now on, batches up to `last`, one per gateway and `interval`.
    fn order(&self, interval: Duration, last: u64) -> Instant {
        let start = Instant::now();
        self.orders.send_replace(Orders { start, interval, last });
        start
    }

    async fn until(&mut self, done: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let (mut seen, mut since) = (0, Instant::now());
        while !self.gateways.iter().all(|gateway| done(&gateway.borrow())) {
            sleep(LOOK).await;
            if let Ok(what) = self.ended.try_recv() {
                bail!(what);
            }
            self.memory_mb.push(self.site.memory_mb().0);
            let now = self.sum(|seen| seen.window.received + seen.window.committed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > STALL_MAX {
                bail!("no progress; received and committed batches: {now}");
            }
        }
        Ok(())
    }

    fn sum(&self, of: impl Fn(&Seen) -> u64) -> u64 {
        self.gateways.iter().map(|gateway| of(&gateway.borrow())).sum()
    }

    /// Of the processor, the broker, the S3 endpoint and this program.
    fn cpu(&self) -> [Cpu; 4] {
        let [broker, s3] = self.site.others();
        [self.site.processor(), broker, s3, process::id()].map(cpu)
    }

    fn report(&self, figures: &Figures, latency: bool) {
        let millions = |batches: u64| (batches * self.traffic.readings_per_batch()) as f64 / 1e6;
        let batches = self.sum(|seen| seen.window.sent - 1);
        let (readings, repeated) = (millions(batches), self.sum(|seen| seen.window.repeated));
        println!("sent: {readings:.1} M readings in {batches} batches, {repeated} of them again");
        let (seconds, then) = (figures.taken.as_secs_f64(), millions(figures.committed_then));
        println!("taken: after {seconds:.1} s, {:.2} M readings/s; {then:.1} M committed by then", readings / seconds);
        println!("committed: all after {:.1} s", figures.committed.as_secs_f64());
        let spent: Vec<f64> = self.cpu().iter().zip(figures.before).map(|(now, before)| *now - before).collect();
        let [processor, broker, s3, own] = [0, 1, 2, 3].map(|at| spent[at] / readings);
        println!("CPU s per million readings: processor {processor:.3} ({:.1} s in all)", spent[0]);
        println!("  beside it: broker {broker:.3}, S3 endpoint {s3:.3}, this program {own:.3}");
        let mean = self.memory_mb.iter().sum::<f64>() / self.memory_mb.len().max(1) as f64;
        let most = self.site.memory_mb().1;
        println!("processor's resident memory: {mean:.0} MB on average, {most:.0} MB at most");
        let latencies = self.latencies.borrow();
        println!("predictions by gRPC: {}", latencies.0.len());
        if let Some([p50, p99, most]) = latencies.quantiles([0.5, 0.99, 1.0]).filter(|_| latency) {
            println!("  after the batch that closed their window: p50 {p50:.1?}, p99 {p99:.1?}, at most {most:.1?}");
        }
    }
}

/// What was measured from the second batches on.
struct Figures {
    before: [Cpu; 4],
    taken: Duration,
    /// Batches, when all were taken.
    committed_then: u64,
    committed: Duration,
}
