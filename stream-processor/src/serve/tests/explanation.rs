//! Which sensors say so: the same on every way out, and on every way out the whole of it.

use std::collections::BTreeSet;

use proto::wire::prediction::{Contribution, RawReadings};
use tokio::sync::watch;

use super::*;
use crate::{
    alert::text,
    serve::predict::LiveModel,
    stream::{
        StreamConfig,
        predict::tests::{artifact, derived, kinds, question, scorer_with},
    },
};

const THRESHOLD: f64 = 0.5;
/// Whole windows of ten minutes, and the readings that close them.
const MINUTES: i64 = 50;

/// Names and shares as JSON has them.
fn of_json(sensors: &Value) -> Vec<(String, f64)> {
    let share = |s: &Value| (s["sensor"].as_str().unwrap().to_owned(), s["logit"].as_f64().unwrap());
    sensors.as_array().unwrap().iter().map(share).collect()
}

fn of_wire(contributions: &[Contribution]) -> Vec<(String, f64)> {
    contributions.iter().map(|c| (c.sensor.clone(), c.logit)).collect()
}

#[tokio::test]
async fn the_shares_of_all_sensors_add_up_to_the_way_from_normal_on_every_way_out() {
    let config = StreamConfig::default();
    let (model, known) = (artifact(&config, THRESHOLD), kinds(&config));
    let (_scorer, scorer) = watch::channel(Some(Arc::new(scorer_with(&config, THRESHOLD))));
    let (_kinds, known) = watch::channel(Arc::new(known));
    let plant = Plant::with_model(None, Arc::new(LiveModel::new(config.clone(), scorer, known))).await;

    let told = derived(&config, &question(), MINUTES);
    let (window, prediction) = (told.windows.last().unwrap(), told.predictions.last().unwrap());
    let (now, normal) = (model.logits(&window.kind, &window.features), model.logits(&window.kind, &window.normal));
    let all: BTreeSet<&str> = config.features.sensors.iter().map(AssetId::as_str).collect();
    let check = |way: &str, mode: &str, shares: &[(String, f64)]| {
        let head = model.heads.iter().position(|head| head.mode == mode).unwrap();
        let moved = f64::from(now[head]) - f64::from(normal[head]);
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        assert!(moved.abs() > 0.01, "the test would say nothing");
        assert!((sum - moved).abs() < 1e-3, "{way}, {mode}: {sum} of {moved}");
        assert_eq!(shares.iter().map(|(sensor, _)| sensor.as_str()).collect::<BTreeSet<_>>(), all, "{way}");
        assert_eq!(shares.len(), all.len(), "{way}");
    };
    for mode in &prediction.modes {
        check("the stream", &mode.mode, &of_wire(&mode.contributions));
    }

    let first = &prediction.modes[0];
    let opened = Alert { contributions: first.contributions.clone(), ..alert("a", &prediction.machine) };
    plant.board.publish_predictions(std::slice::from_ref(prediction));
    plant.board.publish_alerts(std::slice::from_ref(&opened));
    let http = reqwest::Client::new();
    let get = async |path: &str| http.get(plant.url(path)).send().await.unwrap().json::<Value>().await.unwrap();
    check("GET /predict", &first.mode, &of_json(&get(&format!("/predict/{}", prediction.machine)).await["sensors"]));
    check("GET /plan", &first.mode, &of_json(&get("/plan").await[0]["sensors"]));
    check("GET /alerts", &first.mode, &of_json(&get("/alerts").await[0]["sensors"]));
    let mut console = reqwest::get(plant.url("/events/stream")).await.unwrap();
    let shown = picture(&mut console).await;
    check("the console's machine", &first.mode, &of_json(&shown["machines"][0]["sensors"]));
    check("the console's alert", &first.mode, &of_json(&shown["alerts"][0]["sensors"]));
    assert!(text::line(&opened).contains(&format!("| {} ", first.contributions[0].sensor)), "{}", text::line(&opened));

    // Asked with the same readings.
    let sensors: Vec<Value> = question()
        .iter()
        .map(|s| {
            let readings: Vec<Value> =
                s.readings.iter().map(|r| json!({"time": r.time_ms, "value": r.value})).collect();
            json!({"sensor": s.sensor, "unit": s.unit, "readings": readings})
        })
        .collect();
    let asked = http.post(plant.url("/predict")).json(&json!({"kind": "press", "sensors": sensors}));
    let answer = asked.send().await.unwrap().json::<Value>().await.unwrap();
    check("POST /predict", answer["modes"][0]["mode"].as_str().unwrap(), &of_json(&answer["sensors"]));
    let mut client = PredictionServiceClient::new(plant.channel().await);
    let raw = RawReadings { kind: "press".into(), sensors: question() };
    for input in [Input::Machine(prediction.machine.clone()), Input::Readings(raw)] {
        let answer = client.predict(PredictRequest { input: Some(input) }).await.unwrap().into_inner();
        for mode in &answer.prediction.unwrap().modes {
            check("gRPC", &mode.mode, &of_wire(&mode.contributions));
        }
    }
}
