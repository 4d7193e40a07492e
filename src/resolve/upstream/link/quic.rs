//! DNS over QUIC (RFC 9250), and the QUIC connection below HTTP/3.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt;
use quinn::{ReadExactError, RecvStream, SendStream, TransportConfig, VarInt, WriteError};

use super::LinkError;
use super::connection::{Channel, Connection};
use super::health::{Health, IDLE_TIMEOUT};
use super::tls::TlsClient;

/// Streams that a server may open to us: HTTP/3 has three, and some use reserved ones as a test.
const MAX_SERVER_STREAMS: u8 = 8;
/// Bytes that a server may send ahead on one stream: the longest message with its length, or HTTP
/// frames around it.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes that it may send ahead on all.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// RFC 9250 section 4.3: nobody waits for the response any more.
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);

/// Where queries are put on a connection.
#[derive(Debug)]
pub(super) struct Queries(quinn::Connection);

/// A stream of one query. Dropped before the response is there, it tells the server so.
struct Query {
    send: SendStream,
    receive: RecvStream,
    done: bool,
}

/// Connects; the protocol is the one in the TLS configuration. The port is a random one of our own.
pub(super) async fn connect(
    server: SocketAddr,
    tls: &TlsClient,
) -> Result<quinn::Connection, LinkError> {
    let failed = |error: &dyn std::fmt::Display| LinkError::Connect(tls.explain(error));
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = quinn::Endpoint::client(any).map_err(|error| failed(&error))?;
    let mut transport = TransportConfig::default();
    let idle = quinn::IdleTimeout::try_from(IDLE_TIMEOUT);
    transport
        .max_idle_timeout(Some(idle.map_err(|error| failed(&error))?))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(MAX_SERVER_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(tls.quic()?);
    config.transport_config(Arc::new(transport));
    let name = tls.name().to_str();
    let connecting = endpoint.connect_with(config, server, &name);
    let connecting = connecting.map_err(|error| failed(&error))?;
    connecting.await.map_err(|error| failed(&error))
}

/// A connection on which DNS over QUIC has been agreed upon.
pub(super) fn connection(quic: quinn::Connection) -> Connection {
    let closed = quic.clone();
    // Idle connections end by QUIC's own timeout.
    let driver = async move { LinkError::Lost(closed.closed().await.to_string()) };
    let health = Arc::new(Health::new());
    Connection::new(Channel::Quic(Queries(quic)), health, driver)
}

impl Queries {
    /// Sends a query on a stream of its own, gives the response.
    pub(super) async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, LinkError> {
        let streams = self.0.open_bi().await;
        let (send, receive) = streams.map_err(|error| LinkError::Lost(error.to_string()))?;
        let mut stream = Query {
            send,
            receive,
            done: false,
        };
        let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes(), query].concat();
        stream.send.write_all(&framed).await.map_err(not_written)?;
        // RFC 9250 section 4.2: nothing else comes on this stream.
        let _ = stream.send.finish();
        let mut length = [0; 2];
        let read = stream.receive.read_exact(&mut length).await;
        read.map_err(not_read)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        let read = stream.receive.read_exact(&mut message).await;
        read.map_err(not_read)?;
        // The end of the stream is mostly there as well; it is not worth waiting for.
        let _ = stream.receive.read(&mut [0]).now_or_never();
        stream.done = true;
        Ok(message)
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        if !self.done {
            // They fail on a connection that is gone.
            let _ = self.receive.stop(REQUEST_CANCELLED);
            let _ = self.send.reset(REQUEST_CANCELLED);
        }
    }
}

fn not_written(error: WriteError) -> LinkError {
    match error {
        WriteError::Stopped(_) => LinkError::Answer(error.to_string()),
        WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            LinkError::Lost(error.to_string())
        }
    }
}

fn not_read(error: ReadExactError) -> LinkError {
    match error {
        ReadExactError::FinishedEarly(_)
        | ReadExactError::ReadError(quinn::ReadError::Reset(_)) => {
            LinkError::Answer(format!("the server gave no whole response: {error}"))
        }
        ReadExactError::ReadError(_) => LinkError::Lost(error.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests;
