//! Versions and the pointer, against a real endpoint over HTTP.

use std::{net::SocketAddr, time::Duration};

use model::{
    artifact::{Artifact, Golden, Head, Origin},
    calibration::Calibration,
    features::{FeatureConfig, FeatureSchema},
    forward::{Dense, Encoder, Network},
    registry::{self, Action, Canary, Decision, Entry, RegistryError, canary},
    store::{S3Config, Store},
    trial::Trial,
};
use proto::{archive::champion_key, asset::AssetId};
use stream_processor::{
    embedded::s3::{Keys, S3Server},
    processor::{champion, models::Offer},
    stream::{Loaded, schedule::Charge},
    telemetry::{Exporter, models_refused},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// Between two looks at the pointer, and at the counter.
const LOOK: Duration = Duration::from_millis(20);
/// Far above what it takes; a test that hangs must end.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn name(name: &str) -> AssetId {
    AssetId::new(name).unwrap()
}

async fn endpoint(folder: &std::path::Path) -> (S3Server, Store) {
    let keys = Keys { access: "access".into(), secret: "secret".into() };
    let server = S3Server::start(folder, SocketAddr::from(([127, 0, 0, 1], 0)), "factory", &keys).await.unwrap();
    let config = S3Config::with_keys(&format!("http://{}", server.addr), "factory", "access", "secret");
    let store = Store::open(&config).await.unwrap();
    (server, store)
}

/// One layer; versions differ by their threshold.
fn artifact(threshold: f64) -> Artifact {
    artifact_for(FeatureConfig::default(), threshold)
}

fn artifact_for(config: FeatureConfig, threshold: f64) -> Artifact {
    let features = FeatureSchema::of(&config).names.len();
    let encoder = Encoder { kinds: vec![name("press")], mean: vec![0.0; features], std: vec![1.0; features] };
    let weight = (0..encoder.width()).map(|i| (i % 7) as f32 / 70.0).collect();
    let dense = Dense { inputs: encoder.width(), outputs: 1, weight, bias: vec![0.1] };
    let mut artifact = Artifact {
        config,
        horizon_ms: 1,
        encoder,
        network: Network::new(vec![dense]).unwrap(),
        heads: vec![Head { mode: "slip".into(), calibration: Calibration::IDENTITY, calibrated: true, threshold }],
        golden: vec![],
        origin: Origin::default(),
    };
    let row = vec![0.5; features];
    let probabilities = artifact.probabilities(&artifact.logits(&name("press"), &row));
    artifact.golden = vec![Golden { kind: name("press"), features: row, probabilities }];
    artifact
}

async fn publish(store: &Store, threshold: f64) -> String {
    publish_artifact(store, &artifact(threshold)).await
}

async fn publish_artifact(store: &Store, artifact: &Artifact) -> String {
    let version = artifact.version().unwrap();
    registry::publish(store, &name("failure"), &version, artifact.encode().unwrap().into()).await.unwrap();
    version
}

fn decided_by(who: &str) -> Decision {
    Decision { who: who.into(), why: "a test".into(), when_ms: 5 }
}

#[tokio::test]
async fn what_is_published_and_promoted_is_what_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    assert!(registry::champion(&store, &model).await.unwrap().is_none());
    assert!(registry::load_champion(&store, &model).await.unwrap().is_none());
    let (one, two) = (publish(&store, 0.3).await, publish(&store, 0.4).await);
    registry::promote(&store, &model, &one, decided_by("ann")).await.unwrap();
    let champion = registry::promote(&store, &model, &two, decided_by("bob")).await.unwrap();
    assert_eq!((champion.previous.as_ref(), champion.who.as_str()), (Some(&one), "bob"));
    assert_eq!(registry::load_champion(&store, &model).await.unwrap().unwrap().version(), two);
    assert_eq!(registry::load(&store, &model, &one).await.unwrap().heads()[0].threshold, 0.3);
}

#[tokio::test]
async fn what_is_missing_or_not_what_it_says_is_never_put_in_charge() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let version = publish(&store, 0.3).await;
    let missing = registry::promote(&store, &model, "0123456789ab", decided_by("ann")).await.unwrap_err();
    assert!(matches!(missing, RegistryError::Missing { .. }), "{missing}");
    let other = artifact(0.4).encode().unwrap();
    registry::publish(&store, &model, "0123456789ab", other.into()).await.unwrap();
    let lie = registry::promote(&store, &model, "0123456789ab", decided_by("ann")).await.unwrap_err();
    assert!(matches!(lie, RegistryError::Artifact { .. }), "{lie}");
    assert!(registry::champion(&store, &model).await.unwrap().is_none());
    // A second publication changes nothing.
    registry::publish(&store, &model, &version, bytes::Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(registry::load(&store, &model, &version).await.unwrap().version(), version);
}

