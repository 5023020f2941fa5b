//! The gRPC services over the board.

mod alerts;
mod predictions;

use proto::wire::{
    alert::{
        RecordEventRequest, RecordEventResponse,
        alert_service_server::AlertServiceServer,
        maintenance_service_server::{MaintenanceService, MaintenanceServiceServer},
    },
    prediction::prediction_service_server::PredictionServiceServer,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap, server::NamedService, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    Services,
    auth::{Denied, Writes},
    board::{Board, Cursor},
    command::{CommandError, Commands},
    connections::Connections,
    predict::{PredictError, Predictions},
};
use alerts::Alerts;
use predictions::PredictionRpc;

const REQUEST_BYTES_MAX: usize = 1024 * 1024;
const STREAMS_PER_CONNECTION_MAX: u32 = 256;

pub fn spawn(
    tasks: &mut JoinSet<()>,
    connections: Connections,
    services: Services,
    writes: Writes,
    stop: CancellationToken,
) -> Result<(), tonic_reflection::server::Error> {
    let Services { board, commands, model, .. } = services;
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let predictions =
        PredictionRpc { predictions: Predictions::new(board.clone(), model), board: board.clone(), stop: stop.clone() };
    let alerts =
        Alerts { board: board.clone(), commands: commands.clone(), writes: writes.clone(), stop: stop.clone() };
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_service(health)
        .add_service(reflection)
        .add_service(PredictionServiceServer::new(predictions).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(AlertServiceServer::new(alerts).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(
            MaintenanceServiceServer::new(Maintenance { commands, writes })
                .max_decoding_message_size(REQUEST_BYTES_MAX),
        );
    let ended = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(e) = server.serve_with_incoming_shutdown(connections, ended).await {
            tracing::error!(error = %e, "gRPC ended");
        }
    });
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = report_health(reporter, board) => {}
        }
    });
    Ok(())
}

/// Serving while every part of the processor is ready.
async fn report_health(reporter: HealthReporter, board: Board) {
    let mut ready = board.follow_ready();
    loop {
        let status = if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", PredictionServiceServer::<PredictionRpc>::NAME, AlertServiceServer::<Alerts>::NAME] {
            reporter.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

struct Maintenance {
    commands: Commands,
    writes: Writes,
}

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    async fn record_event(
        &self,
        request: Request<RecordEventRequest>,
    ) -> Result<Response<RecordEventResponse>, Status> {
        may_write(&self.writes, request.metadata())?;
        let RecordEventRequest { event, request_id } = request.into_inner();
        let event = event.ok_or_else(|| Status::invalid_argument("event: is missing"))?;
        self.commands.record(event, request_id).await?;
        Ok(Response::new(RecordEventResponse {}))
    }
}

/// Where a client may go on; None: resuming there would leave something out.
type ResumeToken = Option<Cursor>;

/// Empty: a fresh start.
fn resume_from(token: &str) -> Result<Option<Cursor>, Status> {
    let parsed = (!token.is_empty()).then(|| token.parse::<Cursor>()).transpose();
    parsed.map_err(|e| Status::invalid_argument(format!("resume_token: {e}")))
}

fn text(token: ResumeToken) -> String {
    token.map(|cursor| cursor.to_string()).unwrap_or_default()
}

fn may_write(writes: &Writes, metadata: &MetadataMap) -> Result<(), Status> {
    Ok(writes.check_token(metadata.get("authorization").map(|value| value.as_bytes()))?)
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Status::unauthenticated(denied.to_string())
    }
}

impl From<CommandError> for Status {
    fn from(e: CommandError) -> Self {
        match e {
            CommandError::Invalid { field, reason } => Status::invalid_argument(format!("{field}: {reason}")),
            CommandError::NotFound(reason) => Status::not_found(reason),
            CommandError::Conflict(reason) => Status::failed_precondition(reason),
            CommandError::Unavailable(reason) => Status::unavailable(reason),
        }
    }
}

impl From<PredictError> for Status {
    fn from(e: PredictError) -> Self {
        match &e {
            PredictError::Invalid { field, reason } => Status::invalid_argument(format!("{field}: {reason}")),
            PredictError::Learning => Status::failed_precondition(e.to_string()),
            PredictError::UnknownMachine { .. } => Status::not_found(e.to_string()),
            PredictError::NotYet { .. } => Status::unavailable(e.to_string()),
            PredictError::Failed(_) => Status::internal(e.to_string()),
        }
    }
}
