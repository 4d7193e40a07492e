//! What holds for all messages, packets, zones and names, not only for those that somebody thought of.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../fuzz/checks.rs"]
mod checks;

use hickory_proto::rr::{Name, RecordType};
use pkbridge::pkarr::{
    KeyError, Lookup, PacketError, PublicKey, SignedPacket, SigningKey, Suffixes, Z32_ALPHABET,
    Z32_LEN, Zone,
};
use pkbridge::wire::{self, CLASS_IN, Header, Layout, flags};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use checks::{Exchange, SECRETS};

/// When the packets are signed, in microseconds of Unix time, and the serial of the SOA made from it.
const SEQ: u64 = 1_700_000_000_000_000;
const SERIAL: u32 = 1_700_000_000;
/// TTL of negative answers, in seconds.
const NEGATIVE_TTL: u32 = 300;

// Types, by number (RFC 1035 section 3.2.2 and later ones).
const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const DNAME: u16 = 39;
const OPT: u16 = 41;
const DS: u16 = 43;
const HTTPS: u16 = 65;
const ANY: u16 = 255;

/// `cases` runs that leave no files behind.
fn runs(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn key_label(secret: &SigningKey) -> Vec<u8> {
    let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
    key.to_string().into_bytes()
}

// Messages, written by hand.

/// A record: labels of the owner, type, class, TTL, and data with its names uncompressed.
#[derive(Debug, Clone)]
struct Rr {
    owner: Vec<Vec<u8>>,
    rtype: u16,
    class: u16,
    ttl: u32,
    rdata: Vec<u8>,
}

fn name_of(labels: &[Vec<u8>]) -> Name {
    wire::read_name(&wire_name(labels), 0).unwrap().0
}

fn wire_name(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

/// A DNS message with answers. Owners that end in the same label are compressed if asked for.
fn message_of(records: &[Rr], compress: bool) -> Vec<u8> {
    let mut message = vec![0, 0, 0x80, 0, 0, 0];
    message.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    message.extend([0; 4]);
    // Where the last label of the first owner stands, and what it is.
    let mut last_label: Option<(u16, Vec<u8>)> = None;
    for record in records {
        let (last, first) = record.owner.split_last().expect("owned by a key");
        match &last_label {
            Some((at, label)) if compress && label == last => {
                let mut owner = wire_name(first);
                owner.pop();
                message.extend(owner);
                message.extend((0xc000 | at).to_be_bytes());
            }
            _ => {
                let at = message.len() + wire_name(first).len() - 1;
                last_label = Some((u16::try_from(at).unwrap(), last.clone()));
                message.extend(wire_name(&record.owner));
            }
        }
        message.extend(record.rtype.to_be_bytes());
        message.extend(record.class.to_be_bytes());
        message.extend(record.ttl.to_be_bytes());
        message.extend(u16::try_from(record.rdata.len()).unwrap().to_be_bytes());
        message.extend(&record.rdata);
    }
    message
}

// Generators.

/// A label, most often one that means something.
fn label() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "pkarr",
        "PKARR",
        "key",
        "dev",
        "lan",
        "www",
        "*",
        "a",
        "localhost",
        "example",
        "com",
        // Of small order; not on the curve; not canonical.
        "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        "yeyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xn9",
        // Nobody's, of those who have packets.
        "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno",
        // One character short, and one that is not in the alphabet.
        "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xn",
        "lpsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno",
    ]
    .map(|word| word.as_bytes().to_vec());
    let keys = SECRETS.each_ref().map(key_label);
    prop_oneof![
        6 => select(words.to_vec()),
        4 => (select(keys.to_vec()), any::<u64>()).prop_map(|(key, bits)| in_case(&key, bits)),
        1 => vec(any::<u8>(), 1..=63),
    ]
}

/// Letters turned to upper case where `bits` say so.
fn in_case(label: &[u8], bits: u64) -> Vec<u8> {
    let bit = |at: usize| bits >> (at % 64) & 1 == 1;
    let spell = |(at, c): (usize, &u8)| if bit(at) { c.to_ascii_uppercase() } else { *c };
    label.iter().enumerate().map(spell).collect()
}

