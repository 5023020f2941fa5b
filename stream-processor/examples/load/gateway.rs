//! One gateway: its MQTT connection and its log.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::{
    ack::Ack,
    telemetry::frame::FRAME_BYTES_MAX,
    topic::{Channel, Topic},
};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    traffic::{SITE, Traffic, name},
    window::{BATCHES_OUT_MAX, Window},
};

const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 64 * 1024;
/// A paced gateway looks so often whether a batch is due.
const LOOK: Duration = Duration::from_millis(5);

/// How fast to go, and up to which batch.
#[derive(Debug, Clone, Copy)]
pub struct Orders {
    pub start: Instant,
    /// Between two batches; zero: as fast as the window lets it.
    pub interval: Duration,
    pub last: u64,
}

impl Orders {
    /// The newest batch that is due at a gateway which flushes at this part of the interval.
    fn due(&self, part: f64) -> u64 {
        if self.interval.is_zero() {
            return self.last;
        }
        let intervals = self.start.elapsed().as_secs_f64() / self.interval.as_secs_f64();
        self.last.min((intervals + 1.0 - part) as u64)
    }
}

/// What all can see of a gateway while it runs.
#[derive(Debug, Default)]
pub struct Seen {
    pub window: Window,
    /// When each batch was first sent, by its number less 1.
    pub sent_at: Vec<Instant>,
}

pub struct Gateway {
    pub id: usize,
    pub broker: (String, u16),
    /// Its whole log.
    pub frames: Vec<Bytes>,
    /// Not all gateways flush at once: 0..1 of the interval.
    pub part: f64,
    pub seen: Rc<RefCell<Seen>>,
}

impl Gateway {
    /// For ever, or until the connection breaks.
    pub async fn run(self, orders: watch::Receiver<Orders>) -> anyhow::Result<()> {
        let (host, port) = &self.broker;
        let mut options = MqttOptions::new(format!("load-{}", self.id), host, *port);
        options.set_clean_session(true).set_inflight(4 * BATCHES_OUT_MAX as u16);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        let (client, events) = AsyncClient::new(options, 4 * BATCHES_OUT_MAX as usize);
        self.drive(client, events, orders).await
    }

    async fn drive(
        self,
        client: AsyncClient,
        mut events: EventLoop,
        mut orders: watch::Receiver<Orders>,
    ) -> anyhow::Result<()> {
        events.network_options.set_tcp_nodelay(true);
        let agent = Traffic::gateway(self.id);
        let topic = |channel| Topic::new(&name(SITE), &agent, channel).to_string();
        let (telemetry, acks) = (topic(Channel::Telemetry), topic(Channel::Ack));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut subscribed = false;
        loop {
            // Not dropped before it resolves: a packet could be half written.
            let poll = events.poll();
            tokio::pin!(poll);
            let event = loop {
                tokio::select! {
                    event = &mut poll => break event?,
                    _ = look.tick() => {}
                    Ok(()) = orders.changed() => {}
                }
                if subscribed {
                    self.send(&client, &telemetry, &orders.borrow());
                }
            };
            match event {
                Event::Incoming(Packet::ConnAck(_)) => client.try_subscribe(&acks, QoS::AtLeastOnce)?,
                Event::Incoming(Packet::SubAck(_)) => subscribed = true,
                Event::Incoming(Packet::Publish(publish)) => {
                    let now = orders.borrow().start.elapsed();
                    self.seen.borrow_mut().window.acked(&Ack::decode(&publish.payload)?, now);
                    self.send(&client, &telemetry, &orders.borrow());
                }
                _ => {}
            }
        }
    }

    /// All that is due and fits into the window.
    fn send(&self, client: &AsyncClient, topic: &str, orders: &Orders) {
        let mut seen = self.seen.borrow_mut();
        let (now, due) = (orders.start.elapsed(), orders.due(self.part));
        seen.window.look(now);
        while let Some(seq) = seen.window.next(due) {
            let frame = self.frames[seq as usize - 1].clone();
            if client.try_publish(topic, QoS::AtLeastOnce, false, frame).is_err() {
                break;
            }
            seen.window.sent(now);
            if seen.sent_at.len() < seq as usize {
                seen.sent_at.push(Instant::now());
            }
        }
    }
}
