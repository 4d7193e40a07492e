//! How clients are served over real sockets: TCP and UDP, what is refused and how, who is served,
//! stopping, reloading, and the addresses to listen on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::cell::Cell;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::*;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use pkbridge::config::{Config, ForwardRule, LocalRecord};
use pkbridge::endpoint::Endpoint;
use pkbridge::server::{Options, Server};
use pkbridge::wire::{self, Header, flags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

/// TTL of records where it does not matter.
const TTL: u32 = 300;
/// NOERROR, FORMERR, NOTIMP, REFUSED, BADVERS (RFC 1035 section 4.1.1, RFC 6891 section 9).
const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;

fn forwarding_to(upstream: SocketAddr) -> Config {
    let mut config = config();
    config.upstream.servers = vec![Endpoint::plain(upstream)];
    config
}

/// An upstream that says `192.0.2.<last>` to every question.
async fn answering(last: u8) -> Upstream {
    Upstream::start(move |query, _| vec![address_reply(query, last)]).await
}

fn address(last: u8) -> RData {
    RData::A(Ipv4Addr::new(192, 0, 2, last).into())
}

fn address_reply(query: &[u8], last: u8) -> Vec<u8> {
    let mut reply = reply_to(query);
    let owner = reply.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(owner, TTL, address(last)));
    reply.to_vec().unwrap()
}

/// An upstream that answers at once, but names that begin with `slow` only when it is told to.
struct HoldingUpstream {
    address: SocketAddr,
    /// Questions that wait, and datagrams that asked them.
    held: watch::Receiver<(usize, usize)>,
    released: watch::Sender<bool>,
}

