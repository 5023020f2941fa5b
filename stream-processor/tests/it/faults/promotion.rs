//! Models are promoted, and tried on some of the machines or as shadows, while the processor runs, while S3 is away and while the processor is down, and it is killed around
//! that. Whatever a client was once told of a window is what the archive says of it: by the same model, once, none missed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use polars::prelude::DataType;
use proto::{
    archive::{Table, column},
    time::{PlantTime, wall_now_ms},
    wire::prediction::{
        StreamPredictionsRequest, prediction_service_client::PredictionServiceClient,
        stream_predictions_response::Event,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    hall::{Hall, Life, MODEL_AWAITED, REGISTRY_AWAY, S3_AWAY, START_MAX},
    plant::{FIRST_STEP, Plant, STEP_MS, THRESHOLD, in_turns, put_in_charge, try_beside},
    proxy::Fate,
};
use crate::archive;

const SPEED: f64 = 60.0;
const KILLS: u32 = 8;
const LIFE_MS: std::ops::Range<u64> = 300..4_000;
/// Windows of one machine that are told while nothing can be committed.
const UNCOMMITTED: usize = 4;

const ANNOUNCED: [&str; 3] = [S3_AWAY, REGISTRY_AWAY, MODEL_AWAITED];

/// Version that decided, by machine and window's end.
type ToldBy = BTreeMap<(String, i64), String>;

/// Everything that clients were told, over all lives.
#[derive(Clone, Default)]
struct Client(Arc<Mutex<ToldBy>>);

impl Client {
    /// Until the life ends.
    async fn follow(&self, life: &mut Life) -> JoinHandle<()> {
        let mut grpc = PredictionServiceClient::connect(format!("http://{}", life.field("grpc").await)).await.unwrap();
        let request = StreamPredictionsRequest { machines: vec![], ..Default::default() };
        let mut stream = grpc.stream_predictions(request).await.unwrap().into_inner();
        let told = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                if let Some(Event::Prediction(p)) = response.event {
                    told.hear((p.machine, p.window_end_ms), p.model_version);
                }
            }
        })
    }

    fn hear(&self, window: (String, i64), version: String) {
        let before = self.0.lock().unwrap().insert(window.clone(), version.clone());
        assert!(before.is_none_or(|before| before == version), "{window:?}: now by {version}");
    }

    fn told(&self) -> ToldBy {
        self.0.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, is: impl Fn(&ToldBy) -> bool) {
        let until = Instant::now() + START_MAX;
        while !is(&self.told()) {
            assert!(Instant::now() < until, "never told: {what}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_told_by(&self, version: &str) {
        self.until(version, |told| told.values().any(|by| by == version)).await;
    }
}

async fn archived(hall: &Hall) -> ToldBy {
    let mut by = ToldBy::new();
    let manifests = archive::manifests(&hall.store).await;
    for frame in archive::table(&hall.store, &manifests, Table::Predictions).await {
        let text = |name| frame.column(name).unwrap().cast(&DataType::String).unwrap();
        let (machine, version) = (text(column::MACHINE), text(column::MODEL_VERSION));
        let role = text(column::ROLE);
        let end = frame.column(column::WINDOW_END).unwrap().cast(&DataType::Int64).unwrap();
        let decides = |row: &usize| role.str().unwrap().get(*row).unwrap() != "shadow";
        for row in (0..frame.height()).filter(decides) {
            let text = |column: &polars::prelude::Column| column.str().unwrap().get(row).unwrap().to_owned();
            let window = (text(&machine), end.i64().unwrap().get(row).unwrap());
            assert_eq!(by.insert(window.clone(), text(&version)), None, "twice: {window:?}");
        }
    }
    by
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_judged_by_one_model_whatever_is_promoted_or_killed() {
    let seed = std::env::var("MILLWRIGHT_SEED").map_or(wall_now_ms() as u64, |seed| seed.parse().unwrap());
    println!("MILLWRIGHT_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    let plant = Plant::new(2, 2, in_turns);
    let agents = hall.agents(&plant);
    let client = Client::default();

    // Windows are told and can't be committed; then another model is promoted, and the processor dies.
    let mut life = hall.processor("processor-0", "");
    let task = client.follow(&mut life).await;
    hall.until_archived(200).await;
    hall.proxy.rule(|asked| if asked.method == "PUT" { Fate::ResetBefore } else { Fate::Pass });
    let before = client.told().len();
    client.until("more windows", |told| told.len() >= before + UNCOMMITTED * plant.machines()).await;
    let second = put_in_charge(&hall.store, THRESHOLD / 2.0).await;
    assert!(life.kill());
    life.expect_only(&[S3_AWAY]);
    task.await.unwrap();
    hall.proxy.rule(|_| Fate::Pass);

    // It is dead between the promotion and its manifest, or behind that, or does not hear of it.
    let mut versions = vec![second];
    let mut life = hall.processor("processor-0", "");
    let mut task = client.follow(&mut life).await;
    client.until_told_by(&versions[0]).await;
    for kill in 1..=KILLS {
        let threshold = THRESHOLD + f64::from(kill) / 100.0;
        let share = [None, Some(0.0), Some(0.5)][rng.random_range(0..3)];
        let decided = async || match share {
            None => put_in_charge(&hall.store, threshold).await,
            Some(share) => try_beside(&hall.store, threshold, share).await,
        };
        if rng.random() {
            versions.push(decided().await);
            sleep(Duration::from_millis(rng.random_range(LIFE_MS))).await;
            assert!(life.kill());
        } else {
            assert!(life.kill());
            versions.push(decided().await);
        }
        life.expect_only(&ANNOUNCED);
        task.await.unwrap();
        hall.proxy.rule(|_| Fate::Pass);
        life = hall.processor("processor-0", "");
        task = client.follow(&mut life).await;
        life.until_said("the processor is up").await;
        let lost = rng.random_bool(0.3);
        hall.proxy.rule(move |asked| if lost && asked.puts("manifest/") { Fate::AnswerLost } else { Fate::Pass });
        sleep(Duration::from_millis(rng.random_range(LIFE_MS))).await;
    }
    hall.proxy.rule(|_| Fate::Pass);
    versions.push(put_in_charge(&hall.store, THRESHOLD / 3.0).await);
    let last = versions.last().unwrap();
    client.until_told_by(last).await;
    plant.end_at(hall.now_step());
    hall.until_archived(plant.readings()).await;
    let windows = plant.windows().count() * plant.machines();
    client.until("the last windows", |told| told.len() >= windows).await;
    life.stop(&ANNOUNCED);
    task.await.unwrap();
    drop(agents);

    let (told, archived) = (client.told(), archived(&hall).await);
    let wrong = told.iter().find(|(window, version)| archived.get(window) != Some(version));
    assert_eq!(wrong.map(|(window, _)| (window, archived.get(window))), None, "told otherwise: {wrong:?}");
    let whole = archived.keys().filter(|(_, end)| *end <= (plant.end_step() + 1) * STEP_MS).count();
    assert_eq!(whole, windows, "each window once");
    for machine in 0..plant.machines() {
        let of: Vec<&String> =
            archived.iter().filter(|((name, _), _)| *name == format!("press-{machine}")).map(|(_, by)| by).collect();
        let changes = of.windows(2).filter(|pair| pair[0] != pair[1]).count();
        println!("press-{machine}: {} windows, {changes} changes of model", of.len());
        assert!(changes <= versions.len() && of.last() == Some(&last), "{of:?}");
    }
}
