use std::path::Path;

use proto::broker::BrokerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const REFUSED: u8 = 0x80;
const GRANTED: u8 = 1;

/// A broker that lets the next client in and answers its subscription; the connection stays open.
async fn answer(listener: &TcpListener, filters: usize, code: u8) -> TcpStream {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut packet = [0; 1024];
    assert!(client.read(&mut packet).await.unwrap() > 0);
    client.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    // The packet's id is behind its type and its length, which takes one byte up to 127 and two above.
    assert!(client.read(&mut packet).await.unwrap() > 4);
    assert_eq!(packet[0], 0x82);
    let id = if packet[1] < 0x80 { 2 } else { 3 };
    let mut granted = vec![0x90, (2 + filters) as u8, packet[id], packet[id + 1]];
    granted.resize(4 + filters, code);
    client.write_all(&granted).await.unwrap();
    client
}

/// A broker whose access rules come later sends nobody away for it.
#[tokio::test]
async fn a_subscription_that_was_refused_is_asked_for_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (site, slots) = (AssetId::new("mill").unwrap(), Slots::ALL);
    let filters = Topic::filters(&site, slots, Channel::Telemetry).len();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let config: BrokerConfig = proto::config::parse("test", &format!("url = \"{url}\"")).unwrap();
    let broker = config.check(Path::new("")).unwrap();
    let mut ingest = Ingest::start(&broker, &site, slots, "a", CancellationToken::new()).unwrap();
    let _refused = answer(&listener, filters, REFUSED).await;
    let _granted = answer(&listener, filters, GRANTED).await;
    ingest.up.wait_for(|up| *up).await.unwrap();
    assert_eq!(*ingest.connections.borrow(), 1);
}
