//! TCP through real sockets: many questions on a connection, large answers, and how many connections
//! there may be. What takes time is tested beside the code, where the clock can be paused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::*;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{RData, Record, RecordType};
use pkbridge::config::Config;
use pkbridge::endpoint::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

const TTL: u32 = 300;
/// A type that no library knows (RFC 6895 section 3.1: private use).
const PRIVATE: RecordType = RecordType::Unknown(65_280);
/// Bytes of a large record.
const BIG_LEN: usize = 60_000;
/// Two clients.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn forwarding_to(upstream: SocketAddr) -> Config {
    let mut config = config();
    config.upstream.servers = vec![Endpoint::plain(upstream)];
    config.upstream.timeout = PATIENCE;
    config
}

fn with_limits(total: usize, per_client: usize) -> Config {
    let mut config = config();
    set_limits(&mut config, total, per_client);
    config
}

fn set_limits(config: &mut Config, total: usize, per_client: usize) {
    config.listen.max_tcp_connections = total;
    config.listen.max_tcp_connections_per_client = per_client;
}

/// An upstream that answers with a record of this length, over TCP where it must.
async fn with_records_of(length: usize) -> Upstream {
    Upstream::start(move |query, via| {
        let mut reply = reply_to(query);
        if via == Via::Udp && length > 1000 {
            reply.metadata.truncation = true;
        } else {
            let owner = reply.queries[0].name().clone();
            let data = RData::Unknown {
                code: PRIVATE,
                rdata: NULL::with(vec![7; length]),
            };
            reply.add_answer(Record::from_rdata(owner, TTL, data));
        }
        vec![reply.to_vec().unwrap()]
    })
    .await
}

/// An upstream that the test itself plays.
struct Played(UdpSocket);

impl Played {
    async fn start() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    fn config(&self) -> Config {
        forwarding_to(self.0.local_addr().unwrap())
    }

    /// Waits until it has been asked all these names; gives the first query for each.
    async fn hears(&self, names: &[&str]) -> HashMap<String, (Vec<u8>, SocketAddr)> {
        let mut heard = HashMap::new();
        let mut buffer = [0; 1232];
        while !names.iter().all(|name| heard.contains_key(*name)) {
            let received = timeout(PATIENCE, self.0.recv_from(&mut buffer)).await;
            let (length, from) = received.expect("not asked").unwrap();
            let query = buffer[..length].to_vec();
            let name = Message::from_vec(&query).unwrap().queries[0]
                .name()
                .to_lowercase()
                .to_ascii();
            heard.entry(name).or_insert((query, from));
        }
        heard
    }

    async fn answers(&self, (query, from): &(Vec<u8>, SocketAddr)) {
        let reply = reply_to(query).to_vec().unwrap();
        self.0.send_to(&reply, from).await.unwrap();
    }
}

/// A question with an ID.
fn question(owner: &str, rtype: RecordType, id: u16) -> Vec<u8> {
    let mut query = query(owner, rtype);
    query.metadata.id = id;
    query.to_vec().unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

async fn read_reply(stream: &mut TcpStream) -> Message {
    Message::from_vec(&read_framed(stream).await).unwrap()
}

/// Tries until it is so.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let trying = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    let result = timeout(PATIENCE, trying).await;
    result.unwrap_or_else(|_| panic!("never: {what}"));
}

// Many questions on a connection.

#[tokio::test]
async fn rfc7766_6_2_1_1_200_questions_in_one_write_are_answered() {
    let upstream = Upstream::plain(TTL).await;
    let server = Running::start(forwarding_to(upstream.address));
    // Some come from the cache, some from the upstream, some from the server itself.
    ask(server.address, "n0.example", RecordType::A).await;
    let mut ids: HashSet<u16> = (0..200).collect();
    let questions = (0..200).flat_map(|id| match id % 4 {
        0 => framed(&question("n0.example", RecordType::A, id)),
        1 => framed(&question("pkarr", RecordType::SOA, id)),
        _ => framed(&question(&format!("n{id}.example"), RecordType::A, id)),
    });
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(&questions.collect::<Vec<u8>>())
        .await
        .unwrap();
    while !ids.is_empty() {
        let reply = read_reply(&mut stream).await;
        assert_eq!(reply.answers.len(), 1);
        assert!(ids.remove(&reply.metadata.id));
    }
}

