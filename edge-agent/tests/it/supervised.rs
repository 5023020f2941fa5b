//! The program under a supervisor: what it says by the notify protocol, on `/healthz`, and to the cloud when it goes.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    broker::{Mosquitto, free_port, signal, wait_until},
    certificates::{Authority, Installed},
    processor::Processor,
};

/// The binary with a folder for its configuration, spool and log; killed when dropped.
struct Program {
    folder: TempDir,
    broker: u16,
    metrics: SocketAddr,
    child: Option<Child>,
}

impl Program {
    fn new(broker: u16) -> Self {
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Program { folder: tempfile::tempdir().unwrap(), broker, metrics, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, agent: &str, machines: u32) {
        self.configure_with(agent, &format!("url = 'mqtt://127.0.0.1:{}'", self.broker), machines);
    }

    fn configure_with(&self, agent: &str, mqtt: &str, machines: u32) {
        let text = format!(
            "site = 'mill'\nagent = '{agent}'\ndata = 'spool'\n[mqtt]\n{mqtt}\n[serve]\nmetrics = '{}'\n\
             [batch]\nflush_ms = 20\n[[source]]\ntype = 'simulator'\nmachines = {machines}\n",
            self.metrics
        );
        fs::write(self.path("gateway.toml"), text).unwrap();
    }

    fn start(&mut self, environment: &[(&str, &Path)]) {
        let log = File::create(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-agent"));
        command.arg("--config").arg(self.path("gateway.toml")).envs(environment.iter().copied());
        self.child = Some(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap(), name);
    }

    fn wait(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Of one agent there is one series, with these labels beside the agent's.
    fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.get("/metrics");
        let of = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(labels);
        text.lines().find(of).map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_says_so_and_a_crash_is_seen_as_one() {
    let Some(broker) = Mosquitto::open() else { return };
    let processor = Processor::on(broker.port());
    let mut program = Program::new(broker.port());
    program.configure("gw", 1);
    for (how, exit_code) in [("TERM", Some(0)), ("KILL", None)] {
        program.start(&[]);
        processor.wait_for("a start", |seen| seen.statuses.last().is_some_and(|status| status.online)).await;
        program.signal(how);
        assert_eq!(program.wait(), exit_code, "{}", program.log());
        processor.wait_for("an end", |seen| seen.statuses.last().is_some_and(|status| !status.online)).await;
        processor.look(|seen| assert_eq!(seen.statuses.last().unwrap().clean, how == "TERM"));
    }
    // It is retained: whoever comes later hears of it, too.
    let late = Processor::on(broker.port());
    drop(processor);
    late.wait_for("the will", |seen| seen.statuses.last().is_some_and(|status| !status.online && !status.clean)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_sources_and_neither_spool_nor_connection() {
    let Some(broker) = Mosquitto::open() else { return };
    let processor = Processor::on(broker.port());
    let mut program = Program::new(broker.port());
    program.configure("gw", 1);
    program.start(&[]);
    processor.wait_for("the first birth", |seen| !seen.births.is_empty()).await;
    let epoch = processor.look(|seen| seen.received.unwrap().epoch);

    program.configure("gw", 3);
    program.signal("HUP");
    processor.wait_for("the new machines", |seen| seen.births.len() == 2 && seen.announced.len() == 2).await;
    processor.look(|seen| {
        for birth in [&seen.births[1], &seen.announced[1]] {
            assert_eq!(birth.machines.len(), 3, "{birth:?}");
        }
    });
    wait_until("the count", || program.metric("millwright_agent_reloads_total", "outcome=\"ok\"") == 1.0);

    fs::write(program.path("gateway.toml"), "site = 'mill'\nagent = 3\n").unwrap();
    program.signal("HUP");
    wait_until("an error", || program.log().contains("ERROR"));
    let log = program.log();
    let line = log.lines().find(|line| line.contains("ERROR")).unwrap();
    assert!(line.contains("gateway.toml:2: `agent`: ") && line.contains("stays as it was"), "{line}");

    program.configure("another", 3);
    program.signal("HUP");
    wait_until("a refusal", || program.log().contains("`agent` can't be changed without a restart"));
    wait_until("the count", || program.metric("millwright_agent_reloads_total", "outcome=\"failed\"") == 2.0);

    let received = processor.look(|seen| seen.received.unwrap());
    processor.wait_for("what comes later", |seen| seen.received.unwrap().seq > received.seq + 5).await;
    processor.look(|seen| assert!(seen.received.unwrap().epoch == epoch && seen.births.len() == 2, "{seen:?}"));
    let connects = broker.log().lines().filter(|line| line.contains(" as gw-")).count();
    assert_eq!(connects, 1, "{}", broker.log());
    assert_eq!(program.metric("millwright_agent_connection_attempts_total", ""), 1.0);
    program.signal("TERM");
    assert_eq!(program.wait(), Some(0));
}

#[test]
fn a_reload_looks_at_the_certificates_at_once() {
    let Some(authority) = Authority::new() else { return };
    let Some(broker) = Mosquitto::start(&authority.broker_lines("broker", &authority)) else { return };
    let installed = Installed::new(&authority.certificate(), &authority.issue("first", 10));
    let files = installed.files();
    let (certificate, key) = files.client.unwrap();
    let mut program = Program::new(broker.port());
    let mqtt = format!(
        "url = 'mqtts://127.0.0.1:{}'\nca_file = '{}'\ncert_file = '{}'\nkey_file = '{}'",
        broker.port(),
        files.ca.display(),
        certificate.display(),
        key.display()
    );
    program.configure_with("gw", &mqtt, 1);
    program.start(&[]);
    wait_until("a connection", || broker.log().contains("u'first'"));
    let expiry = |program: &Program| program.metric("millwright_agent_certificate_expiry_seconds", "");
    let first = expiry(&program);
    installed.renew(&authority.issue("second", 20));
    program.signal("HUP");
    wait_until("the second certificate", || broker.log().contains("u'second'"));
    assert_eq!(program.metric("millwright_agent_certificate_reloads_total", "outcome=\"ok\""), 1.0);
    let days = (expiry(&program) - first) / 86_400.0;
    assert!((9.9..10.1).contains(&days), "{days}");
    program.signal("TERM");
    assert_eq!(program.wait(), Some(0));
}

#[test]
fn a_supervisor_hears_of_start_progress_reload_and_stop() {
    let mut program = Program::new(1);
    program.configure("gw", 1);
    let socket = UnixDatagram::bind(program.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut state = [0; 64];
        let bytes = socket.recv(&mut state).unwrap();
        String::from_utf8(state[..bytes].to_vec()).unwrap()
    };
    let hear_but_the_watchdog = || std::iter::repeat_with(hear).find(|state| state != "WATCHDOG=1").unwrap();
    program.start(&[("NOTIFY_SOCKET", &program.path("notify")), ("WATCHDOG_USEC", Path::new("60000"))]);
    assert_eq!(hear(), "READY=1");
    assert_eq!([hear(), hear(), hear()], ["WATCHDOG=1"; 3]);
    assert!(program.get("/healthz").starts_with("HTTP/1.1 200 OK"));
    program.signal("HUP");
    assert_eq!(hear_but_the_watchdog(), "RELOADING=1");
    assert_eq!(hear_but_the_watchdog(), "READY=1");
    program.signal("TERM");
    assert_eq!(hear_but_the_watchdog(), "STOPPING=1");
    assert_eq!(program.wait(), Some(0));
}