impl HoldingUpstream {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (count, held) = watch::channel((0, 0));
        let (released, mut release) = watch::channel(false);
        tokio::spawn(async move {
            let mut names = HashSet::new();
            let mut kept = Vec::new();
            let mut buffer = [0; 1232];
            loop {
                tokio::select! {
                    received = socket.recv_from(&mut buffer) => {
                        let (length, from) = received.unwrap();
                        let query = &buffer[..length];
                        let name = Message::from_vec(query).unwrap().queries[0].name().to_lowercase().to_ascii();
                        let reply = address_reply(query, 1);
                        if name.starts_with("slow") && !*release.borrow() {
                            names.insert(name);
                            kept.push((reply, from));
                            count.send_replace((names.len(), kept.len()));
                        } else {
                            socket.send_to(&reply, from).await.unwrap();
                        }
                    }
                    changed = release.changed() => {
                        for (reply, from) in kept.drain(..) {
                            socket.send_to(&reply, from).await.unwrap();
                        }
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self {
            address,
            held,
            released,
        }
    }

    /// Waits until so many questions wait here.
    async fn holds(&self, count: usize) {
        self.wait_until(|(questions, _)| questions >= count).await;
    }

    /// Waits until so many datagrams have come for them: a silent server is asked again after a
    /// while.
    async fn hears(&self, count: usize) {
        self.wait_until(|(_, datagrams)| datagrams >= count).await;
    }

    async fn wait_until(&self, enough: impl Fn((usize, usize)) -> bool) {
        let mut held = self.held.clone();
        let enough = held.wait_for(|held| enough(*held));
        timeout(PATIENCE, enough).await.unwrap().unwrap();
    }

    fn release(&self) {
        self.released.send_replace(true);
    }

    /// A configuration with it, whose patience is longer than a test.
    fn config(&self) -> Config {
        let mut config = forwarding_to(self.address);
        config.upstream.timeout = PATIENCE;
        config
    }
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

/// A client over UDP with a socket of its own.
struct Client(UdpSocket);

impl Client {
    async fn connect(server: SocketAddr) -> Self {
        Self::connect_from((server.ip(), 0).into(), server).await
    }

    async fn connect_from(own: SocketAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(own).await.unwrap();
        socket.connect(server).await.unwrap();
        Self(socket)
    }

    async fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let received = timeout(PATIENCE, self.0.recv(&mut buffer)).await;
        let length = received.expect("no reply").unwrap();
        buffer.truncate(length);
        buffer
    }
}

/// A question section: one entry.
fn question(owner: &str, rtype: u16, class: u16) -> Vec<u8> {
    let mut bytes = wire::name_bytes(&name(owner));
    bytes.extend(rtype.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes
}

/// An OPT record without options.
fn opt(size: u16, version: u8, dnssec_ok: bool) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    let word = if dnssec_ok { 0x80 } else { 0 };
    vec![0, 0, 41, high, low, 0, version, word, 0, 0, 0]
}

/// A message with a random ID.
fn message(word: u16, counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
    let id: u16 = rand::random();
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(word.to_be_bytes());
    bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    bytes.extend(parts.concat());
    bytes
}

/// A question that is answered here: the SOA of the suffix.
fn local_query() -> Vec<u8> {
    let question = question("pkarr", 6, 1);
    message(flags::RD, [1, 0, 0, 0], &[&question])
}

fn is_reply_to(reply: &[u8], query: &[u8]) -> bool {
    reply[..2] == query[..2] && Header::read(reply).unwrap().has(flags::QR)
}

/// The server answers the local question.
async fn assert_serves(server: SocketAddr) {
    let query = local_query();
    let reply = exchange_udp(server, &query).await;
    assert!(is_reply_to(&reply, &query));
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(data(&reply, RecordType::SOA).len(), 1);
}

/// Whether the server closes this connection without a word.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0])).await;
    // Closing with unread bytes resets the connection.
    read.expect("neither closed nor answered").unwrap_or(0) == 0
}

// TCP.

#[tokio::test]
async fn a_slow_answer_does_not_hold_up_the_others_of_its_connection() {
    let upstream = HoldingUpstream::start().await;
    let server = Running::start(upstream.config());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let ask = async |stream: &mut TcpStream, owner| {
        let query = query(owner, RecordType::A);
        write_framed(stream, &query.to_vec().unwrap()).await;
        query.metadata.id
    };
    let slow = ask(&mut stream, "slow.example").await;
    upstream.holds(1).await;
    let mut others = HashSet::new();
    for owner in ["a.example", "b.example", "c.example", "pkarr"] {
        others.insert(ask(&mut stream, owner).await);
    }
    for _ in 0..4 {
        let reply = Message::from_vec(&read_framed(&mut stream).await).unwrap();
        assert!(others.remove(&reply.metadata.id), "an answer to nothing");
    }
    upstream.release();
    let reply = Message::from_vec(&read_framed(&mut stream).await).unwrap();
    assert_eq!(reply.metadata.id, slow);
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
}

#[tokio::test]
async fn any_number_of_questions_of_one_connection_are_answered() {
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut ids = HashSet::new();
    for number in 0..300_u16 {
        let mut query = query(&format!("n{}.example", number % 200), RecordType::A);
        query.metadata.id = number;
        ids.insert(number);
        write_framed(&mut stream, &query.to_vec().unwrap()).await;
    }
    while !ids.is_empty() {
        let reply = Message::from_vec(&read_framed(&mut stream).await).unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
        assert!(ids.remove(&reply.metadata.id));
    }
}

#[tokio::test]
async fn a_question_that_comes_a_byte_at_a_time_is_answered() {
    let server = Running::start(config());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for _ in ["a first one", "a second one"] {
        let query = local_query();
        let length = u16::try_from(query.len()).unwrap();
        for byte in length.to_be_bytes().iter().chain(&query) {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(is_reply_to(&read_framed(&mut stream).await, &query));
    }
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_gets_its_answers() {
    let upstream = HoldingUpstream::start().await;
    let server = Running::start(upstream.config());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for owner in ["slow-1.example", "slow-2.example"] {
        let query = query(owner, RecordType::A).to_vec().unwrap();
        write_framed(&mut stream, &query).await;
    }
    stream.shutdown().await.unwrap();
    upstream.holds(2).await;
    upstream.release();
    for _ in 0..2 {
        let reply = Message::from_vec(&read_framed(&mut stream).await).unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
    }
    assert!(is_closed(&mut stream).await, "then the server closes too");
}

#[tokio::test]
async fn a_stream_that_carries_no_queries_is_closed() {
    let server = Running::start(config());
    let response = message(flags::QR, [1, 0, 0, 0], &[&question("pkarr", 6, 1)]);
    for bytes in [&response[..], b"short", b""] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        write_framed(&mut stream, bytes).await;
        assert!(is_closed(&mut stream).await);
    }
    assert_serves(server.address).await;
}

/// A connection, if the server has a place for one more.
async fn connection(server: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let query = local_query();
    let length = u16::try_from(query.len()).unwrap();
    let exchange = async {
        // The server may have closed it already, or may do so with this unread.
        let framed = [&length.to_be_bytes(), query.as_slice()].concat();
        stream.write_all(&framed).await.ok()?;
        let length = stream.read_u16().await.ok()?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.ok()?;
        Some(reply)
    };
    let exchanged = timeout(PATIENCE, exchange).await;
    let reply = exchanged.expect("neither closed nor answered")?;
    assert!(is_reply_to(&reply, &query));
    Some(stream)
}

// UDP, and what is judged alike over TCP.

/// Sends these, and then a proper query: the first reply is for that one.
async fn assert_silence(messages: &[Vec<u8>]) {
    let server = Running::start(config());
    let client = Client::connect(server.address).await;
    for message in messages {
        client.send(message).await;
    }
    let query = local_query();
    client.send(&query).await;
    assert!(is_reply_to(&client.receive().await, &query));
}

#[tokio::test]
async fn a_response_is_never_answered() {
    let question = question("pkarr", 6, 1);
    let with = |word| message(flags::QR | word, [1, 0, 0, 0], &[&question]);
    let mut responses: Vec<_> = [0, flags::RD, 0x2800, 0x7800, 5].map(with).to_vec();
    responses.push(message(flags::QR, [0; 4], &[]));
    responses.push(message(0xffff, [0xffff; 4], &[]));
    assert_silence(&responses).await;
}

#[tokio::test]
async fn less_than_a_header_is_never_answered() {
    let query = local_query();
    let short: Vec<_> = (0..12).map(|length| query[..length].to_vec()).collect();
    assert_silence(&short).await;
}

/// Over UDP and TCP this message gets this RCODE and no records, with the opcode and the first so
/// many bytes of the question that it came with.
async fn assert_refused(
    server: SocketAddr,
    what: &str,
    query: &[u8],
    rcode: u16,
    echoed: Option<&[u8]>,
) {
    let over_udp = exchange_udp(server, query).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, query).await;
    let over_tcp = read_framed(&mut stream).await;
    assert_eq!(over_udp, over_tcp, "{what}");
    assert!(is_reply_to(&over_udp, query), "{what}");
    let (asked, replied) = (
        Header::read(query).unwrap(),
        Header::read(&over_udp).unwrap(),
    );
    assert_eq!(replied.opcode(), asked.opcode(), "{what}");
    let [questions, answers, authorities, additionals] = replied.counts;
    assert_eq!((answers, authorities), (0, 0), "{what}");
    assert!(additionals < 2, "{what}");
    let reply = Message::from_vec(&over_udp).unwrap();
    assert_eq!(u16::from(self::rcode(&reply)), rcode, "{what}");
    assert_eq!(questions, u16::from(echoed.is_some()), "{what}");
    if let Some(echoed) = echoed {
        assert_eq!(over_udp[12..][..echoed.len()], *echoed, "{what}");
    }
}

#[tokio::test]
async fn other_opcodes_are_not_implemented() {
    let server = Running::start(config());
    let question = question("example.com", 6, 1);
    for opcode in 1..16_u16 {
        let query = message(opcode << 11, [1, 0, 0, 0], &[&question]);
        let what = format!("opcode {opcode}");
        let echoed = Some(&question[..]);
        assert_refused(server.address, &what, &query, NOTIMP, echoed).await;
    }
    // An UPDATE with records in all sections.
    let query = message(5 << 11, [1, 1, 1, 1], &[&question]);
    let echoed = Some(&question[..]);
    assert_refused(server.address, "an UPDATE", &query, NOTIMP, echoed).await;
}

#[tokio::test]
async fn malformed_queries_are_format_errors() {
    let server = Running::start(config());
    let question = question("pkarr", 6, 1);
    let record = b"\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01";
    let opt = opt(1232, 0, false);
    let pointer = b"\xc0\x0c\x00\x01\x00\x01";
    let pointer_at_end = b"\x03www\xc0\x0c\x00\x01\x00\x01";
    let long_name = [&[63; 64].repeat(4)[..], &[0, 0, 1, 0, 1]].concat();
    let without_question: [(&str, Vec<u8>); 7] = [
        ("no question", message(0, [0, 0, 0, 0], &[])),
        ("none, OPT", message(0, [0, 0, 0, 1], &[&opt])),
        ("two", message(0, [2, 0, 0, 0], &[&question, &question])),
        ("65535", message(0, [65_535, 0, 0, 0], &[&question])),
        ("cut short", message(0, [1, 0, 0, 0], &[&question[..6]])),
        ("a pointer", message(0, [1, 0, 0, 0], &[pointer])),
        ("a name too long", message(0, [1, 0, 0, 0], &[&long_name])),
    ];
    for (what, query) in without_question {
        assert_refused(server.address, what, &query, FORMERR, None).await;
    }
    for (what, counts) in [("an answer", [1, 1, 0, 0]), ("an authority", [1, 0, 1, 0])] {
        let query = message(0, counts, &[&question, record]);
        let echoed = Some(&question[..]);
        assert_refused(server.address, what, &query, FORMERR, echoed).await;
    }
    let query = message(0, [1, 0, 0, 0], &[pointer_at_end]);
    assert_refused(
        server.address,
        "a pointer at the end",
        &query,
        FORMERR,
        None,
    )
    .await;
    for (what, count, additionals) in [
        ("two OPTs", 2, [&opt[..], &opt].concat()),
        ("an OPT cut short", 1, opt[..7].to_vec()),
        ("an OPT that is not there", 1, vec![]),
        ("65535 additional records", 65_535, opt.clone()),
    ] {
        let query = message(0, [1, 0, 0, count], &[&question, &additionals]);
        let echoed = Some(&question[..]);
        assert_refused(server.address, what, &query, FORMERR, echoed).await;
    }
}

#[tokio::test]
async fn other_classes_and_types_that_are_no_data_are_refused() {
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    const IN: u16 = 1;
    for (what, rtype, class, rcode) in [
        ("CH", 16, 3, REFUSED),
        ("HS", 1, 4, REFUSED),
        ("class NONE", 1, 254, REFUSED),
        ("class ANY", 1, 255, REFUSED),
        ("class 0", 1, 0, REFUSED),
        ("AXFR", 252, IN, REFUSED),
        ("IXFR", 251, IN, REFUSED),
        ("MAILB", 253, IN, FORMERR),
        ("TSIG", 250, IN, FORMERR),
        ("TKEY", 249, IN, FORMERR),
        ("OPT", 41, IN, FORMERR),
        ("type 0", 0, IN, FORMERR),
    ] {
        for owner in ["Version.Bind", "Pkarr"] {
            let question = question(owner, rtype, class);
            let echoed = Some(&question[..]);
            let query = message(flags::RD, [1, 0, 0, 0], &[&question]);
            assert_refused(server.address, what, &query, rcode, echoed).await;
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn rfc6891_6_1_3_an_unknown_edns_version_is_badvers() {
    let server = Running::start(config());
    let question = question("Pkarr", 6, 1);
    for version in [1, 2, 255] {
        let query = message(0, [1, 0, 0, 1], &[&question, &opt(1232, version, true)]);
        let echoed = Some(&question[..]);
        assert_refused(server.address, "the version", &query, BADVERS, echoed).await;
        let reply = Message::from_vec(&exchange_udp(server.address, &query).await).unwrap();
        let edns = reply.edns.unwrap();
        assert_eq!(edns.version(), 0);
        assert!(edns.flags().dnssec_ok);
    }
}

/// A name that stands for each kind of reply: from an upstream, local, a failure, a refusal.
fn queries_of_all_kinds() -> [(Vec<u8>, u16); 4] {
    [
        (question("example.com", 1, 1), NOERROR),
        (question("pkarr", 6, 1), NOERROR),
        (question(&"y".repeat(52), 1, 1), 3),
        (question("example.com", 252, 1), REFUSED),
    ]
}

#[tokio::test]
async fn rfc6891_6_1_1_a_reply_has_an_opt_if_the_query_had_one() {
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    for (question, rcode) in queries_of_all_kinds() {
        let bare = message(0, [1, 0, 0, 0], &[&question]);
        let reply = exchange_udp(server.address, &bare).await;
        assert_eq!(Header::read(&reply).unwrap().counts[3], 0);
        for dnssec_ok in [false, true] {
            let opt = opt(1400, 0, dnssec_ok);
            let query = message(0, [1, 0, 0, 1], &[&question, &opt]);
            let reply = exchange_udp(server.address, &query).await;
            assert_eq!(Header::read(&reply).unwrap().counts[3], 1);
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(u16::from(self::rcode(&reply)), rcode);
            let edns = reply.edns.unwrap();
            assert_eq!((edns.version(), edns.max_payload()), (0, 1232));
            // RFC 3225 section 3: DO is copied.
            assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
        }
    }
}

#[tokio::test]
async fn an_answer_over_the_clients_size_is_truncated_and_no_other() {
    const OPT_LEN: usize = 11;
    // The first label of the name is the length of the answer without OPT.
    let upstream = Upstream::start(|query, _| {
        let mut reply = query[..wire::plain_question(query).unwrap().end].to_vec();
        let owner = reply_to(query).queries[0].name().to_lowercase().to_ascii();
        let length: usize = owner.split('.').next().unwrap().parse().unwrap();
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        let rdata = length - reply.len() - 12;
        reply.extend([0xc0, 12, 0xff, 0, 0, 1, 0, 0, 1, 44]);
        reply.extend(u16::try_from(rdata).unwrap().to_be_bytes());
        reply.extend(vec![7; rdata]);
        vec![reply]
    })
    .await;
    let server = Running::start(forwarding_to(upstream.address));
    for (size, largest) in [
        (None, 512),
        // RFC 6891 section 6.2.3: less than 512 is 512.
        (Some(0), 512 - OPT_LEN),
        (Some(100), 512 - OPT_LEN),
        (Some(512), 512 - OPT_LEN),
        (Some(600), 600 - OPT_LEN),
        (Some(1232), 1232 - OPT_LEN),
        // Never more than what no path fragments.
        (Some(4096), 1232 - OPT_LEN),
        (Some(65_535), 1232 - OPT_LEN),
    ] {
        for (length, truncated) in [(largest, false), (largest + 1, true)] {
            let question = question(&format!("{length}.example"), 65_280, 1);
            let opt = size.map(|size| opt(size, 0, false)).unwrap_or_default();
            let opts = u16::from(size.is_some());
            let query = message(0, [1, 0, 0, opts], &[&question, &opt]);
            let reply = exchange_udp(server.address, &query).await;
            let header = Header::read(&reply).unwrap();
            assert_eq!(header.has(flags::TC), truncated, "{size:?} {length}");
            let answers = u16::from(!truncated);
            assert_eq!(header.counts, [1, answers, 0, opts], "{size:?} {length}");
            let whole = if truncated {
                12 + question.len()
            } else {
                length
            };
            assert_eq!(reply.len(), whole + opt.len(), "{size:?} {length}");
            // Over TCP it has any size.
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            write_framed(&mut stream, &query).await;
            assert_eq!(read_framed(&mut stream).await.len(), length + opt.len());
        }
    }
}

#[tokio::test]
async fn rd_and_cd_are_copied_and_other_bits_are_not() {
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    // RFC 6895 section 2.1: Z, and what has no meaning in a query, is ignored.
    const Z: u16 = 0x0040;
    let ignored = [0, Z, flags::AA, flags::TC, flags::RA, Z | flags::RA | 0xf];
    for (question, rcode) in queries_of_all_kinds() {
        for copied in [0, flags::RD, flags::CD, flags::RD | flags::CD] {
            for word in ignored {
                let query = message(copied | word, [1, 0, 0, 0], &[&question]);
                let reply = exchange_udp(server.address, &query).await;
                assert_eq!(reply[..2], query[..2]);
                let header = Header::read(&reply).unwrap();
                let replied = header.flags & !flags::AA;
                assert_eq!(replied, flags::QR | flags::RA | copied | rcode, "{word:#x}");
            }
        }
    }
}

#[tokio::test]
async fn the_case_of_the_question_is_echoed() {
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    let key = key_of(&secret(1)).to_string().to_ascii_uppercase();
    for (owner, rtype) in [
        ("eXaMple.COM", 1),
        ("EXAMPLE.com", 1),
        ("PkArR", 6),
        ("Nobody.PKARR", 1),
        (&format!("{key}.LAN"), 1),
        ("eXample.Com", 252),
    ] {
        let question = question(owner, rtype, 1);
        let query = message(flags::RD, [1, 0, 0, 0], &[&question]);
        let reply = exchange_udp(server.address, &query).await;
        assert_eq!(reply[12..][..question.len()], question, "{owner}");
    }
}

#[tokio::test]
async fn bytes_behind_a_query_do_no_harm() {
    let server = Running::start(config());
    for length in [1, 2, 11, 500, 20_000] {
        let mut query = local_query();
        query.extend(vec![0xc0; length]);
        let reply = exchange_udp(server.address, &query).await;
        assert!(is_reply_to(&reply, &query));
        let rcode = Header::read(&reply).unwrap().flags & flags::RCODE;
        assert!([NOERROR, FORMERR].contains(&rcode), "{rcode}");
    }
    assert_serves(server.address).await;
}

/// Numbers that look random and are the same in each run.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[3]
    }
}

#[tokio::test]
async fn no_datagram_stops_the_server() {
    let upstream = answering(1).await;
    let mut config = forwarding_to(upstream.address);
    config.dht.lookup_timeout = Duration::from_millis(100);
    let server = Running::start(config);
    let key = key_of(&secret(1)).to_string();
    let seeds: Vec<Vec<u8>> = [
        "example.com",
        "pkarr",
        &key,
        &format!("www.{key}.pkarr"),
        "",
    ]
    .map(|owner| {
        let (question, opt) = (question(owner, 1, 1), opt(1232, 0, true));
        message(flags::RD, [1, 0, 0, 1], &[&question, &opt])
    })
    .to_vec();
    let mut numbers = Numbers(1);
    let client = Client::connect(server.address).await;
    for _ in 0..100 {
        // No more than a socket's buffer holds.
        for _ in 0..50 {
            let mut bytes = seeds[numbers.below(seeds.len())].clone();
            match numbers.below(8) {
                0 => bytes.truncate(numbers.below(bytes.len())),
                1 => bytes.extend((0..numbers.below(600)).map(|_| numbers.byte())),
                2 => {
                    let length = numbers.below(600);
                    bytes = (0..length).map(|_| numbers.byte()).collect();
                }
                _ => {}
            }
            for _ in 0..numbers.below(6) {
                if !bytes.is_empty() {
                    let at = numbers.below(bytes.len());
                    bytes[at] = numbers.byte();
                }
            }
            client.send(&bytes).await;
        }
        assert_serves(server.address).await;
    }
    let reply = ask(server.address, "example.org", RecordType::A).await;
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
}

// Access.

#[tokio::test]
async fn clients_of_other_networks_are_refused_a_few_times_and_then_not_answered() {
    const BURST: usize = 200;
    /// Several times of what a burst and the seconds of a slow machine allow.
    const MOST_REFUSALS: usize = BURST / 2;
    let mut config = config();
    config.access.allow = ["192.0.2.0/24", "127.0.0.2/32"]
        .map(|network| network.parse().unwrap())
        .to_vec();
    let server = Running::start(config);
    let stranger = Client::connect(server.address).await;
    for _ in 0..BURST {
        stranger
            .send(&query("example.com", RecordType::A).to_vec().unwrap())
            .await;
    }
    // One client's questions are judged in order, another's perhaps by another thread: the burst has been
    // judged when a question behind it is refused, which it is once a second has brought new refusals.
    let last = query("example.com", RecordType::AAAA);
    let refusals = Cell::new(0);
    let refused = async || {
        stranger.send(&last.to_vec().unwrap()).await;
        let mut buffer = [0; 1232];
        let mut is_last = false;
        while let Ok(length) = stranger.0.try_recv(&mut buffer) {
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(rcode(&reply), ResponseCode::Refused);
            assert_eq!(ede(&reply).unwrap().0, 18);
            assert!(reply.answers.is_empty());
            refusals.update(|count| count + 1);
            is_last |= reply.metadata.id == last.metadata.id;
        }
        is_last
    };
    until("the last question is refused", refused).await;
    assert!(
        (1..=MOST_REFUSALS).contains(&refusals.get()),
        "{refusals:?}"
    );
    let served = Client::connect_from("127.0.0.2:0".parse().unwrap(), server.address).await;
    served.send(&local_query()).await;
    let reply = Message::from_vec(&served.receive().await).unwrap();
    assert_eq!(rcode(&reply), ResponseCode::NoError);
}

#[tokio::test]
async fn access_is_checked_over_tcp_and_before_everything_else() {
    let upstream = answering(1).await;
    let mut config = forwarding_to(upstream.address);
    config.access.allow = vec!["192.0.2.0/24".parse().unwrap()];
    let server = Running::start(config);
    let reply = ask_tcp(server.address, "example.com", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::Refused);
    assert_eq!(ede(&reply).unwrap().0, 18);
    let reply = ask(server.address, "pkarr", RecordType::SOA).await;
    assert_eq!(rcode(&reply), ResponseCode::Refused);
    assert!(reply.answers.is_empty());
    assert_eq!(upstream.count(), 0);
}

// Stopping.

async fn assert_ends(server: &mut Running) {
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap();
}

/// Nobody listens on this TCP address, or soon nobody does.
async fn assert_tcp_closes(address: SocketAddr) {
    let refused = async || TcpStream::connect(address).await.is_err();
    until("the listener is closed", refused).await;
}

/// Nobody has this UDP address, or soon nobody has: the system says so to whoever sends there.
async fn assert_udp_closes(address: SocketAddr) {
    let client = std::net::UdpSocket::bind((address.ip(), 0)).unwrap();
    client.connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    // The error is told once, by the next call that comes.
    let is_refusal = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    let refused = async || {
        client.send(b"anybody?").is_err_and(is_refusal)
            || client.recv(&mut [0; 1232]).is_err_and(is_refusal)
    };
    until("the socket is closed", refused).await;
}

#[tokio::test]
async fn a_stop_lets_questions_in_flight_finish_and_takes_no_new_ones() {
    let upstream = HoldingUpstream::start().await;
    let mut server = Running::start(upstream.config());
    let ask = |owner| query(owner, RecordType::A).to_vec().unwrap();
    let client = Client::connect(server.address).await;
    client.send(&ask("slow-udp.example")).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    write_framed(&mut stream, &ask("slow-tcp.example")).await;
    upstream.holds(2).await;

    server.stop.cancel();
    assert_tcp_closes(server.address).await;
    upstream.hears(4).await;
    assert!(!server.task.is_finished(), "it waits for the answers");
    upstream.release();
    let over_tcp = read_framed(&mut stream).await;
    for reply in [client.receive().await, over_tcp] {
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
    }
    assert!(is_closed(&mut stream).await);
    assert_ends(&mut server).await;
    assert_udp_closes(server.address).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_idle_connections() {
    let mut server = Running::start(config());
    let mut stream = connection(server.address).await.unwrap();
    server.stop.cancel();
    assert!(is_closed(&mut stream).await);
    assert_ends(&mut server).await;
}

#[tokio::test]
async fn a_stop_ends_though_an_upstream_never_answers() {
    let upstream = HoldingUpstream::start().await;
    let mut server = Running::start(upstream.config());
    let client = Client::connect(server.address).await;
    let query = query("slow.example", RecordType::A).to_vec().unwrap();
    client.send(&query).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    write_framed(&mut stream, &query).await;
    upstream.holds(1).await;
    server.stop.cancel();
    assert_ends(&mut server).await;
}

// Reloading. On a runtime of one thread the server takes a configuration whole before anybody else
// goes on.

async fn assert_answers(server: SocketAddr, last: u8) {
    let reply = ask(server, "example.com", RecordType::A).await;
    assert_eq!(data(&reply, RecordType::A), [address(last)]);
}

#[tokio::test]
async fn a_reload_brings_the_new_upstream_and_flushes_the_answers() {
    let (old, new) = (answering(1).await, answering(2).await);
    let server = Running::start(forwarding_to(old.address));
    for _ in 0..2 {
        assert_answers(server.address, 1).await;
    }
    reload(&server, forwarding_to(new.address)).await;
    for _ in 0..2 {
        assert_answers(server.address, 2).await;
    }
    assert_eq!((old.count(), new.count()), (1, 1));
}

/// What is asked of the upstream of `config` when a question comes before and after a reload that changes
/// it.
async fn asked_over_a_reload(upstream: &Upstream, config: &Config, new: Config) -> usize {
    let asked = upstream.count();
    let server = Running::start(config.clone());
    assert_answers(server.address, 1).await;
    reload(&server, new).await;
    assert_answers(server.address, 1).await;
    upstream.count() - asked
}

#[tokio::test]
async fn a_reload_keeps_the_answers_that_it_does_not_concern() {
    let upstream = answering(1).await;
    let config = forwarding_to(upstream.address);
    let changes: [fn(&mut Config); 5] = [
        |_| (),
        |config| config.log.level = "debug".to_owned(),
        |config| config.listen.addresses.push("127.0.0.2:0".parse().unwrap()),
        |config| config.listen.nsid = "here".to_owned(),
        // No other network is served, so that the rebinding guard stays off.
        |config| config.access.allow = vec!["127.0.0.0/8".parse().unwrap()],
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut new = config.clone();
        change(&mut new);
        let asked = asked_over_a_reload(&upstream, &config, new).await;
        assert_eq!(asked, 1, "change {number}");
    }
}

#[tokio::test]
async fn a_reload_flushes_the_answers_that_may_be_others() {
    let upstream = answering(1).await;
    let config = forwarding_to(upstream.address);
    let changes: [fn(&mut Config); 11] = [
        |config| {
            config.forward = vec![ForwardRule {
                domains: vec!["com".to_owned()],
                servers: config.upstream.servers.clone(),
            }];
        },
        |config| config.upstream.timeout = Duration::from_secs(3),
        |config| config.names.special_use = false,
        |config| config.names.suffixes.push("key".to_owned()),
        |config| config.delegation.follow = false,
        |config| {
            config.records = vec![LocalRecord {
                name: "nas.lan".to_owned(),
                rtype: RecordType::A,
                rdata: vec![192, 168, 1, 5],
            }];
        },
        |config| config.rebinding.allow = vec!["lan".to_owned()],
        |config| config.access.allow.push("192.168.0.0/16".parse().unwrap()),
        |config| config.cache.max_ttl = Duration::from_secs(600),
        |config| config.cache.prefetch = false,
        // New packets void no old answers.
        |config| config.dht.linger = Duration::from_millis(100),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut new = config.clone();
        change(&mut new);
        let asked = asked_over_a_reload(&upstream, &config, new).await;
        assert_eq!(asked, 2, "change {number}");
    }
    // A file has its contents besides its name.
    let directory = Directory::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::default().self_signed(&key);
    let mut config = config;
    config.upstream.ca_file = Some(directory.join("ca.pem"));
    std::fs::write(directory.join("ca.pem"), authority.unwrap().pem()).unwrap();
    let asked = asked_over_a_reload(&upstream, &config, config.clone()).await;
    assert_eq!(asked, 2, "a file");
}

#[tokio::test]
async fn a_reload_flushes_the_answers_when_the_system_has_other_resolvers() {
    let upstream = answering(1).await;
    let directory = Directory::new();
    let resolv_conf = directory.join("resolv.conf");
    let mut config = config();
    config.forward = vec![ForwardRule {
        domains: vec!["com".to_owned()],
        servers: vec![Endpoint::plain(upstream.address)],
    }];
    std::fs::write(&resolv_conf, "nameserver 192.0.2.1\n").unwrap();
    let options = Options {
        resolv_conf: Some(resolv_conf.clone()),
        ..Options::default()
    };
    let server = Running::run(Server::start(config.clone(), options).unwrap());
    assert_answers(server.address, 1).await;
    for (text, asked) in [("nameserver 192.0.2.1\n", 1), ("nameserver 192.0.2.2\n", 2)] {
        std::fs::write(&resolv_conf, text).unwrap();
        reload(&server, config.clone()).await;
        assert_answers(server.address, 1).await;
        assert_eq!(upstream.count(), asked, "{text}");
    }
}

#[tokio::test]
async fn a_reload_changes_who_is_served_and_which_suffixes_there_are() {
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    assert_answers(server.address, 1).await;
    let mut config = forwarding_to(upstream.address);
    config.names.suffixes = vec!["key".to_owned()];
    reload(&server, config.clone()).await;
    let reply = ask(server.address, "nobody.key", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    let reply = ask(server.address, "nobody.pkarr", RecordType::A).await;
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
    config.access.allow = vec!["192.0.2.0/24".parse().unwrap()];
    reload(&server, config).await;
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::Refused);
}

#[tokio::test]
async fn a_reload_opens_new_addresses_and_closes_old_ones() {
    let mut config = config();
    config.listen.addresses.push("127.0.0.2:0".parse().unwrap());
    let server = Running::start(config.clone());
    let [kept, old] = server.addresses[..] else {
        panic!("{:?}", server.addresses);
    };
    // The same port on another address of this host is free, since the server has it on this one.
    let new = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 3), kept.port()));
    config.listen.addresses[1] = new;
    let mut connected = connection(old).await.unwrap();
    reload(&server, config).await;
    for address in [kept, new] {
        assert_serves(address).await;
        connection(address).await.unwrap();
    }
    assert_tcp_closes(old).await;
    assert_udp_closes(old).await;
    assert!(is_closed(&mut connected).await);
}

#[tokio::test]
async fn a_reload_that_cannot_be_carried_out_changes_nothing() {
    let (old, new) = (answering(1).await, answering(2).await);
    let server = Running::start(forwarding_to(old.address));
    assert_answers(server.address, 1).await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = holder.local_addr().unwrap();
    // The second of two new addresses: the first is not opened either.
    let first = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 3), server.address.port()));
    let mut config = forwarding_to(new.address);
    config.listen.addresses = vec![first, busy];
    config.access.allow = vec!["192.0.2.0/24".parse().unwrap()];
    config.listen.max_tcp_connections = 1;
    reload(&server, config).await;
    assert_answers(server.address, 1).await;
    assert_eq!((old.count(), new.count()), (1, 0), "not even a flush");
    let _one = connection(server.address).await.unwrap();
    let _two = connection(server.address).await.unwrap();
    assert_tcp_closes(first).await;
    assert_udp_closes(first).await;
    // And the next one is taken.
    drop(holder);
    reload(&server, forwarding_to(new.address)).await;
    assert_answers(server.address, 2).await;
}

