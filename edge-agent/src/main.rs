//! The gateway's binary: one agent, by `gateway.toml`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use edge_agent::{
    agent::{Agent, batch::BatchBuilder, clock::AgentClock},
    config::Gateway,
    source::{Source, SourceConfig},
    telemetry::{self, Health},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// What to read, where to keep it, where to send it.
    #[arg(long, global = true, default_value = "gateway.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Says what is wrong with the configuration, if anything, and starts nothing.
    CheckConfig,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let gateway = match load(&arguments.config) {
        Ok(gateway) => gateway,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(Command::CheckConfig) = arguments.command {
        println!("{}: ok", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    telemetry::init_logs();
    match start(gateway) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sources are tried, too, before the spool is opened: only they know whether their settings and files make sense, and
/// only together, whether one agent can carry them.
fn load(path: &Path) -> anyhow::Result<Gateway> {
    let gateway = Gateway::load(path)?;
    let refused = |e: &dyn std::fmt::Display| anyhow::anyhow!("{}: {e}", path.display());
    let built = gateway.sources.iter().map(|source| source.build(&gateway.base, None));
    let sources = built.collect::<Result<Vec<_>, _>>().map_err(|e| refused(&e))?;
    let machines: Vec<_> = sources.iter().flat_map(|source| source.machines()).collect();
    BatchBuilder::new(&machines).map_err(|e| refused(&e))?;
    Ok(gateway)
}

fn start(gateway: Gateway) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(gateway));
    // Whoever asked to stop now does not want to wait for a blocking thread.
    runtime.shutdown_background();
    ended
}

async fn run(gateway: Gateway) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (failed, mut failure) = mpsc::channel(1);
    let (health, healthy) = watch::channel(Health::Starting);
    if let Some(address) = gateway.metrics {
        let registry = telemetry::install_exporter().context("metrics")?;
        tokio::spawn(async move {
            let ended = telemetry::serve(address, registry, healthy).await;
            let _ = failed.send(ended.context(format!("serve.metrics {address}"))).await;
        });
    }
    // Recovery and a source's way back to where it was may take long, and can be interrupted.
    let opened = tokio::task::spawn_blocking(move || open(&gateway));
    let Opened { agent, sources, clock } = tokio::select! {
        opened = opened => opened??,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let mut handle = agent.start(sources, clock)?;
    health.send_replace(Health::Running);
    let ended = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        Some(ended) = failure.recv() => ended,
        error = handle.ended() => {
            health.send_replace(Health::Ended);
            Err(error).context("the agent ended")
        }
    };
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        progress = handle.stop() => tracing::info!(readings = progress.readings_sealed, "stopped"),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    ended
}

struct Opened {
    agent: Agent,
    sources: Vec<Box<dyn Source>>,
    clock: AgentClock,
}

fn open(gateway: &Gateway) -> anyhow::Result<Opened> {
    let agent = Agent::open(gateway.agent.clone())?;
    let (resume_after, (clock, since)) = (agent.resume_after(), agent.resume_clock(&gateway.clock)?);
    let now = clock.look().time;
    if let Some(sealed) = resume_after.filter(|sealed| *sealed > now) {
        tracing::warn!(%now, %sealed, "plant time is behind what was read before: simulators and replays wait until it is past");
    }
    let build = |source: &SourceConfig| source.starting_at(since).build(&gateway.base, resume_after);
    let sources = gateway.sources.iter().map(build).collect::<Result<_, _>>()?;
    Ok(Opened { agent, sources, clock })
}
