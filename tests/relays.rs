//! Pkarr relays: as a source beside the DHT, and as what is published to. The reference implementation's relay
//! on a loopback DHT, and scripted ones that are stale, lie and fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::program::{Ended, run, write_key, write_zone};
use common::*;
use dht_simulator::{Network, Settings};
use ed25519_dalek::Signer;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record, RecordType};
use pkbridge::config::Config;
use pkbridge::control;
use pkbridge::endpoint::Endpoint;
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// A `seq`: 1 700 000 000 seconds in microseconds.
const SEQ: u64 = 1_700_000_000_000_000;
/// TTL of the records here, and the highest one while there may be something newer.
const TTL: u32 = 300;
const PROVISIONAL_TTL: u32 = 30;
/// How long the DHT is asked alone.
const HEAD_START: Duration = Duration::from_millis(300);

/// The relay of the reference implementation.
struct Relay(pkarr_relay::Relay);

impl Relay {
    async fn start(dht: &TestDht) -> Self {
        let relay = pkarr_relay::Relay::run_test(&dht.testnet.bootstrap).await;
        Self(relay.unwrap())
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.relay_address().port()).into()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// What a scripted relay does with a request.
#[derive(Clone)]
enum Says {
    /// This packet.
    Packet(SignedPacket),
    /// This status, with these headers.
    Status(&'static str),
    /// 200 with this body.
    Body(Vec<u8>),
    /// 200, and zeros without end.
    Endless,
    /// Nothing.
    Silence,
}

/// A relay over HTTP/1.1 on loopback that does what it is told, and remembers what it was asked.
struct Scripted {
    url: String,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(says));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, remember) = (says.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, script.clone(), remember.clone()));
            }
        });
        Self { url, says, asked }
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Requests so far, each with its headers.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers the requests of one connection. Errors are those of a client that has had enough.
async fn serve(
    mut stream: TcpStream,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await?;
        asked.lock().unwrap().push(head);
        let said = says.lock().unwrap().clone();
        let body = match said {
            Says::Packet(packet) => packet.to_bytes()[32..].to_vec(),
            Says::Body(body) => body,
            Says::Status(status) => {
                let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(response.as_bytes()).await?;
                continue;
            }
            Says::Endless => {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head).await?;
                loop {
                    stream.write_all(b"8\r\n\0\0\0\0\0\0\0\0\r\n").await?;
                }
            }
            Says::Silence => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    }
}

/// A packet with its `seq` as the text of the key's TXT.
fn packet(secret: &SigningKey, seq: u64) -> SignedPacket {
    let text = RData::TXT(TXT::new(vec![seq.to_string()]));
    sign(secret, seq, vec![(below(key_of(secret), ""), TTL, text)])
}

/// [`config`] with these relays, and a DHT that nobody answers on.
fn relayed(urls: &[&str]) -> Config {
    with_relays(config(), urls)
}

fn with_relays(mut config: Config, urls: &[&str]) -> Config {
    config.relays.urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    config
}

/// A DHT that is never done within the 300 ms that it has before relays.
async fn slow_network() -> Network {
    let settings = Settings {
        nodes: 40,
        seed: 5,
        round_trip: Duration::from_millis(400),
        ..Settings::default()
    };
    Network::start(settings).await.unwrap()
}

fn on(network: &Network) -> Config {
    let mut config = config();
    let nodes = network.bootstrap().into_iter();
    config.dht.bootstrap = nodes.map(|node| node.to_string()).collect();
    config
}

async fn joined(server: &Running) {
    timeout(PATIENCE, server.dht.becomes(true)).await.unwrap();
}

/// The text and the TTL of a key's TXT.
fn told(reply: &Message) -> Option<(u64, u32)> {
    let record: &Record = reply.answers.first()?;
    let RData::TXT(text) = &record.data else {
        return None;
    };
    let text = std::str::from_utf8(&text.txt_data[0]).unwrap();
    Some((text.parse().unwrap(), record.ttl))
}

async fn ask_txt(server: &Running, key: PublicKey) -> Message {
    ask(server.address, &key.to_string(), RecordType::TXT).await
}

