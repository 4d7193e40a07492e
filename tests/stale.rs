//! An upstream's answers in the cache, over real sockets and on a clock that runs: kept, given past
//! their time, and for other names. `tests/scenarios/reuse.txt` has the rules to the second.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use futures_util::future::{BoxFuture, join_all};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use pkbridge::config::Config;
use pkbridge::endpoint::Endpoint;
use pkbridge::resolve::{
    AnswerCache, Asker, Ending, Failure, FetchPacket, Forward, HoldTimes, Names, Packets, Question,
    Resolver, Response, Reuse, See, Ttls, Wanted,
};
use tokio::time::timeout;

/// The lowest TTL that is kept: what is past its time comes soon.
const TTL: u32 = 1;
/// TTL of an answer past its time (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

/// What an upstream says to every question.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// `192.0.2.<last>` with this TTL.
    Address {
        last: u8,
        ttl: u32,
    },
    /// No records, and an SOA with this TTL and minimum.
    Negative(ResponseCode, u32),
    /// This RCODE and nothing else.
    Only(ResponseCode),
    Nothing,
}

impl Says {
    fn reply(self, query: &[u8]) -> Vec<Vec<u8>> {
        let mut reply = reply_to(query);
        let asked = reply.queries[0].name().clone();
        match self {
            Self::Nothing => return Vec::new(),
            Self::Only(rcode) => reply.metadata.response_code = rcode,
            Self::Address { last, ttl } => {
                let address = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
                reply.add_answer(Record::from_rdata(asked, ttl, address));
            }
            Self::Negative(rcode, ttl) => {
                let soa = SOA::new(name("ns.example"), name("root.example"), 1, 2, 3, 4, ttl);
                let soa = Record::from_rdata(name("example"), ttl, RData::SOA(soa));
                reply.metadata.response_code = rcode;
                reply.add_authority(soa);
            }
        }
        vec![reply.to_vec().unwrap()]
    }
}

/// A server before an upstream that says one thing, and later another.
struct Forwarding {
    server: Running,
    upstream: Upstream,
    says: Arc<Mutex<Says>>,
}

