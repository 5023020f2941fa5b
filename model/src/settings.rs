//! What a training run is told; kept in its artefact, so that it can be repeated from there.

use std::ops::RangeInclusive;

use proto::{config::ConfigError, time::PlantTime};
use serde::{Deserialize, Serialize};

use crate::forward::MEMBERS_MAX;

/// Hidden layers, and units in one of them: more would not fit an artefact, nor a gateway.
const HIDDEN_MAX: usize = 8;
const UNITS_MAX: usize = 1024;
/// Of a run whose settings give no number of epochs; how many of them follows from [`WORK_PLANNED`].
const STEPS_PLANNED: RangeInclusive<usize> = 2_500..=8_000;
/// Multiplications forward: about those of 2,500 steps of the default network over the features of five sensors. A network of
/// few inputs has as much to learn from each of them, and is cheap: it takes more steps.
const WORK_PLANNED: usize = 15_000_000_000;
const EPOCHS_MAX: usize = 1_000;
/// More would find few rows between two edges.
const BINS_MAX: usize = 64;
/// Further out there is no row left.
const TAIL_HALVINGS_MAX: usize = 8;

/// More would find few rows between two of them.
const STEPS_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    pub seed: u64,
    /// How far ahead a failure is to be seen, hours of plant time.
    pub horizon_hours: f64,
    /// Sizes of the hidden layers; none: logistic regression.
    pub hidden: Vec<usize>,
    /// Members of the ensemble, which share weights; 1: a single network.
    pub members: usize,
    /// Bins of equal shares of the rows that each feature is encoded by; below 2: none, and no steps either.
    pub bins: usize,
    /// How often both outermost of them are halved outwards: what is rare lies there.
    pub tail_halvings: usize,
    /// Steps of each feature at most, where the labels change at once and its bins leave room for a jump; 0: none.
    pub steps: usize,
    /// A mode with fewer failures to learn from is left to the rules.
    pub min_failures: usize,
    /// Rows that are trained on at most; a larger slice is sampled, and the sample weighted.
    pub rows_max: usize,
    /// 0: as many as make 2,500 to 8,000 steps, more for a network of fewer inputs.
    pub epochs_max: usize,
    /// Epochs without improvement on the validation slice after which training stops; at least a quarter of all where
    /// these follow from the number of rows.
    pub patience: usize,
    /// Rows of one step.
    pub batch_rows: usize,
    pub learning_rate: f64,
    /// Share of the steps in which the learning rate rises to it; then it falls on a cosine.
    pub warm_up: f64,
    pub weight_decay: f64,
    /// Share of hidden units that are silenced at each step.
    pub dropout: f32,
    /// Noise on the standardized features at each step.
    pub input_noise: f32,
    /// How much more a rare mode's rows count: its odds against, to this power. 0: no more than others.
    pub class_weight: f64,
    pub costs: Costs,
    pub split: SplitShares,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// A failure that no alert came before.
    pub missed_failure: f64,
    /// A crew sent out for nothing; every one costs trust as well.
    pub false_alarm: f64,
}

/// Shares of the time that the dataset spans; the test slice is the rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitShares {
    pub train: f64,
    /// For early stopping and thresholds.
    pub validation: f64,
    pub calibration: f64,
}

/// Where in time the slices ended when a model was trained: whatever is archived later, no row before the last of
/// them is one that training has not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borders {
    pub train_end: PlantTime,
    pub validation_end: PlantTime,
    pub calibration_end: PlantTime,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("train.{key}: allowed: {allowed}")]
pub struct InvalidTrainSettings {
    pub key: &'static str,
    pub allowed: &'static str,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            seed: 1,
            horizon_hours: 24.0,
            hidden: vec![64, 32],
            members: 8,
            bins: 8,
            tail_halvings: 0,
            steps: 3,
            min_failures: 10,
            rows_max: 40_000,
            epochs_max: 0,
            patience: 4,
            batch_rows: 96,
            learning_rate: 2e-3,
            warm_up: 0.05,
            weight_decay: 1e-2,
            dropout: 0.1,
            input_noise: 0.0,
            class_weight: 0.25,
            costs: Costs::default(),
            split: SplitShares::default(),
        }
    }
}

impl Default for Costs {
    fn default() -> Self {
        Costs { missed_failure: 8.0, false_alarm: 1.0 }
    }
}

impl Default for SplitShares {
    fn default() -> Self {
        SplitShares { train: 0.52, validation: 0.16, calibration: 0.14 }
    }
}

