//! DNSSEC validation of a tree of zones that is signed here, honestly and otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;
#[path = "validation/zones.rs"]
mod zones;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Directory, Running, Upstream, Via, reload};
use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_proto::dnssec::{Algorithm, DigestType, PublicKey, PublicKeyBuf};
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use pkbridge::config::Strategy;
use pkbridge::endpoint::Endpoint;
use pkbridge::pkarr::Suffixes;
use pkbridge::resolve::{
    Anchors, Answer, AnswerCache, Asker, Ending, Failure, FetchPacket, Forward, HoldTimes, Names,
    Packets, Question, Resolver, Response, Reuse, See, Ttls, Validating, Wanted, ede,
};
use pkbridge::wire::{self, flags};
use tokio::runtime::Builder;
use zones::{Denial, TTL, World, Zone, a, cname, dname, n, ns, opaque, soa};

const NSEC3: Denial = Denial::Nsec3 {
    iterations: 0,
    opt_out: false,
};
/// A name that only a packet may answer.
const KEY_NAME: &str = "www.o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy.";

fn world() -> World {
    let ecdsa = |zone: Zone| zone.signed(Algorithm::ECDSAP256SHA256, Denial::Nsec);
    let ed25519 = |zone: Zone, denial| zone.signed(Algorithm::ED25519, denial);
    let mx = MX::new(10, n("MAIL.Secure.Test."));
    let secure = ecdsa(Zone::new(
        "secure.test.",
        [
            a("www.secure.test.", 9),
            a("www.secure.test.", 10),
            a("www.secure.test.", 1),
            Record::from_rdata(n("secure.test."), TTL, RData::MX(mx)),
            // No library takes this for a CAA.
            opaque("odd.secure.test.", RecordType::CAA, vec![0, 200, 1]),
            a("*.wild.secure.test.", 7),
            a("there.wild.secure.test.", 8),
            a("*.secure.test.", 6),
            a("deep.ent.secure.test.", 5),
            cname("alias.secure.test.", "www.hashed.test."),
            cname("alias-void.secure.test.", "nothing.hashed.test."),
            cname("alias-plain.secure.test.", "www.plain.test."),
            cname("alias-key.secure.test.", KEY_NAME),
            dname("moved.secure.test.", "hashed.test."),
        ],
    ));
    let hashed = ed25519(
        Zone::new(
            "hashed.test.",
            [
                a("www.hashed.test.", 2),
                a("*.wild.hashed.test.", 7),
                a("deep.ent.hashed.test.", 5),
                a("other.hashed.test.", 5),
            ],
        ),
        NSEC3,
    );
    let heavy = |apex: &str, iterations| {
        let denial = Denial::Nsec3 {
            iterations,
            opt_out: false,
        };
        ed25519(Zone::new(apex, []), denial)
    };
    let (heavy, absurd) = (heavy("heavy.test.", 200), heavy("absurd.test.", 501));
    let mut opt_out = ed25519(
        Zone::new("optout.test.", [a("www.optout.test.", 3)]),
        Denial::Nsec3 {
            iterations: 0,
            opt_out: true,
        },
    );
    opt_out.add(ns("unsigned.optout.test."));
    let expired = ecdsa(Zone::new("expired.test.", [a("www.expired.test.", 1)])).valid(-9, -2);
    let future = ecdsa(Zone::new("future.test.", [a("www.future.test.", 1)])).valid(2, 9);
    let alien = ecdsa(Zone::new("alien.test.", [a("www.alien.test.", 1)]));
    let digest = ecdsa(Zone::new("digest.test.", [a("www.digest.test.", 1)]));
    let mut test = ed25519(Zone::new("test.", []), Denial::Nsec);
    for zone in [
        &secure, &hashed, &heavy, &absurd, &opt_out, &expired, &future,
    ] {
        test.delegate(zone);
    }
    let ds = |algorithm, digest_type| DS::new(1, algorithm, digest_type, vec![1; 32]);
    test.delegate_with(&alien, ds(Algorithm::Unknown(200), DigestType::SHA256));
    let unknown = DigestType::from(99);
    test.delegate_with(&digest, ds(Algorithm::ECDSAP256SHA256, unknown));
    test.add(ns("plain.test."));
    let plain = Zone::new(
        "plain.test.",
        [a("www.plain.test.", 4), a("x.y.plain.test.", 4)],
    );
    let below = ecdsa(Zone::new(
        "below.plain.test.",
        [a("www.below.plain.test.", 4)],
    ));
    let unsigned = Zone::new("unsigned.optout.test.", [a("www.unsigned.optout.test.", 4)]);
    let lan = Zone::new("lan.", [a("host.lan.", 1)]);
    let mut root = ecdsa(Zone::new(".", []));
    root.delegate(&test);
    World::new(vec![
        root, test, secure, hashed, heavy, absurd, opt_out, unsigned, expired, future, alien,
        digest, plain, below, lan,
    ])
}

/// A zone's DS in a file, as an operator would write it.
fn write_anchor(directory: &Directory, zone: &Zone, apex: &str) -> PathBuf {
    let ds = zone.ds();
    let digest = HEXLOWER.encode(ds.digest());
    let (tag, algorithm) = (ds.key_tag(), u8::from(ds.algorithm()));
    let path = directory.join("root.key");
    std::fs::write(
        &path,
        format!("{apex} IN DS {tag} {algorithm} 2 {digest}\n"),
    )
    .unwrap();
    path
}

fn anchor_of(zone: &Zone, apex: &str) -> Anchors {
    let directory = Directory::new();
    Anchors::from_file(&write_anchor(&directory, zone, apex)).unwrap()
}

struct Bench {
    world: Arc<World>,
    validating: Validating,
}

fn bench(world: World) -> Bench {
    bench_without(world, &[])
}

fn bench_without(world: World, negative: &[&str]) -> Bench {
    let anchors = anchor_of(world.zone("."), ".");
    bench_from(world, anchors, negative)
}

fn bench_from(world: World, anchors: Anchors, negative: &[&str]) -> Bench {
    let world = Arc::new(world);
    let validating = validating(world.clone(), anchors, negative);
    Bench { world, validating }
}