/// Asks until what is told is as wished.
async fn until_told(server: &Running, key: PublicKey, wished: impl Fn(u64, u32) -> bool) {
    until("the answer comes", async || {
        let reply = ask_txt(server, key).await;
        told(&reply).is_some_and(|(seq, ttl)| wished(seq, ttl))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_udp_keys_are_answered_by_the_reference_relay() {
    let dht = TestDht::start(10).await;
    let relay = Relay::start(&dht).await;
    let secret = secret(1);
    let key = key_of(&secret);
    dht.publish(&packet(&secret, SEQ)).await;

    let server = Running::start(relayed(&[&relay.url()]));
    let reply = ask_txt(&server, key).await;
    let (seq, ttl) = told(&reply).unwrap();
    assert_eq!(seq, SEQ);
    assert!(ttl <= PROVISIONAL_TTL, "{ttl}");
    // The DHT is given up, and the relay's word is what there is.
    until_told(&server, key, |seq, ttl| seq == SEQ && ttl > PROVISIONAL_TTL).await;

    // That the relay has nothing proves nothing.
    let nobody = key_of(&self::secret(2));
    let reply = ask_txt(&server, nobody).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_relay_is_found_by_name_and_spoken_with_in_both_versions_of_http() {
    let dht = TestDht::start(10).await;
    let relay = Relay::start(&dht).await;
    let secret = secret(1);
    dht.publish(&packet(&secret, SEQ)).await;
    let upstream = Upstream::start(|query, _| {
        let mut reply = reply_to(query);
        let question = reply.queries[0].clone();
        if question.query_type() == RecordType::A {
            let address = RData::A(Ipv4Addr::LOCALHOST.into());
            reply.add_answer(Record::from_rdata(question.name().clone(), 60, address));
        }
        vec![reply.to_vec().unwrap()]
    })
    .await;
    for protocol in ["h2", "http/1.1"] {
        let (port, pin) = tls_front(relay.address(), protocol).await;
        let url = format!("https://relay.example:{port}?pin-sha256={pin}");
        let mut config = relayed(&[&url]);
        config.upstream.servers = vec![Endpoint::plain(upstream.address)];
        let server = Running::start(config);
        let reply = ask_txt(&server, key_of(&secret)).await;
        assert_eq!(told(&reply).unwrap().0, SEQ, "{protocol}");
    }
    let names = upstream.names();
    assert!(
        names.iter().all(|name| name == "relay.example."),
        "{names:?}"
    );

    // Whoever has another key is not the relay.
    let (port, _) = tls_front(relay.address(), "h2").await;
    let (_, pin) = tls_front(relay.address(), "h2").await;
    let server = Running::start(relayed(&[&format!(
        "https://127.0.0.1:{port}?pin-sha256={pin}"
    )]));
    let reply = ask_txt(&server, key_of(&secret)).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
}

/// TLS in front of a server, with this protocol agreed upon (RFC 7301); its port, and the pin of its key.
async fn tls_front(server: SocketAddr, protocol: &str) -> (u16, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["relay.example".to_owned()]).unwrap();
    let pin = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&signing_key));
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let speaks_http2 = protocol == "h2";
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut front) = acceptor.accept(stream).await else {
                    return;
                };
                let mut back = TcpStream::connect(server).await.unwrap();
                // The relay takes either; RFC 9113 section 3.4.
                let mut first = [0; 3];
                front.read_exact(&mut first).await.unwrap();
                assert_eq!(first == *b"PRI", speaks_http2);
                back.write_all(&first).await.unwrap();
                let _ = copy_bidirectional(&mut front, &mut back).await;
            });
        }
    });
    (port, data_encoding::BASE64.encode(&pin))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_does_not_learn_what_the_dht_finds_quickly() {
    let dht = TestDht::start(10).await;
    let relay = Scripted::start(Says::Status("404 Not Found")).await;
    let server = Running::start(with_relays(dht.config(), &[&relay.url]));
    joined(&server).await;
    let mut quick = 0;
    // A busy machine may be slow now and then.
    for number in 10..14 {
        let secret = secret(number);
        dht.publish(&packet(&secret, SEQ)).await;
        let (started, asked) = (Instant::now(), relay.asked().len());
        let reply = ask_txt(&server, key_of(&secret)).await;
        let is_quick = started.elapsed() < HEAD_START;
        assert_eq!(told(&reply).unwrap().0, SEQ);
        if is_quick {
            quick += 1;
            server.warm(key_of(&secret)).await;
            assert_eq!(relay.asked().len(), asked);
        }
    }
    assert!(quick > 0);

    // What it does not find, the relay is asked for; but the absence is the DHT's.
    let nobody = key_of(&self::secret(2));
    let reply = ask_txt(&server, nobody).await;
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    let asked = relay.asked().pop().unwrap();
    assert!(
        asked.starts_with(&format!("get /{nobody} http/1.1\r\n")),
        "{asked}"
    );
    assert!(!asked.contains("user-agent"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_newest_packet_wins() {
    let network = slow_network().await;
    let (old, new) = (SEQ, SEQ + 1_000_000);
    for (number, of_relay, of_dht) in [(1, old, Some(new)), (2, new, Some(old)), (3, new, None)] {
        let secret = secret(number);
        let key = key_of(&secret);
        if let Some(seq) = of_dht {
            network.store(&item_of(&packet(&secret, seq)));
        }
        let relay = Scripted::start(Says::Packet(packet(&secret, of_relay))).await;
        let server = Running::start(with_relays(on(&network), &[&relay.url]));
        joined(&server).await;
        // The relay is the first.
        let reply = ask_txt(&server, key).await;
        let (seq, ttl) = told(&reply).unwrap();
        assert_eq!(seq, of_relay);
        assert!(ttl <= PROVISIONAL_TTL);
        until_told(&server, key, |seq, ttl| seq == new && ttl > PROVISIONAL_TTL).await;
        assert_eq!(relay.asked().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_key_has_signed_and_is_no_packet_supersedes_also_from_a_relay() {
    let network = slow_network().await;
    let secret = secret(3);
    let key = key_of(&secret);
    network.store(&item_of(&packet(&secret, SEQ)));
    let seq = SEQ + 1;
    let signature = secret.sign(format!("3:seqi{seq}e1:v4:none").as_bytes());
    let payload = [&signature.to_bytes()[..], &seq.to_be_bytes(), b"none"].concat();
    let relay = Scripted::start(Says::Body(payload)).await;
    let server = Running::start(with_relays(on(&network), &[&relay.url]));
    joined(&server).await;
    let reply = ask_txt(&server, key).await;
    let (_, why) = ede(&reply).unwrap();
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    assert!(why.contains("seq 1700000000000001"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_relays_the_newest_packet_wins_and_dead_ones_do_not_matter() {
    let secret = secret(1);
    let stale = Scripted::start(Says::Packet(packet(&secret, SEQ))).await;
    let new = Scripted::start(Says::Packet(packet(&secret, SEQ + 1))).await;
    let empty = Scripted::start(Says::Status("404 Not Found")).await;
    let silent = Scripted::start(Says::Silence).await;
    let urls = [
        &new.url,
        &stale.url,
        &empty.url,
        &silent.url,
        "http://127.0.0.1:9",
    ];
    let server = Running::start(relayed(&urls));
    until_told(&server, key_of(&secret), |seq, _| seq == SEQ + 1).await;
    until_told(&server, key_of(&secret), |seq, ttl| {
        seq == SEQ + 1 && ttl > PROVISIONAL_TTL
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_older_than_one_ever_seen_is_not_taken_from_a_relay() {
    let secret = secret(1);
    let key = key_of(&secret);
    let relay = Scripted::start(Says::Packet(packet(&secret, SEQ + 500_000))).await;
    let mut config = relayed(&[&relay.url]);
    // Each question is a lookup, and what is held is not kept past its time.
    config.dht.packet_min_ttl = Duration::ZERO;
    config.cache.max_ttl = Duration::from_secs(1);
    config.cache.failure_ttl = Duration::from_secs(1);
    config.cache.max_stale = Duration::ZERO;
    let server = Running::start(config);
    until_told(&server, key, |seq, _| seq == SEQ + 500_000).await;
    let first = relay.asked();
    assert!(!first[0].contains("if-modified-since"), "{first:?}");

    relay.says(Says::Packet(packet(&secret, SEQ)));
    until("it is asked for again", async || {
        ask_txt(&server, key).await;
        relay.asked().len() > 1
    })
    .await;
    let again = relay.asked().pop().unwrap();
    let date = "if-modified-since: tue, 14 nov 2023 22:13:20 gmt";
    assert!(again.contains(date), "{again}");
    until("the older one is refused", async || {
        let reply = ask_txt(&server, key).await;
        let seq = told(&reply).map(|(seq, _)| seq);
        assert_ne!(seq, Some(SEQ));
        rcode(&reply) == ResponseCode::ServFail
    })
    .await;

    // As a relay says it that reads the date.
    relay.says(Says::Status("304 Not Modified"));
    let asked = relay.asked().len();
    until("it is asked for again", async || {
        let reply = ask_txt(&server, key).await;
        assert_eq!(rcode(&reply), ResponseCode::ServFail);
        relay.asked().len() > asked
    })
    .await;
    relay.says(Says::Packet(packet(&secret, SEQ + 600_000)));
    until_told(&server, key, |seq, _| seq == SEQ + 600_000).await;
}

/// Relays that lie, fail, or are no relays.
fn bad(secret: &SigningKey) -> Vec<(&'static str, Says)> {
    let good = packet(secret, SEQ + 9).to_bytes()[32..].to_vec();
    let mut forged = good.clone();
    forged[70] ^= 1;
    let other = packet(&self::secret(99), SEQ + 9);
    let large = [&good[..], &[0; 1001]].concat();
    vec![
        ("forged", Says::Body(forged)),
        ("another key's", Says::Packet(other)),
        ("short", Says::Body(vec![0; 71])),
        ("empty", Says::Body(Vec::new())),
        ("large", Says::Body(large)),
        ("endless", Says::Endless),
        ("silent", Says::Silence),
        ("busy", Says::Status("429 Too Many Requests")),
        ("broken", Says::Status("500 Internal Server Error")),
        (
            "elsewhere",
            Says::Status("302 Found\r\nlocation: http://127.0.0.1:9/"),
        ),
        ("unasked", Says::Status("304 Not Modified")),
        ("no content", Says::Status("204 No Content")),
        ("no HTTP", Says::Status("\r\n\r\n")),
        ("long", Says::Status(LONG.get_or_init(long_header))),
    ]
}

static LONG: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// More than is taken of headers.
fn long_header() -> String {
    format!("200 OK\r\nx: {}", "y".repeat(64 * 1024))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_relay_neither_spoils_an_answer_nor_an_absence() {
    let network = slow_network().await;
    let (published, missing) = (secret(1), secret(2));
    network.store(&item_of(&packet(&published, SEQ)));
    let each = stream::iter(bad(&published)).map(async |(what, says)| {
        let relay = Scripted::start(says).await;
        let server = Running::start(with_relays(on(&network), &[&relay.url]));
        joined(&server).await;
        let reply = ask_txt(&server, key_of(&published)).await;
        assert_eq!(
            told(&reply).map(|(seq, _)| seq),
            Some(SEQ),
            "{what}: {reply:?}"
        );
        assert!(!relay.asked().is_empty(), "{what}");
        let reply = ask_txt(&server, key_of(&missing)).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain, "{what}: {reply:?}");
    });
    // All at once would be too much for the nodes of a debug build.
    each.buffer_unordered(4).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dht_a_bad_relay_makes_a_failure_and_a_good_one_beside_it_is_heard() {
    let secret = secret(1);
    let key = key_of(&secret);
    let good = Scripted::start(Says::Packet(packet(&secret, SEQ))).await;
    let all = bad(&secret).into_iter().map(async |(what, says)| {
        let relay = Scripted::start(says).await;
        let server = Running::start(relayed(&[&relay.url]));
        let started = Instant::now();
        let reply = ask_txt(&server, key).await;
        assert_eq!(rcode(&reply), ResponseCode::ServFail, "{what}: {reply:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{what}");
        let server = Running::start(relayed(&[&relay.url, &good.url]));
        let reply = ask_txt(&server, key).await;
        assert_eq!(
            told(&reply).map(|(seq, _)| seq),
            Some(SEQ),
            "{what}: {reply:?}"
        );
    });
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_had_enough_is_left_alone() {
    let directory = Directory::new();
    let relay = Scripted::start(Says::Status("429 Too Many Requests\r\nretry-after: 120")).await;
    let good = Scripted::start(Says::Status("404 Not Found")).await;
    let mut config = relayed(&[&relay.url, &good.url]);
    let socket = directory.join("control");
    config.control.socket = Some(socket.clone());
    let server = Running::start(config);
    for number in 1..=2 {
        ask_txt(&server, key_of(&secret(number))).await;
        assert_eq!(relay.asked().len(), 1);
    }
    let status = control::ask(&socket, &control::Request::Status).await;
    let relays = &status.unwrap()["relays"];
    let (bad, good_told) = (&relays[0], &relays[1]);
    assert_eq!(
        *good_told,
        json!({
            "url": good.url, "answered": 2, "failed": 0, "last_error": null, "pause_seconds": 0
        })
    );
    assert_eq!((&bad["answered"], &bad["failed"]), (&0.into(), &1.into()));
    assert!(bad["last_error"].as_str().unwrap().contains("429"), "{bad}");
    assert!(
        (100..=120).contains(&bad["pause_seconds"].as_u64().unwrap()),
        "{bad}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dht_a_client_that_asks_relays_for_keys_that_nobody_has_is_held_up() {
    let relay = Scripted::start(Says::Status("404 Not Found")).await;
    let mut config = relayed(&[&relay.url]);
    // Sixty in a minute.
    config.dht.max_misses_per_client = 1;
    let server = Running::start(config);
    let ask = async |number: u8| {
        let reply = ask_txt(&server, key_of(&secret(number))).await;
        assert_eq!(rcode(&reply), ResponseCode::ServFail);
        ede(&reply).unwrap().1
    };
    join_all((0..70).map(ask)).await;
    assert!(relay.asked().len() >= 60);
    let number = Mutex::new(100);
    until("the client is held up", async || {
        let (number, asked) = {
            let mut number = number.lock().unwrap();
            *number += 1;
            (*number, relay.asked().len())
        };
        let told = ask(number).await;
        told.starts_with("too many unpublished keys") && relay.asked().len() == asked
    })
    .await;
}

#[tokio::test]
async fn a_reload_brings_relays_in_and_takes_them_away() {
    let (one, two) = (secret(1), secret(2));
    let relay = Scripted::start(Says::Packet(packet(&one, SEQ))).await;
    let server = Running::start(config());
    reload(&server, relayed(&[&relay.url])).await;
    until_told(&server, key_of(&one), |seq, _| seq == SEQ).await;
    reload(&server, config()).await;
    let asked = relay.asked().len();
    relay.says(Says::Packet(packet(&two, SEQ)));
    let reply = ask_txt(&server, key_of(&two)).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    assert_eq!(relay.asked().len(), asked);
}

/// The program, with a configuration that leads nowhere.
async fn run_alone(directory: &Directory, arguments: &[&str]) -> Ended {
    let config = "[dht]\nbootstrap = [\"127.0.0.1:9\"]\n[upstream]\nservers = [\"127.0.0.1:9\"]\n";
    // Another one may be reading it.
    if !directory.join("config.toml").exists() {
        std::fs::write(directory.join("config.toml"), config).unwrap();
    }
    run(
        directory,
        &[arguments, &["--config", "config.toml"]].concat(),
    )
    .await
}

/// Arguments that publish what [`with_zone`] has written.
const PUBLISH: [&str; 5] = ["publish", "my.zone", "--key", "my.key", "--json"];

/// A directory with the key of this number and a zone file.
fn with_zone(number: u8) -> (Directory, SigningKey) {
    let directory = Directory::new();
    write_key(&directory, number);
    write_zone(&directory, "@ TXT \"1\"\n");
    (directory, secret(number))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_is_published_by_the_reference_relay_without_the_dht() {
    let dht = TestDht::start(10).await;
    let relay = Relay::start(&dht).await;
    let (directory, secret) = with_zone(21);
    // What others have put on the DHT is replaced, and told of.
    dht.publish(&packet(&secret, SEQ)).await;
    let url = relay.url();
    let by_relay = ["--no-dht", "--relay", &url];
    let done = run_alone(&directory, &[&PUBLISH[..], &by_relay].concat()).await;
    let done = done.expect(0);
    let report = done.json();
    assert_eq!(done.errors, "");
    assert_eq!(report["replaces_seq"], SEQ);
    assert_eq!(
        (&report["stored"], &report["holders"]),
        (&Value::Null, &Value::Null)
    );
    let relays = report["relays"].as_array().unwrap();
    assert_eq!(relays.len(), 1);
    assert_eq!(relays[0]["url"], url);
    assert_eq!(relays[0]["published"], true);
    assert!(relays[0]["stored"].as_u64().unwrap() >= 5, "{report}");

    // The relay has put it on the DHT.
    let server = Running::start(dht.config());
    until_told(&server, key_of(&secret), |seq, _| seq == 1).await;

    let text = run_alone(&directory, &[&PUBLISH[..4], &by_relay].concat()).await;
    let text = text.expect(0).output;
    assert!(text.contains("published, and put on "), "{text}");
    assert!(!text.contains("dry run"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_is_published_on_the_dht_and_by_relays_that_can_be_reached() {
    let dht = TestDht::start(10).await;
    let relay = Relay::start(&dht).await;
    let (directory, secret) = with_zone(22);
    let node = dht.testnet.bootstrap[0].clone();
    let url = relay.url();
    let on_both = [&PUBLISH[..], &["--bootstrap", &node, "--relay", &url]].concat();
    let report = run_alone(&directory, &on_both).await.expect(0).json();
    assert_eq!(report["replaces_seq"], Value::Null);
    assert!(report["holders"].as_u64().unwrap() >= 5, "{report}");
    assert_eq!(report["relays"][0]["published"], true, "{report}");

    let dead = [&on_both[..], &["--relay", "http://127.0.0.1:9"]].concat();
    let ended = run_alone(&directory, &dead).await.expect(3);
    ended.says("http://127.0.0.1:9: it is not known what it has");
    let report = ended.json();
    assert!(report["replaces_seq"].is_u64(), "{report}");
    let published: Vec<_> = report["relays"].as_array().unwrap().iter().collect();
    assert_eq!(published[0]["published"], true);
    assert_eq!(published[1]["published"], false);
    let server = Running::start(dht.config());
    until_told(&server, key_of(&secret), |seq, _| seq == 1).await;
}

/// A relay that has nothing when it is asked, and answers a packet with this status.
async fn refusing(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut request).await {
                    let is_put = request[..length].starts_with(b"PUT ");
                    let status = if is_put { status } else { "404 Not Found" };
                    let length = "content-length: 9\r\nconnection: close\r\n\r\n\u{1b}[1mreason";
                    let response = format!("HTTP/1.1 {status}\r\n{length}");
                    let _ = stream.write_all(response.as_bytes()).await;
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn what_relays_say_to_a_packet_is_told_in_words() {
    let (directory, secret) = with_zone(23);
    for (status, code, text) in [
        (
            "400 Bad Request",
            1,
            "it refuses the packet (HTTP status 400): ",
        ),
        (
            "413 Payload Too Large",
            1,
            "it refuses the packet (HTTP status 413): ",
        ),
        (
            "409 Conflict",
            1,
            "it has a newer packet of this key: somebody else",
        ),
        (
            "412 Precondition Failed",
            1,
            "somebody else who has the key publishes, too",
        ),
        (
            "429 Too Many Requests\r\nretry-after: 7",
            3,
            "ask again in 7 s; try again",
        ),
        ("503 Service Unavailable", 3, "HTTP status 503: "),
        ("302 Found", 1, "write the other URL"),
        ("204 No Content", 3, "does not give it back"),
    ] {
        let url = refusing(status).await;
        let arguments = [&PUBLISH[..], &["--no-dht", "--relay", &url]].concat();
        let ended = run_alone(&directory, &arguments).await.expect(code);
        ended.says(&format!("{url}: "));
        ended.says(text);
        assert!(!ended.errors.contains('\u{1b}'), "{:?}", ended.errors);
        let relay = &ended.json()["relays"][0];
        assert_eq!(relay["published"], false, "{status}");
        assert!(relay["error"].is_string(), "{status}");
    }

    // One that gives back what is newer has been given another one meanwhile; and what it has is replaced.
    let future = 4_000_000_000_000_000;
    let other = Scripted::start(Says::Packet(packet(&secret, future))).await;
    let arguments = [&PUBLISH[..], &["--no-dht", "--relay", &other.url]].concat();
    let ended = run_alone(&directory, &arguments).await;
    assert_eq!(ended.json()["replaces_seq"], future);
    assert_eq!(ended.json()["seq"], future + 1);
    ended.expect(3).says("does not give it back");

    // Nobody has told what there is: nothing is signed or sent.
    let silent = Scripted::start(Says::Status("503 Service Unavailable")).await;
    let arguments = [&PUBLISH[..], &["--no-dht", "--relay", &silent.url]].concat();
    let ended = run_alone(&directory, &arguments).await.expect(3);
    ended.says("so nothing was published");
    ended.says("HTTP status 503");
    assert_eq!(ended.output, "");
    assert!(silent.asked().iter().all(|asked| asked.starts_with("get ")));
    for (arguments, text) in [
        (["--no-dht"].as_slice(), "--relay <URL>"),
        (&["--relay", "http://relay.example"], "write https://"),
    ] {
        let arguments = [&PUBLISH[..], arguments].concat();
        run_alone(&directory, &arguments).await.expect(2).says(text);
    }
}

async fn resolve(directory: &Directory, key: PublicKey, urls: &[&str], more: &[&str]) -> Ended {
    let key = key.to_string();
    let mut arguments = vec!["resolve", &key];
    for url in urls {
        arguments.extend(["--relay", url]);
    }
    run_alone(directory, &[&arguments[..], more].concat()).await
}

/// What each relay was told to hold.
fn holds(report: &Value) -> Vec<(&str, Option<u64>)> {
    let relays = report["relays"].as_array().unwrap().iter();
    let holds = relays.map(|relay| (relay["holds"].as_str().unwrap(), relay["seq"].as_u64()));
    holds.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_asks_relays_also_without_the_dht_and_shows_what_each_has() {
    let directory = Directory::new();
    let secret = secret(31);
    let key = key_of(&secret);
    let dht = TestDht::start(10).await;
    let relay = Relay::start(&dht).await;
    dht.publish(&packet(&secret, SEQ)).await;
    let stale = Scripted::start(Says::Packet(packet(&secret, SEQ - 5))).await;
    let empty = Scripted::start(Says::Status("404 Not Found")).await;
    let busy = Scripted::start(Says::Status("429 Too Many Requests\r\nretry-after: 9")).await;
    let endless = Scripted::start(Says::Endless).await;
    let forged = Scripted::start(Says::Packet(packet(&self::secret(99), SEQ))).await;
    let urls = [
        &relay.url()[..],
        &stale.url,
        &empty.url,
        &busy.url,
        &forged.url,
    ];

    // No DHT node answers, which takes its time to tell.
    let nobody = key_of(&self::secret(32));
    let of_nobody = [&empty.url[..], &endless.url];
    let (report, of_nobody) = tokio::join!(
        resolve(&directory, key, &urls, &["--json"]),
        resolve(&directory, nobody, &of_nobody, &["--json"])
    );
    let report = report.expect(0).json();
    assert_eq!(
        (&report["status"], &report["packet"]["seq"]),
        (&"found".into(), &SEQ.into())
    );
    let error = report["error"].as_str().unwrap();
    assert!(error.starts_with("no DHT node answers"), "{report}");
    let expected = [
        ("newest", Some(SEQ)),
        ("older", Some(SEQ - 5)),
        ("none", None),
        ("failed", None),
        ("refused", None),
    ];
    assert_eq!(holds(&report), expected);
    // That a relay has nothing proves nothing.
    let report = of_nobody.expect(3).json();
    assert_eq!(report["status"], "failure");
    assert_eq!(holds(&report), [("none", None), ("failed", None)]);
    let error = &report["relays"][1]["error"];
    assert_eq!(*error, "its answer has more than 1072 bytes");

    // With the DHT; the relay's newer packet is the newest.
    let new = Scripted::start(Says::Packet(packet(&secret, SEQ + 5))).await;
    let node = ["--bootstrap", &dht.testnet.bootstrap[0]];
    let text = resolve(&directory, key, &[&new.url, urls[0], &busy.url], &node).await;
    let text = text.expect(0).output;
    for expected in [
        &format!(
            "packet       seq {}, signed 2023-11-14 22:13:20 UTC",
            SEQ + 5
        ),
        &format!("relays       {}  newest\n", new.url),
        &format!(
            "{}  older: seq {SEQ}, signed 2023-11-14 22:13:20 UTC",
            urls[0]
        ),
        &format!("{}  failed: it has had too many requests", busy.url),
        "held by      0 of the ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("may be a newer one"), "{text}");

    // The DHT proves that nobody has it.
    let ended = resolve(&directory, nobody, &[&empty.url], &node).await;
    assert!(ended.expect(1).output.contains("none: no DHT node has one"));
}
