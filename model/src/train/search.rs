//! Random search of the settings, inside the training slice alone: what validates, calibrates and tests a model has no
//! part in it.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Encoder, TrainError, TrainSettings, learn, plan::Plan, sample};
use crate::dataset::Dataset;

pub const TRIALS_MAX: usize = 1_000;
/// Of the training slice's time, what a trial learns from; on the rest it is judged.
const LEARNT_SHARE: f64 = 0.75;
/// The generator's stream: another than that of any training.
const STREAM: u64 = 2;

/// One trial: what was tried, and how good it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Counts from 1; the first one tries the settings as they were given.
    pub number: usize,
    pub settings: TrainSettings,
    /// Higher is better.
    pub score: f64,
}

/// The best of `trials` settings by `score`, the given ones among them; of equals the earlier. The same seed draws the
/// same ones.
pub fn best<E>(
    given: &TrainSettings,
    trials: usize,
    mut score: impl FnMut(&TrainSettings) -> Result<f64, E>,
    tried: &mut dyn FnMut(&Trial),
) -> Result<TrainSettings, E> {
    let mut rng = ChaCha8Rng::seed_from_u64(given.seed);
    rng.set_stream(STREAM);
    let mut best: Option<Trial> = None;
    for number in 1..=trials.clamp(1, TRIALS_MAX) {
        let settings = if number == 1 { given.clone() } else { draw(given, &mut rng) };
        let trial = Trial { number, score: score(&settings)?, settings };
        tried(&trial);
        if best.as_ref().is_none_or(|best| trial.score > best.score) {
            best = Some(trial);
        }
    }
    Ok(best.map_or_else(|| given.clone(), |trial| trial.settings))
}

/// [`best`] for a dataset, by average precision on the newest part of the training slice.
pub fn search(
    dataset: &Dataset,
    given: &TrainSettings,
    trials: usize,
    tried: &mut dyn FnMut(&Trial),
) -> Result<TrainSettings, TrainError> {
    let dataset = &*dataset.in_order();
    let plan = Plan::new(dataset, given)?;
    let training = plan.split(dataset)?.train;
    let first = training.iter().map(|row| dataset.rows[*row].start.millis()).min().unwrap_or(0);
    let border = first + ((plan.borders.train_end.millis() - first) as f64 * LEARNT_SHARE) as i64;
    let row = |row: &usize| &dataset.rows[*row];
    let learnt: Vec<usize> =
        training.iter().filter(|r| row(r).end.millis() + dataset.horizon_ms <= border).copied().collect();
    let judged: Vec<usize> = training.iter().filter(|r| row(r).start.millis() >= border).copied().collect();
    let occurs = |rows: &[usize]| plan.modes.iter().any(|mode| dataset.failures_ahead(rows, *mode) > 0);
    if !occurs(&learnt) || !occurs(&judged) {
        return Err(TrainError::TooShortToSearch);
    }
    let score = |settings: &TrainSettings| {
        let sample = sample::draw(dataset, &learnt, &plan.modes, settings);
        let mut kinds = dataset.kinds.clone();
        kinds.sort();
        let rows = sample.rows.iter().map(|r| dataset.features(r.row));
        let encoder = Encoder::fit(kinds, dataset.width(), rows);
        let mut top = 0.0f64;
        let mut follow = |progress: super::Progress| top = top.max(progress.average_precision);
        learn(dataset, &encoder, &sample, &judged, &plan.modes, settings, &mut follow)?;
        Ok(top)
    };
    best(given, trials, score, tried)
}

/// Other settings of the network and of how it learns; what is to be learnt, and at what cost, stays as given.
fn draw(given: &TrainSettings, rng: &mut ChaCha8Rng) -> TrainSettings {
    let hidden: [&[usize]; 6] = [&[32], &[64], &[128], &[32, 16], &[64, 32], &[128, 64]];
    let mut one_of = |choices: &[f64]| choices.choose(rng).copied().unwrap_or_default();
    let bins = one_of(&[0.0, 4.0, 8.0, 16.0, 32.0]) as usize;
    let steps = one_of(&[0.0, 3.0, 6.0]) as usize;
    let members = one_of(&[1.0, 4.0, 8.0, 16.0]) as usize;
    let dropout = one_of(&[0.0, 0.1, 0.2, 0.3, 0.5]) as f32;
    let input_noise = one_of(&[0.0, 0.05, 0.1, 0.3]) as f32;
    let weight_decay = one_of(&[0.0, 1e-3, 1e-2, 1e-1]);
    let class_weight = one_of(&[0.0, 0.25, 0.5]);
    let hidden = hidden.choose(rng).map_or_else(|| given.hidden.clone(), |sizes| sizes.to_vec());
    let learning_rate = 10f64.powf(rng.random_range(-3.5..-2.0));
    TrainSettings {
        hidden,
        bins,
        steps,
        members,
        dropout,
        input_noise,
        weight_decay,
        class_weight,
        learning_rate,
        ..given.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    #[test]
    fn the_best_trial_wins_the_given_one_is_among_them_and_a_seed_draws_the_same() {
        let given = TrainSettings { seed: 4, ..TrainSettings::default() };
        let run = |given: &TrainSettings| {
            let mut tried = Vec::new();
            // Fewer members are better here.
            let score = |s: &TrainSettings| Ok::<_, ()>(-(s.members as f64));
            let best = best(given, 12, score, &mut |trial| tried.push(trial.settings.clone())).unwrap();
            (best, tried)
        };
        let (best, tried) = run(&given);
        assert_eq!((tried.len(), &tried[0]), (12, &given));
        assert_eq!(best.members, tried.iter().map(|s| s.members).min().unwrap());
        assert!(tried.iter().all(|s| s.check().is_ok() && s.costs == given.costs && s.seed == 4));
        assert_eq!(run(&given).1, tried);
        assert_ne!(run(&TrainSettings { seed: 5, ..given }).1[1..], tried[1..]);
    }

    #[test]
    fn a_search_sees_the_training_slice_alone() {
        let dataset = synthetic::xor_plant(3, 4, 40);
        let given = TrainSettings { horizon_hours: 12.0, rows_max: 800, epochs_max: 2, ..TrainSettings::default() };
        let scores = |dataset: &Dataset| {
            let mut scores = Vec::new();
            search(dataset, &given, 2, &mut |trial| scores.push(trial.score)).unwrap();
            scores
        };
        let before = scores(&dataset);
        let border = Plan::new(&dataset, &given).unwrap().borders.train_end;
        let mut other = dataset.clone();
        (0..other.rows.len())
            .filter(|row| dataset.rows[*row].start >= border)
            .for_each(|row| other.features_mut(row).fill(9.0));
        assert_eq!(scores(&other), before);
    }
}