// Starting.

#[tokio::test]
async fn every_address_is_served_over_udp_and_tcp() {
    let mut config = config();
    config.listen.addresses.push("127.0.0.2:0".parse().unwrap());
    let ipv6: SocketAddr = "[::1]:0".parse().unwrap();
    if std::net::UdpSocket::bind(ipv6).is_ok() {
        config.listen.addresses.push(ipv6);
    }
    let server = Running::start(config.clone());
    assert_eq!(server.addresses.len(), config.listen.addresses.len());
    for (address, configured) in server.addresses.iter().zip(&config.listen.addresses) {
        assert_eq!(address.ip(), configured.ip());
        assert_serves(*address).await;
        connection(*address).await.unwrap();
    }
}

/// The start fails, and says on which address and over what, and who has it.
fn assert_names_the_holder(busy: SocketAddr, transport: &str) {
    let mut config = config();
    let free = "127.0.0.2:0".parse().unwrap();
    config.listen.addresses = vec![free, busy];
    let error = Server::start(config, Options::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(&busy.to_string()), "{error}");
    assert!(error.contains(transport), "{error}");
    if cfg!(target_os = "linux") {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let holder = format!("{} (pid {})", name.trim_end(), std::process::id());
        assert!(error.contains(&holder), "{error}");
    }
}

