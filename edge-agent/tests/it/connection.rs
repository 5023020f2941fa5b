//! What a broker can do to an agent, with a real one: it may be away, freeze, die, refuse, or end the connection at one
//! batch. Nothing is lost by any of it but what the log declares.

use std::{fs, time::Duration};

use edge_agent::config::MqttConfig;
use proto::{time::wall_now_ms, wire::telemetry::GapReason};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::sleep;

use crate::{
    broker::{Mosquitto, wait_until},
    processor::{Processor, Ticks, config, start},
};

/// How often the agent has connected since the broker's start.
fn connects(broker: &Mosquitto) -> usize {
    broker.log().lines().filter(|line| line.contains("New client connected") && line.contains(" as gw-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_or_dies_delays_and_costs_nothing() {
    let Some(mut broker) = Mosquitto::open() else { return };
    broker.kill();
    let data = tempfile::tempdir().unwrap();
    let handle = start(config(data.path(), MqttConfig::plain(broker.address())), Ticks::of("press"));
    let mut progress = handle.progress();
    progress.wait_for(|p| p.batches > 20).await.unwrap();
    let processor = Processor::on(broker.port());
    for _ in 0..3 {
        broker.restart();
        processor.catch_up(&handle).await;
        broker.kill();
        let batches = progress.borrow().batches;
        progress.wait_for(|p| p.batches > batches + 5).await.unwrap();
    }
    broker.restart();
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}"));
}

/// Each time within a few round trips, so that frames are on their way at most ends of a connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_again_and_again_brings_no_batch_under_suspicion() {
    const KILLS: u32 = 40;
    let Some(mut broker) = Mosquitto::open() else { return };
    let seed = wall_now_ms() as u64;
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path(), MqttConfig::plain(broker.address()));
    config.window.return_jitter_max = Duration::ZERO;
    let handle = start(config, Ticks::of("press"));
    for _ in 0..KILLS {
        wait_until("a connection", || connects(&broker) > 0);
        sleep(Duration::from_millis(rng.random_range(0..15))).await;
        broker.restart();
    }
    let processor = Processor::on(broker.port());
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_is_left_and_found_again() {
    let Some(broker) = Mosquitto::open() else { return };
    let data = tempfile::tempdir().unwrap();
    let handle = start(config(data.path(), MqttConfig::plain(broker.address())), Ticks::of("press"));
    let processor = Processor::on(broker.port());
    let mut progress = handle.progress();
    progress.wait_for(|p| p.batches > 20).await.unwrap();
    processor.catch_up(&handle).await;
    let before = connects(&broker);
    broker.freeze();
    // Longer than the agent's patience with one that acknowledges nothing.
    sleep(Duration::from_secs(1)).await;
    broker.thaw();
    wait_until("another connection", || connects(&broker) > before);
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}"));
}

/// Access rules that refuse every subscription: an access file of this broker would keep acks back in silence.
const NOTHING_TO_HEAR: &str = r#"{
    "defaultACLAccess":
        { "publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true },
    "clients": [], "groups": [{ "groupname": "anyone", "clients": [], "roles": [] }], "roles": [],
    "anonymousGroup": "anyone"
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn without_acks_to_hear_nothing_is_sent() {
    let Some(mut broker) = Mosquitto::open() else { return };
    let plugins = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"];
    let plugins = plugins.map(|folder| format!("{folder}/mosquitto_dynamic_security.so"));
    let Some(plugin) = plugins.iter().find(|plugin| fs::exists(plugin).unwrap()) else {
        return crate::broker::missing("mosquitto_dynamic_security.so");
    };
    let rules = broker.folder().join("rules.json");
    fs::write(&rules, NOTHING_TO_HEAR).unwrap();
    broker.configure(&format!("allow_anonymous true\nplugin {plugin}\nplugin_opt_config_file {}\n", rules.display()));
    broker.restart();
    let data = tempfile::tempdir().unwrap();
    let handle = start(config(data.path(), MqttConfig::plain(broker.address())), Ticks::of("press"));
    wait_until("attempts to subscribe", || broker.log().matches("Received SUBSCRIBE from gw-").count() > 3);
    assert!(!broker.log().contains("Received PUBLISH from gw-"), "{}", broker.log());

    broker.configure("allow_anonymous true\n");
    broker.restart();
    let processor = Processor::on(broker.port());
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_broker_ends_the_connection_at_is_declared_lost_and_the_log_goes_on_behind_it() {
    const BURST: i64 = 5_000;
    let Some(broker) = Mosquitto::start("allow_anonymous true\nmax_packet_size 10000\n") else { return };
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path(), MqttConfig::plain(broker.address()));
    let handle = start(config, Ticks::after_burst("press", BURST));
    let processor = Processor::on(broker.port());
    processor.wait_for("the gap", |seen| !seen.gaps.is_empty()).await;
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    let gaps = processor.look(|seen| {
        let quarantined =
            |(first, last, reason, _): &(u64, u64, GapReason, u64)| first == last && *reason == GapReason::Quarantined;
        assert!(seen.gaps.iter().all(quarantined), "{seen:?}");
        let lost: u64 = seen.gaps.iter().map(|(.., readings)| readings).sum();
        assert_eq!(seen.readings + lost, done.readings_sealed, "{seen:?}");
        seen.gaps.len()
    });
    let aside: Vec<_> = fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_str().unwrap().ends_with(".quarantined"))
        .collect();
    assert_eq!(aside.len(), gaps);
    assert!(
        aside.iter().all(|entry| entry.metadata().unwrap().len() > 9_000),
        "their bytes are kept, and none is small"
    );
}
