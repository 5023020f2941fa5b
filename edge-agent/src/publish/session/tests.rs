use std::sync::Arc;

use proto::{
    ack::ArchiveId,
    asset::AssetId,
    clock::ClockConfig,
    position::Epoch,
    telemetry::Frame,
    time::{PlantClock, PlantTime},
    wire::telemetry::{Birth, SealTime, TelemetryBatch},
};

use tokio::sync::mpsc;

use super::*;
use crate::{
    agent::{
        Medium,
        clock::fake::{FakeClocks, HOUR, TODAY},
        identity::Identity,
    },
    config::{AgentConfig, MqttConfig},
    publish::{BACK_OFF_MIN, Failures, mqtt::Endpoint, window::WindowConfig},
    spool::{
        Spool, SpoolConfig,
        disk::{Folder, memory::Memory},
    },
    telemetry::Metrics,
};

/// A publisher with one frame to send and a broker that is not there.
fn publisher(data: &std::path::Path) -> (Publisher, Spool) {
    let disk = Arc::new(Folder::open(data).unwrap());
    let identity = Identity::load(&*disk).unwrap();
    let id = |name| AssetId::new(name).unwrap();
    let config = AgentConfig::new(id("mill"), id("gw"), data, MqttConfig::plain("127.0.0.1:1".parse().unwrap()));
    let (mut spool, _) = Spool::open(disk, SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let (position, previous) = spool.next();
    let batch = TelemetryBatch { sealed: Some(SealTime::default()), ..Default::default() };
    spool.append(&Frame::seal(position, previous, 0, &batch), PlantTime(0));
    spool.commit().unwrap();
    let progress = AgentProgress {
        plant_time: PlantTime(0),
        readings_sealed: 0,
        batches: 1,
        durable: None,
        committed: None,
        backlog_bytes: 0,
        medium: Medium::Disk,
    };
    let publisher = Publisher {
        endpoint: Endpoint::new(&config, &identity),
        tls: watch::channel(None).1,
        patience: config.mqtt.patience.clone(),
        settings: watch::channel(Settings { birth: Birth::default(), window: config.window.clone() }).1,
        log: spool.log(),
        reader: spool.reader(),
        requests: mpsc::channel(1).0,
        progress: watch::channel(progress).1,
        metrics: Metrics::new(&config.agent),
        clock: watch::channel(PlantClock::WALL).1.into(),
        jitter_seed: 1,
    };
    (publisher, spool)
}

#[tokio::test(start_paused = true)]
async fn saying_goodbye_waits_for_the_broker_and_not_for_frames() {
    let data = tempfile::tempdir().unwrap();
    let (publisher, _spool) = publisher(data.path());
    let mut window = SendWindow::new(WindowConfig::default(), 1);
    window.on_connected(Duration::ZERO);
    let mut suspects = Suspects::default();
    let mut session = Session::new(&publisher, &mut window, &mut suspects, Instant::now());
    tokio::time::advance(Duration::from_secs(5)).await;
    let now = Instant::now();
    assert!(session.takes_frames() && session.wakeup() <= now, "a frame may go out");
    let until = now + FAREWELL_MAX;
    for stage in [Stage::Farewell(until), Stage::Leaving(until)] {
        session.stage = stage;
        assert_eq!(session.wakeup(), until, "{stage:?}");
    }
}

#[tokio::test]
async fn a_birth_names_the_epochs_in_the_spool() {
    let data = tempfile::tempdir().unwrap();
    let (publisher, spool) = publisher(data.path());
    let position = spool.log().lock().last().unwrap();
    assert_eq!(publisher.birth().epochs, [position.into()]);
}

#[test]
fn attempts_to_connect_become_rare_and_never_end() {
    let (mut failures, most) = (Failures::default(), Duration::from_secs(60));
    let waits: Vec<_> = (0..40).map(|_| failures.add(&SessionError::Refused, most)).collect();
    assert_eq!(waits[0], BACK_OFF_MIN);
    assert!(waits.windows(2).all(|pair| pair[1] == (2 * pair[0]).min(most)), "{waits:?}");
    assert_eq!(waits[39], most);
}

#[test]
fn a_line_that_falls_silent_is_not_taken_for_a_broker_that_closes() {
    let io = |kind| SessionError::from(Box::new(ConnectionError::Io(io::Error::from(kind))));
    assert!(io(io::ErrorKind::ConnectionReset).closed_by_broker());
    let aborted = ConnectionError::MqttState(StateError::ConnectionAborted);
    assert!(SessionError::from(Box::new(aborted)).closed_by_broker());
    for silent in [
        io(io::ErrorKind::TimedOut),
        io(io::ErrorKind::HostUnreachable),
        SessionError::from(Box::new(ConnectionError::FlushTimeout)),
        SessionError::Silent(Duration::ZERO),
        SessionError::Stalled(Duration::ZERO),
    ] {
        assert!(!silent.closed_by_broker(), "{silent}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_is_taken_from_a_live_ack_of_the_writer_in_charge_only() {
    let data = tempfile::tempdir().unwrap();
    let (mut publisher, _spool) = publisher(data.path());
    let clocks = FakeClocks::at(0);
    publisher.clock = clocks.resume(&Arc::new(Memory::default()), &ClockConfig::default());
    let mut window = SendWindow::new(WindowConfig::default(), 1);
    let mut suspects = Suspects::default();
    let mut session = Session::new(&publisher, &mut window, &mut suspects, Instant::now());
    let ack = |incarnation, plant_time| Ack {
        archive: ArchiveId([7; 16]),
        incarnation,
        received: None,
        committed: None,
        paused: false,
        plant_time: PlantTime(plant_time),
    };
    session.on_ack(&ack(2, TODAY - HOUR).encode(), false);
    assert!(!publisher.clock.look().trusted, "who knows how long the broker kept it");
    session.on_ack(&ack(1, TODAY - HOUR).encode(), true);
    assert!(!publisher.clock.look().trusted, "a replaced writer");
    session.on_ack(&ack(2, TODAY).encode(), true);
    let look = publisher.clock.look();
    assert_eq!((look.trusted, look.time), (true, PlantTime(TODAY)));
}
