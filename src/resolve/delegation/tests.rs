//! Name servers on loopback addresses that say what a test has them say.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::*;
use crate::pkarr::{Record, soa_record};
use crate::resolve::failure::ede;
use crate::wire::{self, CLASS_IN, HEADER_LEN, Header, Section, flags};

/// Flags of an authority's reply.
const AUTHORITY: u16 = flags::QR | flags::AA;
/// Flags of a referral.
const REFERS: u16 = flags::QR;
/// RCODEs.
const NXDOMAIN: u16 = 3;
const REFUSED: u16 = 5;
/// Time for one question, where it does not matter.
const PLENTY: Duration = Duration::from_secs(20);
/// TTL of all records.
const TTL: u32 = 300;
/// The last byte of an address that must not be believed.
const FORGED: u8 = 66;

type Sections<'a> = [&'a [Record]; 3];
const EMPTY: Sections<'static> = [&[], &[], &[]];

fn n(name: &str) -> Name {
    Name::from_ascii(name).unwrap()
}

fn record(owner: &str, rtype: RecordType, rdata: Vec<u8>) -> Record {
    Record {
        owner: n(owner),
        rtype,
        ttl: TTL,
        rdata,
    }
}

fn a(owner: &str, last: u8) -> Record {
    record(owner, RecordType::A, vec![192, 0, 2, last])
}

fn naming(owner: &str, rtype: RecordType, target: &str) -> Record {
    record(owner, rtype, wire::name_bytes(&n(target)))
}

fn ns(owner: &str, target: &str) -> Record {
    naming(owner, RecordType::NS, target)
}

fn cname(owner: &str, target: &str) -> Record {
    naming(owner, RecordType::CNAME, target)
}

fn soa(owner: &str) -> Record {
    soa_record(&n(owner), 1, 60)
}

fn rrsig(owner: &str, covers: RecordType) -> Record {
    let rdata = [&u16::from(covers).to_be_bytes()[..], b"signed"].concat();
    record(owner, RecordType::RRSIG, rdata)
}

fn question(name: &str, rtype: RecordType) -> Question {
    Question {
        name: n(name),
        rtype,
        dnssec_ok: false,
        checking_disabled: true,
    }
}

/// A query that a server got.
struct Asked {
    query: Vec<u8>,
    net: u8,
    /// Which server: 1 is the first.
    server: u8,
    from_port: u16,
    tcp: bool,
}

impl Asked {
    fn name(&self) -> String {
        let name = wire::read_name(&self.query, HEADER_LEN).unwrap().0;
        name.to_lowercase().to_ascii()
    }

    fn header(&self) -> Header {
        Header::read(&self.query).unwrap()
    }

    /// A record with the address of another server.
    fn glue(&self, owner: &str, server: u8) -> Record {
        record(owner, RecordType::A, vec![127, 100, self.net, server])
    }

    /// The reply with this flag word (and RCODE) and these records.
    fn reply(&self, word: u16, sections: Sections<'_>) -> Vec<u8> {
        let question = wire::plain_question(&self.query).unwrap();
        let mut reply = self.query[..2].to_vec();
        reply.extend(word.to_be_bytes());
        reply.extend([0, 1]);
        for section in sections {
            reply.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
        }
        reply.extend(&self.query[question]);
        for record in sections.into_iter().flatten() {
            reply.extend(wire::name_bytes(&record.owner));
            reply.extend(u16::from(record.rtype).to_be_bytes());
            reply.extend(CLASS_IN.to_be_bytes());
            reply.extend(record.ttl.to_be_bytes());
            reply.extend(u16::try_from(record.rdata.len()).unwrap().to_be_bytes());
            reply.extend(&record.rdata);
        }
        reply
    }

    fn answers(&self, records: &[Record]) -> Option<Vec<u8>> {
        Some(self.reply(AUTHORITY, [records, &[], &[]]))
    }

    fn refers(&self, authorities: &[Record], additionals: &[Record]) -> Option<Vec<u8>> {
        Some(self.reply(REFERS, [&[], authorities, additionals]))
    }

    fn fails(&self, rcode: u16) -> Option<Vec<u8>> {
        Some(self.reply(flags::QR | rcode, EMPTY))
    }
}

