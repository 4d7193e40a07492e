//! `pkbridge query`: a small DNS lookup for people who have no `dig` at hand.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable, Restrict};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ask::{AskError, Reply, Transport, ask};
use crate::pkarr::{self, parse_name};

/// Arguments of `pkbridge query`.
#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    /// Domain name or public key to look up; a leading `pk:` is taken off
    #[arg(value_parser = parse_name)]
    pub name: Name,

    /// Record type: a name such as AAAA or TXT, or TYPE and a number
    #[arg(value_name = "TYPE", default_value = "A", value_parser = parse_type)]
    pub rtype: RecordType,

    /// DNS server to ask: an IP address, with or without a port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:53", value_parser = parse_server)]
    pub server: SocketAddr,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,

    /// How long to wait for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=300))]
    pub timeout: u64,
}

/// Runs `pkbridge query` and returns the process's exit code: 0 when there are such records, 1 when
/// the name does not exist or has no such records, 3 when nobody can tell.
pub(super) async fn run(args: QueryArgs, out: &mut impl io::Write) -> u8 {
    let timeout = Duration::from_secs(args.timeout);
    let started = Instant::now();
    let QueryArgs { server, rtype, .. } = args;
    let outcome = ask(server, &args.name, rtype, timeout, Transport::Auto).await;
    let status = match &outcome {
        Ok(reply) => status_of(reply, rtype),
        Err(_) => Status::Failure,
    };
    let text = match &outcome {
        _ if args.json => format!("{}\n", report(&args, status, &outcome, started.elapsed())),
        Ok(reply) => reply_text(&args, status, reply),
        Err(error) => format!("failure: {}\n", printable(&error.to_string())),
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => status.exit_code(),
        Err(_) => Status::Failure.exit_code(),
    }
}

/// The registered name of an Extended DNS Error code (RFC 8914 Section 5.2 and the IANA registry).
#[must_use]
pub(super) fn ede_name(code: u16) -> Option<&'static str> {
    #[rustfmt::skip]
    const NAMES: [&str; 30] = [
        // 0
        "Other Error", "Unsupported DNSKEY Algorithm", "Unsupported DS Digest Type", "Stale Answer",
        "Forged Answer", "DNSSEC Indeterminate", "DNSSEC Bogus", "Signature Expired",
        "Signature Not Yet Valid", "DNSKEY Missing",
        // 10
        "RRSIGs Missing", "No Zone Key Bit Set", "NSEC Missing", "Cached Error", "Not Ready",
        "Blocked", "Censored", "Filtered", "Prohibited", "Stale NXDOMAIN Answer",
        // 20
        "Not Authoritative", "Not Supported", "No Reachable Authority", "Network Error",
        "Invalid Data", "Signature Expired before Valid", "Too Early",
        "Unsupported NSEC3 Iterations Value", "Unable to conform to policy", "Synthesized",
    ];
    NAMES.get(usize::from(code)).copied()
}

fn status_of(reply: &Reply, rtype: RecordType) -> Status {
    // A chain of CNAME records counts when it ends in a record of the asked type.
    let is_asked = |record: &Record| rtype.is_any() || record.record_type() == rtype;
    if reply.rcode == ResponseCode::NXDomain {
        Status::NxDomain
    } else if reply.rcode != ResponseCode::NoError {
        Status::Failure
    } else if reply.message.answers.iter().any(is_asked) {
        Status::Found
    } else {
        Status::NoData
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Found,
    NoData,
    NxDomain,
    Failure,
}

impl Status {
    fn exit_code(self) -> u8 {
        match self {
            Self::Found => 0,
            Self::NoData | Self::NxDomain => 1,
            Self::Failure => 3,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::Failure => "failure",
        }
    }
}

fn parse_type(text: &str) -> Result<RecordType, String> {
    let upper = text.to_ascii_uppercase();
    // RFC 3597 Section 5: any type can be written as TYPE and its number.
    let number = upper
        .strip_prefix("TYPE")
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u16>().ok());
    let rtype = match number {
        Some(number) => RecordType::from(number),
        None => upper
            .parse()
            .map_err(|_| "unknown record type (any type can be written as TYPEnnn)".to_owned())?,
    };
    if matches!(rtype, RecordType::AXFR | RecordType::IXFR) {
        return Err("zone transfers are not supported".to_owned());
    }
    Ok(rtype)
}

