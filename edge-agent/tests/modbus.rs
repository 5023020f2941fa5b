//! Modbus against real servers (pymodbus, in a process of its own), and against stubs for what no sound server does.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use edge_agent::{
    source::{Item, Reading, Source, SourceConfig},
    telemetry::Metrics,
};
use proto::{
    asset::AssetId,
    time::PlantClock,
    wire::telemetry::{Quality, QualityReason},
};
use tokio::sync::watch;

/// For anything that is awaited; a passing test takes far less.
const WAIT_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// A python that has pymodbus, or None after saying so; panics where `MILLWRIGHT_REQUIRE_COMPONENTS` is set.
fn has_pymodbus() -> bool {
    let tried =
        Command::new("python3").args(["-c", "import pymodbus.simulator, serial"]).stderr(Stdio::null()).status();
    let found = tried.is_ok_and(|status| status.success());
    if !found {
        let demanded = std::env::var_os("MILLWRIGHT_REQUIRE_COMPONENTS").is_some();
        assert!(!demanded, "pymodbus is missing and demanded here");
        println!("SKIPPED: python3 has no pymodbus and pyserial");
    }
    found
}

struct Server(Child);

impl Server {
    fn start(arguments: [&str; 2]) -> Server {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modbus/server.py");
        let mut command = Command::new("python3");
        Server(command.arg(script).args(arguments).stdin(Stdio::null()).spawn().unwrap())
    }

    fn on_port(port: u16) -> Server {
        let mut server = Server::start(["tcp", &port.to_string()]);
        let until = Instant::now() + WAIT_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.0.try_wait().unwrap().is_none() && Instant::now() < until, "the server does not listen");
            std::thread::sleep(POLL);
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A source on its own clock, and the last reading of each sensor.
struct Reader {
    source: Box<dyn Source>,
    clock: watch::Sender<PlantClock>,
    sensors: Vec<String>,
    last: BTreeMap<String, Reading>,
    /// How often each sensor was read.
    count: BTreeMap<String, usize>,
    /// Every value that was called good.
    good: BTreeMap<String, Vec<f64>>,
}

impl Reader {
    fn start(config: &str) -> Reader {
        let config: SourceConfig = toml::from_str(config).unwrap();
        let mut source = config.build(Path::new(""), None).unwrap();
        let sensors = source.machines()[0].sensors.iter().map(|s| s.sensor.clone()).collect();
        let (clock, follow) = watch::channel(PlantClock::WALL);
        source.start(follow, &Metrics::new(&AssetId::new("gw").unwrap()));
        Reader { source, clock, sensors, last: BTreeMap::new(), count: BTreeMap::new(), good: BTreeMap::new() }
    }

    fn poll(&mut self) {
        let (now, mut items) = (self.clock.borrow().now(), Vec::new());
        while self.source.poll(now, 100, &mut items).unwrap() {}
        assert_eq!(self.source.progress(), now, "it holds nobody back, whatever its device does");
        for item in items {
            let Item::Sample(sample) = item else { panic!("{item:?}") };
            assert!(sample.time <= now);
            for (name, reading) in self.sensors.iter().zip(sample.values) {
                if reading.quality == Quality::Good {
                    self.good.entry(name.clone()).or_default().push(reading.value);
                }
                self.last.insert(name.clone(), reading);
                *self.count.entry(name.clone()).or_default() += 1;
            }
        }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Reader) -> bool) {
        let until = Instant::now() + WAIT_MAX;
        loop {
            self.poll();
            if done(self) {
                return;
            }
            assert!(Instant::now() < until, "{what}: {:?}", self.last);
            tokio::time::sleep(POLL).await;
        }
    }

    fn is(&self, sensor: &str, reason: QualityReason) -> bool {
        self.last.get(sensor).is_some_and(|reading| reading.reason == reason)
    }

    fn is_good(&self, sensor: &str) -> bool {
        self.last.get(sensor).is_some_and(|reading| reading.quality == Quality::Good)
    }
}

fn register_map(url: &str) -> String {
    format!(
        r#"
        type = "modbus"
        url = "{url}"
        interval_ms = 50
        timeout_ms = 1000
        [[machines]]
        id = "press-1"
        kind = "press"
        sensors = [
            {{ sensor = "temperature", unit = "C", at = {{ table = "input", address = 0, type = "i16" }}, scale = 0.1, offset = 2 }},
            {{ sensor = "broken", unit = "C", at = {{ table = "input", address = 1 }}, low = -40, high = 200 }},
            {{ sensor = "speed", unit = "rpm", at = {{ table = "holding", address = 100, type = "f32" }} }},
            {{ sensor = "boxes", unit = "1", at = {{ table = "holding", address = 104, type = "u32" }} }},
            {{ sensor = "nothing", unit = "1", at = {{ table = "holding", address = 106, type = "f32" }} }},
            {{ sensor = "elsewhere", unit = "1", at = {{ table = "holding", address = 112 }} }},
            {{ sensor = "door", unit = "1", at = {{ table = "coil", address = 1 }} }},
            {{ sensor = "guard", unit = "1", at = {{ table = "discrete", address = 4 }} }},
        ]
        "#
    )
}

