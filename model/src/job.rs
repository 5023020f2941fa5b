//! One run, from the archive to the registry: the same for the command line, for the embedded factory and in a Job.

use proto::{archive::Shard, asset::AssetId, time::PlantTime};

use crate::{
    dataset::{
        Dataset,
        archive::{self, ArchiveError, LeftOut, ReadProgress, Scope},
    },
    drift::ReferenceError,
    features::FeatureConfig,
    gate::{GateError, Verdict, golden::Golden},
    registry::{self, COMPARISON_FILE, Decision, Entry, REPORT_FILE, RegistryError, WATCH_FILE, canary},
    retrain::{self, RetrainSettings, Retrained},
    store::Store,
    train::{Progress, TrainError, TrainSettings, Trained, train},
    trial::{Trial, divides},
    watch::WatchReference,
};

/// In the history, of a challenger that was refused before it was trained.
const UNTRAINED: &str = "none";

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
        left_out: Option<LeftOut>,
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
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Watch(#[from] ReferenceError),
    #[error("no version is in charge: train the first one")]
    NothingInCharge,
    #[error("training was interrupted")]
    Interrupted,
}

/// Reads the archive, trains, publishes; promotes if asked to, or if nothing is in charge yet. The first version's unseen
/// windows are frozen as the golden set; later ones never learn from it.
pub async fn run<F>(store: &Store, job: TrainJob, progress: F) -> Result<(Trained, Option<Entry>), JobError>
where
    F: FnMut(Step) + Send + 'static,
{
    let TrainJob { name, shard, features, settings, promote, decision } = job;
    let scope = Scope { shard, days: None };
    let Loaded { dataset, mut progress, .. } = load(store, scope, features, settings.horizon_ms(), progress).await?;
    let created_ms = decision.when_ms;
    let champion = registry::champion(store, &name).await?;
    let is_first = champion.is_none();
    let frozen = match &champion {
        Some(entry) => registry::frozen(store, &name, &entry.version).await?,
        None => None,
    };
    let training = move || {
        let trained = learn(&dataset, frozen.as_ref(), &settings, created_ms, &mut |p| progress(Step::Training(p)))?;
        let golden = if is_first { Golden::freeze(&dataset, &trained.artifact) } else { None };
        let watch = WatchReference::of(&dataset, &trained.artifact);
        Ok::<_, TrainError>((trained, golden, watch))
    };
    let (trained, golden, watch) = tokio::task::spawn_blocking(training).await.map_err(|_| JobError::Interrupted)??;
    publish(store, &name, &trained, &watch).await?;
    if let Some(golden) = golden {
        registry::freeze(store, &name, &golden).await?;
    }
    let version = &trained.report.version;
    let promoted = match promote || is_first {
        true => Some(registry::promote(store, &name, version, decision).await?),
        false => None,
    };
    Ok((trained, promoted))
}

