//! The kept connection to one upstream: TCP, DNS over TLS, HTTPS and QUIC.
//!
//! Messages go through as the bytes that they are. A connection is made when it is first needed, is
//! shared by all who ask, and is made anew when it is lost.

mod bootstrap;
mod connection;
mod dial;
mod health;
mod http;
mod http2;
mod http3;
mod quic;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub(super) use bootstrap::Bootstrap;
pub(in crate::resolve) use dial::{CONNECT_TIMEOUT, connect_tcp, connect_tls, in_order, race};
pub(in crate::resolve) use http::{MAX_HEADERS_LEN, authority};
pub(in crate::resolve) use tls::TlsClient;
pub use tls::{Tls, TrustError};

use crate::endpoint::Endpoint;
use connection::Connection;
use dial::Dialer;
use health::Ended;

/// The pause after the second failed connection in a row; the first is followed by a new try at once,
/// for it may have been a server that restarts. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause: a server that is back is found soon, and a dead one costs a packet now and then.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// Why a query has no response. Clients are told: the text names neither the addresses nor the name of a
/// server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::resolve) enum LinkError {
    /// There is no connection, and none can be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection ended before the response came.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server answered with an HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// What came back is no DNS message, or the server would not take this query.
    #[error("{0}")]
    Answer(String),
}

/// A kept connection to one server, made when it is first needed.
#[derive(Debug)]
pub(super) struct Link {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The connection, being made, made, lost, or not to be had.
    current: Option<Connecting>,
    /// Failures in a row before `current`.
    failures: u32,
}

/// A connection that is being made in a task of its own, so that it comes about even if those who
/// wanted it have lost their patience.
type Connecting = Shared<BoxFuture<'static, Result<Arc<Connection>, Failed>>>;

#[derive(Debug, Clone)]
struct Failed {
    error: LinkError,
    at: Instant,
}

enum Current {
    Ready(Arc<Connection>),
    Making(Connecting),
}

impl Link {
    /// A link to `endpoint`; nothing is sent yet. An endpoint of UDP is asked over TCP.
    pub(super) fn new(endpoint: Endpoint, tls: Arc<Tls>, bootstrap: Arc<Bootstrap>) -> Self {
        Self {
            dialer: Arc::new(Dialer::new(endpoint, &tls, bootstrap)),
            state: Mutex::default(),
        }
    }

    /// Sends one query message, gives the response message with the query's ID. Whether it answers
    /// the question is for the caller to see. The caller bounds the time and may drop the future at
    /// any point.
    pub(super) async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, LinkError> {
        let connection = self.connection().await?;
        let mut first = pin!(connection.ask(query));
        // In a box, as it is rare: the future of a query that goes well stays small.
        let again = || async { self.connection().await?.ask(query).await }.boxed();
        tokio::select! {
            result = &mut first => match result {
                // A server may close a connection whenever it likes (RFC 7766 section 6.2.4), and a
                // query may be repeated.
                Err(LinkError::Lost(_)) => return again().await,
                result => return result,
            },
            () = connection.silent() => {}
        }
        // The path may be dead, or the server slow: whichever brings a response.
        let mut second = again();
        tokio::select! {
            result = &mut first => match result {
                Err(LinkError::Lost(_)) => second.await,
                result => result,
            },
            result = &mut second => match result {
                Err(_) => first.await,
                result => result,
            },
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, LinkError> {
        let began = Instant::now();
        loop {
            match self.current()? {
                Current::Ready(connection) => return Ok(connection),
                Current::Making(connecting) => match connecting.await {
                    Ok(connection) => return Ok(connection),
                    // Nobody had waited for the end of this one, and it is old news.
                    Err(failed) if failed.at < began => {}
                    Err(failed) => return Err(failed.error),
                },
            }
        }
    }

    /// The connection that there is, or a new one; the last error, if it is too early for a new one.
    fn current(&self) -> Result<Current, LinkError> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(connecting) = &state.current {
            let failed = match connecting.peek() {
                None => return Ok(Current::Making(connecting.clone())),
                Some(Ok(connection)) => match connection.end(now) {
                    None => return Ok(Current::Ready(Arc::clone(connection))),
                    // It has served; that it is gone is no failure.
                    Some(Ended { heard: true, .. }) => None,
                    Some(Ended { error, at, .. }) => Some(Failed { error, at }),
                },
                Some(Err(failed)) => Some(failed.clone()),
            };
            match failed {
                None => state.failures = 0,
                Some(Failed { error, at }) => {
                    let failures = state.failures.saturating_add(1);
                    if now < at + pause(failures) {
                        return Err(error);
                    }
                    state.failures = failures;
                }
            }
        }
        let connecting = connect(Arc::clone(&self.dialer));
        state.current = Some(connecting.clone());
        Ok(Current::Making(connecting))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(dialer: Arc<Dialer>) -> Connecting {
    let failed = |error| Failed {
        error,
        at: Instant::now(),
    };
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let result = dialer.connect().await;
        result.map(Arc::new).map_err(failed)
    }));
    let outcome = async move {
        let ended = task.await;
        ended.unwrap_or_else(|error| Err(failed(LinkError::Connect(error.to_string()))))
    };
    outcome.boxed().shared()
}

/// How long after so many failures in a row no connection is tried.
fn pause(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => {
            let factor = 2_u32.saturating_pow(doublings);
            FIRST_PAUSE.saturating_mul(factor).min(MAX_PAUSE)
        }
    }
}
