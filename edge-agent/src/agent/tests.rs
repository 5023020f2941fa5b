//! A whole agent on a real folder, with no broker to be found.

use std::{collections::BTreeSet, path::Path, time::Duration};

use proto::{
    asset::AssetId,
    telemetry::{Frame, FrameKind, check_batch, delta_decode},
    time::PlantClock,
    wire::telemetry::{MachineInfo, Quality, QualityReason, SensorInfo, TelemetryBatch},
};

use super::*;
use crate::{
    config::MqttConfig,
    source::{Item, Reading, Sample, SourceError},
    spool::{SpoolConfig, disk::Disk, log::Extent},
};

const MINUTE: i64 = 60_000;
const MACHINES: i64 = 4;

/// One reading of each sensor of each machine every minute.
struct Minutes {
    next: PlantTime,
    polled: PlantTime,
}

impl Minutes {
    fn after(resume: Option<PlantTime>) -> Box<dyn Source> {
        let next = resume.map_or(PlantTime(0), |t| PlantTime((t.0.div_euclid(MINUTE) + 1) * MINUTE));
        Box::new(Minutes { next, polled: PlantTime::MIN })
    }
}

impl Source for Minutes {
    fn machines(&self) -> Vec<MachineInfo> {
        let sensor = |s: &str| SensorInfo { sensor: s.into(), unit: "C".into(), ..Default::default() };
        let sensors = vec![sensor("a"), sensor("b")];
        let machine = |n| MachineInfo {
            machine: format!("m{n}"),
            kind: "k".into(),
            sensors: sensors.clone(),
            ..Default::default()
        };
        (0..MACHINES).map(machine).collect()
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        while self.next <= now && out.len() < items_max {
            for n in 0..MACHINES {
                // Not compressible, so that the spool fills as it would with real readings.
                let value = |k: i64| ((self.next.0 + 7 * n + k) as f64).sin();
                let values = [value(1), value(2)].map(Reading::good).to_vec();
                let machine = AssetId::new(&format!("m{n}")).unwrap();
                out.push(Item::Sample(Sample { machine, time: self.next, values }));
            }
            self.next = self.next.plus_millis(MINUTE);
        }
        self.polled = now.min(self.next.plus_millis(-1));
        Ok(self.next <= now)
    }

    fn progress(&self) -> PlantTime {
        self.polled
    }

    fn next_due(&self) -> Option<PlantTime> {
        Some(self.next)
    }
}

fn config(data: &Path) -> AgentConfig {
    let nobody = MqttConfig::plain("127.0.0.1:1".parse().unwrap());
    let id = |name| AssetId::new(name).unwrap();
    let mut config = AgentConfig::new(id("mill"), id("gw"), data, nobody);
    config.batch.flush = Duration::from_millis(20);
    config
}

fn held_at(minute: i64) -> PlantClock {
    PlantClock { wall_origin_ms: 0, plant_origin: PlantTime(minute * MINUTE), speed: 0.0 }
}

/// Everything in the spool, in log order.
fn batches(data: &Path) -> Vec<(Extent, Option<TelemetryBatch>)> {
    let disk = Arc::new(Folder::open(data).unwrap());
    let (spool, _) = Spool::open(disk, SpoolConfig::default(), Epoch([9; 16])).unwrap();
    let reader = spool.reader();
    let extents: Vec<_> = spool.log().lock().extents().copied().collect();
    let batch = |e: &Extent| {
        let frame = Frame::split(reader.read(e.position).unwrap()).unwrap();
        (frame.header.kind == FrameKind::Data).then(|| frame.batch().unwrap())
    };
    extents.into_iter().map(|e| (e, batch(&e))).collect()
}

