//! The whole loop in the embedded factory: the plant changes, accuracy falls, the fall is seen, a retraining starts, the gate
//! passes it, it is promoted and swapped in live, accuracy recovers. Without a trial in between: `canary.rs` is about those.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use edge_agent::source::simulator::truth::{Degradation, Ending, degradations};
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
            Alert, AlertSource, RecordEventRequest, StreamAlertsRequest, alert_service_client::AlertServiceClient,
            maintenance_service_client::MaintenanceServiceClient, stream_alerts_response::Event,
        },
        telemetry::{EventRecord, Verdict},
    },
};
use stream_processor::{
    embedded::{Factory, FactoryConfig, gateways::Plant},
    serve::board::ProcessorState,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, transport::Channel};

use crate::factory::{config, wait_for_live};

/// What the first version is made of: of fewer days some modes have too few failures to learn from.
const HISTORY_DAYS: u32 = 42;
const DAY_MS: i64 = 86_400_000;
/// Half a day in a second.
const SPEED: f64 = 43_200.0;
/// Days of the live plant before it changes, more than the figures look back; and up to which the truth is computed.
const CALM_DAYS: i64 = 12;
const FIGURES_DAYS: f64 = 10.0;
const TRUTH_DAYS: i64 = 400;
/// Much less than the calm, so that a plant that is not well would be retrained for.
const COOL_DOWN_HOURS: f64 = 48.0;
/// Of what is newest a retraining learns from so much: most of it is soon of the changed plant.
const WINDOW_DAYS: f64 = 40.0;
/// Of ten alerts the crew looks after so many.
const ACTS_ON: u64 = 7;
const LOOK: Duration = Duration::from_millis(500);
const TELL_AGAIN: Duration = Duration::from_millis(50);
/// Far above what it takes; a test that hangs must end.
const STEP_MAX: Duration = Duration::from_secs(600);

fn changing_plant() -> (Plant, PlantTime) {
    let plant = Plant { interval_ms: 150_000, ..Plant::default() };
    let changed = plant.start.plus_millis((i64::from(HISTORY_DAYS) + CALM_DAYS) * DAY_MS);
    (plant.changing(Some(changed)), changed)
}

fn retraining() -> RetrainSettings {
    let (figures_days, cool_down_hours) = (FIGURES_DAYS, COOL_DOWN_HOURS);
    let trigger = TriggerSettings { figures_days, cool_down_hours, ..TriggerSettings::default() };
    let canary = TrialSettings { share: 0.0, ..TrialSettings::default() };
    RetrainSettings { window_days: WINDOW_DAYS, canary, trigger, ..RetrainSettings::default() }
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
        let records = MaintenanceServiceClient::connect(addr).await.unwrap();
        let mut stream = alerts.stream_alerts(StreamAlertsRequest::default()).await.unwrap().into_inner();
        // Each is answered after its commit, which takes hours of this plant: one after the other would be ever later.
        let (mut met, mut reports) = (BTreeSet::new(), JoinSet::new());
        while let Ok(Some(response)) = stream.message().await {
            let Some(Event::Alert(alert)) = response.event else { continue };
            // Told once more after its commit; by then it may have changed, or closed.
            if alert.source() != AlertSource::Model || alert.provisional || !met.insert(alert.id.clone()) {
                continue;
            }
            let share = u64::from_str_radix(&alert.id[..8], 16).unwrap() % 10;
            if share < ACTS_ON {
                reports.spawn(tell(records.clone(), self.verdict(&alert)));
            }
        }
    }

    fn verdict(&self, alert: &Alert) -> RecordEventRequest {
        let verdict = if self.finds_something(alert) { Verdict::Confirmed } else { Verdict::FalseAlarm };
        let event = EventRecord {
            machine: alert.machine.clone(),
            time_ms: alert.opened_ms,
            alert_id: alert.id.clone(),
            verdict: verdict.into(),
            author: "crew".into(),
            ..EventRecord::default()
        };
        RecordEventRequest { event: Some(event), request_id: alert.id.clone() }
    }
}

