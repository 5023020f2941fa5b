//! Where labels step: numbers of an input at which rows begin or cease to fail.
//!
//! Quantiles know nothing of labels, so a limit that machines fail beyond lies somewhere within a bin, and its edges make
//! a ramp of it. A tree for each head finds the limits (target-aware bins, Gorishniy et al. 2022, with one tree over all
//! inputs instead of one for each: a limit that holds only beyond another one is told where that one holds), and two edges
//! around each let the network step there.

use super::task::{Goal, Task};
use crate::forward::bins::Step;

/// On either side of a limit.
const ROWS_MIN: f64 = 16.0;
/// Log-likelihood that a limit has to bring: the best of thousands of places in noise seldom brings as much.
const GAIN_MIN: f64 = 10.0;
/// A step is at least as wide, in deviations: what is nearer to each other is the same in nature.
const WIDTH_MIN: f32 = 0.01;
/// Of one tree: a limit that is told only within as many others is one of the rows, not of nature.
const DEPTH_MAX: usize = 6;

/// Of each input at most `max`, those that tell most about any head. Numbers that are to be learnt change on a line, and have
/// none.
pub fn steps(task: &Task, max: usize) -> Vec<Vec<Step>> {
    let mut found: Vec<Vec<Limit>> = vec![vec![]; task.width];
    if max > 0 && task.goal == Goal::Classes {
        let sorted = Sorted::new(task);
        for limit in (0..task.heads).flat_map(|head| Head::new(task, head).limits(&sorted)) {
            found[limit.input].push(limit);
        }
    }
    found.into_iter().map(|limits| best(limits, max)).collect()
}

/// The first of two that are the same is the one that tells more.
fn best(mut limits: Vec<Limit>, max: usize) -> Vec<Step> {
    limits.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let mut steps: Vec<Step> = Vec::new();
    for Limit { step, .. } in limits {
        if steps.len() < max && steps.iter().all(|s| step.to < s.from || step.from > s.to) {
            steps.push(step);
        }
    }
    steps
}

/// Rows in the order of each input's numbers; none for an input of two values, which is a line.
struct Sorted<'a> {
    task: &'a Task,
    orders: Vec<Vec<u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    input: usize,
    step: Step,
    /// Squared error that it takes off, in variances of its head.
    gain: f64,
}

/// What one tree learns.
struct Head {
    positive: Vec<bool>,
    variance: f64,
    evidence: f64,
}

/// Rows, and how many of them are positive.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    rows: f64,
    positive: f64,
}

/// Rows of a tree that are not parted yet, while an input's numbers are gone through upwards.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    all: Part,
    below: Part,
    last: f32,
    best: Option<Limit>,
}

/// Of a row that lies in no open leaf.
const CLOSED: u32 = u32::MAX;

impl<'a> Sorted<'a> {
    fn new(task: &'a Task) -> Self {
        let rows = (task.inputs.len() / task.width.max(1)) as u32;
        let mut sorted = Sorted { task, orders: vec![] };
        for input in 0..task.width {
            let value = |row: &u32| sorted.value(*row, input);
            let mut order: Vec<u32> = (0..rows).collect();
            order.sort_by(|a, b| value(a).total_cmp(&value(b)));
            let is_line = order.chunk_by(|a, b| value(a) == value(b)).nth(2).is_none();
            sorted.orders.push(if is_line { vec![] } else { order });
        }
        sorted
    }

    fn value(&self, row: u32, input: usize) -> f32 {
        self.task.inputs[row as usize * self.task.width + input]
    }
}

impl Head {
    fn new(task: &Task, head: usize) -> Self {
        let positive: Vec<bool> = task.targets.iter().skip(head).step_by(task.heads).map(|t| *t > 0.5).collect();
        let share = positive.iter().filter(|p| **p).count() as f64 / positive.len().max(1) as f64;
        Head { positive, variance: share * (1.0 - share), evidence: task.evidence[head] }
    }

