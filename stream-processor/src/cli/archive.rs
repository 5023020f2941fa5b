//! `archive files | symlinks | verify | compact`.

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use model::{
    config::ModelConfig,
    store::{Store, listing::shards},
};
use proto::{
    archive::{Shard, Table},
    time::wall_now_ms,
};

use super::{EXIT_CONFIG, EXIT_FAILED, fail};
use crate::{
    archive::{
        compact::{self, plan::CompactSettings},
        files::{Filter, Format, files, symlinks},
        verify::{Depth, verify},
    },
    telemetry,
};

const MIB_BITS: u32 = 20;
const HOUR_MS: i64 = 3_600_000;

#[derive(Debug, Args)]
pub struct ArchiveArgs {
    #[command(subcommand)]
    command: Command,
    /// The processor's configuration; of it only [s3] is used
    #[arg(long, global = true, value_name = "FILE", default_value = "processor.toml")]
    config: PathBuf,
    /// Only this shard; all unless given
    #[arg(long, global = true)]
    shard: Option<Shard>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the objects that count, and no others
    Files {
        /// readings, features, predictions, alerts, events, births, gaps, dead-letter; all unless given
        #[arg(value_parser = table)]
        tables: Vec<Table>,
        #[arg(long, value_enum, default_value_t = Format::Keys)]
        format: Format,
        #[command(flatten)]
        filter: Filter,
    },
    /// Write the lists that Athena, Trino and Spark read, one for each partition
    Symlinks {
        /// All unless given
        #[arg(value_parser = table)]
        tables: Vec<Table>,
    },
    /// Check manifests, records and objects; ends with 1 and names each fault if anything is wrong
    Verify {
        /// Only that the objects are there in their size: nothing is downloaded
        #[arg(long)]
        sizes_only: bool,
        #[command(flatten)]
        scratch: Scratch,
    },
    /// Merge small files, delete what was replaced before, sweep orphans, write a checkpoint
    Compact {
        /// A merged file has at least this size where there is so much, and at most one and a half times as much
        #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=256))]
        target_mib: u64,
        /// Fewer small files in a partition stay as they are
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..))]
        files_min: u16,
        /// Younger files, by the wall time of their commit, stay as they are
        #[arg(long, default_value_t = 24)]
        older_than_hours: u32,
        /// Replaced files are deleted by the first run after so long; readers may use an older list until then
        #[arg(long, default_value_t = 24)]
        grace_hours: u32,
        #[command(flatten)]
        scratch: Scratch,
    },
}

#[derive(Debug, Args)]
struct Scratch {
    /// Folder for downloads, up to three times the target size; the system's own for temporary files unless given
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
}

impl Scratch {
    fn folder(self) -> PathBuf {
        self.scratch.unwrap_or_else(std::env::temp_dir)
    }
}

fn table(text: &str) -> Result<Table, String> {
    let found = Table::ALL.into_iter().find(|t| t.folder() == text);
    found.ok_or_else(|| format!("one of {}", Table::ALL.map(Table::folder).join(", ")))
}

pub async fn run(args: ArchiveArgs) -> ExitCode {
    telemetry::init_logs("warn");
    let store = match open(&args.config).await {
        Ok(store) => store,
        Err(e) => return fail(&format!("{e:#}"), EXIT_CONFIG),
    };
    match execute(args.command, &store, args.shard).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}"), EXIT_FAILED),
    }
}

/// Of a configuration only [s3] is used.
pub async fn open(config: &Path) -> anyhow::Result<Store> {
    let s3 = ModelConfig::load(config)?.s3;
    let s3 = s3.ok_or_else(|| anyhow!("{}: there is no section [s3]", config.display()))?;
    Ok(Store::open(&s3).await?)
}

async fn execute(command: Command, store: &Store, shard: Option<Shard>) -> anyhow::Result<()> {
    let or_all = |tables: Vec<Table>| if tables.is_empty() { Table::ALL.to_vec() } else { tables };
    match command {
        Command::Files { tables, format, filter } => {
            let lines = files(store, shard, &or_all(tables), &filter, format, store.bucket()).await?;
            print(&lines)
        }
        Command::Symlinks { tables } => {
            let count = symlinks(store, shard, &or_all(tables), store.bucket()).await?;
            print(&format!("{count} partitions\n"))
        }
        Command::Verify { sizes_only, scratch } => {
            let depth = if sizes_only { Depth::Sizes } else { Depth::Content };
            let folder = tempfile::tempdir_in(scratch.folder())?;
            let mut faults = 0;
            for shard in shards(store, shard).await? {
                let verified = verify(store, shard, depth, folder.path()).await?;
                for fault in &verified.faults {
                    print(&format!("shard {shard}: {fault}\n"))?;
                }
                print(&format!("shard {shard}: {verified}\n"))?;
                faults += verified.faults_all;
            }
            if faults > 0 { bail!("the archive is not what it says") } else { Ok(()) }
        }
        Command::Compact { target_mib, files_min, older_than_hours, grace_hours, scratch } => {
            let settings = CompactSettings {
                target_bytes: target_mib << MIB_BITS,
                files_min: files_min.into(),
                age_ms: i64::from(older_than_hours) * HOUR_MS,
                grace_ms: i64::from(grace_hours) * HOUR_MS,
            };
            let folder = scratch.folder();
            for shard in shards(store, shard).await? {
                let report = compact::run(store, shard, &settings, &folder, wall_now_ms()).await?;
                print(&format!("shard {shard}: {report}\n"))?;
            }
            Ok(())
        }
    }
}

/// To standard output. A reader that has seen enough closes the pipe: then the rest is not wanted.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
