//! Mean, spread and slope over the hours before a window's end, from coarse partial aggregates: a fixed number of them
//! per sensor and horizon, however small the windows are.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::aggregate::Partial;

/// A horizon is so many aggregates long at most; it moves by one of them at a time.
const PIECES: i64 = 24;
const HOUR_MS: f64 = 3_600_000.0;
pub const FEATURES: [&str; 3] = ["mean", "std", "slope"];

/// One sensor's readings within one horizon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rolling {
    /// Number of the piece, and what was read in it; the oldest first.
    pieces: VecDeque<(i64, Partial)>,
}

impl Rolling {
    /// Takes a window's newest pane in and answers mean, standard deviation and slope per hour; None without a reading.
    pub fn follow(&mut self, cell: Option<&Partial>, start_ms: i64, pane_ms: i64, hours: f64) -> Option<[f64; 3]> {
        let horizon_ms = ((hours * HOUR_MS) as i64).max(pane_ms);
        let panes = (horizon_ms / pane_ms + PIECES - 1) / PIECES;
        let piece_ms = panes.max(1) * pane_ms;
        let piece = start_ms.div_euclid(piece_ms);
        let oldest = (start_ms + pane_ms - horizon_ms).div_euclid(piece_ms);
        // A time that began anew leaves later pieces behind.
        self.pieces.retain(|(at, _)| (oldest..=piece).contains(at));
        if let Some(cell) = cell {
            let cell = cell.moved((start_ms - piece * piece_ms) as f64 + (pane_ms - piece_ms) as f64 / 2.0);
            match self.pieces.back_mut() {
                Some((at, partial)) if *at == piece => *partial = partial.merge(&cell),
                _ => self.pieces.push_back((piece, cell)),
            }
        }
        let moved = |(at, partial): &(i64, Partial)| partial.moved(((at - piece) * piece_ms) as f64);
        let all = self.pieces.iter().map(moved).reduce(|a, b| a.merge(&b))?.finish();
        Some([all.mean, all.std, all.slope])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn cell(minute: i64, value: f64) -> Partial {
        Partial::one(minute * MINUTE, value, 0.0)
    }

    #[test]
    fn a_horizon_has_the_mean_spread_and_slope_of_its_readings() {
        let mut rolling = Rolling::default();
        // A value a minute that grows by 2 an hour, over 20 minutes with pieces of one window.
        let last = (0..100).map(|i| rolling.follow(Some(&cell(i, i as f64 / 30.0)), i * MINUTE, MINUTE, 1.0 / 3.0));
        let [mean, std, slope] = last.last().flatten().unwrap();
        let expected: Vec<f64> = (80..100).map(|i| i as f64 / 30.0).collect();
        assert!((mean - expected.iter().sum::<f64>() / 20.0).abs() < 1e-9, "{mean}");
        let spread = (expected.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20.0).sqrt();
        assert!((std - spread).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9, "{std} {slope}");
    }

    #[test]
    fn state_is_bounded_and_silence_is_forgotten() {
        let mut rolling = Rolling::default();
        for i in 0..10_000 {
            rolling.follow(Some(&cell(i, 1.0)), i * MINUTE, MINUTE, 24.0);
            assert!(rolling.pieces.len() <= PIECES as usize + 1);
        }
        assert_eq!(rolling.follow(None, 20_000 * MINUTE, MINUTE, 24.0), None);
    }
}
