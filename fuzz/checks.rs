//! What holds for any bytes that strangers send: the bodies of the fuzz targets, one function each.
//! `tests/fuzz_corpus.rs` runs them over `fuzz/seeds`, and `tests/properties.rs` uses some of them.
#![allow(dead_code, reason = "each target uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use pkbridge::pkarr::{
    HostAddresses, Lookup, MAX_DNS_LEN, NameKind, PublicKey, PublicKeyName, SignedPacket,
    SigningKey, Suffixes, Zone, ZoneFileError, compose, fill_zone_file, read_zone_file,
};
use pkbridge::resolve::{
    AnswerCache, Ending, Failure, FetchPacket, Forward, HoldTimes, Holders, Holds, Names, Packets,
    Question, Resolver, Response, See, Sighting, Ttls, Wanted,
};
use pkbridge::serve::{AuthenticData, ServeSettings, Service, Transport};
use pkbridge::wire::{self, HEADER_LEN, Header, Layout, Section, flags};

/// The suffixes of the names that are checked.
pub(crate) const SUFFIXES: [&str; 3] = ["pkarr", "key", "dev.key"];
/// The type of the OPT pseudo-record.
const OPT: u16 = 41;
/// RCODEs of what is refused before all of it was read.
const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;
/// The TTLs that are given out, in seconds.
const TTLS: Ttls = Ttls {
    min: 1,
    max: 86_400,
    negative: 300,
    failure: 5,
};

/// A future as the traits of the resolver want it.
type Promise<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The keys whose packets are checked. Their labels stand in the seeds.
pub(crate) static SECRETS: LazyLock<[SigningKey; 2]> =
    LazyLock::new(|| [[7; 32], [8; 32]].map(|bytes| SigningKey::from_bytes(&bytes)));

static KEYS: LazyLock<[PublicKey; 2]> = LazyLock::new(|| {
    SECRETS
        .each_ref()
        .map(|secret| PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap())
});

/// Any bytes as a DNS message: the type-blind walk, names, and record data of every shape.
pub(crate) fn message(message: &[u8]) {
    let _ = wire::plain_question(message);
    let _ = Response::from_message(message.to_vec());
    let Ok(layout) = Layout::read(message) else {
        return;
    };
    assert!(layout.question_end <= layout.end && layout.end <= message.len());
    for record in &layout.records {
        let (owner, _) = wire::read_name(message, record.start).expect("walked before");
        // What was read can be written and read again.
        let written = wire::name_bytes(&owner);
        assert_eq!(wire::read_name(&written, 0), Ok((owner, written.len())));
        let rtype = RecordType::from(record.rtype);
        if let Some(expanded) = wire::map_rdata(message, record.rdata.clone(), rtype, |name| name) {
            // Expanded record data needs no message around it, and stays as it is.
            let again = wire::map_rdata(&expanded, 0..expanded.len(), rtype, |name| name);
            assert_eq!(again, Some(expanded));
        }
    }
}

/// Any bytes as a name on the wire: it is sorted rightly, in any letter case.
pub(crate) fn name(bytes: &[u8]) {
    let Ok((name, _)) = wire::read_name(bytes, 0) else {
        return;
    };
    let suffixes = Suffixes::new(SUFFIXES);
    let kind = suffixes.classify(&name);
    is_sorted_rightly(&name, &kind);
    // The bytes of labels' lengths are no letters.
    for spelling in [
        wire::name_bytes(&name).to_ascii_uppercase(),
        wire::name_bytes(&name).to_ascii_lowercase(),
    ] {
        let (spelled, _) = wire::read_name(&spelling, 0).expect("a spelling of a name");
        // Names are compared without regard to case.
        assert_eq!(suffixes.classify(&spelled), kind);
    }
}

/// A name that holds a label in the form of a key, or that ends in a suffix, is never ordinary, and
/// every other name is; the parts of a public-key name make up the name.
pub(crate) fn is_sorted_rightly(name: &Name, kind: &NameKind) {
    let labels: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
    let is_digit = |c: &u8| b"ybndrfg8ejkmcpqxot1uwisza345h769".contains(c);
    let key_like = |label: &Vec<u8>| label.len() == 52 && label.iter().all(is_digit);
    let ends_in = |suffix: &str| {
        let suffix: Vec<Vec<u8>> = suffix.split('.').map(|l| l.as_bytes().to_vec()).collect();
        labels.ends_with(&suffix)
    };
    let stays = labels.iter().any(key_like) || SUFFIXES.into_iter().any(ends_in);
    assert_eq!(*kind == NameKind::Ordinary, !stays, "{name}: {kind:?}");
    if let NameKind::PublicKey(of_key) = kind {
        let apex = of_key.in_zone.iter().next_back().unwrap();
        assert!(of_key.key.to_string().as_bytes().eq_ignore_ascii_case(apex));
        let together = of_key.with_suffix(&of_key.in_zone);
        assert_eq!(together.as_ref(), Some(name));
        assert!(of_key.apex().zone_of(name));
    }
}

