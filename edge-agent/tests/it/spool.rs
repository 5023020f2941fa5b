//! A look at a spool, by `edge-agent spool`.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use edge_agent::spool::{Spool, SpoolConfig, disk::Folder, segment::SEGMENT_HEADER_BYTES};
use proto::{
    position::Epoch,
    telemetry::Frame,
    time::PlantTime,
    wire::telemetry::{SealTime, TelemetryBatch},
};

const CONFIG: &str = "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n\
                      [[source]]\ntype = \"simulator\"\n";
const FRAMES: u64 = 3;

/// The spool of an agent that runs.
fn filled(folder: &Path) -> Spool {
    fs::write(folder.join("gateway.toml"), CONFIG).unwrap();
    let disk = Arc::new(Folder::open(folder.join("spool")).unwrap());
    let (mut spool, _) = Spool::open(disk, SpoolConfig::default(), Epoch([0xab; 16])).unwrap();
    for _ in 0..FRAMES {
        let (position, previous) = spool.next();
        let batch = TelemetryBatch { sealed: Some(SealTime::default()), ..Default::default() };
        spool.append(&Frame::seal(position, previous, 0, &batch), PlantTime(0));
        spool.commit().unwrap();
    }
    spool
}

/// Exit code and standard output.
fn look(folder: &Path, how: &str) -> (Option<i32>, String) {
    let config = folder.join("gateway.toml");
    let done =
        Command::new(env!("CARGO_BIN_EXE_edge-agent")).args(["spool", how, "--config"]).arg(config).output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap())
}

fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder.join("spool")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_spool_is_looked_at_beside_the_agent_that_has_it_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let running = filled(folder.path());
    let before = content(folder.path());
    let (code, said) = look(folder.path(), "verify");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = look(folder.path(), "inspect");
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<Vec<_>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    let (epoch, bytes) = ("ab".repeat(16), running.bytes().to_string());
    assert_eq!(lines[1], ["0000000000000000.seg", &epoch, "1", "3", "3", "0", &bytes], "{said}");
    assert!(said.contains("no checkpoint says what is committed"), "{said}");
    assert!(said.ends_with(&format!("1 segments, 3 frames, 0 of them gaps, {bytes} bytes\n")), "{said}");
    assert_eq!(content(folder.path()), before);
}

#[test]
fn a_damaged_byte_and_a_missing_batch_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let frame_bytes = (filled(folder.path()).bytes() - SEGMENT_HEADER_BYTES as u64) / FRAMES;
    let second_ends = SEGMENT_HEADER_BYTES as u64 + 2 * frame_bytes;
    let segment = folder.path().join("spool/0000000000000000.seg");
    let file = fs::OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, second_ends - 1).unwrap();
    file.write_all_at(&[byte[0] ^ 1], second_ends - 1).unwrap();
    let before = content(folder.path());
    let (code, said) = look(folder.path(), "verify");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("0000000000000000.seg: {frame_bytes} damaged bytes")), "{said}");
    assert!(said.contains("1 batches are missing in the log"), "{said}");
    assert_eq!(look(folder.path(), "inspect").0, Some(0), "a look is no verdict");
    assert_eq!(content(folder.path()), before);
}

#[test]
fn a_spool_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gateway.toml"), CONFIG).unwrap();
    for how in ["verify", "inspect"] {
        assert_eq!(look(folder.path(), how), (Some(2), String::new()));
    }
    assert!(!folder.path().join("spool").exists());
}
