//! The output of any program as readings. The program runs for as long as its source does, and is started again with a
//! growing pause when it ends.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use proto::{
    time::{PlantClock, PlantTime, wall_now_ms},
    wire::telemetry::QualityReason,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::{Instant, sleep_until},
};

use super::{
    Reading, Source, SourceError,
    live::{BackOff, Device, Live, Machines, Outlet},
};

mod config;
mod hearing;
mod line;
mod throttle;

pub use config::ExecConfig;
pub use line::LINE_BYTES_MAX;

use hearing::{Hearing, Row};
use line::{Lines, parse};
use throttle::Throttle;

/// A program that ran for so long was no failure when it was started.
const STEADY: Duration = Duration::from_secs(60);
/// From a program's end, or that of its output, to that of the other.
const GRACE: Duration = Duration::from_secs(1);
/// A line's own time may be older than now by so much; one beyond is not believed.
pub const LINE_AGE_MS_MAX: i64 = 3_600_000;
/// A program's clock is the gateway's, but for its rounding.
const LINE_AHEAD_MS_MAX: i64 = 1_000;
const READ_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Exec {
    command: Vec<String>,
    folder: PathBuf,
    names: HashMap<String, (usize, usize)>,
    hearing: Hearing,
    log: Throttle,
}

/// Checks the configuration; the program is not started before the source is.
pub(super) fn build(config: &ExecConfig, base_dir: &Path) -> Result<Box<dyn Source>, SourceError> {
    let names = config.names()?;
    let stale_after = Duration::from_millis(config.stale_after_ms);
    let sensors = config.machines.iter().map(|m| m.sensors.len());
    let device = Exec {
        command: config.command.clone(),
        folder: base_dir.to_path_buf(),
        names,
        hearing: Hearing::new(sensors, stale_after, Instant::now()),
        log: Throttle::default(),
    };
    Ok(Box::new(Live::new(
        config.name.as_ref(),
        config.command.first().map_or("", String::as_str),
        Machines::new(&config.machines, 0),
        device,
    )))
}

impl Device for Exec {
    async fn run(mut self, mut outlet: Outlet) {
        let mut back_off = BackOff::default();
        loop {
            let started = Instant::now();
            match self.start() {
                Ok(running) => {
                    self.hearing.started();
                    let status = self.listen(running, &mut outlet).await;
                    let status = status.map_or("killed".into(), |status| status.to_string());
                    tracing::warn!(source = outlet.name, status, "the program ended; it is started again");
                }
                Err(error) => tracing::warn!(source = outlet.name, %error, "the program can't be started"),
            }
            put(self.hearing.end(outlet.now(), Instant::now()), &mut outlet);
            if started.elapsed() >= STEADY {
                back_off.succeeded();
            }
            let until = Instant::now() + back_off.failed(Instant::now());
            while Instant::now() < until {
                sleep_until(until.min(self.hearing.stale_at())).await;
                put(self.hearing.stale(outlet.now(), Instant::now()), &mut outlet);
            }
            outlet.count_restart();
        }
    }
}

/// A program, and all that it started in turn: ended when dropped.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may have ended long ago.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn put(rows: impl IntoIterator<Item = Row>, outlet: &mut Outlet) {
    for (machine, time, readings) in rows {
        outlet.put(machine, time, readings);
    }
}

impl Exec {
    fn start(&self) -> std::io::Result<Running> {
        let [program, arguments @ ..] = &self.command[..] else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if !self.folder.as_os_str().is_empty() {
            command.current_dir(&self.folder);
        }
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        Ok(Running { child, group })
    }

    /// Until program or output has ended, and the other had its time to. None: it was killed then.
    async fn listen(&mut self, mut running: Running, outlet: &mut Outlet) -> Option<ExitStatus> {
        let (mut stdout, mut stderr) = (running.child.stdout.take(), running.child.stderr.take());
        let (mut said, mut told) = (Vec::with_capacity(READ_BYTES), Vec::with_capacity(READ_BYTES));
        let (mut lines, mut errors) = (Lines::default(), Lines::default());
        let (mut status, mut until): (Option<ExitStatus>, Option<Instant>) = (None, None);
        while until.is_none_or(|until| Instant::now() < until) && (stdout.is_some() || status.is_none()) {
            tokio::select! {
                more = read(&mut stdout, &mut said) => {
                    match more {
                        true => self.hear(&mut lines, &said, outlet),
                        false => stdout = None,
                    }
                    said.clear();
                }
                more = read(&mut stderr, &mut told) => {
                    match more {
                        true => errors.push(&told, |line| self.log.line(&outlet.name, line.unwrap_or("a line too long"))),
                        false => stderr = None,
                    }
                    told.clear();
                }
                ended = running.child.wait(), if status.is_none() => {
                    status = ended.ok();
                    until = Some(Instant::now() + GRACE);
                }
                () = sleep_until(self.hearing.stale_at()) => {
                    put(self.hearing.stale(outlet.now(), Instant::now()), outlet);
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            if stdout.is_none() {
                until.get_or_insert_with(|| Instant::now() + GRACE);
            }
        }
        status
    }

    /// What arrives at once was printed at once.
    fn hear(&mut self, lines: &mut Lines, bytes: &[u8], outlet: &mut Outlet) {
        let (now, clock, wall_ms) = (Instant::now(), outlet.clock(), wall_now_ms());
        lines.push(bytes, |line| {
            if line.is_some_and(|line| line.trim().is_empty()) {
                return;
            }
            let said = match line.ok_or("is too long").and_then(parse) {
                Ok(said) => said,
                Err(reason) => {
                    outlet.count_error(QualityReason::Unreadable);
                    return self.log.refused(&outlet.name, reason);
                }
            };
            for said in said {
                let Some(at) = self.names.get(&said.name) else {
                    self.log.refused(&outlet.name, "names no sensor of the configuration");
                    continue;
                };
                let time = stamp(said.time_ms, wall_ms, &clock).unwrap_or_else(|| {
                    self.log.refused(&outlet.name, "has a time that can't be right; it gets the present one");
                    clock.plant(wall_ms)
                });
                let reading = said.value.map_or(Reading::bad(QualityReason::Unreadable), Reading::good);
                put(self.hearing.hear(*at, time, reading, now), outlet);
            }
        });
        put(self.hearing.take(), outlet);
    }
}

/// False: at its end. Pends for ever when that was seen.
async fn read<R: AsyncRead + Unpin>(stream: &mut Option<R>, into: &mut Vec<u8>) -> bool {
    match stream {
        Some(stream) => matches!(stream.read_buf(into).await, Ok(bytes) if bytes > 0),
        None => std::future::pending().await,
    }
}

/// A line's own time in plant time, never newer than now; None: not to be believed.
fn stamp(own_ms: Option<i64>, wall_ms: i64, clock: &PlantClock) -> Option<PlantTime> {
    let own_ms = own_ms.unwrap_or(wall_ms);
    let plausible = (wall_ms - LINE_AGE_MS_MAX..=wall_ms + LINE_AHEAD_MS_MAX).contains(&own_ms);
    plausible.then(|| clock.plant(own_ms.min(wall_ms)))
}

#[cfg(test)]
mod tests;
