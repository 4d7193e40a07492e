//! Upstreams over real sockets: what a forger has to guess, servers with odd manners, whom a
//! question goes to, and loops.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "tests"
)]

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::forward::*;
use common::*;
use futures_util::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use pkbridge::endpoint::Endpoint;
use pkbridge::resolve::{Forward, ForwardRule, Question, Strategy, UpstreamSettings, Upstreams};
use pkbridge::wire::{self, Layout};
use tokio::net::UdpSocket;

/// A name with so many letters that their case cannot be guessed.
const LONG: &str = "abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz.example";
/// The last byte of the address in an answer that must not be believed.
const FORGED: u8 = 66;

/// The same with the question in lower case.
fn in_lower_case(mut reply: Vec<u8>) -> Vec<u8> {
    let question = wire::plain_question(&reply).unwrap();
    reply[question].make_ascii_lowercase();
    reply
}

fn cookie_option(cookie: &[u8]) -> Vec<u8> {
    let mut option = COOKIE.to_be_bytes().to_vec();
    option.extend(u16::try_from(cookie.len()).unwrap().to_be_bytes());
    option.extend(cookie);
    option
}

/// How each query came, and its cookie.
fn history(upstream: &Upstream) -> Vec<(Via, Option<Vec<u8>>)> {
    let asked = upstream.asked.lock().unwrap();
    let entry = |asked: &Asked| (asked.via, cookie_of(&asked.bytes));
    asked.iter().map(entry).collect()
}

fn ways(upstream: &Upstream) -> Vec<Via> {
    history(upstream).into_iter().map(|(via, _)| via).collect()
}

// What a forger has to guess.

/// Chi-squared of counts that should be alike.
fn chi_squared(counts: &[usize]) -> f64 {
    let total: usize = counts.iter().sum();
    let expected = total as f64 / counts.len() as f64;
    let term = |count: &usize| (*count as f64 - expected).powi(2) / expected;
    counts.iter().map(term).sum()
}

fn spread(values: &[u16], lowest: u32) -> (usize, f64, f64) {
    let bucket = |value: u32| usize::try_from((value - lowest) * 32 / (65_536 - lowest)).unwrap();
    let (mut counts, mut steps) = (vec![0; 32], vec![0; 32]);
    for value in values {
        counts[bucket(u32::from(*value))] += 1;
    }
    for pair in values.windows(2) {
        steps[usize::from(pair[1].wrapping_sub(pair[0]) >> 11)] += 1;
    }
    let distinct = values.iter().collect::<HashSet<_>>().len();
    (distinct, chi_squared(&counts), chi_squared(&steps))
}

#[tokio::test]
async fn rfc5452_9_2_ids_and_ports_are_spread_as_chance_would_have_it() {
    const COUNT: usize = 2000;
    let upstream = answering(1).await;
    let upstreams = upstreams(&[upstream.address]);
    for batch in 0..COUNT / 100 {
        let asked = (0..100).map(|n| format!("n{}.example", batch * 100 + n));
        let asked: Vec<String> = asked.collect();
        join_all(asked.iter().map(|owner| address(&upstreams, owner))).await;
    }
    let asked = upstream.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), COUNT);
    let id = |asked: &Asked| u16::from_be_bytes([asked.bytes[0], asked.bytes[1]]);
    let ids: Vec<u16> = asked.iter().map(id).collect();
    let ports: Vec<u16> = asked.iter().map(|asked| asked.from.port()).collect();
    for (what, values, lowest) in [("IDs", ids, 0), ("ports", ports, 1024)] {
        let (distinct, values, steps) = spread(&values, lowest);
        println!(
            "{what}: {distinct} of {COUNT} distinct, chi-squared of 32 parts {values:.1}, of the steps {steps:.1}"
        );
        // Of 2,000 random numbers of 16 bits 1,970 are distinct, give or take six.
        assert!(distinct > 1920, "{what}: {distinct}");
        // With 31 degrees of freedom 90 is exceeded once in ten million runs.
        assert!(values < 90.0, "{what}: {values}");
        // The steps of ports are a little uneven: 1,024 of them are left out.
        assert!(steps < 110.0, "{what}: {steps}");
    }
}