/// The labels of a name of at most 255 bytes.
fn labels() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(label(), 0..=5).prop_map(|mut labels| {
        while wire_name(&labels).len() > wire::MAX_NAME_LEN {
            labels.pop();
        }
        labels
    })
}

/// EDNS options: those that a server knows, right and wrong, and others.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![select(vec![3_u16, 8, 10, 11, 12, 15]), any::<u16>()];
    let length = prop_oneof![select(vec![0_usize, 7, 8, 16, 24, 40, 41]), 0..60_usize];
    let option = (
        code,
        length.prop_flat_map(|length| vec(any::<u8>(), length)),
    )
        .prop_map(|(code, data)| {
            let mut option = code.to_be_bytes().to_vec();
            option.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            option.extend(data);
            option
        });
    vec(option, 0..4).prop_map(|options| options.concat())
}

/// An OPT record: size, version, flags and options.
fn opt() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![select(vec![0_u16, 511, 512, 513, 1232, 4096]), any::<u16>()];
    let version = prop_oneof![8 => Just(0_u8), 1 => any::<u8>()];
    (size, version, any::<u16>(), options()).prop_map(|(size, version, flags, options)| {
        let mut opt = vec![0];
        opt.extend(OPT.to_be_bytes());
        opt.extend(size.to_be_bytes());
        opt.extend([0, version]);
        opt.extend(flags.to_be_bytes());
        opt.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        opt.extend(options);
        opt
    })
}

/// A well-formed query: any flags but QR, most often opcode QUERY and class IN.
fn query() -> impl Strategy<Value = Vec<u8>> {
    let word = (any::<u16>(), any::<bool>(), any::<bool>()).prop_map(|(word, other, rare)| {
        if other && rare {
            word & !flags::QR
        } else {
            word & !(flags::QR | flags::OPCODE)
        }
    });
    let rtype = prop_oneof![
        8 => select(vec![A, NS, CNAME, SOA, MX, TXT, AAAA, DNAME, DS, 64, HTTPS, 12, ANY]),
        1 => any::<u16>(),
    ];
    let class = prop_oneof![9 => Just(CLASS_IN), 1 => any::<u16>()];
    let opt = proptest::option::weighted(0.7, opt());
    (any::<u16>(), word, labels(), rtype, class, opt).prop_map(
        |(id, word, labels, rtype, class, opt)| {
            let mut query = id.to_be_bytes().to_vec();
            query.extend(word.to_be_bytes());
            query.extend([0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())]);
            query.extend(wire_name(&labels));
            query.extend(rtype.to_be_bytes());
            query.extend(class.to_be_bytes());
            query.extend(opt.unwrap_or_default());
            query
        },
    )
}

/// Bytes with a few of them changed, added or cut off.
fn mutated(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
    (bytes, vec(change, 1..4)).prop_map(|(mut bytes, changes)| {
        for (index, what, byte) in changes {
            let at = index.index(bytes.len().max(1));
            match what {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                _ if bytes.is_empty() => {}
                2 => bytes[at] = byte,
                _ => bytes[at] ^= 1 << (byte % 8),
            }
        }
        bytes
    })
}

