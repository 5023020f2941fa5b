//! Where labels step: numbers of an input at which rows begin or cease to fail.
//!
//! Quantiles know nothing of labels, so a limit that machines fail beyond lies somewhere within a bin, and its edges make
//! a ramp of it. A small tree for each input finds the limits (target-aware bins, Gorishniy et al. 2022), and two edges
//! around each let the network step there.

use super::fit::{Goal, Task};
use crate::forward::bins::Step;

/// On either side of a limit.
const ROWS_MIN: usize = 16;
/// Log-likelihood that a limit has to bring: the best of thousands of places in noise seldom brings as much.
const GAIN_MIN: f64 = 10.0;
/// A step is at least as wide, in deviations: what is nearer to each other is the same in nature.
const WIDTH_MIN: f32 = 0.01;

/// Of each input at most `max`, those that tell most about any head. Numbers that are to be learnt change on a line, and have
/// none.
pub fn steps(task: &Task, max: usize) -> Vec<Vec<Step>> {
    let none = max == 0 || task.goal == Goal::Numbers;
    (0..task.width).map(|input| if none { vec![] } else { of_input(task, input, max) }).collect()
}

/// Labels of one head in the order of an input's numbers, summed up: those of any run of rows are a difference.
struct Head {
    sums: Vec<f64>,
    variance: f64,
    evidence: f64,
}

/// A run of rows in the order of an input's numbers.
#[derive(Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
}

/// Where to part a run: before row `at`.
#[derive(Clone, Copy)]
struct Limit {
    run: Run,
    at: usize,
    gain: f64,
}

fn of_input(task: &Task, input: usize, max: usize) -> Vec<Step> {
    let value = |row: usize| task.inputs[row * task.width + input];
    let rows = task.inputs.len() / task.width;
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
    let values: Vec<f32> = order.iter().map(|row| value(*row)).collect();
    // Two values are a line.
    if values.chunk_by(|a, b| a == b).nth(2).is_none() {
        return vec![];
    }
    let heads: Vec<Head> = (0..task.heads).map(|head| Head::new(task, head, &order)).collect();
    let limit = |run: Run| best(&values, &heads, run);
    let mut open: Vec<Limit> = limit(Run { from: 0, to: rows }).into_iter().collect();
    let mut found = Vec::new();
    while found.len() < max {
        let Some(next) = (0..open.len()).max_by(|a, b| open[*a].gain.total_cmp(&open[*b].gain)) else { break };
        let Limit { run, at, .. } = open.swap_remove(next);
        found.push(step(values[at - 1], values[at]));
        open.extend([Run { to: at, ..run }, Run { from: at, ..run }].into_iter().filter_map(limit));
    }
    found
}

fn step(below: f32, above: f32) -> Step {
    let (middle, half) = ((below + above) / 2.0, ((above - below) / 2.0).max(WIDTH_MIN / 2.0));
    Step { from: middle - half, to: middle + half }
}

impl Head {
    fn new(task: &Task, head: usize, order: &[usize]) -> Self {
        let mut sums = vec![0.0];
        for row in order {
            sums.push(sums[sums.len() - 1] + f64::from(task.targets[row * task.heads + head]));
        }
        let share = sums[order.len()] / order.len().max(1) as f64;
        Head { sums, variance: share * (1.0 - share), evidence: task.evidence[head] }
    }

    fn sum(&self, Run { from, to }: Run) -> f64 {
        self.sums[to] - self.sums[from]
    }

    /// What parting the run takes off the squared error, in variances of the head.
    fn taken_off(&self, run: Run, at: usize) -> f64 {
        let part = |run: Run| self.sum(run).powi(2) / (run.to - run.from) as f64;
        (part(Run { to: at, ..run }) + part(Run { from: at, ..run }) - part(run)) / self.variance
    }

