//! Upstreams that fall silent, become slow, fail or refuse: who answers instead, and what an operator is
//! told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::forward::*;
use common::*;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use pkbridge::config::Config;
use pkbridge::endpoint::Endpoint;
use pkbridge::resolve::{Forward, Strategy, UpstreamSettings, Upstreams};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

/// The default of `[upstream] timeout`.
fn usual_timeout() -> Duration {
    Config::default().upstream.timeout
}

fn with(strategy: Strategy, servers: &[SocketAddr]) -> Upstreams {
    Upstreams::new(UpstreamSettings {
        strategy,
        timeout: usual_timeout(),
        ..settings(servers)
    })
}

type Answer = fn(&[u8]) -> Vec<u8>;

fn named(number: usize) -> String {
    format!("n{number}.example")
}

/// Questions for addresses: not the tests for loops.
fn questions(upstream: &Upstream) -> usize {
    let names = upstream.names();
    names
        .iter()
        .filter(|name| !name.contains("loop-test"))
        .count()
}

/// Answers every question but those for names that begin with `slow`.
async fn with_slow_names(last: u8) -> Upstream {
    Upstream::start(move |query, _| {
        let is_slow = query[13..17].eq_ignore_ascii_case(b"slow");
        if is_slow {
            vec![]
        } else {
            vec![reply(query, last)]
        }
    })
    .await
}

#[tokio::test]
async fn a_favourite_that_falls_silent_is_not_waited_for() {
    for strategy in [Strategy::Fastest, Strategy::InOrder] {
        let (first, second) = (answering(1).await, answering(2).await);
        let upstreams = with(strategy, &[first.address, second.address]);
        let mut last = 0;
        for number in 0..20 {
            last = address(&upstreams, &named(number)).await;
        }
        let (favourite, other) = if last == 1 { (&first, 2) } else { (&second, 1) };
        favourite.answers(Pace::Never);
        let started = Instant::now();
        assert_eq!(address(&upstreams, "next.example").await, other);
        let took = started.elapsed();
        assert!(took < Duration::from_millis(1500), "{strategy:?}: {took:?}");
    }
}

#[tokio::test]
async fn the_fastest_gets_the_questions_and_another_one_when_it_becomes_slow() {
    let slow = Pace::After(Duration::from_millis(100));
    let (first, second) = (answering(1).await, answering(2).await);
    second.answers(slow);
    let upstreams = with(Strategy::Fastest, &[first.address, second.address]);
    let counts = || [questions(&first), questions(&second)];
    let ask_all = async |range: std::ops::Range<usize>| {
        for number in range {
            address(&upstreams, &named(number)).await;
        }
    };
    ask_all(0..100).await;
    let before = counts();
    assert!(before[0] >= 90 && before[1] <= 30, "{before:?}");
    first.answers(slow);
    second.answers(Pace::AtOnce);
    // How they do now is learnt from questions.
    ask_all(100..140).await;
    let learnt = counts();
    ask_all(140..240).await;
    let now = counts();
    let [first, second] = [now[0] - learnt[0], now[1] - learnt[1]];
    assert!(second >= 90 && first <= 30, "{first} {second}");
}

#[tokio::test]
async fn in_order_the_second_answers_whatever_is_wrong_with_the_first() {
    let broken: [(&str, Answer); 4] = [
        ("SERVFAIL", |query| reply_with(query, 1, 2, &[])),
        ("REFUSED", |query| reply_with(query, 1, 5, &[])),
        ("FORMERR", |query| reply_with(query, 1, 1, &[])),
        ("garbage", |query| {
            let mut reply = reply(query, 1);
            reply[7] = 9;
            reply
        }),
    ];
    for (what, answer) in broken {
        let first = Upstream::start(move |query, _| vec![answer(query)]).await;
        let second = answering(2).await;
        let upstreams = with(Strategy::InOrder, &[first.address, second.address]);
        for number in 0..5 {
            assert_eq!(address(&upstreams, &named(number)).await, 2, "{what}");
        }
        assert!(first.count() >= 5, "{what}: the first is asked first");
        assert_eq!(questions(&second), 5, "{what}");
    }
}

