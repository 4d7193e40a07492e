//! Ordinary names: forwarded to scripted upstreams over real sockets, and the cache in front of
//! them, whose clock is paused where time matters.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use common::*;
use futures_util::future::{BoxFuture, join_all};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use pkbridge::config::Config;
use pkbridge::endpoint::Endpoint;
use pkbridge::pkarr::Suffixes;
use pkbridge::resolve::{
    Answer, AnswerCache, Asker, CLIENT_PATIENCE, Ending, Failure, FetchPacket, Forward, HoldTimes,
    Names, Packets, Question, Resolver, Response, See, Strategy, Tls, Ttls, UpstreamSettings,
    Upstreams, Wanted,
};
use pkbridge::wire::{self, Header, Layout, flags};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The flag word of a recursive resolver's reply.
const REPLY: u16 = flags::QR | flags::RD | flags::RA;
/// An owner name: a pointer to the question's name.
const ASKED: &[u8] = &[0xc0, 12];
/// An address on which nobody listens; below the ports that the system gives out.
const CLOSED: &str = "127.0.0.77:1";
/// The last byte of the address in an answer that must not be believed.
const FORGED: u8 = 66;
/// TTL of records where it does not matter.
const TTL: u32 = 300;

/// The records of the answer, authority and additional sections, as bytes.
type Sections = [Vec<Vec<u8>>; 3];

/// A record of class IN as bytes.
fn record(owner: &[u8], rtype: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(rtype.to_be_bytes());
    bytes.extend(wire::CLASS_IN.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(rdata.len()).unwrap().to_be_bytes());
    bytes.extend(rdata);
    bytes
}

/// An OPT record with the high bits of an RCODE.
fn opt(rcode_high: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 41, 0x04, 0xd0, rcode_high, 0, 0, 0];
    bytes.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    bytes.extend(options);
    bytes
}

/// The EDNS option with an Extended DNS Error.
fn ede_option(code: u16, text: &str) -> Vec<u8> {
    let length = u16::try_from(2 + text.len()).unwrap();
    let mut option = vec![0, 15];
    option.extend(length.to_be_bytes());
    option.extend(code.to_be_bytes());
    option.extend(text.as_bytes());
    option
}

/// A reply to a query, made by hand: its ID and question, this flag word, these records.
fn message(query: &[u8], word: u16, sections: &Sections) -> Vec<u8> {
    let question = wire::plain_question(query).unwrap();
    let mut message = query[..2].to_vec();
    message.extend(word.to_be_bytes());
    message.extend([0, 1]);
    for section in sections {
        message.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
    }
    message.extend(&query[question]);
    message.extend(sections.iter().flatten().flatten());
    message
}

fn answers(records: impl IntoIterator<Item = Vec<u8>>) -> Sections {
    [records.into_iter().collect(), vec![], vec![]]
}

/// An A record of the asked name: `192.0.2.<last>`.
fn a(last: u8) -> Vec<u8> {
    record(ASKED, 1, TTL, &[192, 0, 2, last])
}

fn address(last: u8) -> RData {
    RData::A(std::net::Ipv4Addr::new(192, 0, 2, last).into())
}

fn data_of(records: &[hickory_proto::rr::Record]) -> Vec<RData> {
    records.iter().map(|record| record.data.clone()).collect()
}

fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut rdata = b"\x02ns\xc0\x0c\x04host\xc0\x0c".to_vec();
    for number in [1, 3600, 600, 86_400, minimum] {
        rdata.extend(number.to_be_bytes());
    }
    record(ASKED, 6, ttl, &rdata)
}

/// A message whose TTLs are zero, as they may have counted down, and without its ID.
fn without_ttls(mut message: Vec<u8>) -> Vec<u8> {
    for record in Layout::read(&message).unwrap().records {
        wire::write_at(&mut message, record.ttl_at, &[0; 4]);
    }
    message.split_off(2)
}

fn has_opt(query: &[u8]) -> bool {
    Message::from_vec(query).unwrap().edns.is_some()
}

/// A query without OPT.
fn plain_query(owner: &str, rtype: RecordType) -> Message {
    let mut message = query(owner, rtype);
    message.edns = None;
    message
}

/// An upstream that sends one hand-made message for each query.
async fn upstream(word: u16, sections: Sections) -> Upstream {
    Upstream::start(move |query, _| vec![message(query, word, &sections)]).await
}

/// An upstream that says `192.0.2.<last>`.
async fn answering(last: u8) -> Upstream {
    upstream(REPLY, answers([a(last)])).await
}

fn forwarding_to(servers: &[SocketAddr]) -> Config {
    let mut config = config();
    config.upstream.servers = servers.iter().copied().map(Endpoint::plain).collect();
    config
}

fn server_for(upstream: &Upstream) -> Running {
    Running::start(forwarding_to(&[upstream.address]))
}

// What arrives.

/// Asks over TCP without EDNS, and compares everything but ID and TTLs with what the upstream sent.
async fn arrives_as_sent(what: &str, rtype: u16, sections: Sections) {
    let sent = sections.clone();
    let upstream = Upstream::start(move |query, _| {
        let mut sections = sent.clone();
        sections[2].push(opt(0, &[]));
        vec![message(query, REPLY, &sections)]
    })
    .await;
    let server = server_for(&upstream);
    let query = plain_query("Some.Example.COM", rtype.into());
    let query = query.to_vec().unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    write_framed(&mut stream, &query).await;
    let over_tcp = read_framed(&mut stream).await;
    let expected = without_ttls(message(&query, REPLY, &sections));
    assert_eq!(over_tcp[..2], query[..2], "{what}");
    assert_eq!(without_ttls(over_tcp), expected, "{what}");
    // From the cache, over UDP.
    let over_udp = exchange_udp(server.address, &query).await;
    assert_eq!(without_ttls(over_udp), expected, "{what}");
    assert_eq!(upstream.count(), 1, "{what}");
}

#[tokio::test]
async fn all_sections_arrive_byte_for_byte() {
    let glue = record(b"\x02ns\xc0\x0c", 1, TTL, &[192, 0, 2, 53]);
    let sections = [
        vec![a(1), a(2), record(ASKED, 65_280, TTL, b"who knows")],
        vec![record(ASKED, 2, TTL, b"\x02ns\xc0\x0c"), soa(TTL, 60)],
        vec![glue, record(b"\x01x\xc0\x0c", 28, TTL, &[7; 16])],
    ];
    arrives_as_sent("all sections", 1, sections).await;
}

