//! Whether probabilities mean what they say: among windows of which the model said about p, how many failed?

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Serialize;

/// Where the bins begin; failures are rare, so there is more to see near zero.
const BEGINNINGS: [f64; 8] = [0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8];
const REPLICATES: usize = 400;
const SEED: u64 = 7;

/// Windows of which about the same was said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReliabilityBin {
    pub windows: usize,
    /// Mean of what was said.
    pub said: f64,
    /// Share that failed within the horizon.
    pub seen: f64,
    /// 95 % interval of `seen`, by drawing machines again: windows of one machine look ahead to the same failures.
    pub low: f64,
    pub high: f64,
}

/// Windows and failed ones of one machine in one bin.
type Cell = (f64, f64);

/// Bins without a window are left out. `machine_of`: machine of each row.
pub fn bins(probabilities: &[f64], positive: &[bool], machine_of: &[usize]) -> Vec<ReliabilityBin> {
    let machines = machine_of.iter().max().map_or(0, |last| last + 1);
    let mut cells = vec![vec![(0.0, 0.0); machines]; BEGINNINGS.len()];
    let mut said = [0.0; BEGINNINGS.len()];
    for ((p, positive), machine) in probabilities.iter().zip(positive).zip(machine_of) {
        let bin = BEGINNINGS.partition_point(|begin| begin <= p).max(1) - 1;
        let cell: &mut Cell = &mut cells[bin][*machine];
        *cell = (cell.0 + 1.0, cell.1 + f64::from(u8::from(*positive)));
        said[bin] += p;
    }
    let mut seen_machines = machine_of.to_vec();
    seen_machines.sort_unstable();
    seen_machines.dedup();
    let of_bin = |(cells, said): (Vec<Cell>, f64)| {
        let (windows, failed) = sum(cells.iter().copied());
        let (low, high) = interval(&cells, &seen_machines);
        (windows > 0.0).then(|| ReliabilityBin {
            windows: windows as usize,
            said: said / windows,
            seen: failed / windows,
            low,
            high,
        })
    };
    cells.into_iter().zip(said).filter_map(of_bin).collect()
}

fn interval(cells: &[Cell], machines: &[usize]) -> (f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = || {
        let drawn = machines.iter().map(|_| cells[machines[rng.random_range(0..machines.len())]]);
        let (windows, failed) = sum(drawn);
        (windows > 0.0).then(|| failed / windows)
    };
    let mut shares: Vec<f64> = (0..REPLICATES).filter_map(|_| draw()).collect();
    shares.sort_by(f64::total_cmp);
    let quantile = |q: f64| shares.get((shares.len().saturating_sub(1) as f64 * q).round() as usize).copied();
    (quantile(0.025).unwrap_or(0.0), quantile(0.975).unwrap_or(1.0))
}

fn sum(cells: impl Iterator<Item = Cell>) -> Cell {
    cells.fold((0.0, 0.0), |(windows, failed), cell| (windows + cell.0, failed + cell.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_stands_beside_what_was_seen() {
        // Ten machines; a quarter of the windows of which 0.25 was said fail, and none of which 0.001 was.
        let rows = 400;
        let machine_of: Vec<usize> = (0..rows).map(|row| row / 40).collect();
        let probabilities: Vec<f64> = (0..rows).map(|row| if row % 2 == 0 { 0.25 } else { 0.001 }).collect();
        let positive: Vec<bool> = (0..rows).map(|row| row % 8 == 0).collect();
        let [calm, high] = &bins(&probabilities, &positive, &machine_of)[..] else { panic!("two bins") };
        assert_eq!((calm.windows, calm.seen, calm.high), (200, 0.0, 0.0));
        assert!((high.said - 0.25).abs() < 1e-12 && (high.seen - 0.25).abs() < 1e-12);
        assert!(high.low <= 0.25 && high.high >= 0.25);
        assert!(bins(&[], &[], &[]).is_empty());
    }

    #[test]
    fn windows_of_one_machine_are_no_independent_witnesses() {
        let rows = 400;
        let positive: Vec<bool> = (0..rows).map(|row| row >= 300).collect();
        let width = |machine_of: &[usize]| {
            let bins = bins(&vec![0.25; rows], &positive, machine_of);
            bins[0].high - bins[0].low
        };
        let (four, many): (Vec<usize>, Vec<usize>) = ((0..rows).map(|r| r / 100).collect(), (0..rows).collect());
        assert!(width(&four) > 3.0 * width(&many));
    }
}