#[tokio::test]
async fn an_answer_in_another_case_is_not_believed_before_tcp_says_the_same() {
    let upstream = Upstream::start(|query, via| match via {
        Via::Udp => vec![in_lower_case(reply(query, FORGED))],
        Via::Tcp => vec![reply(query, 1)],
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    for _ in 0..2 {
        assert_eq!(address(&upstreams, LONG).await, 1);
    }
    // TCP kept the case, so the datagram was forged, and nothing is learnt from it.
    assert_eq!(ways(&upstream), [Via::Udp, Via::Tcp, Via::Udp, Via::Tcp]);
}

#[tokio::test]
async fn a_server_that_breaks_the_case_is_remembered() {
    let upstream = Upstream::start(|query, _| vec![in_lower_case(reply(query, 1))]).await;
    let upstreams = upstreams(&[upstream.address]);
    for _ in 0..3 {
        assert_eq!(address(&upstreams, LONG).await, 1);
    }
    assert_eq!(ways(&upstream), [Via::Udp, Via::Tcp, Via::Udp, Via::Udp]);
    let last = upstream.asked.lock().unwrap().back().unwrap().clone();
    assert!(!last.bytes[12..].iter().any(u8::is_ascii_uppercase));
}

#[tokio::test]
async fn a_server_that_breaks_the_case_and_has_no_tcp_is_believed_after_a_plain_query() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1232];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let reply = in_lower_case(reply(&buffer[..length], 1));
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    let upstreams = upstreams(&[server]);
    assert_eq!(address(&upstreams, LONG).await, 1);
    assert_eq!(
        asked.load(Ordering::SeqCst),
        3,
        "twice, and then a plain query"
    );
    assert_eq!(address(&upstreams, LONG).await, 1);
    assert_eq!(asked.load(Ordering::SeqCst), 4, "it is remembered");
}

// Cookies (RFC 7873).

/// An upstream that sends cookies back, with `server` as its own part.
async fn with_cookies(server: &'static [u8]) -> Upstream {
    Upstream::start(move |query, _| {
        let client = cookie_of(query).unwrap()[..8].to_vec();
        let option = cookie_option(&[&client, server].concat());
        vec![reply_with(query, 1, 0, &option)]
    })
    .await
}

#[tokio::test]
async fn rfc7873_5_3_a_servers_cookie_is_sent_back() {
    let upstream = with_cookies(b"its part").await;
    let upstreams = upstreams(&[upstream.address]);
    for number in 0..3 {
        assert_eq!(address(&upstreams, &format!("n{number}.example")).await, 1);
    }
    let cookies: Vec<Vec<u8>> = history(&upstream)
        .into_iter()
        .filter_map(|(_, c)| c)
        .collect();
    assert_eq!(cookies.len(), 3);
    assert_eq!(cookies[0].len(), 8);
    let whole = [&cookies[0], b"its part".as_slice()].concat();
    assert_eq!(cookies[1..], [whole.clone(), whole]);
}

#[tokio::test]
async fn each_server_gets_a_client_cookie_of_its_own() {
    let (first, second) = (
        with_cookies(b"the first").await,
        with_cookies(b"the second").await,
    );
    for upstream in [&first, &second] {
        address(&upstreams(&[upstream.address]), "a.example").await;
    }
    assert_ne!(history(&first)[0].1, history(&second)[0].1);
}