/// Name servers on one port of addresses of their own.
struct Net {
    number: u8,
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

/// The address of a server of a net.
fn at(number: u8, server: u8) -> IpAddr {
    IpAddr::from([127, 100, number, server])
}

impl Net {
    /// Starts servers 1 to `count`. `says` gives the reply of each, or none.
    async fn start(
        count: u8,
        says: impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let says = Arc::new(says);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let (port, sockets) = bind(number, count).await;
        for (server, udp, tcp) in sockets {
            let hear = {
                let (says, asked) = (Arc::clone(&says), Arc::clone(&asked));
                move |query: &[u8], from_port, tcp| {
                    let heard = Asked {
                        query: query.to_vec(),
                        net: number,
                        server,
                        from_port,
                        tcp,
                    };
                    let reply = says(&heard);
                    asked.lock().unwrap().push(heard);
                    reply
                }
            };
            let hear_tcp = hear.clone();
            tasks.spawn(async move {
                let mut buffer = [0; 4096];
                loop {
                    let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                    if let Some(reply) = hear(&buffer[..length], from.port(), false) {
                        let _ = udp.send_to(&reply, from).await;
                    }
                }
            });
            tasks.spawn(async move {
                loop {
                    let (mut stream, from) = tcp.accept().await.unwrap();
                    let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut query).await.unwrap();
                    if let Some(reply) = hear_tcp(&query, from.port(), true) {
                        let length = u16::try_from(reply.len()).unwrap();
                        stream.write_u16(length).await.unwrap();
                        stream.write_all(&reply).await.unwrap();
                    }
                }
            });
        }
        Self {
            number,
            port,
            asked,
            _tasks: tasks,
        }
    }

    fn delegations(&self, timeout: Duration) -> Delegations {
        Delegations {
            port: self.port,
            ..Delegations::new(true, timeout)
        }
    }

    /// Name servers of the cut `key.`, each at one of these.
    fn servers(&self, servers: impl IntoIterator<Item = u8>) -> Vec<NameServer> {
        let server = |server| NameServer {
            name: n(&format!("ns{server}.key.")),
            addresses: vec![at(self.number, server)],
        };
        servers.into_iter().map(server).collect()
    }

    /// Asks all of `servers`, as those of the cut `key.`.
    async fn ask(
        &self,
        servers: Vec<NameServer>,
        question: &Question,
    ) -> Result<Response, Failure> {
        self.ask_with(servers, question, &Addresses::default())
            .await
    }

    async fn ask_with(
        &self,
        servers: Vec<NameServer>,
        question: &Question,
        addresses: &Addresses,
    ) -> Result<Response, Failure> {
        let delegations = self.delegations(PLENTY);
        delegations
            .ask(&n("key."), servers, question, addresses)
            .await
    }

    /// Which servers were asked, in order.
    fn asked(&self) -> Vec<u8> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|asked| asked.server)
            .collect()
    }

    /// The names that were asked for, and of which server.
    fn all<T>(&self, what: impl Fn(&Asked) -> T) -> Vec<T> {
        self.asked.lock().unwrap().iter().map(what).collect()
    }
}

/// Sockets on the same port of all addresses. Another test's socket may hold a port of all addresses.
async fn bind(number: u8, count: u8) -> (u16, Vec<(u8, UdpSocket, TcpListener)>) {
    'port: loop {
        let mut port = 0;
        let mut sockets = Vec::new();
        for server in 1..=count {
            let Ok(udp) = UdpSocket::bind((at(number, server), port)).await else {
                continue 'port;
            };
            port = udp.local_addr().unwrap().port();
            let Ok(tcp) = TcpListener::bind((at(number, server), port)).await else {
                continue 'port;
            };
            sockets.push((server, udp, tcp));
        }
        return (port, sockets);
    }
}

/// Addresses of names, and which names were looked up.
#[derive(Default)]
struct Addresses {
    of: Vec<(Name, Vec<IpAddr>)>,
    looked_up: Mutex<Vec<Name>>,
}

impl ResolveAddresses for Addresses {
    fn resolve_addresses<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Vec<IpAddr>> {
        self.looked_up.lock().unwrap().push(name.clone());
        let found = self.of.iter().find(|(of, _)| of == name);
        let found = found.map_or_else(Vec::new, |(_, addresses)| addresses.clone());
        Box::pin(async move { found })
    }
}

fn section(response: &Response, section: Section) -> Vec<Record> {
    let records = response.layout.section(section);
    records
        .map(|record| response.record(record).unwrap())
        .collect()
}

/// RCODE, answer and authority section; nothing is ever in the additional section.
fn parts(result: Result<Response, Failure>) -> (u16, Vec<Record>, Vec<Record>) {
    let response = result.unwrap();
    assert_eq!(section(&response, Section::Additional), []);
    let header = response.layout.header;
    assert!(!header.has(flags::AA | flags::AD | flags::TC));
    let [answers, authorities] = [Section::Answer, Section::Authority];
    let rcode = response.rcode;
    (
        rcode,
        section(&response, answers),
        section(&response, authorities),
    )
}

fn answer(result: Result<Response, Failure>) -> Vec<Record> {
    let (rcode, answers, _) = parts(result);
    assert_eq!(rcode, 0);
    answers
}

