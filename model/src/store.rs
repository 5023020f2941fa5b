//! S3 access for the processor, the trainer and the registry: bounded sizes, times and retries, conditional writes.
//!
//! "Is there already" (412) and "is not there" (404) are answers, not errors. A retried conditional write may find
//! its own first try there: whoever gets [`PutOutcome::Exists`] compares the content before drawing conclusions.

use std::{path::Path, sync::Arc, time::Duration};

use aws_sdk_s3::{Client, operation::put_object::builders::PutObjectFluentBuilder, primitives::ByteStream};
use bytes::Bytes;
use tokio::{fs::File, io::AsyncWriteExt};

mod config;
mod error;
pub mod objects;
pub mod memory;
pub mod schema;
pub mod manifests;
pub mod listing;

pub use config::{ConfigError, InvalidS3, S3Config};
pub use error::{Operation, StoreError};

use error::Meters;

/// Larger objects are not read into memory. Compaction makes none of this size.
pub const OBJECT_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// A file has more time the larger it is: so much even a slow line carries.
const UPLOAD_BYTES_PER_MS_MIN: u64 = 1_000;
/// Keys that one call of [`Store::list`] returns at most.
pub const LIST_KEYS_MAX: i32 = 1000;
/// S3 answers 409 when two conditional writes of one key meet; the loser tries again.
const CONFLICT_ATTEMPTS_MAX: u32 = 5;
const CONFLICT_PAUSE_MS: u64 = 50;

/// One bucket. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Client,
    bucket: Arc<str>,
    meters: Meters,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: String,
    pub bytes: u64,
    pub etag: String,
}

/// The answer to a put that must not overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    Created,
    /// Something is there already; perhaps an earlier try of the same write.
    Exists,
}

/// The answer to a put that must overwrite exactly what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceOutcome {
    Replaced,
    /// It has changed since.
    Conflict,
}

impl Store {
    /// Uses the global meter provider that is set at this moment.
    pub async fn open(config: &S3Config) -> Result<Self, ConfigError> {
        let client = config.client().await?;
        Ok(Store { client, bucket: config.bucket.as_str().into(), meters: Meters::new() })
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// None: there is no such object.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get_with_etag(key).await?.map(|(bytes, _)| bytes))
    }

    /// An answer that breaks off, or is not of one piece since the object was replaced under it, is asked for once more: the
    /// client tries again only what never began.
    pub async fn get_with_etag(&self, key: &str) -> Result<Option<(Bytes, String)>, StoreError> {
        match self.get_once(key).await {
            Err(e) if e.is_interrupted() => self.get_once(key).await,
            read => read,
        }
    }

    async fn get_once(&self, key: &str) -> Result<Option<(Bytes, String)>, StoreError> {
        self.meters.request(Operation::Get);
        let sent = self.client.get_object().bucket(&*self.bucket).key(key).send().await;
        let object = match sent.map_err(|e| StoreError::from_sdk(Operation::Get, key, e)) {
            Ok(object) => object,
            Err(e) if e.is_missing_key() => return Ok(None),
            Err(e) => return Err(self.meters.error(e)),
        };
        let etag = object.e_tag.clone().unwrap_or_default();
        let bytes = read_bounded(key, object.body).await.map_err(|e| self.meters.error(e))?;
        Ok(Some((bytes, etag)))
    }

