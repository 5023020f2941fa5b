//! A machine's partial aggregates by pane, and the windows over them.
//!
//! One window ends every `slide_ms`. What lies between two such ends is a pane; a window is the `window_ms / slide_ms` panes
//! up to its own, whose number it has. So a reading is accumulated once however much windows overlap, and where they
//! do not, a pane is a window.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{FeatureConfig, aggregate::Partial};

/// One pane's or window's aggregates in the order of the configuration's sensors.
pub type Row = Vec<Option<Partial>>;

/// By number, for as long as a window needs them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Panes(BTreeMap<i64, Row>);

impl Panes {
    /// Merges what came after what is there. `slot`: place among the configuration's sensors.
    pub fn add(&mut self, pane: i64, slot: usize, partial: Partial, config: &FeatureConfig) {
        let row = self.0.entry(pane).or_insert_with(|| vec![None; config.sensors.len()]);
        merge(&mut row[slot], partial);
    }

    /// The first window behind `after` that has a pane with readings.
    pub fn window_after(&self, after: i64, config: &FeatureConfig) -> Option<i64> {
        let next = after.saturating_add(1);
        let oldest = next.saturating_sub(config.panes() - 1);
        self.0.range(oldest..).next().map(|(pane, _)| next.max(*pane))
    }

    /// What is in a window: its panes together.
    pub fn of_window(&self, window: i64, config: &FeatureConfig) -> Cow<'_, [Option<Partial>]> {
        let oldest = window.saturating_sub(config.panes() - 1);
        let mut panes = self.0.range(oldest..=window);
        match (panes.next(), panes.next_back()) {
            (Some((pane, row)), None) if *pane == window => Cow::Borrowed(row),
            _ => Cow::Owned(self.merged(oldest, window, config)),
        }
    }

    /// What is in a window's newest pane; empty if it has no readings.
    pub fn newest_of(&self, window: i64) -> &[Option<Partial>] {
        self.0.get(&window).map_or(&[], Vec::as_slice)
    }

    fn merged(&self, oldest: i64, window: i64, config: &FeatureConfig) -> Row {
        let mut all = vec![None; config.sensors.len()];
        for (pane, row) in self.0.range(oldest..=window) {
            // Stamps in a partial are relative to the middle of its pane.
            let by_ms = (pane - window) as f64 * config.slide_ms() as f64;
            for (slot, partial) in all.iter_mut().zip(row) {
                if let Some(partial) = partial {
                    merge(slot, partial.moved(by_ms));
                }
            }
        }
        all
    }

    /// Keeps what this window needs, and those after it.
    pub fn forget_before(&mut self, window: i64, config: &FeatureConfig) {
        let oldest = window.saturating_sub(config.panes() - 1);
        while let Some(entry) = self.0.first_entry().filter(|entry| *entry.key() < oldest) {
            entry.remove();
        }
    }
}

fn merge(slot: &mut Option<Partial>, partial: Partial) {
    *slot = Some(slot.map_or(partial, |before| before.merge(&partial)));
}

#[cfg(test)]
mod tests {
    use polars::prelude::df;

    use super::*;
    use crate::features::{
        aggregate::{Cell, aggregate},
        clean::inner,
    };

    const SLIDE_MS: i64 = 1_000;

    fn config(panes: i64) -> FeatureConfig {
        let slide_ms = (panes > 1).then_some(SLIDE_MS);
        FeatureConfig { window_ms: panes * SLIDE_MS, slide_ms, ..FeatureConfig::default() }
    }

    /// A value around 1e9 every 100 ms, but for a hole.
    fn readings() -> Vec<(i64, f64)> {
        let noise = |i: i64| ((i * 7919) % 101) as f64 / 101.0;
        (-30..60).filter(|i| !(20..45).contains(i)).map(|i| (i * 100, 1e9 + noise(i) + i as f64 / 50.0)).collect()
    }

    fn cells(rows: &[(i64, f64)], length_ms: i64) -> Vec<Cell> {
        let frame = df!(
            inner::SERIES => vec![0u32; rows.len()],
            inner::TIME => rows.iter().map(|r| r.0).collect::<Vec<_>>(),
            inner::FLAGS => vec![0u32; rows.len()],
            inner::CLEAN => rows.iter().map(|r| r.1).collect::<Vec<_>>(),
        );
        aggregate(&frame.unwrap(), &[true], length_ms).unwrap()
    }

    fn panes(config: &FeatureConfig) -> Panes {
        let mut panes = Panes::default();
        cells(&readings(), SLIDE_MS).iter().for_each(|c| panes.add(c.bin, 0, c.partial, config));
        panes
    }

    fn windows(panes: &Panes, config: &FeatureConfig) -> Vec<i64> {
        std::iter::successors(panes.window_after(i64::MIN, config), |w| panes.window_after(*w, config)).collect()
    }

    #[test]
    fn a_window_is_there_as_long_as_one_of_its_panes_has_readings() {
        let of = |config: FeatureConfig| windows(&panes(&config), &config);
        assert_eq!(of(config(1)), [-3, -2, -1, 0, 1, 4, 5]);
        assert_eq!(of(config(2)), [-3, -2, -1, 0, 1, 2, 4, 5, 6]);
        assert_eq!(of(config(4)), (-3..=8).collect::<Vec<_>>());
    }

    #[test]
    fn overlapping_windows_have_what_one_pass_over_their_readings_finds() {
        let config = config(4);
        let panes = panes(&config);
        for window in windows(&panes, &config) {
            let (from, to) = ((window - 3) * SLIDE_MS, (window + 1) * SLIDE_MS);
            let own: Vec<_> = readings().into_iter().filter(|r| (from..to).contains(&r.0)).collect();
            // As one window of the same readings, moved to where windows that do not overlap begin.
            let moved: Vec<_> = own.iter().map(|r| (r.0 - from, r.1)).collect();
            let expected = cells(&moved, 4 * SLIDE_MS)[0].partial.finish();
            let found = panes.of_window(window, &config)[0].unwrap().finish();
            let exact = |s: &crate::features::Stats| (s.count, s.min, s.max, s.first, s.last);
            assert_eq!(exact(&found), exact(&expected), "{window}");
            assert!((found.mean - expected.mean).abs() <= 1e-12 * expected.mean, "{window}");
            assert!((found.std - expected.std).abs() <= 1e-9 * expected.std, "{window}: {found:?} {expected:?}");
            assert!((found.slope - expected.slope).abs() <= 1e-9 * expected.slope.abs(), "{window}");
        }
    }

    #[test]
    fn panes_are_kept_for_the_windows_that_need_them() {
        let config = config(2);
        let mut panes = panes(&config);
        panes.forget_before(1, &config);
        assert_eq!(panes.0.keys().copied().collect::<Vec<_>>(), [0, 1, 4, 5]);
        assert_eq!(panes.window_after(0, &config), Some(1));
    }
}