fn assert_read(reader: &Reader) {
    let good =
        ["temperature", "speed", "boxes", "door", "guard"].map(|s| (s, reader.last[s].value, reader.last[s].quality));
    let expected = [("temperature", -10.5), ("speed", 12.5), ("boxes", 70_000.0), ("door", 1.0), ("guard", 1.0)];
    assert_eq!(good, expected.map(|(s, value)| (s, value, Quality::Good)));
    let bad = ["broken", "nothing", "elsewhere"].map(|s| (reader.last[s].quality, reader.last[s].reason));
    let reasons = [QualityReason::OutOfRange, QualityReason::Unreadable, QualityReason::DeviceError];
    assert_eq!(bad, reasons.map(|reason| (Quality::Bad, reason)));
    assert_eq!(reader.last["broken"].value, 9_999.0, "said, if not believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_read_dies_in_the_middle_and_comes_back() {
    if !has_pymodbus() {
        return;
    }
    let port = free_port();
    let server = Server::on_port(port);
    let mut reader = Reader::start(&register_map(&format!("tcp://127.0.0.1:{port}")));
    reader.until("good", |r| r.is_good("speed") && r.count["speed"] >= 3).await;
    assert_read(&reader);

    drop(server);
    reader.until("dead", |r| r.sensors.iter().all(|s| r.is(s, QualityReason::Disconnected))).await;
    let before = reader.count["speed"];
    reader.until("said at every slot", |r| r.count["speed"] >= before + 5).await;
    assert!(reader.last.values().all(|r| (r.quality, r.reason) == (Quality::Bad, QualityReason::Disconnected)));

    let _server = Server::on_port(port);
    reader.until("back", |r| r.is_good("speed") && r.is_good("door")).await;
    assert_read(&reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_line_is_read_as_a_network_is() {
    if !has_pymodbus() {
        return;
    }
    let (device, gateway) = (Pty::open(), Pty::open());
    // The line: what is written at one end is read at the other.
    device.copy_to(&gateway);
    gateway.copy_to(&device);
    let _server = Server::start(["rtu", &device.path]);
    let mut reader = Reader::start(&register_map(&format!("rtu://{}", gateway.path)));
    reader.until("good", |r| r.is_good("speed") && r.is_good("boxes")).await;
    assert_read(&reader);
    assert_eq!(reader.good["speed"].iter().find(|v| **v != 12.5), None);
}

/// A pseudo terminal: a program opens its path as if it were a serial port.
struct Pty {
    controller: std::fs::File,
    path: String,
    /// Without one open, the controller reads errors.
    _held: std::fs::File,
}

impl Pty {
    fn open() -> Pty {
        use rustix::{
            pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
            termios::{OptionalActions, tcgetattr, tcsetattr},
        };
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut settings = tcgetattr(&held).unwrap();
        settings.make_raw();
        tcsetattr(&held, OptionalActions::Now, &settings).unwrap();
        Pty { controller: controller.into(), path, _held: held }
    }

    /// Ends with the process at the latest.
    fn copy_to(&self, other: &Pty) {
        let (mut from, mut to) = (self.controller.try_clone().unwrap(), other.controller.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count) = from.read(&mut bytes)
                && to.write_all(&bytes[..count]).is_ok()
            {}
        });
    }
}

/// What a stub answers: transaction id, unit and address asked for, and the connection's number from 0. None: nothing.
type Answer = fn(u16, u8, u16, usize) -> Option<(u16, u16)>;

/// Answers reads of one register. Its threads end with the process.
fn stub(answer: Answer) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = counted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || serve(stream, answer, connection));
        }
    });
    (address, connections)
}

fn serve(mut stream: TcpStream, answer: Answer, connection: usize) {
    let mut request = [0; 12];
    while stream.read_exact(&mut request).is_ok() {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        if let Some((id, value)) = answer(word(0), request[6], word(8), connection) {
            let [id, value] = [id, value].map(u16::to_be_bytes);
            let frame = [&id[..], &[0, 0, 0, 5, request[6], request[7], 2], &value].concat();
            if stream.write_all(&frame).is_err() {
                return;
            }
        }
    }
}

fn two_units(address: SocketAddr, timeout_ms: u64) -> String {
    format!(
        r#"
        type = "modbus"
        url = "tcp://{address}"
        interval_ms = 50
        timeout_ms = {timeout_ms}
        [[machines]]
        id = "press-1"
        kind = "press"
        sensors = [
            {{ sensor = "one", unit = "1", at = {{ table = "holding", address = 1, unit_id = 1 }} }},
            {{ sensor = "two", unit = "1", at = {{ table = "holding", address = 2, unit_id = 2 }} }},
        ]
        "#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_another_request_is_not_taken_and_the_connection_is_built_up_again() {
    let (address, connections) = stub(|id, _, address, connection| match connection {
        // As if the answer to an earlier request had come late.
        0 => Some((id.wrapping_sub(1), 666)),
        _ => Some((id, address)),
    });
    let mut reader = Reader::start(&two_units(address, 5_000));
    reader.until("good", |r| r.is_good("one") && r.is_good("two")).await;
    let seen: Vec<_> = reader.good.values().flatten().copied().collect();
    assert!(!seen.contains(&666.0), "{seen:?}");
    assert_eq!((reader.last["one"].value, reader.last["two"].value), (1.0, 2.0));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_does_not_answer_is_left_alone_and_costs_its_neighbour_little() {
    let (address, _) = stub(|id, unit, address, _| (unit == 1).then_some((id, address)));
    let mut reader = Reader::start(&two_units(address, 200));
    reader.until("read", |r| r.count.get("one").is_some_and(|count| *count >= 60)).await;
    assert!(reader.is("two", QualityReason::Timeout) && !reader.good.contains_key("two"));
    let share = reader.good["one"].len() as f64 / reader.count["one"] as f64;
    assert_eq!(share, 1.0, "every slot that was taken is good");
}
