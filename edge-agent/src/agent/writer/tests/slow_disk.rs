//! A disk that takes its time: batches are taken meanwhile, up to a bound, and nothing is lost.

use std::sync::{Condvar, Mutex};

use proto::telemetry::Frame;

use super::*;
use crate::{agent::BATCHES_QUEUED_MAX, spool::disk::Disk};

/// A sync ends when the gate is open.
#[derive(Debug, Default)]
struct Slow {
    disk: Memory,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    shut: bool,
    /// Someone is at the shut gate.
    waiting: bool,
}

impl Slow {
    fn set_shut(&self, shut: bool) {
        self.gate.lock().unwrap().shut = shut;
        self.moved.notify_all();
    }

    fn wait_for_sync(&self) {
        drop(self.moved.wait_while(self.gate.lock().unwrap(), |gate| !gate.waiting).unwrap());
    }
}

impl Disk for Slow {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn bytes(&self, name: &str) -> io::Result<u64> {
        self.disk.bytes(name)
    }
    fn read(&self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.disk.read(name, offset, bytes)
    }
    fn create(&self, name: &str) -> io::Result<()> {
        self.disk.create(name)
    }
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.append(name, bytes)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        let mut gate = self.gate.lock().unwrap();
        gate.waiting = gate.shut;
        self.moved.notify_all();
        drop(self.moved.wait_while(gate, |gate| gate.shut).unwrap());
        self.disk.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
}

#[tokio::test]
async fn a_slow_disk_keeps_no_one_waiting_up_to_a_bound_and_loses_nothing() {
    let disk = Arc::new(Slow::default());
    let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let (log, reader) = (spool.log(), spool.reader());
    let name = AssetId::new("gw").unwrap();
    let (writer, mut progress) = Writer::new(spool, Metrics::new(&name), CancellationToken::new());
    let (batches, batches_inbox) = mpsc::channel(BATCHES_QUEUED_MAX);
    let (_requests, requests_inbox) = mpsc::channel(1);
    writer.spawn(&name, batches_inbox, requests_inbox).unwrap();

    disk.set_shut(true);
    batches.send(batch(1)).await.unwrap();
    disk.wait_for_sync();
    let mut sent = 1;
    while batches.try_send(batch(sent + 1)).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 1 + BATCHES_QUEUED_MAX as i64, "so much is sampled while the disk is busy with one");
    assert_eq!(progress.borrow().batches, 0, "none of it is called durable");
    disk.set_shut(false);
    batches.send(batch(sent + 1)).await.unwrap();
    drop(batches);
    while progress.changed().await.is_ok() {}

    let held: Vec<_> = log.lock().extents().map(|e| e.position).collect();
    let seal = |p| Frame::split(reader.read(p).unwrap()).unwrap().batch().unwrap().sealed.unwrap().time_ms;
    let seals: Vec<i64> = held.into_iter().map(seal).collect();
    assert_eq!(seals, (1..=sent + 1).collect::<Vec<_>>());
}
