//! Over real sockets on loopback, with a board that is fed by hand and an engine that answers at once.

mod explanation;
mod streams;

use std::{collections::BTreeMap, fs, time::Duration};

use proto::{
    alert::mode_text,
    asset::AssetId,
    wire::{
        alert::{
            AcknowledgeAlertRequest, Alert, AlertSource, AlertState, ListAlertsRequest, StreamAlertsRequest,
            StreamAlertsResponse, alert_service_client::AlertServiceClient, stream_alerts_response::Event,
        },
        prediction::{
            Contribution, ModeProbability, PredictRequest, Prediction, SensorReadings, StreamPredictionsRequest,
            StreamPredictionsResponse, predict_request::Input, prediction_service_client::PredictionServiceClient,
            stream_predictions_response,
        },
    },
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    board::{ALERT_EVENTS_MAX, PREDICTION_EVENTS_MAX, Part, ProcessorState},
    command::{Command, CommandError},
    predict::PredictError,
    *,
};
use streams::{follow, until_live};

/// Far above what it takes.
const CUT_OFF_AFTER: Duration = Duration::from_secs(60);
const TOKEN: &str = "correct-horse-battery";

struct NoModel;

impl Predictor for NoModel {
    fn readings(&self, _: &AssetId, _: &[SensorReadings]) -> Result<Prediction, PredictError> {
        Err(PredictError::Learning)
    }

    fn features(&self, _: &AssetId, _: &BTreeMap<String, f64>) -> Result<Prediction, PredictError> {
        Err(PredictError::Learning)
    }
}

/// Answers with what it was asked.
struct Echo;

impl Predictor for Echo {
    fn readings(&self, kind: &AssetId, sensors: &[SensorReadings]) -> Result<Prediction, PredictError> {
        let bad = sensors.iter().position(|s| s.unit != "C");
        match bad {
            Some(n) => Err(PredictError::Invalid { field: format!("sensors[{n}].unit"), reason: "not known".into() }),
            None => Ok(Prediction { machine_kind: kind.to_string(), ..prediction("asked", 0.5, 1) }),
        }
    }

    fn features(&self, kind: &AssetId, values: &BTreeMap<String, f64>) -> Result<Prediction, PredictError> {
        let probability = values.get("x").copied().unwrap_or_default();
        Ok(Prediction { machine_kind: kind.to_string(), ..prediction("asked", probability, 1) })
    }
}

fn prediction(machine: &str, probability: f64, window_end_ms: i64) -> Prediction {
    let vibration =
        Contribution { sensor: "vibration".into(), logit: 1.0, value: 5.0, normal: 2.0, unit: "mm/s".into() };
    Prediction {
        machine: machine.into(),
        machine_kind: "press".into(),
        window_end_ms,
        modes: vec![ModeProbability {
            mode: "bearing_wear".into(),
            probability,
            contributions: vec![vibration],
            uncertainty: 0.0,
            calibrated: true,
        }],
        horizon_ms: 86_400_000,
        ..Default::default()
    }
}

fn alert(id: &str, machine: &str) -> Alert {
    Alert {
        id: id.into(),
        machine: machine.into(),
        mode: "bearing_wear".into(),
        source: AlertSource::Model.into(),
        state: AlertState::Open.into(),
        probability: 0.7,
        calibrated: true,
        summary: mode_text("bearing_wear").summary.into(),
        ..Default::default()
    }
}

/// A processor without a pipeline.
struct Plant {
    board: Board,
    serving: Serving,
    stop: CancellationToken,
}

impl Plant {
    async fn start(token_file: Option<PathBuf>) -> Self {
        Self::with_model(token_file, Arc::new(Echo)).await
    }

