//! `pkbridge demo`: the main job with nothing outside this process: a DHT of ten nodes on loopback, a
//! key, a signed packet put on the DHT, and the real server, asked over the wire.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::svcb::{Alpn, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ask::{Reply, Transport, ask};
use super::query;
use super::{fail, log, seq_of_now};
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::pkarr::{PublicKey, SignedPacket, SigningKey};
use crate::resolve::Node;
use crate::server::{Options, Server, StartError};

/// Nodes of the loopback DHT.
const DHT_NODES: usize = 10;
/// TTL of the demo's records, in seconds.
const TTL: u32 = 300;
/// Longest wait for one answer, and for the loopback DHT to be joined.
const PATIENCE: Duration = Duration::from_secs(10);
/// Widest answer in the table, in characters.
const MAX_ANSWER_WIDTH: usize = 44;

/// Arguments of `pkbridge demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// The port to serve on 127.0.0.1
    #[arg(long, default_value_t = 5300, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// End after the table: exit code 0, or 1 if an answer was wrong
    #[arg(long)]
    once: bool,

    /// A resolver for ordinary names; without it they are answered SERVFAIL
    #[arg(long, value_name = "ADDR", value_parser = query::parse_server)]
    upstream: Option<SocketAddr>,
}

/// A question of the demo and what its answer must be.
struct Row {
    shown: String,
    name: Name,
    rtype: RecordType,
    transport: Transport,
    expected: Expected,
}

enum Expected {
    /// NOERROR with exactly these records of the type.
    Data(Vec<RData>),
    NoData,
    NxDomain,
    ServFail,
    /// What somebody else's server says cannot be known; it must say something.
    AnyAnswer,
}

/// Runs the demo.
pub(super) async fn run(args: DemoArgs) -> ExitCode {
    if let Err(error) = log::start("warn") {
        return fail(&error);
    }
    match demonstrate(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => fail(&"an answer was wrong"),
        Err(error) => fail(&error),
    }
}

/// Whether all answers were right.
async fn demonstrate(args: &DemoArgs) -> Result<bool, String> {
    say("Starting a DHT of 10 nodes on loopback ...");
    let testnet = tokio::task::spawn_blocking(|| mainline::Testnet::builder(DHT_NODES).build())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("cannot start the loopback DHT: {error}"))?;
    let secret = SigningKey::from_bytes(&rand::random());
    let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes())
        .map_err(|error| error.to_string())?;
    let stored = publish(&testnet.bootstrap, &secret, key).await?;
    say(&format!(
        "A new key; its signed packet is on {stored} of them (BEP 44):\n\n  {key}\n"
    ));

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let config = config(args, &testnet.bootstrap);
    let server = Server::start(config, Options::default()).map_err(|error| match error {
        StartError::Listen(error) => format!("{error}; --port takes another port"),
        StartError::Access(error) | StartError::Upstream(error) => error,
        StartError::Udp { .. } | StartError::Threads(_) => error.to_string(),
    })?;
    let dht = server.dht();
    timeout(PATIENCE, dht.becomes(true))
        .await
        .map_err(|_| "the resolver could not join the loopback DHT")?;
    let stop = CancellationToken::new();
    let (_keep, reload) = mpsc::channel(1);
    let running = tokio::spawn(server.run(stop.clone(), reload));

    let rows = rows(key, args.upstream.is_some())?;
    let (table, right) = ask_all(address, &rows).await;
    say(&table);
    say(&explanation(args, key, right));
    if !args.once {
        // An error means that no signal can be waited for; then stopping at once is all there is.
        let _ = tokio::signal::ctrl_c().await;
    }
    stop.cancel();
    let _ = running.await;
    drop(testnet);
    Ok(right)
}

async fn publish(bootstrap: &[String], secret: &SigningKey, key: PublicKey) -> Result<u32, String> {
    let packet = SignedPacket::sign_records(secret, seq_of_now(), records(key)?)
        .map_err(|error| error.to_string())?;
    let addresses = bootstrap.iter().filter_map(|node| node.parse().ok());
    let any_port = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let publisher = Node::start(any_port, addresses.collect()).await?;
    publisher.join().await?;
    publisher.publish(&packet).await
}

