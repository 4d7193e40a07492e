//! The DNS protocol towards clients, byte for byte and without sockets: header, EDNS, cookies, and
//! what any bytes get. Where answers come from is faked.
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

use common::{key_of, name, secret, sign};
use futures_util::future::BoxFuture;
use hickory_proto::rr::RData;
use pkbridge::pkarr::{SignedPacket, Suffixes};
use pkbridge::resolve::{
    AnswerCache, Ending, Failure, FetchPacket, Forward, HoldTimes, Holders, Names, Packets,
    Question, Resolver, Response, See, Sighting, Ttls, Wanted,
};
use pkbridge::serve::Transport::{Tcp, Udp};
use pkbridge::serve::{AuthenticData, ServeSettings, Service, Transport};
use pkbridge::wire::{self, Header, Layout, flags};
use proptest::prelude::*;

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;
const BADCOOKIE: u16 = 23;

const A: u16 = 1;
const TXT: u16 = 16;
const IN: u16 = 1;
const OPT: u16 = 41;
/// Bits of the OPT's flags: DO, and all others.
const DO: u16 = 0x8000;
const OTHER_OPT_FLAGS: u16 = 0x7fff;
/// The header's reserved bit.
const Z: u16 = 0x0040;

// EDNS options.
const NSID: u16 = 3;
const CLIENT_SUBNET: u16 = 8;
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const EDE: u16 = 15;

/// Clients: on this host, in the network that is served, outside of it.
const LOCAL: &str = "127.0.0.1:4000";
const NEAR: &str = "192.0.2.7:4000";
const STRANGER: &str = "203.0.113.9:4000";

/// Whose packet has one A record at the apex.
fn published() -> String {
    key_of(&secret(1)).to_string()
}

/// An upstream. The first label of the name says what it does: `many` gives 100 addresses, `secure`
/// sets AD, `broken` fails, `none` does not exist; all others have one address.
#[derive(Debug)]
struct FakeUpstream;

impl Forward for FakeUpstream {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        let first = question.name.iter().next().unwrap_or_default();
        let (word, count) = match first {
            b"many" => (0, 100),
            b"secure" => (flags::AD, 1),
            b"none" => (NXDOMAIN, 0),
            _ => (0, 1),
        };
        let mut message = vec![0, 0];
        message.extend((flags::QR | flags::RD | flags::RA | word).to_be_bytes());
        message.extend([0, 1, 0, count, 0, 0, 0, 0]);
        message.extend(question.wire());
        for last in 0..count {
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
        }
        let outcome = match first {
            b"broken" => Err(Failure::Upstream("it is broken".to_owned())),
            _ => Response::from_message(message).ok_or(Failure::Internal),
        };
        Box::pin(async move { outcome })
    }
}

/// The packets of a DHT: one.
#[derive(Debug)]
struct FakeDht(SignedPacket);

impl FetchPacket for FakeDht {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        if wanted.key == self.0.key() {
            see(Sighting::Packet(self.0.clone()));
        }
        Box::pin(async { Ending::Complete(Holders::default()) })
    }
}

fn settings() -> ServeSettings {
    let allow = ["127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"];
    ServeSettings {
        allow: allow.map(|network| network.parse().unwrap()).to_vec(),
        authentic_data: AuthenticData::Loopback,
        nsid: "somebody".to_owned(),
    }
}

fn service_with(settings: ServeSettings) -> Service {
    let address = RData::A(std::net::Ipv4Addr::new(198, 51, 100, 1).into());
    let records = vec![(name(&published()), 300, address)];
    let day = Duration::from_secs(86_400);
    let times = HoldTimes {
        min: Duration::ZERO,
        max: day,
        empty: day,
        failure: day,
        max_stale: day,
        stale_wait: Duration::ZERO,
    };
    let packets = Packets::new(
        Arc::new(FakeDht(sign(&secret(1), 1, records))),
        None,
        1 << 20,
        times,
    );
    let names = Names {
        suffixes: Suffixes::new(["pkarr"]),
        ..Names::default()
    };
    let ttls = Ttls {
        min: 0,
        max: 86_400,
        negative: 300,
        failure: 5,
    };
    let cache = AnswerCache::new(1 << 20);
    let resolver = Resolver::new(names, packets, Arc::new(FakeUpstream), ttls, cache);
    Service::new(settings, resolver).unwrap()
}

fn service() -> Service {
    service_with(settings())
}

/// A query, made by hand.
#[derive(Debug, Clone)]
struct Query {
    word: u16,
    counts: [u16; 4],
    /// All after the header.
    body: Vec<u8>,
}

const ID: u16 = 0xbeef;
/// No option, no INFO-CODE.
const NONE: [u16; 0] = [];

