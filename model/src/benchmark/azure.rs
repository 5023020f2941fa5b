//! Azure predictive maintenance: which component fails within 24 hours? Learnt from the months before a day, asked of those
//! after it, a day apart. Rows around failures are in the file more often than they happen (case-control): recall carries
//! over to the plant, precision does not, so false alarms are told per machine-year of healthy hours.

mod hours;
mod score;

use std::{collections::BTreeMap, path::Path};

use super::{
    BenchmarkError, Options, Predicted,
    contender::{candidates, logistic, trees},
    data::{self, DataError, Known},
    explanations::{Causes, Score, usual},
    folds::interval,
    report::{Contender, Reference, Remark, Report},
    sheet::{Part, Sheet, answers},
};
use crate::{
    dataset::Dataset,
    evaluate::metrics::average_precision,
    features::Event,
    settings::TrainSettings,
    train::table::{Classifier, Parts, Table, fit_classifier},
};
use hours::without_telemetry;
use score::{Said, asked, figures, macro_f1};

const FILES: [Known; 5] = [
    ("azure-pdm/PdM_telemetry_partial.csv", "0e8bfebf97ddbc7ca152f3d0a2740d74ef574b45739e7cf05f4d8856cc89cac9"),
    ("azure-pdm/PdM_errors.csv", "8673a2a724af5040e1a20e520ad091d0be456def0bbfa85b7c7eb0196994cfde"),
    ("azure-pdm/PdM_failures.csv", "cbef46d5e18e7e1c445aa105ec7f9d8e238fddca29e26ec5dea89be71f54938b"),
    ("azure-pdm/PdM_maint.csv", "6d725c67d805e1a2a9a9918b1ff6f9081591dfb38826b3d78e8a36ff2e046f78"),
    ("azure-pdm/PdM_machines.csv", "711f25f2e88ebd77ba1633f347edb0fd8144bfd7a1ff1ba30fe245e7e04dafb0"),
];
pub const HOUR_MS: i64 = 3_600_000;
pub const DAY_HOURS: i64 = 24;
const DAY_MS: i64 = DAY_HOURS * HOUR_MS;
/// 2015-07-31, and a month later: what ends by then is learnt from; what begins a day later is asked.
const TRAIN_ENDS: [(&str, i64); 2] = [("2015-07-31", 1_438_300_800_000), ("2015-08-31", 1_440_979_200_000)];
/// What causes a component's failure, or announces it; a test holds the errors against the months before the first day.
const CAUSES: &Causes = &[
    ("comp1", &["volt", "error1"]),
    ("comp2", &["rotate", "error2", "error3"]),
    ("comp3", &["pressure", "error4"]),
    ("comp4", &["vibration", "error5"]),
];
const SENSORS: [&str; 4] = ["volt", "rotate", "pressure", "vibration"];
/// The last one in so many training rows, in time, is held out to say when to stop.
const INNER_PARTS: usize = 5;

pub struct Task {
    pub dataset: Dataset,
    pub events: Vec<Event>,
    names: Vec<String>,
    values: Vec<f32>,
    /// Hours of the day before the row's end that are there.
    present: Vec<usize>,
}

impl Task {
    fn table(&self) -> Table<'_> {
        Table { width: self.names.len(), values: &self.values }
    }

    fn labels(&self) -> Vec<Vec<bool>> {
        (0..self.dataset.modes.len())
            .map(|mode| self.dataset.rows.iter().map(|r| r.is_positive(mode)).collect())
            .collect()
    }
}

/// Which hours are there, and when, tells the label in this file.
pub fn guard(names: &[String]) -> Result<(), BenchmarkError> {
    const PRESENCE: [&str; 7] = ["count", "missing", "gap", "run", "hour", "src", "slope"];
    let leaks = |name: &String| {
        let part = name.rsplit('.').next().unwrap_or_default();
        // The slope of one reading an hour is of none.
        PRESENCE.contains(&part) || name.starts_with("event.failure") || name.contains("machineID")
    };
    match names.iter().find(|name| leaks(name)) {
        Some(name) => {
            Err(BenchmarkError::Leak { feature: name.clone(), why: "which hours are there follows the label" })
        }
        None => Ok(()),
    }
}

