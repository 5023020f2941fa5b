//! Connections to a listener, in TLS if it is configured. A handshake holds nobody else up, and a certificate that is renewed
//! on disk is shown to whoever comes next.

use std::{
    fs, future, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::transport::server::Connected;

use crate::tls::{ServerFiles, TlsError, server_config};

/// Accepted and not taken over by a server yet.
const CONNECTIONS_QUEUED_MAX: usize = 64;
/// More than these wait in the kernel's queue.
const HANDSHAKES_AT_ONCE_MAX: usize = 64;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// The kernel is short of something, descriptors for instance.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
const FILES_LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// One of them.
pub struct Connection(Either<TcpStream, Box<TlsStream<TcpStream>>>);

/// What a server takes them from.
pub struct Connections {
    accepted: mpsc::Receiver<Connection>,
    addr: SocketAddr,
}

type Tls = Option<watch::Receiver<Arc<ServerConfig>>>;

/// Accepts until `stop`. `protocols`: those that the server speaks, in ALPN's names.
pub fn accept(
    tasks: &mut JoinSet<()>,
    listener: TcpListener,
    tls: Option<&ServerFiles>,
    protocols: &'static [&'static [u8]],
    stop: &CancellationToken,
) -> Result<Connections, ConnectionsError> {
    let addr = listener.local_addr()?;
    let tls = tls.map(|files| renewed(tasks, files.clone(), protocols, stop)).transpose()?;
    let (queue, accepted) = mpsc::channel(CONNECTIONS_QUEUED_MAX);
    let ended = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = accept_all(listener, tls, queue) => {}
        }
    });
    Ok(Connections { accepted, addr })
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    #[error(transparent)]
    Listener(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

async fn accept_all(listener: TcpListener, tls: Tls, queue: mpsc::Sender<Connection>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE_MAX));
    // Dropped with this, which ends them.
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
        let (queue, config) = (queue.clone(), tls.as_ref().map(|tls| tls.borrow().clone()));
        running.spawn(async move {
            match timeout(HANDSHAKE_MAX, shake_hands(stream, config)).await {
                Ok(Ok(connection)) => drop(queue.send(connection).await),
                // Anybody can cause these.
                Ok(Err(error)) => tracing::debug!(%error, "a client was not let in"),
                Err(_) => tracing::debug!("a client did not say who it is"),
            }
            drop(permit);
        });
    }
}

async fn shake_hands(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Connection> {
    match tls {
        Some(config) => Ok(Connection(Either::Right(Box::new(TlsAcceptor::from(config).accept(stream).await?)))),
        None => Ok(Connection(Either::Left(stream))),
    }
}

/// What the files say, again and again. A renewal that can't be used leaves the old one in force.
fn renewed(
    tasks: &mut JoinSet<()>,
    files: ServerFiles,
    protocols: &'static [&'static [u8]],
    stop: &CancellationToken,
) -> Result<watch::Receiver<Arc<ServerConfig>>, TlsError> {
    let config = move |files: &ServerFiles| -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = server_config(files)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    };
    let mut seen = contents(&files);
    let (current, follow) = watch::channel(config(&files)?);
    let stop = stop.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(FILES_LOOKED_AT_EVERY) => {}
            }
            let now = contents(&files);
            if now == seen {
                continue;
            }
            seen = now;
            match config(&files) {
                Ok(config) => {
                    tracing::info!(file = %files.certificate.display(), "certificates are renewed");
                    current.send_replace(config);
                }
                Err(error) => tracing::warn!(%error, "renewed certificates can't be used; the old ones stay in force"),
            }
        }
    });
    Ok(follow)
}

/// A few small files; None: one can't be read.
fn contents(files: &ServerFiles) -> Option<Vec<Vec<u8>>> {
    let paths = [&files.certificate, &files.key].into_iter().chain(&files.client_ca);
    paths.map(|path| fs::read(path).ok()).collect()
}

impl axum::serve::Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.accepted.recv().await {
            Some(connection) => (connection, self.addr),
            // The server is about to be stopped.
            None => future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