fn reason(result: Result<Response, Failure>) -> String {
    let failure = result.unwrap_err();
    assert_eq!(failure.ede().code, ede::NO_REACHABLE_AUTHORITY, "{failure}");
    failure.to_string()
}

#[tokio::test]
async fn an_answer_comes_back_with_the_question_as_asked() {
    let net = Net::start(1, |asked| {
        asked.answers(&[a("www.key.", 1), a("WWW.key.", 2)])
    })
    .await;
    let asked = question("www.key.", RecordType::A);
    let response = net.ask(net.servers([1]), &asked).await.unwrap();
    assert_eq!(
        &response.wire[HEADER_LEN..response.layout.question_end],
        asked.wire()
    );
    let expected = vec![a("www.key.", 1), a("www.key.", 2)];
    assert_eq!(answer(Ok(response)), expected);
}

#[tokio::test]
async fn queries_are_iterative_and_hard_to_guess() {
    let net = Net::start(1, |asked| asked.answers(&[a("www.key.", 1)])).await;
    for _ in 0..8 {
        net.ask(net.servers([1]), &question("www.key.", RecordType::A))
            .await
            .unwrap();
    }
    // RD, AD, CD: nothing that is a resolver's business.
    assert_eq!(net.all(|asked| asked.header().flags), [0; 8]);
    let distinct = |mut numbers: Vec<u16>| {
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    };
    assert!(distinct(net.all(|asked| asked.header().id)) > 4);
    assert!(distinct(net.all(|asked| asked.from_port)) > 4);
}

#[tokio::test]
async fn signatures_and_proofs_come_to_those_who_want_them() {
    let net = Net::start(1, |asked| {
        let wants = asked.query.ends_with(&[0x80, 0, 0, 0]);
        assert!(wants || asked.query.ends_with(&[0, 0, 0, 0]));
        let nsec = record("v.key.", RecordType::NSEC, b"next".to_vec());
        let answers = [a("www.key.", 1), rrsig("www.key.", RecordType::A)];
        let stray = rrsig("www.key.", RecordType::TXT);
        let answers = [&answers[..], &[stray]].concat();
        Some(asked.reply(AUTHORITY, [&answers, &[nsec], &[]]))
    })
    .await;
    let mut wanted = question("www.key.", RecordType::A);
    wanted.dnssec_ok = true;
    let (_, answers, authorities) = parts(net.ask(net.servers([1]), &wanted).await);
    assert_eq!(
        answers,
        [a("www.key.", 1), rrsig("www.key.", RecordType::A)]
    );
    assert_eq!(authorities.len(), 1);
    wanted.dnssec_ok = false;
    let (_, _, authorities) = parts(net.ask(net.servers([1]), &wanted).await);
    assert_eq!(authorities, []);
}

#[tokio::test]
async fn referrals_are_followed_with_their_glue() {
    let net = Net::start(3, |asked| match asked.server {
        1 => asked.refers(&[ns("b.key.", "ns.b.key.")], &[asked.glue("ns.b.key.", 2)]),
        2 => asked.refers(
            &[ns("a.b.key.", "ns.b.key.")],
            &[asked.glue("NS.B.key.", 3)],
        ),
        _ => asked.answers(&[a("www.a.b.key.", 1)]),
    })
    .await;
    let result = net
        .ask(net.servers([1]), &question("www.a.b.key.", RecordType::A))
        .await;
    assert_eq!(answer(result), [a("www.a.b.key.", 1)]);
    assert_eq!(net.asked(), [1, 2, 3]);
}

#[tokio::test]
async fn servers_without_glue_are_looked_up() {
    let net = Net::start(2, |asked| match asked.server {
        1 => asked.refers(&[ns("b.key.", "ns.example.")], &[]),
        _ => asked.answers(&[a("www.b.key.", 1)]),
    })
    .await;
    let addresses = Addresses {
        of: vec![
            (n("first.example."), vec![at(net.number, 1)]),
            (n("ns.example."), vec![at(net.number, 2)]),
        ],
        ..Addresses::default()
    };
    let server = |name| NameServer {
        name: n(name),
        addresses: Vec::new(),
    };
    // A name below the cut is known to the servers alone that are looked for.
    let servers = ["ns.key.", "nobody.example.", "first.example."].map(server);
    let asked = question("www.b.key.", RecordType::A);
    let result = net.ask_with(servers.to_vec(), &asked, &addresses).await;
    assert_eq!(answer(result), [a("www.b.key.", 1)]);
    let expected = ["nobody.example.", "first.example.", "ns.example."].map(n);
    assert_eq!(*addresses.looked_up.lock().unwrap(), expected);
}

