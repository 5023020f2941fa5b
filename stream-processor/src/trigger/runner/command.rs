//! A retraining as a program on this machine. What it prints goes to the log; how it ended is counted.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use model::cli::WHY_VARIABLE;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use super::{Begun, RunnerError};
use crate::{
    telemetry::RetrainingMetrics,
    trigger::desk::{Run, Runs},
};

/// Longer lines are logged in pieces.
const LINE_BYTES_MAX: u64 = 4 * 1024;

pub struct CommandRunner {
    /// Program and arguments; no shell reads them.
    argv: Vec<String>,
    /// Where it runs.
    folder: PathBuf,
    run_max: Duration,
    metrics: RetrainingMetrics,
    run: Option<JoinHandle<()>>,
    began_ms: Option<i64>,
}

impl CommandRunner {
    pub fn new(argv: Vec<String>, folder: PathBuf, run_max: Duration, metrics: RetrainingMetrics) -> Self {
        CommandRunner { argv, folder, run_max, metrics, run: None, began_ms: None }
    }

    pub fn runs(&self) -> Runs {
        Runs { running: self.run.as_ref().is_some_and(|run| !run.is_finished()), began_ms: self.began_ms }
    }

    pub fn start(&mut self, why: &str, now_ms: i64) -> Result<Begun, RunnerError> {
        let (program, arguments) = self.argv.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
        let mut command = Command::new(program);
        command.args(arguments).env(WHY_VARIABLE, why).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if !self.folder.as_os_str().is_empty() {
            command.current_dir(&self.folder);
        }
        let spawned = command.spawn();
        let child = spawned.map_err(|source| RunnerError::Spawn { program: program.into(), source })?;
        let name = child.id().map_or("unknown".into(), |id| id.to_string());
        self.began_ms = Some(now_ms);
        self.run = Some(tokio::spawn(follow(child, self.run_max, self.metrics.clone())));
        Ok(Begun { name: format!("process {name}"), began_ms: now_ms, by_another: false })
    }
}

/// At a stop. What it would have come to, the next one finds out.
impl Drop for CommandRunner {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            run.abort();
        }
    }
}

async fn follow(mut child: Child, run_max: Duration, metrics: RetrainingMetrics) {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = timeout(run_max, async { tokio::join!(log("stdout", out), log("stderr", err), child.wait()).2 }).await;
    match ended {
        Ok(Ok(status)) if status.success() => {
            metrics.run(Run::Succeeded);
            tracing::info!("the retraining has ended; the history of the model tells what came of it");
        }
        Ok(Ok(status)) => failed(&metrics, &told(status)),
        Ok(Err(error)) => failed(&metrics, &error.to_string()),
        // Dropped with this, which kills it.
        Err(_) => failed(&metrics, &format!("it was ended after {} s", run_max.as_secs())),
    }
}

fn failed(metrics: &RetrainingMetrics, reason: &str) {
    metrics.run(Run::Failed);
    tracing::error!(reason, "the retraining failed; the model in charge stays");
}

fn told(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

async fn log(stream: &'static str, from: Option<impl AsyncRead + Unpin>) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(1..) => tracing::info!(stream, line = String::from_utf8_lossy(&line).trim_end(), "retraining"),
            Ok(0) | Err(_) => return,
        }
    }
}
