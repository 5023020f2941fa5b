//! The program as a user starts it.

use std::{fs, path::Path, process::Command};

const TOP: &str = "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";

/// Exit code, and the lines on standard error.
fn run(folder: &Path, sources: &str) -> (Option<i32>, Vec<String>) {
    let config = folder.join("gateway.toml");
    fs::write(&config, format!("{TOP}{sources}")).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_edge-agent")).arg("--config").arg(config).output().unwrap();
    (done.status.code(), String::from_utf8(done.stderr).unwrap().lines().map(String::from).collect())
}

#[test]
fn what_one_agent_cannot_carry_is_refused_on_one_line_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let twice = "[[source]]\ntype = \"simulator\"\n".repeat(2);
    for (sources, said) in [
        (twice.as_str(), "belongs to two sources"),
        ("[[source]]\ntype = \"simulator\"\nmachines = 10000\n", "give them to several agents"),
        ("[[source]]\ntype = \"simulator\"\ninterval_ms = 0\n", "source.interval_ms: 0 is not from"),
    ] {
        let (code, lines) = run(folder.path(), sources);
        assert_eq!(code, Some(2), "{lines:?}");
        assert!(lines.len() == 1 && lines[0].contains("gateway.toml: ") && lines[0].contains(said), "{lines:?}");
    }
    assert!(!folder.path().join("spool").exists());
}

#[test]
fn a_folder_in_use_is_a_failure_and_not_a_mistake_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let _other = edge_agent::spool::disk::Folder::open(folder.path().join("spool")).unwrap();
    let (code, lines) = run(folder.path(), "[[source]]\ntype = \"simulator\"\n");
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("in use by another agent"), "{lines:?}");
}
