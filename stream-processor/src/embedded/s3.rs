//! An S3 endpoint on a local folder, for a factory that has none yet.
//!
//! s3s-fs speaks the protocol; what it does not promise is added around it: a PUT answers only after the file and its
//! folder are fsynced, conditional PUTs are serialised (its own check lets several writers win), one process owns the
//! folder, and what it holds is bounded: superseded snapshots go, and over the bound a PUT is answered as by an S3 that
//! is away, so that the pipeline pauses and the gateways keep what comes.

pub mod room;
mod snapshots;

use std::{
    error::Error,
    fs::{self, File, TryLockError},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    S3, S3Error, S3Request, S3Response, S3Result,
    auth::SimpleAuth,
    dto::{
        CreateBucketInput, CreateBucketOutput, DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput,
        HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
        ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput,
    },
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::{
    net::TcpListener,
    sync::{Mutex, RwLock},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use room::Room;

const LOCK_FILE: &str = "lock";
const OBJECTS: &str = "s3";
/// Small, and without them nothing that is uploaded already would count: they are written over the bound, too.
const MANIFESTS: &str = "manifest/";

#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

#[derive(Debug, thiserror::Error)]
pub enum S3ServerError {
    #[error("the S3 endpoint can't listen on {addr}: {reason}; choose another address with --s3")]
    Bind { addr: SocketAddr, reason: io::Error },
    #[error("{folder} is in use by another factory; stop it, or take another folder with --data")]
    Locked { folder: PathBuf },
    #[error("{folder}: {reason}")]
    Folder { folder: PathBuf, reason: String },
}

/// A running endpoint; it ends when dropped or stopped.
pub struct S3Server {
    pub addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Held for as long as this process owns the folder.
    _lock: File,
}

impl S3Server {
    /// [`Self::bounded`], by the usual bound.
    pub async fn start(folder: &Path, addr: SocketAddr, bucket: &str, keys: &Keys) -> Result<Self, S3ServerError> {
        Self::bounded(folder, addr, bucket, keys, room::BYTES_MAX).await
    }

    /// Serves `folder`/s3 with one bucket, and takes no more than `bytes_max`.
    pub async fn bounded(
        folder: &Path,
        addr: SocketAddr,
        bucket: &str,
        keys: &Keys,
        bytes_max: u64,
    ) -> Result<Self, S3ServerError> {
        let lock = lock(folder)?;
        let root = folder.join(OBJECTS);
        let broken = |reason: String| S3ServerError::Folder { folder: root.clone(), reason };
        fs::create_dir_all(root.join(bucket)).map_err(|e| broken(e.to_string()))?;
        let inner = FileSystem::new(&root).map_err(|e| broken(format!("{e:?}")))?;
        let room = Room::new(&root, bytes_max).map_err(|e| broken(e.to_string()))?;
        let durable =
            Durable { inner, root: root.clone(), conditional: Arc::default(), replacing: RwLock::default(), room };
        let mut service = S3ServiceBuilder::new(durable);
        service.set_auth(SimpleAuth::from_single(keys.access.clone(), keys.secret.clone()));
        let listener = TcpListener::bind(addr).await.map_err(|reason| S3ServerError::Bind { addr, reason })?;
        let addr = listener.local_addr().map_err(|reason| S3ServerError::Bind { addr, reason })?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, service.build(), stop.clone()));
        Ok(S3Server { addr, stop, task, _lock: lock })
    }

    /// Takes no new connection; the open ones end with the process.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(e) = self.task.await {
            tracing::warn!(error = %e, "the embedded S3 endpoint did not stop cleanly");
        }
    }
}

fn lock(folder: &Path) -> Result<File, S3ServerError> {
    let broken = |e: io::Error| S3ServerError::Folder { folder: folder.into(), reason: e.to_string() };
    fs::create_dir_all(folder).map_err(broken)?;
    let file = File::create(folder.join(LOCK_FILE)).map_err(broken)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(S3ServerError::Locked { folder: folder.into() }),
        Err(TryLockError::Error(e)) => Err(broken(e)),
    }
}

async fn serve(listener: TcpListener, service: S3Service, stop: CancellationToken) {
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(e) => {
                    tracing::warn!(error = %e, "the embedded S3 endpoint can't accept a connection");
                    continue;
                }
            },
        };
        let _ = socket.set_nodelay(true);
        let service = service.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let http = Builder::new(TokioExecutor::new());
            let connection = http.serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                () = stop.cancelled() => {}
                ended = connection => if let Err(e) = ended {
                    tracing::debug!(error = %e, "a connection to the embedded S3 endpoint ended");
                }
            }
        });
    }
}

