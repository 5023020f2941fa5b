//! What goes on while something that the agent needs is away for long or has no room.

use std::{fs, path::Path, process::Command, sync::Arc, thread::sleep, time::Duration};

use edge_agent::spool::{Spool, SpoolConfig, disk::Folder};
use proto::{
    asset::AssetId,
    position::Epoch,
    telemetry::{check_batch, delta_decode},
    time::{PlantClock, PlantTime, wall_now_ms},
};

use super::{
    agent::{self, Agent},
    broker::{Mosquitto, POLL, wait_until},
    committer::{Archive, Committer, Manner},
    kill::{BROKER_LOST, Hall, ROWS_SKIPPED, STOP_MAX},
};

/// Said once, and nothing is lost by it.
const CANNOT_WRITE: &str = "batches can't be written; trying again";
const CAN_WRITE: &str = "batches can be written again";
const CANNOT_TIDY: &str = "the spool could not be tidied";
/// The id of the installation, the time, where it began.
const CANNOT_STORE: &str = "can't be stored";
const IN_MEMORY: &str = "batches still can't be written; they are kept in memory only";
const NO_DISK: &str = "the agent begins without its disk; readings are kept in memory only";
const RESERVE_USED: &str = "the spool uses its reserve";
const DAY_MS: i64 = 86_400_000;
/// A Monday at six.
const START_MS: i64 = 1_767_592_800_000;
/// With five sensors each: as many readings as 20 machines with ten.
const MACHINES: i64 = 40;
/// A day of plant time in this much of the wall's.
const DAY: Duration = Duration::from_secs(20);

/// 20 machines with ten sensors at 1 Hz, and no broker from the first reading on. The spool keeps the day; when the
/// broker comes, all of it arrives, each second of each machine once.
#[test]
fn a_day_without_a_broker_is_kept_and_arrives_when_it_comes_back() {
    let (Some(mut broker), folder) = (Mosquitto::open(), tempfile::tempdir().unwrap()) else { return };
    let speed = DAY_MS / DAY.as_millis() as i64;
    let (wall_origin_ms, plant_origin) = (wall_now_ms(), PlantTime(START_MS));
    let clock = PlantClock { wall_origin_ms, plant_origin, speed: speed as f64 };
    let config = format!(
        "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\
         [clock]\nwall_origin_ms = {wall_origin_ms}\nplant_origin = {START_MS}\nspeed = {speed}\n\
         [[source]]\ntype = \"simulator\"\nstart = {START_MS}\nmachines = {MACHINES}\ninterval_ms = 1000\n",
        broker.port(),
    );
    fs::write(folder.path().join("gateway.toml"), config).unwrap();
    broker.kill();
    while held(folder.path()).0 < START_MS + DAY_MS {
        let agent = Agent::start(folder.path());
        sleep(DAY);
        assert!(agent.stop(STOP_MAX).success());
    }
    let (_, bytes, readings) = held(folder.path());
    println!("{readings} readings in {bytes} bytes: {:.2} bytes per reading", bytes as f64 / readings as f64);

    broker.restart();
    let archive = Archive::new(1);
    let ids = (&AssetId::new("mill").unwrap(), &AssetId::new("gw").unwrap());
    let _committer = Committer::start(broker.port(), ids, &archive, Manner::LATE, clock, 1);
    let agent = Agent::start(folder.path());
    let mut before = 0;
    while before < readings {
        sleep(POLL);
        before = archive.lock().readings;
    }
    assert!(agent.stop(STOP_MAX).success());
    agent::expect_only(folder.path(), &[BROKER_LOST]);
    let mut next = [START_MS; MACHINES as usize];
    let mut names: Vec<String> = Vec::new();
    for taken in &archive.lock().frames {
        let batch = taken.frame.batch().unwrap();
        assert_eq!(check_batch(&batch), Ok(u64::from(taken.frame.header.readings)));
        names.extend(
            batch.birth.iter().take(1 - names.len().min(1)).flat_map(|b| &b.machines).map(|m| m.machine.clone()),
        );
        for machine in &batch.machines {
            let next = &mut next[names.iter().position(|name| *name == machine.machine).unwrap()];
            for stamp in delta_decode(&machine.time_delta_ms) {
                assert_eq!(stamp, *next, "{}", machine.machine);
                *next += 1_000;
            }
        }
    }
    assert!(next.iter().all(|next| *next > START_MS + DAY_MS), "{next:?}");
}