#[tokio::test]
async fn rfc4035_3_2_1_dnssec_records_go_only_to_those_who_ask() {
    let signature =
        |owner: &[u8]| record(owner, 46, TTL, &[&[0, 1], &[7; 16][..], b"\0sig"].concat());
    let sections = [
        // The second address is named by a pointer into what is taken out.
        vec![
            signature(ASKED),
            a(1),
            record(ASKED, 47, TTL, b"\0\0\x01\x40"),
            a(2),
        ],
        vec![],
        vec![record(b"\x01x\xc0\x0c", 1, TTL, &[192, 0, 2, 53])],
    ];
    let upstream = upstream(REPLY, sections).await;
    let server = server_for(&upstream);
    let types = |reply: &Message| -> Vec<u16> {
        let answers = reply.answers.iter();
        answers.map(|record| record.record_type().into()).collect()
    };
    let plain = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(types(&plain), [1, 1]);
    assert_eq!(data(&plain, RecordType::A), [address(1), address(2)]);
    assert_eq!(
        data_of(&plain.additionals),
        [RData::A(std::net::Ipv4Addr::new(192, 0, 2, 53).into())]
    );
    let by_type = ask(server.address, "example.com", RecordType::NSEC).await;
    assert_eq!(types(&by_type), [1, 47, 1]);
}

#[tokio::test]
async fn record_data_that_a_parser_would_trip_over_arrives_byte_for_byte() {
    // SvcParams must stand in the order of their keys (RFC 9460 section 2.2); here they do not.
    let unordered = b"\x00\x01\x00\x00\x03\x00\x02\x01\xbb\x00\x01\x00\x03\x02h2";
    for (what, rtype, rdata) in [
        (
            "an unknown type, bytes like names",
            65_280,
            &b"\x03wWw\xc0\x0c\xc0\x00\xff"[..],
        ),
        ("APL without items", 42, b""),
        ("HTTPS with SvcParams out of order", 65, unordered),
        ("MX with a compressed name", 15, b"\x00\x0a\x04mAiL\xc0\x0c"),
        ("CAA of a strange form", 257, b"\xff\x00"),
        ("TXT of no strings", 16, b""),
        ("A of six bytes", 1, &[1, 2, 3, 4, 5, 6]),
        ("NULL", 10, &[0; 300]),
    ] {
        let sections = answers([record(ASKED, rtype, TTL, rdata)]);
        arrives_as_sent(what, rtype, sections).await;
    }
}

#[tokio::test]
async fn records_behind_the_opt_arrive_too() {
    let upstream = upstream(
        REPLY,
        [
            vec![a(1)],
            vec![],
            vec![
                opt(0, &[]),
                record(b"\x01x\xc0\x0c", 15, TTL, b"\x00\x01\xc0\x0c"),
            ],
        ],
    )
    .await;
    let server = server_for(&upstream);
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(reply.answers.len(), 1);
    let behind = &reply.additionals[0];
    assert_eq!(behind.name, name("x.example.com"));
    assert_eq!(behind.record_type(), RecordType::MX);
    assert_eq!(reply.additionals.len(), 1);
}

#[tokio::test]
async fn every_rcode_arrives_with_its_records() {
    for rcode in [0_u16, 1, 2, 3, 4, 5, 6, 9, 10, 16, 23] {
        let [high, low] = [rcode >> 4, rcode & flags::RCODE];
        let mut sections = [vec![], vec![soa(TTL, 60)], vec![]];
        let high = u8::try_from(high).unwrap();
        sections[2].push(opt(high, &ede_option(17, "filtered")));
        let upstream = upstream(REPLY | low, sections).await;
        let server = server_for(&upstream);
        for _ in ["from the upstream", "from the cache"] {
            let reply = ask(server.address, "example.com", RecordType::A).await;
            assert_eq!(u16::from(self::rcode(&reply)), rcode);
            assert_eq!(reply.authorities.len(), 1, "{rcode}");
            assert_eq!(ede(&reply), Some((17, "filtered".to_owned())));
        }
        // FORMERR may be for the cookie, and a wrong cookie would be told over TCP, too.
        let expected = if [1, 23].contains(&rcode) { 2 } else { 1 };
        assert_eq!(upstream.count(), expected, "{rcode}");
        // RFC 6891 section 6.1.3: the high bits need an OPT.
        let reply = send(server.address, &plain_query("example.com", RecordType::A)).await;
        let expected = if rcode > 15 { 2 } else { rcode };
        assert_eq!(u16::from(self::rcode(&reply)), expected);
    }
}

#[tokio::test]
async fn the_client_gets_its_own_id_and_spelling() {
    let upstream = answering(1).await;
    let server = server_for(&upstream);
    for spelling in ["wWw.exAmple.COM", "WWW.EXAMPLE.COM", "www.example.com"] {
        let query = query(spelling, RecordType::A).to_vec().unwrap();
        let reply = exchange_udp(server.address, &query).await;
        assert_eq!(reply[..2], query[..2]);
        let question = wire::plain_question(&query).unwrap();
        assert_eq!(reply[question.clone()], query[question], "{spelling}");
    }
    assert_eq!(upstream.count(), 1, "letter case makes no other question");
}

#[tokio::test]
async fn the_letter_case_of_upstream_queries_reaches_no_client() {
    // Copies names out of the question instead of pointing there.
    let upstream = Upstream::start(|query, _| {
        let question = wire::plain_question(query).unwrap();
        let owner = &query[question.start..question.end - 4];
        let zone = &owner[1 + usize::from(owner[0])..];
        let sections = [
            vec![record(owner, 1, TTL, &[192, 0, 2, 1])],
            vec![record(zone, 2, TTL, b"\x02ns\0")],
            vec![],
        ];
        vec![message(query, REPLY, &sections)]
    })
    .await;
    let server = server_for(&upstream);
    let asked = "Some-Host-With-Letters.A-Zone-With-Letters.Example.COM";
    for _ in ["from the upstream", "from the cache"] {
        let reply = ask(server.address, asked, RecordType::A).await;
        assert_eq!(reply.queries[0].name().to_ascii(), format!("{asked}."));
        let owners = [&reply.answers[0], &reply.authorities[0]];
        let owners = owners.map(|record| record.name.to_ascii());
        let lower = format!("{}.", asked.to_lowercase());
        let (_, zone) = lower.split_once('.').unwrap();
        assert_eq!(owners, [lower.as_str(), zone]);
    }
    let sent = upstream.asked.lock().unwrap()[0].message();
    let sent = sent.queries[0].name().to_ascii();
    assert_ne!(
        sent,
        sent.to_lowercase(),
        "there was no letter case to hide"
    );
}

#[tokio::test]
async fn all_extended_errors_of_the_upstream_arrive() {
    let said: Vec<(u16, String)> = (1..9).map(|n| (n, format!("error {n}"))).collect();
    let options: Vec<u8> = said
        .iter()
        .flat_map(|(n, text)| ede_option(*n, text))
        .collect();
    let sections = [vec![a(1)], vec![], vec![opt(0, &options)]];
    let upstream = upstream(REPLY, sections).await;
    let server = server_for(&upstream);
    for _ in ["from the upstream", "from the cache"] {
        let reply = ask(server.address, "example.com", RecordType::A).await;
        assert_eq!(edes(&reply), said);
    }
}

