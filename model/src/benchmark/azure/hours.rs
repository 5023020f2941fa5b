//! What needs no telemetry, on all hours of all machines: how many of each error within a day, how long ago the last one was,
//! and age. Nothing here is case-control, so false alarms are counted and not estimated.

use super::{
    BenchmarkError, DAY_HOURS, DAY_MS, HOUR_MS, Predicted, Remark, Task, failures, interval, logistic, network_of,
    thinned, trees,
};
use crate::{
    features::{EventFeature, events::EventLog},
    settings::TrainSettings,
    train::table::Table,
};

const ERRORS: [&str; 5] = ["error1", "error2", "error3", "error4", "error5"];
const THRESHOLD: f64 = 0.5;
const YEAR_HOURS: f64 = 365.25 * 24.0;

/// One hour of one machine, by the time it ends.
#[derive(Debug, Clone, Copy)]
struct Hour {
    machine: usize,
    end: i64,
    /// Bit i: mode i fails within a day.
    fails: u32,
}

struct Hours {
    width: usize,
    values: Vec<f32>,
    rows: Vec<Hour>,
}

impl Hours {
    /// From the first hour of telemetry to a day before the last event.
    fn of(task: &Task) -> Self {
        let features = ERRORS.map(|code| EventFeature {
            kind: "error".into(),
            code: Some(code.into()),
            mode: None,
            count_hours: vec![DAY_HOURS as f64],
            since: true,
        });
        let failures = failures(&task.dataset, 0);
        let from = task.dataset.rows.iter().map(|row| row.end.millis()).min().unwrap_or(0);
        let until = task.events.iter().map(|e| e.time.millis()).max().unwrap_or(from) - DAY_MS;
        let mut hours = Hours { width: 2 * features.len() + 1, values: vec![], rows: vec![] };
        for (machine, about) in task.dataset.machines.iter().enumerate() {
            let mut log = EventLog::default();
            task.events.iter().filter(|e| e.machine == about.name).for_each(|event| log.push(&features, event));
            let age = age(task, machine);
            for end in (from..=until).step_by(HOUR_MS as usize) {
                hours.values.extend(log.close(&features, end, 0).into_iter().map(|v| v as f32));
                hours.values.push(age(end));
                let ahead = |mode: &usize| {
                    let times = failures.get(&(machine, *mode)).into_iter().flatten();
                    times.into_iter().any(|at| (end..=end + DAY_MS).contains(at))
                };
                let fails = (0..task.dataset.modes.len()).filter(ahead).fold(0, |bits, mode| bits | 1 << mode);
                hours.rows.push(Hour { machine, end, fails });
            }
        }
        hours
    }

    fn table(&self) -> Table<'_> {
        Table { width: self.width, values: &self.values }
    }
}

/// Years, at a time.
fn age(task: &Task, machine: usize) -> impl Fn(i64) -> f32 {
    let place = task.names.iter().position(|name| name == "machine.age");
    let row = task.dataset.rows.iter().position(|row| row.machine == machine);
    let known = row.zip(place).map(|(row, place)| (task.dataset.rows[row].end.millis(), task.table().row(row)[place]));
    move |at| known.map_or(f32::NAN, |(then, age)| age + ((at - then) as f64 / HOUR_MS as f64 / YEAR_HOURS) as f32)
}

/// Failures found among those from a day after `ends` on, and false episodes, for each who learns from the hours before.
pub fn without_telemetry(task: &Task, ends: i64, settings: &TrainSettings) -> Result<Vec<Remark>, BenchmarkError> {
    let hours = Hours::of(task);
    let (rows, table) = (&hours.rows, hours.table());
    let modes = task.dataset.modes.len();
    let label = |mode: usize| rows.iter().map(|row| row.fails >> mode & 1 == 1).collect::<Vec<bool>>();
    let labels: Vec<Vec<bool>> = (0..modes).map(label).collect();
    let train: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].end <= ends).collect();
    let test: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].end - HOUR_MS >= ends + DAY_MS).collect();
    let sampled = thinned(train.clone(), settings.rows_max);
    let each = |fit: &dyn Fn(&[bool]) -> Predicted| {
        labels.iter().map(|label| fit(label)).collect::<Result<Option<Vec<Vec<f64>>>, _>>()
    };
    let mut remarks = Vec::new();
    let mut say = |name: &str, said: Vec<Vec<f64>>| remarks.extend(figures(task, name, &said, rows, &test));
    let model = network_of(table, &labels, &|row| rows[row].end, &train, std::slice::from_ref(settings))?;
    let of_rows: Vec<Vec<f64>> = test.iter().map(|row| model.probabilities(table.row(*row))).collect();
    say("network", (0..modes).map(|mode| of_rows.iter().map(|p| p[mode]).collect()).collect());
    if let Some(said) = each(&|label| trees(table, label, &sampled, &test))? {
        say("gradient-boosted trees (smartcore)", said);
    }
    if let Some(said) = each(&|label| logistic(table, label, &sampled, &test).map(Some))? {
        say("logistic regression", said);
    }
    Ok(remarks)
}

fn figures(task: &Task, name: &str, said: &[Vec<f64>], rows: &[Hour], test: &[usize]) -> [Remark; 2] {
    let alarm = |at: usize| said.iter().any(|of| of[at] >= THRESHOLD);
    let (mut found, mut all) = (0, 0);
    let from = test.iter().map(|row| rows[*row].end).min().unwrap_or(i64::MAX);
    for ((machine, mode), times) in failures(&task.dataset, from) {
        for time in times {
            let ahead = |row: &Hour| row.machine == machine && (time - DAY_MS..=time).contains(&row.end);
            let mut ahead = (0..test.len()).filter(|at| ahead(&rows[test[*at]])).peekable();
            all += usize::from(ahead.peek().is_some());
            found += usize::from(ahead.any(|at| said[mode][at] >= THRESHOLD));
        }
    }
    let machines = task.dataset.machines.len();
    let (mut starts, mut healthy) = (vec![0.0; machines], vec![0.0; machines]);
    for at in (0..test.len()).filter(|at| rows[test[*at]].fails == 0) {
        let machine = rows[test[at]].machine;
        let goes_on = at > 0 && rows[test[at - 1]].machine == machine && alarm(at - 1);
        healthy[machine] += 1.0;
        starts[machine] += f64::from(u8::from(alarm(at) && !goes_on));
    }
    let rate = |times: &[f64]| {
        let sum = |of: &[f64]| of.iter().zip(times).map(|(n, t)| n * t).sum::<f64>();
        sum(&starts) / f64::max(sum(&healthy), 1.0) * YEAR_HOURS
    };
    let what = "errors and age, all hours";
    [
        Remark { text: format!("{what}, {name}: {found} of {all} failures found"), interval: None },
        Remark {
            text: format!("{what}, {name}: false episodes per machine-year"),
            interval: Some(interval(machines, rate)),
        },
    ]
}
