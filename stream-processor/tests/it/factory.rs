//! The embedded factory as a user starts it, only with less history.

use std::{collections::BTreeSet, time::Duration};

use edge_agent::source::{
    Item, Source,
    simulator::{Mode, ScriptedFault, Simulator, truth},
};
use model::store::{S3Config, Store};
use polars::prelude::{DataFrame, DataType};
use proto::{
    archive::{Table, column},
    time::PlantTime,
    wire::{
        alert::{
            Alert, AlertSource, AlertState, StreamAlertsRequest, alert_service_client::AlertServiceClient,
            stream_alerts_response::Event,
        },
        telemetry::Quality,
    },
};
use stream_processor::embedded::{
    BUCKET, Factory, FactoryConfig,
    gateways::Plant,
    s3::{Keys, S3Server},
    state::{Phase, State},
};
use tokio::time::timeout;

use crate::archive::{self, Readings, assert_same, canonical_bits, count};

const HISTORY_DAYS: u32 = 42;
const DAY_MS: i64 = 86_400_000;
/// Far above what it takes; a test that hangs must end.
const LIVE_MAX: Duration = Duration::from_secs(900);
const ALERT_MAX: Duration = Duration::from_secs(300);

pub fn config(data: &std::path::Path, history_days: u32) -> FactoryConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    FactoryConfig { data: data.into(), mqtt: any, s3: any, grpc: any, http: any, history_days, ..Default::default() }
}

/// A machine that stays healthy, and one whose bearing begins to wear soon after going live.
fn plant() -> (Plant, String, String) {
    let mut plant = Plant::default();
    plant.gateways[0][0].healthy = true;
    plant.gateways[1][1].healthy = true;
    let live = plant.start.plus_millis(i64::from(HISTORY_DAYS) * DAY_MS);
    let worn = plant.gateways[1][1].id.clone();
    plant.scripted.push(ScriptedFault {
        machine: worn.clone(),
        mode: Mode::BearingWear,
        onset: live.plus_millis(3_600_000),
    });
    let healthy = plant.gateways[0][0].id.to_string();
    (plant, healthy, worn.to_string())
}