impl Forwarding {
    async fn start(says: Says, change: impl FnOnce(&mut Config)) -> Self {
        let says = Arc::new(Mutex::new(says));
        let script = Arc::clone(&says);
        let upstream = Upstream::start(move |query, _| script.lock().unwrap().reply(query)).await;
        let mut config = config();
        config.upstream.servers = vec![Endpoint::plain(upstream.address)];
        // No failure is forgotten while a test runs.
        config.cache.failure_ttl = Duration::from_secs(300);
        change(&mut config);
        Self {
            server: Running::start(config),
            upstream,
            says,
        }
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    async fn ask(&self, owner: &str) -> Message {
        ask(self.server.address, owner, RecordType::A).await
    }

    /// Asks until the reply is as wished.
    async fn ask_until(&self, wished: impl Fn(&Message) -> bool) -> Message {
        ask_until(self.server.address, wished).await
    }
}

async fn ask_until(server: SocketAddr, wished: impl Fn(&Message) -> bool) -> Message {
    let asking = async {
        loop {
            let reply = ask(server, "www.example", RecordType::A).await;
            if wished(&reply) {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("it never came")
}

fn code(reply: &Message) -> Option<u16> {
    ede(reply).map(|(code, _)| code)
}

fn address(last: u8) -> RData {
    RData::A(Ipv4Addr::new(192, 0, 2, last).into())
}

/// An answer that has just been looked up has all of its TTL, or has lost a second since.
fn is_about(ttl: u32, expected: u32) -> bool {
    ttl == expected || ttl + 1 == expected
}

#[tokio::test]
async fn when_the_upstream_fails_an_answer_past_its_time_is_given() {
    for failing in [
        Says::Only(ResponseCode::ServFail),
        Says::Only(ResponseCode::Refused),
        Says::Nothing,
    ] {
        let first = Says::Address { last: 1, ttl: TTL };
        let forwarding = Forwarding::start(first, |config| {
            config.upstream.timeout = Duration::from_millis(300);
        })
        .await;
        let reply = forwarding.ask("www.example").await;
        assert_eq!((reply.answers[0].ttl, code(&reply)), (TTL, None));
        forwarding.says(failing);
        let reply = forwarding.ask_until(|reply| code(reply).is_some()).await;
        assert_eq!(rcode(&reply), ResponseCode::NoError, "{failing:?}");
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
        assert_eq!((reply.answers[0].ttl, code(&reply)), (STALE_TTL, Some(3)));
        // The failure is remembered.
        let asked = forwarding.upstream.count();
        let reply = forwarding.ask("www.example").await;
        assert!(is_about(reply.answers[0].ttl, STALE_TTL));
        assert_eq!(
            (code(&reply), forwarding.upstream.count()),
            (Some(3), asked)
        );
    }
}

#[tokio::test]
async fn when_the_upstream_is_gone_and_comes_back_no_client_gets_an_error() {
    let first = Says::Address { last: 1, ttl: TTL };
    let forwarding = Forwarding::start(first, |config| {
        config.cache.failure_ttl = Duration::from_secs(1);
    })
    .await;
    forwarding.ask("www.example").await;
    forwarding.says(Says::Nothing);
    let is_answer = |reply: &Message| {
        assert_eq!(rcode(reply), ResponseCode::NoError);
        data(reply, RecordType::A)
    };
    let server = forwarding.server.address;
    ask_until(server, |reply| {
        assert_eq!(is_answer(reply), [address(1)]);
        code(reply) == Some(3)
    })
    .await;
    forwarding.says(Says::Address { last: 2, ttl: 300 });
    let reply = ask_until(server, |reply| is_answer(reply) == [address(2)]).await;
    assert_eq!(code(&reply), None);
}

#[tokio::test]
async fn a_silent_upstream_costs_less_than_a_client_waits_and_that_but_once() {
    const CLIENTS: usize = 40;
    let first = Says::Address { last: 1, ttl: TTL };
    let forwarding = Forwarding::start(first, |config| {
        config.upstream.timeout = Duration::from_secs(30);
    })
    .await;
    forwarding.ask("www.example").await;
    forwarding.says(Says::Nothing);
    // Nobody gets the SERVFAIL that would come when clients have waited long enough.
    let is_stale = |reply: &Message| {
        assert_eq!(rcode(reply), ResponseCode::NoError);
        code(reply) == Some(3)
    };
    join_all((0..CLIENTS).map(|_| forwarding.ask_until(is_stale))).await;
    let asked = forwarding.upstream.count();
    let reply = forwarding.ask("www.example").await;
    assert_eq!(code(&reply), Some(3));
    // One lookup is under way for all; it asks its server a few times.
    assert!(asked < CLIENTS, "{asked}");
}

#[tokio::test]
async fn a_stale_nxdomain_is_told_from_a_stale_answer() {
    let first = Says::Negative(ResponseCode::NXDomain, TTL);
    let forwarding = Forwarding::start(first, |_| ()).await;
    forwarding.ask("www.example").await;
    forwarding.says(Says::Only(ResponseCode::ServFail));
    let reply = forwarding.ask_until(|reply| code(reply).is_some()).await;
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    assert_eq!(
        (reply.authorities[0].ttl, code(&reply)),
        (STALE_TTL, Some(19))
    );
}

#[tokio::test]
async fn with_max_stale_0_a_failure_is_a_failure() {
    let first = Says::Address { last: 1, ttl: TTL };
    let forwarding = Forwarding::start(first, |config| {
        config.cache.max_stale = Duration::ZERO;
    })
    .await;
    forwarding.ask("www.example").await;
    forwarding.says(Says::Only(ResponseCode::ServFail));
    let is_failure = |reply: &Message| rcode(reply) == ResponseCode::ServFail;
    let reply = forwarding.ask_until(is_failure).await;
    assert!(reply.answers.is_empty());
}

#[tokio::test]
async fn what_is_below_a_name_that_does_not_exist_is_not_asked_of_the_upstream() {
    let first = Says::Negative(ResponseCode::NXDomain, 300);
    let forwarding = Forwarding::start(first, |_| ()).await;
    forwarding.ask("nope.example").await;
    let reply = forwarding.ask("www.sub.Nope.example").await;
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    assert_eq!(
        (reply.authorities[0].name.to_ascii().as_str(), code(&reply)),
        ("example.", Some(29))
    );
    assert!(is_about(reply.authorities[0].ttl, 300));
    assert_eq!(forwarding.upstream.count(), 1);
    forwarding.ask("www.other.example").await;
    assert_eq!(forwarding.upstream.count(), 2);
}

// What is kept, and for how long.

#[tokio::test]
async fn an_answer_with_ttl_0_is_not_kept() {
    let forwarding = Forwarding::start(Says::Address { last: 1, ttl: 0 }, |_| ()).await;
    for count in 1..4 {
        let reply = forwarding.ask("www.example").await;
        assert_eq!(
            (reply.answers[0].ttl, forwarding.upstream.count()),
            (0, count)
        );
    }
}

#[tokio::test]
async fn ttls_lie_within_the_configured_bounds() {
    for (ttl, given) in [(0, 60), (100, 100), (86_400, 600)] {
        let forwarding = Forwarding::start(Says::Address { last: 1, ttl }, |config| {
            config.cache.min_ttl = Duration::from_secs(60);
            config.cache.max_ttl = Duration::from_secs(600);
        })
        .await;
        for _ in 0..2 {
            let reply = forwarding.ask("www.example").await;
            assert!(is_about(reply.answers[0].ttl, given), "{ttl}");
        }
        assert_eq!(forwarding.upstream.count(), 1);
    }
}

#[tokio::test]
async fn rfc2308_5_negative_answers_are_kept_for_the_time_of_their_soa() {
    for negative in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let forwarding = Forwarding::start(Says::Negative(negative, TTL), |_| ()).await;
        let reply = forwarding.ask("www.example").await;
        assert_eq!((rcode(&reply), reply.authorities[0].ttl), (negative, TTL));
        forwarding.says(Says::Negative(negative, 300));
        let is_new = |reply: &Message| is_about(reply.authorities[0].ttl, 300);
        forwarding.ask_until(is_new).await;
        let asked = forwarding.upstream.count();
        forwarding.ask("www.example").await;
        assert_eq!((asked, forwarding.upstream.count()), (2, 2));
        // Without one they are not.
        let forwarding = Forwarding::start(Says::Only(negative), |_| ()).await;
        for count in 1..4 {
            forwarding.ask("www.example").await;
            assert_eq!(forwarding.upstream.count(), count);
        }
    }
}

#[tokio::test]
async fn rfc9520_3_2_failures_and_silence_are_remembered() {
    for failing in [
        Says::Only(ResponseCode::ServFail),
        Says::Only(ResponseCode::Refused),
        Says::Nothing,
    ] {
        let forwarding = Forwarding::start(failing, |config| {
            config.upstream.timeout = Duration::from_millis(300);
        })
        .await;
        let first = forwarding.ask("www.example").await;
        let asked = forwarding.upstream.count();
        forwarding.says(Says::Address { last: 1, ttl: 300 });
        let second = forwarding.ask("www.example").await;
        assert_eq!(rcode(&first), rcode(&second), "{failing:?}");
        assert_ne!(rcode(&second), ResponseCode::NoError);
        assert_eq!(forwarding.upstream.count(), asked);
        // Another question is another matter.
        let other = forwarding.ask("other.example").await;
        assert_eq!(rcode(&other), ResponseCode::NoError);
    }
}

// What the operator has said of a name, which no socket shows.

/// Says to every question that the name does not exist, and has servers of its own for one of them.
#[derive(Debug)]
struct WithRule {
    asked: Mutex<Vec<String>>,
}

impl Forward for WithRule {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(question.name.to_ascii());
            let query = query(&question.name.to_ascii(), question.rtype);
            let says = Says::Negative(ResponseCode::NXDomain, 300);
            let reply = says.reply(&query.to_vec().unwrap()).remove(0);
            Ok(Response::from_message(reply).unwrap())
        })
    }

