//! The crew's stream in a terminal: follow, list and answer alerts with nothing else installed.

use std::{collections::HashMap, io, io::Write, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use hyper_util::rt::TokioIo;
use proto::{
    broker::TlsFiles,
    wire::alert::{
        AcknowledgeAlertRequest, Alert, AlertState, ListAlertsRequest, StreamAlertsRequest,
        alert_service_client::AlertServiceClient, stream_alerts_response::Event,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{alert::text, tls};

const HTTPS_PORT: u16 = 443;
const CONNECT_SECONDS_MAX: u64 = 5;
const RETRY_SECONDS_FIRST: u64 = 1;
const RETRY_SECONDS_MAX: u64 = 15;
/// The server's longest wait for a commit, and some.
const ANSWER_SECONDS_MAX: u64 = 20;

#[derive(Debug, Args)]
pub struct AlertsArgs {
    #[command(subcommand)]
    command: Option<AlertsCommand>,
    /// The processor's gRPC address.
    #[arg(long, global = true, default_value = "http://127.0.0.1:50051")]
    addr: String,
    /// Holds the token that writes need beyond loopback.
    #[arg(long, global = true, env = "MILLWRIGHT_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// PEM: the authority that the processor's certificate is from; the address is https:// then.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM: the certificate to show, where the processor asks for one; with --key.
    #[arg(long, global = true, value_name = "FILE", requires = "key", requires = "ca")]
    cert: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// Print open alerts, then every change as it comes (the default).
    Follow {
        /// Only these machines.
        machines: Vec<String>,
    },
    /// Print the open alerts.
    List {
        /// Closed ones too, the newest 1,000.
        #[arg(long)]
        closed: bool,
    },
    /// Acknowledge an alert.
    Ack {
        /// Its id, or the beginning of it.
        id: String,
        /// Who takes care of it.
        #[arg(long)]
        author: String,
        #[arg(long, default_value = "")]
        note: String,
    },
}

pub async fn run(args: AlertsArgs) -> anyhow::Result<()> {
    let processor = Processor::of(&args)?;
    match args.command.unwrap_or(AlertsCommand::Follow { machines: Vec::new() }) {
        AlertsCommand::Follow { machines } => follow(&processor, machines).await,
        AlertsCommand::List { closed } => list(&mut connect(&processor).await?, closed).await,
        AlertsCommand::Ack { id, author, note } => {
            let token = args.token_file.map(bearer).transpose()?;
            acknowledge(&mut connect(&processor).await?, &id, author, note, token).await
        }
    }
}

/// Where it is, and how to speak to it.
struct Processor {
    endpoint: Endpoint,
    tls: Option<Arc<ClientConfig>>,
}

impl Processor {
    fn of(args: &AlertsArgs) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(args.addr.clone())
            .with_context(|| format!("--addr {}: must be like http://127.0.0.1:50051", args.addr))?
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX));
        let tls = match (&args.ca, endpoint.uri().scheme_str() == Some("https")) {
            (Some(ca), true) => {
                let files = TlsFiles { ca: ca.clone(), client: args.cert.clone().zip(args.key.clone()) };
                let mut config = tls::client_config(&files)?;
                config.alpn_protocols = vec![b"h2".to_vec()];
                Some(config.into())
            }
            (None, false) => None,
            (Some(_), false) => bail!("--addr {}: must begin with https:// when --ca is given", args.addr),
            (None, true) => bail!("--ca: is needed for https://"),
        };
        Ok(Processor { endpoint, tls })
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let Some(config) = &self.tls else { return self.endpoint.connect().await };
        let connector = TlsConnector::from(config.clone());
        let connect = service_fn(move |to: Uri| {
            let connector = connector.clone();
            async move {
                let host = to.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let stream = TcpStream::connect((host.as_str(), to.port_u16().unwrap_or(HTTPS_PORT))).await?;
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        self.endpoint.connect_with_connector(connect).await
    }
}

async fn connect(processor: &Processor) -> anyhow::Result<AlertServiceClient<Channel>> {
    let channel = processor.channel().await;
    let channel = channel.with_context(|| format!("no processor answers at {} (--addr)", processor.endpoint.uri()))?;
    Ok(AlertServiceClient::new(channel))
}

fn bearer(path: PathBuf) -> anyhow::Result<MetadataValue<Ascii>> {
    let token = std::fs::read_to_string(&path).with_context(|| format!("--token-file {}", path.display()))?;
    Ok(format!("Bearer {}", token.trim()).parse()?)
}

async fn list(client: &mut AlertServiceClient<Channel>, include_closed: bool) -> anyhow::Result<()> {
    let request = ListAlertsRequest { include_closed, machines: Vec::new() };
    let alerts = client.list_alerts(request).await.map_err(refused)?.into_inner().alerts;
    if alerts.is_empty() {
        print("no open alerts")?;
    }
    alerts.iter().try_for_each(|alert| print(&entry(alert)))
}

async fn acknowledge(
    client: &mut AlertServiceClient<Channel>,
    id: &str,
    author: String,
    note: String,
    token: Option<MetadataValue<Ascii>>,
) -> anyhow::Result<()> {
    let open = client.list_alerts(ListAlertsRequest::default()).await.map_err(refused)?.into_inner().alerts;
    let mut named = open.into_iter().filter(|alert| alert.id.starts_with(id));
    let alert = named.next().with_context(|| format!("no open alert has an id that begins with `{id}`"))?;
    if named.next().is_some() {
        bail!("more than one open alert has an id that begins with `{id}`: give more of it");
    }
    // The same call repeated is the same acknowledgement.
    let request_id = format!("ack-{}", alert.id);
    let mut request = Request::new(AcknowledgeAlertRequest { alert_id: alert.id, author, note, request_id });
    request.set_timeout(Duration::from_secs(ANSWER_SECONDS_MAX));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token);
    }
    let answer = client.acknowledge_alert(request).await.map_err(refused)?.into_inner();
    answer.alert.iter().try_for_each(|alert| print(&entry(alert)))
}

fn refused(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

/// Goes on where it was after every interruption, until it is stopped.
async fn follow(processor: &Processor, machines: Vec<String>) -> anyhow::Result<()> {
    let mut reading = Reading::default();
    let mut wait = RETRY_SECONDS_FIRST;
    loop {
        match read(processor, &machines, &mut reading).await {
            Ok(()) => wait = RETRY_SECONDS_FIRST,
            Err(ReadError::Final(e)) => return Err(e),
            Err(ReadError::Again(reason)) => {
                print(&format!("-- {reason}; trying again in {wait} s"))?;
                tokio::time::sleep(Duration::from_secs(wait)).await;
                wait = (wait * 2).min(RETRY_SECONDS_MAX);
            }
        }
    }
}

enum ReadError {
    Again(String),
    Final(anyhow::Error),
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::Unauthenticated | Code::Unimplemented => Self::Final(refused(status)),
            _ => Self::Again(status.message().to_string()),
        }
    }
}

