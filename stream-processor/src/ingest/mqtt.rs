//! The MQTT client of the processor. It is transport only: a session that is lost costs nothing, since agents send
//! again whatever is not acknowledged by [`proto::ack::Ack`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use proto::{
    ack::Ack,
    archive::shards::Slots,
    asset::AssetId,
    broker::Broker,
    telemetry::frame::FRAME_BYTES_MAX,
    topic::{Channel, Topic},
};
use rand::Rng;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration,
    Transport,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ARRIVALS_QUEUED_MAX, Arrival};
use crate::tls::{self, TlsError};

/// The largest packet that MQTT knows, so that no packet can be over the limit and end the connection in a loop. Our
/// own limit on frames is applied after receipt, where it leads to a dead letter.
const PACKET_BYTES_MAX: usize = 268_435_455;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A poll that takes longer than two keep-alives has lost its connection.
const POLL_TIMEOUT: Duration = Duration::from_secs(75);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const HANG_UP_TIMEOUT: Duration = Duration::from_millis(500);
const REQUESTS_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("{file}: {reason}")]
    File { file: PathBuf, reason: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A running client.
pub struct Ingest {
    pub arrivals: mpsc::Receiver<Arrival>,
    pub acks: AckSender,
    /// Counts subscriptions granted: after each one, retained acks may have to be published again. 0: never connected.
    pub connections: watch::Receiver<u64>,
    pub up: watch::Receiver<bool>,
    hang_up: DropGuard,
    task: JoinHandle<()>,
}

/// Publishes acks without ever waiting.
#[derive(Clone)]
pub struct AckSender(AsyncClient);

impl AckSender {
    /// False: the client's queue is full; try again later.
    pub fn send(&self, topic: &Topic, ack: &Ack) -> bool {
        self.0.try_publish(topic.to_string(), QoS::AtLeastOnce, true, ack.encode()).is_ok()
    }
}

impl Ingest {
    /// Connects in the background and keeps at it. From `stop` on nothing is taken any more, while acks still go out;
    /// [`Ingest::ended`] hangs up.
    pub fn start(
        broker: &Broker,
        site: &AssetId,
        slots: Slots,
        name: &str,
        stop: CancellationToken,
    ) -> Result<Self, IngestError> {
        let (client, events) = AsyncClient::new(options(broker, site, name)?, REQUESTS_MAX);
        let (arrived, arrivals) = mpsc::channel(ARRIVALS_QUEUED_MAX);
        let (connected, connections) = watch::channel(0);
        let (set_up, up) = watch::channel(false);
        let filters = Topic::filters(site, slots, Channel::Telemetry);
        let (client_here, refused) = (client.clone(), false);
        let driver =
            Driver { client: client_here, events, filters, arrived: Some(arrived), connected, up: set_up, refused };
        let hang_up = CancellationToken::new();
        let task = tokio::spawn(driver.run(stop, hang_up.clone()));
        Ok(Ingest { arrivals, acks: AckSender(client), connections, up, hang_up: hang_up.drop_guard(), task })
    }

    /// Publishes what is queued, hangs up, and waits for the end of it.
    pub async fn ended(self) {
        drop(self.hang_up);
        if let Err(e) = self.task.await {
            tracing::warn!(error = %e, "the MQTT client did not end cleanly");
        }
    }
}

struct Driver {
    client: AsyncClient,
    events: EventLoop,
    filters: Vec<String>,
    /// None: nothing is taken any more.
    arrived: Option<mpsc::Sender<Arrival>>,
    connected: watch::Sender<u64>,
    up: watch::Sender<bool>,
    /// The broker lets us in and does not let us subscribe. It is asked again: its rules may be mended without anybody being
    /// sent away.
    refused: bool,
}

impl Driver {
    async fn run(mut self, stop: CancellationToken, hang_up: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        // Once for every outage; one that begins with us, too.
        let mut told = false;
        loop {
            let polled = tokio::select! {
                () = hang_up.cancelled() => break,
                () = stop.cancelled(), if self.arrived.is_some() => {
                    self.arrived = None;
                    continue;
                }
                polled = timeout(POLL_TIMEOUT, self.events.poll()) => polled,
            };
            let handled = match polled {
                Ok(Ok(event)) => self.handle(event, &stop).await,
                Ok(Err(e)) => Err(e.to_string()),
                Err(_) => Err("nothing came for too long".into()),
            };
            let Err(failed) = handled else {
                if *self.up.borrow() {
                    backoff = BACKOFF_MIN;
                    told = false;
                }
                continue;
            };
            if self.up.send_replace(false) {
                tracing::warn!(error = failed, "the connection to the broker is lost; nothing is: gateways keep it");
            } else if told || self.refused {
                tracing::debug!(error = failed, "no connection to the broker");
            } else {
                tracing::warn!(error = failed, "no connection to the broker yet; it is tried again until there is one");
            }
            told = true;
            self.events.clean();
            let pause = rand::rng().random_range(Duration::ZERO..=backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::select! {
                () = hang_up.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        // The disconnect is queued behind the last acks.
        if *self.up.borrow() && self.client.try_disconnect().is_ok() {
            let _ = timeout(HANG_UP_TIMEOUT, async { while self.events.poll().await.is_ok() {} }).await;
        }
    }

    /// Err: this connection is of no use.
    async fn handle(&mut self, event: Event, stop: &CancellationToken) -> Result<(), String> {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                let filter = |path: &String| SubscribeFilter::new(path.clone(), QoS::AtLeastOnce);
                let queued = self.client.try_subscribe_many(self.filters.iter().map(filter));
                queued.map_err(|_| "the subscription can't be queued".to_string())?;
            }
            Event::Incoming(Packet::SubAck(granted)) => {
                if granted.return_codes.iter().any(|c| matches!(c, SubscribeReasonCode::Failure)) {
                    if !std::mem::replace(&mut self.refused, true) {
                        tracing::error!(filters = ?self.filters, "the broker refuses the subscription: check its access rules");
                    }
                    return Err("the subscription is refused".into());
                }
                self.refused = false;
                self.up.send_replace(true);
                self.connected.send_modify(|n| *n += 1);
                tracing::info!(filters = ?self.filters, "subscribed");
            }
            Event::Incoming(Packet::Publish(p)) => {
                let Some(arrived) = &self.arrived else { return Ok(()) };
                let (topic, payload, received) = (p.topic, bounded(p.payload), std::time::Instant::now());
                let taken = tokio::select! {
                    () = stop.cancelled() => false,
                    sent = arrived.send(Arrival { topic, payload, received }) => sent.is_ok(),
                };
                if !taken {
                    self.arrived = None;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// One byte more than a frame can have tells that it is none; the rest of it would only fill the queue.
fn bounded(payload: Bytes) -> Bytes {
    match payload.get(..=FRAME_BYTES_MAX) {
        Some(enough) => Bytes::copy_from_slice(enough),
        None => payload,
    }
}

/// `name`: of this instance, and unique at the broker.
fn options(broker: &Broker, site: &AssetId, name: &str) -> Result<MqttOptions, IngestError> {
    let mut options = MqttOptions::new(format!("processor-{site}-{name}"), &broker.host, broker.port);
    // The state of the session is worthless here: the agents' logs are the session.
    options.set_keep_alive(KEEP_ALIVE).set_clean_session(true).set_inflight(REQUESTS_MAX as u16);
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some((name, file)) = &broker.login {
        options.set_credentials(name, read(file)?.trim_end_matches(['\r', '\n']));
    }
    if let Some(files) = &broker.tls {
        let config = TlsConfiguration::Rustls(Arc::new(tls::client_config(files)?));
        options.set_transport(Transport::tls_with_config(config));
    }
    Ok(options)
}

fn read(file: &PathBuf) -> Result<String, IngestError> {
    std::fs::read_to_string(file).map_err(|e| IngestError::File { file: file.clone(), reason: e.to_string() })
}

#[cfg(test)]
mod tests;