    /// How much likelier the labels are with the run parted than as one.
    fn likelihood(&self, run: Run, at: usize) -> f64 {
        let part = |run: Run| {
            let (sum, rows) = (self.sum(run), (run.to - run.from) as f64);
            let of = |sum: f64| if sum > 0.0 { sum * (sum / rows).ln() } else { 0.0 };
            of(sum) + of(rows - sum)
        };
        part(Run { to: at, ..run }) + part(Run { from: at, ..run }) - part(run)
    }

    /// Where a run is best parted; None: nowhere that it says more than noise would.
    fn limit(&self, values: &[f32], run: Run) -> Option<Limit> {
        let places = (run.from + ROWS_MIN)..=run.to.saturating_sub(ROWS_MIN);
        let places = places.filter(|at| values[*at] > values[at - 1]).map(|at| (at, self.taken_off(run, at)));
        let (at, gain) = places.max_by(|a, b| a.1.total_cmp(&b.1))?;
        (self.evidence * self.likelihood(run, at) >= GAIN_MIN).then_some(Limit { run, at, gain })
    }
}

/// By the head that it tells most about.
fn best(values: &[f32], heads: &[Head], run: Run) -> Option<Limit> {
    let mixed = heads.iter().filter(|head| head.variance > 0.0);
    mixed.filter_map(|head| head.limit(values, run)).max_by(|a, b| a.gain.total_cmp(&b.gain))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::forward::Bins;

    const ROWS: usize = 4_000;
    const WIDTH: usize = 3;

    /// Two numbers of no particular kind and one that is 0 or 1, and what comes of them.
    fn task(seed: u64, goal: Goal, target: impl Fn(&[f32], &mut ChaCha8Rng) -> f32) -> Task {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut inputs = Vec::new();
        for _ in 0..ROWS {
            inputs.extend([
                rng.random_range(-2.0..2.0f32),
                rng.random_range(-2.0..2.0),
                f32::from(u8::from(rng.random::<bool>())),
            ]);
        }
        let targets: Vec<f32> = inputs.chunks_exact(WIDTH).map(|row| target(row, &mut rng)).collect();
        Task {
            width: WIDTH,
            heads: 1,
            weights: vec![1.0; targets.len()],
            inputs,
            targets,
            bins: Bins::none(WIDTH),
            evidence: vec![1.0],
            goal,
        }
    }

    /// One in a hundred, and beyond a limit of the first input nine in ten where the second one is high.
    fn beyond(row: &[f32], rng: &mut ChaCha8Rng) -> f32 {
        let rate = if row[0] > 1.25 && row[1] > 0.5 { 0.9 } else { 0.01 };
        f32::from(u8::from(rng.random_bool(rate)))
    }

    #[test]
    fn limits_that_hold_only_together_are_found_and_enclosed() {
        let seed = 5;
        let found = steps(&task(seed, Goal::Classes, beyond), 4);
        for (input, limit) in [(0, 1.25), (1, 0.5)] {
            let near = |step: &Step| step.from <= limit + 0.1 && step.to >= limit - 0.1 && step.to - step.from < 0.1;
            assert!(found[input].iter().any(near), "seed {seed}, input {input}: {:?}", found[input]);
        }
        assert!(found[2].is_empty(), "two values are a line");
        assert!(steps(&task(seed, Goal::Classes, beyond), 0).iter().all(Vec::is_empty));
        assert!(steps(&task(seed, Goal::Numbers, beyond), 4).iter().all(Vec::is_empty));
    }

    #[test]
    fn windows_before_one_failure_are_no_independent_witnesses() {
        let mut task = task(5, Goal::Classes, beyond);
        assert!(!steps(&task, 4)[0].is_empty());
        task.evidence = vec![1.0 / 500.0];
        assert!(steps(&task, 4)[0].is_empty());
    }

    #[test]
    fn noise_has_no_steps() {
        let of = |seed| {
            let task = task(seed, Goal::Classes, |_, rng| f32::from(u8::from(rng.random_bool(0.04))));
            steps(&task, 4).iter().map(Vec::len).sum::<usize>()
        };
        let found: usize = (0..20).map(of).sum();
        assert!(found <= 3, "{found} steps in 40 inputs of noise");
    }
}