pub(super) fn parse_server(text: &str) -> Result<SocketAddr, String> {
    match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(address), _) if address.port() == 0 => Err("port 0 cannot be asked".to_owned()),
        (Ok(address), _) => Ok(address),
        (_, Ok(ip)) => Ok(SocketAddr::new(ip, 53)),
        _ => Err("expected an IP address, as in ::1, 9.9.9.9 or [::1]:5353".to_owned()),
    }
}

fn reply_text(args: &QueryArgs, status: Status, reply: &Reply) -> String {
    let rcode = rcode_name(reply.rcode);
    let mut lines = table(reply.message.answers.iter());
    let count = lines.len();
    if matches!(status, Status::NoData | Status::NxDomain) {
        // The SOA of a negative answer tells its zone and how long it holds (RFC 2308 Section 3).
        let soa = (reply.message.authorities.iter()).filter(|record| record.record_type().is_soa());
        lines.extend(table(soa).iter().map(|line| format!("authority: {line}")));
    }
    let rtype = type_name(args.rtype);
    lines.extend(match status {
        Status::Found => None,
        Status::NoData => Some(format!(
            "NODATA: the name exists, but has no {rtype} records"
        )),
        Status::NxDomain => Some("NXDOMAIN: no such name".to_owned()),
        Status::Failure => Some(format!("{rcode}: {}", reply.rcode.to_str().to_lowercase())),
    });
    for (code, text) in &reply.edes {
        let name = ede_name(*code).unwrap_or("unassigned");
        let colon = if text.is_empty() { "" } else { ": " };
        lines.push(format!("EDE {code} ({name}){colon}{}", printable(text)));
    }
    let plural = if count == 1 { "" } else { "s" };
    let milliseconds = reply.elapsed.as_millis();
    lines.push(format!(
        "{rcode}, {count} record{plural}, {milliseconds} ms from {} over {}\n",
        args.server, reply.transport,
    ));
    lines.join("\n")
}

/// A record of a packet as the DNS library has it; one that it does not read is shown as bytes.
pub(super) fn proto_record(record: &pkarr::Record) -> Record {
    let length = u16::try_from(record.rdata.len()).unwrap_or(u16::MAX);
    let mut decoder = BinDecoder::new(&record.rdata);
    let read = RData::read(&mut decoder, record.rtype, Restrict::new(length));
    match read {
        Ok(data) => Record::from_rdata(record.owner.clone(), record.ttl, data),
        Err(_) => record.opaque(),
    }
}

/// One line per record, in columns.
pub(super) fn table<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<String> {
    let cells = |record: &Record| {
        let ttl = record.ttl.to_string();
        (
            owner(&record.name),
            ttl,
            type_name(record.record_type()),
            data(&record.data),
        )
    };
    let rows: Vec<_> = records.map(cells).collect();
    let names = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let ttls = rows.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let types = rows.iter().map(|row| row.2.len()).max().unwrap_or(0);
    let line = |(name, ttl, rtype, data): &(String, String, String, String)| {
        format!("{name:<names$}  {ttl:>ttls$}  {rtype:<types$}  {data}")
    };
    rows.iter().map(line).collect()
}