/// Any bytes as the DNS message of a properly signed packet: verified, read as a zone, looked up.
pub(crate) fn packet(dns: &[u8]) {
    let Ok(packet) = SignedPacket::sign(&SECRETS[0], 1, dns) else {
        return;
    };
    assert_eq!(
        SignedPacket::from_bytes(&packet.to_bytes()),
        Ok(packet.clone())
    );
    let zone = Zone::new(&packet, TTLS.negative);
    for record in zone.records() {
        assert!(zone.apex().zone_of(&record.owner));
        assert!(i32::try_from(record.ttl).is_ok());
        // A name that has records exists.
        let found = look_up(&zone, &record.owner, record.rtype);
        assert_ne!(found, Found::NxDomain);
    }
    // Names near those that there are; few, since a lookup's time grows with the packet.
    const NEAR: usize = 4;
    for record in zone.records().iter().take(NEAR) {
        for rtype in [RecordType::A, RecordType::DS, RecordType::ANY] {
            assert_ne!(look_up(&zone, &record.owner, rtype), Found::NxDomain);
        }
        let others = zone.records().iter().rev().take(NEAR);
        let labels = others.filter_map(|other| other.owner.iter().next());
        for label in labels.chain([&b"x"[..], b"*"]) {
            for above in [record.owner.clone(), record.owner.base_name()] {
                if let Ok(name) = above.prepend_label(label)
                    && zone.apex().zone_of(&name)
                {
                    look_up(&zone, &name, record.rtype);
                    look_up(&zone, &name, RecordType::ANY);
                }
            }
        }
    }
}

/// Any bytes as the zone file of a key: what is read can be signed, and is served as it was read; what is wrong is
/// told at a place in the file, and is safe to print. With addresses for its variables a file has no more errors.
pub(crate) fn zone_file(text: &[u8]) {
    let addresses = HostAddresses {
        ipv4: Some(Ipv4Addr::LOCALHOST),
        ipv6: Some(Ipv6Addr::LOCALHOST),
    };
    let filled = fill_zone_file(text, KEYS[0], addresses);
    let read = read_zone_file(text, KEYS[0]);
    if let Err(errors) = &read {
        assert!((1..=20).contains(&errors.iter().len()));
        errors.iter().for_each(|error| is_told_well(text, error));
    }
    let filled = match filled {
        Ok(filled) => filled,
        Err(errors) => {
            errors.iter().for_each(|error| is_told_well(text, error));
            assert!(read.is_err());
            return;
        }
    };
    assert!(filled.left_out.is_empty());
    if !filled.has_ipv4 && !filled.has_ipv6 {
        assert_eq!(read.as_ref(), Ok(&filled.records));
    }
    let composed = compose(&filled.records);
    let sum: usize = composed.sizes.iter().sum();
    assert_eq!(composed.sizes.len(), filled.records.len());
    assert_eq!(composed.dns.len(), sum + HEADER_LEN);
    if composed.dns.len() <= MAX_DNS_LEN {
        let packet = SignedPacket::sign(&SECRETS[0], 1, &composed.dns).expect("a message");
        let zone = Zone::new(&packet, TTLS.negative);
        assert_eq!(zone.records(), filled.records);
    }
}

fn is_told_well(text: &[u8], error: &ZoneFileError) {
    let lines = text.split(|byte| *byte == b'\n').count();
    assert!((1..=lines + 1).contains(&error.line), "{error}");
    assert!((1..=text.len() + 1).contains(&error.column), "{error}");
    assert!(!error.message.contains(char::is_control), "{error:?}");
}

