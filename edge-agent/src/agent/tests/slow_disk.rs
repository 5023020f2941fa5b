//! A disk that takes its time: sampling goes on meanwhile, up to a bound, and nothing is lost.

use std::sync::{
    Condvar, Mutex,
    atomic::{AtomicI64, Ordering},
};

use proto::time::wall_now_ms;

use super::*;
use crate::spool::disk::memory::Memory;

/// A sync ends when the gate is open.
#[derive(Debug, Default)]
struct Slow {
    disk: Memory,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Slow {
    fn set_shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
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
        drop(self.opened.wait_while(self.shut.lock().unwrap(), |shut| *shut).unwrap());
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

/// Tells how far it was read.
struct Watched(Minutes, Arc<AtomicI64>);

impl Source for Watched {
    fn machines(&self) -> Vec<MachineInfo> {
        self.0.machines()
    }

    fn poll(&mut self, now: PlantTime, items_max: usize, out: &mut Vec<Item>) -> Result<bool, SourceError> {
        let more = self.0.poll(now, items_max, out);
        self.1.store(self.0.next.0 / MINUTE, Ordering::Relaxed);
        more
    }

    fn progress(&self) -> PlantTime {
        self.0.progress()
    }

    fn next_due(&self) -> Option<PlantTime> {
        self.0.next_due()
    }
}

#[tokio::test]
async fn a_slow_disk_delays_no_sampling_up_to_a_bound_and_loses_nothing() {
    const FLUSH: Duration = Duration::from_millis(5);
    let disk = Arc::new(Slow::default());
    let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let (log, reader) = (spool.log(), spool.reader());
    let read = Arc::new(AtomicI64::new(0));
    let source = Watched(Minutes { next: PlantTime(0), polled: PlantTime::MIN }, read.clone());
    let builder = BatchBuilder::new(&source.machines()).unwrap();
    let cutter = Cutter::new(vec![Box::new(source)], builder, 64 * 1024, Birth::default(), None);
    let name = AssetId::new("gw").unwrap();
    let (metrics, stop) = (Metrics::new(&name), CancellationToken::new());
    let (writer, mut progress) = Writer::new(spool, metrics.clone(), stop.clone());
    let (batches, batches_inbox) = mpsc::channel(BATCHES_QUEUED_MAX);
    let (_requests, requests_inbox) = mpsc::channel(1);
    writer.spawn(&name, batches_inbox, requests_inbox).unwrap();
    // A minute passes with each flush.
    let speed = MINUTE as f64 / FLUSH.as_millis() as f64;
    let (_clock, clock) =
        watch::channel(PlantClock { wall_origin_ms: wall_now_ms(), plant_origin: PlantTime(0), speed });
    let queue = batches.clone();
    let clock = AgentClock::from(clock);
    let sampler = Sampler {
        cutter,
        boot: Identity::load(&Memory::default()).unwrap().boot,
        flush: FLUSH,
        replacements: mpsc::channel(1).1,
        beats: Arc::default(),
        backlog_bytes_max: u64::MAX,
        look: clock.look(),
        clock,
        progress: progress.clone(),
        batches,
        metrics,
    };
    let sampling = tokio::spawn(sampler.run(stop.clone()));
    progress.wait_for(|p| p.batches > 3).await.unwrap();

    disk.set_shut(true);
    let before = read.load(Ordering::Relaxed);
    while queue.capacity() > 0 {
        tokio::time::sleep(FLUSH).await;
    }
    assert!(read.load(Ordering::Relaxed) > before, "sampling goes on");
    let look = || (read.load(Ordering::Relaxed), progress.borrow().batches);
    let (mut full, mut looks) = ((0, 0), 0);
    while full != look() {
        (full, looks) = (look(), looks + 1);
        assert!(looks < 100, "there is no bound");
        tokio::time::sleep(20 * FLUSH).await;
    }

    disk.set_shut(false);
    progress.wait_for(|p| p.plant_time > PlantTime((full.0 + 20) * MINUTE)).await.unwrap();
    drop(queue);
    stop.cancel();
    sampling.await.unwrap().unwrap();
    while progress.changed().await.is_ok() {}
    let extents: Vec<_> = log.lock().extents().copied().collect();
    let batches = extents.iter().map(|e| Frame::split(reader.read(e.position).unwrap()).unwrap().batch().unwrap());
    let stamps: Vec<i64> = batches
        .flat_map(|batch| batch.machines.into_iter().take(1))
        .flat_map(|machine| delta_decode(&machine.time_delta_ms))
        .collect();
    let every: Vec<i64> = (0..stamps.len() as i64).map(|minute| minute * MINUTE).collect();
    assert_eq!(stamps, every);
    assert!(stamps.len() as i64 > full.0);
}
