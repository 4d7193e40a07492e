//! DNS over HTTPS on HTTP/2 (RFC 8484, RFC 9113).

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, SendRequest};
use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Channel, Connection, MAX_UNDER_WAY};
use super::health::Health;
use super::{LinkError, http as exchange};

/// Bytes that a server may send ahead on one stream: the longest message.
const STREAM_WINDOW: u32 = 65_535;
/// Bytes that it may send ahead on all: many usual answers, and sixteen of the longest.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Where requests are put on a connection.
#[derive(Debug)]
pub(super) struct Requests {
    send: SendRequest<Bytes>,
    uri: Uri,
}

/// A connection over a stream on which HTTP/2 has been agreed upon.
pub(super) async fn connection<S>(stream: S, uri: Uri) -> Result<Connection, LinkError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(exchange::MAX_HEADERS_LEN)
        // Until the server has said how many it takes: it would refuse what is over its limit.
        .initial_max_send_streams(1)
        // Queries that nobody waits for any more are reset; what comes for them is let pass.
        .max_concurrent_reset_streams(MAX_UNDER_WAY)
        .handshake(stream);
    let (send, connection) = handshake
        .await
        .map_err(|error| LinkError::Connect(error.to_string()))?;
    let health = Arc::new(Health::new());
    let shared = Arc::clone(&health);
    let driver = async move {
        tokio::select! {
            result = connection => match result {
                Ok(()) => LinkError::Lost("closed by the server".to_owned()),
                Err(error) => LinkError::Lost(error.to_string()),
            },
            () = shared.idle() => LinkError::Lost("idle".to_owned()),
        }
    };
    let requests = Requests { send, uri };
    Ok(Connection::new(Channel::Http2(requests), health, driver))
}

impl Requests {
    /// Sends a query, gives the body of the response.
    pub(super) async fn ask(&self, query: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        let request = exchange::request(&self.uri, query.len())?;
        let mut send = self.send.clone().ready().await.map_err(lost)?;
        let (response, mut body) = send.send_request(request, false).map_err(lost)?;
        body.send_data(query.into(), true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        exchange::check(head.status, &head.headers)?;
        let mut message = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(failed)?;
            let length = piece.len();
            exchange::add(&mut message, piece)?;
            let _ = body.flow_control().release_capacity(length);
        }
        exchange::account_for_age(&mut message, &head.headers);
        Ok(message)
    }
}

fn lost(error: h2::Error) -> LinkError {
    LinkError::Lost(error.to_string())
}

/// A stream that was reset is one query's misfortune, unless the server has not looked at it
/// (RFC 9113 section 8.7).
fn failed(error: h2::Error) -> LinkError {
    if error.is_reset() && error.reason() != Some(Reason::REFUSED_STREAM) {
        return LinkError::Answer(error.to_string());
    }
    lost(error)
}

#[cfg(test)]
mod tests;
