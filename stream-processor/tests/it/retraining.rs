//! The whole loop in the embedded factory: the plant changes, accuracy falls, the fall is seen, a retraining starts, the gate
//! passes it, it is promoted and swapped in live, accuracy recovers. Without a trial in between: `canary.rs` is about those.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use edge_agent::source::simulator::{
    PlantChange,
    truth::{Degradation, Ending, degradations},
};
use model::{
    quality::{Known, Realised},
    registry::{self, Action, Entry},
    retrain::RetrainSettings,
    train::TrainSettings,
    trial::TrialSettings,
    trigger::TriggerSettings,
};
use proto::{
    asset::AssetId,
    time::PlantTime,
    wire::{
        alert::{
            Alert, AlertSource, AlertState, RecordEventRequest, StreamAlertsRequest,
            alert_service_client::AlertServiceClient, maintenance_service_client::MaintenanceServiceClient,
            stream_alerts_response::Event,
        },
        telemetry::{EventRecord, Verdict},
    },
};
use stream_processor::{
    embedded::{Factory, FactoryConfig, gateways::Plant},
    serve::board::ProcessorState,
    watch::ModelReport,
};
use tokio::time::{sleep, timeout};

use crate::factory::{config, wait_for_live};

const HISTORY_DAYS: u32 = 28;
const DAY_MS: i64 = 86_400_000;
/// Half a day in a second.
const SPEED: f64 = 43_200.0;
/// Days of the live plant before it changes, and up to which the truth is computed.
const CALM_DAYS: i64 = 4;
const TRUTH_DAYS: i64 = 400;
/// Of the alerts the crew looks after seven in ten.
const ACTS_ON: u64 = 7;
const LOOK: Duration = Duration::from_millis(500);
/// Far above what it takes; a test that hangs must end.
const STEP_MAX: Duration = Duration::from_secs(600);
const F1_MIN: f64 = 0.55;

fn live_start(plant: &Plant) -> PlantTime {
    plant.start.plus_millis(i64::from(HISTORY_DAYS) * DAY_MS)
}

fn changing_plant() -> Plant {
    let plant = Plant { interval_ms: 150_000, ..Plant::default() };
    let at = live_start(&plant).plus_millis(CALM_DAYS * DAY_MS);
    Plant { change: Some(PlantChange { at, hotter_c: 8.0, other_supplier: true }), ..plant }
}

fn retraining() -> RetrainSettings {
    let trigger = TriggerSettings { f1_min: F1_MIN, figures_days: 10.0, cool_down_hours: 96.0, ..Default::default() };
    let canary = TrialSettings { share: 0.0, ..TrialSettings::default() };
    RetrainSettings { window_days: 30.0, canary, trigger, ..RetrainSettings::default() }
}

/// Looks after some of the alerts and says what it finds: whether something was wrong with the machine.
struct Crew {
    faults: BTreeMap<String, Vec<Degradation>>,
}

impl Crew {
    fn of(plant: &Plant) -> Self {
        let until = plant.start.plus_millis(TRUTH_DAYS * DAY_MS);
        let mut faults: BTreeMap<String, Vec<Degradation>> = BTreeMap::new();
        for gateway in 0..plant.gateways.len() {
            for fault in degradations(&plant.simulator(gateway, plant.seed), until).unwrap() {
                faults.entry(fault.machine.to_string()).or_default().push(fault);
            }
        }
        Crew { faults }
    }

    fn finds_something(&self, alert: &Alert) -> bool {
        let at = PlantTime(alert.opened_ms);
        let goes_on = |fault: &Degradation| match fault.ending {
            Ending::Failed(end) | Ending::Recovered(end) => (fault.onset..=end).contains(&at),
            Ending::Open => fault.onset <= at,
        };
        self.faults.get(&alert.machine).is_some_and(|faults| faults.iter().any(goes_on))
    }

