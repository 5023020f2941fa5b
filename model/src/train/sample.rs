//! Which rows are trained on: all that fail if they fit, and of the others as many as fit.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{dataset::Dataset, settings::TrainSettings};

/// A class weight above this makes single rows decide the gradient.
const CLASS_WEIGHT_MAX: f64 = 20.0;

pub struct Sample {
    /// By machine and time.
    pub rows: Vec<SampledRow>,
    /// Per head: how much more a positive row counts than it would in nature.
    pub class_weights: Vec<f64>,
}

pub struct SampledRow {
    pub row: usize,
    /// One over the rate at which rows like this one were taken: what is learnt is the rate in nature.
    pub weight: f64,
}

pub fn draw(dataset: &Dataset, rows: &[usize], modes: &[usize], settings: &TrainSettings) -> Sample {
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    rng.set_stream(1);
    let wanted: u32 = modes.iter().fold(0, |bits, mode| bits | 1 << mode);
    let (positive, negative): (Vec<usize>, Vec<usize>) =
        rows.iter().partition(|row| dataset.rows[**row].fails & wanted != 0);
    let positives_max = (settings.rows_max / 2).max(settings.rows_max.saturating_sub(negative.len()));
    let mut sampled = thin(positive, positives_max, &mut rng);
    let negatives_max = settings.rows_max.saturating_sub(sampled.len());
    sampled.extend(thin(negative, negatives_max, &mut rng));
    sampled.sort_by_key(|s| s.row);
    let class_weights = modes.iter().map(|mode| {
        let weight = |positive: bool| -> f64 {
            sampled.iter().filter(|s| dataset.rows[s.row].is_positive(*mode) == positive).map(|s| s.weight).sum()
        };
        class_weight(weight(false), weight(true), settings.class_weight)
    });
    let class_weights = class_weights.collect();
    Sample { rows: sampled, class_weights }
}

fn thin(mut rows: Vec<usize>, max: usize, rng: &mut ChaCha8Rng) -> Vec<SampledRow> {
    let all = rows.len();
    if all > max {
        rows.shuffle(rng);
        rows.truncate(max);
    }
    let weight = all as f64 / rows.len().max(1) as f64;
    rows.into_iter().map(|row| SampledRow { row, weight }).collect()
}

/// How much more a positive row counts than a negative one: a power of the odds against. At one half rare modes are
/// heard, and the probabilities stay near enough to be calibrated.
pub fn class_weight(negatives: f64, positives: f64, power: f64) -> f64 {
    (negatives / positives.max(1.0)).powf(power).clamp(1.0, CLASS_WEIGHT_MAX)
}
