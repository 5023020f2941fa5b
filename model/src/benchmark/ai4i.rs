//! AI4I 2020: does this row fail? 2 x 5 stratified folds, threshold 0.5, F1 of the failures.

use std::{collections::BTreeMap, path::Path};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    BenchmarkError, Options, Predicted,
    contender::{candidates, logistic, network, said, trees},
    data::{self, DataError, Known},
    explanations::{self, Causes, usual},
    folds::{interval, stratified},
    report::{Contender, Reference, Remark, Report},
    sheet::{Part, Sheet, answers},
};
use crate::{
    dataset::Dataset,
    evaluate::metrics::{Counts, average_precision},
    features::{Event, FeatureConfig},
    train::table::{Classifier, Table},
};

const FILE: Known = ("ai4i2020/ai4i2020.csv", "2830d0f52cb52ae29113cdb1f0f4217e1c137dc5fc1d5dac3281393ac02e1cca");
const MAPPING: &str = include_str!("../../benchmarks/ai4i.toml");
const REPEATS: usize = 2;
const FOLDS: usize = 5;
const THRESHOLD: f64 = 0.5;
/// Whatever is better than this has seen what it must not.
const F1_MAX: f64 = 0.95;
const WINDOW_MS: i64 = 60_000;
const RULES: &str = "physics rules";
const CAUSES: &Causes = &[
    ("TWF", &["wear"]),
    ("HDF", &["air", "process", "speed"]),
    ("PWF", &["torque", "speed"]),
    ("OSF", &["wear", "torque"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Five sensors and the type.
    Sensors,
    /// With what physics adds.
    Engineered,
}

pub const SETS: [Set; 2] = [Set::Sensors, Set::Engineered];

impl Set {
    /// Of its sheet.
    fn file(self) -> &'static str {
        match self {
            Set::Sensors => "ai4i-sensors",
            Set::Engineered => "ai4i-engineered",
        }
    }

    fn features(self) -> Result<FeatureConfig, DataError> {
        Ok(toml::from_str(match self {
            Set::Sensors => include_str!("../../benchmarks/ai4i-features.toml"),
            Set::Engineered => include_str!("../../benchmarks/ai4i-engineered.toml"),
        })?)
    }

    fn name(self) -> &'static str {
        match self {
            Set::Sensors => "AI4I 2020, 5 sensors + type",
            Set::Engineered => "AI4I 2020, engineered",
        }
    }

    fn references(self) -> Vec<Reference> {
        let of = |(name, figure)| Reference { name, figure };
        match self {
            Set::Sensors => vec![of(("LightGBM", 0.772)), of(("plain MLP", 0.728))],
            Set::Engineered => {
                vec![of(("random forest", 0.887)), of(("plain MLP", 0.756)), of(("physics rules", 0.917))]
            }
        }
    }
}

/// What all contenders get.
struct Task {
    names: Vec<String>,
    values: Vec<f32>,
    positive: Vec<bool>,
    dataset: Dataset,
}

impl Task {
    fn table(&self) -> Table<'_> {
        Table { width: self.names.len(), values: &self.values }
    }
}

async fn load(folder: &Path, set: Set) -> Result<(Task, Vec<Event>), BenchmarkError> {
    data::check(folder, &[FILE])?;
    let archive = data::archive(MAPPING, folder).await?;
    let events = archive.events().to_vec();
    let dataset = data::dataset(archive, &set.features()?, 0)?;
    let (names, values) = data::table(&dataset);
    guard(&names)?;
    let positive = dataset.rows.iter().map(|row| row.fails != 0).collect();
    Ok((Task { names, values, positive, dataset }, events))
}

/// Modes decide the target, and ids leak the order of the rows.
pub fn guard(names: &[String]) -> Result<(), BenchmarkError> {
    const MODES: [&str; 6] = ["TWF", "HDF", "PWF", "OSF", "RNF", "failure"];
    const IDS: [&str; 3] = ["UID", "Product", "age"];
    let has = |name: &str, words: &[&str]| name.split('.').any(|part| words.contains(&part));
    for name in names {
        let why = match () {
            () if has(name, &MODES) || name.starts_with("event.") => "modes decide it",
            () if has(name, &IDS) => "rows are in an order that it follows",
            () => continue,
        };
        return Err(BenchmarkError::Leak { feature: name.clone(), why });
    }
    Ok(())
}