fn config(args: &DemoArgs, bootstrap: &[String]) -> Config {
    let mut config = Config::default();
    config.state.directory = None;
    config.control.socket = None;
    config.listen.addresses = vec![(Ipv4Addr::LOCALHOST, args.port).into()];
    config.upstream.servers = args.upstream.into_iter().map(Endpoint::plain).collect();
    config.dht.bootstrap = bootstrap.to_vec();
    config.dht.bind_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    config
}

/// A name below the key; the empty text is the key itself.
fn below(key: PublicKey, sub: &str) -> Result<Name, String> {
    let dot = if sub.is_empty() { "" } else { "." };
    Name::from_ascii(format!("{sub}{dot}{key}.")).map_err(|error| error.to_string())
}

fn a() -> RData {
    RData::A(A(Ipv4Addr::new(192, 0, 2, 10)))
}

fn aaaa() -> RData {
    RData::AAAA(AAAA(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)))
}

fn hello() -> RData {
    RData::TXT(TXT::new(vec!["Hello from a public key".to_owned()]))
}

fn wildcard() -> RData {
    RData::A(A(Ipv4Addr::new(192, 0, 2, 99)))
}

fn mx(key: PublicKey) -> Result<RData, String> {
    Ok(RData::MX(MX::new(10, below(key, "mail")?)))
}

fn https() -> RData {
    let alpn = SvcParamValue::Alpn(Alpn(vec!["h2".to_owned(), "h3".to_owned()]));
    let hint = SvcParamValue::Ipv4Hint(IpHint(vec![A(Ipv4Addr::new(192, 0, 2, 10))]));
    let params = vec![(SvcParamKey::Alpn, alpn), (SvcParamKey::Ipv4Hint, hint)];
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)))
}

fn records(key: PublicKey) -> Result<Vec<Record>, String> {
    let apex = below(key, "")?;
    Ok([
        (apex.clone(), a()),
        (apex.clone(), aaaa()),
        (below(key, "_hello")?, hello()),
        (below(key, "www")?, RData::CNAME(CNAME(apex.clone()))),
        (apex.clone(), mx(key)?),
        (apex, https()),
        (below(key, "*.pages")?, wildcard()),
    ]
    .into_iter()
    .map(|(owner, data)| Record::from_rdata(owner, TTL, data))
    .collect())
}

fn rows(key: PublicKey, upstream: bool) -> Result<Vec<Row>, String> {
    let row = |shown: &str, rtype, transport, expected| -> Result<Row, String> {
        let text = shown.replace("<key>", &key.to_string());
        let text = text.replace("<KEY>", &key.to_string().to_ascii_uppercase());
        Ok(Row {
            shown: shown.to_owned(),
            name: Name::from_ascii(text + ".").map_err(|error| error.to_string())?,
            rtype,
            transport,
            expected,
        })
    };
    let data = |data| Expected::Data(vec![data]);
    let other = if upstream {
        Expected::AnyAnswer
    } else {
        Expected::ServFail
    };
    let (udp, tcp) = (Transport::Auto, Transport::Tcp);
    // Canonical keys end in y or o; 9 makes a second spelling, which is nobody's key.
    let misspelt = format!("{}9", key.to_string().split_at(51).0);
    let mut rows = vec![
        row("_hello.<key>", RecordType::TXT, udp, data(hello()))?,
        row("_hello.<key>.pkarr", RecordType::TXT, udp, data(hello()))?,
        row("_HELLO.<KEY>", RecordType::TXT, udp, data(hello()))?,
        row("<key>", RecordType::A, udp, data(a()))?,
        row("<key>", RecordType::AAAA, tcp, data(aaaa()))?,
        row("www.<key>", RecordType::A, udp, data(a()))?,
        row("<key>", RecordType::MX, udp, data(mx(key)?))?,
        row("<key>", RecordType::HTTPS, udp, data(https()))?,
        row("any.pages.<key>", RecordType::A, udp, data(wildcard()))?,
        row("_hello.<key>", RecordType::A, udp, Expected::NoData)?,
        row("missing.<key>", RecordType::A, udp, Expected::NxDomain)?,
        row(&misspelt, RecordType::A, udp, Expected::NxDomain)?,
        row("example.com", RecordType::A, udp, other)?,
    ];
    if let Some(row) = rows.iter_mut().find(|row| row.shown == misspelt) {
        row.shown = "<key with a typo>".to_owned();
    }
    Ok(rows)
}

