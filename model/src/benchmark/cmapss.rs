//! NASA C-MAPSS FD001: how many cycles are left, at most 125? One answer per test engine, at its last cycle.

use std::{fs, path::Path};

use super::{
    BenchmarkError, Options,
    contender::{candidates, trees_number},
    data::{self, DataError, Known},
    folds::interval,
    report::{Contender, Reference, Remark, Report},
    sheet::{Part, Sheet, answers},
};
use crate::{
    dataset::Dataset,
    import::ImportError,
    settings::TrainSettings,
    train::table::{Parts, Table, fit_regressor},
};

const FILES: [Known; 3] = [
    ("cmapss/train_FD001.txt", "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8"),
    ("cmapss/test_FD001.txt", "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851"),
    ("cmapss/RUL_FD001.txt", "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca"),
];
const SHEET: &str = "cmapss";
/// Cycles: what lies further ahead shows in no sensor.
const CAP: f32 = 125.0;
const CYCLE_MS: i64 = 60_000;
const SEEDS: u64 = 5;
/// One in so many training engines is held out to choose by.
const INNER_PARTS: usize = 5;

struct Task {
    names: Vec<String>,
    values: Vec<f32>,
    cycles_left: Vec<f32>,
    engine: Vec<usize>,
    /// Last rows of the test engines, by engine.
    tested: Vec<f32>,
    truth: Vec<f32>,
}

impl Task {
    fn train(&self) -> Table<'_> {
        Table { width: self.names.len(), values: &self.values }
    }

    fn test(&self) -> Table<'_> {
        Table { width: self.names.len(), values: &self.tested }
    }

    /// Rows whose engines are learnt from, and those whose are held out: never some of both.
    fn inner(&self) -> (Vec<usize>, Vec<usize>) {
        (0..self.engine.len()).partition(|row| !self.engine[*row].is_multiple_of(INNER_PARTS))
    }
}

async fn load(folder: &Path) -> Result<Task, BenchmarkError> {
    data::check(folder, &FILES)?;
    let features = toml::from_str(include_str!("../../benchmarks/cmapss-features.toml")).map_err(DataError::from)?;
    let train = data::archive(include_str!("../../benchmarks/cmapss-train.toml"), folder).await?;
    let train = data::dataset(train, &features, 0)?;
    let test = data::archive(include_str!("../../benchmarks/cmapss-test.toml"), folder).await?;
    let test = data::dataset(test, &features, 0)?;
    let (names, values) = data::table(&train);
    let left = |row: &crate::dataset::Row| {
        let failures = &train.machines[row.machine].life.failures;
        failures.first().map_or(f32::NAN, |f| ((f.at.millis() - row.end.millis()) / CYCLE_MS) as f32)
    };
    let cycles_left = train.rows.iter().map(left).collect();
    let engine = train.rows.iter().map(|row| row.machine).collect();
    let (tested, truth) = last_rows(&test, folder)?;
    Ok(Task { names, values, cycles_left, engine, tested, truth })
}

/// Of each engine in the order of the file of truths.
fn last_rows(test: &Dataset, folder: &Path) -> Result<(Vec<f32>, Vec<f32>), BenchmarkError> {
    let file = folder.join(FILES[2].0);
    let text = fs::read_to_string(&file).map_err(|error| DataError::from(ImportError::File { file, error }))?;
    let truth: Vec<f32> = text.split_whitespace().filter_map(|cell| cell.parse().ok()).collect();
    let mut tested = Vec::new();
    for engine in 1..=truth.len() {
        let name = format!("test-{engine}");
        let own = |row: &usize| test.machines[test.rows[*row].machine].name.as_str() == name;
        let last = (0..test.rows.len()).filter(own).max_by_key(|row| test.rows[*row].start);
        tested.extend(last.map(|row| test.features(row)).unwrap_or_default());
    }
    Ok((tested, truth))
}

/// Training rows, and behind them the last row of each test engine.
pub async fn write_sheet(data: &Path, folder: &Path) -> Result<(), BenchmarkError> {
    let task = load(data).await?;
    let (learnt, asked) = (task.cycles_left.len(), task.truth.len());
    let sheet = Sheet {
        name: SHEET.into(),
        columns: &task.names,
        table: Table { values: &[&task.values[..], &task.tested].concat(), ..task.train() },
        labels: vec![("cycles left".into(), [&task.cycles_left[..], &task.truth].concat())],
        splits: vec![[vec![Part::Learnt; learnt], vec![Part::Asked(0); asked]].concat()],
    };
    Ok(sheet.write(folder)?)
}

