//! The gateway's binary: one agent, by `gateway.toml`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use edge_agent::{
    agent::{Agent, AgentHandle, batch::BatchBuilder, clock::AgentClock, sampler::OpenSources},
    config::Gateway,
    source::Source,
    spool::{disk::Folder, inspect::inspect},
    supervisor::Supervisor,
    telemetry::{self, Health},
};
use proto::time::PlantTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::spawn_blocking,
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
    /// Looks at the spool and changes nothing, also beside a running agent.
    Spool {
        #[command(subcommand)]
        look: Look,
    },
}

#[derive(Subcommand)]
enum Look {
    /// Says what is in each segment file, and how far the log is committed.
    Inspect,
    /// Reads every frame; ends with exit code 1 if anything can't be read.
    Verify,
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
    match arguments.command {
        Some(Command::CheckConfig) => {
            println!("{}: ok", arguments.config.display());
            return ExitCode::SUCCESS;
        }
        Some(Command::Spool { look: how }) => return look(&gateway.agent.data, &how),
        None => {}
    }
    telemetry::init_logs();
    match start(arguments.config, gateway) {
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

fn look(data: &Path, how: &Look) -> ExitCode {
    let found = match inspect(&Folder::view(data)) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{}: {error}", data.display());
            return ExitCode::from(2);
        }
    };
    let damage = found.damage();
    match how {
        Look::Inspect => println!("{found}"),
        Look::Verify if damage.is_empty() => println!("{}: ok", data.display()),
        Look::Verify => {}
    }
    damage.iter().for_each(|line| println!("damage: {line}"));
    match how {
        Look::Verify if !damage.is_empty() => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn start(config: PathBuf, gateway: Gateway) -> anyhow::Result<()> {
    // One thread carries far more than a gateway reads, since none of its tasks waits for the disk. More of them would
    // take memory, each for itself, and CPU time to hand work over.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run(config, gateway));
    // Whoever asked to stop now does not want to wait for a blocking thread.
    runtime.shutdown_background();
    ended
}

async fn run(config: PathBuf, gateway: Gateway) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let supervisor = Supervisor::from_env().context("NOTIFY_SOCKET")?;
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
    let opened = spawn_blocking(move || open(gateway));
    let Opened { agent, sources, clock, mut running } = tokio::select! {
        opened = opened => opened??,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let mut handle = agent.start(sources, clock)?;
    supervisor.ready();
    let ended = {
        let watching = supervisor.watch(handle.beats(), &health);
        tokio::pin!(watching);
        loop {
            tokio::select! {
                _ = interrupt.recv() => break Ok(()),
                _ = terminate.recv() => break Ok(()),
                Some(ended) = failure.recv() => break ended,
                error = handle.ended() => {
                    health.send_replace(Health::Ended);
                    break Err(error).context("the agent ended");
                }
                _ = &mut watching => {}
                _ = hangup.recv() => {
                    supervisor.reloading();
                    // Opening a source's files may take long, too.
                    tokio::select! {
                        () = running.reload(&config, &mut handle) => supervisor.ready(),
                        _ = interrupt.recv() => break Ok(()),
                        _ = terminate.recv() => break Ok(()),
                        _ = &mut watching => {}
                    }
                }
            }
        }
    };
    supervisor.stopping();
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
    running: Running,
}

fn open(gateway: Gateway) -> anyhow::Result<Opened> {
    let agent = Agent::open(gateway.agent.clone())?;
    let (resume_after, (clock, since)) = (agent.resume_after(), agent.resume_clock(&gateway.clock)?);
    let now = clock.look().time;
    if let Some(sealed) = resume_after.filter(|sealed| *sealed > now) {
        tracing::warn!(%now, %sealed, "plant time is behind what was read before: simulators and replays wait until it is past");
    }
    let running = Running { gateway, since };
    let sources = running.open_sources()(resume_after)?;
    Ok(Opened { agent, sources, clock, running })
}

/// The configuration in force.
struct Running {
    gateway: Gateway,
    /// When plant time began: a simulator that is not told otherwise begins there.
    since: PlantTime,
}

impl Running {
    fn open_sources(&self) -> OpenSources {
        let (sources, base, since) = (self.gateway.sources.clone(), self.gateway.base.clone(), self.since);
        Box::new(move |resume_after| {
            sources.iter().map(|source| source.starting_at(since).build(&base, resume_after)).collect()
        })
    }

    /// A file that can't be used changes nothing.
    async fn reload(&mut self, config: &Path, handle: &mut AgentHandle) {
        let reloaded = self.try_reload(config, handle).await;
        handle.count_reload(reloaded.is_ok());
        match reloaded {
            Ok(()) => tracing::info!(file = %config.display(), "the configuration is reloaded"),
            Err(error) => tracing::error!("{error:#}; the configuration stays as it was"),
        }
    }

    async fn try_reload(&mut self, config: &Path, handle: &mut AgentHandle) -> anyhow::Result<()> {
        let path = config.to_owned();
        let gateway = spawn_blocking(move || load(&path)).await??;
        if let Some(key) = self.gateway.needs_restart(&gateway) {
            anyhow::bail!("{}: `{key}` can't be changed without a restart", config.display());
        }
        let new = Running { gateway, since: self.since };
        handle.reload(new.gateway.agent.clone(), new.open_sources()).await?;
        *self = new;
        Ok(())
    }
}