pub async fn wait_for_live(factory: &Factory) {
    let mut status = factory.status();
    let live = status.wait_for(|s| s.phase == Phase::Live || s.failed.is_some());
    let reached = timeout(LIVE_MAX, live).await.expect("live in time").unwrap().clone();
    assert_eq!(reached.failed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_raises_its_alert_before_the_failure_and_every_reading_is_archived_once() {
    let folder = tempfile::tempdir().unwrap();
    let (plant, healthy, worn) = plant();
    let factory =
        Factory::start(FactoryConfig { plant: plant.clone(), ..config(folder.path(), HISTORY_DAYS) }).await.unwrap();
    wait_for_live(&factory).await;

    let mut client = AlertServiceClient::connect(format!("http://{}", factory.addresses.grpc)).await.unwrap();
    let mut alerts = client.stream_alerts(StreamAlertsRequest::default()).await.unwrap().into_inner();
    let of_model = |a: &Alert| a.machine == worn && a.source() == AlertSource::Model && a.state() == AlertState::Open;
    let right = |a: &Alert| of_model(a) && a.mode == "bearing_wear";
    let mut others = Vec::new();
    let alert = timeout(ALERT_MAX, async {
        loop {
            let event = alerts.message().await.unwrap().expect("the stream goes on").event;
            match event {
                Some(Event::Alert(alert)) if right(&alert) => return alert,
                Some(Event::Alert(alert)) if alert.machine == worn => {
                    others.push((alert.mode, alert.source, alert.state, alert.probability));
                }
                _ => {}
            }
        }
    });
    let alert = alert.await;
    let alert = alert.unwrap_or_else(|_| panic!("no alert of the model for {worn}, but {others:?}"));
    println!("alert: {} at {}", alert.summary, PlantTime(alert.opened_ms));
    assert!((0.0..=1.0).contains(&alert.probability) && !alert.contributions.is_empty() && !alert.action.is_empty());

    evaluate(folder.path()).await;
    let exporter = factory.exporter.clone();
    factory.stop().await.unwrap();
    let failure = failure_of(&plant, &worn);
    assert!(alert.opened_ms < failure.millis(), "opened {}, failed {failure}", PlantTime(alert.opened_ms));

    // What is archived is read back through a fresh endpoint on the same folder, by its S3 API.
    let state = State::load(folder.path()).unwrap().unwrap();
    let keys = Keys { access: "millwright".into(), secret: state.secret.clone() };
    let server = S3Server::start(folder.path(), "127.0.0.1:0".parse().unwrap(), BUCKET, &keys).await.unwrap();
    let bucket = S3Config::with_keys(&format!("http://{}", server.addr), BUCKET, &keys.access, &keys.secret);
    let store = Store::open(&bucket).await.unwrap();
    let manifests = archive::manifests(&store).await;
    let archived = archive::readings(&store, &manifests).await;
    assert_same(&sent(&plant, &archived), &archived);

    let balance: u64 = manifests.iter().map(|m| m.balance.readings_archived).sum();
    let taken: u64 = manifests.iter().map(|m| m.balance.readings_taken).sum();
    let dead: u64 = manifests.iter().map(|m| m.balance.readings_dead_lettered).sum();
    assert_eq!(balance, count(&archived) as u64);
    assert_eq!((taken, dead), (balance, 0));
    assert!(archive::table(&store, &manifests, Table::DeadLetter).await.is_empty());
    let alerted = machines_with_alerts(&archive::table(&store, &manifests, Table::Alerts).await);
    assert!(alerted.contains(&worn) && !alerted.contains(&healthy), "{healthy} stays healthy: {alerted:?}");
    assert_eq!(metric(&exporter.text(), "millwright_readings_archived_total"), balance as f64);
    assert_eq!(metric(&exporter.text(), "millwright_readings_received_total"), taken as f64);
    server.stop().await;
}

/// As the README says it, while the factory runs.
async fn evaluate(data: &std::path::Path) {
    let program = || std::process::Command::new(env!("CARGO_BIN_EXE_stream-processor"));
    let truth = data.join("truth.jsonl");
    let mut command = program();
    command.args(["truth", "--data"]).arg(data);
    std::fs::write(&truth, output(command).await).unwrap();
    let mut command = program();
    command.args(["model", "evaluate", "--config"]).arg(data.join("model.toml")).arg("--truth").arg(&truth);
    let table = output(command).await;
    for part in ["bearing_wear", "mlp", "logistic regression", "single sensor", "always no", "oracle"] {
        assert!(table.contains(part), "{table}");
    }
}

async fn output(mut command: std::process::Command) -> String {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = timeout(LIVE_MAX, run).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Of the model; rules speak before there is one.
fn machines_with_alerts(alerts: &[DataFrame]) -> BTreeSet<String> {
    let of_frame = |frame: &DataFrame| {
        let text = |name| frame.column(name).unwrap().cast(&DataType::String).unwrap();
        let (machine, source) = (text(column::MACHINE), text(column::SOURCE));
        let rows = machine.str().unwrap().iter().zip(source.str().unwrap().iter());
        rows.filter(|(_, source)| *source == Some("model")).filter_map(|(m, _)| m.map(String::from)).collect::<Vec<_>>()
    };
    alerts.iter().flat_map(of_frame).collect()
}

/// When the scripted fault ends in its failure, by the simulator's own record.
fn failure_of(plant: &Plant, machine: &str) -> PlantTime {
    let until = plant.start.plus_millis(i64::from(HISTORY_DAYS + 30) * DAY_MS);
    let log = truth::degradations(&plant.simulator(1, plant.seed), until).unwrap();
    let failure = log.iter().filter(|d| d.machine.as_str() == machine).find_map(|d| match d.ending {
        truth::Ending::Failed(at) => Some(at),
        _ => None,
    });
    failure.expect("a scripted fault fails")
}

/// The simulators once more, up to the last reading that each gateway has in the archive.
fn sent(plant: &Plant, archived: &Readings) -> Readings {
    let mut sent = Readings::new();
    for gateway in 0..plant.gateways.len() {
        let config = plant.simulator(gateway, plant.seed);
        let mut simulator = Simulator::new(&config, None).unwrap();
        let machines = simulator.machines();
        let here = |machine: &str| machines.iter().any(|m| m.machine == machine);
        let last = archived.iter().filter(|((m, _), _)| here(m)).filter_map(|(_, c)| c.last()).map(|(t, _)| *t).max();
        let last = PlantTime(last.expect("every gateway has readings"));
        let mut items = Vec::new();
        while simulator.poll(last, 100_000, &mut items).unwrap() {}
        for item in items {
            let Item::Sample(sample) = item else { continue };
            let info = machines.iter().find(|m| m.machine == sample.machine.as_str()).unwrap();
            for (sensor, reading) in info.sensors.iter().zip(&sample.values) {
                if reading.quality != Quality::Absent {
                    let key = (info.machine.clone(), sensor.sensor.clone());
                    sent.entry(key).or_default().push((sample.time.millis(), canonical_bits(reading.value)));
                }
            }
        }
    }
    sent
}

/// The sum of a metric's series.
fn metric(text: &str, name: &str) -> f64 {
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()).unwrap();
    text.lines().filter(of).map(value).sum()
}
