//! An S3 endpoint that does not answer for a while: its process is stopped, so that requests hang as they do when a route is
//! gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::time::sleep;

const BEGINS_AFTER: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Readings, and predictions, so far.
pub struct Counts {
    pub received: u64,
    pub committed: u64,
    pub predictions: u64,
}

/// `s3`: its process id.
pub fn outage(
    s3: u32,
    staging: PathBuf,
    away: Duration,
    counts: impl Fn() -> Counts,
) -> anyhow::Result<impl Future<Output = ()>> {
    let signal = move |name: &str| {
        Command::new("kill").args([format!("-{name}"), s3.to_string()]).status().is_ok_and(|status| status.success())
    };
    ensure!(signal("0"), "the S3 endpoint has gone");
    Ok(async move {
        sleep(BEGINS_AFTER).await;
        let stopped = signal("STOP");
        let (before, began) = (counts(), Instant::now());
        println!("S3 is away: {stopped}");
        sleep(away).await;
        let (after, staged_mb) = (counts(), bytes_in(&staging) as f64 / 1e6);
        let (taken, told) = (after.received - before.received, after.predictions - before.predictions);
        let back = signal("CONT");
        println!(
            "S3 is back: {back}; in {:.0} s {:.1} M readings were taken, {:.1} M committed, {told} predictions told; \
             {staged_mb:.0} MB staged",
            began.elapsed().as_secs_f64(),
            taken as f64 / 1e6,
            (after.committed - before.committed) as f64 / 1e6,
        );
        let came_back = Instant::now();
        while counts().committed < after.received {
            sleep(POLL).await;
        }
        println!("all of that was committed {:.1} s later", came_back.elapsed().as_secs_f64());
    })
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
        _ => entry.metadata().map_or(0, |meta| meta.len()),
    };
    entries.map(size).sum()
}