/// One connection's worth of the stream. Ok: the server asks to call again.
async fn read(processor: &Processor, machines: &[String], reading: &mut Reading) -> Result<(), ReadError> {
    let mut client = connect(processor).await.map_err(|e| ReadError::Again(format!("{e:#}")))?;
    let request = StreamAlertsRequest { resume_token: reading.token.clone(), machines: machines.to_vec() };
    let mut stream = client.stream_alerts(request).await?.into_inner();
    while let Some(response) = stream.message().await? {
        if !response.resume_token.is_empty() {
            reading.token = response.resume_token;
        }
        let missed = matches!(response.event, Some(Event::Missed(_)));
        for line in response.event.map(|event| reading.lines(event)).unwrap_or_default() {
            print(&line).map_err(ReadError::Final)?;
        }
        if missed {
            return Ok(());
        }
    }
    Err(ReadError::Again("the stream ended".into()))
}

/// What this terminal has seen.
#[derive(Default)]
struct Reading {
    token: String,
    /// What was printed of each open one, by id.
    open: HashMap<String, String>,
    live: bool,
}

impl Reading {
    fn lines(&mut self, event: Event) -> Vec<String> {
        match event {
            Event::Alert(alert) => self.alert(alert),
            Event::Live(_) if self.live => Vec::new(),
            Event::Live(_) => {
                self.live = true;
                vec![format!("-- live, {} open; acknowledge with: alerts ack ID --author NAME", self.open.len())]
            }
            Event::Missed(missed) => vec![format!("-- too slow: {} events were left out", missed.events)],
            Event::Reset(_) => {
                self.open.clear();
                self.live = false;
                vec!["-- the processor started anew; these are the open alerts:".into()]
            }
        }
    }

    /// Nothing, where only the commit was confirmed.
    fn alert(&mut self, alert: Alert) -> Vec<String> {
        let line = entry(&alert);
        let news = match alert.state() {
            // The commit of a closing comes after it was printed.
            AlertState::Closed => self.open.remove(&alert.id).is_some() || alert.provisional,
            _ => self.open.insert(alert.id, line.clone()).is_none_or(|last| last != line),
        };
        if news { vec![line] } else { Vec::new() }
    }
}

/// The first digits are enough to name it.
fn entry(alert: &Alert) -> String {
    format!("[{}] {}", alert.id.chars().take(8).collect::<String>(), text::line(alert))
}

/// A closed pipe (`| head`) is an end, not a panic.
fn print(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("the terminal is gone")
}

#[cfg(test)]
mod tests {
    use proto::wire::alert::{Live, Reset};

    use super::*;

    fn alert(state: AlertState, provisional: bool) -> Event {
        let (id, state) = ("0123456789abcdef".into(), state.into());
        Event::Alert(Alert { id, state, provisional, machine: "press-1".into(), ..Default::default() })
    }

    #[test]
    fn a_confirmation_is_not_news() {
        let mut reading = Reading::default();
        assert_eq!(reading.lines(alert(AlertState::Open, true)).len(), 1);
        assert_eq!(reading.lines(alert(AlertState::Open, false)).len(), 0);
        assert_eq!(reading.lines(alert(AlertState::Acknowledged, true)).len(), 1);
        assert_eq!(reading.lines(alert(AlertState::Closed, true)).len(), 1);
        assert_eq!(reading.lines(alert(AlertState::Closed, false)).len(), 0);
    }

    #[test]
    fn after_a_reset_the_list_is_printed_again() {
        let mut reading = Reading::default();
        reading.lines(alert(AlertState::Open, false));
        assert_eq!(reading.lines(Event::Live(Live {})).len(), 1);
        assert_eq!(reading.lines(Event::Live(Live {})).len(), 0);
        reading.lines(Event::Reset(Reset { incarnation: 2 }));
        assert!(reading.lines(alert(AlertState::Open, false))[0].starts_with("[01234567] "));
    }
}
