//! A real mosquitto on loopback, that can be killed, frozen and started again on the same port.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Another process may take a free port before the broker that it was meant for.
const START_ATTEMPTS_MAX: usize = 5;
/// Below those that a system gives to connections and to listeners that ask for any: they would take a broker's port
/// while it is away.
const PORTS: std::ops::Range<u32> = 15_000..30_000;
/// Between two looks at something that gives no event to wait for.
pub const POLL: Duration = Duration::from_millis(10);

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

/// Waits for something that gives no event; panics with `what` after half a minute.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + START_TIME_MAX;
    while !done() {
        assert!(Instant::now() < until, "waited too long: {what}");
        std::thread::sleep(POLL);
    }
}

/// A port of loopback that nobody listens on, and that no other caller in this process is told. It is tried by a connection: a
/// listener would be inherited for a moment by whatever program another test is just starting, and would answer there.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    loop {
        let at = std::process::id().wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
        let port = (PORTS.start + at) as u16;
        if TcpStream::connect(("127.0.0.1", port)).is_err() {
            return port;
        }
    }
}

/// Sends a signal by its name to one process.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Killed when dropped, with everything in its folder.
pub struct Mosquitto {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// On a free port, anyone may come in.
    pub fn open() -> Option<Self> {
        Self::start("allow_anonymous true\n")
    }

    /// On a free port, with these lines of configuration behind its listener: `cafile ...` makes that one of TLS.
    /// None: it is not installed, which was said.
    pub fn start(lines: &str) -> Option<Self> {
        let (program, folder) = (find("mosquitto")?, tempfile::tempdir().unwrap());
        let mut broker = Mosquitto { program, folder, port: 0, child: None };
        for _ in 0..START_ATTEMPTS_MAX {
            broker.port = free_port();
            broker.configure(lines);
            if broker.spawn() {
                return Some(broker);
            }
        }
        panic!("mosquitto never got a port, or does not like its configuration:\n{}", broker.log());
    }

    /// What the next start gets; see [`Mosquitto::start`].
    pub fn configure(&self, lines: &str) {
        // As root it would change to a user who can't read this folder.
        let config =
            format!("user root\nmax_queued_messages 100000\nlog_type all\nlistener {} 127.0.0.1\n{lines}\n", self.port);
        fs::write(self.folder.path().join("mosquitto.conf"), config).unwrap();
    }

    /// Everything it said since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// For files that its configuration names.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// With SIGKILL: what it had queued is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on the same port, after a kill if it runs.
    pub fn restart(&mut self) {
        self.kill();
        let started = (0..START_ATTEMPTS_MAX).any(|_| self.spawn());
        assert!(started, "{}", self.log());
    }

    /// Its connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap(), name);
    }

    /// False: it has ended instead of listening.
    fn spawn(&mut self) -> bool {
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf")).current_dir(self.folder.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let until = Instant::now() + START_TIME_MAX;
        loop {
            let answered = TcpStream::connect(self.address()).is_ok();
            match child.try_wait().unwrap() {
                Some(_) => return false,
                None if answered => break,
                None => assert!(Instant::now() < until, "mosquitto does not listen on {}", self.port),
            }
            std::thread::sleep(POLL);
        }
        self.child = Some(child);
        true
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_broker_is_there_again_after_it_was_killed_and_silent_while_it_is_frozen() {
    let Some(mut broker) = Mosquitto::open() else { return };
    let address = broker.address();
    broker.kill();
    assert!(TcpStream::connect(address).is_err());
    broker.restart();
    assert_eq!(broker.address(), address);

    // A CONNECT of MQTT 3.1.1 with a clean session and the client id `t`, and its CONNACK.
    let connect = *b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01t";
    let answer = |stream: &mut TcpStream, wait| {
        use std::io::{Read, Write};
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(&connect).unwrap();
        stream.read_exact(&mut [0; 4]).is_ok()
    };
    broker.freeze();
    let mut stream = TcpStream::connect(address).unwrap();
    assert!(!answer(&mut stream, Duration::from_millis(100)));
    broker.thaw();
    stream.set_read_timeout(Some(START_TIME_MAX)).unwrap();
    let mut connack = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}
