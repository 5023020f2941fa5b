//! The gateway's binary: one agent, by `gateway.toml`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use edge_agent::{agent::Agent, config::Gateway, source::Source, telemetry};
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

/// Sources are tried, too, before the spool is opened: only they know whether their settings and files make sense.
fn load(path: &Path) -> anyhow::Result<Gateway> {
    let gateway = Gateway::load(path)?;
    for source in &gateway.sources {
        source.build(&gateway.base, None).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    }
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
    if let Some(address) = gateway.metrics {
        let registry = telemetry::install_exporter().context("metrics")?;
        tokio::spawn(async move {
            let ended = telemetry::serve(address, registry).await;
            let _ = failed.send(ended.context(format!("serve.metrics {address}"))).await;
        });
    }
    let (_clock, clock) = watch::channel(gateway.clock);
    // Recovery and a source's way back to where it was may take long, and can be interrupted.
    let opened = tokio::task::spawn_blocking(move || open(&gateway));
    let (agent, sources) = tokio::select! {
        opened = opened => opened??,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let handle = agent.start(sources, clock)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        Some(ended) = failure.recv() => ended?,
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        progress = handle.stop() => tracing::info!(readings = progress.readings_sealed, "stopped"),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn open(gateway: &Gateway) -> anyhow::Result<(Agent, Vec<Box<dyn Source>>)> {
    let agent = Agent::open(gateway.agent.clone())?;
    let resume_after = agent.resume_after();
    let sources = gateway.sources.iter().map(|s| s.build(&gateway.base, resume_after));
    Ok((agent, sources.collect::<Result<_, _>>()?))
}
