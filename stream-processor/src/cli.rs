//! The command line: the factory by default, the processor alone with `run`, and the tools beside it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use proto::time::PlantClock;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ProcessorConfig,
    crew,
    processor::{Processor, engine::EngineError},
    telemetry,
};

pub const EXIT_FAILED: u8 = 1;
/// A configuration that can't be used.
pub const EXIT_CONFIG: u8 = 2;
/// Another processor took over: a supervisor should wait before it starts this one again.
pub const EXIT_FENCED: u8 = 3;
/// A stop that hangs is ended by force.
const STOP_SECONDS_MAX: u64 = 5;

#[derive(Debug, Parser)]
#[command(name = "stream-processor", version, about = "Millwright: machine health from sensor to alert", long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[cfg(feature = "embedded")]
    #[command(flatten)]
    factory: factory::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The processor alone, against a broker and an S3 endpoint
    Run {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and open nothing
    CheckConfig {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The crew's alerts, in the terminal
    Alerts(crew::AlertsArgs),
    /// Train, evaluate and promote models
    Model(model::cli::ModelArgs),
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("cannot start: {e}"), 1),
    };
    let code = runtime.block_on(dispatch(cli));
    // Nothing that still hangs somewhere may hold the process back.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn dispatch(cli: Cli) -> ExitCode {
    match cli.command {
        Some(Command::Run { config }) => run(config).await,
        Some(Command::CheckConfig { config }) => match ProcessorConfig::load(&config) {
            Ok(_) => ExitCode::SUCCESS,
            Err(e) => fail(&e.to_string(), EXIT_CONFIG),
        },
        Some(Command::Alerts(args)) => match crew::run(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&format!("{e:#}"), 1),
        },
        Some(Command::Model(args)) => model::cli::run(args).await,
        #[cfg(feature = "embedded")]
        None => factory::main(cli.factory).await,
        #[cfg(not(feature = "embedded"))]
        None => fail("this build holds no factory: use `run --config FILE`, or --help", EXIT_CONFIG),
    }
}

async fn run(path: PathBuf) -> ExitCode {
    let config = match ProcessorConfig::load(&path) {
        Ok(config) => config,
        Err(e) => return fail(&e.to_string(), EXIT_CONFIG),
    };
    telemetry::init_logs("info");
    // The sender is kept: plant time never changes its pace here.
    let (_pace, clock): (_, watch::Receiver<PlantClock>) = watch::channel(config.clock);
    let started = match telemetry::Exporter::install() {
        Ok(exporter) => Processor::start(config, clock, &exporter).await,
        Err(e) => return fail(&e.to_string(), 1),
    };
    let processor = match started {
        Ok(processor) => processor,
        Err(e) => return fail(&e.to_string(), 1),
    };
    let (grpc, http) = processor.addresses();
    tracing::info!(%grpc, %http, "the processor is up");
    let code = tokio::select! {
        () = asked_to_stop() => ExitCode::SUCCESS,
        reason = processor.failed() => ExitCode::from(if matches!(*reason, EngineError::Fenced) { EXIT_FENCED } else { EXIT_FAILED }),
    };
    by_force_after(STOP_SECONDS_MAX);
    processor.stop().await;
    code
}

/// SIGINT or SIGTERM.
async fn asked_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// A second signal means now; so does a stop that takes too long.
fn by_force_after(seconds: u64) {
    let patience = CancellationToken::new();
    tokio::spawn(async move {
        tokio::select! {
            () = asked_to_stop() => {}
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            () = patience.cancelled() => {}
        }
        tracing::warn!("stopped by force; nothing that was acknowledged is lost");
        std::process::exit(1);
    });
}

fn fail(reason: &str, code: u8) -> ExitCode {
    eprintln!("{reason}");
    ExitCode::from(code)
}

#[cfg(feature = "embedded")]
mod factory {
    //! The embedded factory in the terminal.

