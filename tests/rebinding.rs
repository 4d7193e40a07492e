//! The rebinding guard: private addresses in answers of upstreams and public keys, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::front::{asking, resolver, serve};
use common::*;
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, NULL, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use pkbridge::pkarr::{SignedPacket, Suffixes};
use pkbridge::resolve::{Asker, LocalRecord, LocalRecords, Names, Question, RebindingGuard};
use pkbridge::wire::{self, Layout};

/// RFC 8914 section 4.18.
const FILTERED: u16 = 17;
/// The TTL of records where it does not matter.
const TTL: u32 = 300;
/// A TTL below the least time that a packet is held.
const SHORT_TTL: u32 = 30;

fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

fn opaque(code: u16, bytes: &[u8]) -> RData {
    // `NULL::with` does not take none.
    let mut rdata = NULL::new();
    rdata.anything.extend_from_slice(bytes);
    let code = RecordType::from(code);
    RData::Unknown { code, rdata }
}

/// An HTTPS record at its own name, with one hint.
fn https(hint: &str) -> RData {
    let hint = match hint.parse().unwrap() {
        IpAddr::V4(hint) => (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A(hint)])),
        ),
        IpAddr::V6(hint) => (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA(hint)])),
        ),
    };
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), vec![hint])))
}

/// An upstream that gives the same sections to every question, at the name that was asked unless they
/// have one of their own; with AD.
async fn upstream(sections: [Vec<(&'static str, RData)>; 3]) -> Upstream {
    Upstream::start(move |query, _| {
        let mut reply = reply_to(query);
        reply.metadata.authentic_data = true;
        let asked = reply.queries[0].name().clone();
        let records = |section: usize| {
            let records = sections[section].iter();
            records.map(|(owner, data)| {
                let owner = if owner.is_empty() {
                    asked.clone()
                } else {
                    name(owner)
                };
                Record::from_rdata(owner, TTL, data.clone())
            })
        };
        let (answers, authorities, additionals) = (records(0), records(1), records(2));
        reply.add_answers(answers);
        reply.add_authorities(authorities);
        reply.add_additionals(additionals);
        vec![reply.to_vec().unwrap()]
    })
    .await
}

/// An upstream that answers with these records.
async fn answering(answers: impl IntoIterator<Item = (&'static str, RData)>) -> Upstream {
    upstream([answers.into_iter().collect(), vec![], vec![]]).await
}

/// A guard with this list, and everything else at rest.
fn guarded(allow: &[&str]) -> Names {
    let allow = allow.iter().map(|allowed| name(allowed)).collect();
    Names {
        suffixes: Suffixes::new(["pkarr"]),
        special_use: true,
        synthesise_addresses: true,
        rebinding: Arc::new(RebindingGuard::new(true, allow)),
        ..Names::default()
    }
}

async fn start(names: Names, upstream: &Upstream) -> SocketAddr {
    serve(resolver(names, None, asking(upstream.address, &[]))).await
}

/// NOERROR with exactly these answers, no AD, and EDE 17.
#[track_caller]
fn assert_filtered(reply: &Message, left: &[RData]) {
    let (code, text) = ede(reply).expect("an Extended DNS Error");
    assert_eq!(code, FILTERED, "{text}");
    assert!(text.contains("rebinding guard"), "{text}");
    assert_eq!(rcode(reply), ResponseCode::NoError, "{reply}");
    assert!(!reply.metadata.authentic_data, "{reply}");
    let answers: Vec<_> = reply.answers.iter().map(|r| r.data.clone()).collect();
    assert_eq!(answers, left, "{reply}");
}

/// NOERROR with exactly these answers, and no EDE.
#[track_caller]
fn assert_plain(reply: &Message, answers: &[RData]) {
    assert_eq!(ede(reply), None, "{reply}");
    assert_eq!(rcode(reply), ResponseCode::NoError, "{reply}");
    let found: Vec<_> = reply.answers.iter().map(|r| r.data.clone()).collect();
    assert_eq!(found, answers, "{reply}");
}

/// A query that asks for AD and DNSSEC records.
fn query_do(owner: &str, rtype: RecordType) -> Message {
    let mut query = query(owner, rtype);
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(true);
    query.set_edns(edns);
    query
}

#[tokio::test]
async fn private_addresses_of_an_upstream_are_dropped_and_the_answer_says_so() {
    for private in [
        "192.168.1.1",
        "127.0.0.1",
        "0.0.0.0",
        "fd00::1",
        "::ffff:10.0.0.1",
    ] {
        let private = address(private);
        let rtype = private.record_type();
        let upstream = answering([("", private)]).await;
        let server = start(guarded(&[]), &upstream).await;
        let reply = send(server, &query_do("www.example.com", rtype)).await;
        assert_filtered(&reply, &[]);
        assert!(reply.authorities.is_empty(), "{reply}");
        // From the cache as well.
        let again = send(server, &query_do("www.example.com", rtype)).await;
        assert_filtered(&again, &[]);
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn public_addresses_beside_them_stay_and_the_signature_goes() {
    // Type covered A, and what else stands in an RRSIG.
    let rrsig = opaque(
        46,
        &[&[0, 1, 8, 2][..], &[0; 14], b"\x07example\x00sig"].concat(),
    );
    let (private, public) = (address("10.0.0.1"), address("192.0.2.1"));
    let records = [private, public.clone(), rrsig];
    let upstream = answering(records.map(|data| ("", data))).await;
    let server = start(guarded(&[]), &upstream).await;
    let reply = send(server, &query_do("www.example.com", RecordType::A)).await;
    assert_filtered(&reply, &[public]);
}

#[tokio::test]
async fn private_addresses_go_from_every_section() {
    let mx = RData::MX(MX::new(10, name("mail.example.com")));
    let public = address("192.0.2.1");
    let upstream = upstream([
        vec![("", mx.clone())],
        vec![("mail.example.com", address("10.0.0.1"))],
        vec![
            ("mail.example.com", address("fd00::1")),
            ("mail.example.com", public),
        ],
    ])
    .await;
    let server = start(guarded(&[]), &upstream).await;
    let reply = ask(server, "example.com", RecordType::MX).await;
    assert_filtered(&reply, &[mx]);
    let others = reply.authorities.iter().chain(&reply.additionals);
    let others: Vec<_> = others.map(|record| &record.data).collect();
    assert!(
        !others
            .iter()
            .any(|data| [address("10.0.0.1"), address("fd00::1")].contains(data)),
        "{reply}"
    );
}

#[tokio::test]
async fn a_service_binding_goes_for_the_hint_that_it_carries() {
    for hint in ["192.168.1.1", "fd00::1"] {
        let upstream = answering([("", https(hint)), ("", https("192.0.2.1"))]).await;
        let server = start(guarded(&[]), &upstream).await;
        let reply = ask(server, "www.example.com", RecordType::HTTPS).await;
        assert_filtered(&reply, &[https("192.0.2.1")]);
    }
}

#[tokio::test]
async fn an_answer_without_private_addresses_goes_on_byte_by_byte() {
    // What a library would refuse or write anew: an APL without data, a CAA out of shape.
    let odd = [
        ("", address("192.0.2.1")),
        ("", opaque(42, &[])),
        ("", opaque(257, &[0, 200, b'x'])),
        ("", opaque(65_280, &[0xc0, 0x0c])),
    ];
    let odd = [
        odd.to_vec(),
        vec![],
        vec![("x.example", address("192.0.2.2"))],
    ];
    let upstream = upstream(odd).await;
    let mut replies = Vec::new();
    for on in [false, true] {
        let names = Names {
            rebinding: Arc::new(RebindingGuard::new(on, vec![])),
            ..Names::default()
        };
        let server = start(names, &upstream).await;
        let query = query_do("www.example.com", RecordType::A).to_vec().unwrap();
        let mut reply = exchange_udp(server, &query).await.split_off(2);
        reply.splice(0..0, [0, 0]);
        for record in Layout::read(&reply).unwrap().records {
            wire::write_at(&mut reply, record.ttl_at, &[0; 4]);
        }
        let header = wire::Header::read(&reply).unwrap();
        assert_eq!(header.counts, [1, 4, 0, 2]);
        assert!(header.has(wire::flags::AD));
        replies.push(reply);
    }
    assert_eq!(replies[0], replies[1]);
}

#[tokio::test]
async fn the_guard_can_be_off() {
    let private = address("192.168.1.1");
    let upstream = answering([("", private.clone())]).await;
    let names = Names {
        rebinding: Arc::new(RebindingGuard::new(false, vec![])),
        ..guarded(&[])
    };
    let server = start(names, &upstream).await;
    let reply = ask(server, "www.example.com", RecordType::A).await;
    assert_plain(&reply, &[private]);
}

#[tokio::test]
async fn the_name_that_was_asked_decides_and_not_where_an_alias_leads() {
    let private = address("192.168.1.1");
    let alias = cname("host.home.example");
    let records = [("", alias.clone()), ("host.home.example", private.clone())];
    let upstream = answering(records).await;
    let server = start(guarded(&["home.example", "intra.example"]), &upstream).await;
    for allowed in ["home.example", "www.home.example", "a.b.Intra.example"] {
        let reply = ask(server, allowed, RecordType::A).await;
        assert_plain(&reply, &[alias.clone(), private.clone()]);
    }
    for stranger in ["example", "nothome.example", "evil.example.com"] {
        let reply = ask(server, stranger, RecordType::A).await;
        assert_filtered(&reply, std::slice::from_ref(&alias));
    }
}

#[tokio::test]
async fn what_the_operator_has_said_and_what_is_special_has_its_private_addresses() {
    let private = address("192.168.1.1");
    let upstream = answering([("", private.clone())]).await;
    let local = |owner: &str, data: RData| LocalRecord {
        name: name(owner),
        rtype: data.record_type(),
        rdata: data.to_bytes().unwrap(),
    };
    let records = vec![
        local("nas.lan", private.clone()),
        local("alias.lan", cname("www.example.com")),
    ];
    let names = Names {
        local: Arc::new(LocalRecords::new(records, None, Suffixes::default(), 60)),
        ..guarded(&[])
    };
    let forward = asking(upstream.address, &["corp.example"]);
    let server = serve(resolver(names, None, forward)).await;
    for owner in ["nas.lan", "corp.example", "www.corp.example"] {
        let reply = ask(server, owner, RecordType::A).await;
        assert_plain(&reply, std::slice::from_ref(&private));
    }
    let reply = ask(server, "alias.lan", RecordType::A).await;
    assert_plain(&reply, &[cname("www.example.com"), private.clone()]);
    let reply = ask(server, "localhost", RecordType::A).await;
    assert_plain(&reply, &[address("127.0.0.1")]);
    let reply = ask(server, "1.2.0.192.in-addr.arpa", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
}

#[tokio::test]
async fn whoever_has_a_reverse_zone_cannot_publish_private_addresses_there() {
    let upstream = answering([("", address("192.168.1.1"))]).await;
    let server = start(guarded(&[]), &upstream).await;
    for owner in ["1.1.1.9.in-addr.arpa", "www.0.2.6.2.ip6.arpa"] {
        let reply = ask(server, owner, RecordType::A).await;
        assert_filtered(&reply, &[]);
    }
}

/// A packet of key 1 with addresses and aliases of all kinds.
fn packet() -> SignedPacket {
    let secret = secret(1);
    let key = key_of(&secret);
    let record = |sub: &str, data: RData| (below(key, sub), TTL, data);
    sign(
        &secret,
        1,
        vec![
            record("", address("192.168.1.1")),
            record("", address("192.0.2.1")),
            (below(key, "private"), SHORT_TTL, address("fd00::1")),
            record("to-local", cname("nas.lan")),
            record("to-rule", cname("www.corp.example")),
            record("to-localhost", cname("localhost")),
            record("web", https("10.0.0.1")),
            record(
                "service",
                RData::HTTPS(HTTPS(SVCB::new(1, below(key, "private"), vec![]))),
            ),
        ],
    )
}

async fn with_packet(allow: &[&str]) -> (SocketAddr, Upstream) {
    let upstream = answering([("", address("192.168.1.9"))]).await;
    let local = LocalRecord {
        name: name("nas.lan"),
        rtype: RecordType::A,
        rdata: vec![192, 168, 1, 5],
    };
    let names = Names {
        local: Arc::new(LocalRecords::new(
            vec![local],
            None,
            Suffixes::default(),
            60,
        )),
        ..guarded(allow)
    };
    let forward = asking(upstream.address, &["corp.example"]);
    let resolver = resolver(names, Some(packet()), forward);
    (serve(resolver).await, upstream)
}

#[tokio::test]
async fn a_public_key_cannot_point_at_the_network_that_its_visitors_stand_in() {
    let (server, _upstream) = with_packet(&[]).await;
    let key = key_of(&secret(1));
    for suffix in ["", ".pkarr"] {
        let host = |sub: &str| format!("{sub}{key}{suffix}");
        let reply = ask(server, &host(""), RecordType::A).await;
        assert_filtered(&reply, &[address("192.0.2.1")]);
        let reply = ask(server, &host("private."), RecordType::AAAA).await;
        assert_filtered(&reply, &[]);
        let reply = ask(server, &host("web."), RecordType::HTTPS).await;
        assert_filtered(&reply, &[]);
        for (sub, target) in [
            ("to-local.", "nas.lan"),
            ("to-rule.", "www.corp.example"),
            ("to-localhost.", "localhost"),
        ] {
            let reply = ask(server, &host(sub), RecordType::A).await;
            assert_filtered(&reply, &[cname(target)]);
        }
        // Neither beside its service binding, nor made of it.
        let reply = ask(server, &host("service."), RecordType::HTTPS).await;
        let (code, _) = ede(&reply).unwrap();
        assert_eq!(code, FILTERED);
        assert_eq!((reply.answers.len(), reply.additionals.len()), (1, 0));
        let reply = ask(server, &host("service."), RecordType::AAAA).await;
        assert_filtered(&reply, &[]);
    }
}

#[tokio::test]
async fn a_public_key_that_is_listed_has_its_private_addresses_under_every_suffix() {
    let key = key_of(&secret(1));
    let (server, _upstream) = with_packet(&[&key.to_string()]).await;
    let both = [address("192.168.1.1"), address("192.0.2.1")];
    for owner in [key.to_string(), format!("{key}.pkarr")] {
        let reply = ask(server, &owner, RecordType::A).await;
        assert_plain(&reply, &both);
    }
    let reply = ask(server, &format!("to-local.{key}"), RecordType::A).await;
    assert_plain(&reply, &[cname("nas.lan"), address("192.168.1.5")]);
}

#[tokio::test]
async fn what_is_left_is_kept_no_longer_than_what_was_dropped() {
    let upstream = answering([("", address("192.168.1.1"))]).await;
    let resolver = resolver(guarded(&[]), Some(packet()), asking(upstream.address, &[]));
    let lifetime = async |asked: Name, rtype| {
        let question = Question {
            name: asked,
            rtype,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let answer = resolver.resolve(question, Asker::Refresh).await;
        assert_eq!(answer.edes()[0].code, FILTERED);
        assert!(!answer.is_verified());
        answer.lifetime()
    };
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let forwarded = lifetime(name("www.example.com"), RecordType::A).await;
    assert_eq!(forwarded, seconds(TTL));
    let private = below(key_of(&secret(1)), "private");
    let of_key = lifetime(private, RecordType::AAAA).await;
    assert_eq!(of_key, seconds(SHORT_TTL));
}
