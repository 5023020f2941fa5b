//! A gateway with its broker and its processor, for one measurement.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use proto::{asset::AssetId, time::PlantClock};
use tempfile::TempDir;

use crate::{
    binary,
    broker::Mosquitto,
    committer::{Archive, Committer, Manner},
};

pub struct Site {
    folder: TempDir,
    pub archive: Archive,
    broker: Mosquitto,
    ids: (AssetId, AssetId),
    committer: Option<Committer>,
    agent: Option<Child>,
}

impl Site {
    pub fn new() -> Self {
        let broker =
            Mosquitto::start("allow_anonymous true\nlog_type none\nlog_dest none").expect("it was found before");
        let id = |name| AssetId::new(name).expect("a name");
        let folder = tempfile::tempdir().expect("a folder");
        Site {
            folder,
            archive: Archive::counting(1),
            broker,
            ids: (id("mill"), id("gw")),
            committer: None,
            agent: None,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn spool(&self) -> std::path::PathBuf {
        self.folder().join("spool")
    }

    pub fn start_committer(&mut self) {
        let ids = (&self.ids.0, &self.ids.1);
        self.committer =
            Some(Committer::start(self.broker.port(), ids, &self.archive, Manner::PROMPT, PlantClock::WALL, 1));
    }

    pub fn start_agent(&mut self, settings: &str) {
        let config = format!(
            "site = \"mill\"\nagent = \"gw\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n{settings}",
            self.broker.port(),
        );
        fs::write(self.folder().join("gateway.toml"), config).expect("room for a file");
        let log = File::create(self.folder().join("log")).expect("room for a file");
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.folder().join("gateway.toml"));
        self.agent = Some(command.stdin(Stdio::null()).stderr(log).spawn().expect("the agent starts"));
    }

    pub fn agent(&self) -> u32 {
        self.agent.as_ref().map_or(0, Child::id)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    pub fn broker_down(&mut self) {
        self.broker.kill();
    }

    pub fn broker_up(&mut self) {
        self.broker.restart();
    }

    /// Panics if the agent ends or nothing comes of it for a long time.
    pub fn wait(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Site) -> bool) {
        let until = Instant::now() + limit;
        while !done(self) {
            let ended = self.agent.as_mut().and_then(|a| a.try_wait().ok().flatten());
            assert!(ended.is_none() && Instant::now() < until, "{what}: {}", self.log());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