fn validating(forward: Arc<dyn Forward>, anchors: Anchors, negative: &[&str]) -> Validating {
    let negative = negative.iter().map(|name| n(name)).collect();
    Validating::new(forward, anchors, negative, Suffixes::default())
}

fn question(name: &str, rtype: RecordType) -> Question {
    Question {
        name: n(name),
        rtype,
        dnssec_ok: true,
        checking_disabled: false,
    }
}

impl Bench {
    async fn ask(&self, name: &str, rtype: RecordType) -> Result<Response, Failure> {
        self.validating.forward(&question(name, rtype)).await
    }

    /// What the client gets, and whether AD is set.
    async fn get(&self, name: &str, rtype: RecordType) -> (Message, bool) {
        parse(&self.ask(name, rtype).await.unwrap())
    }

    /// Whether AD is set on the answer for addresses.
    async fn is_secure(&self, name: &str) -> bool {
        self.get(name, RecordType::A).await.1
    }

    /// The EDE of the SERVFAIL for addresses.
    async fn ede(&self, name: &str) -> u16 {
        let failure = self.ask(name, RecordType::A).await.unwrap_err();
        assert!(failure.is_cacheable(), "{failure}");
        failure.ede().code
    }

    fn asked(&self) -> Vec<(String, RecordType)> {
        let asked = std::mem::take(&mut *self.world.asked.lock().unwrap());
        let asked = asked.into_iter();
        asked.map(|one| (one.name.to_string(), one.rtype)).collect()
    }
}

fn parse(response: &Response) -> (Message, bool) {
    let message = Message::from_vec(&response.wire).unwrap();
    let flag = response.layout.header.has(flags::AD);
    assert_eq!(message.metadata.authentic_data, flag);
    (message, flag)
}

fn types(records: &[Record]) -> Vec<RecordType> {
    let mut types: Vec<_> = records.iter().map(Record::record_type).collect();
    types.sort();
    types.dedup();
    types
}

fn is_rrsig(record: &Record) -> bool {
    record.record_type() == RecordType::RRSIG
}

fn change_address(record: &mut Record) {
    if let RData::A(address) = &mut record.data {
        address.0 = [203, 0, 113, 66].into();
    }
}

#[tokio::test]
async fn a_signed_answer_is_secure_and_comes_with_its_signature_to_who_wants_it() {
    let bench = bench(world());
    let (message, secure) = bench.get("www.secure.test.", RecordType::A).await;
    assert!(secure);
    assert_eq!(types(&message.answers), [RecordType::A, RecordType::RRSIG]);
    let without = Question {
        dnssec_ok: false,
        ..question("www.secure.test.", RecordType::A)
    };
    let (message, secure) = parse(&bench.validating.forward(&without).await.unwrap());
    assert!(secure);
    assert_eq!(types(&message.answers), [RecordType::A]);
    assert_eq!(message.answers.len(), 3);
}

#[tokio::test]
async fn names_in_record_data_and_data_that_no_library_reads_are_verified() {
    let bench = bench(world());
    assert!(bench.get("secure.test.", RecordType::MX).await.1);
    let odd = bench
        .ask("odd.secure.test.", RecordType::CAA)
        .await
        .unwrap();
    assert!(odd.layout.header.has(flags::AD));
    assert!(Message::from_vec(&odd.wire).is_err(), "hickory reads it");
    assert!(bench.get("secure.test.", RecordType::SOA).await.1);
    assert!(bench.get("secure.test.", RecordType::DNSKEY).await.1);
    assert!(bench.get("secure.test.", RecordType::DS).await.1);
    assert!(bench.get(".", RecordType::DNSKEY).await.1);
    assert!(bench.get("www.secure.test.", RecordType::ANY).await.1);
}

#[tokio::test]
async fn absence_is_proved_by_nsec_and_by_nsec3() {
    let bench = bench(world());
    for zone in ["secure.test.", "hashed.test.", "test.", "."] {
        let absent = match zone {
            // A wildcard answers for what is not there.
            "secure.test." => "a.www.secure.test.".to_owned(),
            "." => "nothing.".to_owned(),
            zone => format!("nothing.{zone}"),
        };
        let (message, secure) = bench.get(&absent, RecordType::A).await;
        assert_eq!(message.response_code, ResponseCode::NXDomain, "{zone}");
        assert!(secure, "{zone}");
        let (message, secure) = bench.get(zone, RecordType::TXT).await;
        assert_eq!(message.response_code, ResponseCode::NoError);
        assert!(message.answers.is_empty() && secure, "{zone}");
    }
    for zone in ["secure.test.", "hashed.test."] {
        for name in ["ent", "none.wild", "wild"] {
            let name = format!("{name}.{zone}");
            let (message, secure) = bench.get(&name, RecordType::TXT).await;
            assert_eq!(message.response_code, ResponseCode::NoError, "{name}");
            assert!(message.answers.is_empty() && secure, "{name}");
        }
    }
    let without = Question {
        dnssec_ok: false,
        ..question("hashed.test.", RecordType::TXT)
    };
    let (message, secure) = parse(&bench.validating.forward(&without).await.unwrap());
    assert!(secure);
    assert_eq!(types(&message.authorities), [RecordType::SOA]);
}

#[tokio::test]
async fn a_wildcard_answers_where_nothing_nearer_exists() {
    let bench = bench(world());
    for name in [
        "a.wild.secure.test.",
        "b.a.wild.secure.test.",
        "zzz.wild.secure.test.",
        "foo.secure.test.",
        "zoo.secure.test.",
        "a.wild.hashed.test.",
        "b.a.wild.hashed.test.",
        "*.wild.secure.test.",
    ] {
        let (message, secure) = bench.get(name, RecordType::A).await;
        assert!(secure, "{name}");
        assert_eq!(message.answers[0].name, n(name));
    }
}

#[tokio::test]
async fn a_wildcard_does_not_answer_without_the_proof() {
    let bench = bench(world());
    bench.world.tamper(|_, message| message.authorities.clear());
    assert_eq!(bench.ede("a.wild.secure.test.").await, ede::NSEC_MISSING);
    assert_eq!(bench.ede("a.wild.hashed.test.").await, ede::NSEC_MISSING);
}