pub async fn run(folder: &Path, options: &Options) -> Result<Report, BenchmarkError> {
    let Options { settings, tuned, references } = options;
    let task = load(folder).await?;
    let seed = settings.seed;
    let seeds: Vec<u64> = (seed..seed + SEEDS).collect();
    let given = |seed| [TrainSettings { seed, ..settings.clone() }];
    let mut all: Vec<(String, Vec<Vec<f32>>)> = Vec::new();
    let mut of =
        |name: &str, said: Result<Vec<Vec<f32>>, BenchmarkError>| said.map(|said| all.push((name.to_owned(), said)));
    of("network", seeds.iter().map(|seed| network(&task, &given(*seed))).collect())?;
    if *tuned {
        let said = seeds
            .iter()
            .map(|seed| network(&task, &candidates(&TrainSettings { seed: *seed, ..settings.clone() })))
            .collect();
        of("network, settings chosen on held-out engines", said)?;
    }
    let own = 1 + usize::from(*tuned);
    let capped: Vec<f64> = task.cycles_left.iter().map(|left| f64::from(left.min(CAP))).collect();
    if let Some(said) = trees_number(task.train(), &capped, task.test())? {
        of("gradient-boosted trees (smartcore)", Ok(vec![said.into_iter().map(|v| v as f32).collect()]))?;
    }
    let line = TrainSettings { hidden: vec![], members: 1, bins: 0, ..plain(seed) };
    of("linear regression", network(&task, &[line]).map(|said| vec![said]))?;
    let mean = capped.iter().sum::<f64>() / capped.len() as f64;
    of("always the mean", Ok(vec![vec![mean as f32; task.truth.len()]]))?;
    if let Some(references) = references {
        let of_run = |run: Vec<Vec<f64>>| run.concat().into_iter().map(|said| said as f32).collect();
        for (name, runs) in answers(references, SHEET, 1, task.truth.len())? {
            of(&format!("{name} (reference)"), Ok(runs.into_iter().map(of_run).collect()))?;
        }
    }
    let reference = |(name, figure)| Reference { name, figure };
    let published = [("LightGBM", 11.46), ("plain MLP", 12.87), ("CNN", 12.61), ("best published", 10.97)];
    let (networks, others) = all.split_at(own);
    let truth = &task.truth;
    let remarks = networks.iter().flat_map(|a| others.iter().map(move |b| lead(a, b, truth))).collect();
    Ok(Report {
        benchmark: "C-MAPSS FD001, cycles left".into(),
        protocol: format!("last cycle of each test engine, cap {CAP}, mean of {SEEDS} seeds, interval by engine"),
        seed,
        columns: vec!["RMSE", "low", "high", "uncapped"],
        contenders: all.iter().map(|(name, said)| figures(name, said, &task.truth)).collect(),
        references: published.map(reference).to_vec(),
        remarks,
    })
}

fn plain(seed: u64) -> TrainSettings {
    TrainSettings { seed, dropout: 0.0, input_noise: 0.0, epochs_max: 30, ..TrainSettings::default() }
}

/// With the settings that do best on held-out engines, learnt from all.
fn network(task: &Task, candidates: &[TrainSettings]) -> Result<Vec<f32>, BenchmarkError> {
    let (fit, held_out) = task.inner();
    let mut best: Option<(f64, TrainSettings)> = None;
    for settings in candidates {
        let parts = Parts { train: &fit, validation: &held_out, ..Parts::default() };
        let model = fit_regressor(task.train(), &task.cycles_left, CAP, parts, settings)?;
        let error =
            |row: &usize| f64::from(model.predict(task.train().row(*row)) - task.cycles_left[*row].min(CAP)).powi(2);
        let error = held_out.iter().map(error).sum::<f64>();
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, TrainSettings { epochs_max: model.epochs, ..settings.clone() }));
        }
    }
    let settings = best.map(|(_, settings)| settings).unwrap_or_default();
    let rows: Vec<usize> = (0..task.engine.len()).collect();
    let parts = Parts { train: &rows, ..Parts::default() };
    let model = fit_regressor(task.train(), &task.cycles_left, CAP, parts, &settings)?;
    Ok((0..task.truth.len()).map(|engine| model.predict(task.test().row(engine))).collect())
}

/// Root mean square error over the engines, each as often as `times` says; mean over the runs.
fn rmse(said: &[Vec<f32>], truth: &[f32], cap: f32, times: &[f64]) -> f64 {
    let of = |said: &Vec<f32>| {
        let squared = |((said, truth), times): ((&f32, &f32), &f64)| f64::from(said - truth.min(cap)).powi(2) * times;
        let sum: f64 = said.iter().zip(truth).zip(times).map(squared).sum();
        (sum / times.iter().sum::<f64>()).sqrt()
    };
    said.iter().map(of).sum::<f64>() / said.len() as f64
}

fn figures(name: &str, said: &[Vec<f32>], truth: &[f32]) -> Contender {
    let capped = interval(truth.len(), |times| rmse(said, truth, CAP, times));
    let uncapped = rmse(said, truth, f32::INFINITY, &vec![1.0; truth.len()]);
    Contender { name: name.into(), figures: vec![capped.mean, capped.low, capped.high, uncapped] }
}

fn lead((a, said_a): &(String, Vec<Vec<f32>>), (b, said_b): &(String, Vec<Vec<f32>>), truth: &[f32]) -> Remark {
    let difference = |times: &[f64]| rmse(said_a, truth, CAP, times) - rmse(said_b, truth, CAP, times);
    Remark { text: format!("RMSE of {a} less that of {b}"), interval: Some(interval(truth.len(), difference)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_cycle_knows_how_many_are_left_and_no_engine_is_on_both_sides() {
        let Some(folder) = std::env::var_os("MILLWRIGHT_DATA") else {
            println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
            return;
        };
        let task = load(Path::new(&folder)).await.unwrap();
        assert_eq!((task.engine.len(), task.truth.len()), (20_631, 100));
        assert_eq!(task.tested.len(), 100 * task.names.len());
        // Engine 1 ran for 192 cycles.
        let first: Vec<f32> = (0..20_631).filter(|r| task.engine[*r] == 0).map(|r| task.cycles_left[r]).collect();
        assert_eq!((first.len(), first[0], first[191]), (192, 191.0, 0.0));
        let (fit, held_out) = task.inner();
        assert!(held_out.iter().all(|row| fit.iter().all(|other| task.engine[*row] != task.engine[*other])));
    }

    #[test]
    fn errors_are_of_the_capped_truth() {
        let said = [vec![120.0, 10.0]];
        let both = |cap| rmse(&said, &[200.0, 13.0], cap, &[1.0, 1.0]);
        assert!((both(CAP) - 17.0_f64.sqrt()).abs() < 1e-9);
        assert!((both(f32::INFINITY) - (6_409.0_f64 / 2.0).sqrt()).abs() < 1e-9);
    }
}
