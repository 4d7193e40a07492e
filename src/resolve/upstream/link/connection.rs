//! One connection, whatever is spoken on it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::health::{Ended, Health};
use super::{LinkError, http2, http3, quic, stream};
use crate::wire::{self, HEADER_LEN, MAX_MESSAGE_LEN};

/// Queries under way on one connection; more wait. On HTTP/2 and QUIC the server's limit of streams
/// may be lower: there they wait as well.
pub(super) const MAX_UNDER_WAY: usize = 1024;

/// A connection to a server. The task that drives it ends with it.
#[derive(Debug)]
pub(super) struct Connection {
    channel: Channel,
    health: Arc<Health>,
    places: Semaphore,
    _driver: AbortOnDropHandle<()>,
}

/// How a message gets to the server and back.
#[derive(Debug)]
pub(super) enum Channel {
    /// TCP or TLS with lengths before the messages.
    Stream(stream::Queries),
    /// HTTP/2.
    Http2(http2::Requests),
    /// HTTP/3.
    Http3(http3::Requests),
    /// DNS over QUIC.
    Quic(quic::Queries),
}

impl Connection {
    /// A connection with the task that drives it: it ends with the reason when the connection does.
    pub(super) fn new<D>(channel: Channel, health: Arc<Health>, driver: D) -> Self
    where
        D: Future<Output = LinkError> + Send + 'static,
    {
        let shared = Arc::clone(&health);
        let driver = tokio::spawn(async move { shared.end(driver.await) });
        Self {
            channel,
            health,
            places: Semaphore::new(MAX_UNDER_WAY),
            _driver: AbortOnDropHandle::new(driver),
        }
    }

    /// How it ended, if it must not be used any more.
    pub(super) fn end(&self, now: Instant) -> Option<Ended> {
        self.health.ended(now)
    }

    /// Waits until it looks dead, with a query under way.
    pub(super) async fn silent(&self) {
        self.health.silent().await;
    }

    /// Sends a query, gives the response with the query's ID.
    pub(super) async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, LinkError> {
        if !(HEADER_LEN..=MAX_MESSAGE_LEN).contains(&query.len()) {
            return Err(LinkError::Answer("the query is no DNS message".to_owned()));
        }
        let place = self.places.acquire().await;
        let _place = place.map_err(|error| LinkError::Lost(error.to_string()))?;
        let under_way = self.health.begin();
        let result = self.exchange(query).await;
        match &result {
            Err(error @ (LinkError::Lost(_) | LinkError::Connect(_))) => {
                self.health.end(error.clone());
            }
            Ok(_) | Err(LinkError::Status(_) | LinkError::Answer(_)) => self.health.heard(),
        }
        drop(under_way);
        let mut response = result?;
        wire::write_at(&mut response, 0, query.get(..2).unwrap_or_default());
        Ok(response)
    }

    async fn exchange(&self, query: &[u8]) -> Result<Vec<u8>, LinkError> {
        // RFC 8484 section 4.1, RFC 9250 section 4.2.1: the stream tells whose response it is.
        let mut nameless = query.to_vec();
        wire::write_at(&mut nameless, 0, &[0, 0]);
        let response = match &self.channel {
            Channel::Stream(queries) => return queries.ask(query).await,
            Channel::Http2(requests) => requests.ask(nameless).await,
            Channel::Http3(requests) => requests.ask(nameless).await,
            Channel::Quic(queries) => queries.ask(&nameless).await,
        }?;
        if response.len() < HEADER_LEN {
            let text = "the response is shorter than a header";
            return Err(LinkError::Answer(text.to_owned()));
        }
        if response.get(..2) != Some(&[0, 0]) {
            let text = "the response has another ID than the query";
            return Err(LinkError::Answer(text.to_owned()));
        }
        Ok(response)
    }
}