#[tokio::test]
async fn of_those_who_promote_at_once_each_follows_another_or_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let mut versions = Vec::new();
    for i in 1..=6 {
        versions.push(publish(&store, f64::from(i) / 10.0).await);
    }
    let promoting = versions.iter().map(|version| registry::promote(&store, &model, version, decided_by(version)));
    let outcomes = futures::future::join_all(promoting).await;
    let (mut promoted, mut told) = (Vec::<Entry>::new(), 0);
    for outcome in outcomes {
        match outcome {
            Ok(champion) => promoted.push(champion),
            Err(RegistryError::Conflict { .. }) => told += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((promoted.len() + told, promoted.is_empty()), (versions.len(), false));
    // Nobody's promotion was overwritten unseen: no two stand on the same one.
    let mut before: Vec<_> = promoted.iter().map(|c| c.previous.clone()).collect();
    before.sort();
    before.dedup();
    assert_eq!(before.len(), promoted.len(), "{promoted:?}");
    assert!(promoted.contains(&registry::champion(&store, &model).await.unwrap().unwrap()));
}

#[tokio::test]
async fn every_decision_is_in_the_history_even_if_its_writer_died_before_it_was_filed() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let (one, two, three) = (publish(&store, 0.3).await, publish(&store, 0.4).await, publish(&store, 0.5).await);
    // As a writer leaves it that dies right after the pointer.
    let died = Entry {
        number: 1,
        action: Action::Promoted,
        version: one.clone(),
        previous: None,
        who: "ann".into(),
        why: "first".into(),
        when_ms: 3,
        metrics: vec![],
        canary: None,
    };
    store.put(&champion_key(&model), serde_json::to_vec(&died).unwrap().into()).await.unwrap();
    assert_eq!(registry::history(&store, &model).await.unwrap(), std::slice::from_ref(&died));
    let told = |e: &Entry| (e.number, e.action, e.version.clone(), e.previous.clone());

    registry::promote(&store, &model, &two, decided_by("bob")).await.unwrap();
    registry::refuse(&store, &model, &three, decided_by("the gate")).await.unwrap();
    registry::refuse(&store, &model, "0123456789ab", decided_by("the gate")).await.unwrap();
    registry::rollback(&store, &model, None, decided_by("cid")).await.unwrap();
    let history = registry::history(&store, &model).await.unwrap();
    assert_eq!(history[0], died);
    let (one, two, three) = (one.clone(), two.clone(), three.clone());
    let expected = [
        (1, Action::Promoted, one.clone(), None),
        (2, Action::Promoted, two.clone(), Some(one.clone())),
        (2, Action::Refused, "0123456789ab".into(), Some(two.clone())),
        (2, Action::Refused, three, Some(two.clone())),
        (3, Action::RolledBack, one.clone(), Some(two.clone())),
    ];
    assert_eq!(history.iter().map(told).collect::<Vec<_>>(), expected);
    let nothing = registry::rollback(&store, &model, None, decided_by("cid")).await.unwrap_err();
    assert!(matches!(nothing, RegistryError::NothingBefore { .. }), "{nothing}");
}

#[tokio::test]
async fn a_promotion_over_a_version_that_is_no_longer_in_charge_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let (one, two, three) = (publish(&store, 0.3).await, publish(&store, 0.4).await, publish(&store, 0.5).await);
    let none = registry::promote_over(&store, &model, &two, &one, decided_by("ann")).await.unwrap_err();
    assert!(none.to_string().starts_with("none is in charge of failure and not"), "{none}");
    registry::promote(&store, &model, &one, decided_by("ann")).await.unwrap();
    registry::promote_over(&store, &model, &two, &one, decided_by("bob")).await.unwrap();
    let late = registry::promote_over(&store, &model, &three, &one, decided_by("cid")).await.unwrap_err();
    assert!(matches!(&late, RegistryError::Overtaken { found, .. } if *found == Some(two.clone())), "{late}");
    assert_eq!(registry::champion(&store, &model).await.unwrap().unwrap().version, two);
}

fn trial(version: &str, share: f64) -> Trial {
    Trial { version: version.into(), share }
}