async fn load(folder: &Path) -> Result<Task, BenchmarkError> {
    data::check(folder, &FILES)?;
    let features = toml::from_str(include_str!("../../benchmarks/azure-features.toml")).map_err(DataError::from)?;
    let archive = data::archive(include_str!("../../benchmarks/azure.toml"), folder).await?;
    let events = archive.events().to_vec();
    let dataset = data::dataset(archive, &features, DAY_MS)?;
    let (names, values) = data::table(&dataset);
    guard(&names)?;
    let present = present(&dataset);
    Ok(Task { dataset, events, names, values, present })
}

fn present(dataset: &Dataset) -> Vec<usize> {
    let rows = &dataset.rows;
    let within = |row: usize| {
        let own = |before: &&usize| {
            let (before, now) = (&rows[**before], &rows[row]);
            before.machine == now.machine && before.end.millis() > now.end.millis() - DAY_MS
        };
        let back: Vec<usize> = (row.saturating_sub(DAY_HOURS as usize - 1)..=row).collect();
        back.iter().filter(own).count()
    };
    (0..rows.len()).map(within).collect()
}

pub async fn run(folder: &Path, options: &Options) -> Result<Vec<Report>, BenchmarkError> {
    let task = load(folder).await?;
    TRAIN_ENDS.into_iter().map(|(day, ends)| measure(&task, day, ends, options)).collect()
}

/// What is learnt from up to `ends`, and what is asked from a day later on: rows with a complete day behind them.
fn part(task: &Task, row: usize, ends: i64) -> Part {
    let at = &task.dataset.rows[row];
    match () {
        () if at.end.millis() <= ends => Part::Learnt,
        () if at.start.millis() >= ends + DAY_MS && task.present[row] == DAY_HOURS as usize => Part::Asked(0),
        () => Part::Left,
    }
}

fn file(day: &str) -> String {
    format!("azure-{day}")
}

pub async fn write_sheets(data: &Path, folder: &Path) -> Result<(), BenchmarkError> {
    let task = load(data).await?;
    let number = |label: Vec<bool>| label.into_iter().map(|p| f32::from(u8::from(p))).collect();
    let labels = || task.dataset.modes.iter().cloned().zip(task.labels().into_iter().map(number)).collect();
    for (day, ends) in TRAIN_ENDS {
        let split = (0..task.dataset.rows.len()).map(|row| part(&task, row, ends)).collect();
        let (columns, table) = (&task.names, task.table());
        Sheet { name: file(day), columns, table, labels: labels(), splits: vec![split] }.write(folder)?;
    }
    Ok(())
}

