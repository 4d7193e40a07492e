//! Recursion from the root on: a private root, top-level domains and zones on loopback addresses that
//! share a port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::front::{resolver, serve};
use common::{
    Directory, Fetched, PATIENCE, Upstream, Via, below, data, key_of, name, rcode, secret, sign,
};
use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use pkbridge::endpoint::Endpoint;
use pkbridge::pkarr::Suffixes;
use pkbridge::resolve::{
    Anchors, AnswerCache, Asker, Ending, Failure, FetchPacket, Forward, ForwardRule, HoldTimes,
    Names, Packets, Question, Recursive, RecursiveSettings, Resolver, Response, See, Strategy, Tls,
    Ttls, UpstreamSettings, Upstreams, Validating, Wanted, ede, read_root_hints, root_servers,
};
use pkbridge::wire::flags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// How a name server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// As an authority does.
    Good,
    /// REFUSED, whatever is asked.
    Refusing,
    /// It does not answer.
    Silent,
    /// Over UDP everything is truncated.
    Truncating,
    /// Names between others do not exist (RFC 8020 says that they do).
    DenyingEmptyNames,
    /// No records, and no authority.
    Ignorant,
    /// It names the root's servers for every question.
    Upward,
    /// It answers every question for an address, as no authority.
    Forwarding,
    /// With each answer comes an address for www.victim.net, which is not in its zone.
    Poisoning,
}

/// A name server: the last octet of its address, its manner, and its zones.
struct Host(u8, Manner, Vec<Zone>);

struct Zone {
    origin: Name,
    records: Vec<Record>,
}

/// A zone from lines of owner, type and data; `!` for the data of no known form, in hexadecimal.
fn zone(origin: &str, text: &str) -> Zone {
    let mut records = vec![record(
        origin,
        "SOA",
        "ns.invalid. hostmaster.invalid. 1 3600 600 86400 60",
    )];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        records.push(record(word(), word(), word()));
    }
    Zone {
        origin: name(origin),
        records,
    }
}

fn record(owner: &str, rtype: &str, data: &str) -> Record {
    let code = match rtype.strip_prefix("TYPE") {
        Some(number) => number.parse::<u16>().unwrap().into(),
        None => rtype.parse().unwrap(),
    };
    let data = match data.strip_prefix('!') {
        None if [RecordType::NS, RecordType::CNAME, RecordType::PTR].contains(&code) => {
            let target = data.trim_end_matches('.');
            RData::try_from_str(code, &format!("{target}.")).unwrap()
        }
        None => RData::try_from_str(code, data).unwrap(),
        Some(hex) => {
            let mut rdata = NULL::new();
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            rdata.anything = bytes;
            RData::Unknown { code, rdata }
        }
    };
    Record::from_rdata(name(owner), 300, data)
}

impl Zone {
    fn of(&self, owner: &Name, rtype: RecordType) -> Vec<Record> {
        let records = self.records.iter();
        records
            .filter(|r| r.name == *owner && (r.record_type() == rtype || rtype == RecordType::ANY))
            .cloned()
            .collect()
    }

    /// RFC 1034 section 4.3.2, as an authority without recursion does it.
    fn answer(&self, query: &Message, manner: Manner, reply: &mut Message) {
        let (owner, rtype) = (query.queries[0].name(), query.queries[0].query_type());
        let is_cut = |record: &&Record| {
            record.record_type() == RecordType::NS
                && record.name != self.origin
                && record.name.zone_of(owner)
                && !(rtype == RecordType::DS && record.name == *owner)
        };
        if let Some(cut) = self.records.iter().find(is_cut) {
            for server in self.of(&cut.name, RecordType::NS) {
                let RData::NS(host) = &server.data else {
                    unreachable!();
                };
                reply.additionals.extend(self.of(&host.0, RecordType::A));
                reply.authorities.push(server);
            }
            return;
        }
        reply.metadata.authoritative = true;
        reply.answers = self.of(owner, rtype);
        if reply.answers.is_empty() {
            reply.answers = self.of(owner, RecordType::CNAME);
        }
        if query
            .edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok)
        {
            reply.answers.extend(self.of(owner, RecordType::RRSIG));
        }
        if !reply.answers.is_empty() {
            return;
        }
        reply.authorities = self.of(&self.origin, RecordType::SOA);
        let denies = manner == Manner::DenyingEmptyNames;
        let exists = |r: &Record| r.name == *owner || !denies && owner.zone_of(&r.name);
        if !self.records.iter().any(exists) {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
    }
}