#[tokio::test]
async fn every_reading_is_in_the_log_once_over_two_starts() {
    let data = tempfile::tempdir().unwrap();
    let (clock, follow) = watch::channel(held_at(3_000));
    let agent = Agent::open(config(data.path())).unwrap();
    assert_eq!(agent.resume_after(), None);
    let handle = agent.start(vec![Minutes::after(None)], follow.clone()).unwrap();
    let mut progress = handle.progress();
    progress.wait_for(|p| p.plant_time == PlantTime(3_000 * MINUTE)).await.unwrap();
    clock.send_replace(held_at(4_000));
    progress.wait_for(|p| p.plant_time == PlantTime(4_000 * MINUTE)).await.unwrap();
    let done = handle.stop().await;
    assert_eq!(done.readings_sealed, 4_001 * 2 * MACHINES as u64);

    let agent = Agent::open(config(data.path())).unwrap();
    let resume = agent.resume_after();
    assert_eq!(resume, Some(PlantTime(4_000 * MINUTE)));
    clock.send_replace(held_at(4_500));
    let handle = agent.start(vec![Minutes::after(resume)], follow).unwrap();
    handle.progress().wait_for(|p| p.plant_time == PlantTime(4_500 * MINUTE)).await.unwrap();
    handle.stop().await;

    let mut seen = BTreeSet::new();
    let mut sealed = i64::MIN;
    for (extent, batch) in batches(data.path()) {
        let batch = batch.unwrap();
        assert_eq!(check_batch(&batch), Ok(extent.readings));
        assert_eq!(batch.birth.is_some(), extent.position.seq == 1, "in the first batch of each epoch");
        let seal = batch.sealed.unwrap().time_ms;
        assert!(seal >= sealed);
        sealed = seal;
        for machine in batch.machines {
            for stamp in delta_decode(&machine.time_delta_ms) {
                assert!(seen.insert((machine.machine.clone(), stamp)), "{} at {stamp} twice", machine.machine);
                assert!(stamp <= seal);
            }
        }
    }
    assert_eq!(seen.len(), 4_501 * MACHINES as usize);
}

#[tokio::test]
async fn history_waits_for_room_in_the_spool_instead_of_evicting() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.spool = SpoolConfig { bytes_max: 1024 * 1024, segment_bytes: 64 * 1024, ..Default::default() };
    let (_clock, follow) = watch::channel(held_at(1_000_000));
    let handle = Agent::open(config).unwrap().start(vec![Minutes::after(None)], follow).unwrap();
    let mut progress = handle.progress();
    let full = progress.wait_for(|p| p.backlog_bytes > 512 * 1024).await.unwrap().batches;
    // Empty batches go on; by then, a source that is not held would have filled the spool several times.
    let later = *progress.wait_for(|p| p.batches > full + 20).await.unwrap();
    let last = handle.stop().await;
    assert_eq!(later.readings_sealed, last.readings_sealed);
    assert!(batches(data.path()).iter().all(|(extent, _)| !extent.gap));
}

#[tokio::test]
async fn a_folder_has_one_agent() {
    let data = tempfile::tempdir().unwrap();
    let first = Agent::open(config(data.path())).unwrap();
    let second = Agent::open(config(data.path())).err().unwrap().to_string();
    assert!(second.contains("in use by another agent"), "{second}");
    drop(first);
    Agent::open(config(data.path())).unwrap();
    assert!(Folder::open(data.path()).unwrap().list().unwrap().contains(&"install".into()));
}

