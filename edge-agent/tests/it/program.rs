//! The program as a user starts it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use edge_agent::{
    agent::clock::{kept::KeptTime, trust::Known},
    source::INSTANT_ITEMS_MAX,
    spool::{Spool, SpoolConfig, disk::Folder},
};
use proto::{
    position::Epoch,
    telemetry::Frame,
    time::PlantTime,
    wire::telemetry::{SealTime, TelemetryBatch},
};

const TOP: &str = "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";

const REPLAY: &str = r#"
[[source]]
type = "replay"
files = ["rows.csv"]
kind = "press"
time = { column = "time", format = "unix_ms" }
machine = { id = "press-1" }
sensors = [{ column = "value", sensor = "value", unit = "1" }]
"#;

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
    let _other = Folder::open(folder.path().join("spool")).unwrap();
    let (code, lines) = run(folder.path(), "[[source]]\ntype = \"simulator\"\n");
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("in use by another agent"), "{lines:?}");
}

#[test]
fn a_source_that_fails_ends_the_program_with_its_reason_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "7000,1\n".repeat(INSTANT_ITEMS_MAX + 1);
    fs::write(folder.path().join("rows.csv"), format!("time,value\n{rows}")).unwrap();
    let (code, lines) = run(folder.path(), REPLAY);
    assert_eq!(code, Some(1), "{lines:?}");
    let errors: Vec<_> = lines.iter().filter(|line| line.contains("ERROR")).collect();
    let said = "the agent ended: a source failed: more than 65536 rows are at 1970-01-01T00:00:07Z";
    assert!(errors.len() == 1 && errors[0].contains(said), "{lines:?}");
}

#[test]
fn an_older_file_in_a_used_folder_is_not_passed_over_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Folder::open(folder.path().join("spool")).unwrap());
    let (mut spool, _) = Spool::open(disk, SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let (position, previous) = spool.next();
    let sealed = Some(SealTime { time_ms: 5_000, ..Default::default() });
    let batch = TelemetryBatch { sealed, ..Default::default() };
    spool.append(&Frame::seal(position, previous, 0, &batch), PlantTime(5_000));
    spool.commit().unwrap();
    drop(spool);

    fs::write(folder.path().join("rows.csv"), "time,value\n1000,1\n2000,2\n5000,3\n6000,4\n").unwrap();
    let config = folder.path().join("gateway.toml");
    fs::write(&config, format!("{TOP}{REPLAY}")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_edge-agent"))
        .arg("--config")
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(program.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.into_iter().find(|line| line.contains("not replayed"));
    program.kill().unwrap();
    program.wait().unwrap();
    let told = told.unwrap();
    // Whether an earlier start gave them is not known: no reason to alarm anyone at every restart.
    assert!(told.contains("INFO") && told.contains("\"skipped\":3"), "{told}");
    assert!(told.contains("1970-01-01T00:00:05Z") && told.contains("older than the spool"), "{told}");
}

/// A doc example that nobody reads rots.
#[test]
fn the_examples_of_the_readme_are_read_by_the_program_and_touch_no_device() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let blocks = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let sources: Vec<_> = blocks.filter(|block| block.starts_with("[[source]]")).collect();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    fs::write(&config, format!("{TOP}{}", sources.concat())).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_edge-agent")).arg("check-config").arg("--config").arg(&config).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for kind in ["modbus", "sysfs", "exec"] {
        assert!(sources.iter().any(|source| source.contains(&format!("type = \"{kind}\""))), "{kind} has an example");
    }

    // A mistake in one of them is found on its line.
    fs::write(&config, format!("{TOP}{}", sources.concat()).replacen("at = \"p1\"", "from = \"p1\"", 1)).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_edge-agent")).arg("check-config").arg("--config").arg(&config).output();
    let said = String::from_utf8(done.unwrap().stderr).unwrap();
    assert!(said.contains("unknown field `from`") && said.lines().count() == 1, "{said}");
}

/// As after a power cut: the clock of this machine is years behind the last time that was known.
#[test]
fn a_gateway_that_lost_its_time_says_so_and_marks_what_it_reads() {
    const LATER: i64 = 4_102_444_800_000;
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(Folder::open(folder.path().join("spool")).unwrap());
    let known = Some(Known { wall_ms: LATER, boot_id: 0, monotonic_ms: 0, confirmed: true });
    KeptTime { known, resume_after: None }.store(&*open()).unwrap();
    let config = folder.path().join("gateway.toml");
    fs::write(&config, format!("{TOP}[[source]]\ntype = \"simulator\"\n")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_edge-agent"))
        .arg("--config")
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = false;
    // It runs when it has tried to connect.
    for line in lines.by_ref().take_while(|line| !line.contains("no connection to the broker")) {
        said |= line.contains("WARN") && line.contains("the wall clock can't be right");
        assert!(!line.contains("ERROR"), "{line}");
    }
    assert!(said);
    assert!(Command::new("kill").arg(program.id().to_string()).status().unwrap().success());
    let rest: Vec<_> = lines.collect();
    assert!(program.wait().unwrap().success(), "{rest:?}");

    let (spool, _) = Spool::open(open(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let (log, reader) = (spool.log(), spool.reader());
    let positions: Vec<_> = log.lock().extents().map(|extent| extent.position).collect();
    assert!(positions.len() > 1, "the birth, and at least one batch");
    for position in positions {
        let batch = Frame::split(reader.read(position).unwrap()).unwrap().batch().unwrap();
        let sealed = batch.sealed.unwrap();
        assert!(!sealed.trusted && sealed.time_ms >= LATER - 1 && sealed.offset_ms > 0, "{sealed:?}");
    }
    drop((spool, reader));
    assert_eq!(KeptTime::load(&*open()).known, known, "an estimate is not a known time");
}
