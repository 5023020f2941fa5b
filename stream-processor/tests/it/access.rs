//! The brokers' access rules, with real clients: a forged ack would make a gateway forget what is not archived.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use proto::{
    archive::shards::Slots,
    asset::AssetId,
    topic::{Channel, Topic},
};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use stream_processor::embedded::broker::{Broker, Login};
use tokio::{
    sync::mpsc::{Receiver, channel},
    time::timeout,
};

use crate::components::{find, on_free_port};

const HANGS_AFTER: Duration = Duration::from_secs(30);
/// Far more than any test here leaves unread.
const PACKETS_QUEUED_MAX: usize = 256;

struct Client {
    client: AsyncClient,
    packets: Receiver<Incoming>,
}

impl Client {
    async fn connect(broker: SocketAddr, id: &str, login: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new(id, broker.ip().to_string(), broker.port());
        if let Some((name, password)) = login {
            options.set_credentials(name, password);
        }
        let (client, mut events) = AsyncClient::new(options, 16);
        let (sender, packets) = channel(PACKETS_QUEUED_MAX);
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(packet) = event
                    && sender.send(packet).await.is_err()
                {
                    return;
                }
            }
        });
        let mut client = Client { client, packets };
        client.next(|packet| matches!(packet, Incoming::ConnAck(_)).then_some(())).await.expect("it connects");
        client
    }

    /// None: the connection is over.
    async fn next<T>(&mut self, wanted: impl Fn(Incoming) -> Option<T>) -> Option<T> {
        loop {
            let packet = timeout(HANGS_AFTER, self.packets.recv()).await.expect("the broker answers")?;
            if let Some(found) = wanted(packet) {
                return Some(found);
            }
        }
    }

    async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        self.next(|packet| matches!(packet, Incoming::SubAck(_)).then_some(())).await.expect("it subscribes");
    }

    async fn publish(&mut self, topic: &str, text: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, text).await.unwrap();
        self.next(|packet| matches!(packet, Incoming::PubAck(_)).then_some(())).await.expect("it is answered");
    }

    /// The next message that is delivered.
    async fn message(&mut self) -> String {
        let text = |packet| match packet {
            Incoming::Publish(message) => Some(String::from_utf8(message.payload.to_vec()).unwrap()),
            _ => None,
        };
        self.next(text).await.expect("a message")
    }
}

/// What is refused never arrives: what arrives first is what was sent after it, and allowed.
async fn rules_hold(mut processor: Client, mut agent: Client, mut victim: Client) {
    let (site, victims) = (AssetId::new("mill").unwrap(), AssetId::new("gateway-2").unwrap());
    let own = Topic::new(&site, &AssetId::new("gateway-1").unwrap(), Channel::Telemetry).to_string();
    let ack = Topic::new(&site, &victims, Channel::Ack).to_string();
    victim.subscribe(&ack).await;
    agent.publish(&ack, "forged").await;
    processor.publish(&ack, "real").await;
    assert_eq!(victim.message().await, "real");
    processor.subscribe(&Topic::filters(&site, Slots::ALL, Channel::Telemetry)[0]).await;
    agent.publish(&Topic::new(&site, &victims, Channel::Telemetry).to_string(), "in another's name").await;
    agent.publish(&own, "in its own").await;
    assert_eq!(processor.message().await, "in its own");
}

#[tokio::test]
async fn the_embedded_broker_knows_who_may_publish_what() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let login = Login { name: "processor".into(), password: "correct-horse".into() };
    let broker = Broker::start(any, login).await.unwrap();
    let processor = Client::connect(broker.addr, "processor-mill", Some(("processor", "correct-horse"))).await;
    let agent = Client::connect(broker.addr, "gateway-1-install", None).await;
    let victim = Client::connect(broker.addr, "gateway-2-install", None).await;
    rules_hold(processor, agent, victim).await;
}

#[tokio::test]
async fn the_rules_shipped_for_mosquitto_say_the_same() {
    let (Some(mosquitto), Some(passwd)) = (find("mosquitto"), find("mosquitto_passwd")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    for name in ["stream-processor", "gateway-1", "gateway-2"] {
        let mut command = Command::new(&passwd);
        assert!(command.arg("-b").arg(&passwords).args([name, name]).stderr(Stdio::null()).status().unwrap().success());
    }
    let rules = folder.path().join("acl");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/base/broker/mosquitto.acl");
    std::fs::copy(shipped, &rules).unwrap();
    let (_running, addr) = on_free_port(|addr| {
        let config = folder.path().join("mosquitto.conf");
        // Started as root it would become somebody else, who can't read the files of this test.
        let text = format!(
            "user root\nlistener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\nacl_file {}\n",
            addr.port(),
            passwords.display(),
            rules.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(&mosquitto);
        command.arg("-c").arg(&config).stderr(Stdio::null());
        command
    });
    let connect = async |name: &str| Client::connect(addr, &format!("{name}-id"), Some((name, name))).await;
    rules_hold(connect("stream-processor").await, connect("gateway-1").await, connect("gateway-2").await).await;
}