#[tokio::test]
async fn records_outside_the_zone_of_the_server_are_dropped() {
    let net = Net::start(2, |asked| match asked.server {
        // The glue for a name outside lies; so does the referral for another zone beside the true one.
        1 => asked.refers(
            &[ns("x.key.", "ns.example."), ns("b.key.", "ns.example.")],
            &[asked.glue("ns.example.", 1), asked.glue("ns.b.key.", 1)],
        ),
        _ => {
            let answers = [
                a("www.example.", FORGED),
                a("www.b.key.", 1),
                a("other.b.key.", FORGED),
                a("www.key.", FORGED),
            ];
            let above = [ns("key.", "ns.evil."), ns(".", "ns.evil."), soa("key.")];
            let beside = [ns("c.key.", "ns.evil."), ns("z.www.b.key.", "ns.evil.")];
            let own = [ns("b.key.", "ns.example.")];
            let authorities = [&above[..], &beside, &own].concat();
            let additionals = [a("ns.example.", FORGED), a("www.b.key.", FORGED)];
            Some(asked.reply(AUTHORITY, [&answers, &authorities, &additionals]))
        }
    })
    .await;
    let addresses = Addresses {
        of: vec![(n("ns.example."), vec![at(net.number, 2)])],
        ..Addresses::default()
    };
    let asked = question("www.b.key.", RecordType::A);
    let (rcode, answers, authorities) =
        parts(net.ask_with(net.servers([1]), &asked, &addresses).await);
    assert_eq!(rcode, 0);
    assert_eq!(answers, [a("www.b.key.", 1)]);
    assert_eq!(authorities, [ns("b.key.", "ns.example.")]);
    assert_eq!(net.asked(), [1, 2]);
}

/// What a server says that is no authority of the zone, or none that can be used.
fn lame(kind: u8, asked: &Asked) -> Option<Vec<u8>> {
    match kind {
        1 => asked.fails(REFUSED),
        2 => asked.fails(2),
        // Without AA: an answer, NODATA, NXDOMAIN.
        3 => Some(asked.reply(flags::QR, [&[a("www.key.", FORGED)], &[], &[]])),
        4 => Some(asked.reply(flags::QR, [&[], &[soa("key.")], &[]])),
        5 => Some(asked.reply(flags::QR | NXDOMAIN, [&[], &[soa("key.")], &[]])),
        // Referrals to the root, to the zone itself, to one beside the name, to one below it.
        6 => asked.refers(&[ns(".", "ns.key.")], &[asked.glue("ns.key.", 1)]),
        7 => asked.refers(&[ns("key.", "ns.key.")], &[asked.glue("ns.key.", 1)]),
        8 => asked.refers(&[ns("ww.key.", "ns.key.")], &[asked.glue("ns.key.", 1)]),
        9 => asked.refers(&[ns("a.www.key.", "ns.key.")], &[asked.glue("ns.key.", 1)]),
        // Answers to something else, or at odds with themselves.
        10 => asked.answers(&[a("other.key.", FORGED)]),
        11 => asked.answers(&[a("www.example.", FORGED)]),
        12 => Some(asked.reply(AUTHORITY | NXDOMAIN, [&[a("www.key.", FORGED)], &[], &[]])),
        13 => asked.answers(&[cname("www.key.", "a.key."), cname("a.key.", "www.key.")]),
        14 => asked.answers(&[record("www.key.", RecordType::A, vec![1])]),
        15 => asked.answers(&[naming("key.", RecordType::DNAME, "example.")]),
        // No DNS message.
        _ => {
            let mut reply = asked.reply(AUTHORITY, EMPTY);
            wire::write_at(&mut reply, 6, &9_u16.to_be_bytes());
            Some(reply)
        }
    }
}
const LAME: u8 = 16;

#[tokio::test]
async fn the_next_server_is_asked_instead_of_a_lame_one() {
    let net = Net::start(LAME + 1, |asked| match asked.server {
        kind @ 1..=LAME => lame(kind, asked),
        _ => asked.answers(&[a("www.key.", 1)]),
    })
    .await;
    for kind in 1..=LAME {
        let servers = net.servers([kind, LAME + 1]);
        let result = net.ask(servers, &question("www.key.", RecordType::A)).await;
        assert_eq!(answer(result), [a("www.key.", 1)], "{kind}");
    }
    let mut expected: Vec<u8> = (1..=LAME).flat_map(|kind| [kind, LAME + 1]).collect();
    // Whether garbage over UDP is the server's, TCP tells.
    expected.insert(expected.len() - 1, LAME);
    assert_eq!(net.asked(), expected);
}