#[tokio::test]
async fn a_trial_stands_beside_the_version_in_charge_and_ends_in_charge_or_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let (one, two, three) = (publish(&store, 0.3).await, publish(&store, 0.4).await, publish(&store, 0.5).await);
    let tried = async |version: &str, share: f64, over: Option<&str>| {
        canary::try_beside(&store, &model, trial(version, share), Some(72.0), over, decided_by("ann")).await
    };
    let nothing = tried(&one, 0.2, None).await.unwrap_err();
    assert!(matches!(nothing, RegistryError::NothingInCharge { .. }), "{nothing}");
    registry::promote(&store, &model, &one, decided_by("ann")).await.unwrap();
    for (version, share) in [(&one, 0.2), (&two, 1.0), (&two, -0.1), (&two, f64::NAN)] {
        let refused = tried(version, share, None).await.unwrap_err();
        assert!(matches!(refused, RegistryError::NoTrial { .. }), "{refused}");
    }
    let overtaken = tried(&two, 0.2, Some(&three)).await.unwrap_err();
    assert!(matches!(overtaken, RegistryError::Overtaken { .. }), "{overtaken}");
    let idle = canary::finish(&store, &model, None, decided_by("ann")).await.unwrap_err();
    assert_eq!(idle.to_string(), "nothing of failure is on trial");

    // Taken back by the first rollback; the second one is of what is in charge.
    tried(&two, 0.2, Some(&one)).await.unwrap();
    let pointer = registry::champion(&store, &model).await.unwrap().unwrap();
    let expected = Canary { trial: trial(&two, 0.2), since_ms: 5, probation_hours: Some(72.0), metrics: vec![] };
    assert_eq!((pointer.version.as_str(), pointer.canary), (one.as_str(), Some(expected)));
    assert_eq!(registry::load_champion(&store, &model).await.unwrap().unwrap().version(), one);
    let other = canary::finish(&store, &model, Some(&three), decided_by("bob")).await.unwrap_err();
    assert!(matches!(other, RegistryError::NotOnTrial { .. }), "{other}");
    let back = registry::rollback(&store, &model, None, decided_by("bob")).await.unwrap();
    assert_eq!((back.action, back.version.as_str(), back.canary), (Action::TakenBack, one.as_str(), None));

    // A shadow gives way to a canary, and that one is put in charge.
    tried(&two, 0.0, None).await.unwrap();
    tried(&three, 0.4, None).await.unwrap();
    let champion = canary::finish(&store, &model, None, decided_by("bob")).await.unwrap();
    assert_eq!(
        (champion.version.as_str(), champion.previous, champion.canary),
        (three.as_str(), Some(one.clone()), None)
    );
    registry::rollback(&store, &model, None, decided_by("cid")).await.unwrap();
    let told = |e: &Entry| (e.number, e.action, e.version.clone(), e.previous.clone());
    let history = registry::history(&store, &model).await.unwrap();
    let (one, two, three) = (one.clone(), two.clone(), three.clone());
    let expected = [
        (1, Action::Promoted, one.clone(), None),
        (2, Action::Tried, one.clone(), Some(one.clone())),
        (3, Action::TakenBack, one.clone(), Some(two.clone())),
        (4, Action::Tried, one.clone(), Some(one.clone())),
        (5, Action::Tried, one.clone(), Some(one.clone())),
        (6, Action::Promoted, three.clone(), Some(one.clone())),
        (7, Action::RolledBack, one.clone(), Some(three.clone())),
    ];
    assert_eq!(history.iter().map(told).collect::<Vec<_>>(), expected);
    let counts = registry::history::counts(&store, &model).await.unwrap();
    assert_eq!(counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 0, 3, 1]);
    assert!(registry::history::was_taken_back(&history, &two) && registry::history::was_taken_back(&history, &three));
}

/// A processor's watch over the pointer.
struct Watch {
    offers: watch::Receiver<Option<Offer>>,
    exporter: Exporter,
    stop: CancellationToken,
    _asked: watch::Sender<u64>,
}

impl Watch {
    async fn start(store: &Store) -> Self {
        let exporter = Exporter::install().unwrap();
        let (out, offers) = watch::channel(None);
        let (asked_out, asked) = watch::channel(0);
        let stop = CancellationToken::new();
        let watched = champion::Champion {
            store: store.clone(),
            name: name("failure"),
            refresh: LOOK,
            fingerprint: FeatureSchema::of(&FeatureConfig::default()).fingerprint(),
            offers: out,
            refused: models_refused(&exporter.meter()),
        };
        let seen = watched.begin(None, &Loaded::new()).await;
        tokio::spawn(watched.watch(seen, asked, stop.clone()));
        Watch { offers, exporter, stop, _asked: asked_out }
    }

    async fn until_offered(&mut self, charge: Charge) {
        let is_it = |offer: &Option<Offer>| offer.as_ref().is_some_and(|offer| offer.charge == charge);
        let offer = timeout(WAIT_MAX, self.offers.wait_for(is_it)).await.expect("offered in time").unwrap().clone();
        let loaded = offer.unwrap().loaded;
        assert!(charge.versions().all(|version| loaded.get(version).is_some_and(|s| s.version() == version)));
    }