/// Until it is taken: an archive that is busy asks to be told again.
async fn tell(mut records: MaintenanceServiceClient<Channel>, request: RecordEventRequest) {
    while let Err(status) = records.record_event(request.clone()).await {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        sleep(TELL_AGAIN).await;
    }
}

/// None: another version is in charge, or there are too few labels of this one.
fn known_of(factory: &Factory, version: &str) -> Option<Known> {
    let report = factory.board.read().model.clone().filter(|report| report.figures.version == version)?;
    match report.figures.realised {
        Realised::Known(known) => Some(known),
        Realised::NotEnoughLabels { .. } => None,
    }
}

fn figure(known: &Known) -> String {
    let Known { resolved, f1, .. } = known;
    format!("realised F1 {:.2} [{:.2}, {:.2}] of {resolved} episodes", f1.mean, f1.low, f1.high)
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
    let (plant, changed) = changing_plant();
    println!("seed {}", plant.seed);
    let crew = Crew::of(&plant);
    let training = TrainSettings { rows_max: 12_000, epochs_max: 8, ..TrainSettings::default() };
    let retrain = retraining();
    let f1_min = retrain.trigger.f1_min;
    let settings = FactoryConfig { plant, training, retrain, speed: SPEED, ..config(folder.path(), HISTORY_DAYS) };
    let log = Log { changed, began: Instant::now() };
    let factory = Factory::start(settings).await.unwrap();
    wait_for_live(&factory).await;
    let first = history(&factory).await.remove(0);
    log.say(&factory, &format!("live with {}", first.version));
    let crew = tokio::spawn(crew.work(format!("http://{}", factory.addresses.grpc)));

    let mut before = None;
    until("the plant changes", async || {
        before = known_of(&factory, &first.version).or(before);
        (factory.board.read().plant_time >= changed).then_some(())
    })
    .await;
    let before = before.expect("thirty labels");
    log.say(&factory, &format!("the plant changes: until now {}", figure(&before)));
    assert!(before.f1.low > f1_min, "surely good before the change: {before:?}");
    assert_eq!(history(&factory).await.len(), 1, "no run before the change");

    let (mut low, mut falls, mut doing) = (before, false, String::new());
    let promoted = until("a retrained version is promoted", async || {
        low = known_of(&factory, &first.version).unwrap_or(low);
        if low.f1.high < f1_min && !std::mem::replace(&mut falls, true) {
            log.say(&factory, &format!("surely too low: {}", figure(&low)));
        }
        let now = factory.status().borrow().detail.clone();
        if now != doing {
            log.say(&factory, if now.is_empty() { "the run has ended" } else { &now });
            doing = now;
        }
        let entries = history(&factory).await;
        entries.into_iter().find(|e| e.action == Action::Promoted && e.version != first.version)
    })
    .await;
    for refused in history(&factory).await.iter().filter(|e| e.action == Action::Refused) {
        println!("            refused before: {}: {}", refused.version, refused.why);
    }
    log.say(&factory, &format!("promoted: {} by {}: {}", promoted.version, promoted.who, promoted.why));
    assert!(falls && low.f1.high < f1_min, "the fall was seen: {low:?}");
    // Labels tell of the fall, or before them the version's own doubt on a plant that looks otherwise.
    let caused = ["realised F1 is", "estimated F1 is"].iter().any(|cause| promoted.why.starts_with(cause));
    assert!(caused && promoted.previous.as_ref() == Some(&first.version), "{promoted:?}");

    until("it is swapped in", async || {
        let live = ProcessorState::Live { model_version: promoted.version.clone() };
        (factory.board.read().state == live).then_some(())
    })
    .await;
    log.say(&factory, "swapped in live");

    let after = until("accuracy recovers", async || {
        known_of(&factory, &promoted.version).filter(|known| known.f1.low > f1_min)
    })
    .await;
    log.say(&factory, &format!("recovered: {}", figure(&after)));

    factory.stop().await.unwrap();
    crew.abort();
}
