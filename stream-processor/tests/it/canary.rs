//! Versions on trial in the embedded factory, each to its end: one that alarms everywhere and one that can't score are taken
//! back by themselves, one that nothing speaks against is put in charge.

use std::{collections::BTreeSet, time::Duration};

use model::{
    artifact::{Artifact, Golden, Head, Origin},
    calibration::Calibration,
    features::{FeatureConfig, FeatureSchema},
    forward::{Dense, Encoder, Network},
    gate::Comparison,
    registry::{self, Action, Decision, Entry, canary},
    trial::Trial,
};
use polars::prelude::DataType;
use proto::{
    archive::{Table, column},
    asset::AssetId,
    wire::alert::{
        AlertSource, StreamAlertsRequest, alert_service_client::AlertServiceClient, stream_alerts_response::Event,
    },
};
use stream_processor::{
    embedded::{Factory, FactoryConfig},
    serve::board::ProcessorState,
};
use tokio::time::{sleep, timeout};

use crate::{
    archive,
    factory::{config, wait_for_live},
};

/// An hour in a tenth of a second.
const SPEED: f64 = 36_000.0;
const SHARE: f64 = 0.3;
const LOOK: Duration = Duration::from_millis(100);
/// Far above what it takes; a test that hangs must end.
const STEP_MAX: Duration = Duration::from_secs(300);
const NEVER: f64 = 0.999_999;
const ALWAYS: f64 = 1e-6;

fn id(name: &str) -> AssetId {
    AssetId::new(name).unwrap()
}

/// One layer without weights but these, by the feature's name; another threshold is another version.
fn artifact(threshold: f64, weights: &[(&str, f32)]) -> Artifact {
    let config = FeatureConfig::default();
    let names = FeatureSchema::of(&config).names;
    let encoder = Encoder { kinds: vec![id("press")], mean: vec![0.0; names.len()], std: vec![1.0; names.len()] };
    let of_name = |name: &String| weights.iter().find(|(of, _)| of == name).map_or(0.0, |(_, weight)| *weight);
    let row: Vec<f32> = names.iter().map(of_name).chain([0.0]).collect();
    let modes = ["bearing_wear", "overheating", "imbalance"];
    let dense =
        Dense { inputs: encoder.width(), outputs: modes.len(), weight: row.repeat(modes.len()), bias: vec![0.0; 3] };
    let head =
        |mode: &&str| Head { mode: (*mode).into(), calibration: Calibration::IDENTITY, calibrated: true, threshold };
    let mut artifact = Artifact {
        config,
        horizon_ms: 3_600_000,
        encoder,
        network: Network::new(vec![dense]).unwrap(),
        heads: modes.iter().map(head).collect(),
        golden: vec![],
        origin: Origin::default(),
    };
    let features = vec![0.0; names.len()];
    let probabilities = artifact.probabilities(&artifact.logits(&id("press"), &features));
    artifact.golden = vec![Golden { kind: id("press"), features, probabilities }];
    artifact
}

/// Fine on its golden row; on a machine that runs it adds up what has no sum.
fn speechless() -> Artifact {
    artifact(0.5, &[("temperature.mean", 3e38), ("rotation_speed.mean", -3e38)])
}

struct Registry<'a>(&'a Factory);

impl Registry<'_> {
    fn name() -> AssetId {
        id("failure")
    }

    fn decision() -> Decision {
        Decision { who: "somebody".into(), why: "a test".into(), when_ms: 0 }
    }

    async fn publish(&self, artifact: &Artifact) -> String {
        let version = artifact.version().unwrap();
        registry::publish(&self.0.store, &Self::name(), &version, artifact.encode().unwrap().into()).await.unwrap();
        version
    }

    async fn promote(&self, version: &str) {
        registry::promote(&self.0.store, &Self::name(), version, Self::decision()).await.unwrap();
    }

    /// As a version that the gate let pass, because it was as calm as any there.
    async fn passed_the_gate(&self, version: &str) {
        let events = serde_json::json!({ "failures": 40.0, "caught": 36.0, "false_alarms": 4.0 });
        let between = serde_json::json!({ "mean": 0.0, "low": -0.01, "high": 0.01 });
        let comparison = serde_json::json!({
            "champion": "the one before", "challenger": version, "from": 0, "until": 86_400_000, "windows": 1_000_000, "episodes": 80,
            "all": { "champion": events, "challenger": events, "difference": between },
            "kinds": [], "modes": [], "calibration_error": [0.01, 0.01], "latency_us": 10.0, "baselines": [], "golden": null,
            "verdict": { "decision": "promote" },
        });
        let comparison: Comparison = serde_json::from_value(comparison).unwrap();
        let json = serde_json::to_vec(&comparison).unwrap();
        let (store, name) = (&self.0.store, Self::name());
        registry::publish_beside(store, &name, version, registry::COMPARISON_FILE, json.into()).await.unwrap();
    }

    async fn try_beside(&self, version: &str, probation_hours: f64) {
        let trial = Trial { version: version.into(), share: SHARE };
        let (store, name) = (&self.0.store, Self::name());
        canary::try_beside(store, &name, trial, Some(probation_hours), None, Self::decision()).await.unwrap();
    }

    /// The pointer once nothing is on trial any more.
    async fn ended(&self) -> Entry {
        let ended = async {
            loop {
                let pointer = registry::champion(&self.0.store, &Self::name()).await.unwrap().unwrap();
                if pointer.canary.is_none() {
                    return pointer;
                }
                sleep(LOOK).await;
            }
        };
        timeout(STEP_MAX, ended).await.expect("the trial ends in time")
    }
}

