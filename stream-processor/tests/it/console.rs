//! The console page in a real browser, over the running factory.

use std::time::Duration;

use proto::wire::alert::{AlertState, ListAlertsRequest, alert_service_client::AlertServiceClient};
use stream_processor::embedded::{Factory, FactoryConfig};

use crate::{browser::Browser, components::POLL, factory};

/// Too little to train on: this factory stays with its rules.
const HISTORY_DAYS: u32 = 2;
/// Plant seconds per second: slow enough that an open alert stays open while a person, or this test, answers it.
const SPEED: f64 = 120.0;
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn machines_appear_an_alert_appears_and_the_button_acknowledges_it() {
    let profile = tempfile::tempdir().unwrap();
    let Some(browser) = Browser::start(profile.path()).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = FactoryConfig { speed: SPEED, ..factory::config(folder.path(), HISTORY_DAYS) };
    let factory = Factory::start(config).await.unwrap();

    browser.open(&format!("http://{}/", factory.addresses.http)).await;
    browser.wait_for("return document.querySelectorAll('[data-testid=machine]').length >= 24").await;
    factory::wait_for_live(&factory).await;
    let id = browser.wait_for("return document.querySelector('[data-testid=alert-card]')?.dataset.id").await;
    let id = id.as_str().expect("an alert card says which alert it is").to_owned();
    browser.click(&format!("[data-id='{id}'] [data-testid=ack]")).await;
    browser.type_into("[data-testid=name-input]", "Ada").await;
    browser.click("[data-testid=name-save]").await;

    let mut client = AlertServiceClient::connect(format!("http://{}", factory.addresses.grpc)).await.unwrap();
    let acknowledged = tokio::time::timeout(ACKNOWLEDGED_MAX, async {
        loop {
            let all = ListAlertsRequest { include_closed: true, machines: vec![] };
            let alerts = client.list_alerts(all).await.unwrap().into_inner().alerts;
            let ours = alerts.into_iter().find(|a| a.id == id).expect("the alert is known to gRPC");
            if ours.state() == AlertState::Acknowledged || !ours.acknowledged_by.is_empty() {
                return ours;
            }
            tokio::time::sleep(POLL).await;
        }
    });
    let alert = acknowledged.await.expect("gRPC shows it acknowledged");
    assert_eq!(alert.acknowledged_by, "Ada");
    assert!(alert.acknowledged_ms > 0);
    browser.close().await;
    factory.stop().await.unwrap();
}