/// Whoever learnt is no better than can be without a leak.
fn honest(contenders: &[Contender]) -> Result<(), BenchmarkError> {
    let mut learnt = contenders.iter().filter(|c| c.name != RULES);
    match learnt.find(|c| c.figures[0] > F1_MAX) {
        Some(leak) => Err(BenchmarkError::TooGood { contender: leak.name.clone(), f1: leak.figures[0], max: F1_MAX }),
        None => Ok(()),
    }
}

/// The published rules. Wear out comes at random within its window: a rule that named it would be wrong more often than
/// right, and is left out.
fn rules(dataset: &Dataset, row: usize) -> f64 {
    let at = |sensor: &str| {
        let place = dataset.config.sensors.iter().position(|s| s.as_str() == sensor);
        place.map_or(f64::NAN, |place| f64::from(dataset.features(row)[place]))
    };
    let power = at("torque") * at("speed") * std::f64::consts::TAU / 60.0;
    let limit = match dataset.kind(row).as_str() {
        "L" => 11_000.0,
        "M" => 12_000.0,
        _ => 13_000.0,
    };
    // Temperatures are known to a tenth.
    let heat = ((at("process") - at("air")) * 10.0).round() < 86.0 && at("speed") < 1_380.0;
    f64::from(u8::from(heat || !(3_500.0..=9_000.0).contains(&power) || at("wear") * at("torque") > limit))
}

/// Its type and the end of its window.
type AtEnd = (String, i64);

fn at_end(dataset: &Dataset, row: usize) -> AtEnd {
    let row = &dataset.rows[row];
    (dataset.machines[row.machine].name.to_string(), row.start.millis() + WINDOW_MS)
}

/// Modes of the rows that fail.
fn codes(events: &[Event]) -> BTreeMap<AtEnd, String> {
    let failed = events.iter().filter(|e| !e.code.is_empty());
    failed.map(|e| ((e.machine.to_string(), e.time.millis()), e.code.clone())).collect()
}

fn sources(dataset: &Dataset) -> Vec<(String, Vec<usize>)> {
    dataset.config.sensors.iter().enumerate().map(|(place, sensor)| (sensor.to_string(), vec![place])).collect()
}

/// A probability per row and repeat, each from a fold that did not learn from the row.
type Said = Vec<Vec<f64>>;

pub async fn write_sheet(data: &Path, set: Set, seed: u64, folder: &Path) -> Result<(), BenchmarkError> {
    let (task, _) = load(data, set).await?;
    let splits = splits(&task.positive, seed);
    let sheet = Sheet {
        name: set.file().into(),
        columns: &task.names,
        table: task.table(),
        labels: vec![("failure".into(), task.positive.iter().map(|p| f32::from(u8::from(*p))).collect())],
        splits: splits.into_iter().map(|folds| folds.into_iter().map(Part::Asked).collect()).collect(),
    };
    Ok(sheet.write(folder)?)
}

pub async fn run(folder: &Path, set: Set, options: &Options) -> Result<Report, BenchmarkError> {
    let Options { settings, tuned, references } = options;
    let seed = settings.seed;
    let (task, events) = load(folder, set).await?;
    let splits = splits(&task.positive, seed);
    let (table, positive) = (task.table(), &task.positive);
    let mut explained = explanations::Score::new(CAUSES, sources(&task.dataset));
    let codes = codes(&events);
    let of = |name: &str, fit: &mut dyn FnMut(&[usize], &[usize]) -> Predicted| {
        let said = cross(&splits, positive.len(), fit)?;
        Ok::<_, BenchmarkError>(said.map(|said| (name.to_owned(), said)))
    };
    let shipped = |train: &[usize]| network(table, positive, train, std::slice::from_ref(settings));
    let mut all: Vec<(String, Said)> = Vec::new();
    all.extend(of("network", &mut |train, test| {
        let model: Classifier = shipped(train)?;
        let said = said(&model, table, test);
        let called = test.iter().zip(&said).filter(|(_, p)| **p >= THRESHOLD);
        for (row, mode) in called.filter_map(|(row, _)| Some((*row, codes.get(&at_end(&task.dataset, *row))?))) {
            let usual = usual(&task.dataset, table, train, task.dataset.rows[row].machine);
            explained.add(mode, 0, &model, table.row(row), &usual);
        }
        Ok(Some(said))
    })?);
    all.extend(of("network, settings chosen in each fold", &mut |train, test| {
        if !*tuned {
            return Ok(None);
        }
        Ok(Some(said(&network(table, positive, train, &candidates(settings))?, table, test)))
    })?);
    let own = all.len();
    all.extend(of("gradient-boosted trees (smartcore)", &mut |train, test| trees(table, positive, train, test))?);
    all.extend(of("logistic regression", &mut |train, test| logistic(table, positive, train, test).map(Some))?);
    all.extend(of(RULES, &mut |_, test| Ok(Some(test.iter().map(|r| rules(&task.dataset, *r)).collect())))?);
    all.extend(of("always no", &mut |_, test| Ok(Some(vec![0.0; test.len()])))?);
    if let Some(references) = references {
        let said = answers(references, set.file(), 1, positive.len())?;
        all.extend(said.into_iter().map(|(name, runs)| (format!("{name} (reference)"), runs.concat())));
    }
    let contenders: Vec<Contender> = all.iter().map(|(name, said)| figures(name, said, positive)).collect();
    honest(&contenders)?;
    let (networks, others) = all.split_at(own);
    let mut remarks: Vec<Remark> =
        networks.iter().flat_map(|a| others.iter().map(move |b| lead(a, b, positive))).collect();
    if set == Set::Sensors {
        remarks.push(explained.remark());
    }
    Ok(Report {
        benchmark: set.name().into(),
        protocol: format!("{REPEATS} x {FOLDS}-fold stratified, threshold {THRESHOLD}"),
        seed,
        columns: vec!["F1", "precision", "recall", "MCC", "av. prec."],
        contenders,
        references: set.references(),
        remarks,
    })
}

