use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::Link;
use super::super::tests::*;
use super::*;
use crate::endpoint::Transport;

/// A QUIC server; `serve` gets each connection and its number.
pub(in super::super) async fn quic_server<F, S>(
    identity: Identity,
    protocol: &[u8],
    serve: F,
) -> (SocketAddr, Taken)
where
    F: Fn(usize, quinn::Connection) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    quic_server_with(server_config(identity, protocol), serve).await
}

pub(in super::super) async fn quic_server_with<F, S>(
    config: rustls::ServerConfig,
    serve: F,
) -> (SocketAddr, Taken)
where
    F: Fn(usize, quinn::Connection) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let tls = QuicServerConfig::try_from(config).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(100));
    config.transport_config(Arc::new(transport));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quinn::Endpoint::server(config, address).unwrap();
    let address = endpoint.local_addr().unwrap();
    let taken = Taken::default();
    let counter = taken.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(connection) = incoming.await {
                connections.spawn(serve(counter.next(), connection));
            }
        }
    });
    (address, taken)
}

/// The sessions of a server; counts those that were resumed.
#[derive(Debug)]
struct Sessions {
    memory: Arc<ServerSessionMemoryCache>,
    resumed: AtomicUsize,
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.memory.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.memory.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let session = self.memory.take(key);
        let found = usize::from(session.is_some());
        self.resumed.fetch_add(found, Ordering::SeqCst);
        session
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Asks twice, over a connection each, at a server that closes after one response; tells how many
/// sessions were resumed.
pub(in super::super) async fn resumptions<F, S>(
    transport: Transport,
    protocol: &[u8],
    serve: F,
) -> usize
where
    F: Fn(usize, quinn::Connection) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("test authority");
    let sessions = Arc::new(Sessions {
        memory: ServerSessionMemoryCache::new(16),
        resumed: AtomicUsize::new(0),
    });
    let mut config = server_config(authority.issue(&[SERVER_NAME]), protocol);
    config.session_storage = Arc::<Sessions>::clone(&sessions);
    let (address, taken) = quic_server_with(config, serve).await;
    let link = Link::new(
        endpoint(transport, address),
        authority.trusted(),
        no_bootstrap(),
    );
    let query = query(7, "x");
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(sessions.resumed.load(Ordering::SeqCst), 0);
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 2);
    sessions.resumed.load(Ordering::SeqCst)
}

#[tokio::test]
async fn sessions_are_resumed() {
    let resumed = resumptions(Transport::Quic, b"doq", |_, connection| async move {
        let (mut out, mut stream) = connection.accept_bi().await.unwrap();
        let query = receive_all(&mut stream).await;
        send(&mut out, &reply(&query)).await;
        out.finish().unwrap();
        // All of it has arrived.
        out.stopped().await.unwrap();
        connection.close(VarInt::from_u32(0), b"");
    })
    .await;
    assert_eq!(resumed, 1);
}

async fn server<F, S>(serve: F) -> (Link, Taken)
where
    F: Fn(usize, quinn::Connection) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("test authority");
    let identity = authority.issue(&[SERVER_NAME]);
    let (address, taken) = quic_server(identity, b"doq", serve).await;
    let endpoint = endpoint(Transport::Quic, address);
    let link = Link::new(endpoint, authority.trusted(), no_bootstrap());
    (link, taken)
}

/// Reads the query of a stream, to its end.
async fn receive_all(stream: &mut RecvStream) -> Vec<u8> {
    let framed = stream.read_to_end(1 << 17).await.unwrap();
    let (length, query) = framed.split_at(2);
    assert_eq!(length, u16::try_from(query.len()).unwrap().to_be_bytes());
    query.to_vec()
}

async fn answer_streams(connection: quinn::Connection) {
    while let Ok((mut out, mut stream)) = connection.accept_bi().await {
        tokio::spawn(async move {
            let query = receive_all(&mut stream).await;
            send(&mut out, &reply(&query)).await;
            out.finish().unwrap();
        });
    }
}