/// Any bytes as a DHT node's reply to the question what it holds of a key.
pub(crate) fn holder(reply: &[u8]) {
    match Holds::read(KEYS[0], reply) {
        Holds::Item(Sighting::Packet(packet)) => {
            assert_eq!(packet.key(), KEYS[0]);
            let bytes = |needle: &[u8]| reply.windows(needle.len()).any(|part| part == needle);
            assert!(bytes(packet.dns()) && bytes(packet.signature()));
        }
        Holds::Item(Sighting::Invalid { seq, .. }) => assert!(i64::try_from(seq).is_ok()),
        Holds::Refused(reason) => assert!(!reason.contains(char::is_control), "{reason:?}"),
        Holds::Nothing => {}
        Holds::Unknown => panic!("it has answered"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Something,
    NoData,
    NxDomain,
}

/// A lookup, and what holds for its result whatever the zone.
fn look_up(zone: &Zone, name: &Name, rtype: RecordType) -> Found {
    match zone.lookup(name, rtype) {
        Lookup::Rrset { rdata, rtype, .. } => {
            assert!(!rdata.is_empty());
            for data in rdata {
                let synthesised =
                    *name == *zone.apex() && [RecordType::SOA, RecordType::NS].contains(&rtype);
                assert!(
                    synthesised
                        || zone
                            .records()
                            .iter()
                            .any(|r| r.rtype == rtype && r.rdata == data)
                );
            }
            Found::Something
        }
        Lookup::Cname { .. } => Found::Something,
        Lookup::Dname { owner, .. } => {
            assert!(owner.zone_of(name) && owner != *name);
            Found::Something
        }
        Lookup::Delegation { cut } => {
            assert!(cut.zone_of(name) && zone.apex().zone_of(&cut));
            assert!(!zone.name_servers(&cut).is_empty());
            Found::Something
        }
        Lookup::NoData => Found::NoData,
        Lookup::NxDomain => Found::NxDomain,
    }
}

/// What the whole answer path is given: a client's message, the DNS message that both [`SECRETS`] have
/// signed, and what an upstream says.
///
/// As bytes: switches, the lengths of the first two parts (one byte and two, big-endian; longer than
/// there is means all there is), and the parts.
#[derive(Debug, Clone)]
pub(crate) struct Exchange<'a> {
    /// See [`switch`].
    pub(crate) switches: u8,
    /// What the client sends.
    pub(crate) query: &'a [u8],
    /// The DNS message of the packets.
    pub(crate) packet: &'a [u8],
    /// The upstream's flag word, its counts of answers, authorities and additionals (one byte each),
    /// and the records.
    pub(crate) upstream: &'a [u8],
}

/// Bits of [`Exchange::switches`].
pub(crate) mod switch {
    /// The client uses TCP.
    pub(crate) const TCP: u8 = 1;
    /// A key with a search domain behind it is answered as the key.
    pub(crate) const ANSWER_SEARCH_DOMAINS: u8 = 2;
    /// Addresses are not made from HTTPS and SVCB records.
    pub(crate) const NO_SYNTHESIS: u8 = 4;
    /// Special-use names go to the upstream.
    pub(crate) const NO_SPECIAL_USE: u8 = 8;
    /// The upstream stands on another host.
    pub(crate) const REMOTE_UPSTREAM: u8 = 16;
    /// The client is on another host.
    pub(crate) const REMOTE_CLIENT: u8 = 32;
}

impl<'a> Exchange<'a> {
    /// Takes the parts from any bytes.
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let (&[switches, query, high, low], rest) = bytes.split_first_chunk()?;
        let (query, rest) = rest.split_at(usize::from(query).min(rest.len()));
        let packet = usize::from(u16::from_be_bytes([high, low]));
        let (packet, upstream) = rest.split_at(packet.min(rest.len()));
        Some(Self {
            switches,
            query,
            packet,
            upstream,
        })
    }

    fn has(&self, switch: u8) -> bool {
        self.switches & switch != 0
    }

    /// How the client asks.
    pub(crate) fn transport(&self) -> Transport {
        if self.has(switch::TCP) {
            Transport::Tcp
        } else {
            Transport::Udp
        }
    }

    /// The reply to the client, if any.
    pub(crate) fn run(&self) -> Option<Vec<u8>> {
        static HOOK: Once = Once::new();
        thread_local! {
            static PANICS: Cell<u32> = const { Cell::new(0) };
        }
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                PANICS.set(PANICS.get() + 1);
                print(panic);
            }));
        });
        let before = PANICS.get();
        let network = if self.has(switch::REMOTE_CLIENT) {
            "192.0.2.1:5353"
        } else {
            "127.0.0.1:5353"
        };
        let client: SocketAddr = network.parse().unwrap();
        let service = self.service();
        // Lookups are tasks of their own: they run in this thread, so that none is lost sight of.
        let reply = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(service.respond(self.query, client, self.transport()));
        assert_eq!(PANICS.get(), before, "a lookup panicked");
        reply
    }

    /// What holds for every reply.
    pub(crate) fn check(&self, reply: Option<&[u8]>) {
        if let Some(reply) = reply {
            is_reply(self.query, self.transport(), reply);
            nobody_else_speaks_for_a_key(self, reply);
        }
    }

    fn service(&self) -> Service {
        let names = Names {
            suffixes: Suffixes::new(SUFFIXES),
            answer_search_domains: self.has(switch::ANSWER_SEARCH_DOMAINS),
            synthesise_addresses: !self.has(switch::NO_SYNTHESIS),
            special_use: !self.has(switch::NO_SPECIAL_USE),
            ..Names::default()
        };
        let fetcher = Arc::new(OnePacket(self.packet.to_vec()));
        let server = if self.has(switch::REMOTE_UPSTREAM) {
            "192.0.2.53:53"
        } else {
            "127.0.0.1:53"
        };
        let upstream = OneAnswer {
            bytes: self.upstream.to_vec(),
            server: server.parse().unwrap(),
        };
        let hour = Duration::from_secs(3600);
        let times = HoldTimes {
            min: hour,
            max: hour,
            empty: hour,
            failure: hour,
            max_stale: hour,
            stale_wait: Duration::ZERO,
        };
        let resolver = Resolver::new(
            names,
            Packets::new(fetcher, None, 1 << 20, times),
            Arc::new(upstream),
            TTLS,
            AnswerCache::new(1 << 20),
        );
        let settings = ServeSettings {
            allow: vec!["0.0.0.0/0".parse().unwrap()],
            authentic_data: AuthenticData::Loopback,
            nsid: "a name server".to_owned(),
        };
        Service::new(settings, resolver).unwrap()
    }
}

