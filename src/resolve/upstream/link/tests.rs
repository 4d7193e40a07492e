//! A link and servers on loopback that do what a test has them do: with TCP, for what holds of all
//! transports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::bootstrap::tests::A;
use super::health::MAX_SILENCE;
use super::*;
use crate::endpoint::{Host, Transport};
use crate::wire::HEADER_LEN;

/// The name that the servers' certificates are for.
pub(super) const SERVER_NAME: &str = "dns.example";

/// A query with an ID and a text to tell it by, in the place of the question.
pub(super) fn query(id: u16, text: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(text.as_bytes());
    query
}

/// The response to a query: the same with the QR bit.
pub(super) fn reply(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply
}

/// The response to a query, with a record of this TTL.
pub(super) fn reply_with_ttl(query: &[u8], ttl: u32) -> Vec<u8> {
    let mut reply = reply(&query[..HEADER_LEN]);
    reply[4..8].copy_from_slice(&[0, 0, 0, 1]);
    reply.extend([0, 0, 1, 0, 1]);
    reply.extend(ttl.to_be_bytes());
    reply.extend([0, 0]);
    reply
}

/// Reads a message with its length; `None` at the end of the stream.
pub(super) async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Writes a message with its length.
pub(super) async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&length, message].concat();
    // The other end may have left.
    let _ = stream.write_all(&framed).await;
    let _ = stream.flush().await;
}

/// Answers all queries of a stream in order, until it ends.
pub(super) async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    while let Some(query) = receive(stream).await {
        send(stream, &reply(&query)).await;
    }
}

/// How many connections a server has taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Arc<AtomicUsize>);

impl Taken {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// The number of the next one, from 0.
    pub(super) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// A TCP server; `serve` gets each connection and its number.
pub(super) async fn tcp_server<F, S>(serve: F) -> (SocketAddr, Taken)
where
    F: Fn(usize, TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Taken::default();
    let counter = taken.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(counter.next(), stream));
        }
    });
    (address, taken)
}

/// A certificate authority.
pub(super) struct Authority(pub(super) CertifiedIssuer<'static, KeyPair>);

/// What a server shows and proves.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority_params(name), new_key());
        Self(issuer.unwrap())
    }

    /// A certificate for `names`.
    pub(super) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(params(names))
    }

    pub(super) fn issue_with(&self, params: CertificateParams) -> Identity {
        let key = new_key();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], private(&key))
    }

    /// Trust in this authority alone.
    pub(super) fn trusted(&self) -> Arc<Tls> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(Tls::trusting(roots))
    }
}

pub(super) fn new_key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(super) fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

pub(super) fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

pub(super) fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let common_name = rcgen::DnType::CommonName;
    params.distinguished_name.push(common_name, name);
    params
}

/// A server's side of TLS.
pub(super) fn server_config(identity: Identity, protocol: &[u8]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.0, identity.1)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// An endpoint on loopback whose certificate is for [`SERVER_NAME`].
pub(super) fn endpoint(transport: Transport, server: SocketAddr) -> Endpoint {
    Endpoint {
        transport,
        tls_name: Some(SERVER_NAME.to_owned()),
        ..Endpoint::plain(server)
    }
}

fn no_trust() -> Arc<Tls> {
    Arc::new(Tls::trusting(RootCertStore::empty()))
}

pub(super) fn no_bootstrap() -> Arc<Bootstrap> {
    Arc::new(Bootstrap::new(Vec::new()))
}

fn tcp_link(server: SocketAddr) -> Link {
    Link::new(endpoint(Transport::Tcp, server), no_trust(), no_bootstrap())
}

