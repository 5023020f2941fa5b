//! Learning from a plain table: rows of numbers, what came of each, and which of them may be used for what.
//!
//! The network, its loop and its calibration are those of [`super::train`]; only machines, time and alerts are not known
//! here. Benchmarks and the regression setting come this way.

use super::{
    fit::{FitError, Fitted, fit},
    sample::class_weight,
    task::{Goal, Task},
};
use crate::{
    calibration::{Calibration, Outcome, Platt},
    evaluate::metrics::average_precision,
    explain::Way,
    forward::{Bins, Encoder, Network},
    settings::TrainSettings,
};

/// Rows of `width` numbers, one after the other; NaN is a missing one.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    pub width: usize,
    pub values: &'a [f32],
}

/// Which rows are for what. Without validation rows training takes all its epochs; without calibration rows (or too few
/// that are positive) only the class weights are undone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    pub train: &'a [usize],
    pub validation: &'a [usize],
    pub calibration: &'a [usize],
}

/// Says how likely each class is.
#[derive(Debug, Clone)]
pub struct Classifier {
    encoder: Encoder,
    network: Network,
    calibrations: Vec<Calibration>,
    pub epochs: usize,
}

/// Says how much there is of something.
#[derive(Debug, Clone)]
pub struct Regressor {
    encoder: Encoder,
    network: Network,
    mean: f32,
    std: f32,
    cap: f32,
    pub epochs: usize,
}

impl<'a> Table<'a> {
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.width..][..self.width]
    }

    fn encoder(&self, rows: &[usize]) -> Encoder {
        Encoder::fit(vec![], self.width, rows.iter().map(|row| self.row(*row)))
    }

    fn encode(&self, encoder: &Encoder, rows: &[usize]) -> Vec<f32> {
        rows.iter().flat_map(|row| encoder.standardize(self.row(*row).iter().map(|v| f64::from(*v)))).collect()
    }

    fn bins(&self, encoder: &Encoder, rows: &[usize], settings: &TrainSettings) -> Bins {
        encoder.bins(rows.iter().map(|row| self.row(*row)), settings.bins, settings.tail_halvings)
    }
}

/// Learns one probability per class. `labels`: per class whether each row of the table is of it; a row may be of none or
/// of several. `outcomes` that come in runs should be thinned before: each positive row counts as one failure here.
pub fn fit_classifier(
    table: Table,
    labels: &[Vec<bool>],
    parts: Parts,
    settings: &TrainSettings,
) -> Result<Classifier, FitError> {
    let encoder = table.encoder(parts.train);
    let positives = |label: &Vec<bool>| parts.train.iter().filter(|row| label[**row]).count() as f64;
    let class_weights: Vec<f64> = labels
        .iter()
        .map(|label| class_weight(parts.train.len() as f64 - positives(label), positives(label), settings.class_weight))
        .collect();
    let mut task = Task {
        width: table.width,
        heads: labels.len(),
        inputs: table.encode(&encoder, parts.train),
        targets: vec![],
        weights: vec![],
        bins: table.bins(&encoder, parts.train, settings),
        evidence: vec![1.0; labels.len()],
        goal: Goal::Classes,
    };
    for row in parts.train {
        for (label, class_weight) in labels.iter().zip(&class_weights) {
            task.targets.push(f32::from(u8::from(label[*row])));
            task.weights.push(if label[*row] { *class_weight as f32 } else { 1.0 });
        }
    }
    task.level_weights();
    let unseen = table.encode(&encoder, parts.validation);
    let mut judge = |_: usize, network: &Network| {
        let logits = network.all_logits(&unseen);
        let of_head = |(head, label): (usize, &Vec<bool>)| {
            let positive: Vec<bool> = parts.validation.iter().map(|row| label[*row]).collect();
            let scores: Vec<f64> = logits.iter().skip(head).step_by(labels.len()).map(|l| f64::from(*l)).collect();
            positive.contains(&true).then(|| average_precision(&scores, &positive))
        };
        let of_heads: Vec<f64> = labels.iter().enumerate().filter_map(of_head).collect();
        (!of_heads.is_empty()).then(|| of_heads.iter().sum::<f64>() / of_heads.len() as f64)
    };
    let Fitted { network, epochs } = fit(&task, settings, &mut judge)?;
    let logits = network.all_logits(&table.encode(&encoder, parts.calibration));
    let calibration = |(head, label): (usize, &Vec<bool>)| {
        let own = logits.iter().skip(head).step_by(labels.len());
        let outcomes: Vec<Outcome> = (parts.calibration.iter().zip(own))
            .map(|(row, logit)| Outcome { logit: f64::from(*logit), positive: label[*row] })
            .collect();
        let failures = outcomes.iter().filter(|o| o.positive).count();
        Calibration::fit(&outcomes, failures).unwrap_or(Platt::prior_shift(class_weights[head]).into())
    };
    let calibrations = labels.iter().enumerate().map(calibration).collect();
    Ok(Classifier { encoder, network, calibrations, epochs })
}

