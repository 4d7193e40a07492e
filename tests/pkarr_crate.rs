//! Against the reference implementation, the `pkarr` crate: whatever it builds, we accept and serve;
//! whatever we sign, it accepts and reads alike.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;

use hickory_proto::op::Message;
use pkarr::dns::rdata::*;
use pkarr::dns::{CLASS, CharacterString, Name, Packet, ResourceRecord, TYPE};
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, Zone};
use pkbridge::wire;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

const SECRET: [u8; 32] = [9; 32];

/// A record: owner without letter case, type, TTL, data with its names uncompressed.
type Flat = (Vec<u8>, u16, u32, Vec<u8>);

// What the reference has.

/// The records of a packet as the reference reads them, of class IN at or below the key, which is all
/// that we serve.
fn records_of_theirs(packet: &pkarr::SignedPacket) -> Vec<Flat> {
    let key = packet.public_key().to_z32();
    packet
        .all_resource_records()
        .filter(|record| record.class == CLASS::IN)
        .filter(|record| record.name.as_bytes().last() == Some(key.as_bytes()))
        .map(flat)
        .collect()
}

fn flat(record: &ResourceRecord<'_>) -> Flat {
    let mut owner = Vec::new();
    for label in record.name.as_bytes() {
        owner.push(u8::try_from(label.len()).unwrap());
        owner.extend(label.to_ascii_lowercase());
    }
    owner.push(0);
    let ttl = if record.ttl >> 31 == 0 { record.ttl } else { 0 };
    let rtype = u16::from(record.rdata.type_code());
    let written = written_alone(record);
    // The owner, type, class, TTL, and length stand in front.
    (
        owner.clone(),
        rtype,
        ttl,
        written[12 + owner.len() + 10..].to_vec(),
    )
}

/// A message with this record alone, uncompressed, written by the reference.
fn written_alone(record: &ResourceRecord<'_>) -> Vec<u8> {
    let mut packet = Packet::new_reply(0);
    packet.answers.push(record.clone());
    packet.build_bytes_vec().unwrap()
}

// What we have.

fn records_of_ours(packet: &SignedPacket) -> Vec<Flat> {
    Zone::new(packet, 300)
        .records()
        .iter()
        .map(|record| {
            let owner = wire::name_bytes(&record.owner.to_lowercase());
            (owner, record.rtype.into(), record.ttl, record.rdata.clone())
        })
        .collect()
}

/// What the reference makes of a packet of ours.
fn read_by_theirs(packet: &SignedPacket) -> Result<pkarr::SignedPacket, String> {
    let bytes = packet.to_bytes();
    let key = pkarr::PublicKey::try_from(&bytes[..32]).map_err(|error| error.to_string())?;
    pkarr::SignedPacket::from_relay_payload(&key, &bytes[32..].to_vec().into())
        .map_err(|error| error.to_string())
}

// Generators: every type that the reference can build.

fn name() -> impl Strategy<Value = Name<'static>> {
    let key = pkarr::Keypair::from_secret_key(&SECRET).to_z32();
    // The last one ends in the key's letters, and is another label.
    let lookalike = format!("4{key}");
    let words = [
        "a",
        "b",
        "www",
        "_sip._tcp",
        "Mixed-Case",
        "example.com",
        &key,
        &lookalike,
    ];
    let words = words.map(str::to_owned).to_vec();
    vec(select(words), 1..4).prop_map(|words| Name::new_unchecked(&words.join(".")).into_owned())
}

/// An owner as people write it: `@`, `.` and names without the key are taken for the key's own.
fn owner() -> impl Strategy<Value = Name<'static>> {
    let special =
        [".", "@", "", "*", "*.a", "a.b."].map(|text| Name::new_unchecked(text).into_owned());
    prop_oneof![select(special.to_vec()), name()]
}

fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), length)
}

fn string() -> impl Strategy<Value = CharacterString<'static>> {
    bytes(0..30).prop_map(|text| CharacterString::new(&text).unwrap().into_owned())
}