/// A device that takes every connection and answers nothing, beside a program that speaks.
#[tokio::test]
async fn a_dead_device_costs_its_own_readings_only_and_the_log_says_why() {
    let data = tempfile::tempdir().unwrap();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let modbus = format!(
        r#"
        type = "modbus"
        url = "tcp://{}"
        interval_ms = 20
        timeout_ms = 60000
        [[machines]]
        id = "press-1"
        kind = "press"
        sensors = [{{ sensor = "t", unit = "C", at = {{ table = "input", address = 0 }} }}]
        "#,
        dead.local_addr().unwrap()
    );
    let refused = modbus.replace("60000", "20").replace("press-1", "press-2");
    let exec = r#"
        type = "exec"
        command = ["sh", "-c", "while :; do echo p 1; sleep 0.02; done"]
        [[machines]]
        id = "baler-1"
        kind = "baler"
        sensors = [{ sensor = "p", unit = "bar", at = "p" }]
    "#;
    let build =
        |text: &str| toml::from_str::<crate::source::SourceConfig>(text).unwrap().build(data.path(), None).unwrap();
    let sources = [&modbus, &refused, exec].map(build).into();
    let (_clock, follow) = watch::channel(PlantClock::WALL);
    let started = PlantClock::WALL.now();
    let handle = Agent::open(config(&data.path().join("spool"))).unwrap().start(sources, follow).unwrap();
    let enough = |p: &AgentProgress| p.readings_sealed >= 60 && p.plant_time >= started.plus_millis(500);
    handle.progress().wait_for(enough).await.unwrap();
    handle.stop().await;

    let batches: Vec<_> = batches(&data.path().join("spool")).into_iter().filter_map(|(_, batch)| batch).collect();
    batches.iter().for_each(|batch| assert!(check_batch(batch).is_ok()));
    let column = |machine: &str| {
        let machines = batches.iter().flat_map(|b| &b.machines).filter(|m| m.machine == machine);
        machines
            .flat_map(|m| m.sensors[0].clone().quality.into_iter().zip(m.sensors[0].clone().reason))
            .collect::<Vec<_>>()
    };
    assert_eq!(column("baler-1"), [], "all good");
    assert!(batches.iter().flat_map(|b| &b.machines).any(|m| m.machine == "baler-1"));
    assert_eq!(column("press-1"), [], "still waiting for its first answer");
    let timeout = (Quality::Bad as i32, QualityReason::Timeout as i32);
    let dead = column("press-2");
    assert!(dead.len() >= 2 && dead.iter().all(|cell| *cell == timeout), "{dead:?}");
}

/// Fails at an hour of plant time, in the middle of what it was asked for.
struct Torn(Minutes);

impl Source for Torn {
    fn machines(&self) -> Vec<MachineInfo> {
        self.0.machines()
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        if self.0.next >= PlantTime(60 * MINUTE) {
            return Err(SourceError::File { file: "minutes".into(), reason: "torn".into() });
        }
        self.0.poll(now.min(PlantTime(60 * MINUTE - 1)), items_max, out)
    }

    fn progress(&self) -> PlantTime {
        self.0.progress()
    }

    fn next_due(&self) -> Option<PlantTime> {
        self.0.next_due()
    }
}

#[tokio::test]
async fn an_agent_whose_source_failed_ends_and_goes_on_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let (_clock, follow) = watch::channel(held_at(120));
    let torn = Torn(Minutes { next: PlantTime(0), polled: PlantTime::MIN });
    let mut handle = Agent::open(config(data.path())).unwrap().start(vec![Box::new(torn)], follow.clone()).unwrap();
    assert_eq!(handle.ended().await.to_string(), "a source failed: minutes: torn");
    handle.stop().await;

    let agent = Agent::open(config(data.path())).unwrap();
    let resume = agent.resume_after();
    assert_eq!(resume, Some(PlantTime(60 * MINUTE - 1)), "what it gave is durable");
    let handle = agent.start(vec![Minutes::after(resume)], follow).unwrap();
    handle.progress().wait_for(|p| p.plant_time == PlantTime(120 * MINUTE)).await.unwrap();
    let rest = handle.stop().await;
    assert_eq!(rest.readings_sealed, 61 * 2 * MACHINES as u64);
}