impl Host {
    fn reply(&self, query: &Message, via: Via) -> Option<Message> {
        let Self(_, manner, zones) = self;
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        reply.add_queries(query.queries.iter().cloned());
        match manner {
            Manner::Silent => return None,
            Manner::Refusing => {
                reply.metadata.response_code = ResponseCode::Refused;
                return Some(reply);
            }
            Manner::Ignorant => return Some(reply),
            Manner::Upward => {
                reply.authorities.push(record(".", "NS", "a.root."));
                return Some(reply);
            }
            Manner::Forwarding => {
                if query.queries[0].query_type() == RecordType::A {
                    let owner = query.queries[0].name().to_ascii();
                    reply.answers.push(record(&owner, "A", "192.0.2.66"));
                }
                return Some(reply);
            }
            Manner::Truncating if via == Via::Udp => {
                reply.metadata.truncation = true;
                return Some(reply);
            }
            Manner::Poisoning => {
                let wrong = record("www.victim.net", "A", "192.0.2.66");
                reply.additionals.push(wrong);
            }
            Manner::Good | Manner::Truncating | Manner::DenyingEmptyNames => {}
        }
        let owner = query.queries[0].name();
        let zones = zones.iter().filter(|zone| zone.origin.zone_of(owner));
        match zones.max_by_key(|zone| zone.origin.num_labels()) {
            Some(zone) => zone.answer(query, *manner, &mut reply),
            None => reply.metadata.response_code = ResponseCode::Refused,
        }
        if *manner == Manner::Poisoning {
            let wrong = record("www.victim.net", "A", "192.0.2.66");
            reply.answers.push(wrong);
        }
        Some(reply)
    }
}

#[derive(Debug, Clone)]
struct Asked {
    host: u8,
    name: String,
    rtype: RecordType,
    via: Via,
    recursion_desired: bool,
}