/// The table, and whether all of it is right.
async fn ask_all(server: SocketAddr, rows: &[Row]) -> (String, bool) {
    let header = ["name", "type", "over", "answer", "first ms", "again ms", ""];
    let mut cells = vec![header.map(str::to_owned)];
    let mut all_right = true;
    for row in rows {
        let mut times = [const { String::new() }; 2];
        let mut answer = String::new();
        let mut right = true;
        for time in &mut times {
            let reply = ask(server, &row.name, row.rtype, PATIENCE, row.transport).await;
            match reply {
                Ok(reply) => {
                    right &= row.expected.is_met(&reply, row.rtype);
                    *time = format!("{:.1}", reply.elapsed.as_secs_f64() * 1000.0);
                    answer = shown_answer(&reply, row.rtype);
                }
                Err(error) => {
                    right = false;
                    answer = error.to_string();
                }
            }
        }
        all_right &= right;
        let [first, again] = times;
        let over = match row.transport {
            Transport::Auto => "UDP",
            Transport::Tcp => "TCP",
        };
        let verdict = if right { "ok" } else { "WRONG" };
        cells.push([
            row.shown.clone(),
            row.rtype.to_string(),
            over.to_owned(),
            answer,
            first,
            again,
            verdict.to_owned(),
        ]);
    }
    (table(&cells), all_right)
}

fn table(cells: &[[String; 7]]) -> String {
    let mut widths = [0; 7];
    for line in cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in cells {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Times stand right.
            let _ = match column {
                4 | 5 => write!(text, "{cell:>width$}  "),
                _ => write!(text, "{cell:<width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

impl Expected {
    fn is_met(&self, reply: &Reply, rtype: RecordType) -> bool {
        let answers = reply.message.answers.iter();
        let found: Vec<&RData> = answers
            .filter(|record| record.record_type() == rtype)
            .map(|record| &record.data)
            .collect();
        let has_soa = reply
            .message
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::SOA);
        match self {
            Self::Data(data) => {
                reply.rcode == ResponseCode::NoError && found == data.iter().collect::<Vec<_>>()
            }
            Self::NoData => reply.rcode == ResponseCode::NoError && found.is_empty() && has_soa,
            Self::NxDomain => reply.rcode == ResponseCode::NXDomain && has_soa,
            Self::ServFail => reply.rcode == ResponseCode::ServFail && !reply.edes.is_empty(),
            Self::AnyAnswer => reply.rcode != ResponseCode::ServFail,
        }
    }
}

fn shown_answer(reply: &Reply, rtype: RecordType) -> String {
    let answers = reply.message.answers.iter();
    let data: Vec<String> = answers
        .filter(|record| record.record_type() == rtype)
        .map(|record| query::data(&record.data))
        .collect();
    let text = if !data.is_empty() {
        data.join(", ")
    } else if let Some((code, text)) = reply.edes.first() {
        let text = query::printable(text);
        format!("{}, EDE {code}: {text}", query::rcode_name(reply.rcode))
    } else if reply.rcode == ResponseCode::NoError {
        "NODATA".to_owned()
    } else {
        query::rcode_name(reply.rcode)
    };
    if text.chars().count() <= MAX_ANSWER_WIDTH {
        return text;
    }
    let cut: String = text.chars().take(MAX_ANSWER_WIDTH - 3).collect();
    cut + "..."
}

fn explanation(args: &DemoArgs, key: PublicKey, right: bool) -> String {
    let port = args.port;
    let mut text = String::from(
        "The first ask of a key fetches and verifies its packet from the DHT; the second comes from\n\
         the cache.\n",
    );
    match args.upstream {
        Some(upstream) => {
            let _ = writeln!(text, "Ordinary names are forwarded to {upstream}.");
        }
        None => text.push_str(
            "Ordinary names have nowhere to go here and are answered SERVFAIL; --upstream ADDR sets a\n\
             resolver for them.\n",
        ),
    }
    if !args.once && right {
        let _ = write!(
            text,
            "\nServing on 127.0.0.1:{port} until Ctrl-C. Try:\n\n\
             \x20 dig @127.0.0.1 -p {port} _hello.{key} TXT\n\
             \x20 dig @127.0.0.1 -p {port} {key}.pkarr A\n\
             \x20 dig @127.0.0.1 -p {port} www.{key} AAAA +tcp\n\
             \x20 pkbridge query --server 127.0.0.1:{port} {key} HTTPS\n"
        );
    }
    text
}

fn say(text: &str) {
    // Nobody reads when standard output is closed; the exit code still tells.
    let _ = writeln!(std::io::stdout(), "{text}");
}