fn measure(task: &Task, day: &str, ends: i64, options: &Options) -> Result<Report, BenchmarkError> {
    let settings = &options.settings;
    let (labels, table) = (task.labels(), task.table());
    let rows = |part_of: Part| (0..task.dataset.rows.len()).filter(move |row| part(task, *row, ends) == part_of);
    let (train, test): (Vec<usize>, Vec<usize>) = (rows(Part::Learnt).collect(), rows(Part::Asked(0)).collect());
    let each = |fit: &dyn Fn(&[bool]) -> Predicted| {
        labels.iter().map(|label| fit(label)).collect::<Result<Option<Vec<_>>, _>>()
    };
    let mut contenders: Vec<(String, Said)> = Vec::new();
    let end = |row: usize| task.dataset.rows[row].end.millis();
    let network = |candidates: &[TrainSettings]| network_of(table, &labels, &end, &train, candidates);
    let said_by = |model: &Classifier| -> Said {
        let of_rows: Vec<Vec<f64>> = test.iter().map(|row| model.probabilities(table.row(*row))).collect();
        (0..labels.len()).map(|mode| of_rows.iter().map(|p| p[mode]).collect()).collect()
    };
    let model = network(std::slice::from_ref(settings))?;
    contenders.push(("network".into(), said_by(&model)));
    if options.tuned {
        contenders
            .push(("network, settings chosen on the newest rows".into(), said_by(&network(&candidates(settings))?)));
    }
    let grown = each(&|label| trees(table, label, &train, &test))?;
    contenders.extend(grown.map(|said| ("gradient-boosted trees (smartcore)".to_owned(), said)));
    let line = each(&|label| logistic(table, label, &train, &test).map(Some))?;
    contenders.extend(line.map(|said| ("logistic regression".to_owned(), said)));
    contenders.push(("always no".into(), vec![vec![0.0; test.len()]; labels.len()]));
    if let Some(references) = &options.references {
        let said = answers(references, &file(day), labels.len(), test.len())?;
        let reference = |(name, mut runs): (String, Vec<Said>)| Some((format!("{name} (reference)"), runs.pop()?));
        contenders.extend(said.into_iter().filter_map(reference));
    }
    let mut remarks: Vec<Remark> =
        contenders[1..].iter().map(|other| lead(task, &contenders[0], other, &test)).collect();
    remarks.extend(without_telemetry(task, ends, settings)?);
    remarks.push(probe(task, &train, ends)?);
    for sources in [sensors(&task.names), sources(&task.names)] {
        remarks.push(explained(task, &model, &contenders[0].1, (&train, &test), sources));
    }
    let mut figures: Vec<Contender> = contenders.iter().map(|(name, said)| figures(name, said, task, &test)).collect();
    figures.retain(|c| !c.figures.is_empty());
    let reference = |(name, figure)| Reference { name, figure };
    Ok(Report {
        benchmark: "Azure PdM, component within 24 h".into(),
        protocol: format!("learnt before {day}, asked from a day later on, {} rows, {} asked", train.len(), test.len()),
        seed: settings.seed,
        columns: vec!["macro F1", "recall (ev.)", "failures", "false/m.yr", "low", "high"],
        contenders: figures,
        references: [("LightGBM, macro F1", 0.996), ("plain MLP, macro F1", 0.973)].map(reference).to_vec(),
        remarks,
    })
}

/// With the settings among `candidates` that do best on the newest part of the training rows, which says when to stop, too; then
/// all of them are learnt from. `end`: when a row's window ends.
fn network_of(
    table: Table,
    labels: &[Vec<bool>],
    end: &dyn Fn(usize) -> i64,
    train: &[usize],
    candidates: &[TrainSettings],
) -> Result<Classifier, BenchmarkError> {
    let mut in_time = train.to_vec();
    in_time.sort_by_key(|row| end(*row));
    let (older, newest) = in_time.split_at(in_time.len() - in_time.len() / INNER_PARTS);
    let border = newest.first().map_or(i64::MAX, |row| end(*row) - HOUR_MS);
    let older: Vec<usize> = older.iter().copied().filter(|row| end(*row) + DAY_MS <= border).collect();
    let mut best: Option<(f64, TrainSettings)> = None;
    for settings in candidates {
        let fit = thinned(older.clone(), settings.rows_max);
        let parts = Parts { train: &fit, validation: newest, ..Parts::default() };
        let model = fit_classifier(table, labels, parts, settings)?;
        let good = mean_average_precision(&model, table, labels, newest);
        if best.as_ref().is_none_or(|(top, _)| good > *top) {
            best = Some((good, TrainSettings { epochs_max: model.epochs, ..settings.clone() }));
        }
    }
    let settings = best.map(|(_, settings)| settings).unwrap_or_default();
    let all = thinned(in_time, settings.rows_max);
    Ok(fit_classifier(table, labels, Parts { train: &all, ..Parts::default() }, &settings)?)
}

fn mean_average_precision(model: &Classifier, table: Table, labels: &[Vec<bool>], rows: &[usize]) -> f64 {
    let said: Vec<Vec<f64>> = rows.iter().map(|row| model.probabilities(table.row(*row))).collect();
    let of = |(mode, label): (usize, &Vec<bool>)| {
        let own: Vec<f64> = said.iter().map(|p| p[mode]).collect();
        average_precision(&own, &rows.iter().map(|row| label[*row]).collect::<Vec<bool>>())
    };
    labels.iter().enumerate().map(of).sum::<f64>() / labels.len().max(1) as f64
}