#[tokio::test]
async fn when_all_are_lame_the_failure_says_why() {
    let net = Net::start(LAME, |asked| lame(asked.server, asked)).await;
    let asked = question("www.key.", RecordType::A);
    let text = reason(net.ask(net.servers([1, 3, 6]), &asked).await);
    let [first, second, third] = [1, 3, 6].map(|server| at(net.number, server));
    let expected = format!(
        "no name server of key. gave an answer: {first}: RCODE 5; {second}: not an authority; \
         {third}: not an authority"
    );
    assert_eq!(text, expected);
    assert_eq!(net.asked(), [1, 3, 6]);
    reason(net.ask(net.servers(1..=LAME), &asked).await);
    let text = reason(net.ask(Vec::new(), &asked).await);
    assert!(
        text.ends_with("none of them has a usable address"),
        "{text}"
    );
}

#[tokio::test]
async fn the_next_server_is_asked_beside_a_silent_one() {
    let net = Net::start(2, |asked| match asked.server {
        1 => None,
        _ => asked.answers(&[a("www.key.", 1)]),
    })
    .await;
    let result = net
        .ask(net.servers([1, 2]), &question("www.key.", RecordType::A))
        .await;
    assert_eq!(answer(result), [a("www.key.", 1)]);
    // Nobody listens at the third address.
    let result = net
        .ask(net.servers([3, 2]), &question("www.key.", RecordType::A))
        .await;
    assert_eq!(answer(result), [a("www.key.", 1)]);
    assert_eq!(net.asked(), [1, 2, 2]);
}

#[tokio::test]
async fn a_lost_datagram_does_not_cost_the_answer() {
    let lost = AtomicU8::new(0);
    let net = Net::start(1, move |asked| match lost.fetch_add(1, Ordering::Relaxed) {
        0 => None,
        _ => asked.answers(&[a("www.key.", 1)]),
    })
    .await;
    let result = net
        .ask(net.servers([1]), &question("www.key.", RecordType::A))
        .await;
    assert_eq!(answer(result), [a("www.key.", 1)]);
    assert_eq!(net.asked(), [1, 1]);
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    let net = Net::start(2, |asked| match asked.server {
        1 => asked.refers(&[ns("b.key.", "ns.key.")], &[asked.glue("ns.key.", 2)]),
        _ => None,
    })
    .await;
    let delegations = net.delegations(Duration::from_millis(100));
    let asked = question("www.b.key.", RecordType::A);
    let (cut, servers) = (n("key."), net.servers([1]));
    let addresses = Addresses::default();
    let text = reason(delegations.ask(&cut, servers, &asked, &addresses).await);
    assert_eq!(text, "no name server of b.key. gave an answer: timed out");
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let net = Net::start(1, |asked| match asked.tcp {
        false => Some(asked.reply(AUTHORITY | flags::TC, [&[a("www.key.", FORGED)], &[], &[]])),
        true => {
            let many: Vec<Record> = (0..200).map(|last| a("www.key.", last)).collect();
            asked.answers(&many)
        }
    })
    .await;
    let result = net
        .ask(net.servers([1]), &question("www.key.", RecordType::A))
        .await;
    assert_eq!(answer(result).len(), 200);
    assert_eq!(net.all(|asked| asked.tcp), [false, true]);
    assert_eq!(net.all(|asked| asked.header().flags), [0, 0]);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let net = Net::start(1, |asked| match asked.header().counts {
        [1, 0, 0, 0] => asked.answers(&[a("www.key.", 1)]),
        _ => asked.fails(1),
    })
    .await;
    let result = net
        .ask(net.servers([1]), &question("www.key.", RecordType::A))
        .await;
    assert_eq!(answer(result), [a("www.key.", 1)]);
    assert_eq!(net.asked(), [1, 1]);
}

