//! One relay: what it is asked and given over HTTP, and what is made of its answers.
//! <https://github.com/pubky/pkarr/blob/main/design/relays.md>

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, HeaderMap, IF_MODIFIED_SINCE, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::connect::Connector;
use super::health::Health;
use crate::endpoint::RelayUrl;
use crate::pkarr::{MAX_DNS_LEN, PacketError, PublicKey, SignedPacket, signed_at};
use crate::resolve::packets::Sighting;
use crate::resolve::upstream::{MAX_HEADERS_LEN, authority};

/// Signature, timestamp and DNS message: the longest answer that is read.
const MAX_BODY_LEN: usize = 64 + 8 + MAX_DNS_LEN;
/// Bytes of an error's text that are read and shown.
const MAX_TEXT_LEN: usize = 200;
/// Requests to one relay at once; more wait, within their time.
const MAX_UNDER_WAY: usize = 16;
/// Connections that are kept while there are no requests. With HTTP/2 one does for all.
const MAX_IDLE: usize = 4;
/// For how long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that a relay may send ahead over HTTP/2, on a stream and on all: many of the longest answers.
const WINDOW: u32 = 65_535;
/// A connection of HTTP/2 on which requests wait and nothing comes is asked after this time whether it
/// lives...
const PING_AFTER: Duration = Duration::from_secs(2);
/// ... and is given up when it has not answered for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// The header that tells how many DHT nodes a relay has put a packet on.
const STORED_NODES: &str = "pkarr-dht-stored-nodes";
/// What a date of HTTP can say ends before this second of Unix time (the year 10000).
const END_OF_DATES: u64 = 253_402_300_800;

/// A relay.
#[derive(Debug)]
pub struct Relay {
    url: RelayUrl,
    /// What stands in front of the key.
    base: String,
    http: Client<Connector, Full<Bytes>>,
    places: Semaphore,
    pub(super) health: Health,
}

/// Whose word a relay gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// What it has, or else finds on the DHT: what clients get.
    Usual,
    /// What the DHT has.
    Network,
    /// What it has.
    Cache,
}

/// Why a relay did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// There is no connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// It took too long.
    #[error("it did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Too many requests to it are under way from here.
    #[error("too many requests to it are under way")]
    Crowded,
    /// It wants to be left alone, for so many seconds if it says so.
    #[error("it has had too many requests from here (HTTP status 429){}", again(*.0))]
    TooManyRequests(Option<u64>),
    /// It has a newer packet of the key than the one that was to be published.
    #[error("it has a newer packet of this key")]
    NotMostRecent,
    /// It refuses the packet, for the reason given.
    #[error("it refuses the packet (HTTP status {0}){1}")]
    Refused(u16, String),
    /// It says that somebody else is to be asked, who would learn the key, too.
    #[error("it redirects elsewhere (HTTP status {0}), which is not followed; write the other URL")]
    Redirect(u16),
    /// Any other HTTP status, with what it says of it.
    #[error("HTTP status {0}{1}")]
    Status(u16, String),
    /// Longer than any packet.
    #[error("its answer has more than {MAX_BODY_LEN} bytes")]
    TooLarge,
    /// It gave what the key has not signed.
    #[error("what it gave is refused: {0}")]
    Packet(PacketError),
    /// It has failed lately.
    #[error("it has failed lately, and is asked again in {0} s")]
    Paused(u64),
}

fn again(seconds: Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!("; ask again in {seconds} s"))
}

impl RelayError {
    /// Whether it is the relay that does not work, and not one packet.
    pub(super) fn is_of_relay(&self) -> bool {
        match self {
            Self::Connection(_)
            | Self::Timeout(_)
            | Self::TooManyRequests(_)
            | Self::Redirect(_)
            | Self::Status(..)
            | Self::TooLarge => true,
            Self::Crowded
            | Self::NotMostRecent
            | Self::Refused(..)
            | Self::Packet(_)
            | Self::Paused(_) => false,
        }
    }
}

