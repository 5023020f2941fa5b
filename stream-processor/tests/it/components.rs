//! Real programs that the tests talk to. Missing: a visible skip on a laptop, a failure where the gate demands them.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Another process may take a free port before the program that it was meant for.
const START_ATTEMPTS_MAX: usize = 5;

/// The program's path, or None after saying so; panics where `MILLWRIGHT_REQUIRE_COMPONENTS` is set.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').map(Path::new).chain(["/usr/sbin", "/usr/bin"].map(Path::new));
    let found = folders.map(|f| f.join(program)).find(|p| p.is_file());
    if found.is_none() {
        missing(program);
    }
    found
}

pub fn missing(what: &str) {
    assert!(std::env::var_os("MILLWRIGHT_REQUIRE_COMPONENTS").is_none(), "{what} is missing and demanded here");
    println!("SKIPPED: {what} is not installed");
}

/// The folder with the public data sets, or None after saying so.
pub fn data_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("MILLWRIGHT_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
    }
    folder
}

/// A child process, ended when dropped.
pub struct Program {
    pub child: Child,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Program { child }
    }

    /// Sends SIGTERM, as a supervisor would.
    pub fn terminate(&self) {
        let ended = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(ended.success());
    }

    /// False: it has ended instead.
    fn listens(&mut self, addr: SocketAddr) -> bool {
        let until = Instant::now() + START_TIME_MAX;
        loop {
            let answered = TcpStream::connect(addr).is_ok();
            match self.child.try_wait().unwrap() {
                Some(_) => return false,
                None if answered => return true,
                None => assert!(Instant::now() < until, "nothing listens on {addr}"),
            }
            std::thread::sleep(POLL);
        }
    }

    pub fn wait_at_most(&mut self, limit: Duration) -> Option<i32> {
        let until = Instant::now() + limit;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code(),
                None if Instant::now() > until => panic!("still running after {limit:?}"),
                None => std::thread::sleep(POLL),
            }
        }
    }
}

/// Between two looks at something that gives no event to wait for.
pub const POLL: Duration = Duration::from_millis(20);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program that has to be told its port, on a free one of loopback, and waits until it listens.
pub fn on_free_port(command: impl Fn(SocketAddr) -> Command) -> (Program, SocketAddr) {
    for _ in 0..START_ATTEMPTS_MAX {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut program = Program::start(&mut command(addr));
        if program.listens(addr) {
            return (program, addr);
        }
    }
    panic!("{:?} never got a port", command(SocketAddr::from(([127, 0, 0, 1], 0))));
}

/// A mosquitto on a free loopback port.
pub fn mosquitto(folder: &Path) -> Option<(Program, SocketAddr)> {
    let program = find("mosquitto")?;
    Some(on_free_port(|addr| {
        let config = folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmessage_size_limit 2097152\n",
            addr.port()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(&program);
        command.arg("-c").arg(&config).stderr(Stdio::null());
        command
    }))
}

/// A moto server (S3 with correct conditional writes) on a free loopback port.
pub fn moto() -> Option<(Program, SocketAddr)> {
    let program = find("moto_server")?;
    Some(on_free_port(|addr| {
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &addr.port().to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }))
}