#[tokio::test]
async fn only_the_asked_id_and_question_count() {
    // What is wrong over UDP is not believed, and no second message comes: TCP would be too late, the
    // next try comes first.
    let net = Net::start(4, |asked| {
        let mut reply = asked.reply(AUTHORITY, [&[a("www.key.", FORGED)], &[], &[]]);
        match asked.server {
            1 => reply[1] ^= 1,
            2 => reply[HEADER_LEN + 1] = b'v',
            3 => reply[HEADER_LEN + 11] = 28,
            _ => return asked.answers(&[a("www.key.", 1)]),
        }
        Some(reply)
    })
    .await;
    let result = net
        .ask(
            net.servers([1, 2, 3, 4]),
            &question("www.key.", RecordType::A),
        )
        .await;
    assert_eq!(answer(result), [a("www.key.", 1)]);
    assert_eq!(net.asked(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn aliases_end_where_the_zone_ends() {
    let net = Net::start(1, |asked| {
        let [alias, inner, outer] = [
            cname("alias.key.", "inner.key."),
            cname("inner.key.", "www.example."),
            cname("www.example.", "evil.example."),
        ];
        let dname = naming("d.key.", RecordType::DNAME, "example.");
        let below = cname("x.d.key.", "x.example.");
        let (word, answers) = match asked.name().as_str() {
            // In an order that is not that of the chain.
            "alias.key." => (
                AUTHORITY,
                vec![a("www.example.", FORGED), outer, inner, alias],
            ),
            "x.d.key." => (AUTHORITY | NXDOMAIN, vec![dname, below]),
            "in.key." => (AUTHORITY, vec![cname("in.key.", "alias.key."), alias]),
            "gone.key." => (AUTHORITY | NXDOMAIN, vec![cname("gone.key.", "no.key.")]),
            _ => (
                AUTHORITY,
                vec![cname("two.key.", "a.key."), cname("two.key.", "b.key.")],
            ),
        };
        let authorities = [soa("key."), soa("example.")];
        Some(asked.reply(word, [&answers, &authorities, &[]]))
    })
    .await;
    let ask = async |name| {
        parts(
            net.ask(net.servers([1]), &question(name, RecordType::A))
                .await,
        )
    };
    let in_zone = [
        cname("alias.key.", "inner.key."),
        cname("inner.key.", "www.example."),
    ];
    assert_eq!(ask("alias.key.").await, (0, in_zone.to_vec(), vec![]));
    let redirected = vec![
        naming("d.key.", RecordType::DNAME, "example."),
        cname("x.d.key.", "x.example."),
    ];
    assert_eq!(ask("x.d.key.").await, (0, redirected, vec![]));
    let open = vec![
        cname("in.key.", "alias.key."),
        cname("alias.key.", "inner.key."),
    ];
    assert_eq!(ask("in.key.").await, (0, open, vec![soa("key.")]));
    let gone = vec![cname("gone.key.", "no.key.")];
    assert_eq!(ask("gone.key.").await, (NXDOMAIN, gone, vec![soa("key.")]));
    let one = vec![cname("two.key.", "a.key.")];
    assert_eq!(ask("two.key.").await, (0, one, vec![soa("key.")]));
    // The alias itself, or whatever there is, is found at the name.
    let alias = question("alias.key.", RecordType::CNAME);
    let (_, answers, _) = parts(net.ask(net.servers([1]), &alias).await);
    assert_eq!(answers, [cname("alias.key.", "inner.key.")]);
    let any = question("alias.key.", RecordType::ANY);
    let (_, answers, _) = parts(net.ask(net.servers([1]), &any).await);
    assert_eq!(answers, [cname("alias.key.", "inner.key.")]);
}

#[tokio::test]
async fn absence_is_believed_of_an_authority() {
    let net = Net::start(1, |asked| {
        let word = match asked.name().as_str() {
            "no.key." => AUTHORITY | NXDOMAIN,
            _ => AUTHORITY,
        };
        let authorities = match asked.name().as_str() {
            "bare.key." => vec![],
            "foreign.key." => vec![soa("."), soa("x.key."), soa("example.")],
            // RFC 2308 section 2.2: with an SOA the NS records are no referral.
            _ => vec![
                ns("key.", "ns.key."),
                soa("key."),
                ns("data.key.", "ns.key."),
            ],
        };
        Some(asked.reply(word, [&[], &authorities, &[]]))
    })
    .await;
    let ask = async |name| {
        parts(
            net.ask(net.servers([1]), &question(name, RecordType::A))
                .await,
        )
    };
    let own = vec![ns("key.", "ns.key."), soa("key.")];
    assert_eq!(ask("no.key.").await, (NXDOMAIN, vec![], own.clone()));
    let nodata = [own, vec![ns("data.key.", "ns.key.")]].concat();
    assert_eq!(ask("data.key.").await, (0, vec![], nodata));
    assert_eq!(ask("bare.key.").await, (0, vec![], vec![]));
    assert_eq!(ask("foreign.key.").await, (0, vec![], vec![]));
}

#[tokio::test]
async fn a_ttl_with_the_top_bit_is_zero() {
    let net = Net::start(1, |asked| {
        let mut record = a("www.key.", 1);
        record.ttl = 1 << 31;
        asked.answers(&[record])
    })
    .await;
    let result = net
        .ask(net.servers([1]), &question("www.key.", RecordType::A))
        .await;
    assert_eq!(answer(result)[0].ttl, 0);
}

#[tokio::test]
async fn only_names_of_the_cut_are_asked_for() {
    let net = Net::start(1, |asked| asked.answers(&[a("www.example.", 1)])).await;
    let result = net
        .ask(net.servers([1]), &question("www.example.", RecordType::A))
        .await;
    assert_eq!(result.unwrap_err(), Failure::Internal);
    assert!(net.asked().is_empty());
}

// Bounds.

#[tokio::test]
async fn referrals_have_an_end() {
    const DEEP: &str = "a.b.c.d.e.f.g.h.i.j.k.l.m.key.";
    let labels = AtomicU8::new(2);
    // Each leads one label further down.
    let net = Net::start(1, move |asked| {
        let labels = labels.fetch_add(1, Ordering::Relaxed);
        let below = n(DEEP).trim_to(labels.into()).to_ascii();
        asked.refers(&[ns(&below, "ns.key.")], &[asked.glue("ns.key.", 1)])
    })
    .await;
    let text = reason(
        net.ask(net.servers([1]), &question(DEEP, RecordType::A))
            .await,
    );
    assert!(text.ends_with("too many referrals"), "{text}");
    assert_eq!(net.asked().len(), MAX_REFERRALS + 1);
}

#[tokio::test]
async fn a_referral_to_many_names_costs_few_lookups() {
    let net = Net::start(1, |asked| {
        let many: Vec<Record> = (0..100)
            .map(|number| ns("b.key.", &format!("ns{number}.victim.example.")))
            .collect();
        asked.refers(&many, &[])
    })
    .await;
    let addresses = Addresses::default();
    let asked = question("www.b.key.", RecordType::A);
    reason(net.ask_with(net.servers([1]), &asked, &addresses).await);
    assert_eq!(addresses.looked_up.lock().unwrap().len(), MAX_RESOLUTIONS);
}

#[tokio::test]
async fn lookups_are_counted_over_all_referrals() {
    let first = AtomicU8::new(0);
    let net = Net::start(1, move |asked| {
        let below = match first.fetch_add(1, Ordering::Relaxed) {
            0 => "c.key.",
            _ => "b.c.key.",
        };
        let servers =
            ["w", "x", "y", "z"].map(|name| ns(below, &format!("{name}.{below}example.")));
        asked.refers(&servers, &[])
    })
    .await;
    let addresses = Addresses {
        of: vec![(n("y.c.key.example."), vec![at(net.number, 1)])],
        ..Addresses::default()
    };
    let asked = question("www.b.c.key.", RecordType::A);
    reason(net.ask_with(net.servers([1]), &asked, &addresses).await);
    assert_eq!(net.asked(), [1, 1]);
    assert_eq!(addresses.looked_up.lock().unwrap().len(), MAX_RESOLUTIONS);
}

#[tokio::test]
async fn queries_are_counted_over_all_referrals() {
    // Name servers with two addresses each: 2 and 3, 4 and 5, ...
    const LAST: u8 = 29;
    let net = Net::start(LAST, |asked| match asked.server {
        1 => {
            let name = |number| format!("ns{number}.key.");
            let names: Vec<Record> = (1..=LAST / 2).map(|s| ns("b.key.", &name(s))).collect();
            let glue: Vec<Record> = (2..=LAST).map(|s| asked.glue(&name(s / 2), s)).collect();
            asked.refers(&names, &glue)
        }
        _ => asked.fails(REFUSED),
    })
    .await;
    reason(
        net.ask(net.servers([1]), &question("www.b.key.", RecordType::A))
            .await,
    );
    let asked = net.asked();
    assert_eq!(asked.len(), MAX_QUERIES);
    // The first address of each of them, then the second of each; none of those beyond the limit.
    let first: Vec<u8> = (1..).take(MAX_SERVERS).map(|number| 2 * number).collect();
    assert_eq!(asked[1..=MAX_SERVERS], first);
    assert_eq!(asked[MAX_SERVERS + 1..][..2], [3, 5]);
}

#[tokio::test]
async fn a_server_is_asked_at_few_of_its_addresses() {
    let net = Net::start(6, |asked| asked.fails(REFUSED)).await;
    let mut addresses = [1, 1, 2, 3, 4, 5, 6].map(|server| at(net.number, server));
    // The same in IPv6 is the same.
    addresses[1] = format!("::ffff:{}", addresses[1]).parse().unwrap();
    let servers = vec![NameServer {
        name: n("ns.key."),
        addresses: addresses.to_vec(),
    }];
    reason(net.ask(servers, &question("www.key.", RecordType::A)).await);
    assert_eq!(net.asked(), [1, 2, 3, 4]);
    assert_eq!(net.asked().len(), MAX_ADDRESSES);
}

// Private addresses.

#[test]
fn addresses_that_strangers_cannot_reach_are_known() {
    let all = |addresses: &str, expected: Reach| {
        for address in addresses.split_whitespace() {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    };
    all(
        "0.0.0.0 255.255.255.255 224.0.0.1 239.255.255.250 ff02::1 :: ::ffff:0.0.0.0",
        Reach::Nobody,
    );
    all("::ffff:224.0.0.251 64:ff9b::e000:fb", Reach::Nobody);
    all(
        "127.0.0.1 127.255.255.255 0.0.0.1 10.0.0.1 172.16.0.1 172.31.255.255",
        Reach::Private,
    );
    all(
        "192.168.0.1 100.64.0.1 100.127.255.255 169.254.169.254 192.0.0.8",
        Reach::Private,
    );
    all(
        "198.18.0.1 198.19.255.255 240.0.0.1 255.255.255.254",
        Reach::Private,
    );
    all(
        "::1 fe80::1 febf::1 fec0::1 fc00::1 fdff::1 100::1 64:ff9b:1::1",
        Reach::Private,
    );
    all(
        "::ffff:127.0.0.1 ::ffff:192.168.1.1 ::127.0.0.1 ::10.0.0.1",
        Reach::Private,
    );
    all(
        "::ffff:0:10.0.0.1 64:ff9b::10.0.0.1 64:ff9b::7f00:1 2002:a00:1::1",
        Reach::Private,
    );
    all("2002:c0a8:101::1 2001::1 2001:2::1", Reach::Private);
    all(
        "1.1.1.1 9.9.9.9 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1",
        Reach::Public,
    );
    all(
        "192.0.1.1 192.0.2.1 198.17.0.1 198.20.0.1 223.255.255.255 126.0.0.1",
        Reach::Public,
    );
    all(
        "2606:4700::1111 2001:db8::1 2001:500:2::c 64:ff9b::101:101",
        Reach::Public,
    );
    all("::ffff:1.1.1.1 2002:101:101::1", Reach::Public);
}

#[tokio::test]
async fn servers_at_private_addresses_are_not_asked() {
    let net = Net::start(1, |asked| asked.answers(&[a("www.key.", FORGED)])).await;
    let mapped = format!("::ffff:{}", at(net.number, 1)).parse().unwrap();
    let servers = vec![NameServer {
        name: n("ns.key."),
        addresses: vec![at(net.number, 1), mapped],
    }];
    let asked = question("www.key.", RecordType::A);
    let delegations = Delegations {
        allow_private: false,
        ..net.delegations(PLENTY)
    };
    let addresses = Addresses {
        of: vec![(n("ns.example."), vec![at(net.number, 1)])],
        ..Addresses::default()
    };
    let failure = delegations
        .ask(&n("key."), servers.clone(), &asked, &addresses)
        .await;
    let failure = failure.unwrap_err();
    assert_eq!(failure, Failure::PrivateNameServers("key.".to_owned()));
    assert_eq!(failure.ede().code, ede::BLOCKED);
    // Nor when a name leads there.
    let by_name = vec![NameServer {
        name: n("ns.example."),
        addresses: Vec::new(),
    }];
    let failure = delegations
        .ask(&n("key."), by_name, &asked, &addresses)
        .await;
    assert_eq!(
        failure.unwrap_err(),
        Failure::PrivateNameServers("key.".to_owned())
    );
    assert!(net.asked().is_empty());
    // Where they may be asked, a mapped address is the address.
    let mapped = vec![NameServer {
        addresses: vec![mapped],
        ..servers[0].clone()
    }];
    assert_eq!(answer(net.ask(mapped, &asked).await).len(), 1);
    assert_eq!(net.asked(), [1]);
    // What is nobody's is not asked anywhere.
    let nobody = vec![NameServer {
        addresses: vec!["0.0.0.0".parse().unwrap(), "::".parse().unwrap()],
        ..servers[0].clone()
    }];
    let text = reason(net.ask(nobody, &asked).await);
    assert!(
        text.ends_with("none of them has a usable address"),
        "{text}"
    );
}

#[test]
fn no_reply_makes_it_panic() {
    let query = Asked {
        query: [
            &[0; 5][..],
            &[1, 0, 0, 0, 0, 0, 0],
            &question("www.key.", RecordType::A).wire(),
        ]
        .concat(),
        net: 0,
        server: 0,
        from_port: 0,
        tcp: false,
    };
    let answers = [
        cname("www.key.", "a.b.key."),
        naming("b.key.", RecordType::DNAME, "c.key."),
        cname("a.b.key.", "a.c.key."),
        a("a.c.key.", 1),
    ];
    let answer = query.reply(AUTHORITY, [&answers, &[soa("key.")], &[]]);
    let glue = [a("ns.key.", 1), a("ns.www.key.", 2)];
    let referral = query.reply(REFERS, [&[], &[ns("www.key.", "ns.www.key.")], &glue]);
    let asked = question("www.key.", RecordType::A);
    for good in [answer, referral] {
        for position in 0..good.len() {
            for byte in [0, 1, 2, 5, 6, 39, 0x3f, 0xc0, 0xff] {
                let mut message = good.clone();
                message[position] = byte;
                if let Some(response) = Response::from_message(message) {
                    let _ = judge(&response, &n("key."), &asked);
                }
            }
        }
    }
}
