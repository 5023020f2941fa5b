//! `shard list | split | merge`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use model::store::{
    Store,
    manifests::{newest_layout, newest_number, read_manifest},
};
use proto::archive::{
    Shard,
    shards::{Layout, ShardSlots, Slots},
};

use super::{
    EXIT_CONFIG, EXIT_FAILED,
    archive::{open, print},
    fail,
};
use crate::{
    archive::{reshard::work::change, text},
    stream::shards::carve,
    telemetry,
};

/// In manifests that this command writes.
const OWNER: &str = "shard-command";

#[derive(Debug, Args)]
pub struct ShardArgs {
    #[command(subcommand)]
    command: Command,
    /// The processor's configuration; of it only [s3] is used
    #[arg(long, global = true, value_name = "FILE", default_value = "processor.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every shard that there ever was, with its slots and its newest manifest
    List,
    /// Divide one shard. Its processor stops with exit code 4; start one for each new shard. If the command is interrupted,
    /// give it again, or start those
    Split {
        #[arg(long)]
        from: Shard,
        /// Numbers that were never used, as 1,2,3,4; each gets about as many slots, or those that are named: 1=0-47,2=48-63
        #[arg(long)]
        into: String,
    },
    /// Put several shards together; as for split
    Merge {
        #[arg(long, value_delimiter = ',', required = true)]
        from: Vec<Shard>,
        /// A number that was never used
        #[arg(long)]
        into: Shard,
    },
}

pub async fn run(args: ShardArgs) -> ExitCode {
    telemetry::init_logs("warn");
    let store = match open(&args.config).await {
        Ok(store) => store,
        Err(e) => return fail(&format!("{e:#}"), EXIT_CONFIG),
    };
    match execute(args.command, &store).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}"), EXIT_FAILED),
    }
}

async fn execute(command: Command, store: &Store) -> anyhow::Result<()> {
    let layout = newest_layout(store).await?;
    let slots = |shard: Shard| {
        let descent = layout.of(shard).ok_or_else(|| anyhow!("there is no shard {shard}"))?;
        Ok::<_, anyhow::Error>(descent.slots)
    };
    let (from, into) = match command {
        Command::List => return list(store, &layout).await,
        Command::Split { from, into } => (vec![from], parts(slots(from)?, &into)?),
        Command::Merge { from, into: shard } => {
            let all =
                from.iter().try_fold(Slots::NONE, |all, shard| Ok::<_, anyhow::Error>(all.union(slots(*shard)?)))?;
            (from, vec![ShardSlots { shard, slots: all }])
        }
    };
    change(store, &from, &into, OWNER, carve).await?;
    print(&format!("{}\n", text(&into)))
}

/// `1,2,3,4` or `1=0-47,2=48-63`; a slot list goes on until the next `=`.
fn parts(slots: Slots, into: &str) -> anyhow::Result<Vec<ShardSlots>> {
    if into.contains('=') {
        return named(into);
    }
    let shards = into.split(',').map(str::parse).collect::<Result<Vec<Shard>, _>>()?;
    let parts = slots.parts(shards.len());
    if parts.len() != shards.len() {
        bail!("{slots} can't be divided evenly by {}: name the slots of each, as 1=0-47,2=48-63", shards.len());
    }
    Ok(shards.into_iter().zip(parts).map(|(shard, slots)| ShardSlots { shard, slots }).collect())
}

fn named(into: &str) -> anyhow::Result<Vec<ShardSlots>> {
    let mut named: Vec<(Shard, Vec<&str>)> = Vec::new();
    for part in into.split(',') {
        match (part.split_once('='), named.last_mut()) {
            (Some((shard, slots)), _) => named.push((shard.parse()?, vec![slots])),
            (None, Some((_, slots))) => slots.push(part),
            (None, None) => bail!("`{part}`: slots of which shard?"),
        }
    }
    let one = |(shard, slots): (Shard, Vec<&str>)| Ok(ShardSlots { shard, slots: slots.join(",").parse()? });
    named.into_iter().map(one).collect()
}

async fn list(store: &Store, layout: &Layout) -> anyhow::Result<()> {
    for descent in &layout.shards {
        let shard = descent.shard;
        let state = match newest_number(store, shard, 0).await? {
            None => "nothing yet".to_string(),
            Some(number) => {
                let newest = read_manifest(store, shard, number).await?;
                let newest = newest.ok_or_else(|| anyhow!("manifest {number} is gone"))?;
                match newest.successors.is_empty() {
                    true => format!("manifest {number}, {:?} by {}", newest.kind, newest.owner),
                    false => format!("manifest {number}, closed: now {}", text(&newest.successors)),
                }
            }
        };
        print(&format!("shard {shard}: slots {}, {state}\n", descent.slots))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(slots: &str, into: &str) -> Result<String, String> {
        parts(slots.parse().unwrap(), into).map(|parts| text(&parts)).map_err(|e| e.to_string())
    }

    #[test]
    fn slots_are_divided_evenly_or_as_they_are_named() {
        assert_eq!(divided("0-63", "1,2").unwrap(), "shard 1 (slots 0-31), shard 2 (slots 32-63)");
        assert_eq!(divided("8-15", "3,4").unwrap(), "shard 3 (slots 8-11), shard 4 (slots 12-15)");
        assert_eq!(divided("0-63", "1=0-3,7,2=4-6,8-63").unwrap(), "shard 1 (slots 0-3,7), shard 2 (slots 4-6,8-63)");
        for wrong in ["", "x", "1=", "1=64", "0-3,1=4", "256"] {
            assert!(divided("0-63", wrong).is_err(), "{wrong}");
        }
        assert!(divided("5", "1,2").unwrap_err().contains("can't be divided"));
    }
}