#[tokio::test]
async fn questions_may_be_cut_anywhere() {
    let upstream = Upstream::plain(TTL).await;
    let server = Running::start(forwarding_to(upstream.address));
    let questions: Vec<u8> = (0..20)
        .flat_map(|id| framed(&question(&format!("n{id}.example"), RecordType::A, id)))
        .collect();
    for part in [1, 7, 100] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for bytes in questions.chunks(part) {
            stream.write_all(bytes).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut ids: HashSet<u16> = (0..20).collect();
        while !ids.is_empty() {
            assert!(ids.remove(&read_reply(&mut stream).await.metadata.id));
        }
    }
}

#[tokio::test]
async fn rfc7766_7_answers_come_in_the_order_in_which_they_are_ready() {
    let upstream = Played::start().await;
    let server = Running::start(upstream.config());
    let names = ["a.example.", "b.example.", "c.example."];
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for (name, id) in names.iter().zip(0..) {
        write_framed(&mut stream, &question(name, RecordType::A, id)).await;
    }
    let heard = upstream.hears(&names).await;
    for id in [1, 2, 0] {
        upstream.answers(&heard[names[usize::from(id)]]).await;
        assert_eq!(read_reply(&mut stream).await.metadata.id, id);
    }
}

#[tokio::test]
async fn questions_before_a_half_close_are_answered_and_then_it_is_closed() {
    let upstream = Upstream::plain(TTL).await;
    let server = Running::start(forwarding_to(upstream.address));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let questions =
        (0..100).flat_map(|id| framed(&question(&format!("n{id}.example"), RecordType::A, id)));
    stream
        .write_all(&questions.collect::<Vec<u8>>())
        .await
        .unwrap();
    // Half a question more.
    stream.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut ids: HashSet<u16> = (0..100).collect();
    while !ids.is_empty() {
        assert!(ids.remove(&read_reply(&mut stream).await.metadata.id));
    }
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

// Large answers, and clients that do not read.

#[tokio::test]
async fn answers_of_60_kb_arrive_whole() {
    let upstream = with_records_of(BIG_LEN).await;
    let server = Running::start(forwarding_to(upstream.address));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // From the upstream, and from the cache; and many while nobody reads.
    for count in [1, 1, 30] {
        for id in 0..count {
            write_framed(&mut stream, &question("big.example", PRIVATE, id)).await;
        }
        for _ in 0..count {
            let reply = read_reply(&mut stream).await;
            let [record] = &reply.answers[..] else {
                panic!("{reply:?}");
            };
            let RData::Unknown { rdata, .. } = &record.data else {
                panic!("{record:?}");
            };
            assert_eq!(rdata.anything, [7; BIG_LEN]);
        }
    }
    let over_udp = ask(server.address, "big.example", PRIVATE).await;
    assert!(over_udp.metadata.truncation);
}

/// Asks the same again and again without reading an answer, until the server takes no more; returns
/// how many bytes it took.
async fn ask_until_blocked(stream: &TcpStream, question: &[u8]) -> usize {
    /// More than the system keeps for both directions of a connection.
    const TOO_MUCH: usize = 64 * 1024 * 1024;
    /// So often everybody else has had a turn, and still there is no room.
    const TURNS: usize = 10_000;
    let questions = framed(question).repeat(100);
    let (mut sent, mut turns) = (0, 0);
    while turns < TURNS {
        match stream.try_write(&questions[sent % questions.len()..]) {
            Ok(length) => (sent, turns) = (sent + length, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => turns += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(sent < TOO_MUCH, "the server reads on");
        tokio::task::yield_now().await;
    }
    sent
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let upstream = with_records_of(BIG_LEN).await;
    let server = Running::start(forwarding_to(upstream.address));
    ask_tcp(server.address, "big.example", PRIVATE).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let question = question("big.example", PRIVATE, 1);
    let sent = ask_until_blocked(&stream, &question).await;
    assert!(sent > 0);
    // Others are served, and what was asked first is still answered.
    ask_tcp(server.address, "big.example", PRIVATE).await;
    for _ in 0..10 {
        assert_eq!(read_reply(&mut stream).await.metadata.id, 1);
    }
}

// How many connections there may be.

/// A connection from this address to the server.
async fn connect_from(client: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    let stream = socket.connect(server).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), server);
    assert_eq!(stream.local_addr().unwrap().ip(), IpAddr::V4(client));
    stream
}

/// Whether a question is answered here. If not, the server has closed the connection.
async fn is_served(stream: &mut TcpStream) -> bool {
    let question = framed(&question("pkarr", RecordType::SOA, 1));
    let exchange = async {
        // It may have been closed before this, or may be with this unread.
        stream.write_all(&question).await.ok()?;
        let length = stream.read_u16().await.ok()?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.ok()
    };
    let exchanged = timeout(PATIENCE, exchange).await;
    exchanged.expect("neither closed nor answered").is_some()
}

/// A connection, if there is a place for it.
async fn connection(client: Ipv4Addr, server: SocketAddr) -> Option<TcpStream> {
    let mut stream = connect_from(client, server).await;
    is_served(&mut stream).await.then_some(stream)
}

/// Whether the server closes this connection without a word.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0])).await;
    // Closing with unread bytes resets the connection.
    read.expect("neither closed nor answered").unwrap_or(0) == 0
}