    /// Of a tree that is grown level by level.
    fn limits(&self, sorted: &Sorted) -> Vec<Limit> {
        let mut leaf_of = vec![0; self.positive.len()];
        let mut found = Vec::new();
        for _ in 0..DEPTH_MAX {
            let parted: Vec<Option<Limit>> = self.parted(sorted, &leaf_of);
            found.extend(parted.iter().flatten());
            for (row, leaf) in (0..).zip(&mut leaf_of).filter(|(_, leaf)| **leaf != CLOSED) {
                *leaf = match parted[*leaf as usize] {
                    Some(limit) => 2 * *leaf + u32::from(sorted.value(row, limit.input) > limit.step.middle()),
                    None => CLOSED,
                };
            }
        }
        found
    }

    /// Where each open leaf is best parted; None: nowhere that it says more than noise would.
    fn parted(&self, sorted: &Sorted, leaf_of: &[u32]) -> Vec<Option<Limit>> {
        let open = leaf_of.iter().filter(|leaf| **leaf != CLOSED).max().map_or(0, |last| *last as usize + 1);
        let mut leaves = vec![Leaf::new(); open];
        for (row, leaf) in leaf_of.iter().enumerate().filter(|(_, leaf)| **leaf != CLOSED) {
            leaves[*leaf as usize].all.add(self.positive[row]);
        }
        for (input, order) in sorted.orders.iter().enumerate() {
            leaves.iter_mut().for_each(Leaf::begin);
            for row in order.iter().copied().filter(|row| leaf_of[*row as usize] != CLOSED) {
                let (value, leaf) = (sorted.value(row, input), &mut leaves[leaf_of[row as usize] as usize]);
                leaf.weigh(self, input, value);
                leaf.below.add(self.positive[row as usize]);
                leaf.last = value;
            }
        }
        leaves.into_iter().map(|leaf| leaf.best).collect()
    }
}

impl Part {
    fn add(&mut self, positive: bool) {
        self.rows += 1.0;
        self.positive += f64::from(u8::from(positive));
    }

    fn without(self, other: Part) -> Part {
        Part { rows: self.rows - other.rows, positive: self.positive - other.positive }
    }

    fn squares(self) -> f64 {
        self.positive.powi(2) / self.rows
    }

    fn log_likelihood(self) -> f64 {
        let of = |count: f64| if count > 0.0 { count * (count / self.rows).ln() } else { 0.0 };
        of(self.positive) + of(self.rows - self.positive)
    }
}

impl Leaf {
    fn new() -> Self {
        Leaf { all: Part::default(), below: Part::default(), last: f32::NEG_INFINITY, best: None }
    }

    fn begin(&mut self) {
        (self.below, self.last) = (Part::default(), f32::NEG_INFINITY);
    }

    /// Whether the leaf is better parted below `value` than where it was best until now.
    fn weigh(&mut self, head: &Head, input: usize, value: f32) {
        let above = self.all.without(self.below);
        if value <= self.last || self.below.rows < ROWS_MIN || above.rows < ROWS_MIN {
            return;
        }
        let gain = (self.below.squares() + above.squares() - self.all.squares()) / head.variance;
        // A head that is all of one kind has no variance.
        if !gain.is_finite() || gain <= self.best.map_or(0.0, |best| best.gain) {
            return;
        }
        let likelier = self.below.log_likelihood() + above.log_likelihood() - self.all.log_likelihood();
        if head.evidence * likelier >= GAIN_MIN {
            self.best = Some(Limit { input, step: Step::between(self.last, value), gain });
        }
    }
}

impl Step {
    fn between(below: f32, above: f32) -> Self {
        let (middle, half) = ((below + above) / 2.0, ((above - below) / 2.0).max(WIDTH_MIN / 2.0));
        Step { from: middle - half, to: middle + half }
    }

    fn middle(self) -> f32 {
        (self.from + self.to) / 2.0
    }
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