/// The DHT: every key of [`SECRETS`] has signed the same DNS message; nobody else has any.
#[derive(Debug)]
struct OnePacket(Vec<u8>);

impl FetchPacket for OnePacket {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> Promise<'a, Ending> {
        let mut signers = SECRETS.iter().zip(KEYS.iter());
        if let Some((secret, _)) = signers.find(|(_, signer)| **signer == wanted.key) {
            see(match SignedPacket::sign(secret, 1, &self.0) {
                Ok(packet) => Sighting::Packet(packet),
                Err(error) => Sighting::Invalid {
                    seq: 1,
                    reason: error.to_string(),
                },
            });
        }
        Box::pin(async { Ending::Complete(Holders::default()) })
    }
}

/// An upstream that says the same to every question.
#[derive(Debug)]
struct OneAnswer {
    bytes: Vec<u8>,
    server: SocketAddr,
}

impl Forward for OneAnswer {
    fn forward<'a>(&'a self, question: &'a Question) -> Promise<'a, Result<Response, Failure>> {
        let kind = Suffixes::new(SUFFIXES).classify(&question.name);
        assert_eq!(kind, NameKind::Ordinary, "forwarded: {}", question.name);
        let response = self.respond(question);
        Box::pin(async { response.ok_or(Failure::NoUpstream) })
    }
}

impl OneAnswer {
    /// What [`Forward`] promises: a whole reply to this very question.
    fn respond(&self, question: &Question) -> Option<Response> {
        let (&[high, low, answers, authorities, additionals], records) =
            self.bytes.split_first_chunk()?;
        let word = u16::from_be_bytes([high, low]) & !(flags::OPCODE | flags::TC) | flags::QR;
        let mut message = vec![0, 0];
        message.extend(word.to_be_bytes());
        message.extend([0, 1, 0, answers, 0, authorities, 0, additionals]);
        message.extend(question.wire());
        message.extend(records);
        Response::from_message(message).map(|response| response.for_clients(true))
    }
}

/// Any exchange: nobody panics, nothing that must stay here is forwarded, and the reply is one.
pub(crate) fn answer(bytes: &[u8]) {
    if let Some(exchange) = Exchange::from_bytes(bytes) {
        exchange.check(exchange.run().as_deref());
    }
}

