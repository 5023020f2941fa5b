//! Promote, roll back, show, history: what is decided about versions, as text for people or JSON for programs.

use std::fmt::Write as _;

use chrono::DateTime;
use clap::Subcommand;
use proto::asset::AssetId;

use super::{Failure, decision, say};
use crate::{
    registry::{self, Action, Entry},
    store::Store,
};

/// Lines of the history that are printed unless more are asked for.
const HISTORY_LINES: usize = 20;

#[derive(Debug, Clone, Subcommand)]
pub enum Decisions {
    /// Puts a published version in charge.
    Promote {
        version: String,
        /// Kept in the history.
        #[arg(long, default_value = "by hand")]
        why: String,
        /// Only if this version is in charge: the one that it was compared with.
        #[arg(long)]
        over: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Puts the version in charge again that was there before the one in charge.
    Rollback {
        /// Another one instead.
        #[arg(long)]
        to: Option<String>,
        /// Kept in the history.
        #[arg(long, default_value = "by hand")]
        why: String,
        #[arg(long)]
        json: bool,
    },
    /// Says which version is in charge, since when, who put it there and why.
    Show {
        #[arg(long)]
        json: bool,
    },
    /// What was decided, the newest last: promoted, rolled back, refused.
    History {
        /// So many of the newest decisions.
        #[arg(long, default_value_t = HISTORY_LINES)]
        last: usize,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn carry_out(store: &Store, name: &AssetId, command: Decisions) -> Result<(), Failure> {
    match command {
        Decisions::Promote { version, why, over, json } => {
            let decision = decision(&why);
            let champion = match over {
                Some(over) => registry::promote_over(store, name, &version, &over, decision).await?,
                None => registry::promote(store, name, &version, decision).await?,
            };
            told(name, &champion, json)
        }
        Decisions::Rollback { to, why, json } => {
            let champion = registry::rollback(store, name, to.as_deref(), decision(&why)).await?;
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
    say(&format!("{name}: {} is in charge, before it {before}", champion.version))
}

/// A decision on one line.
fn line(entry: &Entry) -> String {
    let Entry { action, version, who, why, .. } = entry;
    let past = match action {
        Action::Promoted => "promoted",
        Action::RolledBack => "rolled back to",
        Action::Refused => "refused",
    };
    let when = time(entry.when_ms);
    let figures: Vec<String> = entry.metrics.iter().map(|m| format!("{} {:.2}", m.mode, m.f1)).collect();
    let figures = if figures.is_empty() { String::new() } else { format!(" (F1 {})", figures.join(", ")) };
    format!("{when}  {past:<14} {version} by {who}: {why}{figures}")
}

fn shown(name: &AssetId, champion: &Entry) -> String {
    let mut text = format!("{name}: {} is in charge\n{}", champion.version, line(champion));
    let _ = write!(text, "\nbefore it: {}", champion.previous.as_deref().unwrap_or("none"));
    for m in &champion.metrics {
        let _ = write!(
            text,
            "\n  {:<18} precision {:.3}, recall {:.3}, F1 {:.3}, average precision {:.3}, Brier {:.4}",
            m.mode, m.precision, m.recall, m.f1, m.average_precision, m.brier
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
        };
        let expected = "1970-01-01 00:00:00Z  rolled back to b by ann: it alarmed everywhere (F1 slip 0.50)";
        assert_eq!(line(&entry), expected);
        let shown = shown(&AssetId::new("failure").unwrap(), &entry);
        assert!(shown.starts_with("failure: b is in charge\n1970") && shown.contains("\nbefore it: c\n"), "{shown}");
    }
}
