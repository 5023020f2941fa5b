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
    time::Instant,
};

use serde::Deserialize;
use tokio::{net::TcpListener, task::JoinSet, time::timeout_at};
use tokio_util::sync::CancellationToken;

use auth::{TokenError, Writes};
use board::Board;
use command::Commands;
use predict::Predictor;

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

/// A listener through which anybody could write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`serve.{key}` (--{key}): {addr} is reachable from other machines, so writes need a token: name a file that holds \
     one with serve.token_file (--token-file), or bind to 127.0.0.1"
)]
pub struct Unprotected {
    key: &'static str,
    addr: SocketAddr,
}

impl ServeConfig {
    pub fn check(&self) -> Result<(), Unprotected> {
        let open = self.token_file.is_none();
        let mut exposed = [("grpc", self.grpc), ("http", self.http)].into_iter().filter(|(_, a)| !a.ip().is_loopback());
        match exposed.next() {
            Some((key, addr)) if open => Err(Unprotected { key, addr }),
            _ => Ok(()),
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
    Unprotected(#[from] Unprotected),
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
