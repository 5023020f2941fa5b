//! One function for each figure.

use std::{
    fmt::Write,
    fs,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use edge_agent::spool::{Spool, SpoolConfig, disk::Folder};
use proto::{
    position::Epoch,
    telemetry::{Frame, delta_encode},
    time::PlantTime,
    wire::telemetry::{MachineReadings, SealTime, SensorColumn, TelemetryBatch},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    process::{self, SECOND, memory, threads, usage},
    site::Site,
};

/// A Monday at six.
const START_MS: i64 = 1_767_592_800_000;
const DAY: u64 = 86_400;
/// Machines with five sensors each: as many readings as 20 machines with ten.
const MACHINES: u64 = 40;
const SENSORS: u64 = 5;
const HOUR: Duration = Duration::from_secs(3_600);

fn simulator(interval_ms: u64) -> String {
    format!(
        "[[source]]\ntype = \"simulator\"\nstart = {START_MS}\nmachines = {MACHINES}\ninterval_ms = {interval_ms}\n"
    )
}

fn clock(speed: f64) -> String {
    format!("[clock]\nstart = {START_MS}\nspeed = {speed:.1}\n")
}

/// What the agent carries when its source always has more.
pub fn throughput() {
    println!("  simulator, {MACHINES} machines x {SENSORS} sensors at 1 Hz, as fast as it goes");
    steady(&format!("{}{}", clock(1e6), simulator(1_000)));
}

/// The same with a source that costs less than to simulate a plant.
pub fn replay() {
    let (rows, machines, sensors) = (40_000, 20, 10);
    println!("  replay of a text file, {machines} machines x {sensors} sensors, as fast as it goes");
    let mut text = String::from("time,machine");
    (0..sensors).for_each(|s| write!(text, ",s{s}").expect("memory"));
    text.push('\n');
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for row in 0..rows {
        for machine in 0..machines {
            write!(text, "{},m{machine}", START_MS + row * 1_000).expect("memory");
            (0..sensors)
                .for_each(|s| write!(text, ",{}.{:02}", 20 + s * 10, rng.random_range(0..100)).expect("memory"));
            text.push('\n');
        }
    }
    let columns: Vec<String> =
        (0..sensors).map(|s| format!("{{ column = \"s{s}\", sensor = \"s{s}\", unit = \"1\" }}")).collect();
    let source = format!(
        "[[source]]\ntype = \"replay\"\nfiles = [\"../rows.csv\"]\nkind = \"press\"\n\
         time = {{ column = \"time\", format = \"unix_ms\" }}\nmachine = {{ column = \"machine\" }}\nsensors = [{}]\n",
        columns.join(", "),
    );
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rows.csv"), text).expect("room for a file");
    let source = source.replace("../rows.csv", &folder.path().join("rows.csv").display().to_string());
    let mut site = Site::new();
    site.start_committer();
    site.start_agent(&format!("{}{source}", clock(1e6)));
    site.wait("to begin", HOUR, |s| s.archive.lock().readings > 0);
    let (before, begun) = (usage(site.agent()), site.archive.lock().readings);
    let all = (rows * machines * sensors) as u64;
    site.wait("the end of the file", HOUR, |s| s.archive.lock().readings >= all);
    report(&site, usage(site.agent()) - before, all - begun);
}

fn steady(settings: &str) {
    let mut site = Site::new();
    site.start_committer();
    site.start_agent(settings);
    site.wait("to begin", HOUR, |s| s.archive.lock().readings > 0);
    sleep(5 * SECOND);
    let (before, begun) = (usage(site.agent()), site.archive.lock().readings);
    sleep(20 * SECOND);
    let readings = site.archive.lock().readings - begun;
    report(&site, usage(site.agent()) - before, readings);
}

fn report(site: &Site, span: process::Span, readings: u64) {
    let (now, most, anonymous) = memory(site.agent());
    println!(
        "  {readings} readings committed in {:.1} s: {:.0} readings/s, {:.0} readings per CPU second of the agent",
        span.seconds,
        readings as f64 / span.seconds,
        readings as f64 / span.cpu,
    );
    println!(
        "  {:.1} % of one core; resident {now:.1} MiB ({anonymous:.1} anonymous), at most {most:.1} MiB; {} threads",
        span.load(),
        threads(site.agent())
    );
    let committed = site.archive.lock();
    println!(
        "  {:.2} bytes of frames per reading; {:?}",
        committed.bytes as f64 / committed.readings as f64,
        committed.arrivals
    );
}

/// What an agent takes when nothing special is going on: 2,000 readings a second.
pub fn live() {
    println!("  simulator, {MACHINES} machines x {SENSORS} sensors at 10 Hz, by the wall's clock");
    steady(&format!("{}{}", clock(1.0), simulator(100)));
}

/// How many bytes are written for the bytes that are kept, at 200 readings a second.
pub fn wear() {
    println!("  simulator, {MACHINES} machines x {SENSORS} sensors at 1 Hz, by the wall's clock");
    let mut site = Site::new();
    site.start_committer();
    site.start_agent(&format!("{}{}", clock(1.0), simulator(1_000)));
    site.wait("to begin", HOUR, |s| s.archive.lock().readings > 0);
    let (before, (bytes, frames)) = (usage(site.agent()), count(&site));
    sleep(120 * SECOND);
    let (span, (bytes_now, frames_now)) = (usage(site.agent()) - before, count(&site));
    let (bytes, frames) = (bytes_now - bytes, frames_now - frames);
    let payload = bytes - frames * proto::telemetry::HEADER_BYTES as u64;
    println!(
        "  {frames} frames with {payload} bytes of payload; {} bytes written, {} in dirty pages",
        span.written, span.to_disk
    );
    println!(
        "  write amplification {:.3} ({:.2} in pages); {:.1} % of one core",
        span.written as f64 / payload as f64,
        span.to_disk as f64 / payload as f64,
        span.load()
    );
}

fn count(site: &Site) -> (u64, u64) {
    let committed = site.archive.lock();
    (committed.bytes, committed.arrivals.taken)
}

/// A day without a broker, then its backlog.
pub fn day() {
    let readings = DAY * MACHINES * SENSORS;
    println!("  simulator, {MACHINES} machines x {SENSORS} sensors at 1 Hz: {readings} readings without a broker");
    let mut site = Site::new();
    site.broker_down();
    site.start_agent(&format!("{}{}", clock(10_000.0), simulator(1_000)));
    let begun = (Instant::now(), usage(site.agent()));
    // What is left out of the last, unfinished batch does not matter: the rest of the day is sealed a moment later.
    site.wait("a day", HOUR, |_| begun.0.elapsed().as_secs_f64() * 10_000.0 > DAY as f64 * 1.02);
    let span = usage(site.agent()) - begun.1;
    let (now, most, _) = memory(site.agent());
    println!("  filled in {:.1} s, {:.1} CPU s; resident {now:.1} MiB, at most {most:.1} MiB", span.seconds, span.cpu);
    site.broker_up();
    site.start_committer();
    let before = usage(site.agent());
    site.wait("the backlog", HOUR, |s| s.archive.lock().readings >= readings);
    let readings = site.archive.lock().readings;
    report(&site, usage(site.agent()) - before, readings);
    println!("  backlog {:.1} MB", site.archive.lock().bytes as f64 / 1e6);
}

/// A gigabyte of batches of a second, of 2,000 readings each with two decimals.
pub fn drain() {
    let (bytes_max, machines, sensors, rows) = (1 << 30, 20, 10, 10);
    let mut site = Site::new();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let disk = Arc::new(Folder::open(site.spool()).expect("a folder"));
    let config = SpoolConfig { bytes_max: 2 << 30, ..Default::default() };
    let (mut spool, _) = Spool::open(disk, config, Epoch([1; 16])).expect("a spool");
    let (mut frames, mut bytes) = (0u64, 0);
    while bytes < bytes_max {
        let ms = START_MS + frames as i64 * 1_000;
        let stamps: Vec<i64> = (0..rows).map(|row| ms + row * 100).collect();
        let sensor = |s: usize, rng: &mut ChaCha8Rng| SensorColumn {
            sensor: format!("s{s}"),
            value: (0..rows).map(|_| f64::from(rng.random_range(0..10_000u16)) / 100.0).collect(),
            quality: Vec::new(),
            reason: vec![],
        };
        let machine = |m: usize| MachineReadings {
            machine: format!("m{m}"),
            time_delta_ms: delta_encode(&stamps),
            sensors: (0..sensors).map(|s| sensor(s, &mut rng)).collect(),
        };
        let machines = (0..machines).map(machine).collect();
        let sealed = Some(SealTime { time_ms: ms + 999, trusted: true, ..Default::default() });
        let batch = TelemetryBatch { sealed, machines, ..Default::default() };
        let (position, previous) = spool.next();
        let frame = Frame::seal(position, previous, 2_000, &batch);
        (frames, bytes) = (frames + 1, bytes + frame.header.frame_bytes() as u64);
        spool.append(&frame, PlantTime(ms + 999));
        if spool.group_is_full() {
            spool.commit().expect("room on the disk");
        }
    }
    spool.commit().expect("room on the disk");
    drop(spool);
    println!("  {frames} frames of {} bytes, {} MB", bytes / frames, bytes / 1_000_000);
    site.broker_down();
    let begun = Instant::now();
    site.start_agent(&format!("[spool]\nbytes_max = {}\n{}{}", 2u64 << 30, clock(1.0), simulator(1_000)));
    site.wait("recovery", HOUR, |s| s.log().contains("spool recovered"));
    println!("  recovered {:.1} s after the start", begun.elapsed().as_secs_f64());
    sleep(5 * SECOND);
    let (now, most, anonymous) = memory(site.agent());
    println!("  resident {now:.1} MiB ({anonymous:.1} anonymous), at most {most:.1} MiB");
    site.broker_up();
    site.start_committer();
    let (before, done) = (usage(site.agent()), site.archive.lock().readings);
    let mut most = now;
    site.wait("the backlog", HOUR, |s| {
        most = memory(s.agent()).0.max(most);
        s.archive.lock().readings >= frames * 2_000
    });
    println!("  resident while it drains at most {most:.1} MiB");
    let readings = site.archive.lock().readings - done;
    report(&site, usage(site.agent()) - before, readings);
}
