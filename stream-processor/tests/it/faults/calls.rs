//! A person's call around a crash: answered is committed, and one that is repeated is one.

use std::time::Duration;

use polars::prelude::DataType;
use proto::{
    archive::{Table, column},
    time::PlantTime,
};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{
    hall::{Hall, Life, S3_AWAY},
    plant::{FIRST_STEP, Plant, STEP_MS},
    proxy::Fate,
};
use crate::archive;

const SPEED: f64 = 60.0;

fn healthy(_: usize, _: i64) -> bool {
    false
}

/// The note is what the archive will know it by.
async fn record(life: &mut Life, note: &str) -> StatusCode {
    let url = format!("http://{}/events", life.field("http").await);
    let event = json!({"machine": "press-0", "kind": "maintenance", "note": note, "author": "Ada", "request_id": note});
    reqwest::Client::new().post(url).json(&event).send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_repeated_after_a_crash_is_one_call() {
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    let plant = Plant::new(1, 1, healthy);
    let agent = hall.agent(0, &plant);
    let mut life = hall.processor("processor-0", "");
    hall.until_archived(100).await;
    assert_eq!(record(&mut life, "answered").await, StatusCode::NO_CONTENT);
    hall.proxy.rule(|asked| if asked.method == "PUT" { Fate::ResetBefore } else { Fate::Pass });
    let unanswered = timeout(Duration::from_secs(2), record(&mut life, "unanswered")).await;
    assert!(unanswered.is_err(), "what can't be committed is not answered: {unanswered:?}");
    assert!(life.kill());
    life.expect_only(&[S3_AWAY]);

    hall.proxy.rule(|_| Fate::Pass);
    let mut life = hall.processor("processor-0", "");
    life.until_said("the processor is up").await;
    // Which machines there are the gateway's birth tells again, at its own time.
    let mut known = record(&mut life, "answered").await;
    for _ in 0..100 {
        if known != StatusCode::UNPROCESSABLE_ENTITY {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        known = record(&mut life, "answered").await;
    }
    for note in ["answered", "unanswered", "unanswered"] {
        assert_eq!(record(&mut life, note).await, StatusCode::NO_CONTENT);
    }
    sleep(Duration::from_secs(2)).await;
    life.stop(&[S3_AWAY]);
    drop(agent);
    let manifests = archive::manifests(&hall.store).await;
    let mut notes = Vec::new();
    for frame in archive::table(&hall.store, &manifests, Table::Events).await {
        let column = frame.column(column::NOTE).unwrap().cast(&DataType::String).unwrap();
        notes.extend(column.str().unwrap().iter().flatten().map(String::from));
    }
    notes.sort();
    assert_eq!(notes, ["answered", "unanswered"]);
}
