//! Windows in the order of their scores.

use std::cmp::Ordering;

/// Windows from the highest score down, sorted once, and weighed or held against other outcomes many times.
pub struct Ranking {
    order: Vec<usize>,
    /// Ends of the runs of equal scores in `order`.
    ends: Vec<usize>,
}

impl Ranking {
    pub fn new<S: PartialOrd>(scores: &[S]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Scores are never NaN; one would only be out of place.
        order.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).unwrap_or(Ordering::Equal).then(a.cmp(b)));
        let last_of_run = |i: &usize| order.get(i + 1).is_none_or(|next| scores[*next] != scores[order[*i]]);
        let ends = (0..order.len()).filter(last_of_run).collect();
        Ranking { order, ends }
    }

    /// 0 without a positive window.
    pub fn average_precision(&self, positive: &[bool], weight: impl Fn(usize) -> f64) -> f64 {
        let total: f64 = self.order.iter().filter(|row| positive[**row]).map(|row| weight(*row)).sum();
        if total <= 0.0 {
            return 0.0;
        }
        let (mut seen, mut hit, mut area, mut start) = (0.0, 0.0, 0.0, 0);
        for end in &self.ends {
            let before = hit;
            for row in &self.order[start..=*end] {
                let weight = weight(*row);
                seen += weight;
                hit += if positive[*row] { weight } else { 0.0 };
            }
            if hit > before {
                area += (hit - before) / total * (hit / seen);
            }
            start = end + 1;
        }
        area
    }
}