#[tokio::test]
async fn ad_goes_only_to_those_who_asked_for_it() {
    let upstream = upstream(REPLY | flags::AD, answers([a(1)])).await;
    let server = server_for(&upstream);
    let authentic = async |change: fn(&mut Message)| {
        let mut query = query("example.com", RecordType::A);
        change(&mut query);
        send(server.address, &query).await.metadata.authentic_data
    };
    for _ in ["from the upstream", "from the cache"] {
        assert!(!authentic(|_| ()).await);
        assert!(!authentic(|query| query.edns = None).await);
        assert!(authentic(|query| query.metadata.authentic_data = true).await);
        let dnssec_ok = |query: &mut Message| {
            query.edns.as_mut().unwrap().set_dnssec_ok(true);
        };
        assert!(authentic(dnssec_ok).await);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp_and_cut_for_udp_clients() {
    let text = |number: u8| record(ASKED, 16, TTL, &[&[250], &[number; 250][..]].concat());
    let big = answers((0..200).map(text));
    let sent = big.clone();
    let upstream = Upstream::start(move |query, via| {
        vec![match via {
            Via::Udp => message(query, REPLY | flags::TC, &Sections::default()),
            Via::Tcp => message(query, REPLY, &sent),
        }]
    })
    .await;
    let server = server_for(&upstream);

    let reply = ask(server.address, "big.example", RecordType::TXT).await;
    assert!(reply.metadata.truncation);
    assert_eq!((reply.queries.len(), reply.answers.len()), (1, 0));
    assert!(reply.edns.is_some());
    let asked = |via| upstream.asked.lock().unwrap().iter().any(|a| a.via == via);
    assert!(asked(Via::Udp) && asked(Via::Tcp));

    let query = plain_query("big.example", RecordType::TXT);
    let query = query.to_vec().unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    write_framed(&mut stream, &query).await;
    let whole = read_framed(&mut stream).await;
    assert!(whole.len() > 50_000);
    let expected = without_ttls(message(&query, REPLY, &big));
    assert!(without_ttls(whole) == expected, "not what was sent");
}

// What the upstream is asked.

#[tokio::test]
async fn upstream_queries_have_their_own_ids_and_ports() {
    const COUNT: usize = 60;
    let upstream = answering(1).await;
    let server = server_for(&upstream);
    let mut ids_of_clients = Vec::new();
    for number in 0..COUNT {
        let query = query(&format!("n{number}.example"), RecordType::A);
        ids_of_clients.push(query.metadata.id);
        send(server.address, &query).await;
    }
    let asked = upstream.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), COUNT);
    let ids: Vec<u16> = asked.iter().map(|a| a.message().metadata.id).collect();
    let ports: HashSet<u16> = asked.iter().map(|a| a.from.port()).collect();
    // Of 60 random 16-bit numbers two are alike once in 37 runs; nine are never.
    assert!(ports.len() > COUNT - 8, "{ports:?}");
    assert!(ids.iter().collect::<HashSet<_>>().len() > COUNT - 8);
    let copied = ids.iter().zip(&ids_of_clients).filter(|(a, b)| a == b);
    assert!(copied.count() < 3, "{ids:?}");
    // Random, and not merely different.
    let high = ids.iter().filter(|id| **id >= 0x8000).count();
    assert!((5..COUNT - 5).contains(&high), "{ids:?}");
    let steps = ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    assert!(steps.collect::<HashSet<_>>().len() > COUNT / 2, "{ids:?}");
}

#[tokio::test]
async fn upstream_queries_have_rd_and_one_opt_and_nothing_of_the_client() {
    let upstream = answering(1).await;
    let server = server_for(&upstream);
    let mut bare = plain_query("bare.example", RecordType::A);
    bare.metadata.recursion_desired = false;
    let mut rich = query("rich.example", RecordType::A);
    let cookie = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(10, vec![7; 8]);
    let edns = rich.edns.as_mut().unwrap();
    edns.set_max_payload(4096).options_mut().insert(cookie);
    for query in [bare, rich] {
        let rd = query.metadata.recursion_desired;
        send(server.address, &query).await;
        let asked = upstream.asked.lock().unwrap().back().unwrap().clone();
        let header = Header::read(&asked.bytes).unwrap();
        assert_eq!(header.counts, [1, 0, 0, 1]);
        assert!(header.has(flags::RD));
        assert_eq!(header.flags & !(flags::RD | flags::AD), 0);
        let end = wire::plain_question(&asked.bytes).unwrap().end;
        // Root, OPT, 1232 bytes, version 0, DO clear, one option: a cookie of our own for the first
        // query, none for the second, since the server has not sent it back.
        let opt = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0];
        let options: &[u8] = match rd {
            false => &[0, 12, 0, 10, 0, 8],
            true => &[0, 0],
        };
        assert_eq!(asked.bytes[end..end + 9], opt);
        assert_eq!(asked.bytes[end + 9..end + 9 + options.len()], *options);
        assert_eq!(asked.bytes.len(), end + 9 + if rd { 2 } else { 14 });
        assert!(!asked.bytes.ends_with(&[7; 8]));
    }
}