fn svcb() -> impl Strategy<Value = SVCB<'static>> {
    let unknown = btree_map(7..1000_u16, bytes(0..10), 0..3);
    let known = (
        proptest::option::of(vec(string(), 1..3)),
        proptest::option::of(any::<u16>()),
        vec(any::<u32>(), 0..3),
        vec(any::<u128>(), 0..2),
    );
    let target = prop_oneof![Just(Name::new_unchecked("").into_owned()), name()];
    (any::<u16>(), target, known, unknown).prop_map(
        |(priority, target, (alpn, port, v4, v6), unknown): (_, _, _, BTreeMap<u16, Vec<u8>>)| {
            let mut svcb = SVCB::new(priority, target);
            if let Some(alpn) = alpn {
                svcb.set_alpn(&alpn);
            }
            if let Some(port) = port {
                svcb.set_port(port);
            }
            if !v4.is_empty() {
                svcb.set_ipv4hint(&v4);
            }
            if !v6.is_empty() {
                svcb.set_ipv6hint(&v6);
            }
            for (key, value) in unknown {
                svcb.set_param(SVCParam::Unknown(key, value.into()));
            }
            svcb
        },
    )
}

/// Data that is one name, of the types that have no more.
fn one_name() -> impl Strategy<Value = RData<'static>> {
    (name(), 0..9_u8).prop_map(|(name, which)| match which {
        0 => RData::NS(name.into()),
        1 => RData::MD(name.into()),
        2 => RData::MF(name.into()),
        3 => RData::CNAME(name.into()),
        4 => RData::MB(name.into()),
        5 => RData::MG(name.into()),
        6 => RData::MR(name.into()),
        7 => RData::PTR(name.into()),
        _ => RData::NSAP_PTR(name.into()),
    })
}

/// Data with names and something else.
fn with_names() -> impl Strategy<Value = RData<'static>> {
    let gateway = prop_oneof![
        Just(Gateway::None),
        any::<[u8; 4]>().prop_map(|address| Gateway::IPv4(address.into())),
        any::<[u8; 16]>().prop_map(|address| Gateway::IPv6(address.into())),
        name().prop_map(Gateway::Domain),
    ];
    let strings = (string(), string(), string());
    let numbers = any::<[u8; 4]>();
    prop_oneof![
        (any::<u16>(), name()).prop_map(|(preference, exchange)| RData::MX(MX {
            preference,
            exchange
        })),
        (any::<u16>(), name()).prop_map(|(preference, exchanger)| RData::KX(KX {
            preference,
            exchanger
        })),
        (any::<u16>(), name())
            .prop_map(|(subtype, hostname)| RData::AFSDB(AFSDB { subtype, hostname })),
        (any::<u16>(), name()).prop_map(|(preference, intermediate_host)| {
            RData::RouteThrough(RouteThrough {
                preference,
                intermediate_host,
            })
        }),
        (name(), name()).prop_map(|(mbox, txt)| RData::RP(RP { mbox, txt })),
        (name(), name())
            .prop_map(|(rmailbox, emailbox)| RData::MINFO(MINFO { rmailbox, emailbox })),
        (any::<[u16; 3]>(), name()).prop_map(|([priority, weight, port], target)| {
            RData::SRV(SRV {
                priority,
                weight,
                port,
                target,
            })
        }),
        (name(), name(), any::<[u32; 2]>(), any::<[i32; 3]>()).prop_map(
            |(mname, rname, [serial, minimum], [refresh, retry, expire])| {
                RData::SOA(SOA {
                    mname,
                    rname,
                    serial,
                    refresh,
                    retry,
                    expire,
                    minimum,
                })
            }
        ),
        (any::<[u16; 2]>(), strings, name()).prop_map(
            |([order, preference], (flags, services, regexp), replacement)| {
                RData::NAPTR(NAPTR {
                    order,
                    preference,
                    flags,
                    services,
                    regexp,
                    replacement,
                })
            }
        ),
        (numbers, gateway, bytes(1..20)).prop_map(
            |([precedence, algorithm, ..], gateway, public_key)| {
                RData::IPSECKEY(IPSECKEY {
                    precedence,
                    algorithm,
                    gateway,
                    public_key: public_key.into(),
                })
            }
        ),
        (
            any::<[u16; 2]>(),
            any::<[u8; 2]>(),
            any::<[u32; 3]>(),
            name(),
            bytes(1..30)
        )
            .prop_map(
                |([type_covered, key_tag], [algorithm, labels], times, signer_name, signature)| {
                    let [original_ttl, signature_expiration, signature_inception] = times;
                    RData::RRSIG(RRSIG {
                        type_covered,
                        algorithm,
                        labels,
                        original_ttl,
                        signature_expiration,
                        signature_inception,
                        key_tag,
                        signer_name,
                        signature: signature.into(),
                    })
                }
            ),
        (name(), bytes(1..9)).prop_map(|(next_name, bitmap)| {
            let window = NsecTypeBitMap {
                window_block: 0,
                bitmap: bitmap.into(),
            };
            RData::NSEC(NSEC {
                next_name,
                type_bit_maps: vec![window],
            })
        }),
        svcb().prop_map(RData::SVCB),
        svcb().prop_map(|svcb| RData::HTTPS(HTTPS(svcb))),
    ]
}

