//! What a configuration file says of forwarding, and what the whole server makes of it: the rebinding guard,
//! records, the hosts file, rules, and answers beyond their time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{RData, Record, RecordType};
use pkbridge::config::Config;

/// RFC 8914 sections 4.4 and 4.18.
const STALE_ANSWER: u16 = 3;
const FILTERED: u16 = 17;
/// TTL of records where it does not matter.
const TTL: u32 = 300;

/// Any free port on loopback, nobody in the DHT, nothing kept; and `more`.
fn configuration(more: &str) -> Config {
    let text = format!(
        r#"
[listen]
addresses = ["127.0.0.1:0"]
[dht]
bootstrap = ["127.0.0.1:9"]
bind-address = "127.0.0.1"
[state]
directory = ""
[control]
socket = ""
{more}
"#
    );
    Config::parse(&text, "pkbridge.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn address(a: u8, b: u8, c: u8, d: u8) -> RData {
    RData::A(Ipv4Addr::new(a, b, c, d).into())
}

/// An upstream that says this to every question.
async fn answering(data: RData) -> Upstream {
    Upstream::start(move |query, _| {
        let mut reply = reply_to(query);
        let owner = reply.queries[0].name().clone();
        reply.add_answer(Record::from_rdata(owner, TTL, data.clone()));
        vec![reply.to_vec().unwrap()]
    })
    .await
}

async fn ask_a(server: SocketAddr, owner: &str) -> Vec<RData> {
    data(&ask(server, owner, RecordType::A).await, RecordType::A)
}

async fn ask_ptr(server: SocketAddr, owner: &str) -> Vec<RData> {
    data(&ask(server, owner, RecordType::PTR).await, RecordType::PTR)
}

fn pointer(target: &str) -> RData {
    RData::PTR(PTR(name(target)))
}

#[tokio::test]
async fn the_rebinding_guard_is_on_by_itself_once_others_are_served() {
    let private = address(192, 168, 1, 1);
    let upstream = answering(private.clone()).await;
    let of_rule = answering(private.clone()).await;
    for (allow, is_on) in [
        (r#""127.0.0.0/8""#, false),
        (r#""127.0.0.0/8", "::1""#, false),
        (r#""127.0.0.0/8", "192.168.0.0/16""#, true),
    ] {
        let config = configuration(&format!(
            r#"
[access]
allow = [{allow}]
[upstream]
servers = ["{}"]
[names]
hosts-file = ""
[rebinding]
allow = ["plex.direct"]
[[forward]]
domains = ["corp.example"]
servers = ["{}"]
"#,
            upstream.address, of_rule.address
        ));
        let server = Running::start(config);
        let reply = ask(server.address, "www.example", RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NoError);
        let code = ede(&reply).map(|(code, _)| code);
        match is_on {
            true => assert_eq!((reply.answers.len(), code), (0, Some(FILTERED)), "{allow}"),
            false => assert_eq!((reply.answers.len(), code), (1, None), "{allow}"),
        }
        for trusted in ["host.corp.example", "nas.plex.direct"] {
            let reply = ask(server.address, trusted, RecordType::A).await;
            assert_eq!(ede(&reply), None, "{trusted}");
            let found = data(&reply, RecordType::A);
            assert_eq!(found, std::slice::from_ref(&private), "{trusted}");
        }
    }
}

#[tokio::test]
async fn records_the_hosts_file_and_rules_of_the_file_have_their_names() {
    let directory = Directory::new();
    let hosts = directory.join("hosts");
    std::fs::write(&hosts, "192.168.1.6 printer.lan\n").unwrap();
    let others = answering(address(192, 0, 2, 1)).await;
    let of_lan = answering(address(192, 0, 2, 2)).await;
    let of_office = answering(address(192, 0, 2, 3)).await;
    let mut config = configuration(&format!(
        r#"
[upstream]
servers = ["{}"]
[names]
hosts-file = "{}"
[records]
"nas.lan" = "192.168.1.5"
[[forward]]
domains = ["lan", "168.192.in-addr.arpa"]
servers = ["{}"]
[[forward]]
domains = ["office.lan"]
servers = ["{}"]
"#,
        others.address,
        hosts.display(),
        of_lan.address,
        of_office.address
    ));
    let server = Running::start(config.clone());
    let here = server.address;
    assert_eq!(ask_a(here, "nas.lan").await, [address(192, 168, 1, 5)]);
    let found = ask_ptr(here, "5.1.168.192.in-addr.arpa").await;
    assert_eq!(found, [pointer("nas.lan")]);
    assert_eq!(ask_a(here, "printer.lan").await, [address(192, 168, 1, 6)]);
    let found = ask_ptr(here, "6.1.168.192.in-addr.arpa").await;
    assert_eq!(found, [pointer("printer.lan")]);
    // Another type than it has.
    let reply = ask(here, "nas.lan", RecordType::TXT).await;
    assert_eq!(rcode(&reply), ResponseCode::NoError);
    assert!(reply.answers.is_empty(), "{reply}");
    for (owner, last) in [
        ("www.example", 1),
        ("tv.lan", 2),
        ("a.office.lan", 3),
        ("xoffice.lan", 2),
    ] {
        assert_eq!(ask_a(here, owner).await, [address(192, 0, 2, last)]);
    }
    ask_ptr(here, "7.1.168.192.in-addr.arpa").await;
    assert_eq!(others.names(), ["www.example."]);
    let asked = ["tv.lan.", "xoffice.lan.", "7.1.168.192.in-addr.arpa."];
    assert_eq!(of_lan.names(), asked);
    assert_eq!(of_office.names(), ["a.office.lan."]);

    // The file changes, also after a reload that does not concern it.
    for last in [7, 8] {
        std::fs::write(&hosts, format!("192.168.1.{last} tv.lan\n")).unwrap();
        until("the hosts file is seen", async || {
            ask_a(here, "tv.lan").await == [address(192, 168, 1, last)]
        })
        .await;
        config.log.level = "debug".to_owned();
        reload(&server, config.clone()).await;
    }
    // And one that takes the names away.
    config.names.hosts_file = None;
    config.records.clear();
    reload(&server, config).await;
    for owner in ["nas.lan", "tv.lan"] {
        assert_eq!(ask_a(here, owner).await, [address(192, 0, 2, 2)]);
    }
}

/// Lets time pass for the server: its clock is this runtime's.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn with_cache(upstream: &Upstream, cache: &str) -> Config {
    configuration(&format!(
        "[upstream]\nservers = [\"{}\"]\ntimeout = \"20s\"\n[names]\nhosts-file = \"\"\n\
         [cache]\n{cache}\n",
        upstream.address
    ))
}

#[tokio::test]
async fn late_in_its_time_an_answer_is_looked_up_again_if_that_is_wished() {
    const LONG: u32 = 1000;
    for prefetch in [true, false] {
        let upstream = Upstream::plain(LONG).await;
        let config = with_cache(&upstream, &format!("prefetch = {prefetch}"));
        let server = Running::start(config);
        let ttl = async || {
            let reply = ask(server.address, "www.example", RecordType::A).await;
            reply.answers[0].ttl
        };
        assert!(ttl().await > LONG - 50);
        pass(Duration::from_secs(850)).await;
        assert!(ttl().await < 200, "early, it is a hit and no more");
        ask_a(server.address, "early.example").await;
        assert_eq!(upstream.names(), ["www.example.", "early.example."]);
        pass(Duration::from_secs(70)).await;
        assert!(ttl().await < 100, "nobody waits for the new one");
        if prefetch {
            until("it is looked up", async || ttl().await > LONG - 50).await;
        }
        ask_a(server.address, "late.example").await;
        let mut asked = vec!["www.example.", "early.example.", "late.example."];
        if prefetch {
            asked.insert(2, "www.example.");
        }
        assert_eq!(upstream.names(), asked);
    }
}

#[tokio::test]
async fn a_silent_upstream_is_waited_for_as_long_as_stale_wait_says() {
    const WAIT: Duration = Duration::from_millis(100);
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    let upstream = Upstream::start(move |query, _| {
        let mut reply = reply_to(query);
        let owner = reply.queries[0].name().clone();
        reply.add_answer(Record::from_rdata(owner, TTL, address(192, 0, 2, 1)));
        match silent.load(Ordering::Relaxed) {
            true => vec![],
            false => vec![reply.to_vec().unwrap()],
        }
    })
    .await;
    let server = Running::start(with_cache(&upstream, "stale-wait = \"100ms\""));
    let owners = [0, 1, 2, 3, 4].map(|number| format!("n{number}.example"));
    for owner in &owners {
        ask_a(server.address, owner).await;
    }
    is_silent.store(true, Ordering::Relaxed);
    pass(Duration::from_secs(u64::from(TTL) + 1)).await;
    let mut waits = Vec::new();
    for owner in &owners {
        let before = tokio::time::Instant::now();
        let reply = ask(server.address, owner, RecordType::A).await;
        waits.push(before.elapsed());
        assert_eq!(data(&reply, RecordType::A), [address(192, 0, 2, 1)]);
        assert_eq!(ede(&reply).map(|(code, _)| code), Some(STALE_ANSWER));
    }
    // Without the setting it is 1.8 s, and nothing once the upstream is known to be silent.
    let waited = waits.iter().filter(|wait| **wait >= WAIT).min();
    let is_short = |wait: &Duration| *wait < Duration::from_millis(1500);
    assert!(waited.is_some_and(is_short), "{waits:?}");
}