#[tokio::test]
async fn do_and_cd_are_passed_on_and_cached_apart() {
    let upstream = Upstream::start(|query, _| {
        let asked = Message::from_vec(query).unwrap();
        let dnssec_ok = asked.edns.unwrap().flags().dnssec_ok;
        let last = u8::from(dnssec_ok) + 2 * u8::from(asked.metadata.checking_disabled);
        vec![message(query, REPLY, &answers([a(last)]))]
    })
    .await;
    let server = server_for(&upstream);
    for _ in ["from the upstream", "from the cache"] {
        for last in 0..4 {
            let mut query = query("example.com", RecordType::A);
            query.edns.as_mut().unwrap().set_dnssec_ok(last & 1 != 0);
            query.metadata.checking_disabled = last & 2 != 0;
            let reply = send(server.address, &query).await;
            assert_eq!(data(&reply, RecordType::A), [address(last)]);
            assert_eq!(reply.edns.unwrap().flags().dnssec_ok, last & 1 != 0);
            assert_eq!(reply.metadata.checking_disabled, last & 2 != 0);
        }
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_again_without_it() {
    let formerr = u16::from(ResponseCode::FormErr);
    let notimp = u16::from(ResponseCode::NotImp);
    for (rcode, bare_header) in [(formerr, false), (notimp, false), (formerr, true)] {
        let upstream = Upstream::start(move |query, _| {
            let mut reply = message(query, REPLY, &answers([a(1)]));
            if has_opt(query) {
                reply = message(query, REPLY | rcode, &Sections::default());
                if bare_header {
                    reply.truncate(12);
                    reply[5] = 0;
                }
            }
            vec![reply]
        })
        .await;
        let server = server_for(&upstream);
        let reply = ask(server.address, "example.com", RecordType::A).await;
        assert_eq!(data(&reply, RecordType::A), [address(1)], "{rcode}");
        assert!(reply.edns.is_some(), "the client's EDNS is its own");
        let asked = upstream.asked.lock().unwrap();
        let opts: Vec<bool> = asked.iter().map(|asked| has_opt(&asked.bytes)).collect();
        // A header alone proves nothing, and is asked for over TCP as well.
        let expected: &[bool] = match bare_header {
            false => &[true, false],
            true => &[true, true, false],
        };
        assert_eq!(opts, expected, "{rcode}");
    }
}

// Failover.

/// The first server does not give a usable answer, so the second one's comes, within the default
/// timeout.
async fn the_second_answers(first: SocketAddr) {
    let second = answering(2).await;
    let server = Running::start(forwarding_to(&[first, second.address]));
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::NoError);
    assert_eq!(data(&reply, RecordType::A), [address(2)]);
}

/// The same with a first server that does this with a reply that says `192.0.2.66`.
async fn the_second_answers_when_the_first_sends(change: fn(&mut Vec<u8>)) {
    let first = Upstream::start(move |query, _| {
        let mut reply = message(query, REPLY, &answers([a(FORGED)]));
        change(&mut reply);
        vec![reply]
    })
    .await;
    the_second_answers(first.address).await;
    assert!(first.count() > 0);
}

/// How many datagrams wait in a socket; takes them out.
fn datagrams(socket: &std::net::UdpSocket) -> usize {
    std::iter::from_fn(|| socket.recv(&mut [0; 1232]).ok()).count()
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    the_second_answers(silent.local_addr().unwrap()).await;
}

#[tokio::test]
async fn a_closed_port_is_not_waited_for() {
    the_second_answers(CLOSED.parse().unwrap()).await;
}

#[tokio::test]
async fn after_servfail_the_next_server_is_asked() {
    the_second_answers_when_the_first_sends(|reply| reply[3] |= 2).await;
}

#[tokio::test]
async fn after_refused_the_next_server_is_asked() {
    the_second_answers_when_the_first_sends(|reply| reply[3] |= 5).await;
}

#[tokio::test]
async fn after_garbage_the_next_server_is_asked() {
    // Counts that lie, in a message whose ID and question are right.
    the_second_answers_when_the_first_sends(|reply| reply[6] = 0xff).await;
    // A record that is cut short.
    the_second_answers_when_the_first_sends(|reply| reply.truncate(reply.len() - 1)).await;
    the_second_answers_when_the_first_sends(|reply| reply.truncate(5)).await;
    the_second_answers_when_the_first_sends(|reply| reply[4..].fill(0xff)).await;
}

#[tokio::test]
async fn a_wrong_id_is_no_answer() {
    the_second_answers_when_the_first_sends(|reply| reply[0] ^= 1).await;
}

#[tokio::test]
async fn a_wrong_question_is_no_answer() {
    let first = Upstream::start(|query, _| {
        let mut other_name = message(query, REPLY, &answers([a(FORGED)]));
        other_name[13] ^= 1;
        let mut other_type = message(query, REPLY, &answers([a(FORGED)]));
        let end = wire::plain_question(query).unwrap().end;
        other_type[end - 3] ^= 1;
        let mut other_class = message(query, REPLY, &answers([a(FORGED)]));
        other_class[end - 1] = 3;
        let mut none = message(query, REPLY, &Sections::default());
        none.drain(12..end);
        none[5] = 0;
        let query_itself = query.to_vec();
        vec![other_name, other_type, other_class, none, query_itself]
    })
    .await;
    the_second_answers(first.address).await;
}

#[tokio::test]
async fn a_wrong_address_is_no_answer() {
    let first = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let first_address = first.local_addr().unwrap();
    let forger = tokio::spawn(async move {
        let mut buffer = [0; 1232];
        let (length, from) = first.recv_from(&mut buffer).await.unwrap();
        let reply = message(&buffer[..length], REPLY, &answers([a(FORGED)]));
        elsewhere.send_to(&reply, from).await.unwrap();
        // Both stay open, so that nothing but silence comes from the first.
        (first, elsewhere)
    });
    the_second_answers(first_address).await;
    timeout(PATIENCE, forger).await.unwrap().unwrap();
}

#[tokio::test]
async fn wrong_answers_over_tcp_do_not_count_either() {
    let changes: [fn(&mut Vec<u8>); 4] = [
        |reply| reply[0] ^= 1,
        |reply| reply[13] ^= 1,
        |reply| reply[2] |= 2,
        |reply| reply[6] = 0xff,
    ];
    for change in changes {
        let first = Upstream::start(move |query, via| {
            if via == Via::Udp {
                return vec![message(query, REPLY | flags::TC, &Sections::default())];
            }
            let mut reply = message(query, REPLY, &answers([a(FORGED)]));
            change(&mut reply);
            vec![reply]
        })
        .await;
        the_second_answers(first.address).await;
    }
}

#[tokio::test]
async fn the_right_answer_is_found_among_wrong_ones() {
    let upstream = Upstream::start(|query, _| {
        let forged = message(query, REPLY, &answers([a(FORGED)]));
        let mut wrong_id = forged.clone();
        wrong_id[0] ^= 1;
        let mut wrong_name = forged;
        wrong_name[13] ^= 1;
        let right = message(query, REPLY, &answers([a(1)]));
        vec![wrong_id, wrong_name, vec![], b"garbage".to_vec(), right]
    })
    .await;
    let server = server_for(&upstream);
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_flood_of_wrong_answers_is_evaded_over_tcp() {
    let upstream = Upstream::start(|query, via| {
        let right = message(query, REPLY, &answers([a(1)]));
        if via == Via::Tcp {
            return vec![right];
        }
        let guess = |number: u8| {
            let mut forged = message(query, REPLY, &answers([a(FORGED)]));
            forged[1] ^= number;
            forged
        };
        (1..=40).map(guess).collect()
    })
    .await;
    let server = server_for(&upstream);
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
}

#[tokio::test]
async fn a_server_that_failed_is_asked_last() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let second = answering(2).await;
    let servers = [silent.local_addr().unwrap(), second.address];
    let server = Running::start(forwarding_to(&servers));
    ask(server.address, "first.example", RecordType::A).await;
    assert_eq!(datagrams(&silent), 1);
    for number in 0..5 {
        ask(server.address, &format!("n{number}.example"), RecordType::A).await;
    }
    // Not more than a slow machine makes of it.
    assert!(datagrams(&silent) < 5, "it was asked first again");
}

#[tokio::test]
async fn all_servers_silent_or_closed_is_a_failure_with_its_reason() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = forwarding_to(&[CLOSED.parse().unwrap(), silent.local_addr().unwrap()]);
    config.upstream.timeout = Duration::from_millis(500);
    let server = Running::start(config);
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    let (code, text) = ede(&reply).unwrap();
    assert_eq!(code, 22);
    assert!(text.starts_with("no upstream resolver answered"), "{text}");
}

