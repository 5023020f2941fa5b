//! The evaluation as a table for people.

use std::fmt;

use super::{ContenderResult, Evaluation, Interval, ModeResult};

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evaluation { version, test_rows, machines, .. } = self;
        writeln!(f, "model {version} on {test_rows} windows of {machines} machines that no step of training saw\n")?;
        writeln!(
            f,
            "{:<20} {:<18} {:>9} {:>7} {:>6} {:>8} {:>23} {:>9} {:>8} {:>16}",
            "", "mode", "precision", "recall", "F1", "avg prec", "brier (95 %)", "caught", "lead h", "false/mach-month"
        )?;
        self.contenders.iter().try_for_each(|contender| write_contender(f, contender))?;
        writeln!(
            f,
            "\naverage precision of the mlp, mean over modes, less that of (95 % by machine, as all intervals)"
        )?;
        write_lead(f, "single sensor", self.lead_over_threshold)?;
        write_lead(f, "logistic regression", self.lead_over_logistic)
    }
}

fn write_contender(f: &mut fmt::Formatter<'_>, contender: &ContenderResult) -> fmt::Result {
    contender.modes.iter().enumerate().try_for_each(|(i, mode)| {
        let name = if i == 0 { contender.name } else { "" };
        let ModeResult { windows, failures, caught, lead_hours_median, false_alarms_per_machine_month } = mode;
        let lead = lead_hours_median.map_or("-".into(), |hours| format!("{hours:.1}"));
        writeln!(
            f,
            "{name:<20} {:<18} {:>9.3} {:>7.3} {:>6.3} {:>8.3} {:>23} {:>9} {lead:>8} {false_alarms_per_machine_month:>16.2}",
            windows.mode,
            windows.precision,
            windows.recall,
            windows.f1,
            windows.average_precision,
            windows.brier_text(),
            format!("{caught}/{failures}"),
        )
    })
}

fn write_lead(f: &mut fmt::Formatter<'_>, name: &str, interval: Interval) -> fmt::Result {
    let Interval { mean, low, high } = interval;
    writeln!(f, "  {name:<20} {mean:+.3}  [{low:+.3}, {high:+.3}]")
}
