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
mod console;
mod grpc;
pub mod predict;
mod rest;
mod view;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use auth::{TokenError, Writes};
use board::Board;
use command::Commands;
use predict::Predictor;

/// Streams are told to end at once; a client that does not read that is cut off after this.
const DRAIN_SECONDS_MAX: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Holds the bearer token that every write needs; must be given if a listener is bound beyond loopback.
    pub token_file: Option<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { grpc: loopback(50_051), http: loopback(8_080), token_file: None }
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
    #[error("the {role} port {addr} is in use: stop what uses it, or choose another one with {flag}")]
    Busy { role: &'static str, addr: SocketAddr, flag: &'static str },
    #[error("the {role} port {addr} can't be opened: {source}; choose another one with {flag}")]
    Bind { role: &'static str, addr: SocketAddr, flag: &'static str, source: io::Error },
    #[error(
        "serve.{key} = {addr} is reachable from other machines, so writes need a token: set serve.token_file to a file \
         that holds one, or bind to 127.0.0.1"
    )]
    Unprotected { key: &'static str, addr: SocketAddr },
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
    stop: CancellationToken,
}

/// Opens both listeners or none. Everything ends when `stop` is cancelled.
pub async fn start(config: &ServeConfig, services: Services, stop: CancellationToken) -> Result<Serving, ServeError> {
    let writes = writes(config)?;
    let grpc = bind("gRPC", "--grpc", config.grpc).await?;
    let http = bind("HTTP", "--http", config.http).await?;
    let (grpc_addr, http_addr) = (local(&grpc, config.grpc), local(&http, config.http));
    let mut tasks = JoinSet::new();
    grpc::spawn(&mut tasks, grpc, services.clone(), writes.clone(), stop.clone())?;
    rest::spawn(&mut tasks, http, services, writes, stop.clone());
    Ok(Serving { grpc: grpc_addr, http: http_addr, tasks, stop })
}

impl Serving {
    /// Waits for the end of all connections, after `stop` for a bounded time only.
    pub async fn stopped(mut self) {
        self.stop.cancelled().await;
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await.is_err() {
            tracing::info!("clients that did not hang up were cut off");
            self.tasks.shutdown().await;
        }
    }
}

fn writes(config: &ServeConfig) -> Result<Writes, ServeError> {
    match &config.token_file {
        Some(path) => Ok(Writes::with_token(path)?),
        None => match [("grpc", config.grpc), ("http", config.http)].into_iter().find(|(_, a)| !a.ip().is_loopback()) {
            Some((key, addr)) => Err(ServeError::Unprotected { key, addr }),
            None => Ok(Writes::local()),
        },
    }
}

async fn bind(role: &'static str, flag: &'static str, addr: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::Busy { role, addr, flag },
        _ => ServeError::Bind { role, addr, flag, source },
    })
}

/// The port that was given for 0.
fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

#[cfg(test)]
mod tests;