#[tokio::test]
async fn when_all_servers_fail_the_upstreams_reason_arrives() {
    let failing = |text| {
        let options = ede_option(6, text);
        let sections = [vec![], vec![], vec![opt(0, &options)]];
        upstream(REPLY | u16::from(ResponseCode::ServFail), sections)
    };
    let (first, second) = (failing("bogus").await, failing("bogus").await);
    let server = Running::start(forwarding_to(&[first.address, second.address]));
    for _ in ["from the upstream", "from the cache"] {
        let reply = ask(server.address, "example.com", RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::ServFail);
        assert_eq!(ede(&reply), Some((6, "bogus".to_owned())));
    }
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[tokio::test]
async fn without_upstreams_the_failure_says_so() {
    let server = Running::start(config());
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    let reason = "no upstream resolver is configured".to_owned();
    assert_eq!(ede(&reply), Some((22, reason)));
}

// What never leaves.

/// A label that has the form of a key, or the suffix at the end: by its own rules, so that a mistake
/// of the library's does not hide itself.
fn is_private(name: &hickory_proto::rr::Name) -> bool {
    let labels: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
    let alphabet = b"ybndrfg8ejkmcpqxot1uwisza345h769";
    let key_like =
        |label: &Vec<u8>| label.len() == 52 && label.iter().all(|c| alphabet.contains(c));
    labels.iter().any(key_like) || labels.last().is_some_and(|last| last == b"pkarr")
}

/// The upstream was asked these names at most, none of which is private.
fn assert_nothing_leaked(upstream: &Upstream, expected: &[&str]) {
    let asked = upstream.asked.lock().unwrap().clone();
    for asked in asked {
        let name = asked.message().queries[0].name().clone();
        assert!(!is_private(&name), "{name} was sent to the upstream");
        let text = name.to_lowercase().to_ascii();
        assert!(expected.contains(&text.as_str()), "{text}");
    }
}

/// A server whose DHT never answers: its one bootstrap node is a socket that nobody reads.
async fn server_with_a_silent_dht(upstream: &Upstream) -> (Running, UdpSocket) {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = forwarding_to(&[upstream.address]);
    config.dht.bootstrap = vec![silent.local_addr().unwrap().to_string()];
    config.dht.lookup_timeout = Duration::from_millis(200);
    (Running::start(config), silent)
}

/// A label of the test vectors, by the vector's name.
fn vector(name: &str) -> String {
    let file: serde_json::Value = serde_json::from_str(include_str!("vectors/z32.json")).unwrap();
    let mut vectors = file["vectors"].as_array().unwrap().iter();
    let vector = vectors.find(|vector| vector["name"] == name).unwrap();
    vector["label"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_spelling_of_a_public_key_name_reaches_the_upstream() {
    use ResponseCode::{NXDomain, NoError, ServFail};
    let upstream = answering(FORGED).await;
    let (server, _silent) = server_with_a_silent_dht(&upstream).await;
    let key = key_of(&secret(1)).to_string();
    let shouted = key.to_ascii_uppercase();
    let mixed: String = key
        .char_indices()
        .map(|(at, c)| {
            if at % 2 == 0 {
                c.to_ascii_uppercase()
            } else {
                c
            }
        })
        .collect();
    let weak = "y".repeat(52);
    let non_canonical = format!("{}9", &key[..51]);
    let no_point = vector("not_on_curve");
    let names = [
        (key.clone(), ServFail),
        (format!("_hello.{key}"), ServFail),
        (format!("a.b.c.{key}"), ServFail),
        (format!("*.{key}"), ServFail),
        (format!("{key}.pkarr"), ServFail),
        (format!("www.{key}.pkarr"), ServFail),
        (shouted.clone(), ServFail),
        (mixed.clone(), ServFail),
        (format!("WWW.{shouted}.PKARR"), ServFail),
        (format!("{mixed}.pKaRr"), ServFail),
        (format!("{key}.{key}"), ServFail),
        (non_canonical.clone(), NXDomain),
        (format!("www.{non_canonical}"), NXDomain),
        (format!("{non_canonical}.pkarr"), NXDomain),
        (format!("{non_canonical}.lan"), NXDomain),
        (weak.clone(), NXDomain),
        (format!("www.{weak}.pkarr"), NXDomain),
        (format!("{weak}.example.com"), NXDomain),
        (no_point.clone(), NXDomain),
        (format!("{no_point}.pkarr"), NXDomain),
        (no_point.to_ascii_uppercase(), NXDomain),
        (format!("{key}.lan"), NXDomain),
        (format!("www.{key}.corp.example.com"), NXDomain),
        (format!("{shouted}.LAN"), NXDomain),
        (format!("{key}.pkarr.lan"), NXDomain),
        (format!("{key}.www.pkarr"), NXDomain),
        ("x.pkarr".to_owned(), NXDomain),
        ("X.PKARR".to_owned(), NXDomain),
        (format!("{}.pkarr", &key[..51]), NXDomain),
        ("_dns.resolver.pkarr".to_owned(), NXDomain),
        ("pkarr".to_owned(), NoError),
        ("PkArr".to_owned(), NoError),
    ];
    let asks = names.iter().flat_map(|(owner, expected)| {
        let types = [1, 2, 6, 16, 43, 65, 255, 65_280];
        types.map(|rtype| {
            let address = server.address;
            async move {
                let reply = ask(address, owner, RecordType::from(rtype)).await;
                assert_eq!(rcode(&reply), *expected, "{owner} type {rtype}");
                assert!(!data(&reply, RecordType::A).contains(&self::address(FORGED)));
            }
        })
    });
    join_all(asks).await;
    let tcp = server.address;
    let over_tcp = names.iter().map(|(owner, expected)| async move {
        let reply = ask_tcp(tcp, owner, RecordType::A).await;
        assert_eq!(rcode(&reply), *expected, "{owner} over TCP");
    });
    join_all(over_tcp).await;
    // The upstream would have answered.
    let reply = ask(server.address, "example.com", RecordType::A).await;
    assert_eq!(data(&reply, RecordType::A), [address(FORGED)]);
    assert_nothing_leaked(&upstream, &["example.com."]);
    // Nor is a name withheld that only looks a little like a key.
    let short = format!("{}.", &key[..51]);
    ask(server.address, &short, RecordType::A).await;
    assert_eq!(upstream.names().last(), Some(&short));
}

#[tokio::test]
async fn an_alias_into_a_public_key_name_is_not_followed_by_the_upstream() {
    let key = key_of(&secret(1)).to_string();
    let weak = "y".repeat(52);
    let targets = [
        ("bare.example.", format!("www.{key}")),
        ("suffix.example.", format!("{key}.pkarr")),
        ("shouted.example.", key.to_ascii_uppercase()),
        ("search.example.", format!("{key}.lan")),
        ("weak.example.", weak),
        ("nobody.example.", "nobody.pkarr".to_owned()),
    ];
    let aliases = targets.clone();
    // Every alias comes with an address for its target, as a lying upstream would send it; half of
    // them behind one more alias.
    let upstream = Upstream::start(move |query, _| {
        let asked = Message::from_vec(query).unwrap().queries[0]
            .name()
            .to_lowercase()
            .to_ascii();
        let (_, target) = aliases.iter().find(|(alias, _)| *alias == asked).unwrap();
        let target = wire::name_bytes(&name(target));
        let middle = wire::name_bytes(&name("middle.example"));
        let forged = record(&target, 1, TTL, &[192, 0, 2, FORGED]);
        let mut records = vec![record(ASKED, 5, TTL, &target)];
        if asked.starts_with('s') {
            records = vec![
                record(ASKED, 5, TTL, &middle),
                record(&middle, 5, TTL, &target),
            ];
        }
        records.push(forged);
        vec![message(query, REPLY, &answers(records))]
    })
    .await;
    let (server, _silent) = server_with_a_silent_dht(&upstream).await;
    for (alias, target) in &targets {
        let query = query(alias, RecordType::A).to_vec().unwrap();
        for _ in ["from the upstream", "again"] {
            let reply = exchange_udp(server.address, &query).await;
            let forged = [192, 0, 2, FORGED];
            assert!(!reply.windows(4).any(|bytes| bytes == forged), "{alias}");
            let reply = Message::from_vec(&reply).unwrap();
            let of_a_key = ["bare.example.", "suffix.example.", "shouted.example."];
            let expected = if of_a_key.contains(alias) {
                ResponseCode::ServFail
            } else {
                ResponseCode::NXDomain
            };
            assert_eq!(rcode(&reply), expected, "{alias} to {target}");
        }
    }
    assert_nothing_leaked(&upstream, &targets.each_ref().map(|(alias, _)| *alias));
}

#[tokio::test]
async fn rfc1034_4_3_2_a_question_for_the_alias_itself_is_answered_with_it() {
    let key = key_of(&secret(1)).to_string();
    let target = wire::name_bytes(&name(&key));
    let upstream = upstream(REPLY, answers([record(ASKED, 5, TTL, &target)])).await;
    let (server, _silent) = server_with_a_silent_dht(&upstream).await;
    for rtype in [RecordType::CNAME, RecordType::ANY] {
        let reply = ask(server.address, "alias.example", rtype).await;
        assert_eq!(rcode(&reply), ResponseCode::NoError, "{rtype}");
        assert_eq!(data(&reply, RecordType::CNAME).len(), 1, "{rtype}");
    }
}

#[tokio::test]
async fn public_key_records_in_an_answer_for_another_name_do_not_exist() {
    let key = key_of(&secret(1)).to_string();
    let owners = [
        key.clone(),
        format!("www.{key}"),
        format!("{key}.pkarr"),
        key.to_ascii_uppercase(),
        format!("{key}.lan"),
        "y".repeat(52),
        "www.pkarr".to_owned(),
    ];
    let injected = move || {
        owners.clone().map(|owner| {
            let owner = wire::name_bytes(&name(&owner));
            record(&owner, 1, TTL, &[192, 0, 2, FORGED])
        })
    };
    let upstream = Upstream::start(move |query, _| {
        let mut sections = [(); 3].map(|()| injected().to_vec());
        sections[0].insert(3, a(1));
        sections[1].push(record(ASKED, 2, TTL, b"\x02ns\xc0\x0c"));
        sections[2].push(record(b"\x02ns\xc0\x0c", 1, TTL, &[192, 0, 2, 53]));
        vec![message(query, REPLY, &sections)]
    })
    .await;
    let (server, _silent) = server_with_a_silent_dht(&upstream).await;
    for _ in ["from the upstream", "from the cache"] {
        let query = query("example.com", RecordType::A).to_vec().unwrap();
        let reply = exchange_udp(server.address, &query).await;
        let forged = [192, 0, 2, FORGED];
        assert!(!reply.windows(4).any(|bytes| bytes == forged));
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.authorities.len(), 1);
    }
    // Nor did they enter the cache under their own names.
    let reply = ask(server.address, &key, RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    assert_nothing_leaked(&upstream, &["example.com."]);
}

// The cache, over real sockets.

/// Asks until the reply is as wished.
async fn ask_until(server: SocketAddr, owner: &str, wished: impl Fn(&Message) -> bool) -> Message {
    let asking = async {
        loop {
            let reply = ask(server, owner, RecordType::A).await;
            if wished(&reply) {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("it never came")
}

#[tokio::test]
async fn a_second_ask_is_answered_from_the_cache_with_a_lower_ttl() {
    let upstream = answering(1).await;
    let server = server_for(&upstream);
    ask(server.address, "example.com", RecordType::A).await;
    let ttl = |reply: &Message| reply.answers[0].ttl;
    let lower = |reply: &Message| ttl(reply) < TTL;
    ask_until(server.address, "Example.Com", lower).await;
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn after_its_ttl_an_answer_is_asked_for_again() {
    let upstream = Upstream::plain(1).await;
    let server = server_for(&upstream);
    ask(server.address, "example.com", RecordType::A).await;
    ask_until(server.address, "example.com", |_| upstream.count() > 1).await;
}

#[tokio::test]
async fn many_clients_that_ask_the_same_at_once_cause_one_lookup() {
    /// How often the one lookup repeats its datagram to a server that is silent.
    const DATAGRAMS_OF_ONE_LOOKUP: usize = 3;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = Running::start(forwarding_to(&[upstream.local_addr().unwrap()]));
    // In the cache, so that it is answered in its turn.
    ask(server.address, "pkarr", RecordType::SOA).await;

    let mut clients = Vec::new();
    for _ in 0..50 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(server.address).await.unwrap();
        let query = query("example.com", RecordType::A).to_vec().unwrap();
        client.send(&query).await.unwrap();
        clients.push((client, query));
    }
    // As a rule it has taken all of them when this is answered; who is late is answered from the cache.
    ask(server.address, "pkarr", RecordType::SOA).await;
    let mut buffer = [0; 1232];
    let received = timeout(PATIENCE, upstream.recv_from(&mut buffer)).await;
    let (length, from) = received.unwrap().unwrap();
    let reply = message(&buffer[..length], REPLY, &answers([a(1)]));
    upstream.send_to(&reply, from).await.unwrap();
    for (client, query) in clients {
        let received = timeout(PATIENCE, client.recv(&mut buffer)).await;
        let length = received.unwrap().unwrap();
        assert_eq!(buffer[..2], query[..2]);
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
    }
    let datagrams = 1 + datagrams(&upstream.into_std().unwrap());
    assert!(datagrams <= DATAGRAMS_OF_ONE_LOOKUP, "{datagrams}");
}

// The cache, with a paused clock.

fn question(owner: &str) -> Question {
    Question {
        name: name(owner).to_lowercase(),
        rtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
    }
}

/// Nobody's packets.
#[derive(Debug)]
struct NoPackets;

impl FetchPacket for NoPackets {
    fn fetch<'a>(&'a self, _: Wanted, _: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        Box::pin(async { Ending::Failed(Failure::DhtNotReady) })
    }
}

/// A response to be changed: it cannot be made from nothing. It comes from a real exchange, with a
/// clock that runs.
static RESPONSE: LazyLock<Response> = LazyLock::new(|| {
    let exchange = async {
        let upstream = Upstream::plain(1).await;
        let upstreams = Upstreams::new(UpstreamSettings {
            servers: vec![Endpoint::plain(upstream.address)],
            rules: Vec::new(),
            strategy: Strategy::Fastest,
            timeout: PATIENCE,
            tls: Arc::new(Tls::new(None).unwrap()),
            bootstrap: Vec::new(),
        });
        let response = upstreams.forward(&question("example.com")).await;
        response.unwrap()
    };
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let elsewhere = std::thread::spawn(move || runtime().block_on(exchange));
    elsewhere.join().unwrap()
});

/// Gives the same RCODE and records for every question, or the same failure, and counts.
#[derive(Debug)]
struct FakeUpstream {
    template: Response,
    outcome: Result<(u16, Sections), Failure>,
    asked: AtomicUsize,
    /// Each answer takes one permit.
    gate: Semaphore,
}

impl FakeUpstream {
    fn count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Forward for FakeUpstream {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            let (rcode, sections) = self.outcome.clone()?;
            let query = [&[0; 12][..], &question.wire()].concat();
            let mut response = self.template.clone();
            response.wire = message(&query, REPLY | rcode, &sections);
            response.layout = Layout::read(&response.wire).unwrap();
            response.rcode = rcode;
            Ok(response)
        })
    }
}

const TTLS: Ttls = Ttls {
    min: 0,
    max: 86_400,
    negative: 300,
    failure: 5,
};

struct Cached {
    resolver: Resolver,
    upstream: Arc<FakeUpstream>,
    cache: AnswerCache,
}

impl Cached {
    /// A resolver before a fake upstream.
    fn start(ttls: Ttls, outcome: Result<(u16, Sections), Failure>) -> Self {
        Self::start_within(16 << 20, ttls, outcome)
    }

    fn start_within(max_bytes: u64, ttls: Ttls, outcome: Result<(u16, Sections), Failure>) -> Self {
        let upstream = Arc::new(FakeUpstream {
            template: RESPONSE.clone(),
            outcome,
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let cache = AnswerCache::new(max_bytes);
        let times = HoldTimes {
            min: Duration::ZERO,
            max: Duration::ZERO,
            empty: Duration::ZERO,
            failure: Duration::ZERO,
            max_stale: Duration::ZERO,
            stale_wait: Duration::ZERO,
        };
        let packets = Packets::new(Arc::new(NoPackets), None, 1 << 16, times);
        let names = Names {
            suffixes: Suffixes::new(["pkarr"]),
            ..Names::default()
        };
        let resolver = Resolver::new(names, packets, upstream.clone(), ttls, cache.clone());
        Self {
            resolver,
            upstream,
            cache,
        }
    }

    async fn ask(&self) -> Arc<Answer> {
        self.resolver
            .resolve(question("example.com"), Asker::Refresh)
            .await
    }

    /// The TTLs that a client gets now.
    async fn ttls(&self) -> Vec<u32> {
        let answer = self.ask().await;
        ttls_now(&answer)
    }

    /// The first answer is kept for exactly this time.
    async fn assert_kept_for(&self, seconds: u64) {
        self.ask().await;
        assert_eq!(self.upstream.count(), 1);
        if seconds > 0 {
            advance(Duration::from_secs(seconds) - MOMENT).await;
            self.ask().await;
            assert_eq!(self.upstream.count(), 1, "not kept for {seconds} s");
            advance(MOMENT).await;
        }
        self.ask().await;
        assert_eq!(self.upstream.count(), 2, "kept for over {seconds} s");
    }
}

/// The paused clock's smallest step.
const MOMENT: Duration = Duration::from_millis(1);

async fn advance(time: Duration) {
    tokio::time::advance(time).await;
}

/// TTLs that a client gets now.
fn ttls_now(answer: &Answer) -> Vec<u32> {
    let age = answer.age(tokio::time::Instant::now());
    let offsets = answer.ttl_offsets().iter();
    offsets
        .map(|&at| wire::read_u32(answer.wire(), usize::from(at)).unwrap())
        .map(|ttl| ttl.saturating_sub(age))
        .collect()
}

fn with_ttls(ttls: &[u32]) -> Result<(u16, Sections), Failure> {
    let records = ttls
        .iter()
        .map(|&ttl| record(ASKED, 1, ttl, &[192, 0, 2, 1]));
    Ok((0, answers(records)))
}

#[tokio::test(start_paused = true)]
async fn ttls_count_down_and_the_lowest_one_ends_the_answer() {
    let cached = Cached::start(TTLS, with_ttls(&[100, 40]));
    assert_eq!(cached.ttls().await, [100, 40]);
    advance(Duration::from_secs(15)).await;
    assert_eq!(cached.ttls().await, [85, 25]);
    advance(Duration::from_secs(24)).await;
    assert_eq!(cached.ttls().await, [61, 1]);
    assert_eq!(cached.upstream.count(), 1);
    advance(Duration::from_secs(1)).await;
    assert_eq!(cached.ttls().await, [100, 40]);
    assert_eq!(cached.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_its_ttl_within_the_bounds() {
    const BOUNDED: Ttls = Ttls {
        min: 60,
        max: 600,
        ..TTLS
    };
    // RFC 2181 section 8: a TTL with the top bit set is 0.
    let negative = 1 << 31;
    for (ttls, ttl, given, kept) in [
        (TTLS, 1, 1, 1),
        (TTLS, 100, 100, 100),
        (TTLS, 0, 0, 0),
        (TTLS, negative, 0, 0),
        (TTLS, negative + 100, 0, 0),
        (TTLS, negative - 1, 86_400, 86_400),
        (BOUNDED, 0, 60, 60),
        (BOUNDED, 59, 60, 60),
        (BOUNDED, 300, 300, 300),
        (BOUNDED, 601, 600, 600),
        (BOUNDED, negative, 60, 60),
    ] {
        let cached = Cached::start(ttls, with_ttls(&[ttl]));
        assert_eq!(cached.ttls().await, [given], "TTL {ttl}");
        let cached = Cached::start(ttls, with_ttls(&[ttl]));
        cached.assert_kept_for(kept).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rfc2308_5_a_negative_answer_is_kept_for_the_least_of_its_times() {
    let nxdomain = u16::from(ResponseCode::NXDomain);
    for rcode in [0, nxdomain] {
        for (ttl, minimum, kept) in [
            (100, 200, 100),
            (200, 100, 100),
            (86_400, 86_400, u64::from(TTLS.negative)),
            (0, 100, 0),
            (100, 0, 0),
        ] {
            let sections = [vec![], vec![soa(ttl, minimum)], vec![]];
            let cached = Cached::start(TTLS, Ok((rcode, sections)));
            cached.assert_kept_for(kept).await;
        }
        let cached = Cached::start(TTLS, Ok((rcode, Sections::default())));
        cached.assert_kept_for(0).await;
        // An NS is no SOA.
        let ns = record(ASKED, 2, TTL, b"\x02ns\xc0\x0c");
        let cached = Cached::start(TTLS, Ok((rcode, [vec![], vec![ns], vec![]])));
        cached.assert_kept_for(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_alias_without_its_target_is_a_negative_answer() {
    let alias = record(ASKED, 5, 1000, b"\x05other\xc0\x0c");
    let sections = [vec![alias.clone()], vec![soa(1000, 30)], vec![]];
    let cached = Cached::start(TTLS, Ok((0, sections)));
    cached.assert_kept_for(30).await;
    let target = record(b"\x05other\xc0\x0c", 1, 50, &[192, 0, 2, 1]);
    let cached = Cached::start(TTLS, Ok((0, answers([alias, target]))));
    cached.assert_kept_for(50).await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_kept_for_their_time() {
    let kept = u64::from(TTLS.failure);
    // Whatever TTLs come with them.
    let records = [vec![], vec![soa(3600, 3600)], vec![]];
    for rcode in [2, 5, 6, 9, 23] {
        for sections in [records.clone(), Sections::default()] {
            let cached = Cached::start(TTLS, Ok((rcode, sections)));
            cached.assert_kept_for(kept).await;
        }
    }
    let silent = Failure::Upstream("timed out".to_owned());
    let cached = Cached::start(TTLS, Err(silent));
    cached.assert_kept_for(kept).await;
    let answer = cached.ask().await;
    assert_eq!(answer.rcode(), 2);
    assert_eq!(answer.edes()[0].code, 22);
    // What the next reload may mend is not remembered.
    let cached = Cached::start(TTLS, Err(Failure::NoUpstream));
    cached.assert_kept_for(0).await;
}

#[tokio::test(start_paused = true)]
async fn letter_case_makes_no_other_entry_but_type_and_bits_do() {
    let cached = Cached::start(TTLS, with_ttls(&[TTL]));
    let ask = async |change: fn(&mut Question)| {
        let mut question = question("example.com");
        change(&mut question);
        cached.resolver.resolve(question, Asker::Refresh).await;
        cached.upstream.count()
    };
    assert_eq!(ask(|_| ()).await, 1);
    let upper = |question: &mut Question| {
        let mut upper = question.clone();
        upper.name = name("EXAMPLE.com").to_lowercase();
        *question = upper;
    };
    assert_eq!(ask(upper).await, 1);
    assert_eq!(ask(|question| question.rtype = RecordType::AAAA).await, 2);
    assert_eq!(ask(|question| question.dnssec_ok = true).await, 3);
    assert_eq!(ask(|question| question.checking_disabled = true).await, 4);
    assert_eq!(ask(|question| question.name = name("example.org")).await, 5);
    assert_eq!(ask(|_| ()).await, 5);
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded_in_bytes() {
    const MAX_BYTES: u64 = 256 << 10;
    const ASKED_NAMES: u64 = 4_000;
    let big = record(ASKED, 1, TTL, &[0; 400]);
    let outcome = Ok((0, answers([big])));
    let cached = Cached::start_within(MAX_BYTES, TTLS, outcome);
    for number in 0..ASKED_NAMES {
        let question = question(&format!("n{number}.example"));
        cached.resolver.resolve(question, Asker::Refresh).await;
        if number % 250 == 0 {
            let (_, bytes) = cached.cache.usage();
            assert!(bytes <= MAX_BYTES, "{bytes} after {number}");
        }
    }
    let (entries, bytes) = cached.cache.usage();
    assert!(bytes <= MAX_BYTES, "{bytes}");
    // Each entry counts with more than its bytes, and the room is used.
    assert!(entries > 100 && entries * 400 < MAX_BYTES, "{entries}");
    // One that does not fit is not kept.
    let huge = answers([record(ASKED, 1, TTL, &[0; 60_000])]);
    let cached = Cached::start_within(60_000, TTLS, Ok((0, huge)));
    assert_eq!(cached.ttls().await, [TTL]);
    assert_eq!(cached.cache.usage(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_lookup() {
    let cached = Cached::start(TTLS, with_ttls(&[TTL]));
    let gate = &cached.upstream.gate;
    gate.forget_permits(Semaphore::MAX_PERMITS);
    let asks = join_all((0..50).map(|_| cached.ask()));
    let open = async {
        // The paused clock moves on when nothing else can be done: all 50 wait.
        tokio::time::sleep(MOMENT).await;
        // Enough for a lookup each.
        gate.add_permits(50);
    };
    let (all, ()) = tokio::join!(asks, open);
    assert!(all.iter().all(|answer| ttls_now(answer) == [TTL]));
    assert_eq!(cached.upstream.count(), 1);
    assert_eq!(gate.available_permits(), 49);
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_so_long_and_the_answer_is_there_for_the_next_one() {
    let cached = Cached::start(TTLS, with_ttls(&[TTL]));
    let gate = &cached.upstream.gate;
    gate.forget_permits(Semaphore::MAX_PERMITS);
    let before = tokio::time::Instant::now();
    let answer = cached.ask().await;
    assert_eq!(before.elapsed().as_secs(), CLIENT_PATIENCE.as_secs());
    assert_eq!((answer.rcode(), answer.edes()[0].code), (2, 22));
    gate.add_permits(1);
    let answer = cached.ask().await;
    assert_eq!((answer.rcode(), ttls_now(&answer)), (0, vec![TTL]));
    assert_eq!(cached.upstream.count(), 1);
}
