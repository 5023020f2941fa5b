//! Code of the real programs that waits for the bucket: polled once a tick, between answers, and dropped when its process
//! dies.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use model::store::{
    ObjectMeta, Operation, PutOutcome, StoreError,
    objects::{self, Objects},
};
use rand_chacha::ChaCha8Rng;
use stream_processor::archive::ArchiveError;

use crate::{
    faults::Faults,
    s3::{Answer, Request, S3, Ticket},
};

/// The bucket, as that code sees it.
#[derive(Default)]
pub struct Client(Mutex<Requests>);

#[derive(Default)]
struct Requests {
    count: u64,
    asked: Vec<(u64, Request)>,
    answered: BTreeMap<u64, Answer>,
}

impl Client {
    async fn ask(&self, key: &str, request: Request) -> Result<Answer, StoreError> {
        let number = {
            let mut requests = self.0.lock().unwrap();
            requests.count += 1;
            let number = requests.count;
            requests.asked.push((number, request));
            number
        };
        let answered = poll_fn(|_| match self.0.lock().unwrap().answered.remove(&number) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        });
        match answered.await {
            Answer::Failed => Err(StoreError::no_answer(Operation::Get, key, "failed")),
            answer => Ok(answer),
        }
    }

    async fn found(&self, key: &str, request: Request) -> Result<Option<Bytes>, StoreError> {
        match self.ask(key, request).await? {
            Answer::Found(found) => Ok(found),
            answer => panic!("{answer:?}"),
        }
    }
}

fn meta(key: String, bytes: u64) -> ObjectMeta {
    ObjectMeta { key, bytes, etag: String::new() }
}

impl Objects for Client {
    fn get<'a>(&'a self, key: &'a str) -> objects::Answer<'a, Option<Bytes>> {
        self.found(key, Request::Get { key: key.into() }).boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> objects::Answer<'a, Option<ObjectMeta>> {
        async move { Ok(self.get(key).await?.map(|bytes| meta(key.into(), bytes.len() as u64))) }.boxed()
    }

    /// The first key is all that is asked for here.
    fn list<'a>(&'a self, prefix: &'a str, _: Option<&'a str>) -> objects::Answer<'a, Vec<ObjectMeta>> {
        async move {
            let first = self.found(prefix, Request::First { prefix: prefix.into() }).await?;
            Ok(first.map(|key| meta(String::from_utf8(key.to_vec()).unwrap(), 0)).into_iter().collect())
        }
        .boxed()
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> objects::Answer<'a, PutOutcome> {
        async move {
            Ok(match self.ask(key, Request::PutIfAbsent { key: key.into(), bytes }).await? {
                Answer::Done => PutOutcome::Created,
                Answer::Exists => PutOutcome::Exists,
                answer => panic!("{answer:?}"),
            })
        }
        .boxed()
    }

    fn get_file<'a>(&'a self, key: &'a str, _: &'a Path) -> objects::Answer<'a, Option<u64>> {
        panic!("{key}: not asked for here")
    }

    fn put<'a>(&'a self, key: &'a str, _: Bytes) -> objects::Answer<'a, ()> {
        panic!("{key}: not asked for here")
    }

    fn put_file<'a>(&'a self, key: &'a str, _: &'a Path) -> objects::Answer<'a, ()> {
        panic!("{key}: not asked for here")
    }

    fn delete<'a>(&'a self, key: &'a str) -> objects::Answer<'a, ()> {
        panic!("{key}: not asked for here")
    }
}

pub struct Task<T> {
    client: Arc<Client>,
    future: Pin<Box<dyn Future<Output = Result<T, ArchiveError>> + Send>>,
    tickets: BTreeMap<Ticket, u64>,
}

impl<T> Task<T> {
    pub fn new(code: impl FnOnce(Arc<Client>) -> BoxFuture<'static, Result<T, ArchiveError>>) -> Self {
        let client = Arc::<Client>::default();
        Task { future: code(client.clone()), client, tickets: BTreeMap::new() }
    }

    pub fn answer(&mut self, ticket: Ticket, answer: &Answer) {
        if let Some(number) = self.tickets.remove(&ticket) {
            self.client.0.lock().unwrap().answered.insert(number, answer.clone());
        }
    }

    /// Some: it has ended.
    pub fn tick(
        &mut self,
        now: Duration,
        s3: &mut S3,
        faults: &Faults,
        rng: &mut ChaCha8Rng,
    ) -> Option<Result<T, ArchiveError>> {
        if let Poll::Ready(ended) = self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(ended);
        }
        for (number, request) in self.client.0.lock().unwrap().asked.drain(..) {
            self.tickets.insert(s3.request(request, now, faults, rng), number);
        }
        None
    }
}