#[tokio::test]
async fn a_busy_udp_port_is_an_error_that_names_its_holder() {
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_names_the_holder(held.local_addr().unwrap(), "UDP");
}

#[tokio::test]
async fn a_busy_tcp_port_is_an_error_that_names_its_holder() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_names_the_holder(held.local_addr().unwrap(), "TCP");
}

#[tokio::test]
async fn two_servers_do_not_share_a_port() {
    let server = Running::start(config());
    assert_names_the_holder(server.address, "UDP");
    assert_serves(server.address).await;
}

#[tokio::test]
async fn with_nothing_reachable_it_starts_and_answers_what_is_local() {
    let mut config = forwarding_to("127.0.0.77:1".parse().unwrap());
    config.dht.bootstrap = vec!["dht.example:6881".to_owned(), "127.0.0.77:1".to_owned()];
    let server = Running::start(config);
    let weak = "y".repeat(52);
    for owner in [
        weak.clone(),
        format!("{weak}.pkarr"),
        "nobody.pkarr".to_owned(),
    ] {
        let reply = ask(server.address, &owner, RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "{owner}");
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    }
    let reply = ask_tcp(server.address, "pkarr", RecordType::SOA).await;
    assert_eq!(rcode(&reply), ResponseCode::NoError);
    assert_eq!(data(&reply, RecordType::SOA).len(), 1);
    assert!(reply.metadata.authoritative);
    // What is not local is a failure, not silence.
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
}