/// Makes a connection busy with a question that the upstream does not answer.
async fn make_busy(stream: &mut TcpStream, upstream: &Played, name: &str) {
    write_framed(stream, &question(name, RecordType::A, 7)).await;
    upstream.hears(&[name]).await;
}

#[tokio::test]
async fn rfc9210_4_2_the_connection_that_is_idle_for_longest_makes_room() {
    let server = Running::start(with_limits(3, 3));
    let mut first = connection(HERE, server.address).await.unwrap();
    let mut second = connection(THERE, server.address).await.unwrap();
    let mut third = connection(HERE, server.address).await.unwrap();
    // Now the first one is the one that was busy last.
    assert!(is_served(&mut first).await);
    let mut fourth = connection(HERE, server.address).await.unwrap();
    assert!(is_closed(&mut second).await);
    let mut fifth = connection(THERE, server.address).await.unwrap();
    assert!(is_closed(&mut third).await);
    for stream in [&mut first, &mut fourth, &mut fifth] {
        assert!(is_served(stream).await);
    }
}

#[tokio::test]
async fn a_connection_that_never_asked_makes_room_too() {
    let server = Running::start(with_limits(2, 2));
    let mut silent = connect_from(HERE, server.address).await;
    let mut other = connection(HERE, server.address).await.unwrap();
    let mut third = connection(HERE, server.address).await.unwrap();
    assert!(is_closed(&mut silent).await);
    assert!(is_served(&mut other).await);
    assert!(is_served(&mut third).await);
}

#[tokio::test]
async fn at_its_own_limit_a_client_makes_room_for_itself() {
    let server = Running::start(with_limits(10, 2));
    let mut others = connection(THERE, server.address).await.unwrap();
    let mut first = connection(HERE, server.address).await.unwrap();
    let mut second = connection(HERE, server.address).await.unwrap();
    let mut third = connection(HERE, server.address).await.unwrap();
    assert!(is_closed(&mut first).await);
    for stream in [&mut others, &mut second, &mut third] {
        assert!(is_served(stream).await);
    }
}