impl TrainSettings {
    /// A file of settings alone.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let settings: TrainSettings = proto::config::parse(file, text)?;
        settings.check().map_err(|e| ConfigError::setting(file, "train", e.key, e.allowed))?;
        Ok(settings)
    }

    /// ms of plant time.
    pub fn horizon_ms(&self) -> i64 {
        (self.horizon_hours * 3_600_000.0) as i64
    }

    /// How many epochs a run over so many rows of so many inputs has at most, and how many of them may bring nothing.
    pub fn epochs_and_patience(&self, rows: usize, inputs: usize) -> (usize, usize) {
        match self.epochs_max {
            0 => {
                let batch_rows = self.batch_rows.max(1);
                let (mut weights, mut before) = (0, inputs);
                for units in &self.hidden {
                    weights += before * units;
                    before = *units;
                }
                let work = batch_rows * self.members * weights.max(inputs).max(1);
                let planned = (WORK_PLANNED / work).clamp(*STEPS_PLANNED.start(), *STEPS_PLANNED.end());
                let epochs = planned.div_ceil(rows.div_ceil(batch_rows).max(1)).min(EPOCHS_MAX);
                (epochs, self.patience.max(epochs / 4))
            }
            epochs => (epochs, self.patience),
        }
    }

    /// What a type can't say.
    pub fn check(&self) -> Result<(), InvalidTrainSettings> {
        let TrainSettings {
            horizon_hours,
            split,
            costs,
            hidden,
            members,
            bins,
            tail_halvings,
            steps,
            batch_rows,
            warm_up,
            class_weight,
            ..
        } = self;
        let share = split.train + split.validation + split.calibration;
        let slices = split.train > 0.0 && split.validation > 0.0 && split.calibration > 0.0 && share < 1.0;
        let layers = hidden.len() <= HIDDEN_MAX && hidden.iter().all(|n| (1..=UNITS_MAX).contains(n));
        let demands = [
            (*horizon_hours > 0.0 && *horizon_hours <= 10_000.0, "horizon_hours", "above 0 and at most 10000"),
            (self.min_failures >= 1, "min_failures", "1 or more"),
            (self.rows_max >= 100, "rows_max", "100 or more"),
            (self.epochs_max <= EPOCHS_MAX, "epochs_max", "0, or up to 1000"),
            (self.learning_rate > 0.0 && self.learning_rate <= 1.0, "learning_rate", "above 0 and at most 1"),
            ((0.0..1.0).contains(&self.weight_decay), "weight_decay", "from 0 to below 1"),
            ((0.0..1.0).contains(&self.dropout), "dropout", "from 0 to below 1"),
            ((0.0..10.0).contains(&self.input_noise), "input_noise", "from 0 to below 10"),
            ((1..=MEMBERS_MAX).contains(members), "members", "1 to 64"),
            (*bins <= BINS_MAX, "bins", "at most 64"),
            (*tail_halvings <= TAIL_HALVINGS_MAX, "tail_halvings", "at most 8"),
            (*steps <= STEPS_MAX, "steps", "at most 16"),
            ((1..=65_536).contains(batch_rows), "batch_rows", "1 to 65536"),
            ((0.0..1.0).contains(warm_up), "warm_up", "from 0 to below 1"),
            ((0.0..=1.0).contains(class_weight), "class_weight", "from 0 to 1"),
            (layers, "hidden", "at most 8 sizes from 1 to 1024"),
            (slices, "split", "shares of the time above 0 that leave some for the test"),
            (costs.missed_failure > 0.0, "costs.missed_failure", "above 0"),
            (costs.false_alarm > 0.0, "costs.false_alarm", "above 0"),
        ];
        match demands.into_iter().find(|(met, ..)| !met) {
            Some((_, key, allowed)) => Err(InvalidTrainSettings { key, allowed }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_what_cannot_work_is_named() {
        assert_eq!(TrainSettings::default().check(), Ok(()));
        let refused = |change: fn(&mut TrainSettings)| {
            let mut settings = TrainSettings::default();
            change(&mut settings);
            settings.check().unwrap_err().key
        };
        assert_eq!(refused(|s| s.horizon_hours = f64::NAN), "horizon_hours");
        assert_eq!(refused(|s| s.split.calibration = 0.0), "split");
        assert_eq!(refused(|s| s.hidden = vec![0]), "hidden");
        assert_eq!(refused(|s| s.epochs_max = 1_001), "epochs_max");
        assert_eq!(refused(|s| s.costs.false_alarm = 0.0), "costs.false_alarm");
    }

    #[test]
    fn what_is_written_as_a_file_of_settings_is_read_again() {
        let settings = TrainSettings { members: 4, hidden: vec![48], class_weight: 0.25, ..TrainSettings::default() };
        assert_eq!(TrainSettings::parse("best.toml", &toml::to_string(&settings).unwrap()), Ok(settings));
        let refused = |text: &str| TrainSettings::parse("best.toml", text).unwrap_err().to_string();
        assert!(refused("members = 0").contains("train.members"), "{}", refused("members = 0"));
        assert!(refused("member = 2").contains("unknown field `member`"));
    }

    #[test]
    fn a_small_table_is_gone_over_more_often_and_by_a_small_network_more_often_still() {
        let settings = TrainSettings { batch_rows: 256, patience: 4, ..TrainSettings::default() };
        assert_eq!(settings.epochs_and_patience(40_000, 88), (16, 4));
        assert_eq!(settings.epochs_and_patience(8_000, 88), (79, 19));
        assert_eq!(settings.epochs_and_patience(8_000, 8), (90, 22));
        assert_eq!(settings.epochs_and_patience(0, 88), (1_000, 250));
        let line = TrainSettings { hidden: vec![], members: 1, ..settings.clone() };
        assert_eq!(line.epochs_and_patience(8_000, 8), (250, 62), "at most 8,000 steps");
        let given = TrainSettings { epochs_max: 3, ..settings };
        assert_eq!(given.epochs_and_patience(8_000, 8), (3, 4));
    }
}
