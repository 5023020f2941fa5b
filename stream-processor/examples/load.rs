//! A plant's worth of gateways against the real processor: how many readings a second it takes from MQTT to committed
//! Parquet, and what that costs; with `--latency`, how long a prediction takes at a modest pace; with `--soak`, whether the
//! processor's memory stays where it is; with `--s3-away`, what it does while its S3 endpoint is gone.
//!
//! ```console
//! $ cargo build --release && cargo run --release --example load
//! $ cargo run --release --example load -- --latency
//! $ cargo run --release --example load -- --soak 600
//! $ cargo run --release --example load -- --gateways 20 --seconds 3600 --rate 60 --s3-away 60
//! ```
//!
//! The last one is an hour at 20,000 readings/s in a minute.
//!
//! Broker (mosquitto), S3 endpoint and processor are processes of their own, all on loopback. The gateways follow the
//! agents' protocol over real MQTT, with frames that were made beforehand.

#[path = "load/gateway.rs"]
mod gateway;
#[path = "load/latency.rs"]
mod latency;
#[path = "load/memory.rs"]
mod memory;
#[path = "load/network.rs"]
mod network;
#[path = "load/outage.rs"]
mod outage;
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
use memory::Memory;
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
    /// At the pace of the plant for so many seconds, with the processor's resident memory every ten
    #[arg(long, value_parser = clap::value_parser!(u64).range(20..=3_600), conflicts_with_all = ["seconds", "rate", "latency"])]
    soak: Option<u64>,
    /// The S3 endpoint does not answer for so many seconds, from ten seconds after the begin on
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    s3_away: Option<u64>,
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
    let (seconds, rate) = options.soak.map_or((options.seconds, options.rate), |seconds| (seconds, 1.0));
    let mut load = Load::start(traffic, seconds, options.processor.clone()).await?;
    println!("processor: pid {}", load.site.processor());
    // The first batches bring the births; what all this costs is not the steady state.
    load.order(Duration::ZERO, 1);
    load.until(|seen| seen.window.received >= 1).await?;
    let interval = if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO };
    load.memory = Memory::new(options.soak.is_some() || options.s3_away.is_some());
    let before = load.cpu();
    let begun = load.order(interval, seconds);
    let away = options.s3_away.map(Duration::from_secs);
    if let Some(away) = away {
        spawn_local(load.outage(away)?);
    }
    load.until(|seen| seen.window.received >= seconds).await?;
    let taken = begun.elapsed();
    let committed_then = load.sum(|seen| seen.window.committed.saturating_sub(1));
    load.until(|seen| seen.window.committed >= seconds).await?;
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
    memory: Memory,
    patience: Duration,
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
        Ok(Load { site, traffic, gateways, orders, latencies, ended, memory: Memory::default(), patience: STALL_MAX })
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
            self.memory.look(&self.site);
            let now = self.sum(|seen| seen.window.received + seen.window.committed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > self.patience {
                bail!("no progress; received and committed batches: {now}");
            }
        }
        Ok(())
    }

    /// The S3 endpoint goes, and comes back; what was measured meanwhile is said.
    fn outage(&mut self, away: Duration) -> anyhow::Result<impl Future<Output = ()> + use<>> {
        self.patience += away;
        let (gateways, latencies) = (self.gateways.clone(), self.latencies.clone());
        let readings_per_batch = self.traffic.readings_per_batch();
        let counts = move || {
            let sum = |of: fn(&Seen) -> u64| gateways.iter().map(|g| of(&g.borrow())).sum::<u64>();
            let batches = [sum(|seen| seen.window.received), sum(|seen| seen.window.committed)];
            let [received, committed] = batches.map(|batches| batches * readings_per_batch);
            outage::Counts { received, committed, predictions: latencies.borrow().0.len() as u64 }
        };
        outage::outage(self.site.others()[1], self.site.staging(), away, counts)
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
        self.memory.report(&self.site);
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
