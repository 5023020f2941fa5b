//! Who runs a retraining: a program on this machine, or a Job in the cluster.

pub mod command;
pub mod cluster;
pub mod job;

use super::desk::Runs;
use cluster::ClusterError;
use command::CommandRunner;
use job::JobRunner;

pub enum Runner {
    Command(CommandRunner),
    Job(JobRunner),
}

/// A run that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Process or Job.
    pub name: String,
    /// Wall time, by whoever started it.
    pub began_ms: i64,
    /// Another one was faster, with the same run.
    pub by_another: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("{program}: {source}")]
    Spawn { program: String, source: std::io::Error },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the CronJob {0} has no `spec.jobTemplate` to make a Job of")]
    NoTemplate(String),
    #[error("there are more Jobs in the namespace than can be looked through")]
    TooManyJobs,
}

impl Runner {
    /// What has run.
    pub async fn runs(&self) -> Result<Runs, RunnerError> {
        match self {
            Runner::Command(command) => Ok(command.runs()),
            Runner::Job(job) => job.runs().await,
        }
    }

    /// Begins a run and does not wait for its end.
    pub async fn start(&mut self, why: &str, now_ms: i64) -> Result<Begun, RunnerError> {
        match self {
            Runner::Command(command) => command.start(why, now_ms),
            Runner::Job(job) => job.start(why, now_ms).await,
        }
    }
}