/// Learns a number per row, at most `cap`. `targets`: one for each row of the table. Time to failure is such a number,
/// and what lies far ahead is best not told apart. What is judged on the validation rows is the root mean square error.
pub fn fit_regressor(
    table: Table,
    targets: &[f32],
    cap: f32,
    parts: Parts,
    settings: &TrainSettings,
) -> Result<Regressor, FitError> {
    let encoder = table.encoder(parts.train);
    let target = |row: &usize| targets[*row].min(cap);
    let rows = parts.train.len().max(1) as f32;
    let mean = parts.train.iter().map(target).sum::<f32>() / rows;
    let spread = parts.train.iter().map(|row| (target(row) - mean).powi(2)).sum::<f32>() / rows;
    let std = spread.sqrt().max(f32::MIN_POSITIVE);
    let task = Task {
        width: table.width,
        heads: 1,
        inputs: table.encode(&encoder, parts.train),
        targets: parts.train.iter().map(|row| (target(row) - mean) / std).collect(),
        weights: vec![1.0; parts.train.len()],
        bins: table.bins(&encoder, parts.train, settings),
        evidence: vec![1.0],
        goal: Goal::Numbers,
    };
    let unseen = table.encode(&encoder, parts.validation);
    let mut judge = |_: usize, network: &Network| {
        let outputs = mean_outputs(network, &unseen);
        let squared = |(row, output): (&usize, &f32)| f64::from(output * std + mean - target(row)).powi(2);
        let error: f64 = parts.validation.iter().zip(&outputs).map(squared).sum();
        (!outputs.is_empty()).then(|| -(error / outputs.len() as f64).sqrt())
    };
    let Fitted { network, epochs } = fit(&task, settings, &mut judge)?;
    Ok(Regressor { encoder, network, mean, std, cap, epochs })
}

fn mean_outputs(network: &Network, rows: &[f32]) -> Vec<f32> {
    let members = network.member_logits(rows);
    members.chunks_exact(network.members() * network.outputs()).flat_map(|row| network.mean(row)).collect()
}

impl Classifier {
    /// One probability per class for a row of the table's width.
    pub fn probabilities(&self, row: &[f32]) -> Vec<f64> {
        let logits = self.network.logits(&self.encoder.standardize(row.iter().map(|v| f64::from(*v))));
        self.calibrations.iter().zip(logits).map(|(c, logit)| c.probability(f64::from(logit))).collect()
    }

    /// By how much each source of a row's numbers moves each class's logit from where it is at `usual`. `sources`: columns of each;
    /// those of none stay as they are in `row`.
    pub fn shares(&self, row: &[f32], usual: &[f32], sources: &[Vec<usize>]) -> Vec<Vec<f64>> {
        let encode = |row: &[f32]| self.encoder.standardize(row.iter().map(|v| f64::from(*v)));
        let still: Vec<usize> = (0..row.len()).filter(|place| !sources.iter().any(|s| s.contains(place))).collect();
        let (now, normal) = (&encode(row)[..], &encode(usual)[..]);
        Way { now, normal, sources, still: &still, derived: &[], row_at: &|_| vec![] }.shares(&self.network).1
    }
}

impl Regressor {
    /// For a row of the table's width; at most the cap.
    pub fn predict(&self, row: &[f32]) -> f32 {
        let encoded = self.encoder.standardize(row.iter().map(|v| f64::from(*v)));
        let output = mean_outputs(&self.network, &encoded).first().copied().unwrap_or(f32::NAN);
        (output * self.std + self.mean).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const WIDTH: usize = 3;

    fn numbers(rows: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..rows * WIDTH).map(|_| rng.random_range(-2.0..2.0)).collect()
    }

    fn settings() -> TrainSettings {
        TrainSettings { input_noise: 0.0, dropout: 0.0, epochs_max: 40, batch_rows: 64, ..TrainSettings::default() }
    }

    #[test]
    fn classes_that_no_line_parts_are_learnt_and_probabilities_mean_what_they_say() {
        let seed = 3;
        let values = numbers(3_000, seed);
        let table = Table { width: WIDTH, values: &values };
        // A ring, and a corner.
        let ring = |row: usize| (0.5..1.6).contains(&(table.row(row)[0].powi(2) + table.row(row)[1].powi(2)));
        let labels = vec![
            (0..3_000).map(ring).collect::<Vec<_>>(),
            (0..3_000).map(|row| table.row(row)[1] > 1.0 && table.row(row)[2] > 1.0).collect(),
        ];
        let rows: Vec<usize> = (0..3_000).collect();
        let parts = Parts { train: &rows[..1_500], validation: &rows[1_500..2_000], calibration: &rows[2_000..2_500] };
        let model = fit_classifier(table, &labels, parts, &settings()).unwrap();
        for (head, label) in labels.iter().enumerate() {
            let said: Vec<f64> = rows[2_500..].iter().map(|row| model.probabilities(table.row(*row))[head]).collect();
            let right = said.iter().zip(&label[2_500..]).filter(|(p, l)| (**p > 0.5) == **l).count();
            assert!(right > 440, "seed {seed}, class {head}: {right} of 500 right");
            let (mean, base) = (said.iter().sum::<f64>(), label[2_500..].iter().filter(|l| **l).count() as f64);
            assert!((mean - base).abs() < 25.0, "seed {seed}, class {head}: {mean} said, {base} true");
        }
    }

    #[test]
    fn numbers_are_learnt_up_to_their_cap() {
        let seed = 5;
        let values = numbers(2_500, seed);
        let table = Table { width: WIDTH, values: &values };
        let truth = |row: usize| 100.0 + 40.0 * table.row(row)[0].abs() + 10.0 * table.row(row)[1];
        let targets: Vec<f32> = (0..2_500).map(truth).collect();
        let rows: Vec<usize> = (0..2_500).collect();
        let parts = Parts { train: &rows[..1_500], validation: &rows[1_500..2_000], ..Parts::default() };
        let model = fit_regressor(table, &targets, 160.0, parts, &settings()).unwrap();
        let of = |row: &usize| (model.predict(table.row(*row)), targets[*row].min(160.0));
        let error = rows[2_000..].iter().map(of).map(|(said, is)| (said - is).powi(2)).sum::<f32>() / 500.0;
        assert!(error.sqrt() < 5.0, "seed {seed}: {}", error.sqrt());
        assert!(rows.iter().all(|row| model.predict(table.row(*row)) <= 160.0));
    }
}