/// Data without names.
fn without_names() -> impl Strategy<Value = RData<'static>> {
    let text = || vec(string(), 1..4);
    let two_numbers = || any::<[u8; 2]>();
    prop_oneof![
        any::<u32>().prop_map(|address| RData::A(A { address })),
        any::<u128>().prop_map(|address| RData::AAAA(AAAA { address })),
        text().prop_map(|texts| {
            RData::TXT(texts.into_iter().fold(TXT::new(), TXT::with_char_string))
        }),
        (string(), string()).prop_map(|(cpu, os)| RData::HINFO(HINFO { cpu, os })),
        (string(), string()).prop_map(|(address, sa)| RData::ISDN(ISDN { address, sa })),
        (any::<u32>(), any::<u8>(), bytes(1..9)).prop_map(|(address, protocol, bit_map)| {
            RData::WKS(WKS {
                address,
                protocol,
                bit_map: bit_map.into(),
            })
        }),
        (any::<[u8; 3]>(), any::<[i32; 3]>()).prop_map(
            |([size, horizontal_precision, vertical_precision], place)| {
                let [latitude, longitude, altitude] = place;
                RData::LOC(LOC {
                    version: 0,
                    size,
                    horizontal_precision,
                    vertical_precision,
                    latitude,
                    longitude,
                    altitude,
                })
            }
        ),
        (any::<u8>(), string(), bytes(0..30)).prop_map(|(flag, tag, value)| {
            RData::CAA(CAA {
                flag,
                tag,
                value: value.into(),
            })
        }),
        any::<[u8; 6]>().prop_map(|address| RData::EUI48(EUI48 { address })),
        any::<[u8; 8]>().prop_map(|address| RData::EUI64(EUI64 { address })),
        (any::<[u16; 2]>(), any::<u8>(), bytes(1..30)).prop_map(
            |([type_code, key_tag], algorithm, certificate)| {
                RData::CERT(CERT {
                    type_code,
                    key_tag,
                    algorithm,
                    certificate: certificate.into(),
                })
            }
        ),
        (any::<u32>(), two_numbers(), bytes(12..48)).prop_map(
            |(serial, [scheme, algorithm], digest)| {
                RData::ZONEMD(ZONEMD {
                    serial,
                    scheme,
                    algorithm,
                    digest: digest.into(),
                })
            }
        ),
        (any::<u16>(), two_numbers(), bytes(1..30)).prop_map(
            |(flags, [protocol, algorithm], public_key)| {
                RData::DNSKEY(DNSKEY {
                    flags,
                    protocol,
                    algorithm,
                    public_key: public_key.into(),
                })
            }
        ),
        (any::<u16>(), two_numbers(), bytes(1..30)).prop_map(
            |(key_tag, [algorithm, digest_type], digest)| {
                RData::DS(DS {
                    key_tag,
                    algorithm,
                    digest_type,
                    digest: digest.into(),
                })
            }
        ),
        (any::<u16>(), any::<u8>(), bytes(1..30)).prop_map(|(identifier, digest_type, digest)| {
            RData::DHCID(DHCID {
                identifier,
                digest_type,
                digest: digest.into(),
            })
        }),
        // Types that the reference knows nothing of: TLSA, SSHFP, OPENPGPKEY, private use.
        (select(vec![44_u16, 52, 61, 65_280, 65_534]), bytes(1..60)).prop_map(|(rtype, data)| {
            RData::NULL(rtype, NULL::new(&data).unwrap().into_owned())
        }),
        // APL and NULL may be empty.
        select(vec![10_u16, 42, 65_280]).prop_map(|rtype| RData::Empty(TYPE::from(rtype))),
    ]
}

