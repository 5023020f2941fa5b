//! Does an explanation name what the failure was about? Each sensor in turn is put to what is usual for healthy rows of
//! the type; the one whose move brings the probability down most is named.

use std::collections::BTreeMap;

use super::{Remark, THRESHOLD, WINDOW_MS};
use crate::{
    dataset::Dataset,
    features::Event,
    train::table::{Classifier, Table},
};

/// Modes and the sensors that cause them.
const CAUSES: [(&str, &[&str]); 4] = [
    ("TWF", &["wear"]),
    ("HDF", &["air", "process", "speed"]),
    ("PWF", &["torque", "speed"]),
    ("OSF", &["wear", "torque"]),
];

pub struct Score<'a> {
    dataset: &'a Dataset,
    /// Modes of failing rows, by type and end.
    codes: BTreeMap<(String, i64), String>,
    /// Per mode: failures that were seen coming, how often a cause was named, and per sensor how often it is a cause.
    of: BTreeMap<&'static str, (usize, usize)>,
}

impl<'a> Score<'a> {
    pub fn new(dataset: &'a Dataset, events: &[Event]) -> Self {
        let failed = events.iter().filter(|e| !e.code.is_empty());
        let codes = failed.map(|e| ((e.machine.to_string(), e.time.millis()), e.code.clone())).collect();
        Score { dataset, codes, of: BTreeMap::new() }
    }

    /// The failures of one mode among `test` that the model calls.
    pub fn add(&mut self, model: &Classifier, table: Table, train: &[usize], test: &[usize]) {
        let sensors = self.dataset.config.sensors.len();
        for row in test {
            let at = &self.dataset.rows[*row];
            let machine = self.dataset.machines[at.machine].name.to_string();
            let code = self.codes.get(&(machine, at.start.millis() + WINDOW_MS));
            let Some((mode, causes)) = CAUSES.iter().find(|(mode, _)| code.is_some_and(|code| code == mode)) else {
                continue;
            };
            let now = model.probabilities(table.row(*row))[0];
            if now < THRESHOLD {
                continue;
            }
            let usual = usual(self.dataset, table, train, at.machine);
            let without = |sensor: usize| {
                let mut moved = table.row(*row).to_vec();
                moved[sensor] = usual[sensor];
                model.probabilities(&moved)[0]
            };
            let named = (0..sensors).min_by(|a, b| without(*a).total_cmp(&without(*b))).unwrap_or_default();
            let right = causes.contains(&self.dataset.config.sensors[named].as_str());
            let score = self.of.entry(mode).or_default();
            *score = (score.0 + 1, score.1 + usize::from(right));
        }
    }

    pub fn remarks(&self) -> Vec<Remark> {
        let all: usize = self.of.values().map(|(all, _)| all).sum();
        let right: usize = self.of.values().map(|(_, right)| right).sum();
        let commonest = |sensor: &str| -> usize {
            let causes = |mode: &&str| CAUSES.iter().any(|(m, causes)| *m == *mode && causes.contains(&sensor));
            self.of.iter().filter(|(mode, _)| causes(mode)).map(|(_, (all, _))| all).sum()
        };
        let sensors = self.dataset.config.sensors.iter().map(|s| (commonest(s.as_str()), s));
        let (always, sensor) = sensors.max_by_key(|(hits, _)| *hits).map_or((0, ""), |(hits, s)| (hits, s.as_str()));
        let by_mode: Vec<String> = self.of.iter().map(|(mode, (all, right))| format!("{mode} {right}/{all}")).collect();
        let share = |part: usize| 100.0 * part as f64 / all.max(1) as f64;
        vec![Remark {
            text: format!(
                "explanations name a cause in {:.1} % of {all} failures that are called and have one mode ({}); always naming \
                 {sensor}: {:.1} %",
                share(right),
                by_mode.join(", "),
                share(always)
            ),
            interval: None,
        }]
    }
}

/// Means over the healthy training rows of the machine.
fn usual(dataset: &Dataset, table: Table, train: &[usize], machine: usize) -> Vec<f32> {
    let healthy = train.iter().filter(|r| dataset.rows[**r].machine == machine && dataset.rows[**r].fails == 0);
    let (mut sums, mut rows) = (vec![0.0_f64; table.width], 0.0);
    for row in healthy {
        sums.iter_mut().zip(table.row(*row)).for_each(|(sum, value)| *sum += f64::from(*value));
        rows += 1.0;
    }
    sums.iter().map(|sum| (sum / f64::max(rows, 1.0)) as f32).collect()
}
