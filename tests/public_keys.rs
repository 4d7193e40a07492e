//! Names under public keys, from a real loopback DHT, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use ed25519_dalek::Signer;
use futures_util::future::{BoxFuture, join_all};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{Alpn, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, NS, NULL, SOA, SRV, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use mainline::MutableItem;
use pkbridge::config::Config;
use pkbridge::endpoint::Endpoint;
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, Suffixes};
use pkbridge::resolve::{
    Answer, AnswerCache, Asker, Ending, Failure, FetchPacket, Forward, HoldTimes, Names, Packets,
    Question, Resolver, Response, See, Ttls, Wanted,
};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

/// A `seq`: 1 700 000 000 seconds and a fraction, in microseconds.
const SEQ: u64 = 1_700_000_000_123_456;
/// What a stub waits for before it gives up.
const STUB_PATIENCE: Duration = Duration::from_secs(5);

/// One DHT for all tests, as it takes long to start. Each test has keys of its own on it.
async fn dht() -> &'static TestDht {
    // More nodes than the servers of these tests have, which are silent once they have stopped.
    static DHT: OnceCell<TestDht> = OnceCell::const_new();
    DHT.get_or_init(|| TestDht::start(30)).await
}

/// A key that no other test has.
fn new_key() -> (SigningKey, PublicKey) {
    static NUMBER: AtomicU8 = AtomicU8::new(1);
    let secret = secret(NUMBER.fetch_add(1, Ordering::Relaxed));
    let key = key_of(&secret);
    (secret, key)
}

/// A new key with these records on the DHT.
async fn published(records: impl FnOnce(PublicKey) -> Vec<(Name, u32, RData)>) -> PublicKey {
    let (secret, key) = new_key();
    dht().await.publish(&sign(&secret, SEQ, records(key))).await;
    key
}

async fn server() -> Running {
    Running::start(dht().await.config())
}

fn a(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(192, 0, 2, last)))
}

fn txt(text: &str) -> RData {
    RData::TXT(TXT::new(vec![text.to_owned()]))
}

fn cname(target: Name) -> RData {
    RData::CNAME(CNAME(target))
}

fn mx(exchange: Name) -> RData {
    RData::MX(MX::new(10, exchange))
}

fn opaque(code: RecordType, bytes: &[u8]) -> RData {
    let rdata = NULL::with(bytes.to_vec());
    RData::Unknown { code, rdata }
}

/// Data as bytes: what is unknown to the encoder may be known to the decoder.
fn bytes(data: &RData) -> Vec<u8> {
    data.to_bytes().unwrap()
}

/// Owner, type, TTL and data of each answer, with the letters as they came.
fn answers(reply: &Message) -> Vec<(String, RecordType, u32, RData)> {
    let answers = reply.answers.iter();
    let parts = |record: &Record| {
        let owner = record.name.to_ascii();
        // A few seconds may have passed since the packet was found.
        let ttl = record.ttl.next_multiple_of(20);
        (owner, record.record_type(), ttl, record.data.clone())
    };
    answers.map(parts).collect()
}

/// NOERROR with exactly this data, whatever the TTL.
#[track_caller]
fn assert_data(reply: &Message, rtype: RecordType, expected: &[RData]) {
    assert_eq!(rcode(reply), ResponseCode::NoError, "{reply}");
    assert_eq!(data(reply, rtype), expected, "{reply}");
    assert_eq!(reply.answers.len(), expected.len(), "{reply}");
}

/// The flags of an answer about a key: RA, and AA only below a suffix, whose zone is our own. The
/// bare key's zone is its owner's, and this is a resolver.
#[track_caller]
fn assert_flags(reply: &Message) {
    let asked = reply.queries[0].name();
    let ours = ["pkarr", "key"].map(name);
    let ours = ours.iter().any(|suffix| suffix.zone_of(asked));
    assert_eq!(reply.metadata.authoritative, ours, "{reply}");
    assert!(reply.metadata.recursion_available, "{reply}");
}

/// SERVFAIL that says why: the INFO-CODE and a part of the text.
#[track_caller]
fn assert_servfail(reply: &Message, code: u16, text: &str) {
    assert_eq!(rcode(reply), ResponseCode::ServFail, "{reply}");
    assert!(reply.answers.is_empty(), "{reply}");
    let (found, said) = ede(reply).expect("an Extended DNS Error");
    assert_eq!(found, code, "{said}");
    assert!(said.contains(text), "{said}");
}