fn rdata() -> impl Strategy<Value = RData<'static>> {
    prop_oneof![1 => one_name(), 2 => with_names(), 2 => without_names()]
}

fn record() -> impl Strategy<Value = ResourceRecord<'static>> {
    let class = prop_oneof![15 => Just(CLASS::IN), 1 => Just(CLASS::CH)];
    let ttl = prop_oneof![0..100_000_u32, any::<u32>()];
    (owner(), class, ttl, rdata())
        .prop_map(|(name, class, ttl, rdata)| ResourceRecord::new(name, class, ttl, rdata))
}

/// What the reference builds of them; `None` if it is over the size limit.
fn built_by_theirs(records: &[ResourceRecord<'_>], seq: u64) -> Option<pkarr::SignedPacket> {
    let keypair = pkarr::Keypair::from_secret_key(&SECRET);
    let mut builder = pkarr::SignedPacket::builder().timestamp(seq.into());
    for record in records {
        builder = builder.record(record.clone());
    }
    builder.sign(&keypair).ok()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_the_reference_builds_is_accepted_and_served(
        records in vec(record(), 0..12),
        seq in 0..=i64::MAX.unsigned_abs(),
    ) {
        let Some(theirs) = built_by_theirs(&records, seq) else {
            return Ok(());
        };
        let ours = SignedPacket::from_bytes(theirs.as_bytes()).unwrap();
        prop_assert_eq!(ours.to_bytes(), theirs.as_bytes().to_vec());
        prop_assert_eq!(ours.seq(), seq);
        prop_assert_eq!(ours.key().to_string(), theirs.public_key().to_z32());
        prop_assert_eq!(records_of_ours(&ours), records_of_theirs(&theirs));
    }

    #[test]
    fn what_we_sign_is_accepted_and_read_alike(
        records in vec(record(), 0..12),
        seq in 0..=i64::MAX.unsigned_abs(),
    ) {
        // The reference's own form of the records, which have the key in their names.
        let Some(theirs) = built_by_theirs(&records, seq) else {
            return Ok(());
        };
        let same: Vec<_> = theirs
            .all_resource_records()
            .filter_map(|record| Message::from_vec(&written_alone(record)).ok())
            .flat_map(|message| message.answers)
            .collect();
        let secret = SigningKey::from_bytes(&SECRET);
        let count = same.len();
        // What fits there fits here.
        let ours = SignedPacket::sign_records(&secret, seq, same).unwrap();
        let read = read_by_theirs(&ours).unwrap();
        prop_assert_eq!(read.all_resource_records().count(), count);
        prop_assert_eq!(records_of_theirs(&read), records_of_ours(&ours));
        if count == theirs.all_resource_records().count() {
            prop_assert_eq!(records_of_theirs(&read), records_of_theirs(&theirs));
            let length = theirs.as_bytes().len();
            prop_assert!(ours.to_bytes().len() <= length, "{} of {length}", ours.to_bytes().len());
        }
    }

    #[test]
    fn the_newer_of_two_packets_is_the_same_for_both(
        records in [vec(record(), 0..2), vec(record(), 0..2)],
        seqs in [0..3_u64, 0..3_u64],
    ) {
        let theirs = [0, 1].map(|at| built_by_theirs(&records[at], seqs[at]).unwrap());
        let ours = theirs
            .each_ref()
            .map(|packet| SignedPacket::from_bytes(packet.as_bytes()).unwrap());
        prop_assert_eq!(
            ours[0].is_newer_than(&ours[1]),
            theirs[0].more_recent_than(&theirs[1])
        );
    }
}

#[test]
fn packets_up_to_the_size_limit() {
    let mut largest = 0;
    for length in 1..250 {
        let text = vec![b'x'; length];
        let text = CharacterString::new(&text).unwrap();
        let data = RData::TXT(TXT::new().with_char_string(text)).into_owned();
        let record = ResourceRecord::new(Name::new_unchecked("."), CLASS::IN, 300, data);
        let Some(theirs) = built_by_theirs(&vec![record; 4], 1) else {
            continue;
        };
        let ours = SignedPacket::from_bytes(theirs.as_bytes()).unwrap();
        assert_eq!(records_of_ours(&ours), records_of_theirs(&theirs));
        largest = largest.max(ours.dns().len());
    }
    assert!(largest > pkbridge::pkarr::MAX_DNS_LEN - 4, "{largest}");
}

// The vectors.

fn unhex(text: &serde_json::Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

fn vectors(text: &str) -> Vec<serde_json::Value> {
    let file: serde_json::Value = serde_json::from_str(text).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

/// The packet of a vector, read by both.
fn read_by_both(
    vector: &serde_json::Value,
) -> (
    Result<pkarr::SignedPacket, String>,
    Result<SignedPacket, String>,
) {
    let bytes = [
        unhex(&vector["public_key_hex"]),
        unhex(&vector["relay_payload_hex"]),
    ]
    .concat();
    let theirs = pkarr::PublicKey::try_from(&bytes[..32])
        .map_err(|error| error.to_string())
        .and_then(|key| {
            pkarr::SignedPacket::from_relay_payload(&key, &bytes[32..].to_vec().into())
                .map_err(|error| error.to_string())
        });
    let ours = SignedPacket::from_bytes(&bytes).map_err(|error| error.to_string());
    (theirs, ours)
}

#[test]
fn both_accept_the_valid_vectors_and_read_the_same_records() {
    for vector in vectors(include_str!("vectors/valid.json")) {
        let (theirs, ours) = read_by_both(&vector);
        let (theirs, ours) = (theirs.unwrap(), ours.unwrap());
        let name = &vector["name"];
        assert_eq!(records_of_ours(&ours), records_of_theirs(&theirs), "{name}");
    }
}

#[test]
fn what_the_reference_refuses_we_refuse_but_for_one_odd_record() {
    for vector in vectors(include_str!("vectors/invalid.json")) {
        let (theirs, ours) = read_by_both(&vector);
        let name = vector["name"].as_str().unwrap();
        let accepted = vector["pkarr_8_1_0"]["accepted"].as_bool().unwrap();
        assert_eq!(theirs.is_ok(), accepted, "{name}: {theirs:?}");
        match name {
            // A record whose data is not of its type's shape is not served; the others are.
            "txt_string_overrun" => assert!(ours.unwrap().dns().len() > 12),
            // Anybody can sign for it.
            "weak_key_identity" => assert!(ours.is_err()),
            "ptr_into_header" => {}
            _ => assert!(ours.is_err() && theirs.is_err(), "{name}"),
        }
    }
}

#[test]
fn keys_are_spelt_alike() {
    for vector in vectors(include_str!("vectors/z32.json")) {
        let label = vector["label"].as_str().unwrap();
        if let Ok(key) = PublicKey::from_label(label.as_bytes()) {
            let theirs: pkarr::PublicKey = label.to_lowercase().parse().unwrap();
            assert_eq!(theirs.as_bytes(), key.as_bytes(), "{label}");
            assert_eq!(theirs.to_z32(), key.to_string());
        }
    }
}
