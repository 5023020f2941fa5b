//! From a window's features to the network's inputs: standardized, with the machine's kind one-hot behind them.

use proto::asset::AssetId;

use super::Bins;

/// Standardized features are held within this many deviations, so that one wild sensor cannot swamp the others.
pub const ENCODED_LIMIT: f64 = 8.0;
/// A feature that varies less than this did not vary in training: it is left unscaled.
const STD_MIN: f64 = 1e-9;

/// Mean and deviation per feature, and the kinds that the network knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoder {
    pub kinds: Vec<AssetId>,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Encoder {
    /// Learns mean and deviation per feature from `rows`, leaving out values that are missing.
    pub fn fit<'a>(kinds: Vec<AssetId>, features: usize, rows: impl Iterator<Item = &'a [f32]>) -> Self {
        let mut count = vec![0.0; features];
        let mut mean = vec![0.0; features];
        let mut squares = vec![0.0; features];
        for row in rows {
            for (i, value) in row.iter().map(|v| f64::from(*v)).enumerate().filter(|(_, v)| v.is_finite()) {
                count[i] += 1.0;
                let before = value - mean[i];
                mean[i] += before / count[i];
                squares[i] += before * (value - mean[i]);
            }
        }
        let std = squares.iter().zip(&count).map(|(s, n): (&f64, &f64)| (s / n.max(1.0)).sqrt());
        let std = std.map(|s| if s > STD_MIN { s } else { 1.0 }).collect();
        Encoder { kinds, mean, std }
    }

    pub fn features(&self) -> usize {
        self.mean.len()
    }

    pub fn width(&self) -> usize {
        self.mean.len() + self.kinds.len()
    }

    /// [`Bins::fit`] to `rows`, as the network takes them; values that are missing are left out, and kinds have no bins.
    pub fn bins<'a>(&self, rows: impl Iterator<Item = &'a [f32]> + Clone, equal: usize, halved: usize) -> Bins {
        let column = |i: usize| {
            let known = rows.clone().map(move |row| f64::from(row[i])).filter(|v| v.is_finite());
            known.map(|value| self.standardized(i, value)).collect()
        };
        Bins::fit((0..self.width()).map(|i| if i < self.features() { column(i) } else { vec![] }), equal, halved)
    }

    fn standardized(&self, feature: usize, value: f64) -> f32 {
        let scaled = (value - self.mean[feature]) / self.std[feature];
        if scaled.is_nan() { 0.0 } else { scaled.clamp(-ENCODED_LIMIT, ENCODED_LIMIT) as f32 }
    }

    /// A row without a kind.
    pub fn standardize(&self, features: impl IntoIterator<Item = f64>) -> Vec<f32> {
        features.into_iter().take(self.features()).enumerate().map(|(i, value)| self.standardized(i, value)).collect()
    }

    /// A missing feature becomes the average one; an unknown kind is none of the known ones.
    pub fn encode(&self, kind: &AssetId, features: impl IntoIterator<Item = f64>) -> Vec<f32> {
        let mut row = Vec::with_capacity(self.width());
        row.extend(features.into_iter().take(self.features()).enumerate().map(|(i, v)| self.standardized(i, v)));
        row.extend(self.kinds.iter().map(|k| f32::from(u8::from(k == kind))));
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_standardized_with_their_kind() {
        let kinds = ["press", "baler"].map(|k| AssetId::new(k).unwrap());
        let rows: [&[f32]; 4] = [&[1.0, 5.0], &[3.0, 5.0], &[f32::NAN, 5.0], &[2.0, 5.0]];
        let encoder = Encoder::fit(kinds.to_vec(), 2, rows.into_iter());
        assert_eq!(encoder.mean, vec![2.0, 5.0]);
        // The second never varied: unscaled.
        assert_eq!(encoder.std[1], 1.0);
        assert!((encoder.std[0] - (2.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(encoder.encode(&kinds[1], [2.0, f64::NAN]), vec![0.0, 0.0, 0.0, 1.0]);
        assert_eq!(encoder.encode(&AssetId::new("lathe").unwrap(), [1e9, 6.0]), vec![8.0, 1.0, 0.0, 0.0]);
    }
}
