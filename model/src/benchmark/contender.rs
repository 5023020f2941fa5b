//! Who is compared: the network as it is shipped, and baselines that learn from the same rows.

use super::{BenchmarkError, folds::inner};
use crate::{
    evaluate::metrics::average_precision,
    settings::TrainSettings,
    train::table::{Classifier, Parts, Table, fit_classifier},
};

/// One in so many training rows is held out to choose by.
const INNER_PARTS: usize = 5;

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
pub fn trees_number(_: Table, _: &[f64], _: Table) -> Result<Option<Vec<f64>>, BenchmarkError> {
    Ok(None)
}

/// None: built without the cargo feature `benchmark`.
#[cfg(not(feature = "benchmark"))]
pub fn trees(_: Table, _: &[bool], _: &[usize], _: &[usize]) -> Result<Option<Vec<f64>>, BenchmarkError> {
    Ok(None)
}

#[cfg(feature = "benchmark")]
pub use boosted::{trees, trees_number};

#[cfg(feature = "benchmark")]
mod boosted {
    use perpetual::{Matrix, PerpetualBooster, objective::Objective};

    use super::*;

    /// How hard the trees try; 1 is the library's advice for a final fit.
    const BUDGET: f32 = 1.0;

    pub fn trees(
        table: Table,
        positive: &[bool],
        train: &[usize],
        test: &[usize],
    ) -> Result<Option<Vec<f64>>, BenchmarkError> {
        let labels: Vec<f64> = train.iter().map(|row| f64::from(u8::from(positive[*row]))).collect();
        let model = grown(Objective::LogLoss, &columns(table, train), table.width, &labels)?;
        let tested = columns(table, test);
        Ok(Some(model.predict_proba(&Matrix::new(&tested, test.len(), table.width), false, false)))
    }

    /// A number per row of `test`, learnt from all of `table`.
    pub fn trees_number(table: Table, targets: &[f64], test: Table) -> Result<Option<Vec<f64>>, BenchmarkError> {
        let all = |table: Table| (0..table.values.len() / table.width).collect::<Vec<usize>>();
        let model = grown(Objective::SquaredLoss, &columns(table, &all(table)), table.width, targets)?;
        let tested = columns(test, &all(test));
        Ok(Some(model.predict(&Matrix::new(&tested, all(test).len(), test.width), false)))
    }

    fn grown(
        objective: Objective,
        values: &[f64],
        width: usize,
        targets: &[f64],
    ) -> Result<PerpetualBooster, BenchmarkError> {
        let model = PerpetualBooster::default().set_objective(objective).set_budget(BUDGET);
        let mut model = model.set_num_threads(Some(1));
        let matrix = Matrix::new(values, targets.len(), width);
        model.fit(&matrix, targets, None, None).map_err(|e| BenchmarkError::Trees(e.to_string()))?;
        Ok(model)
    }

    fn columns(table: Table, rows: &[usize]) -> Vec<f64> {
        (0..table.width).flat_map(|column| rows.iter().map(move |row| f64::from(table.row(*row)[column]))).collect()
    }
}