fn question(owner: &str, rtype: u16, class: u16) -> Vec<u8> {
    let mut bytes = wire::name_bytes(&name(owner));
    bytes.extend(rtype.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes
}

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn opt_record(payload: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut record = vec![0];
    record.extend(OPT.to_be_bytes());
    record.extend(payload.to_be_bytes());
    record.extend([0, version]);
    record.extend(flags.to_be_bytes());
    record.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    record.extend(options);
    record
}

impl Query {
    /// An A question with RD and without OPT.
    fn a(owner: &str) -> Self {
        Self::of(&question(owner, A, IN))
    }

    fn of(question: &[u8]) -> Self {
        Self {
            word: flags::RD,
            counts: [1, 0, 0, 0],
            body: question.to_vec(),
        }
    }

    /// Nothing in any section.
    fn empty() -> Self {
        Self {
            word: flags::RD,
            counts: [0; 4],
            body: Vec::new(),
        }
    }

    fn word(mut self, word: u16) -> Self {
        self.word = word;
        self
    }

    /// Appends a record to the additional section.
    fn additional(mut self, record: &[u8]) -> Self {
        self.counts[3] += 1;
        self.body.extend(record);
        self
    }

    fn opt(self, payload: u16, flags: u16, options: &[u8]) -> Self {
        self.additional(&opt_record(payload, 0, flags, options))
    }

    /// An OPT with 1232 bytes and these options.
    fn options(self, options: &[u8]) -> Self {
        self.opt(1232, 0, options)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = ID.to_be_bytes().to_vec();
        bytes.extend(self.word.to_be_bytes());
        bytes.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend(&self.body);
        bytes
    }

    async fn ask_from(&self, service: &Service, client: &str, transport: Transport) -> Reply {
        let client = client.parse().unwrap();
        let reply = service.respond(&self.bytes(), client, transport).await;
        Reply::read(reply.expect("silence"))
    }

    async fn ask(&self, service: &Service) -> Reply {
        self.ask_from(service, LOCAL, Udp).await
    }

    async fn ask_tcp(&self, service: &Service) -> Reply {
        self.ask_from(service, LOCAL, Tcp).await
    }
}

/// A reply, taken apart.
#[derive(Debug)]
struct Reply {
    bytes: Vec<u8>,
    header: Header,
    rcode: u16,
    question: Vec<u8>,
    opt: Option<ReplyOpt>,
}

#[derive(Debug)]
struct ReplyOpt {
    payload: u16,
    version: u8,
    flags: u16,
    options: Vec<(u16, Vec<u8>)>,
}

impl Reply {
    fn read(bytes: Vec<u8>) -> Self {
        let layout = Layout::read(&bytes).unwrap();
        assert_eq!(layout.end, bytes.len());
        let header = layout.header;
        assert_eq!(header.id, ID);
        assert!(header.has(flags::QR));
        let mut rcode = header.flags & flags::RCODE;
        let mut records = layout.records.iter().filter(|record| record.rtype == OPT);
        let opt = records.next().map(|record| {
            assert_eq!(bytes[record.start], 0, "the owner is the root");
            let [high, version, ..] = record.ttl.to_be_bytes();
            rcode |= u16::from(high) << 4;
            let mut options = Vec::new();
            let mut rest = &bytes[record.rdata.clone()];
            while !rest.is_empty() {
                let code = wire::read_u16(rest, 0).unwrap();
                let end = 4 + usize::from(wire::read_u16(rest, 2).unwrap());
                options.push((code, rest[4..end].to_vec()));
                rest = &rest[end..];
            }
            ReplyOpt {
                payload: record.class,
                version,
                flags: u16::try_from(record.ttl & 0xffff).unwrap(),
                options,
            }
        });
        assert!(records.next().is_none(), "two OPTs");
        Self {
            header,
            rcode,
            question: bytes[12..layout.question_end].to_vec(),
            opt,
            bytes,
        }
    }

    fn options(&self) -> &[(u16, Vec<u8>)] {
        self.opt.as_ref().map_or(&[], |opt| &opt.options)
    }

    /// The data of the one option of this code.
    fn option(&self, code: u16) -> Option<&[u8]> {
        let mut found = self.options().iter().filter(|option| option.0 == code);
        let data = found.next().map(|option| option.1.as_slice());
        assert!(found.next().is_none(), "two options {code}");
        data
    }

    fn codes(&self) -> Vec<u16> {
        self.options().iter().map(|option| option.0).collect()
    }

    /// The INFO-CODEs of its Extended DNS Errors.
    fn edes(&self) -> Vec<u16> {
        let edes = self.options().iter().filter(|option| option.0 == EDE);
        edes.map(|option| wire::read_u16(&option.1, 0).unwrap())
            .collect()
    }

    fn has(&self, flag: u16) -> bool {
        self.header.has(flag)
    }

    /// An error: nothing but the question, the client's own.
    fn assert_error(&self, rcode: u16, question: &[u8], what: impl std::fmt::Debug) {
        assert_eq!(self.rcode, rcode, "{what:?}");
        let questions = u16::from(!question.is_empty());
        let additionals = u16::from(self.opt.is_some());
        assert_eq!(
            self.header.counts,
            [questions, 0, 0, additionals],
            "{what:?}"
        );
        assert_eq!(self.question, question, "{what:?}");
        assert!(self.has(flags::RA) && !self.has(flags::AA) && !self.has(flags::AD));
    }
}

async fn is_silent(service: &Service, message: &[u8], client: &str) -> bool {
    let client = client.parse().unwrap();
    let over_udp = service.respond(message, client, Udp).await;
    let over_tcp = service.respond(message, client, Tcp).await;
    over_udp.is_none() && over_tcp.is_none()
}

/// Questions for each kind of answer: forwarded, from a packet, local, failed, refused.
fn questions_of_all_kinds() -> Vec<(Vec<u8>, u16)> {
    vec![
        (question("wWw.exaMple.cOm", A, IN), NOERROR),
        (question(&published().to_uppercase(), A, IN), NOERROR),
        (question("none.Example", A, IN), NXDOMAIN),
        (question("PKARR", 6, IN), NOERROR),
        (question("bRoken.example", A, IN), SERVFAIL),
        (question("eXample.com", 252, IN), REFUSED),
        (question("eXample.com", 250, IN), FORMERR),
    ]
}

// Header (RFC 1035 section 4.1.1).

#[tokio::test]
async fn less_than_a_header_gets_silence() {
    let service = service();
    let query = Query::a("example.com").bytes();
    for length in 0..12 {
        assert!(
            is_silent(&service, &query[..length], LOCAL).await,
            "{length}"
        );
    }
    assert!(!is_silent(&service, &query[..12], LOCAL).await);
}

#[tokio::test]
async fn a_response_gets_silence() {
    let service = service();
    for opcode in 0..16 {
        let response = Query::a("example.com").word(flags::QR | opcode << 11);
        assert!(is_silent(&service, &response.bytes(), LOCAL).await);
    }
    assert!(is_silent(&service, &[0xff; 12], LOCAL).await);
}

#[tokio::test]
async fn a_query_from_port_0_gets_silence() {
    let service = service();
    let query = Query::a("example.com").bytes();
    assert!(is_silent(&service, &query, "127.0.0.1:0").await);
    assert!(is_silent(&service, &query, "[2001:db8::1]:0").await);
}

#[tokio::test]
async fn other_opcodes_are_not_implemented_and_echoed() {
    let service = service();
    let question = question("eXample.com", 6, IN);
    for opcode in 1..16 {
        for copied in [0, flags::RD, flags::CD] {
            let query = Query::of(&question).word(opcode << 11 | copied);
            let reply = query.ask(&service).await;
            reply.assert_error(NOTIMP, &question, opcode);
            assert!(reply.opt.is_none());
            let expected = flags::QR | flags::RA | opcode << 11 | copied | NOTIMP;
            assert_eq!(reply.header.flags, expected);
        }
    }
}

#[tokio::test]
async fn rfc8906_8_1_4_a_bare_header_of_another_opcode_is_not_implemented() {
    let reply = Query::empty().word(15 << 11).ask(&service()).await;
    reply.assert_error(NOTIMP, &[], "a bare header");
    assert_eq!(reply.header.opcode(), 15);
    assert_eq!(reply.bytes.len(), 12);
}

#[tokio::test]
async fn rfc6891_6_1_1_another_opcode_with_an_opt_gets_an_opt() {
    let service = service();
    let question = question("example.com", 6, IN);
    // A NOTIFY with an answer, an UPDATE with a record, and one whose OPT is cut short.
    let notify = Query::of(&question).word(4 << 11).opt(1232, DO, &[]);
    let reply = notify.ask(&service).await;
    reply.assert_error(NOTIMP, &question, "NOTIFY");
    assert_eq!(reply.opt.unwrap().flags, DO);
    let mut update = Query::of(&question).word(5 << 11);
    update.counts[2] = 1;
    update
        .body
        .extend(b"\x01x\x00\x00\x01\x00\x01\0\0\0\0\x00\x00");
    let reply = update.opt(1232, 0, &[]).ask(&service).await;
    reply.assert_error(NOTIMP, &question, "UPDATE");
    assert!(reply.opt.is_some());
    let mut cut = Query::of(&question).word(5 << 11).opt(1232, 0, &[]);
    cut.body.pop();
    let reply = cut.ask(&service).await;
    reply.assert_error(NOTIMP, &question, "cut short");
    assert!(reply.opt.is_none());
}

#[tokio::test]
async fn rd_and_cd_are_copied_ra_is_set_and_the_rest_is_ignored() {
    let service = service();
    let ignored = [
        0,
        Z,
        flags::AA,
        flags::TC,
        flags::RA,
        0xf,
        Z | flags::TC | 5,
    ];
    for (question, rcode) in questions_of_all_kinds() {
        for copied in [0, flags::RD, flags::CD, flags::RD | flags::CD] {
            for word in ignored {
                let reply = Query::of(&question).word(copied | word).ask(&service).await;
                let replied = reply.header.flags & !flags::AA;
                assert_eq!(replied, flags::QR | flags::RA | copied | rcode, "{word:#x}");
            }
        }
    }
}

#[tokio::test]
async fn the_question_is_echoed_in_its_own_case_with_every_rcode() {
    let service = service();
    for (question, rcode) in questions_of_all_kinds() {
        for _ in ["looked up", "from the cache"] {
            for query in [Query::of(&question), Query::of(&question).options(&[])] {
                let reply = query.ask(&service).await;
                assert_eq!(reply.rcode, rcode, "{question:?}");
                assert_eq!(reply.question, question);
            }
        }
    }
}

#[tokio::test]
async fn rfc9619_more_than_one_question_is_a_format_error() {
    let service = service();
    let one = question("example.com", A, IN);
    for count in [2_u16, 3, 65_535] {
        let mut query = Query::of(&one.repeat(usize::from(count.min(3))));
        query.counts[0] = count;
        query.ask(&service).await.assert_error(FORMERR, &[], count);
        let reply = query.clone().options(&[]).ask(&service).await;
        reply.assert_error(FORMERR, &[], count);
        assert_eq!(reply.opt.is_some(), count < 4, "{count}");
    }
}

#[tokio::test]
async fn no_question_and_no_cookie_is_a_format_error() {
    let service = service();
    let reply = Query::empty().ask(&service).await;
    reply.assert_error(FORMERR, &[], "nothing");
    assert!(reply.opt.is_none());
    let reply = Query::empty()
        .options(&option(NSID, b""))
        .ask(&service)
        .await;
    reply.assert_error(FORMERR, &[], "an OPT");
    assert!(reply.opt.is_some());
}

#[tokio::test]
async fn records_in_answer_or_authority_are_a_format_error() {
    let service = service();
    let question = question("eXample.com", A, IN);
    let record = b"\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01";
    for section in [1, 2] {
        let mut query = Query::of(&question);
        query.counts[section] = 1;
        query.body.extend(record);
        let reply = query.ask(&service).await;
        reply.assert_error(FORMERR, &question, section);
        // Announced, but not there.
        query.body.truncate(question.len());
        let reply = query.ask(&service).await;
        reply.assert_error(FORMERR, &question, section);
    }
}

#[tokio::test]
async fn a_question_that_cannot_be_read_is_a_format_error_and_not_echoed() {
    let service = service();
    let whole = question("example.com", A, IN);
    let long = [&[63; 64].repeat(4)[..], &[0, 0, 1, 0, 1]].concat();
    for body in [
        &whole[..whole.len() - 1],
        &whole[..5],
        &[],
        b"\xc0\x0c\x00\x01\x00\x01",
        b"\xc0\x04\x00\x01\x00\x01",
        b"\x03www\xc0\x0c\x00\x01\x00\x01",
        b"\x41a\x00\x00\x01\x00\x01",
        b"\x80a\x00\x00\x01\x00\x01",
        &long,
    ] {
        let reply = Query::of(body).ask(&service).await;
        reply.assert_error(FORMERR, &[], body);
    }
}

#[tokio::test]
async fn bytes_behind_the_message_are_ignored() {
    let service = service();
    for length in [1, 11, 500] {
        let mut query = Query::a("example.com").options(&[]);
        query.body.extend(vec![0xc0; length]);
        let reply = query.ask(&service).await;
        assert_eq!((reply.rcode, reply.header.counts[1]), (NOERROR, 1));
    }
}

#[tokio::test]
async fn classes_other_than_in_are_refused() {
    let service = service();
    for class in [0, 2, 3, 4, 254, 255, 0x8001, 65_535] {
        let question = question("Version.Bind", TXT, class);
        let reply = Query::of(&question).options(&[]).ask(&service).await;
        reply.assert_error(REFUSED, &question, class);
        assert_eq!(reply.edes(), [21]);
        let reply = Query::of(&question).ask(&service).await;
        reply.assert_error(REFUSED, &question, class);
    }
}

#[tokio::test]
async fn rfc5936_zone_transfers_are_refused() {
    let service = service();
    for rtype in [251, 252] {
        for owner in ["example.com", &published(), "pkarr", "."] {
            let question = question(owner, rtype, IN);
            for transport in [Udp, Tcp] {
                let query = Query::of(&question).options(&[]);
                let reply = query.ask_from(&service, LOCAL, transport).await;
                reply.assert_error(REFUSED, &question, rtype);
                assert_eq!(reply.edes(), [21]);
            }
        }
    }
}

#[tokio::test]
async fn rfc1995_3_an_ixfr_query_has_an_soa_record_and_is_refused() {
    let service = service();
    let soa = [
        &b"\xc0\x0c\x00\x06\x00\x01\0\0\0\0\x00\x18\xc0\x0c\xc0\x0c"[..],
        &[0; 20],
    ]
    .concat();
    for (rtype, rcode) in [(251, REFUSED), (252, FORMERR), (6, FORMERR)] {
        let question = question("example.com", rtype, IN);
        let mut query = Query::of(&question);
        query.counts[2] = 1;
        query.body.extend(&soa);
        let reply = query.ask_tcp(&service).await;
        reply.assert_error(rcode, &question, rtype);
    }
}

#[tokio::test]
async fn rfc6895_3_1_types_that_are_no_data_are_format_errors() {
    let service = service();
    let meta = [0, 41].into_iter().chain(128..=250).chain([253, 254]);
    for rtype in meta {
        let question = question("eXample.com", rtype, IN);
        let reply = Query::of(&question).ask(&service).await;
        reply.assert_error(FORMERR, &question, rtype);
    }
}

#[tokio::test]
async fn any_and_types_that_nobody_knows_are_looked_up() {
    let service = service();
    for rtype in [255, 256, 257, 65_280, 65_535, 127, 10, 3] {
        let reply = Query::of(&question("example.com", rtype, IN));
        assert_eq!(reply.ask(&service).await.rcode, NOERROR, "{rtype}");
    }
}

#[tokio::test]
async fn strangers_are_refused_with_the_reason() {
    let service = service();
    let question = question("eXample.com", A, IN);
    let query = Query::of(&question).options(&[]);
    let reply = query.ask_from(&service, STRANGER, Udp).await;
    reply.assert_error(REFUSED, &question, "a stranger");
    assert_eq!(reply.edes(), [18]);
    let bare = Query::of(&question);
    let reply = bare.ask_from(&service, STRANGER, Tcp).await;
    reply.assert_error(REFUSED, &question, "a stranger");
    assert!(reply.opt.is_none());
}

// EDNS (RFC 6891).

#[tokio::test]
async fn rfc6891_6_1_1_an_opt_if_the_query_had_one_and_only_then() {
    let service = service();
    for (question, rcode) in questions_of_all_kinds() {
        for transport in [Udp, Tcp] {
            let bare = Query::of(&question);
            let reply = bare.ask_from(&service, LOCAL, transport).await;
            assert_eq!((reply.rcode, reply.opt.is_some()), (rcode, false));
            let with = bare.options(&[]);
            let reply = with.ask_from(&service, LOCAL, transport).await;
            let opt = reply.opt.unwrap();
            assert_eq!((reply.rcode, opt.version, opt.payload), (rcode, 0, 1232));
        }
    }
}

#[tokio::test]
async fn rfc3225_3_do_is_copied_and_rfc6891_6_1_4_other_flags_are_not() {
    let service = service();
    for (question, _) in questions_of_all_kinds() {
        for flags in [0, DO, OTHER_OPT_FLAGS, DO | OTHER_OPT_FLAGS, 1] {
            let query = Query::of(&question).opt(1232, flags, &[]);
            let reply = query.ask(&service).await;
            assert_eq!(reply.opt.unwrap().flags, flags & DO);
        }
    }
}

#[tokio::test]
async fn rfc6891_6_1_3_badvers() {
    let service = service();
    let question = question("eXample.com", A, IN);
    for version in [1, 2, 100, 255] {
        // What another version's options are is not known: whether they are well formed, too.
        for options in [
            vec![],
            option(100, b""),
            vec![1, 2, 3],
            option(COOKIE, b"x"),
        ] {
            let opt = opt_record(1232, version, DO, &options);
            let reply = Query::of(&question).additional(&opt).ask(&service).await;
            reply.assert_error(BADVERS, &question, version);
            let opt = reply.opt.unwrap();
            assert_eq!((opt.version, opt.flags), (0, DO));
            assert!(opt.options.is_empty());
        }
    }
}

#[tokio::test]
async fn rfc6891_6_1_1_two_opts_are_a_format_error() {
    let service = service();
    let question = question("eXample.com", A, IN);
    let query = Query::of(&question).options(&[]);
    for second in [
        query.clone().options(&[]),
        query.opt(512, DO, &option(NSID, b"")),
    ] {
        let reply = second.ask(&service).await;
        reply.assert_error(FORMERR, &question, "two");
        assert!(reply.opt.is_some());
    }
}

#[tokio::test]
async fn rfc6891_6_1_2_an_opt_whose_name_is_not_the_root_is_a_format_error() {
    let service = service();
    let question = question("eXample.com", A, IN);
    // The last one points at the root: at the end of the question's name.
    for owner in [&b"\x01a\x00"[..], b"\xc0\x0c", b"\xc0\x18"] {
        let opt = [owner, &opt_record(1232, 0, 0, &[])[1..]].concat();
        let reply = Query::of(&question).additional(&opt).ask(&service).await;
        reply.assert_error(FORMERR, &question, owner);
    }
}

#[tokio::test]
async fn rfc6891_6_1_2_options_past_their_end_are_a_format_error() {
    let service = service();
    let question = question("eXample.com", A, IN);
    for options in [
        &b"\xff"[..],
        b"\xff\xff\x00",
        b"\xff\xff\x00\x01",
        b"\xff\xff\xff\xff",
    ] {
        for before in [vec![], option(NSID, b"")] {
            let options = [&before, options].concat();
            for transport in [Udp, Tcp] {
                let query = Query::of(&question).options(&options);
                let reply = query.ask_from(&service, LOCAL, transport).await;
                reply.assert_error(FORMERR, &question, &options);
                assert!(reply.opt.is_some());
            }
        }
    }
}

#[tokio::test]
async fn an_opt_that_is_cut_short_or_not_there_is_a_format_error() {
    let service = service();
    let question = question("eXample.com", A, IN);
    let opt = opt_record(1232, 0, 0, &option(100, b"data"));
    for length in 0..opt.len() {
        let query = Query::of(&question).additional(&opt[..length]);
        let reply = query.ask(&service).await;
        reply.assert_error(FORMERR, &question, length);
        assert!(reply.opt.is_none());
    }
}

#[tokio::test]
async fn rfc6891_6_1_2_unknown_options_are_ignored() {
    let service = service();
    let owned = [NSID, COOKIE, KEEPALIVE];
    for code in (0..30).chain([100, 4711, 65_001, 65_535]) {
        if owned.contains(&code) {
            continue;
        }
        for data in [&b""[..], b"\x00", b"\xff\xff\xff", &[0; 200]] {
            let reply = Query::a("example.com").options(&option(code, data));
            let reply = reply.ask(&service).await;
            assert_eq!(
                (reply.rcode, reply.header.counts[1]),
                (NOERROR, 1),
                "{code}"
            );
            assert_eq!(reply.codes(), NONE, "{code}");
        }
    }
}

#[tokio::test]
async fn a_client_subnet_of_any_form_is_ignored() {
    let service = service();
    for subnet in [
        &b"\x00\x01\x18\x00\xc0\x00\x02"[..],
        b"\x00\x01\x18\x00",
        b"\x00\x01\xff\xff\x01",
        b"\x00\x63\x00\x00",
        b"\x00",
    ] {
        let options = option(CLIENT_SUBNET, subnet);
        let query = Query::a("example.com").options(&options);
        let reply = query.ask(&service).await;
        assert_eq!((reply.rcode, reply.header.counts[1]), (NOERROR, 1));
        assert_eq!(reply.codes(), NONE);
    }
}

#[tokio::test]
async fn rfc6891_6_1_1_the_opt_may_stand_between_other_records() {
    let service = service();
    let other = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x02\x01a";
    let options = [option(CLIENT_SUBNET, b"\x00"), option(NSID, b"")].concat();
    let query = Query::a("example.com")
        .additional(other)
        .options(&options)
        .additional(other);
    let reply = query.ask(&service).await;
    assert_eq!((reply.rcode, reply.header.counts), (NOERROR, [1, 1, 0, 1]));
    assert_eq!(reply.option(NSID), Some(&b"somebody"[..]));
}

#[tokio::test]
async fn the_extended_rcode_of_a_query_is_ignored() {
    let mut opt = opt_record(1232, 0, 0, &[]);
    opt[5] = 0xff;
    let reply = Query::a("example.com").additional(&opt);
    assert_eq!(reply.ask(&service()).await.rcode, NOERROR);
}

#[tokio::test]
async fn rfc6891_6_2_3_a_datagram_is_as_large_as_the_client_takes() {
    let service = service();
    for (payload, limit) in [
        (None, 512),
        (Some(0), 512),
        (Some(511), 512),
        (Some(512), 512),
        (Some(1000), 1000),
        // DNS flag day 2020: no more than this, whatever the client takes.
        (Some(1232), 1232),
        (Some(65_535), 1232),
    ] {
        let mut query = Query::a("many.example");
        if let Some(payload) = payload {
            query = query.opt(payload, 0, &[]);
        }
        let reply = query.ask(&service).await;
        assert!(reply.bytes.len() <= limit);
        assert!(reply.has(flags::TC), "{payload:?}");
        // RFC 6891 section 7: the OPT stays.
        assert_eq!(reply.opt.is_some(), payload.is_some());
        assert_eq!(reply.header.counts[1], 0);
        let reply = query.ask_tcp(&service).await;
        assert!(!reply.has(flags::TC));
        assert_eq!(reply.header.counts[1], 100);
    }
}

// Options.

#[tokio::test]
async fn rfc5001_the_identifier_is_told_to_those_who_ask() {
    let service = service();
    for (question, _) in questions_of_all_kinds() {
        let reply = Query::of(&question).options(&option(NSID, b""));
        let reply = reply.ask(&service).await;
        assert_eq!(reply.option(NSID), Some(&b"somebody"[..]));
        let reply = Query::of(&question).options(&[]).ask(&service).await;
        assert_eq!(reply.option(NSID), None);
    }
}

#[tokio::test]
async fn rfc5001_2_1_what_an_nsid_query_contains_is_ignored() {
    let query = Query::a("example.com").options(&option(NSID, b"who is there"));
    let reply = query.ask(&service()).await;
    assert_eq!(reply.option(NSID), Some(&b"somebody"[..]));
}

#[tokio::test]
async fn without_an_identifier_none_is_told() {
    let service = service_with(ServeSettings {
        nsid: String::new(),
        ..settings()
    });
    let query = Query::a("example.com").options(&option(NSID, b""));
    assert_eq!(query.ask(&service).await.codes(), NONE);
}

#[tokio::test]
async fn rfc7828_3_keepalive_tells_the_idle_timeout_over_tcp() {
    let service = service();
    let query = Query::a("example.com").options(&option(KEEPALIVE, b""));
    let reply = query.ask_tcp(&service).await;
    // 10 seconds, in units of 100 ms.
    assert_eq!(reply.option(KEEPALIVE), Some(&[0, 100][..]));
    let reply = Query::a("example.com").options(&[]).ask_tcp(&service).await;
    assert_eq!(reply.option(KEEPALIVE), None);
}

#[tokio::test]
async fn rfc7828_3_3_1_keepalive_is_ignored_over_udp() {
    let service = service();
    for data in [&b""[..], &[0, 100], &[1]] {
        let query = Query::a("example.com").options(&option(KEEPALIVE, data));
        let reply = query.ask(&service).await;
        assert_eq!((reply.rcode, reply.header.counts[1]), (NOERROR, 1));
        assert_eq!(reply.codes(), NONE);
    }
}

#[tokio::test]
async fn rfc7828_3_2_1_a_keepalive_query_with_a_time_is_a_format_error() {
    let question = question("example.com", A, IN);
    let query = Query::of(&question).options(&option(KEEPALIVE, &[0, 100]));
    let reply = query.ask_tcp(&service()).await;
    reply.assert_error(FORMERR, &question, "a time");
}

#[tokio::test]
async fn rfc8467_no_padding_without_encryption() {
    let service = service();
    for transport in [Udp, Tcp] {
        let query = Query::a("example.com").options(&option(PADDING, &[0; 60]));
        let reply = query.ask_from(&service, LOCAL, transport).await;
        assert_eq!((reply.rcode, reply.codes()), (NOERROR, vec![]));
    }
}

// Cookies (RFC 7873, RFC 9018).

const CLIENT_COOKIE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

fn with_cookie(cookie: &[u8]) -> Query {
    Query::a("example.com").options(&option(COOKIE, cookie))
}

/// The cookie that a client gets.
async fn cookie(service: &Service, client: &str, sent: &[u8]) -> Vec<u8> {
    let reply = with_cookie(sent).ask_from(service, client, Udp).await;
    assert_eq!((reply.rcode, reply.header.counts[1]), (NOERROR, 1));
    let cookie = reply.option(COOKIE).unwrap();
    assert_eq!(cookie[..8], sent[..8], "the client's own");
    assert_eq!(cookie.len(), 24);
    // RFC 9018 section 4: version 1, nothing reserved.
    assert_eq!(cookie[8..12], [1, 0, 0, 0]);
    cookie.to_vec()
}

#[tokio::test]
async fn rfc7873_5_2_3_a_client_cookie_alone_gets_a_server_cookie() {
    let service = service();
    let given = cookie(&service, LOCAL, &CLIENT_COOKIE).await;
    assert_eq!(cookie(&service, LOCAL, &given).await, given, "still good");
}

#[tokio::test]
async fn rfc9018_4_3_the_time_in_a_server_cookie_is_unix_time() {
    let given = cookie(&service(), LOCAL, &CLIENT_COOKIE).await;
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let time = wire::read_u32(&given, 12).unwrap();
    assert!(now.abs_diff(u64::from(time)) < 60);
}

#[tokio::test]
async fn rfc7873_4_2_a_server_cookie_depends_on_client_address_and_secret() {
    let service = service();
    let given = cookie(&service, LOCAL, &CLIENT_COOKIE).await;
    let mut others = vec![
        cookie(&service, NEAR, &CLIENT_COOKIE).await,
        cookie(&service, "[2001:db8::1]:4000", &CLIENT_COOKIE).await,
        cookie(&self::service(), LOCAL, &CLIENT_COOKIE).await,
        cookie(&service, LOCAL, &[9; 8]).await,
        given.clone(),
    ];
    // The port does not matter, nor whether the socket is one for IPv6.
    assert_eq!(cookie(&service, "127.0.0.1:4001", &given).await, given);
    let mapped = "[::ffff:127.0.0.1]:4000";
    assert_eq!(cookie(&service, mapped, &given).await, given);
    others.sort_by_key(|cookie| cookie[16..].to_vec());
    others.dedup_by_key(|cookie| cookie[16..].to_vec());
    assert_eq!(others.len(), 5, "all hashes differ");
}

#[tokio::test]
async fn rfc7873_5_2_4_a_bad_server_cookie_is_answered_with_a_good_one() {
    let service = service();
    let given = cookie(&service, LOCAL, &CLIENT_COOKIE).await;
    for length in [8, 15, 16, 17, 32] {
        let bad = [&CLIENT_COOKIE[..], &[0xaa; 32][..length]].concat();
        let fresh = cookie(&service, LOCAL, &bad).await;
        assert_eq!(cookie(&service, LOCAL, &fresh).await, fresh);
    }
    let stolen = cookie(&service, NEAR, &given).await;
    assert_ne!(stolen, given);
}

#[tokio::test]
async fn rfc7873_5_2_2_a_cookie_of_a_wrong_length_is_a_format_error() {
    let service = service();
    for length in (0..8).chain(9..16).chain([41, 42, 100]) {
        for transport in [Udp, Tcp] {
            let query = with_cookie(&vec![1; length]);
            let reply = query.ask_from(&service, LOCAL, transport).await;
            reply.assert_error(FORMERR, &question("example.com", A, IN), length);
            assert_eq!(reply.codes(), NONE);
        }
    }
}

#[tokio::test]
async fn rfc7873_5_2_of_two_cookies_the_first_counts() {
    let options = [option(COOKIE, &CLIENT_COOKIE), option(COOKIE, &[9; 3])].concat();
    let query = Query::a("example.com").options(&options);
    let reply = query.ask(&service()).await;
    assert_eq!(reply.rcode, NOERROR);
    assert_eq!(reply.option(COOKIE).unwrap()[..8], CLIENT_COOKIE);
}

#[tokio::test]
async fn rfc7873_5_2_1_no_cookie_to_those_who_send_none() {
    let service = service();
    for (question, _) in questions_of_all_kinds() {
        let reply = Query::of(&question).options(&[]).ask(&service).await;
        assert_eq!(reply.option(COOKIE), None);
    }
}

#[tokio::test]
async fn every_reply_to_a_cookie_has_one() {
    let service = service();
    let options = option(COOKIE, &CLIENT_COOKIE);
    let mut queries: Vec<_> = questions_of_all_kinds()
        .iter()
        .map(|(question, _)| Query::of(question).options(&options))
        .collect();
    queries.push(Query::a("example.com").word(3 << 11).options(&options));
    queries.push(Query::a("many.example").options(&options));
    queries.push(Query::a("example.com").options(&[&options[..], &[1]].concat()));
    assert!(queries.len() <= 10, "more refusals than a stranger gets");
    for query in queries {
        for (client, transport) in [(LOCAL, Udp), (LOCAL, Tcp), (STRANGER, Udp)] {
            let reply = query.ask_from(&service, client, transport).await;
            let cookie = reply.option(COOKIE).unwrap();
            assert_eq!((cookie.len(), &cookie[..8]), (24, &CLIENT_COOKIE[..]));
        }
    }
}

#[tokio::test]
async fn rfc7873_5_4_a_cookie_without_a_question_gets_a_cookie() {
    let service = service();
    let ask = |cookie: &[u8]| Query::empty().options(&option(COOKIE, cookie));
    let reply = ask(&CLIENT_COOKIE).ask(&service).await;
    reply.assert_error(NOERROR, &[], "no server cookie");
    let given = reply.option(COOKIE).unwrap();
    assert_eq!((given.len(), &given[..8]), (24, &CLIENT_COOKIE[..]));
    let reply = ask(given).ask(&service).await;
    reply.assert_error(NOERROR, &[], "a good one");
    assert_eq!(reply.option(COOKIE), Some(given));
    // That it is bad is said here: the client has asked for nothing else.
    let reply = ask(&[7; 24]).ask(&service).await;
    reply.assert_error(BADCOOKIE, &[], "a bad one");
    assert_eq!(reply.option(COOKIE).unwrap().len(), 24);
    ask(&[7; 9])
        .ask(&service)
        .await
        .assert_error(FORMERR, &[], 9);
    let reply = ask(&CLIENT_COOKIE).ask_from(&service, STRANGER, Udp).await;
    reply.assert_error(REFUSED, &[], "a stranger");
}

#[tokio::test(start_paused = true)]
async fn rfc9018_4_3_a_server_cookie_is_renewed_after_half_an_hour() {
    let service = service();
    let given = cookie(&service, LOCAL, &CLIENT_COOKIE).await;
    let good = async |cookie: &[u8]| {
        let query = Query::empty().options(&option(COOKIE, cookie));
        query.ask(&service).await.rcode == NOERROR
    };
    tokio::time::advance(Duration::from_secs(1790)).await;
    assert_eq!(cookie(&service, LOCAL, &given).await, given);
    tokio::time::advance(Duration::from_secs(20)).await;
    let renewed = cookie(&service, LOCAL, &given).await;
    assert_ne!(renewed, given);
    assert!(good(&given).await && good(&renewed).await);
    tokio::time::advance(Duration::from_secs(1800)).await;
    assert!(!good(&given).await && good(&renewed).await);
}

#[tokio::test(start_paused = true)]
async fn rfc9018_5_a_new_secret_leaves_the_cookies_of_the_last_one_valid() {
    let service = service();
    tokio::time::advance(Duration::from_secs(86_390)).await;
    let given = cookie(&service, LOCAL, &CLIENT_COOKIE).await;
    tokio::time::advance(Duration::from_secs(20)).await;
    let query = Query::empty().options(&option(COOKIE, &given));
    let reply = query.ask(&service).await;
    assert_eq!(reply.rcode, NOERROR);
    assert_ne!(reply.option(COOKIE), Some(&given[..]));
}

// AD (RFC 4035 section 3.2.3, RFC 6840 section 5.8).

/// Queries for a name that ask for AD, and that do not.
fn with_and_without_ad(owner: &str) -> [(Query, bool); 6] {
    let query = Query::a(owner);
    let word = |bits| query.clone().word(flags::RD | bits);
    [
        (query.clone(), false),
        (query.clone().options(&[]), false),
        (word(flags::CD), false),
        (word(flags::AD), true),
        (word(flags::AD | flags::CD), true),
        (query.clone().opt(1232, DO, &[]), true),
    ]
}

async fn assert_ad(service: &Service, owner: &str, client: &str, may_know: bool) {
    for (query, wanted) in with_and_without_ad(owner) {
        for _ in ["looked up", "from the cache"] {
            let reply = query.ask_from(service, client, Udp).await;
            assert_eq!(reply.rcode, NOERROR);
            assert_eq!(reply.has(flags::AD), wanted && may_know, "{query:?}");
        }
    }
}

#[tokio::test]
async fn a_verified_answer_has_ad_for_clients_on_this_host_that_ask() {
    let service = service();
    let mapped = "[::ffff:127.0.0.1]:4000";
    for (client, may_know) in [(LOCAL, true), (mapped, true), (NEAR, false)] {
        assert_ad(&service, &published(), client, may_know).await;
    }
}

#[tokio::test]
async fn a_verified_answer_has_ad_for_all_or_nobody_if_configured_so() {
    for (authentic_data, may_know) in [(AuthenticData::Never, false), (AuthenticData::Always, true)]
    {
        let service = service_with(ServeSettings {
            authentic_data,
            ..settings()
        });
        for client in [LOCAL, NEAR] {
            assert_ad(&service, &published(), client, may_know).await;
        }
    }
}

#[tokio::test]
async fn an_upstreams_ad_is_passed_to_whoever_asks_and_never_made_up() {
    let service = service_with(ServeSettings {
        authentic_data: AuthenticData::Always,
        ..settings()
    });
    for client in [LOCAL, NEAR] {
        assert_ad(&service, "secure.example", client, true).await;
        assert_ad(&service, "example.com", client, false).await;
    }
}

// Extended DNS Errors (RFC 8914).

#[tokio::test]
async fn rfc8914_4_14_a_failure_from_the_cache_says_so_beside_its_reason() {
    let service = service();
    let query = Query::a("broken.example").options(&[]);
    assert_eq!(query.ask(&service).await.edes(), [22]);
    let cached = query.ask(&service).await;
    assert_eq!((cached.rcode, cached.edes()), (SERVFAIL, vec![22, 13]));
    let plain = Query::a("example.com").options(&[]);
    for _ in ["looked up", "from the cache"] {
        assert_eq!(plain.ask(&service).await.edes(), NONE);
    }
}

#[tokio::test]
async fn rfc8914_2_no_reason_without_an_opt() {
    let service = service();
    for (question, rcode) in questions_of_all_kinds() {
        let reply = Query::of(&question).ask(&service).await;
        assert_eq!((reply.rcode, reply.header.counts[3]), (rcode, 0));
    }
}

// Any bytes.

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![0..20_u16, any::<u16>()];
    let data = prop::collection::vec(any::<u8>(), 0..50);
    (code, data).prop_map(|(code, data)| option(code, &data))
}

