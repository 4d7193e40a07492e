//! DNS over HTTPS on HTTP/3 (RFC 8484, RFC 9114).

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use http::Uri;
use quinn::VarInt;

use super::connection::{Channel, Connection};
use super::health::Health;
use super::{LinkError, http as exchange};
use crate::panics::Isolated;

/// Where requests are put on a connection.
pub(super) struct Requests {
    send: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    quic: quinn::Connection,
    uri: Uri,
}

/// A connection over QUIC on which HTTP/3 has been agreed upon.
pub(super) async fn connection(quic: quinn::Connection, uri: Uri) -> Result<Connection, LinkError> {
    let mut builder = h3::client::builder();
    builder.max_field_section_size(exchange::MAX_HEADERS_LEN.into());
    let (mut connection, send) = isolated(builder.build(h3_quinn::Connection::new(quic.clone())))
        .await?
        .map_err(|error| LinkError::Connect(error.to_string()))?;
    // Idle connections end by QUIC's own timeout.
    let driver = async move {
        match isolated(async move { connection.wait_idle().await }).await {
            Ok(error) => LinkError::Lost(error.to_string()),
            Err(panic) => panic,
        }
    };
    let requests = Requests { send, quic, uri };
    let health = Arc::new(Health::new());
    Ok(Connection::new(Channel::Http3(requests), health, driver))
}

impl Requests {
    /// Sends a query, gives the body of the response.
    pub(super) async fn ask(&self, query: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        // In a box: it is several times larger than those of the other transports.
        isolated(Box::pin(self.exchange(query))).await?
    }

    async fn exchange(&self, query: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        let request = exchange::request(&self.uri, query.len())?;
        let mut send = self.send.clone();
        let mut stream = send.send_request(request).await.map_err(failed)?;
        stream.send_data(query.into()).await.map_err(failed)?;
        stream.finish().await.map_err(failed)?;
        let head = stream.recv_response().await.map_err(failed)?;
        exchange::check(head.status(), head.headers())?;
        let mut message = Vec::new();
        while let Some(piece) = stream.recv_data().await.map_err(failed)? {
            exchange::add(&mut message, piece)?;
        }
        exchange::account_for_age(&mut message, head.headers());
        Ok(message)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let code = VarInt::from_u64(Code::H3_NO_ERROR.value()).unwrap_or_default();
        self.quic.close(code, b"");
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("uri", &self.uri).finish()
    }
}

/// The library is young and expects much of its peer; what a server sends must not end the program.
async fn isolated<F: Future>(future: F) -> Result<F::Output, LinkError> {
    let outcome = Isolated::new(future).await;
    outcome.map_err(|panic| LinkError::Lost(format!("the HTTP/3 library failed: {panic}")))
}

/// A stream that was reset is one query's misfortune, unless the server has not looked at it
/// (RFC 9114 section 4.1.1).
fn failed(error: StreamError) -> LinkError {
    let text = error.to_string();
    if let StreamError::StreamError { code, .. } | StreamError::RemoteTerminate { code, .. } = error
        && code != Code::H3_REQUEST_REJECTED
    {
        return LinkError::Answer(text);
    }
    if let StreamError::HeaderTooBig { .. } = error {
        return LinkError::Answer(text);
    }
    LinkError::Lost(text)
}

#[cfg(test)]
mod tests;