    async fn with_model(token_file: Option<PathBuf>, model: Arc<dyn Predictor>) -> Self {
        let board = Board::new();
        board.begin(1, Vec::new(), vec![]);
        let (commands, mut asked) = Commands::channel();
        let desk = board.clone();
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                engine(&desk, command);
            }
        });
        let services = Services { board: board.clone(), commands, model, metrics: Arc::new(|| "up 1\n".to_string()) };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let stop = CancellationToken::new();
        let config = ServeConfig { grpc: any, http: any, token_file, ..ServeConfig::default() };
        let serving = super::start(&config, services, stop.clone()).await.unwrap();
        Plant { board, serving, stop }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.serving.http)
    }

    async fn channel(&self) -> Channel {
        let addr = format!("http://{}", self.serving.grpc);
        tonic::transport::Endpoint::from_shared(addr).unwrap().connect().await.unwrap()
    }

    async fn alerts(&self) -> AlertServiceClient<Channel> {
        AlertServiceClient::new(self.channel().await)
    }
}

fn engine(board: &Board, command: Command) {
    match command {
        Command::Acknowledge { alert_id, author, reply, .. } => {
            let open = board.read().open.get(&alert_id).map(|a| Alert::clone(a));
            let answer = open.ok_or_else(|| CommandError::NotFound("no such alert".into())).map(|mut alert| {
                alert.set_state(AlertState::Acknowledged);
                alert.acknowledged_by = author;
                board.publish_alerts(std::slice::from_ref(&alert));
                alert
            });
            let _ = reply.send(answer);
        }
        Command::Record { reply, .. } => {
            let _ = reply.send(Ok(()));
        }
    }
}

