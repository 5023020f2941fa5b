//! One training run, from the archive to the registry: the same for the command line and for the embedded factory.

use proto::{archive::Shard, asset::AssetId};

use crate::{
    dataset::{
        Dataset,
        archive::{self, ArchiveError, ReadProgress},
    },
    features::FeatureConfig,
    registry::{self, Decision, Entry, REPORT_FILE, RegistryError},
    store::Store,
    train::{Progress, TrainError, TrainSettings, Trained, train},
};

#[derive(Debug, Clone)]
pub struct TrainJob {
    pub name: AssetId,
    /// None: all of them.
    pub shard: Option<Shard>,
    pub features: FeatureConfig,
    pub settings: TrainSettings,
    /// Also when there is a champion already.
    pub promote: bool,
    /// Who runs it, and when (wall time).
    pub decision: Decision,
}

/// What a run is doing, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Reading(ReadProgress),
    /// Readings become features.
    Features {
        readings: usize,
    },
    Training(Progress),
}

#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the report can't be written: {0}")]
    Report(#[from] serde_json::Error),
    #[error("training was interrupted")]
    Interrupted,
}

/// Reads the archive, trains, publishes; promotes if asked to, or if nothing is in charge yet.
pub async fn run<F>(store: &Store, job: TrainJob, progress: F) -> Result<(Trained, Option<Entry>), JobError>
where
    F: FnMut(Step) + Send + 'static,
{
    let TrainJob { name, shard, features, settings, promote, decision } = job;
    let (dataset, mut progress) = dataset(store, shard, features, settings.horizon_ms(), progress).await?;
    let created_ms = decision.when_ms;
    let training = move || train(&dataset, &settings, created_ms, &mut |p| progress(Step::Training(p)));
    let trained = tokio::task::spawn_blocking(training).await.map_err(|_| JobError::Interrupted)??;
    let version = &trained.report.version;
    registry::publish(store, &name, version, trained.bytes.clone().into()).await?;
    let report = serde_json::to_vec_pretty(&trained.report)?;
    registry::publish_beside(store, &name, version, REPORT_FILE, report.into()).await?;
    let promoted = if promote || registry::champion(store, &name).await?.is_none() {
        Some(registry::promote(store, &name, version, decision).await?)
    } else {
        None
    };
    Ok((trained, promoted))
}

/// The archive as a dataset; gives `progress` back.
pub async fn dataset<F>(
    store: &Store,
    shard: Option<Shard>,
    features: FeatureConfig,
    horizon_ms: i64,
    mut progress: F,
) -> Result<(Dataset, F), JobError>
where
    F: FnMut(Step) + Send + 'static,
{
    let archive = archive::read(store, shard, &mut |p| progress(Step::Reading(p))).await?;
    progress(Step::Features { readings: archive.readings() });
    let derive = move || archive.into_dataset(&features, horizon_ms);
    let dataset = tokio::task::spawn_blocking(derive).await.map_err(|_| JobError::Interrupted)??;
    Ok((dataset, progress))
}
