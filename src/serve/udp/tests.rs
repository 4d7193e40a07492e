use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::super::{AuthenticData, Next, ServeSettings, Service, Transport};
use super::fast::{AtHand, AtOnce, Plain};
use crate::pkarr::{PublicKey, SignedPacket, SigningKey, Suffixes};
use crate::resolve::{
    AnswerCache, Ending, Failure, FetchPacket, Forward, HoldTimes, Holders, Names, Packets,
    Question, Resolver, Response, See, Sighting, Ttls, Wanted,
};

const DAY: Duration = Duration::from_secs(86_400);
/// Kinds of names that the upstream knows.
const KINDS: u32 = 8;

/// The DHT has one packet.
#[derive(Debug)]
struct OnePacket(SignedPacket);

impl FetchPacket for OnePacket {
    fn fetch<'a>(&'a self, _: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        see(Sighting::Packet(self.0.clone()));
        Box::pin(async { Ending::Complete(Holders::default()) })
    }
}

/// Answers by the number in the name, each kind of it in another way.
#[derive(Debug)]
struct Kinds;

impl Forward for Kinds {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let label = question.name.iter().next().unwrap_or_default();
            let number = label.iter().filter(|byte| byte.is_ascii_digit());
            let number = number.fold(0, |sum, digit| (sum * 10 + u32::from(digit - b'0')) % 1000);
            let (rcode, records, ad, ede) = match number % KINDS {
                0 => (3, 0, 0, None),
                1 => (0, 0, 0, None),
                2 => (0, 1, 0x20, None),
                3 => (0, 5, 0, Some(40)),
                // Over 512 bytes, and over 1232.
                4 => (0, 30, 0, None),
                5 => (0, 70, 0, None),
                // With an EDE there is not room for everything.
                6 => (0, 27, 0, Some(900)),
                _ => return Err(Failure::Upstream("it is silent".to_owned())),
            };
            let mut wire = vec![0, 0, 0x81, 0x80 | ad | rcode, 0, 1, 0, records, 0, 0, 0, 0];
            wire.extend(question.wire());
            for last in 0..records {
                wire.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
            }
            let mut response = Response::from_message(wire).unwrap();
            if let Some(length) = ede {
                response.edes = vec![crate::resolve::Ede::new(4, "x".repeat(length))];
            }
            Ok(response)
        })
    }
}

struct World {
    service: Service,
    answers: AnswerCache,
    key: PublicKey,
}

impl World {
    fn new() -> Self {
        let secret = SigningKey::from_bytes(&[7; 32]);
        let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
        let owner = Name::from_ascii(format!("x0.{key}.")).unwrap();
        let text = RData::TXT(TXT::new(vec!["hello".to_owned()]));
        let records = vec![Record::from_rdata(owner, 300, text)];
        let packet = SignedPacket::sign_records(&secret, 1, records).unwrap();
        let times = HoldTimes {
            min: Duration::from_secs(60),
            max: DAY,
            empty: DAY,
            failure: Duration::from_secs(5),
            max_stale: DAY,
            stale_wait: Duration::ZERO,
        };
        let ttls = Ttls {
            min: 0,
            max: 86_400,
            negative: 300,
            failure: 5,
        };
        let answers = AnswerCache::new(1 << 24);
        let packets = Packets::new(Arc::new(OnePacket(packet)), None, 1 << 20, times);
        let forward = Arc::new(Kinds);
        let names = Names {
            suffixes: Suffixes::new(["pkarr"]),
            ..Names::default()
        };
        let resolver = Resolver::new(names, packets, forward, ttls, answers.clone());
        let settings = ServeSettings {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            authentic_data: AuthenticData::Loopback,
            nsid: "name".to_owned(),
        };
        Self {
            service: Service::new(settings, resolver).unwrap(),
            answers,
            key,
        }
    }

    /// What the thread that reads a socket says at once, if it has the answer at hand. If it has not, it must
    /// ask what everybody else would.
    fn fast(&self, message: &[u8], client: SocketAddr, at_hand: &mut AtHand) -> Option<Vec<u8>> {
        let mut reply = vec![0xff; 3];
        let now = Instant::now();
        match self
            .service
            .answer_at_once(message, client, now, at_hand, &mut reply)
        {
            AtOnce::Answered => Some(reply),
            AtOnce::Missed(asked) => {
                let Next::LookUp(expected) = self.service.take(message, client, Transport::Udp)
                else {
                    panic!("not to be looked up: {message:02x?}");
                };
                assert_eq!(asked, expected);
                None
            }
            AtOnce::Another => None,
        }
    }

    /// What everybody else is told.
    fn slow(&self, message: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
        match self.service.take(message, client, Transport::Udp) {
            Next::Send(reply) => Some(reply),
            Next::Nothing | Next::LookUp(_) => None,
        }
    }