#[tokio::test]
async fn on_a_wildcard_address_a_reply_comes_from_the_address_that_was_asked() {
    let upstream = answering(1).await;
    for (wildcard, asked) in [
        ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.9.9.9"][..]),
        ("[::]:0", &["::1"]),
    ] {
        let mut config = forwarding_to(upstream.address);
        config.listen.addresses = vec![wildcard.parse().unwrap()];
        let server = Running::start(config);
        for (number, ip) in asked.iter().cycle().take(9).enumerate() {
            let asked = SocketAddr::new(ip.parse().unwrap(), server.address.port());
            // Looked up, then from the cache. The socket takes nothing from another address.
            for _ in 0..3 {
                let reply = ask(asked, &format!("n{number}.example"), RecordType::A).await;
                assert_eq!(reply.answers[0].data, address(1), "{asked}");
            }
        }
    }
}

#[tokio::test]
async fn a_burst_of_all_kinds_is_answered_whole() {
    const QUESTIONS: u16 = 300;
    let upstream = answering(1).await;
    let server = Running::start(forwarding_to(upstream.address));
    ask(server.address, "cached.example", RecordType::A).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    for id in 0..QUESTIONS {
        let owner = match id % 3 {
            0 => "cached.example".to_owned(),
            1 => format!("n{id}.example"),
            // Answered here, if not at once.
            _ => "localhost".to_owned(),
        };
        let mut query = query(&owner, RecordType::A);
        query.metadata.id = id;
        socket.send(&query.to_vec().unwrap()).await.unwrap();
    }
    let mut missing: HashSet<u16> = (0..QUESTIONS).collect();
    let mut buffer = [0; 1232];
    while !missing.is_empty() {
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await;
        let reply = Message::from_vec(&buffer[..length.unwrap().unwrap()]).unwrap();
        assert_eq!(reply.answers.len(), 1, "{reply}");
        assert!(missing.remove(&reply.metadata.id), "answered twice");
    }
}