/// The object that `--json` prints. `error` is there only when there is no reply.
fn report(
    args: &QueryArgs,
    status: Status,
    outcome: &Result<Reply, AskError>,
    elapsed: Duration,
) -> Value {
    let reply = outcome.as_ref().ok();
    let rcode = match outcome {
        Ok(Reply { rcode, .. }) | Err(AskError::Malformed(rcode, _)) => Some(rcode_name(*rcode)),
        Err(_) => None,
    };
    let flags = reply.map(|reply| &reply.message.metadata).map(|flags| {
        json!({
            "aa": flags.authoritative,
            "tc": flags.truncation,
            "rd": flags.recursion_desired,
            "ra": flags.recursion_available,
            "ad": flags.authentic_data,
            "cd": flags.checking_disabled,
        })
    });
    let edes = reply.iter().flat_map(|reply| &reply.edes).map(
        |(code, text)| json!({ "code": code, "name": ede_name(*code), "text": printable(text) }),
    );
    let mut report = json!({
        "name": owner(&args.name),
        "type": type_name(args.rtype),
        "server": args.server.to_string(),
        "transport": reply.map(|reply| reply.transport),
        "rcode": rcode,
        "status": status.as_str(),
        "flags": flags,
        "answers": reply.map_or_else(Vec::new, |reply| records_json(&reply.message.answers)),
        "authority": reply.map_or_else(Vec::new, |reply| records_json(&reply.message.authorities)),
        "ede": edes.collect::<Vec<_>>(),
        "milliseconds": (reply.map_or(elapsed, |reply| reply.elapsed).as_secs_f64() * 1_000_000.0).round() / 1000.0,
    });
    if let (Err(error), Value::Object(keys)) = (outcome, &mut report) {
        keys.insert("error".to_owned(), printable(&error.to_string()).into());
    }
    report
}

pub(super) fn records_json(records: &[Record]) -> Vec<Value> {
    records
        .iter()
        .map(|record| {
            json!({
                "name": owner(&record.name),
                "type": type_name(record.record_type()),
                "ttl": record.ttl,
                "data": data(&record.data),
            })
        })
        .collect()
}

fn owner(name: &Name) -> String {
    printable(&name.to_ascii())
}

pub(super) fn rcode_name(rcode: ResponseCode) -> String {
    if let ResponseCode::Unknown(number) = rcode {
        format!("RCODE{number}")
    } else {
        format!("{rcode:?}").to_ascii_uppercase()
    }
}

fn type_name(rtype: RecordType) -> String {
    if matches!(rtype, RecordType::Unknown(_) | RecordType::ZERO) {
        format!("TYPE{}", u16::from(rtype))
    } else {
        rtype.to_string()
    }
}

pub(super) fn data(data: &RData) -> String {
    let mut text = String::new();
    let generic = matches!(data, RData::Unknown { .. } | RData::NULL(_));
    if !generic && write!(text, "{data}").is_ok() {
        return printable(&text);
    }
    // The form for data of types without one of their own (RFC 3597 Section 5).
    let bytes = data.to_bytes().unwrap_or_default();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\# {} {hex}", bytes.len()).trim_end().to_owned()
}