#[tokio::test]
async fn a_wildcards_answer_for_a_name_that_exists_is_bogus() {
    let world = world();
    let wild = world.zone("secure.test.");
    let records = [a("*.wild.secure.test.", 7)];
    let signature = wild.sign(&records).unwrap();
    let bench = bench(world);
    bench.world.tamper(move |question, message| {
        if question.name == n("there.wild.secure.test.") {
            message.answers = vec![records[0].clone(), signature.clone()];
            for record in &mut message.answers {
                record.name = question.name.clone();
            }
        }
    });
    assert_eq!(
        bench.ede("there.wild.secure.test.").await,
        ede::NSEC_MISSING
    );
}

#[tokio::test]
async fn aliases_are_followed_to_their_end() {
    let bench = bench(world());
    assert!(bench.is_secure("alias.secure.test.").await);
    let (message, secure) = bench.get("alias.secure.test.", RecordType::TXT).await;
    assert!(secure, "an alias to a name without the type");
    assert_eq!(message.answers.len(), 2);
    let (message, secure) = bench.get("alias-void.secure.test.", RecordType::A).await;
    assert!(secure, "an alias to no name");
    assert_eq!(message.response_code, ResponseCode::NXDomain);
    let (message, secure) = bench.get("alias-plain.secure.test.", RecordType::A).await;
    assert!(!secure, "an alias out of the signed zones");
    assert_eq!(message.answers.len(), 3);
    assert!(bench.get("alias.secure.test.", RecordType::CNAME).await.1);
}

#[tokio::test]
async fn a_dname_vouches_for_the_alias_that_follows_from_it() {
    let bench = bench(world());
    let (message, secure) = bench.get("www.moved.secure.test.", RecordType::A).await;
    assert!(secure);
    assert_eq!(
        types(&message.answers),
        [
            RecordType::A,
            RecordType::CNAME,
            RecordType::DNAME,
            RecordType::RRSIG
        ]
    );
    let by_type = bench.get("www.moved.secure.test.", RecordType::CNAME);
    assert!(by_type.await.1, "asked for by its type");
    bench.world.tamper(|_, message| {
        let is_alias = |record: &&mut Record| record.record_type() == RecordType::CNAME;
        if let Some(alias) = message.answers.iter_mut().find(is_alias) {
            alias.data = cname(".", "other.hashed.test.").data;
        }
    });
    assert_eq!(bench.ede("www.moved.secure.test.").await, ede::DNSSEC_BOGUS);
}

#[tokio::test]
async fn an_unsigned_zone_is_insecure_and_whatever_is_below_it() {
    let bench = bench(world());
    bench
        .world
        .tamper(|_, message| message.metadata.authentic_data = true);
    for name in [
        "www.plain.test.",
        "x.y.plain.test.",
        "www.below.plain.test.",
        "www.unsigned.optout.test.",
    ] {
        let (message, secure) = bench.get(name, RecordType::A).await;
        assert!(!message.answers.is_empty() && !secure, "{name}");
        assert!(!bench.get(name, RecordType::TXT).await.1, "{name}");
    }
    let (message, secure) = bench.get("nothing.plain.test.", RecordType::A).await;
    assert_eq!(message.response_code, ResponseCode::NXDomain);
    assert!(!secure);
    assert!(bench.get("plain.test.", RecordType::DS).await.1, "no DS");
}

#[tokio::test]
async fn an_opted_out_span_proves_nothing() {
    let bench = bench(world());
    assert!(bench.is_secure("www.optout.test.").await);
    let (message, secure) = bench.get("nothing.optout.test.", RecordType::A).await;
    assert_eq!(message.response_code, ResponseCode::NXDomain);
    assert!(!secure);
    assert!(bench.get("www.optout.test.", RecordType::TXT).await.1);
}

#[tokio::test]
async fn changed_records_are_bogus() {
    let bench = bench(world());
    bench
        .world
        .tamper(|_, message| message.answers.iter_mut().for_each(change_address));
    for name in ["www.secure.test.", "www.hashed.test.", "alias.secure.test."] {
        assert_eq!(bench.ede(name).await, ede::DNSSEC_BOGUS);
    }
    let (message, secure) = bench.get("www.plain.test.", RecordType::A).await;
    assert!(!secure && !message.answers.is_empty());
}

#[tokio::test]
async fn signatures_hold_in_their_time_alone() {
    let bench = bench(world());
    assert_eq!(bench.ede("www.expired.test.").await, ede::SIGNATURE_EXPIRED);
    assert_eq!(
        bench.ede("www.future.test.").await,
        ede::SIGNATURE_NOT_YET_VALID
    );
    let failure = bench.ask("www.expired.test.", RecordType::A).await;
    let text = failure.unwrap_err().ede().text;
    assert_eq!(text, "expired.test. has signatures that have expired");
}

#[tokio::test]
async fn taking_the_signatures_away_is_seen() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.rtype != RecordType::DNSKEY && question.rtype != RecordType::DS {
            message.answers.retain(|record| !is_rrsig(record));
            message.authorities.retain(|record| !is_rrsig(record));
        }
    });
    assert_eq!(bench.ede("www.secure.test.").await, ede::RRSIGS_MISSING);
    assert_eq!(bench.ede("nothing.hashed.test.").await, ede::RRSIGS_MISSING);
}

#[tokio::test]
async fn taking_the_ds_away_is_seen() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.rtype == RecordType::DS && question.name == n("secure.test.") {
            message.answers.clear();
        } else {
            message.answers.retain(|record| !is_rrsig(record));
        }
    });
    assert_eq!(bench.ede("www.secure.test.").await, ede::RRSIGS_MISSING);
    let bench = self::bench(world());
    let absence = bench.ask("plain.test.", RecordType::DS).await.unwrap();
    let absence = parse(&absence).0.authorities;
    bench.world.tamper(move |question, message| {
        if question.rtype == RecordType::DS && question.name == n("secure.test.") {
            message.answers.clear();
            message.authorities = absence.clone();
        }
    });
    assert_eq!(bench.ede("www.secure.test.").await, ede::NSEC_MISSING);
}

#[tokio::test]
async fn keys_that_the_anchor_does_not_name_are_not_believed() {
    let world = world();
    let anchors = anchor_of(world.zone("test."), ".");
    let bench = bench_from(world, anchors, &[]);
    assert_eq!(bench.ede("www.secure.test.").await, ede::DNSKEY_MISSING);
}