#[tokio::test]
async fn rfc7873_5_3_an_answer_without_the_cookie_that_was_there_is_proved_over_tcp() {
    let forging = Arc::new(AtomicUsize::new(0));
    let is_forged = Arc::clone(&forging);
    let upstream = Upstream::start(move |query, via| {
        let client = cookie_of(query).unwrap()[..8].to_vec();
        let good = reply_with(
            query,
            1,
            0,
            &cookie_option(&[&client, &b"its part"[..]].concat()),
        );
        match (via, is_forged.load(Ordering::SeqCst)) {
            (Via::Udp, 1) => vec![reply(query, FORGED)],
            (Via::Udp, 2) => {
                let option = cookie_option(b"notours!its part");
                vec![reply_with(query, FORGED, 0, &option)]
            }
            _ => vec![good],
        }
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    for kind in 0..3 {
        forging.store(kind, Ordering::SeqCst);
        assert_eq!(address(&upstreams, &format!("n{kind}.example")).await, 1);
    }
    assert_eq!(
        ways(&upstream),
        [Via::Udp, Via::Udp, Via::Tcp, Via::Udp, Via::Tcp]
    );
}

#[tokio::test]
async fn a_server_without_cookies_gets_no_more_of_them() {
    let upstream = answering(1).await;
    let upstreams = upstreams(&[upstream.address]);
    for number in 0..3 {
        address(&upstreams, &format!("n{number}.example")).await;
    }
    let had: Vec<bool> = history(&upstream)
        .iter()
        .map(|(_, c)| c.is_some())
        .collect();
    assert_eq!(had, [true, false, false]);
}

#[tokio::test]
async fn rfc7873_5_3_a_bad_cookie_is_replaced_by_the_one_that_comes_with_it() {
    let upstream = Upstream::start(|query, _| {
        let cookie = cookie_of(query).unwrap();
        let option = cookie_option(&[&cookie[..8], &b"its part"[..]].concat());
        let rcode = if cookie.len() == 8 { 23 } else { 0 };
        vec![reply_with(query, 1, rcode, &option)]
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    let response = upstreams.forward(&question("a.example")).await.unwrap();
    assert_eq!(response.rcode, 0);
    assert_eq!(ways(&upstream), [Via::Udp, Via::Udp]);
}

#[tokio::test]
async fn a_server_that_stumbles_over_cookies_is_asked_without_them() {
    let upstream = Upstream::start(|query, _| {
        let rcode = u16::from(cookie_of(query).is_some());
        vec![reply_with(query, 1, rcode, &[])]
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    for number in 0..2 {
        let owner = format!("n{number}.example");
        let response = upstreams.forward(&question(&owner)).await.unwrap();
        assert_eq!(response.rcode, 0);
    }
    assert_eq!(upstream.count(), 3, "it is remembered");
}

// Whom a question goes to.

#[tokio::test]
async fn in_order_only_the_first_that_works_is_asked() {
    let (first, second) = (answering(1).await, answering(2).await);
    let upstreams = Upstreams::new(UpstreamSettings {
        strategy: Strategy::InOrder,
        ..settings(&[first.address, second.address])
    });
    for number in 0..10 {
        assert_eq!(address(&upstreams, &format!("n{number}.example")).await, 1);
    }
    assert_eq!(second.count(), 0);
}

#[tokio::test]
async fn in_parallel_all_are_asked() {
    let (first, second) = (answering(1).await, answering(2).await);
    let upstreams = Upstreams::new(UpstreamSettings {
        strategy: Strategy::Parallel,
        ..settings(&[first.address, second.address])
    });
    for number in 0..10 {
        address(&upstreams, &format!("n{number}.example")).await;
    }
    until("both are asked", async || {
        first.count() == 10 && second.count() == 10
    })
    .await;
}

#[tokio::test]
async fn a_dead_server_costs_the_others_questions_nothing() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let second = answering(2).await;
    for strategy in [Strategy::Fastest, Strategy::Parallel] {
        let upstreams = Upstreams::new(UpstreamSettings {
            strategy,
            timeout: Duration::from_secs(600),
            ..settings(&[silent.local_addr().unwrap(), second.address])
        });
        let before = second.count();
        for number in 0..100 {
            // Whoever waited for the silent one would wait for ten minutes.
            assert_eq!(address(&upstreams, &format!("n{number}.example")).await, 2);
        }
        // A few more if the machine is slow: the test for loops, and what seemed lost.
        assert!(second.count() - before < 120);
    }
}

#[tokio::test]
async fn a_domain_goes_to_its_own_servers_by_the_longest_match() {
    let (all, lan, printers) = (answering(1).await, answering(2).await, answering(3).await);
    let rule = |domains: &[&str], upstream: &Upstream| ForwardRule {
        domains: domains.iter().map(|domain| name(domain)).collect(),
        servers: vec![Endpoint::plain(upstream.address)],
    };
    let upstreams = Upstreams::new(UpstreamSettings {
        rules: vec![
            rule(&["lan", "168.192.in-addr.arpa"], &lan),
            rule(&["Printers.LAN"], &printers),
        ],
        ..settings(&[all.address])
    });
    let expected = [
        ("example.com", 1),
        ("lan", 2),
        ("nas.lan", 2),
        ("NAS.Lan", 2),
        ("a.b.c.lan", 2),
        ("printers.lan", 3),
        ("laser.printers.lan", 3),
        ("myprinters.lan", 2),
        ("notlan", 1),
        ("lan.example", 1),
        ("5.1.168.192.in-addr.arpa", 2),
        ("1.in-addr.arpa", 1),
    ];
    for (owner, last) in expected {
        let question = Question {
            name: name(owner).to_lowercase(),
            ..question(owner)
        };
        let response = upstreams.forward(&question).await.unwrap();
        assert_eq!(last_byte(&response), last, "{owner}");
        assert_eq!(upstreams.has_rule_for(&name(owner)), last != 1, "{owner}");
    }
}

#[tokio::test]
async fn a_refusal_by_icmp_is_felt_at_once() {
    let upstreams = Upstreams::new(UpstreamSettings {
        timeout: Duration::from_secs(3600),
        ..settings(&["127.0.0.77:1".parse().unwrap()])
    });
    let asked = question("a.example");
    let asked = tokio::time::timeout(PATIENCE, upstreams.forward(&asked)).await;
    let failure = asked.expect("it waits for an hour").unwrap_err();
    assert_eq!(failure.ede().code, 23, "{failure}");
}

#[tokio::test]
async fn a_domain_with_dead_servers_does_not_fall_back_to_the_others() {
    let all = answering(1).await;
    let upstreams = Upstreams::new(UpstreamSettings {
        rules: vec![ForwardRule {
            domains: vec![name("lan")],
            servers: vec![Endpoint::plain("127.0.0.77:1".parse().unwrap())],
        }],
        ..settings(&[all.address])
    });
    upstreams.forward(&question("nas.lan")).await.unwrap_err();
    assert_eq!(all.count(), 0, "a private name was sent away");
}

// Loops.

/// A forwarder without a cache: passes each datagram on to `target`, and each reply back.
struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    passed: Arc<AtomicUsize>,
}

impl Relay {
    async fn start() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let relay = Self {
            address: socket.local_addr().unwrap(),
            target: Arc::default(),
            passed: Arc::default(),
        };
        let (target, passed) = (Arc::clone(&relay.target), Arc::clone(&relay.passed));
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                passed.fetch_add(1, Ordering::SeqCst);
                let query = buffer[..length].to_vec();
                let target = *target.lock().unwrap();
                let Some(target) = target else { continue };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    let reply = exchange_udp(target, &query).await;
                    socket.send_to(&reply, from).await.unwrap();
                });
            }
        });
        relay
    }
}