/// From all that is not frozen: what every version is held against none may have seen.
fn learn(
    dataset: &Dataset,
    frozen: Option<&Golden>,
    settings: &TrainSettings,
    created_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, TrainError> {
    let frozen = frozen.filter(|golden| golden.fits(&dataset.config, dataset.horizon_ms));
    match frozen.map(|golden| golden.leave_out(dataset)) {
        Some(rest) => train(&rest, settings, created_ms, progress),
        None => train(dataset, settings, created_ms, progress),
    }
}

#[derive(Debug, Clone)]
pub struct RetrainJob {
    pub name: AssetId,
    /// None: all of them.
    pub shard: Option<Shard>,
    pub train: TrainSettings,
    pub settings: RetrainSettings,
    /// Plant time; none: nobody knows how old the archive's newest reading is.
    pub now: Option<PlantTime>,
    /// Who runs it, why, and when (wall time).
    pub decision: Decision,
    /// A version that passes the gate is left to a person.
    pub hold: bool,
}

#[derive(Debug)]
pub struct Outcome {
    pub retrained: Retrained,
    /// As it stands in the history; none: nothing was decided, everybody waits, or a person decides.
    pub decided: Option<Entry>,
}

/// Reads the archive, trains a challenger, holds it against the version in charge, and puts it on trial beside that one or
/// refuses it, with the reason in the history. Where the share of a trial holds no machine, or all, it is promoted at once.
/// Both only over the version that it was compared with, and not while another one is on trial.
pub async fn retrain<F>(store: &Store, job: RetrainJob, progress: F) -> Result<Outcome, JobError>
where
    F: FnMut(Step) + Send + 'static,
{
    let RetrainJob { name, shard, train, settings, now, decision, hold } = job;
    let before = registry::champion(store, &name).await?.ok_or(JobError::NothingInCharge)?;
    if let Some(canary) = &before.canary {
        let reason = format!("{} is on trial", canary.trial.version);
        return Ok(Outcome { retrained: Retrained::waits(reason), decided: None });
    }
    let champion = registry::load(store, &name, &before.version).await?.into_model();
    let frozen = registry::frozen(store, &name, &before.version).await?;
    let features = champion.config.clone();
    let scope = Scope { shard, days: Some(settings.window_days) };
    let Loaded { dataset, newest, mut progress } = load(store, scope, features, train.horizon_ms(), progress).await?;
    let created_ms = decision.when_ms;
    let work = move || {
        // A registry from before there were golden sets gets its own now.
        let fresh = if frozen.is_none() { Golden::freeze(&dataset, &champion) } else { None };
        let golden = frozen.as_ref().or(fresh.as_ref());
        let age_ms = now.map(|now| now.millis().saturating_sub(newest.millis()));
        let told = &mut |p| progress(Step::Training(p));
        let retrained = retrain::retrain(&dataset, &champion, golden, age_ms, (&train, &settings), created_ms, told)?;
        let learnt = retrained.trained.as_ref().zip(retrained.windows.as_ref());
        let watch = learnt.map(|(t, windows)| WatchReference::of(&dataset.since(windows.from), &t.artifact));
        let next = next_golden(&retrained, &dataset, frozen);
        let divides = divides(settings.canary.share, dataset.machines.iter().map(|machine| &machine.name));
        Ok::<_, GateError>((retrained, fresh, watch, next, divides))
    };
    let (mut retrained, fresh, watch, next, divides) =
        tokio::task::spawn_blocking(work).await.map_err(|_| JobError::Interrupted)??;
    if let Some(golden) = fresh {
        registry::freeze(store, &name, &golden).await?;
    }
    let version = retrained.trained.as_ref().map_or(UNTRAINED.into(), |t| t.report.version.clone());
    let taken_back = registry::history::was_taken_back(&registry::history(store, &name).await?, &version);
    if taken_back && retrained.verdict == Verdict::Promote {
        retrained.verdict = Verdict::Refuse(vec!["it was in charge before and was taken back".into()]);
    }
    if let (Some(trained), Some(watch)) = (&retrained.trained, &watch) {
        if let Some(golden) = next {
            registry::freeze_beside(store, &name, &version, &golden).await?;
        }
        publish(store, &name, trained, watch).await?;
    }
    if let Some(comparison) = &retrained.comparison {
        let json = serde_json::to_vec_pretty(comparison)?;
        registry::publish_beside(store, &name, &version, COMPARISON_FILE, json.into()).await?;
    }
    let decision = Decision { why: format!("{}; {}", decision.why, retrained.text()), ..decision };
    let over = before.version.as_str();
    let decided = match retrained.verdict {
        Verdict::Promote if hold => None,
        Verdict::Promote if divides => {
            let (trial, hours) = (Trial { version, share: settings.canary.share }, settings.canary.probation_hours);
            Some(canary::try_beside(store, &name, trial, Some(hours), Some(over), decision).await?)
        }
        Verdict::Promote => Some(registry::promote_over(store, &name, &version, over, decision).await?),
        Verdict::Refuse(_) => Some(registry::refuse(store, &name, &version, decision).await?),
        Verdict::Wait(_) => None,
    };
    Ok(Outcome { retrained, decided })
}

/// What the challengers of the new version will be held against: what it was held against itself, or, where the plant has
/// changed, what it has not seen of the plant as it is now.
fn next_golden(retrained: &Retrained, dataset: &Dataset, frozen: Option<Golden>) -> Option<Golden> {
    let trained = retrained.trained.as_ref().filter(|_| retrained.verdict == Verdict::Promote)?;
    let changed = retrained.comparison.as_ref().is_some_and(|comparison| !comparison.drifted.is_empty());
    let own = if changed { Golden::freeze(dataset, &trained.artifact) } else { None };
    own.or(frozen)
}

/// The artefact last: what lies beside it is there when somebody can load it.
async fn publish(store: &Store, name: &AssetId, trained: &Trained, watch: &WatchReference) -> Result<(), JobError> {
    let version = &trained.report.version;
    let report = serde_json::to_vec_pretty(&trained.report)?;
    registry::publish_beside(store, name, version, REPORT_FILE, report.into()).await?;
    registry::publish_beside(store, name, version, WATCH_FILE, watch.encode()?.into()).await?;
    Ok(registry::publish(store, name, version, trained.bytes.clone().into()).await?)
}

/// The archive as a dataset.
pub struct Loaded<F> {
    pub dataset: Dataset,
    /// Plant time of the newest reading.
    pub newest: PlantTime,
    /// As it was given.
    pub progress: F,
}

pub async fn load<F>(
    store: &Store,
    scope: Scope,
    features: FeatureConfig,
    horizon_ms: i64,
    mut progress: F,
) -> Result<Loaded<F>, JobError>
where
    F: FnMut(Step) + Send + 'static,
{
    let archive = archive::read(store, scope, &mut |p| progress(Step::Reading(p))).await?;
    progress(Step::Features { readings: archive.readings(), left_out: archive.left_out() });
    let newest = archive.newest();
    let derive = move || archive.into_dataset(&features, horizon_ms);
    let dataset = tokio::task::spawn_blocking(derive).await.map_err(|_| JobError::Interrupted)??;
    Ok(Loaded { dataset, newest, progress })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    #[test]
    fn no_later_version_learns_from_the_golden_set() {
        let settings = TrainSettings { horizon_hours: 12.0, epochs_max: 1, ..TrainSettings::default() };
        let learnt = |dataset: &Dataset, frozen: Option<&Golden>| {
            learn(dataset, frozen, &settings, 0, &mut |_| {}).unwrap().artifact
        };
        let early = synthetic::xor_plant(3, 6, 40);
        let first = learnt(&early, None);
        let golden = Golden::freeze(&early, &first).unwrap();
        let later = synthetic::xor_plant(3, 6, 70);
        let second = learnt(&later, Some(&golden));
        assert_eq!(second.origin.data_sha256, golden.leave_out(&later).sha256());
        assert_ne!(second.origin.data_sha256, later.sha256(), "the golden set is among the later windows");
        // One of another horizon can't be held against it.
        let mut other = later.clone();
        other.horizon_ms *= 2;
        assert_eq!(learnt(&other, Some(&golden)).origin.data_sha256, other.sha256());
    }
}