/// As many as training takes of any archive, evenly.
fn thinned(rows: Vec<usize>, max: usize) -> Vec<usize> {
    let step = rows.len().div_ceil(max).max(1);
    let mut rows: Vec<usize> = rows.into_iter().step_by(step).collect();
    rows.sort_unstable();
    rows
}

/// What is named among `sources` of the failures that the network calls, by the row at which each is likeliest.
fn explained(
    task: &Task,
    model: &Classifier,
    said: &Said,
    (train, test): (&[usize], &[usize]),
    sources: Vec<(String, Vec<usize>)>,
) -> Remark {
    let table = task.table();
    let mut score = Score::new(CAUSES, sources);
    for failure in asked(task, said, test).iter().filter(|failure| failure.called) {
        let row = test[failure.likeliest];
        let usual = usual(&task.dataset, table, train, task.dataset.rows[row].machine);
        score.add(&task.dataset.modes[failure.mode], failure.mode, model, table.row(row), &usual);
    }
    score.remark()
}

/// What is explained by as the processor does.
fn sensors(names: &[String]) -> Vec<(String, Vec<usize>)> {
    sources(names).into_iter().filter(|(source, _)| SENSORS.contains(&source.as_str())).collect()
}

/// Also an error, a component's replacement, or what is known of the machine.
fn sources(names: &[String]) -> Vec<(String, Vec<usize>)> {
    let mut sources: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, name) in names.iter().enumerate() {
        let parts: Vec<&str> = name.split('.').collect();
        let source = match parts[..] {
            ["event", "error", code, ..] => code.to_owned(),
            ["event", kind, code, ..] => format!("{kind} of {code}"),
            _ => parts[0].to_owned(),
        };
        sources.entry(source).or_default().push(place);
    }
    sources.into_iter().collect()
}

/// By how much `a` has the better macro F1, over machines that are drawn anew.
fn lead(task: &Task, (a, said_a): &(String, Said), (b, said_b): &(String, Said), test: &[usize]) -> Remark {
    let machines = task.dataset.machines.len();
    let difference = |times: &[f64]| macro_f1(task, said_a, test, times) - macro_f1(task, said_b, test, times);
    Remark { text: format!("macro F1 of {a} less that of {b}"), interval: Some(interval(machines, difference)) }
}

/// How much the mere presence of hours and the hour of the day tell: what no feature may show.
fn probe(task: &Task, train: &[usize], ends: i64) -> Result<Remark, BenchmarkError> {
    let rows = &task.dataset.rows;
    let hour = |row: usize| rows[row].end.millis().div_euclid(HOUR_MS).rem_euclid(DAY_HOURS);
    let of = |row: usize| {
        let mut values = vec![0.0; 1 + DAY_HOURS as usize];
        values[0] = task.present[row] as f32;
        values[1 + hour(row) as usize] = 1.0;
        values
    };
    let values: Vec<f32> = (0..rows.len()).flat_map(of).collect();
    let table = Table { width: 1 + DAY_HOURS as usize, values: &values };
    let positive: Vec<bool> = rows.iter().map(|r| r.fails != 0).collect();
    let test: Vec<usize> = (0..rows.len()).filter(|r| rows[*r].start.millis() >= ends + DAY_MS).collect();
    let known: Vec<bool> = test.iter().map(|r| positive[*r]).collect();
    let said = logistic(table, &positive, train, &test)?;
    let share = known.iter().filter(|k| **k).count() as f64 / known.len().max(1) as f64;
    let text = format!(
        "presence and hour alone: average precision {:.3} of any failure, chance {share:.3}",
        average_precision(&said, &known)
    );
    Ok(Remark { text, interval: None })
}

/// Times of failures by machine and mode, from `from` on.
pub fn failures(dataset: &Dataset, from: i64) -> BTreeMap<(usize, usize), Vec<i64>> {
    let mut failures: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for (machine, of) in dataset.machines.iter().enumerate() {
        for failure in of.life.failures.iter().filter(|f| f.at.millis() >= from) {
            if let Some(mode) = failure.mode {
                failures.entry((machine, mode)).or_default().push(failure.at.millis());
            }
        }
    }
    failures
}

#[cfg(test)]
mod tests;