#[tokio::test]
async fn an_anchor_below_the_root_makes_an_island() {
    let world = world();
    let anchors = anchor_of(world.zone("below.plain.test."), "below.plain.test.");
    let bench = bench_from(world, anchors, &[]);
    assert!(bench.is_secure("www.below.plain.test.").await);
    assert!(!bench.is_secure("www.secure.test.").await);
}

#[tokio::test]
async fn unsigned_records_of_a_foreign_zone_prove_no_absence() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.name == n("www.secure.test.") {
            message.answers.clear();
            message.authorities = vec![soa("plain.test.")];
            message.metadata.response_code = ResponseCode::NXDomain;
        }
    });
    assert_eq!(bench.ede("www.secure.test.").await, ede::NSEC_MISSING);
}

#[tokio::test]
async fn true_proofs_of_something_else_prove_no_absence() {
    let bench = bench(world());
    let absences = [
        ("hashed.test.", "nothing.hashed.test."),
        ("secure.test.", "a.www.secure.test."),
        // The parent's records say nothing of what is below the cut.
        ("secure.test.", "nothing.test."),
        ("secure.test.", "plain.test."),
    ];
    for (zone, name) in absences {
        let rtype = match name {
            "plain.test." => RecordType::DS,
            _ => RecordType::A,
        };
        let absence = parse(&bench.ask(name, rtype).await.unwrap()).0;
        let victim = format!("www.{zone}");
        for rcode in [ResponseCode::NoError, ResponseCode::NXDomain] {
            let (absence, target) = (absence.authorities.clone(), n(&victim));
            bench.world.tamper(move |question, message| {
                if question.name == target {
                    message.answers.clear();
                    message.authorities = absence.clone();
                    message.metadata.response_code = rcode;
                }
            });
            assert_eq!(bench.ede(&victim).await, ede::NSEC_MISSING, "{name}");
        }
        bench.world.tamper(|_, _| ());
    }
}

#[tokio::test]
async fn a_signature_by_another_zone_counts_for_nothing() {
    let world = world();
    let forged = vec![a("www.secure.test.", 66)];
    let signature = world.zone("hashed.test.").sign(&forged).unwrap();
    let bench = bench(world);
    bench.world.tamper(move |question, message| {
        if question.rtype == RecordType::A {
            message.answers = forged.iter().cloned().chain([signature.clone()]).collect();
        }
    });
    assert_eq!(bench.ede("www.secure.test.").await, ede::RRSIGS_MISSING);
}

#[tokio::test]
async fn a_heap_of_signatures_is_not_worked_through() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        let is_it = |record: &&Record| is_rrsig(record);
        let good = message.answers.iter().find(is_it).cloned();
        if let Some(good) = good.filter(|_| question.rtype == RecordType::A) {
            let mut bad = good.clone();
            if let RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) = &mut bad.data {
                let mut bytes = rrsig.sig().to_vec();
                bytes[0] ^= 1;
                let input = rrsig.input().clone();
                *rrsig = hickory_proto::dnssec::rdata::RRSIG::from_sig(input, bytes);
            }
            message.answers.retain(|record| !is_rrsig(record));
            message.answers.extend(vec![bad; 200]);
            message.answers.push(good);
        }
    });
    assert_eq!(bench.ede("www.secure.test.").await, ede::DNSSEC_BOGUS);
}

/// Keys that have the tag of the zone's own, and stand in front of it: the tag is a sum of the key's
/// 16-bit words. `None` if the own key begins with its lowest word.
fn colliding_keys(zone: &Zone, apex: &str, count: usize) -> Option<Vec<Record>> {
    let own = zone.dnskey.as_ref().unwrap();
    let words: Vec<[u8; 2]> = own.public_key().public_bytes().as_chunks().0.to_vec();
    let mut others = words.clone();
    others.sort();
    let lowest = (others[0] != words[0]).then(|| others.remove(0))?;
    let rotated = (0..count).map(|by| {
        others.rotate_left(by.min(1));
        let key = [&[lowest], others.as_slice()].concat().concat();
        let key = PublicKeyBuf::new(key, own.public_key().algorithm());
        let dnskey = DNSKEY::new(true, true, false, key);
        assert_eq!(
            dnskey.calculate_key_tag().unwrap(),
            own.calculate_key_tag().unwrap()
        );
        Record::from_rdata(n(apex), TTL, RData::DNSSEC(DNSSECRData::DNSKEY(dnskey)))
    });
    Some(rotated.collect())
}

/// Whether an answer is secure where so many other keys have the tag of the right one.
async fn is_secure_with_colliding_keys(count: usize) -> bool {
    let (mut zone, keys) = std::iter::repeat_with(|| {
        let zone = Zone::new("crowded.test.", [a("www.crowded.test.", 1)]);
        let zone = zone.signed(Algorithm::ED25519, Denial::Nsec);
        let keys = colliding_keys(&zone, "crowded.test.", count);
        (zone, keys)
    })
    .find_map(|(zone, keys)| Some((zone, keys?)))
    .unwrap();
    keys.into_iter().for_each(|key| zone.add(key));
    let mut world = world();
    world.zone_mut("test.").delegate(&zone);
    world.zones.push(zone);
    let answer = bench(world).ask("www.crowded.test.", RecordType::A).await;
    answer.is_ok_and(|response| response.layout.header.has(flags::AD))
}

#[tokio::test]
async fn of_many_keys_with_one_tag_few_are_tried() {
    assert!(is_secure_with_colliding_keys(3).await);
    assert!(!is_secure_with_colliding_keys(4).await);
    assert!(!is_secure_with_colliding_keys(14).await);
}

#[tokio::test]
async fn a_long_name_does_not_cost_a_question_a_label() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.rtype == RecordType::A {
            message.answers.retain(|record| !is_rrsig(record));
        }
    });
    let name = format!("{}secure.test.", "a.".repeat(100));
    assert_eq!(bench.ede(&name).await, ede::DNSSEC_BOGUS);
    let asked = bench.asked().len();
    assert!((60..75).contains(&asked), "{asked} questions");
}