#[tokio::test]
async fn silence_of_all_is_told_within_the_usual_timeout() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = config();
    let addresses = [&silent, &other].map(|socket| socket.local_addr().unwrap());
    config.upstream.servers = addresses.map(Endpoint::plain).to_vec();
    let server = Running::start(config);
    let started = Instant::now();
    let reply = ask(server.address, "a.example", RecordType::A).await;
    let took = started.elapsed();
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    let (code, text) = ede(&reply).unwrap();
    assert!([22, 23].contains(&code), "{code} {text}");
    assert!(took < usual_timeout() * 2, "{took:?}");
}

#[tokio::test]
async fn a_server_that_dies_and_returns_is_logged_twice_in_all() {
    let log = Log::capture();
    let upstream = answering(1).await;
    let upstreams = Upstreams::new(UpstreamSettings {
        timeout: Duration::from_millis(300),
        ..settings(&[upstream.address])
    });
    let mut number = 0;
    let mut ask_next = async || {
        number += 1;
        let asked = question(&named(number));
        upstreams.forward(&asked).await.is_ok()
    };
    assert!(ask_next().await);
    upstream.answers(Pace::Never);
    while log.lines(&["WARN"]).is_empty() {
        assert!(!ask_next().await);
    }
    assert!(upstreams.is_down_for(&name("a.example")));
    for _ in 0..5 {
        assert!(!ask_next().await);
    }
    upstream.answers(Pace::AtOnce);
    while log.lines(&["INFO"]).is_empty() {
        ask_next().await;
    }
    for _ in 0..100 {
        ask_next().await;
    }
    assert!(!upstreams.is_down_for(&name("a.example")));
    let address = upstream.address.to_string();
    assert_eq!(log.lines(&["WARN", &address, "does not answer"]).len(), 1);
    assert_eq!(log.lines(&["INFO", &address, "answers again"]).len(), 1);
    assert_eq!(log.lines(&[]).len(), 2, "{:?}", log.lines(&[]));
}

#[tokio::test]
async fn slow_names_do_not_put_a_good_server_down() {
    let log = Log::capture();
    let upstream = with_slow_names(1).await;
    let upstreams = Upstreams::new(UpstreamSettings {
        timeout: Duration::from_millis(600),
        ..settings(&[upstream.address])
    });
    assert_eq!(address(&upstreams, "first.example").await, 1);
    for number in 0..6 {
        // Nothing else is asked meanwhile.
        let asked = question(&format!("slow{number}.example"));
        upstreams.forward(&asked).await.unwrap_err();
        assert!(!upstreams.is_down_for(&name("a.example")), "{number}");
    }
    assert_eq!(log.lines(&[]), [""; 0]);
}

#[tokio::test]
async fn a_server_that_refuses_everything_is_logged_once_and_when_that_ends() {
    for (rcode, text) in [(5, "Query Refused"), (2, "Server Failure")] {
        let log = Log::capture();
        let upstream = Upstream::start(move |query, _| {
            let is_good = query[13..17].eq_ignore_ascii_case(b"good");
            let rcode = if is_good { 0 } else { rcode };
            vec![reply_with(query, 1, rcode, &[])]
        })
        .await;
        let upstreams = upstreams(&[upstream.address]);
        let ask_all = async |prefix: &str, count| {
            for number in 0..count {
                let asked = question(&format!("{prefix}{number}.example"));
                upstreams.forward(&asked).await.unwrap();
            }
        };
        ask_all("bad", 10).await;
        ask_all("good", 1).await;
        ask_all("bad", 10).await;
        assert_eq!(log.lines(&[]), [""; 0], "some names fail");
        ask_all("bad", 50).await;
        let address = upstream.address.to_string();
        assert_eq!(log.lines(&["WARN", &address, text]).len(), 1);
        ask_all("good", 50).await;
        assert_eq!(log.lines(&["INFO", &address]).len(), 1);
        assert_eq!(log.lines(&[]).len(), 2, "{:?}", log.lines(&[]));
    }
}

#[tokio::test]
async fn names_that_nobody_answers_do_not_hold_up_the_others() {
    let upstream = with_slow_names(1).await;
    let upstreams = Arc::new(upstreams(&[upstream.address]));
    for number in 0..600 {
        let upstreams = Arc::clone(&upstreams);
        tokio::spawn(async move {
            // For 20 s.
            let asked = question(&format!("slow{number}.example"));
            let _ = upstreams.forward(&asked).await;
        });
    }
    until("all are asked", async || questions(&upstream) >= 600).await;
    for number in 0..20 {
        let owner = named(number);
        let answer = timeout(PATIENCE / 4, address(&upstreams, &owner)).await;
        assert_eq!(answer.expect("held up"), 1);
    }
}