/// Name servers that run until this is dropped.
struct Network {
    port: u16,
    root: IpAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

const ROOT: u8 = 2;
const COM: u8 = 3;
const NET: u8 = 4;

fn root() -> Host {
    let text = "com NS ns.com\nns.com A 127.0.0.3\nnet NS ns.net\nns.net A 127.0.0.4";
    Host(ROOT, Manner::Good, vec![zone(".", text)])
}

fn com(text: &str) -> Host {
    Host(COM, Manner::Good, vec![zone("com", text)])
}

fn net(text: &str) -> Host {
    Host(NET, Manner::Good, vec![zone("net", text)])
}

fn good(host: u8, origin: &str, text: &str) -> Host {
    Host(host, Manner::Good, vec![zone(origin, text)])
}

const EXAMPLE_COM: &str = "example.com NS ns.example.com\nns.example.com A 127.0.0.5";

impl Network {
    async fn start(hosts: Vec<Host>) -> Self {
        let address = |host: u8| Ipv4Addr::new(127, 0, 0, host);
        let bind = async |port: u16| -> std::io::Result<(u16, Vec<(UdpSocket, TcpListener)>)> {
            let mut port = port;
            let mut sockets = Vec::new();
            for Host(host, ..) in &hosts {
                let udp = UdpSocket::bind((address(*host), port)).await?;
                port = udp.local_addr()?.port();
                let tcp = TcpListener::bind((address(*host), port)).await?;
                sockets.push((udp, tcp));
            }
            Ok((port, sockets))
        };
        let (port, sockets) = loop {
            if let Ok(bound) = bind(0).await {
                break bound;
            }
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (host, (udp, tcp)) in hosts.into_iter().zip(sockets) {
            let host = Arc::new(host);
            let log = asked.clone();
            let reply = move |bytes: &[u8], via: Via| {
                let query = Message::from_vec(bytes).unwrap();
                log.lock().unwrap().push(Asked {
                    host: host.0,
                    name: query.queries[0].name().to_lowercase().to_ascii(),
                    rtype: query.queries[0].query_type(),
                    via,
                    recursion_desired: query.metadata.recursion_desired,
                });
                Some(host.reply(&query, via)?.to_vec().unwrap())
            };
            let tcp_reply = reply.clone();
            tasks.push(tokio::spawn(async move {
                let mut buffer = [0; 4096];
                loop {
                    let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                    if let Some(reply) = reply(&buffer[..length], Via::Udp) {
                        udp.send_to(&reply, from).await.unwrap();
                    }
                }
            }));
            tasks.push(tokio::spawn(async move {
                loop {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let length = stream.read_u16().await.unwrap();
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    if let Some(reply) = tcp_reply(&query, Via::Tcp) {
                        common::write_framed(&mut stream, &reply).await;
                        stream.shutdown().await.unwrap();
                    }
                }
            }));
        }
        Self {
            port,
            root: address(ROOT).into(),
            asked,
            tasks,
        }
    }

    /// A recursion that knows nothing but the root yet.
    fn recursive(&self) -> Recursive {
        self.recursive_within(PATIENCE)
    }

    fn recursive_within(&self, timeout: Duration) -> Recursive {
        Recursive::new(RecursiveSettings {
            timeout,
            ..self.settings(&[])
        })
        .unwrap()
    }

    /// With these domains for others to answer.
    fn settings(&self, rules: &[&str]) -> RecursiveSettings {
        RecursiveSettings {
            root_servers: vec![self.root],
            suffixes: Suffixes::new(["pkarr"]),
            rules: rules.iter().map(|domain| name(domain)).collect(),
            private_name_servers: true,
            port: self.port,
            timeout: PATIENCE,
        }
    }

    async fn ask(&self, owner: &str, rtype: RecordType) -> Result<Message, Failure> {
        ask(&self.recursive(), owner, rtype).await
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The names that a server was asked for.
    fn names_at(&self, host: u8) -> HashSet<String> {
        let asked = self.asked().into_iter();
        asked
            .filter(|asked| asked.host == host)
            .map(|asked| asked.name)
            .collect()
    }

    fn assert_nobody_was_asked_below(&self, forbidden: &str) {
        let forbidden = forbidden.to_ascii_lowercase();
        for Asked { name, host, .. } in self.asked() {
            assert!(!name.contains(&forbidden), "{name} at {host}");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn question(owner: &str, rtype: RecordType) -> Question {
    Question {
        name: name(owner).to_lowercase(),
        rtype,
        dnssec_ok: false,
        checking_disabled: false,
    }
}

fn read(response: &Response) -> Message {
    assert!(!response.layout.header.has(flags::AA));
    assert_eq!(
        u16::from(rcode(&Message::from_vec(&response.wire).unwrap())),
        response.rcode
    );
    Message::from_vec(&response.wire).unwrap()
}

async fn ask(recursive: &Recursive, owner: &str, rtype: RecordType) -> Result<Message, Failure> {
    let response = recursive.forward(&question(owner, rtype)).await?;
    Ok(read(&response))
}

fn address(last: u8) -> RData {
    RData::A(Ipv4Addr::new(192, 0, 2, last).into())
}

fn set<const N: usize>(names: [&str; N]) -> HashSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn assert_no_authority_reached(failure: &Failure) {
    assert_eq!(failure.ede().code, ede::NO_REACHABLE_AUTHORITY, "{failure}");
}

#[tokio::test]
async fn an_answer_is_found_from_the_root_on() {
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        good(5, "example.com", "www.example.com A 192.0.2.1"),
    ])
    .await;
    let reply = network.ask("www.example.com", RecordType::A).await.unwrap();
    assert_eq!(rcode(&reply), ResponseCode::NoError);
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
    assert!(network.asked().iter().all(|asked| !asked.recursion_desired));
}

/// RFC 9156.
#[tokio::test]
async fn a_name_server_sees_one_label_more_than_its_zone() {
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        good(5, "example.com", "secret.www.example.com A 192.0.2.1"),
    ])
    .await;
    let owner = "secret.www.example.com";
    network.ask(owner, RecordType::A).await.unwrap();
    assert_eq!(network.names_at(ROOT), set(["com."]));
    assert_eq!(network.names_at(COM), set(["example.com."]));
}

#[tokio::test]
async fn what_is_known_of_a_zone_is_not_asked_again() {
    let text = "www.example.com A 192.0.2.1\nmail.example.com A 192.0.2.2";
    let network =
        Network::start(vec![root(), com(EXAMPLE_COM), good(5, "example.com", text)]).await;
    let recursive = network.recursive();
    ask(&recursive, "www.example.com", RecordType::A)
        .await
        .unwrap();
    let reply = ask(&recursive, "mail.example.com", RecordType::A)
        .await
        .unwrap();
    assert_eq!(data(&reply, RecordType::A), [address(2)]);
    let above = |asked: &Asked| asked.host == ROOT || asked.host == COM;
    assert_eq!(network.asked().into_iter().filter(above).count(), 2);
}

/// A flush and a prefetch would do nothing if answers were kept here as well.
#[tokio::test]
async fn an_answer_is_asked_for_again_whatever_its_ttl() {
    let text = "www.example.com A 192.0.2.1\nalias.example.com CNAME www.example.com";
    let network =
        Network::start(vec![root(), com(EXAMPLE_COM), good(5, "example.com", text)]).await;
    let recursive = network.recursive();
    for owner in ["www.example.com", "alias.example.com", "no.example.com"] {
        let count = || {
            let asked = network.asked().into_iter();
            let is_it = |asked: &Asked| asked.name == format!("{owner}.");
            asked
                .filter(|a| is_it(a) && a.rtype == RecordType::A)
                .count()
        };
        let mut counts = vec![count()];
        for _ in 0..2 {
            let reply = ask(&recursive, owner, RecordType::A).await.unwrap();
            assert!(reply.answers.iter().all(|record| record.ttl == 300));
            assert!(reply.authorities.iter().all(|record| record.ttl == 300));
            counts.push(count());
        }
        assert!(counts.is_sorted_by(|a, b| a < b), "{owner}: {counts:?}");
    }
    let above = |asked: &Asked| asked.host == ROOT || asked.host == COM;
    assert_eq!(network.asked().into_iter().filter(above).count(), 2);
}

#[tokio::test]
async fn a_delegation_without_glue_is_followed() {
    let network = Network::start(vec![
        root(),
        com("example.com NS ns.other.net"),
        net("other.net NS a.other.net\na.other.net A 127.0.0.6"),
        good(6, "other.net", "ns.other.net A 127.0.0.5"),
        good(5, "example.com", "www.example.com A 192.0.2.1"),
    ])
    .await;
    let reply = network.ask("www.example.com", RecordType::A).await.unwrap();
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
}

#[tokio::test]
async fn an_alias_is_followed_across_zones() {
    let network = Network::start(vec![
        root(),
        com(&format!("{EXAMPLE_COM}\nns.com A 127.0.0.3")),
        net("victim.net CNAME other.net\nother.net A 192.0.2.7"),
        good(
            5,
            "example.com",
            "a.example.com CNAME b.example.com\nb.example.com CNAME victim.net",
        ),
    ])
    .await;
    let reply = network.ask("a.example.com", RecordType::A).await.unwrap();
    let owners: Vec<String> = reply.answers.iter().map(|r| r.name.to_ascii()).collect();
    let chain = [
        "a.example.com.",
        "b.example.com.",
        "victim.net.",
        "other.net.",
    ];
    assert_eq!(owners, chain);
    assert_eq!(data(&reply, RecordType::A), [address(7)]);
    // The alias itself may be asked for.
    let reply = network
        .ask("b.example.com", RecordType::CNAME)
        .await
        .unwrap();
    assert_eq!(reply.answers.len(), 1);
}

#[tokio::test]
async fn the_absence_behind_an_alias_is_told_with_the_alias() {
    let network = Network::start(vec![
        root(),
        com("here.com CNAME there.net\nempty.com CNAME known.net"),
        net("known.net TXT x"),
    ])
    .await;
    let reply = network.ask("here.com", RecordType::A).await.unwrap();
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    assert_eq!(data(&reply, RecordType::CNAME).len(), 1);
    assert_eq!(reply.authorities[0].name, name("net"));
    let reply = network.ask("empty.com", RecordType::A).await.unwrap();
    assert_eq!(rcode(&reply), ResponseCode::NoError);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.authorities[0].name, name("net"));
}

#[tokio::test]
async fn aliases_in_a_circle_are_a_failure() {
    let network = Network::start(vec![
        root(),
        com("a.com CNAME b.net"),
        net("b.net CNAME a.com"),
    ]);
    let failure = network.await.ask("a.com", RecordType::A).await;
    assert_eq!(failure.unwrap_err(), Failure::AliasChain);
    let network = Network::start(vec![root(), com("a.com CNAME b.com\nb.com CNAME a.com")]);
    let failure = network.await.ask("a.com", RecordType::A).await;
    assert_eq!(failure.unwrap_err(), Failure::AliasChain);
}

#[tokio::test]
async fn nxdomain_and_nodata_come_with_the_soa_of_their_zone() {
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        good(5, "example.com", "www.example.com A 192.0.2.1"),
    ])
    .await;
    for (owner, rtype, expected, zone) in [
        (
            "no.example.com",
            RecordType::A,
            ResponseCode::NXDomain,
            "example.com",
        ),
        (
            "www.example.com",
            RecordType::AAAA,
            ResponseCode::NoError,
            "example.com",
        ),
        ("deep.no.com", RecordType::A, ResponseCode::NXDomain, "com"),
        (
            "deep.no.invented",
            RecordType::A,
            ResponseCode::NXDomain,
            ".",
        ),
    ] {
        let recursive = network.recursive();
        // The second time it is remembered.
        for _ in 0..2 {
            let reply = ask(&recursive, owner, rtype).await.unwrap();
            assert_eq!(rcode(&reply), expected, "{owner}");
            assert!(reply.answers.is_empty(), "{owner}: {:?}", reply.answers);
            let soas: Vec<&Name> = reply.authorities.iter().map(|r| &r.name).collect();
            assert_eq!(soas, [&name(zone)], "{owner}");
        }
    }
    // RFC 8020: below what does not exist nothing is asked.
    assert_eq!(network.names_at(ROOT), set(["com.", "invented."]));
    assert_eq!(network.names_at(COM), set(["example.com.", "no.com."]));
}

