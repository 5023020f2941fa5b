//! A bucket in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use futures::FutureExt;
use model::store::{
    LIST_KEYS_MAX, ObjectMeta, Operation, PutOutcome, StoreError,
    objects::{Answer, Objects},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Who asks has died at this request: it and all later ones fail.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    Never,
    /// It never arrives.
    Before(u64),
    /// It is carried out.
    After(u64),
}

pub struct Bucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
    requests: AtomicU64,
    death: Mutex<Death>,
    /// How often others come first, before each request.
    yields: Mutex<Option<ChaCha8Rng>>,
}

impl Bucket {
    pub fn new() -> Arc<Self> {
        Self::of(BTreeMap::new())
    }

    fn of(objects: BTreeMap<String, Bytes>) -> Arc<Self> {
        let (requests, death, yields) = (AtomicU64::new(0), Mutex::new(Death::Never), Mutex::new(None));
        Arc::new(Bucket { objects: Mutex::new(objects), requests, death, yields })
    }

    pub fn copy(&self) -> Arc<Self> {
        Self::of(self.objects.lock().unwrap().clone())
    }

    /// Counts requests from here on.
    pub fn die(&self, death: Death) {
        self.requests.store(0, SeqCst);
        *self.death.lock().unwrap() = death;
    }

    pub fn interleave(&self, seed: u64) {
        *self.yields.lock().unwrap() = Some(ChaCha8Rng::seed_from_u64(seed));
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects.lock().unwrap().keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().unwrap().get(key).cloned()
    }

    pub fn set(&self, key: &str, bytes: Option<Bytes>) {
        let mut objects = self.objects.lock().unwrap();
        match bytes {
            Some(bytes) => objects.insert(key.into(), bytes),
            None => objects.remove(key),
        };
    }

    async fn request<T>(
        &self,
        key: &str,
        done: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T,
    ) -> Result<T, StoreError> {
        let yields = self.yields.lock().unwrap().as_mut().map_or(0, |rng| rng.random_range(0..4));
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        let number = self.requests.fetch_add(1, SeqCst);
        let dead = || StoreError::no_answer(Operation::Get, key, "the asker has died");
        match *self.death.lock().unwrap() {
            Death::Before(n) if number >= n => Err(dead()),
            Death::After(n) if number > n => Err(dead()),
            Death::After(n) if number == n => {
                done(&mut self.objects.lock().unwrap());
                Err(dead())
            }
            _ => Ok(done(&mut self.objects.lock().unwrap())),
        }
    }
}

fn meta(key: &str, bytes: &Bytes) -> ObjectMeta {
    ObjectMeta { key: key.into(), bytes: bytes.len() as u64, etag: String::new() }
}

impl Objects for Bucket {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Bytes>> {
        self.request(key, |objects| objects.get(key).cloned()).boxed()
    }

    fn get_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, Option<u64>> {
        let to_file = move |bytes: &Bytes| {
            std::fs::write(path, bytes).unwrap();
            bytes.len() as u64
        };
        self.request(key, move |objects| objects.get(key).map(to_file)).boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<ObjectMeta>> {
        self.request(key, |objects| objects.get(key).map(|bytes| meta(key, bytes))).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Answer<'a, Vec<ObjectMeta>> {
        let after = start_after.map_or(Bound::Included(prefix), Bound::Excluded);
        let page = move |objects: &mut BTreeMap<String, Bytes>| {
            let found =
                objects.range::<str, _>((after, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
            found.take(LIST_KEYS_MAX as usize).map(|(key, bytes)| meta(key, bytes)).collect()
        };
        self.request(prefix, page).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        self.request(key, move |objects| drop(objects.insert(key.into(), bytes))).boxed()
    }

    fn put_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, ()> {
        self.put(key, std::fs::read(path).unwrap().into())
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, PutOutcome> {
        let put = move |objects: &mut BTreeMap<String, Bytes>| {
            if objects.contains_key(key) {
                return PutOutcome::Exists;
            }
            objects.insert(key.into(), bytes);
            PutOutcome::Created
        };
        self.request(key, put).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.request(key, |objects| drop(objects.remove(key))).boxed()
    }
}
