//! Endpoints that do not do what the commit is built on: one that ignores conditions, one that never answers.

use std::sync::atomic::{AtomicBool, Ordering};

use proto::time::PlantTime;

use super::{
    hall::{Hall, check_balance},
    plant::{FIRST_STEP, Plant, STEP_MS, in_turns},
    proxy::Fate,
};
use crate::archive::{self, assert_same};

const SPEED: f64 = 60.0;

/// Two processors could overwrite each other's manifests there.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_knows_no_conditions_is_refused_before_anything_is_written() {
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    hall.proxy.rule(|asked| if asked.method == "PUT" { Fate::Unconditional } else { Fate::Pass });
    let mut processor = hall.processor("processor-0", "");
    assert_eq!(processor.exit_code(), Some(1), "{:#?}", processor.lines());
    processor.expect_only(&["ignores `If-None-Match: *`"]);
    assert!(processor.said("ignores `If-None-Match: *`"));
    assert_eq!(hall.store.list("manifest/", None).await.unwrap(), []);
}

/// The client gives up on the answer, asks again, and finds its own manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_whose_answer_never_comes_is_committed_once() {
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    let plant = Plant::new(1, 2, in_turns);
    let agents = hall.agents(&plant);
    let processor = hall.processor("processor-0", "");
    hall.until_archived(1_000).await;
    let hung = AtomicBool::new(false);
    hall.proxy.rule(move |asked| match asked.puts("manifest/") && !hung.swap(true, Ordering::Relaxed) {
        true => Fate::Hang,
        false => Fate::Pass,
    });
    let before = hall.archived().await;
    hall.until_archived(before + 5_000).await;
    assert_eq!(hall.proxy.counts().get("hung"), Some(&1));
    plant.end_at(hall.now_step());
    hall.until_archived(plant.readings()).await;
    processor.stop(&[]);
    drop(agents);
    let manifests = archive::manifests(&hall.store).await;
    manifests.iter().for_each(check_balance);
    assert_same(&plant.sent(), &archive::readings(&hall.store, &manifests).await);
}
