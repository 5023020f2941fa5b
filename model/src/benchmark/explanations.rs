//! Does an explanation name what the failure was about? Each source of the row's numbers in turn (a sensor, a kind of event) is put
//! to what is usual for healthy rows of the machine; the one whose move brings the probability down most is named.

use std::collections::BTreeMap;

use super::report::Remark;
use crate::{dataset::Dataset, train::table::Table};

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

    /// A failure that was called: by which row, beside what is usual, and how likely the model takes it to be in any row.
    pub fn add(&mut self, mode: &str, row: &[f32], usual: &[f32], probability: &dyn Fn(&[f32]) -> f64) {
        let Some((mode, causes)) = self.causes.iter().find(|(known, _)| *known == mode) else { return };
        let without = |(_, places): &&(String, Vec<usize>)| {
            let mut moved = row.to_vec();
            places.iter().for_each(|place| moved[*place] = usual[*place]);
            probability(&moved)
        };
        let named = self.sources.iter().min_by(|a, b| without(a).total_cmp(&without(b)));
        let right = named.is_some_and(|(source, _)| causes.contains(&source.as_str()));
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
            "explanations name a cause in {:.1} % of {all} failures that are called and have one mode ({}); always naming {source}: \
             {:.1} %",
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
    fn the_source_without_which_the_failure_is_least_likely_is_named() {
        let sources = vec![("torque".to_owned(), vec![0, 2]), ("wear".to_owned(), vec![1])];
        let mut score = Score::new(&[("OSF", &["wear"]), ("PWF", &["torque"])], sources);
        let product = |row: &[f32]| f64::from(row[0] * row[1] + row[2]);
        // Without torque nothing is left, without wear 2; and then the other way round.
        score.add("PWF", &[3.0, 3.0, 2.0], &[0.0; 3], &product);
        score.add("OSF", &[3.0, 3.0, 2.0], &[1.0, 0.0, 2.0], &product);
        score.add("none of these", &[1.0; 3], &[0.0; 3], &product);
        assert_eq!(score.of, BTreeMap::from([("OSF", (1, 1)), ("PWF", (1, 1))]));
        assert!(score.remark().text.starts_with("explanations name a cause in 100.0 % of 2 failures"));
    }
}
