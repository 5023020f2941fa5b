//! An HTTP proxy before the S3 endpoint, which does to requests what networks and servers do, by a rule of the test.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// The connection is reset, and the endpoint never hears of it.
    ResetBefore,
    /// The endpoint carries it out, and the connection is reset before its answer.
    AnswerLost,
    /// An error with this status, and the endpoint never hears of it.
    Refuse(u16),
    /// Carried out so many ms later.
    Late(u64),
    /// Carried out when the test says so.
    Hold,
    /// Carried out, and there is no answer for as long as anybody waits for one.
    Hang,
    /// Of an endpoint that knows no conditions: a PUT that should have failed is said to have been done.
    Unconditional,
}

impl Fate {
    fn name(self) -> String {
        match self {
            Fate::Refuse(status) => format!("answered {status}"),
            Fate::Late(_) => "late".into(),
            Fate::Pass => "passed".into(),
            Fate::ResetBefore => "reset before".into(),
            Fate::AnswerLost => "answer lost".into(),
            Fate::Hold => "held".into(),
            Fate::Hang => "hung".into(),
            Fate::Unconditional => "unconditional".into(),
        }
    }
}

/// A request as the rule sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// Behind the bucket, without the query.
    pub key: String,
}

impl Asked {
    pub fn puts(&self, prefix: &str) -> bool {
        self.method == "PUT" && self.key.starts_with(prefix)
    }
}

type Rule = Box<dyn FnMut(&Asked) -> Fate + Send>;

struct State {
    endpoint: SocketAddr,
    rule: Mutex<Rule>,
    counts: Mutex<BTreeMap<String, u64>>,
    held: Mutex<Vec<Asked>>,
    /// Bumped to let through what is held.
    gate: watch::Sender<u64>,
}

pub struct Proxy {
    pub addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Everything passes, until there is another rule.
    pub async fn start(endpoint: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            endpoint,
            rule: Mutex::new(Box::new(|_| Fate::Pass)),
            counts: Mutex::default(),
            held: Mutex::default(),
            gate: watch::Sender::new(0),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let state = shared.clone();
                // Whoever asked may be killed at any moment.
                tokio::spawn(async move { drop(state.serve(client).await) });
            }
        });
        Proxy { addr, state, task }
    }

    pub fn rule(&self, rule: impl FnMut(&Asked) -> Fate + Send + 'static) {
        *self.state.rule.lock().unwrap() = Box::new(rule);
    }

    /// How many requests met which fate.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.state.counts.lock().unwrap().clone()
    }

    pub fn held(&self) -> Vec<Asked> {
        self.state.held.lock().unwrap().clone()
    }

    /// Carries out all that is held.
    pub fn let_through(&self) {
        self.state.held.lock().unwrap().clear();
        self.state.gate.send_modify(|n| *n += 1);
    }
}

impl State {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let Some((asked, request)) = read_request(&mut client).await? else { return Ok(()) };
        let mut opened = self.gate.subscribe();
        let fate = (self.rule.lock().unwrap())(&asked);
        *self.counts.lock().unwrap().entry(fate.name()).or_default() += 1;
        match fate {
            Fate::Pass => {}
            Fate::ResetBefore => return client.set_zero_linger(),
            Fate::AnswerLost => {
                self.forward(&request).await?;
                return client.set_zero_linger();
            }
            Fate::Refuse(status) => {
                let body = format!("<Error><Code>{}</Code><Message>a test</Message></Error>", code(status));
                let head = format!(
                    "HTTP/1.1 {status} Refused\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let body = if asked.method == "HEAD" { "" } else { &body };
                return client.write_all((head + body).as_bytes()).await;
            }
            Fate::Late(ms) => sleep(Duration::from_millis(ms)).await,
            Fate::Hang => {
                self.forward(&request).await?;
                while client.read(&mut [0; 64]).await? > 0 {}
                return Ok(());
            }
            Fate::Unconditional => {
                let answer = self.forward(&request).await?;
                let answer = match answer.starts_with(b"HTTP/1.1 412") {
                    true => {
                        b"HTTP/1.1 200 OK\r\netag: \"0\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
                    }
                    false => answer,
                };
                return client.write_all(&answer).await;
            }
            Fate::Hold => {
                self.held.lock().unwrap().push(asked);
                drop(opened.changed().await);
            }
        }
        let answer = self.forward(&request).await?;
        client.write_all(&answer).await?;
        client.shutdown().await
    }

    /// One connection for each: its end is the end of the answer.
    async fn forward(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut endpoint = TcpStream::connect(self.endpoint).await?;
        endpoint.write_all(request).await?;
        let mut answer = Vec::new();
        endpoint.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

fn code(status: u16) -> &'static str {
    match status {
        403 => "AccessDenied",
        409 => "ConditionalRequestConflict",
        503 => "SlowDown",
        _ => "InternalError",
    }
}

/// The whole request, so that it ends its connection. None: nothing was asked.
async fn read_request(client: &mut TcpStream) -> io::Result<Option<(Asked, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if client.read_buf(&mut bytes).await? == 0 || bytes.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(head + 4);
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let (mut request, mut length) = (format!("{first}\r\nconnection: close\r\n"), 0);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "connection" => continue,
            "expect" => {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                continue;
            }
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    while body.len() < length {
        if client.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_string();
    let path = words.next().unwrap_or_default().split('?').next().unwrap_or_default();
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    // Nothing else in our keys is ever escaped.
    let key = key.replace("%3D", "=");
    let mut request = request.into_bytes();
    request.extend(body);
    Ok(Some((Asked { method, key }, request)))
}