#[tokio::test]
async fn a_busy_connection_is_not_closed() {
    let upstream = Played::start().await;
    let mut config = upstream.config();
    set_limits(&mut config, 3, 2);
    let server = Running::start(config);
    // One waits for an answer, one has sent half a question.
    let mut asking = connection(HERE, server.address).await.unwrap();
    let mut half = connection(HERE, server.address).await.unwrap();
    let question = framed(&question("pkarr", RecordType::SOA, 2));
    half.write_all(&question[..9]).await.unwrap();
    make_busy(&mut asking, &upstream, "busy.example.").await;
    // With none of this client's idle, the new one goes at once.
    for _ in 0..3 {
        assert!(connection(HERE, server.address).await.is_none());
    }
    // The one that makes room for another client is another client's.
    let mut idle = connection(THERE, server.address).await.unwrap();
    let mut third = connection(THERE, server.address).await.unwrap();
    assert!(is_closed(&mut idle).await);
    make_busy(&mut third, &upstream, "third.example.").await;
    for client in [HERE, THERE] {
        assert!(connection(client, server.address).await.is_none());
    }
    // All that were busy are served to the end.
    half.write_all(&question[9..]).await.unwrap();
    assert_eq!(read_reply(&mut half).await.metadata.id, 2);
    // Now that one is idle.
    assert!(connection(THERE, server.address).await.is_some());
    assert!(is_closed(&mut half).await);
}

#[tokio::test]
async fn a_place_is_free_again_when_its_client_closes() {
    let upstream = Played::start().await;
    let mut config = upstream.config();
    set_limits(&mut config, 1, 1);
    let server = Running::start(config);
    let mut first = connection(HERE, server.address).await.unwrap();
    make_busy(&mut first, &upstream, "busy.example.").await;
    assert!(connection(THERE, server.address).await.is_none());
    // It resets the connection, with the answer still to come.
    first.set_zero_linger().unwrap();
    drop(first);
    let again = async || connection(THERE, server.address).await.is_some();
    until("the place is free", again).await;
}

#[tokio::test]
async fn the_limits_are_over_all_addresses() {
    let upstream = Played::start().await;
    let mut config = upstream.config();
    config.listen.addresses.push((THERE, 0).into());
    set_limits(&mut config, 1, 1);
    let server = Running::start(config);
    let mut first = connection(HERE, server.addresses[0]).await.unwrap();
    let mut second = connection(HERE, server.addresses[1]).await.unwrap();
    assert!(is_closed(&mut first).await);
    make_busy(&mut second, &upstream, "busy.example.").await;
    assert!(connection(HERE, server.addresses[0]).await.is_none());
}

#[tokio::test]
async fn a_reload_changes_the_limits_and_open_connections_stay() {
    let upstream = Played::start().await;
    let with_limits = |total, per_client| {
        let mut config = upstream.config();
        set_limits(&mut config, total, per_client);
        config
    };
    let server = Running::start(with_limits(4, 4));
    let mut busy = connection(HERE, server.address).await.unwrap();
    make_busy(&mut busy, &upstream, "busy.example.").await;
    let mut idle = connection(HERE, server.address).await.unwrap();
    let mut there = connection(THERE, server.address).await.unwrap();
    reload(&server, with_limits(3, 1)).await;
    assert!(is_served(&mut idle).await);
    assert!(is_served(&mut there).await);
    // The next one finds the limits lower: the busy one leaves no place for this client.
    assert!(connection(HERE, server.address).await.is_none());
    assert!(is_closed(&mut idle).await);
    assert!(is_served(&mut there).await);
    reload(&server, with_limits(3, 2)).await;
    let mut second = connection(HERE, server.address).await.unwrap();
    for stream in [&mut there, &mut second] {
        assert!(is_served(stream).await);
    }
}
