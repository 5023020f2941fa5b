//! `model import | train | retrain | evaluate | compare | promote | rollback | show | history | benchmark`, and the same as
//! `stream-processor model ...`.

mod challenge;
mod decisions;

use std::{
    error::Error,
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use proto::{archive::Shard, asset::AssetId, config::ConfigError, time::wall_now_ms};

use decisions::Decisions;

use crate::{
    artifact::Artifact,
    benchmark,
    config::{DEFAULT_NAME, ModelConfig, read, read_at_most},
    dataset::archive::Scope,
    evaluate::{evaluate, truth::Truth},
    features::FeatureConfig,
    import::{
        Imported, import,
        mapping::{MAPPING_BYTES_MAX, Mapping},
    },
    job::{self, Step, TrainJob},
    registry::{self, Decision},
    settings::TrainSettings,
    store::{S3Config, Store},
    train::search::{self, TRIALS_MAX, Trial},
};

/// By which whoever starts a retraining says why.
pub const WHY_VARIABLE: &str = "MILLWRIGHT_WHY";
/// A truth file larger than this is not one of ours.
const TRUTH_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    command: Command,
    /// The processor's configuration, or one of its own: [s3], [features], [model], [train], [retrain].
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// S3 endpoint instead of the configuration's.
    #[arg(long, global = true)]
    endpoint: Option<String>,
    /// Bucket instead of the configuration's.
    #[arg(long, global = true)]
    bucket: Option<String>,
    /// Name of the model in the registry.
    #[arg(long, global = true)]
    name: Option<AssetId>,
    /// Only this shard of the archive.
    #[arg(long, global = true)]
    shard: Option<Shard>,
    /// Who decides, for the history.
    #[arg(long, global = true, env = "USER", hide_env_values = true, default_value = "unknown")]
    who: String,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    #[command(flatten)]
    OnArchive(OnArchive),
    /// Measures the network beside baselines on public data sets; needs no bucket.
    Benchmark {
        which: benchmark::Name,
        /// Folder of the data sets; the README says where to get each.
        #[arg(long)]
        data: PathBuf,
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// Settings of the network in a file instead of the defaults.
        #[arg(long)]
        settings: Option<PathBuf>,
        /// Also with settings that are chosen inside the training part: some times as long.
        #[arg(long)]
        tuned: bool,
        /// Compares with what references said too: a folder of sheets and the answers of reference.py.
        #[arg(long)]
        references: Option<PathBuf>,
        /// Measures nothing, and writes the sheets that references learn from into this folder.
        #[arg(long, conflicts_with_all = ["settings", "tuned", "references", "json"])]
        sheets: Option<PathBuf>,
        /// Writes all figures here too.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

/// What needs a bucket.
#[derive(Debug, Clone, Subcommand)]
enum OnArchive {
    /// Trains on the archive and publishes; the first version of a name is put in charge.
    Train {
        /// Puts the new version in charge even if there is one already.
        #[arg(long)]
        promote: bool,
        #[arg(long)]
        seed: Option<u64>,
        /// Settings of training in a file of their own instead of the configuration's [train].
        #[arg(long)]
        settings: Option<PathBuf>,
        /// Searches the settings first, with so many trials inside the training slice, and trains with the best.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=TRIALS_MAX as u64))]
        trials: Option<u64>,
        /// Writes the settings that were trained with to this file, as --settings reads it.
        #[arg(long)]
        write_settings: Option<PathBuf>,
    },
    /// Measures a version on what was archived after all that it was made with, beside baselines.
    Evaluate {
        /// The one in charge unless given.
        #[arg(long)]
        version: Option<String>,
        /// Wear of a simulated plant: {"machine", "mode", "time", "share"} per line, time in ms at the ends of windows.
        #[arg(long)]
        truth: Option<PathBuf>,
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Trains a challenger, holds it against the version in charge, and puts it on trial if it passes the gate.
    Retrain(challenge::Retrain),
    /// Holds a published version against the one in charge. Exit code 0: it passes the gate, 3: refused, 4: wait.
    Compare(challenge::Compare),
    #[command(flatten)]
    Decisions(Decisions),
    /// Brings foreign CSV files into an archive that is empty, with a mapping of their columns.
    Import {
        /// What the columns mean; see model/benchmarks for examples.
        #[arg(long)]
        mapping: PathBuf,
        /// Folder that the mapping's file names begin at.
        #[arg(long)]
        data: PathBuf,
    },
}

enum Failure {
    /// Found before anything was opened.
    Config(String),
    Run(Box<dyn Error + Send + Sync>),
    /// It ran, and has said what it found; the exit code says it to scripts.
    Told(u8),
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Run(Box::new(error))
    }
}

/// Exit code 2: the configuration is wrong; 1: anything else went wrong. One line says what.
pub async fn run(args: ModelArgs) -> ExitCode {
    match execute(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(reason)) => {
            eprintln!("{reason}");
            ExitCode::from(2)
        }
        Err(Failure::Told(code)) => ExitCode::from(code),
        Err(Failure::Run(error)) => {
            eprintln!("{}", one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The error and what caused it, unless it says so itself.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

async fn execute(args: ModelArgs) -> Result<(), Failure> {
    let config = configuration(&args)?;
    let command = match args.command {
        Command::Benchmark { which, data, seed, sheets: Some(folder), .. } => {
            return Ok(benchmark::write_sheets(which, &data, seed, &folder).await?);
        }
        Command::Benchmark { which, data, seed, settings, tuned, references, json, .. } => {
            let settings = TrainSettings { seed, ..settings.map(read_settings).transpose()?.unwrap_or_default() };
            return measure(which, &data, benchmark::Options { settings, tuned, references }, json).await;
        }
        Command::OnArchive(command) => command,
    };
    let s3 = config.s3.as_ref().ok_or_else(|| {
        Failure::Config("no bucket: give --config FILE with an [s3] section, or --bucket NAME".to_owned())
    })?;
    let store = Store::open(s3).await.map_err(|e| Failure::Config(e.to_string()))?;
    let named = args.name.clone().or_else(|| config.model.name.clone());
    let name = match named {
        Some(name) => name,
        None => AssetId::new(DEFAULT_NAME)?,
    };
    let shard = args.shard;
    match command {
        OnArchive::Train { promote, seed, settings, trials, write_settings } => {
            let mut settings = settings.map(read_settings).transpose()?.unwrap_or(config.train);
            settings.seed = seed.unwrap_or(settings.seed);
            if let Some(trials) = trials {
                settings = search(&store, shard, &config.features, settings, trials as usize).await?;
            }
            if let Some(path) = write_settings {
                fs::write(&path, toml::to_string(&settings)?)?;
            }
            let decision = decision(&args.who, "first training, or asked for with --promote");
            let job = TrainJob { name, shard, features: config.features, settings, promote, decision };
            train(&store, job).await
        }
        OnArchive::Evaluate { version, truth, json } => {
            let truth = truth.map(read_truth).transpose()?;
            let scorer = match version {
                Some(version) => Some(registry::load(&store, &name, &version).await?),
                None => registry::load_champion(&store, &name).await?,
            };
            let model = scorer.ok_or_else(|| Failure::Run(nothing_promoted(&name).into()))?.into_model();
            report(&store, shard, model, truth, json).await
        }
        OnArchive::Retrain(command) => challenge::retrain(&store, name, shard, config, &args.who, command).await,
        OnArchive::Compare(command) => challenge::compare(&store, &name, shard, config, command).await,
        OnArchive::Decisions(command) => decisions::carry_out(&store, &name, &args.who, command).await,
        OnArchive::Import { mapping, data } => import_files(&store, &mapping, &data).await,
    }
}

async fn measure(
    which: benchmark::Name,
    data: &Path,
    options: benchmark::Options,
    json: Option<PathBuf>,
) -> Result<(), Failure> {
    let mut unread = None;
    let mut tell = |report: &benchmark::Report| unread = say(&report.to_string()).err();
    let reports = benchmark::run(which, data, &options, &mut tell).await?;
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&reports)?)?;
    }
    unread.map_or(Ok(()), Err)
}

async fn import_files(store: &Store, mapping: &Path, data: &Path) -> Result<(), Failure> {
    let (file, text) = read_at_most(mapping, MAPPING_BYTES_MAX).map_err(wrong)?;
    let mapping = Mapping::parse(&file, &text).map_err(|e| Failure::Config(e.to_string()))?;
    let Imported { readings, events, machines, commits_found } =
        import(store, &mapping, &text, data, wall_now_ms()).await?;
    let before = if commits_found > 0 { "; a part was there from an earlier try" } else { "" };
    say(&format!("{readings} readings and {events} events of {machines} machines are in the archive{before}"))
}

async fn train(store: &Store, job: TrainJob) -> Result<(), Failure> {
    let name = job.name.clone();
    let (trained, promoted) = job::run(store, job, show_progress()).await?;
    let report = trained.report;
    for refused in &report.refused {
        say(&format!("left to the rules: {refused}"))?;
    }
    for (m, head) in report.metrics.iter().zip(&report.heads) {
        let calibrated = if head.calibrated { "" } else { "; not calibrated: too few failures" };
        say(&format!("{}: average precision {:.3} on the test slice{calibrated}", m.mode, m.average_precision))?;
    }
    let rows = report.rows;
    say(&format!("{name} {}: {} of {} rows, {} epochs", report.version, rows.sampled, rows.train, report.epochs))?;
    match promoted {
        Some(champion) => say(&format!("in charge; before it {}", before(&champion.previous))),
        None => say("published; another version stays in charge (--promote changes that)"),
    }
}

/// The best settings of so many trials, each of which is told.
async fn search(
    store: &Store,
    shard: Option<Shard>,
    features: &FeatureConfig,
    given: TrainSettings,
    trials: usize,
) -> Result<TrainSettings, Failure> {
    let loaded =
        job::load(store, Scope { shard, days: None }, features.clone(), given.horizon_ms(), show_progress()).await?;
    let dataset = loaded.dataset;
    let searching = move || {
        let mut tell = |trial: &Trial| {
            let TrainSettings { hidden, members, bins, learning_rate, dropout, .. } = &trial.settings;
            eprintln!(
                "trial {}: average precision {:.3} by hidden {hidden:?}, {members} members, {bins} bins, rate {learning_rate:.1e}, dropout {dropout}",
                trial.number, trial.score
            );
        };
        search::search(&dataset, &given, trials, &mut tell)
    };
    Ok(tokio::task::spawn_blocking(searching).await??)
}

async fn report(
    store: &Store,
    shard: Option<Shard>,
    model: Artifact,
    truth: Option<Truth>,
    json: bool,
) -> Result<(), Failure> {
    let (features, horizon_ms) = (model.config.clone(), model.horizon_ms);
    let dataset = job::load(store, Scope { shard, days: None }, features, horizon_ms, show_progress()).await?.dataset;
    let measure = move || evaluate(&dataset, &model, truth.as_ref());
    let evaluation = tokio::task::spawn_blocking(measure).await??;
    if json { say(&serde_json::to_string_pretty(&evaluation)?) } else { say(&evaluation.to_string()) }
}

fn configuration(args: &ModelArgs) -> Result<ModelConfig, Failure> {
    let mut config = match &args.config {
        Some(path) => ModelConfig::load(path).map_err(wrong)?,
        None => ModelConfig::default(),
    };
    if let (None, Some(bucket)) = (&config.s3, &args.bucket) {
        let section = format!("bucket = {bucket:?}\npath_style = {}", args.endpoint.is_some());
        config.s3 = Some(proto::config::parse::<S3Config>("--bucket", &section).map_err(wrong)?);
    }
    if let Some(s3) = &mut config.s3 {
        s3.endpoint = args.endpoint.clone().or(s3.endpoint.take());
        s3.bucket = args.bucket.clone().unwrap_or_else(|| s3.bucket.clone());
    }
    Ok(config)
}

fn read_settings(path: PathBuf) -> Result<TrainSettings, Failure> {
    let (name, text) = read(&path).map_err(wrong)?;
    TrainSettings::parse(&name, &text).map_err(wrong)
}

fn read_truth(path: PathBuf) -> Result<Truth, Failure> {
    let (name, text) = read_at_most(&path, TRUTH_BYTES_MAX).map_err(wrong)?;
    Truth::parse(&text).map_err(|e| Failure::Config(format!("{name}: {e}")))
}

fn wrong(error: ConfigError) -> Failure {
    Failure::Config(error.to_string())
}

fn decision(who: &str, why: &str) -> Decision {
    Decision { who: who.into(), why: why.into(), when_ms: wall_now_ms() }
}

fn nothing_promoted(name: &AssetId) -> String {
    format!("no version of {name} was ever put in charge; `model train` trains the first")
}

fn before(previous: &Option<String>) -> &str {
    previous.as_deref().unwrap_or("none")
}

/// Unlike `println!`, an error when nobody reads any more.
fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// One line on a terminal, overwritten; nothing otherwise.
fn show_progress() -> impl FnMut(Step) + Send + 'static {
    let terminal = std::io::stderr().is_terminal();
    move |step| {
        if terminal {
            eprint!("\r\x1b[2K{}", progress_line(step));
        }
        if let Step::Features { left_out: Some(left_out), .. } = step {
            eprintln!("{}{left_out}", if terminal { "\n" } else { "" });
        }
    }
}

fn progress_line(step: Step) -> String {
    match step {
        Step::Reading(p) => format!("reading the archive: {} of {} objects", p.objects, p.objects_all),
        Step::Features { readings, .. } => format!("features from {readings} readings ..."),
        Step::Training(p) => {
            format!("training: epoch {} of {}, average precision {:.3}", p.epoch, p.epochs_max, p.average_precision)
        }
    }
}
