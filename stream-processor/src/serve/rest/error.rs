//! Errors as `{"error": ..., "field": ...}`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::serve::{auth::Denied, command::CommandError, predict::PredictError};

#[derive(Debug)]
pub struct RestError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    /// Path in the request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl RestError {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        RestError { status, body: Body { error: error.into(), field: None } }
    }

    /// Well-formed, but not what this wants.
    pub fn field(field: impl Into<String>, error: impl Into<String>) -> Self {
        let body = Body { error: error.into(), field: Some(field.into()) };
        RestError { status: StatusCode::UNPROCESSABLE_ENTITY, body }
    }

    pub fn not_found(error: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this address takes another method")
    }
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<Denied> for RestError {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::Missing | Denied::Wrong => StatusCode::UNAUTHORIZED,
            Denied::CrossOrigin => StatusCode::FORBIDDEN,
        };
        Self::new(status, denied.to_string())
    }
}

impl From<CommandError> for RestError {
    fn from(e: CommandError) -> Self {
        match e {
            CommandError::Invalid { field, reason } => Self::field(field, reason),
            CommandError::NotFound(reason) => Self::new(StatusCode::NOT_FOUND, reason),
            CommandError::Conflict(reason) => Self::new(StatusCode::CONFLICT, reason),
            CommandError::Unavailable(reason) => Self::new(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }
}

impl From<PredictError> for RestError {
    fn from(e: PredictError) -> Self {
        match e {
            PredictError::Invalid { field, reason } => Self::field(field, reason),
            PredictError::Learning | PredictError::NotYet { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, e.to_string())
            }
            PredictError::UnknownMachine { .. } => Self::new(StatusCode::NOT_FOUND, e.to_string()),
            PredictError::Failed(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }
}