#[tokio::test]
async fn a_client_that_checks_itself_gets_everything() {
    let bench = bench(world());
    bench.world.tamper(|_, message| {
        message.metadata.authentic_data = true;
        message.answers.iter_mut().for_each(change_address);
    });
    let unchecked = Question {
        checking_disabled: true,
        ..question("www.secure.test.", RecordType::A)
    };
    let (message, secure) = parse(&bench.validating.forward(&unchecked).await.unwrap());
    assert!(!secure);
    assert_eq!(types(&message.answers), [RecordType::A, RecordType::RRSIG]);
    assert_eq!(bench.asked().len(), 1, "nothing is validated");
}

#[tokio::test]
async fn below_a_negative_anchor_and_for_a_rule_nothing_is_validated() {
    let bench = bench_without(world(), &["Expired.test.", "lan."]);
    bench
        .world
        .tamper(|_, message| message.metadata.authentic_data = true);
    assert!(!bench.is_secure("www.expired.test.").await);
    assert!(!bench.is_secure("expired.test.").await);
    assert!(!bench.is_secure("host.lan.").await);
    assert_eq!(bench.asked().len(), 3, "no key is asked for");
    assert!(bench.validating.has_rule_for(&n("host.lan.")));
    assert!(bench.is_secure("www.secure.test.").await);
}

#[tokio::test]
async fn what_cannot_be_computed_is_insecure_and_says_why() {
    let bench = bench(world());
    for (name, code) in [
        ("www.alien.test.", ede::UNSUPPORTED_DNSKEY_ALGORITHM),
        ("www.digest.test.", ede::UNSUPPORTED_DS_DIGEST),
        ("nothing.heavy.test.", ede::UNSUPPORTED_NSEC3_ITERATIONS),
    ] {
        let response = bench.ask(name, RecordType::A).await.unwrap();
        assert!(!response.layout.header.has(flags::AD), "{name}");
        assert_eq!(response.edes[0].code, code, "{name}");
    }
    assert!(bench.get("heavy.test.", RecordType::SOA).await.1);
    let code = bench.ede("nothing.absurd.test.").await;
    assert_eq!(code, ede::UNSUPPORTED_NSEC3_ITERATIONS);
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_had_are_asked_for_again() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.rtype == RecordType::DNSKEY && question.name == n("secure.test.") {
            message.metadata.response_code = ResponseCode::ServFail;
        }
    });
    assert_eq!(
        bench.ede("www.secure.test.").await,
        ede::NO_REACHABLE_AUTHORITY
    );
    bench.world.tamper(|_, _| ());
    bench
        .ask("foo.secure.test.", RecordType::A)
        .await
        .unwrap_err();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(bench.is_secure("www.secure.test.").await);
}

#[tokio::test(start_paused = true)]
async fn a_warm_chain_costs_no_question() {
    let bench = bench(world());
    assert!(bench.is_secure("www.secure.test.").await);
    let chain = [
        ("www.secure.test.", RecordType::A),
        (".", RecordType::DNSKEY),
        ("test.", RecordType::DS),
        ("test.", RecordType::DNSKEY),
        ("secure.test.", RecordType::DS),
        ("secure.test.", RecordType::DNSKEY),
    ];
    let chain = chain.map(|(name, rtype)| (name.to_owned(), rtype));
    assert_eq!(bench.asked(), chain);
    assert!(bench.get("nothing.secure.test.", RecordType::TXT).await.1);
    assert_eq!(bench.asked().len(), 1);
    assert!(bench.is_secure("www.hashed.test.").await);
    assert_eq!(bench.asked().len(), 3);
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert!(bench.is_secure("www.secure.test.").await);
    assert_eq!(bench.asked().len(), 6);
}

#[tokio::test]
async fn a_public_key_name_behind_an_alias_is_neither_asked_for_nor_judged() {
    let bench = bench(world());
    let (message, secure) = bench.get("alias-key.secure.test.", RecordType::A).await;
    assert!(!secure, "the answer is not complete");
    assert!(types(&message.answers).contains(&RecordType::CNAME));
    let of_key = |(name, _): &(String, RecordType)| name.contains("o4dksfbqk85");
    assert!(!bench.asked().iter().any(of_key));
    bench.world.tamper(|_, message| {
        if let Some(record) = message.answers.first_mut() {
            record.data = cname(".", "www.evil.test.").data;
        }
    });
    assert_eq!(bench.ede("alias-key.secure.test.").await, ede::DNSSEC_BOGUS);
}

#[tokio::test]
async fn what_is_not_proved_does_not_go_out_with_ad() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.rtype == RecordType::A {
            message.answers.insert(0, a("other.secure.test.", 66));
            message.add_authority(ns("secure.test."));
            message.add_additional(a("ns.test.", 66));
        }
    });
    let response = bench.ask("www.secure.test.", RecordType::A).await.unwrap();
    let (message, secure) = parse(&response);
    assert!(secure);
    assert_eq!(message.answers.len(), 4);
    assert!(
        message
            .answers
            .iter()
            .all(|record| record.name == n("www.secure.test."))
    );
    assert!(message.authorities.is_empty() && message.additionals.is_empty());
}

#[tokio::test]
async fn ttls_are_no_higher_than_what_was_signed() {
    let bench = bench(world());
    bench.world.tamper(|question, message| {
        if question.rtype == RecordType::A {
            message
                .answers
                .iter_mut()
                .for_each(|record| record.ttl = 1_000_000);
        }
    });
    let (message, secure) = bench.get("www.secure.test.", RecordType::A).await;
    assert!(secure);
    assert!(message.answers.iter().all(|record| record.ttl == TTL));
}

#[tokio::test]
async fn an_upstreams_own_failure_is_passed_on() {
    let bench = bench(world());
    bench
        .world
        .tamper(|_, message| message.metadata.response_code = ResponseCode::Refused);
    let (message, secure) = bench.get("www.secure.test.", RecordType::A).await;
    assert_eq!(message.response_code, ResponseCode::Refused);
    assert!(!secure);
}