/// Seal time of the newest batch, bytes of all frames and readings in them. The agent is not running.
fn held(folder: &Path) -> (i64, u64, u64) {
    let disk = Arc::new(Folder::open(folder.join("spool")).unwrap());
    let (spool, _) = Spool::open(disk, SpoolConfig::default(), Epoch([9; 16])).unwrap();
    let log = spool.log();
    let log = log.lock();
    (spool.sealed().map_or(0, |t| t.millis()), log.bytes(), log.extents().map(|e| e.readings).sum())
}

/// A file system of its own, smaller than what the spool may take. When it is full, and memory too, nothing more is read,
/// and nothing is lost: the source has it. When the archive has what is on it there is room again, and the rest follows.
#[test]
fn a_full_disk_stops_sampling_until_the_archive_has_made_room() {
    let isolated = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command
    };
    let probe = tempfile::tempdir().unwrap();
    let mount = |size: &str, at: &Path| format!("mount -t tmpfs -o size={size} tmpfs {}", at.display());
    if !isolated(&mount("64k", probe.path())).output().is_ok_and(|done| done.status.success()) {
        // Nothing that could be installed.
        println!("SKIPPED: this user can't mount a small file system (unshare)");
        return;
    }
    let Some(mut hall) = Hall::new(12_000, "[spool]\nfree_bytes_min = 0\n") else { return };
    let spool = hall.folder().join("spool");
    fs::create_dir(&spool).unwrap();
    hall.kill_broker();
    hall.end_table_after(Duration::from_secs(5));
    hall.write_table();
    let mut command = isolated(&format!("{} && exec \"$0\" \"$@\"", mount("2m", &spool)));
    let agent = Agent::start_in(hall.folder(), command.arg(env!("CARGO_BIN_EXE_edge-agent")));
    let said = |hall: &Hall, text| agent::log(hall.folder()).iter().filter(|line| line.contains(text)).count();
    wait_until("the disk is full", || said(&hall, CANNOT_WRITE) > 0);
    // Long enough that it goes on in memory, and that there is no room left either.
    sleep(Duration::from_secs(8));
    hall.broker.restart();
    hall.wait_drained();
    // The archive has it all, which the agent is still to hear.
    wait_until("the disk has room", || said(&hall, CAN_WRITE) == said(&hall, CANNOT_WRITE));
    assert!(agent.stop(STOP_MAX).success());
    assert!(said(&hall, IN_MEMORY) > 0);
    assert_eq!(hall.check(&[BROKER_LOST, ROWS_SKIPPED, CANNOT_WRITE, CANNOT_TIDY, IN_MEMORY, RESERVE_USED]), 0);
}

/// In the place of the folder is something that can't be used, as when a card is not mounted. Readings are sent from
/// memory; when the folder can be used, a start that has it follows, and nothing of what was read is missing.
#[test]
fn without_a_disk_readings_are_sent_from_memory_until_there_is_one() {
    let Some(mut hall) = Hall::new(0, "") else { return };
    let spool = hall.folder().join("spool");
    fs::write(&spool, "not a folder").unwrap();
    hall.write_table();
    let agent = Agent::start(hall.folder());
    wait_until("readings arrive from memory", || hall.archived_readings() > 1_000);
    assert_eq!(fs::read(&spool).unwrap(), b"not a folder");
    fs::remove_file(&spool).unwrap();
    assert_eq!(agent.ended(STOP_MAX).code(), Some(1), "for a supervisor to start it anew");
    let archived = hall.archived_readings();
    hall.end_table_with_archive();
    let said = [NO_DISK, CANNOT_STORE, CANNOT_WRITE, IN_MEMORY, "the agent ended"];
    assert_eq!(hall.check(&said), 0);
    let sealed = agent::log(hall.folder()).iter().any(|line| line.contains("the archive has what was in memory"));
    assert!(sealed && archived > 1_000);
}
