//! The trainer's binary; `stream-processor model` is the same.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "model", version, about)]
struct Arguments {
    #[command(flatten)]
    model: model::cli::ModelArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    model::cli::run(arguments.model).await
}
