//! What a server does by itself, with an upstream on loopback.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;

use super::*;
use crate::endpoint::Endpoint;
use crate::wire::{Layout, read_u32};

/// Longest wait for anything; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);
/// TTL of the upstream's records.
const TTL: u32 = 1000;

/// Answers every question with one address, and counts them.
async fn upstream(asked: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut query).await.unwrap();
            let question_end = Layout::read(&query[..length]).unwrap().question_end;
            let mut reply = query[..question_end].to_vec();
            reply.splice(2..12, [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            reply.extend([0xc0, 12, 0, 1, 0, 1]);
            reply.extend(TTL.to_be_bytes());
            reply.extend([0, 4, 192, 0, 2, 1]);
            asked.fetch_add(1, Ordering::Relaxed);
            socket.send_to(&reply, client).await.unwrap();
        }
    });
    address
}

/// The TTL of the only record.
async fn ask(server: SocketAddr) -> u32 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    socket.send_to(query, server).await.unwrap();
    let mut reply = [0; 512];
    let received = timeout(PATIENCE, socket.recv(&mut reply)).await;
    let layout = Layout::read(&reply[..received.unwrap().unwrap()]).unwrap();
    assert_eq!(layout.records.len(), 1);
    read_u32(&reply, layout.records[0].ttl_at).unwrap()
}

#[tokio::test]
async fn answers_grow_older_while_the_host_sleeps() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut config = Config::default();
    config.state.directory = None;
    config.names.hosts_file = None;
    config.control.socket = None;
    config.listen.addresses = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    config.dht.bootstrap = vec!["127.0.0.1:9".to_owned()];
    config.dht.bind_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    config.upstream.servers = vec![Endpoint::plain(upstream(Arc::clone(&asked)).await)];
    let mut server = Server::start(config, Options::default()).unwrap();
    let address = server.addresses()[0];
    assert_eq!(ask(address).await, TTL);

    server.has_slept(Duration::from_secs(500)).await;
    let left = ask(address).await;
    assert!((400..=500).contains(&left), "{left}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    server.has_slept(Duration::from_secs(500)).await;
    assert_eq!(ask(address).await, TTL);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
