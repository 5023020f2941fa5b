//! An alert as one line for the terminal: machine, what is wrong, how sure, which sensors say so, what to do.

use proto::{
    time::PlantTime,
    wire::{
        alert::{Alert, AlertSource, AlertState, Outcome, Severity},
        prediction::Contribution,
    },
};

/// The crew looks at the loudest ones; the rest is on the console.
const SENSORS_MAX: usize = 3;
/// A sensor that says less than this share of what the loudest says is not worth its words.
const SHARE_MIN: f64 = 0.1;

/// For example:
/// `2026-03-01T10:20:00Z CRITICAL press-2 (press): a bearing is wearing out, 87 % within 24 h | vibration 5.1 mm/s (normal 2.2) | Order the ...`
pub fn line(alert: &Alert) -> String {
    let time = PlantTime(alert.updated_ms);
    let head = format!("{time} {} {} ({}): {}", label(alert), alert.machine, alert.machine_kind, alert.summary);
    match alert.state() {
        AlertState::Closed => format!("{head}, {}", outcome(alert.outcome())),
        AlertState::Acknowledged => format!("{head}, {}, {} is on it", certainty(alert), alert.acknowledged_by),
        AlertState::Open | AlertState::Unspecified => {
            let parts = [Some(format!("{head}, {}", certainty(alert))), sensors(alert), Some(alert.action.clone())];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" | ")
        }
    }
}

fn label(alert: &Alert) -> &'static str {
    match (alert.state(), alert.severity()) {
        (AlertState::Closed, _) => "CLOSED",
        (AlertState::Acknowledged, _) => "ACKNOWLEDGED",
        (_, Severity::Critical) => "CRITICAL",
        _ => "WARNING",
    }
}

pub fn certainty(alert: &Alert) -> String {
    if alert.source() == AlertSource::Rule {
        return "by rule".into();
    }
    let percent = (alert.probability * 100.0).round();
    let doubt = if alert.calibrated { "" } else { " (not calibrated)" };
    match alert.horizon_ms {
        ..=0 => format!("{percent:.0} %{doubt}"),
        ms => format!("{percent:.0} %{doubt} within {}", duration(ms)),
    }
}

fn sensors(alert: &Alert) -> Option<String> {
    let loudest = alert.contributions.iter().map(|c| c.logit).fold(0.0, f64::max);
    let says_so = |c: &&Contribution| c.logit >= loudest * SHARE_MIN;
    let named: Vec<_> = alert.contributions.iter().filter(says_so).take(SENSORS_MAX).map(sensor).collect();
    (!named.is_empty()).then(|| named.join(", "))
}

fn sensor(c: &Contribution) -> String {
    match (c.value.is_finite(), c.normal.is_finite()) {
        (false, _) => format!("{} silent", c.sensor),
        (true, false) => format!("{} {} {}", c.sensor, figure(c.value), c.unit),
        (true, true) => format!("{} {} {} (normal {})", c.sensor, figure(c.value), c.unit, figure(c.normal)),
    }
}

/// Three digits are what a sensor is good for.
fn figure(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn duration(ms: i64) -> String {
    const HOUR_MS: i64 = 3_600_000;
    match ms {
        ..HOUR_MS => format!("{} min", ms / 60_000),
        ms if ms <= 72 * HOUR_MS => format!("{} h", ms / HOUR_MS),
        ms => format!("{} days", ms / (24 * HOUR_MS)),
    }
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Failed => "the machine failed",
        Outcome::Repaired => "repaired",
        Outcome::Dismissed => "dismissed by the crew",
        Outcome::Superseded => "a model watches this machine now",
        Outcome::Cleared | Outcome::Unspecified => "back to normal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        Alert {
            machine: "press-2".into(),
            machine_kind: "press".into(),
            source: AlertSource::Model.into(),
            severity: Severity::Critical.into(),
            state: AlertState::Open.into(),
            probability: 0.873,
            horizon_ms: 24 * 3_600_000,
            updated_ms: 1_772_360_400_000,
            contributions: vec![
                Contribution { sensor: "vibration".into(), logit: 2.0, value: 5.123, normal: 2.2, unit: "mm/s".into() },
                Contribution { sensor: "sound".into(), logit: -0.4, value: 80.0, normal: 80.0, unit: "dB(A)".into() },
            ],
            calibrated: true,
            summary: "a bearing is wearing out".into(),
            action: "Order the bearing set.".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_open_alert_says_what_how_sure_why_and_what_to_do() {
        assert_eq!(
            line(&alert()),
            "2026-03-01T10:20:00Z CRITICAL press-2 (press): a bearing is wearing out, 87 % within 24 h \
             | vibration 5.12 mm/s (normal 2.20) | Order the bearing set."
        );
    }

    #[test]
    fn a_probability_that_is_none_is_marked() {
        let rough = Alert { calibrated: false, ..alert() };
        assert!(line(&rough).contains("a bearing is wearing out, 87 % (not calibrated) within 24 h |"));
    }

    #[test]
    fn what_is_not_known_is_not_printed() {
        let mut alert = alert();
        alert.contributions[0].normal = f64::NAN;
        assert!(line(&alert).contains("| vibration 5.12 mm/s |"));
        alert.contributions[0].value = f64::NAN;
        assert!(line(&alert).contains("| vibration silent |"));
    }

    #[test]
    fn a_rule_has_no_probability() {
        let rule = Alert { source: AlertSource::Rule.into(), ..alert() };
        assert!(line(&rule).contains("a bearing is wearing out, by rule |"));
    }

    #[test]
    fn a_closed_alert_says_how_it_ended() {
        let mut closed = alert();
        closed.set_state(AlertState::Closed);
        closed.set_outcome(Outcome::Failed);
        assert_eq!(
            line(&closed),
            "2026-03-01T10:20:00Z CLOSED press-2 (press): a bearing is wearing out, the machine failed"
        );
    }
}
