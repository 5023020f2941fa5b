//! What the embedded factory must remember between two starts: how far it came, and its plant time.

use std::{fs, io::Write, path::Path};

use model::trigger::Trigger;
use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use super::files::create_private;

const VERSION: u32 = 1;
const FILE: &str = "factory.json";
const STATE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The past is on its way through the pipeline.
    History,
    /// The past is archived; the first model is made from it.
    Training,
    Live,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    pub seed: u64,
    pub history_start: PlantTime,
    /// Where history ends and the plant clock begins to run.
    pub live_start: PlantTime,
    /// When the plant becomes another one; none: it stays as it is.
    #[serde(default)]
    pub change_at: Option<PlantTime>,
    pub phase: Phase,
    /// Plant time when this was written: a second start goes on from here.
    pub plant_now: PlantTime,
    /// When the last retraining ended, plant time; none: there was none yet.
    #[serde(default)]
    pub retrained_at: Option<PlantTime>,
    /// Secret key of the embedded S3 endpoint, which listens on loopback.
    pub secret: String,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("{path} was written with seed {found}, not {asked}: take another folder with --data, or leave out --seed")]
    Seed { path: String, found: u64, asked: u64 },
}

impl State {
    pub fn new(seed: u64, history_start: PlantTime, live_start: PlantTime, secret: String) -> Self {
        let (phase, plant_now) = (Phase::History, history_start);
        let (change_at, retrained_at) = (None, None);
        State { version: VERSION, seed, history_start, live_start, change_at, phase, plant_now, retrained_at, secret }
    }

    /// Where plant time stands at the next start: at the end of history until the factory is live.
    pub fn resume_at(&self) -> PlantTime {
        self.plant_now.max(self.live_start)
    }

    /// When to retrain: a start is no run, and begins no cool-down.
    pub fn trigger(&self) -> Trigger {
        Trigger::new(self.retrained_at.unwrap_or(self.live_start))
    }

    /// None: the folder holds no factory yet.
    pub fn load(folder: &Path) -> Result<Option<Self>, StateError> {
        let path = folder.join(FILE);
        let error = |reason: String| StateError::File { path: path.display().to_string(), reason };
        match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(e.to_string())),
            Ok(meta) if meta.len() > STATE_BYTES_MAX => return Err(error("too large".into())),
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(|e| error(e.to_string()))?;
        let state: State = serde_json::from_slice(&bytes).map_err(|e| error(e.to_string()))?;
        if state.version != VERSION {
            return Err(error(format!("version {} is not known here", state.version)));
        }
        Ok(Some(state))
    }

    /// Whole or not at all: a crash leaves the old state.
    pub fn save(&self, folder: &Path) -> Result<(), StateError> {
        let path = folder.join(FILE);
        let new = folder.join("factory.json.new");
        let write = || -> std::io::Result<()> {
            // It holds the secret key.
            let mut file = create_private(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|e| StateError::File { path: path.display().to_string(), reason: e.to_string() })
    }

    /// Another seed would be another factory in the same archive.
    pub fn check_seed(&self, folder: &Path, asked: Option<u64>) -> Result<(), StateError> {
        match asked {
            Some(asked) if asked != self.seed => {
                Err(StateError::Seed { path: folder.join(FILE).display().to_string(), found: self.seed, asked })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{quality::Quality, trigger::TriggerSettings};

    use super::*;

    #[test]
    fn a_second_start_finds_what_the_first_left() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(State::load(folder.path()).unwrap(), None);
        let mut state = State::new(7, PlantTime(1), PlantTime(9), "s".into());
        state.phase = Phase::Live;
        state.save(folder.path()).unwrap();
        let found = State::load(folder.path()).unwrap().unwrap();
        assert_eq!(found, state);
        found.check_seed(folder.path(), None).unwrap();
        assert!(found.check_seed(folder.path(), Some(8)).unwrap_err().to_string().contains("seed 7, not 8"));
    }

    #[test]
    fn a_factory_that_is_started_every_two_days_retrains_all_the_same() {
        const DAY_MS: i64 = 86_400_000;
        let mut state = State::new(7, PlantTime(0), PlantTime(40 * DAY_MS), "s".into());
        let weekly = TriggerSettings { every_days: Some(7.0), ..TriggerSettings::default() };
        let figures = Quality::new(DAY_MS, 14 * DAY_MS).figures("v1");
        let mut runs = Vec::new();
        for day in (42..62).step_by(2) {
            let folder = tempfile::tempdir().unwrap();
            state.plant_now = PlantTime(day * DAY_MS);
            state.save(folder.path()).unwrap();
            state = State::load(folder.path()).unwrap().unwrap();
            let mut trigger = state.trigger();
            if trigger.due(&weekly, state.resume_at(), &figures, None, &[]).is_some() {
                runs.push(day);
                state.retrained_at = Some(state.resume_at());
            }
        }
        assert_eq!(runs, [48, 56]);
    }

    #[test]
    fn a_damaged_state_is_an_error_and_not_a_new_factory() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), b"{").unwrap();
        assert!(State::load(folder.path()).is_err());
    }
}
