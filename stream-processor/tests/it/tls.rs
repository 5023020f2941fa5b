//! The listeners in TLS, with certificates made by openssl, as an operator would make them, and the real `alerts` command.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    asset::AssetId,
    broker::TlsFiles,
    wire::prediction::{Prediction, SensorReadings},
};
use rustls::pki_types::ServerName;
use stream_processor::{
    serve::{
        self, ServeConfig, Services, Serving,
        board::Board,
        command::Commands,
        predict::{PredictError, Predictor},
    },
    tls::client_config,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_blocking,
    time::sleep,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::components::find;

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
/// Far above the interval at which files are looked at.
const RENEWED_MAX: Duration = Duration::from_secs(60);

/// A certificate authority, and what it has issued.
pub struct Authority {
    openssl: PathBuf,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Option<Self> {
        let authority = Authority { openssl: find("openssl")?, folder: tempfile::tempdir().unwrap() };
        let (key, certificate) = (authority.path("ca.key"), authority.path("ca.crt"));
        authority.openssl(&[
            &["req", "-x509", "-days", "10", "-subj", "/CN=authority"],
            &NEW_KEY[..],
            &["-keyout", &key, "-out", &certificate],
        ]);
        Some(authority)
    }

    /// Certificate and key, for loopback.
    pub fn issue(&self, name: &str) -> [String; 2] {
        let [request, extensions, certificate, key] =
            ["csr", "ext", "crt", "key"].map(|kind| self.path(&format!("{name}.{kind}")));
        let subject = format!("/CN={name}");
        self.openssl(&[&["req", "-subj", &subject], &NEW_KEY[..], &["-keyout", &key, "-out", &request]]);
        fs::write(&extensions, "subjectAltName=IP:127.0.0.1\n").unwrap();
        let (ca, ca_key) = (self.path("ca.crt"), self.path("ca.key"));
        self.openssl(&[
            &["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"],
            &["-days", "10", "-extfile", &extensions, "-out", &certificate],
        ]);
        [certificate, key]
    }

    pub fn ca(&self) -> String {
        self.path("ca.crt")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    fn openssl(&self, arguments: &[&[&str]]) {
        let done = Command::new(&self.openssl).args(arguments.concat()).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

struct NoModel;

impl Predictor for NoModel {
    fn readings(&self, _: &AssetId, _: &[SensorReadings]) -> Result<Prediction, PredictError> {
        Err(PredictError::Learning)
    }

    fn features(&self, _: &AssetId, _: &BTreeMap<String, f64>) -> Result<Prediction, PredictError> {
        Err(PredictError::Learning)
    }
}

/// Listeners that show what is installed in a folder.
struct Listeners {
    serving: Serving,
    installed: TempDir,
    /// Everything ends with it.
    _stop: tokio_util::sync::DropGuard,
}

impl Listeners {
    async fn start(shown: &[String; 2], clients: Option<&Authority>) -> Self {
        let installed = tempfile::tempdir().unwrap();
        install(installed.path(), shown);
        let [cert_file, key_file] = ["crt", "key"].map(|name| Some(installed.path().join(name)));
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let client_ca_file = clients.map(|authority| authority.ca().into());
        let config = ServeConfig { grpc: any, http: any, token_file: None, cert_file, key_file, client_ca_file };
        let board = Board::new();
        board.begin(1, Vec::new(), vec![]);
        let (commands, model) = (Commands::channel().0, Arc::new(NoModel));
        let services = Services { board, commands, model, metrics: Arc::new(|| "up 1\n".to_string()) };
        let stop = CancellationToken::new();
        let serving = serve::start(&config, services, stop.clone()).await.unwrap();
        Listeners { serving, installed, _stop: stop.drop_guard() }
    }

    /// `alerts list` as the crew calls it, in clear text if no `ca` is given.
    async fn alerts(&self, arguments: &[&str]) -> Output {
        let scheme = if arguments.is_empty() { "http" } else { "https" };
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
        command.args(["alerts", "list", "--addr", &format!("{scheme}://{}", self.serving.grpc)]).args(arguments);
        spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap()
    }

    async fn lists(&self, arguments: &[&str]) -> bool {
        let output = self.alerts(arguments).await;
        let said = String::from_utf8_lossy(&output.stdout).contains("no open alerts");
        assert_eq!(output.status.success(), said, "{output:?}");
        said
    }

    /// The answer to `GET /healthz`.
    async fn health(&self, ca: &str) -> std::io::Result<String> {
        let config = client_config(&TlsFiles { ca: ca.into(), client: None }).unwrap();
        let stream = TcpStream::connect(self.serving.http).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    }
}

/// At once, as those who renew certificates do.
fn install(folder: &Path, files: &[String; 2]) {
    for (name, file) in ["crt", "key"].iter().zip(files) {
        let new = folder.join("new");
        fs::copy(file, &new).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_speak_tls_to_whoever_trusts_their_certificate() {
    let (Some(authority), Some(other)) = (Authority::new(), Authority::new()) else { return };
    let listeners = Listeners::start(&authority.issue("processor"), None).await;
    assert!(listeners.lists(&["--ca", &authority.ca()]).await);
    assert!(!listeners.lists(&["--ca", &other.ca()]).await, "the certificate is not of that authority");
    assert!(!listeners.lists(&[]).await, "clear text is not understood");
    let health = listeners.health(&authority.ca()).await.unwrap();
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    assert!(listeners.health(&other.ca()).await.is_err());
    let clear = reqwest::get(format!("http://{}/healthz", listeners.serving.http)).await;
    assert!(clear.is_err(), "{clear:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_clients_must_show_a_certificate_nobody_gets_in_without_the_right_one() {
    let (Some(authority), Some(clients)) = (Authority::new(), Authority::new()) else { return };
    let listeners = Listeners::start(&authority.issue("processor"), Some(&clients)).await;
    let ca = authority.ca();
    let with = |[certificate, key]: [String; 2]| {
        ["--ca".into(), ca.clone(), "--cert".into(), certificate, "--key".into(), key]
    };
    let lists = async |arguments: [String; 6]| listeners.lists(&arguments.each_ref().map(String::as_str)).await;
    assert!(lists(with(clients.issue("crew"))).await);
    assert!(!lists(with(authority.issue("stranger"))).await, "of another authority");
    assert!(!listeners.lists(&["--ca", &ca]).await, "without one");
    // Browsers and probes have none.
    assert!(listeners.health(&ca).await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_never() {
    let (Some(authority), Some(next)) = (Authority::new(), Authority::new()) else { return };
    let listeners = Listeners::start(&authority.issue("processor"), None).await;
    let ([certificate, key], [_, wrong_key]) = (next.issue("processor"), next.issue("other"));
    install(listeners.installed.path(), &[certificate.clone(), wrong_key]);
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert!(listeners.health(&authority.ca()).await.is_ok(), "the old one stays");
        sleep(Duration::from_millis(500)).await;
    }
    install(listeners.installed.path(), &[certificate, key]);
    let until = Instant::now() + RENEWED_MAX;
    while listeners.health(&next.ca()).await.is_err() {
        assert!(Instant::now() < until, "the new one is never shown");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(listeners.lists(&["--ca", &next.ca()]).await);
    assert!(!listeners.lists(&["--ca", &authority.ca()]).await);
}