    async fn until_refused(&self, times: u32) {
        let line = format!("millwright_models_refused_total {times}\n");
        let counted = async {
            while !self.exporter.text().contains(&line) {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(WAIT_MAX, counted).await.expect("refused in time");
    }

    fn in_charge(&self) -> String {
        self.offers.borrow().as_ref().expect("one is in charge").charge.version.clone()
    }
}

#[tokio::test]
async fn a_champion_that_cannot_be_used_is_refused_and_the_one_in_charge_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let good = publish(&store, 0.3).await;
    registry::promote(&store, &model, &good, decided_by("ann")).await.unwrap();
    let mut watch = Watch::start(&store).await;
    assert_eq!(watch.in_charge(), good, "before anything is judged");

    let sensors = vec![name("temperature")];
    let others = artifact_for(FeatureConfig { sensors, ..FeatureConfig::default() }, 0.3);
    let for_other_features = publish_artifact(&store, &others).await;
    registry::promote(&store, &model, &for_other_features, decided_by("bob")).await.unwrap();
    watch.until_refused(1).await;
    assert_eq!(watch.in_charge(), good);

    // Nobody can promote this; somebody could still write the pointer.
    let mut damaged = artifact(0.4).encode().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    registry::publish(&store, &model, "0123456789ab", damaged.into()).await.unwrap();
    let pointer =
        Entry { version: "0123456789ab".into(), ..registry::champion(&store, &model).await.unwrap().unwrap() };
    store.put(&champion_key(&model), serde_json::to_vec(&pointer).unwrap().into()).await.unwrap();
    watch.until_refused(2).await;
    assert_eq!(watch.in_charge(), good);

    let better = publish(&store, 0.5).await;
    registry::promote(&store, &model, &better, decided_by("cid")).await.unwrap();
    watch.until_offered(Charge::of(&better)).await;
    watch.stop.cancel();
}

#[tokio::test]
async fn what_is_on_trial_and_cannot_be_used_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, store) = endpoint(folder.path()).await;
    let model = name("failure");
    let (good, new) = (publish(&store, 0.3).await, publish(&store, 0.4).await);
    registry::promote(&store, &model, &good, decided_by("ann")).await.unwrap();
    let mut watch = Watch::start(&store).await;
    canary::try_beside(&store, &model, trial(&new, 0.4), None, None, decided_by("ann")).await.unwrap();
    watch.until_offered(Charge { trial: Some(trial(&new, 0.4)), ..Charge::of(&good) }).await;

    // It can be loaded, and its golden vector is another one's. Nobody can try it; somebody could still write the pointer.
    let sensors = vec![name("temperature")];
    let others = artifact_for(FeatureConfig { sensors, ..FeatureConfig::default() }, 0.3);
    let for_other_features = publish_artifact(&store, &others).await;
    let mut wrong = artifact(0.6);
    wrong.golden[0].probabilities[0] += 0.1;
    let wrong_golden = wrong.version().unwrap();
    registry::publish(&store, &model, &wrong_golden, wrong.encode().unwrap().into()).await.unwrap();
    for (unusable, why) in [(for_other_features, "other features"), (wrong_golden, "golden")] {
        let mut pointer = registry::champion(&store, &model).await.unwrap().unwrap();
        pointer.number += 1;
        pointer.canary =
            Some(Canary { trial: trial(&unusable, 0.4), since_ms: 0, probation_hours: None, metrics: vec![] });
        store.put(&champion_key(&model), serde_json::to_vec(&pointer).unwrap().into()).await.unwrap();
        let taken_back = async {
            loop {
                let pointer = registry::champion(&store, &model).await.unwrap().unwrap();
                if pointer.canary.is_none() {
                    return pointer;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let back = timeout(WAIT_MAX, taken_back).await.expect("taken back in time");
        watch.until_offered(Charge::of(&good)).await;
        assert_eq!((back.action, back.who.as_str(), back.previous), (Action::TakenBack, "processor", Some(unusable)));
        assert!(back.why.contains(why), "{}", back.why);
    }
    watch.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_golden_set_goes_with_a_version_and_without_one_the_first_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (server, store) = endpoint(folder.path()).await;
    let (model, golden) = (name("plant"), &super::retraining::CHAMPION.1);
    let frozen = async |version| registry::frozen(&store, &model, version).await.unwrap().is_some();
    registry::freeze_beside(&store, &model, "after-the-change", golden).await.unwrap();
    assert!(frozen("after-the-change").await && !frozen("before-it").await);
    registry::freeze(&store, &model, golden).await.unwrap();
    assert!(frozen("before-it").await);
    server.stop().await;
}
