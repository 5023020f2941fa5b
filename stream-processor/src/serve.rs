//! What the crew and other programs see: gRPC, REST and the console page, all over one shared [`Board`].
//!
//! ```text
//! engine ── publish ──> Board <── read, follow ── grpc, rest, console
//!    ^                                              │
//!    └──────── Commands (bounded, answered) <───────┘
//! ```

pub mod auth;
pub mod board;
pub mod command;
mod connections;
mod console;
mod grpc;
pub mod predict;
mod rest;
mod view;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde::Deserialize;
use tokio::{net::TcpListener, task::JoinSet, time::timeout_at};
use tokio_util::sync::CancellationToken;

use auth::{TokenError, Writes};
use board::Board;
use command::Commands;
use connections::ConnectionsError;
use predict::Predictor;

use crate::tls::ServerFiles;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Holds the bearer token that every write needs; must be given if a listener is bound beyond loopback.
    pub token_file: Option<PathBuf>,
    /// PEM, for both listeners, which speak TLS then; with `key_file`.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// PEM: gRPC clients must show a certificate of this authority. Browsers and probes need none.
    pub client_ca_file: Option<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (token_file, cert_file, key_file, client_ca_file) = Default::default();
        Self { grpc: loopback(50_051), http: loopback(8_080), token_file, cert_file, key_file, client_ca_file }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServe {
    /// A listener through which anybody could write.
    #[error(
        "`serve.{key}` (--{key}): {addr} is reachable from other machines, so writes need a token: name a file that holds \
         one with serve.token_file (--token-file), or bind to 127.0.0.1"
    )]
    Unprotected { key: &'static str, addr: SocketAddr },
    #[error("`serve.{key}`: needs {needs}")]
    Half { key: &'static str, needs: &'static str },
}

impl ServeConfig {
    pub fn check(&self) -> Result<(), InvalidServe> {
        self.tls()?;
        let open = self.token_file.is_none();
        let mut exposed = [("grpc", self.grpc), ("http", self.http)].into_iter().filter(|(_, a)| !a.ip().is_loopback());
        match exposed.next() {
            Some((key, addr)) if open => Err(InvalidServe::Unprotected { key, addr }),
            _ => Ok(()),
        }
    }

    /// What the gRPC listener shows, and whom it lets in; None: without TLS.
    fn tls(&self) -> Result<Option<ServerFiles>, InvalidServe> {
        let half = |key, needs| Err(InvalidServe::Half { key, needs });
        match (&self.cert_file, &self.key_file, &self.client_ca_file) {
            (Some(certificate), Some(key), client_ca) => Ok(Some(ServerFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: client_ca.clone(),
            })),
            (Some(_), None, _) => half("cert_file", "key_file"),
            (None, Some(_), _) => half("key_file", "cert_file"),
            (None, None, Some(_)) => half("client_ca_file", "cert_file and key_file"),
            (None, None, None) => Ok(None),
        }
    }

    /// Relative paths begin at this folder.
    pub fn based(self, base: &Path) -> Self {
        let based = |file: Option<PathBuf>| file.map(|file| base.join(file));
        ServeConfig {
            token_file: based(self.token_file),
            cert_file: based(self.cert_file),
            key_file: based(self.key_file),
            client_ca_file: based(self.client_ca_file),
            ..self
        }
    }
}

/// What is served.
#[derive(Clone)]
pub struct Services {
    pub board: Board,
    pub commands: Commands,
    pub model: Arc<dyn Predictor>,
    /// The text of `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the {role} port {addr} is in use: stop what uses it, or choose another one with --{key} or serve.{key}")]
    Busy { role: &'static str, key: &'static str, addr: SocketAddr },
    #[error("the {role} port {addr} can't be opened: {source}; choose another one with --{key} or serve.{key}")]
    Bind { role: &'static str, key: &'static str, addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Invalid(#[from] InvalidServe),
    #[error("{role}: {source}")]
    Connections { role: &'static str, source: ConnectionsError },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the gRPC descriptors can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The open listeners.
#[derive(Debug)]
pub struct Serving {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    tasks: JoinSet<()>,
}

/// Opens both listeners or none. Everything ends when `stop` is cancelled.
pub async fn start(config: &ServeConfig, services: Services, stop: CancellationToken) -> Result<Serving, ServeError> {
    let writes = writes(config)?;
    let grpc = bind("gRPC", "grpc", config.grpc).await?;
    let http = bind("HTTP", "http", config.http).await?;
    let (grpc_addr, http_addr) = (local(&grpc, config.grpc), local(&http, config.http));
    let mut tasks = JoinSet::new();
    let for_grpc = config.tls()?;
    let for_http = for_grpc.clone().map(|files| ServerFiles { client_ca: None, ..files });
    let failed = |role| move |source| ServeError::Connections { role, source };
    let grpc = connections::accept(&mut tasks, grpc, for_grpc.as_ref(), &[b"h2"], &stop).map_err(failed("gRPC"))?;
    let http = connections::accept(&mut tasks, http, for_http.as_ref(), &[b"h2", b"http/1.1"], &stop)
        .map_err(failed("HTTP"))?;
    grpc::spawn(&mut tasks, grpc, services.clone(), writes.clone(), stop.clone())?;
    rest::spawn(&mut tasks, http, services, writes, stop);
    Ok(Serving { grpc: grpc_addr, http: http_addr, tasks })
}

impl Serving {
    /// After `stop`: streams are told to end at once, and a client that has not read that by `until` is cut off.
    pub async fn stopped(mut self, until: Instant) {
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if timeout_at(until.into(), drained).await.is_err() {
            tracing::info!("clients that did not hang up were cut off");
            self.tasks.shutdown().await;
        }
    }
}

fn writes(config: &ServeConfig) -> Result<Writes, ServeError> {
    config.check()?;
    Ok(config.token_file.as_deref().map_or(Ok(Writes::local()), Writes::with_token)?)
}

async fn bind(role: &'static str, key: &'static str, addr: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::Busy { role, key, addr },
        _ => ServeError::Bind { role, key, addr, source },
    })
}

/// The port that was given for 0.
fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

#[cfg(test)]
mod tests;
