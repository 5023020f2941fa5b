//! The Kubernetes API from inside a pod, as far as a trigger needs it: one call at a time, with the token and the authority of
//! the pod's service account. Both are read for each call, since a kubelet renews them.

use std::{fs, future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{Method, Request, StatusCode, Uri, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proto::broker::TlsFiles;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::tls::{TlsError, client_config};

/// From the first packet to the last byte of the answer.
const CALL_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
const TOKEN: &str = "token";
const AUTHORITY: &str = "ca.crt";
const NAMESPACE: &str = "namespace";
const HTTPS_PORT: u16 = 443;

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("{}: {source}; is the service account's token mounted?", path.display())]
    Account { path: PathBuf, source: io::Error },
    #[error("{0}: no address of an API server")]
    Address(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the API server {server} can't be reached: {source}")]
    Connect { server: String, source: io::Error },
    #[error("the API server broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("{call}: no answer within {call_max:?}")]
    Slow { call: String, call_max: Duration },
    #[error("{call}: an answer that can't be used: {reason}")]
    Answer { call: String, reason: String },
    #[error("{call}: the service account may not ({status}): {message}; see the Role `retraining-trigger`")]
    Denied { call: String, status: u16, message: String },
    #[error("{call}: {status}: {message}")]
    Refused { call: String, status: u16, message: String },
}

impl ClusterError {
    /// What the API server answered, if it is that.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClusterError::Denied { status, .. } | ClusterError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

pub struct Cluster {
    /// Without a scheme: a name or an address, and perhaps a port.
    server: Uri,
    /// The folder into which the kubelet projects the service account.
    account: PathBuf,
    call_max: Duration,
}

impl Cluster {
    /// `server`: as https://host:port.
    pub fn new(server: &str, account: PathBuf) -> Result<Self, ClusterError> {
        let no_address = || ClusterError::Address(server.into());
        let server: Uri = server.parse().map_err(|_| no_address())?;
        let is_https = server.scheme_str() == Some("https") && server.host().is_some();
        if is_https { Ok(Cluster { server, account, call_max: CALL_MAX }) } else { Err(no_address()) }
    }

    /// Another bound on each call.
    pub fn within(self, call_max: Duration) -> Self {
        Cluster { call_max, ..self }
    }

    /// The pod's own.
    pub fn namespace(&self) -> Result<String, ClusterError> {
        self.read(NAMESPACE)
    }

    pub async fn get(&self, path: &str) -> Result<Value, ClusterError> {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClusterError> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClusterError> {
        let call = format!("{method} {path}");
        let host = self.server.authority().map_or("", |a| a.as_str());
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let unsendable = |e: &dyn std::fmt::Display| ClusterError::Answer { call: call.clone(), reason: e.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.read(TOKEN)?))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|e| unsendable(&e))?;
        let answer = timeout(self.call_max, self.send(&call, request)).await;
        let (status, bytes) =
            answer.map_err(|_| ClusterError::Slow { call: call.clone(), call_max: self.call_max })??;
        let answer: Result<Value, _> = serde_json::from_slice(&bytes);
        if status.is_success() {
            return answer.map_err(|e| ClusterError::Answer { call, reason: e.to_string() });
        }
        // A `Status`, if it is the API server that answers.
        let message = answer.ok().and_then(|v| v["message"].as_str().map(str::to_owned)).unwrap_or_default();
        let number = status.as_u16();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ClusterError::Denied { call, status: number, message })
            }
            _ => Err(ClusterError::Refused { call, status: number, message }),
        }
    }

    async fn send(&self, call: &str, request: Request<Body>) -> Result<(StatusCode, Bytes), ClusterError> {
        let host = self.server.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.server.port_u16().unwrap_or(HTTPS_PORT);
        let unreachable = |source| ClusterError::Connect { server: format!("{host}:{port}"), source };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ClusterError::Address(host.into()))?;
        let authority = TlsFiles { ca: self.account.join(AUTHORITY), client: None };
        let connector = TlsConnector::from(Arc::new(client_config(&authority)?));
        let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        let stream = connector.connect(name, stream).await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let unread = |e: axum::Error| ClusterError::Answer { call: call.into(), reason: e.to_string() };
            Ok((head.status, to_bytes(Body::new(body), ANSWER_BYTES_MAX).await.map_err(unread)?))
        };
        with(connection, exchange).await
    }

    fn read(&self, name: &str) -> Result<String, ClusterError> {
        let path = self.account.join(name);
        let text = fs::read_to_string(&path).map_err(|source| ClusterError::Account { path, source })?;
        Ok(text.trim().into())
    }
}

/// The exchange needs its connection to be driven, and ends with it.
async fn with<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    exchange: impl Future<Output = Result<T, ClusterError>>,
) -> Result<T, ClusterError> {
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}
