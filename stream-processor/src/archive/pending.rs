//! What waits for the next barrier: everything derived since the last one. No clock, no I/O.

use std::{sync::Arc, time::Duration};

use model::features::{FeatureSchema, WindowFeatures};
use polars::prelude::DataFrame;
use proto::{
    archive::Balance,
    asset::AssetId,
    wire::{alert::Alert, prediction::Prediction},
};

use super::{ArchiveConfig, readings::Readings};
use crate::{
    decode::DeadLetter,
    stream::{Derived, KnownEvent, Loss},
};

/// A forced segment takes in at least so much time: commits have a price.
pub const FORCED_AFTER_MS: u64 = 1_000;
/// What rows take in memory, about: a reading in its columns; one with texts in it, as predictions with their explanations and
/// alerts have; and one number of a window.
const READING_BYTES: usize = 32;
const TEXT_ROW_BYTES: usize = 2_048;
const NUMBER_BYTES: usize = 8;

/// The rows of one segment.
#[derive(Debug, Clone)]
pub struct SegmentContent {
    /// Of all rows that do not name theirs.
    pub site: AssetId,
    /// Names of the features of `windows`.
    pub features: Arc<[String]>,
    pub readings: Readings,
    pub births: Vec<DataFrame>,
    pub windows: Vec<WindowFeatures>,
    /// Of shadows too.
    pub predictions: Vec<Prediction>,
    pub alerts: Vec<Alert>,
    pub events: Vec<KnownEvent>,
    pub dead_letters: Vec<DeadLetter>,
    pub losses: Vec<Loss>,
    pub balance: Balance,
}

/// The segment that is being filled.
#[derive(Debug)]
pub struct Pending {
    rows_max: usize,
    bytes_max: usize,
    age_max: Duration,
    content: SegmentContent,
    rows: usize,
    /// In memory, about; of dead letters exactly, since their size is not ours to choose.
    bytes: usize,
    /// When the first of it came.
    since: Option<Duration>,
    forced: bool,
}

impl SegmentContent {
    pub fn new(site: AssetId, features: Arc<[String]>) -> Self {
        SegmentContent {
            site,
            features,
            readings: Readings::default(),
            births: vec![],
            windows: vec![],
            predictions: vec![],
            alerts: vec![],
            events: vec![],
            dead_letters: vec![],
            losses: vec![],
            balance: Balance::default(),
        }
    }

    /// Gives back how many rows it has grown by.
    fn add(&mut self, derived: Derived) -> usize {
        let rows = derived.readings.height()
            + derived.births.height()
            + derived.windows.len()
            + derived.predictions.len()
            + derived.shadows.len()
            + derived.alerts.len()
            + derived.events.len()
            + derived.dead_letters.len()
            + derived.losses.len();
        if derived.readings.height() > 0 {
            self.readings.append(derived.readings);
        }
        self.births.extend(Some(derived.births).filter(|f| f.height() > 0));
        self.windows.extend(derived.windows);
        self.predictions.extend(derived.predictions);
        self.predictions.extend(derived.shadows);
        self.alerts.extend(derived.alerts);
        self.events.extend(derived.events);
        self.dead_letters.extend(derived.dead_letters);
        self.losses.extend(derived.losses);
        self.balance += derived.balance;
        rows
    }
}

fn bytes(derived: &Derived) -> usize {
    let texts = derived.predictions.len() + derived.shadows.len() + derived.alerts.len() + derived.events.len();
    let numbers: usize = derived.windows.iter().map(|window| window.features.len() + window.normal.len()).sum();
    let letters: usize = derived.dead_letters.iter().map(|letter| letter.payload.len()).sum();
    derived.readings.height() * READING_BYTES + texts * TEXT_ROW_BYTES + numbers * NUMBER_BYTES + letters
}

impl Pending {
    pub fn new(config: &ArchiveConfig, site: AssetId, schema: &FeatureSchema) -> Self {
        Pending {
            rows_max: config.segment_rows_max,
            bytes_max: config.segment_bytes_max,
            age_max: Duration::from_secs(config.segment_seconds_max),
            content: SegmentContent::new(site, schema.names.clone().into()),
            rows: 0,
            bytes: 0,
            since: None,
            forced: false,
        }
    }