#[tokio::test]
async fn an_acknowledgement_is_seen_on_every_way() {
    let plant = Plant::start(None).await;
    let mut client = plant.alerts().await;
    plant.board.publish_alerts(&[alert("a", "press-1")]);
    let http = reqwest::Client::new();
    let ack = |id: &str, body: Value| http.post(plant.url(&format!("/alerts/{id}/acknowledge"))).json(&body).send();
    let answer = ack("a", json!({"author": "Ada"})).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<Value>().await.unwrap()["acknowledged_by"], "Ada");
    let listed = client.list_alerts(ListAlertsRequest::default()).await.unwrap().into_inner().alerts;
    assert_eq!((listed[0].state(), listed[0].acknowledged_by.as_str()), (AlertState::Acknowledged, "Ada"));
    let nobody = ack("a", json!({"author": " "})).await.unwrap();
    assert_eq!(nobody.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(nobody.json::<Value>().await.unwrap()["field"], "author");
    assert_eq!(ack("x", json!({"author": "Ada"})).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_wrong_body_is_refused_by_field() {
    let plant = Plant::start(None).await;
    let http = reqwest::Client::new();
    let post = async |body: String| {
        let request = http.post(plant.url("/predict")).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let reading = |time: Value, unit: &str| {
        let sensors = json!([{"sensor": "temperature", "unit": unit, "readings": [{"time": time, "value": 20.5}]}]);
        json!({"kind": "press", "sensors": sensors}).to_string()
    };
    let (status, answer) = post(reading(json!("2026-03-01T10:00:00Z"), "C")).await;
    assert_eq!((status, &answer["kind"]), (200, &json!("press")), "{answer}");
    assert_eq!(post(reading(json!(1_772_359_200_000_i64), "C")).await.0, 200);
    let features = json!({"kind": "press", "features": {"x": 0.25}}).to_string();
    assert_eq!(post(features).await.1["modes"][0]["probability"], 0.25);

    for (body, status, field) in [
        (reading(json!("noon"), "C"), 422, "sensors[0].readings[0].time"),
        (reading(json!(1), "parsec"), 422, "sensors[0].unit"),
        (json!({"sensors": []}).to_string(), 422, "kind"),
        (json!({"kind": "a/b", "sensors": []}).to_string(), 422, "kind"),
        (json!({"kind": "press"}).to_string(), 422, "sensors"),
        (json!({"kind": "press", "colour": 1}).to_string(), 422, "colour"),
        (json!({"kind": "press", "sensors": [{"sensor": "x", "unit": "C"}]}).to_string(), 422, "sensors[0].readings"),
        (json!({"kind": "press", "features": {"x": "high"}}).to_string(), 422, "features.x"),
    ] {
        let (got, answer) = post(body.clone()).await;
        assert_eq!((got, &answer["field"]), (status, &json!(field)), "{body}: {answer}");
        assert!(answer["error"].is_string());
    }
    assert_eq!(post("{".into()).await.0, 400);
    assert_eq!(post(" ".repeat(2 * 1024 * 1024)).await.0, 413);
    let text = http.post(plant.url("/predict")).body("{}").send().await.unwrap();
    assert_eq!(text.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let event = http.post(plant.url("/events")).json(&json!({"machine": "press-1", "kind": "party"}));
    assert_eq!(event.send().await.unwrap().json::<Value>().await.unwrap()["field"], "kind");
    let query = http.get(plant.url("/alerts?include_closed=maybe")).send().await.unwrap();
    assert_eq!(query.status(), StatusCode::BAD_REQUEST);
    assert!(query.json::<Value>().await.unwrap()["error"].is_string());
    let nowhere = http.get(plant.url("/nowhere")).send().await.unwrap();
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    assert!(nowhere.json::<Value>().await.unwrap()["error"].is_string());
}

#[tokio::test]
async fn without_a_model_there_is_no_prediction_but_a_reason() {
    let plant = Plant::with_model(None, Arc::new(NoModel)).await;
    let http = reqwest::Client::new();
    let body = json!({"kind": "press", "features": {}});
    let answer = http.post(plant.url("/predict")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.json::<Value>().await.unwrap()["error"].as_str().unwrap().contains("learning"));
}

#[tokio::test]
async fn with_a_token_every_write_needs_it_and_reads_do_not() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), TOKEN).unwrap();
    let plant = Plant::start(Some(file.path().into())).await;
    plant.board.publish_alerts(&[alert("a", "press-1")]);
    let http = reqwest::Client::new();
    let event = json!({"machine": "press-1", "kind": "failure", "time": "2026-03-01T10:00:00Z"});
    for (path, body) in [("/alerts/a/acknowledge", json!({"author": "Ada"})), ("/events", event)] {
        let post = || http.post(plant.url(path)).json(&body);
        assert_eq!(post().send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        assert_eq!(post().bearer_auth("wrong-wrong-wrong").send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        assert!(post().bearer_auth(TOKEN).send().await.unwrap().status().is_success());
    }
    assert_eq!(http.get(plant.url("/alerts")).send().await.unwrap().status(), StatusCode::OK);
    let mut client = plant.alerts().await;
    let ask = || AcknowledgeAlertRequest { alert_id: "a".into(), author: "Ada".into(), ..Default::default() };
    assert_eq!(client.acknowledge_alert(ask()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut request = tonic::Request::new(ask());
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    assert!(client.acknowledge_alert(request).await.is_ok());
    assert!(client.list_alerts(ListAlertsRequest::default()).await.is_ok());
}

#[tokio::test]
async fn another_site_cannot_write_through_the_operators_browser() {
    let plant = Plant::start(None).await;
    let http = reqwest::Client::new();
    let event = json!({"machine": "press-1", "kind": "failure", "time": 1});
    let post = |origin: String| http.post(plant.url("/events")).header("origin", origin).json(&event).send();
    assert_eq!(post("http://evil.example".into()).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(post(plant.url("")).await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn beyond_loopback_without_a_token_the_start_is_refused() {
    let open = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for (grpc, http, key) in [(open, local, "serve.grpc"), (local, open, "serve.http")] {
        let refused = writes(&ServeConfig { grpc, http, ..ServeConfig::default() }).err().unwrap().to_string();
        assert!(refused.contains(key) && refused.contains("token_file"), "{refused}");
    }
}

#[tokio::test]
async fn a_busy_port_is_named_with_its_flag() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let error = bind("HTTP", "http", taken.local_addr().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("HTTP port") && error.contains("--http"), "{error}");
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let plant = Plant::start(None).await;
    let http = reqwest::Client::new();
    let ready = async || {
        let answer = http.get(plant.url("/readyz")).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    plant.board.set_part(Part::Recovery, None);
    plant.board.set_part(Part::Archive, None);
    plant.board.set_part(Part::Broker, Some("connection refused".into()));
    let (status, parts) = ready().await;
    assert_eq!((status, &parts["broker"], &parts["archive"]), (503, &json!("connection refused"), &json!("ready")));
    let mut health = HealthClient::new(plant.channel().await);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    plant.board.set_part(Part::Broker, None);
    assert_eq!(ready().await.0, 200);
    // 1 is SERVING; the change comes by itself.
    while watched.message().await.unwrap().unwrap().status != 1 {}
    assert_eq!(http.get(plant.url("/healthz")).send().await.unwrap().text().await.unwrap(), "ok\n");
    assert_eq!(http.get(plant.url("/metrics")).send().await.unwrap().text().await.unwrap(), "up 1\n");
}

#[tokio::test]
async fn the_plan_begins_with_the_machine_that_needs_it_most() {
    let plant = Plant::start(None).await;
    let calm = [prediction("press-1", 0.2, 10), prediction("press-2", 0.6, 10), prediction("press-3", 0.1, 10)];
    plant.board.publish_predictions(&calm);
    plant.board.publish_alerts(&[alert("a", "press-3")]);
    let plan: Vec<Value> = reqwest::get(plant.url("/plan")).await.unwrap().json().await.unwrap();
    assert_eq!(
        plan.iter().map(|m| m["machine"].as_str().unwrap()).collect::<Vec<_>>(),
        ["press-3", "press-2", "press-1"]
    );
    assert_eq!(plan[0]["why"], mode_text("bearing_wear").summary);
}

/// Reads one picture of the console's stream.
async fn picture(stream: &mut reqwest::Response) -> Value {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
    }
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    serde_json::from_str(data).unwrap()
}

#[tokio::test]
async fn the_console_gets_everything_once_and_then_what_changed() {
    let plant = Plant::start(None).await;
    let page = reqwest::get(plant.url("/")).await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    plant.board.publish_predictions(&[prediction("press-1", 0.2, 10), prediction("press-2", 0.6, 10)]);
    plant.board.set_state(ProcessorState::Live { model_version: "v7".into() });
    let mut stream = reqwest::get(plant.url("/events/stream")).await.unwrap();
    let first = picture(&mut stream).await;
    assert_eq!((first["whole"].clone(), first["machines"].as_array().unwrap().len()), (json!(true), 2));
    assert_eq!((&first["state"], &first["model_version"]), (&json!("live"), &json!("v7")));
    plant.board.publish_alerts(&[alert("a", "press-2")]);
    let mut next = picture(&mut stream).await;
    while next["alerts"].is_null() {
        next = picture(&mut stream).await;
    }
    assert_eq!((&next["whole"], &next["alerts"][0]["id"]), (&json!(false), &json!("a")));
    assert_eq!(next["machines"].as_array().unwrap().len(), 1);
    plant.board.begin(2, Vec::new(), vec![]);
    while next["whole"] == json!(false) {
        next = picture(&mut stream).await;
    }
    assert_eq!(next["alerts"], json!([]));
}

#[tokio::test]
async fn a_stop_ends_every_stream() {
    let plant = Plant::start(None).await;
    let mut client = plant.alerts().await;
    let mut stream = follow(&mut client, "").await;
    until_live(&mut stream).await;
    let mut console = reqwest::get(plant.url("/events/stream")).await.unwrap();
    picture(&mut console).await;
    plant.stop.cancel();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    drop((client, stream));
    while console.chunk().await.unwrap().is_some() {}
    plant.serving.stopped(Instant::now() + CUT_OFF_AFTER).await;
}
