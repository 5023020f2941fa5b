//! What can go wrong with S3, whether trying again can help, and the counters of it.

use std::error::Error;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use opentelemetry::{KeyValue, global, metrics::Counter};

use super::OBJECT_BYTES_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get,
    Put,
    PutConditional,
    Head,
    List,
    Delete,
    CreateBucket,
}

impl Operation {
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Put => "put",
            Operation::PutConditional => "put_conditional",
            Operation::Head => "head",
            Operation::List => "list",
            Operation::Delete => "delete",
            Operation::CreateBucket => "create_bucket",
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("S3 {} {key}: {reason}", operation.name())]
pub struct StoreError {
    operation: Operation,
    key: String,
    reason: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The endpoint answered.
    Answer { status: u16, code: String },
    /// No answer came.
    NoAnswer,
    /// An answer began, and its body can't be believed.
    Interrupted,
    /// It is on our side.
    Here,
    /// A file of ours can't be read or written.
    File,
}

impl StoreError {
    /// Whether the request was carried out is not known.
    pub fn no_answer(operation: Operation, key: &str, reason: &str) -> Self {
        StoreError { operation, key: key.into(), reason: reason.into(), kind: Kind::NoAnswer }
    }

    /// Can the same request succeed later?
    pub fn is_transient(&self) -> bool {
        match &self.kind {
            Kind::NoAnswer | Kind::Interrupted => true,
            Kind::Answer { status, code } => {
                matches!(status, 408 | 409 | 429 | 500..) || code == "RequestTimeTooSkewed" || code == "ExpiredToken"
            }
            Kind::Here | Kind::File => false,
        }
    }

    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self.kind, Kind::Interrupted)
    }

    /// Is it about the local file that was to be sent or filled? Then it has nothing to do with S3.
    pub fn is_of_file(&self) -> bool {
        matches!(self.kind, Kind::File)
    }

    pub fn status(&self) -> Option<u16> {
        match self.kind {
            Kind::Answer { status, .. } => Some(status),
            Kind::NoAnswer | Kind::Interrupted | Kind::Here | Kind::File => None,
        }
    }

    /// A bucket that is not there also answers 404, and that is not the same.
    pub(super) fn is_missing_key(&self) -> bool {
        matches!(&self.kind, Kind::Answer { status: 404, code } if code != "NoSuchBucket")
    }

    pub(super) fn from_sdk<E>(operation: Operation, key: &str, e: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let status = e.raw_response().map(|r| r.status().as_u16());
        let kind = match (&e, status) {
            (SdkError::ConstructionFailure(_), _) => Kind::Here,
            (SdkError::DispatchFailure(d), _) if d.is_user() => Kind::Here,
            (SdkError::ServiceError(service), Some(status)) => {
                Kind::Answer { status, code: service.err().code().unwrap_or_default().into() }
            }
            _ => Kind::NoAnswer,
        };
        StoreError { operation, key: key.into(), reason: chain(&e), kind }
    }

    pub(super) fn file(operation: Operation, key: &str, e: &dyn Error) -> Self {
        StoreError { operation, key: key.into(), reason: chain(e), kind: Kind::File }
    }

    pub(super) fn interrupted(operation: Operation, key: &str, e: &dyn Error) -> Self {
        StoreError { operation, key: key.into(), reason: chain(e), kind: Kind::Interrupted }
    }

    pub(super) fn too_large(key: &str) -> Self {
        let reason = format!("larger than {OBJECT_BYTES_MAX} bytes");
        StoreError { operation: Operation::Get, key: key.into(), reason, kind: Kind::Here }
    }
}

/// The SDK's errors say little themselves; what happened is in their sources.
fn chain(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}

#[derive(Clone)]
pub(super) struct Meters {
    requests: Counter<u64>,
    errors: Counter<u64>,
}

impl Meters {
    pub(super) fn new() -> Self {
        let meter = global::meter("millwright");
        let counter = |name, text| meter.u64_counter(name).with_description(text).build();
        Meters {
            requests: counter("millwright_s3_requests", "Requests to S3, without the client's own retries."),
            errors: counter("millwright_s3_errors", "Requests to S3 that failed for good."),
        }
    }

    pub(super) fn request(&self, operation: Operation) {
        self.requests.add(1, &[KeyValue::new("operation", operation.name())]);
    }

    pub(super) fn error(&self, e: StoreError) -> StoreError {
        self.errors.add(1, &[KeyValue::new("operation", e.operation.name())]);
        e
    }
}