/// What holds for a reply to a message, whatever it says: ID, opcode, question, flags, OPT, size.
pub(crate) fn is_reply(query: &[u8], transport: Transport, reply: &[u8]) {
    let asked = Header::read(query).expect("what is shorter than a header gets no reply");
    assert!(!asked.has(flags::QR), "a reply to a reply");
    let layout = Layout::read(reply).expect("a reply is a message");
    assert_eq!(layout.end, reply.len(), "nothing stands behind a reply");
    let header = layout.header;
    assert_eq!(header.id, asked.id);
    assert!(header.has(flags::QR));
    assert_eq!(header.opcode(), asked.opcode());
    assert!(header.flags & 0x0040 == 0, "RFC 1035 section 4.1.1: Z");
    let rcode = header.flags & flags::RCODE;

    // Nothing is written twice that the query's question might be read by: labels up to a zero.
    let question = (asked.counts[0] == 1).then(|| question_of(query)).flatten();
    let unread = [FORMERR, NOTIMP].contains(&rcode);
    match header.counts[0] {
        0 => assert!(unread || asked.counts[0] == 0, "no question, RCODE {rcode}"),
        1 => {
            let question = question.expect("a question that was not asked");
            assert_eq!(&reply[HEADER_LEN..layout.question_end], question);
        }
        count => panic!("{count} questions"),
    }
    if !unread {
        assert_eq!(header.has(flags::RD), asked.has(flags::RD));
        assert_eq!(header.has(flags::CD), asked.has(flags::CD));
        assert!(header.has(flags::RA));
    }

    let query_layout = Layout::read(query).ok();
    let asked_opt = query_layout.as_ref().and_then(opt_of);
    let opts = layout.records.iter().filter(|r| r.rtype == OPT).count();
    let limit = match (transport, asked_opt) {
        (Transport::Tcp, _) => 65_535,
        (Transport::Udp, Some((size, _))) => usize::from(size.clamp(512, 1232)),
        (Transport::Udp, None) => 512,
    };
    assert!(reply.len() <= limit, "{} bytes of {limit}", reply.len());
    assert!(!header.has(flags::TC) || transport == Transport::Udp);
    assert!(opts <= 1);
    assert!(opts == 0 || asked_opt.is_some(), "an OPT unasked for");
    assert!(opts == 1 || asked_opt.is_none() || unread, "no OPT");
    let dnssec_ok = asked_opt.is_some_and(|(_, dnssec_ok)| dnssec_ok);
    assert!(!header.has(flags::AD) || asked.has(flags::AD) || dnssec_ok);
    for record in layout.records.iter().filter(|r| r.rtype != OPT) {
        assert!(record.ttl <= TTLS.max, "TTL {}", record.ttl);
    }
}

/// The question section of a message whose name is plain labels.
fn question_of(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER_LEN;
    while message.get(end)? != &0 {
        end += usize::from(*message.get(end)?) + 1;
    }
    message.get(HEADER_LEN..end + 5)
}

/// Size and DO bit of the first OPT.
fn opt_of(layout: &Layout) -> Option<(u16, bool)> {
    let opt = layout
        .section(Section::Additional)
        .find(|r| r.rtype == OPT)?;
    Some((opt.class, opt.ttl & 0x8000 != 0))
}

/// Whatever stands in a reply at a name of a key comes from the packet of that key: an upstream, or
/// another key, says nothing about it.
fn nobody_else_speaks_for_a_key(exchange: &Exchange<'_>, reply: &[u8]) {
    /// Types that are made from others, or whose data carries the suffix that was asked.
    fn is_rewritten(rtype: u16) -> bool {
        let names = [
            2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 17, 18, 21, 26, 33, 35, 36, 39,
        ];
        names.contains(&rtype) || [1, 28, 64, 65, OPT].contains(&rtype)
    }
    const SOA: u16 = 6;
    let suffixes = Suffixes::new(SUFFIXES);
    let layout = Layout::read(reply).unwrap();
    for record in layout.records.iter().filter(|r| r.rtype != OPT) {
        let (owner, _) = wire::read_name(reply, record.start).unwrap();
        let kind = suffixes.classify(&owner);
        let key = match &kind {
            NameKind::Ordinary | NameKind::Suffix(_) => continue,
            NameKind::PublicKey(of_key) => Some(of_key.key),
            NameKind::SearchList if exchange.has(switch::ANSWER_SEARCH_DOMAINS) => {
                PublicKeyName::with_search_domain(&owner).map(|of_key| of_key.key)
            }
            NameKind::SearchList | NameKind::NotAKey(_) | NameKind::UnderSuffix(_) => None,
        };
        let mut signers = SECRETS.iter().zip(KEYS.iter());
        let packet = signers
            .find(|(_, signer)| Some(**signer) == key)
            .and_then(|(secret, _)| SignedPacket::sign(secret, 1, exchange.packet).ok());
        let Some(packet) = packet else {
            assert_eq!(record.rtype, SOA, "{owner} {}", record.rtype);
            continue;
        };
        let rdata = &reply[record.rdata.clone()];
        let zone = Zone::new(&packet, TTLS.negative);
        let mut own = zone.records().iter();
        assert!(
            is_rewritten(record.rtype)
                || own.any(|own| u16::from(own.rtype) == record.rtype && own.rdata == rdata),
            "{owner} {} {rdata:02x?}",
            record.rtype
        );
    }
}
