//! A bucket in memory: for what is imported, learnt from and let go in one run (benchmarks), and for tests.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::future::FutureExt;

use super::{
    LIST_KEYS_MAX, ObjectMeta, Operation, PutOutcome, StoreError,
    objects::{Answer, Objects},
};

#[derive(Debug, Default)]
pub struct MemoryObjects(Mutex<BTreeMap<String, Bytes>>);

impl MemoryObjects {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // A map is whole between two calls, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn meta((key, bytes): (&String, &Bytes)) -> ObjectMeta {
    ObjectMeta { key: key.clone(), bytes: bytes.len() as u64, etag: String::new() }
}

impl Objects for MemoryObjects {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Bytes>> {
        async move { Ok(self.objects().get(key).cloned()) }.boxed()
    }

    fn get_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, Option<u64>> {
        async move {
            let Some(bytes) = self.objects().get(key).cloned() else { return Ok(None) };
            std::fs::write(path, &bytes).map_err(|e| StoreError::file(Operation::Get, key, &e))?;
            Ok(Some(bytes.len() as u64))
        }
        .boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<ObjectMeta>> {
        async move { Ok(self.objects().get_key_value(key).map(meta)) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Answer<'a, Vec<ObjectMeta>> {
        async move {
            let objects = self.objects();
            let from = objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
            let after = from.filter(|(key, _)| start_after.is_none_or(|after| key.as_str() > after));
            Ok(after.take(LIST_KEYS_MAX as usize).map(meta).collect())
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        async move {
            self.objects().insert(key.into(), bytes);
            Ok(())
        }
        .boxed()
    }

    fn put_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, ()> {
        async move {
            let bytes = std::fs::read(path).map_err(|e| StoreError::file(Operation::Put, key, &e))?;
            self.objects().insert(key.into(), bytes.into());
            Ok(())
        }
        .boxed()
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, PutOutcome> {
        async move {
            let mut objects = self.objects();
            if objects.contains_key(key) {
                return Ok(PutOutcome::Exists);
            }
            objects.insert(key.into(), bytes);
            Ok(PutOutcome::Created)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        async move {
            self.objects().remove(key);
            Ok(())
        }
        .boxed()
    }
}
