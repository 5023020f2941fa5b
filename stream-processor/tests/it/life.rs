//! The factory's life as a process: stopped in any phase, started again, and told when it can't go on.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use edge_agent::spool::disk::Folder;
use stream_processor::embedded::Factory;

use crate::{components::Program, factory};

/// A test that hangs must end; what a stop takes is printed and not asserted.
const STOP_HANGS_AFTER: Duration = Duration::from_secs(30);
const LINE_HANGS_AFTER: Duration = Duration::from_secs(300);

/// A factory as a user starts it, its lines as they come.
struct Started {
    program: Program,
    lines: Receiver<String>,
    errors: JoinHandle<String>,
}

impl Started {
    fn new(data: &Path, history_days: u32) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        command.env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.arg("--data").arg(data).args(["--history-days", &history_days.to_string()]);
        for flag in ["--mqtt", "--s3", "--grpc", "--http"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        let mut program = Program::start(&mut command);
        let (sender, lines) = channel();
        let stdout = BufReader::new(program.child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let errors = program.child.stderr.take().unwrap();
        Started { program, lines, errors: thread::spawn(move || read(errors)) }
    }

    /// All lines up to the one that holds `text`.
    fn until(&self, text: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        while seen.last().is_none_or(|line| !line.contains(text)) {
            let line = self.lines.recv_timeout(LINE_HANGS_AFTER);
            seen.push(line.unwrap_or_else(|_| panic!("no line holds `{text}`: {seen:#?}")));
        }
        seen
    }

    /// Ctrl-C: exit code 0, and a last line that says so. Returns what it had said since it was looked at.
    fn interrupt(mut self, phase: &str) -> Vec<String> {
        let id = self.program.child.id().to_string();
        let began = Instant::now();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let code = self.program.wait_at_most(STOP_HANGS_AFTER);
        println!("stopped in {phase} within {:.2} s", began.elapsed().as_secs_f64());
        let said: Vec<String> = self.lines.iter().collect();
        let errors = self.errors.join().unwrap();
        assert_eq!(code, Some(0), "{phase}: {said:#?} {errors}");
        assert!(said.last().is_some_and(|line| line.contains("stopped")), "{phase}: {said:#?}");
        assert!(!errors.contains("ERROR"), "{phase}: {errors}");
        said
    }
}

fn read(mut errors: ChildStderr) -> String {
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_stop_in_the_middle_of_history_is_clean() {
    const HISTORY_DAYS: u32 = 60;
    let folder = tempfile::tempdir().unwrap();
    let factory = Started::new(folder.path(), HISTORY_DAYS);
    factory.until(" M readings");
    let said = factory.interrupt("history");
    assert!(!said.iter().any(|line| line.contains("training")), "it was to be in the middle of history: {said:#?}");
}

#[test]
fn a_stopped_factory_is_resumed_and_one_that_was_live_does_not_train_again() {
    const HISTORY_DAYS: u32 = 2;
    let folder = tempfile::tempdir().unwrap();
    let first = Started::new(folder.path(), HISTORY_DAYS);
    first.until("history");
    first.interrupt("the first history");

    let second = Started::new(folder.path(), HISTORY_DAYS);
    let said = second.until("  live ");
    assert!(said.iter().any(|line| line.contains("training")), "{said:#?}");
    second.interrupt("live");

    let third = Started::new(folder.path(), HISTORY_DAYS);
    let said = third.until("  live ");
    assert!(!said.iter().any(|line| line.contains("history  ") || line.contains("training")), "{said:#?}");
    third.interrupt("live, the second time");
}

#[test]
fn the_broker_and_the_endpoint_stay_on_loopback_and_open_listeners_need_a_token() {
    for flag in ["--mqtt", "--s3", "--grpc", "--http"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        let output = command.arg("--data").arg(folder.path().join("d")).args([flag, "0.0.0.0:0"]).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(flag) && line.contains("127.0.0.1") && line.trim_end().lines().count() == 1, "{line}");
        assert!(!folder.path().join("d").exists(), "nothing is opened");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_cannot_be_opened_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let _other = Folder::open(folder.path().join("gateways/gateway-2")).unwrap();
    let factory = Factory::start(factory::config(folder.path(), 1)).await.unwrap();
    let reason = tokio::time::timeout(LINE_HANGS_AFTER, factory.failed()).await.expect("it is said");
    assert!(reason.contains("gateway-2") && reason.contains("in use by another agent"), "{reason}");
    factory.stop().await.unwrap();
}
