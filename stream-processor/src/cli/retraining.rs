//! The retraining trigger in the terminal.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{EXIT_CONFIG, EXIT_FAILED, Signals, fail};
use crate::{
    telemetry,
    trigger::{config::TriggerConfig, listener},
};

#[derive(Debug, Args)]
pub struct TriggerArgs {
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration file and open nothing
    #[arg(long)]
    check: bool,
}

pub async fn run(args: TriggerArgs) -> ExitCode {
    let config = match TriggerConfig::load(&args.config) {
        Ok(_) if args.check => return ExitCode::SUCCESS,
        Ok(config) => config,
        Err(e) => return fail(&e.to_string(), EXIT_CONFIG),
    };
    telemetry::init_logs("info");
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(e) => return fail(&format!("cannot listen for signals: {e}"), EXIT_FAILED),
    };
    let exporter = match telemetry::Exporter::install() {
        Ok(exporter) => exporter,
        Err(e) => return fail(&e.to_string(), EXIT_FAILED),
    };
    let stop = CancellationToken::new();
    let listener = match listener::start(config, &exporter, stop.clone()).await {
        Ok(listener) => listener,
        Err(e) => return fail(&e.to_string(), EXIT_FAILED),
    };
    tracing::info!(http = %listener.addr, "the retraining trigger is up");
    signals.asked_to_stop().await;
    signals.force_the_stop();
    stop.cancel();
    listener.stopped().await;
    ExitCode::SUCCESS
}
