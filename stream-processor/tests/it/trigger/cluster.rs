//! A stand-in of the Kubernetes API: one CronJob, and the Jobs of its namespace, over TLS and for one token.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use stream_processor::tls::{ServerFiles, server_config};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::tls::Authority;

pub const CRONJOB: &str = "trainer";
const TOKEN: &str = "token-of-the-account";

/// What is wrong with the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    None,
    /// The Role is missing.
    Forbidden,
    /// It is no API server.
    Nonsense,
    /// It closes connections.
    HangsUp,
    /// It takes connections and says nothing.
    Silent,
}

#[derive(Debug)]
struct Held {
    trouble: Trouble,
    jobs: Vec<Value>,
}

type Shared = Arc<Mutex<Held>>;

pub struct StandIn {
    addr: SocketAddr,
    held: Shared,
    /// As the kubelet projects it.
    account: TempDir,
    server: JoinHandle<()>,
}

impl StandIn {
    /// None: openssl is missing.
    pub async fn start(trouble: Trouble) -> Option<Self> {
        let authority = Authority::new()?;
        let [certificate, key] = authority.issue("api").map(Into::into);
        let tls = server_config(&ServerFiles { certificate, key, client_ca: None }).unwrap();
        let account = tempfile::tempdir().unwrap();
        fs::copy(authority.ca(), account.path().join("ca.crt")).unwrap();
        fs::write(account.path().join("token"), format!("{TOKEN}\n")).unwrap();
        fs::write(account.path().join("namespace"), "millwright").unwrap();
        let held = Arc::new(Mutex::new(Held { trouble, jobs: Vec::new() }));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = Tls { socket, acceptor: TlsAcceptor::from(Arc::new(tls)), held: held.clone() };
        let router = router(held.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Some(StandIn { addr, held, account, server })
    }

    pub fn server(&self) -> String {
        format!("https://{}", self.addr)
    }

    pub fn account(&self) -> &Path {
        self.account.path()
    }

    pub fn made(&self) -> Vec<Value> {
        self.held.lock().unwrap().jobs.clone()
    }

    pub fn is_well_again(&self) {
        self.held.lock().unwrap().trouble = Trouble::None;
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Tls {
    socket: TcpListener,
    acceptor: TlsAcceptor,
    held: Shared,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let mut silent = Vec::new();
        loop {
            let (stream, addr) = self.socket.accept().await.unwrap();
            if self.held.lock().unwrap().trouble == Trouble::Silent {
                silent.push(stream);
                continue;
            }
            let Ok(stream) = self.acceptor.accept(stream).await else { continue };
            if self.held.lock().unwrap().trouble != Trouble::HangsUp {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

fn router(held: Shared) -> Router {
    let namespace = "/apis/batch/v1/namespaces/millwright";
    Router::new()
        .route(&format!("{namespace}/cronjobs/{CRONJOB}"), get(cronjob))
        .route(&format!("{namespace}/jobs"), get(jobs).post(create))
        .fallback(async || status(StatusCode::NOT_FOUND, "the server could not find the requested resource"))
        .layer(from_fn_with_state(held.clone(), guard))
        .with_state(held)
}

/// An error as the API server words it.
fn status(code: StatusCode, message: &str) -> Response {
    (code, Json(json!({"kind": "Status", "status": "Failure", "message": message, "code": code.as_u16()})))
        .into_response()
}

async fn guard(State(held): State<Shared>, headers: HeaderMap, request: Request, next: Next) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|v| v.as_bytes() != format!("Bearer {TOKEN}").as_bytes()) {
        return status(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let trouble = held.lock().unwrap().trouble;
    match trouble {
        Trouble::Forbidden => status(StatusCode::FORBIDDEN, "jobs.batch is forbidden: User cannot list resource"),
        Trouble::Nonsense => "<html>".into_response(),
        _ => next.run(request).await,
    }
}

async fn cronjob() -> Json<Value> {
    Json(json!({
        "kind": "CronJob", "metadata": {"name": CRONJOB, "uid": "uid-of-the-cronjob"},
        "spec": {"jobTemplate": {"spec": {"backoffLimit": 2, "template": {"spec": {"restartPolicy": "Never"}}}}},
    }))
}

async fn jobs(State(held): State<Shared>) -> Json<Value> {
    Json(json!({"kind": "JobList", "metadata": {}, "items": held.lock().unwrap().jobs}))
}

async fn create(State(held): State<Shared>, Json(mut job): Json<Value>) -> Response {
    let jobs = &mut held.lock().unwrap().jobs;
    if jobs.iter().any(|held| held["metadata"]["name"] == job["metadata"]["name"]) {
        return status(StatusCode::CONFLICT, "jobs.batch already exists");
    }
    job["metadata"]["creationTimestamp"] = "2026-01-01T00:00:01Z".into();
    jobs.push(job.clone());
    (StatusCode::CREATED, Json(job)).into_response()
}
