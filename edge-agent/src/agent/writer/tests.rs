use std::sync::Arc;

use bytes::Bytes;
use proto::{position::Epoch, wire::telemetry::SealTime};
use tokio::{task::JoinHandle, time::sleep};

use super::*;
use crate::spool::{
    GROUP_AFTER, SharedLog, SpoolConfig, SpoolReader,
    disk::memory::{Memory, Operation, Unsynced},
};

mod slow_disk;

fn batch(n: i64) -> SealedBatch {
    let sealed = Some(SealTime { time_ms: n, ..Default::default() });
    SealedBatch { batch: Box::new(TelemetryBatch { sealed, ..Default::default() }), readings: 1 }
}

/// A writer that runs, and what it works on.
struct Running {
    log: SharedLog,
    reader: SpoolReader,
    progress: watch::Receiver<AgentProgress>,
    batches: mpsc::Sender<SealedBatch>,
    requests: mpsc::Sender<WriterRequest>,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

fn start(disk: &Arc<Memory>, config: SpoolConfig, epoch: u8) -> Running {
    let (spool, _) = Spool::open(disk.clone(), config, Epoch([epoch; 16])).unwrap();
    let (log, reader, stop) = (spool.log(), spool.reader(), CancellationToken::new());
    let (writer, progress) = Writer::new(spool, Metrics::new(&AssetId::new("gw").unwrap()), stop.clone());
    let (batches, batches_inbox) = mpsc::channel(2);
    let (requests, requests_inbox) = mpsc::channel(2);
    let ended = tokio::spawn(writer.run(batches_inbox, requests_inbox));
    Running { log, reader, progress, batches, requests, stop, ended }
}

impl Running {
    async fn send(&self, seals: std::ops::RangeInclusive<i64>) {
        for n in seals {
            self.batches.send(batch(n)).await.unwrap();
        }
    }

    /// Seal times of all that can be sent, in order.
    fn readable(&self) -> Vec<i64> {
        let held: Vec<_> = self.log.lock().extents().filter(|e| !e.gap).map(|e| e.position).collect();
        held.into_iter().map(|p| seal_time(self.reader.read(p).unwrap())).collect()
    }