/// Fold of each row, per repeat.
fn splits(positive: &[bool], seed: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..REPEATS).map(|_| stratified(positive, FOLDS, &mut rng)).collect()
}

fn cross(
    splits: &[Vec<usize>],
    rows: usize,
    fit: &mut dyn FnMut(&[usize], &[usize]) -> Predicted,
) -> Result<Option<Said>, BenchmarkError> {
    let mut all = Vec::with_capacity(splits.len());
    for folds in splits {
        let mut said = vec![f64::NAN; rows];
        for fold in 0..FOLDS {
            let of = |own: bool| (0..rows).filter(|row| (folds[*row] == fold) == own).collect::<Vec<usize>>();
            let (train, test) = (of(false), of(true));
            let Some(probabilities) = fit(&train, &test)? else { return Ok(None) };
            test.iter().zip(probabilities).for_each(|(row, probability)| said[*row] = probability);
        }
        all.push(said);
    }
    Ok(Some(all))
}

fn figures(name: &str, said: &Said, positive: &[bool]) -> Contender {
    let mean = |of: &dyn Fn(&Vec<f64>) -> f64| said.iter().map(of).sum::<f64>() / said.len() as f64;
    let counts = |s: &Vec<f64>| Counts::at(s, positive, THRESHOLD);
    let figures = vec![
        mean(&|s| counts(s).f1()),
        mean(&|s| counts(s).precision()),
        mean(&|s| counts(s).recall()),
        mean(&|s| matthews(counts(s), positive.len() as f64)),
        mean(&|s| average_precision(s, positive)),
    ];
    Contender { name: name.into(), figures }
}

/// Correlation of what was said and what was.
fn matthews(Counts { true_positive, false_positive, false_negative }: Counts, rows: f64) -> f64 {
    let [tp, fp, fnn] = [true_positive, false_positive, false_negative].map(|n| n as f64);
    let tn = rows - tp - fp - fnn;
    let spread = ((tp + fp) * (tp + fnn) * (tn + fp) * (tn + fnn)).sqrt();
    if spread > 0.0 { (tp * tn - fp * fnn) / spread } else { 0.0 }
}

/// By how much `a` has the better F1, over rows that are drawn anew.
fn lead((a, said_a): &(String, Said), (b, said_b): &(String, Said), positive: &[bool]) -> Remark {
    let f1 = |said: &Said, times: &[f64]| {
        let of = |said: &Vec<f64>| {
            let (mut hits, mut all) = (0.0, 0.0);
            for ((p, positive), times) in said.iter().zip(positive).zip(times) {
                let said = *p >= THRESHOLD;
                hits += if said && *positive { 2.0 * times } else { 0.0 };
                all += times * f64::from(u8::from(said) + u8::from(*positive));
            }
            hits / f64::max(all, 1.0)
        };
        said.iter().map(of).sum::<f64>() / said.len() as f64
    };
    let difference = interval(positive.len(), |times| f1(said_a, times) - f1(said_b, times));
    Remark { text: format!("F1 of {a} less that of {b}"), interval: Some(difference) }
}

#[cfg(test)]
mod tests;
