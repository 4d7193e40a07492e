//! A real server on port 0, a scripted upstream, a loopback DHT, and a client.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "test support: a test that fails tells enough, and no test uses all of it"
)]

pub mod forward;
pub mod front;
pub mod program;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use dht_simulator::Item;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mainline::Testnet;
use pkbridge::config::Config;
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey};
use pkbridge::resolve::{Dht, Ending, Failure, Holders, Node, See, Sighting};
use pkbridge::server::{Options, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration for loopback: any free port, no upstream, a DHT that does not answer, no state.
pub fn config() -> Config {
    let mut config = Config::default();
    config.state.directory = None;
    config.names.hosts_file = None;
    config.control.socket = None;
    config.listen.addresses = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    config.dht.bootstrap = vec!["127.0.0.1:9".to_owned()];
    config.dht.bind_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    config
}

/// A server that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub addresses: Vec<SocketAddr>,
    pub stop: CancellationToken,
    pub reload: mpsc::Sender<Config>,
    pub dht: Arc<Dht>,
    pub task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub fn start(config: Config) -> Self {
        Self::run(Server::start(config, Options::default()).unwrap())
    }

    pub fn run(server: Server) -> Self {
        let addresses = server.addresses();
        let dht = server.dht();
        let stop = CancellationToken::new();
        let (reload, configs) = mpsc::channel(1);
        let task = tokio::spawn(server.run(stop.clone(), configs));
        Self {
            address: addresses[0],
            addresses,
            stop,
            reload,
            dht,
            task,
        }
    }

    /// Asks for a key, and waits until its lookup has ended: TTLs are low before.
    pub async fn warm(&self, key: PublicKey) {
        ask(self.address, &key.to_string(), RecordType::TXT).await;
        until("the lookup ends", async || {
            let lookups = self.dht.status().lookups;
            lookups.under_way == 0 && lookups.waiting == 0
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until the server has taken the configuration, or refused it. On a runtime of one thread it takes
/// one whole before anybody else goes on.
pub async fn reload(server: &Running, config: Config) {
    server.reload.send(config).await.unwrap();
    // There is room for one: when there is again, the server has taken it out.
    let taken = tokio::time::timeout(PATIENCE, server.reload.reserve()).await;
    drop(taken.unwrap().unwrap());
}

/// A DHT of `count` nodes on loopback, and what publishes on it.
pub struct TestDht {
    pub testnet: Testnet,
    pub publisher: Node,
}

impl TestDht {
    pub async fn start(count: usize) -> Self {
        // The library's nodes take this port if it is free: one that is dropped would be followed on
        // it by one of another network.
        static PORT: LazyLock<Option<std::net::UdpSocket>> =
            LazyLock::new(|| std::net::UdpSocket::bind("127.0.0.1:6881").ok());
        LazyLock::force(&PORT);
        let build = move || Testnet::builder(count).build().unwrap();
        let testnet = tokio::task::spawn_blocking(build).await.unwrap();
        let any_port = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let addresses = testnet.bootstrap.iter().map(|node| node.parse().unwrap());
        let publisher = Node::start(any_port, addresses.collect()).await.unwrap();
        publisher.join().await.unwrap();
        Self { testnet, publisher }
    }

    /// [`config`] with this DHT.
    pub fn config(&self) -> Config {
        let mut config = config();
        config.dht.bootstrap.clone_from(&self.testnet.bootstrap);
        config
    }

    pub async fn publish(&self, packet: &SignedPacket) {
        assert!(self.publisher.publish(packet).await.unwrap() > 0);
    }
}

/// What a scripted lookup comes to.
#[derive(Debug, Clone)]
pub enum Fetched {
    Packet(SignedPacket),
    Invalid { seq: u64, reason: String },
    Absent,
    Failed(Failure),
}

impl Fetched {
    /// Shows what was found and ends the lookup.
    pub fn play(self, see: &mut See<'_>) -> Ending {
        match self {
            Self::Packet(packet) => see(Sighting::Packet(packet)),
            Self::Invalid { seq, reason } => see(Sighting::Invalid { seq, reason }),
            Self::Absent => {}
            Self::Failed(Failure::DhtPoorMiss) => return Ending::Poor,
            Self::Failed(failure) => return Ending::Failed(failure),
        }
        Ending::Complete(Holders::default())
    }
}

/// A key for tests, by number.
pub fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub fn key_of(secret: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap()
}

/// A fully qualified name.
pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// `sub.<key>`; the empty text is the key itself.
pub fn below(key: PublicKey, sub: &str) -> Name {
    let dot = if sub.is_empty() { "" } else { "." };
    name(&format!("{sub}{dot}{key}"))
}

pub fn sign(secret: &SigningKey, seq: u64, records: Vec<(Name, u32, RData)>) -> SignedPacket {
    let records = records
        .into_iter()
        .map(|(owner, ttl, data)| Record::from_rdata(owner, ttl, data))
        .collect();
    SignedPacket::sign_records(secret, seq, records).unwrap()
}

/// The packet as the simulated DHT stores it.
pub fn item_of(packet: &SignedPacket) -> Item {
    Item {
        key: *packet.key().as_bytes(),
        signature: *packet.signature(),
        seq: packet.seq().try_into().unwrap(),
        value: packet.dns().to_vec(),
    }
}

/// A query as most stubs send it: RD and EDNS with 1232 bytes.
pub fn query(owner: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(owner), rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// Sends bytes over UDP and waits for a datagram.
pub async fn exchange_udp(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("no reply")
        .unwrap();
    buffer.truncate(length);
    buffer
}

pub async fn ask(server: SocketAddr, owner: &str, rtype: RecordType) -> Message {
    send(server, &query(owner, rtype)).await
}

pub async fn send(server: SocketAddr, query: &Message) -> Message {
    let reply = exchange_udp(server, &query.to_vec().unwrap()).await;
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

pub async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap();
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await.unwrap();
}

pub async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("no reply")
}

pub async fn ask_tcp(server: SocketAddr, owner: &str, rtype: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, &query(owner, rtype).to_vec().unwrap()).await;
    Message::from_vec(&read_framed(&mut stream).await).unwrap()
}

/// INFO-CODE and text of the reply's Extended DNS Error.
pub fn ede(reply: &Message) -> Option<(u16, String)> {
    edes(reply).into_iter().next()
}

/// The same of all.
pub fn edes(reply: &Message) -> Vec<(u16, String)> {
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    let options = reply.edns.iter().flat_map(|edns| edns.options().as_ref());
    let errors = options.filter(|(code, _)| *code == EdnsCode::from(15));
    let read = |option: &EdnsOption| {
        let EdnsOption::Unknown(15, bytes) = option else {
            panic!("{option:?}");
        };
        let text = String::from_utf8(bytes[2..].to_vec()).unwrap();
        (u16::from_be_bytes([bytes[0], bytes[1]]), text)
    };
    errors.map(|(_, option)| read(option)).collect()
}

pub fn rcode(reply: &Message) -> ResponseCode {
    reply.metadata.response_code
}

/// The data of the answers of a type.
pub fn data(reply: &Message, rtype: RecordType) -> Vec<RData> {
    let answers = reply.answers.iter();
    answers
        .filter(|record| record.record_type() == rtype)
        .map(|record| record.data.clone())
        .collect()
}

/// What a scripted upstream does with one query: the datagrams or frames that it sends back.
pub type Script = Arc<dyn Fn(&[u8], Via) -> Vec<Vec<u8>> + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Udp,
    Tcp,
}

/// An upstream on loopback, UDP and TCP on one port, that does what its script says and remembers
/// what it was asked.
pub struct Upstream {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<VecDeque<Asked>>>,
    pace: Arc<Mutex<Pace>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// When an upstream's datagrams come.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    AtOnce,
    After(Duration),
    Never,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
    pub via: Via,
}

impl Asked {
    pub fn message(&self) -> Message {
        Message::from_vec(&self.bytes).unwrap()
    }
}

impl Upstream {
    pub async fn start(
        script: impl Fn(&[u8], Via) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(script);
        let (udp, tcp) = loop {
            let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(VecDeque::new()));
        let pace = Arc::new(Mutex::new(Pace::AtOnce));
        let (remember, udp_script, udp_pace) = (asked.clone(), script.clone(), pace.clone());
        let over_udp = tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let bytes = buffer[..length].to_vec();
                let via = Via::Udp;
                let replies = udp_script(&bytes, via);
                remember
                    .lock()
                    .unwrap()
                    .push_back(Asked { bytes, from, via });
                let pace = *udp_pace.lock().unwrap();
                let udp = udp.clone();
                let send = async move {
                    for reply in replies {
                        udp.send_to(&reply, from).await.unwrap();
                    }
                };
                match pace {
                    Pace::AtOnce => send.await,
                    Pace::After(delay) => {
                        tokio::spawn(async move {
                            tokio::time::sleep(delay).await;
                            send.await;
                        });
                    }
                    Pace::Never => {}
                }
            }
        });
        let remember = asked.clone();
        let over_tcp = tokio::spawn(async move {
            loop {
                let (mut stream, from) = tcp.accept().await.unwrap();
                let (remember, script) = (remember.clone(), script.clone());
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut bytes = vec![0; usize::from(length)];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let via = Via::Tcp;
                        let replies = script(&bytes, via);
                        remember
                            .lock()
                            .unwrap()
                            .push_back(Asked { bytes, from, via });
                        for reply in replies {
                            write_framed(&mut stream, &reply).await;
                        }
                    }
                });
            }
        });
        Self {
            address,
            asked,
            pace,
            tasks: vec![over_udp, over_tcp],
        }
    }

    /// Answers every A question with `192.0.2.1` and this TTL, everything else with an empty NOERROR.
    pub async fn plain(ttl: u32) -> Self {
        Self::start(move |query, _| {
            let mut reply = reply_to(query);
            let question = reply.queries[0].clone();
            if question.query_type() == RecordType::A {
                let address = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
                reply.add_answer(Record::from_rdata(question.name().clone(), ttl, address));
            }
            vec![reply.to_vec().unwrap()]
        })
        .await
    }

    /// From now on its datagrams come like this.
    pub fn answers(&self, pace: Pace) {
        *self.pace.lock().unwrap() = pace;
    }

    /// Names asked so far, in lower case.
    pub fn names(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let names = asked.iter().map(|asked| asked.message());
        names
            .map(|m| m.queries[0].name().to_lowercase().to_ascii())
            .collect()
    }

    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// An empty NOERROR reply to a query, with its ID and question.
pub fn reply_to(query: &[u8]) -> Message {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    reply
}

/// A directory that goes with the test. Its path is short: that of a Unix socket in it has at most 107
/// octets (unix(7)).
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        let name = format!("pkbridge-{:x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until `done`, and fails if that takes too long.
pub async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let poll = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, poll).await;
    assert!(waited.is_ok(), "{what}");
}