    fn has_rule_for(&self, name: &Name) -> bool {
        name.to_ascii() == "nas.lan."
    }
}

#[derive(Debug)]
struct NoPackets;

impl FetchPacket for NoPackets {
    fn fetch<'a>(&'a self, _: Wanted, _: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        Box::pin(async { Ending::Failed(Failure::DhtNotReady) })
    }
}

#[tokio::test]
async fn a_name_with_servers_of_its_own_is_asked_of_them_whatever_is_said_of_those_above() {
    let forward = Arc::new(WithRule {
        asked: Mutex::default(),
    });
    let times = HoldTimes {
        min: Duration::ZERO,
        max: Duration::ZERO,
        empty: Duration::ZERO,
        failure: Duration::ZERO,
        max_stale: Duration::ZERO,
        stale_wait: Duration::ZERO,
    };
    let ttls = Ttls {
        min: 0,
        max: 86_400,
        negative: 300,
        failure: 5,
    };
    let cache = AnswerCache::new(1 << 20).with_reuse(Reuse {
        nxdomain_cut: true,
        ..Reuse::default()
    });
    let packets = Packets::new(Arc::new(NoPackets), None, 1 << 16, times);
    let resolver = Resolver::new(Names::default(), packets, forward.clone(), ttls, cache);
    for asked in ["lan", "printer.lan", "nas.lan"] {
        let question = Question {
            name: name(asked),
            rtype: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let answer = resolver.resolve(question, Asker::Refresh).await;
        assert_eq!(answer.rcode(), u16::from(ResponseCode::NXDomain));
    }
    assert_eq!(*forward.asked.lock().unwrap(), ["lan.", "nas.lan."]);
}
