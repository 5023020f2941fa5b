//! What the archive's readers and tools ask of a bucket, so that tests can put one under them that counts or fails.

use std::path::Path;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};

use super::{ObjectMeta, PutOutcome, Store, StoreError};

/// Boxed: with the S3 client inside, the callers' futures would be types too deep for the compiler.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// See [`Store`], which has the same methods.
pub trait Objects: Send + Sync {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Bytes>>;
    fn get_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, Option<u64>>;
    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<ObjectMeta>>;
    fn list<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Answer<'a, Vec<ObjectMeta>>;
    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, ()>;
    fn put_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, ()>;
    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, PutOutcome>;
    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()>;
}

impl Objects for Store {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Bytes>> {
        Store::get(self, key).boxed()
    }

    fn get_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, Option<u64>> {
        Store::get_file(self, key, path).boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<ObjectMeta>> {
        Store::head(self, key).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Answer<'a, Vec<ObjectMeta>> {
        Store::list(self, prefix, start_after).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Store::put(self, key, bytes).boxed()
    }

    fn put_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, ()> {
        Store::put_file(self, key, path).boxed()
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, PutOutcome> {
        Store::put_if_absent(self, key, bytes).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        Store::delete(self, key).boxed()
    }
}
