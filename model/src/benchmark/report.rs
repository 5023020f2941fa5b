//! What was measured, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use crate::evaluate::bootstrap::Interval;

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub benchmark: String,
    pub protocol: String,
    pub seed: u64,
    pub columns: Vec<&'static str>,
    pub contenders: Vec<Contender>,
    /// What is known from elsewhere on these rows.
    pub references: Vec<Reference>,
    /// Paired differences and other figures, with what they say.
    pub remarks: Vec<Remark>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Contender {
    pub name: String,
    /// In the order of the columns; NaN: does not apply.
    pub figures: Vec<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Reference {
    pub name: &'static str,
    pub figure: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Remark {
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, seed {}", self.benchmark, self.protocol, self.seed)?;
        write!(f, "{:<44}", "")?;
        self.columns.iter().try_for_each(|column| write!(f, " {column:>11}"))?;
        writeln!(f)?;
        for Contender { name, figures } in &self.contenders {
            write!(f, "{name:<44}")?;
            for figure in figures {
                if figure.is_nan() { write!(f, " {:>11}", "-")? } else { write!(f, " {figure:>11.3}")? }
            }
            writeln!(f)?;
        }
        for Reference { name, figure } in &self.references {
            writeln!(f, "{name:<44} {figure:>11.3}  (reference)")?;
        }
        for Remark { text, interval } in &self.remarks {
            match interval {
                Some(Interval { mean, low, high }) => writeln!(f, "{text}: {mean:+.3} [{low:+.3}, {high:+.3}]")?,
                None => writeln!(f, "{text}")?,
            }
        }
        Ok(())
    }
}