    use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Instant};

    use clap::Args;
    use proto::wire::alert::{Alert, AlertState};
    use tokio::sync::watch;

    use super::{STOP_SECONDS_MAX, asked_to_stop, by_force_after, fail};
    use crate::{
        alert::text,
        embedded::{
            Factory, FactoryConfig, Status,
            report::{Progress, banner, say},
            state::Phase,
        },
        serve::board::{Board, Cursor, Since},
        telemetry,
    };

    #[derive(Debug, Args)]
    pub struct Options {
        /// Folder that holds everything the factory keeps
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// Address of the MQTT broker
        #[arg(long, default_value = "127.0.0.1:1883")]
        mqtt: SocketAddr,
        /// Address of the S3 endpoint
        #[arg(long, default_value = "127.0.0.1:9000")]
        s3: SocketAddr,
        /// Address of the gRPC services
        #[arg(long, default_value = "127.0.0.1:50051")]
        grpc: SocketAddr,
        /// Address of REST, console and metrics
        #[arg(long, default_value = "127.0.0.1:8080")]
        http: SocketAddr,
        /// Plant seconds per second, once it is live
        #[arg(long, default_value_t = 3600.0, value_parser = speed)]
        speed: f64,
        /// Days of history at the very first start
        #[arg(long, default_value_t = 42, value_parser = clap::value_parser!(u32).range(1..=365))]
        history_days: u32,
        /// Of the simulated plant, at the very first start
        #[arg(long)]
        seed: Option<u64>,
    }

    fn speed(text: &str) -> Result<f64, String> {
        let speed: f64 = text.parse().map_err(|_| "must be a number".to_string())?;
        if speed > 0.0 && speed <= 100_000.0 { Ok(speed) } else { Err("must be above 0 and at most 100000".into()) }
    }

    pub async fn main(options: Options) -> ExitCode {
        telemetry::init_logs("warn");
        let Options { data, mqtt, s3, grpc, http, speed, history_days, seed } = options;
        let shown = data.display().to_string();
        let config = FactoryConfig { data, mqtt, s3, grpc, http, speed, history_days, seed, ..Default::default() };
        let factory = match Factory::start(config).await {
            Ok(factory) => factory,
            Err(e) => return fail(&e.to_string(), 1),
        };
        say(&banner(&factory.addresses, &shown, speed), true);
        let code = tokio::select! {
            () = asked_to_stop() => ExitCode::SUCCESS,
            reason = factory.failed() => fail(&reason, 1),
            reason = show(factory.status(), factory.board.clone()) => fail(&reason, 1),
        };
        say("\n  stopping: what the gateways hold drains first", true);
        let began = Instant::now();
        by_force_after(STOP_SECONDS_MAX);
        if let Err(e) = factory.stop().await {
            return fail(&e.to_string(), 1);
        }
        say(&format!("  stopped in {:.1} s; the next start goes on from here", began.elapsed().as_secs_f64()), true);
        code
    }

    /// Progress of the phases, then alerts; returns only with the reason why it can't go on.
    async fn show(mut status: watch::Receiver<Status>, board: Board) -> String {
        let mut bar: Option<(Phase, Progress, String)> = None;
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(reason) = now.failed {
                return reason;
            }
            if bar.as_ref().is_some_and(|(phase, ..)| *phase != now.phase)
                && let Some((_, progress, detail)) = bar.take()
            {
                progress.done(&detail);
            }
            match now.phase {
                Phase::Live => break,
                phase => {
                    let name = if phase == Phase::History { "history" } else { "training" };
                    let (_, progress, detail) = bar.get_or_insert_with(|| (phase, Progress::new(name), String::new()));
                    progress.show(now.done, &now.detail);
                    detail.clone_from(&now.detail);
                }
            }
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        say("  live      alerts follow as they come; first the open ones", true);
        alerts(board).await
    }

    async fn alerts(board: Board) -> String {
        let mut changed = board.follow_alerts();
        let mut seen: Cursor = board.read().alert_cursor();
        let open: Vec<Alert> = board.read().open.values().map(|a| Alert::clone(a)).collect();
        open.iter().for_each(print);
        loop {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
            let (news, cursor) = {
                let view = board.read();
                (view.alerts_since(seen), view.alert_cursor())
            };
            seen = cursor;
            match news {
                Since::Events(events) => events.iter().for_each(|(_, alert)| print(alert)),
                Since::Missed(count) => say(&format!("  ... {count} alert events went by too fast to print"), true),
                Since::Other => {}
            }
        }
    }

    /// Openings and closings; every update of a probability would only scroll the news away.
    fn print(alert: &Alert) {
        let opened = alert.state() == AlertState::Open && alert.updated_ms == alert.opened_ms && alert.provisional;
        if opened || (alert.state() != AlertState::Open && alert.provisional) {
            say(&format!("  {}", text::line(alert)), true);
        }
    }
}