#[tokio::test]
async fn a_server_that_denies_the_names_between_its_names_is_asked_on() {
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        Host(
            5,
            Manner::DenyingEmptyNames,
            vec![zone("example.com", "a.b.c.example.com A 192.0.2.1")],
        ),
    ])
    .await;
    let reply = network.ask("a.b.c.example.com", RecordType::A).await;
    assert_eq!(data(&reply.unwrap(), RecordType::A), [address(1)]);
}

#[tokio::test]
async fn a_truncated_reply_is_asked_for_over_tcp() {
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        Host(
            5,
            Manner::Truncating,
            vec![zone("example.com", "www.example.com A 192.0.2.1")],
        ),
    ])
    .await;
    let reply = network.ask("www.example.com", RecordType::A).await.unwrap();
    assert_eq!(data(&reply, RecordType::A), [address(1)]);
    let over_tcp = |asked: &Asked| asked.via == Via::Tcp && asked.rtype == RecordType::A;
    assert!(network.asked().iter().any(over_tcp));
}

const TWO_SERVERS: &str = "example.com NS ns1.example.com\nexample.com NS ns2.example.com\n\
    ns1.example.com A 127.0.0.5\nns2.example.com A 127.0.0.6";

/// Which server is asked first is left to chance; so until it was the bad one.
async fn the_good_server_answers_beside(manner: Manner) {
    let text = "www.example.com A 192.0.2.1";
    let network = Network::start(vec![
        root(),
        com(TWO_SERVERS),
        Host(5, manner, vec![zone("example.com", text)]),
        good(6, "example.com", text),
    ])
    .await;
    while network.names_at(5).is_empty() {
        let reply = network.ask("www.example.com", RecordType::A).await;
        let reply = reply.unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)], "{manner:?}");
        let reply = network.ask("no.example.com", RecordType::A).await;
        assert_eq!(rcode(&reply.unwrap()), ResponseCode::NXDomain, "{manner:?}");
    }
}