    /// Also of batches without a row: their positions wait for a commit too.
    pub fn add(&mut self, derived: Derived, now: Duration) {
        self.bytes += bytes(&derived);
        self.rows += self.content.add(derived);
        self.since.get_or_insert(now);
    }

    /// There is to be a commit in due time, even of nothing: whether this writer is still the one.
    pub fn touch(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// Somebody waits for the commit of what is here, and be it nothing.
    pub fn force(&mut self, now: Duration) {
        self.forced = true;
        self.since.get_or_insert(now);
    }

    pub fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    pub fn due(&self, now: Duration) -> bool {
        let Some(since) = self.since else { return false };
        let age = now.saturating_sub(since);
        let forced = self.forced && age >= Duration::from_millis(FORCED_AFTER_MS);
        let full = self.rows >= self.rows_max || self.bytes >= self.bytes_max;
        full || age >= self.age_max || forced
    }

    /// The barrier.
    pub fn take(&mut self) -> SegmentContent {
        (self.rows, self.bytes, self.since, self.forced) = (0, 0, None, false);
        let empty = SegmentContent::new(self.content.site.clone(), self.content.features.clone());
        std::mem::replace(&mut self.content, empty)
    }
}

#[cfg(test)]
mod tests {
    use model::features::FeatureConfig;
    use proto::time::PlantTime;

    use super::*;

    fn pending() -> Pending {
        let config = ArchiveConfig {
            segment_rows_max: 3,
            segment_bytes_max: 7_000,
            segment_seconds_max: 10,
            ..ArchiveConfig::default()
        };
        Pending::new(&config, AssetId::new("mill").unwrap(), &FeatureSchema::of(&FeatureConfig::default()))
    }

    fn alerts(n: usize) -> Derived {
        Derived {
            alerts: vec![Alert::default(); n],
            balance: Balance { batches: 1, ..Balance::default() },
            ..Derived::default()
        }
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_segment_is_due_by_its_rows() {
        let mut p = pending();
        assert!(p.is_empty() && !p.due(ms(99_999)));
        p.add(alerts(2), ms(0));
        assert!(!p.due(ms(0)));
        p.add(alerts(1), ms(0));
        assert!(p.due(ms(0)));
        let content = p.take();
        assert_eq!((content.alerts.len(), content.balance.batches), (3, 2));
        assert!(p.is_empty() && !p.due(ms(0)));
    }

    #[test]
    fn a_segment_is_due_by_the_age_of_its_first_batch_even_without_rows() {
        let mut p = pending();
        p.add(Derived::default(), ms(5));
        p.add(Derived::default(), ms(9_000));
        assert!(!p.due(ms(10_004)) && p.due(ms(10_005)));
        p.take();
        p.touch(ms(20_000));
        assert!(!p.is_empty() && !p.due(ms(29_999)) && p.due(ms(30_000)));
    }

    #[test]
    fn a_segment_is_due_by_what_it_takes_in_memory() {
        let mut p = Pending { rows_max: 1_000, ..pending() };
        p.add(alerts(3), ms(0));
        assert!(!p.due(ms(0)), "{} bytes", p.bytes);
        p.add(alerts(1), ms(0));
        assert!(p.due(ms(0)), "{} bytes", p.bytes);
        p.take();
        assert!(!p.due(ms(0)));
    }

    #[test]
    fn a_few_large_dead_letters_are_a_segment() {
        let mut p = pending();
        let payload = vec![0; 3_500].into();
        let letter = DeadLetter { topic: "t".into(), payload, reason: "r".into(), time: PlantTime(0), readings: 0 };
        let letters = || Derived { dead_letters: vec![letter.clone()], ..Derived::default() };
        p.add(letters(), ms(0));
        assert!(!p.due(ms(0)));
        p.add(letters(), ms(0));
        assert!(p.due(ms(0)));
    }

    #[test]
    fn a_forced_segment_comes_soon_but_not_at_any_rate() {
        let mut p = pending();
        p.force(ms(0));
        assert!(!p.is_empty() && !p.due(ms(FORCED_AFTER_MS - 1)) && p.due(ms(FORCED_AFTER_MS)));
        p.take();
        p.add(Derived::default(), ms(2_000));
        assert!(!p.due(ms(4_000)), "force holds for one segment");
        p.force(ms(4_000));
        assert!(p.due(ms(4_000)), "what has waited already goes at once");
    }
}
