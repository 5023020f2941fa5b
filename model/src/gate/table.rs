//! The comparison as a table for people.

use std::fmt;

use super::{Comparison, Part, Standing};

const DRIFTED_SHOWN: usize = 3;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { champion, challenger, from, until, windows, episodes, .. } = self;
        writeln!(f, "challenger {challenger} against champion {champion}")?;
        writeln!(f, "{windows} windows from {from} to {until}, {episodes} machine-episodes, seen by neither\n")?;
        writeln!(
            f,
            "{:<24} {:>8} {:>9} {:>11} {:>9} {:>11}  difference in F1, one-sided 95 %",
            "", "failures", "champion", "challenger", "false", "false"
        )?;
        write_standing(f, "all", &self.all, "")?;
        for part in self.kinds.iter().chain(&self.modes) {
            write_part(f, part)?;
        }
        let [before, now] = self.calibration_error;
        writeln!(f, "\ncalibration error      {before:.4} -> {now:.4}")?;
        writeln!(f, "scored and explained   {:.1} us a window", self.latency_us)?;
        for baseline in &self.baselines {
            let lead = baseline.lead;
            let name = format!("over {}", baseline.name);
            writeln!(f, "{name:<22} {:+.3} average precision [{:+.3}, {:+.3}]", lead.mean, lead.low, lead.high)?;
        }
        match &self.golden {
            Some(golden) => {
                writeln!(f, "golden set             {:.3}, the first version {:.3}", golden.challenger, golden.first)?;
            }
            None => writeln!(f, "golden set             none")?,
        }
        if !self.drifted.is_empty() {
            let some = self.drifted.iter().take(DRIFTED_SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let all = self.drifted.len();
            writeln!(
                f,
                "drifted                {all} features, {some} first: the golden set is of another plant, no veto"
            )?;
        }
        write!(f, "\n{}", self.verdict.text())
    }
}

fn write_part(f: &mut fmt::Formatter<'_>, part: &Part) -> fmt::Result {
    let name = if part.names.len() > 2 { format!("{} others", part.names.len()) } else { part.names.join(", ") };
    write_standing(f, &name, &part.standing, if part.judged { "" } else { "  too few to judge" })
}

/// F1 and false alarms of both.
fn write_standing(f: &mut fmt::Formatter<'_>, name: &str, standing: &Standing, note: &str) -> fmt::Result {
    let Standing { champion, challenger, difference } = standing;
    writeln!(
        f,
        "{name:<24} {:>8.0} {:>9.3} {:>11.3} {:>9.0} {:>11.0}  {:+.3} [{:+.3}, {:+.3}]{note}",
        champion.failures,
        champion.f1(),
        challenger.f1(),
        champion.false_alarms,
        challenger.false_alarms,
        difference.mean,
        difference.low,
        difference.high
    )
}