#[tokio::test]
async fn a_lame_server_is_passed_over() {
    the_good_server_answers_beside(Manner::Refusing).await;
    the_good_server_answers_beside(Manner::Ignorant).await;
    the_good_server_answers_beside(Manner::Upward).await;
    the_good_server_answers_beside(Manner::Forwarding).await;
}

#[tokio::test]
async fn a_silent_server_is_passed_over() {
    the_good_server_answers_beside(Manner::Silent).await;
}

/// A denial is no fault of the server that makes it: it does not send questions to a silent one.
#[tokio::test]
async fn a_silent_server_is_avoided_while_the_other_denies() {
    let network = Network::start(vec![
        root(),
        com(TWO_SERVERS),
        Host(5, Manner::Silent, vec![]),
        good(6, "example.com", ""),
    ])
    .await;
    let recursive = network.recursive();
    for number in 0..30 {
        let owner = format!("no{number}.example.com");
        let reply = ask(&recursive, &owner, RecordType::A).await.unwrap();
        assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    }
    let asked = network.asked();
    let silent = asked.iter().filter(|asked| asked.host == 5).count();
    // Each query is sent twice.
    assert!(silent <= 8, "{silent} of {}", asked.len());
}

/// Nothing is at that address.
#[tokio::test]
async fn a_server_that_is_gone_is_passed_over() {
    let text = TWO_SERVERS.replace("127.0.0.5", "127.0.0.99");
    let network = Network::start(vec![
        root(),
        com(&text),
        good(6, "example.com", "www.example.com A 192.0.2.1"),
    ])
    .await;
    for _ in 0..8 {
        let reply = network.ask("www.example.com", RecordType::A).await.unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)]);
    }
}

#[tokio::test]
async fn a_failure_is_no_absence() {
    for manner in [
        Manner::Refusing,
        Manner::Ignorant,
        Manner::Upward,
        Manner::Forwarding,
    ] {
        let network = Network::start(vec![
            root(),
            com(EXAMPLE_COM),
            Host(5, manner, vec![zone("example.com", "")]),
        ])
        .await;
        let failure = network.ask("www.example.com", RecordType::A).await;
        assert_no_authority_reached(&failure.unwrap_err());
    }
    // The top-level domain's servers are gone.
    let network = Network::start(vec![root()]).await;
    let failure = network.ask("www.example.com", RecordType::A).await;
    assert_no_authority_reached(&failure.unwrap_err());
}

#[tokio::test]
async fn silence_everywhere_is_a_failure_within_the_timeout() {
    let network = Network::start(vec![Host(ROOT, Manner::Silent, vec![])]).await;
    let recursive = network.recursive_within(Duration::from_millis(200));
    let answer = ask(&recursive, "www.example.com", RecordType::A);
    let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
    assert_no_authority_reached(&answer.expect("in time").unwrap_err());
    // And a server's patience ends before a generous timeout does.
    let failure = network.ask("www.example.com", RecordType::A).await;
    assert_no_authority_reached(&failure.unwrap_err());
}

/// RFC 5452 section 6: what a server says of others' names does not count.
#[tokio::test]
async fn records_outside_of_a_servers_zone_do_not_count() {
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        net("www.victim.net A 192.0.2.7"),
        Host(
            5,
            Manner::Poisoning,
            vec![zone(
                "example.com",
                "www.example.com A 192.0.2.1\nalias.example.com CNAME www.victim.net",
            )],
        ),
    ])
    .await;
    let recursive = network.recursive();
    let reply = ask(&recursive, "www.example.com", RecordType::A).await;
    assert_eq!(data(&reply.unwrap(), RecordType::A), [address(1)]);
    let reply = ask(&recursive, "alias.example.com", RecordType::A).await;
    assert_eq!(data(&reply.unwrap(), RecordType::A), [address(7)]);
    let reply = ask(&recursive, "www.victim.net", RecordType::A).await;
    assert_eq!(data(&reply.unwrap(), RecordType::A), [address(7)]);
}

#[tokio::test]
async fn dnssec_records_go_to_those_who_ask_for_them() {
    let signature = format!("!{}", "00".repeat(18) + "00" + "2a");
    let text = format!("www.example.com A 192.0.2.1\nwww.example.com RRSIG {signature}");
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        good(5, "example.com", &text),
    ]);
    let network = network.await;
    let recursive = network.recursive();
    let plain = question("www.example.com", RecordType::A);
    let wants_dnssec = Question {
        dnssec_ok: true,
        ..plain.clone()
    };
    let types = async |question: &Question| -> Vec<u16> {
        let response = recursive.forward(question).await.unwrap();
        response.layout.records.iter().map(|r| r.rtype).collect()
    };
    let (a, rrsig) = (u16::from(RecordType::A), u16::from(RecordType::RRSIG));
    assert_eq!(types(&plain).await, [a]);
    assert_eq!(types(&wants_dnssec).await, [a, rrsig]);
    assert_eq!(types(&plain).await, [a]);
}

