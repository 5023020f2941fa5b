//! What the training rows looked like, small enough to lie beside the version that was made of them.

use serde::{Deserialize, Serialize};

use super::{BLOCK_WINDOWS_MIN, SPAN_BLOCKS};
use crate::{dataset::Dataset, features::FeatureSchema};

pub const REFERENCE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Of equal shares in the reference; one more holds what is missing.
const BINS: usize = 20;
/// Windows that an empty bin counts for, so that its logarithm is finite.
const PSEUDO_COUNT: f64 = 0.5;
/// Below these nothing is called drift, however quiet the reference was: the index and distance of a change that no
/// model minds.
const PSI_MIN: f64 = 0.1;
const KS_MIN: f64 = 0.1;
/// Blocks of the reference that its limits need: a span, and as much to hold it against.
const BLOCKS_MIN: usize = 2 * SPAN_BLOCKS;
/// Above what the worst feature reached in the worst of the few spans of a reference.
const HEADROOM: f64 = 1.25;

/// Windows by feature and bin.
pub(super) type Counts = Vec<Vec<u64>>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    pub block_ms: i64,
    pub features: Vec<FeatureReference>,
    windows: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureReference {
    pub name: String,
    /// In the schema.
    place: usize,
    /// Ascending; a value at an edge lies below it.
    edges: Vec<f64>,
    /// One more than edges, and the missing ones last.
    shares: Vec<f64>,
    psi_limit: f64,
    ks_limit: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distance {
    pub psi: f64,
    pub ks: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    #[error("{bytes} bytes are too many for a reference of features")]
    TooLarge { bytes: usize },
    #[error("not a reference of features: {0}")]
    Format(String),
}

impl FeatureReference {
    fn of((place, name): (usize, String), mut values: Vec<f64>, windows: usize) -> Self {
        values.retain(|v| v.is_finite());
        values.sort_by(f64::total_cmp);
        let mut edges: Vec<f64> = (1..BINS).filter_map(|i| values.get(i * values.len() / BINS).copied()).collect();
        edges.dedup();
        let mut feature = FeatureReference { name, place, edges, shares: vec![], psi_limit: PSI_MIN, ks_limit: KS_MIN };
        let mut counts = vec![0u64; feature.edges.len() + 2];
        values.iter().for_each(|v| counts[feature.bin(*v)] += 1);
        *counts.last_mut().unwrap_or(&mut 0) = (windows - values.len()) as u64;
        feature.shares = shares(&counts);
        feature
    }

    fn bin(&self, value: f64) -> usize {
        match value.is_finite() {
            true => self.edges.partition_point(|edge| *edge < value),
            false => self.edges.len() + 1,
        }
    }

    pub(super) fn strength(&self, distance: Distance) -> f64 {
        (distance.psi / self.psi_limit).max(distance.ks / self.ks_limit)
    }
}

/// How far what was counted is from `expected`, the shares of so many `windows`.
fn distance(counts: &[u64], expected: &[f64], windows: u64) -> Distance {
    let live = shares(counts);
    let n: u64 = counts.iter().sum();
    let psi: f64 = live.iter().zip(expected).map(|(a, e)| (a - e) * (a / e).ln()).sum();
    // What two samples of the same distribution are apart on average (a chi square of so many degrees).
    let chance = (counts.len() - 1) as f64 * (1.0 / n.max(1) as f64 + 1.0 / windows.max(1) as f64);
    let (mut apart, mut ks) = (0.0f64, 0.0f64);
    for (a, e) in live.iter().zip(expected) {
        apart += a - e;
        ks = ks.max(apart.abs());
    }
    Distance { psi: (psi - chance).max(0.0), ks }
}

/// All blocks together.
pub(super) fn sum<'a>(blocks: impl IntoIterator<Item = &'a Counts>) -> Counts {
    let mut blocks = blocks.into_iter();
    let mut sum = blocks.next().cloned().unwrap_or_default();
    for block in blocks {
        sum.iter_mut().flatten().zip(block.iter().flatten()).for_each(|(sum, n)| *sum += n);
    }
    sum
}

fn shares(counts: &[u64]) -> Vec<f64> {
    let all: f64 = counts.iter().map(|c| *c as f64 + PSEUDO_COUNT).sum();
    counts.iter().map(|c| (*c as f64 + PSEUDO_COUNT) / all).collect()
}

/// How far a span is from all else: what a week that is still to come would be from the reference.
fn from_the_rest(all: &Counts, span: &Counts) -> Vec<Distance> {
    let of = |(all, span): (&Vec<u64>, &Vec<u64>)| {
        let rest: Vec<u64> = all.iter().zip(span).map(|(all, span)| all - span).collect();
        distance(span, &shares(&rest), rest.iter().sum())
    };
    all.iter().zip(span).map(of).collect()
}