#[tokio::test]
async fn each_query_has_a_stream_and_the_id_zero() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let (link, taken) = server(move |_, connection| {
        let told = told.clone();
        async move {
            let data = connection.handshake_data().unwrap();
            let data = data.downcast::<HandshakeData>().unwrap();
            told.send((data.protocol.unwrap(), data.server_name.unwrap()))
                .unwrap();
            let mut open = Vec::new();
            while let Ok((out, mut stream)) = connection.accept_bi().await {
                let query = receive_all(&mut stream).await;
                assert_eq!(&query[..2], [0, 0]);
                open.push((out, query));
                if open.len() == 50 {
                    for (mut out, query) in open.drain(..).rev() {
                        send(&mut out, &reply(&query)).await;
                        out.finish().unwrap();
                    }
                }
            }
        }
    })
    .await;
    let link = Arc::new(link);
    let mut asks = JoinSet::new();
    for id in 0..50 {
        let link = Arc::clone(&link);
        asks.spawn(async move {
            let query = query(id, &id.to_string());
            assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        });
    }
    while let Some(ask) = asks.join_next().await {
        ask.unwrap();
    }
    assert_eq!(taken.count(), 1);
    let expected = (b"doq".to_vec(), SERVER_NAME.to_owned());
    assert_eq!(seen.recv().await, Some(expected));
}

#[tokio::test]
async fn more_queries_than_the_server_allows_streams_wait() {
    let (link, taken) = server(|_, connection| answer_streams(connection)).await;
    let link = Arc::new(link);
    let mut asks = JoinSet::new();
    for id in 0..500 {
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
async fn a_connection_that_the_server_closed_is_made_anew() {
    let (link, taken) = server(|number, connection| async move {
        if number == 0 {
            let _ = connection.accept_bi().await;
            connection.close(VarInt::from_u32(1), b"restart");
            return;
        }
        answer_streams(connection).await;
    })
    .await;
    let query = query(7, "x");
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 2);
}

#[tokio::test]
async fn a_stream_without_a_whole_response_costs_one_query() {
    let (link, taken) = server(|_, connection| async move {
        while let Ok((mut out, mut stream)) = connection.accept_bi().await {
            let query = receive_all(&mut stream).await;
            match &query[12..] {
                b"reset" => out.reset(VarInt::from_u32(2)).unwrap(),
                b"empty" => out.finish().unwrap(),
                b"half" => {
                    out.write_all(&[0, 20, 0, 0]).await.unwrap();
                    out.finish().unwrap();
                }
                b"short" => send(&mut out, &[0; 11]).await,
                b"id" => send(&mut out, &[&[1], &reply(&query)[1..]].concat()).await,
                // Without an end, which is the server's fault and no reason to wait.
                _ => {
                    send(&mut out, &reply(&query)).await;
                    tokio::spawn(async move { out.stopped().await });
                }
            }
        }
    })
    .await;
    for text in ["reset", "empty", "half", "short", "id"] {
        let result = link.ask(&query(7, text)).await;
        assert!(
            matches!(result, Err(LinkError::Answer(_))),
            "{text}: {result:?}"
        );
    }
    let query = query(7, "well");
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_is_cancelled() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let (link, _) = server(move |_, connection| {
        let told = told.clone();
        async move {
            let (out, mut stream) = connection.accept_bi().await.unwrap();
            receive_all(&mut stream).await;
            told.send(None).unwrap();
            told.send(out.stopped().await.unwrap()).unwrap();
        }
    })
    .await;
    let asked = query(7, "x");
    tokio::select! {
        _ = link.ask(&asked) => panic!("answered"),
        seen = seen.recv() => assert_eq!(seen, Some(None)),
    }
    assert_eq!(seen.recv().await, Some(Some(REQUEST_CANCELLED)));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_in_words() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&["other.example"]);
    let (address, _) = quic_server(identity, b"doq", |_, _| async {}).await;
    let endpoint = endpoint(Transport::Quic, address);
    let link = Link::new(endpoint, authority.trusted(), no_bootstrap());
    let error = link.ask(&query(1, "x")).await.unwrap_err();
    let expected = "cannot connect: the certificate is not for this server";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_server_of_another_protocol_is_refused() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&[SERVER_NAME]);
    let (address, _) = quic_server(identity, b"other", |_, _| async {}).await;
    let endpoint = endpoint(Transport::Quic, address);
    let link = Link::new(endpoint, authority.trusted(), no_bootstrap());
    let result = link.ask(&query(1, "x")).await;
    assert!(matches!(result, Err(LinkError::Connect(_))), "{result:?}");
}
