//! Those who look keys up: pkbridge, asked over DNS, and the library that it uses.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{Name, RecordType};
use mainline::async_dht::AsyncDht;
use pkbridge::config::Config;
use pkbridge::pkarr::PublicKey;
use pkbridge::resolve::Dht;
use pkbridge::server::{Options, Server};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What a stub waits for (resolv.conf(5)).
const STUB_PATIENCE: Duration = Duration::from_secs(5);

/// What came of asking for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Packet,
    /// A packet past its time: with the Extended DNS Error that says so.
    Stale,
    Nobody,
    /// SERVFAIL with an Extended DNS Error.
    Failure,
    /// No reply within a stub's time.
    Nothing,
}

/// A pkbridge in this process, with sockets of its own.
pub(super) struct Bridge {
    address: SocketAddr,
    pub(super) dht: Arc<Dht>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bridge {
    pub(super) fn start(bootstrap: &[SocketAddrV4], state: Option<PathBuf>) -> Self {
        let mut config = Config::default();
        config.listen.addresses = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        config.dht.bootstrap = bootstrap.iter().map(ToString::to_string).collect();
        config.dht.bind_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        config.state.directory = state;
        config.control.socket = None;
        let server = Server::start(config, Options::default()).unwrap();
        let (address, dht) = (server.addresses()[0], server.dht());
        let stop = CancellationToken::new();
        let (_, reload) = mpsc::channel(1);
        let task = tokio::spawn(server.run(stop.clone(), reload));
        Self {
            address,
            dht,
            stop,
            task,
        }
    }

    /// Waits until all its nodes have joined and their tables have been looked at.
    pub(super) async fn joined(&self) {
        let has_table = |dht: &Dht| dht.status().instances.iter().all(|node| node.nodes > 0);
        while !has_table(&self.dht) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// The sockets of its nodes.
    pub(super) fn sockets(&self) -> Vec<String> {
        let nodes = self.dht.status().instances;
        let address = nodes.iter().filter_map(|node| node.address);
        address.map(|address| address.to_string()).collect()
    }

    pub(super) async fn ask(&self, key: PublicKey) -> (Found, Duration) {
        ask(self.address, key).await
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Asks as a stub does, once.
pub(super) async fn ask(server: SocketAddr, key: PublicKey) -> (Found, Duration) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{key}.")).unwrap();
    query.add_query(Query::query(name, RecordType::TXT));
    query.set_edns(Edns::new());
    let started = Instant::now();
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let received = timeout(STUB_PATIENCE, socket.recv(&mut buffer)).await;
    let time = started.elapsed();
    let Ok(Ok(length)) = received else {
        return (Found::Nothing, time);
    };
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    let has_error = reply
        .edns
        .as_ref()
        .is_some_and(|edns| edns.option(EdnsCode::Unknown(15)).is_some());
    let found = match reply.metadata.response_code {
        ResponseCode::NoError if has_error => Found::Stale,
        ResponseCode::NoError => Found::Packet,
        ResponseCode::NXDomain => Found::Nobody,
        ResponseCode::ServFail if has_error => Found::Failure,
        _ => panic!("{reply}"),
    };
    (found, time)
}

/// The library as it comes, but for the bootstrap nodes.
pub(super) async fn library(bootstrap: &[SocketAddrV4]) -> AsyncDht {
    let nodes = bootstrap.to_vec();
    let build = move || {
        mainline::Dht::builder()
            .bootstrap(&nodes)
            .bind_address(Ipv4Addr::LOCALHOST)
            .port(0)
            .build()
            .unwrap()
    };
    let dht = tokio::task::spawn_blocking(build).await.unwrap().as_async();
    assert!(dht.bootstrapped().await);
    dht
}

/// Its first value.
pub(super) async fn first_value(dht: &AsyncDht, key: PublicKey) -> (Found, Duration) {
    let started = Instant::now();
    let mut items = dht.get_mutable(key.as_bytes(), None, None);
    let found = match items.next().await {
        Some(_) => Found::Packet,
        None => Found::Nobody,
    };
    (found, started.elapsed())
}

/// What its documentation shows first: the newest value.
pub(super) async fn most_recent(dht: &AsyncDht, key: PublicKey) -> (Found, Duration) {
    let started = Instant::now();
    let found = match dht.get_mutable_most_recent(key.as_bytes(), None).await {
        Some(_) => Found::Packet,
        None => Found::Nobody,
    };
    (found, started.elapsed())
}