    /// Into a file, chunk by chunk, whatever its size; gives back how many bytes it has. None: there is no such object.
    pub async fn get_file(&self, key: &str, path: &Path) -> Result<Option<u64>, StoreError> {
        self.meters.request(Operation::Get);
        let sent = self.client.get_object().bucket(&*self.bucket).key(key).send().await;
        let object = match sent.map_err(|e| StoreError::from_sdk(Operation::Get, key, e)) {
            Ok(object) => object,
            Err(e) if e.is_missing_key() => return Ok(None),
            Err(e) => return Err(self.meters.error(e)),
        };
        let bytes = write_file(key, object.body, path).await.map_err(|e| self.meters.error(e))?;
        Ok(Some(bytes))
    }

    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.send_put(key, self.put_request(key).body(bytes.into())).await
    }

    /// The file's content as it is when it is sent.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let failed = |e: &dyn std::error::Error| StoreError::file(Operation::Put, key, e);
        let bytes = tokio::fs::metadata(path).await.map_err(|e| failed(&e))?.len();
        let body = ByteStream::from_path(path).await.map_err(|e| failed(&e))?;
        let put = self.put_request(key).body(body);
        self.meters.request(Operation::Put);
        let patience = config::timeouts(Duration::from_millis(bytes / UPLOAD_BYTES_PER_MS_MIN));
        let settings = aws_sdk_s3::config::Builder::new().timeout_config(patience);
        let sent = put.customize().config_override(settings).send().await;
        sent.map(drop).map_err(|e| self.meters.error(StoreError::from_sdk(Operation::Put, key, e)))
    }

    /// Writes only if there is no such object yet (`If-None-Match: *`).
    pub async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StoreError> {
        let put = || self.put_request(key).if_none_match("*").body(bytes.clone().into());
        let written = self.put_conditionally(key, put).await?;
        Ok(if written { PutOutcome::Created } else { PutOutcome::Exists })
    }

    /// Writes only if the object is still the one with this ETag.
    pub async fn replace_if_match(&self, key: &str, bytes: Bytes, etag: &str) -> Result<ReplaceOutcome, StoreError> {
        let put = || self.put_request(key).if_match(etag).body(bytes.clone().into());
        match self.put_conditionally(key, put).await {
            Ok(true) => Ok(ReplaceOutcome::Replaced),
            Ok(false) => Ok(ReplaceOutcome::Conflict),
            Err(e) if e.is_missing_key() => Ok(ReplaceOutcome::Conflict),
            Err(e) => Err(e),
        }
    }

    /// None: there is no such object.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.meters.request(Operation::Head);
        let sent = self.client.head_object().bucket(&*self.bucket).key(key).send().await;
        match sent.map_err(|e| StoreError::from_sdk(Operation::Head, key, e)) {
            Ok(head) => {
                let bytes = head.content_length.and_then(|n| n.try_into().ok()).unwrap_or(0);
                Ok(Some(ObjectMeta { key: key.into(), bytes, etag: head.e_tag.unwrap_or_default() }))
            }
            Err(e) if e.is_missing_key() => Ok(None),
            Err(e) => Err(self.meters.error(e)),
        }
    }

    /// The first [`LIST_KEYS_MAX`] objects after `start_after`, in the order of their keys; an empty answer ends a walk.
    pub async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.meters.request(Operation::List);
        let request = self.client.list_objects_v2().bucket(&*self.bucket).prefix(prefix).max_keys(LIST_KEYS_MAX);
        let sent = request.set_start_after(start_after.map(String::from)).send().await;
        let page = sent.map_err(|e| self.meters.error(StoreError::from_sdk(Operation::List, prefix, e)))?;
        let meta = |o: aws_sdk_s3::types::Object| {
            let bytes = o.size.and_then(|n| n.try_into().ok()).unwrap_or(0);
            o.key.map(|key| ObjectMeta { key, bytes, etag: o.e_tag.unwrap_or_default() })
        };
        Ok(page.contents.unwrap_or_default().into_iter().filter_map(meta).collect())
    }

    /// Also fine when there is no such object.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.meters.request(Operation::Delete);
        let sent = self.client.delete_object().bucket(&*self.bucket).key(key).send().await;
        match sent.map_err(|e| StoreError::from_sdk(Operation::Delete, key, e)) {
            Ok(_) => Ok(()),
            Err(e) if e.is_missing_key() => Ok(()),
            Err(e) => Err(self.meters.error(e)),
        }
    }

    pub async fn create_bucket_if_missing(&self) -> Result<(), StoreError> {
        self.meters.request(Operation::CreateBucket);
        let head = self.client.head_bucket().bucket(&*self.bucket).send().await;
        match head.map_err(|e| StoreError::from_sdk(Operation::CreateBucket, &self.bucket, e)) {
            Ok(_) => return Ok(()),
            Err(e) if e.status() == Some(404) => {}
            Err(e) => return Err(self.meters.error(e)),
        }
        let created = self.client.create_bucket().bucket(&*self.bucket).send().await;
        match created.map_err(|e| StoreError::from_sdk(Operation::CreateBucket, &self.bucket, e)) {
            Ok(_) => Ok(()),
            // Somebody else was faster.
            Err(e) if e.status() == Some(409) => Ok(()),
            Err(e) => Err(self.meters.error(e)),
        }
    }

    fn put_request(&self, key: &str) -> PutObjectFluentBuilder {
        self.client.put_object().bucket(&*self.bucket).key(key)
    }

    async fn send_put(&self, key: &str, put: PutObjectFluentBuilder) -> Result<(), StoreError> {
        self.meters.request(Operation::Put);
        let sent = put.send().await;
        sent.map(drop).map_err(|e| self.meters.error(StoreError::from_sdk(Operation::Put, key, e)))
    }

    /// False: the condition does not hold.
    async fn put_conditionally(&self, key: &str, put: impl Fn() -> PutObjectFluentBuilder) -> Result<bool, StoreError> {
        let mut attempt = 1;
        loop {
            self.meters.request(Operation::PutConditional);
            match put().send().await.map_err(|e| StoreError::from_sdk(Operation::PutConditional, key, e)) {
                Ok(_) => return Ok(true),
                Err(e) if e.status() == Some(412) => return Ok(false),
                Err(e) if e.status() == Some(409) && attempt < CONFLICT_ATTEMPTS_MAX => {
                    tokio::time::sleep(Duration::from_millis(CONFLICT_PAUSE_MS * u64::from(attempt))).await;
                    attempt += 1;
                }
                Err(e) => return Err(self.meters.error(e)),
            }
        }
    }
}

async fn read_bounded(key: &str, mut body: ByteStream) -> Result<Bytes, StoreError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| StoreError::interrupted(Operation::Get, key, &e))?;
        if (bytes.len() + chunk.len()) as u64 > OBJECT_BYTES_MAX {
            return Err(StoreError::too_large(key));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

async fn write_file(key: &str, mut body: ByteStream, path: &Path) -> Result<u64, StoreError> {
    let failed = |e: std::io::Error| StoreError::file(Operation::Get, key, &e);
    let (mut file, mut bytes) = (File::create(path).await.map_err(failed)?, 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| StoreError::interrupted(Operation::Get, key, &e))?;
        file.write_all(&chunk).await.map_err(failed)?;
        bytes += chunk.len() as u64;
    }
    file.flush().await.map_err(failed)?;
    Ok(bytes)
}
