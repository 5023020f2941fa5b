//! Does an explanation name what the failure was about? The shares are worked out as those that every prediction has
//! ([`crate::explain`]), against what is usual for healthy rows of the machine; the source with the largest one is named.

use std::collections::BTreeMap;

use super::report::Remark;
use crate::{
    dataset::Dataset,
    train::table::{Classifier, Table},
};

/// Of each mode the sources that cause it.
pub type Causes = [(&'static str, &'static [&'static str])];

pub struct Score {
    causes: &'static Causes,
    /// Where in a row each source's numbers are.
    sources: Vec<(String, Vec<usize>)>,
    /// Per mode: failures that were called, and how often a cause was named.
    of: BTreeMap<&'static str, (usize, usize)>,
}

impl Score {
    pub fn new(causes: &'static Causes, sources: Vec<(String, Vec<usize>)>) -> Self {
        Score { causes, sources, of: BTreeMap::new() }
    }

    /// A failure that was called: by which row of the model's, beside what is usual.
    pub fn add(&mut self, mode: &str, class: usize, model: &Classifier, row: &[f32], usual: &[f32]) {
        let places: Vec<Vec<usize>> = self.sources.iter().map(|(_, places)| places.clone()).collect();
        self.named(mode, &model.shares(row, usual, &places)[class]);
    }

    fn named(&mut self, mode: &str, shares: &[f64]) {
        let Some((mode, causes)) = self.causes.iter().find(|(known, _)| *known == mode) else { return };
        let named = self.sources.iter().zip(shares).max_by(|(_, a), (_, b)| a.total_cmp(b));
        let right = named.is_some_and(|((source, _), _)| causes.contains(&source.as_str()));
        let score = self.of.entry(mode).or_default();
        *score = (score.0 + 1, score.1 + usize::from(right));
    }

    pub fn remark(&self) -> Remark {
        let all: usize = self.of.values().map(|(all, _)| all).sum();
        let right: usize = self.of.values().map(|(_, right)| right).sum();
        let hits = |source: &str| -> usize {
            let caused = |mode: &&str| self.causes.iter().any(|(m, causes)| m == mode && causes.contains(&source));
            self.of.iter().filter(|(mode, _)| caused(mode)).map(|(_, (all, _))| all).sum()
        };
        let sources = self.sources.iter().map(|(source, _)| (hits(source), source.as_str()));
        let (always, source) = sources.max_by_key(|(hits, _)| *hits).unwrap_or_default();
        let by_mode: Vec<String> = self.of.iter().map(|(mode, (all, right))| format!("{mode} {right}/{all}")).collect();
        let share = |part: usize| 100.0 * part as f64 / all.max(1) as f64;
        let text = format!(
            "explanations by {} name a cause in {:.1} % of {all} failures that are called and have one mode ({}); always \
             naming {source}: {:.1} %",
            self.sources.iter().map(|(source, _)| source.as_str()).collect::<Vec<_>>().join(", "),
            share(right),
            by_mode.join(", "),
            share(always)
        );
        Remark { text, interval: None }
    }
}

/// Means over the healthy ones of `rows` of the machine; NaN, as what is missing, where there is no number.
pub fn usual(dataset: &Dataset, table: Table, rows: &[usize], machine: usize) -> Vec<f32> {
    let healthy = rows.iter().filter(|r| dataset.rows[**r].machine == machine && dataset.rows[**r].fails == 0);
    let (mut sums, mut counted) = (vec![0.0_f64; table.width], vec![0.0_f64; table.width]);
    for row in healthy {
        for (place, value) in table.row(*row).iter().enumerate().filter(|(_, value)| value.is_finite()) {
            sums[place] += f64::from(*value);
            counted[place] += 1.0;
        }
    }
    sums.iter().zip(&counted).map(|(sum, rows)| (sum / rows) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_with_the_largest_share_is_named() {
        let sources = vec![("torque".to_owned(), vec![0, 2]), ("wear".to_owned(), vec![1])];
        let mut score = Score::new(&[("OSF", &["wear"]), ("PWF", &["torque"])], sources);
        score.named("PWF", &[3.0, 2.0]);
        score.named("OSF", &[-4.0, -0.5]);
        score.named("OSF", &[1.0, 0.5]);
        score.named("none of these", &[1.0, 1.0]);
        assert_eq!(score.of, BTreeMap::from([("OSF", (2, 1)), ("PWF", (1, 1))]));
        let text = score.remark().text;
        assert!(text.starts_with("explanations by torque, wear name a cause in 66.7 % of 3 failures"), "{text}");
    }
}
