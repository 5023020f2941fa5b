//! What a user sees when something is wrong at the start.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
    command.env_remove("RUST_LOG");
    command
}

fn run_config(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("processor.toml");
    std::fs::write(&file, text).unwrap();
    program().arg("run").arg("--config").arg(&file).output().unwrap()
}

#[test]
fn a_config_that_cannot_be_used_is_refused_on_one_line_with_exit_code_2() {
    let good = "site = \"mill\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n[s3]\nbucket = \"b\"\n";
    let cases = [
        (format!("colour = 1\n{good}"), "processor.toml:1: unknown field `colour`, expected"),
        (good.replace("mqtt://", "amqp://"), "`mqtt.url`: `amqp://127.0.0.1:1` is not mqtt://host:port"),
        (format!("{good}[serve]\nhttp = \"here\"\n"), "`http`: invalid socket address"),
        (format!("{good}[features]\nwindow_ms = \"long\"\n"), "`window_ms`: invalid type"),
    ];
    for (text, expected) in cases {
        let output = run_config(&text);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(expected), "{line}");
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    }
}

#[test]
fn a_busy_port_is_named_with_the_flag_that_changes_it() {
    for flag in ["--mqtt", "--s3", "--grpc", "--http"] {
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut command = program();
        command.arg("--data").arg(folder.path());
        for other in ["--mqtt", "--s3", "--grpc", "--http"] {
            let port = if other == flag { busy.local_addr().unwrap().port() } else { 0 };
            command.arg(other).arg(format!("127.0.0.1:{port}"));
        }
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.contains(flag) && line.contains(&busy.local_addr().unwrap().to_string()), "{flag}: {line}");
    }
}

#[test]
fn help_names_what_there_is() {
    let output = program().arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["run", "check-config", "alerts", "model", "--data", "--speed"] {
        assert!(text.contains(word), "{word}");
    }
}
