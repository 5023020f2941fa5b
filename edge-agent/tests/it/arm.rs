//! The agent as it is shipped to ARM gateways: the static binary itself, on an emulated processor.

use std::{fs, path::PathBuf, process::Command};

use proto::{
    asset::AssetId,
    broker::TlsFiles,
    time::{PlantClock, PlantTime, wall_now_ms},
};

use super::{
    agent::{self, Agent},
    broker::{Mosquitto, find, free_port, missing, wait_until},
    certificates::{Authority, Installed},
    committer::{Archive, Committer, Manner},
    kill::STOP_MAX,
    table::{self, READINGS_PER_STEP, STEP_MS},
};

const FIRST_STEP: i64 = 1_000_000;
const LAST_STEP: i64 = FIRST_STEP + 299;
const STEPS_PER_SECOND: i64 = 100;
/// So that the table fills several segments.
const NOTE_BYTES: usize = 1_000;
const SEGMENT_BYTES: u32 = 64 * 1024;

/// What `.ci/aarch64` has built; None after saying so.
fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("MILLWRIGHT_AARCH64_AGENT").map(PathBuf::from);
    if named.is_none() {
        missing("the agent for ARM (.ci/aarch64 builds it, MILLWRIGHT_AARCH64_AGENT names it)");
    }
    named
}

fn config(port: u16, installed: &Installed, clock: &PlantClock) -> String {
    let TlsFiles { ca, client } = installed.files();
    let (certificate, key) = client.unwrap();
    format!(
        "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n\
         [mqtt]\nurl = \"mqtts://127.0.0.1:{port}\"\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n\
         [batch]\nflush_ms = 50\n[spool]\nsegment_bytes = {SEGMENT_BYTES}\n\
         [clock]\nwall_origin_ms = {}\nplant_origin = {}\nspeed = {}\n{}",
        ca.display(),
        certificate.display(),
        key.display(),
        clock.wall_origin_ms,
        clock.plant_origin.millis(),
        clock.speed,
        table::SOURCE,
    )
}

#[test]
fn the_static_arm_binary_brings_every_row_over_tls_frees_its_spool_and_stops_in_form() {
    let (Some(binary), Some(qemu), Some(authority)) = (binary(), find("qemu-aarch64-static"), Authority::new()) else {
        return;
    };
    // The processor has a door of its own.
    let plain = free_port();
    let doors = authority.broker_lines("broker", &authority);
    let Some(broker) = Mosquitto::start(&format!("{doors}listener {plain} 127.0.0.1\nallow_anonymous true\n")) else {
        return;
    };
    let installed = Installed::new(&authority.certificate(), &authority.issue("gw", 10));
    let folder = tempfile::tempdir().unwrap();
    let (plant_origin, speed) = (PlantTime((FIRST_STEP - 1) * STEP_MS), (STEPS_PER_SECOND * STEP_MS / 1_000) as f64);
    let clock = PlantClock { wall_origin_ms: wall_now_ms(), plant_origin, speed };
    fs::write(folder.path().join("gateway.toml"), config(broker.port(), &installed, &clock)).unwrap();
    table::write(folder.path(), FIRST_STEP..=LAST_STEP, NOTE_BYTES);
    let archive = Archive::new(1);
    let ids = (&AssetId::new("mill").unwrap(), &AssetId::new("gw").unwrap());
    let _committer = Committer::start(plain, ids, &archive, Manner::LATE, clock, 1);

    let agent = Agent::start_in(folder.path(), Command::new(qemu).arg(binary));
    let all = (LAST_STEP - FIRST_STEP + 1) as u64 * READINGS_PER_STEP;
    wait_until("every row is committed", || archive.lock().readings == all);
    let first_segment = folder.path().join("spool/0000000000000000.seg");
    wait_until("the ack frees the spool", || !first_segment.exists());
    assert!(agent.stop(STOP_MAX).success(), "{:?}", agent::log(folder.path()));
    agent::expect_only(folder.path(), &[]);
    assert_eq!(table::check(&archive.lock().frames, FIRST_STEP..=LAST_STEP), 0);
    assert!(broker.log().contains("Received DISCONNECT from gw-"), "it left in form: {}", broker.log());
}
