//! Upstreams over TLS and HTTPS, with a certificate of the test's own authority: what they are sent, and
//! what is accepted from them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::forward::*;
use common::*;
use h2::Reason;
use h2::server::SendResponse;
use pkbridge::endpoint::Endpoint;
use pkbridge::resolve::{Forward, Strategy, Tls, UpstreamSettings, Upstreams};
use pkbridge::wire::{self, Layout};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What the server's certificate is for.
const SERVER_NAME: &str = "dns.example";
/// The length of a padded query is a multiple of it (RFC 8467 section 4.1).
const BLOCK: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tls,
    Https,
}

const WAYS: [Way; 2] = [Way::Tls, Way::Https];

/// What a server does with a query.
enum Act {
    Send(Vec<u8>),
    /// Sends half of it and resets the connection, or the stream of HTTP.
    Cut(Vec<u8>),
    /// Only over HTTPS.
    Status(u16),
}

type Change = fn(&mut Vec<u8>);

type Script = Arc<dyn Fn(&[u8]) -> Act + Send + Sync>;

/// A server on loopback, and all queries that it got.
struct Encrypted {
    address: SocketAddr,
    endpoint: Endpoint,
    tls: Arc<Tls>,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Encrypted {
    async fn start(way: Way, script: impl Fn(&[u8]) -> Act + Send + Sync + 'static) -> Self {
        let (acceptor, tls) = trust(way);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remember = Arc::clone(&asked);
        let script: Script = Arc::new(move |query: &[u8]| {
            remember.lock().unwrap().push(query.to_vec());
            script(query)
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    match way {
                        Way::Tls => over_tls(stream, &script).await,
                        Way::Https => over_https(stream, script).await,
                    }
                });
            }
        });
        let url = match way {
            Way::Tls => format!("tls://{address}#{SERVER_NAME}"),
            Way::Https => format!("https://{address}/dns-query#{SERVER_NAME}"),
        };
        Self {
            address,
            endpoint: url.parse().unwrap(),
            tls,
            asked,
        }
    }

    /// Asks it first, and then these.
    fn before(&self, others: &[SocketAddr]) -> Upstreams {
        let others = others.iter().copied().map(Endpoint::plain);
        Upstreams::new(UpstreamSettings {
            servers: [self.endpoint.clone()].into_iter().chain(others).collect(),
            strategy: Strategy::InOrder,
            tls: Arc::clone(&self.tls),
            ..settings(&[])
        })
    }
}

/// A server's side of TLS, and a client's that trusts the authority in a file, as `[upstream] ca-file` has
/// it.
fn trust(way: Way) -> (TlsAcceptor, Arc<Tls>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let directory = Directory::new();
    let file = directory.join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let tls = Arc::new(Tls::new(Some(&file)).unwrap());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![match way {
        Way::Tls => b"dot".to_vec(),
        Way::Https => b"h2".to_vec(),
    }];
    (TlsAcceptor::from(Arc::new(config)), tls)
}

async fn over_tls(mut stream: TlsStream<TcpStream>, script: &Script) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.unwrap();
        let (reply, cut) = match script(&query) {
            Act::Send(reply) => (reply, false),
            Act::Cut(reply) => (reply, true),
            Act::Status(_) => panic!("TLS has no status"),
        };
        let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
        let mut framed = [&length, &*reply].concat();
        if cut {
            framed.truncate(framed.len() / 2);
        }
        // The client may have left.
        let _ = stream.write_all(&framed).await;
        let _ = stream.flush().await;
        if cut {
            stream.get_ref().0.set_zero_linger().unwrap();
            return;
        }
    }
}

async fn over_https(stream: TlsStream<TcpStream>, script: Script) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let script = Arc::clone(&script);
        tokio::spawn(async move {
            let mut stream = request.into_body();
            let mut query = Vec::new();
            while let Some(Ok(piece)) = stream.data().await {
                query.extend(piece);
            }
            respond_as(script(&query), respond);
        });
    }
}