/// Record data of a type's shape, as bytes with names uncompressed.
fn rdata_of(rtype: u16) -> BoxedStrategy<Vec<u8>> {
    let name = || labels().prop_map(|labels| wire_name(&labels));
    let string = || {
        vec(any::<u8>(), 0..40).prop_map(|text| {
            let mut string = vec![u8::try_from(text.len()).unwrap()];
            string.extend(text);
            string
        })
    };
    let join = |parts: Vec<BoxedStrategy<Vec<u8>>>| {
        parts.prop_map(|parts: Vec<Vec<u8>>| parts.concat()).boxed()
    };
    let bytes = |count: usize| vec(any::<u8>(), count).boxed();
    match rtype {
        A => bytes(4),
        AAAA => bytes(16),
        2..=5 | 7..=9 | 12 | DNAME => name().boxed(),
        SOA => join(vec![name().boxed(), name().boxed(), bytes(20)]),
        14 | 17 => join(vec![name().boxed(), name().boxed()]),
        MX | 18 | 21 | 36 => join(vec![bytes(2), name().boxed()]),
        26 => join(vec![bytes(2), name().boxed(), name().boxed()]),
        33 => join(vec![bytes(6), name().boxed()]),
        13 => join(vec![string().boxed(), string().boxed()]),
        TXT | 99 => vec(string(), 1..4).prop_map(|texts| texts.concat()).boxed(),
        35 => join(vec![
            bytes(4),
            string().boxed(),
            string().boxed(),
            string().boxed(),
            name().boxed(),
        ]),
        64 | HTTPS => join(vec![
            bytes(2),
            name().boxed(),
            vec(any::<u8>(), 0..30).boxed(),
        ]),
        _ => vec(any::<u8>(), 0..60).boxed(),
    }
}

/// Whether a type is data, not a question or protocol (RFC 6895 section 3.1).
fn is_data(rtype: u16) -> bool {
    rtype != 0 && rtype != OPT && !(128..=255).contains(&rtype)
}

/// A type that is data, and its data.
fn data() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let known = [
        A, NS, CNAME, SOA, 12, 13, MX, TXT, 17, AAAA, 33, 35, DNAME, DS, 44, 52, 64, HTTPS, 257,
    ];
    prop_oneof![4 => select(known.to_vec()), 1 => any::<u16>().prop_filter("data", |t| is_data(*t))]
        .prop_flat_map(|rtype| (Just(rtype), rdata_of(rtype)))
}

/// Records of the first of [`SECRETS`], and a few of others.
fn records() -> impl Strategy<Value = Vec<Rr>> {
    let owner = prop_oneof![
        9 => vec(label(), 0..3).prop_map(|mut labels| {
            labels.push(key_label(&SECRETS[0]));
            labels
        }),
        1 => vec(label(), 1..3),
    ];
    let class = prop_oneof![9 => Just(CLASS_IN), 1 => any::<u16>()];
    let ttl = prop_oneof![0..1000_u32, any::<u32>()];
    let record = (owner, data(), class, ttl).prop_map(|(owner, (rtype, rdata), class, ttl)| Rr {
        owner,
        rtype,
        class,
        ttl,
        rdata,
    });
    vec(record, 0..10)
}

/// An upstream's answer in the form of [`Exchange::upstream`].
fn upstream() -> impl Strategy<Value = Vec<u8>> {
    (any::<u16>(), records(), any::<bool>()).prop_map(|(word, records, asked)| {
        let mut upstream = word.to_be_bytes().to_vec();
        upstream.extend([u8::try_from(records.len()).unwrap(), 0, 0]);
        for (at, record) in records.iter().enumerate() {
            if asked && at == 0 {
                upstream.extend([0xc0, 12]);
            } else {
                upstream.extend(wire_name(&record.owner));
            }
            upstream.extend(record.rtype.to_be_bytes());
            upstream.extend(CLASS_IN.to_be_bytes());
            upstream.extend(record.ttl.to_be_bytes());
            upstream.extend(u16::try_from(record.rdata.len()).unwrap().to_be_bytes());
            upstream.extend(&record.rdata);
        }
        upstream
    })
}

// Replies.

/// The exchange's reply, which has been checked.
fn checked(switches: u8, query: &[u8], packet: &[u8], upstream: &[u8]) -> Option<Vec<u8>> {
    let exchange = Exchange {
        switches,
        query,
        packet,
        upstream,
    };
    let reply = exchange.run();
    exchange.check(reply.as_deref());
    reply
}

