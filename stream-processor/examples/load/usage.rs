//! What the kernel knows about a process.

use std::{fs, ops::Sub};

/// The kernel's unit of CPU time in `/proc`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of all threads so far; 0 of a process that is gone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu(pub f64);

impl Sub for Cpu {
    type Output = f64;

    fn sub(self, before: Cpu) -> f64 {
        self.0 - before.0
    }
}

pub fn cpu(pid: u32) -> Cpu {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may have anything in it but comes in brackets.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Cpu((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}