/// RFC 4035 section 3.1.4.1.
#[tokio::test]
async fn a_ds_record_is_the_parents_to_tell() {
    let text = format!("{EXAMPLE_COM}\nexample.com DS !00010802aabb");
    let network = Network::start(vec![root(), com(&text), good(5, "example.com", "")]).await;
    let reply = network.ask("example.com", RecordType::DS).await.unwrap();
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(network.names_at(5), HashSet::new());
}

#[tokio::test]
async fn the_root_is_asked_about_itself() {
    let network = Network::start(vec![root()]).await;
    let reply = network.ask(".", RecordType::SOA).await.unwrap();
    assert_eq!(reply.answers.len(), 1);
    let reply = network.ask("com", RecordType::A).await.unwrap_err();
    assert_no_authority_reached(&reply);
}

#[tokio::test]
async fn record_data_that_a_parser_would_trip_over_arrives() {
    let records = [
        "CAA !00",
        "TYPE65280 !c00c",
        "SVCB !000100000100",
        "TYPE42 !",
    ];
    let text = records
        .map(|record| format!("www.example.com {record}\n"))
        .concat();
    let network = Network::start(vec![
        root(),
        com(EXAMPLE_COM),
        good(5, "example.com", &text),
    ]);
    let network = network.await;
    let recursive = network.recursive();
    for (number, expected) in [
        (257, &[0][..]),
        (65280, &[0xc0, 0x0c]),
        (64, &[0, 1, 0, 0, 1, 0]),
        (42, &[]),
    ] {
        let question = question("www.example.com", number.into());
        let response = recursive.forward(&question).await.unwrap();
        let [record] = &response.layout.records[..] else {
            panic!("{number}: {response:?}");
        };
        assert_eq!(record.rtype, number);
        assert_eq!(&response.wire[record.rdata.clone()], expected, "{number}");
    }
}

#[tokio::test]
async fn the_reverse_name_of_an_ipv6_address_is_found() {
    let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.2.0.a.2";
    let owner = format!("{nibbles}.ip6.arpa");
    let delegation = "ip6.arpa NS ns.ip6.arpa\nns.ip6.arpa A 127.0.0.5";
    let text = format!("{owner} PTR www.example.com");
    let network = Network::start(vec![
        good(ROOT, ".", delegation),
        good(5, "ip6.arpa", &text),
    ])
    .await;
    let reply = network.ask(&owner, RecordType::PTR).await.unwrap();
    assert_eq!(reply.answers.len(), 1);
}

#[tokio::test]
async fn the_queries_for_one_name_are_bounded() {
    let hosts = 10..=200_u8;
    let glue = hosts
        .clone()
        .map(|host| format!("\nns.example.com A 127.0.0.{host}"));
    let text = "example.com NS ns.example.com".to_owned() + &glue.collect::<String>();
    let mut servers = vec![
        root(),
        Host(COM, Manner::Truncating, vec![zone("com", &text)]),
    ];
    servers.extend(hosts.map(|host| Host(host, Manner::Refusing, vec![])));
    let network = Network::start(servers).await;
    let failure = network.ask("www.example.com", RecordType::A).await;
    assert_no_authority_reached(&failure.unwrap_err());
    let queries = network.asked().len();
    // Those to the top-level domain are made twice, over UDP and TCP.
    assert!((100..=140).contains(&queries), "{queries}");
}

// Public-key names.

#[tokio::test]
async fn an_alias_into_a_public_key_name_is_given_and_not_followed() {
    let key = key_of(&secret(1)).to_string();
    for target in [
        key.clone(),
        key.to_uppercase(),
        format!("www.{key}"),
        format!("{key}.pkarr"),
        format!("{key}.lan"),
        "no-key.pkarr".to_owned(),
    ] {
        let text = format!("www.example.com CNAME there.net\na.example.com CNAME {target}");
        let network = Network::start(vec![
            root(),
            com(EXAMPLE_COM),
            net("there.net CNAME a.example.com"),
            good(5, "example.com", &text),
        ])
        .await;
        let reply = network.ask("www.example.com", RecordType::A).await.unwrap();
        assert_eq!(rcode(&reply), ResponseCode::NoError);
        let owners: Vec<String> = reply.answers.iter().map(|r| r.name.to_ascii()).collect();
        let chain = ["www.example.com.", "there.net.", "a.example.com."];
        assert_eq!(owners, chain, "{target}");
        let RData::CNAME(last) = &reply.answers[2].data else {
            panic!("{reply:?}");
        };
        assert_eq!(last.0, name(&target));
        network.assert_nobody_was_asked_below(&key);
        network.assert_nobody_was_asked_below("pkarr");
    }
}

#[tokio::test]
async fn name_servers_below_a_public_key_are_not_looked_up() {
    let key = key_of(&secret(1)).to_string();
    for host in [
        format!("ns.{key}"),
        key.clone(),
        format!("ns.{}.pkarr", key.to_uppercase()),
        format!("ns.{key}.lan"),
        "ns.onion".to_owned(),
    ] {
        let servers = |other: &str| {
            vec![
                root(),
                com(&format!("example.com NS {host}\n{other}")),
                net("ns.net A 127.0.0.4\nother.net A 127.0.0.5"),
                good(5, "example.com", "www.example.com A 192.0.2.1"),
            ]
        };
        let network = Network::start(servers("")).await;
        let failure = network.ask("www.example.com", RecordType::A).await;
        assert_no_authority_reached(&failure.unwrap_err());
        let beside = Network::start(servers("example.com NS other.net")).await;
        let reply = beside.ask("www.example.com", RecordType::A).await.unwrap();
        assert_eq!(data(&reply, RecordType::A), [address(1)], "{host}");
        for network in [network, beside] {
            for forbidden in [key.as_str(), "pkarr", "onion"] {
                network.assert_nobody_was_asked_below(forbidden);
            }
        }
    }
}

