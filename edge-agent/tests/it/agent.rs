//! The program as a process that may be killed at any moment, and what it says meanwhile.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::broker::{POLL, signal};

/// Killed when dropped.
pub struct Agent {
    child: Child,
}

impl Agent {
    /// With the `gateway.toml` in a folder; its log lines are added to those of its earlier lives.
    pub fn start(folder: &Path) -> Self {
        Self::start_in(folder, &mut Command::new(env!("CARGO_BIN_EXE_edge-agent")))
    }

    /// The same by a command that ends in starting the program with the arguments that are added to it.
    pub fn start_in(folder: &Path, command: &mut Command) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(log_file(folder)).unwrap();
        command.arg("--config").arg(folder.join("gateway.toml")).stdin(Stdio::null()).stdout(Stdio::null());
        Agent { child: command.stderr(log).spawn().unwrap() }
    }

    /// With SIGKILL. It must have been running.
    pub fn kill(mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// With SIGTERM, as a supervisor would.
    pub fn stop(self, at_most: Duration) -> ExitStatus {
        signal(&self.child, "TERM");
        self.ended(at_most)
    }

    /// Waits until it has ended.
    pub fn ended(mut self, at_most: Duration) -> ExitStatus {
        let until = Instant::now() + at_most;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < until, "still running after {at_most:?}"),
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("agent.log")
}

/// Log lines of all lives so far.
pub fn log(folder: &Path) -> Vec<String> {
    fs::read_to_string(log_file(folder)).unwrap_or_default().lines().map(String::from).collect()
}

/// Panics if there is a WARN or ERROR, or anything that is no log line, but what is expected.
pub fn expect_only(folder: &Path, expected: &[&str]) {
    for line in log(folder) {
        let quiet = ["INFO", "DEBUG", "TRACE"].iter().any(|level| line.contains(&format!("\"level\":\"{level}\"")));
        assert!(quiet || expected.iter().any(|text| line.contains(text)), "not expected: {line}");
    }
}