fn respond_as(act: Act, mut respond: SendResponse<Bytes>) {
    let (status, body, cut) = match act {
        Act::Send(body) => (200, body, false),
        Act::Cut(body) => (200, body, true),
        Act::Status(status) => (status, Vec::new(), false),
    };
    let response = http::Response::builder()
        .status(status)
        .header("content-type", "application/dns-message")
        .body(())
        .unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    if cut {
        let half = Bytes::from(body).split_to(10);
        stream.send_data(half, false).unwrap();
        stream.send_reset(Reason::INTERNAL_ERROR);
    } else {
        stream.send_data(body.into(), true).unwrap();
    }
}

#[tokio::test]
async fn a_query_tells_nothing_but_its_question() {
    for way in WAYS {
        let server = Encrypted::start(way, |query| Act::Send(reply(query, 1))).await;
        let upstreams = server.before(&[]);
        for label in [1, 20, 60] {
            let owner = format!("{}.some-zone.example", "a".repeat(label));
            assert_eq!(address(&upstreams, &owner).await, 1);
        }
        let asked = server.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 3);
        for query in asked {
            assert_eq!(query.len() % BLOCK, 0, "{way:?}: RFC 8467 section 4.1");
            assert_eq!(cookie_of(&query), None, "{way:?}");
            let question = &query[wire::plain_question(&query).unwrap()];
            assert_eq!(question, question.to_ascii_lowercase(), "{way:?}");
            let layout = Layout::read(&query).unwrap();
            let opt = layout.records.last().unwrap();
            assert_eq!(opt.rtype, 41);
            assert_eq!(
                query[opt.rdata.clone()][..2],
                [0, 12],
                "{way:?}: padding alone"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_over_tls_or_https_is_not_believed_and_the_next_server_is_asked() {
    let wrong: [(&str, Change); 4] = [
        ("another question", |reply| reply[13] = b'b'),
        ("another type", |reply| reply[24] = 28),
        ("another ID", |reply| reply[1] ^= 0x55),
        ("truncated", |reply| reply[2] |= 2),
    ];
    for way in WAYS {
        for (what, change) in wrong {
            let server = Encrypted::start(way, move |query| {
                let mut reply = reply(query, 66);
                assert_eq!(reply[23..25], [0, 1], "the type of the question");
                change(&mut reply);
                Act::Send(reply)
            })
            .await;
            let second = answering(2).await;
            let upstreams = server.before(&[second.address]);
            assert_eq!(address(&upstreams, "a.example").await, 2, "{way:?}: {what}");
            assert!(!server.asked.lock().unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_message_costs_one_query_at_most() {
    for way in WAYS {
        let count = AtomicUsize::new(0);
        let server = Encrypted::start(way, move |query| {
            match count.fetch_add(1, Ordering::SeqCst) {
                0 | 3 => Act::Cut(reply(query, 66)),
                _ => Act::Send(reply(query, 1)),
            }
        })
        .await;
        let second = answering(2).await;
        let upstreams = server.before(&[second.address]);
        for number in 0..6 {
            let owner = format!("n{number}.example");
            let last = address(&upstreams, &owner).await;
            // A stream of HTTP that was reset is not asked for again, but elsewhere.
            assert!(
                last == 1 || way == Way::Https && last == 2,
                "{way:?}: {last}"
            );
        }
        assert_eq!(address(&upstreams, "last.example").await, 1, "{way:?}");
    }
}

#[tokio::test]
async fn a_wrong_path_is_logged_and_its_server_is_no_favourite() {
    let log = Log::capture();
    let server = Encrypted::start(Way::Https, |_| Act::Status(404)).await;
    let second = answering(2).await;
    let alone = server.before(&[]);
    let both = server.before(&[second.address]);
    for number in 0..20 {
        let asked = question(&format!("n{number}.example"));
        let failure = alone.forward(&asked).await.unwrap_err();
        assert!(failure.to_string().contains("HTTP status 404"), "{failure}");
    }
    assert!(alone.is_down_for(&name("a.example")));
    let address_text = server.address.to_string();
    let warnings = log.lines(&["WARN", &address_text, "HTTP status 404"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let before = server.asked.lock().unwrap().len();
    for number in 0..20 {
        assert_eq!(address(&both, &format!("n{number}.example")).await, 2);
    }
    assert_eq!(log.lines(&["WARN"]).len(), 2, "one for each `Upstreams`");
    // The first time, and to see whether it still does: after 1 s, then ever more seldom.
    let asked = server.asked.lock().unwrap().len() - before;
    assert!(asked < 10, "{asked}");
}
