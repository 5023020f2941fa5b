//! An alert that was never committed is void once its processor and its gateway's disk are gone: no client shows it.

use proto::{
    archive::Table,
    time::PlantTime,
    wire::alert::{
        Alert, ListAlertsRequest, StreamAlertsRequest, StreamAlertsResponse, alert_service_client::AlertServiceClient,
        stream_alerts_response::Event,
    },
};
use serde_json::Value;
use tokio::time::timeout;
use tonic::{Streaming, transport::Channel};

use super::{
    hall::{Hall, Life, S3_AWAY, START_MAX},
    plant::{FIRST_STEP, Plant, STEP_MS, WINDOW_MS},
    proxy::Fate,
};
use crate::archive;

const SPEED: f64 = 60.0;
/// Windows without heat that are committed before it begins.
const HEALTHY_WINDOWS: i64 = 6;

/// What is said of a gateway whose disk is gone.
const INSTALLED_ANEW: [&str; 3] =
    ["a gateway was installed anew", "a gateway's log goes on elsewhere", "a gateway declares batches as lost"];

fn heats_up(machine: usize, step: i64) -> bool {
    machine == 0 && step >= FIRST_STEP + HEALTHY_WINDOWS * WINDOW_MS / STEP_MS
}

fn healthy(_: usize, _: i64) -> bool {
    false
}

/// A crew's client: what it shows is what the stream has told it.
struct Client {
    grpc: AlertServiceClient<Channel>,
    http: String,
}

impl Client {
    async fn of(life: &mut Life) -> Client {
        let (grpc, http) = (life.field("grpc").await, life.field("http").await);
        Client { grpc: AlertServiceClient::connect(format!("http://{grpc}")).await.unwrap(), http }
    }

    async fn stream(&mut self, resume_token: &str) -> Streaming<StreamAlertsResponse> {
        let request = StreamAlertsRequest { resume_token: resume_token.into(), machines: vec![] };
        self.grpc.stream_alerts(request).await.unwrap().into_inner()
    }

    /// Of gRPC and of REST, the closed ones too.
    async fn lists(&mut self) -> (Vec<Alert>, Value) {
        let request = ListAlertsRequest { include_closed: true, machines: vec![] };
        let by_grpc = self.grpc.list_alerts(request).await.unwrap().into_inner().alerts;
        let by_rest = reqwest::get(format!("http://{}/alerts?include_closed=true", self.http)).await.unwrap();
        (by_grpc, by_rest.json().await.unwrap())
    }
}

async fn next(stream: &mut Streaming<StreamAlertsResponse>) -> (Event, String) {
    let response = timeout(START_MAX, stream.message()).await.expect("something is told").unwrap().unwrap();
    (response.event.unwrap(), response.resume_token)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_was_never_committed_is_shown_by_nobody_after_a_crash() {
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    let plant = Plant::new(1, 2, heats_up);
    let agent = hall.agent(0, &plant);
    let mut processor = hall.processor("processor-0", "");
    hall.until_archived(100).await;
    let mut client = Client::of(&mut processor).await;
    let mut stream = client.stream("").await;
    assert!(matches!(next(&mut stream).await.0, Event::Live(_)), "nothing is open yet");

    hall.proxy.rule(|asked| if asked.method == "PUT" { Fate::ResetBefore } else { Fate::Pass });
    let (event, token) = next(&mut stream).await;
    let Event::Alert(alert) = event else { panic!("{event:?}") };
    assert!(alert.provisional && alert.machine == "press-0", "{alert:?}");
    let (by_grpc, by_rest) = client.lists().await;
    assert!(by_grpc.iter().all(|a| a.id == alert.id && a.provisional) && by_grpc.len() == 1, "{by_grpc:?}");
    assert_eq!((by_rest[0]["id"].as_str(), by_rest[0]["provisional"].as_bool()), (Some(&*alert.id), Some(true)));
    assert!(processor.kill());
    processor.expect_only(&[S3_AWAY]);
    drop(agent);
    hall.destroy_spool(0);

    hall.proxy.rule(|_| Fate::Pass);
    let mended = plant.from(hall.now_step(), healthy);
    let agent = hall.agent(0, &mended);
    let before = hall.archived().await;
    let mut processor = hall.processor("processor-0", "");
    let mut client = Client::of(&mut processor).await;
    let mut stream = client.stream(&token).await;
    let (event, _) = next(&mut stream).await;
    assert!(matches!(event, Event::Reset(_)), "{event:?}");
    let (event, token) = next(&mut stream).await;
    assert!(matches!(event, Event::Live(_)), "{event:?}");
    assert!(!token.is_empty());
    hall.until_archived(before + 600).await;
    let (by_grpc, by_rest) = client.lists().await;
    assert_eq!((by_grpc, by_rest), (vec![], Value::Array(vec![])));
    processor.stop(&INSTALLED_ANEW);
    drop(agent);
    let ended = timeout(START_MAX, stream.message()).await.unwrap();
    assert!(!matches!(&ended, Ok(Some(r)) if matches!(r.event, Some(Event::Alert(_)))), "{ended:?}");
    let manifests = archive::manifests(&hall.store).await;
    assert!(archive::table(&hall.store, &manifests, Table::Alerts).await.is_empty());
}