fn forwarding_to(server: SocketAddr) -> pkbridge::config::Config {
    let mut config = config();
    config.upstream.servers = vec![Endpoint::plain(server)];
    config
}

/// What everybody must see who is behind a loop.
async fn assert_loop(server: SocketAddr, owner: &str) {
    let reply = ask(server, owner, RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    let (code, text) = ede(&reply).unwrap();
    assert_eq!(code, 22);
    assert!(text.contains("loop"), "{text}");
}

#[tokio::test]
async fn a_loop_through_another_forwarder_is_found_and_no_storm() {
    let relay = Relay::start().await;
    let server = Running::start(forwarding_to(relay.address));
    *relay.target.lock().unwrap() = Some(server.address);
    assert_loop(server.address, "first.example").await;
    let passed = relay.passed.load(Ordering::SeqCst);
    assert!(passed <= 6, "{passed} datagrams for one question");
    for number in 0..50 {
        assert_loop(server.address, &format!("n{number}.example")).await;
    }
    assert_eq!(
        relay.passed.load(Ordering::SeqCst),
        passed,
        "it is asked again"
    );
}

#[tokio::test]
async fn a_loop_is_logged_once_with_what_to_change() {
    let log = Log::capture();
    let relay = Relay::start().await;
    let server = Running::start(forwarding_to(relay.address));
    *relay.target.lock().unwrap() = Some(server.address);
    for number in 0..50 {
        assert_loop(server.address, &format!("n{number}.example")).await;
    }
    let errors = log.lines(&["ERROR"]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("[upstream] servers"), "{errors:?}");
    assert!(errors[0].contains(&relay.address.to_string()), "{errors:?}");
}

#[tokio::test]
async fn a_loop_of_a_domains_own_servers_is_found() {
    let relay = Relay::start().await;
    let good = answering(1).await;
    let mut config = forwarding_to(good.address);
    config.forward = vec![pkbridge::config::ForwardRule {
        domains: vec!["lan".to_owned()],
        servers: vec![Endpoint::plain(relay.address)],
    }];
    let server = Running::start(config);
    *relay.target.lock().unwrap() = Some(server.address);
    assert_loop(server.address, "nas.lan").await;
    let passed = relay.passed.load(Ordering::SeqCst);
    assert_loop(server.address, "printer.lan").await;
    assert_eq!(relay.passed.load(Ordering::SeqCst), passed);
    let reply = ask(server.address, "a.example", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::NoError);
}

#[tokio::test]
async fn two_that_forward_to_each_other_find_out() {
    let relay = Relay::start().await;
    let second = Running::start(forwarding_to(relay.address));
    let first = Running::start(forwarding_to(second.address));
    *relay.target.lock().unwrap() = Some(first.address);
    let reply = ask(first.address, "first.example", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    until("one of the two knows", async || {
        let reply = ask(
            first.address,
            &format!("n{}.example", rand::random::<u32>()),
            RecordType::A,
        )
        .await;
        ede(&reply).is_some_and(|(_, text)| text.contains("loop"))
    })
    .await;
    let passed = relay.passed.load(Ordering::SeqCst);
    assert!(passed < 100, "{passed} datagrams");
}

#[tokio::test]
async fn a_loop_in_one_of_two_upstreams_costs_no_answer() {
    let relay = Relay::start().await;
    let good = answering(1).await;
    let mut config = forwarding_to(relay.address);
    config.upstream.servers.push(Endpoint::plain(good.address));
    let server = Running::start(config);
    *relay.target.lock().unwrap() = Some(server.address);
    for number in 0..20 {
        let reply = ask(server.address, &format!("n{number}.example"), RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NoError);
    }
}

#[tokio::test]
async fn a_loop_that_ends_is_forgotten_at_a_reload() {
    let relay = Relay::start().await;
    let good = answering(1).await;
    let config = forwarding_to(relay.address);
    let server = Running::start(config.clone());
    *relay.target.lock().unwrap() = Some(server.address);
    assert_loop(server.address, "first.example").await;
    *relay.target.lock().unwrap() = Some(good.address);
    server.reload.send(config).await.unwrap();
    until("it is asked again", async || {
        let reply = ask(server.address, "second.example", RecordType::A).await;
        rcode(&reply) == ResponseCode::NoError
    })
    .await;
}

// Attacks, and servers with faults.

/// A reply that is a header alone, as servers of old send it.
fn bare(query: &[u8], rcode: u16) -> Vec<u8> {
    let mut reply = query[..2].to_vec();
    reply.extend((REPLY | rcode).to_be_bytes());
    reply.extend([0; 8]);
    reply
}

#[tokio::test]
async fn a_bare_header_ends_no_query_and_teaches_nothing() {
    for rcode in [1, 2, 3, 4, 5] {
        // First a forged header with the right ID, then the right answer.
        let upstream = Upstream::start(move |query, via| match via {
            Via::Udp => vec![bare(query, rcode), reply(query, 1)],
            Via::Tcp => vec![reply(query, 1)],
        })
        .await;
        let upstreams = upstreams(&[upstream.address]);
        for number in 0..2 {
            assert_eq!(
                address(&upstreams, &format!("n{number}.example")).await,
                1,
                "{rcode}"
            );
        }
        let last = upstream.asked.lock().unwrap().back().unwrap().clone();
        let opts = Layout::read(&last.bytes).unwrap().records.len();
        assert_eq!(opts, 1, "{rcode}: EDNS was given up");
    }
}

#[tokio::test]
async fn a_server_of_old_that_answers_edns_with_a_bare_header_is_asked_without() {
    let upstream = Upstream::start(|query, _| {
        let has_opt = !Layout::read(query).unwrap().records.is_empty();
        vec![if has_opt {
            bare(query, 1)
        } else {
            plain_reply(query, 1)
        }]
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    for number in 0..2 {
        assert_eq!(address(&upstreams, &format!("n{number}.example")).await, 1);
    }
    assert_eq!(ways(&upstream), [Via::Udp, Via::Tcp, Via::Udp, Via::Udp]);
}

/// [`reply`] without OPT.
fn plain_reply(query: &[u8], last: u8) -> Vec<u8> {
    let mut message = reply(query, last);
    message.truncate(message.len() - 11);
    message[11] = 0;
    message
}

#[tokio::test]
async fn one_forged_datagram_does_not_end_mixed_case_where_there_is_no_tcp() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let cases = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&cases);
    tokio::spawn(async move {
        let mut buffer = [0; 1232];
        let mut forged = false;
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = &buffer[..length];
            let is_mixed = query[12..].iter().any(u8::is_ascii_uppercase);
            seen.lock().unwrap().push(is_mixed);
            if !std::mem::replace(&mut forged, true) {
                let forged = in_lower_case(reply(query, FORGED));
                socket.send_to(&forged, from).await.unwrap();
            }
            socket.send_to(&reply(query, 1), from).await.unwrap();
        }
    });
    let upstreams = upstreams(&[server]);
    for _ in 0..3 {
        assert_eq!(address(&upstreams, LONG).await, 1);
    }
    assert!(cases.lock().unwrap().iter().all(|is_mixed| *is_mixed));
}

#[tokio::test]
async fn a_second_answer_is_nobodys() {
    let upstream = Upstream::start(|query, _| vec![reply(query, 1), reply(query, FORGED)]).await;
    let upstreams = upstreams(&[upstream.address]);
    for number in 0..20 {
        assert_eq!(address(&upstreams, &format!("n{number}.example")).await, 1);
    }
    assert_eq!(ways(&upstream), [Via::Udp; 20]);
}

#[tokio::test]
async fn the_type_of_a_question_is_not_a_letter() {
    // HTTPS is 65, and 97 is its lower case.
    let upstream = Upstream::start(|query, _| {
        let mut forged = reply(query, FORGED);
        let end = wire::plain_question(&forged).unwrap().end;
        forged[end - 3] = 97;
        vec![forged, reply(query, 1)]
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    let question = Question {
        rtype: RecordType::HTTPS,
        ..question("a.example")
    };
    let response = upstreams.forward(&question).await.unwrap();
    assert_eq!(last_byte(&response), 1);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_one_answer_does_not_put_the_server_down() {
    // Cut short over UDP, garbage over TCP.
    let upstream = Upstream::start(|query, via| {
        let mut reply = reply(query, 1);
        match via {
            Via::Udp => reply[2] |= 2,
            Via::Tcp => reply[7] = 9,
        }
        vec![reply]
    })
    .await;
    let upstreams = upstreams(&[upstream.address]);
    upstreams.forward(&question("a.example")).await.unwrap_err();
    assert!(!upstreams.is_down_for(&name("a.example")));
}

#[tokio::test]
async fn silence_of_all_is_always_noticed() {
    for _ in 0..8 {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstreams = Upstreams::new(UpstreamSettings {
            timeout: Duration::from_millis(100),
            ..settings(&[silent.local_addr().unwrap()])
        });
        let failure = upstreams.forward(&question("a.example")).await.unwrap_err();
        assert_eq!(failure.ede().code, 22, "{failure}");
        // At once, or when a test question has not been answered either.
        until("it is noticed", async || {
            upstreams.is_down_for(&name("a.example"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusal_is_not_held_back_for_a_dead_server() {
    let refusing = Upstream::start(|query, _| vec![reply_with(query, 1, 2, &[])]).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = [refusing.address, silent.local_addr().unwrap()];
    let upstreams = Upstreams::new(UpstreamSettings {
        strategy: Strategy::InOrder,
        timeout: Duration::from_secs(2),
        ..settings(&servers)
    });
    // It is not known yet that the second one is dead.
    let dead = Upstreams::new(UpstreamSettings {
        timeout: Duration::from_millis(100),
        ..settings(&servers[1..])
    });
    dead.forward(&question("a.example")).await.unwrap_err();
    let started = tokio::time::Instant::now();
    let first = upstreams.forward(&question("a.example")).await.unwrap();
    let knows_now = started.elapsed();
    assert_eq!(first.rcode, 2);
    let started = tokio::time::Instant::now();
    let second = upstreams.forward(&question("b.example")).await.unwrap();
    assert_eq!(second.rcode, 2);
    assert!(
        started.elapsed() < knows_now / 2,
        "as long as the first time"
    );
}

#[tokio::test]
async fn questions_to_a_dead_domain_do_not_hold_up_the_others() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let good = answering(1).await;
    let upstreams = Arc::new(Upstreams::new(UpstreamSettings {
        rules: vec![ForwardRule {
            domains: vec![name("lan")],
            servers: vec![Endpoint::plain(silent.local_addr().unwrap())],
        }],
        ..settings(&[good.address])
    }));
    for number in 0..600 {
        let upstreams = Arc::clone(&upstreams);
        tokio::spawn(async move {
            let _ = upstreams
                .forward(&question(&format!("n{number}.lan")))
                .await;
        });
    }
    for number in 0..20 {
        // The others wait for 20 s.
        let owner = format!("n{number}.example");
        let answer = address(&upstreams, &owner);
        let answer = tokio::time::timeout(PATIENCE / 4, answer).await;
        assert_eq!(answer.expect("held up"), 1);
    }
}

#[tokio::test]
async fn a_bad_cookie_or_version_of_one_server_is_not_the_answer_if_there_is_another() {
    for rcode in [16, 23] {
        let bad = Upstream::start(move |query, _| vec![reply_with(query, 1, rcode, &[])]).await;
        let good = answering(2).await;
        let upstreams = Upstreams::new(UpstreamSettings {
            strategy: Strategy::InOrder,
            ..settings(&[bad.address, good.address])
        });
        let response = upstreams.forward(&question("a.example")).await.unwrap();
        assert_eq!((response.rcode, last_byte(&response)), (0, 2));
    }
}

#[tokio::test]
async fn a_short_timeout_hides_no_loop() {
    let relay = Relay::start().await;
    let mut config = forwarding_to(relay.address);
    config.upstream.timeout = Duration::from_millis(300);
    let server = Running::start(config);
    *relay.target.lock().unwrap() = Some(server.address);
    until("the loop is found", async || {
        let owner = format!("n{}.example", rand::random::<u32>());
        let reply = ask(server.address, &owner, RecordType::A).await;
        ede(&reply).is_some_and(|(_, text)| text.contains("loop"))
    })
    .await;
}

#[tokio::test]
async fn one_that_forwards_to_itself_finds_out() {
    let first = Running::start(config());
    first
        .reload
        .send(forwarding_to(first.address))
        .await
        .unwrap();
    until("the loop is found", async || {
        let owner = format!("n{}.example", rand::random::<u32>());
        let reply = ask(first.address, &owner, RecordType::A).await;
        ede(&reply).is_some_and(|(_, text)| text.contains("loop"))
    })
    .await;
}
