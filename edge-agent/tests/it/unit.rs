//! The systemd unit that is shipped.

use std::{fs, process::Command};

use crate::broker::{find, missing};

const UNIT: &str = include_str!("../../millwright-agent.service");
/// Of systemd's own scale from 0 to 100, on which a service without any protection has 96.
const EXPOSURE_MAX: u32 = 25;

fn value(key: &str) -> Option<&'static str> {
    UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn the_unit_waits_for_ready_feeds_a_watchdog_and_reloads_by_a_signal() {
    assert_eq!(value("Type"), Some("notify"));
    assert_eq!(value("ExecReload"), Some("kill -HUP $MAINPID"));
    assert_eq!(value("Restart"), Some("always"));
    let watchdog: u64 = value("WatchdogSec").unwrap().parse().unwrap();
    assert!(
        watchdog > edge_agent::agent::watchdog::STUCK_AFTER.as_secs(),
        "the agent notices first, and says what is stuck"
    );
}

#[test]
fn systemd_understands_the_unit_and_finds_it_hardened() {
    let Some(analyze) = find("systemd-analyze") else { return };
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("millwright-agent.service");
    // It asks for the program to be where the unit says.
    fs::write(&unit, UNIT.replace("/usr/local/bin/edge-agent", env!("CARGO_BIN_EXE_edge-agent"))).unwrap();
    let verified = Command::new(&analyze).arg("verify").arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    if said.contains("Failed to initialize manager") || said.contains("Failed to initialize path lookup") {
        return missing("a system on which systemd-analyze works");
    }
    let about_us: Vec<_> = said.lines().filter(|line| line.contains("millwright-agent")).collect();
    assert!(about_us.is_empty(), "{about_us:?}");

    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let rated =
        Command::new(&analyze).args(["security", "--no-pager", "--offline=true", &threshold]).arg(&unit).output();
    let rated = rated.unwrap();
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
}