/// What an answer says, for comparison: RCODE, and its records but for TTLs and signatures.
fn gist(message: &Message) -> (ResponseCode, Vec<String>) {
    let records = message.answers.iter().filter(|record| !is_rrsig(record));
    let text = |record: &Record| {
        let owner = record.name.to_lowercase();
        format!("{owner} {} {}", record.record_type(), record.data)
    };
    let mut records: Vec<String> = records.map(text).collect();
    records.sort();
    (message.response_code, records)
}

/// The tree behind a line that gives one answer of its own.
#[derive(Debug)]
struct Line {
    world: Arc<World>,
    of: Question,
    bytes: Mutex<Vec<u8>>,
}

impl Forward for Line {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        if (&question.name, question.rtype) != (&self.of.name, self.of.rtype) {
            return self.world.forward(question);
        }
        let response = Response::from_message(self.bytes.lock().unwrap().clone());
        let malformed = || Failure::Upstream("malformed".to_owned());
        Box::pin(async move { response.ok_or_else(malformed) })
    }
}

#[tokio::test]
async fn no_changed_byte_makes_a_different_answer_secure() {
    let world = Arc::new(world());
    for (name, rtype) in [
        ("www.secure.test.", RecordType::A),
        ("a.wild.hashed.test.", RecordType::A),
        ("a.www.secure.test.", RecordType::A),
        ("nothing.hashed.test.", RecordType::A),
        ("secure.test.", RecordType::TXT),
    ] {
        let of = question(name, rtype);
        let honest = world.forward(&of).await.unwrap().wire;
        let line = Arc::new(Line {
            world: Arc::clone(&world),
            of: of.clone(),
            bytes: Mutex::new(honest.clone()),
        });
        let anchors = anchor_of(world.zone("."), ".");
        let validating = validating(line.clone(), anchors, &[]);
        let (expected, secure) = parse(&validating.forward(&of).await.unwrap());
        assert!(secure, "{name}");
        let mut refused = 0;
        // Two values of each byte find changed lengths, types, pointers and letters.
        for (at, bits) in (0..honest.len()).flat_map(|at| [1, 0xa2].map(|bits| (at, bits))) {
            let mut changed = honest.clone();
            changed[at] ^= bits;
            *line.bytes.lock().unwrap() = changed;
            match validating.forward(&of).await {
                Ok(response) if response.layout.header.has(flags::AD) => {
                    let (message, _) = parse(&response);
                    assert_eq!(gist(&message), gist(&expected), "{name}: {at} ^ {bits}");
                }
                Ok(_) | Err(_) => refused += 1,
            }
        }
        assert!(refused > honest.len(), "{name}: {refused} refused");
    }
}

/// The tree behind a line that takes this long, and a DHT that nobody asks.
#[derive(Debug)]
struct Slow(Arc<World>, Mutex<Duration>);

impl Forward for Slow {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        let delay = *self.1.lock().unwrap();
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            Ok(self.0.answer(question))
        })
    }
}

impl FetchPacket for Slow {
    fn fetch<'a>(&'a self, wanted: Wanted, _: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        panic!("the DHT was asked for {}", wanted.key)
    }
}

/// A resolver that validates what the tree answers, and gives it past its time.
struct Stubborn {
    line: Arc<Slow>,
    resolver: Resolver,
    question: Question,
}

impl Stubborn {
    fn new() -> Self {
        let world = Arc::new(world());
        let anchors = anchor_of(world.zone("."), ".");
        let line = Arc::new(Slow(world, Mutex::default()));
        let validating = validating(line.clone(), anchors, &[]);
        let day = Duration::from_secs(86_400);
        let times = HoldTimes {
            min: Duration::ZERO,
            max: day,
            empty: day,
            failure: day,
            max_stale: day,
            stale_wait: Duration::ZERO,
        };
        let ttls = Ttls {
            min: 0,
            max: 86_400,
            negative: 300,
            failure: 5,
        };
        let cache = AnswerCache::new(1 << 20).with_reuse(Reuse {
            max_stale: day,
            prefetch: true,
            ..Reuse::default()
        });
        let packets = Packets::new(line.clone(), None, 1 << 20, times);
        let names = Names::default();
        Self {
            line,
            resolver: Resolver::new(names, packets, Arc::new(validating), ttls, cache),
            question: question("www.secure.test.", RecordType::A),
        }
    }

    async fn ask(&self) -> Arc<Answer> {
        let question = self.question.clone();
        self.resolver.resolve(question, Asker::Refresh).await
    }

    /// The EDE of the answer, and whether it is SERVFAIL.
    async fn ede(&self) -> (Option<u16>, bool) {
        let answer = self.ask().await;
        let code = answer.edes().first().map(|ede| ede.code);
        (code, answer.rcode() == u16::from(ResponseCode::ServFail))
    }

    fn forge(&self) {
        self.line
            .0
            .tamper(|_, message| message.answers.iter_mut().for_each(change_address));
    }
}

/// Passes on a clock that stands still but for this; what is under way goes on.
async fn pass(seconds: u32) {
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
}

const GOOD: (Option<u16>, bool) = (None, false);
const BOGUS: (Option<u16>, bool) = (Some(ede::DNSSEC_BOGUS), true);

