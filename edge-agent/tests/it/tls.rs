//! Certificates that are renewed while the agent runs, with a real broker that demands them.

use std::time::Duration;

use edge_agent::{agent::AgentHandle, config::MqttConfig, publish::certificates::client_config};
use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use tokio::time::sleep;

use crate::{
    broker::{Mosquitto, wait_until},
    certificates::{Authority, Installed},
    processor::{Processor, Ticks, config, start},
};

fn agent(broker: &Mosquitto, installed: &Installed, data: &std::path::Path) -> AgentHandle {
    let mut mqtt = MqttConfig::plain(broker.address());
    mqtt.tls = Some(installed.files());
    start(config(data, mqtt), Ticks::of("press"))
}

fn processor(broker: &Mosquitto, trusted: &Authority, clients: &Authority) -> Processor {
    let installed = Installed::new(&trusted.certificate(), &clients.issue("processor", 10));
    let tls = client_config(&installed.files()).unwrap();
    let mut options = MqttOptions::new("processor", "127.0.0.1", broker.port());
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.into())));
    Processor::start(options)
}

/// How often the agent has come in with a certificate of this name.
fn connects_as(broker: &Mosquitto, name: &str) -> usize {
    let user = format!("u'{name}'");
    broker.log().lines().filter(|line| line.contains(" as gw-") && line.contains(&user)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_used_at_once_and_a_broken_one_never() {
    let Some(authority) = Authority::new() else { return };
    let Some(broker) = Mosquitto::start(&authority.broker_lines("broker", &authority)) else { return };
    let installed = Installed::new(&authority.certificate(), &authority.issue("first", 10));
    let data = tempfile::tempdir().unwrap();
    let processor = processor(&broker, &authority, &authority);
    let handle = agent(&broker, &installed, data.path());
    wait_until("the first certificate", || connects_as(&broker, "first") == 1);

    let second = authority.issue("second", 10);
    installed.renew_half(&second);
    let batches = handle.progress().borrow().batches;
    // Looked at several times meanwhile.
    sleep(Duration::from_millis(300)).await;
    handle.progress().wait_for(|p| p.batches > batches + 10).await.unwrap();
    processor.catch_up(&handle).await;
    assert_eq!(connects_as(&broker, "first"), 1, "the connection is kept: {}", broker.log());

    installed.renew(&second);
    wait_until("the second certificate", || connects_as(&broker, "second") == 1);
    processor.wait_for("a second introduction", |seen| seen.announced.len() == 2).await;
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| {
        assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}");
        assert_eq!(seen.births.len(), 1, "the log goes on in its epoch");
        assert!(seen.statuses.iter().all(|status| status.online || status.clean), "no crash is seen: {seen:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_replaced_without_a_restart() {
    let Some(authority) = Authority::new() else { return };
    let Some(broker) = Mosquitto::start(&authority.broker_lines("broker", &authority)) else { return };
    let installed = Installed::new(&authority.certificate(), &authority.issue("late", -1));
    let data = tempfile::tempdir().unwrap();
    let processor = processor(&broker, &authority, &authority);
    let handle = agent(&broker, &installed, data.path());
    wait_until("a refusal", || broker.log().contains("certificate expired") || broker.log().contains("OpenSSL Error"));
    installed.renew(&authority.issue("renewed", 10));
    wait_until("the renewed certificate", || connects_as(&broker, "renewed") == 1);
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_another_authority_is_trusted_once_its_file_is_there() {
    let (Some(clients), Some(old), Some(new)) = (Authority::new(), Authority::new(), Authority::new()) else { return };
    let Some(mut broker) = Mosquitto::start(&old.broker_lines("broker", &clients)) else { return };
    let installed = Installed::new(&old.certificate(), &clients.issue("gw", 10));
    let data = tempfile::tempdir().unwrap();
    let handle = agent(&broker, &installed, data.path());
    wait_until("a connection", || connects_as(&broker, "gw") == 1);
    broker.configure(&new.broker_lines("broker", &clients));
    broker.restart();
    wait_until("a refusal", || broker.log().contains("OpenSSL Error"));
    assert_eq!(connects_as(&broker, "gw"), 0);
    installed.trust(&new.certificate());
    let processor = processor(&broker, &new, &clients);
    processor.catch_up(&handle).await;
    let done = handle.stop().await;
    processor.wait_for_all(done).await;
    processor.look(|seen| assert!(seen.gaps.is_empty() && seen.readings == done.readings_sealed, "{seen:?}"));
}
