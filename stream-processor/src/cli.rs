//! The command line: the factory by default, the processor alone with `run`, and the tools beside it.

#[cfg(feature = "embedded")]
mod factory;
mod archive;
mod retraining;
mod shard;
mod signals;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use proto::{
    archive::{Shard, shards::Slots},
    clock::KeptClock,
    config::ConfigError,
    time::{PlantClock, wall_now_ms},
};
use tokio::sync::watch;

use crate::{
    archive::ArchiveError,
    config::ProcessorConfig,
    crew,
    processor::{Processor, ProcessorError, STOP_MAX, engine::EngineError},
    telemetry,
};
use signals::Signals;

pub const EXIT_FAILED: u8 = 1;
/// A configuration that can't be used.
pub const EXIT_CONFIG: u8 = 2;
/// Another processor took over; the next start waits by itself.
pub const EXIT_FENCED: u8 = 3;
/// The shard's slots have gone to others: no start can help.
pub const EXIT_CLOSED: u8 = 4;
const EXIT_CODES: &str = "Exit codes:
  0  stopped as asked
  1  failed; nothing is lost, gateways keep what is not committed
  2  the configuration can't be used
  3  another processor took over; the next start waits until that one is gone
  4  the shard is closed: its slots belong to other shards, and a start can't help";
/// In the staging folder.
const CLOCK_FILE: &str = "clock.json";

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
    #[command(after_help = EXIT_CODES)]
    Run {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Take the shard from another owner at once: you know that it is gone. Without this a start waits until there was
        /// no new manifest for `archive.takeover_quiet_seconds`, or the owner has stopped cleanly
        #[arg(long)]
        take_over: bool,
        /// Shard to write to, instead of the configuration's
        #[arg(long)]
        shard: Option<Shard>,
        /// Slots that the shard must own, as 0-15,17; whatever it owns unless given
        #[arg(long)]
        slots: Option<Slots>,
    },
    /// Check a configuration file and open nothing
    CheckConfig {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The crew's alerts, in the terminal
    Alerts(crew::AlertsArgs),
    /// List, check and compact what is in S3
    Archive(archive::ArchiveArgs),
    /// Which shards there are; split and merge them
    Shard(shard::ShardArgs),
    /// Train, evaluate and promote models
    Model(model::cli::ModelArgs),
    /// Start a retraining when an alert asks for one: receives Alertmanager's webhook
    RetrainingTrigger(retraining::TriggerArgs),
    /// What really went on in the factory's plant, for `model evaluate --truth`
    #[cfg(feature = "embedded")]
    Truth {
        /// Folder of the factory
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// So many days beyond now as well
        #[arg(long, default_value_t = 0, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=365))]
        ahead_days: u32,
    },
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
        Some(Command::Run { config, take_over, shard, slots }) => {
            let overrule = |config: ProcessorConfig| ProcessorConfig {
                take_over,
                shard: shard.unwrap_or(config.shard),
                slots: slots.or(config.slots),
                ..config
            };
            run(ProcessorConfig::load(&config).map(overrule)).await
        }
        Some(Command::CheckConfig { config }) => match ProcessorConfig::load(&config) {
            Ok(_) => ExitCode::SUCCESS,
            Err(e) => fail(&e.to_string(), EXIT_CONFIG),
        },
        Some(Command::Alerts(args)) => match crew::run(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&format!("{e:#}"), 1),
        },
        Some(Command::Archive(args)) => archive::run(args).await,
        Some(Command::Shard(args)) => shard::run(args).await,
        Some(Command::Model(args)) => model::cli::run(args).await,
        Some(Command::RetrainingTrigger(args)) => retraining::run(args).await,
        #[cfg(feature = "embedded")]
        Some(Command::Truth { data, ahead_days }) => factory::truth(&data, ahead_days),
        #[cfg(feature = "embedded")]
        None => factory::main(cli.factory).await,
        #[cfg(not(feature = "embedded"))]
        None => fail("this build holds no factory: use `run --config FILE`, or --help", EXIT_CONFIG),
    }
}

/// Plant time as it went on since the first start; the staging folder remembers that.
fn plant_clock(config: &ProcessorConfig) -> PlantClock {
    let file = config.archive.staging.join(CLOCK_FILE);
    let kept = fs::read(&file).ok().as_deref().and_then(KeptClock::decode);
    let clock = config.clock.resume(kept, wall_now_ms());
    let keep = || fs::create_dir_all(&config.archive.staging).and_then(|()| fs::write(&file, clock.encode()));
    if kept != Some(clock)
        && let Err(e) = keep()
    {
        tracing::warn!(file = %file.display(), error = %e, "the next start can't go on in this plant time");
    }
    clock.clock
}

async fn run(config: Result<ProcessorConfig, ConfigError>) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(e) => return fail(&e.to_string(), EXIT_CONFIG),
    };
    telemetry::init_logs("info");
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(e) => return fail(&format!("cannot listen for signals: {e}"), 1),
    };
    // The sender is kept: plant time never changes its pace here.
    let (_pace, clock) = watch::channel(plant_clock(&config));
    let exporter = match telemetry::Exporter::install() {
        Ok(exporter) => exporter,
        Err(e) => return fail(&e.to_string(), 1),
    };
    let started = tokio::select! {
        started = Processor::start(config, clock, &exporter) => started,
        // Nothing was taken yet.
        () = signals.asked_to_stop() => return ExitCode::SUCCESS,
    };
    let processor = match started {
        Ok(processor) => processor,
        Err(e) => {
            let code = match e {
                ProcessorError::Archive(ArchiveError::Closed { .. }) => EXIT_CLOSED,
                ProcessorError::Settings(_) => EXIT_CONFIG,
                _ => EXIT_FAILED,
            };
            return fail(&e.to_string(), code);
        }
    };
    let (grpc, http) = processor.addresses();
    tracing::info!(%grpc, %http, "the processor is up");
    let code = tokio::select! {
        () = signals.asked_to_stop() => ExitCode::SUCCESS,
        reason = processor.failed() => match *reason {
            EngineError::Fenced => ExitCode::from(EXIT_FENCED),
            EngineError::Closed { .. } => ExitCode::from(EXIT_CLOSED),
            _ => ExitCode::from(EXIT_FAILED),
        },
    };
    signals.force_the_stop();
    processor.stop(Instant::now() + STOP_MAX).await;
    code
}

fn fail(reason: &str, code: u8) -> ExitCode {
    eprintln!("{reason}");
    ExitCode::from(code)
}
