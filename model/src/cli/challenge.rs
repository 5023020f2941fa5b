//! Compare and retrain: a challenger against the version in charge.

use clap::Args;
use proto::{
    archive::Shard,
    asset::AssetId,
    time::{PlantTime, wall_now_ms},
};

use super::{Failure, WHY_VARIABLE, decision, decisions::on_trial, nothing_promoted, say, show_progress};
use crate::{
    artifact::Artifact,
    config::ModelConfig,
    dataset::archive::Scope,
    gate::{self, Circumstances, Comparison, GateError, Verdict},
    job::{self, RetrainJob, TrainJob},
    registry,
    store::Store,
    watch::plant_change,
};

/// Exit codes of `compare`, for scripts: 0 is "promote".
const REFUSED: u8 = 3;
const WAITS: u8 = 4;

#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// The version that wants to be in charge.
    challenger: String,
    /// Instead of the version in charge.
    #[arg(long)]
    champion: Option<String>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Retrain {
    #[arg(long)]
    seed: Option<u64>,
    /// Kept in the history.
    #[arg(long, env = WHY_VARIABLE, default_value = "by hand")]
    why: String,
    /// Leaves a version that passes the gate to a person (`model promote`). Exit code 0: it passes, 3: refused, 4: wait.
    #[arg(long)]
    hold: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) async fn compare(
    store: &Store,
    name: &AssetId,
    shard: Option<Shard>,
    config: ModelConfig,
    command: Compare,
) -> Result<(), Failure> {
    let challenger = registry::load(store, name, &command.challenger).await?.into_model();
    let champion = match &command.champion {
        Some(version) => registry::load(store, name, version).await?,
        None => {
            let champion = registry::load_champion(store, name).await?;
            champion.ok_or_else(|| Failure::Run(nothing_promoted(name).into()))?
        }
    };
    // What chose it among others is no slice to judge it on.
    let chosen_until = registry::compared(store, name, &command.challenger).await?.map(|comparison| comparison.from);
    let comparison = held_against(store, name, shard, config, champion.into_model(), challenger, chosen_until).await?;
    if command.json {
        say(&serde_json::to_string_pretty(&comparison)?)?;
    } else {
        say(&comparison.to_string())?;
    }
    as_exit_code(&comparison.verdict)
}

async fn held_against(
    store: &Store,
    name: &AssetId,
    shard: Option<Shard>,
    config: ModelConfig,
    champion: Artifact,
    challenger: Artifact,
    chosen_until: Option<PlantTime>,
) -> Result<Comparison, Failure> {
    let version = champion.version()?;
    let golden = registry::frozen(store, name, &version).await?;
    let (features, horizon_ms) = (challenger.config.clone(), challenger.horizon_ms);
    let dataset = job::load(store, Scope { shard, days: None }, features, horizon_ms, show_progress()).await?.dataset;
    let work = move || {
        let golden = golden.filter(|golden| golden.fits(&dataset.config, dataset.horizon_ms));
        let latency_us = gate::latency_us(&challenger, &dataset);
        let settings = &config.retrain.gate;
        let drifted = plant_change(&dataset, &champion).drifted;
        let chosen_until = chosen_until.unwrap_or(PlantTime::MIN);
        let circumstances = Circumstances { golden: golden.as_ref(), drifted, chosen_until };
        gate::compare(&dataset, &champion, &challenger, circumstances, latency_us, settings)
    };
    tokio::task::spawn_blocking(work).await?.map_err(|e: GateError| Failure::Run(e.into()))
}

/// Where nothing is in charge yet it trains the first version. Whatever was decided is a success: the history tells; but a
/// script that holds the version back is told by the exit code.
pub(super) async fn retrain(
    store: &Store,
    name: AssetId,
    shard: Option<Shard>,
    config: ModelConfig,
    who: &str,
    command: Retrain,
) -> Result<(), Failure> {
    let ModelConfig { mut train, retrain: settings, features, .. } = config;
    train.seed = command.seed.unwrap_or(train.seed);
    let decision = decision(who, &command.why);
    if registry::champion(store, &name).await?.is_none() {
        let job = TrainJob { name: name.clone(), shard, features, settings: train, promote: false, decision };
        if !command.json {
            return super::train(store, job).await;
        }
        let (trained, _) = job::run(store, job, show_progress()).await?;
        let told = serde_json::json!({ "name": name, "version": trained.report.version, "verdict": "first" });
        return say(&serde_json::to_string_pretty(&told)?);
    }
    // A real plant's time is the wall's.
    let now = Some(PlantTime(wall_now_ms()));
    let hold = command.hold;
    let job = RetrainJob { name: name.clone(), shard, train, settings, now, decision, hold };
    let outcome = job::retrain(store, job, show_progress()).await?;
    let retrained = outcome.retrained;
    if command.json {
        let version = retrained.trained.as_ref().map(|t| &t.report.version);
        let told = serde_json::json!({
            "name": name, "version": version, "verdict": retrained.verdict, "text": retrained.text(),
            "comparison": retrained.comparison, "table": retrained.comparison.as_ref().map(|c| c.to_string()),
        });
        say(&serde_json::to_string_pretty(&told)?)?;
    } else {
        if let Some(trained) = &retrained.trained {
            say(&format!("{name} {}: {} rows", trained.report.version, trained.report.rows.sampled))?;
        }
        match &retrained.comparison {
            Some(comparison) => say(&comparison.to_string())?,
            None => say(&retrained.text())?,
        }
        if let Some(canary) = outcome.decided.and_then(|entry| entry.canary) {
            say(&on_trial(&canary))?;
        }
    }
    if hold { as_exit_code(&retrained.verdict) } else { Ok(()) }
}

fn as_exit_code(verdict: &Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Promote => Ok(()),
        Verdict::Refuse(_) => Err(Failure::Told(REFUSED)),
        Verdict::Wait(_) => Err(Failure::Told(WAITS)),
    }
}