    async fn look_up(&self, message: &[u8]) {
        self.service
            .respond(message, client(1), Transport::Udp)
            .await;
    }
}

fn client(last: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 1234))
}

fn query(flags: u16, owner: &str, rtype: u16, class: u16, opt: &[u8]) -> Vec<u8> {
    let mut query = vec![0x12, 0x34];
    query.extend(flags.to_be_bytes());
    query.extend([0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())]);
    for label in owner.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(rtype.to_be_bytes());
    query.extend(class.to_be_bytes());
    query.extend(opt);
    query
}

fn opt(payload: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut opt = vec![0, 0, 41];
    opt.extend(payload.to_be_bytes());
    opt.extend([0, version]);
    opt.extend(flags.to_be_bytes());
    opt.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    opt.extend(options);
    opt
}

/// One of `choices`.
fn one<T: Copy>(random: &mut StdRng, choices: &[T]) -> T {
    choices[random.random_range(0..choices.len())]
}

/// Mostly what stubs send, and some of everything else.
fn any_query(random: &mut StdRng, key: &PublicKey) -> Vec<u8> {
    let number = random.random_range(0..3 * KINDS);
    let owner = match random.random_range(0..5) {
        0 => format!("x0.{key}"),
        1 => format!("x0.{key}.pkarr"),
        _ => format!("x{number}.example"),
    };
    let mix = |letter: char| match letter {
        letter if random.random_bool(0.3) => letter.to_ascii_uppercase(),
        letter => letter,
    };
    let owner: String = owner.chars().map(mix).collect();
    let mut flags = 0;
    for flag in [0x100, 0x20, 0x10] {
        flags |= one(random, &[0, flag]);
    }
    if random.random_bool(0.1) {
        // Z, RA, TC, AA, an RCODE, opcodes, a response.
        flags |= one(
            random,
            &[0x40, 0x80, 0x200, 0x400, 3, 0x800, 0x2000, 0x8000],
        );
    }
    let payload = one(
        random,
        &[0, 511, 512, 513, 600, 1231, 1232, 1233, 4096, 65_535],
    );
    let cookie = b"\x00\x0a\x00\x08abcdefgh";
    let opt = match random.random_range(0..10) {
        0..4 => opt(payload, 0, one(random, &[0, 0x8000]), b""),
        4 => opt(payload, 0, one(random, &[0, 0x8000, 0x4000, 1]), b""),
        5 => opt(
            payload,
            0,
            0,
            one(
                random,
                &[
                    &cookie[..],
                    b"\x00\x03\x00\x00",
                    b"\x00\x0c\x00\x02\x00\x00",
                    b"\xfe",
                ],
            ),
        ),
        6 => opt(payload, one(random, &[0, 1]), 0, b""),
        _ => Vec::new(),
    };
    let rtype = one(random, &[1, 1, 1, 28, 16, 16, 255, 252, 41]);
    let class = one(random, &[1, 1, 1, 1, 1, 1, 1, 3]);
    let mut query = query(flags, &owner, rtype, class, &opt);
    match random.random_range(0..40) {
        0 => query.push(0),
        1 => query.truncate(random.random_range(0..query.len())),
        2 => query[5] = one(random, &[0, 2]),
        3 => query[11] ^= 1,
        4 => {
            let at = random.random_range(0..query.len());
            query[at] = random.random();
        }
        _ => {}
    }
    query
}

#[tokio::test(start_paused = true)]
async fn what_is_at_hand_is_answered_byte_for_byte_as_everything_else() {
    const QUESTIONS: usize = 20_000;
    let world = World::new();
    let mut at_hand = AtHand::new();
    let random = &mut StdRng::seed_from_u64(1);
    let (mut fast, mut truncated, mut not_served) = (0, 0, 0);
    for number in 0..QUESTIONS {
        let message = any_query(random, &world.key);
        let client = match random.random_range(0..10) {
            0 => SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1234)),
            1 => SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], 1234)),
            2 => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            _ => client(1),
        };
        // Time goes by, so that TTLs are lower, answers at hand are asked for again, and others end.
        tokio::time::advance(Duration::from_millis(random.random_range(0..60))).await;
        if random.random_bool(0.5) {
            world.look_up(&message).await;
        }
        let Some(reply) = world.fast(&message, client, &mut at_hand) else {
            not_served += usize::from(!client.ip().to_canonical().is_loopback());
            continue;
        };
        let expected = world.slow(&message, client).expect("a reply");
        assert_eq!(reply, expected, "question {number}: {message:02x?}");
        fast += 1;
        truncated += usize::from(reply[2] & 2 != 0);
    }
    assert!(fast > QUESTIONS / 10, "{fast}");
    assert!(truncated > 50, "{truncated}");
    assert!(not_served > QUESTIONS / 20, "{not_served}");
}