/// Text from the network, safe to print: control characters, which could drive the terminal, and
/// those that reorder or break lines become `\DDD` per octet (RFC 1035 Section 5.1).
pub(super) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        let reorders = matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        if character.is_control() || reorders {
            for octet in character.encode_utf8(&mut [0; 4]).bytes() {
                clean += &format!("\\{octet:03}");
            }
        } else {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use hickory_proto::op::{Edns, Message, OpCode};
    use hickory_proto::rr::rdata::opt::EdnsOption;
    use hickory_proto::rr::rdata::{A, CNAME, NULL, SOA, TXT};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        query: QueryArgs,
    }

    fn args(arguments: &[&str]) -> Result<QueryArgs, clap::Error> {
        let arguments = ["query"].iter().chain(arguments);
        Cli::try_parse_from(arguments).map(|cli| cli.query)
    }

    /// Starts a server that answers each query with what `script` makes of it; an empty answer is
    /// none. Both transports have the same port.
    async fn serve<F>(script: F) -> SocketAddr
    where
        F: Fn(&Message, &'static str) -> Vec<u8> + Send + Sync + 'static,
    {
        let script = Arc::new(script);
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let udp_script = Arc::clone(&script);
        tokio::spawn(async move {
            let mut buffer = [0; 1232];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let answer = udp_script(&query, "UDP");
                if !answer.is_empty() {
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.unwrap();
                let answer = script(&Message::from_vec(&query).unwrap(), "TCP");
                if !answer.is_empty() {
                    let length = u16::try_from(answer.len()).unwrap();
                    stream.write_u16(length).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        address
    }

    fn reply_to(query: &Message, rcode: ResponseCode) -> Message {
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = rcode;
        reply.add_queries(query.queries.iter().cloned());
        reply
    }

    fn record(name: &str, data: RData) -> Record {
        Record::from_rdata(Name::from_ascii(name).unwrap(), 300, data)
    }

    fn a_record(query: &Message, last: u8) -> Record {
        let address = RData::A(A::new(192, 0, 2, last));
        Record::from_rdata(query.queries[0].name().clone(), 300, address)
    }

    fn soa() -> Record {
        let name = |text| Name::from_ascii(text).unwrap();
        let data = SOA::new(name("ns.test."), name("admin.test."), 1, 2, 3, 4, 60);
        record("test.", RData::SOA(data))
    }

    fn with_ede(mut reply: Message, code: u16, text: &[u8]) -> Message {
        let mut edns = Edns::new();
        let data = [&code.to_be_bytes(), text].concat();
        edns.options_mut().insert(EdnsOption::Unknown(15, data));
        reply.set_edns(edns);
        reply
    }

    /// Runs the command against `server`; the exit code, and the output with the server's address
    /// and the milliseconds replaced.
    async fn command(server: SocketAddr, arguments: &[&str]) -> (u8, String) {
        let server = server.to_string();
        let args = args(&[arguments, &["--server", &server]].concat()).unwrap();
        let mut out = Vec::new();
        let code = run(args, &mut out).await;
        let out = String::from_utf8(out).unwrap().replace(&server, "SERVER");
        let masked = out.rsplit_once(" ms from").map(|(before, after)| {
            let (before, _) = before.rsplit_once(' ').unwrap();
            format!("{before} N ms from{after}")
        });
        (code, masked.unwrap_or(out))
    }

    #[tokio::test]
    async fn prints_the_records_it_found() {
        let server = serve(|query, _| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            let target = CNAME(Name::from_ascii("a.test.").unwrap());
            reply.add_answer(record("alias.test.", RData::CNAME(target)));
            reply.add_answer(record("a.test.", RData::A(A::new(192, 0, 2, 1))));
            reply.to_vec().unwrap()
        })
        .await;
        let expected = "alias.test.  300  CNAME  a.test.\n\
                        a.test.      300  A      192.0.2.1\n\
                        NOERROR, 2 records, N ms from SERVER over UDP\n";
        let found = command(server, &["alias.test"]).await;
        assert_eq!(found, (0, expected.to_owned()));
        // A chain that does not end in the asked type is no answer, but ANY takes whatever comes.
        let (code, text) = command(server, &["alias.test", "aaaa"]).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("NODATA: the name exists, but has no AAAA records\n"));
        assert_eq!(command(server, &["alias.test", "ANY"]).await.0, 0);
    }

    #[tokio::test]
    async fn tells_nodata_from_nxdomain() {
        let server = serve(|query, _| {
            let rcode = if query.queries[0].query_type() == RecordType::AAAA {
                ResponseCode::NoError
            } else {
                ResponseCode::NXDomain
            };
            let mut reply = reply_to(query, rcode);
            reply.add_authority(soa());
            reply.to_vec().unwrap()
        })
        .await;
        let authority = "authority: test.  300  SOA  ns.test. admin.test. 1 2 3 4 60\n";
        let nodata = format!(
            "{authority}NODATA: the name exists, but has no AAAA records\n\
             NOERROR, 0 records, N ms from SERVER over UDP\n"
        );
        let negative = command(server, &["a.test", "AAAA"]).await;
        assert_eq!(negative, (1, nodata));
        let nxdomain = format!(
            "{authority}NXDOMAIN: no such name\n\
             NXDOMAIN, 0 records, N ms from SERVER over UDP\n"
        );
        assert_eq!(command(server, &["a.test"]).await, (1, nxdomain));
    }

    #[tokio::test]
    async fn explains_a_failure_with_its_extended_errors() {
        let server = serve(|query, _| {
            let reply = reply_to(query, ResponseCode::ServFail);
            with_ede(reply, 22, b"no DHT node answers\x1b[2J\0")
                .to_vec()
                .unwrap()
        })
        .await;
        let expected = "SERVFAIL: server failure\n\
                        EDE 22 (No Reachable Authority): no DHT node answers\\027[2J\n\
                        SERVFAIL, 0 records, N ms from SERVER over UDP\n";
        let failed = command(server, &["a.test"]).await;
        assert_eq!(failed, (3, expected.to_owned()));
    }

    #[tokio::test]
    async fn knows_upper_rcode_bits_and_unassigned_extended_errors() {
        let server = serve(|query, _| {
            let reply = reply_to(query, ResponseCode::BADVERS);
            with_ede(reply, 49152, b"").to_vec().unwrap()
        })
        .await;
        let (code, text) = command(server, &["a.test"]).await;
        assert_eq!(code, 3);
        assert!(
            text.starts_with("BADVERS: bad option versions\nEDE 49152 (unassigned)\n"),
            "{text}"
        );
        assert_eq!(ede_name(0), Some("Other Error"));
        assert_eq!(ede_name(10), Some("RRSIGs Missing"));
        assert_eq!(ede_name(20), Some("Not Authoritative"));
        assert_eq!(ede_name(29), Some("Synthesized"));
    }

    #[tokio::test]
    async fn a_truncated_reply_is_asked_for_again_over_tcp() {
        let server = serve(|query, transport| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            reply.metadata.truncation = transport == "UDP";
            if transport == "TCP" {
                reply.add_answers((1..=200).map(|last| a_record(query, last)));
            }
            reply.to_vec().unwrap()
        })
        .await;
        let name = Name::from_ascii("a.test.").unwrap();
        for transport in [Transport::Auto, Transport::Tcp] {
            let timeout = Duration::from_secs(5);
            let reply = ask(server, &name, RecordType::A, timeout, transport)
                .await
                .unwrap();
            assert_eq!(reply.transport, "TCP");
            assert_eq!(reply.message.answers.len(), 200);
        }
    }

    #[tokio::test]
    async fn a_tcp_connection_that_ends_early_is_a_failure() {
        let server = serve(|query, transport| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            reply.metadata.truncation = true;
            match transport {
                "UDP" => reply.to_vec().unwrap(),
                _ => Vec::new(),
            }
        })
        .await;
        let expected = "failure: SERVER closed the TCP connection without an answer\n";
        assert_eq!(command(server, &["a.test"]).await, (3, expected.to_owned()));
    }

    #[tokio::test]
    async fn asks_as_a_stub_resolver_does() {
        let server = serve(|query, _| {
            let edns = query.edns.as_ref().unwrap();
            assert_eq!(edns.max_payload(), 1232);
            assert!(!edns.flags().dnssec_ok);
            assert!(query.metadata.recursion_desired);
            assert_eq!(query.queries.len(), 1);
            assert_eq!(query.queries[0].name().to_ascii(), "KeY.test.");
            let mut reply = reply_to(query, ResponseCode::NoError);
            reply.add_answer(a_record(query, 1));
            reply.to_vec().unwrap()
        })
        .await;
        assert_eq!(command(server, &["pk:KeY.test."]).await.0, 0);
    }

    #[tokio::test]
    async fn ignores_what_is_no_reply_to_its_question() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1232];
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut right = reply_to(&query, ResponseCode::NoError);
            right.add_answer(a_record(&query, 1));
            let wrong = reply_to(&query, ResponseCode::NXDomain);
            let mut wrong_id = wrong.clone();
            wrong_id.metadata.id ^= 1;
            let mut wrong_name = wrong.clone();
            wrong_name.queries[0].set_name(Name::from_ascii("b.test.").unwrap());
            let mut wrong_type = wrong.clone();
            wrong_type.queries[0].set_query_type(RecordType::AAAA);
            let mut no_question = wrong;
            no_question.queries.clear();
            for message in [wrong_id, wrong_name, wrong_type, no_question, query, right] {
                let message = message.to_vec().unwrap();
                socket.send_to(&message, client).await.unwrap();
            }
        });
        let (code, text) = command(server, &["a.test"]).await;
        assert_eq!(code, 0, "{text}");
    }

    #[tokio::test]
    async fn an_error_without_a_question_is_a_reply() {
        let server = serve(|query, _| {
            let mut reply = reply_to(query, ResponseCode::FormErr);
            reply.queries.clear();
            reply.to_vec().unwrap()
        })
        .await;
        let (code, text) = command(server, &["a.test"]).await;
        assert_eq!(code, 3);
        assert!(text.starts_with("FORMERR: form error\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn asks_three_times_before_it_gives_up() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let failed = command(server, &["a.test"]).await;
        let expected = "failure: no answer from SERVER within 5 s\n";
        assert_eq!(failed, (3, expected.to_owned()));
        let mut questions = Vec::new();
        let mut buffer = [0; 1232];
        while let Ok(length) = socket.try_recv(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            questions.push((query.metadata.id, query.queries));
        }
        assert_eq!(questions.len(), 3);
        assert!(
            questions
                .iter()
                .all(|(_, queries)| *queries == questions[0].1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_reply_to_an_earlier_try_counts() {
        let first = std::sync::Mutex::new(None);
        let server = serve(move |query, _| {
            let mut first = first.lock().unwrap();
            let mut reply = reply_to(query, ResponseCode::NoError);
            reply.add_answer(a_record(query, 1));
            match first.take() {
                Some(earlier) => earlier,
                None => {
                    *first = Some(reply.to_vec().unwrap());
                    Vec::new()
                }
            }
        })
        .await;
        assert_eq!(command(server, &["a.test"]).await.0, 0);
    }

    #[tokio::test]
    async fn a_closed_port_is_told_at_once() {
        // Below the range that port 0 picks from, so that no other test can have it.
        let server = SocketAddr::from(([127, 0, 0, 77], 1));
        let failed = command(server, &["a.test"]).await;
        assert_eq!(
            failed,
            (3, "failure: nothing listens at SERVER\n".to_owned())
        );
    }

    #[tokio::test]
    async fn a_reply_that_cannot_be_decoded_is_a_failure() {
        let server = serve(|query, _| {
            let mut raw = reply_to(query, ResponseCode::Refused).to_vec().unwrap();
            raw[7] = 1; // One answer, which is not there.
            raw
        })
        .await;
        let (code, text) = command(server, &["a.test"]).await;
        assert_eq!(code, 3);
        assert!(
            text.starts_with("failure: the reply (REFUSED) cannot be decoded: "),
            "{text}"
        );
        let (_, text) = command(server, &["a.test", "--json"]).await;
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["rcode"], "REFUSED");
        assert!(
            object["error"]
                .as_str()
                .unwrap()
                .contains("cannot be decoded")
        );
    }

    #[tokio::test]
    async fn prints_one_json_object() {
        let server = serve(|query, _| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            reply.metadata.authoritative = true;
            reply.add_answer(a_record(query, 1));
            reply.add_authority(soa());
            with_ede(reply, 3, b"stale").to_vec().unwrap()
        })
        .await;
        let (code, text) = command(server, &["a.test", "--json"]).await;
        assert_eq!(code, 0);
        let mut object: Value = serde_json::from_str(&text).unwrap();
        let milliseconds = object.as_object_mut().unwrap().remove("milliseconds");
        assert!(milliseconds.unwrap().is_f64());
        let expected = json!({
            "name": "a.test.",
            "type": "A",
            "server": "SERVER",
            "transport": "UDP",
            "rcode": "NOERROR",
            "status": "found",
            "flags": {
                "aa": true, "tc": false, "rd": true, "ra": true, "ad": false, "cd": false,
            },
            "answers": [{ "name": "a.test.", "type": "A", "ttl": 300, "data": "192.0.2.1" }],
            "authority": [{
                "name": "test.",
                "type": "SOA",
                "ttl": 300,
                "data": "ns.test. admin.test. 1 2 3 4 60",
            }],
            "ede": [{ "code": 3, "name": "Stale Answer", "text": "stale" }],
        });
        assert_eq!(object, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn json_without_a_reply_has_the_same_keys_and_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let (code, text) = command(server, &["a.test", "TYPE65280", "--json"]).await;
        assert_eq!(code, 3);
        let object: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "name": "a.test.",
            "type": "TYPE65280",
            "server": "SERVER",
            "transport": null,
            "rcode": null,
            "status": "failure",
            "flags": null,
            "answers": [],
            "authority": [],
            "ede": [],
            "milliseconds": object["milliseconds"],
            "error": "no answer from SERVER within 5 s",
        });
        assert_eq!(object, expected);
    }

    #[tokio::test]
    async fn nothing_from_the_network_drives_the_terminal() {
        let server = serve(|query, _| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            let hostile = "\u{1b}]0;x\u{7}\r\n\u{9b}1m\u{202e}\u{7f}é";
            reply.add_answer(record(
                "a.test.",
                RData::TXT(TXT::new(vec![hostile.to_owned()])),
            ));
            with_ede(reply, 0, hostile.as_bytes()).to_vec().unwrap()
        })
        .await;
        let safe = r"\027]0;x\007\013\010\194\1551m\226\128\174\127é";
        let (code, text) = command(server, &["a.test", "TXT"]).await;
        assert_eq!(code, 0);
        assert!(
            text.starts_with(&format!("a.test.  300  TXT  {safe}\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("EDE 0 (Other Error): {safe}\n")),
            "{text}"
        );
        let (_, text) = command(server, &["a.test", "TXT", "--json"]).await;
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["answers"][0]["data"], safe);
        assert_eq!(object["ede"][0]["text"], safe);
    }

    #[test]
    fn data_without_a_text_form_is_written_in_hexadecimal() {
        let code = RecordType::Unknown(65280);
        let rdata = NULL::with(vec![0xab, 0, 1]);
        assert_eq!(type_name(code), "TYPE65280");
        assert_eq!(data(&RData::Unknown { code, rdata }), r"\# 3 ab0001");
        assert_eq!(data(&RData::NULL(NULL::with(vec![1]))), r"\# 1 01");
        // Its `Display` fails; it never gets past the decoder into these sections.
        assert_eq!(data(&RData::OPT(Edns::new().options().clone())), r"\# 0");
    }

    #[tokio::test]
    async fn output_that_cannot_be_written_is_a_failure() {
        let server =
            serve(|query, _| reply_to(query, ResponseCode::NXDomain).to_vec().unwrap()).await;
        let args = args(&["a.test", "--server", &server.to_string()]).unwrap();
        assert_eq!(run(args, &mut [0; 4].as_mut_slice()).await, 3);
    }

    #[test]
    fn reads_its_arguments() {
        let parsed = args(&["example.com"]).unwrap();
        assert_eq!(parsed.name.to_ascii(), "example.com.");
        assert_eq!(parsed.rtype, RecordType::A);
        assert_eq!(parsed.server, "127.0.0.1:53".parse().unwrap());
        assert_eq!((parsed.json, parsed.timeout), (false, 5));
        let rtype = |text| args(&["a", text]).unwrap().rtype;
        assert_eq!(rtype("https"), RecordType::HTTPS);
        assert_eq!(rtype("type28"), RecordType::AAAA);
        assert_eq!(rtype("TYPE65280"), RecordType::Unknown(65280));
        let server = |text| args(&["a", "--server", text]).unwrap().server.to_string();
        assert_eq!(server("9.9.9.9"), "9.9.9.9:53");
        assert_eq!(server("127.0.0.1:5353"), "127.0.0.1:5353");
        assert_eq!(server("::1"), "[::1]:53");
        assert_eq!(server("[::1]:5353"), "[::1]:5353");
        let name = |text| args(&[text]).unwrap().name.to_ascii();
        assert_eq!(name("."), ".");
        assert_eq!(name("_dns.Example."), "_dns.Example.");
        assert_eq!(name("xn--bcher-kva.example"), "xn--bcher-kva.example.");
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        let long = "a".repeat(64);
        let longer = [long.get(1..).unwrap(); 4].join(".");
        let wrong: [&[&str]; 16] = [
            &[],
            &[""],
            &["pk:"],
            &["a..b"],
            &[".a"],
            &["a b"],
            &["a\\032b"],
            &["bücher.example"],
            &[&long],
            &[&longer],
            &["a", "NOTYPE"],
            &["a", "TYPE65536"],
            &["a", "TYPE+1"],
            &["a", "AXFR"],
            &["a", "--server", "localhost"],
            &["a", "--server", "127.0.0.1:0"],
        ];
        for arguments in wrong {
            let error = args(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
        assert!(args(&["a", "--timeout", "0"]).is_err());
    }
}