proptest! {
    #![proptest_config(runs(150))]

    #[test]
    fn any_bytes_get_silence_or_a_reply(
        bytes in vec(any::<u8>(), 0..700),
        has_header in any::<bool>(),
        switches in any::<u8>(),
    ) {
        let mut bytes = bytes;
        if has_header && bytes.len() > 12 {
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        checked(switches, &bytes, &[], &[]);
    }

    #[test]
    fn every_query_gets_a_reply_with_its_question(
        query in query(),
        records in records(),
        upstream in upstream(),
        switches in any::<u8>(),
    ) {
        let reply = checked(switches, &query, &message_of(&records, true), &upstream);
        let reply = reply.expect("a reply");
        let asked = Header::read(&query).unwrap();
        if asked.opcode() == 0 {
            prop_assert_eq!(Header::read(&reply).unwrap().counts[0], 1);
        }
    }

    #[test]
    fn a_mutated_query_gets_silence_or_a_reply(
        query in mutated(query()),
        records in records(),
        upstream in upstream(),
        switches in any::<u8>(),
    ) {
        checked(switches, &query, &message_of(&records, true), &upstream);
    }

    #[test]
    fn mutated_packets_and_upstreams_harm_nobody(
        query in query(),
        packet in mutated(records().prop_map(|records| message_of(&records, true))),
        upstream in mutated(upstream()),
        switches in any::<u8>(),
    ) {
        checked(switches, &query, &packet, &upstream);
    }
}

/// A TXT RRset of the first of [`SECRETS`]: texts of this length.
fn texts(count: u8, length: u8) -> Vec<Rr> {
    let record = |number: u8| Rr {
        owner: vec![key_label(&SECRETS[0])],
        rtype: TXT,
        class: CLASS_IN,
        ttl: 300,
        rdata: [&[length][..], &vec![number; length.into()]].concat(),
    };
    (0..count).map(record).collect()
}

proptest! {
    #![proptest_config(runs(100))]

    #[test]
    fn a_reply_fits_the_clients_limit_and_is_whole_or_truncated(
        count in 1..16_u8,
        length in 40..120_u8,
        opt in proptest::option::weighted(0.8, opt()),
        forwarded in any::<bool>(),
        switches in any::<u8>(),
    ) {
        let records = texts(count, length);
        let asked = if forwarded { b"example".to_vec() } else { key_label(&SECRETS[0]) };
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())];
        query.extend(wire_name(&[asked]));
        query.extend([0, 16, 0, 1]);
        query.extend(opt.unwrap_or_default());
        let mut upstream = vec![0x81, 0x80, count, 0, 0];
        for record in &records {
            upstream.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 1, 0, 0, length + 1]);
            upstream.extend(&record.rdata);
        }
        let reply = checked(switches, &query, &message_of(&records, true), &upstream).unwrap();
        let header = Header::read(&reply).unwrap();
        if header.flags & flags::RCODE == 0 {
            let answers = if header.has(flags::TC) { 0 } else { count.into() };
            // With another EDNS version it is BADVERS, whose low bits are those of NOERROR.
            let [_, _, _, additionals] = header.counts;
            let extended = Layout::read(&reply).unwrap().records.last().map_or(0, |last| last.ttl >> 24);
            prop_assert!(header.counts[1] == answers || (additionals == 1 && extended == 1));
        }
    }
}

// Packets.