#[tokio::test(start_paused = true)]
async fn a_plain_query_of_a_cached_answer_is_answered_at_once() {
    let world = World::new();
    let mut at_hand = AtHand::new();
    let names = [
        ("X2.example".to_owned(), 1),
        (format!("x0.{}", world.key), 16),
        (format!("x0.{}.PKARR", world.key), 16),
    ];
    for (owner, rtype) in names {
        // The two bits make another question of it; the size does not.
        for (opt, is_new) in [
            (Vec::new(), true),
            (opt(1232, 0, 0, b""), false),
            (opt(4096, 0, 0x8000, b""), true),
        ] {
            let message = query(0x100, &owner, rtype, 1, &opt);
            assert!(Plain::read(&message).is_some());
            let before = world.fast(&message, client(1), &mut at_hand);
            assert_eq!(before.is_none(), is_new, "{owner}");
            world.look_up(&message).await;
            let reply = world.fast(&message, client(1), &mut at_hand);
            let reply = reply.expect(&owner);
            assert_eq!(Some(reply), world.slow(&message, client(1)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cache_has_let_go_is_not_at_hand_either() {
    let world = World::new();
    let mut at_hand = AtHand::new();
    let message = query(0x100, "x2.example", 1, 1, b"");
    let ask = |at_hand: &mut AtHand| world.fast(&message, client(1), at_hand);
    world.look_up(&message).await;
    assert!(ask(&mut at_hand).is_some());
    world.answers.forget(|_| true);
    assert_eq!(ask(&mut at_hand), None);

    // A newer answer takes its place at once.
    world.look_up(&message).await;
    let ttl = |reply: Option<Vec<u8>>| {
        let reply = reply.unwrap();
        let at = reply.len() - 10;
        u32::from_be_bytes(reply[at..at + 4].try_into().unwrap())
    };
    assert_eq!(ttl(ask(&mut at_hand)), 300);
    tokio::time::advance(Duration::from_millis(100_500)).await;
    assert_eq!(ttl(ask(&mut at_hand)), 200);
    let question = Question {
        name: Name::from_ascii("x2.example.").unwrap(),
        rtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
    };
    let gone = world
        .service
        .resolver
        .cached(&question.cache_key(), Instant::now());
    world.service.resolver.refresh(&question);
    while gone
        .as_ref()
        .is_some_and(|answer| answer.is_current(Instant::now()))
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(ttl(ask(&mut at_hand)), 300);

    // And when its time is over it is over.
    tokio::time::advance(Duration::from_secs(301)).await;
    assert_eq!(ask(&mut at_hand), None);
}

#[tokio::test(start_paused = true)]
async fn many_names_in_one_place_are_all_answered() {
    let world = World::new();
    let mut at_hand = AtHand::new();
    let message = |number: u32| {
        query(
            0x100,
            &format!("x{}.example", 2 + KINDS * number),
            1,
            1,
            b"",
        )
    };
    // More than there are places.
    for number in 0..6000 {
        world.look_up(&message(number)).await;
    }
    for number in (0..6000).chain(0..6000) {
        let message = message(number);
        let reply = world.fast(&message, client(1), &mut at_hand);
        assert_eq!(reply, world.slow(&message, client(1)), "{number}");
        assert!(reply.is_some());
    }
}

#[tokio::test]
async fn a_hit_allocates_nothing() {
    let world = World::new();
    let mut at_hand = AtHand::new();
    let message = query(0x100, "x3.example", 1, 1, &opt(1232, 0, 0, b""));
    world.look_up(&message).await;
    let mut reply = Vec::with_capacity(2048);
    let mut ask = || {
        let now = Instant::now();
        let service = &world.service;
        let answered = service.answer_at_once(&message, client(1), now, &mut at_hand, &mut reply);
        assert!(matches!(answered, AtOnce::Answered));
    };
    ask();
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| ask()));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    // As a check of the counter.
    let counted = allocation_counter::measure(|| drop(world.slow(&message, client(1))));
    assert_ne!(counted.count_total, 0);
}

#[test]
fn the_share_of_a_client_leaves_room_for_others() {
    let bound = super::Bound::new(3, 2);
    let [one, two] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)).into());
    let held = [bound.take(one), bound.take(one)];
    assert!(held.iter().all(Option::is_some));
    assert!(bound.take(one).is_none());
    let last = bound.take(two);
    assert!(last.is_some());
    assert!(bound.take(two).is_none(), "all are taken");
    drop(held);
    assert!(bound.take(two).is_some());
}
