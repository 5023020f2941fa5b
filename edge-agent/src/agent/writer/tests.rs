use std::sync::Arc;

use proto::{position::Epoch, wire::telemetry::SealTime};

use super::*;
use crate::spool::{SpoolConfig, disk::memory::Memory};

mod slow_disk;

fn batch(n: i64) -> SealedBatch {
    let sealed = Some(SealTime { time_ms: n, ..Default::default() });
    SealedBatch { batch: Box::new(TelemetryBatch { sealed, ..Default::default() }), readings: 1 }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_tried_again_and_freed_meanwhile() {
    let disk = Arc::new(Memory::default());
    let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let log = spool.log();
    let metrics = Metrics::new(&AssetId::new("gw").unwrap());
    let (writer, mut progress) = Writer::new(spool, metrics, CancellationToken::new());
    let (batches, batches_inbox) = mpsc::channel(2);
    let (requests, requests_inbox) = mpsc::channel(2);
    let running = tokio::spawn(writer.run(batches_inbox, requests_inbox));
    batches.send(batch(1)).await.unwrap();
    progress.wait_for(|p| p.batches == 1).await.unwrap();

    disk.fail_after(0);
    batches.send(batch(2)).await.unwrap();
    tokio::time::sleep(RETRY_AFTER / 2).await;
    for n in 3..=4 {
        batches.try_send(batch(n)).unwrap();
    }
    assert!(batches.try_send(batch(5)).is_err(), "sampling stops");
    let first = log.lock().last().unwrap();
    requests.send(WriterRequest::Free(first)).await.unwrap();
    tokio::time::sleep(10 * RETRY_AFTER).await;
    assert_eq!(log.lock().committed(), Some(first), "freed while nothing can be written");
    assert_eq!(progress.borrow().batches, 1, "and nothing is called durable");

    disk.heal();
    progress.wait_for(|p| p.batches == 4).await.unwrap();
    drop(batches);
    running.await.unwrap();
    assert_eq!(log.lock().last(), Some(Position { seq: 4, ..first }));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_disk_that_fails() {
    let disk = Arc::new(Memory::default());
    let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let stop = CancellationToken::new();
    let (writer, _progress) = Writer::new(spool, Metrics::new(&AssetId::new("gw").unwrap()), stop.clone());
    let (batches, batches_inbox) = mpsc::channel(2);
    let (_requests, requests_inbox) = mpsc::channel(2);
    let running = tokio::spawn(writer.run(batches_inbox, requests_inbox));
    disk.fail_after(0);
    batches.send(batch(1)).await.unwrap();
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn other_bounds_hold_from_the_next_commit_on() {
    let disk = Arc::new(Memory::default());
    let (spool, _) = Spool::open(disk.clone(), SpoolConfig::default(), Epoch([1; 16])).unwrap();
    let log = spool.log();
    let (writer, mut progress) =
        Writer::new(spool, Metrics::new(&AssetId::new("gw").unwrap()), CancellationToken::new());
    let (batches, batches_inbox) = mpsc::channel(2);
    let (requests, requests_inbox) = mpsc::channel(2);
    let running = tokio::spawn(writer.run(batches_inbox, requests_inbox));
    for n in 1..=100 {
        batches.send(batch(n)).await.unwrap();
    }
    progress.wait_for(|p| p.batches == 100).await.unwrap();
    assert!(log.lock().extents().all(|e| !e.gap));
    let small = SpoolConfig { bytes_max: 2_000, segment_bytes: 500, ..Default::default() };
    requests.send(WriterRequest::Reconfigure(small)).await.unwrap();
    for n in 101..=200 {
        batches.send(batch(n)).await.unwrap();
    }
    progress.wait_for(|p| p.batches == 200).await.unwrap();
    drop(batches);
    running.await.unwrap();
    let oldest = log.lock().extents().next().copied().unwrap();
    assert!(oldest.gap && oldest.last_seq >= 100, "{oldest:?}");
}