/// Hundreds of rows at each instant, batches that are full within one, and a death after every few batches.
#[tokio::test]
async fn a_replay_that_is_killed_in_the_middle_gives_every_row_once() {
    const INSTANTS: usize = 40;
    const ROWS: usize = 300;
    let data = tempfile::tempdir().unwrap();
    let mut file = String::from("time,machine,value\n");
    for (instant, row) in (0..INSTANTS).flat_map(|t| (0..ROWS).map(move |r| (t, r))) {
        file += &format!("{},{},{row}\n", instant * 1_000, row % 7);
    }
    std::fs::write(data.path().join("rows.csv"), file).unwrap();
    let mapping = r#"
        type = "replay"
        files = ["rows.csv"]
        kind = "press"
        time = { column = "time", format = "unix_ms" }
        machine = { column = "machine", prefix = "m" }
        sensors = [{ column = "value", sensor = "value", unit = "1" }]
    "#;
    let source: crate::source::SourceConfig = toml::from_str(mapping).unwrap();
    let mut config = config(&data.path().join("spool"));
    (config.batch.bytes_max, config.batch.flush) = (1_024, Duration::from_millis(1));
    let end = PlantTime(INSTANTS as i64 * 1_000);
    let (_clock, follow) = watch::channel(PlantClock { plant_origin: end, ..held_at(0) });
    for kill_after in 2.. {
        // The one before may not have let go of the folder yet.
        let agent = loop {
            match Agent::open(config.clone()) {
                Ok(agent) => break agent,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let source = source.build(data.path(), agent.resume_after()).unwrap();
        let handle = agent.start(vec![source], follow.clone()).unwrap();
        let mut progress = handle.progress();
        let reached = *progress.wait_for(|p| p.batches >= kill_after || p.plant_time == end).await.unwrap();
        drop(handle);
        while progress.changed().await.is_ok() {}
        if reached.plant_time == end {
            assert!(kill_after > 3, "it was killed at least once");
            break;
        }
    }
    while Folder::open(data.path().join("spool")).is_err() {
        tokio::task::yield_now().await;
    }
    let mut seen = vec![0; INSTANTS * ROWS];
    for batch in batches(&data.path().join("spool")).into_iter().filter_map(|(_, batch)| batch) {
        for machine in &batch.machines {
            let stamps = delta_decode(&machine.time_delta_ms);
            for (stamp, value) in stamps.iter().zip(&machine.sensors[0].value) {
                seen[*stamp as usize / 1_000 * ROWS + *value as usize] += 1;
            }
        }
    }
    assert!(seen.iter().all(|times| *times == 1), "{:?}", seen.iter().position(|times| *times != 1));
}

/// By the clocks of the machine that this runs on.
#[tokio::test]
async fn a_right_clock_is_trusted_at_once_and_one_behind_the_last_known_time_is_not() {
    let data = tempfile::tempdir().unwrap();
    let started = proto::time::wall_now_ms();
    let run = async |resume| {
        let agent = Agent::open(config(data.path())).unwrap();
        let (clock, _) = agent.resume_clock(&ClockConfig::default()).unwrap();
        let handle = agent.start(vec![Minutes::after(Some(resume))], clock.clone()).unwrap();
        handle.progress().wait_for(|p| p.batches > 3).await.unwrap();
        handle.stop().await;
        clock.look()
    };
    let trusted = |from: usize| {
        let sealed = batches(data.path()).into_iter().filter_map(|(_, batch)| batch?.sealed).skip(from);
        sealed.map(|sealed| (sealed.trusted, sealed.offset_ms != 0)).collect::<Vec<_>>()
    };
    assert!(run(PlantTime(started - 10 * MINUTE)).await.trusted);
    let first = trusted(0);
    assert!(first.len() > 3 && first.iter().all(|seal| *seal == (true, false)), "{first:?}");
    let folder = Folder::open(data.path()).unwrap();
    let kept = KeptTime::load(&folder).known.unwrap();
    assert!(kept.wall_ms >= started);

    // Ten years on, in another boot, it is as if this machine had lost its time.
    let later = kept.wall_ms + 10 * 365 * 24 * 60 * MINUTE;
    let known = Some(clock::trust::Known { wall_ms: later, boot_id: 0, monotonic_ms: 0, confirmed: true });
    KeptTime { known, resume_after: None }.store(&folder).unwrap();
    drop(folder);
    let look = run(PlantTime(later)).await;
    assert!(!look.trusted && look.time >= PlantTime(later), "{look:?}");
    let second = trusted(first.len());
    assert!(second.len() > 3 && second.iter().all(|seal| *seal == (false, true)), "{second:?}");
}