async fn until_live_with(factory: &Factory, version: &str) {
    let live = ProcessorState::Live { model_version: version.into() };
    let reached = async {
        while factory.board.read().state != live {
            sleep(LOOK).await;
        }
    };
    timeout(STEP_MAX, reached).await.expect("in charge in time");
}

/// Machine, version and role of everything that the archive says was scored.
async fn scored(factory: &Factory) -> BTreeSet<(String, String, String)> {
    let mut rows = BTreeSet::new();
    let manifests = archive::manifests(&factory.store).await;
    for frame in archive::table(&factory.store, &manifests, Table::Predictions).await {
        let texts = [column::MACHINE, column::MODEL_VERSION, column::ROLE]
            .map(|name| frame.column(name).unwrap().cast(&DataType::String).unwrap());
        let text = |column: &polars::prelude::Column, row| column.str().unwrap().get(row).unwrap().to_owned();
        let [machine, version, role] = &texts;
        rows.extend((0..frame.height()).map(|row| (text(machine, row), text(version, row), text(role, row))));
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_ends_by_itself_as_what_it_has_shown() {
    let folder = tempfile::tempdir().unwrap();
    let settings = FactoryConfig { speed: SPEED, ..config(folder.path(), 1) };
    let factory = Factory::start(settings).await.unwrap();
    wait_for_live(&factory).await;
    let registry = Registry(&factory);
    let quiet = registry.publish(&artifact(NEVER, &[])).await;
    registry.promote(&quiet).await;
    until_live_with(&factory, &quiet).await;
    let mut client = AlertServiceClient::connect(format!("http://{}", factory.addresses.grpc)).await.unwrap();
    let mut alerts = client.stream_alerts(StreamAlertsRequest::default()).await.unwrap().into_inner();
    let heard = tokio::spawn(async move {
        let mut heard = BTreeSet::new();
        while let Ok(Some(response)) = alerts.message().await {
            match response.event {
                Some(Event::Alert(a)) if a.source() == AlertSource::Model => {
                    heard.insert((a.machine, a.model_version));
                }
                _ => {}
            }
        }
        heard
    });

    let wild = registry.publish(&artifact(ALWAYS, &[])).await;
    registry.passed_the_gate(&wild).await;
    registry.try_beside(&wild, 10_000.0).await;
    let back = registry.ended().await;
    println!("{wild} was taken back: {}", back.why);
    assert_eq!(
        (back.action, back.version.as_str(), back.who.as_str()),
        (Action::TakenBack, quiet.as_str(), "processor")
    );
    assert!(back.why.starts_with("it alerts ") && back.previous.as_ref() == Some(&wild), "{back:?}");

    let broken = registry.publish(&speechless()).await;
    registry.try_beside(&broken, 10_000.0).await;
    let back = registry.ended().await;
    println!("{broken} was taken back: {}", back.why);
    assert_eq!((back.action, back.previous.as_ref()), (Action::TakenBack, Some(&broken)));
    assert!(back.why.starts_with("it could not score "), "{back:?}");

    let good = registry.publish(&artifact(NEVER / 1.01, &[])).await;
    registry.try_beside(&good, 12.0).await;
    let champion = registry.ended().await;
    println!("{good} is in charge: {}", champion.why);
    assert_eq!((champion.action, champion.version.as_str()), (Action::Promoted, good.as_str()));
    assert!(champion.why.ends_with("; a test") && champion.previous.as_ref() == Some(&quiet), "{champion:?}");
    until_live_with(&factory, &good).await;
    let metrics = factory.exporter.text();
    let told = scored(&factory).await;
    factory.stop().await.unwrap();

    let alerted = heard.await.unwrap();
    let on_trial = |machine: &str| id(machine).fraction() < SHARE;
    assert!(!alerted.is_empty());
    assert!(alerted.iter().all(|(machine, by)| *by == wild && on_trial(machine)), "{alerted:?}");
    let roles = |version: &str| -> BTreeSet<_> {
        told.iter().filter(|(_, by, _)| by == version).map(|(m, _, role)| (on_trial(m), role.as_str())).collect()
    };
    // The version in charge decides everywhere, and is scored beside a canary where that one decides.
    assert_eq!(roles(&quiet), [(false, "champion"), (true, "champion"), (true, "shadow")].into());
    assert_eq!(roles(&wild), [(true, "canary")].into());
    // It has a score for machines that stand still.
    assert!(roles(&broken).iter().all(|role| *role == (true, "canary")), "{:?}", roles(&broken));
    assert!(roles(&good).contains(&(true, "canary")) && !roles(&good).contains(&(false, "canary")));
    let unscored = format!("millwright_windows_unscored_total{{version=\"{broken}\"}}");
    assert!(metrics.contains(&unscored), "{metrics}");
}
