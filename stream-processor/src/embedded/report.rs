//! What the person in front of the terminal reads: where everything is, how far it is, and the alerts.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _, stdout},
    time::{Duration, Instant},
};

use super::Addresses;

const BAR_CELLS: usize = 30;
/// Without a terminal a progress line is printed at each of so many steps.
const PLAIN_STEPS: f64 = 10.0;

/// The text that opens every start.
pub fn banner(addresses: &Addresses, data: &str, speed: f64) -> String {
    let Addresses { mqtt, s3, grpc, http } = addresses;
    format!(
        "
  Millwright: a paper-box factory in one process, over the real protocols

  console   http://{http}/
  REST      http://{http}/plan     which machine to service first; POST /predict; /metrics, /readyz
  gRPC      {grpc}              alerts and predictions; reflection is on
  MQTT      {mqtt}               topics millwright/v1/#
  S3        http://{s3}        bucket millwright, kept in {data}/s3

  try next  open the console, or in a second terminal:
            cargo run --release -- alerts follow --addr http://{grpc}
            curl http://{http}/plan
            Ctrl-C stops; the next start goes on where this one stopped. Delete {data} to begin anew.

  one second here is {pace} in the factory
",
        pace = pace(speed)
    )
}

fn pace(speed: f64) -> String {
    match speed {
        s if s >= 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 60.0 => format!("{:.1} min", s / 60.0),
        s => format!("{s:.1} s"),
    }
}

/// One phase with a progress bar: redrawn in place on a terminal, a line per tenth elsewhere.
pub struct Progress {
    name: &'static str,
    terminal: bool,
    started: Instant,
    step_printed: f64,
}

impl Progress {
    pub fn new(name: &'static str) -> Self {
        Progress { name, terminal: stdout().is_terminal(), started: Instant::now(), step_printed: -1.0 }
    }

    /// `fraction` in 0..=1; `detail` is printed behind the bar.
    pub fn show(&mut self, fraction: f64, detail: &str) {
        let step = (fraction * PLAIN_STEPS).floor();
        if self.terminal {
            say(&format!("\r\x1b[K{}", self.line(fraction, detail)), false);
        } else if step > self.step_printed {
            self.step_printed = step;
            say(&self.line(fraction, detail), true);
        }
    }

    /// Ends the phase with the time it took.
    pub fn done(self, detail: &str) -> Duration {
        let took = self.started.elapsed();
        let begin = if self.terminal { "\r\x1b[K" } else { "" };
        say(&format!("{begin}  {:<9} done in {:.1} s: {detail}", self.name, took.as_secs_f64()), true);
        took
    }

    fn line(&self, fraction: f64, detail: &str) -> String {
        let full = (fraction.clamp(0.0, 1.0) * BAR_CELLS as f64).round() as usize;
        let mut line = format!("  {:<9} ", self.name);
        let _ = write!(
            line,
            "{}{} {:>3.0} %  {detail}  {:.0} s",
            "█".repeat(full),
            "░".repeat(BAR_CELLS - full),
            fraction * 100.0,
            self.started.elapsed().as_secs_f64()
        );
        line
    }
}

/// A line on the terminal. A closed pipe is no reason to stop a factory.
pub fn say(text: &str, newline: bool) {
    let mut out = stdout().lock();
    let _ = if newline { writeln!(out, "{text}") } else { write!(out, "{text}") };
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_names_every_address() {
        let addresses = Addresses {
            mqtt: "127.0.0.1:1883".parse().unwrap(),
            s3: "127.0.0.1:9000".parse().unwrap(),
            grpc: "127.0.0.1:50051".parse().unwrap(),
            http: "127.0.0.1:8080".parse().unwrap(),
        };
        let text = banner(&addresses, "./data", 3600.0);
        for part in ["127.0.0.1:1883", "127.0.0.1:9000", "127.0.0.1:50051", "http://127.0.0.1:8080/plan", "1.0 h"] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn the_bar_is_full_at_the_end() {
        let progress = Progress::new("history");
        assert!(progress.line(0.0, "").contains(&"░".repeat(BAR_CELLS)));
        assert!(progress.line(1.0, "").contains(&"█".repeat(BAR_CELLS)));
        assert!(progress.line(7.0, "").contains("700 %"));
    }
}
