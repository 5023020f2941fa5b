//! REST beside gRPC, the health probes, the metrics and the console page.

mod body;
pub mod error;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use proto::wire::{prediction::Prediction, telemetry::EventRecord};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Services,
    auth::Writes,
    board::{Board, Part, ProcessorState},
    command::Commands,
    connections::Connections,
    console,
    predict::{Predictions, Question},
    view::{self, AlertView, MachineView, PredictionView},
};
use body::{Acknowledgement, Event, PredictBody, Strict};
pub use error::RestError;

const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone)]
struct Rest {
    board: Board,
    commands: Commands,
    predictions: Predictions,
    writes: Writes,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

pub fn spawn(
    tasks: &mut JoinSet<()>,
    connections: Connections,
    services: Services,
    writes: Writes,
    stop: CancellationToken,
) {
    let router = router(services, writes, stop.clone());
    tasks.spawn(async move {
        let served = axum::serve(connections, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(e) = served.await {
            tracing::error!(error = %e, "HTTP ended");
        }
    });
}

fn router(services: Services, writes: Writes, stop: CancellationToken) -> Router {
    let Services { board, commands, model, metrics } = services;
    let console = console::router(board.clone(), writes.needs_token(), stop);
    let predictions = Predictions::new(board.clone(), model);
    Router::new()
        .route("/predict", post(predict))
        .route("/predict/{machine}", get(latest))
        .route("/plan", get(plan))
        .route("/alerts", get(alerts))
        .route("/alerts/{id}/acknowledge", post(acknowledge))
        .route("/events", post(record))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .fallback(async || RestError::not_found("there is nothing here"))
        .method_not_allowed_fallback(async || RestError::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Rest { board, commands, predictions, writes, metrics })
        .merge(console)
}

async fn predict(
    State(rest): State<Rest>,
    Strict(body): Strict<PredictBody>,
) -> Result<Json<PredictionView>, RestError> {
    let prediction = rest.predictions.answer(body.question()?).await?;
    Ok(Json(PredictionView::from(&prediction)))
}

async fn latest(State(rest): State<Rest>, Path(machine): Path<String>) -> Result<Json<PredictionView>, RestError> {
    let prediction: Prediction = rest.predictions.answer(Question::Machine(machine)).await?;
    Ok(Json(PredictionView::from(&prediction)))
}

async fn plan(State(rest): State<Rest>) -> Json<Vec<MachineView>> {
    let glance = rest.board.read().glance(None);
    Json(view::plan(&glance))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertsQuery {
    #[serde(default)]
    include_closed: bool,
}

async fn alerts(
    State(rest): State<Rest>,
    query: Result<Query<AlertsQuery>, QueryRejection>,
) -> Result<Json<Vec<AlertView>>, RestError> {
    let Query(query) = query.map_err(|e| RestError::new(e.status(), e.body_text()))?;
    let (open, closed) = rest.board.read().alerts(query.include_closed);
    let mut alerts = view::open_alerts(&open);
    alerts.extend(closed.iter().map(|a| AlertView::from(&**a)));
    Ok(Json(alerts))
}

async fn acknowledge(
    State(rest): State<Rest>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Strict<Acknowledgement>, RestError>,
) -> Result<Json<AlertView>, RestError> {
    rest.writes.check_http(&headers)?;
    let Strict(Acknowledgement { author, note, request_id }) = body?;
    let alert = rest.commands.acknowledge(id, author, note, request_id).await?;
    Ok(Json(AlertView::from(&alert)))
}

async fn record(
    State(rest): State<Rest>,
    headers: HeaderMap,
    body: Result<Strict<Event>, RestError>,
) -> Result<StatusCode, RestError> {
    rest.writes.check_http(&headers)?;
    let Strict(event) = body?;
    let (event, request_id): (EventRecord, String) = event.record(rest.board.read().plant_time)?;
    rest.commands.record(event, request_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn ready(State(rest): State<Rest>) -> impl IntoResponse {
    let view = rest.board.read();
    let ready = view.waiting.is_empty();
    let part = |part: Part| view.waiting.get(&part).map_or("ready", String::as_str).to_string();
    let model = match &view.state {
        ProcessorState::Learning => "learning: alerts by rules only".to_string(),
        ProcessorState::Live { model_version } => model_version.clone(),
    };
    let parts = json!({
        "ready": ready,
        "broker": part(Part::Broker),
        "archive": part(Part::Archive),
        "recovery": part(Part::Recovery),
        "model": model,
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(parts))
}

async fn metrics_text(State(rest): State<Rest>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (rest.metrics)())
}