/// Messages that are nearly queries: most have a question that can be read and an OPT.
fn nearly_a_query() -> impl Strategy<Value = Vec<u8>> {
    let owners = ["example.com", "many.example", "broken.x", "pkarr", "."];
    let owner = prop::sample::select(owners.map(str::to_owned).to_vec());
    let owner = prop_oneof![4 => owner, 1 => Just(published())];
    let question = (
        owner,
        prop_oneof![Just(A), any::<u16>()],
        prop_oneof![4 => Just(IN), 1 => any::<u16>()],
    );
    let opt = (
        any::<u16>(),
        prop_oneof![4 => Just(0_u8), 1 => any::<u8>()],
        any::<u16>(),
        prop::collection::vec(any_option(), 0..4),
    );
    let opts = prop::collection::vec(opt, 0..3);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop::option::weighted(0.1, any::<prop::sample::Index>());
    (any::<u16>(), question, opts, changes, cut).prop_map(|(word, question, opts, changes, cut)| {
        let (owner, rtype, class) = question;
        // QUERY and a query more often than not.
        let word = if word & 3 == 0 {
            word
        } else {
            word & !(flags::QR | flags::OPCODE)
        };
        let mut query = Query::of(&self::question(&owner, rtype, class)).word(word);
        for (payload, version, flags, options) in opts {
            query = query.additional(&opt_record(payload, version, flags, &options.concat()));
        }
        let mut bytes = query.bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

/// The largest reply that a message may get: as its first OPT says, if one can be read.
fn limit(message: &[u8], transport: Transport) -> usize {
    if transport == Tcp {
        return 65_535;
    }
    let layout = Layout::read(message).ok();
    let records = layout.map(|layout| layout.records).unwrap_or_default();
    let opt = records.iter().find(|record| record.rtype == OPT);
    opt.map_or(512, |opt| usize::from(opt.class.clamp(512, 1232)))
}

/// Holds what is true of the reply to any message.
async fn assert_proper(
    service: &Service,
    message: &[u8],
    client: SocketAddr,
    transport: Transport,
) {
    let reply = service.respond(message, client, transport).await;
    let header = Header::read(message);
    let is_query = header.is_some_and(|header| !header.has(flags::QR));
    assert_eq!(reply.is_some(), is_query);
    let (Some(reply), Some(query)) = (reply, header) else {
        return;
    };
    assert!(reply.len() <= limit(message, transport), "{}", reply.len());
    let layout = Layout::read(&reply).unwrap();
    assert_eq!(layout.end, reply.len());
    let header = layout.header;
    assert_eq!(header.id, query.id);
    assert!(header.has(flags::QR));
    assert_eq!(header.opcode(), query.opcode());
    for copied in [flags::RD, flags::CD] {
        assert_eq!(header.has(copied), query.has(copied));
    }
    assert!(!header.has(Z));
    if header.counts[0] == 1 {
        assert_eq!(
            reply[12..layout.question_end],
            message[12..layout.question_end]
        );
    } else {
        assert_eq!(header.counts[0], 0);
    }
    let opts = layout.records.iter().filter(|record| record.rtype == OPT);
    let sent = Layout::read(message).map(|layout| layout.records);
    let sent = sent.is_ok_and(|records| records.iter().any(|record| record.rtype == OPT));
    let opts = opts.count();
    assert!(opts <= usize::from(sent), "{opts} OPTs");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_get_silence_or_a_proper_reply(message in prop::collection::vec(any::<u8>(), 0..600)) {
        block_on(async {
            for transport in [Udp, Tcp] {
                assert_proper(&service(), &message, LOCAL.parse().unwrap(), transport).await;
            }
        });
    }

    #[test]
    fn what_is_nearly_a_query_gets_silence_or_a_proper_reply(messages in prop::collection::vec(nearly_a_query(), 1..5)) {
        block_on(async {
            let service = service();
            for message in messages {
                for transport in [Udp, Tcp] {
                    assert_proper(&service, &message, LOCAL.parse().unwrap(), transport).await;
                }
            }
        });
    }
}

fn block_on(future: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future);
}
