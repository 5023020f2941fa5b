//! The processor's resident memory over time.

use std::time::{Duration, Instant};

use crate::site::Site;

const SAID_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Memory {
    looks_mb: Vec<f64>,
    /// When it was said first and last, and what; None: nothing is to be said.
    said: Option<(Instant, Instant, Vec<f64>)>,
}

impl Memory {
    pub fn new(is_said: bool) -> Self {
        let now = Instant::now();
        Memory { looks_mb: vec![], said: is_said.then(|| (now, now, vec![])) }
    }

    pub fn look(&mut self, site: &Site) {
        let now_mb = site.memory_mb().0;
        self.looks_mb.push(now_mb);
        if let Some((began, last, said)) = &mut self.said
            && (said.is_empty() || last.elapsed() >= SAID_EVERY)
        {
            *last = Instant::now();
            said.push(now_mb);
            println!("{:5.0} s: {now_mb:.1} MB resident", began.elapsed().as_secs_f64());
        }
    }

    pub fn report(&self, site: &Site) {
        let mean = self.looks_mb.iter().sum::<f64>() / self.looks_mb.len().max(1) as f64;
        let most = site.memory_mb().1;
        println!("processor's resident memory: {mean:.0} MB on average, {most:.0} MB at most");
        if let Some((.., said)) = &self.said
            && let (Some(first), Some(last)) = (said.first(), said.last())
        {
            println!("  first {first:.1} MB, last {last:.1} MB");
        }
    }
}