impl Reference {
    /// Of what was measured in `rows`, with limits from its own spans of blocks of `block_ms` of plant time. None: there are too few blocks.
    pub fn of(dataset: &Dataset, rows: &[usize], block_ms: i64) -> Option<Self> {
        let values = |feature: usize| rows.iter().map(|r| f64::from(dataset.features(*r)[feature])).collect();
        let schema = FeatureSchema::of(&dataset.config);
        let feature = |i: usize| FeatureReference::of((i, schema.names[i].clone()), values(i), rows.len());
        let features = schema.measured().map(feature).collect();
        let mut reference = Reference { block_ms, features, windows: rows.len() as u64 };
        let blocks = reference.blocks(dataset, rows);
        if blocks.len() < BLOCKS_MIN {
            return None;
        }
        let all = sum(&blocks);
        let strayed: Vec<Vec<Distance>> =
            blocks.windows(SPAN_BLOCKS).map(|span| from_the_rest(&all, &sum(span))).collect();
        reference.set_limits(&strayed);
        Some(reference)
    }

    /// Counts of the blocks that have windows enough.
    fn blocks(&self, dataset: &Dataset, rows: &[usize]) -> Vec<Counts> {
        let block = |row: &usize| (dataset.rows[*row].end.millis() - 1).div_euclid(self.block_ms);
        let mut in_time: Vec<usize> = rows.to_vec();
        in_time.sort_by_key(|row| dataset.rows[*row].end);
        let whole = in_time.chunk_by(|a, b| block(a) == block(b)).filter(|b| b.len() as u64 >= BLOCK_WINDOWS_MIN);
        let count = |rows: &[usize]| {
            let mut counts = self.empty();
            for row in rows {
                let features: Vec<f64> = dataset.features(*row).iter().map(|v| f64::from(*v)).collect();
                self.count(&features, &mut counts);
            }
            counts
        };
        whole.map(count).collect()
    }

    /// A feature's limit is its usual straying times what the worst feature of a span came to, in the worst span.
    fn set_limits(&mut self, strayed: &[Vec<Distance>]) {
        let usual = |feature: usize, of: fn(&Distance) -> f64, least: f64| {
            let squares: f64 = strayed.iter().map(|block| of(&block[feature]).powi(2)).sum();
            (squares / strayed.len() as f64).sqrt().max(least / HEADROOM)
        };
        let of_all = |of: fn(&Distance) -> f64, least: f64| {
            let usual: Vec<f64> = (0..self.features.len()).map(|feature| usual(feature, of, least)).collect();
            let worst = |block: &Vec<Distance>| block.iter().zip(&usual).map(|(d, u)| of(d) / u).fold(1.0, f64::max);
            let family = strayed.iter().map(worst).fold(1.0, f64::max) * HEADROOM;
            usual.into_iter().map(|usual| usual * family).collect::<Vec<f64>>()
        };
        let (psi, ks) = (of_all(|d| d.psi, PSI_MIN), of_all(|d| d.ks, KS_MIN));
        for (feature, (psi, ks)) in self.features.iter_mut().zip(psi.into_iter().zip(ks)) {
            (feature.psi_limit, feature.ks_limit) = (psi, ks);
        }
    }

    /// No window yet: one counter per bin and feature.
    pub(super) fn empty(&self) -> Counts {
        self.features.iter().map(|f| vec![0; f.shares.len()]).collect()
    }

    pub(super) fn count(&self, features: &[f64], counts: &mut [Vec<u64>]) {
        for (feature, counts) in self.features.iter().zip(counts) {
            counts[feature.bin(features[feature.place])] += 1;
        }
    }

    pub(super) fn distances(&self, counts: &[Vec<u64>]) -> Vec<Distance> {
        let of = |(feature, counts): (&FeatureReference, &Vec<u64>)| distance(counts, &feature.shares, self.windows);
        self.features.iter().zip(counts).map(of).collect()
    }

    pub fn encode(&self) -> Result<Vec<u8>, ReferenceError> {
        serde_json::to_vec(self).map_err(|e| ReferenceError::Format(e.to_string()))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReferenceError> {
        if bytes.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError::TooLarge { bytes: bytes.len() });
        }
        let reference: Reference = serde_json::from_slice(bytes).map_err(|e| ReferenceError::Format(e.to_string()))?;
        reference.check()?;
        Ok(reference)
    }

    /// What a type can't say of one that was read.
    pub fn check(&self) -> Result<(), ReferenceError> {
        let fits = |f: &FeatureReference| {
            let limits = f.psi_limit > 0.0 && f.ks_limit > 0.0;
            let shares = f.shares.iter().all(|s| *s > 0.0 && *s <= 1.0);
            limits && shares && f.shares.len() == f.edges.len() + 2 && f.edges.is_sorted()
        };
        match self.block_ms > 0 && self.features.iter().all(fits) {
            true => Ok(()),
            false => Err(ReferenceError::Format("bins, shares and limits do not fit each other".into())),
        }
    }

    /// Whether windows of these features can be held against it.
    pub fn fits(&self, schema: &FeatureSchema) -> bool {
        self.features.iter().all(|f| schema.names.get(f.place) == Some(&f.name))
    }
}