/// s3s-fs with durable, serialised and bounded writes.
struct Durable {
    inner: FileSystem,
    root: PathBuf,
    /// Held from the check to the end of the write.
    conditional: Arc<Mutex<()>>,
    /// s3s-fs renames an object's content and its checksums one after the other: who reads between gets two that do not belong
    /// together. Written while an object is replaced, read while one is opened.
    replacing: RwLock<()>,
    room: Room,
}

impl Durable {
    fn bytes(&self, bucket: &str, key: &str) -> u64 {
        fs::metadata(self.root.join(bucket).join(key)).map_or(0, |meta| meta.len())
    }

    /// As an S3 that is away answers: the client tries again.
    fn check_room(&self, key: &str, more: u64) -> S3Result<()> {
        match self.room.check(more) {
            Err(_) if !key.starts_with(MANIFESTS) => Err(s3_error!(ServiceUnavailable, "there is no room")),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: S3Error) -> S3Error {
        if is_disk_full(&error) {
            self.room.disk_is_full();
        }
        error
    }

    /// Not worth an error: the next manifest finds them again.
    fn remove_superseded(&self, bucket: &str, manifest: &str) {
        let folder = self.root.join(bucket);
        let removed = snapshots::superseded(&folder, &folder.join(manifest)).and_then(|keys| {
            keys.iter().try_for_each(|key| {
                let bytes = self.bytes(bucket, key);
                fs::remove_file(folder.join(key))?;
                self.forget(bucket, key, bytes);
                Ok(())
            })
        });
        if let Err(e) = removed {
            tracing::debug!(error = %e, "superseded snapshots stay for now");
        }
    }

    /// The object has been removed; s3s-fs leaves its attributes and checksums behind.
    fn forget(&self, bucket: &str, key: &str, bytes: u64) {
        let (bucket, key) = (URL_SAFE_NO_PAD.encode(bucket), URL_SAFE_NO_PAD.encode(key));
        for part in ["metadata", "internal"] {
            let _ = fs::remove_file(self.root.join(format!(".bucket-{bucket}.object-{key}.{part}.json")));
        }
        self.room.changed(bytes, 0);
    }

    async fn sync(&self, bucket: &str, key: &str) -> S3Result<()> {
        let root = self.root.clone();
        let path = root.join(bucket).join(key);
        let synced = tokio::task::spawn_blocking(move || sync_up_to(&path, &root)).await;
        match synced {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(s3_error!(InternalError, "fsync failed: {e}")),
            Err(e) => Err(s3_error!(InternalError, "fsync failed: {e}")),
        }
    }
}

fn is_disk_full(error: &S3Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The file, and every folder above it that may have been made for it.
fn sync_up_to(path: &Path, root: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    let folders = path.ancestors().skip(1).take_while(|f| f.starts_with(root));
    folders.into_iter().try_for_each(|folder| File::open(folder)?.sync_all())
}

#[async_trait::async_trait]
impl S3 for Durable {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        let conditional = req.input.if_none_match.is_some() || req.input.if_match.is_some();
        let _one_at_a_time = match conditional {
            true => Some(self.conditional.lock().await),
            false => None,
        };
        let before = self.bytes(&bucket, &key);
        let more = u64::try_from(req.input.content_length.unwrap_or(0)).unwrap_or(0).saturating_sub(before);
        self.check_room(&key, more)?;
        let response = {
            let _nobody_opens_it = if before > 0 { Some(self.replacing.write().await) } else { None };
            self.inner.put_object(req).await.map_err(|e| self.failed(e))?
        };
        self.sync(&bucket, &key).await?;
        self.room.changed(before, self.bytes(&bucket, &key));
        if key.starts_with(MANIFESTS) {
            self.remove_superseded(&bucket, &key);
        }
        Ok(response)
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        // What is opened stays as it was.
        let _is_of_one_piece = self.replacing.read().await;
        self.inner.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.inner.head_object(req).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        let bytes = self.bytes(&bucket, &key);
        let response = self.inner.delete_object(req).await?;
        self.forget(&bucket, &key, bytes);
        Ok(response)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.inner.list_objects_v2(req).await
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.inner.create_bucket(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.inner.head_bucket(req).await
    }

    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.inner.list_buckets(req).await
    }
}

#[cfg(test)]
mod tests;
