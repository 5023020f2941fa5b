//! Who is compared: the network as it is shipped, and baselines that learn from the same rows.

use super::{BenchmarkError, Predicted, folds::inner};
use crate::{
    evaluate::metrics::average_precision,
    settings::TrainSettings,
    train::table::{Classifier, Parts, Table, fit_classifier},
};

/// One in so many training rows is held out to choose by.
const INNER_PARTS: usize = 5;

/// What is chosen among inside the training part, of whatever set: the given settings, and what gives the network less or more
/// to bend with.
pub fn candidates(given: &TrainSettings) -> Vec<TrainSettings> {
    vec![
        given.clone(),
        TrainSettings { bins: 4, ..given.clone() },
        TrainSettings { bins: 16, dropout: 0.2, ..given.clone() },
        TrainSettings { dropout: 0.2, input_noise: 0.1, ..given.clone() },
    ]
}

/// Probabilities of `test`, learnt from `train`.
pub fn logistic(table: Table, positive: &[bool], train: &[usize], test: &[usize]) -> Result<Vec<f64>, BenchmarkError> {
    let settings = TrainSettings {
        hidden: vec![],
        members: 1,
        bins: 0,
        dropout: 0.0,
        input_noise: 0.0,
        class_weight: 0.0,
        learning_rate: 1e-2,
        epochs_max: 60,
        ..TrainSettings::default()
    };
    let parts = Parts { train, ..Parts::default() };
    let model = fit_classifier(table, &[positive.to_vec()], parts, &settings)?;
    Ok(said(&model, table, test))
}

/// With settings chosen among `candidates` on a part of the training rows that is held out; then learnt from all of them.
pub fn network(
    table: Table,
    positive: &[bool],
    train: &[usize],
    candidates: &[TrainSettings],
) -> Result<Classifier, BenchmarkError> {
    let labels = [positive.to_vec()];
    let mut best: Option<(f64, TrainSettings)> = None;
    for settings in candidates {
        let (fit, held_out) = inner(train, positive, INNER_PARTS, settings.seed);
        let parts = Parts { train: &fit, validation: &held_out, ..Parts::default() };
        let model = fit_classifier(table, &labels, parts, settings)?;
        let known: Vec<bool> = held_out.iter().map(|row| positive[*row]).collect();
        let good = average_precision(&said(&model, table, &held_out), &known);
        if best.as_ref().is_none_or(|(top, _)| good > *top) {
            best = Some((good, TrainSettings { epochs_max: model.epochs, ..settings.clone() }));
        }
    }
    let settings = best.map(|(_, settings)| settings).unwrap_or_default();
    Ok(fit_classifier(table, &labels, Parts { train, ..Parts::default() }, &settings)?)
}

pub fn said(model: &Classifier, table: Table, rows: &[usize]) -> Vec<f64> {
    rows.iter().map(|row| model.probabilities(table.row(*row))[0]).collect()
}

/// None: built without the cargo feature `benchmark`.
#[cfg(not(feature = "benchmark"))]
pub fn trees_number(_: Table, _: &[f64], _: Table) -> Predicted {
    Ok(None)
}

/// None: built without the cargo feature `benchmark`.
#[cfg(not(feature = "benchmark"))]
pub fn trees(_: Table, _: &[bool], _: &[usize], _: &[usize]) -> Predicted {
    Ok(None)
}

#[cfg(feature = "benchmark")]
pub use boosted::{trees, trees_number};

#[cfg(feature = "benchmark")]
mod boosted {
    use smartcore::{
        linalg::basic::matrix::DenseMatrix,
        xgboost::{XGRegressor, XGRegressorParameters},
    };

    use super::*;

    const TREES: usize = 150;
    const DEPTH: u16 = 6;
    const RATE: f64 = 0.07;
    /// The trees sort every column at every node: larger tables are thinned evenly.
    const ROWS_MAX: usize = 20_000;
    /// Stands for a missing value, below all that occur.
    const MISSING: f64 = -1e6;

    type Trees = XGRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

    /// Boosted on the squared error: what they say is the share of positives, for which 0.5 is the threshold too.
    pub fn trees(table: Table, positive: &[bool], train: &[usize], test: &[usize]) -> Predicted {
        let step = train.len().div_ceil(ROWS_MAX).max(1);
        let train: Vec<usize> = train.iter().copied().step_by(step).collect();
        let labels: Vec<f64> = train.iter().map(|row| f64::from(u8::from(positive[*row]))).collect();
        learn(table, &train, labels, table, test).map(Some)
    }

    /// A number per row of `test`, learnt from `table`.
    pub fn trees_number(table: Table, targets: &[f64], test: Table) -> Predicted {
        let step = targets.len().div_ceil(ROWS_MAX).max(1);
        let train: Vec<usize> = (0..targets.len()).step_by(step).collect();
        let all: Vec<usize> = (0..test.values.len() / test.width).collect();
        learn(table, &train, train.iter().map(|row| targets[*row]).collect(), test, &all).map(Some)
    }

    fn learn(
        table: Table,
        train: &[usize],
        targets: Vec<f64>,
        test: Table,
        asked: &[usize],
    ) -> Result<Vec<f64>, BenchmarkError> {
        let failed = |e: smartcore::error::Failed| BenchmarkError::Trees(e.to_string());
        let mean = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
        let parameters = XGRegressorParameters::default()
            .with_n_estimators(TREES)
            .with_max_depth(DEPTH)
            .with_learning_rate(RATE)
            .with_base_score(mean);
        let model = Trees::fit(&matrix(table, train)?, &targets, parameters).map_err(failed)?;
        model.predict(&matrix(test, asked)?).map_err(failed)
    }

    fn matrix(table: Table, rows: &[usize]) -> Result<DenseMatrix<f64>, BenchmarkError> {
        let value = |v: &f32| if v.is_finite() { f64::from(*v) } else { MISSING };
        let values = rows.iter().flat_map(|row| table.row(*row).iter().map(value)).collect();
        DenseMatrix::new(rows.len(), table.width, values, false).map_err(|e| BenchmarkError::Trees(e.to_string()))
    }
}
