//! What the kernel knows about a process and the machine.

use std::{
    fs,
    ops::Sub,
    time::{Duration, Instant},
};

/// The kernel's unit of CPU time in `/proc`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    /// Seconds, of all threads.
    pub cpu: f64,
    /// Bytes that the spool's thread passed to write calls: all of its files, no sockets.
    pub written: u64,
    /// Bytes of pages that it made dirty.
    pub to_disk: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub seconds: f64,
    pub cpu: f64,
    pub written: u64,
    pub to_disk: u64,
}

impl Sub for Usage {
    type Output = Span;

    fn sub(self, before: Usage) -> Span {
        Span {
            seconds: (self.at - before.at).as_secs_f64(),
            cpu: self.cpu - before.cpu,
            written: self.written - before.written,
            to_disk: self.to_disk - before.to_disk,
        }
    }
}

impl Span {
    /// CPU seconds a second, in percent of one core.
    pub fn load(&self) -> f64 {
        100.0 * self.cpu / self.seconds
    }
}

pub fn usage(id: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process is there");
    // Behind the name, which may have anything in it but comes in brackets.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    Usage {
        at: Instant::now(),
        cpu: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
        written: of_spool(id, "wchar:"),
        to_disk: of_spool(id, "write_bytes:"),
    }
}

fn of_spool(id: u32, what: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten().map(|t| t.path());
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let spools = threads.filter(|t| read(t.join("comm")).starts_with("spool-"));
    spools.map(|t| line(&read(t.join("io")), what)).sum()
}

/// Resident now, at most so far, and of now what belongs to no file, in MiB.
pub fn memory(id: u32) -> (f64, f64, f64) {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mib = |name| line(&status, name) as f64 / 1024.0;
    (mib("VmRSS:"), mib("VmHWM:"), mib("RssAnon:"))
}

pub fn threads(id: u32) -> u64 {
    line(&fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default(), "Threads:")
}

pub fn machine() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("?").trim_start_matches(['\t', ':', ' ']);
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let gib = line(&memory, "MemTotal:") as f64 / 1024.0 / 1024.0;
    let load = read("/proc/loadavg");
    format!("{cores} x {model}, {gib:.0} GiB, load {}", load.split(' ').next().unwrap_or_default())
}

fn line(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    rest.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

pub const SECOND: Duration = Duration::from_secs(1);