/// Lets time pass.
pub(super) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn first_queries_at_once_share_one_connection() {
    let (server, taken) = tcp_server(|_, mut stream| async move {
        answer_all(&mut stream).await;
    })
    .await;
    let link = Arc::new(tcp_link(server));
    let mut asks = JoinSet::new();
    for id in 0..200 {
        let link = Arc::clone(&link);
        asks.spawn(async move {
            let query = query(id, "x");
            assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        });
    }
    while let Some(ask) = asks.join_next().await {
        ask.unwrap();
    }
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn nothing_is_connected_before_the_first_query() {
    let (server, taken) = tcp_server(|_, mut stream| async move {
        answer_all(&mut stream).await;
    })
    .await;
    let _unused = tcp_link(server);
    let link = tcp_link(server);
    link.ask(&query(1, "x")).await.unwrap();
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_connection_comes_about_though_the_first_to_want_it_has_left() {
    let (server, taken) = tcp_server(|_, mut stream| async move {
        answer_all(&mut stream).await;
    })
    .await;
    let link = tcp_link(server);
    for id in 0..5 {
        let gone = link.ask(&query(id, "gone")).now_or_never();
        assert_eq!(gone, None);
    }
    let query = query(7, "x");
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_while_idle_is_made_anew() {
    let (server, taken) = tcp_server(|_, mut stream| async move {
        let query = receive(&mut stream).await.unwrap();
        send(&mut stream, &reply(&query)).await;
    })
    .await;
    let link = tcp_link(server);
    for id in 0..10 {
        let query = query(id, "x");
        assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    }
    assert_eq!(taken.count(), 10);
}

#[tokio::test]
async fn a_query_whose_connection_dies_is_asked_once_more() {
    let (server, taken) = tcp_server(|number, mut stream| async move {
        if number == 0 {
            receive(&mut stream).await.unwrap();
            stream.write_all(&[0]).await.unwrap();
            stream.set_zero_linger().unwrap();
            return;
        }
        answer_all(&mut stream).await;
    })
    .await;
    let link = tcp_link(server);
    let query = query(1, "x");
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 2);
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_is_left_alone_for_a_while() {
    let (server, taken) = tcp_server(|number, mut stream| async move {
        if number >= 3 {
            answer_all(&mut stream).await;
        }
    })
    .await;
    let link = tcp_link(server);
    let query = query(1, "x");
    let closed = |result| matches!(result, Err(LinkError::Lost(_)));
    // The first connection and the one after it, at once.
    assert!(closed(link.ask(&query).await));
    assert!(closed(link.ask(&query).await));
    pass(FIRST_PAUSE - Duration::from_millis(50)).await;
    assert!(closed(link.ask(&query).await));
    assert_eq!(taken.count(), 2);
    // Then one after each pause, and each is longer.
    pass(FIRST_PAUSE).await;
    assert!(closed(link.ask(&query).await));
    assert_eq!(taken.count(), 3);
    pass(FIRST_PAUSE).await;
    assert!(closed(link.ask(&query).await));
    pass(FIRST_PAUSE).await;
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 4);
}

#[test]
fn pauses_grow_to_a_few_seconds() {
    let pauses: Vec<u128> = (1..9).map(|n| pause(n).as_millis()).collect();
    assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 4000, 4000]);
    assert_eq!(pause(u32::MAX), MAX_PAUSE);
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    drop(listener);
    let error = tcp_link(server).ask(&query(1, "x")).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot connect: Connection refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_failure_of_which_nobody_heard_is_no_answer_later() {
    let authority = Authority::new("test authority");
    let config = Arc::new(server_config(authority.issue(&[SERVER_NAME]), b"dot"));
    let (server, taken) = tcp_server(move |number, stream| {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&config));
        async move {
            if number > 0 {
                answer_all(&mut acceptor.accept(stream).await.unwrap()).await;
            }
        }
    })
    .await;
    let endpoint = endpoint(Transport::Tls, server);
    let link = Link::new(endpoint, authority.trusted(), no_bootstrap());
    let query = query(1, "x");
    assert_eq!(link.ask(&query).now_or_never(), None);
    // The server closes instead of shaking hands, and the task that connects ends.
    while Arc::strong_count(&link.dialer) > 1 {
        tokio::task::yield_now().await;
    }
    pass(Duration::from_millis(1)).await;
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 2);
}

/// A server whose first connection answers one query and then only what it is told to, and whose
/// others answer all if `others`; and what it has received.
async fn falls_silent(others: bool) -> (Link, Taken, mpsc::Receiver<()>, Arc<Notify>) {
    let (told, heard) = mpsc::channel(16);
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let (server, taken) = tcp_server(move |number, mut stream| {
        let (told, released) = (told.clone(), Arc::clone(&released));
        async move {
            let mut count = 0;
            while let Some(query) = receive(&mut stream).await {
                told.send(()).await.unwrap();
                if (number == 0 && count > 0) || (number > 0 && !others) {
                    released.notified().await;
                }
                send(&mut stream, &reply(&query)).await;
                count += 1;
            }
        }
    })
    .await;
    (tcp_link(server), taken, heard, release)
}

#[tokio::test]
async fn a_path_on_which_nothing_comes_back_is_given_up() {
    let (link, taken, mut heard, _release) = falls_silent(true).await;
    let link = Arc::new(link);
    let asked = query(1, "x");
    link.ask(&asked).await.unwrap();
    heard.recv().await.unwrap();
    let mut waiting = JoinSet::new();
    for id in 0..10 {
        let link = Arc::clone(&link);
        waiting.spawn(async move {
            let query = query(id, "waits");
            assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        });
    }
    heard.recv().await.unwrap();
    pass(MAX_SILENCE).await;
    while let Some(waiting) = waiting.join_next().await {
        waiting.unwrap();
    }
    assert_eq!(link.ask(&asked).await, Ok(reply(&asked)));
    assert_eq!(taken.count(), 2);
}

