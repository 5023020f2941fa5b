//! What Alertmanager's webhook brings (its format, version 4), as far as a retraining is concerned.

use std::fmt;

use serde::Deserialize;

/// Larger bodies are refused unread.
pub const NOTICE_BYTES_MAX: usize = 256 * 1024;
/// The label, and its value, by which an alert asks for a retraining; the rules set it.
pub const ASKS: (&str, &str) = ("action", "retrain");
const VERSION: &str = "4";
const FINGERPRINT_CHARS_MAX: usize = 64;
/// Of what is kept as the reason of a retraining.
const WHY_CHARS_MAX: usize = 300;

/// One alert of a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// The same for the same labels.
    pub fingerprint: String,
    pub firing: bool,
    /// Whether it asks for a retraining.
    pub asks: bool,
    /// Its name and what it says, on one line.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNotice {
    #[error("no notice of Alertmanager: {0}")]
    Format(String),
    #[error("a notice of version {0:?}, and only \"{VERSION}\" is known here")]
    Version(String),
    #[error("an alert whose fingerprint can't be one: {0:?}")]
    Fingerprint(String),
}

#[derive(Deserialize)]
struct Body {
    version: String,
    alerts: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    status: Status,
    fingerprint: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Status {
    Firing,
    Resolved,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    alertname: String,
    /// [`ASKS`]
    action: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    summary: String,
}

/// The alerts of a notice: all of them, or an error.
pub fn decode(bytes: &[u8]) -> Result<Vec<Alert>, InvalidNotice> {
    let body: Body = serde_json::from_slice(bytes).map_err(|e| InvalidNotice::Format(e.to_string()))?;
    if body.version != VERSION {
        return Err(InvalidNotice::Version(body.version.chars().take(FINGERPRINT_CHARS_MAX).collect()));
    }
    body.alerts.into_iter().map(alert).collect()
}

fn alert(told: Told) -> Result<Alert, InvalidNotice> {
    let Told { status, fingerprint, labels, annotations } = told;
    let fits = (1..=FINGERPRINT_CHARS_MAX).contains(&fingerprint.len());
    if !fits || !fingerprint.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(InvalidNotice::Fingerprint(fingerprint.chars().take(FINGERPRINT_CHARS_MAX).collect()));
    }
    let why = one_line(format_args!("{}: {}", labels.alertname, annotations.summary));
    Ok(Alert { fingerprint, firing: status == Status::Firing, asks: labels.action == ASKS.1, why })
}

/// It goes into logs, an environment and an annotation.
fn one_line(text: fmt::Arguments<'_>) -> String {
    let text = text.to_string();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WHY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Alertmanager 0.28 sends it.
    const SENT: &str = r#"{"receiver":"retraining","status":"firing","alerts":[
        {"status":"firing","labels":{"action":"retrain","alertname":"ModelAccuracyLow","team":"ml"},
         "annotations":{"summary":"v1 is no longer\ngood enough"},"startsAt":"2026-03-01T10:00:00Z",
         "endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://p/graph","fingerprint":"3fa9c1"},
        {"status":"resolved","labels":{"alertname":"Other"},"annotations":{},"fingerprint":"77"}],
        "groupLabels":{},"commonLabels":{},"commonAnnotations":{},"externalURL":"http://a","version":"4",
        "groupKey":"{}:{}","truncatedAlerts":0}"#;

    #[test]
    fn what_alertmanager_sends_is_read() {
        let alerts = decode(SENT.as_bytes()).unwrap();
        let first = Alert {
            fingerprint: "3fa9c1".into(),
            firing: true,
            asks: true,
            why: "ModelAccuracyLow: v1 is no longer good enough".into(),
        };
        assert_eq!(alerts[0], first);
        assert_eq!((alerts[1].firing, alerts[1].asks), (false, false));
    }

    #[test]
    fn what_is_no_such_notice_is_refused_with_the_reason() {
        let refusal = |text: &str| decode(text.as_bytes()).unwrap_err().to_string();
        assert!(refusal("{}").contains("missing field `version`"));
        assert!(refusal("[").starts_with("no notice of Alertmanager"));
        assert!(refusal(&SENT.replace("\"version\":\"4\"", "\"version\":\"5\"")).contains("version \"5\""));
        assert!(refusal(&SENT.replace("\"77\"", "\"../77\"")).contains("../77"));
        assert!(refusal(&SENT.replace("\"resolved\"", "\"perhaps\"")).contains("unknown variant"));
        assert!(refusal(&SENT.replace("\"77\"", &format!("{:?}", "7".repeat(65)))).contains("fingerprint"));
    }

    #[test]
    fn a_long_summary_is_cut() {
        let alerts = decode(SENT.replace("good enough", &"ä".repeat(5_000)).as_bytes()).unwrap();
        assert_eq!(alerts[0].why.chars().count(), WHY_CHARS_MAX);
    }
}
