//! Failures seen coming with the right component, and false alarms per machine-year.

use std::collections::BTreeMap;

use super::{Contender, DAY_MS, HOUR_MS, Task, failures, interval};

/// Per component the probability of each row asked.
pub type Said = Vec<Vec<f64>>;

const THRESHOLD: f64 = 0.5;
const YEAR_HOURS: f64 = 365.25 * 24.0;

/// Mean over the components of the F1 of their rows; each machine as often as `times` says.
pub fn macro_f1(task: &Task, said: &Said, test: &[usize], times: &[f64]) -> f64 {
    let of = |(mode, said): (usize, &Vec<f64>)| {
        let (mut hits, mut all) = (0.0, 0.0);
        for (row, p) in test.iter().zip(said) {
            let row = &task.dataset.rows[*row];
            let (alarm, positive) = (*p >= THRESHOLD, row.is_positive(mode));
            hits += if alarm && positive { 2.0 * times[row.machine] } else { 0.0 };
            all += times[row.machine] * f64::from(u8::from(alarm) + u8::from(positive));
        }
        hits / f64::max(all, 1.0)
    };
    said.iter().enumerate().map(of).sum::<f64>() / said.len().max(1) as f64
}

pub fn figures(name: &str, said: &Said, task: &Task, test: &[usize]) -> Contender {
    let machines = task.dataset.machines.len();
    let asked = asked(task, said, test);
    let caught = asked.iter().filter(|failure| failure.called).count();
    let (starts, hours) = false_episodes(task, said, test);
    let rate = |times: &[f64]| {
        let sum = |of: &[f64]| of.iter().zip(times).map(|(n, t)| n * t).sum::<f64>();
        sum(&starts) / f64::max(sum(&hours), 1.0) * YEAR_HOURS
    };
    let rate = interval(machines, rate);
    let recall = caught as f64 / asked.len().max(1) as f64;
    let f1 = macro_f1(task, said, test, &vec![1.0; machines]);
    Contender { name: name.into(), figures: vec![f1, recall, asked.len() as f64, rate.mean, rate.low, rate.high] }
}

/// A failure with a row asked in the day before.
pub struct Asked {
    pub mode: usize,
    /// In its day and asked: the place among the asked rows at which the component was likeliest.
    pub likeliest: usize,
    pub called: bool,
}

pub fn asked(task: &Task, said: &Said, test: &[usize]) -> Vec<Asked> {
    let mut rows: BTreeMap<usize, Vec<(i64, usize)>> = BTreeMap::new();
    for (at, row) in test.iter().enumerate() {
        let row = &task.dataset.rows[*row];
        rows.entry(row.machine).or_default().push((row.end.millis(), at));
    }
    let mut asked = Vec::new();
    for ((machine, mode), times) in failures(&task.dataset, 0) {
        for time in times {
            let ahead = rows.get(&machine).into_iter().flatten();
            let ahead = ahead.filter(|(end, _)| (time - DAY_MS..=time).contains(end)).map(|(_, at)| *at);
            let likeliest = ahead.max_by(|a, b| said[mode][*a].total_cmp(&said[mode][*b]));
            asked.extend(likeliest.map(|at| Asked { mode, likeliest: at, called: said[mode][at] >= THRESHOLD }));
        }
    }
    asked
}

/// Per machine: alarms that begin in hours before which nothing fails, and such hours, among those whose hour before was
/// asked too, so that a beginning can be told. Healthy hours are in the file less often than they happen, whatever the
/// contender says of them: their rate is that of all.
fn false_episodes(task: &Task, said: &Said, test: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let machines = task.dataset.machines.len();
    let (mut starts, mut hours) = (vec![0.0; machines], vec![0.0; machines]);
    let alarm = |at: usize| said.iter().any(|of| of[at] >= THRESHOLD);
    for (before, (at, row)) in test.iter().enumerate().skip(1).enumerate() {
        let (row, last) = (&task.dataset.rows[*row], &task.dataset.rows[test[before]]);
        let follows = row.machine == last.machine && row.end.millis() - last.end.millis() == HOUR_MS;
        if follows && row.fails == 0 {
            hours[row.machine] += 1.0;
            starts[row.machine] += f64::from(u8::from(alarm(at) && !alarm(before)));
        }
    }
    (starts, hours)
}