    async fn work(self, addr: String) {
        let mut alerts = AlertServiceClient::connect(addr.clone()).await.unwrap();
        let mut records = MaintenanceServiceClient::connect(addr).await.unwrap();
        let mut stream = alerts.stream_alerts(StreamAlertsRequest::default()).await.unwrap().into_inner();
        while let Ok(Some(response)) = stream.message().await {
            let Some(Event::Alert(alert)) = response.event else { continue };
            let opens = alert.state() == AlertState::Open && alert.updated_ms == alert.opened_ms;
            let share = u64::from_str_radix(&alert.id[..8], 16).unwrap_or(0) % 10;
            if !opens || alert.source() != AlertSource::Model || alert.provisional || share >= ACTS_ON {
                continue;
            }
            let verdict = if self.finds_something(&alert) { Verdict::Confirmed } else { Verdict::FalseAlarm };
            let event = EventRecord {
                machine: alert.machine.clone(),
                time_ms: alert.opened_ms,
                alert_id: alert.id.clone(),
                verdict: verdict.into(),
                author: "crew".into(),
                ..EventRecord::default()
            };
            let request = RecordEventRequest { event: Some(event), request_id: alert.id };
            // At a stop nobody answers any more.
            if records.record_event(request).await.is_err() {
                return;
            }
        }
    }
}

fn report(factory: &Factory) -> Option<Arc<ModelReport>> {
    factory.board.read().model.clone()
}

fn known(report: &ModelReport) -> Option<Known> {
    match report.figures.realised {
        Realised::Known(known) => Some(known),
        Realised::NotEnoughLabels { .. } => None,
    }
}

async fn until<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(STEP_MAX, async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            sleep(LOOK).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: not within {STEP_MAX:?}"))
}

async fn history(factory: &Factory) -> Vec<Entry> {
    registry::history(&factory.store, &AssetId::new("failure").unwrap()).await.unwrap()
}

/// When each step came, in plant days since the change and in wall time.
struct Log {
    changed: PlantTime,
    began: Instant,
}

impl Log {
    fn say(&self, factory: &Factory, step: &str) {
        let days = (factory.board.read().plant_time.millis() - self.changed.millis()) as f64 / DAY_MS as f64;
        println!("{:>7.1} s  {days:>+6.1} days  {step}", self.began.elapsed().as_secs_f64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_plant_is_seen_retrained_for_and_foreseen_again() {
    let folder = tempfile::tempdir().unwrap();
    let plant = changing_plant();
    println!("seed {}", plant.seed);
    let changed = live_start(&plant).plus_millis(CALM_DAYS * DAY_MS);
    let crew = Crew::of(&plant);
    let training = TrainSettings { rows_max: 12_000, epochs_max: 8, ..TrainSettings::default() };
    let settings =
        FactoryConfig { plant, training, retrain: retraining(), speed: SPEED, ..config(folder.path(), HISTORY_DAYS) };
    let log = Log { changed, began: Instant::now() };
    let factory = Factory::start(settings).await.unwrap();
    wait_for_live(&factory).await;
    let first = history(&factory).await.remove(0);
    log.say(&factory, &format!("live with {}", first.version));
    let crew = tokio::spawn(crew.work(format!("http://{}", factory.addresses.grpc)));

    let mut low: Option<Known> = None;
    let promoted = until("a retrained version is promoted", async || {
        let before = report(&factory).filter(|report| report.figures.version == first.version);
        low = before.and_then(|report| known(&report)).or(low);
        let entries = history(&factory).await;
        entries.into_iter().find(|e| e.action == Action::Promoted && e.version != first.version)
    })
    .await;
    assert!(factory.board.read().plant_time > changed, "not before the change");
    // Unknown where doubt was faster than thirty labels.
    let low = low.map_or(0.0, |known| known.f1.mean);
    log.say(&factory, &format!("seen: realised F1 {low:.2}"));
    log.say(&factory, &format!("promoted: {} by {}: {}", promoted.version, promoted.who, promoted.why));
    for refused in history(&factory).await.iter().filter(|e| e.action == Action::Refused) {
        println!("            refused before: {}: {}", refused.version, refused.why);
    }
    // Labels tell of the fall, or before them the version's own doubt on a plant that looks otherwise.
    let seen = ["realised F1 is", "estimated F1 is"].iter().any(|cause| promoted.why.starts_with(cause));
    assert!(seen && promoted.previous.as_ref() == Some(&first.version), "{promoted:?}");

    until("it is swapped in", async || {
        let live = ProcessorState::Live { model_version: promoted.version.clone() };
        (factory.board.read().state == live).then_some(())
    })
    .await;
    log.say(&factory, "swapped in live");

    let high = until("accuracy recovers", async || {
        let report = report(&factory)?;
        known(&report).filter(|known| report.figures.version == promoted.version && known.f1.mean > low + 0.1)
    })
    .await;
    log.say(&factory, &format!("recovered: realised F1 {:.2} [{:.2}, {:.2}]", high.f1.mean, high.f1.low, high.f1.high));

    factory.stop().await.unwrap();
    crew.abort();
}
