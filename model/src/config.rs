//! The trainer's settings: sections of the processor's configuration file, or of one of its own.

use std::{fs, path::Path};

use proto::{
    asset::{AssetId, InvalidAssetId},
    config::ConfigError,
};
use serde::{Deserialize, de::IgnoredAny};

use crate::{features::FeatureConfig, retrain::RetrainSettings, settings::TrainSettings, store::S3Config};

/// Name in the registry unless another is given.
pub const DEFAULT_NAME: &str = "failure";
/// Larger files are no configuration.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    pub s3: Option<S3Config>,
    pub features: FeatureConfig,
    pub model: Registry,
    pub train: TrainSettings,
    pub retrain: RetrainSettings,
    // The processor's, which reads them strictly; named here so that a section that is nobody's is refused.
    #[serde(rename = "site")]
    _site: IgnoredAny,
    #[serde(rename = "owner")]
    _owner: IgnoredAny,
    #[serde(rename = "shard")]
    _shard: IgnoredAny,
    #[serde(rename = "slots")]
    _slots: IgnoredAny,
    #[serde(rename = "mqtt")]
    _mqtt: IgnoredAny,
    #[serde(rename = "serve")]
    _serve: IgnoredAny,
    #[serde(rename = "archive")]
    _archive: IgnoredAny,
    #[serde(rename = "alerts")]
    _alerts: IgnoredAny,
    #[serde(rename = "clock")]
    _clock: IgnoredAny,
    #[serde(rename = "traces")]
    _traces: IgnoredAny,
}

/// A configuration file's name, as messages have it, and its text.
pub fn read(path: &Path) -> Result<(String, String), ConfigError> {
    read_at_most(path, CONFIG_BYTES_MAX)
}

/// The same of a file that may be larger, or must be smaller.
pub fn read_at_most(path: &Path, bytes_max: u64) -> Result<(String, String), ConfigError> {
    let name = path.display().to_string();
    let text = match fs::metadata(path) {
        Ok(meta) if meta.len() > bytes_max => Err(format!("{} bytes are over the limit of {bytes_max}", meta.len())),
        Ok(_) => fs::read_to_string(path).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    let text = text.map_err(|reason| ConfigError::whole(&name, reason))?;
    Ok((name, text))
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
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (name, text) = read(path)?;
        Self::parse(&name, &text)
    }

    /// Relative paths in the text begin at the folder of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let mut config: ModelConfig = proto::config::parse(file, text)?;
        config.features.check().map_err(|e| ConfigError::setting(file, "features", e.key, e.allowed))?;
        config.train.check().map_err(|e| ConfigError::setting(file, "train", e.key, e.allowed))?;
        config.retrain.check().map_err(|(key, allowed)| ConfigError::setting(file, "retrain", key, allowed))?;
        let base = Path::new(file).parent().unwrap_or(Path::new(""));
        let s3 = config.s3.map(|s3| s3.check(base)).transpose();
        config.s3 = s3.map_err(|e| ConfigError::whole(file, e.to_string()))?;
        Ok(config)
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
        assert!(
            message("[retrain.gate]\nepsilon = 2.0")
                .starts_with("p.toml: `retrain.gate.epsilon`: allowed: from 0 to 1")
        );
        assert!(message("[train.split]\ntrain = 1.0").contains("train.split"));
        assert!(message("[features]\nwindow_ms = 0").starts_with("p.toml: `features.window_ms`: allowed: from 1"));
        assert!(message("[trian]\nepochs_max = 3").starts_with("p.toml:1: unknown field `trian`, expected one of"));
    }
}