proptest! {
    #![proptest_config(runs(300))]

    #[test]
    fn a_packet_is_the_same_after_its_stored_form(
        seed in any::<[u8; 32]>(),
        seq in 0..=i64::MAX.unsigned_abs(),
        records in records(),
    ) {
        let secret = SigningKey::from_bytes(&seed);
        let dns = message_of(&records, true);
        let packet = match SignedPacket::sign(&secret, seq, &dns) {
            Ok(packet) => packet,
            Err(error) => {
                prop_assert_eq!(error, PacketError::TooLarge(dns.len()));
                return Ok(());
            }
        };
        let bytes = packet.to_bytes();
        prop_assert_eq!(SignedPacket::from_bytes(&bytes), Ok(packet.clone()));
        prop_assert_eq!(packet.dns(), dns);
        prop_assert_eq!(packet.seq(), seq);
        prop_assert_eq!(packet.key().as_bytes().to_vec(), secret.verifying_key().to_bytes());
    }

    #[test]
    fn a_packet_with_any_bit_changed_is_refused(
        records in records(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let dns = message_of(&records[..records.len().min(3)], true);
        prop_assume!(dns.len() <= pkbridge::pkarr::MAX_DNS_LEN);
        let mut bytes = SignedPacket::sign(&SECRETS[0], SEQ, &dns).unwrap().to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(SignedPacket::from_bytes(&bytes).is_err());
    }

    #[test]
    fn every_record_in_the_zone_is_served_byte_for_byte_and_no_other(
        records in records(),
        compress in any::<bool>(),
    ) {
        let Ok(packet) = SignedPacket::sign(&SECRETS[0], SEQ, &message_of(&records, compress)) else {
            return Ok(());
        };
        let zone = Zone::new(&packet, NEGATIVE_TTL);
        let apex = key_label(&SECRETS[0]);
        let of_zone = |record: &&Rr| {
            let last = record.owner.last().unwrap();
            record.class == CLASS_IN && last.eq_ignore_ascii_case(&apex)
        };
        let expected: Vec<&Rr> = records.iter().filter(of_zone).collect();
        prop_assert_eq!(zone.records().len(), expected.len());
        for (found, record) in zone.records().iter().zip(&expected) {
            prop_assert_eq!(&found.owner, &name_of(&record.owner));
            prop_assert_eq!(u16::from(found.rtype), record.rtype);
            prop_assert_eq!(found.ttl, if record.ttl < 1 << 31 { record.ttl } else { 0 });
            prop_assert_eq!(&found.rdata, &record.rdata);
        }
    }

    #[test]
    fn every_record_is_found_under_its_name_and_type(records in records()) {
        // Types that lead elsewhere have rules of their own; see the zones below.
        let records: Vec<Rr> = records
            .into_iter()
            .filter(|record| ![NS, CNAME, DNAME].contains(&record.rtype))
            .collect();
        let Ok(packet) = SignedPacket::sign(&SECRETS[0], SEQ, &message_of(&records, true)) else {
            return Ok(());
        };
        let zone = Zone::new(&packet, NEGATIVE_TTL);
        for record in zone.records() {
            let Lookup::Rrset { rtype, ttl, rdata } = zone.lookup(&record.owner, record.rtype) else {
                panic!("{record:?}");
            };
            prop_assert_eq!(rtype, record.rtype);
            prop_assert!(ttl <= record.ttl);
            prop_assert_eq!(rdata.iter().filter(|data| **data == record.rdata).count(), 1);
        }
    }
}

// Zones.

/// A record of a small zone: labels from the apex downwards, without it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Small {
    path: Vec<&'static str>,
    rtype: u16,
    ttl: u32,
    rdata: Vec<u8>,
}