#[tokio::test]
async fn a_question_for_a_public_key_name_is_refused_even_if_it_comes_here() {
    let network = Network::start(vec![root()]).await;
    let key = key_of(&secret(1)).to_string();
    for owner in [
        key.clone(),
        format!("www.{key}.pkarr"),
        format!("{key}.com"),
    ] {
        network.ask(&owner, RecordType::A).await.unwrap_err();
        network.assert_nobody_was_asked_below(&key);
        network.assert_nobody_was_asked_below("pkarr");
    }
}

/// Finds the packet of `secret(1)` for whichever key.
#[derive(Debug)]
struct OnePacket;

impl FetchPacket for OnePacket {
    fn fetch<'a>(&'a self, _: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        let owner = below(key_of(&secret(1)), "www");
        let packet = sign(&secret(1), 1, vec![(owner, 60, address(9))]);
        Box::pin(async move { Fetched::Packet(packet).play(see) })
    }
}

#[tokio::test]
async fn behind_the_alias_the_packet_of_the_key_answers() {
    let target = below(key_of(&secret(1)), "www");
    let network = Network::start(vec![root(), com(&format!("www.com CNAME {target}"))]).await;
    let times = HoldTimes {
        min: Duration::ZERO,
        max: PATIENCE,
        empty: PATIENCE,
        failure: PATIENCE,
        max_stale: Duration::ZERO,
        stale_wait: Duration::ZERO,
    };
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
    let resolver = Resolver::new(
        names,
        Packets::new(Arc::new(OnePacket), None, 1 << 16, times),
        Arc::new(network.recursive()),
        ttls,
        AnswerCache::new(1 << 20),
    );
    let answer = resolver
        .resolve(question("www.com", RecordType::A), Asker::Refresh)
        .await;
    let answer = Message::from_vec(answer.wire()).unwrap();
    assert_eq!(data(&answer, RecordType::CNAME).len(), 1);
    assert_eq!(data(&answer, RecordType::A), [address(9)]);
    network.assert_nobody_was_asked_below(&key_of(&secret(1)).to_string());
}

// Special-use names, and names with a rule.

const SPECIAL: [&str; 6] = [
    "localhost",
    "a.LocalHost",
    "printer.local",
    "hidden.onion",
    "a.test",
    "1.168.192.in-addr.arpa",
];

#[tokio::test]
async fn a_question_for_a_special_use_name_is_refused_even_if_it_comes_here() {
    let network = Network::start(vec![root()]).await;
    for owner in SPECIAL {
        let failure = network.ask(owner, RecordType::A).await.unwrap_err();
        assert_no_authority_reached(&failure);
    }
    let asked = network.asked();
    assert!(asked.is_empty(), "{asked:?}");
}

/// The aliases of an answer, and where the last one leads.
fn aliases(reply: &Message) -> (Vec<String>, Name) {
    assert_eq!(rcode(reply), ResponseCode::NoError, "{reply}");
    let owners = reply.answers.iter().map(|r| r.name.to_ascii()).collect();
    let Some(RData::CNAME(last)) = reply.answers.last().map(|record| &record.data) else {
        panic!("{reply}");
    };
    (owners, last.0.clone())
}

#[tokio::test]
async fn an_alias_to_a_special_use_name_is_given_and_not_followed() {
    for target in SPECIAL {
        let text = format!("www.com CNAME there.net\na.com CNAME {target}");
        let network = Network::start(vec![root(), com(&text), net("there.net CNAME a.com")]).await;
        let reply = network.ask("www.com", RecordType::A).await.unwrap();
        let owners = ["www.com.", "there.net.", "a.com."].map(str::to_owned);
        assert_eq!(aliases(&reply), (owners.to_vec(), name(target)));
        network.assert_nobody_was_asked_below(target);
    }
}

#[tokio::test]
async fn an_alias_to_a_name_with_a_rule_is_given_and_not_followed() {
    // Those of the zone above know it, too, and would tell.
    let text = "www.com CNAME host.Corp.net\nnear.com CNAME host.corp.com\n\
                host.corp.com A 192.0.2.66";
    let network = Network::start(vec![root(), com(text), net("host.corp.net A 192.0.2.66")]).await;
    let settings = network.settings(&["corp.NET", "corp.com"]);
    let recursive = Recursive::new(settings).unwrap();
    for (owner, target) in [("www.com", "host.corp.net"), ("near.com", "host.corp.com")] {
        let reply = ask(&recursive, owner, RecordType::A).await.unwrap();
        let owners = vec![format!("{owner}.")];
        assert_eq!(aliases(&reply), (owners, name(target)));
    }
    ask(&recursive, "host.corp.net", RecordType::A)
        .await
        .unwrap_err();
    network.assert_nobody_was_asked_below("corp");
    // It is not refused for anything else.
    let reply = network.ask("www.com", RecordType::A).await.unwrap();
    assert_eq!(data(&reply, RecordType::A), [address(66)]);
}