impl Relay {
    pub(super) fn new(url: RelayUrl, connector: Connector) -> Self {
        let http = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(usize::try_from(MAX_HEADERS_LEN).unwrap_or(usize::MAX))
            .http2_max_header_list_size(MAX_HEADERS_LEN)
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connector);
        let scheme = match url.server.is_encrypted() {
            true => "https",
            false => "http",
        };
        let base = format!("{scheme}://{}{}", authority(&url.server), url.path);
        Self {
            url,
            base,
            http,
            places: Semaphore::new(MAX_UNDER_WAY),
            health: Health::default(),
        }
    }

    /// Where it is.
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// What it has of a key, if that is not older than the packet with the sequence number `known_seq`.
    ///
    /// # Errors
    /// If it does not tell within `time`.
    pub async fn get(
        &self,
        key: PublicKey,
        policy: Policy,
        known_seq: Option<u64>,
        time: Duration,
    ) -> Result<Option<Sighting>, RelayError> {
        let query = match policy {
            Policy::Usual => "",
            Policy::Network => "?policy=NetworkOnly",
            Policy::Cache => "?policy=CacheOnly",
        };
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(format!("{}/{key}{query}", self.base));
        if policy != Policy::Usual {
            // There may be caches on the way.
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        let since = known_seq.and_then(date_before);
        if let Some(date) = &since {
            request = request.header(IF_MODIFIED_SINCE, date);
        }
        let exchange = async {
            let response = self.send(request.body(Full::default())).await?;
            match response.status() {
                StatusCode::OK => {
                    let body = read_body(response.into_body()).await?;
                    let sighting = verify(key, &body).map_err(RelayError::Packet)?;
                    Ok(Some(sighting).filter(|seen| known_seq.is_none_or(|seq| seen.seq() >= seq)))
                }
                StatusCode::NOT_FOUND => Ok(None),
                // It has only older ones.
                StatusCode::NOT_MODIFIED if since.is_some() => Ok(None),
                // What it says of the error may name the key, and the error is logged.
                _ => Err(error(response.status(), response.headers(), String::new())),
            }
        };
        self.bounded(time, exchange).await
    }

    /// Gives it a packet to publish; tells on how many DHT nodes it has put it, if it says so.
    ///
    /// # Errors
    /// If it does not say that it has done so within `time`.
    pub async fn put(
        &self,
        packet: &SignedPacket,
        time: Duration,
    ) -> Result<Option<u32>, RelayError> {
        let key = packet.key();
        let payload = [
            packet.signature().as_slice(),
            &packet.seq().to_be_bytes(),
            packet.dns(),
        ];
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{}/{key}", self.base))
            .body(Full::from(payload.concat()));
        let exchange = async {
            let response = self.send(request).await?;
            let (head, body) = response.into_parts();
            match head.status {
                StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => {
                    Err(RelayError::NotMostRecent)
                }
                StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                    let status = head.status.as_u16();
                    Err(RelayError::Refused(status, said(body).await))
                }
                status if status.is_success() => {
                    let nodes = head.headers.get(STORED_NODES);
                    Ok(nodes.and_then(|value| value.to_str().ok()?.parse().ok()))
                }
                status => Err(error(status, &head.headers, said(body).await)),
            }
        };
        self.bounded(time, exchange).await
    }

    async fn send(
        &self,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
    ) -> Result<Response<Incoming>, RelayError> {
        let request = request.map_err(|error| RelayError::Connection(error.to_string()))?;
        let response = self.http.request(request).await;
        response.map_err(|error| RelayError::Connection(innermost(&error)))
    }

    /// An exchange when there is a place for it, and in all no longer than that.
    async fn bounded<T>(
        &self,
        time: Duration,
        exchange: impl Future<Output = Result<T, RelayError>>,
    ) -> Result<T, RelayError> {
        let deadline = Instant::now() + time;
        let Ok(Ok(_place)) = timeout_at(deadline, self.places.acquire()).await else {
            return Err(RelayError::Crowded);
        };
        let exchange = timeout_at(deadline, exchange).await;
        exchange.unwrap_or(Err(RelayError::Timeout(time)))
    }
}

/// What lies behind an error: the outer ones only say that there is one.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The last whole second before a packet with this sequence number was signed: what has not been modified
/// since is older than it, though HTTP's dates have no fractions.
fn date_before(seq: u64) -> Option<String> {
    let seconds = signed_at(seq.checked_sub(1)?);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    (seconds < END_OF_DATES).then(|| httpdate::fmt_http_date(time))
}

/// Signature, timestamp and DNS message.
fn verify(key: PublicKey, payload: &[u8]) -> Result<Sighting, PacketError> {
    let (signature, rest) = payload.split_first_chunk().ok_or(PacketError::Short)?;
    let (seq, dns) = rest.split_first_chunk().ok_or(PacketError::Short)?;
    let seq = u64::from_be_bytes(*seq);
    Sighting::of(seq, SignedPacket::verify(key, signature, seq, dns))
}

async fn read_body(mut body: Incoming) -> Result<Vec<u8>, RelayError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BODY_LEN).unwrap_or(u64::MAX);
    if body.size_hint().lower() > limit {
        return Err(RelayError::TooLarge);
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| RelayError::Connection(innermost(&error)))?;
        if let Some(piece) = frame.data_ref() {
            if bytes.len() + piece.len() > MAX_BODY_LEN {
                return Err(RelayError::TooLarge);
            }
            bytes.extend_from_slice(piece);
        }
    }
    Ok(bytes)
}

/// What a response means that is not the one that was hoped for.
fn error(status: StatusCode, headers: &HeaderMap, said: String) -> RelayError {
    match status {
        StatusCode::TOO_MANY_REQUESTS => RelayError::TooManyRequests(retry_after(headers)),
        _ if status.is_redirection() => RelayError::Redirect(status.as_u16()),
        _ => RelayError::Status(status.as_u16(), said),
    }
}

/// The seconds of the header; a date in it is not read.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// The beginning of what a relay says of an error, as it may be shown on a terminal.
async fn said(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_TEXT_LEN
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |piece| piece));
    }
    bytes.truncate(MAX_TEXT_LEN);
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().escape_debug().to_string() {
        text if text.is_empty() => text,
        text => format!(": {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_itself_is_modified_since_the_date_that_is_asked_with() {
        let before = |seq: u64| date_before(seq).unwrap();
        // What comes back is compared to the microsecond.
        assert_eq!(before(784_111_777_500_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(before(784_111_777_000_001), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(before(784_111_777_000_000), "Sun, 06 Nov 1994 08:49:36 GMT");
        assert_eq!(before(1), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date_before(0), None);
        assert_eq!(date_before(u64::MAX >> 1), None, "the year 294,247");
        assert!(date_before(END_OF_DATES * 1_000_000).is_some());
        assert_eq!(date_before(END_OF_DATES * 1_000_000 + 1), None);
    }
}
