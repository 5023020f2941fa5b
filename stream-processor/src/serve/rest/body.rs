//! Request bodies, strict: an unknown, missing or wrong field is named.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use chrono::DateTime;
use proto::{
    time::PlantTime,
    wire::{
        prediction::{RawReading, SensorReadings},
        telemetry::{EventKind, EventRecord, Verdict},
    },
};
use serde::{Deserialize, de::DeserializeOwned};

use super::RestError;
use crate::serve::predict::Question;

/// A JSON body. The content type is asked for, since a browser sends it to another site only after asking there.
pub struct Strict<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Strict<T> {
    type Rejection = RestError;

    async fn from_request(request: Request, state: &S) -> Result<Self, RestError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media_type = content_type.and_then(|v| v.split(';').next()).unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let wanted = "the header `Content-Type: application/json` is needed";
            return Err(RestError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, wanted));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|e| RestError::new(e.status(), e.body_text()))?;
        parse(&bytes).map(Strict)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RestError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        if !e.inner().is_data() {
            return RestError::new(StatusCode::BAD_REQUEST, e.inner().to_string());
        }
        let reason = e.inner().to_string();
        let path = e.path().to_string();
        RestError::field(field(&path, &reason), reason)
    })?;
    json.end().map_err(|e| RestError::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    Ok(value)
}

/// A missing field has no path of its own; serde names it in the message.
fn field(path: &str, reason: &str) -> String {
    let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match (path, missing) {
        (path, None) => path.into(),
        ("." | "", Some(name)) => name.into(),
        (path, Some(name)) => format!("{path}.{name}"),
    }
}

/// Plant time, RFC 3339 or ms since 1970.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Time {
    Millis(i64),
    Text(String),
}

impl Time {
    fn millis(&self, field: impl Into<String>) -> Result<i64, RestError> {
        match self {
            Time::Millis(ms) => Ok(*ms),
            Time::Text(text) => DateTime::parse_from_rfc3339(text)
                .map(|time| time.timestamp_millis())
                .map_err(|_| RestError::field(field, "must be RFC 3339 or milliseconds since 1970")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictBody {
    kind: String,
    sensors: Option<Vec<SensorBody>>,
    features: Option<BTreeMap<String, f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SensorBody {
    sensor: String,
    unit: String,
    readings: Vec<ReadingBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadingBody {
    time: Time,
    value: f64,
}

impl PredictBody {
    pub fn question(self) -> Result<Question, RestError> {
        match (self.sensors, self.features) {
            (Some(sensors), None) => {
                let sensors = sensors.into_iter().enumerate().map(|(n, sensor)| sensor.readings(n));
                Ok(Question::Readings { kind: self.kind, sensors: sensors.collect::<Result<_, _>>()? })
            }
            (None, Some(values)) => Ok(Question::Features { kind: self.kind, values }),
            _ => Err(RestError::field("sensors", "give either `sensors` with raw readings or `features` by name")),
        }
    }
}

impl SensorBody {
    fn readings(self, sensor: usize) -> Result<SensorReadings, RestError> {
        let reading = |(n, r): (usize, &ReadingBody)| {
            let time_ms = r.time.millis(format!("sensors[{sensor}].readings[{n}].time"))?;
            Ok(RawReading { time_ms, value: r.value })
        };
        let readings = self.readings.iter().enumerate().map(reading).collect::<Result<_, RestError>>()?;
        Ok(SensorReadings { sensor: self.sensor, unit: self.unit, readings })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    pub author: String,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub request_id: String,
}

/// What a person saw or did.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Event {
    machine: String,
    /// Left out: now.
    time: Option<Time>,
    kind: String,
    code: String,
    mode: String,
    note: String,
    author: String,
    alert_id: String,
    verdict: String,
    request_id: String,
}

impl Event {
    pub fn record(self, now: PlantTime) -> Result<(EventRecord, String), RestError> {
        let time_ms = self.time.as_ref().map_or(Ok(now.millis()), |time| time.millis("time"))?;
        let event = EventRecord {
            time_ms,
            kind: kind(&self.kind)?.into(),
            verdict: verdict(&self.verdict)?.into(),
            machine: self.machine,
            code: self.code,
            mode: self.mode,
            note: self.note,
            author: self.author,
            alert_id: self.alert_id,
        };
        Ok((event, self.request_id))
    }
}

fn kind(name: &str) -> Result<EventKind, RestError> {
    Ok(match name {
        "" => EventKind::Unspecified,
        "error" => EventKind::Error,
        "failure" => EventKind::Failure,
        "maintenance" => EventKind::Maintenance,
        "replacement" => EventKind::Replacement,
        _ => return Err(RestError::field("kind", "must be error, failure, maintenance or replacement")),
    })
}

fn verdict(name: &str) -> Result<Verdict, RestError> {
    Ok(match name {
        "" => Verdict::Unspecified,
        "confirmed" => Verdict::Confirmed,
        "partly" => Verdict::Partly,
        "false_alarm" => Verdict::FalseAlarm,
        "sensor_fault" => Verdict::SensorFault,
        _ => return Err(RestError::field("verdict", "must be confirmed, partly, false_alarm or sensor_fault")),
    })
}