/// A negative answer: the RCODE, nothing but an SOA, and that of `apex`. Returns it with its TTL.
#[track_caller]
fn negative_soa(reply: &Message, code: ResponseCode, apex: &str) -> (SOA, u32) {
    assert_eq!(rcode(reply), code, "{reply}");
    assert!(reply.answers.is_empty(), "{reply}");
    let [authority] = reply.authorities.as_slice() else {
        panic!("one SOA is expected: {reply}");
    };
    assert_eq!(authority.name, name(apex));
    let RData::SOA(soa) = &authority.data else {
        panic!("{authority}");
    };
    (soa.clone(), authority.ttl)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_type_is_answered_bare_and_under_each_suffix_over_udp_and_tcp() {
    let alpn = SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()]));
    let svcb = SVCB::new(1, Name::root(), vec![(SvcParamKey::Alpn, alpn)]);
    let six: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let types = [
        ("", RecordType::A, a(1)),
        ("", RecordType::AAAA, RData::AAAA(AAAA(six))),
        ("", RecordType::MX, mx(name("mx.example"))),
        ("", RecordType::HTTPS, RData::HTTPS(HTTPS(svcb))),
        (
            "",
            RecordType::CAA,
            opaque(RecordType::CAA, b"\x00\x05issueca.example"),
        ),
        ("_hello", RecordType::TXT, txt("Hello, World")),
        (
            "_xmpp._tcp",
            RecordType::SRV,
            RData::SRV(SRV::new(1, 2, 5222, name("xmpp.example"))),
        ),
        (
            "sub",
            RecordType::SSHFP,
            opaque(RecordType::SSHFP, b"\x04\x02fingerprint"),
        ),
        (
            "odd",
            RecordType::Unknown(65_280),
            opaque(RecordType::Unknown(65_280), b"\x00\xff\xc0\x0c"),
        ),
    ];
    let key = published(|key| {
        let of = |(sub, _, data): &(&str, RecordType, RData)| (below(key, sub), 300, data.clone());
        types.iter().map(of).collect()
    })
    .await;
    let mut config = dht().await.config();
    config.names.suffixes = vec!["pkarr".to_owned(), "key".to_owned()];
    let server = Running::start(config);
    let upper = key.to_string().to_ascii_uppercase();
    let zones = [
        format!("{key}."),
        format!("{key}.pkarr."),
        format!("{key}.key."),
        format!("{upper}."),
        format!("{upper}.PkArR."),
    ];
    for zone in zones {
        for (sub, rtype, data) in &types {
            let dot = if sub.is_empty() { "" } else { "." };
            let asked = format!("{sub}{dot}{zone}");
            for reply in [
                ask(server.address, &asked, *rtype).await,
                ask_tcp(server.address, &asked, *rtype).await,
            ] {
                assert_eq!(rcode(&reply), ResponseCode::NoError, "{asked} {rtype}");
                assert_eq!(reply.answers.len(), 1, "{asked} {rtype}");
                let answer = &reply.answers[0];
                // In the spelling of the client, whoever filled the cache.
                assert_eq!(answer.name.to_ascii(), asked);
                assert_eq!(reply.queries[0].name().to_ascii(), asked);
                assert_eq!(answer.record_type(), *rtype, "{asked}");
                assert_eq!(bytes(&answer.data), bytes(data), "{asked} {rtype}");
                assert_flags(&reply);
                assert!(ede(&reply).is_none(), "{asked}");
            }
        }
    }
    // A suffix that is not configured is somebody else's; without an upstream that is a failure.
    let reply = ask(server.address, "example.notasuffix", RecordType::A).await;
    assert_servfail(&reply, 22, "no upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_inside_the_zone_keep_the_suffix_and_others_stay() {
    let key = published(|key| {
        vec![
            (below(key, ""), 300, mx(below(key, "mail"))),
            (below(key, "out"), 300, mx(name("mail.example"))),
            (below(key, "www"), 300, cname(below(key, "web"))),
            (below(key, "web"), 300, a(7)),
        ]
    })
    .await;
    let server = server().await;
    server.warm(key).await;
    for suffix in ["", ".pkarr"] {
        let zone = format!("{key}{suffix}");
        let reply = ask(server.address, &zone, RecordType::MX).await;
        let mail = mx(name(&format!("mail.{zone}")));
        assert_data(&reply, RecordType::MX, &[mail]);
        let reply = ask(server.address, &format!("out.{zone}"), RecordType::MX).await;
        assert_data(&reply, RecordType::MX, &[mx(name("mail.example"))]);
        let reply = ask(server.address, &format!("www.{zone}"), RecordType::A).await;
        let web = format!("web.{zone}.");
        let expected = [
            (
                format!("www.{zone}."),
                RecordType::CNAME,
                300,
                cname(name(&web)),
            ),
            (web, RecordType::A, 300, a(7)),
        ];
        assert_eq!(answers(&reply), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_followed_in_the_packet_to_other_keys_and_to_upstream_names() {
    let other = published(|key| {
        vec![
            (below(key, "there"), 60, a(2)),
            (below(key, "back"), 60, cname(name("www.example"))),
        ]
    })
    .await;
    let key = published(|key| {
        vec![
            (below(key, "here"), 300, a(1)),
            (below(key, "in"), 300, cname(below(key, "here"))),
            (below(key, "other"), 300, cname(below(other, "there"))),
            (
                below(key, "suffixed"),
                300,
                cname(name(&format!("there.{other}.pkarr"))),
            ),
            (below(key, "cdn"), 300, cname(name("www.example"))),
            (below(key, "far"), 300, cname(below(other, "back"))),
            (below(key, "gone"), 300, cname(below(other, "missing"))),
            (below(key, "lan"), 300, cname(name(&format!("{other}.lan")))),
        ]
    })
    .await;
    let upstream = Upstream::plain(120).await;
    let mut config = dht().await.config();
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    let server = Running::start(config);
    let chain = async |sub: &str| {
        let reply = ask(server.address, &format!("{sub}.{key}"), RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NoError, "{sub}: {reply}");
        let answers = answers(&reply).into_iter();
        answers
            .map(|(owner, rtype, ..)| format!("{owner} {rtype}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        chain("in").await,
        [format!("in.{key}. CNAME"), format!("here.{key}. A")]
    );
    assert_eq!(
        chain("other").await,
        [format!("other.{key}. CNAME"), format!("there.{other}. A")]
    );
    assert_eq!(
        chain("suffixed").await,
        [
            format!("suffixed.{key}. CNAME"),
            format!("there.{other}.pkarr. A")
        ]
    );
    assert_eq!(upstream.count(), 0, "{:?}", upstream.names());
    assert_eq!(
        chain("cdn").await,
        [format!("cdn.{key}. CNAME"), "www.example. A".to_owned()]
    );
    assert_eq!(
        chain("far").await,
        [
            format!("far.{key}. CNAME"),
            format!("back.{other}. CNAME"),
            "www.example. A".to_owned(),
        ]
    );
    // The CNAME alone is what a CNAME question asks for.
    let reply = ask(server.address, &format!("cdn.{key}"), RecordType::CNAME).await;
    assert_data(&reply, RecordType::CNAME, &[cname(name("www.example"))]);
    // Where the chain ends decides the RCODE; the alias is there all the same.
    for sub in ["gone", "lan"] {
        let reply = ask(server.address, &format!("{sub}.{key}"), RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "{reply}");
        assert_eq!(answers(&reply).len(), 1, "{reply}");
    }
    // Nothing that names a key has left.
    for asked in upstream.names() {
        assert_eq!(asked, "www.example.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_aliases_is_servfail_with_the_reason() {
    let (secret, key) = new_key();
    let mirror = published(|mirror| vec![(below(mirror, "a"), 300, cname(below(key, "across")))]);
    let mirror = mirror.await;
    let mut records = vec![
        (below(key, "self"), 300, cname(below(key, "self"))),
        (below(key, "ping"), 300, cname(below(key, "pong"))),
        (below(key, "pong"), 300, cname(below(key, "ping"))),
        (below(key, "across"), 300, cname(below(mirror, "a"))),
        (
            below(key, "suffix"),
            300,
            cname(name(&format!("suffix.{key}.pkarr"))),
        ),
    ];
    // Each is another name, so that only the length ends it.
    for step in 0..20 {
        let target = below(key, &format!("n{}", step + 1));
        records.push((below(key, &format!("n{step}")), 300, cname(target)));
    }
    dht().await.publish(&sign(&secret, SEQ, records)).await;
    let server = server().await;
    for sub in ["self", "ping", "across", "suffix", "n0"] {
        let asked = format!("{sub}.{key}");
        let reply = ask(server.address, &asked, RecordType::A).await;
        assert_servfail(&reply, 0, "chain of aliases");
        let reply = ask(server.address, &asked, RecordType::CNAME).await;
        assert_eq!(rcode(&reply), ResponseCode::NoError, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_answers_with_the_owner_that_was_asked() {
    let key = published(|key| {
        vec![
            (below(key, "*"), 300, a(1)),
            (below(key, "fixed"), 300, txt("here")),
            (below(key, "*.alias"), 300, cname(below(key, "target"))),
        ]
    })
    .await;
    let server = server().await;
    server.warm(key).await;
    for zone in [format!("{key}."), format!("{key}.pkarr.")] {
        for sub in ["any", "two.labels", "AnY"] {
            let asked = format!("{sub}.{zone}");
            let reply = ask(server.address, &asked, RecordType::A).await;
            assert_eq!(answers(&reply), [(asked, RecordType::A, 300, a(1))]);
        }
        let reply = ask(server.address, &format!("any.{zone}"), RecordType::TXT).await;
        negative_soa(&reply, ResponseCode::NoError, &zone);
        // An existing name blocks it, for itself and for what is below.
        let reply = ask(server.address, &format!("fixed.{zone}"), RecordType::A).await;
        negative_soa(&reply, ResponseCode::NoError, &zone);
        let reply = ask(server.address, &format!("x.fixed.{zone}"), RecordType::A).await;
        negative_soa(&reply, ResponseCode::NXDomain, &zone);
        let reply = ask(server.address, &zone, RecordType::A).await;
        negative_soa(&reply, ResponseCode::NoError, &zone);
        // An alias from a wildcard leads to a name that the other wildcard answers.
        let reply = ask(server.address, &format!("x.alias.{zone}"), RecordType::A).await;
        assert_eq!(data(&reply, RecordType::A), [a(1)], "{reply}");
        assert_eq!(data(&reply, RecordType::CNAME).len(), 1, "{reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told_with_the_synthesised_soa_of_the_zone() {
    let key = published(|key| vec![(below(key, "a.b.c"), 300, a(1))]).await;
    let mut config = dht().await.config();
    config.cache.negative_ttl = Duration::from_secs(77);
    let server = Running::start(config);
    server.warm(key).await;
    for zone in [format!("{key}"), format!("{key}.pkarr")] {
        let expected = SOA::new(
            name(&zone),
            name(&format!("hostmaster.{zone}")),
            1_700_000_000,
            3600,
            600,
            86_400,
            77,
        );
        let dotted = format!(".{zone}");
        for (sub, rtype, code) in [
            ("a.b.c", RecordType::TXT, ResponseCode::NoError),
            // Empty non-terminals and the apex exist.
            ("b.c", RecordType::A, ResponseCode::NoError),
            ("c", RecordType::A, ResponseCode::NoError),
            ("", RecordType::A, ResponseCode::NoError),
            ("b.c", RecordType::SOA, ResponseCode::NoError),
            ("missing", RecordType::A, ResponseCode::NXDomain),
            ("x.a.b.c", RecordType::A, ResponseCode::NXDomain),
            ("b", RecordType::NS, ResponseCode::NXDomain),
        ] {
            let asked = format!("{sub}{}", if sub.is_empty() { &zone } else { &dotted });
            let reply = ask(server.address, &asked, rtype).await;
            let (soa, ttl) = negative_soa(&reply, code, &zone);
            assert_eq!(soa, expected, "{asked} {rtype}");
            // It counts down from the negative TTL.
            assert!((70..=77).contains(&ttl), "{ttl}");
            assert_flags(&reply);
        }
        let reply = ask(server.address, &zone, RecordType::SOA).await;
        assert_data(&reply, RecordType::SOA, &[RData::SOA(expected)]);
        // A resolver with a stub zone for the suffix would follow any other name server past the packet.
        let server_name = if zone.ends_with(".pkarr") {
            "pkarr"
        } else {
            &zone
        };
        let reply = ask(server.address, &zone, RecordType::NS).await;
        assert_data(&reply, RecordType::NS, &[RData::NS(NS(name(server_name)))]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packets_own_soa_is_taken_if_it_has_one() {
    let own = |key| {
        let host = name("host.example");
        SOA::new(below(key, "ns"), host, 5, 6, 7, 8, 33)
    };
    let key = published(|key| vec![(below(key, ""), 300, RData::SOA(own(key)))]).await;
    let server = server().await;
    let reply = ask(server.address, &key.to_string(), RecordType::SOA).await;
    assert_data(&reply, RecordType::SOA, &[RData::SOA(own(key))]);
    let reply = ask(server.address, &format!("missing.{key}"), RecordType::A).await;
    let (soa, ttl) = negative_soa(&reply, ResponseCode::NXDomain, &key.to_string());
    assert_eq!(soa, own(key));
    // RFC 2308 section 5: the lower of the SOA's TTL and its minimum.
    assert!((25..=33).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_is_the_records_own_and_2_to_the_31_and_above_is_0() {
    let key = published(|key| {
        vec![
            (below(key, "long"), 86_400, a(1)),
            (below(key, "zero"), 0, a(2)),
            (below(key, "top"), 1 << 31, a(3)),
            (below(key, "most"), u32::MAX, a(4)),
            (below(key, "set"), 500, a(5)),
            (below(key, "set"), 400, a(6)),
            (below(key, "set"), 600, a(5)),
        ]
    })
    .await;
    let server = server().await;
    server.warm(key).await;
    for (sub, ttl, count) in [
        ("long", 86_400, 1),
        ("zero", 0, 1),
        ("top", 0, 1),
        ("most", 0, 1),
        // RFC 2181 section 5.2: one RRset has one TTL, the lowest; duplicates go.
        ("set", 400, 2),
    ] {
        let reply = ask(server.address, &format!("{sub}.{key}"), RecordType::A).await;
        assert_eq!(reply.answers.len(), count, "{reply}");
        for answer in &reply.answers {
            // A few seconds may have passed since the fetch.
            let least = u32::saturating_sub(ttl, 15);
            assert!((least..=ttl).contains(&answer.ttl), "{sub}: {}", answer.ttl);
        }
    }
}

/// The zone that would hold a key that is not there: its SOA must not claim that the key exists.
fn zone_without(asked: &str) -> &'static str {
    if asked.ends_with(".pkarr") {
        "pkarr"
    } else {
        "."
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_published_does_not_exist() {
    let (_, key) = new_key();
    let server = server().await;
    for asked in [
        format!("{key}"),
        format!("www.{key}"),
        format!("{key}.pkarr"),
    ] {
        let reply = ask(server.address, &asked, RecordType::A).await;
        negative_soa(&reply, ResponseCode::NXDomain, zone_without(&asked));
        assert_flags(&reply);
        let (_, text) = ede(&reply).expect("an Extended DNS Error");
        assert!(text.contains("nobody on the DHT"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dht_that_was_never_reached_is_servfail_in_time_and_not_nxdomain() {
    let (_, key) = new_key();
    let server = Running::start(config());
    let asked = Instant::now();
    let reply = ask(server.address, &format!("www.{key}"), RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail, "{reply}");
    // "Not Ready" before there is a node to ask, "No Reachable Authority" once there is.
    let (code, text) = ede(&reply).expect("an Extended DNS Error");
    assert!([14, 22].contains(&code), "{code} {text}");
    assert!(text.contains("DHT"), "{text}");
    assert!(asked.elapsed() < STUB_PATIENCE, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dht_that_fell_silent_is_servfail_in_time_and_not_nxdomain() {
    let (secret, key) = new_key();
    let own = TestDht::start(3).await;
    own.publish(&sign(&secret, SEQ, vec![(below(key, ""), 300, a(1))]))
        .await;
    let server = Running::start(own.config());
    let reply = ask(server.address, &key.to_string(), RecordType::A).await;
    assert_data(&reply, RecordType::A, &[a(1)]);
    // Dropping a node ends it soon, not at once: an absence that was told before is still right.
    let addresses: Vec<SocketAddr> = own
        .testnet
        .bootstrap
        .iter()
        .map(|a| a.parse().unwrap())
        .collect();
    tokio::task::spawn_blocking(move || drop(own))
        .await
        .unwrap();
    until("the nodes end", async || {
        addresses
            .iter()
            .all(|address| std::net::UdpSocket::bind(address).is_ok())
    })
    .await;
    let (_, unknown) = new_key();
    let asked = Instant::now();
    let reply = ask(server.address, &unknown.to_string(), RecordType::A).await;
    assert_servfail(&reply, 22, "too few DHT nodes answered");
    assert!(asked.elapsed() < STUB_PATIENCE, "{:?}", asked.elapsed());
    // What was found before is still served.
    let reply = ask(server.address, &key.to_string(), RecordType::A).await;
    assert_data(&reply, RecordType::A, &[a(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn near_misses_and_search_lists_are_nxdomain_with_the_reason_and_stay_here() {
    let (_, key) = new_key();
    let upstream = Upstream::plain(60).await;
    let mut config = config();
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    let server = Running::start(config);
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/z32.json")).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    let mut misses: Vec<(String, &str)> = Vec::new();
    for vector in vectors {
        let label = vector["label"].as_str().unwrap().to_owned();
        match vector["name"].as_str().unwrap() {
            "not_on_curve" => misses.push((label, "not a point on the Ed25519 curve")),
            "all_y" | "identity_point" => misses.push((label, "a weak key")),
            other if other.starts_with("noncanonical") => {
                misses.push((label, "canonical spelling"))
            }
            _ => {}
        }
    }
    assert!(misses.len() > 15, "{misses:?}");
    for (label, reason) in &misses {
        for asked in [
            label.clone(),
            format!("www.{label}"),
            format!("{label}.pkarr"),
            label.to_ascii_uppercase(),
        ] {
            let reply = ask(server.address, &asked, RecordType::A).await;
            negative_soa(&reply, ResponseCode::NXDomain, zone_without(&asked));
            assert_flags(&reply);
            let (code, text) = ede(&reply).expect("an Extended DNS Error");
            assert_eq!(code, 0, "{text}");
            assert!(text.contains(reason), "{asked}: {text}");
        }
    }
    let miss = &misses[0].0;
    for asked in [
        format!("{key}.lan"),
        format!("_hello.{key}.corp.example"),
        format!("{key}.pkarr.lan"),
        format!("{miss}.lan"),
    ] {
        let reply = ask(server.address, &asked, RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "{asked}");
        let (_, text) = ede(&reply).expect("an Extended DNS Error");
        assert!(text.contains("search domain"), "{asked}: {text}");
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.names());
    // A label of another length is an ordinary name.
    let reply = ask(
        server.address,
        &format!("{}.example", &miss[..51]),
        RecordType::A,
    )
    .await;
    assert_data(&reply, RecordType::A, &[a(1)]);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suffix_is_a_zone_of_our_own() {
    let server = Running::start(config());
    let soa = |reply: &Message| match reply.answers.first().map(|record| &record.data) {
        Some(RData::SOA(soa)) => soa.clone(),
        other => panic!("{other:?}"),
    };
    let reply = ask(server.address, "pkarr", RecordType::SOA).await;
    let apex = soa(&reply);
    assert_eq!(apex.mname, name("pkarr"));
    assert_eq!(apex.rname, name("hostmaster.pkarr"));
    assert_eq!(
        (apex.refresh, apex.retry, apex.expire, apex.minimum),
        (3600, 600, 86_400, 300)
    );
    assert!(reply.metadata.authoritative);
    let reply = ask(server.address, "PKARR", RecordType::NS).await;
    assert_data(&reply, RecordType::NS, &[RData::NS(NS(name("pkarr")))]);
    assert!(reply.metadata.authoritative);
    for (asked, code) in [
        ("pkarr", ResponseCode::NoError),
        ("x.pkarr", ResponseCode::NXDomain),
        ("a.b.pkarr", ResponseCode::NXDomain),
    ] {
        let reply = ask(server.address, asked, RecordType::A).await;
        assert_eq!(negative_soa(&reply, code, "pkarr").0, apex, "{asked}");
        assert!(reply.metadata.authoritative, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_outside_of_the_zone_are_not_served() {
    let (_, victim) = new_key();
    let key = published(|key| {
        vec![
            (name("www.example"), 300, a(66)),
            (below(victim, ""), 300, a(66)),
            (name(&format!("x{key}.")), 300, a(66)),
            (below(key, "to-victim"), 300, cname(below(victim, ""))),
            (below(key, "to-example"), 300, cname(name("www.example"))),
            (below(key, "mine"), 300, a(1)),
        ]
    })
    .await;
    let upstream = Upstream::plain(60).await;
    let mut config = dht().await.config();
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    let server = Running::start(config);
    let reply = ask(server.address, &format!("mine.{key}"), RecordType::A).await;
    assert_data(&reply, RecordType::A, &[a(1)]);
    // Neither by their own names nor behind an alias in the same packet.
    for asked in [victim.to_string(), format!("to-victim.{key}")] {
        let reply = ask(server.address, &asked, RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "{asked}: {reply}");
        assert!(data(&reply, RecordType::A).is_empty(), "{asked}: {reply}");
    }
    for asked in ["www.example".to_owned(), format!("to-example.{key}")] {
        let reply = ask(server.address, &asked, RecordType::A).await;
        assert_eq!(data(&reply, RecordType::A), [a(1)], "{asked}: {reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_packet_on_the_dht_is_served() {
    let (secret, key) = new_key();
    let dht = dht().await;
    for (seq, text) in [(SEQ, "old"), (SEQ + 1, "new")] {
        let records = vec![(below(key, ""), 300, txt(text))];
        dht.publish(&sign(&secret, seq, records)).await;
    }
    let server = server().await;
    let reply = ask(server.address, &key.to_string(), RecordType::TXT).await;
    assert_data(&reply, RecordType::TXT, &[txt("new")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_item_that_is_no_dns_message_is_servfail_with_invalid_data() {
    let (secret, key) = new_key();
    let value = b"no DNS message";
    let seq = i64::try_from(SEQ).unwrap();
    let mut signable = format!("3:seqi{seq}e1:v{}:", value.len()).into_bytes();
    signable.extend(value);
    let signature = secret.sign(&signable).to_bytes();
    let item = MutableItem::new_signed_unchecked(*key.as_bytes(), signature, value, seq, None);
    let node = dht().await.testnet.nodes[0].clone().as_async();
    node.put_mutable(item, None).await.unwrap();
    let server = server().await;
    let reply = ask(server.address, &format!("www.{key}"), RecordType::A).await;
    assert_servfail(&reply, 24, "no DNS message");
}

#[tokio::test(flavor = "multi_thread")]
async fn dht_nodes_are_saved_and_a_later_server_joins_by_them() {
    let key = published(|key| vec![(below(key, ""), 300, a(1))]).await;
    let asked = key.to_string();
    let directory = Directory::new();
    let with_state = |mut config: Config| {
        config.state.directory = Some(directory.0.clone());
        config
    };
    let first = Running::start(with_state(dht().await.config()));
    let reply = ask(first.address, &asked, RecordType::A).await;
    assert_data(&reply, RecordType::A, &[a(1)]);
    let file = directory.0.join("dht-nodes");
    until("the file is written", async || file.exists()).await;
    drop(first);
    let text = std::fs::read_to_string(&file).unwrap();
    let saved: Vec<SocketAddrV4> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!((1..=15).contains(&saved.len()), "{text}");
    for node in &saved {
        assert!(
            dht().await.testnet.bootstrap.contains(&node.to_string()),
            "{text}"
        );
    }
    // The configured node is dead; without the file this server would join nobody.
    let second = Running::start(with_state(config()));
    let reply = ask(second.address, &asked, RecordType::A).await;
    assert_data(&reply, RecordType::A, &[a(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_names_are_asked_of_the_upstream() {
    let key = published(|key| vec![(below(key, ""), 300, a(1))]).await;
    let node: SocketAddrV4 = dht().await.testnet.bootstrap[0].parse().unwrap();
    let upstream = Upstream::start(|query, _| {
        let mut reply = reply_to(query);
        let asked = reply.queries[0].name().clone();
        if asked == name("bootstrap.example") {
            let address = RData::A(A(Ipv4Addr::LOCALHOST));
            reply.add_answer(Record::from_rdata(asked, 60, address));
        }
        vec![reply.to_vec().unwrap()]
    })
    .await;
    let mut config = config();
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    config.dht.bootstrap = vec![format!("bootstrap.example:{}", node.port())];
    let server = Running::start(config);
    let reply = ask(server.address, &key.to_string(), RecordType::A).await;
    assert_data(&reply, RecordType::A, &[a(1)]);
    // A slow machine asks more than once.
    let names = upstream.names();
    assert!(
        names.iter().all(|asked| asked == "bootstrap.example."),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_names_are_never_asked_of_the_system() {
    let key = published(|key| vec![(below(key, ""), 300, a(1))]).await;
    let node: SocketAddrV4 = dht().await.testnet.bootstrap[0].parse().unwrap();
    // Every system knows where localhost is; this upstream does not.
    let upstream = Upstream::start(|query, _| vec![reply_to(query).to_vec().unwrap()]).await;
    let mut config = config();
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    config.dht.bootstrap = vec![format!("localhost:{}", node.port())];
    config.dht.lookup_timeout = Duration::from_millis(100);
    let server = Running::start(config);
    // The second attempt shows that the first one is over.
    until("two attempts", async || upstream.count() >= 2).await;
    let reply = ask(server.address, &key.to_string(), RecordType::A).await;
    assert_servfail(&reply, 14, "not joined");
    assert!(upstream.names().iter().all(|asked| asked == "localhost."));
}

/// Whoever asks.
const ASKER: Asker = Asker::Network(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// Gives what it was told to, in order, each after a second of the test's clock, and counts.
#[derive(Debug, Default)]
struct Scripted {
    script: Mutex<VecDeque<Fetched>>,
    fetches: AtomicUsize,
}

impl FetchPacket for Scripted {
    fn fetch<'a>(&'a self, _: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let next = self.script.lock().unwrap().pop_front();
        Box::pin(async move {
            sleep(Duration::from_secs(1)).await;
            next.expect("one fetch too many").play(see)
        })
    }
}

/// Nobody to forward to.
#[derive(Debug)]
struct Nobody;

impl Forward for Nobody {
    fn forward<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async { Err(Failure::NoUpstream) })
    }
}

/// A resolver whose packets come from a script.
fn scripted(script: impl IntoIterator<Item = Fetched>) -> (Resolver, Arc<Scripted>) {
    let fetcher = Arc::new(Scripted {
        script: Mutex::new(script.into_iter().collect()),
        fetches: AtomicUsize::new(0),
    });
    let times = HoldTimes {
        min: Duration::from_secs(60),
        max: Duration::from_secs(86_400),
        empty: Duration::from_secs(300),
        failure: Duration::from_secs(5),
        max_stale: Duration::from_secs(86_400),
        // As long as the lookup takes.
        stale_wait: Duration::from_secs(4),
    };
    let ttls = Ttls {
        min: 0,
        max: 86_400,
        negative: 300,
        failure: 5,
    };
    let resolver = Resolver::new(
        Names {
            suffixes: Suffixes::new(["pkarr"]),
            ..Names::default()
        },
        Packets::new(fetcher.clone(), None, 1 << 20, times),
        Arc::new(Nobody),
        ttls,
        AnswerCache::new(1 << 20),
    );
    (resolver, fetcher)
}

fn question(asked: Name) -> Question {
    Question {
        name: asked,
        rtype: RecordType::TXT,
        dnssec_ok: false,
        checking_disabled: false,
    }
}

/// The text of the answer's TXT record.
fn text_of(answer: impl AsRef<Answer>) -> String {
    let message = Message::from_vec(answer.as_ref().wire()).unwrap();
    match message.answers.first().map(|record| &record.data) {
        Some(RData::TXT(text)) => text.to_string(),
        other => panic!("{other:?}: {message}"),
    }
}

/// A packet with the same text at `a`, `b` and so on, all with a TTL of a minute.
fn texts(secret: &SigningKey, seq: u64, text: &str) -> SignedPacket {
    let key = key_of(secret);
    let records = ["a", "b", "c", "d"].map(|sub| (below(key, sub), 60, txt(text)));
    sign(secret, seq, records.to_vec())
}

#[tokio::test(start_paused = true)]
async fn one_lookup_serves_all_who_ask_for_a_new_key_at_the_same_time() {
    let (secret, key) = new_key();
    let (resolver, fetcher) = scripted([Fetched::Packet(texts(&secret, 1, "one"))]);
    // The clock goes on, and the fetch with it, only when all fifty wait.
    let names = ["a", "b", "c", "d", "missing"].into_iter().cycle().take(50);
    let replies = names.map(|sub| resolver.resolve(question(below(key, sub)), ASKER));
    let replies = join_all(replies).await;
    assert_eq!(fetcher.fetches.load(Ordering::Relaxed), 1);
    for (index, reply) in replies.iter().enumerate() {
        if index % 5 == 4 {
            assert_eq!(reply.rcode(), u16::from(ResponseCode::NXDomain));
        } else {
            assert_eq!(text_of(reply), "one");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_packet_that_comes_later_does_not_replace_a_newer_one() {
    let (secret, key) = new_key();
    let script = [(5, "new"), (4, "old"), (6, "newer")];
    let script = script.map(|(seq, text)| Fetched::Packet(texts(&secret, seq, text)));
    let (resolver, fetcher) = scripted(script);
    let ask = async || text_of(&resolver.resolve(question(below(key, "a")), ASKER).await);
    for (count, expected) in [(1, "new"), (2, "new"), (3, "newer")] {
        assert_eq!(ask().await, expected);
        assert_eq!(fetcher.fetches.load(Ordering::Relaxed), count);
        tokio::time::advance(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn answers_from_an_older_packet_vanish_at_once_when_a_newer_one_comes() {
    let (secret, key) = new_key();
    let script = [
        Fetched::Packet(texts(&secret, 1, "old")),
        Fetched::Failed(Failure::DhtNotReady),
        Fetched::Packet(texts(&secret, 2, "new")),
    ];
    let (resolver, fetcher) = scripted(script);
    let ask = async |sub| resolver.resolve(question(below(key, sub)), ASKER).await;
    assert_eq!(text_of(&ask("a").await), "old");
    tokio::time::advance(Duration::from_secs(61)).await;
    // Nothing newer to be had: the old answer, and it says so (RFC 8767).
    let stale = ask("a").await;
    assert_eq!(text_of(&stale), "old");
    assert_eq!(stale.edes().first().map(|ede| ede.code), Some(3));
    // It is kept, so that the failed lookup is not tried for each client.
    assert_eq!(text_of(&ask("a").await), "old");
    assert_eq!(fetcher.fetches.load(Ordering::Relaxed), 2);
    // Another question of the same key finds the newer packet, and the first sees it at once.
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(text_of(&ask("b").await), "new");
    assert_eq!(text_of(&ask("a").await), "new");
    assert_eq!(fetcher.fetches.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_record_outside_of_the_zone_does_not_shorten_the_time_that_a_packet_is_held() {
    let (secret, key) = new_key();
    let records = vec![
        (below(key, "a"), 600, txt("mine")),
        (name("www.example"), 60, txt("not mine")),
    ];
    let (resolver, fetcher) = scripted([Fetched::Packet(sign(&secret, 1, records))]);
    for _ in 0..2 {
        let answer = resolver.resolve(question(below(key, "a")), ASKER).await;
        assert_eq!(text_of(answer), "mine");
        assert_eq!(fetcher.fetches.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_secs(470)).await;
    }
}