#[tokio::test]
async fn a_slow_response_counts_though_its_connection_was_given_up() {
    let (link, taken, mut heard, release) = falls_silent(false).await;
    let link = Arc::new(link);
    link.ask(&query(1, "x")).await.unwrap();
    heard.recv().await.unwrap();
    let slow = query(2, "slow");
    let waits = Arc::clone(&link);
    let asked = slow.clone();
    let waiting = tokio::spawn(async move { waits.ask(&asked).await });
    heard.recv().await.unwrap();
    pass(MAX_SILENCE).await;
    // It is asked for on a second connection as well, and the first has the response.
    heard.recv().await.unwrap();
    assert_eq!(taken.count(), 2);
    release.notify_one();
    assert_eq!(waiting.await.unwrap(), Ok(reply(&slow)));
}

#[tokio::test]
async fn the_connection_ends_with_the_link() {
    let (told, mut heard) = mpsc::channel(1);
    let (server, _) = tcp_server(move |_, mut stream| {
        let told = told.clone();
        async move {
            answer_all(&mut stream).await;
            told.send(()).await.unwrap();
        }
    })
    .await;
    let link = tcp_link(server);
    link.ask(&query(1, "x")).await.unwrap();
    drop(link);
    heard.recv().await.unwrap();
}

#[tokio::test]
async fn what_is_no_message_is_not_sent() {
    let (server, _) = tcp_server(|_, mut stream| async move {
        answer_all(&mut stream).await;
    })
    .await;
    let link = tcp_link(server);
    let refused = |result| matches!(result, Err(LinkError::Answer(_)));
    assert!(refused(link.ask(&[0; HEADER_LEN - 1]).await));
    assert!(refused(link.ask(&vec![0; 65_536]).await));
    let longest = [query(5, ""), vec![7; 65_535 - HEADER_LEN]].concat();
    assert_eq!(link.ask(&longest).await, Ok(reply(&longest)));
}

#[tokio::test]
async fn the_addresses_of_a_stamp_need_no_bootstrap_server() {
    let (server, taken) = tcp_server(|_, mut stream| async move {
        answer_all(&mut stream).await;
    })
    .await;
    let mut endpoint = endpoint(Transport::Tcp, server);
    endpoint.host = Host::Name(SERVER_NAME.to_owned());
    let nowhere = Link::new(endpoint.clone(), no_trust(), no_bootstrap());
    let error = nowhere.ask(&query(1, "x")).await.unwrap_err();
    let expected =
        "cannot connect: cannot resolve the server's name: there are no bootstrap servers";
    assert_eq!(error.to_string(), expected);
    // Nobody listens at the first one.
    endpoint.addresses = vec![IpAddr::from([127, 0, 0, 77]), server.ip()];
    let link = Link::new(endpoint, no_trust(), no_bootstrap());
    link.ask(&query(1, "x")).await.unwrap();
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_dead_address_of_a_stamp_is_no_burden_where_bootstrap_servers_know_a_better_one() {
    let authority = Authority::new("test authority");
    let config = Arc::new(server_config(authority.issue(&[SERVER_NAME]), b"dot"));
    let (told, mut reached) = mpsc::unbounded_channel();
    let dead = told.clone();
    let (server, _) = tcp_server(move |_, stream| {
        let dead = dead.clone();
        async move {
            dead.send("the dead one").unwrap();
            std::future::pending::<()>().await;
            drop(stream);
        }
    })
    .await;
    let better = [127, 0, 0, 2];
    let listener = TcpListener::bind((IpAddr::from(better), server.port())).await;
    let listener = listener.unwrap();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        while let Ok((stream, _)) = listener.accept().await {
            told.send("the better one").unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let query = receive(&mut stream).await.unwrap();
            send(&mut stream, &reply(&query)).await;
        }
    });
    let (bootstrap, _) = bootstrap::tests::server(vec![(A, better.to_vec())], 300).await;
    let mut endpoint = endpoint(Transport::Tls, server);
    endpoint.host = Host::Name(SERVER_NAME.to_owned());
    endpoint.addresses = vec![server.ip()];
    let bootstrap = Arc::new(Bootstrap::new(vec![bootstrap]));
    let link = Link::new(endpoint, authority.trusted(), bootstrap);
    let query = query(1, "x");
    for expected in [&["the dead one", "the better one"][..], &["the better one"]] {
        // The second time it is preferred.
        assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        for expected in expected {
            assert_eq!(reached.recv().await, Some(*expected));
        }
    }
}

#[tokio::test]
async fn the_error_of_a_known_address_is_told_where_no_bootstrap_server_can_be_asked() {
    let authority = Authority::new("test authority");
    let config = Arc::new(server_config(authority.issue(&["other.example"]), b"dot"));
    let (server, _) = tcp_server(move |_, stream| {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&config));
        async move {
            let _ = acceptor.accept(stream).await;
        }
    })
    .await;
    let mut endpoint = endpoint(Transport::Tls, server);
    endpoint.host = Host::Name(SERVER_NAME.to_owned());
    endpoint.addresses = vec![server.ip()];
    let link = Link::new(endpoint, authority.trusted(), no_bootstrap());
    let error = link.ask(&query(1, "x")).await.unwrap_err();
    let expected = "cannot connect: the certificate is not for this server";
    assert_eq!(error.to_string(), expected);
}