/// All layers of `mode = "recursive"` with `validate`, from a client's socket on: `lan` and `corp.net` have
/// a server of their own, and nothing below `com` is validated. Whatever else is must fail: the built-in
/// anchors are not this root's.
async fn serve_all_layers(network: &Network, of_rule: &Upstream) -> SocketAddr {
    let rules = ["lan", "corp.net"];
    let recursive = Recursive::new(network.settings(&rules)).unwrap();
    let upstreams = Upstreams::new(UpstreamSettings {
        servers: vec![],
        rules: vec![ForwardRule {
            domains: rules.map(name).to_vec(),
            servers: vec![Endpoint::plain(of_rule.address)],
        }],
        strategy: Strategy::Fastest,
        timeout: PATIENCE,
        tls: Arc::new(Tls::new(None).unwrap()),
        bootstrap: vec![],
    });
    let suffixes = Suffixes::new(["pkarr"]);
    let validating = Validating::new(
        Arc::new(upstreams.with_others(Arc::new(recursive))),
        Anchors::built_in(),
        vec![name("com")],
        suffixes.clone(),
    );
    let names = Names {
        suffixes,
        special_use: true,
        ..Names::default()
    };
    let owner = below(key_of(&secret(1)), "www");
    let packet = sign(&secret(1), 1, vec![(owner, 60, address(9))]);
    serve(resolver(names, Some(packet), Arc::new(validating))).await
}

#[tokio::test]
async fn with_all_layers_each_name_is_answered_by_whom_it_belongs_to() {
    let key = key_of(&secret(1)).to_string();
    let text = format!(
        "www.com A 192.0.2.7\nkey.com CNAME www.{key}\nhere.com CNAME localhost\n\
         none.com CNAME a.test\nvpn.com CNAME host.corp.net"
    );
    let network = Network::start(vec![
        root(),
        com(&text),
        net("www.net A 192.0.2.7\nhost.corp.net A 192.0.2.66"),
    ])
    .await;
    let of_rule = Upstream::plain(300).await;
    let server = serve_all_layers(&network, &of_rule).await;
    let loopback = RData::A(Ipv4Addr::LOCALHOST.into());
    let key_name = format!("www.{key}");
    for (owner, expected) in [
        ("www.com", address(7)),
        (&key_name, address(9)),
        ("localhost", loopback.clone()),
        ("nas.lan", address(1)),
        ("key.com", address(9)),
        ("here.com", loopback),
        ("vpn.com", address(1)),
    ] {
        for _ in 0..2 {
            let reply = common::ask(server, owner, RecordType::A).await;
            assert_eq!(rcode(&reply), ResponseCode::NoError, "{reply}");
            let found = data(&reply, RecordType::A);
            assert_eq!(found, std::slice::from_ref(&expected), "{owner}");
        }
    }
    for owner in ["a.test", "none.com"] {
        let reply = common::ask(server, owner, RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "{owner}");
    }
    // This one is validated.
    let reply = common::ask(server, "www.net", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail, "{reply}");
    assert_eq!(of_rule.names(), ["nas.lan.", "host.corp.net."]);
    for forbidden in [&key, "localhost", "test", "lan", "corp"] {
        network.assert_nobody_was_asked_below(forbidden);
    }
}

#[test]
fn root_servers_that_may_not_be_asked_are_refused_at_the_start() {
    let start = |root_servers: &[&str]| {
        Recursive::new(RecursiveSettings {
            root_servers: root_servers.iter().map(|ip| ip.parse().unwrap()).collect(),
            suffixes: Suffixes::default(),
            rules: vec![],
            private_name_servers: false,
            port: 53,
            timeout: PATIENCE,
        })
    };
    assert!(start(&["198.41.0.4"]).is_ok());
    assert!(start(&[]).unwrap_err().contains("no root servers"));
    let error = start(&["198.41.0.4", "10.0.0.1"]).unwrap_err();
    assert!(error.contains("10.0.0.1"), "{error}");
}

#[test]
fn root_hints_are_read_from_a_file() {
    let directory = Directory::new();
    let path = directory.join("root.hints");
    let hints = "; as IANA writes them\n\
        .                        3600000      NS    A.ROOT-SERVERS.NET.\n\
        A.ROOT-SERVERS.NET.      3600000      A     198.41.0.4\n\
        A.ROOT-SERVERS.NET.      3600000      AAAA  2001:503:ba3e::2:30\n; End of file";
    std::fs::write(&path, hints).unwrap();
    assert_eq!(read_root_hints(&path).unwrap(), root_servers()[..2]);
    std::fs::write(&path, hints.replace("198.41.0.4", "198.41.0.400")).unwrap();
    let error = read_root_hints(&path).unwrap_err();
    assert!(
        error.starts_with(&format!("{}:3: ", path.display())),
        "{error}"
    );
    let error = read_root_hints(&directory.join("none")).unwrap_err();
    assert!(error.contains("cannot read the root hints"), "{error}");
}