    async fn free(&self, seq: u64) {
        let last = self.log.lock().last().unwrap();
        self.requests.send(WriterRequest::Free(Position { seq, ..last })).await.unwrap();
    }
}

fn seal_time(frame: Bytes) -> i64 {
    Frame::split(frame).unwrap().batch().unwrap().sealed.unwrap().time_ms
}

/// What a start finds that comes after this one.
fn reopened(disk: &Arc<Memory>) -> Vec<i64> {
    let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([9; 16])).unwrap();
    let (log, reader) = (spool.log(), spool.reader());
    let held: Vec<_> = log.lock().extents().map(|e| e.position).collect();
    held.into_iter().map(|p| seal_time(reader.read(p).unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lone_batch_is_committed_at_once_and_what_follows_as_a_group() {
    let disk = Arc::new(Memory::default());
    let mut running = start(&disk, SpoolConfig::default(), 1);
    running.send(1..=1).await;
    running.progress.wait_for(|p| p.batches == 1).await.unwrap();
    let syncs = || disk.operations().iter().filter(|o| matches!(o, Operation::Sync(_))).count();
    let (began, before) = (Instant::now(), syncs());
    for n in 2..=5 {
        running.send(n..=n).await;
        sleep(Duration::from_millis(150)).await;
        assert_eq!(running.readable(), [1], "not durable, not visible");
    }
    running.free(1).await;
    running.progress.wait_for(|p| p.committed.is_some()).await.unwrap();
    assert_eq!(running.progress.borrow().batches, 1, "an ack makes nothing durable");
    running.progress.wait_for(|p| p.batches == 5).await.unwrap();
    assert_eq!((began.elapsed(), syncs() - before), (GROUP_AFTER, 1));
    assert_eq!(running.readable(), [2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_large_group_and_a_stop_do_not_wait() {
    let disk = Arc::new(Memory::default());
    let config = SpoolConfig { group_after: Duration::from_secs(60), group_bytes: 500, ..Default::default() };
    let mut running = start(&disk, config, 1);
    let began = Instant::now();
    running.send(1..=100).await;
    running.progress.wait_for(|p| p.batches > 90).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    running.send(101..=101).await;
    drop(running.batches);
    running.ended.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(reopened(&disk), (1..=101).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_sampling_for_a_moment_and_is_freed_meanwhile() {
    let disk = Arc::new(Memory::default());
    let mut running = start(&disk, SpoolConfig::default(), 1);
    running.send(1..=1).await;
    running.progress.wait_for(|p| p.batches == 1).await.unwrap();
    disk.fail_after(0);
    running.send(2..=2).await;
    sleep(GROUP_AFTER).await;
    for n in 3..=4 {
        running.batches.try_send(batch(n)).unwrap();
    }
    assert!(running.batches.try_send(batch(5)).is_err(), "sampling stops");
    running.free(1).await;
    sleep(RETRY_AFTER).await;
    assert_eq!(running.log.lock().committed().map(|p| p.seq), Some(1), "freed while nothing can be written");
    assert_eq!(running.progress.borrow().batches, 1, "and nothing is called durable");
    disk.heal();
    running.progress.wait_for(|p| p.batches == 4).await.unwrap();
    assert_eq!(running.readable(), [2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn while_a_disk_fails_for_long_batches_are_sent_from_memory_and_written_when_it_works_again() {
    let disk = Arc::new(Memory::default());
    let mut running = start(&disk, SpoolConfig::default(), 1);
    running.send(1..=1).await;
    running.progress.wait_for(|p| p.batches == 1).await.unwrap();
    disk.fail_after(0);
    running.send(2..=10).await;
    running.progress.wait_for(|p| p.medium != Medium::Disk).await.unwrap();
    running.send(11..=20).await;
    sleep(RETRY_AFTER).await;
    assert_eq!(running.readable(), (1..=20).collect::<Vec<_>>());
    let progress = *running.progress.borrow();
    assert!(progress.medium == Medium::Memory && progress.batches == 1, "{progress:?}");
    running.free(7).await;
    running.progress.wait_for(|p| p.committed.is_some_and(|c| c.seq == 7)).await.unwrap();
    assert_eq!(running.readable(), (8..=20).collect::<Vec<_>>());
    disk.heal();
    running.progress.wait_for(|p| p.batches == 20 && p.medium == Medium::Disk).await.unwrap();
    running.send(21..=22).await;
    drop(running.batches);
    running.ended.await.unwrap();
    disk.power_cut(Unsynced::Dropped, Unsynced::Dropped);
    assert_eq!(reopened(&disk), (8..=22).collect::<Vec<_>>(), "under the same numbers, and nothing twice");
}

#[tokio::test(start_paused = true)]
async fn what_the_memory_has_no_room_for_becomes_a_gap() {
    let disk = Arc::new(Memory::default());
    let config = SpoolConfig { ring_bytes_max: 4_000, ..Default::default() };
    let mut running = start(&disk, config, 1);
    running.send(1..=1).await;
    running.progress.wait_for(|p| p.batches == 1).await.unwrap();
    disk.fail_after(0);
    running.send(2..=10).await;
    running.progress.wait_for(|p| p.medium != Medium::Disk).await.unwrap();
    running.send(11..=200).await;
    sleep(RETRY_AFTER).await;
    assert_eq!(running.progress.borrow().medium, Medium::ScarceMemory);
    let gaps = |log: &SharedLog| log.lock().extents().filter(|e| e.gap).copied().collect::<Vec<_>>();
    let held = running.readable();
    let [gap] = gaps(&running.log)[..] else { panic!("evictions that follow each other are one gap") };
    assert_eq!((gap.position.seq, gap.readings), (2, gap.last_seq - 1), "it says how many readings it stands for");
    assert_eq!(held[..], [&[1][..], &(gap.last_seq as i64 + 1..=200).collect::<Vec<_>>()].concat());
    let bytes: u64 = running.log.lock().extents().filter(|e| e.position.seq > 1).map(|e| u64::from(e.bytes)).sum();
    assert!((2_000..=4_000).contains(&bytes), "{bytes}");
    disk.heal();
    running.progress.wait_for(|p| p.medium == Medium::Disk).await.unwrap();
    let again = Spool::open(disk, SpoolConfig::default(), Epoch([9; 16])).unwrap().0.log();
    assert_eq!(gaps(&again).iter().map(|g| (g.position.seq, g.last_seq)).collect::<Vec<_>>(), [(2, gap.last_seq)]);
}

/// All that was appended is in the archive, and never was on the disk.
#[tokio::test(start_paused = true)]
async fn what_was_committed_from_memory_is_not_missed_by_a_later_start() {
    let disk = Arc::new(Memory::default());
    let mut running = start(&disk, SpoolConfig::default(), 1);
    disk.fail_after(0);
    running.send(1..=10).await;
    running.progress.wait_for(|p| p.medium != Medium::Disk).await.unwrap();
    while running.log.lock().last().is_none_or(|last| last.seq < 10) {
        sleep(RETRY_AFTER).await;
    }
    running.free(10).await;
    sleep(2 * RETRY_AFTER).await;
    assert!(running.progress.borrow().medium == Medium::Memory, "that says nothing about the disk");
    disk.heal();
    running.send(11..=12).await;
    running.progress.wait_for(|p| p.batches == 12).await.unwrap();
    drop(running.batches);
    running.ended.await.unwrap();
    disk.power_cut(Unsynced::Dropped, Unsynced::Dropped);
    assert_eq!(reopened(&disk), [11, 12], "no gap for the ten before");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_disk_that_fails_and_leaves_what_can_be_sent() {
    let disk = Arc::new(Memory::default());
    let running = start(&disk, SpoolConfig::default(), 1);
    disk.fail_after(0);
    running.send(1..=1).await;
    let began = Instant::now();
    running.stop.cancel();
    running.send(2..=5).await;
    drop(running.batches);
    running.ended.await.unwrap();
    assert!(began.elapsed() <= RETRY_AFTER);
    let held: Vec<_> = running.log.lock().extents().map(|e| e.position).collect();
    assert_eq!(held.iter().map(|p| seal_time(running.reader.read(*p).unwrap())).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn other_bounds_hold_from_the_next_commit_on() {
    let disk = Arc::new(Memory::default());
    let mut running = start(&disk, SpoolConfig::default(), 1);
    running.send(1..=100).await;
    running.progress.wait_for(|p| p.batches == 100).await.unwrap();
    let log = running.log.clone();
    assert!(log.lock().extents().all(|e| !e.gap));
    let small = SpoolConfig { bytes_max: 2_000, segment_bytes: 500, ..Default::default() };
    running.requests.send(WriterRequest::Reconfigure(small)).await.unwrap();
    running.send(101..=200).await;
    running.progress.wait_for(|p| p.batches == 200).await.unwrap();
    drop(running.batches);
    running.ended.await.unwrap();
    let oldest = log.lock().extents().next().copied().unwrap();
    assert!(oldest.gap && oldest.last_seq >= 100, "{oldest:?}");
}
