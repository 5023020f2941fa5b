//! Promote, roll back, show, history: what is decided about versions, as text for people or JSON for programs.

use std::fmt::Write as _;

use chrono::DateTime;
use clap::Subcommand;
use proto::asset::AssetId;

use super::{Failure, decision, say};
use crate::{
    registry::{self, Action, Canary, Entry, canary},
    store::Store,
    trial::Trial,
};

/// Lines of the history that are printed unless more are asked for.
const HISTORY_LINES: usize = 20;

#[derive(Debug, Clone, Subcommand)]
pub enum Decisions {
    /// Puts a published version in charge, or on trial beside the one that is.
    Promote {
        /// What is on trial, unless given.
        version: Option<String>,
        /// On trial: it judges this share of the machines, by a hash of their names.
        #[arg(long, value_name = "SHARE", requires = "version", value_parser = share)]
        canary: Option<f64>,
        /// On trial: it scores all machines and judges none.
        #[arg(long, requires = "version", conflicts_with = "canary")]
        shadow: bool,
        /// It is put in charge by itself after so much plant time, if nothing speaks against it; else a person does.
        #[arg(long, value_name = "HOURS", requires = "canary", value_parser = hours)]
        probation: Option<f64>,
        /// Kept in the history.
        #[arg(long, default_value = "by hand")]
        why: String,
        /// Only if this version is in charge: the one that it was compared with.
        #[arg(long, requires = "version")]
        over: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Ends the trial, if a version is on trial; or puts the version in charge again that was there before the one in charge.
    Rollback {
        /// This one instead, whatever is on trial.
        #[arg(long)]
        to: Option<String>,
        /// Kept in the history.
        #[arg(long, default_value = "by hand")]
        why: String,
        #[arg(long)]
        json: bool,
    },
    /// Says which version is in charge and which on trial, since when, who put it there and why.
    Show {
        #[arg(long)]
        json: bool,
    },
    /// What was decided, the newest last: promoted, tried, taken back, rolled back, refused.
    History {
        /// So many of the newest decisions.
        #[arg(long, default_value_t = HISTORY_LINES)]
        last: usize,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn carry_out(store: &Store, name: &AssetId, who: &str, command: Decisions) -> Result<(), Failure> {
    match command {
        Decisions::Promote { version, canary, shadow, probation, why, over, json } => {
            let decision = decision(who, &why);
            let share = canary.or(shadow.then_some(0.0));
            let champion = match (version, share, over) {
                (None, _, _) => canary::finish(store, name, None, decision).await?,
                (Some(version), Some(share), over) => {
                    let trial = Trial { version, share };
                    canary::try_beside(store, name, trial, probation, over.as_deref(), decision).await?
                }
                (Some(version), None, Some(over)) => {
                    registry::promote_over(store, name, &version, &over, decision).await?
                }
                (Some(version), None, None) => registry::promote(store, name, &version, decision).await?,
            };
            told(name, &champion, json)
        }
        Decisions::Rollback { to, why, json } => {
            let champion = registry::rollback(store, name, to.as_deref(), decision(who, &why)).await?;
            told(name, &champion, json)
        }
        Decisions::Show { json } => {
            let champion = registry::champion(store, name).await?;
            let champion = champion.ok_or_else(|| Failure::Run(super::nothing_promoted(name).into()))?;
            if json { say(&serde_json::to_string_pretty(&champion)?) } else { say(&shown(name, &champion)) }
        }
        Decisions::History { last, json } => {
            let entries = registry::history(store, name).await?;
            let newest = &entries[entries.len().saturating_sub(last)..];
            if json {
                say(&serde_json::to_string_pretty(newest)?)
            } else {
                newest.iter().try_for_each(|e| say(&line(e)))
            }
        }
    }
}

fn told(name: &AssetId, champion: &Entry, json: bool) -> Result<(), Failure> {
    if json {
        return say(&serde_json::to_string_pretty(champion)?);
    }
    let before = champion.previous.as_deref().unwrap_or("none");
    let version = &champion.version;
    match (champion.action, &champion.canary) {
        (_, Some(canary)) => say(&format!("{name}: {version} stays in charge, and {}", on_trial(canary))),
        (Action::TakenBack, None) => {
            say(&format!("{name}: {before} is not on trial any more, {version} stays in charge"))
        }
        _ => say(&format!("{name}: {version} is in charge, before it {before}")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "a share is above 0 and below 1; all machines are a promotion, and none are --shadow".into())
}

fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| *hours > 0.0 && *hours <= 8_760.0);
    hours.ok_or_else(|| "hours are above 0 and at most 8760".into())
}

/// Which version, on what, and how it ends.
pub(super) fn on_trial(canary: &Canary) -> String {
    let Trial { version, share } = &canary.trial;
    if canary.trial.is_shadow() {
        return format!("{version} is its shadow");
    }
    let end =
        canary.probation_hours.map_or("until somebody decides".into(), |hours| format!("for {hours} h of plant time"));
    format!("{version} judges {:.0} % of the machines {end}", 100.0 * share)
}

/// A decision on one line.
fn line(entry: &Entry) -> String {
    let Entry { action, version, who, why, previous, canary, .. } = entry;
    let trial = canary.as_ref().map(|canary| canary.trial.version.as_str());
    let (past, version) = match action {
        Action::Promoted => ("promoted", version.as_str()),
        Action::RolledBack => ("rolled back to", version.as_str()),
        Action::Refused => ("refused", version.as_str()),
        Action::Tried => ("tried", trial.unwrap_or(version)),
        Action::TakenBack => ("taken back", previous.as_deref().unwrap_or(version)),
    };
    let how = canary.as_ref().map_or(String::new(), |canary| match canary.trial.is_shadow() {
        true => " as shadow".into(),
        false => format!(" on {:.0} %", 100.0 * canary.trial.share),
    });
    let when = time(entry.when_ms);
    let metrics = canary.as_ref().map_or(&entry.metrics, |canary| &canary.metrics);
    let metrics = if *action == Action::TakenBack { &[][..] } else { metrics };
    let figures: Vec<String> = metrics.iter().map(|m| format!("{} {:.2}", m.mode, m.f1)).collect();
    let figures = if figures.is_empty() { String::new() } else { format!(" (F1 {})", figures.join(", ")) };
    format!("{when}  {past:<14} {version}{how} by {who}: {why}{figures}")
}

fn shown(name: &AssetId, champion: &Entry) -> String {
    let mut text = format!("{name}: {} is in charge\n{}", champion.version, line(champion));
    if let Some(canary) = &champion.canary {
        let _ = write!(text, "\non trial since {}: {}", time(canary.since_ms), on_trial(canary));
    } else if champion.action != Action::TakenBack {
        let _ = write!(text, "\nbefore it: {}", champion.previous.as_deref().unwrap_or("none"));
    }
    for m in &champion.metrics {
        let _ = write!(
            text,
            "\n  {:<18} precision {:.3}, recall {:.3}, F1 {:.3}, average precision {:.3}, Brier {}",
            m.mode,
            m.precision,
            m.recall,
            m.f1,
            m.average_precision,
            m.brier_text()
        );
    }
    text
}

fn time(wall_ms: i64) -> String {
    DateTime::from_timestamp_millis(wall_ms).map_or("unknown".into(), |at| at.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::ModeMetrics;

    #[test]
    fn a_decision_reads_as_a_sentence() {
        let slip = ModeMetrics {
            mode: "slip".into(),
            positives: 3,
            precision: 0.5,
            recall: 0.5,
            f1: 0.5,
            average_precision: 0.6,
            brier: 0.01,
            brier_between: Some((0.005, 0.02)),
        };
        let entry = Entry {
            number: 2,
            action: Action::RolledBack,
            version: "b".into(),
            previous: Some("c".into()),
            who: "ann".into(),
            why: "it alarmed everywhere".into(),
            when_ms: 0,
            metrics: vec![slip],
            canary: None,
        };
        let expected = "1970-01-01 00:00:00Z  rolled back to b by ann: it alarmed everywhere (F1 slip 0.50)";
        assert_eq!(line(&entry), expected);
        let shown = shown(&AssetId::new("failure").unwrap(), &entry);
        assert!(shown.starts_with("failure: b is in charge\n1970") && shown.contains("\nbefore it: c\n"), "{shown}");
        assert!(shown.ends_with(", Brier 0.0100 [0.0050, 0.0200]"), "{shown}");

        let trial = Trial { version: "d".into(), share: 0.2 };
        let canary = Canary { trial, since_ms: 0, probation_hours: Some(72.0), metrics: vec![] };
        let tried = Entry { action: Action::Tried, why: "a test".into(), canary: Some(canary), ..entry.clone() };
        assert_eq!(line(&tried), "1970-01-01 00:00:00Z  tried          d on 20 % by ann: a test");
        let shown = self::shown(&AssetId::new("failure").unwrap(), &tried);
        let trial = "\non trial since 1970-01-01 00:00:00Z: d judges 20 % of the machines for 72 h of plant time\n";
        assert!(shown.starts_with("failure: b is in charge\n") && shown.contains(trial), "{shown}");
        let back = Entry { action: Action::TakenBack, previous: Some("d".into()), canary: None, ..tried };
        assert_eq!(line(&back), "1970-01-01 00:00:00Z  taken back     d by ann: a test");
    }
}
