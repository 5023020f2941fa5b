//! The processor under SIGKILL, again and again, while its broker is restarted and its S3 fails in every way. Whatever
//! happens, every reading is in the archive exactly once, and windows, predictions and alerts are those of a run that
//! nothing disturbed.
//!
//! Each run draws a fresh seed and prints it; `MILLWRIGHT_SEED` runs that one. `MILLWRIGHT_KILLS` makes it as long as
//! wanted.

use std::{ops::Range, time::Duration};

use proto::time::{PlantTime, wall_now_ms};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::sleep;

use super::{
    hall::{
        BROKER_LOST, BROKER_NOT_YET, FIGURES_AWAY, Hall, MODEL_AWAITED, NO_START, REGISTRY_AWAY, S3_AWAY, check_balance,
    },
    plant::{FIRST_STEP, Plant, STEP_MS, in_turns},
    proxy::{Asked, Fate},
    told::Told,
};
use crate::archive::{self, assert_same, count};

const KILLS: u32 = 100;
/// Of some from their start, of the others from the moment at which they are up.
const LIFE_MS: Range<u64> = 100..2_000;
const BROKER_AWAY_MS: Range<u64> = 0..300;
const BROKER_RESTARTS: f64 = 0.2;
const AGENT_CRASHES: f64 = 0.1;
/// Plant seconds per wall second: a machine's window closes every half second.
const SPEED: f64 = 60.0;
/// Some are carried out when the next processor is at work.
const LATE_MS: Range<u64> = 10..1_500;
/// Most of what a start asks is harmless, and slow when it is asked again.
const READS_FAIL: f64 = 0.04;
const WRITES_FAIL: f64 = 0.2;

fn seed() -> u64 {
    let seed = std::env::var("MILLWRIGHT_SEED").map_or(wall_now_ms() as u64, |seed| seed.parse().unwrap());
    println!("MILLWRIGHT_SEED={seed}");
    seed
}

fn faults(mut rng: ChaCha8Rng) -> impl FnMut(&Asked) -> Fate + Send {
    move |asked| {
        // A model that comes late must be waited for.
        if asked.key.starts_with("models/") && rng.random() {
            return Fate::Late(rng.random_range(LATE_MS) / 2);
        }
        let chance = if asked.method == "PUT" { WRITES_FAIL } else { READS_FAIL };
        // What S3 answers while another conditional PUT of the key is under way.
        if asked.puts("manifest/") && rng.random_bool(WRITES_FAIL / 4.0) {
            return Fate::Refuse(409);
        }
        match rng.random_bool(chance).then(|| rng.random_range(0..5)) {
            None => Fate::Pass,
            Some(0) => Fate::ResetBefore,
            Some(1) => Fate::AnswerLost,
            Some(2) => Fate::Refuse(500),
            Some(3) => Fate::Refuse(503),
            Some(_) => Fate::Late(rng.random_range(LATE_MS)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_told_otherwise_however_often_the_processor_is_killed() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    let plant = Plant::new(2, 3, in_turns);
    let mut agents = hall.agents(&plant);
    hall.proxy.rule(faults(ChaCha8Rng::seed_from_u64(rng.random())));
    let kills = std::env::var("MILLWRIGHT_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let announced = [S3_AWAY, BROKER_LOST, BROKER_NOT_YET, REGISTRY_AWAY, FIGURES_AWAY, MODEL_AWAITED, NO_START];
    let (mut killed, mut gave_up, mut restarts, mut crashes) = (0, 0, 0, 0);
    while killed < kills {
        // Small segments while there is a backlog.
        let rows_max = [500, 5_000, 1_000_000][rng.random_range(0..3)];
        let mut life = hall.processor("processor-0", &format!("segment_rows_max = {rows_max}"));
        if rng.random() {
            life.until_up_or_ended().await;
        }
        let ms = rng.random_range(LIFE_MS);
        let before = rng.random_range(0..ms);
        sleep(Duration::from_millis(before)).await;
        if rng.random_bool(BROKER_RESTARTS) {
            hall.restart_broker(Duration::from_millis(rng.random_range(BROKER_AWAY_MS))).await;
            restarts += 1;
        }
        if rng.random_bool(AGENT_CRASHES) {
            let gateway = rng.random_range(0..plant.gateways);
            drop(agents.remove(gateway));
            agents.insert(gateway, hall.agent(gateway, &plant));
            crashes += 1;
        }
        sleep(Duration::from_millis(ms - before)).await;
        match life.kill() {
            true => killed += 1,
            false => gave_up += 1,
        }
        life.expect_only(&announced);
    }
    plant.end_at(hall.now_step());
    let last = hall.processor("processor-0", "");
    hall.until_archived(plant.readings()).await;
    let counts = hall.proxy.counts();
    hall.proxy.rule(|_| Fate::Pass);
    let told = told_at_the_end(&mut hall, &plant).await;
    last.stop(&announced);
    drop(agents);

    let manifests = archive::manifests(&hall.store).await;
    manifests.iter().for_each(check_balance);
    let archived = archive::readings(&hall.store, &manifests).await;
    assert_same(&plant.sent(), &archived);
    let incarnations = manifests.iter().filter(|m| m.number == m.incarnation).count();
    let committing: std::collections::BTreeSet<u64> =
        manifests.iter().filter(|m| m.balance.batches > 0).map(|m| m.incarnation).collect();
    println!(
        "{killed} kills, {gave_up} starts given up, {restarts} restarts of the broker, {crashes} crashes of gateways; requests {counts:?}; {incarnations} incarnations, \
         {} of them with commits, {} manifests; {} readings, {} windows, {} predictions, {} changes of alerts",
        committing.len(),
        manifests.len(),
        count(&archived),
        told.windows.len(),
        told.predictions.len(),
        told.alerts.len(),
    );
    undisturbed(&plant).await.assert_like(&told);
    assert!(committing.len() as u32 > kills / 10, "lives must get somewhere");
    let every_kind = ["reset before", "answer lost", "answered 409", "answered 500", "answered 503", "late"];
    assert!(kills < KILLS || every_kind.iter().all(|fault| counts.contains_key(*fault)));
    let windows = plant.windows().count() * plant.machines();
    assert_eq!((told.windows.len(), told.predictions.len()), (windows, windows));
    assert!(told.alerts.len() > plant.machines(), "{:?}", told.alerts);
}

/// When the last window is in the archive.
async fn told_at_the_end(hall: &mut Hall, plant: &Plant) -> Told {
    let end_ms = (plant.end_step() + 1) * STEP_MS;
    let windows = plant.windows().count() * plant.machines();
    for _ in 0..60 {
        let manifests = archive::manifests(&hall.store).await;
        let told = Told::read(&hall.store, &manifests, end_ms).await;
        if told.windows.len() >= windows {
            return told;
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("the last windows do not close");
}

/// The same plant, in a hall where nothing goes wrong.
async fn undisturbed(plant: &Plant) -> Told {
    let past_the_end = PlantTime((plant.end_step() + 3_600) * STEP_MS);
    let mut hall = Hall::new(past_the_end, 1.0).await.unwrap();
    let processor = hall.processor("processor-0", "");
    let agents = hall.agents(plant);
    hall.until_archived(plant.readings()).await;
    let told = told_at_the_end(&mut hall, plant).await;
    processor.stop(&[]);
    drop(agents);
    told
}