#[tokio::test(start_paused = true)]
async fn a_bogus_answer_is_not_replaced_by_the_one_before_it() {
    let stubborn = Stubborn::new();
    assert_eq!(stubborn.ede().await, GOOD);
    stubborn.forge();
    pass(TTL).await;
    assert_eq!(stubborn.ede().await, BOGUS);
    // The verdict is kept as any failure, and found again.
    assert_eq!(stubborn.ede().await, BOGUS);
    pass(6).await;
    assert_eq!(stubborn.ede().await, BOGUS);
    stubborn.line.0.tamper(|_, _| ());
    pass(6).await;
    assert_eq!(stubborn.ede().await, GOOD);
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_refresh_was_bogus_ends_with_its_time() {
    let stubborn = Stubborn::new();
    let (old, last) = (stubborn.ask().await, TTL / 20);
    stubborn.forge();
    pass(TTL - last).await;
    assert!(old.is_due(tokio::time::Instant::now()));
    stubborn.resolver.refresh(&stubborn.question);
    pass(1).await;
    assert_eq!(stubborn.ede().await, GOOD);
    pass(last - 2).await;
    stubborn.resolver.refresh(&stubborn.question);
    assert_eq!(stubborn.ede().await, GOOD);
    pass(2).await;
    assert_eq!(stubborn.ede().await, BOGUS);
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_given_until_the_verdict_and_not_after_it() {
    let stubborn = Stubborn::new();
    assert_eq!(stubborn.ede().await, GOOD);
    stubborn.forge();
    *stubborn.line.1.lock().unwrap() = Duration::from_secs(3);
    pass(TTL).await;
    assert_eq!(stubborn.ede().await, (Some(ede::STALE_ANSWER), false));
    // The verdict takes the zones' keys as well.
    pass(30).await;
    assert_eq!(stubborn.ede().await, BOGUS);
}

/// What one of several servers makes of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    Everything,
    /// No signatures, as forwarders that know nothing of DNSSEC.
    NoSignatures,
    /// Its own addresses, of this name.
    Forgeries(&'static str),
    /// It cannot answer.
    Nothing,
}

/// Servers that are asked in order.
#[derive(Debug)]
struct Several {
    world: World,
    servers: Vec<Passes>,
    asked: Mutex<Vec<(usize, String)>>,
    doubted: Mutex<Vec<usize>>,
}

impl Several {
    fn new(servers: impl IntoIterator<Item = Passes>) -> Arc<Self> {
        Arc::new(Self {
            world: world(),
            servers: servers.into_iter().collect(),
            asked: Mutex::default(),
            doubted: Mutex::default(),
        })
    }

    fn validating(self: &Arc<Self>) -> Validating {
        let anchors = anchor_of(self.world.zone("."), ".");
        validating(self.clone(), anchors, &[])
    }

    fn answer(&self, server: usize, question: &Question) -> Response {
        let passes = self.servers[server];
        let asked = (server, question.name.to_string());
        self.asked.lock().unwrap().push(asked);
        let mut response = self.world.answer(&Question {
            dnssec_ok: passes != Passes::NoSignatures,
            ..question.clone()
        });
        if let Passes::Forgeries(name) = passes
            && question.name == n(name)
        {
            let mut message = Message::from_vec(&response.wire).unwrap();
            message.answers.iter_mut().for_each(change_address);
            response = Response::from_message(message.to_vec().unwrap()).unwrap();
        }
        if passes == Passes::Nothing {
            response.rcode = ResponseCode::ServFail.into();
        }
        response.server = Some(server);
        response
    }

    /// Who was asked for a name.
    fn asked_for(&self, name: &str) -> Vec<usize> {
        let asked = self.asked.lock().unwrap();
        let for_name = asked.iter().filter(|(_, asked)| asked == name);
        for_name.map(|(server, _)| *server).collect()
    }

    fn doubted(&self) -> Vec<usize> {
        let mut doubted = self.doubted.lock().unwrap().clone();
        doubted.sort_unstable();
        doubted.dedup();
        doubted
    }
}

impl Forward for Several {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        self.forward_past(question, &[])
    }

    fn forward_past<'a>(
        &'a self,
        question: &'a Question,
        past: &'a [usize],
    ) -> BoxFuture<'a, Result<Response, Failure>> {
        let server = (0..self.servers.len()).find(|server| !past.contains(server));
        Box::pin(async move {
            let server = server.ok_or(Failure::NoUpstream)?;
            Ok(self.answer(server, question))
        })
    }

    fn doubt(&self, _: &Name, server: usize) {
        self.doubted.lock().unwrap().push(server);
    }
}

const WWW: &str = "www.secure.test.";

#[tokio::test]
async fn another_server_is_asked_when_what_one_tells_is_bogus() {
    for (first, why) in [
        (Passes::NoSignatures, ede::RRSIGS_MISSING),
        (Passes::Forgeries(WWW), ede::DNSSEC_BOGUS),
    ] {
        let several = Several::new([first, Passes::Everything]);
        let validating = several.validating();
        let answer = validating.forward(&question(WWW, RecordType::A)).await;
        assert!(parse(&answer.unwrap()).1, "{first:?}");
        assert_eq!(several.asked_for(WWW).last(), Some(&1));
        assert_eq!(several.doubted(), [0], "{first:?}");

        // Nobody knows better, or can say: the first verdict counts, and nobody is doubted for it.
        for rest in [vec![], vec![first], vec![Passes::Nothing], vec![first; 9]] {
            let several = Several::new([first].into_iter().chain(rest));
            let validating = several.validating();
            let failure = validating.forward(&question(WWW, RecordType::A)).await;
            assert_eq!(
                failure.unwrap_err().ede().code,
                why,
                "{:?}",
                several.servers
            );
            assert_eq!(several.doubted(), Vec::<usize>::new());
            let asked = several.asked_for(WWW);
            assert!(asked.len() <= 3, "{asked:?}");
        }
    }
}

#[tokio::test]
async fn no_other_server_is_asked_when_one_tells_what_is_so() {
    let several = Several::new([Passes::Everything, Passes::Everything]);
    let validating = several.validating();
    for name in [WWW, "www.plain.test.", "nothing.hashed.test."] {
        validating
            .forward(&question(name, RecordType::A))
            .await
            .unwrap();
        assert_eq!(several.asked_for(name), [0], "{name}");
    }
}

/// Remembers which threads have asked.
#[derive(Debug)]
struct Where(World, Mutex<Vec<Option<String>>>);

impl Forward for Where {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let thread = std::thread::current().name().map(ToOwned::to_owned);
            self.1.lock().unwrap().push(thread);
            Ok(self.0.answer(question))
        })
    }
}

#[test]
fn signatures_are_verified_by_the_runtime_that_the_validator_was_made_in() {
    let home = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("home")
        .build()
        .unwrap();
    let line = Arc::new(Where(world(), Mutex::default()));
    let anchors = anchor_of(line.0.zone("."), ".");
    let validating = home.block_on(async { validating(line.clone(), anchors, &[]) });
    let asking = Builder::new_current_thread().build().unwrap();
    let answer = asking.block_on(validating.forward(&question(WWW, RecordType::A)));
    assert!(parse(&answer.unwrap()).1);
    let threads = line.1.lock().unwrap();
    assert!(!threads.is_empty());
    assert!(
        threads.iter().all(|name| name.as_deref() == Some("home")),
        "{threads:?}"
    );
}