/// What RFC 1034 section 4.3.2, RFC 4592, RFC 6672 and section 3 of the specification say of a name
/// and type.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Rrset(u16, u32, Vec<Vec<u8>>),
    Cname(u32, Vec<u8>),
    Dname(Vec<&'static str>, u32, Vec<u8>),
    Delegation(Vec<&'static str>),
    NoData,
    NxDomain,
}

/// The zone as the specification tells it, in its order and without regard for time.
fn reference(zone: &[Small], asked: &[&'static str], rtype: u16) -> Expected {
    let at = |path: &[&str], rtype: u16| -> Vec<&Small> {
        zone.iter()
            .filter(|record| record.path == path && record.rtype == rtype)
            .collect()
    };
    let lowest = |set: &[&Small]| set.iter().map(|record| record.ttl).min().unwrap();
    let has_records = |path: &[&str]| zone.iter().any(|record| record.path == path);
    // RFC 4592 section 2.2.2: a name with something below it exists.
    let exists =
        |path: &[&str]| path.is_empty() || zone.iter().any(|record| record.path.starts_with(path));

    // From the apex downwards: what leads away from the zone's own data.
    for depth in 0..=asked.len() {
        let node = &asked[..depth];
        let is_name_itself = depth == asked.len();
        // RFC 6672 section 3.2, step 3: first B (a cut), then C (a DNAME).
        let cut = depth > 0 && !at(node, NS).is_empty();
        // RFC 4035 section 3.1.4.1: DS at a cut belongs to the parent.
        if cut && !(is_name_itself && rtype == DS) {
            return Expected::Delegation(node.to_vec());
        }
        let dname = at(node, DNAME);
        if !dname.is_empty() && !is_name_itself {
            return Expected::Dname(node.to_vec(), lowest(&dname), dname[0].rdata.clone());
        }
    }

    // What a node answers: the name itself or a wildcard.
    let answer = |node: &[&str]| -> Option<Expected> {
        let wanted = if rtype == ANY {
            zone.iter().find(|record| record.path == node)?.rtype
        } else {
            rtype
        };
        let set = at(node, wanted);
        let cname = at(node, CNAME);
        // RFC 1034 section 4.3.2 step 3a: an alias has no other data; at the apex it may.
        let aliased = !cname.is_empty() && wanted != CNAME && rtype != ANY;
        if aliased && (set.is_empty() || !node.is_empty()) {
            return Some(Expected::Cname(lowest(&cname), cname[0].rdata.clone()));
        }
        if set.is_empty() {
            return None;
        }
        let mut rdata: Vec<Vec<u8>> = Vec::new();
        for record in &set {
            if !rdata.contains(&record.rdata) {
                rdata.push(record.rdata.clone());
            }
        }
        Some(Expected::Rrset(wanted, lowest(&set), rdata))
    };

    // SOA and NS of the apex are always there.
    if asked.is_empty() && [SOA, NS].contains(&rtype) && at(asked, rtype).is_empty() {
        let apex = [key_label(&SECRETS[0])];
        let mut rdata = wire_name(&apex);
        if rtype == SOA {
            rdata.extend(wire_name(&[b"hostmaster".to_vec(), apex[0].clone()]));
            for number in [SERIAL, 3600, 600, 86_400, NEGATIVE_TTL] {
                rdata.extend(number.to_be_bytes());
            }
        }
        return Expected::Rrset(rtype, NEGATIVE_TTL, vec![rdata]);
    }
    if has_records(asked)
        && let Some(answer) = answer(asked)
    {
        return answer;
    }
    let mut negative = Expected::NoData;
    if !exists(asked) {
        let encloser = (0..asked.len())
            .rev()
            .find(|depth| exists(&asked[..*depth]));
        let mut wildcard = asked[..encloser.unwrap()].to_vec();
        wildcard.push("*");
        if let Some(answer) = answer(&wildcard) {
            return answer;
        }
        // RFC 4592 section 4.9: a wildcard that is an empty non-terminal exists too.
        if !exists(&wildcard) {
            negative = Expected::NxDomain;
        }
    }
    // Name servers of the apex know what the packet does not.
    if at(&[], NS).is_empty() {
        negative
    } else {
        Expected::Delegation(Vec::new())
    }
}

const SMALL_LABELS: [&str; 3] = ["a", "b", "*"];

/// Few names, so that wildcards, empty non-terminals, aliases and cuts meet.
fn small_zone() -> impl Strategy<Value = Vec<Small>> {
    let path = || vec(select(&SMALL_LABELS[..]), 0..=3);
    let rtype = prop_oneof![
        2 => select(vec![A, TXT]),
        1 => Just(CNAME),
        2 => select(vec![NS, DNAME, DS, SOA]),
    ];
    let record = (
        any::<prop::sample::Index>(),
        rtype,
        1..4_u32,
        path(),
        0..2_u8,
    );
    // Several records at each of few owners.
    (vec(path(), 1..5), vec(record, 0..10)).prop_map(|(owners, records)| {
        let mut zone = Vec::new();
        for (owner, rtype, ttl, target, small) in records {
            let target = wire_name(&full(&target, 0));
            let rdata = match rtype {
                A => vec![192, 0, 2, small],
                TXT => vec![1, b'0' + small],
                SOA => [&target[..], &target, &[0; 20]].concat(),
                DS => vec![small; 8],
                _ => target,
            };
            let path = owner.get(&owners).clone();
            zone.push(Small {
                path,
                rtype,
                ttl,
                rdata,
            });
        }
        zone
    })
}

/// The labels of a path below the key, as names have them, with letters in some case.
fn full(path: &[&str], bits: u64) -> Vec<Vec<u8>> {
    let mut labels: Vec<Vec<u8>> = path.iter().rev().map(|l| l.as_bytes().to_vec()).collect();
    labels.push(key_label(&SECRETS[0]));
    labels
        .iter()
        .enumerate()
        .map(|(at, label)| in_case(label, bits.rotate_right(u32::try_from(at).unwrap())))
        .collect()
}

/// The names that are asked: all short ones, those of the zone, and some below; among them a label that
/// no zone has.
fn asked_of(zone: &[Small]) -> Vec<Vec<&'static str>> {
    let labels = || SMALL_LABELS.into_iter().chain(["z"]);
    let below = |path: &[&'static str]| labels().map(|label| [path, &[label]].concat()).collect();
    let short: Vec<Vec<&'static str>> = below(&[]);
    let longer = short.iter().flat_map(|path| -> Vec<_> { below(path) });
    let own = zone.iter().map(|record| record.path.clone());
    let below_own = zone
        .iter()
        .flat_map(|record| -> Vec<_> { below(&record.path) });
    let all = longer.chain(own).chain(below_own).chain(short.clone());
    let mut all: Vec<_> = all.chain([vec![]]).collect();
    all.sort();
    all.dedup();
    all
}

proptest! {
    #![proptest_config(runs(200))]

    #[test]
    fn a_zone_answers_as_the_rfcs_say(records in small_zone(), bits in any::<u64>()) {
        let in_packet: Vec<Rr> = records
            .iter()
            .map(|record| Rr {
                owner: full(&record.path, !bits),
                rtype: record.rtype,
                class: CLASS_IN,
                ttl: record.ttl,
                rdata: record.rdata.clone(),
            })
            .collect();
        let Ok(packet) = SignedPacket::sign(&SECRETS[0], SEQ, &message_of(&in_packet, true)) else {
            return Ok(());
        };
        let zone = Zone::new(&packet, NEGATIVE_TTL);
        for path in asked_of(&records) {
            let name = name_of(&full(&path, bits));
            for rtype in [A, CNAME, NS, DNAME, DS, SOA, ANY] {
                let found = zone.lookup(&name, RecordType::from(rtype));
                let expected = reference(&records, &path, rtype);
                prop_assert!(is_same(&found, &expected), "{path:?} {rtype}: {found:?}, not {expected:?}");
            }
        }
    }
}

/// Whether a lookup found what is expected.
fn is_same(found: &Lookup<'_>, expected: &Expected) -> bool {
    let small = |path: &[&str]| name_of(&full(path, 0));
    match (found, expected) {
        (Lookup::Rrset { rtype, ttl, rdata }, Expected::Rrset(type_, lowest, data)) => {
            u16::from(*rtype) == *type_ && ttl == lowest && rdata == data
        }
        (Lookup::Cname { ttl, target }, Expected::Cname(lowest, data)) => {
            ttl == lowest && wire::name_bytes(target) == *data
        }
        (Lookup::Dname { owner, ttl, target }, Expected::Dname(node, lowest, data)) => {
            *owner == small(node) && ttl == lowest && wire::name_bytes(target) == *data
        }
        (Lookup::Delegation { cut }, Expected::Delegation(node)) => *cut == small(node),
        (Lookup::NoData, Expected::NoData) | (Lookup::NxDomain, Expected::NxDomain) => true,
        _ => false,
    }
}

// Keys and names.

/// Z-base-32 of 32 bytes, by the bits as text.
fn z32(bytes: &[u8; 32]) -> String {
    let mut bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    bits.push_str("0000");
    bits.as_bytes()
        .chunks(5)
        .map(|five| {
            let value = usize::from_str_radix(std::str::from_utf8(five).unwrap(), 2).unwrap();
            char::from(Z32_ALPHABET[value])
        })
        .collect()
}

proptest! {
    #![proptest_config(runs(300))]

    #[test]
    fn a_key_has_one_spelling_in_any_letter_case(seed in any::<[u8; 32]>(), bits in any::<u64>()) {
        let secret = SigningKey::from_bytes(&seed);
        let key = PublicKey::from_bytes(secret.verifying_key().as_bytes()).unwrap();
        let label = key.to_string();
        prop_assert_eq!(&label, &z32(key.as_bytes()));
        prop_assert_eq!(PublicKey::from_label(&in_case(label.as_bytes(), bits)), Ok(key));
        for &digit in Z32_ALPHABET {
            let mut other = label.clone().into_bytes();
            other[Z32_LEN - 1] = digit;
            let read = PublicKey::from_label(&other);
            match digit {
                _ if other == label.as_bytes() => prop_assert_eq!(read, Ok(key)),
                // These two differ in the key's last bit.
                b'y' | b'o' => prop_assert_ne!(read, Ok(key)),
                _ => prop_assert_eq!(read, Err(KeyError::NotCanonical)),
            }
        }
    }

    #[test]
    fn a_label_that_is_a_key_is_its_only_spelling(
        digits in vec(select(&Z32_ALPHABET[..]), Z32_LEN - 1),
        last in select(vec![b'y', b'o', b'n']),
        bits in any::<u64>(),
    ) {
        let label = [&digits[..], &[last]].concat();
        prop_assert!(PublicKey::is_key_like(&in_case(&label, bits)));
        match PublicKey::from_label(&in_case(&label, bits)) {
            Ok(key) => prop_assert_eq!(key.to_string().into_bytes(), label),
            Err(KeyError::NotCanonical) => prop_assert_eq!(last, b'n'),
            Err(error) => prop_assert!(
                matches!(error, KeyError::NotOnCurve | KeyError::Weak),
                "{:?}",
                error
            ),
        }
    }

    #[test]
    fn a_character_more_or_less_or_foreign_is_no_key(
        foreign in any::<u8>().prop_filter("foreign", |c| !Z32_ALPHABET.contains(&c.to_ascii_lowercase())),
        at in 0..Z32_LEN,
    ) {
        let label = key_label(&SECRETS[0]);
        let mut other = label.clone();
        other[at] = foreign;
        let longer = [&label[..], b"y"].concat();
        for label in [&other[..], &label[1..], &label[..Z32_LEN - 1], &longer] {
            prop_assert_eq!(PublicKey::from_label(label), Err(KeyError::Spelling));
            prop_assert!(!PublicKey::is_key_like(label));
        }
    }

    #[test]
    fn no_name_with_a_key_or_a_suffix_is_ordinary_in_any_letter_case(
        labels in labels(),
        suffix in subsequence(vec!["dev", "key"], 0..=2),
        bits in any::<u64>(),
    ) {
        let mut labels: Vec<Vec<u8>> = labels;
        labels.extend(suffix.iter().map(|label| label.as_bytes().to_vec()));
        prop_assume!(wire_name(&labels).len() <= wire::MAX_NAME_LEN);
        for label in &mut labels {
            *label = in_case(label, bits);
        }
        let name = name_of(&labels);
        let kind = Suffixes::new(checks::SUFFIXES).classify(&name);
        checks::is_sorted_rightly(&name, &kind);
    }
}
