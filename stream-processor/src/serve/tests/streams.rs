//! What a client that follows is told, and where it may go on.

use super::*;

pub async fn follow(client: &mut AlertServiceClient<Channel>, token: &str) -> Streaming<StreamAlertsResponse> {
    let request = StreamAlertsRequest { resume_token: token.into(), machines: Vec::new() };
    client.stream_alerts(request).await.unwrap().into_inner()
}

/// Reads up to and with `live` and returns the ids before it, and its token.
pub async fn until_live(stream: &mut Streaming<StreamAlertsResponse>) -> (Vec<String>, String) {
    let mut ids = Vec::new();
    loop {
        let response = stream.message().await.unwrap().unwrap();
        match response.event.unwrap() {
            Event::Alert(alert) => ids.push(alert.id),
            Event::Live(_) => return (ids, response.resume_token),
            Event::Reset(reset) => ids.push(format!("reset {}", reset.incarnation)),
            Event::Missed(missed) => panic!("{missed:?}"),
        }
    }
}

#[tokio::test]
async fn a_stream_lists_follows_and_resumes() {
    let plant = Plant::start(None).await;
    let mut client = plant.alerts().await;
    plant.board.publish_alerts(&[alert("a", "press-1")]);
    let mut stream = follow(&mut client, "").await;
    let (ids, token) = until_live(&mut stream).await;
    assert_eq!(ids, ["a"]);
    plant.board.publish_alerts(&[alert("b", "press-2")]);
    let news = stream.message().await.unwrap().unwrap();
    assert!(matches!(news.event, Some(Event::Alert(alert)) if alert.id == "b"));
    drop(stream);
    plant.board.publish_alerts(&[alert("c", "press-3")]);
    assert_eq!(until_live(&mut follow(&mut client, &token).await).await.0, ["b", "c"]);
    assert_eq!(until_live(&mut follow(&mut client, &news.resume_token).await).await.0, ["c"]);
    let list = client.list_alerts(ListAlertsRequest { include_closed: false, machines: vec!["press-2".into()] });
    assert_eq!(list.await.unwrap().into_inner().alerts.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["b"]);
    let garbage = StreamAlertsRequest { resume_token: "x".into(), machines: Vec::new() };
    assert_eq!(client.stream_alerts(garbage).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn another_incarnation_resets_a_stream_and_an_old_token() {
    let plant = Plant::start(None).await;
    let mut client = plant.alerts().await;
    let mut stream = follow(&mut client, "").await;
    let (_, token) = until_live(&mut stream).await;
    let ended = Alert { state: AlertState::Closed.into(), ..alert("ended", "press-1") };
    plant.board.begin(2, vec![alert("a", "press-1")], vec![ended]);
    assert_eq!(until_live(&mut stream).await.0, ["reset 2", "a", "ended"]);
    assert_eq!(until_live(&mut follow(&mut client, &token).await).await.0, ["reset 2", "a", "ended"]);
    assert_eq!(until_live(&mut follow(&mut client, "").await).await.0, ["a"], "a fresh start has seen nothing end");
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_missed_and_can_go_on() {
    let plant = Plant::start(None).await;
    let mut client = plant.alerts().await;
    let mut stream = follow(&mut client, "").await;
    until_live(&mut stream).await;
    // All at once, so that the ring has turned over before the stream can look.
    let flood: Vec<_> = (0..ALERT_EVENTS_MAX + 5).map(|_| alert("a", "press-1")).collect();
    plant.board.publish_alerts(&flood);
    let response = stream.message().await.unwrap().unwrap();
    assert!(matches!(response.event, Some(Event::Missed(missed)) if missed.events == 5));
    assert!(stream.message().await.unwrap().is_none());
    let again = until_live(&mut follow(&mut client, &response.resume_token).await).await;
    assert_eq!(again.0, ["reset 1", "a"]);
}

#[tokio::test]
async fn predictions_start_with_the_newest_of_each_machine() {
    let plant = Plant::start(None).await;
    let mut client = PredictionServiceClient::new(plant.channel().await);
    plant.board.publish_predictions(&[prediction("press-1", 0.1, 10), prediction("press-1", 0.2, 20)]);
    let request = StreamPredictionsRequest { machines: vec!["press-1".into()], ..Default::default() };
    let mut stream = client.stream_predictions(request).await.unwrap().into_inner();
    let mut next = async || told(&stream.message().await.unwrap().unwrap());
    assert_eq!(next().await, Told::Window(20));
    plant.board.publish_predictions(&[prediction("press-2", 0.1, 30), prediction("press-1", 0.3, 40)]);
    assert_eq!(next().await, Told::Window(40));
    let latest = PredictRequest { input: Some(Input::Machine("press-2".into())) };
    let answer = client.predict(latest).await.unwrap().into_inner().prediction.unwrap();
    assert_eq!(answer.window_end_ms, 30);
    let unknown = PredictRequest { input: Some(Input::Machine("nobody".into())) };
    assert_eq!(client.predict(unknown).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.predict(PredictRequest { input: None }).await.unwrap_err().code(), Code::InvalidArgument);
}

#[derive(Debug, PartialEq)]
enum Told {
    Window(i64),
    Missed(u64),
    Reset(u64),
}

fn told(response: &StreamPredictionsResponse) -> Told {
    match response.event.as_ref().unwrap() {
        stream_predictions_response::Event::Prediction(p) => Told::Window(p.window_end_ms),
        stream_predictions_response::Event::Missed(events) => Told::Missed(*events),
        stream_predictions_response::Event::Reset(incarnation) => Told::Reset(*incarnation),
    }
}

#[tokio::test]
async fn a_stream_of_predictions_goes_on_where_it_was_or_says_what_it_left_out() {
    let plant = Plant::start(None).await;
    let mut client = PredictionServiceClient::new(plant.channel().await);
    let mut follow = async |resume_token: &str, count: usize| {
        let request = StreamPredictionsRequest { machines: vec![], resume_token: resume_token.into() };
        let mut stream = client.stream_predictions(request).await.unwrap().into_inner();
        let mut responses = Vec::new();
        for _ in 0..count {
            responses.push(stream.message().await.unwrap().unwrap());
        }
        let token = responses.last().unwrap().resume_token.clone();
        (responses.iter().map(told).collect::<Vec<_>>(), token)
    };
    plant.board.publish_predictions(&[prediction("press-1", 0.1, 10), prediction("press-2", 0.2, 20)]);
    let (first, token) = follow("", 2).await;
    assert_eq!(first, [Told::Window(10), Told::Window(20)]);
    plant.board.publish_predictions(&[prediction("press-1", 0.1, 30), prediction("press-1", 0.1, 40)]);
    let (next, after) = follow(&token, 2).await;
    assert_eq!(next, [Told::Window(30), Told::Window(40)]);
    let flood: Vec<_> = (0..PREDICTION_EVENTS_MAX as i64).map(|n| prediction("press-2", 0.1, 50 + n)).collect();
    plant.board.publish_predictions(&flood);
    assert_eq!(follow(&token, 2).await.0, [Told::Missed(2), Told::Window(50)]);
    plant.board.begin(2, vec![], vec![]);
    let newest = 49 + PREDICTION_EVENTS_MAX as i64;
    assert_eq!(follow(&after, 3).await.0, [Told::Reset(2), Told::Window(40), Told::Window(newest)]);
    let garbage = StreamPredictionsRequest { resume_token: "x".into(), ..Default::default() };
    assert_eq!(client.stream_predictions(garbage).await.unwrap_err().code(), Code::InvalidArgument);
}