/// The tree as an upstream on the network: what it replies to a query.
fn reply(world: &World, query: &[u8], via: Via) -> Vec<u8> {
    let parsed = Message::from_vec(query).unwrap();
    let asked = &parsed.queries[0];
    let dnssec_ok = parsed
        .edns
        .as_ref()
        .is_some_and(|opt| opt.flags().dnssec_ok);
    let mut reply = world.answer(&Question {
        name: asked.name().to_lowercase(),
        rtype: asked.query_type(),
        dnssec_ok,
        checking_disabled: parsed.metadata.checking_disabled,
    });
    let mut bytes = std::mem::take(&mut reply.wire);
    let question = wire::plain_question(query).unwrap();
    if matches!(via, Via::Udp) && bytes.len() > 1200 {
        bytes.truncate(question.end);
        bytes[6..12].fill(0);
        bytes[2] |= 0x02;
    }
    bytes[..2].copy_from_slice(&query[..2]);
    bytes[2] |= 0x81;
    // A lie, as on a line without integrity.
    bytes[3] |= 0xa0;
    bytes[question.clone()].copy_from_slice(&query[question]);
    bytes[11] += 1;
    bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    bytes
}

#[tokio::test]
async fn a_client_gets_validated_answers_and_servfail_for_bogus_ones() {
    let world = Arc::new(world());
    let directory = Directory::new();
    let mut config = common::config();
    // The tree is under test., which is nobody's on the Internet.
    config.names.special_use = false;
    config.upstream.validate = true;
    config.upstream.trust_anchors = Some(write_anchor(&directory, world.zone("."), "."));
    config.upstream.negative_trust_anchors = vec!["future.test".to_owned()];
    let behind = Arc::clone(&world);
    let upstream = Upstream::start(move |query, via| vec![reply(&behind, query, via)]).await;
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    let server = Running::start(config);
    let ask = async |name: &str, dnssec_ok: bool, checking_disabled: bool| {
        let mut query = common::query(name, RecordType::A);
        query.metadata.authentic_data = true;
        query.metadata.checking_disabled = checking_disabled;
        let opt = query.edns.get_or_insert_with(Edns::new);
        opt.set_dnssec_ok(dnssec_ok);
        let reply = common::send(server.address, &query).await;
        let (rcode, secure) = (reply.response_code, reply.metadata.authentic_data);
        let code = common::ede(&reply).map(|(code, _)| code);
        (rcode, secure, code, types(&reply.answers))
    };
    let ok = ResponseCode::NoError;
    let (plain, signed) = (vec![RecordType::A], vec![RecordType::A, RecordType::RRSIG]);
    let secure = "www.secure.test.";
    assert_eq!(
        ask(secure, false, false).await,
        (ok, true, None, plain.clone())
    );
    assert_eq!(
        ask(secure, true, false).await,
        (ok, true, None, signed.clone())
    );
    let unsigned = ask("www.plain.test.", true, false).await;
    assert_eq!(unsigned, (ok, false, None, plain));
    let exempt = ask("www.future.test.", true, false).await;
    assert_eq!(exempt, (ok, false, None, signed.clone()));
    let expired = ask("www.expired.test.", true, false).await;
    let code = Some(ede::SIGNATURE_EXPIRED);
    assert_eq!(expired, (ResponseCode::ServFail, false, code, Vec::new()));
    let unchecked = ask("www.expired.test.", true, true).await;
    assert_eq!(unchecked, (ok, false, None, signed));
    let absent = ask("nothing.hashed.test.", true, false).await;
    assert_eq!(absent, (ResponseCode::NXDomain, true, None, Vec::new()));
}

#[tokio::test]
async fn an_upstream_that_strips_signatures_is_not_in_the_way_of_another() {
    let world = Arc::new(world());
    let directory = Directory::new();
    let strip = |query: &[u8]| {
        let mut query = Message::from_vec(query).unwrap();
        query.edns.as_mut().unwrap().set_dnssec_ok(false);
        query.to_vec().unwrap()
    };
    let [behind, honestly] = [Arc::clone(&world), Arc::clone(&world)];
    let stripping =
        Upstream::start(move |query, via| vec![reply(&behind, &strip(query), via)]).await;
    let honest = Upstream::start(move |query, via| vec![reply(&honestly, query, via)]).await;
    let mut config = common::config();
    config.names.special_use = false;
    config.upstream.validate = true;
    config.upstream.trust_anchors = Some(write_anchor(&directory, world.zone("."), "."));
    config.upstream.strategy = Strategy::InOrder;
    config.upstream.servers = [&stripping, &honest]
        .map(|upstream| Endpoint::plain(upstream.address))
        .into();
    let server = Running::start(config);
    for name in [WWW, "www.hashed.test.", "nothing.hashed.test."] {
        let mut query = common::query(name, RecordType::A);
        query.metadata.authentic_data = true;
        let reply = common::send(server.address, &query).await;
        assert!(reply.metadata.authentic_data, "{name}: {reply}");
    }
    assert!(!stripping.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_reload_takes_what_is_new_in_the_file_of_trust_anchors() {
    let (world, other) = (Arc::new(world()), world());
    let directory = Directory::new();
    let file = |world: &World| write_anchor(&directory, world.zone("."), ".");
    let mut config = common::config();
    config.names.special_use = false;
    config.upstream.validate = true;
    config.upstream.trust_anchors = Some(file(&world));
    let behind = Arc::clone(&world);
    let upstream = Upstream::start(move |query, via| vec![reply(&behind, query, via)]).await;
    config.upstream.servers = vec![Endpoint::plain(upstream.address)];
    let server = Running::start(config.clone());
    let ask = async || {
        let mut query = common::query("www.secure.test.", RecordType::A);
        query.metadata.authentic_data = true;
        let reply = common::send(server.address, &query).await;
        (reply.response_code, reply.metadata.authentic_data)
    };
    assert_eq!(ask().await, (ResponseCode::NoError, true));
    // The same path, and keys that this root does not have: what was proved no longer is.
    file(&other);
    reload(&server, config.clone()).await;
    assert_eq!(ask().await, (ResponseCode::ServFail, false));
    file(&world);
    reload(&server, config).await;
    assert_eq!(ask().await, (ResponseCode::NoError, true));
}
