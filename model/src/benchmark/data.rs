//! The files, known by their SHA-256, as an archive in memory.

use std::path::Path;

use proto::{config::ConfigError, time::PlantTime};

use super::BenchmarkError;
use crate::{
    dataset::{
        Dataset,
        archive::{self, Archive, ArchiveError, Scope},
    },
    features::{FeatureConfig, FeatureSchema},
    import::{ImportError, file_sha256, import, mapping::Mapping},
    store::memory::MemoryObjects,
};

/// Beyond all that the data sets know: whatever is to come of a row has come.
pub const AT_THE_END: PlantTime = PlantTime(i64::MAX / 4);

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(transparent)]
    Mapping(#[from] ConfigError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("features: {0}")]
    Features(#[from] toml::de::Error),
}

/// A file below the data's folder and what it must be.
pub type Known = (&'static str, &'static str);

/// Refuses files that are not the ones that the figures are known for.
pub fn check(folder: &Path, files: &[Known]) -> Result<(), BenchmarkError> {
    for (file, expected) in files {
        let found = file_sha256(&folder.join(file)).map_err(DataError::from)?;
        if found != *expected {
            return Err(BenchmarkError::Changed { file: folder.join(file), found, expected });
        }
    }
    Ok(())
}

pub async fn archive(mapping: &str, folder: &Path) -> Result<Archive, DataError> {
    let store = MemoryObjects::default();
    import(&store, &Mapping::parse("mapping", mapping)?, mapping, folder, 0).await?;
    Ok(archive::read(&store, Scope::default(), &mut |_| {}).await?)
}

pub fn dataset(archive: Archive, features: &FeatureConfig, horizon_ms: i64) -> Result<Dataset, DataError> {
    Ok(archive.into_dataset_as_of(features, horizon_ms, AT_THE_END)?)
}

/// The dataset's features as a plain table, with the kinds of machine one-hot behind them, and the names of all.
pub fn table(dataset: &Dataset) -> (Vec<String>, Vec<f32>) {
    let mut names = FeatureSchema::of(&dataset.config).names;
    let mut kinds = dataset.kinds.clone();
    kinds.sort();
    let one_hot = kinds.len() > 1;
    if one_hot {
        names.extend(kinds.iter().map(|kind| format!("machine.kind.{kind}")));
    }
    let mut values = Vec::with_capacity(dataset.rows.len() * names.len());
    for row in 0..dataset.rows.len() {
        values.extend_from_slice(dataset.features(row));
        if one_hot {
            values.extend(kinds.iter().map(|kind| f32::from(u8::from(kind == dataset.kind(row)))));
        }
    }
    (names, values)
}
