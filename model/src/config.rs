//! The trainer's settings: sections of the processor's configuration file, or of one of its own.

use std::path::Path;

use proto::{
    asset::{AssetId, InvalidAssetId},
    config::ConfigError,
};
use serde::Deserialize;

use crate::{features::FeatureConfig, store::S3Config, train::TrainSettings};

/// Name in the registry unless another is given.
pub const DEFAULT_NAME: &str = "failure";
/// Larger files are no configuration.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Sections that are not the trainer's are the processor's, and read there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    pub s3: Option<S3Config>,
    pub features: FeatureConfig,
    pub model: Registry,
    pub train: TrainSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// Name of the model in the registry; [`DEFAULT_NAME`] unless given.
    pub name: Option<AssetId>,
    /// How often a processor looks at the champion pointer, seconds of wall time.
    pub refresh_seconds: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Registry { name: None, refresh_seconds: 30 }
    }
}

impl Registry {
    pub fn name(&self) -> Result<AssetId, InvalidAssetId> {
        self.name.clone().map_or_else(|| AssetId::new(DEFAULT_NAME), Ok)
    }
}

impl ModelConfig {
    /// Relative paths in the text begin at the folder of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let mut config: ModelConfig = proto::config::parse(file, text)?;
        config.check(file)?;
        let base = Path::new(file).parent().unwrap_or(Path::new(""));
        let s3 = config.s3.map(|s3| s3.check(base)).transpose();
        config.s3 = s3.map_err(|e| ConfigError::whole(file, e.to_string()))?;
        Ok(config)
    }

    /// What a type can't say.
    fn check(&self, file: &str) -> Result<(), ConfigError> {
        let TrainSettings {
            horizon_hours, rows_max, learning_rate, dropout, input_noise, split, costs, hidden, ..
        } = &self.train;
        let share = split.train + split.validation + split.calibration;
        let wrong = |key: &str, allowed: &str| Err(ConfigError::key(file, key, format!("must be {allowed}")));
        if !(*horizon_hours > 0.0 && *horizon_hours <= 10_000.0) {
            return wrong("train.horizon_hours", "above 0 and at most 10000");
        }
        if *rows_max < 100 {
            return wrong("train.rows_max", "at least 100");
        }
        if !(*learning_rate > 0.0 && *learning_rate <= 1.0) {
            return wrong("train.learning_rate", "above 0 and at most 1");
        }
        if !(0.0..1.0).contains(dropout) || !(0.0..10.0).contains(input_noise) {
            return wrong("train.dropout or train.input_noise", "from 0 to below 1, or below 10");
        }
        if hidden.len() > 8 || hidden.iter().any(|n| *n == 0 || *n > 1024) {
            return wrong("train.hidden", "at most 8 sizes from 1 to 1024");
        }
        if !(split.train > 0.0 && split.validation > 0.0 && split.calibration >= 0.0 && share < 1.0) {
            return wrong("train.split", "shares of the time that leave some for the test");
        }
        if !(costs.missed_failure > 0.0 && costs.false_alarm > 0.0) {
            return wrong("train.costs", "above 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_file_is_read_and_the_trainers_own_sections_strictly() {
        let text = "site = \"a\"\n[mqtt]\nurl = \"x\"\n[s3]\nbucket = \"b\"\n[train]\nmin_failures = 30\n";
        let config = ModelConfig::parse("p.toml", text).unwrap();
        assert_eq!((config.s3.unwrap().bucket.as_str(), config.train.min_failures), ("b", 30));
        let message = |text: &str| ModelConfig::parse("p.toml", text).unwrap_err().to_string();
        assert!(message("[train]\nepoch = 3").starts_with("p.toml:2: unknown field `epoch`, expected one of"));
        assert!(message("[train]\nhorizon_hours = -1.0").contains("train.horizon_hours"));
        assert!(message("[train.split]\ntrain = 1.0").contains("train.split"));
    }
}
